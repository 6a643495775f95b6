"""Which class was taken for which: confusion matrices, the paper's three figures, and their intervals.

A matrix counts pixels: its rows are the true classes, its columns the predicted ones, and one last column
holds the pixels that were predicted to be none of the classes. Matrices of single images add up to the
matrix of a data set, and figures are of that sum, never averaged over images.

Source: Section 4.1 of the paper, and the authors' scripts/eval_cityscapes/evaluate.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pairloom import images
from pairloom.evaluation.metrics import Interval

Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]
MEASURES = {
    "pixel_accuracy": "pixel accuracy",
    "class_accuracy": "class accuracy",
    "class_iou": "class IoU",
}
"""The three figures of the paper's tables: their names in files, and for people."""
RESAMPLES = 10_000


def left_out(truth: npt.NDArray[Any], valid: Tensor | None) -> npt.NDArray[Any]:
    """The true classes with -1, which is none, where pixels do not count.

    Shapes: truth (H, W); valid (1, h, w), of any size; None: all count -> (H, W).
    """
    if valid is None:
        return truth
    counts = images.resize(valid, (truth.shape[0], truth.shape[1]), labels=True)[0].numpy() > 0
    return np.where(counts, truth, -1)


def confusion_matrix(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, classes: int, ignored: int | None = None
) -> Counts:
    """Count the pixels of one image by true and by predicted class.

    Pixels whose truth is `ignored`, or none of the classes (255 for "void"), are left out. A predicted index
    that is none of the classes counts as wrong: it has a column of its own, the last.

    Deviation: the authors' script adds such a prediction to the next row of its histogram, where it counts as
    a pixel of another class, and drops the whole image when that row is the last but one.
    Shapes: predicted, truth (H, W) -> (classes, classes + 1); rows are the truth.

    Raises:
        ValueError: The two shapes differ, or the values are no integers.
    """
    ours, true = np.asarray(predicted), np.asarray(truth)
    if ours.shape != true.shape:
        raise ValueError(
            f"The prediction has shape {ours.shape} and the labels {true.shape}; bring the prediction to the "
            "size of the labels, never the labels to another."
        )
    for name, values in (("prediction", ours), ("labels", true)):
        if values.dtype.kind not in "iub":
            raise ValueError(f"The {name} hold {values.dtype.name} values; class indices are integers.")
    ours, true = ours.astype(np.int64).ravel(), true.astype(np.int64).ravel()
    counted = (true >= 0) & (true < classes)
    if ignored is not None:
        counted &= true != ignored
    ours, true = ours[counted], true[counted]
    ours = np.where((ours >= 0) & (ours < classes), ours, classes)
    cells = np.bincount(true * (classes + 1) + ours, minlength=classes * (classes + 1))
    return cells.reshape(classes, classes + 1).astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The figures of one matrix, each from 0 to 1; NaN where there is nothing to divide by."""

    pixel_accuracy: float
    """Share of the pixels whose class is right."""
    class_accuracy: float
    """Mean over classes of their recall."""
    class_iou: float
    """Mean over classes of their intersection over union."""
    recall: tuple[float, ...]
    """Of each class: the share of its pixels that were predicted to be of it; NaN: not in the truth."""
    iou: tuple[float, ...]
    """Of each class: right / (true + predicted - right) pixels; NaN: not in the truth."""
    share: tuple[float, ...]
    """Of each class: its part of the pixels."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is None."""
        values: dict[str, Any] = plain(self)
        return values


def plain(value: Any) -> Any:
    """Records, tuples and dicts as JSON has them; what is not finite is None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scores(matrix: npt.ArrayLike, classes: Sequence[int] | None = None) -> Scores:
    """The figures of a data set's matrix.

    pixel accuracy = sum of the diagonal / sum; class accuracy = mean of diagonal / row; class IoU = mean of
    diagonal / (row + column - diagonal).

    Deviation: classes that are absent from the truth are left out of both means; the authors' script counts
    them as 0, so that its figures fall when a data set lacks a class.

    Args:
        matrix: Rows are the truth; a last column for "none of the classes" may be there or not.
        classes: Only these; the pixels of the others count as if their class were ignored. None: all.

    Shapes: matrix (K, K) or (K, K + 1).
    """
    right, row, column = _sums(_only(np.asarray(matrix)[None], classes))[0]
    pixel, accuracy, iou = _measures(right[None], row[None], column[None])
    return Scores(
        pixel_accuracy=float(pixel[0]),
        class_accuracy=float(accuracy[0]),
        class_iou=float(iou[0]),
        recall=tuple(_ratio(right, row).tolist()),
        iou=tuple(np.where(row > 0, _ratio(right, row + column - right), math.nan).tolist()),
        share=tuple(_ratio(row, np.full_like(row, row.sum())).tolist()),
    )


def resampled(
    matrices: npt.ArrayLike,
    *,
    classes: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figures]:
    """The three figures of data sets drawn from these images with replacement.

    The draws depend only on the number of images and the seed: figures of two predictions of the same images
    can be compared draw by draw.

    Shapes: matrices (N, K, K) or (N, K, K + 1) -> (resamples,) each.
    """
    count = len(np.asarray(matrices))
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return weighted(matrices, times.astype(np.float64), classes=classes)


def weighted(
    matrices: npt.ArrayLike, weights: Figures, *, classes: Sequence[int] | None = None
) -> dict[str, Figures]:
    """The three figures of data sets that hold each image so many times.

    Shapes: matrices (N, K, K) or (N, K, K + 1), weights (R, N) -> (R,) each.
    """
    # A data set's sums are linear in how often each image is drawn: one product instead of many matrices.
    sums = _sums(_only(np.asarray(matrices), classes))
    drawn = (weights @ sums.reshape(len(sums), -1)).reshape(len(weights), 3, -1)
    return dict(zip(MEASURES, _measures(drawn[:, 0], drawn[:, 1], drawn[:, 2]), strict=True))


def bootstrap_scores(
    matrices: npt.ArrayLike,
    *,
    classes: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """The figures of the whole data set with their 95 % intervals: images are drawn, their matrices added.

    `Interval.mean` is the figure of the sum of all matrices, which is no mean over images.

    Source: Efron and Tibshirani 1993, section 13.3 (percentile interval).
    Shapes: matrices (N, K, K) or (N, K, K + 1), N from 1.

    Raises:
        ValueError: There are no matrices.
    """
    given = np.asarray(matrices)
    if given.ndim != 3 or not len(given):
        raise ValueError(f"The matrices have shape {given.shape}; expected (N, K, K + 1) with N from 1.")
    whole = scores(given.sum(axis=0), classes)
    draws = resampled(given, classes=classes, resamples=resamples, seed=seed)
    return {name: interval(getattr(whole, name), draws[name], len(given)) for name in MEASURES}


def interval(figure: float, draws: Figures, count: int) -> Interval:
    """A figure of `count` images with the middle 95 % of its draws; those not finite are left out."""
    finite = draws[np.isfinite(draws)]
    if not len(finite) or not math.isfinite(figure):
        return Interval(mean=math.nan, low=math.nan, high=math.nan, count=count)
    low, high = np.quantile(finite, [0.025, 0.975]).tolist()
    return Interval(mean=figure, low=low, high=high, count=count)


def _sums(matrices: npt.NDArray[Any]) -> Figures:
    """(N, K, K or K + 1) -> (N, 3, K): right pixels, true pixels and predicted pixels of each class."""
    square = matrices[:, :, : matrices.shape[1]]
    right = np.diagonal(square, axis1=1, axis2=2)
    return np.stack([right, matrices.sum(axis=2), square.sum(axis=1)], axis=1).astype(np.float64)


def _only(matrices: npt.NDArray[Any], classes: Sequence[int] | None) -> npt.NDArray[Any]:
    """The matrices without the pixels of other true classes."""
    if classes is None:
        return matrices
    kept = np.isin(np.arange(matrices.shape[1]), list(classes))
    only: npt.NDArray[Any] = matrices * kept[:, None]
    return only


def _measures(right: Figures, row: Figures, column: Figures) -> tuple[Figures, Figures, Figures]:
    """Shapes: right, row, column (R, K) -> (R,) each."""
    present = (row > 0).sum(axis=1)
    recall = np.nan_to_num(_ratio(right, row)).sum(axis=1)
    iou = np.where(row > 0, np.nan_to_num(_ratio(right, row + column - right)), 0.0).sum(axis=1)
    return _ratio(right.sum(axis=1), row.sum(axis=1)), _ratio(recall, present), _ratio(iou, present)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Figures:
    """The ratio; NaN where the whole is 0."""
    ratio: Figures = np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)
    return ratio
