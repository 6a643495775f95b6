"""What a figure of a few seeds and some test images is worth: 95 % intervals over both.

Another seed gives another model, other test images another figure of it. What one wants to say is of other
seeds and images too, so the variances of both add up. Three seeds are too few for a percentile bootstrap: of
three numbers it can draw ten samples only, and its interval covers far less than it says. So the interval is
Student's t, with degrees of freedom after Welch and Satterthwaite. In simulations it covers 94 to 99 % with
three seeds, and 92 % at worst, where the seeds matter a few times as much as the images; with two, 88 %.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from pairloom.ablation.scores import Arrays, Figures, Score, images

LEVEL = 0.95
RESAMPLES = 1000
"""Of the images: their variance, which is all that is taken of them, is then known to about 5 %."""
Part = tuple[float, int]
"""A variance and its degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, or a difference of two, with its 95 % interval."""

    mean: float
    """Over the seeds, of the figure of the whole test set; NaN: there is none."""
    low: float
    high: float
    """NaN: neither seeds nor images to tell the interval from."""
    seeds: int
    """Of a difference, of the side with fewer. 1: the interval is over images alone, and says nothing of how
    another seed would do. 0: nothing was trained."""
    images: int

    @property
    def is_finite(self) -> bool:
        """Is there a figure?"""
        return math.isfinite(self.mean)

    def words(self, digits: int, *, sign: Literal["", "+"] = "") -> str:
        """`mean [low, high]`, the mean alone, or a dash."""
        if not self.is_finite:
            return "-"
        mean, low, high = (f"{v:{sign}z.{digits}f}" for v in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if math.isfinite(self.low) else mean


NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 0)


def estimate(score: Score, runs: Sequence[Arrays]) -> Estimate:
    """The score of a variant: of one trained model a seed, all on the same test images.

    SE^2 = s^2 / S + the variance over resampled images of the mean over seeds, where s^2 is the variance of
    the S seeds' figures. What is of a seed and an image together is in both: the interval is rather too wide.

    Source: Satterthwaite 1946, for the degrees of freedom; S - 1 and N - 1 are those of the two parts.
    """
    if not _has_all(score, runs):
        return NOTHING
    side = _Side(score, runs)
    return _estimate(
        side.mean, [*side.of_seeds, *_of_images(side.draws, side.images)], len(runs), side.images
    )


def difference(score: Score, a: Sequence[Arrays], b: Sequence[Arrays]) -> Estimate:
    """The score of a variant minus another's.

    Their seeds are independent; the images are the same ones, and drawn for both together.

    Source: Welch 1947, for two variances that differ.
    """
    if not _has_all(score, a) or not _has_all(score, b):
        return NOTHING
    one, other = _Side(score, a), _Side(score, b)
    assert one.images == other.images, (one.images, other.images)
    parts = [
        *one.of_seeds,
        *other.of_seeds,
        *_of_images(one.draws - other.draws, one.images),
    ]
    return _estimate(one.mean - other.mean, parts, min(len(a), len(b)), one.images)


def _has_all(score: Score, runs: Sequence[Arrays]) -> bool:
    return bool(runs) and not any(score.lacks(arrays) for arrays in runs)


class _Side:
    """The figures of one variant."""

    def __init__(self, score: Score, runs: Sequence[Arrays]) -> None:
        self.images = images(score, runs[0])
        drawn = np.stack([score.figure(arrays, _weights(self.images)) for arrays in runs])
        seeds = drawn[:, 0]
        self.mean = float(seeds.mean())
        self.draws: Figures = drawn[:, 1:].mean(axis=0)
        self.of_seeds: list[Part] = []
        if len(seeds) > 1:
            self.of_seeds = [(float(seeds.var(ddof=1)) / len(seeds), len(seeds) - 1)]


@functools.lru_cache(maxsize=2)
def _weights(count: int) -> Figures:
    """How often each image is drawn: once, then in each resample. Shapes: -> (1 + RESAMPLES, count)."""
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), times])


def _of_images(draws: Figures, count: int) -> list[Part]:
    """The part of the images; none where there is only one of them."""
    draws = draws[np.isfinite(draws)]
    if count < 2 or len(draws) < 2:
        return []
    # A bootstrap's variance is that of the N images themselves: too small by (N - 1) / N.
    return [(float(draws.var(ddof=1)) * count / (count - 1), count - 1)]


def _estimate(mean: float, parts: Sequence[Part], seeds: int, count: int) -> Estimate:
    if not math.isfinite(mean):
        return Estimate(math.nan, math.nan, math.nan, seeds, count)
    if not parts:
        return Estimate(mean, math.nan, math.nan, seeds, count)
    variance = sum(v for v, _ in parts)
    half = 0.0
    if variance > 0:
        freedom = 1 / sum((v / variance) ** 2 / degrees for v, degrees in parts)
        half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, seeds, count)
