"""How much z matters: several translations of each source, and how far they lie apart.

Source: Section 3.1 of the paper: with z as dropout the output varies only slightly, and a richer conditional
distribution is left open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairloom import images
from pairloom.evaluation.sets import ImageSetError
from pairloom.translator import Translator

GREY_LEVEL = 2 / 255
"""One step of an 8-bit image, of the [-1, 1] scale."""
MOST_TARGETS = 32
"""The distance between different targets is that of at most so many, evenly chosen."""
SLIGHT = 0.1
"""Samples that lie apart by less than this share of what targets do vary slightly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """How the outputs vary with z."""

    images: int
    """Sources that were translated."""
    samples: int
    """Translations of each."""
    spread: float
    """Standard deviation over the samples, mean over pixels and images; of the [-1, 1] scale."""
    distance: float
    """Mean L1 between two samples of one source; of the [-1, 1] scale."""
    between_targets: float | None
    """Mean L1 between the targets of two pairs; None without two targets."""
    noise: str
    """What z is: dropout, gaussian, or none; "off" when dropout was turned off at inference."""
    maps: tuple[Tensor, ...] = field(default=(), compare=False)
    """Per-pixel spread of the first sources, (H, W) each, mean over the channels; not in `to_dict`."""

    @property
    def relative(self) -> float | None:
        """`distance` as a share of `between_targets`: 1 would be as varied as the data."""
        return self.distance / self.between_targets if self.between_targets else None

    @property
    def does_nothing(self) -> bool:
        """Do two samples differ by less than one grey level of an 8-bit image?"""
        return self.distance < GREY_LEVEL

    def words(self) -> str:
        """What a reader must know, in one or two sentences."""
        levels = self.distance / GREY_LEVEL
        sources = "1 source" if self.images == 1 else f"{self.images} sources"
        text = (
            f"{self.samples} samples of each of {sources} lie {levels:.2g} grey levels apart"
            + (f", {self.relative:.1%} of what different targets do" if self.relative is not None else "")
            + "."
        )
        return f"{text} {self._verdict()}\n"

    def _verdict(self) -> str:
        if self.noise in ("none", "off"):
            why = "the model has no noise" if self.noise == "none" else "its noise is turned off"
            return f"The output is a function of the source alone: {why}."
        if self.does_nothing:
            return f"The noise ({self.noise}) does nothing that an 8-bit image shows."
        if self.relative is not None and self.relative < SLIGHT:
            return f"The noise ({self.noise}) changes the output slightly, as the paper found."
        return f"The noise ({self.noise}) changes the output."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the maps."""
        names = ("images", "samples", "spread", "distance", "between_targets", "relative", "noise")
        return {name: getattr(self, name) for name in names} | {
            "does_nothing": self.does_nothing,
            "words": self.words().strip(),
        }


def diversity(
    translator: Translator,
    sources: Iterable[Tensor],
    targets: Sequence[Tensor] = (),
    *,
    samples: int = 8,
    seed: int = 0,
    maps: int = 4,
) -> Diversity:
    """Translate each source several times, each with another z, and measure how far the results lie apart.

    Args:
        translator: The model.
        sources: One at a time; sizes may differ.
        targets: Of any pairs, for the distance to compare with.
        samples: Translations of each source.
        seed: Of z.
        maps: How many of the first sources' spread maps to keep.

    Shapes: sources (C, H, W), targets (C', H, W).
    Units: [-1, 1].

    Raises:
        ImageSetError: Fewer than 2 samples, or no sources.
    """
    if samples < 2:
        raise ImageSetError(f"samples is {samples}; it takes 2 or more to differ.")
    spreads: list[float] = []
    distances: list[float] = []
    kept: list[Tensor] = []
    for x in sources:
        drawn = torch.stack(
            [translator.translate_tensor(x[None], seed=seed, sample=s)[0].cpu() for s in range(samples)]
        )
        spread = drawn.std(0, correction=0).mean(0)
        spreads.append(float(spread.double().mean()))
        distances.append(mean_distance(drawn))
        if len(kept) < maps:
            kept.append(spread)
    if not spreads:
        raise ImageSetError("There are no sources; diversity needs 1 or more.")
    return Diversity(
        images=len(spreads),
        samples=samples,
        spread=sum(spreads) / len(spreads),
        distance=sum(distances) / len(distances),
        between_targets=_between(targets),
        noise=_noise(translator),
        maps=tuple(kept),
    )


def mean_distance(drawn: Tensor) -> float:
    """Mean L1 over all pairs of different images.

    Shapes: drawn (S, C, H, W), S from 2.
    Units: of the images' own scale.
    """
    pairs = list(combinations(range(len(drawn)), 2))
    return sum(float((drawn[i] - drawn[j]).abs().double().mean()) for i, j in pairs) / len(pairs)


def _between(targets: Sequence[Tensor]) -> float | None:
    if len(targets) < 2:
        return None
    count = min(len(targets), MOST_TARGETS)
    chosen = np.linspace(0, len(targets) - 1, count).round().astype(int)
    height, width = targets[0].shape[1:]
    return mean_distance(
        torch.stack([images.resize(targets[i], (height, width), labels=False) for i in chosen])
    )


def _noise(translator: Translator) -> str:
    noise = translator.config.generator.noise
    return "off" if noise != "none" and not translator.semantics.dropout else noise
