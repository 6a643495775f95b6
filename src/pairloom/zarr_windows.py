"""Large OME-Zarr images, read and written by windows; what their metadata mean, `stacks/omezarr.py` knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pairloom.canvas import Canvas, windows
from pairloom.pixels import Array, ImageError, check_channels
from pairloom.stacks import omezarr
from pairloom.stacks.omezarr import Layout
from pairloom.stacks.opening import open_stack
from pairloom.windows import ImageWindows, refuse_large_part

CHUNK = 512
"""Pixels: side of a chunk of the files written here."""


class ZarrWindows(ImageWindows):
    """The full resolution of an OME-Zarr with the axes y, x, or c, y, x; others must have length 1."""

    def __init__(self, path: Path, memory_bytes: int) -> None:
        self._stack = stack = open_stack(path)
        flat = "".join(axis for axis in stack.axes if axis not in "tz")
        if stack.length("t") > 1 or stack.length("z") > 1 or flat not in ("yx", "cyx"):
            raise ImageError(
                f"{path}: has the axes {stack.axes} with the lengths {stack.shape}; allowed are y, x and "
                "c, y, x, and of t and z one slice: save one slice."
            )
        check_channels(path, stack.channels, stack.shape)
        chunk_bytes = math.prod(stack.origin.chunks) * np.dtype(stack.stored).itemsize
        refuse_large_part(path, "its chunk", chunk_bytes, memory_bytes)
        super().__init__(path, (stack.length("y"), stack.length("x")), reserved_bytes=2 * chunk_bytes)

    def _window(self, top: int, left: int, height: int, width: int) -> Array:
        where = {"y": slice(top, top + height), "x": slice(left, left + width), "c": slice(None)}
        values = self._stack.load(tuple(where.get(axis, 0) for axis in self._stack.axes))
        return np.moveaxis(values, 0, 2) if values.ndim == 3 else values[..., None]


def layout_of(path: Path) -> Layout:
    """Axes, scale and place of an OME-Zarr.

    Raises:
        ImageError: It is none, or its metadata are damaged.
    """
    layout: Layout = open_stack(path).origin
    return layout


def write_pyramid(
    folder: Path, levels: Sequence[Canvas], like: Layout | None, job: str, count: Callable[[], None]
) -> None:
    """Write resolutions, the first one full, into a new folder.

    Args:
        folder: Made; its parent is there.
        levels: Each half as large as the one before.
        like: Of the source, whose version, units, scale and place along y and x are taken.
        job: Kept in the attributes under `pairloom`.
        count: Called after each chunk.
    """
    version = like.version if like else "0.5"
    axes = {name: {"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"}
    pixel, place = dict.fromkeys("cyx", 1.0), dict.fromkeys("cyx", 0.0)
    if like is not None:
        for axis, scale, translation in zip(like.axes, like.scale, like.translation, strict=True):
            if (name := axis["name"]) in ("y", "x"):
                axes[name], pixel[name], place[name] = axes[name] | axis, scale, translation
    group = omezarr.new_group(folder, version)
    datasets = []
    for number, level in enumerate(levels):
        height, width, channels = level.shape
        chunks = 1, min(CHUNK, height), min(CHUNK, width)
        shape = channels, height, width
        array = omezarr.new_array(group, str(number), shape, chunks, level.dtype, names="cyx")
        for top, left, rows, columns in windows(height, width, CHUNK):
            values = np.moveaxis(level.read(top, left, rows, columns), 2, 0)
            array[:, top : top + rows, left : left + columns] = values
            count()
        full = levels[0].shape
        shrunk = {"c": 1.0, "y": full[0] / height, "x": full[1] / width}
        steps = omezarr.steps([pixel[name] * shrunk[name] for name in "cyx"], list(place.values()))
        datasets.append({"path": str(number), "coordinateTransformations": steps})
    image = {"name": folder.stem, "axes": list(axes.values()), "datasets": datasets}
    omezarr.describe(group, version, image)
    group.attrs["pairloom"] = {"job": job}


def job_of(path: Path) -> str | None:
    """What `write_pyramid` was told; None of anything else."""
    try:
        attributes: dict[str, Any] = omezarr.attributes_of(path)
        return str(attributes["pairloom"]["job"])
    except Exception:  # not there, not ours, damaged: then it is not finished
        return None
