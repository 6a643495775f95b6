"""A whole study through the command line: runs, failures, results, going on; and what is refused."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from conftest import Child, cli, wait_until, write_pairs
from pairloom import Translator
from pairloom.data import find_pairs, load_pair
from pairloom.data.pairs import PairSet

SMALL = ("--preset", "tiny", "--training.steps", "3")
GRID = """
title = "A <tiny> study"
[[variant]]
name = "l1"
fields = { objective.lambda_gan = 0.0 }
[[variant]]
name = "cgan"
fields = { objective.lambda_l1 = 0.0 }
[[variant]]
name = "diverges"
fields = { training.learning_rate = 1e30 }
[[finding]]
statement = "L1 scores a higher SSIM"
score = "ssim"
higher = "l1"
lower = "cgan"
"""


def status_of(*arguments: object) -> int:
    try:
        cli(*arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def write_labelled(root: Path) -> Path:
    """Photo left, label map of four flat colours right; the photo is the labels, darkened, with grain."""
    rng = np.random.default_rng(0)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    for split, count in (("train", 6), ("test", 4)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            labels = np.kron(rng.integers(0, 4, (4, 4)), np.ones((8, 8), int))
            image = colours[labels]
            photo = (image * 0.6 + 30 + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(np.hstack([photo, image])).save(root / split / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def study(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three variants and two seeds, of which one variant diverges."""
    root = tmp_path_factory.mktemp("study")
    (root / "grid.toml").write_text(GRID)
    assert run_study(root, labelled) == 1, "some runs failed"
    return root / "out"


def run_study(root: Path, data: Path) -> int:
    where = ("--grid", root / "grid.toml", "--out", root / "out", "--data.direction", "BtoA")
    return status_of("ablate", "custom", data, *where, *SMALL, "--seeds", 2, "--jobs", 2)


def table(study: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (study / "table.csv").open(newline="") as file:
        return {(row["variant"], row["score"]): row for row in csv.DictReader(file)}


# -----------------------------------------------------------------------------------------------------------
# What it writes


def test_every_cell_is_an_ordinary_run(study: Path) -> None:
    for variant in ("l1", "cgan"):
        for seed in (0, 1):
            run = study / "runs" / variant / f"seed-{seed}"
            model = Translator.load(run, precision="fp32")
            assert model.provenance["step"] == 3
            assert model.config.training.seed == seed
            assert (run / "metrics.jsonl").exists()
            assert not (run / "checkpoints").exists(), "a finished run keeps its weights only"


def test_the_table_is_of_the_last_step_over_seeds_and_images(study: Path, labelled: Path) -> None:
    rows = table(study)
    seeds = []
    for seed in (0, 1):
        model = Translator.load(study / "runs" / "cgan" / f"seed-{seed}", precision="fp32")
        pairs = find_pairs(model.config.data)
        seeds.append(np.mean([l1_of(model, pairs, i) for i in range(4)]))
    row = rows["cgan", "l1"]
    assert float(row["mean"]) == pytest.approx(np.mean(seeds), abs=1e-4)
    assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    assert (row["seeds"], row["images"]) == ("2", "4")


def l1_of(model: Translator, pairs: PairSet, index: int) -> float:
    x, y = load_pair(pairs.split("test")[index], model.source_spec, model.target_spec, model.config.data)
    return float((model.translate_tensor(x[None], seed=0)[0] - y).abs().mean())


def test_label_maps_give_figures_by_class_from_one_shared_segmenter(study: Path) -> None:
    assert (study / "segmenter" / "segmenter.safetensors").exists()
    rows = table(study)
    assert float(rows["targets", "pixel_accuracy"]["mean"]) > float(
        rows["mean target", "pixel_accuracy"]["mean"]
    )
    assert ("l1", "class_iou") in rows


def test_a_diverging_cell_is_recorded_and_the_others_go_on(study: Path) -> None:
    for seed in (0, 1):
        why = (study / "runs" / "diverges" / f"seed-{seed}" / "failed.txt").read_text()
        assert "non-finite" in why
    results = json.loads((study / "results.json").read_text())
    assert set(results["failures"]) == {"diverges, seed 0", "diverges, seed 1"}
    assert not any(variant == "diverges" and row["mean"] for (variant, _), row in table(study).items())
    page = (study / "study.html").read_text()
    assert "non-finite" in page


def test_the_results_are_all_there(study: Path) -> None:
    for name in (
        "table.csv",
        "table.md",
        "table.tex",
        "results.json",
        "figure.png",
        "study.html",
        "study.json",
    ):
        assert (study / name).stat().st_size > 100, name
    page = (study / "study.html").read_text()
    assert "A &lt;tiny&gt; study" in page
    assert "L1 scores a higher SSIM" in page


def test_again_skips_what_is_done_and_leaves_alone_what_failed(
    study: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [*study.glob("runs/*/*/generator.safetensors"), *study.glob("runs/*/*/scores-*.npz")]
    assert len(files) == 8
    before = {path: path.stat().st_mtime_ns for path in files}
    segmenter = (study / "segmenter" / "segmenter.safetensors").stat().st_mtime_ns
    assert run_study(study.parent, labelled) == 1
    said = capsys.readouterr().out
    assert "4 of 6 runs are done already" in said
    assert "diverges, seed 0 failed before, and is left alone (--retry tries again)" in said
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert (study / "segmenter" / "segmenter.safetensors").stat().st_mtime_ns == segmenter


# -----------------------------------------------------------------------------------------------------------
# Going on, and sharing


def test_stopped_by_a_signal_it_goes_on_where_it_was(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", train=4, test=2)
    out = tmp_path / "out"
    steps = ("--training.steps", 4000, "--logging.save-every-steps", 5)
    command = ("ablate", "lambda", data, "--out", out, "--preset", "tiny", "--only", 10, "--seeds", 1)
    child = Child(tmp_path / "log", cli, *command, *steps)
    run = out / "runs" / "10" / "seed-0"
    wait_until(lambda: [*run.glob("checkpoints/step-*.pt")], child)
    child.signal(signal.SIGTERM)
    assert child.wait() == 128 + signal.SIGTERM
    assert "The same command goes on from there." in child.said
    assert not (run / "failed.txt").exists()
    logged = len((run / "metrics.jsonl").read_text().splitlines())
    assert logged

    child = Child(tmp_path / "log-2", cli, *command, *steps)
    wait_until(lambda: "Resuming at step" in (run / "log.txt").read_text(), child)
    child.signal(signal.SIGTERM)
    assert child.wait() == 128 + signal.SIGTERM


@pytest.fixture
def shared(tmp_path: Path) -> tuple[Path, tuple[object, ...]]:
    data = write_pairs(tmp_path / "data", train=4, test=2)
    out = tmp_path / "out"
    return out, ("ablate", "lambda", data, "--out", out, *SMALL, "--only", 10, 100, "--seeds", 1)


def test_a_job_array_shares_a_study(
    shared: tuple[Path, tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = shared
    assert status_of(*command, "--cell", "2/2") == 0
    assert [p.parent.parent.name for p in out.glob("runs/*/*/generator.safetensors")] == ["100"]
    assert not (out / "study.html").exists()
    assert status_of(*command, "--cell", "1/2") == 0
    assert "without --cell writes the results" in capsys.readouterr().out
    assert status_of(*command) == 0
    said = capsys.readouterr().out
    assert "2 of 2 runs are done already" in said
    # No label maps here: the other scores are there, and the reason for the missing ones is said.
    assert "There are no figures by class" in said
    assert "label maps" in (out / "study.html").read_text()
    scores = {score for _, score in table(out)}
    assert "ssim" in scores and "class_iou" not in scores


# -----------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["objektives"], "there is no study 'objektives'"),
        (["lambda", "--seeds", "0"], "--seeds is 0"),
        (["lambda", "--jobs", "0"], "--jobs is 0"),
        (["lambda", "--cell", "3/2"], "--cell is '3/2'; it must be i/n"),
        (["lambda", "--only", "50"], "lambda has no variant '50'"),
        (["custom"], "--grid FILE goes with the study 'custom'"),
        (["lambda", "--grid", "g.toml"], "--grid FILE goes with the study 'custom'"),
        (["custom", "--grid", "g.toml"], "g.toml: cannot be read as a TOML grid"),
        (["lambda", "--split", "val"], "no pairs in the 'val' split"),
        (["patches"], "use crops of 128 pixels or more, or patches-scaled"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pairs(tmp_path / "data", train=2, test=1)
    name, *more = arguments
    assert status_of("ablate", name, data, "--out", tmp_path / "out", *SMALL, *more) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("pairloom: ") and len(said.splitlines()) == 1
    assert not (tmp_path / "out" / "runs").exists()


def test_a_folder_within_the_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pairs(tmp_path / "data", train=2, test=1)
    assert status_of("ablate", "lambda", data, "--out", data / "study", *SMALL) == 2
    assert "lies in the data folder" in capsys.readouterr().err


def test_two_processes_do_not_work_on_one_study(
    shared: tuple[Path, tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = shared
    out.mkdir()
    with FileLock(out / ".study.lock"):
        assert status_of(*command) == 2
    assert "another process is at work on it" in capsys.readouterr().err
