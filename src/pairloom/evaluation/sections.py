"""Further looks at the outputs of an evaluation: sets, colour, controls, noise, classes.

Each look sees every pair once, as it is translated, and ends as a `Section` of the summary. A figure that the
images do not allow (too few, too small, no RGB) becomes the sentence that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pairloom import images
from pairloom.data import Pair, evenly
from pairloom.evaluation import metrics
from pairloom.evaluation.class_sections import Labels, Recognised
from pairloom.evaluation.colour import LabHistogram, figure, intersection
from pairloom.evaluation.controls import MODEL, PerImage, PerSet
from pairloom.evaluation.diversity import diversity
from pairloom.evaluation.features import Extractor, kid
from pairloom.evaluation.gallery import heat, picture, render_views
from pairloom.evaluation.ladder import draw, ladder
from pairloom.evaluation.perceptual import Dists, Lpips
from pairloom.evaluation.segmenter import PixelClassifier, SegmenterError
from pairloom.evaluation.set_figures import (
    OUTPUTS,
    TARGETS,
    FeatureDistance,
    FrechetDistance,
    OwnTarget,
    PatchDistance,
    SetFigure,
    Sharpness,
)
from pairloom.evaluation.sliced_wasserstein import Patches, sliced_wasserstein
from pairloom.evaluation.summary import Section
from pairloom.evaluation.trunks import TrunkError
from pairloom.images import ImageSpec
from pairloom.translator import Translator

LADDER_PAIRS = 32
"""The ladder of controls measures at most so many pairs, evenly chosen: it has ten rows."""
FILLED = (
    "Networks and comparisons of sets see whole images: pixels that count for nothing are the same mid-grey "
    "in outputs and targets."
)
"""What figures mean that cannot leave pixels out."""
NOISE_PAIRS, NOISE_SAMPLES = 8, 4
"""Sources that are translated several times, and how often."""


class Look(Protocol):
    """Sees every pair of an evaluation, and says what it saw."""

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair. Shapes: x, y, y_hat (C, H, W), in [-1, 1]; 0 where valid (1, H, W) is 0."""

    def section(self) -> Section:
        """What all of them show."""


class Sets:
    """Outputs and targets as two sets: features, patches, spectra; and whether pairs find each other."""

    def __init__(self, extractors: Sequence[Extractor], missing: Sequence[str]) -> None:
        """Begin.

        Args:
            extractors: Of the features that KID and the Frechet distance compare.
            missing: A sentence for each that there might be.
        """
        self._missing = missing
        collected = [FeatureDistance(extractor) for extractor in extractors]
        self._looks: list[SetFigure] = [
            *(look for features in collected for look in (features, FrechetDistance(features))),
            PatchDistance(),
            Sharpness(),
            OwnTarget(),
        ]
        self._faults: dict[SetFigure, str] = {}
        self._masked = False

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair."""
        self._masked |= valid is not None
        for look in self._looks:
            try:
                if look not in self._faults:
                    look.add(OUTPUTS, y_hat[None])
                    look.add(TARGETS, y[None])
            except ValueError as error:
                self._faults[look] = str(error)

    def section(self) -> Section:
        """KID, Frechet distance, sliced Wasserstein distance, power spectrum, retrieval."""
        figures: dict[str, Any] = {}
        lines = [*self._missing, *([FILLED] if self._masked else [])]
        for look in self._looks:
            try:
                found, words = ({}, self._faults[look]) if look in self._faults else look.found()
            except ValueError as error:
                found, words = {}, str(error)
            figures |= found
            lines.append(words.rstrip())
        return Section(title="As a set", words="\n".join(dict.fromkeys(lines)), figures=figures)


class Colour:
    """Marginal Lab histograms (Figure 7)."""

    def __init__(self) -> None:
        self.histograms = {"outputs": LabHistogram(), "targets": LabHistogram()}

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair."""
        where = None if valid is None else valid[None]
        self.histograms["outputs"].add(y_hat[None], where)
        self.histograms["targets"].add(y[None], where)

    def section(self) -> Section:
        """Intersections of outputs and targets for L, a and b, and the figure."""
        shares = intersection(self.histograms["outputs"], self.histograms["targets"])
        shown = ", ".join(f"{channel} {value:.3f}" for channel, value in shares.items())
        return Section(
            title="Colour",
            words=f"Intersection of the Lab histograms of outputs and targets: {shown} (1: the same).",
            figures={"intersection": shares},
            svg=figure(self.histograms, "targets"),
        )


class Controls:
    """The same metrics for images whose faults are known."""

    def __init__(
        self,
        chosen: Sequence[Pair],
        others: Sequence[Tensor],
        per_image: Mapping[str, PerImage],
        extractor: Extractor | None,
        *,
        source_spec: ImageSpec,
        rgb: bool,
    ) -> None:
        self._source_spec = source_spec
        self._chosen, self._others = set(chosen), others
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._outputs: list[Tensor] = []
        self._valid: list[Tensor | None] = []
        self._per_image = per_image
        self._per_set: dict[str, PerSet] = {"SWD x1000": _patch_distance}
        if extractor is not None:
            self._per_set["KID"] = _Kid(extractor)
        if rgb:
            self._per_set["Lab a,b"] = _colour_shared

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair."""
        if pair in self._chosen:
            self._pairs.append((_as_colours(x, self._source_spec), y))
            self._outputs.append(y_hat)
            self._valid.append(valid)

    def section(self) -> Section:
        """The ladder, a strip of each metric, and what each cannot see."""
        found = ladder(
            self._pairs,
            self._outputs,
            self._per_image,
            self._per_set,
            others=self._others,
            valid=self._valid,
        )
        if any(valid is not None for valid in self._valid):
            found = replace(found, remarks=(*found.remarks, FILLED))
        drawn = [
            f"<h3>{name}</h3>{draw(found, name)}"
            for name in found.metrics
            if found.rows[MODEL].get(name) is not None
        ]
        return Section(
            title=f"A ladder of controls, on {len(self._pairs)} pairs",
            words=found.words(),
            figures=found.to_dict(),
            svg="".join(f'<div class="chart">{strip}</div>' for strip in drawn),
        )


def _as_colours(x: Tensor, spec: ImageSpec) -> Tensor:
    """A source as it looks: one-hot classes in their palette's colours. Shapes: (C, H, W) -> (C', H, W)."""
    if not spec.one_hot:
        return x
    return images.to_tensor(images.to_array(x, spec), replace(spec, one_hot=False))


def _patch_distance(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    collectors = Patches(), Patches()
    for collector, side in zip(collectors, (outputs, targets), strict=True):
        for image in side:
            collector.add(image[None])
    distances = sliced_wasserstein(*collectors)
    return 1000 * sum(distances.values()) / len(distances)


def _colour_shared(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """Mean intersection of the a and b histograms."""
    histograms = LabHistogram(), LabHistogram()
    for histogram, side in zip(histograms, (outputs, targets), strict=True):
        for image in side:
            histogram.add(image[None])
    shares = intersection(*histograms)
    return (shares["a"] + shares["b"]) / 2


class _Kid:
    """KID of a control; the targets' features are computed once."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._known: dict[int, Tensor] = {}

    def __call__(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
        if {id(image) for image in outputs} == {id(image) for image in targets}:
            outputs = targets  # a set has no order, and an image is left out of its own company
        a = torch.cat([self._features(image, keep=False) for image in outputs])
        b = torch.cat([self._features(image, keep=True) for image in targets])
        return kid(a, b, paired=len(a) == len(b)).value

    def _features(self, image: Tensor, *, keep: bool) -> Tensor:
        if id(image) in self._known:
            return self._known[id(image)]
        features = self._extractor(image[None])
        if keep:
            self._known[id(image)] = features
        return features


class Noise:
    """Several translations of the same sources: does z do anything?"""

    def __init__(self, translator: Translator, chosen: Sequence[Pair], *, samples: int, seed: int) -> None:
        self._translator, self._chosen = translator, set(chosen)
        self._samples, self._seed = samples, seed
        self._names: list[str] = []
        self._sources: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair."""
        if pair in self._chosen:
            self._names.append(pair.name)
            self._sources.append(x)
            self._targets.append(y)

    def section(self) -> Section:
        """Spread, with its maps, and mean pairwise distance."""
        found = diversity(
            self._translator, self._sources, self._targets, samples=self._samples, seed=self._seed
        )
        full = max(float(spread.max()) for spread in found.maps) or 1.0
        shown = [
            picture(heat(spread, full=full), name, f"where the translations of {name} differ")
            for name, spread in zip(self._names, found.maps, strict=False)
        ]
        legend = f"The maps: black, the samples agree; white, a deviation of {full:.2f} on [-1, 1]."
        words = f"{found.words().rstrip()}\n{legend}"
        return Section(title="Noise", words=words, figures=found.to_dict(), svg=str(render_views(shown)))


class AsSeen:
    """Another look, at the images as their files hold them: ab with the source's L as RGB."""

    def __init__(self, look: Look, spec: ImageSpec) -> None:
        self._look, self._spec = look, spec

    def add(self, pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None) -> None:
        """See one pair."""
        y, y_hat = (images.recombined(side, x, self._spec)[0] for side in (y, y_hat))
        self._look.add(pair, x, y, y_hat, valid)

    def section(self) -> Section:
        """That of the other look."""
        return self._look.section()


# ------------------------------------------------------------------------------------------------------------
# Which looks


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What needs weights: extractors of features, metrics of pairs; a sentence for each that is missing."""

    extractors: tuple[Extractor, ...]
    metrics: dict[str, PerImage]
    missing: tuple[str, ...]

    @classmethod
    def load(cls, folder: str | Path | None, device: torch.device) -> Learned:
        """All that can be had here, without any download.

        Args:
            folder: Where the public weight files of LPIPS, DISTS and FID are; None: nowhere.
            device: Where the networks run.

        Raises:
            TrunkError: The folder does not exist.
        """
        made: dict[str, Callable[[], Any]] = {"EfficientNet-Lite0": lambda: Extractor.lite0(device)}
        if folder is not None:
            where = Path(folder)
            if not where.is_dir():
                raise TrunkError(f"{where}: there is no such folder of weight files; check --weights.")
            made |= {
                "Inception": lambda: Extractor.inception(where, device),
                "LPIPS": lambda: Lpips(where).to(device),
                "DISTS": lambda: Dists(where).to(device),
            }
        found, missing = {}, []
        for name, make in made.items():
            try:
                found[name] = make()
            except TrunkError as error:
                missing.append(str(error))
        return cls(
            extractors=tuple(v for v in found.values() if isinstance(v, Extractor)),
            metrics={name: v for name, v in found.items() if not isinstance(v, Extractor)},
            missing=tuple(missing),
        )


def choose_looks(
    translator: Translator,
    pairs: Sequence[Pair],
    *,
    train_targets: Callable[[], Sequence[Tensor]],
    learned: Learned,
    segmenter: PixelClassifier | None,
    samples: int,
    seed: int,
) -> dict[str, Look]:
    """The looks that suit the targets, in the order of the summary.

    Args:
        translator: The model.
        pairs: Those that will be seen.
        train_targets: Reads some targets of training, (C, H, W) each, as seen; asked for photos only.
        learned: What needs weights.
        segmenter: Of real photos.
        samples: Translations of the same source.
        seed: Of the noise.

    Raises:
        SegmenterError: A segmenter is given, but there are no photos to make the mean photo of.
    """
    spec = translator.target_spec
    looks: dict[str, Look] = {}
    if spec.kind == "labels":
        looks["labels"] = Labels(spec)
    else:
        others = train_targets()
        if segmenter is not None:
            looks["fcn_score"] = Recognised(segmenter, _mean_photo(others), translator)
        photographic = spec.channels in (1, 3)  # what networks that learned from photos take
        rgb = spec.channels == 3
        looks["set"] = (
            Sets(learned.extractors, learned.missing)
            if photographic
            else Sets((), [f"The targets have {spec.channels} channels: KID and the like take 1 or 3."])
        )
        if rgb:
            looks["colour"] = Colour()
        looks["ladder"] = Controls(
            evenly(pairs, LADDER_PAIRS),
            others,
            {"L1": metrics.l1, "PSNR": metrics.psnr, "SSIM": metrics.ssim, **learned.metrics},
            learned.extractors[0] if learned.extractors and photographic else None,
            source_spec=translator.source_spec,
            rgb=rgb,
        )
        looks = {name: AsSeen(look, spec) for name, look in looks.items()}
    if samples > 1 and translator.semantics.dropout and translator.config.generator.noise != "none":
        looks["noise"] = Noise(translator, evenly(pairs, NOISE_PAIRS), samples=samples, seed=seed)
    return looks


def _mean_photo(photos: Sequence[Tensor]) -> Tensor:
    if not photos:
        raise SegmenterError(
            "The FCN-score needs training photos, whose mean is its floor; give data that have a train split."
        )
    size = (photos[0].shape[1], photos[0].shape[2])
    return torch.stack([images.resize(photo, size, labels=False) for photo in photos]).mean(0)
