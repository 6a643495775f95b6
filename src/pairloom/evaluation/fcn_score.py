"""FCN-score: can a segmenter that knows real photos recognise in a generated photo what it was made from?

The figure of generated photos means little by itself: it is bounded by what the segmenter can do on the real
photos of the same split (the ceiling), and a picture that shows nothing of the labels (the floor, here the
mean training photo) does not score 0. So all three are measured, on the same images.

Source: Section 4.1 of the paper. For photo -> labels there is no segmenter: the predicted labels are counted
as they are (Table 6).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pairloom.evaluation.confusion import (
    MEASURES,
    RESAMPLES,
    Counts,
    Scores,
    bootstrap_scores,
    confusion_matrix,
    interval,
    plain,
    resampled,
    scores,
)
from pairloom.evaluation.metrics import Interval
from pairloom.evaluation.segmenter import (
    ClassMap,
    Photo,
    PixelClassifier,
    SegmenterError,
    class_names,
)
from pairloom.evaluation.summary import aligned

Triple = tuple[Photo, Photo, npt.NDArray[Any]]
"""A generated photo, the real one, and the label map (H, W) as class indices, at its own size.

The real photo must have lost what the generated one never had: where the generator works at 128 px and the
segmenter learned at 256, both are enlarged from 128. Else the ceiling is one of resolution.
"""
WHO = {"generated": "generated", "ceiling": "real photos", "floor": "mean photo"}
"""Whose photos were segmented: names in files, and for people."""
KNOWN_RECALL = 0.3
"""A class that the segmenter finds less of on real photos says nothing of generated ones."""
FEW = 20
"""With fewer images the words say that a bootstrap interval is rough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The figures of one kind of photo, with the 95 % intervals of the three that the paper reports."""

    scores: Scores
    intervals: dict[str, Interval]


@dataclass(frozen=True, kw_only=True, slots=True)
class FcnScore:
    """The FCN-score of a split, between its floor and its ceiling."""

    images: int
    segmenter: str
    """In words."""
    classes: tuple[str, ...]
    ignored: int | None
    generated: Measured
    ceiling: Measured
    """Of the real photos."""
    floor: Measured
    """Of the mean training photo."""
    reported: tuple[str, ...]
    """The measures whose ceiling lies clear of their floor; of the others, figures say nothing."""
    known: tuple[int, ...]
    """Classes of which the segmenter finds at least `KNOWN_RECALL` on real photos."""
    unknown: tuple[int, ...]
    """Classes of the truth that it does not know so well; the skill leaves their pixels out."""
    skill: dict[str, Interval]
    """Of the reported measures, over the known classes: (generated - floor) / (ceiling - floor); 0 is a
    picture of nothing, 1 as good as real."""
    remarks: tuple[str, ...] = ()
    """What a reader must know to read the figures, as sentences."""

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict for JSON; what is not finite is None, and so are the figures not reported."""
        values: dict[str, Any] = {"version": 1, **plain(self)}
        for name in MEASURES:
            if name not in self.reported:
                values["generated"]["intervals"][name] = None
                values["generated"]["scores"][name] = None
        if not self.reported:
            values["generated"]["scores"] = None
        return values

    def words(self) -> str:
        """The three figures, the classes, and the remarks, as aligned plain text."""
        head = f"FCN-score by {self.segmenter}, {plural(self.images, 'image')} [95 % interval]"
        table = [["", *WHO.values(), "skill"]]
        for name, title in MEASURES.items():
            shown = name in self.reported
            row = [
                figure_words(m.intervals[name]) if shown or who != "generated" else "not reported"
                for who, m in zip(WHO, (self.generated, self.ceiling, self.floor), strict=True)
            ]
            table.append([title, *row, figure_words(self.skill[name], 2) if name in self.skill else "-"])
        lines = [head, "", *aligned(table), ""]
        columns = {"real photos": self.ceiling}
        if self.reported:
            columns = {"generated": self.generated, **columns}
        lines += class_table(self.classes, {who: m.scores for who, m in columns.items()})
        return "\n".join([*lines, "", *self.remarks]).rstrip() + "\n"


class FcnScorer:
    """Counts image after image; `result` makes the score. Memory: three matrices an image."""

    def __init__(self, segmenter: PixelClassifier, mean_photo: Photo) -> None:
        """Begin a score.

        Args:
            segmenter: Judges.
            mean_photo: The mean of the training photos, (C, H, W) in [-1, 1] or (H, W, C) file values.
        """
        self.segmenter = segmenter
        self._mean_photo = mean_photo
        self._floor: dict[tuple[int, int], ClassMap] = {}
        self._matrices: dict[str, list[Counts]] = {who: [] for who in WHO}

    def add(self, generated: Photo, real: Photo, truth: npt.NDArray[Any]) -> None:
        """Judge one image.

        Shapes: generated, real: (H, W, C) file values or (C, H, W) in [-1, 1]; truth (H', W') class indices,
            at the label map's own size: the answers are brought to it, never the labels to theirs.

        Raises:
            ImageError: A photo is not of the kind that the segmenter takes.
            ValueError: The truth is no map of class indices.
        """
        if truth.ndim != 2:
            raise SegmenterError(
                f"The label map has shape {truth.shape}; it must be (height, width) class indices."
            )
        size = (truth.shape[0], truth.shape[1])
        if size not in self._floor:
            self._floor[size] = self.segmenter.predict(self._mean_photo, size)
        predictions = (
            self.segmenter.predict(generated, size),
            self.segmenter.predict(real, size),
            self._floor[size],
        )
        count = len(self.segmenter.label_spec.palette)
        for matrices, predicted in zip(self._matrices.values(), predictions, strict=True):
            matrices.append(confusion_matrix(predicted, truth, count, self.segmenter.ignored))

    def result(self, *, resamples: int = RESAMPLES, seed: int = 0) -> FcnScore:
        """The score of all images so far.

        Args:
            resamples: Of the bootstrap.
            seed: Of the bootstrap.

        Raises:
            SegmenterError: There are none.
        """
        stacks = {who: np.array(matrices) for who, matrices in self._matrices.items()}
        count = len(stacks["ceiling"])
        if not count:
            raise SegmenterError("There are no images to score; choose a split that has pairs.")
        measured = {who: measured_with(stack, resamples, seed) for who, stack in stacks.items()}
        ceiling, floor = measured["ceiling"], measured["floor"]
        reported = tuple(
            name for name in MEASURES if ceiling.intervals[name].low > floor.intervals[name].high
        )
        present = [k for k, share in enumerate(ceiling.scores.share) if share > 0]
        known = tuple(k for k in present if ceiling.scores.recall[k] >= KNOWN_RECALL)
        unknown = tuple(k for k in present if k not in known)
        names = class_names(self.segmenter.label_spec)
        skill = _skill(stacks, known, reported, resamples, seed) if known else {}
        return FcnScore(
            images=count,
            segmenter=self.segmenter.words(),
            classes=names,
            ignored=self.segmenter.ignored,
            **measured,
            reported=reported,
            known=known,
            unknown=unknown,
            skill=skill,
            remarks=tuple(_remarks(count, measured, reported, names, known, unknown)),
        )


def fcn_score(
    segmenter: PixelClassifier,
    triples: Iterable[Triple],
    mean_photo: Photo,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FcnScore:
    """The FCN-score of generated photos, with its floor and its ceiling.

    Source: Section 4.1 of the paper.
    Deviation: the paper reports the figures of generated and of real photos, without floor and intervals.

    Args:
        segmenter: Judges.
        triples: A generated photo, the real one and the label map as class indices, of each image; read once.
        mean_photo: The mean of the training photos.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        SegmenterError: There are no images.
        ImageError: A photo is not of the kind that the segmenter takes.
    """
    scorer = FcnScorer(segmenter, mean_photo)
    for generated, real, truth in triples:
        scorer.add(generated, real, truth)
    return scorer.result(resamples=resamples, seed=seed)


def measured_with(stack: Counts, resamples: int, seed: int) -> Measured:
    """Scores and intervals of confusion matrices, one an image. Shapes: stack (N, K, K + 1)."""
    return Measured(
        scores=scores(stack.sum(axis=0)), intervals=bootstrap_scores(stack, resamples=resamples, seed=seed)
    )


def _skill(
    stacks: dict[str, Counts], known: Sequence[int], reported: Sequence[str], resamples: int, seed: int
) -> dict[str, Interval]:
    """How far the generated photos come from the floor to the ceiling, over the known classes.

    The same images are drawn for all three, so that what makes an image easy cancels.
    """
    figures = {who: scores(stack.sum(axis=0), known) for who, stack in stacks.items()}
    draws = {
        who: resampled(stack, classes=known, resamples=resamples, seed=seed) for who, stack in stacks.items()
    }
    found = {}
    for name in reported:
        g, c, f = (getattr(figures[who], name) for who in WHO)
        top, bottom = draws["ceiling"][name], draws["floor"][name]
        above = top > bottom
        ratio = (draws["generated"][name] - bottom)[above] / (top - bottom)[above]
        found[name] = interval((g - f) / (c - f) if c > f else math.nan, ratio, len(stacks["ceiling"]))
    return found


def _remarks(
    count: int,
    measured: dict[str, Measured],
    reported: Sequence[str],
    names: Sequence[str],
    known: Sequence[int],
    unknown: Sequence[int],
) -> Iterator[str]:
    blind = [name for name in MEASURES if name not in reported]
    if blind:
        pairs = "; ".join(
            f"{MEASURES[n]} {figure_words(measured['ceiling'].intervals[n])} and "
            f"{figure_words(measured['floor'].intervals[n])}"
            for n in blind
        )
        what = "No FCN-score is reported" if not reported else "Not all figures are reported"
        yield (
            f"{what}, as on real photos the segmenter does not do clearly better than on a mean photo "
            f"({pairs}): train it longer or on more photos."
        )
    if unknown:
        recall = measured["ceiling"].scores.recall
        listed = ", ".join(f"{names[k]} ({recall[k]:.2f})" for k in unknown)
        yield (
            f"On real photos the segmenter finds less than {KNOWN_RECALL} of "
            f"{plural(len(unknown), 'class')}, which the skill leaves out: {listed}."
        )
    if not known:
        yield "It knows no class well enough for a skill."
    elif reported:
        yield (
            "The skill is 0 for a picture that shows nothing of the labels and 1 for photos as readable as "
            "real ones; readable is not the same as realistic."
        )
    if count < FEW:
        yield f"With {plural(count, 'image')}, the intervals are rough, and likely too narrow."
    yield (
        "Figures of one segmenter are not comparable with those of another, nor with the paper's, which are "
        "of FCN-8s trained on Cityscapes."
    )


# ------------------------------------------------------------------------------------------------------------
# Words


def class_table(names: Sequence[str], columns: dict[str, Scores]) -> list[str]:
    """Recall and IoU of each class that is there, as lines."""
    share = next(iter(columns.values())).share
    table = [["class", "pixels", *(f"{w}: {f}" for w in columns for f in ("recall", "IoU"))]]
    for k, name in enumerate(names):
        if not share[k] > 0:
            continue
        figures = [figure_number(v) for s in columns.values() for v in (s.recall[k], s.iou[k])]
        table.append([name, f"{100 * share[k]:.1f} %", *figures])
    return aligned(table)


def figure_number(value: float, digits: int = 3) -> str:
    """A share to three digits, or a dash."""
    return "-" if math.isnan(value) else f"{value:z.{digits}f}"


def figure_words(figure: Interval, digits: int = 3) -> str:
    """`mean [low, high]`, or a dash."""
    if math.isnan(figure.mean):
        return "-"
    mean, low, high = (figure_number(v, digits) for v in (figure.mean, figure.low, figure.high))
    return f"{mean} [{low}, {high}]"


def plural(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"
