"""Two models on the same pairs: the better one is named, and equal ones are not told apart."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import pairloom
from conftest import tiny_config, write_pairs
from pairloom.evaluation import metrics
from pairloom.evaluation.compare import Comparison, compare
from pairloom.evaluation.gallery import read_rows
from pairloom.evaluation.metrics import Interval, paired_difference
from pairloom.evaluation.summary import EvaluationError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data"), train=6, val=0, test=12)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One model of a single step, and one that has learned for a while."""
    root = tmp_path_factory.mktemp("runs")
    return [
        pairloom.train(
            tiny_config(data, training__steps=steps, objective__lambda_gan=0.0, training__learning_rate=2e-3),
            root / name,
        )
        for name, steps in (("early", 1), ("late", 60))
    ]


@pytest.fixture(scope="module")
def compared(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("out")
    return out, compare(runs, out=out)


def test_the_better_model_is_named_with_its_lead(compared: tuple[Path, Comparison]) -> None:
    out, found = compared
    tables = [read_rows(out / name / "per_image.csv", ("L1", "SSIM")) for name in ("early", "late")]
    for metric in ("L1", "SSIM"):
        a, b = ([row[metric] for row in table] for table in tables)
        expected = paired_difference(a, b)
        assert found.differences["early"]["late"][metric].mean == pytest.approx(expected.mean)
        assert expected.excludes_zero  # the test would show nothing otherwise
        low, high = sorted((abs(expected.low), abs(expected.high)))
        lead = rf"{abs(expected.mean):.3f} \[{low:.3f}, {high:.3f}\]"
        assert re.search(rf"^late is better than early on {metric} by {lead}\.$", found.words(), re.MULTILINE)
    assert not any("bias" in sentence for sentence in found.sentences())


def test_equal_models_are_not_told_apart(runs: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(runs[1], twin)
    found = compare([runs[1], twin], out=tmp_path / "out")
    for name in metrics.METRICS.keys() - {"bias", "MS-SSIM"}:
        assert f"late and twin are not distinguishable on {name} with 12 pairs" in found.words()


def test_three_models_are_compared_two_by_two(runs: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(runs[1], twin)
    found = compare([*runs, twin], out=tmp_path / "out")
    assert {a: list(row) for a, row in found.differences.items()} == {
        "early": ["late", "twin"],
        "late": ["twin"],
    }
    assert "one in twenty errs by chance" in found.words()


def test_the_page_shows_the_same_sources_in_the_same_rows(compared: tuple[Path, Comparison]) -> None:
    out, found = compared
    page = (out / "comparison.html").read_text(encoding="utf-8")
    rows = page.split('class="strip"')[1:]
    assert len(rows) == 8
    for row in rows:
        labels = re.findall(r"<span>([^<]+)</span></div>", row)
        assert labels == ["source", "early", "late", "target"]
        assert row.count("data:image/png") == 4
    assert all(sentence in page for sentence in found.sentences())
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    values = json.loads((out / "comparison.json").read_text())
    assert values["sentences"] == found.sentences()


def test_models_of_one_name_keep_as_much_of_their_path_as_tells_them_apart(
    runs: list[Path], tmp_path: Path
) -> None:
    for name, run in zip(("a", "b"), runs, strict=True):
        shutil.copytree(run, tmp_path / name / "run")
    found = compare([tmp_path / "a" / "run", tmp_path / "b" / "run"], out=tmp_path / "out")
    assert list(found.metrics) == ["a-run", "b-run"]


def test_one_model_or_the_same_twice_is_one_sentence(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="1 model to compare; give two or more"):
        compare(runs[:1], out=tmp_path)
    with pytest.raises(EvaluationError, match="same model is given twice"):
        compare([runs[0], runs[0]], out=tmp_path)


def test_models_of_other_targets_are_not_compared(runs: list[Path], data: Path, tmp_path: Path) -> None:
    other = pairloom.train(tiny_config(data, training__steps=1, data__direction="AtoB"), tmp_path / "other")
    with pytest.raises(EvaluationError, match=r"other and early cannot be compared: their data\.direction"):
        compare([runs[0], other], out=tmp_path / "out")


def test_models_with_other_test_pairs_are_not_compared(tmp_path: Path) -> None:
    flat = write_pairs(tmp_path / "data", train=12)
    made = []
    for seed in (0, 1):
        config = tiny_config(flat, training__steps=1, data__test_fraction=0.3, data__split_seed=seed)
        made.append(pairloom.train(config, tmp_path / f"seed{seed}"))
    with pytest.raises(EvaluationError, match="seed1: its test split holds other pairs than that of seed0"):
        compare(made, out=tmp_path / "out")


def test_a_difference_without_value_is_said() -> None:
    nothing = Interval(mean=float("nan"), low=float("nan"), high=float("nan"), count=0)
    found = Comparison(
        split="test",
        pairs=1,
        metrics={"a": {"PSNR": nothing}, "b": {"PSNR": nothing}},
        differences={"a": {"b": {"PSNR": nothing}}},
    )
    assert found.sentences() == ["PSNR has no value to compare a and b by."]


def test_weights_are_compared_like_runs(runs: list[Path], tmp_path: Path) -> None:
    for run in runs:
        shutil.copy(run / "generator.safetensors", tmp_path / f"{run.name}.safetensors")
    found = compare([tmp_path / "early.safetensors", tmp_path / "late.safetensors"], out=tmp_path / "out")
    assert list(found.metrics) == ["early.safetensors", "late.safetensors"]


def test_one_pair_decides_nothing() -> None:
    one = Interval(mean=0.25, low=0.25, high=0.25, count=1)
    assert not one.excludes_zero
    found = Comparison(
        split="test",
        pairs=1,
        metrics={"a": {"L1": one}, "b": {"L1": one}},
        differences={"a": {"b": {"L1": one}}},
    )
    (sentence,) = found.sentences()
    assert sentence.startswith("L1 of one pair differs by 0.25") and sentence.endswith(
        "nothing of other pairs."
    )
    words = found.words()
    assert "[0.25" not in words and "better" not in words
    assert words.startswith("test split, 1 pair: ") and "With 1 image there are no intervals" in words
