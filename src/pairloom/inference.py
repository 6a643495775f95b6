"""A generator made ready to run fast: norms written in, weights ordered once, small maps as products.

It stands beside the generator, which stays what it is for saving, exporting and tiles. The numbers are the
generator's: up to the order of sums in fp32, up to the rounding of bf16 in bf16.
"""

from __future__ import annotations

import copy
from itertools import product
from typing import Literal, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom import small_maps
from pairloom.devices import has_bf16
from pairloom.graph import ImageNorm, write_norm
from pairloom.images import ImageSpec
from pairloom.layers import BatchNorm
from pairloom.networks import Generator
from pairloom.resnet import ResNet

Precision = Literal["fp32", "bf16"]
Asked = Literal["auto", "fp32", "bf16"]
PRECISIONS = ("auto", "fp32", "bf16")

LARGEST_PRODUCT = {torch.float32: 16, torch.bfloat16: 256}
"""Positions (height x width of the smaller map) up to which a product of matrices is the faster way:
measured, see docs/experiments.md. The batch does not count: the way must not depend on neighbours."""


def choose(precision: str, device: torch.device, target: ImageSpec) -> Precision:
    """What "auto" means: bf16 where a CPU multiplies it faster and the result has 8 bits, else fp32.

    A class of a label map, and a colour made of two channels, may turn over more than a level: fp32.

    Raises:
        ValueError: No such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; use auto, fp32 or bf16.")
    if precision != "auto":
        return "bf16" if precision == "bf16" else "fp32"
    coarse = target.dtype == "uint8" and target.kind in ("intensity", "luminance")
    return "bf16" if coarse and device.type == "cpu" and has_bf16(device) else "fp32"


def can_prepare(generator: nn.Module) -> bool:
    """Not with the statistics of a whole batch: those are the generator's own business."""
    return not any(isinstance(m, BatchNorm) and m.stats == "batch" for m in generator.modules())


class Prepared(nn.Module):
    """G(x, key) as the generator is now; later changes of its weights or norms are not seen."""

    def __init__(self, generator: Generator, precision: Precision) -> None:
        """Make it.

        Args:
            generator: In eval mode, its norm_stats set and not "batch"; not changed.
            precision: bf16: all layers but the last, whose product and tanh stay fp32, as norms' sums do.
        """
        super().__init__()
        self.alone = precision == "bf16"
        inner = torch.bfloat16 if precision == "bf16" else torch.float32
        tensors = [*generator.parameters(), *generator.buffers()]
        net = copy.deepcopy(
            generator, {id(tensor): tensor for tensor in tensors}
        )  # the layers, not the weights
        kept = set((net.last if isinstance(net, ResNet) else net.ups[-1]).modules())
        for layer in list(net.modules()):
            if isinstance(getattr(layer, "norm", None), nn.Module):
                write_norm(layer)
                if isinstance(layer.norm, ImageNorm):
                    layer.norm = _ImageNorm(layer.norm)
        for layer in list(net.modules()):
            for name, child in list(layer.named_children()):
                dtype = torch.float32 if child in kept else inner
                if child in kept and _Subpixel.suits(child):
                    setattr(layer, name, _Subpixel(child))
                elif isinstance(child, nn.Conv2d | nn.ConvTranspose2d) and layer is not net:
                    setattr(layer, name, _Convolution(child, dtype))
        self.net = net.eval().requires_grad_(False)

    def forward(self, x: Tensor, key: int | None) -> Tensor:
        """Translate; shapes and units as the generator's.

        In bf16 each image by itself: other kernels for other batches round in other ways, and a rounding of
        bf16 would show.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        if self.alone and len(x) > 1:
            return torch.cat([self.net(one, key) for one in torch.split(x, 1)])
        y_hat: Tensor = self.net(x, key)
        return y_hat


class _ImageNorm(ImageNorm):
    """The same for a single image in one pass, in any precision; its sums are fp32."""

    def __init__(self, norm: ImageNorm) -> None:
        super().__init__(norm.weight, norm.bias, norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise. Shapes: (N, C, H, W) -> same."""
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class _Convolution(nn.Module):
    """A convolution whose weights lie as its kernels want them; it casts what it is given."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        memory = torch.channels_last
        conv.weight = nn.Parameter(conv.weight.detach().to(dtype, memory_format=memory), requires_grad=False)
        if conv.bias is not None:
            conv.bias = nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Convolve. Shapes: (N, C, H, W) -> (N, C', H', W')."""
        x = x.to(self.dtype)
        if small_maps.smaller_map(x, self.conv) <= LARGEST_PRODUCT[self.dtype] and x.device.type == "cpu":
            return small_maps.prepared(x, self.conv)
        y: Tensor = self.conv(x)
        return y


class _Subpixel(nn.Module):
    """A doubling to a few channels as one 3x3 convolution: the four pixels made of each are its channels.

    More multiplications, but a kernel for images instead of one for gradients; 16 channels fill its vectors.
    Source: Shi et al., arXiv 1609.05158, for the idea.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.channels = 4 * conv.out_channels
        weight = conv.weight.new_zeros(16, conv.in_channels, 3, 3)
        # Pixel 2i + p is made of input i - 1 + p by the kernel's row 3 - p, and of i + p by 1 - p.
        taps = conv.weight.detach().transpose(0, 1).flip(2, 3)
        for p, q in product(range(2), repeat=2):
            weight[2 * p + q : self.channels : 4, :, p : p + 2, q : q + 2] = taps[:, :, p::2, q::2]
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().view(1, -1, 1, 1))

    @staticmethod
    def suits(conv: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
        """Is it a doubling of 4x4 taps to at most 4 channels, on a CPU?"""
        if not isinstance(conv, nn.ConvTranspose2d) or conv.kernel_size != (4, 4):
            return False
        return conv.out_channels <= 4 and conv.weight.device.type == "cpu"

    def forward(self, x: Tensor) -> Tensor:
        """Convolve. Shapes: (N, C, H, W) -> (N, C', 2H, 2W)."""
        y = F.pixel_shuffle(F.conv2d(x, self.weight, padding=1)[:, : self.channels], 2)
        return y if self.bias is None else y + self.bias
