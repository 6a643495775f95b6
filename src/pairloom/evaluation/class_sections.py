"""Looks at outputs by class: label maps as they are, and photos as a segmenter reads them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pairloom import images
from pairloom.config import height_width
from pairloom.data import Pair
from pairloom.evaluation.confusion import left_out
from pairloom.evaluation.fcn_score import FcnScorer
from pairloom.evaluation.label_score import LabelScorer
from pairloom.evaluation.segmenter import PixelClassifier, Segmenter
from pairloom.evaluation.summary import Section
from pairloom.images import ImageSpec
from pairloom.palette import nearest
from pairloom.translator import Translator


class Labels:
    """Predicted label maps against the true ones, by class (Table 6)."""

    def __init__(self, spec: ImageSpec) -> None:
        self._spec, self._scorer = spec, LabelScorer(spec)

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair."""
        ours, true = (images.to_array(tensor, self._spec) for tensor in (y_hat, y))
        self._scorer.add(ours, true, valid)

    def section(self) -> Section:
        """Per-pixel accuracy, per-class accuracy, class IoU."""
        found = self._scorer.result()
        return Section(title="Labels", words=found.words(), figures=found.to_dict())


class Recognised:
    """FCN-score: what a segmenter of real photos finds in the outputs (Section 4.1)."""

    def __init__(self, segmenter: PixelClassifier, mean_photo: Tensor, translator: Translator) -> None:
        self._segmenter, self._source_spec = segmenter, translator.source_spec
        self._scorer = FcnScorer(segmenter, mean_photo)
        self._distances: list[float] = []
        self._remarks = list(_another_scale(segmenter, translator))

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair; the label map is read anew, at its own size."""
        spec = self._segmenter.label_spec
        labels = pair.source.read(self._source_spec)
        truth = left_out(nearest(labels, spec.palette), valid)
        counting = labels[truth >= 0][None]
        if counting.size:
            self._distances.append(images.palette_distance(counting, spec))
        self._scorer.add(y_hat, y, truth)

    def section(self) -> Section:
        """The score between its floor and its ceiling."""
        found = self._scorer.result()
        far = sum(self._distances) / max(len(self._distances), 1)
        lines = [found.words().rstrip(), *self._remarks]
        if far > 0:
            lines.append(
                f"The labels' pixels lie {far:.3g} file values on average from their class's colour."
            )
        figures = {**found.to_dict(), "palette_distance": far}
        return Section(title="FCN-score", words="\n".join(lines), figures=figures)


def _another_scale(segmenter: PixelClassifier, translator: Translator) -> Iterator[str]:
    """A sentence when a segmenter of ours learned from photos of another size than these."""
    learned = segmenter.provenance.get("geometry") if isinstance(segmenter, Segmenter) else None
    if learned is None:
        return
    sizes = [height_width(v) for v in (learned["crop_size"], translator.config.data.crop_size)]
    if sizes[0] != sizes[1]:
        (height, width), (h, w) = sizes
        yield (
            f"The segmenter learned from photos of {width}x{height} pixels, and these are {w}x{h}: it sees "
            f"less than it could; train one with --size {w}."
        )
