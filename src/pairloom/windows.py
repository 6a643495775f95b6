"""Image files read by windows: the values that `formats.read_image` gives, without the rest of the image.

| file | how |
|---|---|
| TIFF, BigTIFF | only the tiles or strips that touch the window are decoded (`tiff_windows`) |
| NPY | a memory map |
| OME-Zarr | only the chunks that touch the window (`zarr_windows`) |
| others | decoded whole when opened, if that fits |

Nothing is mapped for longer than a window is read, so that the pages of large files do not count as memory.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pairloom import formats
from pairloom.disk import reading
from pairloom.images import ImageSpec
from pairloom.pixels import Array, ImageError, check_array, in_allowed_dtype, with_channel_axis
from pairloom.stacks.stack import numbers_of

GIB = 2**30


class ImageWindows:
    """An image file, read a window at a time; a `with` block closes it.

    Attributes:
        path: The file, or the folder of an OME-Zarr.
        height: Pixels.
        width: Pixels.
        channels: As read.
        dtype: As read: uint8, uint16 or float32.
        reserved_bytes: The most that reading keeps or needs in memory besides the window itself.
    """

    def __init__(self, path: Path, size: tuple[int, int], *, reserved_bytes: int = 0) -> None:
        self.path, self.reserved_bytes = path, reserved_bytes
        self._chosen: tuple[int, ...] | None = None
        self.height, self.width = size
        if min(size) < 1:
            raise ImageError(f"{path}: holds no pixels ({self.width} x {self.height}); leave it out.")
        first = self.read(0, 0, 1, 1)
        self.channels, self.dtype = first.shape[2], first.dtype

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """The values of a window inside the image, as `formats.read_image` gives them.

        Shapes: -> (height, width, C).
        Units: pixels; file values.

        Raises:
            ImageError: The part of the file that holds the window is damaged.
        """
        assert 0 <= top <= top + height <= self.height and 0 <= left <= left + width <= self.width
        with reading(self.path):
            array = in_allowed_dtype(self.path, self._window(top, left, height, width))
            if self._chosen is not None:
                array = array[..., list(self._chosen)]
        check_array(self.path, array, nan="keep")
        return np.require(array, requirements=["C_CONTIGUOUS", "WRITEABLE"])

    def _window(self, top: int, left: int, height: int, width: int) -> Array:
        """What the file holds there. Shapes: -> (height, width, C)."""
        raise AssertionError("each kind of file has its own")

    def choose(self, channels: tuple[int, ...]) -> None:
        """From now on these channels alone are read."""
        self._chosen, self.channels = channels, len(channels)

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> ImageWindows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_zarr(path: Path) -> bool:
    """Is it a folder that calls itself a Zarr hierarchy?"""
    return path.suffix.lower() == ".zarr" and path.is_dir()


def open_windows(path: str | Path, spec: ImageSpec, *, memory_bytes: int = 2 * GIB) -> ImageWindows:
    """Open an image file to read it by windows.

    Args:
        path: A file of a kind in `formats.SUFFIXES`, or the folder of an OME-Zarr.
        spec: Says what to do with alpha, and whether pages are channels.
        memory_bytes: What may be kept of the file in memory is an eighth of this, and no part of the file
            that must be decoded in one piece may be larger than half of it.

    Raises:
        ImageError: The file is missing, damaged, of no known kind, or its parts are too large.
    """
    path = Path(path)
    image = _opened(path, spec, memory_bytes)
    if select := spec.part.select:
        names = formats.channel_names(path, replace(spec.part, select=()))
        image.choose(numbers_of(path, select, names, image.channels))
    return image


def _opened(path: Path, spec: ImageSpec, memory_bytes: int) -> ImageWindows:
    if is_zarr(path):
        from pairloom.zarr_windows import ZarrWindows

        return ZarrWindows(path, memory_bytes)
    if path.suffix.lower() not in formats.FORMATS:
        return _Decoded(path, spec, memory_bytes)
    found = formats.format_of(path)
    with reading(path):
        if found == "TIFF":
            from pairloom.tiff_windows import TiffWindows

            return TiffWindows(path, spec.alpha, spec.page_axis, memory_bytes)
        if found == "NPY":
            return _NpyWindows(path)
    return _Decoded(path, spec, memory_bytes)


def refuse_large_part(path: Path, what: str, part_bytes: int, memory_bytes: int) -> None:
    """Raise an ImageError if a part that must be decoded in one piece takes more than half of the memory."""
    if part_bytes > memory_bytes // 2:
        raise ImageError(
            f"{path}: {what} takes {gib(part_bytes)} decoded, which must fit into half of --memory "
            f"({gib(memory_bytes)}); save the image as a tiled TIFF, or give more memory."
        )


def gib(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


class _NpyWindows(ImageWindows):
    def __init__(self, path: Path) -> None:
        height, width = self._mapped(path).shape[:2]
        super().__init__(path, (height, width))

    @staticmethod
    def _mapped(path: Path) -> Array:
        return with_channel_axis(path, np.load(path, mmap_mode="r", allow_pickle=False))

    def _window(self, top: int, left: int, height: int, width: int) -> Array:
        return np.array(self._mapped(self.path)[top : top + height, left : left + width])


class _Decoded(ImageWindows):
    """A format whose decoder knows no windows."""

    def __init__(self, path: Path, spec: ImageSpec, memory_bytes: int) -> None:
        size = formats.image_shape(path, spec.part)
        # Decoders hold up to four bytes a pixel beside the array that they give.
        expected = math.prod(size) * (4 + spec.channels * np.dtype(spec.dtype).itemsize)
        refuse_large_part(path, f"the {path.suffix} file can only be read whole and", expected, memory_bytes)
        part = replace(spec.part, select=())  # chosen by whoever opens it
        self._array: Any = formats.read_image(
            path, alpha=spec.alpha, page_axis=spec.page_axis, part=part, nan="keep"
        )
        super().__init__(path, size, reserved_bytes=self._array.nbytes)

    def _window(self, top: int, left: int, height: int, width: int) -> Array:
        array: Array = self._array[top : top + height, left : left + width]
        return array.copy()
