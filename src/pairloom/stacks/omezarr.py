"""OME-Zarr folders, versions 0.4 (Zarr 2) and 0.5 (Zarr 3): the largest level of the first image.

Source: the OME-NGFF specification, https://ngff.openmicroscopy.org/0.4/ and /0.5/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairloom.pixels import Array, ImageError
from pairloom.stacks.needed import needed
from pairloom.stacks.stack import AXES, Index, Stack

_UNITS = {"micrometer": "µm", "millimeter": "mm", "nanometer": "nm", "meter": "m", "angstrom": "Å"}


@dataclass(frozen=True, slots=True)
class Layout:
    """What is carried from the source's folder to the output's."""

    version: str
    axes: tuple[dict[str, Any], ...]
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    chunks: tuple[int, ...]
    """Pixels of each axis that must be decoded together; not carried."""


def open_zarr(path: Path) -> Stack:
    """The metadata of a folder.

    Raises:
        ImageError: It holds no multiscale image, or axes that are not those of the specification.
    """
    zarr = needed("zarr", path, "OME-Zarr")
    if not any((path / name).exists() for name in (".zgroup", "zarr.json", ".zattrs", ".zarray")):
        raise ImageError(f"{path}: is no Zarr folder (it has neither .zgroup nor zarr.json); copy it again.")
    node = zarr.open(store=str(path), mode="r")
    attributes = dict(node.attrs)
    own = attributes.get("ome", attributes)
    scales = own.get("multiscales")
    if not scales or not isinstance(node, zarr.Group):
        raise ImageError(
            f"{path}: is a Zarr folder without `multiscales`, so no OME-Zarr image; of a plate or a "
            "collection give the folder of one image."
        )
    image = scales[0]
    array = node[image["datasets"][0]["path"]]
    axes = tuple(_axis(axis) for axis in image.get("axes", list("tczyx")))
    letters = "".join(str(axis["name"]).lower() for axis in axes)
    if len(letters) != array.ndim or not set(letters) <= {*AXES, "c"} or len(set(letters)) < len(letters):
        raise ImageError(
            f"{path}: has the axes {[axis['name'] for axis in axes]} for the shape {array.shape}; OME-Zarr "
            "has t, c, z, y and x, each once at most."
        )
    scale, translation = _transformed(image, len(letters))
    units = [str(axis["unit"]) for axis in axes if axis["name"] in ("x", "y", "z") and axis.get("unit")]
    labels = [channel.get("label") for channel in (own.get("omero") or {}).get("channels", [])]
    count = array.shape[letters.index("c")] if "c" in letters else 1
    version = str(own.get("version") or image.get("version") or "0.4")

    def load(index: Index) -> Array:
        values: Array = np.asarray(array[index])
        return values

    return Stack(
        path=path,
        container=f"OME-Zarr {version}",
        axes=letters,
        shape=tuple(array.shape),
        stored=np.dtype(array.dtype).name,
        load=load,
        names=tuple(map(str, labels)) if len(labels) == count and all(labels) else (),
        size={letter: step for letter, step in zip(letters, scale, strict=True) if letter in "zyx"}
        if units
        else {},
        unit=_UNITS.get(units[-1], units[-1]) if units else "",
        origin=Layout(version, axes, scale, translation, tuple(array.chunks)),
    )


def _axis(axis: Any) -> dict[str, Any]:
    """Before version 0.4, an axis was its name."""
    return dict(axis) if isinstance(axis, dict) else {"name": axis}


def _transformed(image: Any, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translation of the largest level: its own, then those of all levels."""
    scale, translation = np.ones(count), np.zeros(count)
    for steps in (
        image["datasets"][0].get("coordinateTransformations"),
        image.get("coordinateTransformations"),
    ):
        for step in steps or ():
            if step.get("type") == "scale":
                scale, translation = scale * step["scale"], translation * step["scale"]
            elif step.get("type") == "translation":
                translation = translation + step["translation"]
    return tuple(map(float, scale)), tuple(map(float, translation))


def write_zarr(
    folder: Path, stack: Stack, volume: Array, names: tuple[str, ...], limits: tuple[tuple[float, float], ...]
) -> None:
    """One level, in the version of the source, with its axes, sizes and place.

    Shapes: volume (T, Z, Y, X, C).

    Args:
        folder: To be made.
        stack: The source.
        volume: The values.
        names: Of the channels, or none.
        limits: Low and high of each channel: how viewers show them.
    """
    layout: Layout = stack.origin
    axes, scale, translation = [*layout.axes], [*layout.scale], [*layout.translation]
    letters = stack.axes
    if "c" not in letters and volume.shape[4] > 1:
        place = letters.index("t") + 1 if "t" in letters else 0
        letters = letters[:place] + "c" + letters[place:]
        axes.insert(place, {"name": "c", "type": "channel"})
        scale.insert(place, 1.0)
        translation.insert(place, 0.0)
    values = stack.as_stored(volume, letters)
    group = new_group(folder, layout.version)
    chunks = tuple(
        min(size, 512) if letter in "yx" else 1 for letter, size in zip(letters, values.shape, strict=True)
    )
    new_array(group, "0", values.shape, chunks, values.dtype.name, names=letters)[...] = values
    image: dict[str, Any] = {
        "name": folder.name.partition(".")[0],
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": steps(scale, translation)}],
    }
    shown = [
        {
            "label": name,
            "color": "FFFFFF",
            "window": {"min": low, "max": high, "start": low, "end": high},
            "active": True,
        }
        for name, (low, high) in zip(names, limits, strict=bool(names))
    ]
    describe(group, layout.version, image, **({"omero": {"channels": shown}} if names else {}))


# -----------------------------------------------------------------------------------------------------------
# What both writers need: that of stacks above, and that of large images (`zarr_windows.py`)


def attributes_of(folder: Path) -> dict[str, Any]:
    """Of the group in it."""
    return dict(needed("zarr", folder, "OME-Zarr").open_group(store=str(folder), mode="r").attrs)


def new_group(folder: Path, version: str) -> Any:
    """The folder, made: Zarr 3 from version 0.5 on."""
    zarr = needed("zarr", folder, "OME-Zarr")
    return zarr.open_group(store=str(folder), mode="w", zarr_format=3 if _is_newer(version) else 2)


def new_array(
    group: Any, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str, *, names: str
) -> Any:
    """An array in it; `names` are its axes, a letter each."""
    if group.metadata.zarr_format == 3:
        options: dict[str, Any] = {"dimension_names": list(names)}
    else:
        options = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, **options)


def steps(scale: list[float], translation: list[float]) -> list[dict[str, Any]]:
    """The coordinate transformations of a data set."""
    found: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    return [*found, {"type": "translation", "translation": translation}] if any(translation) else found


def describe(group: Any, version: str, image: dict[str, Any], **beside: Any) -> None:
    """Say which images a group holds."""
    if _is_newer(version):
        group.attrs["ome"] = {"version": version, "multiscales": [image], **beside}
    else:
        group.attrs.update({"multiscales": [{"version": "0.4", **image}], **beside})


def _is_newer(version: str) -> bool:
    return not version.startswith(("0.1", "0.2", "0.3", "0.4"))
