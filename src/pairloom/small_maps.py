"""Strided convolutions on small maps as matrix products: the deep levels of the U-Net, in bf16 on a CPU.

At 8x8 and below a 4x4 convolution of 512 channels multiplies a large matrix by a few columns. What such a
layer costs is the way of its weights through memory, and a convolution kernel moves them several times: cast,
reordered into its own blocks for the forward pass, for both backward passes, and the gradient back again.
Here each is read once and written once, in the order in which it lies.

A convolution and a transposed one multiply by the same matrix. It leads from the 4x4 patches of the larger
map to the pixels of the smaller one; its transpose leads back, to patches that are laid over each other and
added. The backward pass of one is the forward pass of the other.

The levels at 16x16 and below hold 46 of the 54 million parameters of U-Net-256. The numbers are those of the
convolution up to rounding: products of bf16, sums in fp32.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGEST_PRODUCT = 256
"""Positions (batch x height x width of the smaller map) up to which the product is the faster way: measured,
see docs/experiments.md."""
FEW = 16
"""Positions up to which a weight's gradient is bound by memory, so that fp32 costs nothing: measured."""

Shape: TypeAlias = torch.Size
"""Of a map: N, C, H, W."""


def suits(x: Tensor, conv: nn.Module) -> bool:
    """Whether a layer is to go this way: training in bf16 on a CPU, and the map is small."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():  # which would take apart what is one operation here
        return False
    return len(x) * smaller_map(x, conv) <= LARGEST_PRODUCT


def smaller_map(x: Tensor, conv: nn.Module) -> float:
    """Positions (height x width) of the smaller of a layer's two maps; infinite where no product is known."""
    height, width = x.shape[-2:]
    if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or not _halves_or_doubles(conv):
        return math.inf
    if isinstance(conv, nn.ConvTranspose2d):
        return height * width
    return height * width // 4 if height % 2 == width % 2 == 0 else math.inf


def _halves_or_doubles(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """The one geometry that is known here: the paper's 4x4, stride 2, a border of one zero."""
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.output_padding
    plain = conv.groups == 1 and conv.padding_mode == "zeros"
    return plain and geometry == ((4, 4), (2, 2), (1, 1), (1, 1), (0, 0))


def convolved(x: Tensor, conv: nn.Module) -> Tensor:
    """What `conv(x)` is, whichever way is the faster.

    Shapes: (N, C, H, W) -> (N, C', H', W').
    """
    if not suits(x, conv):
        whole: Tensor = conv(x)
        return whole
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    product = _Transposed if isinstance(conv, nn.ConvTranspose2d) else _Strided
    y: Tensor = product.apply(x, conv.weight)  # type: ignore[no-untyped-call]
    return y if conv.bias is None else y + conv.bias.to(y.dtype).view(1, -1, 1, 1)


def prepared(x: Tensor, conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """What `conv(x)` is, for inference, x and the weights in one precision.

    Shapes: (N, C, H, W) -> (N, C', H', W'), channels_last.
    """
    if isinstance(conv, nn.ConvTranspose2d):
        y = _doubled(_pixels(x), conv.weight, x.shape)[0].to(x.dtype)
    else:
        y = _halved(x, conv.weight)[0]
    return y if conv.bias is None else y + conv.bias.view(1, -1, 1, 1)


# In what follows: M positions of the smaller map; S channels of the smaller and L of the larger map; T taps.


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        y, *kept = _halved(x.bfloat16(), weight)
        ctx.save_for_backward(*kept)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        patches, matrix = ctx.saved_tensors
        g = _pixels(gradients[0].bfloat16())
        g_weight = _weight_gradient(g, patches, ctx.shape)
        if not ctx.needs_input_grad[0]:
            return None, g_weight
        return _laid_over(g @ matrix, ctx.shape).to(ctx.dtype), g_weight


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        pixels = _pixels(x.bfloat16())
        y, matrix = _doubled(pixels, weight, x.shape)
        ctx.save_for_backward(pixels, matrix)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return y.bfloat16()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        pixels, matrix = ctx.saved_tensors
        g = gradients[0].bfloat16()
        patches = _patches(g)
        g_weight = _weight_gradient(pixels, patches, g.shape)
        if not ctx.needs_input_grad[0]:
            return None, g_weight
        n, _, height, width = ctx.shape
        return _map(patches @ matrix.t(), n, height, width).to(ctx.dtype), g_weight


def _halved(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A convolution, and what it multiplied.

    Shapes: (N, L, H, W) -> (N, S, H/2, W/2), (M, T L), (S, T L).
    """
    n, _, height, width = x.shape
    patches, matrix = _patches(x), _matrix(weight, x.shape, x.dtype)
    return _map(patches @ matrix.t(), n, height // 2, width // 2), patches, matrix


def _doubled(pixels: Tensor, weight: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """A transposed convolution of a map of that shape, and what it multiplied by.

    Shapes: (M, S) -> (N, L, 2H, 2W), float32, (S, T L).
    """
    n, _, height, width = shape
    larger = torch.Size((n, weight.shape[1], 2 * height, 2 * width))
    matrix = _matrix(weight, larger, pixels.dtype)
    return _laid_over(pixels @ matrix, larger), matrix


def _cells(larger: Shape) -> tuple[int, int]:
    """How many cells of 2x2 pixels a patch has, down and across: two; of a side of 2 pixels one.

    There only the middle two taps of the kernel ever see the map.
    """
    height, width = larger[-2:]
    return 1 if height == 2 else 2, 1 if width == 2 else 2


def _matrix(weight: Tensor, larger: Shape, dtype: torch.dtype) -> Tensor:
    """Shapes: (S, L, 4, 4), channels_last -> (S, T L): as it lies in memory."""
    down, across = _cells(larger)
    seen = _last(weight)[:, 2 - down : 2 + down, 2 - across : 2 + across]
    return seen.to(dtype).reshape(len(weight), -1)


def _weight_gradient(pixels: Tensor, patches: Tensor, larger: Shape) -> Tensor:
    """Shapes: (M, S), (M, T L) -> (S, L, 4, 4), float32, channels_last."""
    if len(pixels) <= FEW:
        pixels, patches = pixels.float(), patches.float()
    down, across = _cells(larger)
    g = (pixels.t().contiguous() @ patches).float().view(pixels.shape[1], 2 * down, 2 * across, -1)
    if (down, across) == (2, 2):
        return _first(g)
    whole = g.new_zeros(len(g), 4, 4, g.shape[3])
    whole[:, 2 - down : 2 + down, 2 - across : 2 + across] = g
    return _first(whole)


def _patches(x: Tensor) -> Tensor:
    """What each position of the smaller map sees. Shapes: (N, L, H, W) -> (M, T L)."""
    down, across = _cells(x.shape)
    padded = nn.functional.pad(_last(x), (0, 0, across - 1, across - 1, down - 1, down - 1))
    windows = padded.unfold(1, 2 * down, 2).unfold(2, 2 * across, 2)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 4 * down * across * x.shape[1])


def _laid_over(patches: Tensor, larger: Shape) -> Tensor:
    """Patches added where they overlap, each a cell further. Shapes: (M, T L) -> (N, L, H, W), float32."""
    n, channels, height, width = larger
    h, w, down, across = height // 2, width // 2, *_cells(larger)
    cells = patches.view(n, h, w, down, 2, across, 2, channels).permute(0, 3, 5, 1, 4, 2, 6, 7)
    y = patches.new_zeros(n, h + down - 1, 2, w + across - 1, 2, channels, dtype=torch.float32)
    for i in range(down):
        for j in range(across):
            y[:, i : i + h, :, j : j + w] += cells[:, i, j]
    y = y.view(n, height + 2 * down - 2, width + 2 * across - 2, channels)
    return _first(y[:, down - 1 : down - 1 + height, across - 1 : across - 1 + width])


def _pixels(x: Tensor) -> Tensor:
    """(N, S, H, W) -> (M, S)."""
    return _last(x).reshape(-1, x.shape[1])


def _map(pixels: Tensor, n: int, height: int, width: int) -> Tensor:
    """(M, S) -> (N, S, H, W)."""
    return _first(pixels.view(n, height, width, -1))


def _last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), channels_last."""
    return x.permute(0, 3, 1, 2)
