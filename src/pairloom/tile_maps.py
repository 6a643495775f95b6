"""Maps of whole images that are kept between passes: in memory, or in a file that is read by windows.

A file is read and written row by row and not mapped: mapped pages would count as this process's memory.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pairloom.tile_kernels import Window, extent


class KeptMap:
    """One map, (height, width, channels) float32: in memory, or in a file, named when it is whole."""

    def __init__(self, channels: int, size: tuple[int, int], path: Path, *, in_memory: bool) -> None:
        self.shape = (*size, channels)
        self.path = path
        self._array: np.ndarray[Any, Any] | None = None
        self._file: IO[bytes] | None = None
        self._in_memory = in_memory

    @property
    def nbytes(self) -> int:
        """Of the whole map."""
        return 4 * self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def _unfinished(self) -> Path:
        return self.path.with_name(f".{self.path.name}.tmp")

    def begin(self) -> None:
        """Make room for it."""
        if self._in_memory:
            self._array = np.empty(self.shape, np.float32)
            return
        self._file = open(self._unfinished, "w+b", buffering=0)  # noqa: SIM115 - closed by `end` or `close`
        self._file.truncate(self.nbytes)

    def end(self, *, save: bool) -> None:
        """It is whole: give the file its name; `save`: write what is in memory to its file, too."""
        if self._array is not None:
            if not save:
                return
            with open(self._unfinished, "wb") as file:
                file.write(self._array.data.cast("B"))
                os.fsync(file.fileno())
        elif self._file is not None:
            os.fsync(self._file.fileno())
        self._unfinished.replace(self.path)

    def find(self) -> bool:
        """Open a whole map that an earlier run left, if it is there."""
        if not self.path.is_file() or self.path.stat().st_size != self.nbytes:
            return False
        if self._in_memory:
            self._array = np.fromfile(self.path, np.float32).reshape(self.shape)
        else:
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115 - closed by `close`
        return True

    def close(self, *, remove: bool) -> None:
        """Free the memory, close the file; `remove`: nobody needs it any more."""
        self._array = None
        if self._file is not None:
            self._file.close()
            self._file = None
        with contextlib.suppress(FileNotFoundError):
            self._unfinished.unlink()
        if remove:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()

    def write(self, window: Window, values: Tensor) -> None:
        """Shapes: values (1, C, *window)."""
        (top, bottom), (left, right) = window
        rows = values[0].permute(1, 2, 0).cpu().numpy()
        if self._array is not None:
            self._array[top:bottom, left:right] = rows
            return
        assert self._file is not None
        for row, data in enumerate(np.ascontiguousarray(rows), start=top):
            self._seek(row, left)
            remaining = memoryview(data).cast("B")
            while remaining:
                remaining = remaining[self._file.write(remaining) :]

    def read(self, window: Window) -> Tensor:
        """Shapes: -> (1, C, *window), a copy, channels last in memory."""
        (top, bottom), (left, right) = window
        if self._array is not None:
            found = self._array[top:bottom, left:right].copy()
        else:
            assert self._file is not None
            found = np.empty((extent(window[0]), extent(window[1]), self.shape[2]), np.float32)
            for row in range(top, bottom):
                self._seek(row, left)
                remaining = memoryview(found[row - top]).cast("B")
                while remaining:
                    count = self._file.readinto(remaining)  # type: ignore[attr-defined]
                    if not count:
                        raise OSError(f"{self.path}: ends too early; the disk may be full.")
                    remaining = remaining[count:]
        return torch.from_numpy(found).permute(2, 0, 1)[None]

    def _seek(self, row: int, column: int) -> None:
        assert self._file is not None
        self._file.seek(4 * self.shape[2] * (row * self.shape[1] + column))
