"""The layers that know how a generator is run at inference: norms by whose statistics, and z from a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom import noise

NormName = Literal["batch", "instance", "none"]
NormStats = Literal["image", "running", "batch"]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that says by name whose statistics it uses at inference (Section 3.3).

    While training, the batch's. In eval mode, by `stats`: "image", each image's own (equal to the paper's
    test mode at batch size 1, and independent of neighbours); "running", the averages of training; "batch",
    the test batch's (the paper's words). No eval forward changes the running averages.
    """

    stats: NormStats = "running"
    total: Callable[[Tensor], Tensor] | None = None
    """Sums over the processes that share a batch; set, training uses the statistics of the whole batch."""
    repeats: bool = False
    """This forward pass computes an earlier one again (`activations`): the averages have it already."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise. Shapes: (N, C, H, W) -> same."""
        if self.training and self.total is not None:
            return self._over_processes(x, self.total)
        if self.training and self.repeats:
            assert self.running_mean is not None and self.running_var is not None
            averages = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(x, *averages, self.weight, self.bias, training=True, eps=self.eps)
        if self.training or self.stats == "running":
            return super().forward(x)
        if self.stats == "batch" or x.shape[0] == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)

    def _over_processes(self, x: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        """Batch norm in two passes, mean and then variance: sums of squares would cost digits."""
        full = x.float()
        share = full.new_tensor([full.numel() / full.shape[1]])
        sums = total(torch.cat([full.sum((0, 2, 3)), share]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = full - mean.view(-1, 1, 1)
        variance = total(centred.square().sum((0, 2, 3))) / count
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x.dtype)


class Dropout(nn.Module):
    """The generator's z (Section 3.1): dropout from torch's RNG while training, from a key at inference."""

    def __init__(self, rate: float, layer: int) -> None:
        super().__init__()
        self.rate, self.layer = rate, layer

    def forward(self, x: Tensor, key: int | None, at: tuple[int, int] = (0, 0)) -> Tensor:
        """Drop. In eval mode the mask is a function of (key, layer, position); key None: no dropout.

        `at`: where the first row and column of x stand, when x is a window of the whole map.

        Shapes: (N, C, H, W) -> same; one mask for all N, so that no image depends on its neighbours.
        """
        if self.training:
            return F.dropout(x, self.rate, training=True)
        if key is None:
            return x
        keep = noise.uniform(key, self.layer, *x.shape[1:], device=x.device, at=at) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate))


def make_norm(name: NormName, channels: int) -> nn.Module:
    """Batch norm with scale and shift; instance norm without; or nothing."""
    if name == "batch":
        return BatchNorm(channels)
    return nn.InstanceNorm2d(channels) if name == "instance" else nn.Identity()


def joined(h: Tensor, skip: Tensor) -> Tensor:
    """The channels of both, one after the other. Shapes: (N, C, H, W), (N, C', H, W) -> (N, C + C', H, W)."""
    if not (torch.is_grad_enabled() and h.requires_grad):
        return torch.cat([h, skip], 1)
    y: Tensor = _Joined.apply(h, skip)  # type: ignore[no-untyped-call]
    return y


class _Joined(torch.autograd.Function):
    """torch.cat, whose gradients are tensors of their own.

    Torch gives views into a common one, of which batch norm's backward pass on a CPU takes 10 times as long.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, skip: Tensor) -> Tensor:
        ctx.channels = [h.shape[1], skip.shape[1]]
        return torch.cat([h, skip], 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (g,) = gradients
        last = g.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return tuple(part.contiguous(memory_format=layout) for part in torch.split(g, ctx.channels, 1))


def gaussian_z(x: Tensor, key: int | None, *, training: bool, at: tuple[int, int] = (0, 0)) -> Tensor:
    """The other z: one channel of noise beside x; at inference a function of (key, position), or zeros.

    `at`: where the first row and column of x stand, when x is a window of the whole image.

    Shapes: x (N, C, H, W) -> (N, 1, H, W).
    """
    n, _, height, width = x.shape
    if training:
        return torch.randn(n, 1, height, width, device=x.device, dtype=x.dtype)
    if key is None:
        return x.new_zeros(n, 1, height, width)
    return noise.normal(key, 0, 1, height, width, device=x.device, at=at).to(x.dtype).expand(n, -1, -1, -1)


def set_norm_stats(net: nn.Module, stats: NormStats) -> None:
    """Choose whose statistics a network's batch norms use in eval mode."""
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.stats = stats
