"""Metrics against independent computations, and the bootstrap against what it must do."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from pairloom.evaluation import metrics
from pairloom.evaluation.metrics import bootstrap_mean, paired_difference


def images(n: int = 3, c: int = 3, h: int = 40, w: int = 56, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(n + c + h)
    target = torch.rand(n, c, h, w, generator=rng) * 2 - 1
    target = torch.nn.functional.avg_pool2d(target, 5, 1, 2)  # neighbouring pixels resemble each other
    output = (target + noise * torch.randn(target.shape, generator=rng)).clamp(-1, 1)
    return output, target


def hwc(image: Tensor) -> np.ndarray:
    return image.double().permute(1, 2, 0).numpy()


def from_0_to_1(image: Tensor) -> np.ndarray:
    return (hwc(image) + 1) / 2


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_pointwise_metrics_agree_with_numpy(channels: int) -> None:
    output, target = images(c=channels)
    for i in range(3):
        difference = output[i].numpy().astype(np.float64) - target[i].numpy().astype(np.float64)
        assert metrics.l1(output, target)[i] == pytest.approx(np.abs(difference).mean())
        assert metrics.rmse(output, target)[i] == pytest.approx(np.sqrt((difference**2).mean()))
        assert metrics.bias(output, target)[i] == pytest.approx(difference.mean())
        assert metrics.psnr(output, target)[i] == pytest.approx(
            peak_signal_noise_ratio(hwc(target[i]), hwc(output[i]), data_range=2)
        )


def test_bias_is_positive_where_the_output_is_too_bright() -> None:
    target = torch.full((1, 1, 4, 4), -0.5)
    assert metrics.bias(target + 0.25, target).item() == pytest.approx(0.25)


def test_psnr_is_of_each_image_and_infinite_for_a_copy() -> None:
    target = torch.zeros(2, 1, 4, 4)
    output = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.2)])
    assert metrics.psnr(output, target).tolist() == [math.inf, pytest.approx(20.0)]
    assert metrics.psnr(output, target, data_range=1.0)[1].item() == pytest.approx(20 - 20 * math.log10(2))


def ssim_of_skimage(output: np.ndarray, target: np.ndarray, data_range: float = 1) -> float:
    """Of the images mirrored by 5 px, as scikit-image averages all but a border of 5 px.

    Shapes: (H, W, C) twice.
    """
    a, b = (np.pad(v, ((5, 5), (5, 5), (0, 0)), mode="reflect") for v in (output, target))
    return structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
        channel_axis=2,
    )


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_ssim_is_that_of_skimage_with_wangs_settings(channels: int) -> None:
    output, target = images(c=channels)
    ours = metrics.ssim(output, target)
    for i in range(3):
        theirs = ssim_of_skimage(from_0_to_1(output[i]), from_0_to_1(target[i]))
        assert ours[i].item() == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("brightest", [256, 60])
def test_ssim_is_that_of_the_8_bit_images(brightest: int) -> None:
    # Dark images too: there the luminance term, which depends on where zero is, counts most.
    rng = np.random.default_rng(0)
    target = np.kron(rng.integers(0, brightest, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    output = np.clip(target + rng.normal(0, 20, target.shape), 0, 255).astype(np.uint8)
    ours = metrics.ssim(*(torch.from_numpy(v / 127.5 - 1).permute(2, 0, 1)[None] for v in (output, target)))
    assert ours.item() == pytest.approx(ssim_of_skimage(output, target, 255), abs=1e-4)


def similarity_maps(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance and contrast-structure at every position, the image mirrored beyond its border."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = np.outer(window, window) / np.outer(window, window).sum()

    def local_mean(image: np.ndarray) -> np.ndarray:
        return correlate(image, kernel, mode="mirror")

    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = local_mean(output), local_mean(target)
    var_a, var_b = local_mean(output**2) - mean_a**2, local_mean(target**2) - mean_b**2
    covariance = local_mean(output * target) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * covariance + c2) / (var_a + var_b + c2)


def test_ssim_by_hand() -> None:
    output, target = images(n=1, c=1, h=12, w=11)
    luminance, structure = similarity_maps(*(from_0_to_1(t[0])[..., 0] for t in (output, target)))
    assert metrics.ssim(output, target).item() == pytest.approx((luminance * structure).mean(), abs=1e-5)


def test_ms_ssim_by_hand() -> None:
    output, target = images(n=2, c=2, h=176, w=200)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for i in range(2):
        per_scale = np.zeros((5, 2))
        for c in range(2):
            a, b = (from_0_to_1(t[i])[..., c] for t in (output, target))
            for scale in range(5):
                luminance, structure = similarity_maps(a, b)
                # torchmetrics leaves out the mirrored border of all scales but the last.
                last = scale == 4
                per_scale[scale, c] = (luminance * structure if last else structure[5:-5, 5:-5]).mean()
                a, b = (v[: v.shape[0] // 2 * 2, : v.shape[1] // 2 * 2] for v in (a, b))
                a, b = (v.reshape(v.shape[0] // 2, 2, v.shape[1] // 2, 2).mean((1, 3)) for v in (a, b))
        by_hand = np.prod(per_scale.mean(1) ** np.array(weights))
        assert metrics.ms_ssim(output, target)[i].item() == pytest.approx(by_hand, abs=1e-5)


def test_ms_ssim_needs_176_pixels() -> None:
    image = torch.rand(2, 1, 176, 176) * 2 - 1
    assert metrics.ms_ssim(image, image).tolist() == pytest.approx([1, 1])
    assert metrics.ms_ssim(image[..., :175], image[..., :175]).isnan().tolist() == [True, True]


def test_ssim_of_copies_flat_and_tiny_images() -> None:
    _, target = images()
    assert metrics.ssim(target, target).tolist() == pytest.approx([1, 1, 1])
    nearly_flat = 0.9 + 0.001 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = ssim_of_skimage(from_0_to_1(nearly_flat[0]), from_0_to_1(nearly_flat[0].flip(2)))
    assert metrics.ssim(nearly_flat, nearly_flat.flip(3)).item() == pytest.approx(exact, abs=1e-3)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert metrics.ssim(flat, flat.clone()).item() == pytest.approx(1)
    tiny = torch.zeros(2, 3, 10, 64)
    assert metrics.ssim(tiny, tiny).isnan().tolist() == [True, True]
    assert metrics.ssim(torch.zeros(2, 1, 11, 11), torch.zeros(2, 1, 11, 11)).tolist() == [1, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_bias_and_correlation_of_each_channel_agree_with_numpy(channels: int) -> None:
    output, target = images(c=channels)
    bias, correlation = metrics.channel_bias(output, target), metrics.channel_pearson(output, target)
    for i in range(3):
        for c in range(channels):
            a, b = hwc(output[i])[..., c], hwc(target[i])[..., c]
            assert bias[i, c].item() == pytest.approx((a - b).mean())
            assert correlation[i, c].item() == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert metrics.pearson(output, target).tolist() == pytest.approx(correlation.mean(1).tolist())
    assert metrics.bias(output, target).tolist() == pytest.approx(bias.mean(1).tolist())


def test_correlation_is_blind_to_brightness_and_contrast_and_nothing_for_a_constant() -> None:
    _, target = images(n=2)
    assert metrics.pearson(0.3 * target - 0.2, target).tolist() == pytest.approx([1, 1])
    assert metrics.pearson(-target, target).tolist() == pytest.approx([-1, -1])
    output = target.clone()
    output[1, 2] = 0.1
    found = metrics.channel_pearson(output, target)
    assert found.isnan().tolist() == [[False] * 3, [False, False, True]]
    assert metrics.pearson(output, target).isnan().tolist() == [False, True]


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    output, target = images(n=3, h=176, w=180)
    together = metrics.measure(output, target)
    for i in range(3):
        alone = metrics.measure(output[i : i + 1], target[i : i + 1])
        for name in metrics.METRICS:
            assert alone[name].shape == (1,)
            assert alone[name].item() == pytest.approx(together[name][i].item(), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_shapes_that_differ_are_an_error_that_names_them(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\).*\(1, 1, 8, 8\)"):
        metrics.METRICS[name](torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))


def test_bootstrap_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert (interval.count, interval.left_out) == (400, 0)
    assert interval == bootstrap_mean(values)
    assert interval != bootstrap_mean(values, seed=1)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        interval = bootstrap_mean(rng.exponential(1.0, 60), resamples=500)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_of_few_and_of_broken_values() -> None:
    one = bootstrap_mean([0.25])
    assert (one.mean, one.low, one.high, one.count) == (0.25, 0.25, 0.25, 1)
    none = bootstrap_mean([])
    assert none.count == 0
    assert math.isnan(none.mean)
    mixed = bootstrap_mean([1.0, math.inf, 3.0, math.nan])
    assert (mixed.mean, mixed.count, mixed.left_out) == (2.0, 2, 2)
    assert (mixed.low, mixed.high) == (1.0, 3.0)
    assert math.isnan(bootstrap_mean([math.inf]).mean)


def test_many_images_are_resampled_in_parts_of_the_same_draw() -> None:
    values = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    interval = bootstrap_mean(values, resamples=2000)
    half = 1.96 * values.double().std().item() / math.sqrt(3000)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_paired_difference_is_narrower_than_the_two_apart() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.normal(0, 1, 100)
    a, b = difficulty + 0.2 + rng.normal(0, 0.05, 100), difficulty + rng.normal(0, 0.05, 100)
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx((a - b).mean())
    assert difference.excludes_zero
    apart = bootstrap_mean(a)
    assert difference.high - difference.low < 0.2 * (apart.high - apart.low)
    assert not paired_difference(a, a).excludes_zero


def test_paired_difference_needs_the_same_images() -> None:
    with pytest.raises(ValueError, match="3 values and b 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])
    left = paired_difference([1.0, math.inf, 3.0], [0.0, 1.0, 1.0])
    assert (left.mean, left.left_out) == (1.5, 1)


def test_the_metrics_load_nothing_else_of_ours() -> None:
    code = "import sys, pairloom.evaluation.metrics; print(*(m for m in sys.modules if 'pairloom' in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) == {"pairloom", "pairloom.evaluation", "pairloom.evaluation.metrics"}
