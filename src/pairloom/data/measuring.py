"""Deciding once, from the training images, what their values mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data.derive import as_photo, derivation
from pairloom.data.masks import Counting, SideOf, mask_notes
from pairloom.data.pairs import DataError, ImageRef, Pair, PairSet, StoredPairs, evenly, training_pairs
from pairloom.images import ImageError, ImageSpec
from pairloom.palette import MAX_CLASSES, distinct_colours
from pairloom.pixels import WHITE, Array, described, keeps_alpha
from pairloom.survey import measure_spec

AUTO_LABEL_COLOURS = 64
"""Lossless training images with at most this many colours in all are label maps."""
MEASURED_PAIRS = 200
"""At most so many pairs, evenly spread over the training pairs, are read to measure ranges."""
NOTED_IMAGES = 50
"""Clipped shares and distances to the palette are means over at most so many images."""
PALETTE_DISTANCE = 0.1
"""Pixels that lie further from a given palette than this share of black to white have another palette."""


def measure_specs(pairs: PairSet | Sequence[Pair], data: DataConfig) -> tuple[ImageSpec, ImageSpec]:
    """Decide once, from the training pairs, how the files of each side become tensors.

    Up to `MEASURED_PAIRS` evenly spread pairs are read. Whether a side is a label map is decided on all its
    files, stopping at the first that is lossy or shows too many colours. Single photos are measured by the
    settings of the target, and the specs of the pairs that are derived from them follow.

    Raises:
        DataError: There are no pairs, a file cannot be read, the files of a side differ in channels or type,
            or the settings do not suit them.
    """
    train = training_pairs(pairs)
    if not train:
        raise DataError("There are no training pairs to measure.")
    derive = derivation(data)
    if derive is not None:
        photos = replace(data, target_kind="intensity")
        channels = 3 if derive.needs_colour else None
        source, target = derive.specs(_measure(SideOf(train, "target"), photos, "target", channels))
        return replace(source, slice_axis=data.slice_axis), target
    source = _measure(SideOf(train, "source"), data, "source")
    return source, _measure(SideOf(train, "target"), data, "target")


def _measure(
    refs: Sequence[Counting],
    data: DataConfig,
    side: Literal["source", "target"],
    channels: int | None = None,
) -> ImageSpec:
    kind, scaling, limits, palette_path, one_hot = (
        getattr(data, f"{side}_{field}") for field in ("kind", "scaling", "range", "palette", "one_hot")
    )
    palette: Sequence[tuple[int, ...]] = ()
    names: tuple[str, ...] = ()
    spread = np.unique(np.linspace(0, len(refs) - 1, min(len(refs), MEASURED_PAIRS)).round().astype(int))
    try:
        if palette_path is not None:
            palette, names = images.read_palette(palette_path)
        elif kind == "labels":
            colours = colours_of(refs, data, at_most=MAX_CLASSES, lossless=False)
            if colours is None and (lossy := _first_lossy(refs)) is not None:
                raise ImageError(
                    "The label maps are JPEG or another lossy format "
                    f"({lossy.ref.path.name}), whose compression "
                    f"made more than {MAX_CLASSES} colours of them; with --data.{side}-palette FILE, "
                    "one class a line, each pixel snaps to the nearest; best are files that were never JPEG."
                )
            if colours is None:
                raise ImageError(
                    f"The label maps hold more than {MAX_CLASSES} colours, or values that are no classes; "
                    f"give data.{side}_palette, a file with one class a line, to which the pixels snap."
                )
            palette = sorted(colours)
        elif kind == "auto" and scaling in ("auto", "full"):
            colours = colours_of(refs, data, at_most=AUTO_LABEL_COLOURS, lossless=True)
            palette = sorted(colours) if colours and len(colours) > 1 else ()
        spec = measure_spec(
            _alike([refs[i] for i in spread], data, channels),
            kind=kind,
            scaling=scaling,
            limits=limits,
            palette=palette,
            palette_names=names,
            one_hot=one_hot,
        )
    except ImageError as error:
        raise DataError(f"The {side} images (data.{side}_*): {error}") from error
    part = refs[0].ref.part
    names_of_channels = images.channel_names(refs[0].file, part) if spec.kind != "labels" else ()
    spec = replace(
        spec,
        alpha="keep" if keeps_alpha(data.alpha, spec.dtype) else "white",
        page_axis=data.pages,
        names=names_of_channels if len(names_of_channels) == spec.channels else (),
        chosen=part.select,
        slice_axis=part.axis,
        neighbours=part.neighbours,
    )
    if palette_path is not None:
        _check_palette(palette_path, [refs[i] for i in spread], spec, side)
    return spec


def _first_lossy(refs: Sequence[Counting]) -> Counting | None:
    return next((ref for ref in evenly(refs, NOTED_IMAGES) if not images.is_lossless(ref.file)), None)


def _check_palette(path: str, refs: Sequence[Counting], spec: ImageSpec, side: str) -> None:
    distance = _mean_of(images.palette_distance, refs, spec)
    if distance > PALETTE_DISTANCE * WHITE[spec.dtype] * math.sqrt(spec.channels):
        raise DataError(
            f"data.{side}_palette: {path} does not match the {side} images: their pixels lie {distance:.1f} "
            "file values on average from the nearest of its colours; give the palette that they were drawn "
            "with, or none."
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """What the files of a side lose as they become tensors, as a sentence."""

    sentence: str
    much: bool
    """So much that a setting is probably wrong; the sentence then names it."""


def measure_losses(pairs: Sequence[Pair], source_spec: ImageSpec, target_spec: ImageSpec) -> list[Loss]:
    """Colours that snap to the palette and values that are clipped, where there are any.

    Means over at most `NOTED_IMAGES` of the pairs, evenly chosen.

    Raises:
        DataError: A file does not suit its spec.
        ImageError: A file cannot be read.
    """
    losses = []
    for side, spec in _read_sides(pairs, source_spec, target_spec):
        refs = SideOf(pairs, side)
        if spec.kind == "labels":
            lost = _mean_of(images.palette_distance, refs, spec)
            sentence = f"The {side}'s pixels lie {lost:.4g} file values on average from their palette colour"
            much, hint = lost > 0.03 * WHITE[spec.dtype], f"is data.{side}_palette the right one?"
            if lost == 0 and (lossy := _first_lossy(refs)) is not None:  # the palette was measured on them
                sentence = (
                    f"The {side}'s label maps are JPEG or another lossy format ({lossy.ref.path.name}), so "
                    f"that some of their {len(spec.palette)} classes were probably made by compression"
                )
                losses.append(Loss(f"{sentence}; --data.{side}-palette FILE snaps to the nearest.", True))
        else:
            lost = 0.0 if spec.scaling == "full" else _mean_of(images.clipped_share, refs, spec)
            sentence = f"{100 * lost:.3g} % of the {side}'s values lie outside its range and are clipped"
            much, hint = lost > 0.02, f"see data.{side}_scaling and data.{side}_range."
        if lost > 0:
            losses.append(Loss(f"{sentence}; {hint}" if much else f"{sentence}.", much))
    return losses


def _read_sides(
    pairs: Sequence[Pair], source_spec: ImageSpec, target_spec: ImageSpec
) -> list[tuple[Literal["source", "target"], ImageSpec]]:
    """The sides that are files: both, or of a single photo the one that it is the target."""
    single = any(pair.source == pair.target for pair in evenly(pairs, NOTED_IMAGES))
    return [("target", target_spec)] if single else [("source", source_spec), ("target", target_spec)]


def alpha_notes(pairs: Sequence[Pair], source_spec: ImageSpec, target_spec: ImageSpec) -> list[str]:
    """A sentence for each side that loses an alpha channel which is not opaque, as far as a few images tell.

    Raises:
        ImageError: A file cannot be read.
    """
    notes = []
    for side, spec in _read_sides(pairs, source_spec, target_spec):
        refs: list[ImageRef] = [getattr(pair, side) for pair in evenly(pairs, NOTED_IMAGES)]
        flattened = sum(_is_flattened(ref, spec) for ref in refs)
        if flattened:
            notes.append(
                f"The {side}'s alpha channel is laid over white, which changes pixels in {flattened} of "
                f"{len(refs)} images; data.alpha=keep makes it a channel."
            )
    return notes


def _is_flattened(ref: ImageRef, spec: ImageSpec) -> bool:
    if spec.alpha == "keep" or not images.has_alpha(ref.file):
        return False
    white, kept = ref.read(spec), ref.read(replace(spec, alpha="keep"))
    return not np.array_equal(white, kept[..., : white.shape[2]])


def spec_notes(pairs: Sequence[Pair], source_spec: ImageSpec, target_spec: ImageSpec) -> list[str]:
    """What the files lose as they become tensors: sentences of `alpha_notes`, `measure_losses`, `mask_notes`.

    Raises:
        DataError: A file does not suit its spec, or a mask its pair.
        ImageError: A file cannot be read.
    """
    return [
        *alpha_notes(pairs, source_spec, target_spec),
        *(loss.sentence for loss in measure_losses(pairs, source_spec, target_spec)),
        *mask_notes(pairs, source_spec, target_spec),
    ]


def _mean_of(figure: Callable[[Array, ImageSpec], float], refs: Sequence[Counting], spec: ImageSpec) -> float:
    figures = []
    for ref in evenly(refs, NOTED_IMAGES):
        array = ref.read(spec)
        try:
            figures.append(figure(array, spec))
        except ImageError as error:
            raise DataError(f"{ref}: {error}") from error
    return float(np.mean(figures))


def _alike(refs: Sequence[Counting], data: DataConfig, channels: int | None) -> Iterator[Array]:
    """Read one after the other; all must have the channels and the type of the first.

    Of photos that pairs are derived from, grey ones count as RGB: if `channels` is 3, or one of them is.
    """
    if data.derive != "none" and channels is None:
        channels = 3 if any(ref.read(data).shape[2] == 3 for ref in refs) else 1
    first: tuple[Counting, str] | None = None
    for ref in refs:
        array = as_photo(ref.read(data), channels or 1)
        found = ref, described(array.shape[2], array.dtype.name)
        first = first or found
        if found[1] != first[1]:
            transparency = images.has_alpha(ref.file) != images.has_alpha(first[0].file)
            hint = "; data.alpha=white takes their alpha channels away" if transparency else ""
            raise DataError(
                f"{ref} has {found[1]}, but {first[0]} has {first[1]}; all images of one side must have the "
                f"same{hint}."
            )
        yield array


def colours_of(
    refs: Sequence[Counting], data: DataConfig, *, at_most: int, lossless: bool
) -> set[tuple[int, ...]] | None:
    """All colours of the files; None when there are too many, or a file that must be lossless is not."""
    if isinstance(refs, SideOf) and isinstance(refs.pairs, StoredPairs):
        known = refs.pairs.colours(refs.side, data)
        if known is not None:
            return known.within(at_most=at_most, lossless=lossless)
    colours: set[tuple[int, ...]] = set()
    for ref in refs:
        if lossless and not images.is_lossless(ref.file):
            return None
        array = ref.read(data)
        # Only the first pixel of each run is counted: label maps have few runs, and sorting is what costs.
        pixels = array.reshape(-1, array.shape[2])
        changes = 1 + np.flatnonzero((pixels[1:] != pixels[:-1]).any(axis=1))
        found = distinct_colours(pixels[None, np.concatenate(([0], changes))], at_most=at_most)
        if found is None or len(colours | found) > at_most:
            return None
        colours |= found
    return colours
