"""The statistics of a map that is seen window by window, and a norm that uses them frozen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom.layers import BatchNorm


class Moments:
    """Mean and variance of each channel, merged window by window in float64.

    Source: Chan, Golub and LeVeque, 1979: the pairwise merging of means and sums of squares.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, raw: Tensor) -> None:
        """Another window that no earlier one overlaps. Shapes: (1, C, h, w)."""
        count = raw.shape[-2] * raw.shape[-1]
        variance, mean = (each.double().cpu() for each in torch.var_mean(raw, dim=(0, 2, 3), correction=0))
        apart = mean - self.mean
        total = self.count + count
        self.mean = self.mean + apart * (count / total)
        self.squares = self.squares + variance * count + apart.square() * (self.count * count / total)
        self.count = total

    def normalised(self, raw: Tensor, norm: nn.Module | None) -> Tensor:
        """(raw - mean) / sqrt(biased variance + eps), scaled and shifted where the norm does."""
        assert isinstance(norm, BatchNorm | nn.InstanceNorm2d)
        mean, variance = (x.to(raw) for x in (self.mean, self.squares / max(self.count, 1)))
        return F.batch_norm(raw, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)

    def state(self) -> dict[str, Tensor]:
        """To be saved."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "squares": self.squares}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Moments:
        """As it was saved."""
        moments = cls(len(state["mean"]))
        moments.count, moments.mean, moments.squares = int(state["count"]), state["mean"], state["squares"]
        return moments
