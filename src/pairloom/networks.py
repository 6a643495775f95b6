"""The networks of the paper's appendix: U-Net and encoder-decoder generators, the PatchGAN family.

Source: Isola et al., arXiv 1611.07004v3, Sections 3.2 and 6.1, and the authors' models.lua for what the text
leaves open: activation before convolution, the bottleneck without norm (their erratum, Section 6.3), the two
stride-1 convolutions that end D.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom.activations import part
from pairloom.config import DiscriminatorConfig, GeneratorConfig
from pairloom.layers import (
    BatchNorm,
    Dropout,
    NormName,
    NormStats,
    gaussian_z,
    joined,
    make_norm,
    set_norm_stats,
)
from pairloom.resnet import ResNet
from pairloom.small_maps import convolved

__all__ = [
    "BatchNorm",
    "Discriminator",
    "Dropout",
    "Generator",
    "NormName",
    "NormStats",
    "ResNet",
    "UNet",
    "build_discriminator",
    "build_generator",
    "initialise",
]


class Down(nn.Module):
    """One encoder block, halving: LeakyReLU - Convolution - Norm (Ck of the appendix)."""

    def __init__(self, c_in: int, c_out: int, norm: NormName, *, first: bool, innermost: bool) -> None:
        super().__init__()
        self.first = first
        self.conv = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=norm != "batch")
        self.norm = make_norm("none" if first or innermost else norm, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Encode. Shapes: (N, C, H, W) -> (N, C', H/2, W/2)."""
        y: Tensor = self.norm(convolved(x if self.first else F.leaky_relu(x, 0.2), self.conv))
        return y


class Up(nn.Module):
    """One decoder block, doubling: ReLU - transposed Convolution - Norm - Dropout (CDk of the appendix)."""

    def __init__(
        self, c_in: int, c_out: int, norm: NormName, *, upsample: str, last: bool, dropout: Dropout | None
    ) -> None:
        super().__init__()
        bias = last or norm != "batch"
        if upsample == "transposed":
            self.conv: nn.Module = nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=bias)
        else:
            self.conv = nn.Sequential(
                nn.Upsample(scale_factor=2), nn.Conv2d(c_in, c_out, 3, padding=1, bias=bias)
            )
        self.norm = make_norm("none" if last else norm, c_out)
        self.dropout = dropout

    def forward(self, x: Tensor, key: int | None) -> Tensor:
        """Decode. Shapes: (N, C, H, W) -> (N, C', 2H, 2W)."""
        x = self.norm(convolved(F.relu(x), self.conv))
        return x if self.dropout is None else self.dropout(x, key)


class UNet(nn.Module):
    """G(x, z): an encoder of `num_downs` halvings and its mirror image, skips or none (Section 3.2.1).

    Source: appendix 6.1.1; with num_downs 8 and base_channels 64 the encoder is
    C64-C128-C256-C512-C512-C512-C512-C512.
    Deviation: with batch norm only the last layer has a bias, although the first and the innermost have no
    norm (the authors' code gives every layer one, but its training zeroes them all).
    """

    recompute = False
    """While training, keep only what goes from level to level (`activations`)."""

    def __init__(
        self,
        source_channels: int,
        target_channels: int,
        *,
        base_channels: int = 64,
        num_downs: int = 8,
        skip: Literal["concat", "add", "none"] = "concat",
        norm: NormName = "batch",
        upsample: Literal["transposed", "resize"] = "transposed",
        z: Literal["dropout", "none", "gaussian"] = "dropout",
        dropout_blocks: tuple[int, ...] = (1, 2, 3),
        dropout_rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.skip, self.z = skip, z
        widths = [base_channels * min(2**i, 8) for i in range(num_downs)]
        inputs = [source_channels + (z == "gaussian"), *widths[:-1]]
        self.downs = nn.ModuleList(
            Down(c_in, c_out, norm, first=i == 0, innermost=i == num_downs - 1)
            for i, (c_in, c_out) in enumerate(zip(inputs, widths, strict=True))
        )
        self.ups = nn.ModuleList()
        for block, width in enumerate(reversed([target_channels, *widths[:-1]]), start=1):
            c_in = widths[num_downs - block]
            if skip == "concat" and block > 1:
                c_in *= 2
            last = block == num_downs
            drop = z == "dropout" and block in dropout_blocks and not last
            self.ups.append(
                Up(
                    c_in,
                    width,
                    norm,
                    upsample=upsample,
                    last=last,
                    dropout=Dropout(dropout_rate, block) if drop else None,
                )
            )

    @property
    def stride(self) -> int:
        """Both sides of x must be multiples of this, in pixels."""
        return int(2 ** len(self.downs))

    def set_norm_stats(self, stats: NormStats) -> None:
        """Choose whose statistics batch norm uses in eval mode."""
        set_norm_stats(self, stats)

    def forward(self, x: Tensor, key: int | None = None) -> Tensor:
        """Translate.

        Args:
            x: Source images.
            key: In eval mode, the draw of z (see `noise.key`); None: no dropout, and a Gaussian z of zeros.
                While training, z comes from torch's RNG and the key is not used.

        Shapes: x (N, C, H, W), H and W multiples of `stride` -> (N, C', H, W), float32.
        Units: x and the result are in [-1, 1].
        """
        h = torch.cat([x, gaussian_z(x, key, training=self.training)], 1) if self.z == "gaussian" else x
        skips = []
        for down in self.downs:
            h = part(self, down, h)
            skips.append(h)
        skips.pop()
        *inner, last = self.ups
        for i, up in enumerate(inner):
            h = part(self, self._up, up, h, skips.pop() if i else None, key)
        skip = skips.pop() if inner else None
        if not (self.recompute and self.training):
            h, skip = (
                self._join(h, skip),
                None,
            )  # so that what was joined is let go: here memory is at its peak
        return part(self, self._last, last, h, skip, key)

    def _up(self, up: Up, h: Tensor, skip: Tensor | None, key: int | None) -> Tensor:
        y: Tensor = up(self._join(h, skip), key)
        return y

    def _last(self, up: Up, h: Tensor, skip: Tensor | None, key: int | None) -> Tensor:
        h = self._join(h, skip)
        # The last convolution and tanh in fp32: bf16 has 8 bits, as few as the images.
        with nullcontext() if h.is_meta else torch.autocast(h.device.type, enabled=False):
            return torch.tanh(up(h.float(), key))

    def _join(self, h: Tensor, skip: Tensor | None) -> Tensor:
        if skip is None:
            return h
        if self.skip == "concat":
            return joined(h, skip)
        return h + skip if self.skip == "add" else h


Generator: TypeAlias = UNet | ResNet
"""What `build_generator` makes; both have stride, z, set_norm_stats and forward(x, key)."""


class Discriminator(nn.Module):
    """D: classifies overlapping patches as real or fake (Section 3.2.2); logits out, no sigmoid.

    Source: appendix 6.1.2 and models.lua: `num_layers` strided 4x4 convolutions, one of stride 1, and one of
    stride 1 to a single channel. num_layers 0 is the PixelGAN of 1x1 convolutions.
    """

    recompute = False
    """While training, keep only what goes from convolution to convolution (`activations`)."""

    def __init__(
        self,
        source_channels: int,
        target_channels: int,
        *,
        base_channels: int = 64,
        num_layers: int = 3,
        conditional: bool = True,
        norm: NormName = "batch",
    ) -> None:
        super().__init__()
        self.conditional = conditional
        c_in = target_channels + (source_channels if conditional else 0)
        layers: list[nn.Module] = []
        self.windows: list[tuple[int, int]] = []
        """(kernel, stride) of each convolution."""

        def convolution(c_out: int, kernel: int, stride: int, *, bias: bool) -> None:
            nonlocal c_in
            padding = 1 if kernel > 1 else 0
            layers.append(nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, bias=bias))
            self.windows.append((kernel, stride))
            c_in = c_out

        kernel, stride = (4, 2) if num_layers else (1, 1)
        convolution(base_channels, kernel, stride, bias=True)
        layers.append(nn.LeakyReLU(0.2))
        for i in range(1, max(num_layers, 1) + 1):
            # Lists of the appendix: C64-C128 for pixel and 16x16, C64-C128-C256-C512 for 70x70.
            width = base_channels * min(2**i, 8)
            convolution(width, kernel, stride if i < num_layers else 1, bias=norm != "batch")
            layers += [make_norm(norm, width), nn.LeakyReLU(0.2)]
        convolution(1, kernel, 1, bias=True)
        self.layers = nn.Sequential(*layers)
        # D is only ever asked about the images at hand, so at inference too it uses their statistics.
        set_norm_stats(self, "image")

    @property
    def receptive_field(self) -> int:
        """Side of the patch that one logit sees, in pixels."""
        field = 1
        for kernel, stride in reversed(self.windows):
            field = field * stride + kernel - stride
        return field

    @property
    def jump(self) -> int:
        """Distance between the patches of neighbouring logits, in pixels."""
        jump = 1
        for _, stride in self.windows:
            jump *= stride
        return jump

    def sees(self, valid: Tensor) -> Tensor:
        """Which logits count: those of patches in which at least one pixel does; 1 and 0.

        Exact: a maximum goes through the windows of the convolutions one by one. (Norms look further than the
        patch: their statistics are of the whole feature map, the filled pixels among them.)

        Shapes: valid (N, 1, H, W) -> (N, 1, h, w), as `forward`'s.
        """
        for kernel, stride in self.windows:
            valid = F.max_pool2d(valid, kernel, stride, padding=int(kernel > 1))
        return valid

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Judge y, given x when conditional.

        Shapes: x (N, C, H, W), y (N, C', H, W) -> logits (N, 1, h, w).
        """
        h = torch.cat([x, y], 1) if self.conditional else y
        if not self.recompute:
            logits: Tensor = self.layers(h)
            return logits
        starts = [i for i, layer in enumerate(self.layers) if isinstance(layer, nn.Conv2d)]
        for start, end in pairwise([*starts, len(self.layers)]):
            h = part(self, self.layers[start:end], h)
        return h


def initialise(net: nn.Module, rng: torch.Generator) -> None:
    """Weights N(0, 0.02), norm scales N(1, 0.02), biases zero (Section 6.2 and models.lua)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=rng)
        elif isinstance(module, BatchNorm):
            module.reset_running_stats()
            nn.init.normal_(module.weight, 1.0, 0.02, generator=rng)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _build(make: Callable[[], nn.Module], rng: torch.Generator | None) -> nn.Module:
    """Made without memory, then given it: PyTorch's own initialisation would cost a second for nothing."""
    with torch.device("meta"):
        net = make()
    if rng is not None:
        net = net.to_empty(device="cpu")
        initialise(net, rng)
    return net


def build_generator(config: GeneratorConfig, rng: torch.Generator | None = None) -> Generator:
    """G as configured, its channels and depth resolved.

    Args:
        config: Channels and num_downs are set.
        rng: Draws the weights; None: no memory yet (meta device), to count or to load weights into.
    """
    net = _build(lambda: _generator(config), rng)
    assert isinstance(net, UNet | ResNet)
    return net


def _generator(config: GeneratorConfig) -> Generator:
    if config.architecture == "resnet":
        return ResNet(
            *config.channels,
            base_channels=config.base_channels,
            blocks=config.resnet_blocks,
            norm=config.norm,
            upsample=config.upsample,
            z=config.noise,
            dropout_rate=config.dropout_rate,
        )
    depth = config.num_downs
    assert depth is not None, "resolve the config first"
    return UNet(
        *config.channels,
        base_channels=config.base_channels,
        num_downs=depth,
        skip=config.skip,
        norm=config.norm,
        upsample=config.upsample,
        z=config.noise,
        dropout_blocks=config.dropout_blocks,
        dropout_rate=config.dropout_rate,
    )


def build_discriminator(
    config: DiscriminatorConfig,
    source_channels: int,
    target_channels: int,
    rng: torch.Generator | None = None,
) -> Discriminator:
    """D as configured; `rng` as in `build_generator`."""
    net = _build(
        lambda: Discriminator(
            source_channels,
            target_channels,
            base_channels=config.base_channels,
            num_layers=config.num_layers,
            conditional=config.conditional,
            norm=config.norm,
        ),
        rng,
    )
    assert isinstance(net, Discriminator)
    return net
