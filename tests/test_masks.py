"""Pixels that count for nothing: no value under a mask may change anything that is learned or measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from torch import Tensor

import pairloom
from conftest import cli, tiny_config
from pairloom import images, losses, networks
from pairloom.config import DataConfig, DiscriminatorConfig, ObjectiveConfig
from pairloom.data import DataError, evaluation_view, find_pairs, fingerprint, load_pair, measure_specs
from pairloom.data.check import check
from pairloom.data.loading import item_rng, training_batches
from pairloom.data.prepare import prepare
from pairloom.data.views import training_view
from pairloom.evaluation import metrics
from pairloom.evaluation.baselines import Baselines
from pairloom.evaluation.colour import LabHistogram
from pairloom.evaluation.evaluate import evaluate
from pairloom.evaluation.label_score import LabelScorer
from pairloom.files import translate_files
from pairloom.formats import read_image, write_image
from pairloom.images import ImageError, ImageSpec
from pairloom.pictures import preview
from pairloom.survey import measure_spec
from pairloom.training import TrainState, train_step
from pairloom.translator import Translator
from pairloom.validity import filled, known_part

SIDE = 40
SPLITS = {"train": 3, "val": 2, "test": 3}
SPEC = ImageSpec(channels=1, dtype="float32", low=(-1.0,), high=(1.0,))


def valid_map(seed: int, side: int = SIDE) -> np.ndarray:
    """(side, side) bool: a block, and scattered pixels, do not count."""
    rng = np.random.default_rng(seed)
    valid = rng.random((side, side)) > 0.03
    top, left = rng.integers(0, side // 2, 2)
    valid[top : top + side // 3, left : left + side // 3] = False
    return valid


def amounts(seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Smooth float images (side, side, 2) and (side, side, 1): 16 values of x make 16 of y."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    fields = [
        sum(rng.normal() * np.sin(k * x + rng.uniform(0, 6)) * np.cos(k * y) for k in (2, 5, 9))
        for _ in range(2)
    ]
    source = np.stack(fields, -1) + 0.05 * rng.normal(size=(side, side, 2))
    return source.astype(np.float32), (source[..., :1] * 2 - source[..., 1:] + 3).astype(np.float32)


Spoil = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(array, valid, seed) -> the array with other values where it does not count."""


def garbage(seed: int) -> Spoil:
    def spoil(array: np.ndarray, valid: np.ndarray, number: int) -> np.ndarray:
        rng = np.random.default_rng((seed, number, array.shape[2]))
        wild = (
            rng.integers(0, 256, array.shape) if array.dtype == np.uint8 else rng.normal(0, 1e4, array.shape)
        )
        return np.where(valid[..., None], array, wild.astype(array.dtype))

    return spoil


def nan(array: np.ndarray, valid: np.ndarray, number: int) -> np.ndarray:
    return np.where(valid[..., None], array, np.float32(np.nan))


def write_set(root: Path, spoil: Spoil, *, masks: bool, dtype: str = "float32") -> Path:
    """Folders A, B and mask with splits."""
    number = 0
    for split, count in SPLITS.items():
        for folder in ("A", "B", "mask"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            number += 1
            valid = valid_map(number)
            for folder, array in zip("AB", amounts(number), strict=True):
                if dtype == "uint8":
                    scaled = (array[..., :1] * 30 + 128).clip(0, 255).astype(np.uint8)
                    write_image(
                        root / folder / split / f"{i}.png", spoil(np.repeat(scaled, 3, 2), valid, number)
                    )
                else:
                    write_image(root / folder / split / f"{i}.tif", spoil(array, valid, number))
            if masks:
                write_image(root / "mask" / split / f"{i}.png", np.uint8(255) * valid[..., None])
    return root


def run_of(data: Path, out: Path, **fields: Any) -> Path:
    config = tiny_config(
        data,
        data__workers=0, training__steps=3, training__epochs=None, training__batch_size=2,
        logging__save_every_steps=3, data__val_fraction=0.0, data__direction="AtoB", **fields,
    )  # fmt: skip
    return pairloom.train(config, out)


def weights(run: Path) -> dict[str, Tensor]:
    names = ("generator", "discriminator")
    return {f"{n}.{k}": v for n in names for k, v in load_file(run / f"{n}.safetensors").items()}


def same_weights(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# -----------------------------------------------------------------------------------------------------------
# The strongest promise


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """(data, run) of the same pixels with other values under the masks, and with NaN instead of masks."""
    made = {}
    for name, spoil, masks in (
        ("one", garbage(1), True),
        ("two", garbage(2), True),
        ("nan", nan, False),
        ("whole", lambda array, valid, number: array, False),
    ):
        root = tmp_path_factory.mktemp(name)
        data = write_set(root / "data", spoil, masks=masks)
        made[name] = data, run_of(data, root / "run")
    return made


def test_what_lies_under_a_mask_changes_no_weight(runs: dict[str, tuple[Path, Path]]) -> None:
    assert same_weights(runs["one"][1], runs["two"][1])
    assert not same_weights(runs["one"][1], runs["whole"][1])
    specs = [json.loads((run / "specs.json").read_text()) for _, run in runs.values()]
    assert specs[0] == specs[1], "ranges are measured of the pixels that count"


def test_nan_is_a_mask(runs: dict[str, tuple[Path, Path]]) -> None:
    assert same_weights(runs["one"][1], runs["nan"][1])


@pytest.mark.parametrize("gan_mode", ["lsgan", "hinge", "wgan-gp"])
def test_of_every_objective(tmp_path: Path, gan_mode: str) -> None:
    fields = {"objective__gan_mode": gan_mode, "objective__lambda_l2": 5.0, "data__rotate": "quarter",
              "data__elastic_px": 2.0, "data__affine_degrees": 9.0, "data__light": 0.3}  # fmt: skip
    made = []
    for seed in (1, 2):
        data = write_set(tmp_path / f"data{seed}", garbage(seed), masks=True, dtype="uint8")
        made.append(run_of(data, tmp_path / f"run{seed}", **fields))
    assert same_weights(*made)
    assert all(value.isfinite().all() for value in weights(made[0]).values())


def test_the_introduction_and_the_validation_say_so(runs: dict[str, tuple[Path, Path]]) -> None:
    shares = [1 - valid_map(number).mean() for number in (1, 2, 3)]
    said = (runs["one"][1] / "log.txt").read_text()
    assert f"{100 * np.mean(shares):.1f} % of the training pixels are invalid and left out" in said
    assert "invalid" not in (runs["whole"][1] / "log.txt").read_text()
    run = runs["one"][1]
    model = Translator.load(run, precision="fp32")
    pairs = find_pairs(model.config.data).split("val")
    found = []
    for pair in pairs:
        x, y, valid = evaluation_view(pair, model.source_spec, model.target_spec, model.config.data)
        assert valid is not None
        y_hat = model.translate_tensor(x[None])[0].numpy()
        found.append(np.abs(y_hat - y.numpy())[:, valid[0].numpy() == 1].mean())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = next(line["val_L1"] for line in lines if "val_L1" in line)
    assert told == pytest.approx(np.mean(found), abs=2e-6)


def test_what_lies_under_a_mask_changes_no_figure(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    run = runs["one"][1]
    tables, summaries = [], []
    for name in ("one", "two", "nan"):
        out = tmp_path / name
        summary = evaluate(run, runs[name][0], out=out, samples=0)
        tables.append((out / "per_image.csv").read_text())
        plain = summary.to_dict()
        summaries.append(
            {key: plain[key] for key in ("metrics", "differences", "channels", "sections", "remarks")}
        )
        assert (out / "evaluation.html").exists()
    assert tables[0] == tables[1] == tables[2]
    assert summaries[0] == summaries[1] == summaries[2]

    model = Translator.load(run, precision="fp32")
    rows = list(csv.DictReader(tables[0].splitlines()))
    pairs = find_pairs(replace(model.config.data, path=str(runs["one"][0]))).split("test")
    shares = []
    for row, pair in zip(rows, pairs, strict=True):
        x, y, valid = evaluation_view(pair, model.source_spec, model.target_spec, model.config.data)
        assert valid is not None
        where = valid[0].numpy() == 1
        a, b = model.translate_tensor(x[None])[0, 0].double().numpy()[where], y[0].double().numpy()[where]
        expected = {
            "L1": np.abs(a - b).mean(),
            "RMSE": np.sqrt(((a - b) ** 2).mean()),
            "bias": (a - b).mean(),
            "PSNR": 10 * np.log10(4 / ((a - b) ** 2).mean()),
            "Pearson": np.corrcoef(a, b)[0, 1],
            "valid_share": where.mean(),
        }
        assert {key: float(row[key]) for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
        shares.append(where.mean())
    assert summary.settings["invalid_share"] == pytest.approx(1 - np.mean(shares))
    assert f"{100 * (1 - np.mean(shares)):.1f} % of the pixels count for nothing" in summary.remarks[0]
    assert "the same mid-grey" in summary.sections["set"].words


def test_whole_pairs_have_no_such_remark(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    summary = evaluate(runs["whole"][1], out=tmp_path / "out", samples=0)
    assert summary.settings["invalid_share"] == 0
    assert not any("count for nothing" in remark for remark in summary.remarks)
    assert "mid-grey" not in summary.sections["set"].words


# -----------------------------------------------------------------------------------------------------------
# Losses


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def maps(n: int, side: int) -> Tensor:
    return torch.stack([torch.from_numpy(valid_map(i, side))[None].float() for i in range(n)])


def test_losses_are_means_over_what_counts() -> None:
    y_hat, y, valid = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1), maps(2, 16)
    where = np.broadcast_to(valid.numpy() == 1, y.shape)
    difference = (y_hat.double() - y.double()).numpy()[where]
    assert losses.l1(y_hat, y, valid).item() == pytest.approx(np.abs(difference).mean(), rel=1e-5)
    assert losses.l2(y_hat, y, valid).item() == pytest.approx((difference**2).mean(), rel=1e-5)


@pytest.mark.parametrize("loss", [losses.l1, losses.l2])
def test_no_gradient_where_a_pixel_does_not_count(loss: Callable[..., Tensor]) -> None:
    y_hat, valid = noise(2, 3, 16, 16).requires_grad_(True), maps(2, 16)
    y = noise(2, 3, 16, 16, seed=1).masked_fill(valid == 0, torch.nan)
    value = loss(y_hat, y, valid)
    (gradient,) = torch.autograd.grad(value, y_hat)
    invalid = (valid == 0).expand_as(gradient)
    assert value.isfinite()
    assert (gradient[invalid] == 0).all() and (gradient[~invalid] != 0).all()


def test_a_batch_in_which_nothing_counts_teaches_nothing() -> None:
    y_hat = noise(1, 1, 8, 8).requires_grad_(True)
    value = losses.l1(y_hat, noise(1, 1, 8, 8, seed=1), torch.zeros(1, 1, 8, 8))
    (gradient,) = torch.autograd.grad(value, y_hat)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_patch_counts_if_a_pixel_in_it_does(layers: int) -> None:
    """By gradients: which pixels does each logit see, when no norm mixes them?"""
    config = DiscriminatorConfig(base_channels=4, num_layers=layers, norm="none")
    D = networks.build_discriminator(config, 1, 1, torch.Generator().manual_seed(0)).double()
    for weight in D.parameters():  # no zero by chance
        weight.data.abs_().add_(0.01)
    side = 48
    x, y = (torch.full((1, 1, side, side), value, dtype=torch.float64) for value in (0.0, 1.0))
    y.requires_grad_(True)
    logits = D(x, y)
    rng = np.random.default_rng(1)
    valid = torch.from_numpy(rng.random((1, 1, side, side)) > 0.9).float()
    valid[..., :40, :] = valid[..., :42] = 0
    seen = D.sees(valid)
    assert seen.shape == logits.shape and 0 < seen.mean() < 1
    for place in np.ndindex(logits.shape):
        (gradient,) = torch.autograd.grad(logits[place], y, retain_graph=True)
        assert bool(seen[place]) == bool(((gradient != 0) & (valid == 1)).any())


@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "hinge", "wgan-gp"])
def test_adversarial_terms_are_of_the_patches_that_count(mode: Any) -> None:
    real, fake = noise(2, 1, 6, 6).mul(3), noise(2, 1, 6, 6, seed=1).mul(3)
    seen = maps(2, 6)
    where = seen == 1
    some = [logits[where][None, None, None] for logits in (real, fake)]
    torch.testing.assert_close(losses.d_terms(real, fake, mode, seen), losses.d_terms(*some, mode))
    torch.testing.assert_close(losses.g_term(fake, mode, seen=seen), losses.g_term(some[1], mode))
    expected = losses.accuracy(some[0], mode, real=True)
    torch.testing.assert_close(losses.accuracy(real, mode, real=True, seen=seen), expected)


@pytest.mark.parametrize("gan_mode", ["vanilla", "wgan-gp"])
def test_a_map_of_ones_is_no_map(tiny_data: Path, gan_mode: Any) -> None:
    """And no map is the step as it was: the same sums in the same order."""
    config = tiny_config(tiny_data)
    config = pairloom.override(
        config, {"generator.source_channels": 3, "generator.target_channels": 3, "generator.num_downs": 5}
    )
    objective = replace(config.objective, gan_mode=gan_mode)
    x, y = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    found = []
    for valid in (None, torch.ones(2, 1, 32, 32)):
        state = TrainState.create(config, torch.device("cpu"))
        logs = train_step(state, x, y, objective, nullcontext(), valid)
        found.append((logs, state.generator.state_dict()))
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gan_mode", ["vanilla", "wgan-gp"])
def test_d_cannot_tell_by_what_does_not_count(tiny_data: Path, gan_mode: Any) -> None:
    """Whatever y holds there, even NaN: D is shown 0, of real and of generated images."""
    config = pairloom.override(
        tiny_config(tiny_data),
        {"generator.source_channels": 3, "generator.target_channels": 3, "generator.num_downs": 5},
    )
    state = TrainState.create(config, torch.device("cpu"))
    assert state.discriminator is not None
    shown: list[Tensor] = []
    first = state.discriminator.layers[0]
    first.register_forward_pre_hook(lambda _, given: shown.append(given[0].detach()[:, 3:]))
    x, valid = noise(2, 3, 32, 32), maps(2, 32)
    y = noise(2, 3, 32, 32, seed=1).masked_fill(valid == 0, torch.nan)
    train_step(state, x, y, replace(config.objective, gan_mode=gan_mode), nullcontext(), valid)
    assert len(shown) == (4 if gan_mode == "wgan-gp" else 3)
    invalid = (valid == 0).expand_as(y)
    for image in shown:
        assert (image[invalid] == 0).all() and (image[~invalid] != 0).all()


@pytest.mark.parametrize("gan_mode", ["vanilla", "wgan-gp"])
def test_a_step_on_nothing_stays_finite(tiny_data: Path, gan_mode: Any) -> None:
    config = pairloom.override(
        tiny_config(tiny_data),
        {"generator.source_channels": 3, "generator.target_channels": 3, "generator.num_downs": 5},
    )
    objective: ObjectiveConfig = replace(config.objective, gan_mode=gan_mode)
    state = TrainState.create(config, torch.device("cpu"))
    valid = torch.stack([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
    for batch in (valid, torch.zeros_like(valid)):
        x, y = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
        logs = train_step(state, x, y, objective, nullcontext(), batch)
        assert all(value.isfinite() for value in logs.values())
    assert all(value.isfinite().all() for value in state.generator.state_dict().values())
    assert state.discriminator is not None
    assert all(value.isfinite().all() for value in state.discriminator.state_dict().values())


# -----------------------------------------------------------------------------------------------------------
# Metrics


def test_ssim_is_of_the_windows_that_are_whole() -> None:
    """Against scikit-image's map, at positions 5 px and more from the border and from invalid pixels."""
    side = 48
    a, b = noise(1, 1, side, side), noise(1, 1, side, side, seed=1) * 0.3
    b = (a + b).clamp(-1, 1)
    valid = np.ones((side, side), bool)
    valid[:, :6] = valid[20:24, 30:33] = valid[40, 12] = False
    valid[:6] = valid[-6:] = valid[:, -6:] = False  # so that no window that counts is mirrored
    _, full = structural_similarity(
        *((t[0, 0].double().numpy() + 1) / 2 for t in (a, b)),
        data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
    )  # fmt: skip
    whole = np.array(
        [
            [valid[max(i - 5, 0) : i + 6, max(j - 5, 0) : j + 6].all() for j in range(side)]
            for i in range(side)
        ]
    )
    where = torch.from_numpy(valid)[None, None].float()
    assert metrics.ssim(a, b, where).item() == pytest.approx(full[whole].mean(), abs=1e-5)
    wild = a.masked_fill(where == 0, 1e3)
    assert torch.equal(metrics.ssim(filled(wild, where), b, where), metrics.ssim(filled(a, where), b, where))
    everywhere = torch.ones_like(where)
    torch.testing.assert_close(metrics.ssim(a, b, everywhere), metrics.ssim(a, b), rtol=1e-5, atol=1e-6)
    assert metrics.ssim(a, b, torch.zeros_like(where)).isnan().all()


def test_metrics_without_a_pixel_are_nan() -> None:
    a, b, nothing = noise(2, 2, 12, 12), noise(2, 2, 12, 12, seed=1), torch.zeros(2, 1, 12, 12)
    nothing[1] = 1
    for name, values in metrics.measure(a, b, nothing).items():
        assert values.shape == (2,) and values[0].isnan(), name
        assert values[1].isfinite() or name == "MS-SSIM"
    assert metrics.channel_bias(a, b, nothing).shape == (2, 2)


def test_ms_ssim_is_of_whole_images() -> None:
    a, b = noise(1, 1, 176, 176), noise(1, 1, 176, 176, seed=1)
    valid = torch.ones(1, 1, 176, 176)
    assert torch.equal(metrics.ms_ssim(a, b, valid), metrics.ms_ssim(a, b))
    valid[..., 3, 3] = 0
    assert metrics.ms_ssim(a, b, valid).isnan().all()


def test_colours_and_classes_leave_pixels_out() -> None:
    valid = maps(1, 16)
    one, two = LabHistogram(), LabHistogram()
    image = noise(1, 3, 16, 16)
    one.add(image, valid)
    two.add(image.masked_fill(valid == 0, 0.9), valid)
    assert all(np.array_equal(one.counts[c], two.counts[c]) for c in "Lab")
    assert one.counts["L"].sum() == valid.sum()

    spec = ImageSpec(
        channels=1, dtype="uint8", kind="labels", low=(0.0,), high=(2.0,), palette=((0,), (1,), (2,))
    )
    truth = np.random.default_rng(0).integers(0, 3, (16, 16, 1)).astype(np.uint8)
    counts = valid[0, 0].numpy() == 1
    predicted = np.where(counts[..., None], truth, (truth + 1) % 3).astype(np.uint8)
    scorer = LabelScorer(spec)
    scorer.add(predicted, truth, valid[0])
    assert scorer.result(resamples=10).model.scores.pixel_accuracy == 1


def test_the_baselines_know_only_what_counts(tmp_path: Path) -> None:
    data = DataConfig(
        path=str(write_set(tmp_path / "data", garbage(1), masks=True)), crop_size=SIDE, resize="none"
    )
    pairs = find_pairs(data)
    specs = measure_specs(pairs, data)
    train = pairs.split("train")
    found = Baselines.collect(train, lambda pair: evaluation_view(pair, *specs, data))
    total, count = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for number in (1, 2, 3):
        y = images.to_tensor(amounts(number)[1], specs[1])[0].numpy()
        total += np.where(valid_map(number), y, 0)
        count += valid_map(number)
    expected = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    np.testing.assert_allclose(found.mean[0].numpy(), expected, atol=1e-6)
    # The same source with another hole in it is still the nearest.
    x = images.to_tensor(amounts(2)[0], specs[0])
    hole = torch.from_numpy(valid_map(9))[None].float()
    assert found.nearest(filled(x, hole), hole, other_than=train[0]) == train[1]


# -----------------------------------------------------------------------------------------------------------
# Files, specs, geometry


def test_nan_in_files(tmp_path: Path) -> None:
    array = amounts(0)[0]
    array[3, 4, 1] = np.nan
    for name in ("a.tif", "a.npy"):
        write_image(tmp_path / name, array)
        np.testing.assert_array_equal(read_image(tmp_path / name, nan="keep"), array)
        with pytest.raises(ImageError, match="1 of its 3200 values are NaN or infinite"):
            read_image(tmp_path / name)
    array[0, 0, 0] = np.inf
    np.save(tmp_path / "b.npy", array)
    with pytest.raises(ImageError, match=r"b\.npy: 1 of its 3200 values are infinite; replace them, by NaN"):
        read_image(tmp_path / "b.npy", nan="keep")
    with pytest.raises(ImageError, match="1 of its 3200 values are infinite"):
        write_image(tmp_path / "c.tif", array)


@pytest.mark.parametrize("scaling", ["percentile", "zscore"])
def test_ranges_are_of_the_pixels_that_count(scaling: Any) -> None:
    array = amounts(0)[0]
    valid = valid_map(0)
    spec = measure_spec([nan(array, valid, 0)], scaling=scaling)
    assert spec == measure_spec([array[valid][None]], scaling=scaling)
    kept = array[valid].astype(np.float64)
    if scaling == "zscore":
        np.testing.assert_allclose(spec.high, kept.mean(0) + 3 * kept.std(0), rtol=1e-6)
    else:
        np.testing.assert_allclose(spec.low, np.percentile(kept, 0.1, axis=0), rtol=1e-6)
    with pytest.raises(ImageError, match="All pixels of the training images are NaN"):
        measure_spec([np.full((2, 2, 1), np.nan, np.float32)])


def test_a_pixel_with_nan_in_a_channel_is_0_in_all() -> None:
    array = amounts(0)[0]
    array[3, 4, 1] = np.nan
    spec = ImageSpec(channels=2, dtype="float32", low=(-5.0, -5.0), high=(5.0, 5.0))
    tensor = images.to_tensor(array, spec)
    assert (tensor[:, 3, 4] == 0).all() and tensor.isfinite().all()
    assert not images.valid_pixels(array)[3, 4] and images.valid_pixels(array).sum() == SIDE**2 - 1
    assert images.clipped_share(array, spec) == 0


@pytest.mark.parametrize("size", [(23, 31), (57, 61)])
def test_resizing_leaves_no_trace_of_what_does_not_count(size: tuple[int, int]) -> None:
    """A constant stays that constant wherever a pixel counts, next to holes too."""
    valid = torch.from_numpy(valid_map(3))[None].float()
    image = filled(torch.full((2, SIDE, SIDE), 0.7), valid)
    resized, counts = known_part(
        images.resize(image, size, labels=False), images.resize(valid, size, labels=False)
    )
    where = counts[0] == 1
    assert 0.5 < where.float().mean() < 1
    torch.testing.assert_close(resized[:, where], torch.full_like(resized[:, where], 0.7), rtol=0, atol=1e-5)
    assert (resized[:, ~where] == 0).all()
    # Where half of what it was made of counts, or more: a known picture of the map itself.
    share = images.resize(valid, size, labels=False)[0]
    assert torch.equal(where, share >= 0.5)


def test_the_mask_moves_with_the_pair(tmp_path: Path) -> None:
    """Sides whose values say whether they are under the mask: 1 where a pixel counts, -1 where not."""
    for folder in ("A", "B", "mask"):
        (tmp_path / folder).mkdir()
    valid = np.ones((48, 48), bool)
    valid[8:22, 30:44] = False
    for folder in ("A", "B"):
        write_image(tmp_path / folder / "1.png", np.repeat(np.uint8(255) * valid[..., None], 3, 2))
    write_image(tmp_path / "mask" / "1.png", np.uint8(7) * valid[..., None])
    data = DataConfig(
        path=str(tmp_path), crop_size=32, load_size=40, rotate="quarter", affine_degrees=15.0,
        affine_scale=0.1, elastic_px=2.0, source_kind="intensity", target_kind="intensity", val_fraction=0.0,
    )  # fmt: skip
    pairs = find_pairs(data)
    specs = 2 * (ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3),)
    bare = replace(pairs.pairs[0], mask=None)
    some = 0
    for number in range(20):
        view = training_view(pairs.pairs[0], *specs, data, item_rng(0, 0, number))
        plain = training_view(bare, *specs, data, item_rng(0, 0, number))
        assert plain.valid is None
        if view.valid is None:
            assert (plain.y > 0.99).all()
            continue
        some += 1
        # Interpolated, white on black is at 0 where half of it is white.
        where = view.valid[0] == 1
        assert (
            torch.equal(where, plain.y[0] >= 0) or (plain.y[0][where != (plain.y[0] >= 0)].abs() < 1e-4).all()
        )
        assert (view.y[:, ~where] == 0).all() and (view.x[:, ~where] == 0).all()
        torch.testing.assert_close(view.y[:, where], torch.ones_like(view.y[:, where]), rtol=0, atol=1e-4)
    assert some > 5


def test_only_the_side_that_is_nan_is_hidden(tmp_path: Path) -> None:
    """A target that is not known hides no source: it will be there when the model translates."""
    (tmp_path / "A").mkdir(), (tmp_path / "B").mkdir()
    x, y = amounts(0)
    write_image(tmp_path / "A" / "1.tif", x)
    y[5:20, 5:20] = np.nan
    write_image(tmp_path / "B" / "1.tif", y)
    data = DataConfig(path=str(tmp_path), crop_size=SIDE, load_size=SIDE, resize="none", val_fraction=0.0)
    pairs = find_pairs(data)
    specs = measure_specs(pairs, data)
    view = evaluation_view(pairs.pairs[0], *specs, data)
    assert view.valid is not None
    assert torch.equal(view.x, images.to_tensor(x, specs[0]))
    assert (view.y[:, 5:20, 5:20] == 0).all() and (view.valid[:, 5:20, 5:20] == 0).all()
    assert view.valid.sum() == SIDE**2 - 15**2
    assert torch.equal(load_pair(pairs.pairs[0], *specs, data)[1], view.y)


def test_batches_of_whole_and_of_masked_pairs(tmp_path: Path) -> None:
    data_path = write_set(tmp_path, garbage(1), masks=True)
    (tmp_path / "mask/train/1.png").unlink()
    data = DataConfig(path=str(data_path), crop_size=32, load_size=36, val_fraction=0.0)
    pairs = find_pairs(data)
    assert pairs.notes == (f"1 of 8 pairs have no mask in {tmp_path / 'mask'}: all their pixels count.",)
    specs = measure_specs(pairs, data)
    options: dict[str, Any] = {"seed": 0, "start": 0, "stop": 6}
    both = [list(training_batches(pairs, *specs, data, batch_size=3, workers=w, **options)) for w in (0, 2)]
    for one, two in zip(*both, strict=True):
        assert one.valid is not None and one.valid.shape == (3, 1, 32, 32)
        assert sorted(v.mean().item() == 1 for v in one.valid) == [False, False, True]
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_transform_cannot_put_anything_where_nothing_counts(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_set(tmp_path, garbage(1), masks=True)), crop_size=32, load_size=36)
    pairs = find_pairs(data)
    specs = measure_specs(pairs, data)
    view = training_view(
        pairs.pairs[0], *specs, data, item_rng(0, 0, 0), lambda x, y, rng: (x + 0.5, y.clone().fill_(0.25))
    )
    assert view.valid is not None
    assert set(view.y.unique().tolist()) == {0.0, 0.25}
    assert torch.equal(view.y[:1] == 0, view.valid == 0)
    assert (view.x[:, view.valid[0] == 0] == 0).all()


# -----------------------------------------------------------------------------------------------------------
# Where masks lie


def test_a_manifest_names_masks(tmp_path: Path) -> None:
    write_set(tmp_path, garbage(1), masks=True)
    rows = [
        "a,b,split,mask",
        "A/train/0.tif,B/train/0.tif,train,mask/train/0.png",
        "A/train/1.tif,B/train/1.tif,train,",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    data = DataConfig(path=str(tmp_path / "pairs.csv"), val_fraction=0.0)
    found = find_pairs(data)
    assert [pair.mask and pair.mask.path for pair in found.pairs] == [tmp_path / "mask/train/0.png", None]
    bare = [replace(pair, mask=None) for pair in found.pairs]
    assert fingerprint(found) != fingerprint(bare)
    (tmp_path / "pairs.csv").write_text(rows[0] + "\n" + rows[1].replace("mask/train/0", "mask/train/9"))
    with pytest.raises(DataError, match=r"line 2: mask: .*9\.png does not exist"):
        find_pairs(data)


@pytest.mark.parametrize("layout", ["A and B", "trainA and trainB", "side by side"])
def test_a_folder_of_masks_beside_each_layout(tmp_path: Path, layout: str) -> None:
    folders = {"A and B": ("A/train", "B/train"), "trainA and trainB": ("trainA", "trainB")}.get(
        layout, ("train",)
    )
    array = np.zeros((8, 16 if layout == "side by side" else 8, 3), np.uint8)
    for folder in (*folders, "mask/train"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in folders:
        for name in ("1", "2"):
            write_image(tmp_path / folder / f"{name}.png", array)
    for name in ("1", "2", "3"):
        write_image(tmp_path / "mask" / "train" / f"{name}.png", np.full((8, 8, 1), 255, np.uint8))
    found = find_pairs(DataConfig(path=str(tmp_path), val_fraction=0.0))
    assert [pair.mask.path.name for pair in found.pairs if pair.mask] == ["1.png", "2.png"]
    assert found.unpaired == ("mask/train/3.png is the mask of no pair",)
    assert found.notes == ()


def test_pairs_without_splits_have_masks_without_splits(tmp_path: Path) -> None:
    for folder in ("A", "B", "mask"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "1.png", np.full((8, 8, 1), 255, np.uint8))
    found = find_pairs(DataConfig(path=str(tmp_path), val_fraction=0.0, direction="BtoA"))
    assert found.pairs[0].mask is not None and found.pairs[0].source.path == tmp_path / "B/1.png"


# -----------------------------------------------------------------------------------------------------------
# Bad input


def small_set(root: Path, mask: np.ndarray, name: str = "1.png") -> DataConfig:
    for folder in ("A", "B", "mask"):
        (root / folder).mkdir(parents=True)
    for folder in ("A", "B"):
        write_image(
            root / folder / "1.png", np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        )
    from PIL import Image

    Image.fromarray(mask).save(root / "mask" / name)
    return DataConfig(path=str(root), val_fraction=0.0, crop_size=32, load_size=36)


@pytest.mark.parametrize(
    ("mask", "name", "words"),
    [
        (
            np.full((30, 20), 255, np.uint8),
            "1.png",
            r"mask/1\.png is 20x30 pixels and .*A/1\.png 40x40; a mask must",
        ),
        (np.zeros((SIDE, SIDE), np.uint8), "1.png", r"A/1\.png: no pixel .* as all are NaN or masked; leave"),
        (np.full((SIDE, SIDE), 255, np.uint8), "1.jpg", r"mask/1\.jpg: is a mask saved with loss"),
    ],
    ids=["size", "nothing", "jpeg"],
)
def test_masks_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mask: np.ndarray, name: str, words: str
) -> None:
    data = small_set(tmp_path / "data", mask, name)
    pairs = find_pairs(data)
    with pytest.raises(DataError, match=words):
        measure_specs(pairs, data)
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    with pytest.raises(DataError, match=words):
        evaluation_view(pairs.pairs[0], spec, spec, data)
    report = check(data)
    assert not report.ok and any("pairs cannot be read" in sentence for sentence in report.problems)
    with pytest.raises(SystemExit) as ended:
        cli("train", tmp_path / "data", "--preset", "tiny", "--out", tmp_path / "run")
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("pairloom: ") for line in said] == [False, True], "measuring, and one sentence"


def test_nan_where_only_whole_photos_will_do(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((SIDE, SIDE, 3)).astype(np.float32)
    array[2, 2] = np.nan
    write_image(tmp_path / "1.tif", array)
    data = DataConfig(path=str(tmp_path), derive="inpaint", val_fraction=0.0, crop_size=32, load_size=36)
    pairs = find_pairs(data)
    with pytest.raises(DataError, match=r"1\.tif: holds NaN; data.derive makes pairs of whole photos only"):
        load_pair(pairs.pairs[0], *measure_specs(pairs, data), data)
    assert any("holds NaN" in sentence for sentence in check(data).problems)


# -----------------------------------------------------------------------------------------------------------
# data check, data prepare, translate, pictures


def test_check_counts_pixels(tmp_path: Path) -> None:
    root = write_set(tmp_path / "data", garbage(1), masks=True)
    mostly = np.zeros((SIDE, SIDE, 1), np.uint8)
    mostly[:10] = 1
    write_image(root / "mask/test/2.png", mostly)
    data = DataConfig(path=str(root), crop_size=32, load_size=36)
    report = check(data)
    train, val = (np.mean([1 - valid_map(n).mean() for n in numbers]) for numbers in ((1, 2, 3), (4, 5)))
    test = np.mean([1 - valid_map(6).mean(), 1 - valid_map(7).mean(), 0.75])
    assert (
        "Pixels that count for nothing (masked or NaN): "
        f"{100 * train:.1f} % of the train pairs', {100 * val:.1f} % of the val pairs', "
        f"{100 * test:.1f} % of the test pairs'." in report.facts
    )
    assert "In 1 of 8 pairs most pixels count for nothing: test/2 (75.0 %)." in report.warnings
    other = write_set(tmp_path / "other", garbage(2), masks=True)
    write_image(other / "mask/test/2.png", mostly)
    assert check(replace(data, path=str(other))) == report


def test_the_page_of_check_shows_nan(tmp_path: Path) -> None:
    from pairloom.check_page import as_shown, write_check_page

    root = write_set(tmp_path / "data", nan, masks=False)
    report = write_check_page(DataConfig(path=str(root), crop_size=32, load_size=36), tmp_path / "check.html")
    assert report.ok and "count for nothing" in (tmp_path / "check.html").read_text()
    array = nan(amounts(1)[1], valid_map(1), 1)
    assert (as_shown(array, None, valid_map(1))[~valid_map(1)] == 128).all()


@pytest.mark.parametrize("layout", ["folders", "side-by-side"])
def test_prepare_carries_masks_and_nan(tmp_path: Path, layout: Any) -> None:
    data = DataConfig(path=str(write_set(tmp_path / "data", garbage(1), masks=True, dtype="uint8")))
    prepare(data, tmp_path / "out", layout=layout)
    again = find_pairs(DataConfig(path=str(tmp_path / "out")))
    assert all(pair.mask for pair in again.pairs) and not again.unpaired
    for pair, number in zip(again.split("train"), (1, 2, 3), strict=True):
        assert pair.mask is not None
        assert np.array_equal(read_image(pair.mask.path)[..., 0] == 255, valid_map(number))
    floats = DataConfig(path=str(write_set(tmp_path / "nan", nan, masks=False)))
    if layout == "folders":
        prepare(floats, tmp_path / "nan-out")
        assert prepare(floats, tmp_path / "nan-out").written == 0
        written = read_image(tmp_path / "nan-out/B/train/0.tif", nan="keep")
        np.testing.assert_array_equal(written, read_image(tmp_path / "nan/B/train/0.tif", nan="keep"))


@pytest.mark.parametrize("scale", ["native", "training"])
def test_translating_nan(runs: dict[str, tuple[Path, Path]], tmp_path: Path, scale: Any) -> None:
    data, run = runs["nan"]
    model = Translator.load(run, precision="fp32")
    file = data / "A/test/0.tif"
    made = list(translate_files(model, [file], tmp_path / "out", scale=scale))
    result = read_image(made[0], nan="keep")
    np.testing.assert_array_equal(np.isnan(result[..., 0]), ~valid_map(6))
    one, two = (runs[name][0] / "A/test/0.tif" for name in ("one", "two"))
    hidden = [np.where(valid_map(6)[..., None], read_image(path), np.float32(np.nan)) for path in (one, two)]
    assert np.array_equal(model(hidden[0]), model(hidden[1]), equal_nan=True)
    several = model.samples(hidden[0], 2)
    for array in (several.images[0], several.mean, several.spread):
        np.testing.assert_array_equal(np.isnan(array[..., 0]), ~valid_map(6))
    model.target_spec = ImageSpec(channels=1, dtype="uint8", low=(0.0,), high=(255.0,))
    assert model(hidden[0]).dtype == np.uint8


def test_pictures_are_grey_where_nothing_counts() -> None:
    valid = maps(1, 16)[0]
    for spec in (
        SPEC,
        ImageSpec(channels=1, dtype="uint8", kind="labels", low=(0.0,), high=(1.0,), palette=((0,), (1,))),
    ):
        shown = preview(noise(1, 16, 16), spec, valid)
        assert (shown[valid[0].numpy() == 0] == 128).all()
        assert np.array_equal(
            shown[valid[0].numpy() == 1], preview(noise(1, 16, 16), spec)[valid[0].numpy() == 1]
        )
