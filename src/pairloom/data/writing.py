"""A side of a pair as a file again, with the names of the channels and the sizes of the pixels of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data.pairs import ImageRef, Pair
from pairloom.disk import writing_whole
from pairloom.formats import holds_losslessly
from pairloom.images import ImageError
from pairloom.pixels import Array
from pairloom.stacks.opening import is_stack, open_stack
from pairloom.stacks.stack import Part, Stack
from pairloom.stacks.suffixes import suffix_of
from pairloom.stacks.writing import write_volume

OME_TIFF = (".ome.tif", ".ome.tiff")
TIFF = (".tif", ".tiff")


def side_suffix(ref: ImageRef, array: Array, data: DataConfig, *, own: bool) -> str:
    """What a side is called: as its file of an OME-TIFF, else its own by choice, else PNG, else TIFF.

    Args:
        ref: The side.
        array: What is to be written of it; a container that would lose some of it is passed over.
        data: How it was read.
        own: Is the container of any file to be kept?
    """
    if is_ome_tiff(ref, data):
        return suffix_of(ref.path).lower()
    for suffix in (ref.path.suffix.lower(), ".png") if own else (".png",):
        if holds_losslessly(suffix, dtype=array.dtype.name, channels=array.shape[2]):
            return suffix
    return ".tif"


def is_ome_tiff(ref: ImageRef, data: DataConfig) -> bool:
    """Whether a side is read as an OME-TIFF, with its channels: of those, more than pixels is written."""
    own = isinstance(ref.file, Path) and suffix_of(ref.path).lower() in OME_TIFF
    return own and data.pages != "first"


def write_side(
    path: Path, array: Array, ref: ImageRef, data: DataConfig, *, still: bool, grid: ImageRef | None = None
) -> None:
    """Write a side; a file that holds these pixels and nothing else is copied, byte for byte.

    Shapes: array (H, W, C).

    Args:
        path: With the suffix that `side_suffix` gives, in a folder that is there.
        array: File values.
        ref: Where they come from.
        data: How they were read.
        still: Are they what was read? Else there is nothing to copy.
        grid: The side on whose pixels they lie now, if not on their own: its sizes are stated.

    Raises:
        ImageError: The folder cannot be written to, or the disk is full.
    """
    if still and _copied(path, array, ref):
        return
    grid = grid or ref
    if not is_ome_tiff(ref, data):
        same = suffix_of(path) in TIFF and isinstance(grid.file, Path) and grid.part.index is None
        like = grid.path if same and grid.path.suffix.lower() in TIFF else None
        images.write_image(path, array, like=like)
        return
    own = replace(open_stack(ref.path, ref.part), container="OME-TIFF", size={}, unit="", origin={})
    if is_ome_tiff(grid, data):
        own = _sized(own, open_stack(grid.path, grid.part), grid.part)
    write_volume(path, array[None, None], own, names=own.channel_names(ref.part))


def _sized(stack: Stack, grid: Stack, part: Part) -> Stack:
    """With the sizes of another one's planes: their rows are y and their columns x, whatever they were."""
    rows, columns = tuple(grid.plane_axes(part.axis))
    depth = next(letter for letter in "zyx" if letter not in (rows, columns))
    size = {
        to: grid.size[of] for to, of in zip("xyz", (columns, rows, depth), strict=True) if of in grid.size
    }
    return replace(
        stack, size=size, unit=grid.unit, origin=grid.origin if (rows, columns) == ("y", "x") else {}
    )


def _copied(path: Path, array: Array, ref: ImageRef) -> bool:
    """Whether the file was copied; it is not where the copy would be read as anything but these pixels.

    So it is with further pages or an alpha channel that were left out, with some of its channels, a slice,
    half of it, and where parts of the image are in files beside it.
    """
    if not isinstance(ref.file, Path) or not ref.path.is_file():
        return False
    if suffix_of(ref.path).lower() != suffix_of(path).lower():
        return False
    with writing_whole(path) as file, ref.path.open("rb") as own:
        shutil.copyfileobj(own, file)
    if holds(path, array):
        return True
    path.unlink()
    return False


def holds(path: Path, array: Array) -> bool:
    """Whether a file is read as these pixels, and can be read. Shapes: array (H, W, C)."""
    try:
        there = images.read_image(path, alpha="keep", nan="keep")
    except ImageError:
        return False
    return there.dtype == array.dtype and np.array_equal(there, array, equal_nan=array.dtype.kind == "f")


def not_kept(pairs: Iterable[Pair], data: DataConfig, *, joined: bool = False) -> str | None:
    """A note where files state names of channels or sizes of pixels that are not written; else None.

    Args:
        pairs: Those that are written.
        data: How they are read.
        joined: As side-by-side files, in which nothing is kept?
    """
    refs = {ref.path: ref for pair in pairs for ref in (pair.source, pair.target)}
    lost = [ref for ref in refs.values() if (joined or not is_ome_tiff(ref, data)) and _says_more(ref)]
    if not lost:
        return None
    count = f"{lost[0].path} and {len(lost) - 1} more" if len(lost) > 1 else f"{lost[0].path}"
    why = "side-by-side files" if joined else "the files written instead"
    return (
        f"Note: names of channels and sizes of pixels or voxels are not kept of {count}: {why} have no place "
        "for them" + ("; two folders have, of OME-TIFF." if joined else "; of OME-TIFF they are kept.")
    )


def _says_more(ref: ImageRef) -> bool:
    if not isinstance(ref.file, Path) or not is_stack(ref.path, ref.part.axis):
        return False
    try:
        stack = open_stack(ref.path, ref.part)
    except ImageError:  # reading says why
        return False
    return bool(stack.names or stack.size)
