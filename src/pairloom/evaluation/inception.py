"""Inception-v3 as the Frechet inception distance knows it: TensorFlow's graph of 5 December 2015.

It differs from torchvision's Inception-v3 in its pooling: averages leave the zeros at the border out, and the
very last block takes maxima. The names of its modules, and so of its tensors, are those of the public file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom.evaluation.trunks import Frozen, check_images, load_public

Pool = Callable[[Tensor], Tensor]


def _average(x: Tensor) -> Tensor:
    """Mean of the 3 x 3 neighbours that lie inside the image."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    """Largest of the 3 x 3 neighbours."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _halved(x: Tensor) -> Tensor:
    """Largest of 3 x 3, at every second position, without padding."""
    return F.max_pool2d(x, 3, stride=2)


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU. Where the stride is 1 the size is kept, unless valid."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        valid: bool = False,
    ) -> None:
        super().__init__()
        padding = (0, 0) if valid or stride > 1 else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C', h, w)."""
        return F.relu(self.bn(self.conv(x)))


class BlockA(nn.Module):
    """1x1, 5x5, and two 3x3 convolutions beside an average."""

    def __init__(self, c_in: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(c_in, 64)
        self.branch5x5_1 = Conv(c_in, 48)
        self.branch5x5_2 = Conv(48, 64, (5, 5))
        self.branch3x3dbl_1 = Conv(c_in, 64)
        self.branch3x3dbl_2 = Conv(64, 96, (3, 3))
        self.branch3x3dbl_3 = Conv(96, 96, (3, 3))
        self.branch_pool = Conv(c_in, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """Halves the sides by 3x3 convolutions and by a maximum."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(c_in, 384, (3, 3), stride=2)
        self.branch3x3dbl_1 = Conv(c_in, 64)
        self.branch3x3dbl_2 = Conv(64, 96, (3, 3))
        self.branch3x3dbl_3 = Conv(96, 96, (3, 3), stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C + 480, (H - 1) // 2, (W - 1) // 2)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _halved(x)], 1)


class BlockC(nn.Module):
    """7x7 convolutions as pairs of 1x7 and 7x1, beside an average."""

    def __init__(self, c_in: int, narrow: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(c_in, 192)
        self.branch7x7_1 = Conv(c_in, narrow)
        self.branch7x7_2 = Conv(narrow, narrow, (1, 7))
        self.branch7x7_3 = Conv(narrow, 192, (7, 1))
        self.branch7x7dbl_1 = Conv(c_in, narrow)
        self.branch7x7dbl_2 = Conv(narrow, narrow, (7, 1))
        self.branch7x7dbl_3 = Conv(narrow, narrow, (1, 7))
        self.branch7x7dbl_4 = Conv(narrow, narrow, (7, 1))
        self.branch7x7dbl_5 = Conv(narrow, 192, (1, 7))
        self.branch_pool = Conv(c_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, 768, H, W)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """Halves the sides a second time."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(c_in, 192)
        self.branch3x3_2 = Conv(192, 320, (3, 3), stride=2)
        self.branch7x7x3_1 = Conv(c_in, 192)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, (3, 3), stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C + 512, (H - 1) // 2, (W - 1) // 2)."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, _halved(x)], 1)


class BlockE(nn.Module):
    """3x3 convolutions that part into 1x3 and 3x1, beside a pooling that differs between the two of them."""

    def __init__(self, c_in: int, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(c_in, 320)
        self.branch3x3_1 = Conv(c_in, 384)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(c_in, 448)
        self.branch3x3dbl_2 = Conv(448, 384, (3, 3))
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(c_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, 2048, H, W)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(parts, 1)


class Inception(Frozen):
    """Inception-v3 of the Frechet inception distance, up to its pooled features.

    Source: Szegedy et al. 2016 (arXiv 1512.00567), section 6; TensorFlow's graph inception-2015-12-05, which
    Heusel et al. 2017 used; names and pooling: mseitzer/pytorch-fid, pytorch_fid/inception.py.
    """

    DIM = 2048
    """Of the pooled features."""
    LEAST_PX = 75
    """Side of the smallest image that leaves the last map one position; the features expect 299 px."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, (3, 3), valid=True)
        self.Conv2d_2b_3x3 = Conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, (3, 3), valid=True)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, _average)
        self.Mixed_7c = BlockE(2048, _largest)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the last block, averaged over all positions.

        Shapes: x (N, 3, H, W), at least 75 px a side -> (N, 2048).
        Units: x [-1, 1] -> 0 and above.

        Raises:
            TrunkError: x is of another shape, or too small.
        """
        check_images(x, least_px=self.LEAST_PX)
        x = (x * 127.5 - 0.5) / 128.0  # that is ((x + 1) * 127.5 - 128) / 128
        x = _halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return features.mean((2, 3))

    @classmethod
    def pretrained(cls, folder: Path) -> Inception:
        """With the public weights in that folder.

        Raises:
            TrunkError: The file is absent, damaged, or of another network.
        """
        url = (
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth"
        )
        return load_public(cls, folder, "*inception-2015-12-05-*.pth", url, unused="fc.")
