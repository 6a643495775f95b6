"""What an image file says of itself, read before any decoder touches its pixels.

A few bytes can claim billions of pixels. So size, pages and compression are looked at first, by the very
parsers that will decode, and what claims too much is refused.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pairloom.formats import Format, kind_of
from pairloom.pixels import MAX_CHANNELS
from pairloom.serve.refusals import Refused

CONTENT_TYPES: dict[str, Format] = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WebP",
    "image/tiff": "TIFF",
    "application/x-npy": "NPY",
}
"""What may be sent."""
SUFFIXES: dict[Format, str] = {
    "PNG": ".png", "JPEG": ".jpg", "WebP": ".webp", "TIFF": ".tif", "NPY": ".npy",
}  # fmt: skip
MOST_PAGES = MAX_CHANNELS + 16
"""Of a TIFF: one a channel, and some smaller copies."""
PLAIN_TIFF = {1, 5, 8, 32773, 32946}
"""Compressions of TIFF whose decoders are told how much may come out: none, LZW, deflate, PackBits."""
OTHERS_FILES = ("is_ome", "is_mmstack", "is_ndtiff", "is_lsm", "is_stk", "is_fluoview", "is_sis", "is_nih")
"""Kinds of TIFF stacks that a reader may put together from further files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for."""

    max_mb: float = 32
    """Megabytes (2^20 bytes) of the body."""
    max_side: int = 2048
    """Pixels: an image has at most the square of it, and no side above four times it."""

    @property
    def max_bytes(self) -> int:
        """Of the body."""
        return int(self.max_mb * 2**20)

    @property
    def max_pixels(self) -> int:
        """Of the image."""
        return self.max_side**2

    @property
    def max_decoded(self) -> int:
        """Bytes of the decoded values: four channels of 32 bits."""
        return 16 * self.max_pixels


def check(path: Path, expected: Format, limits: Limits) -> tuple[int, int]:
    """Height and width that a file declares, once nothing speaks against decoding it.

    Raises:
        Refused: 415, it is not what its content type says; 413, too large; 400, damaged.
    """
    with path.open("rb") as file:
        found = kind_of(file.read(12))
    if found is None:
        raise Refused(415, "The image is none of PNG, JPEG, WebP, TIFF and NPY; export it as one of them.")
    if found != expected:
        raise Refused(415, f"The image is {found}, but its content type says {expected}; correct that.")
    with _damage_as_refusal():
        if found == "TIFF":
            return _check_tiff(path, limits)
        if found == "NPY":
            return _check_npy(path, limits)
        return _check_pillow(path, found, limits)


@contextlib.contextmanager
def _damage_as_refusal() -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except MemoryError:
        raise Refused(413, "The image does not fit into memory; send a smaller one.") from None
    except Exception as error:  # parsers meet damaged files with every kind of exception
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(400, f"The image is damaged or cut short ({said}); export it again.") from None


def _check_size(width: int, height: int, limits: Limits, *, bytes_per_pixel: float = 4) -> None:
    if width < 1 or height < 1:
        raise Refused(400, f"The image has {width} x {height} pixels; it needs one at least.")
    if width * height > limits.max_pixels or max(width, height) > 4 * limits.max_side:
        raise Refused(
            413,
            f"The image has {width} x {height} pixels, and {limits.max_side} x {limits.max_side} is the most "
            "that this server translates; send a smaller one, or use `pairloom translate`.",
        )
    if width * height * bytes_per_pixel > limits.max_decoded:
        raise Refused(
            413,
            f"The image's values need {width * height * bytes_per_pixel / 2**20:.0f} MiB, and "
            f"{limits.max_decoded / 2**20:.0f} is the most; send a smaller one, or use `pairloom translate`.",
        )


def _check_pillow(path: Path, found: Format, limits: Limits) -> tuple[int, int]:
    kinds: dict[str, Any] = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
    }
    if found == "WebP":
        # Pillow's class reserves a canvas as soon as it is made.
        with path.open("rb") as file:
            _check_size(*webp_size(file.read(64)), limits)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of faults in metadata
        width, height = kinds[found](file).size
    _check_size(width, height, limits)
    return height, width


def webp_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first 30 bytes of a WebP file.

    Source: RFC 9649, sections 2.5 to 2.7: VP8X, VP8 (lossy), VP8L (lossless).

    Raises:
        ValueError: There is no such header.
    """
    name, body = head[12:16], head[20:]
    if name == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 " and len(body) >= 10 and body[3:6] == b"\x9d\x01\x2a":
        size = int.from_bytes(body[6:8], "little"), int.from_bytes(body[8:10], "little")
        return size[0] & 0x3FFF, size[1] & 0x3FFF
    raise ValueError("its WebP header is not whole")


def _check_npy(path: Path, limits: Limits) -> tuple[int, int]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)  # fmt: skip
        if read is None:
            raise ValueError(f"NPY version {version}")
        shape, _, dtype = read(file)
        size = path.stat().st_size - file.tell()
    if dtype.hasobject or len(shape) not in (2, 3):
        raise Refused(400, f"The array has shape {shape} of {dtype}; (height, width, channels) is needed.")
    _check_size(shape[1], shape[0], limits, bytes_per_pixel=dtype.itemsize * math.prod(shape[2:]))
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"shape {shape} of {dtype}, but only {size} bytes")
    return shape[0], shape[1]


def _check_tiff(path: Path, limits: Limits) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tif:
        first: Any = tif.pages.first
        count = next((n for n in range(1, MOST_PAGES + 1) if not _has_page(tif, n)), None)
        if count is None:
            raise Refused(413, f"The TIFF has more than {MOST_PAGES} pages; save one image as one file.")
        if (tif.is_imagej or tif.is_shaped) and any(getattr(tif, kind, False) for kind in OTHERS_FILES):
            raise Refused(400, "The TIFF says to be of two kinds of stacks; save it as plain pages.")
        channels = first.samplesperpixel * count
        if tif.is_imagej or tif.is_shaped:
            channels = max(channels, first.samplesperpixel * (tif.series[0].size // max(1, first.size)))
        for number in range(count):
            page: Any = tif.pages[number]
            if int(page.compression) not in PLAIN_TIFF:
                raise Refused(
                    415,
                    f"The TIFF is compressed by {page.compression.name}; save it uncompressed, or with LZW "
                    "or deflate.",
                )
            item = max(1, math.ceil(page.bitspersample / 8))
            _check_size(page.imagewidth, page.imagelength, limits, bytes_per_pixel=item * channels)
            # A tile, or a strip, is decoded whole, however little of it the image shows.
            if math.prod(page.chunks) * item > limits.max_decoded:
                raise Refused(413, f"The TIFF has tiles of {page.chunks} pixels; save it with smaller ones.")
        return first.imagelength, first.imagewidth


def _has_page(tif: Any, number: int) -> bool:
    try:
        tif.pages[number]
    except IndexError:
        return False
    return True
