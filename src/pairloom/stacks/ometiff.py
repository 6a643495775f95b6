"""TIFF files that are stacks: OME-TIFF, and with a slice axis those of ImageJ and of several pages.

Pages are read one by one, so that a slice of a large file is no more than its own pages.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from pairloom.pixels import Array, ImageError
from pairloom.stacks.memory import VALUES, key_of
from pairloom.stacks.stack import AXES, Index, Stack
from pairloom.tiff import page_resolution

_UNKNOWN = "IQRZ"
"""Letters that tifffile gives to an axis of pages that the file does not name."""


def open_tiff(path: Path) -> Stack:
    """The header of a file; of several images in it, the first."""
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        axes = _letters(path, series.axes)
        page = series.keyframe
        ome = tif.ome_metadata if tif.is_ome else None
        white = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and series.dtype.kind == "u"
        paged = len(series.pages) == math.prod(series.shape[: len(series.shape) - page.ndim])
        carried = _carried(tif, page)
        shape, dtype, depth = tuple(series.shape), np.dtype(series.dtype), page.ndim
        bits = int(page.bitspersample)
        container = "OME-TIFF" if ome else "ImageJ TIFF" if tif.is_imagej else "TIFF"
    names, size, unit = ome_described(ome) if ome else ((), *_imagej_size(carried))
    count = math.prod(shape[axes.index(letter)] for letter in "cs" if letter in axes)
    key = key_of(path)

    def values(array: Array) -> Array:
        return (dtype.type(2**bits - 1) - array) if white and bits > 1 else array

    def load(index: Index) -> Array:
        ahead = index[: len(shape) - depth]
        places = [place for place in ahead if isinstance(place, int)]
        if paged and len(places) == len(ahead):
            number = int(np.ravel_multi_index(places, shape[: len(places)])) if places else 0
            with tifffile.TiffFile(path) as tif:
                found = tif.series[0].pages[number]
                if found is None or len(found.dataoffsets) < math.prod(found.chunked):
                    raise ImageError(
                        f"{path}: lacks parts of its page {number}; it is damaged, copy it again."
                    )
                return values(found.asarray().reshape(shape[len(ahead) :]))[index[len(ahead) :]]
        whole = VALUES.get(key, lambda: _whole(path))
        return values(whole[index])

    return Stack(
        path=path,
        container=container,
        axes=axes,
        shape=shape,
        stored=dtype.name,
        load=load,
        names=names if len(names) == count else (),
        size=size,
        unit=unit,
        origin=carried,
    )


def _whole(path: Path) -> Array:
    with tifffile.TiffFile(path) as tif:
        array: Array = tif.series[0].asarray()
        return array


def _letters(path: Path, axes: str) -> str:
    """Ours; an axis of pages without a name is z."""
    letters = axes.lower()
    if "z" not in letters and (unknown := [letter for letter in letters if letter.upper() in _UNKNOWN]):
        letters = letters.replace(unknown[0], "z")
    if not set(letters) <= {*AXES, "c", "s"} or len(set(letters)) < len(letters):
        raise ImageError(
            f"{path}: has the axes {axes}; a stack has T, Z, Y and X, and C and S for channels, each once "
            "at most."
        )
    return letters


def ome_described(text: str) -> tuple[tuple[str, ...], dict[str, float], str]:
    """Names of the channels, sizes of a voxel and their unit, from the XML of an OME-TIFF's first image."""
    root = ElementTree.fromstring(text)
    space = root.tag.partition("}")[0] + "}" if "}" in root.tag else ""
    pixels = root.find(f"{space}Image/{space}Pixels")
    if pixels is None:
        return (), {}, ""
    names: list[str] = []
    for channel in pixels.findall(f"{space}Channel"):
        name, samples = channel.get("Name"), int(channel.get("SamplesPerPixel") or 1)
        names += [name or ""] if samples == 1 else [f"{name or 'channel'}:{n}" for n in range(samples)]
    size = {letter: float(v) for letter in "xyz" if (v := pixels.get(f"PhysicalSize{letter.upper()}"))}
    unit = pixels.get("PhysicalSizeXUnit") or "µm"
    return tuple(names) if all(names) else (), size, unit if size else ""


def _carried(tif: Any, page: Any) -> dict[str, Any]:
    """Resolution and ImageJ's own metadata, as tifffile writes them."""
    carried = {key: value for key, value in page_resolution(tif, page).items() if key != "description"}
    if tif.is_imagej:
        known = ("unit", "spacing", "finterval", "fps", "xorigin", "yorigin", "zorigin")
        carried["imagej"] = {name: tif.imagej_metadata[name] for name in known if name in tif.imagej_metadata}
    return carried


def _imagej_size(carried: dict[str, Any]) -> tuple[dict[str, float], str]:
    """Sizes of a voxel of an ImageJ file, whose resolution is in pixels for each of its unit."""
    own = carried.get("imagej")
    if not own or "unit" not in own:
        return {}, ""
    size = {}
    for letter, (over, under) in zip("xy", carried.get("resolution", ()), strict=False):
        if over:
            size[letter] = under / over
    if "spacing" in own:
        size["z"] = float(own["spacing"])
    unit = str(own["unit"]).replace("\\u00B5m", "µm")
    return size, "µm" if unit in ("um", "micron") else unit


def encode_stack(file: IO[bytes], stack: Stack, volume: Array, names: tuple[str, ...]) -> None:
    """A stack as the source was one: OME-TIFF, a hyperstack of ImageJ, or pages. Shapes: (T, Z, Y, X, C)."""
    carried: dict[str, Any] = dict(stack.origin)
    imagej = carried.pop("imagej", None)
    values = np.ascontiguousarray(stack.as_stored(volume, "tzcyx"))
    large = {"bigtiff": values.nbytes > 2**32 - 2**25}
    if stack.container == "OME-TIFF":
        metadata: dict[str, Any] = {"axes": "TZCYX"}
        for letter, length in stack.size.items():
            metadata |= {
                f"PhysicalSize{letter.upper()}": length,
                f"PhysicalSize{letter.upper()}Unit": stack.unit,
            }
        if names:
            metadata["Channel"] = {"Name": list(names)}
        tifffile.imwrite(
            file,
            values,
            ome=True,
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
            **carried,
            **large,
        )
    elif imagej is not None and not large["bigtiff"]:
        metadata = {"axes": "TZCYX", **imagej}
        tifffile.imwrite(file, values, imagej=True, metadata=metadata, **carried)
    else:
        with tifffile.TiffWriter(file, **large) as tif:
            for plane in values.reshape(-1, *values.shape[-2:]):
                tif.write(
                    plane,
                    photometric="minisblack",
                    compression="zlib",
                    metadata=None,
                    contiguous=False,
                    **carried,
                )
