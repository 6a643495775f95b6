"""A stack: an array in a file, of which each axis has a name: t, z, y, x, and c for channels.

Cut along one axis it gives planes, which are images like others: (H, W, C), `uint8 | uint16 | float32`.

| cut along | planes | rows, columns |
|---|---|---|
| z | one for each (t, z) | y, x |
| t | the same planes; their neighbours lie along t | y, x |
| y | one for each (t, y) | z, x |
| x | one for each (t, x) | z, y |

Of NIfTI and DICOM, x grows to the patient's left, y to the back, z to the head, whatever the order in which
the file stores them; planes are shown as radiologists see them, with the head or the front up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pairloom.pixels import DTYPES, Array, ImageError, check_channels

AXES = "tzyx"
SLICE_AXES = ("auto", "x", "y", "z", "t", "0", "1", "2")
EXACT = 2**24
"""Whole numbers up to this are exact in float32."""
Index = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a file an image is; the rule of a data set, or with `index` one slice."""

    select: tuple[str, ...] = ()
    """Channels by name or by number from 0; none: all."""
    axis: str = "auto"
    """The axis that volumes are cut along; one of `SLICE_AXES`."""
    index: int | None = None
    """Which slice; None: the file has but one."""
    neighbours: int = 0
    """So many slices on each side are channels, too; at the ends the last one is repeated."""
    classes: bool = False
    """Values are classes: whole numbers of any type are read as uint16, where they are not uint8."""

    def of(self, index: int | None) -> Part:
        """The same rule for one slice."""
        return replace(self, index=index)


WHOLE = Part()
"""All of a file that is one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """What a file holds, known from its header."""

    path: Path
    container: str
    """In words: NIfTI, DICOM series, OME-TIFF, ..."""
    axes: str
    """Of the stored array: letters of tzyx, and c and s, channels and samples, which are channels too."""
    shape: tuple[int, ...]
    """Of the stored array."""
    stored: str
    """The dtype of what `load` gives; rescaled values are float32."""
    load: Callable[[Index], Array]
    """Values at an index of the stored array: a number or a slice for each axis."""
    names: tuple[str, ...] = ()
    """Of the channels, where the file names them."""
    against: frozenset[str] = frozenset()
    """Axes that are stored in the other direction than they are read in."""
    upside_down: bool = False
    """Does z grow upwards, so that planes with rows of z are shown from their end?"""
    size: Mapping[str, float] = field(default_factory=dict)
    """Of a voxel along x, y, z."""
    unit: str = ""
    """Of `size`."""
    origin: Any = None
    """What the container's own writer carries over."""

    def __str__(self) -> str:
        return str(self.path)

    # What it holds ------------------------------------------------------------------------------------------

    def length(self, axis: str) -> int:
        """Of an axis, 1 where there is none."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def channels(self) -> int:
        """Of one plane without neighbours."""
        return self.length("c") * self.length("s")

    def dtype(self, classes: bool = False) -> str:
        """Of the images."""
        if self.stored in ("uint8", "bool"):
            return "uint8"
        return "uint16" if classes or self.stored == "uint16" else "float32"

    def cut(self, axis: str) -> str:
        """The letter of the axis that `axis` (one of `SLICE_AXES`) means here.

        Raises:
            ImageError: There is no such axis, or nothing to cut along it.
        """
        if axis == "auto":
            return "t" if self.length("z") == 1 and self.length("t") > 1 else "z"
        own = [letter for letter in self.axes if letter in "zyx"]
        letter = axis
        if axis.isdigit():
            letter = own[int(axis)] if int(axis) < len(own) else ""
        there = ", ".join(f"{one} ({self.length(one)})" for one in self.axes if one in AXES)
        if letter not in self.axes or not letter or len(own) + self.axes.count("t") < 3:
            raise ImageError(
                f"{self.path}: has no axis {axis} to cut slices along; it is a {self.container} with the "
                f"axes {there}; change data.slice_axis or leave it out."
            )
        if self.length(letter) == 1:
            raise ImageError(
                f"{self.path}: its axis {axis} has length 1, so there are no slices to cut; its axes are "
                f"{there}; change data.slice_axis or leave it out."
            )
        return letter

    def across(self, axis: str) -> tuple[str, str]:
        """The two axes that planes are counted along."""
        letter = self.cut(axis)
        return ("t", "z") if letter in "tz" else ("t", letter)

    def plane_axes(self, axis: str) -> str:
        """Rows and columns of the planes."""
        return "".join(letter for letter in "zyx" if letter not in self.across(axis))

    def plane_shape(self, axis: str) -> tuple[int, int]:
        """Height and width of the planes."""
        plane = self.plane_axes(axis)
        return self.length(plane[0]), self.length(plane[1])

    def count(self, axis: str) -> int:
        """Planes."""
        first, second = self.across(axis)
        return self.length(first) * self.length(second)

    def slice_name(self, axis: str, index: int) -> str:
        """`z0012`, or `t0001z0012`; empty where there is but one plane."""
        at = self._at(axis, index)
        return "".join(f"{letter}{at[letter]:04d}" for letter in at if self.length(letter) > 1)

    def described(self) -> str:
        """What it is, in words: container, size, channels, voxels."""
        shape = " x ".join(f"{letter} {self.length(letter)}" for letter in "xyzt" if self.length(letter) > 1)
        named = f" ({', '.join(self.names)})" if self.names else ""
        words = f"{self.container}, {shape or 'one pixel'}, {self.channels} channel"
        words += f"{'' if self.channels == 1 else 's'}{named} of {self.stored}"
        sizes = [f"{self.size[letter]:.6g}" for letter in "xyz" if letter in self.size]
        what = "voxels" if "z" in self.size else "pixels"
        return words + (f", {what} of {' x '.join(sizes)} {self.unit}".rstrip() if sizes else "")

    # What is in it ------------------------------------------------------------------------------------------

    def chosen(self, part: Part) -> tuple[int, ...]:
        """The numbers of the channels that a part selects, in its order."""
        return numbers_of(self.path, part.select, self.names, self.channels)

    def channel_names(self, part: Part) -> tuple[str, ...]:
        """Of the image that `read` gives; empty where the file has none."""
        if not self.names:
            return ()
        own = [self.names[number] for number in self.chosen(part)]
        offsets = range(-part.neighbours, part.neighbours + 1)
        return tuple(f"{name}{offset:+d}" if offset else name for offset in offsets for name in own)

    def read(self, part: Part) -> Array:
        """One plane, with its neighbours as channels.

        Shapes: -> (H, W, C (2 neighbours + 1)); the channels of the slice before come first.

        Raises:
            ImageError: The part is not there, or its values do not fit.
        """
        if part.index is None and self.count(part.axis) > 1:
            raise ImageError(
                f"{self.path}: is a volume of {self.count(part.axis)} slices and not one image; "
                "`pairloom translate` takes it whole, and training takes each slice as an image."
            )
        channels = self.chosen(part)
        check_channels(self.path, len(channels) * (2 * part.neighbours + 1), self.shape)
        at, letter = self._at(part.axis, part.index or 0), self.cut(part.axis)
        planes = []
        for offset in range(-part.neighbours, part.neighbours + 1):
            place = min(max(at[letter] + offset, 0), self.length(letter) - 1) if letter in at else 0
            planes.append(self._plane(at | {letter: place}, self.plane_axes(part.axis), channels))
        array = np.concatenate(planes, axis=2)
        return as_allowed(self.path, array, self.dtype(part.classes), part.classes)

    def _at(self, axis: str, index: int) -> dict[str, int]:
        first, second = self.across(axis)
        return dict(zip((first, second), divmod(index, self.length(second)), strict=True))

    def _plane(self, at: Mapping[str, int], plane: str, channels: Sequence[int]) -> Array:
        index: dict[str, int | slice] = dict.fromkeys(self.axes, slice(None))
        for letter, place in at.items():
            if letter in self.axes:
                index[letter] = self.length(letter) - 1 - place if letter in self.against else place
        if "c" not in self.axes:
            parts = [self._loaded(index, plane)]
        elif "s" in self.axes:
            wanted = sorted({number // self.length("s") for number in range(self.channels)})
            parts = [self._loaded(index | {"c": number}, plane) for number in wanted]
        else:
            return np.concatenate([self._loaded(index | {"c": number}, plane) for number in channels], axis=2)
        whole = np.concatenate(parts, axis=2)
        return whole if list(channels) == list(range(self.channels)) else whole[..., list(channels)]

    def _loaded(self, index: Mapping[str, int | slice], plane: str) -> Array:
        """(rows, columns, samples) of one place."""
        kept = [letter for letter in self.axes if isinstance(index[letter], slice)]
        array = np.asarray(self.load(tuple(index[letter] for letter in self.axes)))
        for letter in plane:  # a single row or column need not be an axis of the file
            if letter not in kept:
                array, kept = array[..., None], [*kept, letter]
        order = [kept.index(letter) for letter in plane]
        array = array.transpose(*order, *(axis for axis in range(len(kept)) if axis not in order))
        array = array[..., None] if array.ndim == 2 else array
        rows, columns = (letter in self.against for letter in plane)
        array = array[::-1] if rows != self._from_end(plane) else array
        return array[:, ::-1] if columns else array

    def _from_end(self, plane: str) -> bool:
        return self.upside_down and plane[0] == "z"

    # The reverse --------------------------------------------------------------------------------------------

    def empty(self, channels: int, dtype: Any) -> Array:
        """Room for the planes that are to be put in its place. Shapes: -> (T, Z, Y, X, C)."""
        return np.zeros((*(self.length(letter) for letter in AXES), channels), dtype)

    def place(self, volume: Array, axis: str, index: int, plane: Array) -> None:
        """Put a plane where `read` found the one with that index. Shapes: (T, Z, Y, X, C), (H, W, C)."""
        at = self._at(axis, index)
        rows = plane[::-1] if self._from_end(self.plane_axes(axis)) else plane
        volume[tuple(at.get(letter, slice(None)) for letter in AXES)] = rows

    def as_stored(self, volume: Array, axes: str) -> Array:
        """A volume (T, Z, Y, X, C) with axes, and their directions, as a file of this kind stores them."""
        named = AXES + "c"
        for letter in AXES:
            if letter in self.against:
                volume = np.flip(volume, named.index(letter))
        kept = [letter for letter in named if letter in axes]
        volume = volume[tuple(slice(None) if letter in kept else 0 for letter in named)]
        return volume.transpose([kept.index(letter) for letter in axes])


def numbers_of(path: Path, select: Sequence[str], names: Sequence[str], count: int) -> tuple[int, ...]:
    """The channels, from 0, that `select` names; none: all.

    Raises:
        ImageError: There is no such channel.
    """
    if not select:
        return tuple(range(count))
    found = []
    for wanted in select:
        if wanted in names:
            found.append(list(names).index(wanted))
        elif wanted.isdecimal() and int(wanted) < count:
            found.append(int(wanted))
        elif group := [number for number, name in enumerate(names) if name.rpartition(":")[0] == wanted]:
            found += group  # all channels of an array of an NPZ file
        else:
            numbers = f"{count} without names, numbered from 0"
            there = ", ".join(names) if names else numbers
            raise ImageError(f"{path}: has no channel {wanted!r}; its channels are {there}.")
    return tuple(found)


def as_allowed(path: Path, array: Array, dtype: str, classes: bool) -> Array:
    """Values as `dtype`, exactly; bool becomes 0 and 255.

    Raises:
        ImageError: Whole numbers that float32 cannot hold, or classes that are none.
    """
    if array.dtype.name == "bool":
        return array.astype(np.uint8) * np.uint8(1 if classes else 255)
    if array.dtype.name == dtype and array.dtype.isnative:
        return array
    if classes and dtype == "uint16":
        whole = np.array_equal(array, np.rint(array)) and array.min() >= 0 and array.max() <= 65535
        if not whole:
            raise ImageError(f"{path}: is a label map, but holds values that are no classes from 0 to 65535.")
    elif array.dtype.kind in "iu" and (largest := max(-int(array.min()), int(array.max()))) > EXACT:
        raise ImageError(
            f"{path}: holds {array.dtype.name} values up to {largest}; whole numbers are read as float32, "
            f"which is exact up to {EXACT}, so scale them down or save floats."
        )
    elif array.dtype.kind not in "iuf":
        raise ImageError(f"{path}: holds {array.dtype.name} values; allowed are {', '.join(DTYPES)}.")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the caller counts
        return array.astype(dtype)
