"""Palettes of label maps: the file with the classes, the nearest colour of a pixel, the colours of an image.

A colour is a tuple of file values, one a channel; a label map of one channel has colours of length 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pairloom.pixels import Array, ImageError

Colour = tuple[int, ...]
Colours = tuple[Colour, ...]
MAX_CLASSES = 256
_CHUNK_VALUES = 1 << 22


def read_palette(path: str | Path) -> tuple[Colours, tuple[str, ...]]:
    """The classes of a palette file, in its order.

    One class a line: `r,g,b[,name]`, or `value[,name]` for label maps of one channel. What follows a `#` is
    a comment.

    Returns:
        The colours, and their names: () when no line has one; a class without a name is called by its colour.

    Raises:
        ImageError: The file cannot be read, or a line of it is wrong; the line's number is named.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ImageError(
            f"{path}: cannot be read as a palette ({reason}); it is a text file with one class a line,"
            " `r,g,b[,name]` or `value[,name]`."
        ) from error
    seen: dict[Colour, int] = {}
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        where = f"{path}, line {number} ({text!r})"
        colour, name = _parse_class(where, text)
        if colour in seen:
            raise ImageError(f"{where}: repeats the colour of line {seen[colour]}; give each class its own.")
        if seen and len(colour) != len(next(iter(seen))):
            raise ImageError(
                f"{where}: the lines above have {len(next(iter(seen)))} numbers; all lines need as many."
            )
        seen[colour] = number
        names.append(name)
    if not 1 <= len(seen) <= MAX_CLASSES:
        jpeg = (
            "; so many colours are most often those that JPEG made of the classes: list the classes, and "
            "each pixel snaps to the nearest"
        )
        raise ImageError(
            f"{path}: holds {len(seen)} classes; a palette has 1 to {MAX_CLASSES}, one a line"
            f"{jpeg if len(seen) > MAX_CLASSES else ''}."
        )
    colours = tuple(seen)
    if not any(names):
        return colours, ()
    return colours, tuple(n or ",".join(map(str, c)) for n, c in zip(names, colours, strict=True))


def _parse_class(where: str, text: str) -> tuple[Colour, str]:
    numbers: list[int] = []
    for field in map(str.strip, text.split(",")[:3]):
        if not field.removeprefix("-").isdecimal():
            break
        numbers.append(int(field))
    if len(numbers) not in (1, 3):
        raise ImageError(
            f"{where}: begins with {len(numbers)} whole numbers; write `r,g,b[,name]` or `value[,name]`."
        )
    if min(numbers) < 0 or max(numbers) > 65535:
        raise ImageError(f"{where}: colours are whole numbers from 0 to 65535.")
    name = text.split(",", len(numbers))[len(numbers) :]
    return tuple(numbers), "".join(name).strip()


def nearest(array: Array, palette: Colours) -> npt.NDArray[np.int64]:
    """The index of the palette's colour that is nearest to each pixel; of two equally near, the first.

    Source: Euclidean distance in file values.
    Shapes: array (H, W, C) of uint8 or uint16 -> (H, W).
    """
    colours = np.array(palette, dtype=np.int64)
    pixels = array.reshape(-1, array.shape[2])
    packed = _pack(pixels)
    if packed is None:
        return _search(pixels, colours).reshape(array.shape[:2])
    # Nearly all pixels of a label map are exact; only the colours that are not cost a distance, once each.
    known = _pack(colours.astype(array.dtype))
    assert known is not None
    order = np.argsort(known, kind="stable")
    slot = np.minimum(np.searchsorted(known[order], packed), len(order) - 1)
    index = order[slot]
    strange = np.flatnonzero(known[index] != packed)
    if len(strange):
        _, first, inverse = np.unique(packed[strange], return_index=True, return_inverse=True)
        index[strange] = _search(pixels[strange[first]], colours)[inverse]
    return index.reshape(array.shape[:2])


def _search(pixels: Array, colours: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(P, C) pixels -> (P,) indices, by distance to every colour, in chunks of bounded memory."""
    table = colours.astype(np.float64)
    offset = (table**2).sum(axis=1)
    step = max(1, _CHUNK_VALUES // max(len(colours), pixels.shape[1]))
    found = np.empty(len(pixels), dtype=np.int64)
    for start in range(0, len(pixels), step):
        part = pixels[start : start + step].astype(np.float64)
        found[start : start + step] = (offset - 2.0 * part @ table.T).argmin(axis=1)
    return found


def _pack(pixels: Array) -> npt.NDArray[np.uint64] | None:
    """(P, C) -> (P,): each colour as one integer, in the order of colours; None if 64 bits are too few."""
    bits = 8 * pixels.dtype.itemsize
    if pixels.dtype.kind != "u" or bits * pixels.shape[1] > 64:
        return None
    packed = np.zeros(len(pixels), dtype=np.uint64)
    for channel in range(pixels.shape[1]):
        packed = (packed << np.uint64(bits)) | pixels[:, channel]
    return packed


def distinct_colours(array: Array, *, at_most: int) -> set[Colour] | None:
    """The colours of an image, or None when there are more than `at_most`, or the values are no integers."""
    if array.dtype.kind != "u":
        return None
    pixels = array.reshape(-1, array.shape[2])
    for part in (pixels[:4096], pixels):  # a photograph is recognised by its first rows
        packed = _pack(part)
        found = np.unique(part, axis=0) if packed is None else part[np.unique(packed, return_index=True)[1]]
        if len(found) > at_most:
            return None
    return {tuple(int(value) for value in colour) for colour in found}
