"""The baselines that need no learning: the mean training target, and the pair with the nearest source.

A generator that does not beat both has learned little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pairloom import images
from pairloom.data import Pair, evenly

MAX_TRAIN_PAIRS = 5000
"""The baselines look at no more training pairs than this, evenly chosen: it bounds their time and memory."""
REDUCED_PX = 32
"""Side of the area-averaged sources that the nearest pair is searched by."""

Load = Callable[[Pair], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """The training pairs as the two baselines need them."""

    pairs: tuple[Pair, ...]
    mean: Tensor
    """Mean target (C, H, W) at the size of the first training target."""
    reduced: Tensor
    """Sources (M, C * 32 * 32), area-averaged."""

    @classmethod
    def collect(cls, train: Sequence[Pair], load: Load) -> Baselines:
        """One pass over at most MAX_TRAIN_PAIRS training pairs, evenly chosen."""
        chosen = tuple(evenly(train, MAX_TRAIN_PAIRS))
        total, reduced = torch.empty(0), []
        for pair in tqdm(chosen, desc="baselines", unit="pair", disable=None, leave=False):
            x, y = load(pair)
            reduced.append(_reduce(x))
            total = y.double() if not total.numel() else total + at_size(y, total.shape[-2:]).double()
        return cls(pairs=chosen, mean=(total / len(chosen)).float(), reduced=torch.stack(reduced))

    def mean_target(self, size: torch.Size) -> Tensor:
        """The mean training target (C, H, W) at this (height, width)."""
        return at_size(self.mean, size)

    def nearest(self, x: Tensor, *, other_than: Pair) -> Pair | None:
        """The training pair with the nearest source (L2 on 32 x 32), never the pair in question itself.

        Shapes: x (C, H, W).
        """
        order = (self.reduced - _reduce(x)).square().sum(1).argsort()[:2].tolist()
        return next((self.pairs[i] for i in order if self.pairs[i] != other_than), None)


def at_size(y: Tensor, size: torch.Size) -> Tensor:
    """A target resized to (height, width) to be compared with another. Shapes: (C, H, W) -> (C, *size)."""
    return images.resize(y, (size[0], size[1]), labels=False)


def _reduce(x: Tensor) -> Tensor:
    return F.interpolate(x[None], size=(REDUCED_PX, REDUCED_PX), mode="area").flatten()
