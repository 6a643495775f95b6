"""Image files <-> arrays: what is in a file, read without surprises and written without loss.

An array is (H, W, C), C from 1 to 64, `uint8 | uint16 | float32`, and holds the file's own values. Which
format a file has is decided by its first bytes, not by its suffix. What each format gives:

| file | array |
|---|---|
| grey, RGB | C = 1, 3 |
| 1 bit (bool) | uint8, 0 and 255; other grey PNGs below 8 bits fill 0..255, as the PNG standard says |
| palette PNG, palette TIFF, CMYK JPEG | RGB |
| with alpha | uint8: laid over white; deeper: alpha is a channel; in a TIFF only what it declares as alpha |
| 16-bit grey PNG | uint16; with more channels by imagecodecs: Pillow gives 8 bits without a word |
| TIFF of several equal pages | the pages one after the other as channels, or the first one |
| NPY | (H, W) or (H, W, C) |
| OME-TIFF, OME-Zarr, NIfTI, DICOM, NPZ | a plane of a stack, or some of its channels: see `stacks` |
| float16, float64 | float32; other integer types are refused: their values would have to be changed to fit |
| EXIF (and TIFF) orientation | applied |

ICC profiles and gamma are not applied. A float image with infinity is refused, and one with NaN unless its
reader knows what that says: that a pixel counts for nothing.
"""

from __future__ import annotations

import importlib
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pairloom.content import Content, file_of, opened
from pairloom.disk import reading, writing_whole
from pairloom.pixels import (
    ORIENTATION,
    Alpha,
    Array,
    ImageError,
    Nan,
    PageAxis,
    check_array,
    in_allowed_dtype,
    keeps_alpha,
    over_white,
    upright,
    with_channel_axis,
)
from pairloom.stacks.opening import is_stack, open_stack
from pairloom.stacks.stack import WHOLE, Part, numbers_of
from pairloom.stacks.suffixes import SUFFIXES as STACK_SUFFIXES
from pairloom.stacks.suffixes import may_be_stack, suffix_of
from pairloom.tiff import encode_tiff, is_lossless_tiff, read_tiff, tiff_has_alpha, tiff_resolution, tiff_size

Format = Literal["PNG", "JPEG", "WebP", "TIFF", "NPY"]

FORMATS: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".npy": "NPY",
}
SUFFIXES = frozenset(FORMATS) | STACK_SUFFIXES


def is_image_name(name: str) -> bool:
    """Whether its suffix is one of `SUFFIXES`."""
    dot = name.rfind(".")  # names are asked for by the hundred thousand
    return (dot > 0 and name[dot:].lower() in SUFFIXES) or suffix_of(name).lower() in SUFFIXES


# ------------------------------------------------------------------------------------------------------------
# Reading


def read_image(
    path: str | Path | Content,
    *,
    alpha: Alpha = "auto",
    page_axis: PageAxis = "channels",
    part: Part = WHOLE,
    nan: Nan = "refuse",
) -> Array:
    """The values of an image file, upright.

    Args:
        path: A file with a suffix in `SUFFIXES`.
        alpha: "white": transparent pixels are laid over white and the alpha channel goes; "keep": it is a
            channel; "auto": white for uint8, keep for uint16 and float32.
        page_axis: A TIFF of several pages: "channels" stacks them, "first" reads only the first.
        part: Which slice of a volume, and which channels.
        nan: Of float images: "refuse", or "keep" for whoever leaves such pixels out.

    Shapes: -> (H, W, C), contiguous, native byte order, writeable.
    Units: file values; uint8, uint16 or float32.

    Raises:
        ImageError: The file is missing, damaged, not an image, or holds what the table above does not list.
    """
    path = file_of(path)
    if _is_stack(path, part.axis) and (page_axis == "channels" or path.suffix.lower() not in FORMATS):
        stack = open_stack(path, part)
        with reading(path):
            array = stack.read(part)
    else:
        array = _read_flat(path, alpha, page_axis, part)
    check_array(path, array, nan=nan)
    return np.require(array, requirements=["C_CONTIGUOUS", "WRITEABLE"])


def _read_flat(path: Path, alpha: Alpha, page_axis: PageAxis, part: Part) -> Array:
    found = format_of(path)
    if part.axis != "auto" and not may_be_stack(path):
        raise ImageError(f"{path}: is flat, with no axis {part.axis} to cut; leave data.slice_axis out.")
    with reading(path):
        if found == "TIFF":
            array = read_tiff(path, alpha, page_axis)
        elif found == "NPY":
            array = with_channel_axis(path, np.load(opened(path), allow_pickle=False))
        else:
            array = _read_pillow(path, found, alpha)
        array = in_allowed_dtype(path, array)
    return array[..., numbers_of(path, part.select, (), array.shape[2])] if part.select else array


def image_shape(path: str | Path, part: Part = WHOLE) -> tuple[int, int]:
    """Height and width in pixels as `read_image` would give them, from the header alone."""
    path = Path(path)
    if is_stack(path, part.axis):
        return open_stack(path, part).plane_shape(part.axis)
    found = format_of(path)
    with reading(path):
        if found == "NPY":
            height, width = with_channel_axis(path, np.load(path, mmap_mode="r", allow_pickle=False)).shape[
                :2
            ]
            return height, width
        if found == "TIFF":
            height, width, turn = tiff_size(path)
        else:
            with path.open("rb") as file:
                image = _open_pillow(file, found)
                width, height = image.size
                if found == "PNG" and _png_has_exif(path):
                    image.load()  # as in _read_pillow
                turn = _exif_orientation(image)
    return (width, height) if turn >= 5 else (height, width)


def channel_names(path: Path | Content, part: Part) -> tuple[str, ...]:
    """Of the image that `read_image` gives, where its file names them; else empty."""
    path = file_of(path)
    return open_stack(path, part).channel_names(part) if _is_stack(path, part.axis) else ()


def has_alpha(path: str | Path | Content) -> bool:
    """Whether the file declares transparency, from its header alone."""
    path = file_of(path)
    if _is_stack(path):
        return False
    found = format_of(path)
    with reading(path):
        if found == "TIFF":
            return tiff_has_alpha(path)
        if found == "NPY":
            return False
        with path.open("rb") as file:
            return _declares_alpha(_open_pillow(file, found))


def is_lossless(path: str | Path | Content) -> bool:
    """Whether the container kept every value: PNG, NPY, lossless WebP, TIFF unless compressed like JPEG.

    Of scientific containers it is taken for granted.

    It says nothing of the file's past: a photograph saved as JPEG and then as PNG is in a lossless file.
    """
    path = file_of(path)
    if _is_stack(path) and path.suffix.lower() not in FORMATS:
        return True
    found = format_of(path)
    with reading(path):
        if found == "TIFF":
            return is_lossless_tiff(path)
        if found == "WebP":
            return b"VP8L" in _webp_chunks(path)
    return found in ("PNG", "NPY")


def _is_stack(path: Path, axis: str = "auto") -> bool:
    """Files inside another are flat."""
    return not isinstance(path, Content) and is_stack(path, axis)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise ImageError(
            f"{path}: its suffix {path.suffix!r} is none of {' '.join(sorted(FORMATS))};"
            " use one of these formats."
        )


def kind_of(head: bytes) -> Format | None:
    """What the first 12 bytes of a file say that it is."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return "NPY" if head.startswith(b"\x93NUMPY") else None


def format_of(path: Path) -> Format:
    """What the first bytes say the file is."""
    _check_suffix(path)
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file; check the name.") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, not an image file.") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); check its permissions.") from error
    if not head:
        raise ImageError(f"{path}: is empty (0 bytes); copy or export it again.")
    if (found := kind_of(head)) is not None:
        return found
    raise ImageError(
        f"{path}: is not an image in a known format (it begins with {head[:8]!r});"
        " PNG, JPEG, WebP, TIFF and NPY can be read, so export it again as one of them."
    )


# PNG, JPEG, WebP ------------------------------------------------------------------------------------------


def _open_pillow(file: IO[bytes], found: Format) -> Image.Image:
    """The image, not yet decoded.

    The format's own class is called because `Image.open` warns of large images, and a warning is either a
    crash or noise; the limit at which Pillow refuses is held here.
    """
    kinds: dict[str, Callable[[IO[bytes]], Image.Image]] = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
    }
    with warnings.catch_warnings():  # cameras often write faulty EXIF data, of which Pillow warns
        warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
        image = kinds[found](file)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > 2 * limit:
        raise ImageError(
            f"{file.name}: has {image.width} x {image.height} pixels; a {found} file may have {2 * limit},"
            " because a small file can fill the memory; save it as TIFF or raise PIL.Image.MAX_IMAGE_PIXELS."
        )
    return image


def _read_pillow(path: Path, found: Format, alpha: Alpha) -> Array:
    with path.open("rb") as file:
        image = _open_pillow(file, found)
        if getattr(image, "is_animated", False):
            raise ImageError(f"{path}: is an animation; save its frames as single images.")
        depth, colour_type = _png_depth(path) if found == "PNG" else (8, 0)
        if depth == 16 and colour_type != 0:
            array, with_alpha = _read_deep_png(path), colour_type in (4, 6)
            if _png_has_exif(path):
                image.load()  # Pillow meets metadata that stands behind the pixels only by decoding them
        else:
            image.load()
            array, with_alpha = _pillow_array(image)
        turn = _exif_orientation(image)
    if with_alpha and not keeps_alpha(alpha, array.dtype.name):
        array = over_white(array, array.shape[2] - 1, premultiplied=False)
    return upright(array, turn)


def _pillow_array(image: Image.Image) -> tuple[Array, bool]:
    """(H, W, C) values of a decoded image, and whether the last channel is alpha."""
    if image.mode.startswith("I"):  # 16-bit grey: mode I;16, in older releases of Pillow I
        return np.asarray(image).astype(np.uint16)[..., None], False
    with_alpha = _declares_alpha(image)
    mode = ("L" if image.mode in ("1", "L", "LA") else "RGB") + ("A" if with_alpha else "")
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return (array[..., None] if array.ndim == 2 else array), with_alpha


def _declares_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def _png_depth(path: Path) -> tuple[int, int]:
    """Bit depth, and colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24], head[25]


def _read_deep_png(path: Path) -> Array:
    """A PNG of 16 bits and more than one channel."""
    try:
        imagecodecs = importlib.import_module("imagecodecs")
    except ImportError:
        raise ImageError(
            f"{path}: is a PNG of 16 bits and several channels, which only the package imagecodecs reads in"
            " full; `pip install imagecodecs`, or save as TIFF."
        ) from None
    array: Array = imagecodecs.png_decode(path.read_bytes())
    return array


def _png_has_exif(path: Path) -> bool:
    """Whether a PNG holds EXIF data anywhere, as the eXIf chunk or in the text chunk of older programs."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"eXIf":
                return True
            body = file.read(min(length, 24)) if name in (b"tEXt", b"zTXt", b"iTXt") else b""
            if body.startswith(b"Raw profile type exif"):
                return True
            file.seek(length + 4 - len(body), os.SEEK_CUR)
    return False


def _webp_chunks(path: Path) -> set[bytes]:
    """Names of the top-level chunks of a WebP file."""
    names = set()
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", head)
            names.add(name)
            file.seek(length + length % 2, os.SEEK_CUR)
    return names


def _exif_orientation(image: Image.Image) -> int:
    """1 to 8; 1 when there is none.

    Read here because Pillow's reader decodes a whole PNG to look for it and warns of the faults that are
    common in the EXIF data of cameras.
    """
    exif = image.info.get("exif", b"")
    if not exif and "Raw profile type exif" in image.info:
        exif = bytes.fromhex("".join(str(image.info["Raw profile type exif"]).split("\n")[3:]))
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return 1
    start = struct.unpack(order + "I", data[4:8])[0]
    count = struct.unpack(order + "H", data[start : start + 2])[0] if len(data) >= start + 2 else 0
    for at in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, value = struct.unpack(order + "H6xH", data[at : at + 10])
        if tag == ORIENTATION:
            return int(value) if 1 <= value <= 8 else 1
    return 1


# ------------------------------------------------------------------------------------------------------------
# Writing


def holds_losslessly(suffix: str, *, dtype: str, channels: int) -> bool:
    """Whether `write_image` can put such an array into a file with this suffix.

    PNG holds uint8 with 1 or 3 channels and uint16 with 1; WebP uint8 with 3; TIFF and NPY everything; JPEG
    nothing. A PNG of 2 or 4 channels would declare the last one as alpha, which nobody said it is.
    """
    found = FORMATS.get(suffix.lower())
    if found == "PNG":
        return (dtype, channels) in (("uint8", 1), ("uint8", 3), ("uint16", 1))
    if found == "WebP":
        return (dtype, channels) == ("uint8", 3)
    return found in ("TIFF", "NPY")


def write_image(path: str | Path, array: Array, *, like: Path | None = None) -> None:
    """Write an array so that `read_image` gives it back exactly (with `nan="keep"` if it holds NaN).

    The file appears under its name only when it is whole.

    Args:
        path: A file with a suffix in `FORMATS`.
        array: The values.
        like: A TIFF carries the resolution of this file, if that is a TIFF, too.

    Shapes: array (H, W, C).
    Units: file values; uint8, uint16 or float32, in which NaN is a pixel that counts for nothing.

    Raises:
        ImageError: The container cannot hold the array without loss, the array is no image, or the folder
            cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _check_suffix(path)
    check_array(path, array, nan="keep")
    dtype, channels = array.dtype.name, array.shape[2]
    if not holds_losslessly(suffix, dtype=dtype, channels=channels):
        what = "values" if FORMATS[suffix] == "JPEG" else f"{dtype} images of {channels} channels"
        raise ImageError(
            f"{path}: a {FORMATS[suffix]} file cannot hold {what} without loss; write a .tif instead."
        )
    with writing_whole(path) as file:
        _encode(file, FORMATS[suffix], array, like)


def _encode(file: IO[bytes], container: Format, array: Array, like: Path | None) -> None:
    channels = array.shape[2]
    if container == "NPY":
        np.save(file, array, allow_pickle=False)
    elif container == "TIFF":
        resolution = tiff_resolution(like) if like is not None and format_of(like) == "TIFF" else {}
        encode_tiff(file, array, resolution)
    elif container == "WebP":
        Image.fromarray(array).save(file, format="WEBP", lossless=True, exact=True)
    else:
        # Level 3 is twice as fast as the default for 5 % more bytes.
        Image.fromarray(array[..., 0] if channels == 1 else array).save(file, format="PNG", compress_level=3)
