"""The scores of a study against independent computations, and what their intervals must cover."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.color import rgb2lab

from pairloom.ablation.scores import SCORES, Arrays, available
from pairloom.ablation.uncertainty import Estimate, difference, estimate
from pairloom.evaluation.colour import LabHistogram, intersection
from pairloom.evaluation.confusion import MEASURES, scores

L1 = SCORES["l1"]


def colours(images: Sequence[torch.Tensor]) -> np.ndarray:
    """Histogram counts as the arrays hold them. Shapes: images (3, H, W) each -> (N, 540)."""
    rows = []
    for image in images:
        histogram = LabHistogram()
        histogram.add(image[None])
        rows.append(np.concatenate([histogram.counts[channel] for channel in "Lab"]))
    return np.array(rows)


def pictures(count: int, seed: int, contrast: float = 0.5) -> list[torch.Tensor]:
    """Of different sizes. Shapes: (3, H, W) each."""
    generator = torch.Generator().manual_seed(seed)
    return [
        ((torch.rand(3, 4 + i, 5, generator=generator) * 2 - 1) * contrast).clamp(-1, 1) for i in range(count)
    ]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Of six images, with every array, as if from a model."""
    rng = np.random.default_rng(0)
    return {
        "names": np.array(list("abcdef")),
        "l1": rng.uniform(0.1, 0.4, 6),
        "psnr": rng.uniform(10, 20, 6),
        "ssim": np.array([0.2, 0.4, math.nan, 0.5, 0.6, 0.3]),
        "confusion": rng.integers(0, 40, (6, 3, 4)),
        "lab_outputs": colours(pictures(6, 0, 0.3)),
        "lab_targets": colours(pictures(6, 1, 0.8)),
        "detail": rng.normal(-30, 3, (6, 2)),
        "variety": rng.uniform(0.1, 0.5, (6, 2)),
        "samples": rng.uniform(0, 0.02, 6),
    }


@pytest.mark.parametrize("name", SCORES)
def test_a_weight_is_how_often_an_image_is_there(name: str, arrays: Arrays) -> None:
    times = np.array([[1, 1, 1, 1, 1, 1], [0, 3, 1, 0, 2, 0], [6, 0, 0, 0, 0, 0]])
    figures = SCORES[name].figure(arrays, times.astype(float))
    for row, figure in zip(times, figures, strict=True):
        resample = {key: np.repeat(values, row, axis=0) for key, values in arrays.items()}
        assert figure == pytest.approx(SCORES[name].of(resample), nan_ok=False)


def test_class_figures_are_of_the_pooled_matrix(arrays: Arrays) -> None:
    whole = scores(arrays["confusion"].sum(axis=0))
    single = [scores(matrix) for matrix in arrays["confusion"]]
    for name in MEASURES:
        figure = SCORES[name].of(arrays)
        assert figure == pytest.approx(getattr(whole, name))
        assert figure != pytest.approx(np.mean([getattr(s, name) for s in single]))


def test_intersections_are_those_of_the_pooled_histograms(arrays: Arrays) -> None:
    outputs, targets = LabHistogram(), LabHistogram()
    for images, histogram in ((pictures(6, 0, 0.3), outputs), (pictures(6, 1, 0.8), targets)):
        for image in images:
            histogram.add(image[None])
    expected = intersection(outputs, targets)
    for channel in "Lab":
        assert SCORES[f"{channel}_intersection"].of(arrays) == pytest.approx(expected[channel])
    assert SCORES["ab_intersection"].of(arrays) == pytest.approx((expected["a"] + expected["b"]) / 2)


def test_the_colour_spread_is_that_of_the_pixels(arrays: Arrays) -> None:
    def spread(images: list[torch.Tensor]) -> float:
        pixels = [rgb2lab((image.permute(1, 2, 0).numpy() + 1) / 2).reshape(-1, 3) for image in images]
        return math.hypot(*np.concatenate(pixels)[:, 1:].std(axis=0))

    expected = spread(pictures(6, 0, 0.3)) / spread(pictures(6, 1, 0.8))
    assert SCORES["colour_spread"].of(arrays) == pytest.approx(expected, rel=0.01)  # bins are one unit wide


def test_grey_targets_have_no_colour_to_be_as_colourful_as() -> None:
    grey = colours([torch.rand(1, 9, 9).expand(3, 9, 9) * 2 - 1 for _ in range(3)])
    assert math.isnan(
        SCORES["colour_spread"].of({"lab_outputs": colours(pictures(3, 0)), "lab_targets": grey})
    )


def test_ratios_are_of_sums() -> None:
    variety, samples = np.array([[0.1, 0.1], [0.2, 0.8]]), np.array([0.03, 0.06])
    arrays = {"variety": variety, "samples": samples}
    assert SCORES["variety"].of(arrays) == pytest.approx(0.3 / 0.9)
    assert SCORES["sample_share"].of(arrays) == pytest.approx(0.09 / 0.9)
    assert SCORES["sample_share"].of(arrays | {"samples": np.zeros(2)}) == 0
    assert math.isnan(SCORES["variety"].of({"variety": np.zeros((1, 2))})), "one image has no other"


def test_the_sample_distance_is_in_levels_of_an_8_bit_image() -> None:
    images = torch.stack(
        [torch.full((3, 4, 4), level / 127.5 - 1, dtype=torch.float64) for level in (90, 97)]
    )
    apart = float((images[0] - images[1]).abs().mean())
    assert SCORES["sample_distance"].of({"samples": np.full(5, apart)}) == pytest.approx(7)


def test_means_leave_out_images_without_a_value(arrays: Arrays) -> None:
    assert SCORES["ssim"].of(arrays) == pytest.approx(0.4)
    assert SCORES["psnr"].of({"psnr": np.array([10.0, math.inf, 20.0])}) == 15
    assert math.isnan(SCORES["ssim"].of({"ssim": np.full(4, math.nan)}))
    assert SCORES["fine_detail"].of({"detail": np.array([[-40.0, -30.0], [-34.0, -30.0]])}) == -7


def test_only_what_the_images_allow_is_available(arrays: Arrays) -> None:
    assert [score.name for score in available(arrays)] == list(SCORES)
    absent = ("confusion", "lab_outputs", "lab_targets", "detail")
    without = {key: values for key, values in arrays.items() if key not in absent}
    names = [score.name for score in available(without | {"psnr": np.full(6, math.inf)})]
    assert names == ["l1", "ssim", "variety", "sample_distance", "sample_share"]
    assert "no labels" in SCORES["class_iou"].lacks(without)
    assert "not in colour" in SCORES["ab_intersection"].lacks(without)
    assert not SCORES["l1"].lacks(without)


# -----------------------------------------------------------------------------------------------------------
# Intervals


def alike(*seeds: float, images: int = 12) -> list[Arrays]:
    """Runs whose images all have the figure of their seed."""
    return [{"l1": np.full(images, figure)} for figure in seeds]


def ends(e: Estimate) -> tuple[float, float]:
    return e.low, e.high


def test_where_images_are_alike_the_interval_is_students_over_seeds() -> None:
    seeds = [0.31, 0.35, 0.30]
    found = estimate(L1, alike(*seeds))
    assert (found.mean, found.seeds, found.images) == (pytest.approx(0.32), 3, 12)
    assert ends(found) == pytest.approx(stats.ttest_1samp(seeds, 0).confidence_interval(0.95))


@pytest.mark.parametrize(
    ("a", "b"),
    [((0.31, 0.35, 0.30), (0.25, 0.26, 0.24)), ((0.5, 0.2), (0.3, 0.31, 0.28, 0.33, 0.35))],
)
def test_where_images_are_alike_a_difference_has_welchs_interval(
    a: tuple[float, ...], b: tuple[float, ...]
) -> None:
    found = difference(L1, alike(*a), alike(*b))
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert ends(found) == pytest.approx(expected.confidence_interval(0.95))
    assert found.seeds == min(len(a), len(b))


def test_with_one_seed_the_interval_is_students_over_images() -> None:
    values = np.random.default_rng(3).normal(0.3, 0.1, 15)
    found = estimate(L1, [{"l1": values}])
    assert found.seeds == 1
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert ends(found) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_what_makes_an_image_hard_cancels_in_a_difference() -> None:
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 0.3, 40)
    a, b = hard + rng.normal(0.30, 0.01, 40), hard + rng.normal(0.28, 0.01, 40)
    found = difference(L1, [{"l1": a}], [{"l1": b}])
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert ends(found) == pytest.approx((low, high), abs=0.05 * (high - low))
    alone = estimate(L1, [{"l1": a}])
    assert alone.high - alone.low > 10 * (found.high - found.low)


@pytest.mark.parametrize(
    ("seeds", "of_seed", "of_image", "of_both", "least"),
    [
        (3, 1.0, 0.1, 0.1, 0.92),
        (3, 0.2, 1.0, 0.2, 0.92),
        (3, 0.3, 1.0, 0.5, 0.92),
        (3, 0.02, 0.5, 0.1, 0.92),
        (5, 0.5, 1.0, 0.3, 0.92),
        # At worst seeds matter a few times as much as images, and happen to agree.
        (3, 1.3, 1.0, 0.1, 0.90),
        (2, 1.3, 1.0, 0.1, 0.86),
    ],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(
    seeds: int, of_seed: float, of_image: float, of_both: float, least: float
) -> None:
    rng = np.random.default_rng(5)
    covered = {"mean": 0, "difference": 0}
    times, images = 600, 16
    for _ in range(times):
        ease = rng.normal(0, of_image, images)
        a, b = (
            [
                {"l1": rng.normal(0, of_seed) + ease + rng.normal(0, of_both, images)}
                for _ in range(seeds)
            ]
            for _ in range(2)
        )  # fmt: skip
        for name, found in (("mean", estimate(L1, a)), ("difference", difference(L1, a, b))):
            covered[name] += found.low <= 0 <= found.high
    for name, count in covered.items():
        assert count / times >= least, (name, count / times)
        assert count / times < 0.995, f"{name}: so wide an interval could decide nothing"


def test_a_ratio_of_sums_is_covered_as_often() -> None:
    """Pixel accuracy of images of many sizes: 0.6 but for the seed's luck and the image's ease."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        pixels, ease = rng.integers(50, 1000, 25), rng.normal(0, 0.08, 25)
        runs = []
        for _ in range(3):
            right = rng.binomial(pixels, np.clip(0.6 + rng.normal(0, 0.02) + ease, 0, 1))
            runs.append({"confusion": np.stack([right, pixels - right], axis=1)[:, None]})
        found = estimate(SCORES["pixel_accuracy"], runs)
        covered += found.low <= 0.6 <= found.high
    assert 0.92 <= covered / 400 < 0.99


def test_a_percentile_of_three_seeds_would_cover_far_less() -> None:
    """Why the interval is Student's: the bootstrap's own, over the same seeds."""
    rng = np.random.default_rng(6)
    draws = rng.integers(3, size=(400, 3))
    seeds = rng.normal(0, 1, (300, 3))
    low, high = np.quantile(seeds[:, draws].mean(axis=2), [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.85


def test_pooled_figures_have_intervals_too(arrays: Arrays) -> None:
    worse = dict(arrays) | {"confusion": arrays["confusion"] + 30 * (1 - np.eye(3, 4, dtype=int))}
    for name in ("class_iou", "ab_intersection", "variety"):
        found = estimate(SCORES[name], [arrays, worse])
        assert found.low < found.mean < found.high
    gained = difference(SCORES["class_iou"], [arrays, arrays], [worse, worse])
    assert gained.mean == pytest.approx(
        scores(arrays["confusion"].sum(0)).class_iou - scores(worse["confusion"].sum(0)).class_iou
    )
    assert gained == difference(SCORES["class_iou"], [arrays, arrays], [worse, worse]), "the same every time"


def test_what_cannot_be_told_is_not_a_number(arrays: Arrays) -> None:
    nothing = estimate(L1, [])
    assert math.isnan(nothing.mean) and nothing.seeds == 0
    assert math.isnan(estimate(SCORES["class_iou"], alike(0.1, 0.2)).mean), "no confusion matrices"
    assert math.isnan(difference(L1, alike(0.1), []).mean)
    diverged = estimate(L1, [*alike(0.1), {"l1": np.full(12, math.nan)}])
    assert math.isnan(diverged.mean) and math.isnan(diverged.high)
    one = estimate(L1, alike(0.1, images=1))
    assert one.mean == pytest.approx(0.1) and math.isnan(one.low)
    same = difference(L1, alike(0.2, 0.2), alike(0.2, 0.2))
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_an_estimate_in_words() -> None:
    assert Estimate(0.1234, 0.1, 0.15, 3, 10).words(3) == "0.123 [0.100, 0.150]"
    assert Estimate(0.1234, -0.1, 0.35, 3, 10).words(2, sign="+") == "+0.12 [-0.10, +0.35]"
    assert Estimate(-0.0001, -0.0002, 0.0, 3, 10).words(3) == "0.000 [0.000, 0.000]"
    assert Estimate(0.5, math.nan, math.nan, 1, 1).words(3) == "0.500"
    assert Estimate(math.nan, math.nan, math.nan, 0, 0).words(3) == "-"
