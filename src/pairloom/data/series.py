"""Folders of DICOM files that are one volume."""

from __future__ import annotations

import os
from pathlib import Path

from pairloom.data.pairs import DataError
from pairloom.disk import reading
from pairloom.images import ImageError
from pairloom.stacks.dicom import files_of, is_dicom_file, series_of


def is_series(folder: Path) -> bool:
    """Whether the files of a folder are one DICOM series, and not images that stand for themselves.

    Raises:
        DataError: It mixes series.
    """
    with os.scandir(folder) as entries:  # most names say that they are none
        if not any(_may_be(entry.name) and is_dicom_file(Path(entry.path)) for entry in entries):
            return False
    files = files_of(folder)
    if len(files) == 1:
        return False
    try:
        with reading(folder):
            found = series_of(files)
    except ImageError as error:
        raise DataError(str(error)) from error
    count = len(set(found))
    if 1 < count < len(files):
        raise DataError(
            f"{folder}: mixes {count} DICOM series in its {len(files)} files; put each series into a folder "
            "of its own."
        )
    return count == 1


def _may_be(name: str) -> bool:
    """Without a suffix, or with one that says so."""
    bare = "." not in name[1:-1] or name.endswith(".")
    return bare or name.lower().endswith((".dcm", ".dicom"))
