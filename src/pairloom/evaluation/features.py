"""Two sets of images compared as sets: features of each image, and the distance of their distributions.

KID for any set of 10 images and more, the Frechet distance only for sets large enough. A figure belongs to
its extractor: those of EfficientNet-Lite0, which needs no file, compare with each other and with nothing
published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pairloom.evaluation.inception import Inception
from pairloom.evaluation.trunks import EfficientNetLite0, check_images
from pairloom.images import resize

LEAST_FOR_KID = 10
"""Images on each side; with fewer, the interval's standard error is itself a guess."""
LEAST_FOR_FRECHET = 2048
"""Images on each side. The distance is biased by about the number of features over that of images, and below
the 2,048 features of Inception-v3 the covariance is singular."""
BATCH = 8
"""Images that pass the network together: it bounds the memory, and one image does not depend on another."""
BLOCK = 1024
"""Rows of a kernel matrix that are in memory together."""


class FeatureError(ValueError):
    """Two sets of features cannot be compared; one sentence says why."""


# ------------------------------------------------------------------------------------------------------------
# From images to features


class Extractor:
    """Features of images; make one with `lite0` or `inception`."""

    def __init__(self, net: nn.Module, *, name: str, dim: int, side_px: int) -> None:
        self.net = net.eval()
        self.name = name
        """For tables and files; figures of different extractors do not compare."""
        self.dim = dim
        """Features of an image."""
        self.side_px = side_px
        """Images are resized to this side, whatever their shape: bilinear, antialiased."""

    @property
    def words(self) -> str:
        """One line for people: all that must agree for two figures to compare."""
        side = self.side_px
        return (
            f"{self.name}, {self.dim} features, images resized to {side} x {side} px (bilinear, antialiased)"
        )

    @classmethod
    def lite0(cls, device: str | torch.device = "cpu") -> Extractor:
        """EfficientNet-Lite0 with the weights of its package; needs no other file.

        Raises:
            TrunkError: The package is not installed.
        """
        net = EfficientNetLite0.pretrained().to(device)
        return cls(net, name="EfficientNet-Lite0", dim=EfficientNetLite0.DIM, side_px=224)

    @classmethod
    def inception(cls, weights_dir: Path | str, device: str | torch.device = "cpu") -> Extractor:
        """The Inception-v3 of published figures, with the public weights in that folder.

        Deviation: resized and scaled as in torchmetrics; clean-fid resizes bicubically, and pytorch-fid
        without antialiasing and to a slightly other scale, so from images below 299 px it differs little.

        Raises:
            TrunkError: The file is absent, damaged, or of another network.
        """
        net = Inception.pretrained(Path(weights_dir)).to(device)
        return cls(net, name="Inception-v3 (FID)", dim=Inception.DIM, side_px=299)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The features of each image.

        Shapes: images (N, 1 or 3, H, W), any size, any device -> (N, dim) float32, on the CPU.
        Units: images [-1, 1].

        Raises:
            TrunkError: The channels are neither 1 nor 3.
        """
        check_images(images, channels=(1, 3))
        device = next(self.net.parameters()).device
        found = [torch.empty(0, self.dim)]
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH].to(device, torch.float32)
            batch = resize(batch, (self.side_px, self.side_px), labels=False)
            found.append(self.net(batch.expand(-1, 3, -1, -1)).float().cpu())
        return torch.cat(found)


def _check(a: Tensor, b: Tensor, *, least: int, what: str) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise FeatureError(
            f"The features have shapes {tuple(a.shape)} and {tuple(b.shape)}; {what} needs (N, D) and "
            "(M, D), both of one extractor."
        )
    if min(len(a), len(b)) < least:
        raise FeatureError(
            f"{what} needs at least {least:,} images on each side, and these sets have {len(a):,} and "
            f"{len(b):,}; give more images, or leave this figure out."
        )


# ------------------------------------------------------------------------------------------------------------
# Kernel inception distance


@dataclass(frozen=True, kw_only=True, slots=True)
class Kid:
    """A kernel inception distance and its 95 % interval; often quoted times 1,000."""

    value: float
    """0 where the sets come from one distribution, on average: single values fall below zero too."""
    low: float
    high: float


def kid(a: Tensor, b: Tensor, *, paired: bool = False) -> Kid:
    """Kernel inception distance between two sets: the squared maximum mean discrepancy, without bias.

    With the kernel k(x, y) = (x . y / D + 1)^3 it is the mean k within a, plus the mean within b, minus twice
    the mean across, where no image meets itself. All images count at once: the usual mean over random subsets
    estimates the same with more noise.

    The interval is value +- 1.96 standard errors of the delete-one jackknife over images. A bootstrap would
    draw images twice, whose large k(x, x) shifts the value. The jackknife's variance is on average too large
    rather than too small (Efron and Stein 1981), most of all where the distance is near zero: the interval is
    rather too wide than too narrow.

    Args:
        a: Features of one set.
        b: Features of the other, by the same extractor.
        paired: Image i of both shows one scene, as an output and its target do. Such pairs are alike for a
            reason that says nothing of the sets; counted, as published figures count them, they lower the
            value by about 2 / N of how much more alike they are. True leaves them out of the mean across, and
            lets the jackknife delete both images of a pair together.

    Source: Binkowski, Sutherland, Arbel, Gretton 2018, section 4; unbiased estimators: Gretton et al. 2012,
    equation 3, and 4 when paired.
    Shapes: a (N, D), b (M, D); at least 10 each, N = M when paired.

    Raises:
        FeatureError: The sets differ in D, or one has too few images, or paired sets differ in length.
    """
    _check(a, b, least=LEAST_FOR_KID, what="KID")
    if paired and len(a) != len(b):
        raise FeatureError(
            f"The sets have {len(a):,} and {len(b):,} images; paired=True needs as many on each side, image "
            "i of both showing one scene."
        )
    a, b = (x.detach().cpu().double() for x in (a, b))
    n, m = len(a), len(b)
    # For each image, the sums of its kernel over the images that it meets.
    aa, bb = (_sums(x, x) - _diagonal(x, x) for x in (a, b))
    ab, ba = _sums(a, b), _sums(b, a)
    if paired:
        ab, ba = (x - _diagonal(a, b) for x in (ab, ba))
    value = _mmd2(aa.sum(), bb.sum(), ab.sum(), n, m, paired=paired)
    # Without an image, its row and its column leave the sum within, and its row or column the sum across.
    if paired:
        left = [_mmd2(aa.sum() - 2 * aa, bb.sum() - 2 * bb, ab.sum() - ab - ba, n - 1, n - 1, paired=True)]
    else:
        left = [
            _mmd2(aa.sum() - 2 * aa, bb.sum(), ab.sum() - ab, n - 1, m),
            _mmd2(aa.sum(), bb.sum() - 2 * bb, ab.sum() - ba, n, m - 1),
        ]
    half = 1.96 * math.sqrt(sum((len(x) - 1) * float(x.var(correction=0)) for x in left))
    return Kid(value=float(value), low=float(value) - half, high=float(value) + half)


def _kernel(products: Tensor, dim: int) -> Tensor:
    """The cubic kernel of inner products."""
    return (products / dim + 1) ** 3


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """For each row of x, its kernel summed over all rows of y. Shapes: x (N, D), y (M, D) -> (N,)."""
    blocks = (x[i : i + BLOCK] @ y.T for i in range(0, len(x), BLOCK))
    return torch.cat([_kernel(products, x.shape[1]).sum(1) for products in blocks])


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    """The kernel of each row of x with the same row of y. Shapes: x, y (N, D) -> (N,)."""
    return _kernel((x * y).sum(1), x.shape[1])


def _mmd2(aa: Tensor, bb: Tensor, ab: Tensor, n: int, m: int, *, paired: bool = False) -> Tensor:
    """The squared discrepancy, from kernel sums within and across n and m images."""
    return aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * (m - 1) if paired else n * m)


# ------------------------------------------------------------------------------------------------------------
# Frechet distance


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between two sets, each taken as a Gaussian; with Inception-v3 it is FID.

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)), with S the unbiased covariance, in double
    precision. The root's trace is the sum of the roots of the eigenvalues of the symmetric R' S_b R, where
    S_a = R R', which has the eigenvalues of S_a S_b without leaving the real numbers.

    Source: Dowson and Landau 1982; Heusel et al. 2017, equation 6.
    Shapes: a (N, D), b (M, D); at least 2,048 each.

    Raises:
        FeatureError: The sets differ in D, or one has too few images.
    """
    _check(a, b, least=LEAST_FOR_FRECHET, what="The Frechet distance")
    a, b = (x.detach().cpu().double() for x in (a, b))
    mean_a, mean_b = a.mean(0), b.mean(0)
    cov_a, cov_b = (x.T @ x / (len(x) - 1) for x in (a - mean_a, b - mean_b))
    eigenvalues, vectors = torch.linalg.eigh(cov_a)
    root = vectors * eigenvalues.clamp(min=0).sqrt()  # rounding leaves some eigenvalues just below 0
    overlap = torch.linalg.eigvalsh(root.T @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap
    return max(0.0, float(distance))
