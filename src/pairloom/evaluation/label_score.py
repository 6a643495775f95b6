"""Predicted label maps against the true ones, class by class: photo -> labels, where no segmenter is needed.

Source: Table 6 of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import Tensor

from pairloom.evaluation.confusion import (
    MEASURES,
    RESAMPLES,
    Counts,
    Scores,
    confusion_matrix,
    left_out,
    plain,
    scores,
)
from pairloom.evaluation.fcn_score import (
    FEW,
    Measured,
    class_table,
    figure_number,
    figure_words,
    measured_with,
    plural,
)
from pairloom.evaluation.foreign_segmenters import nearest_map
from pairloom.evaluation.segmenter import (
    SegmenterError,
    class_names,
)
from pairloom.evaluation.summary import aligned
from pairloom.images import Array, ImageSpec
from pairloom.palette import nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """How well label maps were predicted (Table 6 of the paper)."""

    images: int
    classes: tuple[str, ...]
    ignored: int | None
    model: Measured
    commonest: Scores
    """What a map would score that is everywhere of the commonest class."""
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict for JSON; what is not finite is None."""
        return {"version": 1, **plain(self)}

    def words(self) -> str:
        """The three figures, the classes, and the remarks, as aligned plain text."""
        table = [["", "model", "commonest class"]]
        for name, title in MEASURES.items():
            table.append(
                [
                    title,
                    figure_words(self.model.intervals[name]),
                    figure_number(getattr(self.commonest, name)),
                ]
            )
        lines = [
            f"Predicted labels, {plural(self.images, 'image')} [95 % interval]",
            "",
            *aligned(table),
            "",
        ]
        lines += class_table(self.classes, {"model": self.model.scores})
        return "\n".join([*lines, "", *self.remarks]).rstrip() + "\n"


class LabelScorer:
    """Counts label map after label map; `result` makes the score."""

    def __init__(self, spec: ImageSpec, ignored: int | None = None) -> None:
        """Begin a score of label maps in this spec's palette, without the pixels that are `ignored`."""
        if spec.kind != "labels":
            raise SegmenterError(
                f"The spec says {spec.words()}; only label maps can be scored by class, so give a palette."
            )
        self.spec, self.ignored = spec, ignored
        self._matrices: list[Counts] = []

    def add(self, predicted: Array, truth: Array, valid: Tensor | None = None) -> None:
        """Count one label map; each pixel is of the class whose colour is nearest.

        Shapes: predicted (h, w, C), truth (H, W, C), file values; where the sizes differ, the prediction is
            brought to the truth's by nearest neighbour; valid (1, h, w): the pixels that count.

        Raises:
            SegmenterError: The channels or the dtype are not the spec's.
        """
        for name, array in (("predicted", predicted), ("true", truth)):
            if array.ndim != 3 or (array.shape[2], array.dtype.name) != (self.spec.channels, self.spec.dtype):
                raise SegmenterError(
                    f"A {name} label map has shape {array.shape} of {array.dtype.name}; it must be (height, "
                    f"width, {self.spec.channels}) of {self.spec.dtype}, in the colours of the palette."
                )
        ours, true = (nearest(array, self.spec.palette) for array in (predicted, truth))
        ours = nearest_map(ours, (true.shape[0], true.shape[1]))
        true = left_out(true, valid)
        self._matrices.append(confusion_matrix(ours, true, len(self.spec.palette), self.ignored))

    def result(self, *, resamples: int = RESAMPLES, seed: int = 0) -> LabelScore:
        """The score of all label maps so far.

        Raises:
            SegmenterError: There are none.
        """
        if not self._matrices:
            raise SegmenterError("There are no label maps to score; choose a split that has pairs.")
        stack = np.array(self._matrices)
        count = len(stack)
        pixels = stack.sum(axis=(0, 2))
        constant = np.zeros(stack.shape[1:], np.int64)
        constant[:, pixels.argmax()] = pixels
        rough = f"With {plural(count, 'image')}, the intervals are rough, and likely too narrow."
        return LabelScore(
            images=count,
            classes=class_names(self.spec),
            ignored=self.ignored,
            model=measured_with(stack, resamples, seed),
            commonest=scores(constant),
            remarks=(rough,) if count < FEW else (),
        )


def label_score(
    predicted: Iterable[Array],
    truth: Iterable[Array],
    spec: ImageSpec,
    *,
    ignored: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LabelScore:
    """The paper's three figures of predicted label maps.

    Source: Table 6 of the paper, whose mapping from colours to classes is unspecified; here the nearest
    palette colour (one-hot outputs are palette colours already, see `images.to_array`).

    Args:
        predicted: Label maps, (h, w, C) file values.
        truth: The true ones, in the same order.
        spec: The palette.
        ignored: The class whose pixels are left out.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        SegmenterError: There are none, more of one than of the other, or they do not suit the spec.
    """
    scorer = LabelScorer(spec, ignored)
    for ours, true in zip_longest(predicted, truth):
        if ours is None or true is None:
            raise SegmenterError(
                "There must be as many predicted label maps as true ones, in the same order."
            )
        scorer.add(ours, true)
    return scorer.result(resamples=resamples, seed=seed)
