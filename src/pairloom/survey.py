"""What a set of training images holds, found in one pass and in bounded memory; and the spec that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pairloom.images import ImageSpec, Scaling
from pairloom.palette import Colours
from pairloom.pixels import WHITE, Array, ImageError, check_array, described, valid_pixels

SAMPLE_VALUES = 1 << 22
"""The sample holds at most this many values (16 MB of float32)."""
SAMPLE_PIXELS_PER_IMAGE = 1 << 16
"""... and at most this many pixels of one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What one pass over the images found."""

    channels: int
    dtype: Literal["uint8", "uint16", "float32"]
    sample: Array
    """(P, C) pixels drawn from all images, always the same ones."""
    smallest: Array
    """(C,) over every pixel."""
    largest: Array
    """(C,) over every pixel."""


def survey(arrays: Iterable[Array]) -> Survey:
    """Read the images once, one after the other.

    Args:
        arrays: (H, W, C) file values, of any sizes; pixels with NaN are left out.

    Raises:
        ImageError: The images differ in channels or dtype, there are none, or one is no image.
    """
    kind: tuple[int, str] | None = None
    smallest = largest = np.empty(0)
    sample = _Sample()
    for number, array in enumerate(arrays, start=1):
        check_array(f"Training image {number}", array, nan="keep")
        pixels = array.reshape(-1, array.shape[2])
        here = (array.shape[2], array.dtype.name)
        if kind is None:
            kind = here
        if here != kind:
            raise ImageError(
                f"The training images differ: the first has {described(*kind)}, image {number} has"
                f" {described(*here)}; convert them to the same, or train on them apart."
            )
        if array.dtype.kind == "f":
            pixels = pixels[valid_pixels(array).ravel()]
        if not len(pixels):
            continue
        if not sample.parts:
            smallest, largest = pixels[0], pixels[0]
        smallest = np.minimum(smallest, pixels.min(axis=0))
        largest = np.maximum(largest, pixels.max(axis=0))
        sample.add(pixels)
    if kind is None:
        raise ImageError("There are no training images to measure; check the path and the splits.")
    if not sample.parts:
        raise ImageError("All pixels of the training images are NaN; there is nothing to measure.")
    dtype: Any = kind[1]
    return Survey(
        channels=kind[0],
        dtype=dtype,
        sample=np.concatenate(sample.parts),
        smallest=smallest,
        largest=largest,
    )


class _Sample:
    """Pixels of all images, each image with the same share; halved whenever they become too many."""

    def __init__(self) -> None:
        self.parts: list[Array] = []
        self._values = 0
        self._halvings = 0
        self._random = np.random.default_rng(0)

    def add(self, pixels: Array) -> None:
        take = max(1, min(len(pixels), SAMPLE_PIXELS_PER_IMAGE) >> self._halvings)
        part = pixels if take == len(pixels) else pixels[self._random.integers(0, len(pixels), take)]
        self.parts.append(part)
        self._values += part.size
        if self._values > SAMPLE_VALUES:
            everything = np.concatenate(self.parts)
            self.parts = [everything[self._random.permutation(len(everything))[: len(everything) // 2]]]
            self._values = self.parts[0].size
            self._halvings += 1


# ------------------------------------------------------------------------------------------------------------
# Measuring a spec


def measure_spec(
    arrays: Iterable[Array],
    *,
    kind: Literal["auto", "intensity", "labels"] = "auto",
    scaling: Literal["auto", "full", "range", "percentile", "zscore"] = "auto",
    limits: tuple[float, float] | None = None,
    palette: Sequence[Sequence[int]] = (),
    palette_names: Sequence[str] = (),
    one_hot: bool = False,
) -> ImageSpec:
    """The spec of a set of training images, read once, one after the other.

    Args:
        arrays: (H, W, C) file values, of any sizes; a generator will do.
        kind: "auto": labels when a palette is given, else intensity.
        scaling: "auto": full for uint8, percentile for uint16 and float32. "full": 0 to the dtype's largest
            value.
        limits: range: low and high file value, for every channel; percentile: two percentiles, default (0.1,
            99.9), measured per channel; zscore: (0, k), default k = 3: mean +- k standard deviations, per
            channel.
        palette: The classes' colours; labels need one.
        palette_names: The classes' names.
        one_hot: labels enter the networks as one channel a class.

    A label map's low and high are 0 and 255 for RGB colours of 8 bits; otherwise they are the smallest and
    largest value of the palette in each channel, so that classes numbered 0 to 7 fill [-1, 1].

    Raises:
        ImageError: The images differ in channels or dtype, there are none, or the options contradict them.
    """
    colours_given: Colours = tuple(tuple(int(v) for v in colour) for colour in palette)
    _check_options(kind, scaling, limits, colours_given, one_hot)
    found = survey(arrays)
    if colours_given:
        return _labels_spec(found, colours_given, tuple(palette_names), one_hot)
    if one_hot:
        raise ImageError("one_hot is set, but the images are no label maps; give a palette or kind=labels.")
    if scaling == "auto":
        scaling = "full" if found.dtype == "uint8" else "percentile"
    low, high = _limits(found, scaling, limits)
    return ImageSpec(channels=found.channels, dtype=found.dtype, scaling=scaling, low=low, high=high)


def _check_options(
    kind: str, scaling: str, limits: tuple[float, float] | None, palette: Colours, one_hot: bool
) -> None:
    if kind == "intensity" and (palette or one_hot):
        raise ImageError(
            "A palette or one_hot is for label maps, but kind=intensity; leave them out or say kind=labels."
        )
    if kind == "labels" and not palette:
        raise ImageError("kind=labels needs a palette, with one colour a class.")
    if palette and scaling not in ("auto", "full"):
        raise ImageError(
            f"scaling={scaling} is for intensities, but the images are label maps; leave it out."
        )
    if limits is None:
        if scaling == "range":
            raise ImageError("scaling=range needs the low and the high file value.")
        return
    low, high = limits
    allowed = {
        "range": (low < high, "low and high file value, low first"),
        "percentile": (0 <= low < high <= 100, "two percentiles from 0 to 100, the lower first"),
        "zscore": (low == 0 and high > 0, "(0, k) with k, the standard deviations to each side, above 0"),
    }
    good, words = allowed.get(scaling, (False, "left out, or scaling must be range, percentile or zscore"))
    if not good or not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError(f"The limits {limits} do not fit scaling={scaling}; they must be {words}.")


def _labels_spec(found: Survey, palette: Colours, names: tuple[str, ...], one_hot: bool) -> ImageSpec:
    if found.dtype == "float32":
        raise ImageError(
            "A label map holds uint8 or uint16 values, but these are float32; save the classes as integers."
        )
    if len(palette[0]) != found.channels:
        raise ImageError(
            f"The palette's colours have {len(palette[0])} values, but the images"
            f" {described(found.channels, found.dtype)}; write one value a channel."
        )
    low = tuple(float(min(values)) for values in zip(*palette, strict=True))
    high = tuple(float(max(values)) for values in zip(*palette, strict=True))
    if (found.channels, found.dtype) == (3, "uint8"):
        low, high = (0.0,) * 3, (255.0,) * 3
    return ImageSpec(
        channels=found.channels,
        dtype=found.dtype,
        kind="labels",
        low=low,
        high=high,
        palette=palette,
        palette_names=names,
        one_hot=one_hot,
    )


def _limits(
    found: Survey, scaling: Scaling, limits: tuple[float, float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low and high of every channel."""
    sample = found.sample.astype(np.float64)
    if scaling == "full":
        if found.dtype == "float32":
            raise ImageError(
                "float32 images have no full range; say scaling=range with low and high, or percentile."
            )
        low, high = np.zeros(found.channels), np.full(found.channels, float(WHITE[found.dtype]))
    elif scaling == "range":
        assert limits is not None
        low, high = np.full(found.channels, limits[0]), np.full(found.channels, limits[1])
    elif scaling == "percentile":
        low, high = np.percentile(sample, limits or (0.1, 99.9), axis=0)
        # A channel that is nearly everywhere the same (a few bright cells on black) would lose its content.
        flat = low == high
        low, high = np.where(flat, found.smallest, low), np.where(flat, found.largest, high)
    else:
        k = limits[1] if limits else 3.0
        mean, std = sample.mean(axis=0), sample.std(axis=0)
        low, high = mean - k * std, mean + k * std
    return tuple(float(v) for v in low), tuple(float(v) for v in high)
