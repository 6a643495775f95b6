"""The tags of a GeoTIFF: where its pixels are on the Earth, and which of their values mean "no data".

Source: OGC GeoTIFF 1.1; of the value for "no data", GDAL's raster driver GTiff.
"""

from __future__ import annotations

from typing import Any

import numpy as np

GeoTag = tuple[int, int, Any]
"""Tag, type of its values in a TIFF (12 double, 3 unsigned short, 2 text), and a tuple of them, or bytes."""

_TRANSFORM = {33550: (12, 2), 33922: (12, 6), 34264: (12, 16)}
"""ModelPixelScale, ModelTiepoint, ModelTransformation: type, and how many values at least."""
_SYSTEM = {34735: (3, 4), 34736: (12, 1), 34737: (2, 1)}
"""GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams: the same."""
_NODATA = 42113
"""GDAL_NODATA: text."""
_BYTES = (1, 2, 7)
"""Types that may hold text."""


def geo_tags(tif: Any, page: Any) -> tuple[tuple[GeoTag, ...], tuple[str, ...]]:
    """Those that can be written again, and what cannot, in words.

    The tags of the transform mean something only together, and so do those of the coordinate system.
    """
    tags: list[GeoTag] = []
    lost = []
    for name, kinds in (("transform", _TRANSFORM), ("coordinate system", _SYSTEM)):
        found = {code: _values(tif, page.tags[code], *kinds[code]) for code in kinds if code in page.tags}
        if odd := [str(code) for code, values in found.items() if values is None]:
            lost.append(f"its {name} (tag {', '.join(odd)})")
        else:
            tags += [(code, kinds[code][0], values) for code, values in found.items()]
    return tuple(tags), tuple(lost)


def _values(tif: Any, tag: Any, kind: int, least: int) -> Any:
    """Of a tag, as that type; None: they cannot be."""
    if kind == 2:  # as it is in the file: of text that is not ASCII nobody knows the encoding
        if int(tag.dtype) not in _BYTES:
            return None
        tif.filehandle.seek(tag.valueoffset)
        text = tif.filehandle.read(tag.valuebytecount)
        return text.rstrip(b"\0") or None
    values = tag.value if isinstance(tag.value, tuple) else (tag.value,)
    numbers = int if kind == 3 else (int, float)
    if len(values) != tag.count or len(values) < least or not all(isinstance(v, numbers) for v in values):
        return None
    if kind == 3 and not all(0 <= value < 2**16 for value in values):
        return None
    return values


def nodata_of(page: Any) -> str:
    """The value that means "no data", as text; empty: none."""
    return str(page.tags[_NODATA].value).strip(" \0") if _NODATA in page.tags else ""


def extra_tags(geo: tuple[GeoTag, ...], nodata: str, dtype: str) -> list[tuple[int, int, int, Any, bool]]:
    """As tifffile takes them: (tag, type, count, values, only in the first page)."""
    tags = [(code, kind, len(values), values, True) for code, kind, values in geo]
    if nodata and _holds(dtype, nodata):
        tags.append((_NODATA, 2, len(nodata) + 1, nodata, True))
    return tags


def _holds(dtype: str, nodata: str) -> bool:
    """Can a value of this dtype be that one?"""
    try:
        value = float(nodata if nodata.isascii() else "")
    except ValueError:
        return False
    if dtype == "float32":
        return True
    return value.is_integer() and 0 <= value <= np.iinfo(dtype).max
