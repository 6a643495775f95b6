"""The other generator: two halvings, residual blocks, two doublings.

Source: Johnson et al., arXiv 1603.08155, as CycleGAN (Zhu et al., arXiv 1703.10593, appendix 7.2) lists it:
c7s1-64, d128, d256, R256 x 6 or 9, u128, u64, c7s1-3, with reflection padding. Not of the pix2pix paper.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom.activations import part
from pairloom.layers import Dropout, NormName, NormStats, gaussian_z, make_norm, set_norm_stats

STRIDE = 4
LEAST_SIDE = 8
"""Below it the blocks' maps are 1 px wide: nothing to reflect, and no variance to normalise by."""


class Layer(nn.Module):
    """Convolution - Norm - ReLU (or none); a 7x7 or 3x3 of stride 1 reflects the image at its borders."""

    def __init__(
        self, c_in: int, c_out: int, norm: NormName, *, kernel: int = 3, stride: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.relu, self.reflect = relu, kernel // 2 if stride == 1 else 0
        padding = 0 if self.reflect else 1
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, bias=norm != "batch")
        self.norm = make_norm(norm, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve. Shapes: (N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y: Tensor = self.norm(self.conv(reflected(x, self.reflect) if self.reflect else x))
        return F.relu(y) if self.relu else y


class Block(nn.Module):
    """Rk: x + two 3x3 layers of x, with dropout between them where it is the z."""

    def __init__(self, width: int, norm: NormName, dropout: Dropout | None) -> None:
        super().__init__()
        self.first = Layer(width, width, norm)
        self.dropout = dropout
        self.second = Layer(width, width, norm, relu=False)

    def forward(self, x: Tensor, key: int | None) -> Tensor:
        """Add the residue. Shapes: (N, C, H, W) -> same."""
        h = self.first(x)
        if self.dropout is not None:
            h = self.dropout(h, key)
        y: Tensor = x + self.second(h)
        return y


class Up(nn.Module):
    """uk, doubling: transposed Convolution 3x3 - Norm - ReLU."""

    def __init__(self, c_in: int, c_out: int, norm: NormName, upsample: str) -> None:
        super().__init__()
        bias = norm != "batch"
        if upsample == "transposed":
            self.conv: nn.Module = nn.ConvTranspose2d(
                c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=bias
            )
        else:
            self.conv = nn.Sequential(
                nn.Upsample(scale_factor=2), nn.Conv2d(c_in, c_out, 3, padding=1, bias=bias)
            )
        self.norm = make_norm(norm, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Decode. Shapes: (N, C, H, W) -> (N, C', 2H, 2W)."""
        return F.relu(self.norm(self.conv(x)))


class ResNet(nn.Module):
    """G(x, z) with residual blocks at a quarter of the resolution; dropout, when it is the z, in every block.

    Source: the module's; biases as in the U-Net: with batch norm only the last layer has one.
    """

    recompute = False
    """While training, keep only what goes from block to block (`activations`)."""

    def __init__(
        self,
        source_channels: int,
        target_channels: int,
        *,
        base_channels: int = 64,
        blocks: int = 9,
        norm: NormName = "batch",
        upsample: Literal["transposed", "resize"] = "transposed",
        z: Literal["dropout", "none", "gaussian"] = "dropout",
        dropout_rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.z = z
        c = base_channels
        self.downs = nn.ModuleList(
            [
                Layer(source_channels + (z == "gaussian"), c, norm, kernel=7),
                Layer(c, 2 * c, norm, stride=2),
                Layer(2 * c, 4 * c, norm, stride=2),
            ]
        )
        self.blocks = nn.ModuleList(
            Block(4 * c, norm, Dropout(dropout_rate, number) if z == "dropout" else None)
            for number in range(1, blocks + 1)
        )
        self.ups = nn.ModuleList([Up(4 * c, 2 * c, norm, upsample), Up(2 * c, c, norm, upsample)])
        self.last = nn.Conv2d(c, target_channels, 7)

    @property
    def stride(self) -> int:
        """Both sides of x must be multiples of this, in pixels."""
        return STRIDE

    @property
    def reach(self) -> int:
        """How far to each side of a pixel of the result the source matters, in pixels, at most.

        Norms with each image's own statistics reach everywhere, and are not counted.
        """
        spans = [self._span(pixel) for pixel in range(STRIDE)]
        return max(max(pixel - first, last - pixel) for pixel, (first, last) in enumerate(spans))

    @property
    def receptive_field(self) -> int:
        """Side of the patch of the source that one pixel of the result sees, in pixels, at most."""
        return max(last - first + 1 for first, last in map(self._span, range(STRIDE)))

    def _span(self, pixel: int) -> tuple[int, int]:
        """First and last column of the source that reach a column of the result, layer by layer backwards."""
        first, last = pixel - 3, pixel + 3
        for up in self.ups:
            if isinstance(up.conv, nn.ConvTranspose2d):  # 2i - 1 <= o <= 2i + 1
                first, last = first // 2, (last + 1) // 2
            else:
                first, last = (first - 1) // 2, (last + 1) // 2
        first, last = first - 2 * len(self.blocks), last + 2 * len(self.blocks)
        for _ in range(2):
            first, last = 2 * first - 1, 2 * last + 1
        return first - 3, last + 3

    def set_norm_stats(self, stats: NormStats) -> None:
        """Choose whose statistics batch norm uses in eval mode."""
        set_norm_stats(self, stats)

    def forward(self, x: Tensor, key: int | None = None) -> Tensor:
        """Translate; arguments, shapes and units as those of the U-Net, whose stride is another.

        Deviation: a side of 4 px is extended to 8 by reflection, and cropped back.
        """
        height, width = x.shape[-2:]
        if min(height, width) < LEAST_SIDE:
            return self.forward(_at_least(x), key)[..., :height, :width]
        h = torch.cat([x, gaussian_z(x, key, training=self.training)], 1) if self.z == "gaussian" else x
        for down in self.downs:
            h = part(self, down, h)
        for block in self.blocks:
            h = part(self, block, h, key)
        for up in self.ups:
            h = part(self, up, h)
        # The last convolution and tanh in fp32, as in the U-Net.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            y_hat: Tensor = torch.tanh(self.last(reflected(h.float(), self.last.kernel_size[0] // 2)))
        return y_hat


def reflected(x: Tensor, width: int) -> Tensor:
    """Extended by `width` pixels on each side, mirrored. Shapes: (N, C, H, W) -> (N, C, H + 2w, W + 2w)."""
    return F.pad(x, (width, width, width, width), mode="reflect")


def _at_least(x: Tensor) -> Tensor:
    """Sides of 4 px extended right and down to LEAST_SIDE, mirrored as often as it takes."""
    missing_y, missing_x = (max(LEAST_SIDE - side, 0) for side in x.shape[-2:])
    while missing_x or missing_y:
        dx, dy = min(missing_x, x.shape[-1] - 1), min(missing_y, x.shape[-2] - 1)
        x = F.pad(x, (0, dx, 0, dy), mode="reflect")
        missing_x, missing_y = missing_x - dx, missing_y - dy
    return x
