"""Labelled photos: which side of the pairs is the photo, and the classes of the label maps beside it.

Label maps are measured where no palette is given, also those that were saved as JPEG.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pairloom import images
from pairloom.config import DataConfig, height_width
from pairloom.data import Pair, PairSet, augment, evaluation_geometry, evenly, find_pairs, measure_specs
from pairloom.data.masks import known_pixels
from pairloom.data.measuring import PALETTE_DISTANCE
from pairloom.data.pairs import ImageRef
from pairloom.evaluation.segmenter import (
    ClassMap,
    SegmenterError,
    read_label_spec,
)
from pairloom.images import Array, ImageSpec
from pairloom.palette import MAX_CLASSES, Colours, nearest
from pairloom.pixels import WHITE
from pairloom.survey import measure_spec

Side = Literal["source", "target"]

MEASURED_MAPS = 200
"""A palette is measured on at most so many label maps, evenly chosen."""
FLAT_RANGE = 8
"""File values: a pixel is flat when it differs no more from any of its eight neighbours in any channel."""
MERGE_RADIUS = 32
"""File values: colours nearer than this to a more frequent one are taken for that one with noise."""
LEAST_SHARE = 0.001
"""A colour that so few of the flat pixels have is no class."""
CONCENTRATED = 0.5
"""A class's flat pixels: at least this share of those within the radius lie within a quarter of it."""
LEAST_FLAT = 0.05
"""Images of which fewer pixels are flat are no label maps."""
COVERED = 0.9
"""A palette explains at least this share of the flat pixels; else the images are no label maps."""
CACHED_BYTES = 1 << 30
"""Decoded pairs are kept in memory up to this."""


# ------------------------------------------------------------------------------------------------------------
# The classes of label maps that were saved as JPEG


def measure_palette(maps: Iterable[Array]) -> Colours:
    """The classes' colours of label maps that compression or resizing has given thousands more.

    Only flat pixels count, whose neighbours are all like them: so the blends at the borders between classes,
    which are no classes, do not. Of their colours the most frequent stands for all within `MERGE_RADIUS`, and
    so on with what is left. It is a class when it has `LEAST_SHARE` of them, densely around it.

    Shapes: maps (H, W, C) of uint8, C 1 or 3, sizes may differ; read once, one after the other.
    Returns: The colours in ascending order; () when the images do not consist of few flat colours.
    """
    area, channels, found = 0, 1, [np.empty(0, np.uint32)]
    for array in maps:
        area, channels = area + array.shape[0] * array.shape[1], array.shape[2]
        if array.dtype != np.uint8 or channels not in (1, 3):
            return ()
        found.append(_flat_pixels(array))
    colours, counts = np.unique(np.concatenate(found), return_counts=True)
    total = counts.sum()
    if total < max(1, LEAST_FLAT * area):
        return ()
    points = _unpacked(colours, channels).astype(np.float64)
    left = counts.astype(np.float64)
    classes: list[tuple[int, ...]] = []
    refused = 0.0
    while left.sum() >= LEAST_SHARE * total and refused <= 1 - COVERED:
        peak = int(left.argmax())
        distance = np.sqrt(((points - points[peak]) ** 2).sum(axis=1))
        near = distance < MERGE_RADIUS
        share = left[near].sum() / total
        dense = counts[distance < MERGE_RADIUS / 4].sum() / counts[near].sum()
        if share >= LEAST_SHARE and dense >= CONCENTRATED:
            classes.append(tuple(int(v) for v in points[peak]))
        else:
            refused += share
        left[near] = 0
    good = refused <= 1 - COVERED and 2 <= len(classes) <= MAX_CLASSES
    return tuple(sorted(classes)) if good else ()


def _flat_pixels(array: Array) -> npt.NDArray[np.uint32]:
    """The colours of the flat pixels, each as one number; those at the border are left out.

    Shapes: (H, W, C) of uint8 -> (P,).
    """
    height, width = max(array.shape[0] - 2, 0), max(array.shape[1] - 2, 0)
    values = array.astype(np.int16)
    inner = values[1 : 1 + height, 1 : 1 + width]
    flat = np.ones((height, width), bool)
    for dy in range(3):
        for dx in range(3):
            other = values[dy : dy + height, dx : dx + width]
            flat &= (np.abs(other - inner) <= FLAT_RANGE).all(axis=2)
    packed = np.zeros(int(flat.sum()), np.uint32)
    for channel in np.moveaxis(inner[flat], 1, 0):
        packed = (packed << np.uint32(8)) | channel.astype(np.uint32)
    return packed


def _unpacked(packed: npt.NDArray[np.uint32], channels: int) -> Array:
    """(P,) -> (P, C) of uint8."""
    shifts = np.arange(channels - 1, -1, -1, dtype=np.uint32) * np.uint32(8)
    return (packed[:, None] >> shifts).astype(np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledPhotos:
    """Which side of the pairs is the photo, and how both are read."""

    pairs: PairSet
    data: DataConfig
    photo_side: Side
    photo_spec: ImageSpec
    label_spec: ImageSpec
    notes: tuple[str, ...] = ()
    """What was decided, as sentences."""
    cache: dict[Pair, tuple[Array, Array]] = field(default_factory=dict)

    @classmethod
    def decide(
        cls, data: DataConfig, *, photo_side: Side | None = None, palette: str | Path | None = None
    ) -> LabelledPhotos:
        """Find the pairs, and tell photos from label maps.

        A side is the label map when its spec says so (see `measure_specs`), else when the palette given lies
        nearer to it, else when a palette can be measured on it and on the other side not.

        Args:
            data: Where the pairs are, and at what scale photos are seen.
            photo_side: Decides it.
            palette: A file with the classes; None: as `data` says, else measured.

        Raises:
            SegmenterError: It cannot be told, or the label maps have no palette.
            DataError: The pairs cannot be found or read.
            ImageError: The palette cannot be read.
        """
        pairs = find_pairs(data)
        train = pairs.split("train")
        specs = dict(zip(("source", "target"), measure_specs(train, data), strict=True))
        sides: tuple[Side, Side] = ("source", "target")
        refs = {side: evenly([getattr(p, side) for p in train], MEASURED_MAPS) for side in sides}
        labelled: list[Side] = [side for side in sides if specs[side].kind == "labels"]
        measured: dict[Side, ImageSpec] = {side: specs[side] for side in labelled}
        if photo_side is not None:
            labelled = [_other(photo_side)]
        if palette is not None:
            given = read_label_spec(palette)
            fitting = {
                side: _read_as(specs[side], given)
                for side in (labelled if len(labelled) == 1 else sides)
                if specs[side].channels == given.channels and specs[side].dtype != "float32"
            }
            labelled = [_nearest_side(palette, fitting, specs, refs)]
            measured = {side: fitting[side] for side in labelled}
        for side in labelled or sides:
            spec = specs[side]
            if side not in measured and (colours := measure_palette(r.read(spec) for r in refs[side])):
                made = measure_spec([refs[side][0].read(spec)], palette=colours)
                measured[side] = _read_as(spec, made)
        candidates = [side for side in labelled or sides if side in measured]
        if len(candidates) != 1:
            raise SegmenterError(_undecided(data, photo_side, len(candidates)))
        side = candidates[0]
        notes = _notes(side, measured[side], refs[side], given=palette, exact=specs[side].kind == "labels")
        return cls(
            pairs=pairs,
            data=data,
            photo_side=_other(side),
            photo_spec=specs[_other(side)],
            label_spec=measured[side],
            notes=notes,
        )

    def arrays(self, pair: Pair) -> tuple[Array, Array]:
        """A photo, and the classes of its label map, both as they are in the files.

        Shapes: (H, W, C) file values; (H', W') uint8 indices into the palette.

        Raises:
            DataError: A file does not suit its spec.
            ImageError: A file cannot be read.
        """
        if pair in self.cache:
            return self.cache[pair]
        photo_first = self.photo_side == "source"
        order = (self.photo_spec, self.label_spec) if photo_first else (self.label_spec, self.photo_spec)
        read = pair.read(*order)
        if known_pixels(pair, *read) is not None:
            raise SegmenterError(
                f"{pair.source}: some pixels are masked or NaN; a segmenter learns from whole photos, so "
                "leave the pair or its mask out."
            )
        photo, labels = read if photo_first else read[::-1]
        if (labels.shape[2], labels.dtype.name) != (self.label_spec.channels, self.label_spec.dtype):
            raise SegmenterError(
                f"{getattr(pair, _other(self.photo_side))}: holds {labels.shape[2]} channels of "
                f"{labels.dtype.name}, but the label maps {self.label_spec.channels} of "
                f"{self.label_spec.dtype}; give the palette for such files, or convert it."
            )
        found = photo, nearest(labels, self.label_spec.palette).astype(np.uint8)
        if len(self.cache) * (found[0].nbytes + found[1].nbytes) < CACHED_BYTES:
            self.cache[pair] = found
        return found

    def photo(self, pair: Pair) -> tuple[Tensor, ClassMap]:
        """A photo at evaluation geometry, and its classes at their own size, which is never changed.

        Shapes: (C, h, w) in [-1, 1]; (H, W).
        """
        photo, index = self.arrays(pair)
        x = images.to_tensor(photo, self.photo_spec)
        x, _ = evaluation_geometry(x, x, crop_size=self.data.crop_size, resize=self.data.resize)
        return x, index.astype(np.int64)

    def view(self, pair: Pair, crop_px: int | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A photo and its classes for training: a scale between crop_size and load_size, crop, mirror, light.

        Shapes: (C, h, w) in [-1, 1] and (h, w), of the crop.
        """
        photo, index = self.arrays(pair)
        x = images.to_tensor(photo, self.photo_spec)
        y = torch.from_numpy(index)[None].float()
        crop, load = height_width(self.data.crop_size), self.data.load_sides
        t = float(rng.random())
        size = tuple(round(a + t * (max(a, b) - a)) for a, b in zip(crop, load, strict=True))
        x, y = augment(
            x,
            y,
            load_size=(size[0], size[1]),
            crop_size=crop if crop_px is None else (crop_px, crop_px),
            resize=self.data.resize,
            mirror=self.data.mirror,
            labels=(False, True),
            rng=rng,
        )
        # Other light: the generated photos will not have quite that of the real ones.
        contrast, brightness = float(rng.uniform(0.8, 1.2)), float(rng.uniform(-0.2, 0.2))
        return (x * contrast + brightness).clamp_(-1, 1), y[0].long()


def _other(side: Side) -> Side:
    return "target" if side == "source" else "source"


def _read_as(files: ImageSpec, labels: ImageSpec) -> ImageSpec:
    """The spec of label maps, for files that are read as the other spec says."""
    return replace(labels, dtype=files.dtype, alpha=files.alpha, page_axis=files.page_axis)


def _nearest_side(
    path: str | Path,
    fitting: dict[Side, ImageSpec],
    specs: dict[str, ImageSpec],
    refs: dict[Side, list[ImageRef]],
) -> Side:
    """Of the sides that the palette of this file fits, the one whose pixels lie nearest to it."""
    distances = {side: _distance(refs[side], spec)[0] for side, spec in fitting.items()}
    if not distances:
        raise SegmenterError(
            f"{path}: its colours do not suit the label maps; the source has {specs['source'].channels} "
            f"channels of {specs['source'].dtype}, the target {specs['target'].channels} of "
            f"{specs['target'].dtype}, and a colour needs one whole number a channel."
        )
    side = min(distances, key=lambda side: distances[side])
    spec = fitting[side]
    if distances[side] > PALETTE_DISTANCE * WHITE[spec.dtype] * math.sqrt(spec.channels):
        raise SegmenterError(
            f"{path}: does not match the {side} images: their pixels lie {distances[side]:.1f} file values "
            "on average from the nearest of its colours; give the palette that they were drawn with."
        )
    return side


def _distance(refs: Sequence[ImageRef], spec: ImageSpec) -> tuple[float, float]:
    """Mean distance of pixels to the palette, in file values, and the share further than `MERGE_RADIUS`.

    Over at most 50 of the label maps.
    """
    means, far = [], []
    colours = np.array(spec.palette, np.float64)
    for ref in evenly(refs, 50):
        array = ref.read(spec)
        distance = np.sqrt(((array - colours[nearest(array, spec.palette)]) ** 2).sum(axis=2))
        means.append(distance.mean())
        far.append((distance > MERGE_RADIUS).mean())
    return float(np.mean(means)), float(np.mean(far))


def _undecided(data: DataConfig, photo_side: Side | None, candidates: int) -> str:
    if photo_side is not None:
        return (
            f"{data.path}: the {_other(photo_side)} images do not consist of few colours, so the classes "
            "cannot be measured; give a palette file with one class a line, `r,g,b,name`."
        )
    if candidates:
        return (
            f"{data.path}: both the source and the target images look like label maps; say which side holds "
            "the photos."
        )
    return (
        f"{data.path}: neither the source nor the target images consist of few colours; an FCN-score needs "
        "label maps, so give a palette file with one class a line, `r,g,b,name`."
    )


def _notes(
    side: Side, spec: ImageSpec, refs: Sequence[ImageRef], *, given: object, exact: bool
) -> tuple[str, ...]:
    count = len(spec.palette)
    if given is not None:
        origin = f"{count} classes are given by {given}"
    elif exact:
        origin = f"{count} classes are the colours of the files"
    else:
        origin = f"{count} classes were measured: the frequent colours of flat areas, {MERGE_RADIUS} apart"
    distance, far = _distance(refs, spec)
    lost = f"Their pixels lie {distance:.3g} file values on average from their class's colour"
    if far:
        lost += f", and {100 * far:.2g} % of them lie more than {MERGE_RADIUS} from any: mostly at borders"
    return f"The {side} images are the label maps; their {origin}.", f"{lost}."
