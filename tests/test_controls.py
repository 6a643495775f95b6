"""The controls against what they claim to be, and the ladder against the order that each metric promises."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab
from torch import Tensor

from pairloom.data.sample import draw_pair
from pairloom.evaluation import controls
from pairloom.evaluation.colour import LabHistogram, intersection
from pairloom.evaluation.controls import CONTROLS, MODEL
from pairloom.evaluation.ladder import Ladder, cannot_see, draw, ladder
from pairloom.evaluation.metrics import bias, l1, psnr, ssim
from pairloom.evaluation.retrieval import layout, retrieval
from pairloom.evaluation.sets import ImageSetError
from pairloom.evaluation.sliced_wasserstein import Patches, sliced_wasserstein
from pairloom.evaluation.spectrum import Spectrum, spectrum_report

Images = Sequence[Tensor]


def drawn(first: int, count: int, size: int = 96) -> list[tuple[Tensor, Tensor]]:
    """(label map, photo) of drawn facades."""

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).permute(2, 0, 1).float() / 127.5 - 1

    return [(tensor(b), tensor(a)) for a, b in (draw_pair(0, first + i, size) for i in range(count))]


Collector = TypeVar("Collector", Patches, Spectrum, LabHistogram)


def collected(make: Callable[[], Collector], images: Images) -> Collector:
    collector = make()
    for image in images:
        collector.add(image[None])
    return collector


def swd(scale: int) -> Callable[[Images, Images], float]:
    def metric(outputs: Images, targets: Images) -> float:
        both = (collected(Patches, images) for images in (outputs, targets))
        return list(sliced_wasserstein(*both).values())[scale]

    return metric


def fine(outputs: Images, targets: Images) -> float:
    return spectrum_report(*(collected(Spectrum, images) for images in (outputs, targets))).fine_db


def lab(channel: str) -> Callable[[Images, Images], float]:
    def metric(outputs: Images, targets: Images) -> float:
        return intersection(*(collected(LabHistogram, images) for images in (outputs, targets)))[channel]

    return metric


def found_again(outputs: Images, targets: Images) -> float:
    return retrieval(*(layout(torch.stack(list(images))) for images in (outputs, targets))).share


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Tensor, Tensor]]:
    return drawn(0, 10)


@pytest.fixture(scope="module")
def whole(pairs: list[tuple[Tensor, Tensor]]) -> Ladder:
    outputs = [0.8 * y + 0.1 for _, y in pairs]
    return ladder(
        pairs,
        outputs,
        {"L1": l1, "PSNR": psnr, "SSIM": ssim, "bias": bias},
        {
            "SWD fine": swd(0),
            "SWD 16": swd(-1),
            "fine dB": fine,
            "Lab L": lab("L"),
            "Lab a": lab("a"),
            "Lab b": lab("b"),
            "retrieval": found_again,
        },
        others=[y for _, y in drawn(40, 25)],
    )


# ------------------------------------------------------------------------------------------------------------
# The controls


def made(name: str, pairs: controls.Pairs, others: Images = (), seed: int = 0) -> list[Tensor]:
    images = CONTROLS[name](pairs, others, seed)
    assert [image.shape for image in images] == [y.shape for _, y in pairs]
    assert all(image.dtype == torch.float32 for image in images)
    return images


def test_greyed_targets_keep_their_lightness_and_lose_their_colour(pairs: controls.Pairs) -> None:
    for grey, (_, y) in zip(made("greyed", pairs), pairs, strict=True):
        before, after = (rgb2lab((image.permute(1, 2, 0).numpy() + 1) / 2) for image in (y, grey))
        assert np.abs(after[..., 1:]).max() < 0.01
        assert np.abs(after[..., 0] - before[..., 0]).max() < 0.01


@pytest.mark.parametrize("sigma", [1, 2])
def test_blurred_targets_are_scipys(pairs: controls.Pairs, sigma: int) -> None:
    found = made(f"blurred, sigma {sigma} px", pairs)[3]
    expected = gaussian_filter(pairs[3][1].numpy(), (0, sigma, sigma), mode="mirror")
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_shifted_targets_repeat_their_edge(pairs: controls.Pairs) -> None:
    moved, (_, y) = made("shifted by 2 px", pairs)[0], pairs[0]
    assert torch.equal(moved[..., 2:], y[..., :-2])
    assert torch.equal(moved[..., :2], y[..., :1].expand(-1, -1, 2))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_random_pairing_leaves_no_target_in_its_place_and_loses_none(count: int) -> None:
    numbered = [(torch.zeros(1, 4, 4), torch.full((1, 4, 4), i / 10)) for i in range(count)]
    for seed in range(5):
        order = [round(10 * float(image[0, 0, 0])) for image in made("paired at random", numbered, seed=seed)]
        assert sorted(order) == list(range(count))
        assert all(i != place for place, i in enumerate(order))
        again = made("paired at random", numbered, seed=seed)
        assert order == [round(10 * float(image[0, 0, 0])) for image in again]


def test_the_mean_target_is_that_of_training_if_there_is_any(pairs: controls.Pairs) -> None:
    mean = torch.stack([y for _, y in pairs]).mean(0)
    assert torch.allclose(made("mean target", pairs)[0], mean, atol=1e-6)
    others = [torch.full((3, 96, 96), value) for value in (0.25, 0.5)]
    assert torch.allclose(made("mean target", pairs, others)[4], torch.full((3, 96, 96), 0.375))


def test_other_real_images_are_as_many_as_the_pairs(pairs: controls.Pairs) -> None:
    others = [torch.full((3, 50, 60), i / 100) for i in range(25)]
    chosen = [round(100 * float(image.mean())) for image in made("other real images", pairs, others)]
    assert len(set(chosen)) == 10
    assert (chosen[0], chosen[-1]) == (0, 24)
    with pytest.raises(ImageSetError, match="3 training targets beside 10 pairs"):
        CONTROLS["other real images"](pairs, others[:3], 0)


@pytest.mark.parametrize(("have", "need"), [(1, 3), (3, 1), (3, 3), (5, 5)])
def test_the_source_takes_the_targets_channels_where_it_can(have: int, need: int) -> None:
    some = [(torch.rand(have, 8, 8) * 2 - 1, torch.zeros(need, 8, 8))]
    (image,) = made("source", some)
    if have == need:
        assert torch.equal(image, some[0][0])
    if have == 1:
        assert torch.equal(image[2:], some[0][0])


def test_pairs_of_differing_sizes_are_controls_all_the_same() -> None:
    rng = torch.Generator().manual_seed(0)
    some = [(torch.rand(1, h, w, generator=rng),) * 2 for h, w in ((20, 30), (31, 17), (25, 25))]
    for name in CONTROLS:
        if name not in ("greyed", "other real images"):
            made(name, some)


# ------------------------------------------------------------------------------------------------------------
# The ladder


def test_every_rung_is_there_with_the_metrics_that_have_a_meaning(whole: Ladder) -> None:
    assert set(whole.rows) == {MODEL, *CONTROLS}
    assert whole.remarks == ()
    for row, columns in whole.rows.items():
        empty = {name for name, value in columns.items() if value is None}
        assert empty == ({"L1", "PSNR", "SSIM", "bias"} if row == "other real images" else set())


def column(whole: Ladder, name: str) -> dict[str, float]:
    return {row: value for row, columns in whole.rows.items() if (value := columns[name]) is not None}


def test_the_targets_are_perfect_by_every_metric(whole: Ladder) -> None:
    assert whole.rows["the targets"] == {
        "L1": 0, "PSNR": math.inf, "SSIM": pytest.approx(1), "bias": 0, "SWD fine": 0, "SWD 16": 0,
        "fine dB": 0, "Lab L": pytest.approx(1), "Lab a": pytest.approx(1), "Lab b": pytest.approx(1),
        "retrieval": 1,
    }  # fmt: skip


def test_each_metric_puts_the_controls_in_its_promised_order(whole: Ladder) -> None:
    s = column(whole, "SSIM")
    assert 1 > s["blurred, sigma 1 px"] > s["blurred, sigma 2 px"] > s["paired at random"]
    e = column(whole, "L1")
    assert 0 < e["blurred, sigma 1 px"] < e["blurred, sigma 2 px"] < e["mean target"] < e["paired at random"]
    w = column(whole, "SWD fine")
    assert w["blurred, sigma 2 px"] > w["blurred, sigma 1 px"] > w["other real images"] > 0
    assert w["paired at random"] == 0
    f = column(whole, "fine dB")
    assert f["blurred, sigma 2 px"] < f["blurred, sigma 1 px"] < -3 < f["other real images"]
    assert abs(f["shifted by 2 px"]) < 0.1
    for channel in "ab":
        c = column(whole, f"Lab {channel}")
        assert c["greyed"] < 0.5 < c["other real images"]
    assert column(whole, "Lab L")["greyed"] > 0.99
    r = column(whole, "retrieval")
    assert r["blurred, sigma 2 px"] == r["shifted by 2 px"] == r["greyed"] == 1
    assert r["mean target"] == pytest.approx(0.1)
    assert r["paired at random"] < 0.3


def test_the_rows_say_what_each_metric_cannot_see(whole: Ladder) -> None:
    said = " ".join(cannot_see(whole.rows))
    assert (
        "bias, SWD fine, SWD 16, fine dB, Lab L, Lab a and Lab b rank targets paired at random as well as "
        "the targets themselves: they ignore the pairing." in said
    )
    assert "L1 and PSNR place the mean target above sharp targets paired at random: they reward blur." in said
    assert "SSIM goes from 1.00 to 0." in said
    assert "for a shift of 2 px" in said
    assert "SWD fine" in said.split(" more for a blur of sigma 1 px than for other real images")[0]
    assert "Lab L and retrieval rank greyed targets with the targets: colour is not seen." in said


def rows(**values: tuple[float, ...]) -> dict[str, dict[str, float | None]]:
    """One metric M: targets, other, shifted, blur 1, blur 2, greyed, random, mean, source."""
    return {row: {"M": value} for row, value in zip(CONTROLS, values["M"], strict=True)}


def test_nothing_is_said_of_a_metric_that_sees_all() -> None:
    perfect = rows(M=(0.0, 0.3, 0.05, 0.1, 0.2, 0.3, 1.0, 1.0, 0.8))
    assert cannot_see(perfect) == ()
    flipped = {row: {"M": 5 - (columns["M"] or 0)} for row, columns in perfect.items()}
    assert cannot_see(flipped) == ()
    assert cannot_see({}) == ()
    assert cannot_see({"model": {"M": 1.0}}) == (), "without the targets' own figure nothing is known"
    assert cannot_see(rows(M=(2.0,) * 9)) == ()


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ((0.0, 0.3, 0.05, 0.1, 0.2, 0.3, 0.0, 1.0, 0.8), "M ranks targets paired at random as well as the"),
        ((0.0, 0.3, 0.05, 0.1, 0.5, 0.6, 1.0, 1.0, 0.8), "2 px than for other real images."),
        (
            (0.0, 0.3, 0.05, 0.5, 0.9, 0.3, 1.0, 1.0, 0.8),
            "1 px than for other real images or the loss of all colour: it mostly measures blur.",
        ),
        (
            (0.0, 0.3, 0.05, 0.1, 0.2, 0.3, 1.0, 0.6, 0.8),
            "M places the mean target above sharp targets paired",
        ),
        (
            (0.0, 0.3, 0.40, 0.1, 0.2, 0.3, 1.0, 1.0, 0.8),
            "M goes from 0 to 0.400 for a shift of 2 px, 40% of",
        ),
        ((0.0, 0.3, 0.05, 0.1, 0.2, 0.01, 1.0, 1.0, 0.8), "M ranks greyed targets with the targets: colour"),
        (
            (0.0, 0.3, 0.05, 0.1, 0.2, 0.04, 1.0, 1.0, 0.8),
            "M hardly sees colour: its loss costs less than half",
        ),
    ],
)
def test_a_sentence_needs_its_figures(figures: tuple[float, ...], sentence: str) -> None:
    said = cannot_see(rows(M=figures))
    assert len(said) == 1
    assert sentence in said[0]


def test_a_model_below_the_mean_target_is_told() -> None:
    table = rows(M=(0.0, 0.3, 0.05, 0.1, 0.2, 0.3, 1.0, 1.0, 0.8)) | {"model": {"M": 1.2}}
    assert cannot_see(table) == ("By M the mean target, which is one blur for all, beats the model.",)


def test_the_table_is_aligned_ordered_and_marks_the_model(whole: Ladder) -> None:
    lines = whole.words().splitlines()
    table = lines[1:11]
    assert table[0].startswith("  the targets")
    assert [line for line in table if line.startswith("> ")] == [line for line in table if "model" in line]
    assert table[-1].split()[0] in ("source", "mean"), "the worst is last"
    for name in whole.metrics:
        start = lines[0].index(f"  {name}") + 2
        assert all(line[start] != " " == line[start - 1] for line in table)
    order = whole.order
    assert order.index("blurred, sigma 1 px") < order.index("blurred, sigma 2 px")


def test_the_record_is_plain_json(whole: Ladder) -> None:
    record = json.loads(json.dumps(whole.to_dict(), allow_nan=False))
    assert record["rows"]["the targets"]["PSNR"] is None
    assert record["rows"]["greyed"]["Lab a"] == pytest.approx(whole.rows["greyed"]["Lab a"])
    assert record["cannot_see"] == list(cannot_see(whole.rows))


def test_what_cannot_be_measured_is_left_out_with_a_sentence() -> None:
    few = [(torch.rand(7, 20, 20), torch.rand(2, 20, 20)) for _ in range(3)]

    def refuses(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("It needs RGB.")

    found = ladder(few, [y for _, y in few], {"L1": l1, "odd": refuses}, {"SWD": swd(0), "Lab": lab("L")})
    assert set(found.rows) == {MODEL, *CONTROLS} - {"other real images", "greyed", "source"}
    assert (
        {row["SWD"] for row in found.rows.values()} == {row["odd"] for row in found.rows.values()} == {None}
    )
    assert len(found.remarks) == 6, "each fault is told once"
    said = " ".join(found.remarks)
    assert '"source" is left out. The sources have 7 channels and the targets 2.' in said
    assert "SWD is left out. A set has 3 images; the patches of two sets need 8 or more in each." in said
    assert "odd is left out. It needs RGB." in said
    assert "greyed" in said and "only RGB has colour to lose" in said
    assert "  -" in found.words()


def test_images_without_a_figure_are_left_out_of_the_mean() -> None:
    some = [(torch.zeros(1, 4, 4), torch.full((1, 4, 4), value)) for value in (0.0, 0.5)]
    outputs = [torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)]
    found = ladder(some, outputs, {"PSNR": psnr, "SSIM": ssim}, {})
    assert found.rows[MODEL]["PSNR"] == pytest.approx(20 * math.log10(2 / 0.5))  # the first is an exact copy
    assert found.rows["the targets"]["PSNR"] == math.inf
    assert found.rows[MODEL]["SSIM"] is None


def test_a_single_pair_has_a_ladder() -> None:
    found = ladder(drawn(0, 1), [drawn(1, 1)[0][1]], {"L1": l1}, {})
    assert (
        '"paired at random" is left out. There is 1 pair, and no other to take the target from.'
        in found.remarks
    )


def test_the_ladder_says_what_is_wrong(pairs: controls.Pairs) -> None:
    with pytest.raises(ImageSetError, match="no pairs"):
        ladder([], [], {}, {})
    with pytest.raises(ImageSetError, match="2 outputs and 10 pairs"):
        ladder(pairs, [y for _, y in pairs[:2]], {}, {})
    with pytest.raises(ImageSetError, match=r"Output 0 has shape \(3, 8, 8\) and its target \(3, 96, 96\)"):
        ladder(pairs, [torch.zeros(3, 8, 8)] * 10, {}, {})


# ------------------------------------------------------------------------------------------------------------
# The strip


@pytest.mark.parametrize("metric", ["PSNR", "SWD fine", "Lab a"])
def test_the_strip_places_every_figure_on_one_axis(whole: Ladder, metric: str) -> None:
    svg = draw(whole, metric)
    root = ElementTree.fromstring(svg)
    values = column(whole, metric)
    texts = [text.text for text in root.iter("text")]
    names, figures = texts[::2], texts[1::2]
    assert set(names) == set(values)
    assert names[0] == "the targets", "the best on top"
    circles = {float(circle.get("cy", "")): float(circle.get("cx", "")) for circle in root.iter("circle")}
    placed = {}
    for text, name in zip(list(root.iter("text"))[::2], names, strict=True):
        placed[name] = circles.get(float(text.get("y", "")) - 3)
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    assert {name for name, x in placed.items() if x is None} == set(values) - set(finite)
    low, high = min(finite.values()), max(finite.values())
    span = (min(circles.values()), max(circles.values()))
    for name, value in finite.items():
        expected = span[0] + (value - low) / (high - low) * (span[1] - span[0])
        assert placed[name] == pytest.approx(expected, abs=0.11)
    assert svg.count("var(--c1)") == 2, "the model's mark and its line"
    assert "inf" in figures if metric == "PSNR" else "inf" not in figures


def test_a_metric_that_the_model_lacks_cannot_be_drawn(whole: Ladder) -> None:
    with pytest.raises(ImageSetError, match=r"has no KID to draw; the ladder has L1, PSNR, .* and retrieval"):
        draw(whole, "KID")
