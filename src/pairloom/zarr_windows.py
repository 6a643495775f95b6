"""OME-Zarr images (NGFF 0.4 and 0.5), read and written by windows. Needs the package zarr (extra `science`).

Source: the specification at ngff.openmicroscopy.org: `multiscales` in the group's attributes (0.4), or under
`ome` there (0.5), whose first data set is the full resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairloom.canvas import Canvas, windows
from pairloom.pixels import Array, ImageError, check_channels
from pairloom.windows import ImageWindows, refuse_large_part

CHUNK = 512
"""Pixels: side of a chunk of the files written here."""
Axis = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Described:
    """What the metadata of an OME-Zarr say of its first image."""

    version: str
    array: str
    """Name of the data set of full resolution."""
    axes: tuple[Axis, ...]
    """As written: name, type, unit."""
    scale: tuple[float, ...]
    """Of a pixel of full resolution, one number an axis."""


class ZarrWindows(ImageWindows):
    """The full resolution of an OME-Zarr with the axes y, x, or c, y, x; others must have length 1."""

    def __init__(self, path: Path, memory_bytes: int) -> None:
        group, described = _open(path)
        array = group.get(described.array)
        if array is None or not hasattr(array, "chunks"):
            raise ImageError(f"{path}: its metadata name {described.array!r}, which is not an array in it.")
        self._array: Any = array
        self._axes = "".join(str(axis["name"]) for axis in described.axes)
        self._lengths = dict(zip(self._axes, array.shape, strict=False))
        long = [axis for axis in self._axes if axis not in "cyx" and self._lengths.get(axis) != 1]
        flat = self._axes.replace("t", "").replace("z", "")
        if long or flat not in ("yx", "cyx") or len(self._axes) != array.ndim:
            raise ImageError(
                f"{path}: has the axes {self._axes} with the lengths {array.shape}; allowed are y, x and "
                "c, y, x, and of t and z one slice: save one slice."
            )
        check_channels(path, self._lengths.get("c", 1), array.shape)
        chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
        refuse_large_part(path, "its chunk", chunk_bytes, memory_bytes)
        size = (self._lengths["y"], self._lengths["x"])
        super().__init__(path, size, reserved_bytes=2 * chunk_bytes)

    def _window(self, top: int, left: int, height: int, width: int) -> Array:
        where = {"y": slice(top, top + height), "x": slice(left, left + width), "c": slice(None)}
        values = np.asarray(self._array[tuple(where.get(axis, 0) for axis in self._axes)])
        return np.moveaxis(values, 0, 2) if values.ndim == 3 else values[..., None]


def describe(path: Path) -> Described:
    """What the metadata say.

    Raises:
        ImageError: It is no OME-Zarr, or its metadata are damaged.
    """
    return _open(path)[1]


def _open(path: Path) -> tuple[Any, Described]:
    zarr = _zarr(path)
    try:
        group = zarr.open_group(str(path), mode="r")
        attributes = dict(group.attrs)
    except Exception as error:  # whatever a damaged hierarchy raises
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"{path}: is not a Zarr group that can be read ({detail}); export it again."
        ) from None
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, dict) else None
    if not isinstance(found, list) or not found:
        raise ImageError(
            f"{path}: its metadata have no multiscales, so it is no OME-Zarr image (of a plate or a "
            "collection, give one image in it); export it as OME-Zarr."
        )
    try:
        image, data = found[0], found[0]["datasets"][0]
        # Before 0.4 axes were letters, and before that always t, c, z, y, x.
        axes = tuple(a if isinstance(a, dict) else {"name": a} for a in image.get("axes", "tczyx"))
        scale = [1.0] * len(axes)
        for step in data.get("coordinateTransformations", []):
            if step["type"] == "scale":
                scale = [float(value) for value in step["scale"]]
        version = str(ome.get("version") or image.get("version") or "0.4")
        return group, Described(version, str(data["path"]), axes, tuple(scale))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(
            f"{path}: its multiscales metadata are damaged ({error}); export it again."
        ) from None


def _zarr(path: Path) -> Any:
    try:
        import zarr
    except ImportError:
        raise ImageError(
            f"{path}: OME-Zarr needs the package zarr; `pip install pairloom[science]`."
        ) from None
    return zarr


def write_zarr(
    folder: Path, levels: Sequence[Canvas], like: Described | None, job: str, count: Callable[[], None]
) -> None:
    """Write resolutions, the first one full, into a new folder.

    Args:
        folder: Made; its parent is there.
        levels: Each half as large as the one before.
        like: Axes, units, scale and version are taken from the source's.
        job: Kept in the attributes under `pairloom`.
        count: Called after each chunk.
    """
    zarr = _zarr(folder)
    version = like.version if like else "0.5"
    new = not version.startswith(("0.1", "0.2", "0.3", "0.4"))
    version = version if new else "0.4"
    axes: dict[str, Axis] = {
        name: {"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"
    }
    pixel: dict[str, float] = dict.fromkeys("cyx", 1.0)
    if like is not None:
        for axis, size in zip(like.axes, like.scale, strict=False):
            if axis["name"] in ("y", "x"):
                axes[axis["name"]] |= axis
                pixel[axis["name"]] = size
    group = zarr.open_group(str(folder), mode="w", zarr_format=3 if new else 2)
    datasets = []
    for number, level in enumerate(levels):
        height, width, channels = level.shape
        options: dict[str, Any] = (
            {"dimension_names": list("cyx")}
            if new
            else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        )
        array = group.create_array(
            str(number),
            shape=(channels, height, width),
            chunks=(1, min(CHUNK, height), min(CHUNK, width)),
            dtype=level.dtype,
            **options,
        )
        for top, left, rows, columns in windows(height, width, CHUNK):
            values = np.moveaxis(level.read(top, left, rows, columns), 2, 0)
            array[:, top : top + rows, left : left + columns] = values
            count()
        full = levels[0].shape
        shrunk = {"c": 1.0, "y": full[0] / height, "x": full[1] / width}
        scale = [pixel[name] * shrunk[name] for name in "cyx"]
        steps = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(number), "coordinateTransformations": steps})
    image: dict[str, Any] = {"name": folder.stem, "axes": list(axes.values()), "datasets": datasets}
    if new:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [image | {"version": version}]
    group.attrs["pairloom"] = {"job": job}


def job_of(path: Path) -> str | None:
    """What `write_zarr` was told; None of anything else."""
    try:
        attributes: dict[str, Any] = dict(_zarr(path).open_group(str(path), mode="r").attrs)
        return str(attributes["pairloom"]["job"])
    except Exception:  # not there, not ours, damaged: then it is not finished
        return None
