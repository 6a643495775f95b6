"""A generator with its inference semantics written into it: what other programs can run, with one meaning.

Exporters take what a network computes for one input, and know nothing of our modes: batch norm with a batch's
statistics, above all, they write as something else without a word. So the norms become what the semantics
say, and z, when it is on, becomes inputs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom import noise
from pairloom.layers import BatchNorm, Dropout
from pairloom.networks import Generator, Up
from pairloom.resnet import LEAST_SIDE, Block, ResNet


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseInput:
    """An input through which z enters: the factors of a dropout mask, or one channel of Gaussian noise."""

    name: str
    kind: Literal["dropout", "gaussian"]
    layer: int
    """As in `noise.uniform(key, layer, ...)`."""
    channels: int
    stride: int
    """Pixels of the source to one of its own, on each side."""
    rate: float
    """Of dropout: the share of factors that are 0; the others are 1 / (1 - rate)."""

    def shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Of the values for sources of that size: one draw for all images of a batch."""
        return 1, self.channels, height // self.stride, width // self.stride

    def values(self, key: int | None, height: int, width: int) -> Tensor:
        """What the original computes from a key; of None: no dropout, and a Gaussian z of zeros.

        Shapes: sides of the source -> (1, channels, height / stride, width / stride), float32.
        """
        shape = self.shape(height, width)
        if key is None:
            return torch.ones(shape) if self.kind == "dropout" else torch.zeros(shape)
        if self.kind == "gaussian":
            return noise.normal(key, self.layer, *shape[1:])
        kept = noise.uniform(key, self.layer, *shape[1:]) >= self.rate
        return kept.float() / (1 - self.rate)


def noise_inputs(generator: Generator) -> tuple[NoiseInput, ...]:
    """Where z enters a generator, in the order of its layers."""
    if generator.z == "gaussian":
        return (NoiseInput(name="z", kind="gaussian", layer=0, channels=1, stride=1, rate=0.0),)
    found: list[tuple[Dropout | None, nn.Conv2d | nn.ConvTranspose2d, int]] = []
    if isinstance(generator, ResNet):
        for block in generator.blocks:
            assert isinstance(block, Block)
            found.append((block.dropout, block.first.conv, generator.stride))
    else:
        for number, up in enumerate(generator.ups, start=1):
            assert isinstance(up, Up)
            found.append((up.dropout, _convolution(up.conv), generator.stride >> number))
    return tuple(
        NoiseInput(
            name=f"mask_{dropout.layer}",
            kind="dropout",
            layer=dropout.layer,
            channels=before.out_channels,
            stride=stride,
            rate=dropout.rate,
        )
        for dropout, before, stride in found
        if dropout is not None
    )


def least_side(generator: Generator) -> int:
    """The smallest side that the graph takes as it is, in pixels: a multiple of the stride."""
    return LEAST_SIDE if isinstance(generator, ResNet) else generator.stride


class Graph(nn.Module):
    """G(x, *noise) with one meaning: its norms written out, its z given or absent.

    Attributes:
        noise: The inputs after x.
    """

    def __init__(self, generator: Generator, *, dropout: bool, half: bool = False) -> None:
        """Write it.

        Args:
            generator: In eval mode, its norm_stats set; copied.
            dropout: Does z stay?
            half: float16 inside; x, the noise, the norms, the last layer and the result stay float32.
        """
        super().__init__()
        self.noise = noise_inputs(generator) if dropout else ()
        self.half_inside = half
        self.net = copy.deepcopy(generator)
        self._gaussian = dropout and generator.z == "gaussian"
        if self._gaussian:
            self.net.z = "none"  # it comes with x
        for module in list(self.net.modules()):
            if isinstance(getattr(module, "norm", None), nn.Module):
                write_norm(module)
            if isinstance(module, Up | Block) and module.dropout is not None:
                drop = module.dropout
                module.dropout = _GivenMask(drop.rate, drop.layer) if dropout else None
        if half:
            last = self.net.last if isinstance(self.net, ResNet) else self.net.ups[-1]
            kept = set(last.modules())
            for module in self.net.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module not in kept:
                    module.half()

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        """Translate. Shapes: x (N, C, H, W), the noise as its `shape` says -> (N, C', H, W), float32."""
        if self._gaussian:
            x = torch.cat([x, given[0].expand(x.shape[0], -1, -1, -1)], 1)
        x = x.half() if self.half_inside else x
        key: Any = {entry.layer: mask for entry, mask in zip(self.noise, given, strict=True)}
        y_hat: Tensor = self.net(x, key or None)
        return y_hat


class _GivenMask(Dropout):
    """Dropout whose factors are given instead of drawn."""

    def forward(self, x: Tensor, key: Any, at: tuple[int, int] = (0, 0)) -> Tensor:
        """Drop. Shapes: x (N, C, H, W), key {layer: (1, C, H, W)} -> (N, C, H, W)."""
        factors: Tensor = key[self.layer]
        return x * factors.to(x.dtype)


class ImageNorm(nn.Module):
    """Each image's own statistics, with batch norm's learned scale and shift or none; float32 inside."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise. Shapes: (N, C, H, W) -> same."""
        weight, bias = self.weight, self.bias
        if x.dtype == torch.float32:
            return F.instance_norm(x, weight=weight, bias=bias, eps=self.eps)
        return F.instance_norm(x.float(), weight=weight, bias=bias, eps=self.eps).to(x.dtype)


def write_norm(layer: Any) -> None:
    """The norm of a layer as its semantics say: an ImageNorm, or folded into the convolution before it."""
    norm = layer.norm
    if isinstance(norm, nn.InstanceNorm2d):
        layer.norm = ImageNorm(None, None, norm.eps)
    elif isinstance(norm, BatchNorm):
        assert norm.stats != "batch", "refused before: an image would depend on its neighbours"
        if norm.stats == "image":
            layer.norm = ImageNorm(norm.weight.detach(), norm.bias.detach(), norm.eps)
        else:
            _fold(norm, _convolution(layer.conv))
            layer.norm = nn.Identity()


def _fold(norm: BatchNorm, convolution: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Fixed statistics as part of the convolution: one multiplication less, and the same numbers."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    axis = 1 if isinstance(convolution, nn.ConvTranspose2d) else 0
    shape = [-1 if i == axis else 1 for i in range(4)]
    bias = 0 if convolution.bias is None else convolution.bias.double() * scale
    convolution.weight = _fixed(convolution.weight.double() * scale.view(shape))
    convolution.bias = _fixed(shift + bias)


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().float(), requires_grad=False)


def _convolution(conv: nn.Module) -> nn.Conv2d | nn.ConvTranspose2d:
    """The convolution itself, also where it follows an enlargement."""
    found = conv[1] if isinstance(conv, nn.Sequential) else conv
    assert isinstance(found, nn.Conv2d | nn.ConvTranspose2d)
    return found
