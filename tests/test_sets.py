"""Set metrics against independent computations, and against faults put into images on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from scipy.stats import wasserstein_distance
from torch import Tensor

from pairloom.data.sample import draw_pair
from pairloom.evaluation import sliced_wasserstein as swd
from pairloom.evaluation import spectrum as spectra
from pairloom.evaluation.retrieval import layout, retrieval
from pairloom.evaluation.sets import ImageSetError
from pairloom.evaluation.sliced_wasserstein import Patches, sliced_wasserstein
from pairloom.evaluation.spectrum import Spectrum, SpectrumReport, spectrum_report

GREY_LEVEL = 2 / 255


def photos(first: int, count: int, size: int = 128) -> Tensor:
    """Drawn facades. Shapes: -> (count, 3, size, size)."""
    drawn = np.stack([draw_pair(0, first + i, size)[0] for i in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def real() -> Tensor:
    return photos(0, 12)


@pytest.fixture(scope="module")
def other() -> Tensor:
    return photos(50, 12)


def blurred(images: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(4 * sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    values = images.numpy()
    for axis in (2, 3):
        values = correlate1d(values, weights / weights.sum(), axis=axis, mode="mirror")
    return torch.from_numpy(values)


def noise(exponent: float, count: int, seed: int, size: int = 128) -> Tensor:
    """White (0), pink (1) or brown (2) noise. Shapes: -> (count, 1, size, size)."""
    rng = torch.Generator().manual_seed(seed)
    radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]).clamp_min(1 / size)
    white = torch.randn(count, 1, size, size, generator=rng)
    coloured = torch.fft.irfft2(torch.fft.rfft2(white) / radius**exponent, s=(size, size))
    return coloured / coloured.std() * 0.3


def tiled(images: Tensor, period: int, levels: float) -> Tensor:
    """The images with one pixel of each tile raised, as 8-bit files hold them."""
    raised = torch.zeros(images.shape[-2:])
    raised[::period, ::period] = levels * GREY_LEVEL
    return ((images + raised).clamp(-1, 1).add(1) * 127.5).round() / 127.5 - 1


def patches_of(images: Tensor, **options: int) -> Patches:
    patches = Patches(**options)
    patches.add(images)
    return patches


def report(outputs: Tensor, targets: Tensor) -> SpectrumReport:
    a, b = Spectrum(), Spectrum()
    a.add(outputs)
    b.add(targets)
    return spectrum_report(a, b)


# ------------------------------------------------------------------------------------------------------------
# Sliced Wasserstein distance


@pytest.mark.parametrize(("m", "n"), [(40, 40), (40, 60), (7, 30), (31, 8)])
def test_the_distance_of_projections_is_scipys(m: int, n: int) -> None:
    rng = np.random.default_rng(m + n)
    p, q = np.sort(rng.normal(size=(5, m))), np.sort(rng.normal(0.3, 2, size=(5, n)))
    ours = swd._wasserstein_1d(p, q)
    assert ours == pytest.approx([wasserstein_distance(a, b) for a, b in zip(p, q, strict=True)])


def test_the_whole_distance_by_hand(real: Tensor, other: Tensor) -> None:
    a, b = patches_of(real), patches_of(other)
    found = sliced_wasserstein(a, b, seed=3)
    assert list(found) == [128, 64, 32, 16]
    for level, side in enumerate(found):
        directions = np.random.default_rng((3, level)).normal(size=(147, swd.DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        flat = []
        for patches in (a.scale(level).double().numpy(), b.scale(level).double().numpy()):
            assert patches.shape == (12 * 256, 3, 7, 7)
            for c in range(3):
                patches[:, c] = (patches[:, c] - patches[:, c].mean()) / patches[:, c].std()
            flat.append(patches.reshape(len(patches), -1) @ directions)
        each = [wasserstein_distance(p, q) for p, q in zip(flat[0].T[:20], flat[1].T[:20], strict=True)]
        all_of_them = np.abs(np.sort(flat[0], 0) - np.sort(flat[1], 0)).mean(0)
        assert all_of_them[:20] == pytest.approx(each)
        assert found[side] == pytest.approx(all_of_them.mean(), rel=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (70, 41), (33, 97), (16, 16)])
def test_the_pyramid_adds_up_to_the_image(size: tuple[int, int]) -> None:
    image = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0))
    pyramid = swd._laplacian_pyramid(image)
    assert min(pyramid[-1].shape[-2:]) >= 16
    whole = pyramid[-1]
    for scale in reversed(pyramid[:-1]):
        spread = torch.zeros_like(scale)
        spread[..., ::2, ::2] = 4 * whole
        whole = scale + swd._smooth(spread)
    assert torch.allclose(whole, image, atol=1e-6)
    weights = np.array([1, 4, 6, 4, 1]) / 16
    smooth = correlate1d(
        correlate1d(image.numpy(), weights, axis=2, mode="mirror"), weights, axis=3, mode="mirror"
    )
    assert np.allclose(swd._smooth(image).numpy(), smooth, atol=1e-6)


def test_patches_are_windows_of_the_image(real: Tensor) -> None:
    coarse = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0))  # its only scale is itself
    found = {tuple(patch.flatten().tolist()) for patch in patches_of(coarse).scale(0)}
    windows = coarse[0, 0].unfold(0, 7, 1).unfold(1, 7, 1).reshape(-1, 49)
    assert found <= {tuple(window.tolist()) for window in windows}
    assert len(found) > 100, "spread over the 180 places that there are"


def test_neither_order_nor_batches_matter_and_the_seed_decides(real: Tensor, other: Tensor) -> None:
    whole, apart = patches_of(real), Patches()
    for image in real.flip(0):
        apart.add(image[None])
    assert set(sliced_wasserstein(whole, apart).values()) == {0.0}
    target = patches_of(other)
    assert sliced_wasserstein(whole, target) == sliced_wasserstein(apart, target)
    again = sliced_wasserstein(patches_of(real), patches_of(other))
    assert again == sliced_wasserstein(whole, target)
    assert again != sliced_wasserstein(whole, target, seed=1)
    assert again != sliced_wasserstein(patches_of(real, seed=1), patches_of(other, seed=1))


def test_blur_is_farther_than_other_real_images_on_the_fine_scale_only(real: Tensor, other: Tensor) -> None:
    target = patches_of(real)
    one, two, apart = (
        sliced_wasserstein(patches_of(images), target)
        for images in (blurred(real, 1), blurred(real, 2), other)
    )
    assert two[128] > 1.5 * one[128] > 1.5 * apart[128] > 0
    assert two[16] < apart[16]


def test_many_images_keep_fewer_patches_each(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    full = patches_of(images)
    monkeypatch.setattr(swd, "MAX_PATCHES", 1300)
    bounded = patches_of(images)
    assert len(full.scale(0)) == 20 * 256
    assert len(bounded.scale(0)) == 20 * 64
    first = full.scale(0).view(20, 256, 49)[:, :64].reshape(-1, 1, 7, 7)
    assert torch.equal(bounded.scale(0), first), "those that all images would have begun with"
    assert sliced_wasserstein(bounded, full)[16] < 0.1


def test_images_of_differing_sizes_share_the_scales_that_all_have() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = Patches(), Patches()
    for i in range(8):
        a.add(torch.rand(1, 2, 40 + i, 90, generator=rng))
        b.add(torch.rand(1, 2, 70, 64 + i, generator=rng))
    assert (a.scales, b.scales) == (2, 3)
    assert list(sliced_wasserstein(a, b)) == [40, 20]


def test_flat_images_have_no_patches_to_tell_apart() -> None:
    a, b = patches_of(torch.zeros(8, 1, 20, 20)), patches_of(torch.full((8, 1, 20, 20), 0.5))
    assert sliced_wasserstein(a, b)[20] == pytest.approx(0, abs=1e-6)


def test_patches_say_what_is_wrong() -> None:
    few = patches_of(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ImageSetError, match=r"has 1 image; .* need 8 or more"):
        sliced_wasserstein(few, few)
    with pytest.raises(ImageSetError, match="has 0 images"):
        sliced_wasserstein(Patches(), few)
    grey = patches_of(torch.zeros(8, 1, 16, 16))
    colour, large = patches_of(torch.zeros(8, 3, 16, 16)), patches_of(torch.zeros(8, 1, 32, 32))
    with pytest.raises(ImageSetError, match="has 1 channels and the other 3"):
        sliced_wasserstein(grey, colour)
    with pytest.raises(ImageSetError, match="16 px and of the other 32 px; resize"):
        sliced_wasserstein(large, grey)
    with pytest.raises(ImageSetError, match=r"is 15 px; .* need 16 or more"):
        grey.add(torch.zeros(1, 1, 15, 40))
    with pytest.raises(ImageSetError, match="3 channels and those before 1"):
        grey.add(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ImageSetError, match=r"shape \(3, 16, 16\)"):
        grey.add(torch.zeros(3, 16, 16))
    with pytest.raises(ImageSetError, match="NaN"):
        grey.add(torch.full((1, 1, 16, 16), math.nan))


# ------------------------------------------------------------------------------------------------------------
# Power spectrum


@pytest.mark.parametrize(("y", "x"), [(16, 0), (0, 24), (12, -9), (40, 30)])
def test_a_wave_has_its_power_at_its_frequency(y: int, x: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    spectrum = Spectrum()
    spectrum.add((0.4 * torch.cos(2 * math.pi * (y * rows + x * columns) / 128 + 0.3))[None, None])
    expected = int(math.hypot(y, x) / 128 / 0.5 * spectra.BINS)
    assert abs(int(spectrum.decibels.argmax()) - expected) <= 1  # the window spreads it over the next ones
    far = (spectrum.frequencies - math.hypot(y, x) / 128).abs() > 0.03
    assert spectrum.decibels[far].max() < spectrum.decibels.max() - 40


def test_the_power_adds_up_to_the_variance() -> None:
    # Parseval, the window included: the sum over the whole plane is that over the pixels.
    image = noise(0, 1, 0, size=64).double() + 0.4
    window, bins, weights = spectra._plane(64, 64)
    centred = (image[0, 0] - (image[0, 0] * window).sum() / window.sum()) * window
    power = torch.fft.rfft2(centred).abs().square().flatten() / window.square().sum()
    assert float((power * weights).sum()) / 64**2 == pytest.approx(
        float(centred.square().sum() / window.square().sum())
    )
    spectrum = Spectrum()
    spectrum.add(image)
    inside = bins < spectra.BINS
    total = torch.zeros(spectra.BINS, dtype=torch.float64).index_add_(0, bins[inside], weights[inside])
    from_bins = (10 ** (spectrum.decibels / 10) - spectra.FLOOR) * total
    assert float(from_bins.nansum()) == pytest.approx(float((power * weights)[inside].sum()), rel=1e-6)


def test_white_noise_is_flat_at_its_variance_whatever_the_size() -> None:
    spectrum = Spectrum()
    for size in (48, 64, 100):
        for seed in range(10):
            spectrum.add(noise(0, 1, seed, size=size) / 0.3)
    level = spectrum.decibels[8:]
    assert spectrum.images == 30
    assert float(level.mean()) == pytest.approx(0, abs=0.3)
    assert float(level.std()) < 0.5


def test_the_mean_colour_and_the_order_do_not_matter() -> None:
    images = noise(1, 4, 0, size=64)
    a, b = Spectrum(), Spectrum()
    a.add(images)
    for image in images.flip(0):
        b.add(image[None] + 0.5)
    assert torch.allclose(a.decibels, b.decibels, atol=1e-6, equal_nan=True)


def test_blur_is_the_power_that_is_missing(real: Tensor, other: Tensor) -> None:
    assert not report(other, real).blurred
    # A Gaussian of 1 px leaves exp(-(2 pi f)^2) of the power: below 1/4 cycles/px nothing of it is aliased.
    found = report(blurred(noise(0, 4, 0), 1), noise(0, 4, 0))
    between = np.linspace(1 / 8, 1 / 4, 1000)
    expected = np.mean(10 * np.log10(np.exp(-((2 * np.pi * between) ** 2))))
    assert found.bands["1/8 to 1/4"] == pytest.approx(expected, abs=0.1)
    one, two = report(blurred(real, 1), real), report(blurred(real, 2), real)
    assert 0 > report(blurred(real, 0.3), real).fine_db > one.fine_db > two.fine_db
    assert one.blurred and two.blurred
    assert "dB less power than the targets: they are blurred" in two.sentences[0]
    assert list(two.bands.values()) == sorted(two.bands.values(), reverse=True)


def test_noise_is_more_power() -> None:
    found = report(noise(1, 4, 0) + 0.6 * noise(0, 4, 1), noise(1, 4, 0))
    assert found.fine_db > spectra.BLUR_DB
    assert "carry noise" in found.sentences[0]
    assert "1/4 to 1/2: +" in found.words()


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_noise_has_no_grid(exponent: float) -> None:
    for seed in range(12):
        found = report(noise(exponent, 6, 2 * seed), noise(exponent, 6, 2 * seed + 1))
        assert found.grids_found == ()
        assert "no checkerboard" in found.sentences[1]


def test_images_of_the_same_kind_have_no_grid(real: Tensor, other: Tensor) -> None:
    for a, b in ((real, other), (other, real), (blurred(real, 1), real), (real[:2], other[:2])):
        assert report(a, b).grids_found == ()


@pytest.mark.parametrize(("period", "levels"), [(2, 1), (2, 3), (4, 6), (4, 8)])
def test_a_grid_of_a_few_grey_levels_is_found(
    real: Tensor, other: Tensor, period: int, levels: float
) -> None:
    found = report(tiled(real, period, levels), other)
    # A tile of 4 px holds waves of 4 and of 2 px; one of 2 px only those.
    assert found.grids_found == ((2,) if period == 2 else (2, 4))
    assert f"{period} px (" in found.sentences[1]
    assert "checkerboard" in found.sentences[1]


def test_the_strength_of_a_grid_is_in_grey_levels() -> None:
    flat = torch.zeros(2, 1, 64, 64)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    waves = {2: (-1) ** (rows + columns), 4: math.sqrt(2) * torch.cos(math.pi / 2 * rows)}
    waves[8] = torch.cos(math.pi / 4 * (rows + columns)) + torch.cos(math.pi / 4 * (rows - columns))
    for period, wave in waves.items():  # each of variance 1
        spectrum = Spectrum()
        spectrum.add(flat + wave * 3 * GREY_LEVEL)
        power = spectrum.grids[:, 1, spectra.PERIODS_PX.index(period)].mean(0)
        assert float(power.max().sqrt()) / GREY_LEVEL == pytest.approx(3, rel=0.01)
        assert int((power > power.max() / 100).sum()) == 1


def test_targets_with_the_same_grid_are_no_fault_of_the_outputs(real: Tensor, other: Tensor) -> None:
    assert report(tiled(real, 4, 6), tiled(other, 4, 6)).grids_found == ()


def test_small_images_have_a_spectrum_and_no_grids() -> None:
    found = report(torch.rand(3, 3, 17, 40), torch.rand(3, 3, 17, 40))
    assert found.grids_db == {}
    assert found.sentences[1] == "No grid was looked for: that needs images of 64 px or more."
    assert "1/4 to 1/2" in found.bands
    assert found.to_dict()["grids_found"] == []


def test_spectra_say_what_is_wrong() -> None:
    spectrum, grey = Spectrum(), Spectrum()
    with pytest.raises(ImageSetError, match="has no images; add at least 1"):
        spectrum_report(spectrum, spectrum)
    with pytest.raises(ImageSetError, match=r"is 9 px; .* need 16"):
        spectrum.add(torch.zeros(1, 3, 9, 30))
    spectrum.add(torch.zeros(1, 3, 16, 16))
    grey.add(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ImageSetError, match="3 channels and the targets 1"):
        spectrum_report(spectrum, grey)


# ------------------------------------------------------------------------------------------------------------
# Retrieval


def test_retrieval_is_brute_force() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(30, 5))
    outputs = targets + rng.normal(size=(30, 5)) * 1.2
    distances = np.linalg.norm(outputs[:, None] - targets[None], axis=2)
    own = np.diag(distances)
    found = retrieval(torch.from_numpy(outputs), torch.from_numpy(targets))
    assert found.share == pytest.approx(np.mean(distances.argmin(1) == np.arange(30)))
    assert found.rank_median == np.median((distances < own[:, None]).sum(1) + 1)
    assert (found.chance, found.count) == (1 / 30, 30)
    assert 0 < found.share < 1


def test_ties_count_by_their_chance() -> None:
    same = retrieval(torch.ones(5, 3), torch.full((5, 3), 0.3))
    assert (same.share, same.rank_median) == (pytest.approx(0.2), 3)
    targets = torch.tensor([[0.1, 0.7], [0.1, 0.7], [9.0, 9.0]])
    pair = retrieval(targets, targets)
    assert pair.share == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert "67% are nearer to their own target than to any other (by chance 33.3%)" in pair.words()


def test_many_pairs_are_compared_in_parts() -> None:
    targets = torch.rand(1100, 2, generator=torch.Generator().manual_seed(0))
    found = retrieval(targets, targets)
    assert (found.share, found.rank_median) == (1, 1)
    assert retrieval(targets.roll(1, 0), targets).share == 0


def test_layout_knows_places_and_no_colours(real: Tensor) -> None:
    where = layout(real)
    assert where.shape == (12, 2 * 31 * 32)
    assert torch.allclose(where, layout(real.flip(1)))  # red and blue exchanged
    for fault in (real.flip(1) * 0.6 - 0.2, blurred(real, 3), -real):
        assert retrieval(layout(fault), where).share == 1
    labels = torch.from_numpy(np.stack([draw_pair(0, i, 128)[1] for i in range(12)])).permute(0, 3, 1, 2)
    assert retrieval(layout(labels.float() / 127.5 - 1), where).share > 0.7
    assert retrieval(layout(real.mean(0, keepdim=True).expand_as(real)), where).share == pytest.approx(1 / 12)
    assert layout(torch.zeros(2, 1, 20, 20)).isfinite().all()


def test_retrieval_says_what_is_wrong() -> None:
    with pytest.raises(ImageSetError, match=r"\(3, 2\) and targets \(2, 2\)"):
        retrieval(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ImageSetError, match="1 pair; retrieval needs 2"):
        retrieval(torch.zeros(1, 2), torch.zeros(1, 2))
