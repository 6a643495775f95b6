"""TIFF files read by windows: of each page only the tiles or strips that touch the window are decoded."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pairloom.pixels import Alpha, Array, ImageError, PageAxis
from pairloom.tiff import channel_pages, check_parts, page_orientation, page_values
from pairloom.windows import ImageWindows, refuse_large_part

_JPEG = {6, 7, 33007, 34892}
"""Compressions whose tiles share tables that stand in the header."""

_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (True, True, False),
    4: (True, False, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, True, True),
    8: (False, True, True),
}
"""Orientation -> are the stored rows counted from below, the columns from the right, are both exchanged?"""


class TiffWindows(ImageWindows):
    """A TIFF or BigTIFF file: tiled or stripped, planar or not, its pages as channels, at full resolution."""

    def __init__(self, path: Path, alpha: Alpha, page_axis: PageAxis, memory_bytes: int) -> None:
        self._tif = tifffile.TiffFile(path)
        try:
            self._pages, self._count = channel_pages(path, self._tif, page_axis)
            for page in self._pages:
                check_parts(path, page)
            page = self._pages[0]
            self._alpha = alpha
            self._turn = turn = page_orientation(page)
            self._flip_rows, self._flip_columns, self._swapped = _TURNS.get(turn, _TURNS[1])
            self._stored = (page.imagelength, page.imagewidth)
            largest = 0 if self._is_plain else max(map(_segment_bytes, self._pages))
            refuse_large_part(path, "its largest compressed tile or strip", largest, memory_bytes)
            kept = max(memory_bytes // 8, largest)
            self._segments = _Segments(kept)
            super().__init__(
                path, self._stored[::-1] if self._swapped else self._stored, reserved_bytes=kept + largest
            )
        except BaseException:
            self._tif.close()
            raise

    @property
    def _is_plain(self) -> bool:
        """Do the values lie in the file as they are, one row after the other?"""
        return len(self._pages) < self._count or all(page.is_final for page in self._pages)

    def close(self) -> None:
        """Let go of the file."""
        self._tif.close()

    def _window(self, top: int, left: int, height: int, width: int) -> Array:
        first, across, rows, columns = top, left, height, width
        if self._swapped:
            first, across, rows, columns = across, first, columns, rows
        if self._flip_rows:
            first = self._stored[0] - first - rows
        if self._flip_columns:
            across = self._stored[1] - across - columns
        planes = []
        for number in range(self._count):
            page = self._pages[min(number, len(self._pages) - 1)]
            values = self._stored_values(page, number, first, across, rows, columns)
            planes.append(page_values(self.path, page, _as_page(page, values), self._alpha))
        return planes[0] if self._count == 1 else np.concatenate(planes, axis=2)

    def _stored_values(self, page: Any, number: int, top: int, left: int, height: int, width: int) -> Array:
        """Shapes: -> (planes, height, width, samples), one of planes and samples being 1."""
        rows, columns = slice(top, top + height), slice(left, left + width)
        if len(self._pages) < self._count:  # a stack behind the header of one page
            start = self._tif.series[0].dataoffset
            if start is None:
                raise ImageError(f"{self.path}: its stack is not in one piece; save its pages as pages.")
            return self._mapped(page, start, (self._count, *page.shaped))[number, :, 0, rows, columns].copy()
        if page.is_final:
            return self._mapped(page, page.dataoffsets[0], page.shaped)[:, 0, rows, columns].copy()
        return self._decoded(page, number, top, left, height, width)

    def _mapped(self, page: Any, start: int, shape: tuple[int, ...]) -> Array:
        dtype = np.dtype(page.dtype).newbyteorder(self._tif.byteorder)
        return np.memmap(self.path, dtype, mode="r", offset=start, shape=shape)

    def _decoded(self, page: Any, number: int, top: int, left: int, height: int, width: int) -> Array:
        length, across = _segment_size(page)
        planes, _, _, _, samples = page.shaped
        window = np.empty((planes, height, width, samples), page.dtype)
        per_row = math.ceil(page.imagewidth / across)
        per_plane = math.ceil(page.imagelength / length) * per_row
        for plane in range(planes):
            for row in range(top // length, (top + height - 1) // length + 1):
                for column in range(left // across, (left + width - 1) // across + 1):
                    index = plane * per_plane + row * per_row + column
                    part = self._segment(page, number, index)
                    y, x = row * length, column * across
                    upper, lower = max(top, y), min(top + height, y + part.shape[0])
                    near, far = max(left, x), min(left + width, x + part.shape[1])
                    window[plane, upper - top : lower - top, near - left : far - left] = part[
                        upper - y : lower - y, near - x : far - x
                    ]
        return window

    def _segment(self, page: Any, number: int, index: int) -> Array:
        """A decoded tile or strip. Shapes: -> (height, width, samples)."""
        key = (number, index)
        if (kept := self._segments.get(key)) is not None:
            return kept
        start, size = page.dataoffsets[index], page.databytecounts[index]
        data = None
        if start > 0 and size > 0:  # else a part that its writer left out: all of it is "no data"
            self._tif.filehandle.seek(start)
            data = self._tif.filehandle.read(size)
            if len(data) < size:
                raise ImageError(f"{self.path}: is cut short in part {index} of its image; copy it again.")
        tables: dict[str, Any] = {}
        if int(page.compression) in _JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}
        decoded, _, shape = page.decode(data, index, **tables)
        if decoded is None:
            decoded = np.full(shape, page.keyframe.nodata, page.dtype)
        part: Array = decoded[0]
        self._segments.keep(key, part)
        return part


class _Segments:
    """The decoded parts used last, in bounded memory."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._parts: OrderedDict[tuple[int, int], Array] = OrderedDict()

    def get(self, key: tuple[int, int]) -> Array | None:
        if key in self._parts:
            self._parts.move_to_end(key)
        return self._parts.get(key)

    def keep(self, key: tuple[int, int], part: Array) -> None:
        self._parts[key] = part
        self._held += part.nbytes
        while self._held > self._most and len(self._parts) > 1:
            self._held -= self._parts.popitem(last=False)[1].nbytes


def _as_page(page: Any, values: Array) -> Array:
    """(planes, height, width, samples) without the axes that the page's own shape leaves out."""
    if page.axes == "SYX":
        return values[..., 0]
    return values[0] if page.axes == "YXS" else values[0, ..., 0]


def _segment_size(page: Any) -> tuple[int, int]:
    """Height and width of a tile or strip."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return int(min(page.rowsperstrip, page.imagelength)), int(page.imagewidth)


def _segment_bytes(page: Any) -> int:
    height, width = _segment_size(page)
    return height * width * int(page.shaped[-1]) * int(np.dtype(page.dtype).itemsize)
