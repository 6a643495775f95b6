"""TIFF files <-> arrays: pages, planes, stacks, palettes, alpha, orientation."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile

from pairloom.content import opened
from pairloom.pixels import (
    ORIENTATION,
    Alpha,
    Array,
    ImageError,
    PageAxis,
    check_channels,
    in_allowed_dtype,
    keeps_alpha,
    over_white,
    upright,
)

_TIFF_LOSSY = {6, 7, 34712, 34887, 34892, 34927, 50001, 50002}
"""TIFF compression tags that may change values: the JPEG family, JPEG 2000, LERC, WebP, JPEG XL."""

_ALPHA = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}

# Without a handler every odd tag of a file is printed to the terminal, at every reading.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_tiff(path: Path, alpha: Alpha, page_axis: PageAxis) -> Array:
    """The values of a TIFF file; `formats.read_image` says what the arguments mean. Shapes: -> (H, W, C)."""
    with tifffile.TiffFile(opened(path)) as tif:
        pages, count = channel_pages(path, tif, page_axis)
        if len(pages) < count:
            values = tif.series[0].asarray().reshape(count, *pages[0].shape)
            planes = [page_values(path, pages[0], plane, alpha) for plane in values]
        else:
            planes = [page_values(path, page, _decoded(path, page), alpha) for page in pages]
    return planes[0] if count == 1 else np.concatenate(planes, axis=2)


def channel_pages(path: Path, tif: Any, page_axis: PageAxis) -> tuple[list[Any], int]:
    """The pages whose channels follow each other, and their number; one page may head a whole stack of them.

    Raises:
        ImageError: The pages differ.
    """
    if page_axis == "first":
        return [tif.pages.first], 1
    # Smaller copies and masks of the image may stand beside it as pages of their own.
    # Of a slice: then tifffile sees a damaged list that turns back on itself, else it never ends.
    pages = [page for page in tif.pages[:] if not page.is_reduced and not page.is_mask] or [tif.pages.first]
    kinds = {(page.imagelength, page.imagewidth, page.samplesperpixel, str(page.dtype)) for page in pages}
    if len(kinds) > 1:
        raise ImageError(
            f"{path}: its {len(pages)} pages differ in (height, width, channels, dtype): {sorted(kinds)};"
            ' save them as single files, or read the first one with page_axis="first".'
        )
    page = pages[0]
    # ImageJ and tifffile may write a whole stack behind the header of one page.
    stacked = len(pages) == 1 and (tif.is_imagej or tif.is_shaped) and tif.series[0].size > page.size
    count = tif.series[0].size // page.size if stacked else len(pages)
    channels = page.samplesperpixel * count
    check_channels(path, channels, (page.imagelength, page.imagewidth, channels))
    return pages, count


def check_parts(path: Path, page: Any) -> None:
    """Raise an ImageError unless a page lists all its strips or tiles; tifffile would fill in zeros."""
    listed, expected = len(page.dataoffsets), math.prod(page.chunked)
    if listed < expected:
        raise ImageError(
            f"{path}: lists {listed} of the {expected} parts of its image; it is damaged, so export it again."
        )


def _decoded(path: Path, page: Any) -> Array:
    """The stored values of one page."""
    check_parts(path, page)
    array: Array = page.asarray()
    return array


def page_values(path: Path, page: Any, array: Array, alpha: Alpha) -> Array:
    """(H, W, C), upright, from the stored values of one page, or of a window in it."""
    if page.axes == "SYX":  # planar
        array = np.moveaxis(array, 0, 2)
    elif page.axes not in ("YX", "YXS"):
        raise ImageError(f"{path}: has a page with the axes {page.axes}; save it as pages of two dimensions.")
    array = array[..., None] if array.ndim == 2 else array
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        table = np.asarray(page.colormap)  # (3, entries), 16 bits; some programs write 8-bit values
        array = (table >> 8 if table.max() > 255 else table).astype(np.uint8).T[array[..., 0]]
    array = in_allowed_dtype(path, array)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
        white = 255 if page.bitspersample == 1 else 2**page.bitspersample - 1
        array = array.dtype.type(white) - array
    if not keeps_alpha(alpha, array.dtype.name):
        for index, extra in enumerate(page.extrasamples, start=array.shape[2] - len(page.extrasamples)):
            if extra in _ALPHA:
                premultiplied = extra == tifffile.EXTRASAMPLE.ASSOCALPHA
                array = over_white(array, index, premultiplied=premultiplied)
                break
    return upright(array, page_orientation(page))


def page_orientation(page: Any) -> int:
    """1 to 8; 1 when the page does not say."""
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None else 1


def tiff_size(path: Path) -> tuple[int, int, int]:
    """Height, width and orientation of the first page, from its header."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        return int(page.imagelength), int(page.imagewidth), page_orientation(page)


def tiff_has_alpha(path: Path) -> bool:
    """Whether its first page declares an alpha channel."""
    with tifffile.TiffFile(opened(path)) as tif:
        return not _ALPHA.isdisjoint(tif.pages.first.extrasamples)


def is_lossless_tiff(path: Path) -> bool:
    """Whether its compression keeps every value."""
    with tifffile.TiffFile(opened(path)) as tif:
        return int(tif.pages.first.compression) not in _TIFF_LOSSY


def tiff_resolution(path: Path) -> dict[str, Any]:
    """Pixels for each unit of length of the first page, and the unit, as tifffile writes them.

    Of ImageJ the unit has a name of its own, which goes along as the description.
    """
    with tifffile.TiffFile(path) as tif:
        return page_resolution(tif, tif.pages.first)


def stated_resolution(page: Any) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    """Pixels per unit along x and y, as fractions, and the unit's number; None: the page does not say.

    Raises:
        TypeError, ValueError: It says so in a way that cannot be written again.
    """
    if not {282, 283} <= set(page.tags.keys()):
        return None
    (x, per_x), (y, per_y) = (page.tags[code].value for code in (282, 283))
    if min(x, per_x, y, per_y) <= 0:  # some programs write 0 / 0
        return None
    if not all(isinstance(number, int) and number < 2**32 for number in (x, per_x, y, per_y)):
        raise ValueError("a TIFF has fractions of unsigned integers of 32 bits")
    unit = page.tags[296].value if 296 in page.tags else 2
    return (x, per_x), (y, per_y), int(tifffile.RESUNIT(unit))


def page_resolution(tif: Any, page: Any) -> dict[str, Any]:
    """The same of an open file."""
    try:
        stated = stated_resolution(page)
    except (TypeError, ValueError):
        stated = None
    if stated is None:
        return {}
    found: dict[str, Any] = {"resolution": stated[:2], "resolutionunit": stated[2]}
    own = tif.imagej_metadata if tif.is_imagej else None
    if own and "unit" in own:
        name = str(own["unit"]).encode("ascii", "backslashreplace").decode()
        found["description"] = f"ImageJ=1.11a\nimages=1\nunit={name}\n"
    return found


def encode_tiff(file: IO[bytes], array: Array, resolution: dict[str, Any] | None = None) -> None:
    """Three channels are declared RGB, any other number grey with extra samples that are not alpha."""
    channels = array.shape[2]
    layout: dict[str, Any] = {"photometric": "rgb" if channels == 3 else "minisblack"}
    if channels not in (1, 3):
        layout |= {"planarconfig": "contig", "extrasamples": ("unspecified",) * (channels - 1)}
    tifffile.imwrite(
        file,
        array[..., 0] if channels == 1 else array,
        compression="zlib",  # the one compression that tifffile writes and reads without imagecodecs
        bigtiff=array.nbytes > 2**32 - 2**25,
        metadata=None,
        **layout,
        **(resolution or {}),
    )
