"""The baselines that need no learning: the mean training target, and the pair with the nearest source.

A generator that does not beat both has learned little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pairloom import images
from pairloom.data import Pair, View, evenly
from pairloom.validity import filled, known_part

MAX_TRAIN_PAIRS = 5000
"""The baselines look at no more training pairs than this, evenly chosen: it bounds their time and memory."""
REDUCED_PX = 32
"""Side of the area-averaged sources that the nearest pair is searched by."""

Load = Callable[[Pair], View]


class MeanTarget:
    """The mean of targets over the pixels that count, at the size of the first; 0 where none does."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = torch.zeros(())

    def add(self, y: Tensor, valid: Tensor | None) -> None:
        """One more target. Shapes: (C, H, W), valid (1, H, W)."""
        if self._total is None:
            self._total = torch.zeros_like(y, dtype=torch.float64)
        y, valid = known_at_size(y, valid, self._total.shape[-2:])
        self._total += y
        self._count = self._count + (1 if valid is None else valid)

    def result(self) -> Tensor:
        """The mean of all so far. Shapes: -> (C, H, W)."""
        assert self._total is not None
        return (self._total / self._count.clamp_min(1)).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """The training pairs as the two baselines need them."""

    pairs: tuple[Pair, ...]
    mean: Tensor
    """Mean target (C, H, W) at the size of the first training target; where no pixel counts, 0."""
    reduced: Tensor
    """Sources (M, C, 32 * 32), area-averaged over the pixels that count."""
    known: Tensor
    """How much of each such area counts, (M, 1, 32 * 32), 0 to 1."""

    @classmethod
    def collect(cls, train: Sequence[Pair], load: Load) -> Baselines:
        """One pass over at most MAX_TRAIN_PAIRS training pairs, evenly chosen."""
        chosen = tuple(evenly(train, MAX_TRAIN_PAIRS))
        mean, reduced = MeanTarget(), []
        for pair in tqdm(chosen, desc="baselines", unit="pair", disable=None, leave=False):
            x, y, valid = load(pair)
            reduced.append(_reduce(x, valid))
            mean.add(y, valid)
        values, known = (torch.stack(part) for part in zip(*reduced, strict=True))
        return cls(pairs=chosen, mean=mean.result(), reduced=values, known=known)

    def mean_target(self, size: torch.Size) -> Tensor:
        """The mean training target (C, H, W) at this (height, width)."""
        return at_size(self.mean, size)

    def nearest(self, x: Tensor, valid: Tensor | None = None, *, other_than: Pair) -> Pair | None:
        """The training pair with the nearest source (L2 on 32 x 32), never the pair in question itself.

        Areas weigh as much as both have pixels in them that count.

        Shapes: x (C, H, W), valid (1, H, W).
        """
        values, known = _reduce(x, valid)
        weight = self.known * known
        distance = ((self.reduced - values).square() * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
        order = distance.nan_to_num(math.inf).argsort()[:2].tolist()
        return next((self.pairs[i] for i in order if self.pairs[i] != other_than), None)


def at_size(y: Tensor, size: torch.Size) -> Tensor:
    """A target resized to (height, width) to be compared with another. Shapes: (C, H, W) -> (C, *size)."""
    return images.resize(y, (size[0], size[1]), labels=False)


def known_at_size(y: Tensor, valid: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor | None]:
    """`at_size`, of the pixels that count alone. Shapes: (C, H, W), (1, H, W) -> (C, *size), (1, *size)."""
    if valid is None:
        return at_size(y, size), None
    return known_part(at_size(y, size), at_size(valid, size))


def _reduce(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Shapes: (C, H, W), (1, H, W) -> (C, 32 * 32), (1, 32 * 32)."""

    def area(values: Tensor) -> Tensor:
        return F.interpolate(values[None], size=(REDUCED_PX, REDUCED_PX), mode="area")[0].flatten(1)

    if valid is None:
        return area(x), torch.ones(1, REDUCED_PX**2)
    known = area(valid)
    return area(filled(x, valid)) / known.where(known > 0, 1.0), known
