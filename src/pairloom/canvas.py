"""An image on its way into a file: an uncompressed map on disk, written and read by windows; its pyramid."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairloom.pixels import Array

SMALLEST = 512
"""Pixels: a pyramid ends with the first level both of whose sides are shorter."""


def windows(height: int, width: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, height, width) of squares that cover an image, row by row."""
    for top, left in itertools.product(range(0, height, side), range(0, width, side)):
        yield top, left, min(side, height - top), min(side, width - left)


@dataclass(frozen=True, slots=True)
class Canvas:
    """(H, W, C) file values in a file, row by row.

    It is mapped only while a window is written or read: mapped pages would count as memory of the process.
    """

    path: Path
    shape: tuple[int, int, int]
    """(height, width, channels)."""
    dtype: str

    @property
    def nbytes(self) -> int:
        """Of the file."""
        height, width, channels = self.shape
        return height * width * channels * np.dtype(self.dtype).itemsize

    def make(self) -> None:
        """Make the file and take its room on the disk now: a map on a full disk would end the process.

        Raises:
            OSError: The disk has no room.
        """
        with self.path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, self.nbytes)
            else:
                file.truncate(self.nbytes)

    def write(self, top: int, left: int, array: Array) -> None:
        """Put a window there, and see to it that it is on the disk. Shapes: array (h, w, C)."""
        height, width = array.shape[:2]
        values = np.memmap(self.path, self.dtype, mode="r+", shape=self.shape)
        values[top : top + height, left : left + width] = array
        values.flush()

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """A window. Shapes: -> (height, width, C)."""
        values = np.memmap(self.path, self.dtype, mode="r", shape=self.shape)
        return np.array(values[top : top + height, left : left + width])

    def pyramid(self, *, labels: bool, within: Path) -> Iterator[Canvas]:
        """This image, then halves of halves until both sides are below 512 px.

        A pixel is the mean of four, or with labels one of them, so that no new values come to be.

        Args:
            labels: Are the values classes?
            within: A folder for the smaller ones.
        """
        level, number = self, 0
        yield level
        while max(level.shape[:2]) >= SMALLEST:
            number += 1
            level = level._halved(within / f"level-{number}.map", labels)
            yield level

    def _halved(self, path: Path, labels: bool) -> Canvas:
        height, width, channels = self.shape
        half = Canvas(path, (-(-height // 2), -(-width // 2), channels), self.dtype)
        half.make()
        for top, left, rows, columns in windows(height, width, 1024):
            half.write(top // 2, left // 2, halved(self.read(top, left, rows, columns), labels))
        return half


def halved(array: Array, labels: bool) -> Array:
    """Half as large, an odd side rounded up. Shapes: (H, W, C) -> (ceil(H / 2), ceil(W / 2), C)."""
    if labels:
        return array[::2, ::2]
    padded = np.pad(array, [(0, side % 2) for side in array.shape[:2]] + [(0, 0)], mode="edge")
    four = [padded[y::2, x::2].astype(np.float64) for y in (0, 1) for x in (0, 1)]
    mean: Array = np.mean(four, axis=0)
    return (np.rint(mean) if array.dtype.kind == "u" else mean).astype(array.dtype)
