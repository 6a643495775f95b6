"""The figures of outputs and targets as two sets, each collected by itself: what one lacks stops no other."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pairloom.evaluation.features import Extractor, frechet, kid
from pairloom.evaluation.retrieval import layout, retrieval
from pairloom.evaluation.sliced_wasserstein import Patches, sliced_wasserstein
from pairloom.evaluation.spectrum import Spectrum, spectrum_report

OUTPUTS, TARGETS = 0, 1
MOST_FOR_KID = 5000
"""KID compares all with all: of larger sets it takes the first so many."""
MOST_FOR_RETRIEVAL = 2000
"""Pairs among which an output looks for its own target; more are not kept."""


class SetFigure(Protocol):
    """Sees the images of both sets, and compares them."""

    def add(self, side: int, batch: Tensor) -> None:
        """See images of one set. Shapes: (N, C, H, W), in [-1, 1]. A ValueError says that it cannot."""

    def found(self) -> tuple[dict[str, Any], str]:
        """Figures as plain JSON, and a sentence. A ValueError says why there are none."""


class FeatureDistance:
    """KID: how far the features of an extractor are distributed alike."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self._features: tuple[list[Tensor], list[Tensor]] = ([], [])

    def add(self, side: int, batch: Tensor) -> None:
        """Extract."""
        self._features[side].append(self.extractor(batch))

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """Of the outputs and of the targets, (N, D) each."""
        outputs, targets = (torch.cat(side) for side in self._features)
        return outputs, targets

    def found(self) -> tuple[dict[str, Any], str]:
        """KID with its interval, each output's own target left out."""
        outputs, targets = (features[:MOST_FOR_KID] for features in self.features)
        kernel = kid(outputs, targets, paired=True)
        figures = {"value": kernel.value, "low": kernel.low, "high": kernel.high, "images": len(outputs)}
        words = self.extractor.words
        if len(outputs) < sum(map(len, self._features[OUTPUTS])):
            words += f", the first {len(outputs)} images"
        return (
            {f"KID, {self.extractor.name}": figures | {"settings": words}},
            f"KID {kernel.value:.4f} [{kernel.low:.4f}, {kernel.high:.4f}] ({words}).",
        )


class FrechetDistance:
    """The Frechet distance of the features that a `FeatureDistance` has collected."""

    def __init__(self, collected: FeatureDistance) -> None:
        self._collected = collected

    def add(self, side: int, batch: Tensor) -> None:
        """They are collected already."""

    def found(self) -> tuple[dict[str, Any], str]:
        """The distance, of sets that are large enough."""
        value, name = frechet(*self._collected.features), self._collected.extractor.name
        return {f"Frechet distance, {name}": value}, f"Frechet distance {value:.2f} ({name})."


class PatchDistance:
    """Sliced Wasserstein distance of patches on each scale."""

    def __init__(self) -> None:
        self._sets = Patches(), Patches()

    def add(self, side: int, batch: Tensor) -> None:
        """Collect patches."""
        self._sets[side].add(batch)

    def found(self) -> tuple[dict[str, Any], str]:
        """By scale, finest first."""
        distances = sliced_wasserstein(*self._sets)
        shown = ", ".join(f"{side} px: {1000 * value:.1f}" for side, value in distances.items())
        return (
            {"sliced Wasserstein": {str(side): value for side, value in distances.items()}},
            f"Sliced Wasserstein distance of 7 x 7 patches, times 1000, by scale: {shown}.",
        )


class Sharpness:
    """Power spectra: blur, noise, checkerboard."""

    def __init__(self) -> None:
        self._sets = Spectrum(), Spectrum()

    def add(self, side: int, batch: Tensor) -> None:
        """Collect power."""
        self._sets[side].add(batch)

    def found(self) -> tuple[dict[str, Any], str]:
        """By band, and what stands out."""
        report = spectrum_report(*self._sets)
        return {"spectrum": report.to_dict()}, report.words()


class OwnTarget:
    """Retrieval: is an output's own target the nearest of all?"""

    def __init__(self) -> None:
        self._layouts: tuple[list[Tensor], list[Tensor]] = ([], [])

    def add(self, side: int, batch: Tensor) -> None:
        """Collect where the edges are."""
        if len(self._layouts[side]) < MOST_FOR_RETRIEVAL:
            self._layouts[side].append(layout(batch).float())

    def found(self) -> tuple[dict[str, Any], str]:
        """For how many, beside chance."""
        outputs, targets = (torch.cat(side) for side in self._layouts)
        found = retrieval(outputs, targets)
        return {"retrieval": found.to_dict()}, found.words()
