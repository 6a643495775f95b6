"""Where a stored array lies in a patient: which of its axes is which, and in which direction it grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairloom.stacks.needed import needed

Affine = npt.NDArray[np.float64]
"""(4, 4): indices of a stored array (i, j, k) -> millimetres to the patient's right, front and head (RAS)."""


def patient_axes(path: Path, affine: Affine) -> tuple[str, frozenset[str]]:
    """Letters of i, j and k, and those of them that grow against left, back and head (LPS)."""
    orientations: Any = needed("nibabel.orientations", path, "the orientation")
    letters, against = "", set()
    for axis, direction in orientations.io_orientation(affine):
        if np.isnan(axis):  # a flat volume may have no direction along an axis
            letters += "?"
            continue
        letter = "xyz"[int(axis)]
        letters += letter
        if (direction > 0) == (letter != "z"):
            against.add(letter)
    for letter in "xyz":
        if letter not in letters:
            letters = letters.replace("?", letter, 1)
    return letters, frozenset(against)


def voxel_size(affine: Affine, letters: str) -> dict[str, float]:
    """Along x, y and z."""
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return {letter: float(length) for letter, length in zip(letters, lengths, strict=True)}
