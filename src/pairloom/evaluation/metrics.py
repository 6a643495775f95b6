"""Full-reference metrics of single images, and what a mean over images is worth.

Everything here takes tensors in [-1, 1] and knows nothing of files, runs or configurations. Each metric
returns one number an image; a set's figure is the mean over images, with a bootstrap interval over images.

L1, RMSE and PSNR reward blur: where the source does not determine the target, the mean of what is plausible
beats every sharp guess (Section 4.1 of the paper makes the point). Read them beside baselines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW_PX = 11
"""Side of the Gaussian window; a smaller image has no SSIM."""


def _difference(output: Tensor, target: Tensor) -> Tensor:
    """Output - target as (N, C*H*W), in double precision so that the mean over a large image is exact."""
    if output.shape != target.shape or output.ndim != 4:
        raise ValueError(
            f"output has shape {tuple(output.shape)} and target {tuple(target.shape)}; "
            "metrics need two equal shapes (N, C, H, W)."
        )
    return (output.double() - target.double()).flatten(1)


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of each image: the unweighted L1 term of the objective.

    Source: equation 3.
    Shapes: output, target (N, C, H, W) -> (N,).
    Units: of the [-1, 1] scale; times 127.5 it is grey levels of an 8-bit image.

    Raises:
        ValueError: The two shapes differ.
    """
    return _difference(output, target).abs().mean(1)


def rmse(output: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared error of each image.

    Shapes: output, target (N, C, H, W) -> (N,).
    Units: of the [-1, 1] scale.

    Raises:
        ValueError: The two shapes differ.
    """
    return _difference(output, target).square().mean(1).sqrt()


def bias(output: Tensor, target: Tensor) -> Tensor:
    """Mean of output - target of each image: above 0 the output is too bright.

    Shapes: output, target (N, C, H, W) -> (N,).
    Units: of the [-1, 1] scale.

    Raises:
        ValueError: The two shapes differ.
    """
    return _difference(output, target).mean(1)


def psnr(output: Tensor, target: Tensor, *, data_range: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio of each image.

    The squared error is averaged over the one image, never over the set.

    Source: 10 log10(data_range^2 / MSE); the paper does not report it.
    Shapes: output, target (N, C, H, W) -> (N,).
    Units: decibels; identical images give inf.

    Raises:
        ValueError: The two shapes differ.
    """
    return 10 * torch.log10(data_range**2 / _difference(output, target).square().mean(1))


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, averaged over all positions and channels.

    Computed on values from 0 to 1, as its luminance term depends on where zero is: the figure is that of the
    8-bit images with a data range of 255. Gaussian window of sigma 1.5, 11 x 11; K1 0.01, K2 0.03; population
    variances; the image is mirrored at its border, so every pixel counts. scikit-image
    (gaussian_weights=True, sigma=1.5, use_sample_covariance=False) leaves the outer 5 px out of its average:
    it gives this figure for the image mirrored by 5 px, and a slightly different one for the image as it is.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, equation 13, with their window and constants.
    Shapes: output, target (N, C, H, W) -> (N,).
    Units: -1 to 1; 1 for identical images. NaN where a side is below the window's 11 px.

    Raises:
        ValueError: The two shapes differ.
    """
    _difference(output, target)
    if min(output.shape[-2:]) < SSIM_WINDOW_PX:
        return torch.full((output.shape[0],), math.nan, dtype=torch.float64, device=output.device)
    c1, c2 = 0.01**2, 0.03**2
    channels = []
    for c in range(output.shape[1]):  # one at a time bounds the memory
        # In double precision, as E[x^2] - E[x]^2 of a nearly flat, bright image would be mostly rounding.
        x, y = ((image[:, c : c + 1].double() + 1) / 2 for image in (output, target))
        mean_x, mean_y = _local_mean(x), _local_mean(y)
        variances = _local_mean(x * x + y * y) - mean_x**2 - mean_y**2
        covariance = _local_mean(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        channels.append((luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2, 3)))
    return torch.stack(channels).mean(0)


def _local_mean(values: Tensor) -> Tensor:
    """Gaussian-weighted mean around each pixel. Shapes: (N, C, H, W) -> the same."""
    radius = SSIM_WINDOW_PX // 2
    window = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    weights = (window / window.sum()).tolist()
    values = F.pad(values, (radius,) * 4, mode="reflect")
    for axis in (2, 3):
        size = values.shape[axis] - 2 * radius
        total = torch.zeros_like(values.narrow(axis, 0, size))
        for k, weight in enumerate(weights):
            total.add_(values.narrow(axis, k, size), alpha=weight)
        values = total
    return values


METRICS: MappingProxyType[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"L1": l1, "RMSE": rmse, "bias": bias, "PSNR": psnr, "SSIM": ssim}
)
"""Every metric by the name its column has in a table."""

BETTER: MappingProxyType[str, str] = MappingProxyType(
    {"L1": "lower", "RMSE": "lower", "bias": "near 0", "PSNR": "higher", "SSIM": "higher"}
)
"""Which way each metric is better."""


def measure(output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Every metric of each image.

    Shapes: output, target (N, C, H, W) -> (N,) each.

    Raises:
        ValueError: The two shapes differ.
    """
    return {name: metric(output, target) for name, metric in METRICS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over images and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int
    """Images the mean is over."""
    left_out: int = 0
    """Images outside the mean: their value is not finite (PSNR of an exact copy, SSIM of a tiny image)."""

    @property
    def excludes_zero(self) -> bool:
        """Does the whole interval lie on one side of zero?"""
        return self.low > 0 or self.high < 0


def bootstrap_mean(values: Sequence[float] | Tensor, *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean over images with its 95 % percentile bootstrap interval: images are drawn with replacement.

    Values that are not finite are left out and counted. One image gives a point; none, or none finite, NaN.
    The interval says how the mean would vary with other images of this kind, not with another training seed.

    Source: Efron and Tibshirani 1993, section 13.3 (percentile interval).
    Shapes: values (N,).
    """
    given = torch.as_tensor(values, dtype=torch.float64).detach().cpu().flatten()
    kept = given[given.isfinite()]
    count, left_out = len(kept), len(given) - len(kept)
    if count == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, count=0, left_out=left_out)
    mean = float(kept.mean())
    if count == 1:
        return Interval(mean=mean, low=mean, high=mean, count=1, left_out=left_out)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, 2_000_000 // count)  # resamples drawn together: 16 MB of indices, whatever N
    means = [
        kept[torch.randint(count, (min(rows, resamples - done), count), generator=generator)].mean(1)
        for done in range(0, resamples, rows)
    ]
    low, high = torch.quantile(torch.cat(means), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(mean=mean, low=low, high=high, count=count, left_out=left_out)


def paired_difference(
    a: Sequence[float] | Tensor, b: Sequence[float] | Tensor, *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of a - b over the same images, with its 95 % bootstrap interval.

    Narrower than the difference of two separate intervals, because easy and hard images cancel.

    Shapes: a, b (N,); image i of both is the same image.

    Raises:
        ValueError: The two lengths differ.
    """
    first, second = (torch.as_tensor(v, dtype=torch.float64).detach().cpu().flatten() for v in (a, b))
    if len(first) != len(second):
        raise ValueError(f"a has {len(first)} values and b {len(second)}; pairs need the same images.")
    return bootstrap_mean(first - second, resamples=resamples, seed=seed)
