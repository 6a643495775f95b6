"""Images larger than memory, by tiles without seams: each tile is what the whole image would have there.

Nothing is blended. Every layer is asked for a window and asks for what its kernel reaches (`tile_graph`);
deep layers, whose maps are small, are computed once for the whole image and kept (`tile_plan`, `tile_maps`).
Statistics that a norm takes from the image are gathered over the whole of it first, then frozen.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from pairloom import noise
from pairloom.checkpoint import write_atomically
from pairloom.layers import gaussian_z
from pairloom.tile_graph import Graph
from pairloom.tile_kernels import Span, Window, extent, framed
from pairloom.tile_maps import KeptMap
from pairloom.tile_moments import Moments
from pairloom.tile_plan import SAMPLE_PX, SAMPLE_SIDE, Gathered, Stage, Statistics, TilePlan, plan_tiles
from pairloom.translator import Translator

Read: TypeAlias = Callable[[int, int, int, int], Tensor]
"""top, left, height, width inside the image -> (C, height, width) in [-1, 1], float32."""
Write: TypeAlias = Callable[[int, int, Tensor], None]
"""top, left, a tile (C', h, w) on [-1, 1]; each pixel of the image once."""
Progress: TypeAlias = Callable[[int, int, str], None]
"""Finished windows, of how many, and of what in words."""


@dataclass(frozen=True, slots=True)
class TileReport:
    """How an image was translated by tiles."""

    tiles: int
    tile_px: int
    halo_px: int
    split: int | None
    """Layers whose maps' sides are halved so often, and deeper ones, were computed once."""
    ratio: float
    """Multiplications, counted, against those of one pass over the whole image."""
    statistics: Gathered
    sampled: int
    """Layers whose statistics come from a sample of windows."""
    mismatch: float | None
    """Largest difference on [-1, 1] to the same places in other tiles; None: nothing was translated."""
    seconds: float

    def words(self) -> str:
        """Some lines for people."""
        once = "no layer kept" if self.split is None else f"layers from 1/{2**self.split} of the size kept"
        gathered = {
            "fixed": "fixed",
            "exact": "of the whole image, exact",
            "sample": (
                f"of the whole image, {self.sampled} layers from a sample of at most"
                f" {SAMPLE_SIDE * SAMPLE_SIDE} windows of {SAMPLE_PX} px"
            ),
        }[self.statistics]
        mismatch = (
            "not measured: nothing was left to translate" if self.mismatch is None else f"{self.mismatch:.2g}"
        )
        return "\n".join(
            [
                f"{self.tiles} tiles of {self.tile_px} px, halo {self.halo_px} px, {once}",
                f"arithmetic: {self.ratio:.2f} times one whole pass",
                f"statistics: {gathered}",
                f"tile mismatch: {mismatch}",
                f"time: {self.seconds:.1f} s for the tiles",
            ]
        )


def translate_tiled(
    translator: Translator,
    read: Read,
    size: tuple[int, int],
    write: Write,
    *,
    memory_bytes: int = 2 * 2**30,
    statistics: Statistics = "auto",
    seed: int = 0,
    sample: int = 0,
    done: Collection[tuple[int, int]] = (),
    spill: Path | None = None,
    progress: Progress | None = None,
    plan: TilePlan | None = None,
) -> TileReport:
    """Translate an image by tiles; the result is that of `translate_tensor` on the whole image.

    (Up to rounding; with statistics from a sample, of a generator whose norms have these statistics.)

    Args:
        translator: With a U-Net or a ResNet.
        read: Gives windows of the source.
        size: (height, width) of the image, in pixels.
        write: Takes the tiles.
        memory_bytes: What may be used above the model.
        statistics: For norms that use each image's own; see `plan_tiles`.
        seed: Of z, where the model has one.
        sample: Which draw of z.
        done: (top, left) of the tiles that an earlier call has written.
        spill: A folder of this image alone for maps that do not fit into memory, and for what a call that
            continues this one need not compute again; it stays. None: a temporary one.
        progress: Is told after every window.
        plan: Instead of `plan_tiles(translator, size, memory_bytes, statistics=statistics)`.

    Raises:
        ValueError: As `plan_tiles`; `done` is of another plan; `read` gives a window of another shape; or the
            disk has too little room.
    """
    started = time.monotonic()
    plan = plan or plan_tiles(translator, size, memory_bytes, statistics=statistics)
    if plan.size != tuple(size):
        raise ValueError(f"The plan is for {plan.size} (height, width), but the image is {tuple(size)}.")
    assert not translator.generator.training, "inference never drops by torch's RNG nor moves averages"
    if foreign := set(done).difference(plan.tiles):
        raise ValueError(
            f"The tile at {min(foreign)} (top, left) is done, but tiles of {plan.tile_px} px have none there;"
            " continue with the memory and the settings of the first call."
        )
    remaining = [tile for tile in plan.tiles if tile not in set(done)]
    mismatch = None
    if remaining:
        with ExitStack() as stack, torch.inference_mode():
            key = noise.key(seed, sample) if translator.semantics.dropout else None
            if spill is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairloom-tiles-")))
            else:
                folder = spill / _digest(translator, plan, key)
                folder.mkdir(parents=True, exist_ok=True)
            left = sum(file.stat().st_size for file in folder.iterdir())
            free = shutil.disk_usage(folder).free + left
            if plan.spill_bytes > free:
                raise ValueError(
                    f"The maps of this image take {plan.spill_bytes / 2**30:.1f} GiB in {folder}, but"
                    f" {free / 2**30:.1f} GiB are free; free some or allow more memory."
                )
            passes = Passes(translator, plan, read, key, folder, save=spill is not None)
            stack.callback(passes.close)
            passes.prepare(progress)
            mismatch = passes.translate(set(remaining), write, progress)
    return TileReport(
        tiles=len(plan.tiles),
        tile_px=plan.tile_px,
        halo_px=plan.halo_px,
        split=plan.split,
        ratio=plan.ratio,
        statistics=plan.statistics,
        sampled=plan.sampled,
        mismatch=mismatch,
        seconds=time.monotonic() - started,
    )


class Passes:
    """The passes of a plan over one image: statistics and kept maps, then the tiles."""

    def __init__(
        self, translator: Translator, plan: TilePlan, read: Read, key: int | None, folder: Path, *, save: bool
    ) -> None:
        self.plan, self.key, self.folder, self.save = plan, key, folder, save
        self.device = translator.device
        self.graph = Graph(translator.generator, plan.size)
        self.channels = self.graph.steps[0].channels - (self.graph.z == "gaussian")
        self.read = read
        self.moments: dict[int, Moments] = {}
        self.maps = {
            stage.target: KeptMap(
                self.graph.steps[stage.target].channels,
                self.graph.sizes[stage.target],
                folder / f"{stage.target:02}.map",
                in_memory=stage.keep == "memory",
            )
            for stage in plan.stages
            if stage.keep is not None
        }

    def close(self) -> None:
        """Free memory and files; the files of a continued call stay."""
        for kept in self.maps.values():
            kept.close(remove=False)

    # --------------------------------------------------------------------------------------------------------
    # Passes

    def prepare(self, progress: Progress | None = None) -> None:
        """Everything before the tiles, or what an earlier call has left of it to do."""
        *before, _ = self.plan.stages
        for number in range(self._found(), len(before)):
            stage = before[number]
            self._gather(stage, progress)
            for dead in stage.drops:
                self.maps[dead].close(remove=True)

    def _gather(self, stage: Stage, progress: Progress | None) -> None:
        """One pass: the map kept, its statistics frozen."""
        kept = self.maps.get(stage.target)
        moments = Moments(self.graph.steps[stage.target].channels)
        if kept is not None:
            kept.begin()
        for window in _counted(stage, f"{stage.name}{' (sample)' if stage.sampled else ''}", progress):
            raw = self.raw(stage.target, window)
            if stage.measures:
                moments.add(raw)
            if kept is not None:
                kept.write(window, raw)
        if stage.measures:
            self.moments[stage.target] = moments
        if kept is not None:
            kept.end(save=self.save)
        if self.save:
            write_atomically(self._record(stage), lambda path: torch.save(moments.state(), path))

    def _record(self, stage: Stage) -> Path:
        return self.folder / f"{stage.target:02}.pt"

    def _found(self) -> int:
        """How many passes an earlier call has finished, all that the others need being there."""
        *before, _ = self.plan.stages
        moments = list(itertools.takewhile(lambda found: found is not None, map(self._saved, before)))
        finished = before[: len(moments)]
        dropped = {n for stage in finished for n in stage.drops}
        needed = [stage.target for stage in finished if stage.keep and stage.target not in dropped]
        if not all(self.maps[n].find() for n in needed):
            return 0
        for stage, found in zip(finished, moments, strict=True):
            if stage.measures and found is not None:
                self.moments[stage.target] = found
        return len(finished)

    def _saved(self, stage: Stage) -> Moments | None:
        """What an earlier call has recorded of a pass; None if it has not, or the record is damaged."""
        try:
            found = Moments.of(torch.load(self._record(stage), weights_only=True))
        except Exception:  # a damaged file is met with every kind of exception
            return None
        return found if len(found.mean) == self.graph.steps[stage.target].channels else None

    def translate(
        self, remaining: set[tuple[int, int]], write: Write, progress: Progress | None = None
    ) -> float | None:
        """The tiles that remain; then the largest difference to other tiles, at a few places."""
        stage = self.plan.stages[-1]
        places = {window: torch.empty(0) for window in self.plan.places}
        for window in _counted(stage, stage.name, progress):
            if (window[0][0], window[1][0]) not in remaining:
                continue
            tile = self._tile(window)
            for place, seen in places.items():
                common = tuple(_common(a, b) for a, b in zip(place, window, strict=True))
                if all(extent(span) > 0 for span in common):
                    if not seen.numel():
                        seen = tile.new_full((len(tile), *map(extent, place)), torch.nan)
                        places[place] = seen
                    _within(seen, place, common).copy_(_within(tile, window, common))
            write(window[0][0], window[1][0], tile)
        differences = [
            float((self._tile(place) - seen).abs().nan_to_num(0).max())
            for place, seen in places.items()
            if seen.numel()
        ]
        return max(differences, default=None)

    def _tile(self, window: Window) -> Tensor:
        """Shapes: -> (C', *window), on the CPU."""
        last = self.graph.last
        return self.graph.steps[last].finished(self.raw(last, window), window, self.key, None)[0].cpu()

    # --------------------------------------------------------------------------------------------------------
    # One window

    def raw(self, target: int, window: Window) -> Tensor:
        """What a step's kernel gives in a window, from what is kept and from the image.

        Shapes: -> (1, C, *window).
        """
        graph, kept = self.graph, frozenset(self.maps)
        rows, columns = (graph.spans(target, wanted, axis, kept) for axis, wanted in enumerate(window))
        computed = [n for n in rows if n == target or n not in kept]
        values: dict[int, Tensor] = {}
        for n in sorted(rows):
            step, have = graph.steps[n], (rows[n], columns[n])
            if n == 0:
                values[n] = self._source(have)
                continue
            if n in kept and n != target:
                found = self.maps[n].read(have).to(self.device)
            else:
                found = self._step(n, have, rows, columns, values)
            if n == target:
                return found
            for m in step.inputs:  # free what no later step of this window takes
                if m in values and not any(m in graph.steps[later].inputs for later in computed if later > n):
                    del values[m]
            values[n] = step.finished(found, have, self.key, self.moments.get(n))
        raise AssertionError("the target is among its own steps")

    def _step(
        self, n: int, want: Window, rows: dict[int, Span], columns: dict[int, Span], values: dict[int, Tensor]
    ) -> Tensor:
        step = self.graph.steps[n]
        sizes = self.graph.sizes[step.inputs[0]]
        needed = step.kernel.needs(want[0], sizes[0]), step.kernel.needs(want[1], sizes[1])
        inputs = [framed(values[m], (rows[m], columns[m]), needed) for m in step.inputs]
        return step.raw(inputs, needed, want, sizes)

    def _source(self, window: Window) -> Tensor:
        """A window of the extended image, with the Gaussian z beside it. Shapes: -> (1, C, *window)."""
        graph = self.graph
        rows, columns = (graph.mirrored(axis, span) for axis, span in enumerate(window))
        x = self.read(rows[0], columns[0], extent(rows), extent(columns))
        if tuple(x.shape) != (self.channels, extent(rows), extent(columns)):
            raise ValueError(
                f"A window of {extent(columns)}x{extent(rows)} pixels of {self.channels} channels was asked"
                f" for, but what came has the shape {tuple(x.shape)}."
            )
        x = x[None].to(self.device, torch.float32)
        for axis, (span, first) in enumerate(zip(window, (rows[0], columns[0]), strict=True)):
            if span[1] > self.plan.size[axis]:
                places = torch.tensor(graph.places[axis][slice(*span)], device=x.device) - first
                x = x.index_select(axis + 2, places)
        if graph.z == "gaussian":
            z = gaussian_z(x, self.key, training=False, at=(window[0][0], window[1][0]))
            x = torch.cat([x, z], 1)
        return x.contiguous(memory_format=torch.channels_last)


def _counted(stage: Stage, words: str, progress: Progress | None) -> Iterator[Window]:
    """A pass's windows, telling after each."""
    windows = list(stage.windows())
    for number, window in enumerate(windows, start=1):
        yield window
        if progress is not None:
            progress(number, len(windows), words)


def _common(a: Span, b: Span) -> Span:
    return max(a[0], b[0]), min(a[1], b[1])


def _within(x: Tensor, have: Window, want: tuple[Span, ...]) -> Tensor:
    """A view of a window. Shapes: (C, *have) -> (C, *want)."""
    (top, left), (rows, columns) = (have[0][0], have[1][0]), want
    return x[:, rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]


def _digest(translator: Translator, plan: TilePlan, key: int | None) -> str:
    """Of everything but the image that the maps follow from."""
    digest = hashlib.sha256(repr((plan, key, translator.semantics, translator.describe()["config"])).encode())
    for name, weights in sorted(translator.generator.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
