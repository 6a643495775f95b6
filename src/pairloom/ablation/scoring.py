"""One trained model over the test images, at its last step: what each image adds to each score.

Saved beside the weights as scores-VARIANT.npz, with what the figures depend on, and computed anew only when
that has changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pairloom import images
from pairloom.ablation.judge import Judge
from pairloom.ablation.scores import Arrays
from pairloom.checkpoint import write_atomically
from pairloom.config import DataConfig
from pairloom.data import Pair, evaluation_view, evenly, fingerprint
from pairloom.evaluation import metrics
from pairloom.evaluation.baselines import MeanTarget, at_size
from pairloom.evaluation.colour import LabHistogram
from pairloom.evaluation.sets import COARSEST_PX
from pairloom.evaluation.spectrum import Spectrum
from pairloom.images import ImageSpec
from pairloom.translator import Translator
from pairloom.validity import filled

VERSION = 1
MEAN_OF = 500
"""Training targets that the mean target is of, at most."""


class Collector:
    """Collects what each image adds."""

    def __init__(self, spec: ImageSpec, judge: Judge | None) -> None:
        """Begin, for targets of this spec."""
        self._spec, self._judge = spec, judge
        self._columns: dict[str, list[Any]] = {}
        self._first: tuple[Tensor, Tensor] | None = None
        self._previous: tuple[Tensor, Tensor] | None = None

    def add(
        self,
        pair: Pair,
        x: Tensor,
        y: Tensor,
        y_hat: Tensor,
        again: Tensor | None,
        valid: Tensor | None = None,
    ) -> None:
        """See one image.

        Args:
            pair: Its name, and the labels that the judge compares with.
            x: The source.
            y: The target.
            y_hat: The output.
            again: Another sample of it; None: the model has no noise.
            valid: Which pixels count, (1, H, W); None: all. To what cannot leave the others out they are 0.

        Shapes: (C, H, W), in [-1, 1].
        """
        keep = self._keep
        y_hat, again = filled(y_hat, valid), None if again is None else filled(again, valid)
        where = None if valid is None else valid[None]
        keep("names", pair.name)
        for name in ("l1", "psnr", "ssim"):
            keep(name, float(getattr(metrics, name)(y_hat[None], y[None], where)))
        # Mean absolute difference of two samples of one source, on [-1, 1].
        keep("samples", 0.0 if again is None else _apart(y_hat, again))
        if self._judge is not None:
            keep("confusion", self._judge.confusion(pair, y_hat, self._spec, valid))
        if self._spec.kind != "labels" and self._spec.channels == 3:
            for name, image in (("lab_outputs", y_hat), ("lab_targets", y)):
                histogram = LabHistogram()
                histogram.add(images.recombined(image, x, self._spec)[0][None], where)
                keep(name, np.concatenate([*histogram.counts.values()]))
        if self._spec.kind != "labels":
            keep("detail", [_fine_detail(y_hat), _fine_detail(y)])
        # How far this output lies from the last one, and the targets likewise; the first awaits the last.
        if self._previous is not None:
            keep("variety", [_apart(a, b) for a, b in zip((y_hat, y), self._previous, strict=True)])
        self._previous = y_hat, y
        self._first = self._first or self._previous

    def arrays(self) -> Arrays:
        """Everything seen."""
        assert self._first is not None and self._previous is not None
        last = [_apart(a, b) for a, b in zip(self._first, self._previous, strict=True)]
        columns = self._columns | {"variety": [last, *self._columns.get("variety", [])]}
        return {name: np.array(values) for name, values in columns.items()}

    def _keep(self, name: str, value: Any) -> None:
        self._columns.setdefault(name, []).append(value)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - at_size(b, a.shape[-2:])).abs().double().mean())


def _fine_detail(image: Tensor) -> float:
    """Power between a quarter and half a cycle a pixel; NaN for an image too small for it.

    Shapes: (C, H, W).
    Units: dB.
    """
    if min(image.shape[1:]) < COARSEST_PX:
        return math.nan
    spectrum = Spectrum()
    spectrum.add(image[None])
    fine = spectrum.decibels[spectrum.frequencies >= 0.25]
    return float(fine[~fine.isnan()].mean())


def collect(pairs: Sequence[Pair], data: DataConfig, model: Translator, judge: Judge | None) -> Arrays:
    """Every image through a trained model."""
    noisy = model.semantics.dropout and model.config.generator.noise != "none"
    collector = Collector(model.target_spec, judge)
    for pair in pairs:
        x, y, valid = evaluation_view(pair, model.source_spec, model.target_spec, data)
        y_hat, again = (
            model.translate_tensor(x[None], seed=0, sample=sample)[0].cpu().float()
            if sample <= noisy
            else None
            for sample in (0, 1)
        )
        assert y_hat is not None
        collector.add(pair, x, y, y_hat, again, valid)
    return collector.arrays()


def references(
    pairs: Sequence[Pair],
    train: Sequence[Pair],
    data: DataConfig,
    specs: tuple[ImageSpec, ImageSpec],
    judge: Judge | None,
) -> dict[str, Arrays]:
    """The same of two pictures that no model made: the mean target, and the targets themselves."""
    some = evenly(train, MEAN_OF)
    target = MeanTarget()
    for pair in some:
        _, y, valid = evaluation_view(pair, *specs, data)
        target.add(y, valid)
    mean = target.result()
    collectors = {"mean target": Collector(specs[1], judge), "targets": Collector(specs[1], judge)}
    for pair in pairs:
        x, y, valid = evaluation_view(pair, *specs, data)
        collectors["mean target"].add(pair, x, y, at_size(mean, y.shape[-2:]), None, valid)
        collectors["targets"].add(pair, x, y, y, None, valid)
    return {name: collector.arrays() for name, collector in collectors.items()}


def identity(pairs: Sequence[Pair], data: DataConfig, judge: Judge | None, **more: Any) -> str:
    """What figures depend on besides the weights, as JSON."""
    values = {
        "version": VERSION,
        "pairs": fingerprint(pairs),
        "geometry": [data.crop_size, data.resize, data.direction],
        "judge": judge.identity if judge else None,
        **more,
    }
    return json.dumps(values, sort_keys=True)


def remembered(path: Path, identity: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a file, made anew where it is of something else, or damaged."""
    try:
        with np.load(path) as file:
            if str(file["identity"]) == identity:
                return {name: file[name] for name in file.files if name != "identity"}
    except (OSError, ValueError, KeyError, EOFError):
        pass
    arrays = make()

    def save(where: Path) -> None:
        with where.open("wb") as file:
            np.savez_compressed(file, identity=np.array(identity), **dict(arrays))  # type: ignore[arg-type]

    write_atomically(path, save)
    return arrays
