"""What a set of training images holds, found in one pass and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pairloom.pixels import Array, ImageError, check_array, described

SAMPLE_VALUES = 1 << 22
"""The sample holds at most this many values (16 MB of float32)."""
SAMPLE_PIXELS_PER_IMAGE = 1 << 16
"""... and at most this many pixels of one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What one pass over the images found."""

    channels: int
    dtype: Literal["uint8", "uint16", "float32"]
    sample: Array
    """(P, C) pixels drawn from all images, always the same ones."""
    smallest: Array
    """(C,) over every pixel."""
    largest: Array
    """(C,) over every pixel."""


def survey(arrays: Iterable[Array]) -> Survey:
    """Read the images once, one after the other.

    Args:
        arrays: (H, W, C) file values, of any sizes.

    Raises:
        ImageError: The images differ in channels or dtype, there are none, or one is no image.
    """
    kind: tuple[int, str] | None = None
    smallest = largest = np.empty(0)
    sample = _Sample()
    for number, array in enumerate(arrays, start=1):
        check_array(f"Training image {number}", array)
        pixels = array.reshape(-1, array.shape[2])
        here = (array.shape[2], array.dtype.name)
        if kind is None:
            kind, smallest, largest = here, pixels[0], pixels[0]
        if here != kind:
            raise ImageError(
                f"The training images differ: the first has {described(*kind)}, image {number} has"
                f" {described(*here)}; convert them to the same, or train on them apart."
            )
        smallest = np.minimum(smallest, pixels.min(axis=0))
        largest = np.maximum(largest, pixels.max(axis=0))
        sample.add(pixels)
    if kind is None:
        raise ImageError("There are no training images to measure; check the path and the splits.")
    dtype: Any = kind[1]
    return Survey(
        channels=kind[0],
        dtype=dtype,
        sample=np.concatenate(sample.parts),
        smallest=smallest,
        largest=largest,
    )


class _Sample:
    """Pixels of all images, each image with the same share; halved whenever they become too many."""

    def __init__(self) -> None:
        self.parts: list[Array] = []
        self._values = 0
        self._halvings = 0
        self._random = np.random.default_rng(0)

    def add(self, pixels: Array) -> None:
        take = max(1, min(len(pixels), SAMPLE_PIXELS_PER_IMAGE) >> self._halvings)
        part = pixels if take == len(pixels) else pixels[self._random.integers(0, len(pixels), take)]
        self.parts.append(part)
        self._values += part.size
        if self._values > SAMPLE_VALUES:
            everything = np.concatenate(self.parts)
            self.parts = [everything[self._random.permutation(len(everything))[: len(everything) // 2]]]
            self._values = self.parts[0].size
            self._halvings += 1
