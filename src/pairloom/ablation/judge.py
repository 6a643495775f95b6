"""Who judges by class: a segmenter of real photos for labels -> photo, the palette for photo -> labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data import Pair
from pairloom.evaluation.confusion import Counts, confusion_matrix, left_out
from pairloom.evaluation.foreign_segmenters import load_segmenter, nearest_map
from pairloom.evaluation.labelled_photos import LabelledPhotos
from pairloom.evaluation.segmenter import PixelClassifier, SegmenterError
from pairloom.evaluation.segmenter_training import train_segmenter
from pairloom.images import ImageSpec
from pairloom.palette import nearest


class Judge(Protocol):
    """Counts which class was taken for which in one output."""

    @property
    def identity(self) -> str:
        """Changes when its verdicts may."""

    @property
    def words(self) -> str:
        """What it is, for people."""

    def confusion(self, pair: Pair, y_hat: Tensor, spec: ImageSpec, valid: Tensor | None = None) -> Counts:
        """Judge one output, of a target's `spec`; rows are the truth.

        Shapes: y_hat (C, H, W), valid (1, H, W), which pixels count -> (K, K + 1).
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoJudge:
    """FCN-score (Section 4.1): does a segmenter see in the photo what it was made from?"""

    segmenter: PixelClassifier
    source_spec: ImageSpec
    identity: str

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"FCN-score by {self.segmenter.words()}"

    def confusion(self, pair: Pair, y_hat: Tensor, spec: ImageSpec, valid: Tensor | None = None) -> Counts:
        """Judge one photo at the label map's own size."""
        labels = self.segmenter.label_spec
        truth = nearest(pair.source.read(self.source_spec), labels.palette)
        predicted = self.segmenter.predict(y_hat, (truth.shape[0], truth.shape[1]))
        truth = left_out(truth, valid)
        return confusion_matrix(predicted, truth, len(labels.palette), self.segmenter.ignored)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelJudge:
    """Table 6: the predicted labels themselves, each pixel of the class whose colour is nearest."""

    labels: ImageSpec

    @property
    def identity(self) -> str:
        """The palette."""
        return repr(self.labels.palette)

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"predicted labels by the nearest of {len(self.labels.palette)} colours"

    def confusion(self, pair: Pair, y_hat: Tensor, spec: ImageSpec, valid: Tensor | None = None) -> Counts:
        """Count one label map at the true one's own size."""
        truth = nearest(pair.target.read(spec), self.labels.palette)
        predicted = nearest(images.to_array(y_hat, spec), self.labels.palette)
        predicted = nearest_map(predicted, (truth.shape[0], truth.shape[1]))
        return confusion_matrix(predicted, left_out(truth, valid), len(self.labels.palette))


def find_judge(
    data: DataConfig,
    source_spec: ImageSpec,
    out: Path,
    *,
    segmenter: Path | None,
    palette: Path | None,
    device: str,
    say: Callable[[str], None],
) -> Judge:
    """The judge that suits the data; for labels -> photo a segmenter, trained once and shared by all runs.

    Args:
        data: Of the study.
        source_spec: Of its sources.
        out: The study's folder; a segmenter trained here lies in OUT/segmenter.
        segmenter: Of the user's; None: trained on the real photos of the train split.
        palette: Text file with the classes, one a line.
        device: Where it runs.
        say: Takes each line for people.

    Raises:
        SegmenterError: The data have no label maps, or the segmenter is not one.
    """
    if segmenter is not None:
        return _photo_judge(segmenter, palette, source_spec, device)
    labelled = LabelledPhotos.decide(data, palette=palette)
    if labelled.photo_side == "source":
        return LabelJudge(labels=labelled.label_spec)
    file = out / "segmenter" / "segmenter.safetensors"
    if not (out / "segmenter" / "summary.json").exists():
        say("Training the segmenter that judges all runs, on the real photos.")
        train_segmenter(
            replace(data, max_pairs=None), file.parent, palette=palette, device=device, say=lambda _: None
        )
    return _photo_judge(file, None, source_spec, device)


def _photo_judge(file: Path, palette: Path | None, source_spec: ImageSpec, device: str) -> PhotoJudge:
    judge = load_segmenter(file, palette, device=device)
    if judge.label_spec.channels != source_spec.channels:
        raise SegmenterError(
            f"{file}: its classes have {judge.label_spec.channels} channels, but the label maps "
            f"{source_spec.channels}; give one that was trained on these data."
        )
    identity = hashlib.sha256(file.read_bytes()).hexdigest()
    return PhotoJudge(segmenter=judge, source_spec=source_spec, identity=identity)
