"""Volumes as pairs of slices, never divided between splits; and the channels that are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pairloom.config import DataConfig
from pairloom.data.pairs import DataError, ImageRef, Pair
from pairloom.images import ImageError
from pairloom.stacks.opening import is_stack, open_stack
from pairloom.stacks.stack import WHOLE, Part, Stack

NEARLY = 0.01
"""Sizes of voxels that differ by no more than this share are the same."""


def rule(data: DataConfig, side: str) -> Part:
    """What of each file is read for "source" or "target"."""
    return Part(
        select=getattr(data, f"{side}_select"),
        axis=data.slice_axis,
        neighbours=data.slice_neighbours if side == "source" else 0,
        classes=getattr(data, f"{side}_kind") == "labels" or getattr(data, f"{side}_palette") is not None,
    )


def cut_volumes(pairs: Sequence[Pair], data: DataConfig) -> list[Pair]:
    """Each pair of volumes as one pair a slice, NAME/z0012, of the volumes' group; others as they are.

    Only headers are opened, and only of files that may be volumes.

    Raises:
        DataError: The volumes of a pair differ in shape, one cannot be opened, or none has the axis.
    """
    axis = data.slice_axis
    found: list[Pair] = []
    for pair in pairs:
        refs = (pair.source, pair.target)
        if pair.source.half is not None and is_stack(pair.source.path, axis):
            raise DataError(
                f"{pair.source.path}: cannot be a side-by-side file; put sources and targets like it into "
                "two folders, A and B."
            )
        if axis != "auto" and (flat := next((r for r in refs if not is_stack(r.path, axis)), None)):
            raise DataError(
                f"{flat.path}: is flat, with no axis {axis} to cut along; leave data.slice_axis out."
            )
        if data.pages == "first" or not any(is_stack(ref.path, axis) for ref in refs):
            found.append(pair)
            continue
        found += _slices(pair, data)
    if data.slice_neighbours and all(pair.source.part.index is None for pair in found):
        raise DataError(
            f"data.slice_neighbours is {data.slice_neighbours}, but there are no volumes to take "
            "neighbouring slices of; leave it out."
        )
    return found


def _slices(pair: Pair, data: DataConfig) -> list[Pair]:
    # Which side is which is not known yet: an NPZ file may need either selection to be opened.
    selects = (data.source_select, data.target_select)
    if data.direction == "BtoA":
        selects = selects[::-1]
    axis = data.slice_axis
    try:
        stacks = [
            open_stack(ref.path, Part(axis=axis, select=select)) if is_stack(ref.path, axis) else None
            for ref, select in zip((pair.source, pair.target), selects, strict=True)
        ]
        counts = [1 if stack is None else stack.count(axis) for stack in stacks]
        if max(counts) == 1:
            return [pair]
        shapes = [
            _shape(ref, stack, axis) for ref, stack in zip((pair.source, pair.target), stacks, strict=True)
        ]
        first = stacks[0]
        if first is None or shapes[0] != shapes[1]:
            raise DataError(
                f"{pair.source.path} is {shapes[0]} and {pair.target.path} {shapes[1]}; those of a pair "
                "must have one shape: resample one of them onto the other."
            )
        names = [first.slice_name(axis, number) for number in range(counts[0])]
    except ImageError as error:
        raise DataError(str(error)) from error
    return [
        replace(
            pair,
            name=f"{pair.name}/{name}",
            source=_at(pair.source, number),
            target=_at(pair.target, number),
            mask=_mask_at(pair, axis, number, counts[0]),
        )
        for number, name in enumerate(names)
    ]


def _mask_at(pair: Pair, axis: str, number: int, count: int) -> ImageRef | None:
    """The same slice of a mask that is a volume; a flat one holds for every slice."""
    if pair.mask is None or not is_stack(pair.mask.path, axis):
        return pair.mask
    part = Part(axis=axis)
    slices = open_stack(pair.mask.path, part).count(axis)
    if slices not in (1, count):
        raise DataError(
            f"{pair.mask.path} has {slices} slices and {pair.source.path} {count}; they must match."
        )
    return replace(pair.mask, part=part.of(number if slices > 1 else 0))


def _at(ref: ImageRef, number: int) -> ImageRef:
    return replace(ref, part=ref.part.of(number))


def _shape(ref: ImageRef, stack: Stack | None, axis: str) -> str:
    if stack is None:
        return "one image"
    height, width = stack.plane_shape(axis)
    return f"{stack.count(axis)} slices of {width}x{height} along {stack.cut(axis)}"


def with_parts(pairs: Iterable[Pair], data: DataConfig) -> list[Pair]:
    """Each side with the channels and neighbours that the settings choose for it."""
    source, target = (rule(data, side) for side in ("source", "target"))
    if source == target == WHOLE:
        return list(pairs)
    return [
        replace(pair, source=_ruled(pair.source, source), target=_ruled(pair.target, target))
        for pair in pairs
    ]


def _ruled(ref: ImageRef, part: Part) -> ImageRef:
    return replace(ref, part=part.of(ref.part.index))


# -----------------------------------------------------------------------------------------------------------
# What they are, in words


def described(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Facts and warnings about the stacks among the files: what they are, and where they differ."""
    facts: list[str] = []
    warnings: list[str] = []
    each: dict[str, dict[Path, Stack]] = {"source": {}, "target": {}}
    for pair in pairs:
        for side, stacks in each.items():
            ref: ImageRef = getattr(pair, side)
            if ref.path not in stacks and is_stack(ref.path, ref.part.axis):
                try:
                    stacks[ref.path] = open_stack(ref.path, ref.part)
                except ImageError:  # reading says why
                    continue
    cut = {pair.source.path for pair in pairs if pair.source.part.index is not None}
    if cut:
        axis = pairs[0].source.part.axis
        letters = sorted({stack.cut(axis) for path, stack in each["source"].items() if path in cut})
        count = sum(pair.source.part.index is not None for pair in pairs)
        near = pairs[0].source.part.neighbours
        beside = f", each with {near} neighbour{'s' * (near > 1)} on each side" if near else ""
        facts.append(
            f"{len(cut)} volume{'s' * (len(cut) > 1)} cut along {' and '.join(letters)} into {count} slices"
            f"{beside}; the slices of a volume stay in one split."
        )
    for side, stacks in each.items():
        if stacks:
            kinds = list(dict.fromkeys(stack.described() for stack in stacks.values()))
            more = f", and {len(kinds) - 1} other kinds or sizes" if len(kinds) > 1 else ""
            facts.append(f"The {side} files: {kinds[0]}{more}.")
            named = {stack.names for stack in stacks.values()}
            if len(named) > 1:
                first, second = [", ".join(names) or "none" for names in sorted(named)][:2]
                warnings.append(
                    f"The {side} files differ in the names of their channels ({first}; {second}); "
                    f"data.{side}_select chooses by name."
                )
    warnings += _unequal(pairs, each)
    return facts, warnings


def _unequal(pairs: Sequence[Pair], each: dict[str, dict[Path, Stack]]) -> list[str]:
    """A sentence when the voxels of sources and targets differ in size."""
    unequal = {}
    for pair in pairs:
        a, b = each["source"].get(pair.source.path), each["target"].get(pair.target.path)
        if a is None or b is None or a.unit != b.unit:
            continue
        common = set(a.size) & set(b.size)
        if any(abs(a.size[axis] - b.size[axis]) > NEARLY * a.size[axis] for axis in common):
            unequal[pair.group] = f"{pair.group} ({_sizes(a)} and {_sizes(b)})"
    if not unequal:
        return []
    shown = ", ".join(list(unequal.values())[:3]) + (", ..." if len(unequal) > 3 else "")
    return [f"The voxels of source and target differ in size in {len(unequal)} files: {shown}."]


def _sizes(stack: Stack) -> str:
    return (
        " x ".join(f"{stack.size[letter]:.4g}" for letter in "xyz" if letter in stack.size) + f" {stack.unit}"
    )
