"""Strided convolutions on small maps as matrix products: the deep levels of the U-Net, in bf16 on a CPU.

At 8x8 and below a 4x4 convolution of 512 channels multiplies a large matrix by a few columns. What such a
layer costs is the way of its weights through memory, and a convolution kernel moves them several times: cast,
reordered into its own blocks for the forward pass, for both backward passes, and the gradient back again.
Here each is read once and written once: the cast and the order that the product wants are one copy.

The levels at 16x16 and below hold 46 of the 54 million parameters of U-Net-256. The numbers are those of the
convolution up to rounding: products of bf16, sums in fp32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_PRODUCT = 256
"""Positions (batch x height x width of the smaller map) up to which the product is the faster way: measured,
see docs/experiments.md."""


def suits(x: Tensor, conv: nn.Module) -> bool:
    """Whether a layer is to go this way: training in bf16 on a CPU, and the map is small."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return False
    return len(x) * smaller_map(x, conv) <= LARGEST_PRODUCT


def smaller_map(x: Tensor, conv: nn.Module) -> float:
    """Positions (height x width) of the smaller of a layer's two maps; infinite where no product is known."""
    height, width = x.shape[-2:]
    if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or conv.kernel_size != (4, 4):
        return math.inf
    if isinstance(conv, nn.ConvTranspose2d):
        return height * width
    return height * width // 4 if conv.stride == (2, 2) and height % 2 == width % 2 == 0 else math.inf


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


# In comments below: M positions of the smaller map; C input and O output channels.


class _Strided(torch.autograd.Function):
    """y (M, O) = patches (M, 16 C) times weight (16 C, O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        n, _, height, width = x.shape
        taps = _taps(height, width)
        patches = _strided_patches(_last(x).bfloat16(), taps)
        matrix = strided_matrix(weight, taps, torch.bfloat16)
        ctx.save_for_backward(patches, matrix)
        ctx.taps, ctx.shapes, ctx.dtype = taps, (x.shape, weight.shape), x.dtype
        y = patches @ matrix.t()
        return _first(y.view(n, height // 2, width // 2, -1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        patches, matrix = ctx.saved_tensors
        (n, c, height, width), (o, _, _, _) = ctx.shapes
        rows, columns = ctx.taps
        g = _last(gradients[0]).reshape(-1, o).bfloat16()
        whole = (rows, columns) == (slice(0, 4), slice(0, 4))
        g_weight = (torch.empty if whole else torch.zeros)(o, 4, 4, c)
        g_weight[:, rows, columns] = (g.t() @ patches).view(o, rows.stop - rows.start, -1, c)
        if not ctx.needs_input_grad[0]:
            return None, _first(g_weight)
        g_patches = (g @ matrix).view(n, height // 2, width // 2, rows.stop - rows.start, -1, c)
        g_x = torch.zeros(n, height + 2, width + 2, c)
        for i, ky in enumerate(range(rows.start, rows.stop)):
            for j, kx in enumerate(range(columns.start, columns.stop)):
                g_x[:, ky : ky + height : 2, kx : kx + width : 2] += g_patches[:, :, :, i, j]
        return _first(g_x[:, 1:-1, 1:-1].to(ctx.dtype)), _first(g_weight)


class _Transposed(torch.autograd.Function):
    """y (4, M, O) = patches (4, M, 4 C) times weight (4, 4 C, O): one product a parity of output pixels.

    Each parity sees 2x2 inputs, of a 1x1 map only the one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        n, _, height, width = x.shape
        taps = parity_taps(height, width)
        patches = _parity_patches(_last(x).bfloat16(), taps)
        matrix = transposed_matrix(weight, taps, torch.bfloat16)
        ctx.save_for_backward(patches, matrix)
        ctx.taps, ctx.shapes, ctx.dtype = taps, (x.shape, weight.shape), x.dtype
        return _interleaved(torch.bmm(patches, matrix), n, height, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        patches, matrix = ctx.saved_tensors
        (n, c, height, width), (_, o, _, _) = ctx.shapes
        g = _last(gradients[0]).bfloat16().reshape(n, height, 2, width, 2, o)
        g = g.permute(2, 4, 0, 1, 3, 5).reshape(4, -1, o)
        count = len(ctx.taps[0])
        g_matrix = torch.bmm(patches.transpose(1, 2), g).view(4, count, c, o)
        g_weight = (torch.empty if count == 4 else torch.zeros)(c, 4, 4, o)
        g_patches = None
        g_x = torch.zeros(n, height + 2, width + 2, c)
        if ctx.needs_input_grad[0]:
            g_patches = torch.bmm(g, matrix.transpose(1, 2)).view(4, n, height, width, count, c)
        for parity, kernel in enumerate(ctx.taps):
            for i, (ky, kx, top, left) in enumerate(kernel):
                g_weight[:, ky, kx] = g_matrix[parity, i]
                if g_patches is not None:
                    g_x[:, top : top + height, left : left + width] += g_patches[parity, :, :, :, i]
        inner = None if g_patches is None else _first(g_x[:, 1:-1, 1:-1].to(ctx.dtype))
        return inner, _first(g_weight)


class Prepared:
    """A convolution for inference on small maps: what the product multiplies by is put in order once.

    Which taps of the kernel see a map depends on its sides, so the matrices are made when first needed.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        self._conv = conv
        self._matrices: dict[tuple[bool, bool], Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """What `conv(x)` is. Shapes: (N, C, H, W) -> (N, C', H', W'), channels_last."""
        n, _, height, width = x.shape
        if isinstance(self._conv, nn.ConvTranspose2d):
            parities, seen = parity_taps(height, width), (height == 1, width == 1)
            if seen not in self._matrices:
                self._matrices[seen] = transposed_matrix(self._conv.weight, parities, x.dtype)
            patches = _parity_patches(_last(x), parities)
            y = _interleaved(torch.bmm(patches, self._matrices[seen]), n, height, width)
        else:
            taps, seen = _taps(height, width), (height == 2, width == 2)
            if seen not in self._matrices:
                self._matrices[seen] = strided_matrix(self._conv.weight, taps, x.dtype)
            patches = _strided_patches(_last(x), taps)
            y = _first((patches @ self._matrices[seen].t()).view(n, height // 2, width // 2, -1))
        return y if self._conv.bias is None else y + self._conv.bias.view(1, -1, 1, 1)


def strided_matrix(weight: Tensor, taps: tuple[slice, slice], dtype: torch.dtype) -> Tensor:
    """Of a convolution. Shapes: (O, C, 4, 4) -> (O, taps C)."""
    return _last(weight)[:, taps[0], taps[1]].to(dtype).reshape(len(weight), -1)


def transposed_matrix(weight: Tensor, taps: list[list[Tap]], dtype: torch.dtype) -> Tensor:
    """Of a transposed convolution. Shapes: (C, O, 4, 4) -> (4, taps C, O)."""
    c, o = weight.shape[:2]
    matrix = torch.empty(4, len(taps[0]), c, o, dtype=dtype)
    for parity, kernel in enumerate(taps):
        for i, (ky, kx, _, _) in enumerate(kernel):
            matrix[parity, i] = weight[:, :, ky, kx]
    return matrix.view(4, -1, o)


def _interleaved(y: Tensor, n: int, height: int, width: int) -> Tensor:
    """The four parities as one map. Shapes: (4, N H W, C) -> (N, C, 2H, 2W)."""
    y = y.view(2, 2, n, height, width, -1).permute(2, 3, 0, 4, 1, 5)
    return _first(y.reshape(n, 2 * height, 2 * width, -1))


def _last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), channels_last."""
    return x.permute(0, 3, 1, 2)


def _taps(height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of the kernel that ever see the map: of a side of 2 only the middle two."""
    middle, all_four = slice(1, 3), slice(0, 4)
    return middle if height == 2 else all_four, middle if width == 2 else all_four


def _strided_patches(x: Tensor, taps: tuple[slice, slice]) -> Tensor:
    """(N, H, W, C) -> (M, taps C)."""
    (down, across) = (taps[0].stop - taps[0].start, taps[1].stop - taps[1].start)
    top, left = down // 2 - 1, across // 2 - 1  # what stands outside the map is seen by 4 taps, not by 2
    padded = nn.functional.pad(x, (0, 0, left, left, top, top)) if top or left else x
    windows = padded.unfold(1, down, 2).unfold(2, across, 2)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, down * across * x.shape[3])


Tap = tuple[int, int, int, int]
"""Row and column in the kernel, and where in the padded map its window begins."""


def parity_taps(height: int, width: int) -> list[list[Tap]]:
    """Of each parity of an output pixel, (even, even), (even, odd), ..., the taps that ever see the map.

    Output 2i + p takes input i - 1 + p by kernel row 3 - p, and input i + p by 1 - p.
    """

    def along(parity: int, side: int) -> list[tuple[int, int]]:
        both = [(3 - parity, parity), (1 - parity, parity + 1)]
        return both if side > 1 else [tap for tap in both if tap[1] == 1]

    return [
        [(ky, kx, top, left) for ky, top in along(p, height) for kx, left in along(q, width)]
        for p in (0, 1)
        for q in (0, 1)
    ]


def _parity_patches(x: Tensor, taps: list[list[Tap]]) -> Tensor:
    """(N, H, W, C) -> (4, M, taps C)."""
    n, height, width, c = x.shape
    padded = nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    patches = x.new_empty(4, n, height, width, len(taps[0]), c)
    for parity, kernel in enumerate(taps):
        for i, (_, _, top, left) in enumerate(kernel):
            patches[parity, :, :, :, i] = padded[:, top : top + height, left : left + width]
    return patches.view(4, n * height * width, -1)
