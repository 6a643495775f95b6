"""The scores of a study: figures of a whole test set, from what each of its images adds.

Every figure can be had of any resample of the images, as it is made of sums over them: so intervals and
differences need the images only once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pairloom.evaluation.colour import RANGES
from pairloom.evaluation.confusion import MEASURES, weighted
from pairloom.evaluation.diversity import GREY_LEVEL

Arrays = Mapping[str, npt.NDArray[Any]]
"""What each of N test images adds, by name: l1, psnr, ssim, samples (N,); detail, variety (N, 2);
lab_outputs, lab_targets (N, 540); confusion (N, K, K + 1). What the images do not allow is absent."""
Figures = npt.NDArray[np.float64]
LACKS = {
    "confusion": "there are no labels to score by, or no segmenter that reads them",
    "lab_outputs": "the targets are not in colour",
    "detail": "the images are too small for a spectrum",
}
"""Why an array is absent, for people."""
LEAST_SPREAD = 1.0
"""Lab units. Targets that spread less are grey but for rounding: nothing can be as colourful as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One figure of a model's outputs over a test set."""

    name: str
    title: str
    """For people."""
    better: Literal["higher", "lower", "near 0", "near 1", ""]
    """Which outputs are the better ones; empty: neither."""
    digits: int
    """Decimals that mean something."""
    needs: tuple[str, ...]
    """The arrays that it is made of."""
    figure: Callable[[Arrays, Figures], Figures]
    """Of test sets that hold each image so many times: weights (R, N) -> (R,); NaN: it has none."""
    unit: str = ""

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def lacks(self, arrays: Arrays) -> str:
        """Why it cannot be had from these arrays; empty where it can."""
        absent = [name for name in self.needs if name not in arrays]
        return LACKS.get(absent[0], f"{absent[0]} was not recorded") if absent else ""

    def of(self, arrays: Arrays) -> float:
        """The figure of the test set itself; NaN where there is none."""
        if self.lacks(arrays):
            return float("nan")
        return float(self.figure(arrays, np.ones((1, images(self, arrays))))[0])


def images(score: Score, arrays: Arrays) -> int:
    """How many there are of."""
    return len(arrays[score.needs[0]])


def available(arrays: Arrays) -> list[Score]:
    """The scores that these arrays give a finite figure of."""
    return [score for score in SCORES.values() if np.isfinite(score.of(arrays))]


# ------------------------------------------------------------------------------------------------------------
# Figures: arrays and weights (R, N) -> (R,)


def _by_class(arrays: Arrays, weights: Figures, *, measure: str) -> Figures:
    return weighted(arrays["confusion"], weights)[measure]


def _mean_of(arrays: Arrays, weights: Figures, *, name: str) -> Figures:
    return _mean(arrays[name], weights)


def _fine_detail(arrays: Arrays, weights: Figures) -> Figures:
    return _mean(arrays["detail"][:, 0] - arrays["detail"][:, 1], weights)


def _variety(arrays: Arrays, weights: Figures) -> Figures:
    outputs, targets = (weights @ arrays["variety"]).T
    return _ratio(outputs, targets)


def _sample_distance(arrays: Arrays, weights: Figures) -> Figures:
    return _mean(arrays["samples"], weights) / GREY_LEVEL


def _sample_share(arrays: Arrays, weights: Figures) -> Figures:
    return _ratio(weights @ arrays["samples"], weights @ arrays["variety"][:, 1])


def _intersection(arrays: Arrays, weights: Figures, *, channels: str) -> Figures:
    """Sum of min(p, q) over the bins of the pooled histograms, mean over the channels.

    Source: Figure 7 (d).
    """
    outputs, targets = (weights @ arrays[name] for name in ("lab_outputs", "lab_targets"))
    shared = [np.minimum(_shares(outputs, c), _shares(targets, c)).sum(axis=1) for c in channels]
    figures: Figures = np.mean(shared, axis=0)
    return figures


def _colour_spread(arrays: Arrays, weights: Figures) -> Figures:
    outputs, targets = (_spread(weights @ arrays[name]) for name in ("lab_outputs", "lab_targets"))
    return _ratio(outputs, np.where(targets < LEAST_SPREAD, 0.0, targets))


def _spread(counts: Figures) -> Figures:
    """Standard deviation in the plane of a and b: sqrt(var a + var b). Shapes: (R, 540) -> (R,)."""
    variance = np.zeros(len(counts))
    for channel in "ab":
        low, high = RANGES[channel]
        middles, shares = np.arange(low, high) + 0.5, _shares(counts, channel)
        variance += shares @ middles**2 - (shares @ middles) ** 2
    return np.sqrt(variance.clip(min=0))  # type: ignore[no-any-return]


def _shares(counts: Figures, channel: str) -> Figures:
    """Of the pixels, in each bin of L, a or b. Shapes: (R, 540) -> (R, bins of the channel)."""
    part = counts[:, _BINS[channel]]
    shares: Figures = part / part.sum(axis=1, keepdims=True)
    return shares


_ENDS = [0, *accumulate(high - low for low, high in RANGES.values())]
_BINS = {channel: slice(*ends) for channel, ends in zip(RANGES, pairwise(_ENDS), strict=True)}


def _mean(values: npt.NDArray[Any], weights: Figures) -> Figures:
    """The mean over the images; those without a finite value (too small, or an exact copy) are left out."""
    finite = np.isfinite(values)
    return _ratio(weights @ np.where(finite, values, 0.0), weights @ finite.astype(np.float64))


def _ratio(part: Figures, whole: Figures) -> Figures:
    """NaN where the whole is 0."""
    ratio: Figures = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


# ------------------------------------------------------------------------------------------------------------
# All of them, in the order of the tables


def _classes() -> list[Score]:
    return [
        Score(
            name=name,
            title=title,
            better="higher",
            digits=3,
            needs=("confusion",),
            figure=functools.partial(_by_class, measure=name),
        )
        for name, title in MEASURES.items()
    ]


def _pixels() -> list[Score]:
    def score(
        name: str, title: str, better: Literal["higher", "lower"], digits: int = 3, unit: str = ""
    ) -> Score:
        figure = functools.partial(_mean_of, name=name)
        return Score(
            name=name, title=title, better=better, digits=digits, needs=(name,), figure=figure, unit=unit
        )

    return [
        score("l1", "L1", "lower"),
        score("psnr", "PSNR", "higher", 2, "dB"),
        score("ssim", "SSIM", "higher"),
    ]


def _colours() -> list[Score]:
    needs = ("lab_outputs", "lab_targets")
    kinds = {"L": "L", "a": "a", "b": "b", "ab": "a,b"}
    intersections = [
        Score(
            name=f"{channels}_intersection",
            title=f"{title} intersection",
            better="higher",
            digits=3,
            needs=needs,
            figure=functools.partial(_intersection, channels=channels),
        )
        for channels, title in kinds.items()
    ]
    spread = Score(
        name="colour_spread",
        title="colour spread",
        better="near 1",
        digits=2,
        needs=needs,
        figure=_colour_spread,
    )
    return [*intersections, spread]


def _looks() -> list[Score]:
    return [
        Score(
            name="fine_detail",
            title="fine detail",
            better="near 0",
            digits=1,
            needs=("detail",),
            figure=_fine_detail,
            unit="dB",
        ),
        Score(
            name="variety",
            title="variety",
            better="near 1",
            digits=2,
            needs=("variety",),
            figure=_variety,
        ),
        Score(
            name="sample_distance",
            title="sample distance",
            better="",
            digits=2,
            needs=("samples",),
            figure=_sample_distance,
            unit="grey levels",
        ),
        Score(
            name="sample_share",
            title="sample share",
            better="",
            digits=3,
            needs=("samples", "variety"),
            figure=_sample_share,
        ),
    ]


SCORES: dict[str, Score] = {s.name: s for s in (*_classes(), *_pixels(), *_colours(), *_looks())}
"""By name.

Pixel accuracy, class accuracy and class IoU are of the pooled confusion matrix (Section 4.1). L1, PSNR and
SSIM are means over the images. The intersections and the colour spread are of the pooled Lab histograms
(Figure 7); the spread is the outputs' in a and b over the targets', 1 as colourful as real. Fine detail is
the outputs' power above 1/4 cycles/px over the targets', 0 as sharp as real. Variety is how far outputs of
different sources lie apart, over how far their targets do: near 0 for a G that ignores its source. The
sample distance is how far two outputs of one source lie apart, with another z; the sample share is the same
over how far different targets do.
"""
