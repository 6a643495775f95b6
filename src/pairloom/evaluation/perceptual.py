"""Distances between images as people see them: LPIPS and DISTS, over trunks whose weights the user provides.

Both were fitted to judgements of people. Their small learned parts come with torchmetrics; the trunks,
AlexNet or VGG16, are read from a folder (`alexnet_vgg`), and nothing is ever downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom.evaluation.alexnet_vgg import VGG16, AlexNet
from pairloom.evaluation.trunks import TrunkError, check_images, read_weights


def _learned(name: str) -> dict[str, Tensor]:
    """The learned part of a metric, by its path inside torchmetrics' functional/image."""
    spec = importlib.util.find_spec("torchmetrics")
    assert spec is not None and spec.submodule_search_locations, "torchmetrics is one of our requirements"
    path = Path(next(iter(spec.submodule_search_locations))) / "functional" / "image" / name
    if not path.exists():
        raise TrunkError(
            f"{path}: is not there; this torchmetrics ships no {name}: pip install -U torchmetrics"
        )
    return read_weights(path)


def _as_rgb(output: Tensor, target: Tensor, least_px: int) -> tuple[Tensor, Tensor]:
    """Both as (N, 3, H, W), float32; grey images have three equal channels."""
    if output.shape != target.shape:
        raise TrunkError(
            f"output has shape {tuple(output.shape)} and target {tuple(target.shape)}; "
            "metrics need two equal shapes (N, C, H, W)."
        )
    check_images(output, channels=(1, 3), least_px=least_px)
    size = (-1, 3, -1, -1)
    return output.float().expand(size), target.float().expand(size)


class Lpips(nn.Module):
    """Learned perceptual image patch similarity, version 0.1: a distance, 0 for identical images.

    At each position of each map the features are scaled to length 1, their squared differences weighted a
    channel and summed, and then averaged over positions and summed over maps. AlexNet is its authors' choice
    for evaluation, VGG16 for training: figures of different nets do not compare, so state the net.

    Source: Zhang, Isola, Efros, Shechtman, Wang 2018, equation 1; constants: richzhang/PerceptualSimilarity,
    lpips/__init__.py and lpips/lpips.py; weights of the channels: torchmetrics (from the same repository).
    """

    def __init__(self, weights_dir: Path | str, *, net: Literal["alex", "vgg"] = "alex") -> None:
        """Read the trunk's weights.

        Args:
            weights_dir: The folder with alexnet-owt-*.pth or vgg16-*.pth.
            net: The trunk.

        Raises:
            TrunkError: The trunk's file is absent, damaged, or of another network.
        """
        super().__init__()
        self.trunk = (AlexNet if net == "alex" else VGG16).pretrained(Path(weights_dir))
        self.name = f"LPIPS v0.1 ({'AlexNet' if net == 'alex' else 'VGG16'})"
        heads = _learned(f"lpips_models/{net}.pth")
        for i in range(len(self.trunk.CHANNELS)):
            self.register_buffer(f"weight{i}", heads[f"lin{i}.model.1.weight"].float())

    @torch.no_grad()
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The distance of each output to its target.

        Shapes: output, target (N, 1 or 3, H, W), at least 31 px a side (VGG16: 16) -> (N,).
        Units: images [-1, 1]; the result is 0 and above, mostly below 1.

        Raises:
            TrunkError: The shapes differ, the channels are neither 1 nor 3, or a side is too short.
        """
        images = _as_rgb(output, target, self.trunk.LEAST_PX)
        total = torch.zeros(len(output), device=output.device)
        for i, (a, b) in enumerate(zip(*(self.trunk.maps(x) for x in images), strict=True)):
            # 1x1 convolutions to one channel, without bias.
            weight = self.get_buffer(f"weight{i}")
            total += F.conv2d((_unit(a) - _unit(b)).square(), weight).mean((1, 2, 3))
        return total


def _unit(features: Tensor) -> Tensor:
    """Each position's features scaled to length 1; all zero stays zero."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


class Dists(nn.Module):
    """Deep image structure and texture similarity, as a distance: 0 for identical images.

    The image itself and five maps of VGG16, whose pooling is the root of a blurred square, are compared a
    channel by their means (texture) and their covariance over the whole image (structure).

    Source: Ding, Ma, Wang, Simoncelli 2020 (arXiv 2004.07728); constants: dingkeyan93/DISTS, DISTS_pt.py;
    weights of the channels: torchmetrics (from the same repository).
    Deviation: its authors' command shrinks the shorter side to 256 px first; here images stay as they are.
    """

    name = "DISTS (VGG16)"
    LEAST_PX = VGG16.LEAST_PX

    def __init__(self, weights_dir: Path | str) -> None:
        """Read the trunk's weights.

        Args:
            weights_dir: The folder with vgg16-*.pth.

        Raises:
            TrunkError: The trunk's file is absent, damaged, or of another network.
        """
        super().__init__()
        self.trunk = VGG16.pretrained(Path(weights_dir))
        weights = _learned("dists_models/weights.pt")
        total = weights["alpha"].sum() + weights["beta"].sum()
        self.register_buffer("alpha", weights["alpha"].float().flatten() / total)
        self.register_buffer("beta", weights["beta"].float().flatten() / total)

    @torch.no_grad()
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The distance of each output to its target.

        Shapes: output, target (N, 1 or 3, H, W), at least 16 px a side -> (N,).
        Units: images [-1, 1]; the result is 0 to 1, in rare cases above.

        Raises:
            TrunkError: The shapes differ, the channels are neither 1 nor 3, or a side is too short.
        """
        images = _as_rgb(output, target, self.LEAST_PX)
        texture, structure = [], []
        # The image itself counts on the scale from 0 to 1.
        for a, b in zip(*([(x + 1) / 2, *self.trunk.maps(x, pool=_l2_pool)] for x in images), strict=True):
            mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
            a, b = a - mean_a[..., None, None], b - mean_b[..., None, None]
            variances = a.square().mean((2, 3)) + b.square().mean((2, 3))
            covariance = (a * b).mean((2, 3))
            texture.append((2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6))
            structure.append((2 * covariance + 1e-6) / (variances + 1e-6))
        # The weights sum to 1, so this is 1 - similarity, and exactly 0 for identical images.
        return (1 - torch.cat(texture, 1)) @ self.get_buffer("alpha") + (
            1 - torch.cat(structure, 1)
        ) @ self.get_buffer("beta")


def _l2_pool(x: Tensor) -> Tensor:
    """Root of the square blurred by a 3 x 3 Hann window, at every second position.

    Shapes: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2)).
    """
    window = x.new_tensor((0.25, 0.5, 0.25))
    kernel = (window[:, None] * window).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
