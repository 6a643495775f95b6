"""A whole evaluation on tiny data: what is written is what the model made, and the figures are right."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import pairloom
from pairloom import images
from pairloom.config import Config, DataConfig, DiscriminatorConfig, GeneratorConfig
from pairloom.data import evaluation_view, find_pairs, load_pair, measure_specs
from pairloom.evaluation import baselines
from pairloom.evaluation.baselines import Baselines
from pairloom.evaluation.evaluate import evaluate
from pairloom.evaluation.metrics import METRICS, Interval
from pairloom.evaluation.summary import WHO, EvaluationError, Summary
from pairloom.networks import build_generator
from pairloom.translator import Translator


def write_pairs(root: Path, *, side: int = 32, **splits: int) -> Path:
    """Side-by-side RGB files: smooth noise on the left, its negative with a colour cast on the right."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        (root / split).mkdir(parents=True)
        for i in range(count):
            left = np.kron(rng.integers(0, 200, (side // 8, side // 8, 3)), np.ones((8, 8, 1)))
            left = left + rng.integers(0, 50, (side, side, 3))
            pair = np.concatenate([left, 255 - left * [1, 0.5, 0.25]], axis=1).astype(np.uint8)
            Image.fromarray(pair).save(root / split / f"{split}-{i}.png")
    return root


def model_for(data: DataConfig) -> Translator:
    """An untrained translator of the right channels."""
    source, target = measure_specs(find_pairs(data), data)
    generator = GeneratorConfig(
        source_channels=source.tensor_channels,
        target_channels=target.tensor_channels,
        base_channels=4,
        num_downs=3,
    )
    net = build_generator(generator, torch.Generator().manual_seed(0))
    config = Config(data=data, generator=generator, discriminator=DiscriminatorConfig(num_layers=1))
    return Translator(net, source, target, config)


def data_at(root: Path, **fields: object) -> DataConfig:
    return replace(DataConfig(path=str(root), load_size=32, crop_size=32, workers=0), **fields)  # type: ignore[arg-type]


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), train=5, test=4)


@pytest.fixture(scope="module")
def translator(root: Path) -> Translator:
    return model_for(data_at(root))


@pytest.fixture(scope="module")
def evaluated(translator: Translator, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    out = tmp_path_factory.mktemp("out")
    return out, evaluate(translator, out=out)


def test_images_are_what_the_model_makes(translator: Translator, evaluated: tuple[Path, Summary]) -> None:
    out, _ = evaluated
    data = translator.config.data
    for pair in find_pairs(data).split("test"):
        x, _ = load_pair(pair, translator.source_spec, translator.target_spec, data)
        expected = images.to_array(translator.translate_tensor(x[None])[0], translator.target_spec)
        written = np.asarray(Image.open(out / "images" / f"{pair.name}.png"))
        assert written.dtype == np.uint8
        np.testing.assert_array_equal(written, expected)


def test_the_table_has_the_metrics_of_each_image(
    translator: Translator, evaluated: tuple[Path, Summary]
) -> None:
    out, _ = evaluated
    data = translator.config.data
    pair_set = find_pairs(data)
    rows = rows_of(out)
    targets = {}
    for pair in pair_set.pairs:
        x, y = load_pair(pair, translator.source_spec, translator.target_spec, data)
        targets[pair.name] = y.double().numpy()
    mean = np.mean([targets[pair.name] for pair in pair_set.split("train")], axis=0)
    assert [row["name"] for row in rows] == [pair.name for pair in pair_set.split("test")]
    for row, pair in zip(rows, pair_set.split("test"), strict=True):
        x, y = load_pair(pair, translator.source_spec, translator.target_spec, data)
        difference = (translator.translate_tensor(x[None])[0] - y).double().numpy()
        assert float(row["L1"]) == pytest.approx(np.abs(difference).mean(), rel=1e-5)
        assert float(row["PSNR"]) == pytest.approx(10 * math.log10(4 / (difference**2).mean()), rel=1e-5)
        error = np.abs(mean - targets[pair.name]).mean()
        assert float(row["mean_target_L1"]) == pytest.approx(error, rel=1e-5)
        error = np.abs(targets[row["nearest_pair"]] - targets[pair.name]).mean()
        assert float(row["nearest_pair_L1"]) == pytest.approx(error, rel=1e-5)


def test_the_summary_has_means_and_paired_differences(evaluated: tuple[Path, Summary]) -> None:
    out, summary = evaluated
    rows = rows_of(out)
    for who, prefix in (("model", ""), ("mean_target", "mean_target_"), ("nearest_pair", "nearest_pair_")):
        for name in METRICS.keys() - {"MS-SSIM"}:  # 32 px are too few for it
            interval = summary.metrics[who][name]
            assert interval.mean == pytest.approx(np.mean([float(r[prefix + name]) for r in rows]), rel=1e-4)
            assert interval.low <= interval.mean <= interval.high
    for who, row in summary.differences.items():
        for name in ("L1", "SSIM"):
            expected = summary.metrics["model"][name].mean - summary.metrics[who][name].mean
            assert row[name].mean == pytest.approx(expected)
    assert summary.settings["split"] == "test"
    assert summary.settings["pairs"] == 4
    assert summary.settings["seed"] == 0
    assert "torch" in summary.settings["versions"]
    assert any("favour the mean target" in remark for remark in summary.remarks)
    assert any("4 images" in remark and "rough" in remark for remark in summary.remarks)


def test_every_channel_has_its_bias_and_its_correlation(
    translator: Translator, evaluated: tuple[Path, Summary]
) -> None:
    out, summary = evaluated
    data = translator.config.data
    rows = {row["name"]: row for row in rows_of(out)}
    for pair in find_pairs(data).split("test"):
        x, y = load_pair(pair, translator.source_spec, translator.target_spec, data)
        y_hat = translator.translate_tensor(x[None])[0]
        for c in range(3):
            row = rows[pair.name]
            assert float(row[f"bias_{c}"]) == pytest.approx((y_hat[c] - y[c]).mean().item(), abs=1e-5)
            correlation = np.corrcoef(y_hat[c].flatten(), y[c].flatten())[0, 1]
            assert float(row[f"Pearson_{c}"]) == pytest.approx(correlation, abs=1e-5)
    assert list(summary.channels) == ["bias", "Pearson"]
    assert list(summary.channels["bias"]) == ["0", "1", "2"]
    of_channels = np.mean([interval.mean for interval in summary.channels["bias"].values()])
    assert of_channels == pytest.approx(summary.metrics["model"]["bias"].mean, abs=1e-5)


def test_the_summary_survives_json(evaluated: tuple[Path, Summary]) -> None:
    out, summary = evaluated
    again = Summary.from_dict(json.loads((out / "summary.json").read_text()))
    assert again.metrics == summary.metrics
    assert again.differences == summary.differences
    assert again.words() == summary.words()


def test_the_words_are_an_aligned_table(evaluated: tuple[Path, Summary]) -> None:
    lines = evaluated[1].words().splitlines()
    assert lines[0] == "test split, 4 pairs: mean over images [95 % interval]"
    head = next(line for line in lines if "mean target" in line)
    ssim = next(line for line in lines if line.startswith("SSIM"))
    for column in ("model", "mean target", "nearest pair"):
        at = head.index(column)
        assert ssim[at].isdigit() or ssim[at] == "-"
        assert ssim[at - 1] == " "
    assert "model - mean target" in "\n".join(lines)


def test_a_run_directory_and_its_last_step(root: Path, tmp_path: Path) -> None:
    tiny = pairloom.presets.tiny()
    config = replace(tiny, data=replace(tiny.data, path=str(root), direction="AtoB"))
    run = pairloom.train(config, tmp_path / "run")
    summary = evaluate(run, out=tmp_path / "out", device="cpu", baselines=False)
    assert summary.settings["checkpoint"] == "last"
    assert summary.settings["model"]["step"] == 4
    assert list(summary.metrics) == ["model"]
    assert summary.differences == {}
    assert "mean_target_L1" not in rows_of(tmp_path / "out")[0]
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 4


def test_an_empty_split_names_the_others(translator: Translator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pairs in the 'val' split; there are 5 in 'train', 4 in 'test'"):
        evaluate(translator, split="val", out=tmp_path)


def test_another_path_is_read_as_the_models_own_data(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "here", train=3, test=2)
    translator = model_for(data_at(root, direction="BtoA"))
    moved = write_pairs(tmp_path / "there", train=3, test=2)
    there = evaluate(translator, moved, out=tmp_path / "a")
    here = evaluate(translator, out=tmp_path / "b")
    assert there.settings["direction"] == "BtoA"
    assert there.metrics == here.metrics


def write_sides(root: Path, *, splits: tuple[str, ...] = (".",), count: int = 3) -> tuple[Path, Path]:
    """Two folders, first and second, with the same names in both."""
    rng = np.random.default_rng(0)
    for side in ("first", "second"):
        for split in splits:
            (root / side / split).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / side / split / f"{split.strip('.')}{i}.png")
    return root / "first", root / "second"


def test_a_model_of_two_folders_finds_both_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write_sides(tmp_path / "d", splits=("train", "test"))
    translator = model_for(data_at(first, path_b=str(second)))
    expected = evaluate(translator, out=tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert evaluate(translator, "d/../d/first", out=tmp_path / "b").metrics == expected.metrics
    for name in ("A", "B"):
        (tmp_path / "there" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "there" / name).symlink_to(first if name == "A" else second)
    assert evaluate(translator, tmp_path / "there", out=tmp_path / "c").metrics == expected.metrics
    lone = write_sides(tmp_path / "other")[0]
    with pytest.raises(
        EvaluationError, match=r"other/first: the model learned from two folders.*holds A and B"
    ):
        evaluate(translator, lone, out=tmp_path / "e")


def test_other_data_are_not_split_like_the_models_own(tmp_path: Path) -> None:
    own = data_at(write_pairs(tmp_path / "here", train=8), test_fraction=0.25, val_fraction=0.25, max_pairs=2)
    translator = model_for(replace(own, group_pattern="(train-.)"))
    assert evaluate(translator, out=tmp_path / "a").settings["pairs"] == 2
    flat = write_pairs(tmp_path / "there", there=6) / "there"
    summary = evaluate(translator, flat, out=tmp_path / "b")
    assert len(rows_of(tmp_path / "b")) == summary.settings["pairs"] == 6
    assert list(summary.metrics) == ["model"]
    assert summary.remarks[0] == "The folder has no splits: all its pairs are evaluated."
    assert summary.words().startswith("data without splits, 6 pairs:")
    assert not any("trained on" in remark for remark in summary.remarks)
    train = evaluate(translator, flat, split="train", out=tmp_path / "c")
    assert not any("trained on" in remark for remark in train.remarks)
    split = write_pairs(tmp_path / "split", train=3, test=2)
    assert list(evaluate(translator, split, out=tmp_path / "d").metrics) == list(WHO)
    with pytest.raises(EvaluationError, match="no pairs in the 'val' split"):
        evaluate(translator, split, split="val", out=tmp_path / "e")


def test_another_split_in_the_same_folder_leaves_no_former_images(
    root: Path, translator: Translator, tmp_path: Path
) -> None:
    evaluate(translator, out=tmp_path, baselines=False)
    kept = tmp_path / "images" / "mine.png"
    kept.write_bytes(b"")
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"")
    with (tmp_path / "per_image.csv").open("a") as file:
        file.write("../outside,0,0,0,0,0\n")
    evaluate(translator, split="train", out=tmp_path, baselines=False)
    names = {path.stem for path in (tmp_path / "images").iterdir()}
    assert names == {"mine", *(row["name"] for row in rows_of(tmp_path))}
    assert outside.exists()


def test_one_image_has_a_point_for_an_interval(tmp_path: Path) -> None:
    translator = model_for(data_at(write_pairs(tmp_path / "d", train=2, test=1)))
    summary = evaluate(translator, out=tmp_path / "out")
    interval = summary.metrics["model"]["L1"]
    assert interval == Interval(mean=interval.mean, low=interval.mean, high=interval.mean, count=1)
    assert "test split, 1 pair:" in summary.words()


def test_the_training_split_never_finds_itself(root: Path, translator: Translator, tmp_path: Path) -> None:
    summary = evaluate(translator, split="train", out=tmp_path)
    assert all(row["nearest_pair"] != row["name"] for row in rows_of(tmp_path))
    assert any("trained on" in remark for remark in summary.remarks)


def test_what_was_measured_before_a_broken_file_is_kept(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "d", train=2, test=3)
    translator = model_for(data_at(root))
    evaluate(translator, out=tmp_path / "out")
    before = (tmp_path / "out" / "per_image.csv").read_text(), (tmp_path / "out" / "summary.json").read_text()
    (root / "test" / "test-2.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"test-2\.png"):
        evaluate(translator, out=tmp_path / "out")
    after = (tmp_path / "out" / "per_image.csv").read_text(), (tmp_path / "out" / "summary.json").read_text()
    assert after == before
    partial = (tmp_path / "out" / "per_image.partial.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in partial] == ["name", "test-0", "test-1"]


def test_five_channels_of_uint16_and_names_with_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side, channels in (("A", 2), ("B", 5)):
        for split in ("train", "test"):
            for i in range(2):
                path = tmp_path / "d" / f"{split}{side}" / "plate 1" / f"well.{i}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                array = rng.integers(100, 5000, (24, 40, channels), dtype=np.uint16)
                tifffile.imwrite(path, array, planarconfig="contig")
    data = data_at(tmp_path / "d", resize="none", crop_size=16, load_size=16)
    translator = model_for(data)
    summary = evaluate(translator, out=tmp_path / "out")
    name = find_pairs(data).split("test")[0].name
    written = images.read_image(tmp_path / "out" / "images" / f"{name}.tif")
    assert (written.shape, written.dtype) == ((24, 40, 5), np.uint16)
    assert "plate 1" in name
    assert math.isfinite(summary.metrics["model"]["SSIM"].mean)


def test_one_hot_labels_come_back_in_their_palette(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "d", train=2, test=2)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for path in root.rglob("*.png"):
        array = np.asarray(Image.open(path)).copy()
        array[:, 32:] = np.array(colours, np.uint8)[array[:, 32:, 0] % 3]
        Image.fromarray(array).save(path)
    (tmp_path / "palette.txt").write_text("".join(f"{r},{g},{b}\n" for r, g, b in colours))
    data = data_at(root, target_palette=str(tmp_path / "palette.txt"), target_one_hot=True)
    summary = evaluate(model_for(data), out=tmp_path / "out")
    # Class numbers correlate with nothing.
    assert "Pearson" not in summary.metrics["model"] and not summary.channels
    written = np.asarray(Image.open(tmp_path / "out" / "images" / "test-0.png"))
    assert {tuple(c) for c in written.reshape(-1, 3).tolist()} <= set(colours)


def test_tiny_images_have_no_ssim_and_the_summary_says_so(tmp_path: Path) -> None:
    data = data_at(write_pairs(tmp_path / "d", side=8, train=2, test=2), crop_size=8, load_size=8)
    summary = evaluate(model_for(data), out=tmp_path / "out")
    assert (
        json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"]["model"]["SSIM"]["mean"]
        is None
    )
    assert any("SSIM leaves out 2 of 2" in remark for remark in summary.remarks)
    assert next(line for line in summary.words().splitlines() if line.startswith("SSIM")).split() == [
        "SSIM",
        *"---",
    ]


def test_baselines_resize_where_sizes_differ_and_are_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_pairs(tmp_path / "d", train=5, test=1)
    big = write_pairs(tmp_path / "big", side=48, train=1) / "train" / "train-0.png"
    (root / "test" / "test-0.png").write_bytes(big.read_bytes())
    monkeypatch.setattr(baselines, "MAX_TRAIN_PAIRS", 3)
    translator = model_for(data_at(root, resize="none"))
    summary = evaluate(translator, out=tmp_path / "out")
    assert summary.settings["train_pairs"] == 5
    assert summary.settings["train_pairs_used"] == 3
    assert "The baselines use 3 of 5 training pairs, evenly chosen." in summary.remarks
    assert math.isfinite(summary.metrics["mean_target"]["L1"].mean)


def test_the_nearest_source_is_found(translator: Translator) -> None:
    data = translator.config.data
    train = find_pairs(data).split("train")
    test = find_pairs(data).split("test")[0]
    sources = {p: load_pair(p, translator.source_spec, translator.target_spec, data)[0] for p in train}
    baselines = Baselines.collect(
        train, lambda pair: evaluation_view(pair, translator.source_spec, translator.target_spec, data)
    )
    for pair, x in sources.items():
        nearly = x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        assert baselines.nearest(nearly, other_than=test) == pair
        assert baselines.nearest(nearly, other_than=pair) != pair
