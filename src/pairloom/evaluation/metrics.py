"""Full-reference metrics of single images, and what a mean over images is worth.

Everything here takes tensors in [-1, 1] and knows nothing of files, runs or configurations. Each metric
returns one number an image; a set's figure is the mean over images, with a bootstrap interval over images.

Where a map of valid pixels is given, a metric is what it would be of these alone; NaN where there are none.

L1, RMSE and PSNR reward blur: where the source does not determine the target, the mean of what is plausible
beats every sharp guess (Section 4.1 of the paper makes the point). Read them beside baselines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW_PX = 11
"""Side of the Gaussian window; a smaller image has no SSIM."""
MS_SSIM_LEAST_PX = 176
"""Five scales of that window need this side: a sixteenth of it holds 11 px."""


Metric = Callable[..., Tensor]
"""(outputs, targets (N, C, H, W), valid (N, 1, H, W) or None) -> (N,), or (N, C)."""


def _of_valid(metric: Metric, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """A metric that looks at each pixel by itself, of each image's valid ones in a row."""
    _difference(output, target)
    rows = []
    for one, other, where in zip(output, target, valid[:, 0] > 0, strict=True):
        if where.any():
            rows.append(metric(one[:, where][None, :, None], other[:, where][None, :, None]))
        else:
            shape = metric(one[None], other[None]).shape
            rows.append(torch.full(shape, math.nan, dtype=torch.float64, device=output.device))
    return torch.cat(rows)


def _difference(output: Tensor, target: Tensor) -> Tensor:
    """Output - target as (N, C*H*W), in double precision so that the mean over a large image is exact."""
    if output.shape != target.shape or output.ndim != 4:
        raise ValueError(
            f"output has shape {tuple(output.shape)} and target {tuple(target.shape)}; "
            "metrics need two equal shapes (N, C, H, W)."
        )
    return (output.double() - target.double()).flatten(1)


def l1(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error of each image: the unweighted L1 term of the objective.

    Source: equation 3.
    Shapes: output, target (N, C, H, W) -> (N,).
    Units: of the [-1, 1] scale; times 127.5 it is grey levels of an 8-bit image.

    Raises:
        ValueError: The two shapes differ.
    """
    if valid is not None:
        return _of_valid(l1, output, target, valid)
    return _difference(output, target).abs().mean(1)


def rmse(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Root of the mean squared error of each image.

    Shapes: output, target (N, C, H, W) -> (N,).
    Units: of the [-1, 1] scale.

    Raises:
        ValueError: The two shapes differ.
    """
    if valid is not None:
        return _of_valid(rmse, output, target, valid)
    return _difference(output, target).square().mean(1).sqrt()


def bias(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of output - target of each image: above 0 the output is too bright.

    Shapes: output, target (N, C, H, W) -> (N,).
    Units: of the [-1, 1] scale.

    Raises:
        ValueError: The two shapes differ.
    """
    if valid is not None:
        return _of_valid(bias, output, target, valid)
    return _difference(output, target).mean(1)


def psnr(output: Tensor, target: Tensor, valid: Tensor | None = None, *, data_range: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio of each image.

    The squared error is averaged over the one image, never over the set.

    Source: 10 log10(data_range^2 / MSE); the paper does not report it.
    Shapes: output, target (N, C, H, W) -> (N,).
    Units: decibels; identical images give inf.

    Raises:
        ValueError: The two shapes differ.
    """
    if valid is not None:
        return _of_valid(partial(psnr, data_range=data_range), output, target, valid)
    return 10 * torch.log10(data_range**2 / _difference(output, target).square().mean(1))


def ssim(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Structural similarity of each image, averaged over positions and channels.

    torchmetrics' on values from 0 to 1, as its luminance term depends on where zero is: the figure is that of
    the 8-bit images with a data range of 255. Gaussian window of sigma 1.5, 11 x 11; K1 0.01, K2 0.03;
    population variances; the image is mirrored at its border, so every pixel counts. scikit-image
    (gaussian_weights=True, sigma=1.5, use_sample_covariance=False) leaves the outer 5 px out of its average:
    it gives this figure for the image mirrored by 5 px, and a slightly different one for the image as it is.
    With a map of valid pixels, the average is over the windows in which all pixels count.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, equation 13, with their window and constants.
    Shapes: output, target (N, C, H, W) -> (N,).
    Units: -1 to 1; 1 for identical images. NaN where a side is below the window's 11 px, or no window counts.

    Raises:
        ValueError: The two shapes differ.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if _too_small(output, target, SSIM_WINDOW_PX):
        return _nan_of_each(output)
    a, b = _from_0_to_1(output), _from_0_to_1(target)
    if valid is None:
        return _each(structural_similarity_index_measure(a, b, data_range=1.0, reduction="none"))
    _, everywhere = structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )
    reach = SSIM_WINDOW_PX // 2
    invalid = F.pad(1 - valid.float(), (reach,) * 4, mode="reflect")
    whole = 1 - F.max_pool2d(invalid, SSIM_WINDOW_PX, stride=1).double()
    values = everywhere.double().masked_fill(whole == 0, 0.0).mean(1).flatten(1).sum(1)
    result: Tensor = values / whole.flatten(1).sum(1)
    return result


def ms_ssim(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Multi-scale structural similarity of each image, over five scales.

    torchmetrics' on values from 0 to 1, with the window and constants of `ssim` and the published weights
    0.0448, 0.2856, 0.3001, 0.2363, 0.1333; a negative term counts as 0.

    Source: Wang, Simoncelli, Bovik 2003, equation 7.
    Shapes: output, target (N, C, H, W) -> (N,).
    Units: 0 to 1; 1 for identical images.

    NaN where a side is below 176 px, torchmetrics' least, or where not all pixels count: its coarser scales
    would mix them with the others.

    Raises:
        ValueError: The two shapes differ.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    if _too_small(output, target, MS_SSIM_LEAST_PX) or not (valid is None or valid.all()):
        return _nan_of_each(output)
    a, b = _from_0_to_1(output), _from_0_to_1(target)
    return _each(
        multiscale_structural_similarity_index_measure(
            a, b, data_range=1.0, reduction="none", normalize="relu"
        )
    )


def channel_bias(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of output - target of each channel of each image.

    Shapes: output, target (N, C, H, W) -> (N, C).
    Units: of the [-1, 1] scale.

    Raises:
        ValueError: The two shapes differ.
    """
    if valid is not None:
        return _of_valid(channel_bias, output, target, valid)
    return _difference(output, target).view(*output.shape[:2], -1).mean(2)


def channel_pearson(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Pearson's correlation over the pixels, of each channel of each image (torchmetrics').

    Blind to brightness and contrast: it says whether the pattern is right. For intensities, not for classes.

    Shapes: output, target (N, C, H, W) -> (N, C).
    Units: -1 to 1; NaN where one of the two is constant.

    Raises:
        ValueError: The two shapes differ.
    """
    from torchmetrics.functional import pearson_corrcoef

    if valid is not None:
        return _of_valid(channel_pearson, output, target, valid)
    _difference(output, target)
    n, c = output.shape[:2]
    # One column for each channel of each image, in double precision and centred.
    columns = [t.double().flatten(2).flatten(0, 1).T for t in (output, target)]
    columns = [column - column.mean(0) for column in columns]
    constant = (columns[0].abs().amax(0) < 1e-6) | (columns[1].abs().amax(0) < 1e-6)
    found = torch.full((n * c,), math.nan, dtype=torch.float64, device=output.device)
    if not constant.all():
        a, b = (column[:, ~constant].squeeze(1) for column in columns)
        found[~constant] = pearson_corrcoef(a, b)
    return found.view(n, c)


def pearson(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of `channel_pearson` over the channels of each image; NaN where it is that of one channel.

    Shapes: output, target (N, C, H, W) -> (N,).

    Raises:
        ValueError: The two shapes differ.
    """
    return channel_pearson(output, target, valid).mean(1)


def _too_small(output: Tensor, target: Tensor, least_px: int) -> bool:
    _difference(output, target)
    return min(output.shape[-2:]) < least_px


def _nan_of_each(output: Tensor) -> Tensor:
    return torch.full((output.shape[0],), math.nan, dtype=torch.float64, device=output.device)


def _from_0_to_1(values: Tensor) -> Tensor:
    # channels_last, in which the windows' convolution takes half the time and gives the same numbers.
    return ((values.float() + 1) / 2).contiguous(memory_format=torch.channels_last)


def _each(values: Tensor) -> Tensor:
    """(N,), also where torchmetrics gives a scalar for a batch of one."""
    return values.double().reshape(-1)


METRICS: MappingProxyType[str, Metric] = MappingProxyType(
    {"L1": l1, "RMSE": rmse, "bias": bias, "PSNR": psnr, "SSIM": ssim, "MS-SSIM": ms_ssim, "Pearson": pearson}
)
"""Every metric by the name its column has in a table."""

PER_CHANNEL: MappingProxyType[str, Metric] = MappingProxyType(
    {"bias": channel_bias, "Pearson": channel_pearson}
)
"""Metrics that are also told for each channel."""

BETTER: MappingProxyType[str, str] = MappingProxyType(
    {
        "L1": "lower",
        "RMSE": "lower",
        "bias": "near 0",
        "PSNR": "higher",
        "SSIM": "higher",
        "MS-SSIM": "higher",
        "Pearson": "higher",
        "LPIPS": "lower",
        "DISTS": "lower",
    }
)
"""Which way each metric is better; the last two need weights (`evaluation.perceptual`)."""


def measure(output: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Every metric of each image.

    Shapes: output, target (N, C, H, W), valid (N, 1, H, W) -> (N,) each.

    Raises:
        ValueError: The two shapes differ.
    """
    return {name: metric(output, target, valid) for name, metric in METRICS.items()}


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
        """Does the whole interval lie on one side of zero? Of one value there is no interval."""
        return self.count > 1 and (self.low > 0 or self.high < 0)


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
