"""Which passes over an image translate it by tiles: what is kept between them, how large the tiles are.

Every layer at `split` and deeper is computed once for the whole image and kept. The layers above it are
computed again for every tile, with the short halo that their kernels reach. So the arithmetic falls with a
shallower split, and the room that the maps take grows: the plan counts both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from pairloom.tile_graph import Graph
from pairloom.tile_kernels import Span, Window, area, extent
from pairloom.translator import Translator

Statistics = Literal["auto", "exact", "sample"]
Gathered = Literal["fixed", "exact", "sample"]
Keep = Literal["memory", "file"] | None

MOST_PX = 1024
"""Side of the largest tile, in positions of its map: larger ones save little, and progress comes in lumps."""
MOST_ARITHMETIC = 3.0
"""Statistics are exact on "auto" up to this many times the arithmetic of one whole pass."""
SAMPLE_PX, SAMPLE_SIDE = 128, 16
"""A sample is up to SAMPLE_SIDE x SAMPLE_SIDE windows of SAMPLE_PX, evenly spread from border to border."""
MACS_PER_BYTE = 100
"""What a byte to or from a file costs, in multiplications: some 50 G/s of them against 500 MB/s."""
SLACK = 64 * 2**20
"""For what the allocator keeps, in bytes, at most a quarter of the memory; a quarter more than counted
besides."""
PLACES = 3
"""At most so many places are translated again to measure the mismatch."""
SPILL = 16
"""Files may take this many times the memory."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass over one layer's map: it is kept, or measured, or both; the last is the translation."""

    target: int
    name: str
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    tile: int
    """Side of its windows, in positions of its map."""
    keep: Keep
    measures: bool
    sampled: bool
    reads: tuple[int, ...]
    """The kept maps that it needs."""
    drops: tuple[int, ...]
    """The kept maps that nobody needs after it."""
    macs: int
    file_bytes: int
    """Read from files and written to them."""
    memory_bytes: int
    """What its largest window takes at the same time, by estimate, beside the kept maps."""

    def windows(self) -> Iterator[Window]:
        """All its windows, row by row."""
        for rows in self.rows:
            for columns in self.columns:
                yield rows, columns


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The passes, in order; the same for the same model, size and memory, so that a job can be continued."""

    size: tuple[int, int]
    stages: tuple[Stage, ...]
    split: int | None
    """Layers at this level (sides halved so often) and deeper are computed once; None: no layer is kept."""
    tile_px: int
    halo_px: int
    """How far what the last pass reads (image and kept maps) reaches beyond a tile, at most."""
    places: tuple[Window, ...]
    """Where the result is computed once more, to measure the mismatch."""
    read_px: tuple[int, int]
    """The largest window that is read of the image in any pass: height and width."""
    macs: int
    whole_macs: int
    statistics: Gathered
    sampled: int
    """How many layers' statistics come from a sample of windows."""
    memory_bytes: int
    """The most that is in use at the same time, by estimate."""
    spill_bytes: int
    """The most that lies in files at the same time."""

    @property
    def ratio(self) -> float:
        """The arithmetic, against that of one pass over the whole image."""
        return self.macs / self.whole_macs

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """(top, left) of every tile of the result, row by row."""
        return [(rows[0], columns[0]) for rows, columns in self.stages[-1].windows()]


def plan_tiles(
    translator: Translator,
    size: tuple[int, int],
    memory_bytes: int = 2 * 2**30,
    *,
    statistics: Statistics = "auto",
    split: int | None = None,
    tile_px: int | None = None,
    spill_bytes: int | None = None,
) -> TilePlan:
    """The cheapest passes that stay within the memory.

    Args:
        translator: Whose generator it is for.
        size: (height, width) of the image.
        memory_bytes: What may be used above the model.
        statistics: For norms by each image's own statistics: from the whole image, or from a sample of
            windows where a layer's map is not kept; "auto": exact up to MOST_ARITHMETIC.
        split: Instead of the cheapest: the level from which layers are kept; above the deepest, none is.
        tile_px: Instead of the largest that fits: a multiple of the generator's stride.
        spill_bytes: How much may lie in files; by default SPILL times the memory.

    Raises:
        ValueError: Neither U-Net nor ResNet, an empty image, or too little memory.
    """
    if min(size) < 1:
        raise ValueError(f"The image is {size[1]}x{size[0]} pixels; both sides must be 1 or more.")
    stride = translator.generator.stride
    if tile_px is not None and (tile_px < 1 or tile_px % stride):
        raise ValueError(f"tile_px is {tile_px}; it must be a multiple of the model's stride, {stride}.")
    graph = Graph(translator.generator, size)
    room = _Room(memory_bytes, SPILL * memory_bytes if spill_bytes is None else spill_bytes, stride, tile_px)
    if not any(step.measures for step in graph.steps):
        return _cheapest(graph, size, room, "fixed", split)
    if statistics == "sample":
        return _cheapest(graph, size, room, "sample", split)
    try:
        exact = _cheapest(graph, size, room, "exact", split)
    except TooLittleError:
        if statistics == "exact":
            raise
        return _cheapest(graph, size, room, "sample", split)
    if statistics == "exact" or exact.ratio <= MOST_ARITHMETIC:
        return exact
    return _cheapest(graph, size, room, "sample", split)


class TooLittleError(ValueError):
    """No plan stays within the memory."""


@dataclass(frozen=True)
class _Room:
    memory_bytes: int
    spill_bytes: int
    stride: int
    tile_px: int | None

    @property
    def slack(self) -> int:
        return min(SLACK, self.memory_bytes // 4)

    def tiles(self, level: int) -> list[int]:
        """Sides of windows to try, the largest first, in positions of the level's map."""
        if level:
            return [1024, 768, 512, 384, 256, 192, 128, 96, 64, 32, 16, 8]
        if self.tile_px is not None:
            return [self.tile_px]
        most = max(MOST_PX // self.stride, 1)
        few = sorted({max(most * share // 16, 1) for share in (16, 12, 8, 6, 4, 3, 2, 1)}, reverse=True)
        return [self.stride * count for count in few]


def _cheapest(
    graph: Graph, size: tuple[int, int], room: _Room, gathered: Gathered, split: int | None
) -> TilePlan:
    deepest = max(step.level for step in graph.steps)
    splits = range(1, deepest + 2) if split is None else [split]
    plans, lacking = [], []
    for level in splits:
        try:
            plans.append(_plan(graph, size, room, gathered, level))
        except TooLittleError as error:
            lacking.append(error)
    if not plans:
        raise lacking[-1]
    return min(plans, key=lambda p: p.macs + MACS_PER_BYTE * sum(stage.file_bytes for stage in p.stages))


def _plan(graph: Graph, size: tuple[int, int], room: _Room, gathered: Gathered, split: int) -> TilePlan:
    """The passes when every layer at level `split` and deeper is kept."""
    steps, last = graph.steps, graph.last
    kept = frozenset(n for n in range(1, last) if steps[n].level >= split)
    measured = {n for n in range(1, last + 1) if gathered != "fixed" and steps[n].measures}
    targets = [n for n in range(1, last + 1) if n in kept or n in measured or n == last]
    reads = [_reads(graph, target, kept) for target in targets]
    ends = {n: max((i for i, r in enumerate(reads) if n in r), default=targets.index(n)) for n in kept}
    sizes = {n: 4 * steps[n].channels * prod(graph.sizes[n]) for n in kept}
    lives = {n: range(targets.index(n), ends[n] + 1) for n in kept}
    in_memory, resident = _placed(sizes, lives, len(targets), room.memory_bytes // 2)
    filed = [sum(sizes[n] for n in kept - in_memory if i in lives[n]) for i in range(len(targets))]
    if max(filed) > room.spill_bytes:
        raise TooLittleError(
            f"The maps of a {size[1]}x{size[0]} image take {max(filed) / 2**30:.1f} GiB of files, but "
            f"{room.spill_bytes / 2**30:.1f} GiB are allowed; allow more memory."
        )
    stages = []
    for i, target in enumerate(targets):
        sampled = gathered == "sample" and target in measured and target not in kept
        keep: Keep = None if target not in kept else "memory" if target in in_memory else "file"
        stages.append(
            _Pass(
                graph, target, kept, frozenset(in_memory), size if target == last else graph.sizes[target]
            ).stage(
                room,
                room.memory_bytes - resident[i],
                sampled,
                keep,
                target in measured,
                tuple(n for n in sorted(kept) if ends[n] == i),
            )
        )
    places = _places(stages[-1], graph.stride, size)
    final = _Pass(graph, last, kept, frozenset(in_memory), size)
    return TilePlan(
        size=size,
        stages=tuple(stages),
        split=split if kept else None,
        tile_px=stages[-1].tile,
        halo_px=max(final.beyond(0, stages[-1].rows), final.beyond(1, stages[-1].columns)),
        places=places,
        read_px=_largest_read(graph, stages, places, kept),
        macs=sum(stage.macs for stage in stages),
        whole_macs=graph.whole_macs(),
        statistics=gathered,
        sampled=sum(stage.sampled for stage in stages),
        memory_bytes=max(stage.memory_bytes + held for stage, held in zip(stages, resident, strict=True)),
        spill_bytes=max(filed),
    )


def _reads(graph: Graph, target: int, kept: frozenset[int]) -> tuple[int, ...]:
    spans = graph.spans(target, (0, graph.sizes[target][0]), 0, kept)
    return tuple(n for n in sorted(spans) if n in kept and n != target)


def _placed(
    sizes: dict[int, int], lives: dict[int, range], passes: int, budget: int
) -> tuple[set[int], list[int]]:
    """Which maps stay in memory, the smallest first, and how much they take in each pass."""
    resident = [0] * passes
    placed = set()
    for n in sorted(sizes, key=lambda n: (sizes[n], n)):
        if all(resident[i] + sizes[n] <= budget for i in lives[n]):
            placed.add(n)
            for i in lives[n]:
                resident[i] += sizes[n]
    return placed, resident


@dataclass(frozen=True)
class _Pass:
    """One target, computed by windows of one size from what is kept."""

    graph: Graph
    target: int
    kept: frozenset[int]
    in_memory: frozenset[int]
    size: tuple[int, int]

    def stage(
        self,
        room: _Room,
        budget: int,
        sampled: bool,
        keep: Keep,
        measures: bool,
        drops: tuple[int, ...],
    ) -> Stage:
        step = self.graph.steps[self.target]
        for side in [max(SAMPLE_PX >> step.level, 1)] if sampled else room.tiles(step.level):
            rows, columns = (_grid(length, side, sampled) for length in self.size)
            needed = self._memory(rows, columns) + room.slack
            if needed <= budget:
                break
        else:
            least = needed - room.slack - budget + room.memory_bytes
            raise TooLittleError(
                f"{room.memory_bytes / 2**20:.0f} MiB of memory are too little for tiles of this model: "
                f"allow {math.ceil(min(least * 4 / 3, least + SLACK) / 2**20)} MiB or more."
            )
        macs, file_bytes = self._counted(rows, columns, keep)
        return Stage(
            target=self.target,
            name=step.name if self.target != self.graph.last else "tiles",
            rows=rows,
            columns=columns,
            tile=side,
            keep=keep,
            measures=measures,
            sampled=sampled,
            reads=_reads(self.graph, self.target, self.kept),
            drops=drops,
            macs=macs,
            file_bytes=file_bytes,
            memory_bytes=needed,
        )

    def spans(self, axis: int, wanted: Span) -> dict[int, Span]:
        return self.graph.spans(self.target, wanted, axis, self.kept)

    def computed(self, n: int) -> bool:
        return n > 0 and (n == self.target or n not in self.kept)

    def _counted(self, rows: tuple[Span, ...], columns: tuple[Span, ...], keep: Keep) -> tuple[int, int]:
        """Multiplications, and bytes to and from files: sums of products are products of sums."""
        steps, sizes = self.graph.steps, self.graph.sizes
        counts: list[dict[int, int]] = []
        lengths: list[dict[int, int]] = []
        for axis, spans in enumerate((rows, columns)):
            count: dict[int, int] = {}
            length: dict[int, int] = {}
            for wanted in spans:
                for n, span in self.spans(axis, wanted).items():
                    length[n] = length.get(n, 0) + extent(span)
                    if self.computed(n):
                        size = sizes[steps[n].inputs[0]][axis]
                        count[n] = count.get(n, 0) + steps[n].kernel.counted(span, size)
            counts.append(count)
            lengths.append(length)
        macs = sum(counts[0][n] * counts[1][n] * steps[n].macs for n in counts[0])
        files = {n for n in lengths[0] if n in self.kept and n != self.target and n not in self.in_memory}
        if keep == "file":
            files.add(self.target)
        return macs, sum(4 * steps[n].channels * lengths[0][n] * lengths[1][n] for n in files)

    def _memory(self, rows: tuple[Span, ...], columns: tuple[Span, ...]) -> int:
        """What the evaluation of a window in the middle holds at the same time."""
        steps = self.graph.steps
        here = [self.spans(axis, spans[(len(spans) - 1) // 2]) for axis, spans in enumerate((rows, columns))]
        held = {n: 4 * steps[n].channels * area((here[0][n], here[1][n])) for n in here[0]}
        users = {
            n: max((m for m in held if self.computed(m) and n in steps[m].inputs), default=n) for n in held
        }
        most = 0
        for n in sorted(held):
            step, made = steps[n], held[n]
            live = sum(size for m, size in held.items() if m < n <= users[m])
            taken = sum(held[m] for m in step.inputs) if self.computed(n) else 0
            # The hash of a z takes 64-bit numbers, several at a time.
            drawn = 10 * made if step.dropout else 32 * made // step.channels if n == 0 else 0
            # Joined or activated, then padded; or the result, normalised, activated or dropped, or measured.
            most = max(most, live + 2 * taken + made, live + 3 * made + drawn)
        if self.target == self.graph.last:
            most += 5 * held[self.target]  # the places to be translated again, and what `write` makes of it
        return most * 5 // 4

    def beyond(self, axis: int, spans: tuple[Span, ...]) -> int:
        """How far it reaches beyond its windows, in pixels of the image."""
        most = 0
        for wanted in spans:
            for n, span in self.spans(axis, wanted).items():
                if n and self.computed(n):
                    continue
                scale = 2 ** self.graph.steps[n].level
                most = max(most, wanted[0] - span[0] * scale, span[1] * scale - wanted[1])
        return most


def _grid(size: int, side: int, sampled: bool) -> tuple[Span, ...]:
    """Windows side by side; or a sample of them, evenly spread, where that is less."""
    if not sampled or size <= SAMPLE_SIDE * side:
        return tuple((first, min(first + side, size)) for first in range(0, size, side))
    firsts = [round(i * (size - side) / (SAMPLE_SIDE - 1)) for i in range(SAMPLE_SIDE)]
    return tuple((first, first + side) for first in firsts)


def _places(stage: Stage, stride: int, size: tuple[int, int]) -> tuple[Window, ...]:
    """Windows around corners where tiles meet: the tiles' grid, moved by a multiple of the stride."""
    # A tile of one stride has no other in its grid: half as large, and moved by a part of the stride.
    half = stage.tile // 2 // stride * stride or max(stage.tile // 4, 1)
    corners = []
    for spans, side in zip((stage.rows, stage.columns), size, strict=True):
        borders = [span[0] for span in spans[1:]] or [min(max(side // 2 // stride * stride, half), side)]
        corners.append(
            [
                (max(at - half, 0), min(at + half, side))
                for at in (borders[len(borders) * i // PLACES] for i in range(PLACES))
            ]
        )
    return tuple(dict.fromkeys(zip(*corners, strict=True)))


def _largest_read(
    graph: Graph, stages: list[Stage], places: tuple[Window, ...], kept: frozenset[int]
) -> tuple[int, int]:
    asked = [
        (stage.target, axis, wanted)
        for stage in stages
        for axis, spans in enumerate((stage.rows, stage.columns))
        for wanted in spans
    ]
    asked += [(graph.last, axis, place[axis]) for place in places for axis in (0, 1)]
    largest = [0, 0]
    for target, axis, wanted in asked:
        span = graph.spans(target, wanted, axis, kept).get(0)
        if span is not None:
            largest[axis] = max(largest[axis], extent(graph.mirrored(axis, span)))
    return largest[0], largest[1]
