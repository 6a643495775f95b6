"""How a layer reaches into the map before it, along rows and columns, and its result on any window.

A kernel asked for a window pads only where the whole map ends: so a window holds what the same place of the
whole map holds, wherever it lies and whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Span: TypeAlias = tuple[int, int]
"""First row or column, and the one after the last."""
Window: TypeAlias = tuple[Span, Span]
"""Rows and columns."""


def extent(span: Span) -> int:
    """How many rows or columns."""
    return span[1] - span[0]


def area(window: Window) -> int:
    """How many positions."""
    return extent(window[0]) * extent(window[1])


def hull(a: Span, b: Span) -> Span:
    """The shortest span that holds both."""
    return min(a[0], b[0]), max(a[1], b[1])


def framed(x: Tensor, have: Window, want: Window) -> Tensor:
    """The values of a window out of another: a view where they are there, zeros where it reaches outside.

    Shapes: (N, C, *have) -> (N, C, *want).
    """
    (top, bottom), (left, right) = ((w[0] - h[0], h[1] - w[1]) for h, w in zip(have, want, strict=True))
    height, width = x.shape[-2:]
    x = x[..., max(top, 0) : height - max(bottom, 0), max(left, 0) : width - max(right, 0)]
    padding = [max(-side, 0) for side in (left, right, top, bottom)]
    return F.pad(x, padding) if any(padding) else x


class Kernel(Protocol):
    """How a step reaches into its input, along either axis alike."""

    def needs(self, wanted: Span, size: int) -> Span:
        """What of an input of `size` rows a span of the result depends on."""

    def counted(self, wanted: Span, size: int) -> int:
        """How many rows of `macs` it costs."""

    def __call__(self, x: Tensor, have: Window, want: Window, sizes: tuple[int, int]) -> Tensor:
        """The window `want` of the result from the window `have` of the input, whose map has `sizes`."""


@dataclass(frozen=True)
class Convolution:
    """A convolution that pads with zeros, or by reflection, where the map ends."""

    conv: nn.Conv2d
    reflect: int = 0

    @property
    def _geometry(self) -> tuple[int, int, int]:
        padding = self.reflect or int(self.conv.padding[0])
        return self.conv.kernel_size[0], self.conv.stride[0], padding

    def _reaches(self, wanted: Span) -> Span:
        kernel, stride, padding = self._geometry
        first = wanted[0] * stride - padding
        return first, first + (extent(wanted) - 1) * stride + kernel

    def needs(self, wanted: Span, size: int) -> Span:
        """Mirrored where it reaches over a border that reflects."""
        first, end = self._reaches(wanted)
        if not self.reflect:
            return max(first, 0), min(end, size)
        mirrored = [_mirror(i, size) for i in (first, end - 1)]
        turns = [i for i in (0, size - 1) if first <= i < end]
        return min(mirrored + turns), max(mirrored + turns) + 1

    def counted(self, wanted: Span, size: int) -> int:
        """Of the result."""
        return extent(wanted)

    def __call__(self, x: Tensor, have: Window, want: Window, sizes: tuple[int, int]) -> Tensor:
        """Convolve. Shapes: (N, C, *have) -> (N, C', *want)."""
        reach = self._reaches(want[0]), self._reaches(want[1])
        if self.reflect:
            for axis in (0, 1):
                at = [_mirror(i, sizes[axis]) - have[axis][0] for i in range(*reach[axis])]
                if at != list(range(x.shape[axis + 2])):
                    x = x.index_select(axis + 2, torch.tensor(at, device=x.device))
        else:
            x = framed(x, have, reach)
        return F.conv2d(x, self.conv.weight, self.conv.bias, stride=self.conv.stride)


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution that doubles: 4x4, or 3x3 with one row more at the end."""

    conv: nn.ConvTranspose2d

    def needs(self, wanted: Span, size: int) -> Span:
        """An input i reaches the results 2i - 1 to 2i - 2 + kernel."""
        kernel = self.conv.kernel_size[0]
        return max((wanted[0] + 3 - kernel) // 2, 0), min(wanted[1] // 2 + 1, size)

    def counted(self, wanted: Span, size: int) -> int:
        """Of the input: each of its values meets the whole kernel once."""
        return extent(self.needs(wanted, size))

    def __call__(self, x: Tensor, have: Window, want: Window, sizes: tuple[int, int]) -> Tensor:
        """Convolve. Shapes: (N, C, *have) -> (N, C', *want)."""
        y: Tensor = self.conv(x)
        rows, columns = ((2 * span[0], 2 * span[1]) for span in have)
        return framed(y, (rows, columns), want)


@dataclass(frozen=True)
class Resized:
    """Each value repeated to 2x2, then a 3x3 convolution."""

    conv: nn.Conv2d

    def needs(self, wanted: Span, size: int) -> Span:
        """Half of one more to each side."""
        return max((wanted[0] - 1) // 2, 0), min(wanted[1] // 2 + 1, size)

    def counted(self, wanted: Span, size: int) -> int:
        """Of the result."""
        return extent(wanted)

    def __call__(self, x: Tensor, have: Window, want: Window, sizes: tuple[int, int]) -> Tensor:
        """Repeat, then convolve. Shapes: (N, C, *have) -> (N, C', *want)."""
        x = F.interpolate(x, scale_factor=2)
        rows, columns = ((2 * span[0], 2 * span[1]) for span in have)
        reach_rows, reach_columns = ((span[0] - 1, span[1] + 1) for span in want)
        x = framed(x, (rows, columns), (reach_rows, reach_columns))
        return F.conv2d(x, self.conv.weight, self.conv.bias)


@dataclass(frozen=True)
class Pointwise:
    """Nothing but a sum: a residual block's end."""

    def needs(self, wanted: Span, size: int) -> Span:
        """The same."""
        return wanted

    def counted(self, wanted: Span, size: int) -> int:
        """Nothing that is multiplied."""
        return 0

    def __call__(self, x: Tensor, have: Window, want: Window, sizes: tuple[int, int]) -> Tensor:
        """As it is."""
        return x


def _mirror(index: int, size: int) -> int:
    """Reflection at both ends, the end itself not repeated."""
    period = max(2 * (size - 1), 1)
    index %= period
    return min(index, period - index) if size > 1 else 0
