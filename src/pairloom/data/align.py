"""Pairs whose two sides do not lie on each other: brought together, cropped to what they share, written anew.

The source moves and the target stays: its pixels are copied, never interpolated. A source that is a label map
moves by nearest neighbour, which makes no new classes; any other by cubic splines, within its own range.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data.finding import find_pairs
from pairloom.data.masks import known_pixels
from pairloom.data.measuring import measure_specs
from pairloom.data.pairs import DataError, Pair, PairSet
from pairloom.data.registration import SEARCH_PX, SMALLEST_PX, SURE, Estimate, Model, Motion, register
from pairloom.data.writing import not_kept, side_suffix, write_side
from pairloom.disk import among_data
from pairloom.images import ImageError
from pairloom.pixels import Array

STILL_PX = 0.25
"""A pair whose corners would move by less is copied as it is: interpolation would cost more than it gives."""
RESIDUAL_PX = 1.0
"""Once moved, the estimate is made again; a pair that seems to be further off than this is left out. Where
images are searched at a smaller size than their own, pixels of that size."""
LEAST_SHARED = 0.25
"""Of the target's area, what both sides must share."""
MOST_OF_SIDE = 1 / 8
"""Of the longer side: shifts beyond this are not looked for, unless told."""
NAMED = 10
"""The words name at most so many pairs that were left out; align.csv has all."""
TABLE, PAGE = "align.csv", "align.html"
"""Beside the pairs. All that there is where none could be aligned; then another try may replace them."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels of the target; `bottom` and `right` are the first that lie outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left


@dataclass(frozen=True, slots=True)
class Aligned:
    """What became of one pair: where it was written, or why it was left out."""

    pair: Pair
    before: Estimate | None = None
    """None: it could not be read, or is too small or empty."""
    after: Estimate | None = None
    """Of the pair as it was moved, before it was cropped: the shift that is left."""
    moved_px: float = 0.0
    """The largest distance that a corner of the source moved, in target pixels; 0 when it stayed."""
    box: Box | None = None
    """What was kept of the target's frame."""
    files: tuple[Path, Path] | None = None
    """The source's and the target's new file."""
    reason: str = ""
    """Why it was left out; "" when it was not."""

    @property
    def name(self) -> str:
        """With its split."""
        return f"{self.pair.split}/{self.pair.name}"

    @property
    def kept(self) -> bool:
        """Whether it was written."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class AlignReport:
    """What was done to a data set."""

    out: Path
    data: DataConfig
    model: Model
    moved_side: Literal["A", "B"]
    """The side of the source."""
    most_px: float | None
    pairs: tuple[Aligned, ...]
    unpaired: tuple[str, ...] = field(default=())
    """A sentence for each file that is in no pair."""
    note: str = ""
    """Of what the files say beside their pixels, what is not kept."""

    @property
    def kept(self) -> list[Aligned]:
        """The pairs that were written."""
        return [pair for pair in self.pairs if pair.kept]

    @property
    def left_out(self) -> list[Aligned]:
        """The pairs that were not."""
        return [pair for pair in self.pairs if not pair.kept]

    def words(self) -> str:
        """For a terminal."""
        moved = [pair.moved_px for pair in self.kept]
        if moved:
            lines = [
                f"{len(moved)} of {len(self.pairs)} pairs are aligned in {self.out}; side {self.moved_side}, "
                f"the source, was moved, half of them by more than {np.median(moved):.2f} px, the most by "
                f"{max(moved):.2f} px."
            ]
        else:
            lines = [
                f"None of the {len(self.pairs)} pairs could be aligned, so none is in {self.out}; another "
                "try may use the same folder."
            ]
        if still := sum(px == 0 for px in moved):
            lines.append(f"{still} lay right already (within {STILL_PX} px) and were copied.")
        if self.left_out:
            lines.append(f"Left out, {len(self.left_out)}:")
            lines += [f"  - {pair.name}: {pair.reason}" for pair in self.left_out[:NAMED]]
            if len(self.left_out) > NAMED:
                lines.append(f"  - and {len(self.left_out) - NAMED} more, in {TABLE}")
        if self.unpaired:
            lines.append(
                f"Files that are in no pair: {len(self.unpaired)}, as `pairloom data check` lists them."
            )
        return "\n".join(lines + [self.note] * bool(self.note))


def align(
    data: DataConfig,
    out: str | Path,
    *,
    model: Model = "shift",
    most_px: float | None = None,
    jobs: int | None = None,
) -> AlignReport:
    """Move the source of each pair onto its target, and write the pairs that could be aligned.

    Written are OUT/A/SPLIT/NAME and OUT/B/SPLIT/NAME, cropped to what both sides show, in the container of
    the file they came from where that is lossless, else PNG, else TIFF; and OUT/align.csv, a line a pair.
    OME-TIFF files keep the names of their channels and the sizes of their pixels. A source of another size
    than its target is first resized to it.

    Args:
        data: The data set; `direction` says which side is the source, which moves.
        out: A folder that is absent or empty, or holds but the table and the page of a try that kept no pair.
        model: shift, or affine: also rotation, magnification and shear.
        most_px: Pixels of the target: moves further than this are not looked for, nor made. None: an eighth
            of the image's longer side.
        jobs: Pairs worked on at once; None: one a processor.

    Raises:
        DataError: There are no pairs; they are derived from photos; `out` is not empty or lies among the
            data; or `most_px` or `jobs` is too small.
    """
    out = Path(out)
    _check_arguments(data, out, most_px, jobs)
    found = find_pairs(data)
    labels = _source_is_labels(found, data)
    a_is_source = data.direction == "AtoB"

    def work(pair: Pair) -> Aligned:
        try:
            return _align_pair(pair, data, out, model, most_px, labels)
        except (DataError, ImageError) as error:
            return Aligned(pair, reason=str(error))

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        progress = tqdm(
            pool.map(work, found.pairs), desc="aligning", unit="pair", total=len(found.pairs), disable=None
        )
        done = tuple(progress)
    note = not_kept([one.pair for one in done if one.kept], data) or ""
    report = AlignReport(out, data, model, "A" if a_is_source else "B", most_px, done, found.unpaired, note)
    out.mkdir(parents=True, exist_ok=True)
    (out / TABLE).write_text(_table(done), encoding="utf-8", errors="surrogateescape")
    return report


def _source_is_labels(found: PairSet, data: DataConfig) -> bool:
    """As it says, or as all its training files show."""
    if data.source_kind != "auto" or data.source_palette is not None:
        return data.source_kind != "intensity"
    return measure_specs(found.split("train") or found.pairs, data)[0].kind == "labels"


def _check_arguments(data: DataConfig, out: Path, most_px: float | None, jobs: int | None) -> None:
    if data.derive != "none":
        raise DataError(
            f"data.derive={data.derive} makes pairs that lie on each other; there is nothing to align."
        )
    if most_px is not None and not most_px >= 1:
        raise DataError(f"most_px is {most_px}; it must be 1 or more pixels.")
    if jobs is not None and jobs < 1:
        raise DataError(f"jobs is {jobs}; it must be 1 or more.")
    if (fault := among_data(out, data.path, data.path_b)) is not None:
        raise DataError(fault)
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= {TABLE, PAGE}):
        raise DataError(f"{out}: is there already, and not an empty folder; choose another --out.")


# -----------------------------------------------------------------------------------------------------------
# One pair


def _align_pair(
    pair: Pair, data: DataConfig, out: Path, model: Model, most_px: float | None, labels: bool
) -> Aligned:
    source, target = pair.read(data, data)
    if known_pixels(pair, source, target) is not None:
        return Aligned(pair, reason="some of its pixels are masked or NaN, which cannot be moved")
    size = (target.shape[0], target.shape[1])
    own_size = source.shape[:2] == size
    source = _resized(source, size, labels=labels)
    most = MOST_OF_SIDE * max(size) if most_px is None else most_px
    before = register(source, target, model=model, most_px=most)
    if before is None:
        small = min(size) < SMALLEST_PX
        return Aligned(pair, reason=f"smaller than {SMALLEST_PX} px" if small else "a side shows no edges")
    if not before.sure:
        return Aligned(pair, before, reason=_unsure(before))
    length = before.motion.length(size)
    if length > most:
        return Aligned(pair, before, reason=f"it would move by {length:.1f} px, more than {most:.1f}")
    motion = before.motion if length >= STILL_PX else Motion()
    box = shared_box(motion, size)
    if box.height * box.width < LEAST_SHARED * size[0] * size[1]:
        return Aligned(pair, before, reason=f"only {box.width}x{box.height} px are on both sides")
    whole = move(source, motion, Box(0, 0, *size), labels=labels)
    after = register(whole, target, most_px=most) if motion != Motion() else before
    limit = RESIDUAL_PX * max(1.0, max(size) / SEARCH_PX)
    if after is None or not after.sure or after.motion.length(size) > limit:
        rest = (
            ""
            if after is None
            else f" ({after.motion.length(size):.1f} px, confidence {after.confidence:.2f})"
        )
        return Aligned(pair, before, after, reason=f"once moved, it does not seem aligned{rest}")
    cut = np.s_[box.top : box.bottom, box.left : box.right]
    files = _write(
        pair,
        out,
        data,
        (whole[cut], target[cut]),
        still=own_size and motion == Motion(),
        own_grid=own_size and motion.matrix == Motion().matrix,
    )
    return Aligned(pair, before, after, length if motion != Motion() else 0.0, box, files)


def _unsure(estimate: Estimate) -> str:
    return (
        f"the confidence is {estimate.confidence:.2f} on {estimate.evidence}, below "
        f"{SURE[estimate.evidence]}: the sides share too little, or repeat themselves"
    )


def _resized(array: Array, size: tuple[int, int], *, labels: bool) -> Array:
    """Brought to the target's size, in file values."""
    if array.shape[:2] == size:
        return array
    tensor = torch.from_numpy(array.astype(np.float32).transpose(2, 0, 1).copy())
    resized = images.resize(tensor, size, labels=labels).permute(1, 2, 0).numpy()
    return _in_range(resized, array)


def move(source: Array, motion: Motion, box: Box, *, labels: bool) -> Array:
    """The source as it lies on the target, within `box`.

    Shapes: (H, W, C) -> (box.height, box.width, C); H and W are the target's.
    Units: file values; outside the source its border continues.
    """
    if motion == Motion():
        return source[box.top : box.bottom, box.left : box.right]
    grid = np.mgrid[box.top : box.bottom, box.left : box.right].astype(np.float64)
    at = motion.apply(grid, (source.shape[0], source.shape[1]))
    if labels:
        y, x = (
            np.clip(np.rint(a), 0, side - 1).astype(np.intp)
            for a, side in zip(at, source.shape, strict=False)
        )
        moved: Array = source[y, x]
        return moved
    planes = [
        ndimage.map_coordinates(source[..., channel].astype(np.float64), at, order=3, mode="nearest")
        for channel in range(source.shape[2])
    ]
    return _in_range(np.stack(planes, axis=2), source)


def _in_range(values: Array, like: Array) -> Array:
    """Rounded for integers, and within the values that each channel of `like` has: splines overshoot."""
    low, high = like.min(axis=(0, 1)), like.max(axis=(0, 1))
    within = np.clip(values, low, high)
    found: Array = (np.rint(within) if like.dtype.kind == "u" else within).astype(like.dtype)
    return found


def shared_box(motion: Motion, size: tuple[int, int]) -> Box:
    """A large rectangle of the target that the source covers: borders are cut off where it does not.

    Of the four borders, the one of which the largest share lies outside goes first.
    """
    top, left, bottom, right = 0, 0, size[0], size[1]
    while bottom - top > 1 and right - left > 1:
        y, x = np.arange(top, bottom), np.arange(left, right)
        borders = [(top, x), (bottom - 1, x), (y, left), (y, right - 1)]
        outside = [_share_outside(motion, size, at_y, at_x) for at_y, at_x in borders]
        if not any(outside):
            break
        worst = int(np.argmax(outside))
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return Box(top, left, bottom, right)


def _share_outside(motion: Motion, size: tuple[int, int], y: object, x: object) -> float:
    points = np.stack(np.broadcast_arrays(np.asarray(y, np.float64), np.asarray(x, np.float64)))
    at = motion.apply(points, size)
    outside = [(a < 0) | (a > side - 1) for a, side in zip(at, size, strict=True)]
    return float(np.logical_or(*outside).mean())


def _write(
    pair: Pair, out: Path, data: DataConfig, arrays: tuple[Array, Array], *, still: bool, own_grid: bool
) -> tuple[Path, Path]:
    """Both sides; `still`: as they were read; `own_grid`: the source's pixels are of the size they had."""
    paths = []
    sides = "AB" if data.direction == "AtoB" else "BA"
    for side, ref, array in zip(sides, (pair.source, pair.target), arrays, strict=True):
        path = out / side / pair.split / pair.name
        path = path.with_name(path.name + side_suffix(ref, array, data, own=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_side(path, array, ref, data, still=still, grid=ref if own_grid else pair.target)
        paths.append(path)
    return paths[0], paths[1]


# -----------------------------------------------------------------------------------------------------------
# The table


def _table(pairs: Sequence[Aligned]) -> str:
    columns = ("name", "dy", "dx", "matrix", "evidence", "confidence_before", "confidence_after", "moved_px",
               "top", "left", "height", "width", "kept", "reason")  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([pair.name, *_cells(pair)] for pair in pairs)
    return text.getvalue()


def _cells(pair: Aligned) -> Iterator[object]:
    """What follows the name: the move of the source's content, down and right, and the rest."""
    if pair.before is None:
        yield from [""] * 6
    else:
        yield from (f"{value:.3f}" for value in pair.before.motion.shift)
        yield " ".join(f"{value:.6f}" for row in pair.before.motion.matrix for value in row)
        yield pair.before.evidence
        yield f"{pair.before.confidence:.3f}"
        yield "" if pair.after is None else f"{pair.after.confidence:.3f}"
    yield f"{pair.moved_px:.3f}"
    yield from ("", "", "", "") if pair.box is None else (
        pair.box.top, pair.box.left, pair.box.height, pair.box.width
    )  # fmt: skip
    yield from ("yes" if pair.kept else "no", pair.reason)
