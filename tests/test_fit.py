"""A whole run: what it says, what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sys
import termios
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors import safe_open

from conftest import Child, cli, draw_pair, tiny_config, write_pairs
from pairloom import images
from pairloom.checkpoint import load_weights
from pairloom.config import ConfigError
from pairloom.data import DataError, evenly, find_pairs, load_pair
from pairloom.data.loading import permutation
from pairloom.devices import DeviceError, has_bf16
from pairloom.fit import NonFiniteLoss, fit, resolve, train
from pairloom.images import ImageError, image_shape, read_image, resize
from pairloom.progress import Console, MetricsWindow, StopSignals, duration, estimate
from pairloom.rundir import RunDir, read_metrics
from pairloom.translator import Translator


def checkpoints(run: Path) -> list[int]:
    return sorted(int(p.stem[-8:]) for p in (run / "checkpoints").glob("*.pt"))


def state_of(run: Path, step: int) -> dict[str, Any]:
    return torch.load(run / f"checkpoints/step-{step:08d}.pt", weights_only=True)


# -----------------------------------------------------------------------------------------------------------
# What a run leaves behind


def test_the_run_directory_has_what_the_plan_says(tiny_run):
    assert {p.name for p in tiny_run.iterdir()} - {".lock", "evaluation", "report.html"} == {
        "config.json", "specs.json", "environment.json", "log.txt", "metrics.jsonl", "samples", "checkpoints",
        "generator.safetensors", "discriminator.safetensors",
    }  # fmt: skip
    assert sorted(p.name for p in (tiny_run / "samples").iterdir()) == [
        "step-00000002.png",
        "step-00000004.png",
    ]


def test_what_was_left_open_is_decided_and_saved(tiny_run, tiny_data):
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["generator"]["source_channels"] == config["generator"]["target_channels"] == 3
    assert config["generator"]["num_downs"] == 5
    assert config["training"]["precision"] == "fp32"
    assert config["data"]["path"] == str(tiny_data)
    specs = json.loads((tiny_run / "specs.json").read_text())
    for side in ("source", "target"):
        assert (specs[side]["channels"], specs[side]["dtype"], specs[side]["kind"]) == (
            3,
            "uint8",
            "intensity",
        )
    environment = json.loads((tiny_run / "environment.json").read_text())
    assert re.fullmatch("[0-9a-f]{16}", environment["data_fingerprint"])
    assert environment["packages"]["torch"] == torch.__version__


def test_precision_auto_is_decided_by_the_machine(tiny_data, tmp_path):
    config = tiny_config(tiny_data, training__steps=1, training__precision="auto")
    run = train(config, tmp_path / "run")
    expected = "bf16" if has_bf16(torch.device("cpu")) else "fp32"
    assert json.loads((run / "config.json").read_text())["training"]["precision"] == expected
    assert f"Device: cpu, {expected}" in (run / "log.txt").read_text()


def test_the_data_path_is_kept_whole_wherever_the_command_was_given(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_data.parent)
    run = train(tiny_config(tiny_data.name, training__steps=1), tmp_path / "run")
    assert json.loads((run / "config.json").read_text())["data"]["path"] == str(tiny_data)
    monkeypatch.chdir(tmp_path)
    train(tiny_config(tiny_data, training__steps=2), run)
    assert checkpoints(run) == [1, 2]


def test_the_log_says_what_a_person_needs(tiny_run):
    log = (tiny_run / "log.txt").read_text()
    for words in (
        "Pairs: 5 train, 2 val, 2 test (side-by-side); 0 files without a partner.",
        "Source: 3 channels, uint8, intensity, 0..255 -> -1..1",
        "Target: 3 channels, uint8, intensity, 0..255 -> -1..1",
        "Device: cpu, fp32",
        "D_real and D_fake are at 0.693 each when D cannot tell",
        "4 of 4 steps to go, about ",
        "step 4/4 G_GAN ",
        "Trained 4 steps in ",
    ):
        assert words in log
    order = [
        log.index(words) for words in ("Pairs:", "Device:", "steps to go", "step 1/4", "step 4/4", "Trained")
    ]
    assert order == sorted(order)


def test_a_line_of_metrics_has_the_fields_of_the_contract(tiny_run):
    lines = read_metrics(tiny_run)
    logged = [line for line in lines if "G_L1" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    for line in logged:
        assert list(line) == [
            "step", "images_seen", "D_real", "D_fake", "D_real_accuracy", "D_fake_accuracy", "G_GAN", "G_L1",
            "seconds_per_step", "wait_share", "lr", "memory_mb", "elapsed_seconds",
        ]  # fmt: skip
        assert line["images_seen"] == line["step"]
        assert line["lr"] == 2e-4
        assert 0 <= line["D_real_accuracy"] <= 1 and 0 <= line["wait_share"] <= 1
        assert line["seconds_per_step"] > 0 and line["memory_mb"] > 10
    elapsed = [line["elapsed_seconds"] for line in logged]
    assert elapsed == sorted(elapsed) and elapsed[0] > 0
    validated = [line for line in lines if "val_L1" in line]
    assert [list(line) for line in validated] == [["step", "val_L1"]] * 2
    assert [line["step"] for line in validated] == [2, 4]


def test_the_validation_figure_is_the_mean_l1_of_the_published_model(tiny_run, tiny_data):
    translator = Translator.load(tiny_run, precision="fp32")
    config = translator.config
    distances = []
    for pair in find_pairs(config.data).split("val"):
        x, y = load_pair(pair, translator.source_spec, translator.target_spec, config.data)
        distances.append(float((translator.translate_tensor(x[None])[0] - y).abs().mean()))
    assert len(distances) == 2
    last = [line["val_L1"] for line in read_metrics(tiny_run) if "val_L1" in line][-1]
    assert last == pytest.approx(np.mean(distances), abs=2e-6)


def test_the_last_two_checkpoints_and_the_best_are_kept(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, training__steps=8, logging__save_every_steps=1), tmp_path / "run")
    val = {line["step"]: line["val_L1"] for line in read_metrics(run) if "val_L1" in line}
    assert list(val) == list(range(1, 9))
    best = min(val, key=val.__getitem__)
    assert json.loads((run / "checkpoints/best.json").read_text()) == {"step": best, "val_L1": val[best]}
    assert checkpoints(run) == sorted({7, 8, best})
    assert Translator.load(run, checkpoint="best").provenance["step"] == best
    assert Translator.load(run).provenance["step"] == 8


def test_the_best_of_before_a_resume_is_remembered(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, training__steps=2), tmp_path / "run")
    before = '{"step": 2, "val_L1": 0.0001}'  # never to be beaten
    (run / "checkpoints/best.json").write_text(before)
    train(tiny_config(tiny_data, training__steps=8, logging__save_every_steps=1), run)
    assert (run / "checkpoints/best.json").read_text() == before
    assert checkpoints(run) == [2, 7, 8]


@pytest.mark.parametrize(("splits", "drawn"), [((3, 2, 2), 100), ((3, 0, 2), 200), ((3, 0, 0), 0)])
def test_validation_pairs_are_drawn_else_test_pairs_else_training_pairs(tmp_path, splits, drawn):
    train_count, val, test = splits
    data = write_pairs(tmp_path / "data", train=train_count, val=val, test=test)
    run = train(tiny_config(data, training__steps=1), tmp_path / "run")
    shown = read_image(run / "samples/step-00000001.png")
    # BtoA: the first held-out pair's right half stands left, its left half right.
    pair = draw_pair(drawn)
    x, y = (torch.from_numpy(half.copy()).permute(2, 0, 1).float() for half in (pair[:, 40:], pair[:, :40]))
    for expected, left in ((x, 0), (y, 72)):
        small = resize(expected, (32, 32), labels=False).permute(1, 2, 0).numpy()
        assert np.abs(shown[:, left : left + 32] - small).max() < 1.01


def test_held_out_pairs_are_chosen_evenly():
    assert evenly(tuple(range(10)), 4) == [0, 2, 5, 7]
    assert evenly(tuple(range(3)), 9) == [0, 1, 2]
    assert evenly((), 3) == []


def test_without_adversary_no_d_is_built_saved_or_logged(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, training__steps=2, objective__lambda_gan=0.0), tmp_path / "run")
    assert not (run / "discriminator.safetensors").exists()
    assert not any(key.startswith(("D_", "G_GAN")) for line in read_metrics(run) for key in line)
    assert "cannot tell" not in (run / "log.txt").read_text()
    assert state_of(run, 2)["optimizer_d"] is None


def test_the_moving_average_is_what_is_validated_and_published(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, training__ema_decay=0.5), tmp_path / "run")
    state = state_of(run, 4)
    published, _ = load_weights(run / "generator.safetensors")
    key = "downs.0.conv.weight"
    assert torch.equal(published[key], state["ema"][key])
    assert not torch.equal(published[key], state["generator"][key])
    from_state = Translator.load(run / "checkpoints/step-00000004.pt")
    assert torch.equal(from_state.generator.state_dict()[key], state["ema"][key])


def test_the_rate_decays_as_asked(tiny_data, tmp_path):
    config = tiny_config(tiny_data, training__steps=6, training__decay_fraction=0.5)
    run = train(config, tmp_path / "run")
    rates = [line["lr"] for line in read_metrics(run) if "lr" in line]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4, 2e-4, 2e-4 * 2 / 3, 2e-4 / 3])
    last = state_of(run, 6)
    for name in ("optimizer_g", "optimizer_d"):
        assert last[name]["param_groups"][0]["lr"] == pytest.approx(2e-4 / 3)


def test_snapshots_are_small_and_load_by_themselves(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, logging__keep_snapshots=True), tmp_path / "run")
    files = sorted((run / "snapshots").iterdir())
    assert [p.name for p in files] == ["step-00000002.safetensors", "step-00000004.safetensors"]
    whole = run / "generator.safetensors"
    assert files[1].stat().st_size < 0.6 * whole.stat().st_size
    with safe_open(files[1], framework="pt") as file:
        assert {file.get_tensor(k).dtype for k in file.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118
    snapshot, published = Translator.load(files[1]), Translator.load(whole)
    assert snapshot.provenance["step"] == 4
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    difference = np.abs(snapshot(image).astype(int) - published(image).astype(int))
    assert difference.max() <= 2


def test_batches_larger_than_one_choose_the_running_averages(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, training__steps=2, training__batch_size=3), tmp_path / "run")
    assert Translator.load(run).semantics.norm_stats == "running"
    assert [line["images_seen"] for line in read_metrics(run) if "lr" in line] == [3, 6]


def test_epochs_count_passes_over_the_pairs(tiny_data, tmp_path):
    config = tiny_config(tiny_data, training__steps=None, training__epochs=2, training__batch_size=2)
    run = train(config, tmp_path / "run")
    assert checkpoints(run)[-1] == 5  # 10 images, two a step


def test_training_learns(tiny_data, tmp_path):
    config = tiny_config(
        tiny_data,
        training__steps=60,
        training__learning_rate=2e-3,
        objective__lambda_gan=0.0,
        logging__save_every_steps=60,
        logging__log_every_steps=10,
    )
    run = train(config, tmp_path / "run")
    l1 = [line["G_L1"] for line in read_metrics(run) if "G_L1" in line]
    assert l1[-1] < 0.6 * l1[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"generator__noise": "gaussian"},
        {"generator__noise": "none"},
        {"generator__norm": "instance", "discriminator__norm": "instance"},
        {"generator__upsample": "resize", "generator__skip": "add"},
        {"generator__skip": "none", "discriminator__conditional": False},
        {"generator__num_downs": 1, "discriminator__num_layers": 0},
        {"training__precision": "bf16", "objective__gan_mode": "wgan-gp", "training__batch_size": 3},
        {"objective__gan_mode": "lsgan", "objective__lambda_l1": 0.0},
        {"data__crop_size": (32, 48), "data__load_size": (36, 48), "data__resize": "shorter"},
        {"data__resize": "none"},
    ],
    ids=str,
)
def test_every_kind_of_network_trains_and_translates(tiny_data, tmp_path, fields):
    run = train(tiny_config(tiny_data, **fields), tmp_path / "run")
    lines = [line for line in read_metrics(run) if "lr" in line]
    assert len(lines) == 4
    assert all(value is not None for line in lines for value in line.values())
    output = Translator.load(run)(np.zeros((17, 23, 3), np.uint8))
    assert output.shape == (17, 23, 3)


def two_folders(root: Path, source: np.ndarray, target: np.ndarray) -> Path:
    """A and B, three equal pairs of TIFF files."""
    for side, pixels in (("A", source), ("B", target)):
        (root / side).mkdir(parents=True)
        for i in range(3):
            photometric = "rgb" if pixels.ndim == 3 and pixels.shape[2] == 3 else "minisblack"
            tifffile.imwrite(root / side / f"{i}.tif", np.roll(pixels, i, 0), photometric=photometric,
                             planarconfig="contig" if pixels.ndim == 3 else None)  # fmt: skip
    return root


NOISE = np.random.default_rng(0).random((40, 40, 5))
CLASSES = (NOISE[..., 0] * 4).astype(np.uint8)


@pytest.mark.parametrize(
    ("source", "target", "fields", "channels"),
    [
        ((NOISE[..., 0] * 65535).astype(np.uint16), (NOISE[..., :2] * 9000).astype(np.uint16), {}, (1, 2)),
        (NOISE.astype(np.float32), NOISE[..., 0].astype(np.float32), {}, (5, 1)),
        (CLASSES, (NOISE[..., :3] * 255).astype(np.uint8), {"data__source_one_hot": True}, (4, 3)),
        ((NOISE[..., :3] * 255).astype(np.uint8), CLASSES, {"data__target_one_hot": True}, (3, 4)),
        ((NOISE[..., :3] * 255).astype(np.uint8), CLASSES, {}, (3, 1)),
    ],
    ids=["uint16", "float32", "one-hot source", "one-hot target", "labels"],
)
def test_every_kind_of_image_trains_and_comes_back_as_itself(tmp_path, source, target, fields, channels):
    data = two_folders(tmp_path / "data", source, target)
    run = train(tiny_config(data, data__direction="AtoB", **fields), tmp_path / "run")
    generator = json.loads((run / "config.json").read_text())["generator"]
    assert (generator["source_channels"], generator["target_channels"]) == channels
    translator = Translator.load(run, precision="fp32")
    output = translator(source)
    assert output.dtype == target.dtype
    assert output.shape == (40, 40, 1 if target.ndim == 2 else target.shape[2])
    low, high = translator.target_spec.low[0], translator.target_spec.high[0]
    assert low - 0.5 <= output.min() < output.max() <= high + 0.5
    if target.dtype != np.uint8:  # measured, not the full range
        assert float(target.min()) <= low < high <= float(target.max())
    if target is CLASSES:
        assert set(np.unique(output)) <= {0, 1, 2, 3}
    assert image_shape(run / "samples/step-00000004.png") == (32, 3 * 32 + 2 * 4)


# -----------------------------------------------------------------------------------------------------------
# A loss that is no number


@pytest.mark.parametrize(
    ("rate", "lambda_gan", "names"),
    [("1e30", 1, "G_L1|G_GAN|D_real|D_fake"), ("1e39", 0, "the weights of G")],
)
def test_a_run_that_explodes_stops_and_keeps_the_last_good_checkpoint(
    tiny_data, tmp_path, rate, lambda_gan, names
):
    run = tmp_path / "run"
    child = Child(
        tmp_path / "said.txt", cli, "train", tiny_data, "--out", run, "--preset", "tiny",
        "--training.learning-rate", rate, "--training.steps", 50, "--logging.save-every-steps", 1,
        "--objective.lambda-gan", lambda_gan,
    )  # fmt: skip
    assert child.wait() == 2, child.said
    last = child.said.splitlines()[-1]
    found = re.match(r"pairloom: (.*) became non-finite at step (\d+); stopped, and (.*)\. Lower ", last)
    assert found, child.said
    step = int(found[2])
    assert re.search(names, found[1])
    assert "training.learning_rate" in last
    assert "Traceback" not in child.said
    assert last.removeprefix("pairloom: ") in (run / "log.txt").read_text()

    raw = (run / "metrics.jsonl").read_text()
    assert "NaN" not in raw and "Infinity" not in raw
    lines = read_metrics(run)
    assert max(line["step"] for line in lines) == step
    assert "non-finite" in lines[-1]["warning"]
    assert (None in lines[-2].values()) == (rate == "1e30")
    kept = checkpoints(run)
    assert all(s < step for s in kept)
    assert (f"the last good checkpoint is step {kept[-1]}" if kept else "no checkpoint") in found[3]
    for s in kept:
        assert all(t.isfinite().all() for t in state_of(run, s)["generator"].values())
    assert not (run / "generator.safetensors").exists()


def test_nan_at_a_later_step_keeps_what_was_good(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, training__steps=2), tmp_path / "run")
    # A state whose next loss is no number, as after an unlucky update.
    path = run / "checkpoints/step-00000002.pt"
    state = state_of(run, 2)
    state["generator"]["downs.0.conv.weight"][0] = float("nan")
    torch.save(state, path)
    before = path.read_bytes()
    with pytest.raises(NonFiniteLoss, match=r"G_L1.* became non-finite at step 3; .* checkpoint is step 2"):
        train(tiny_config(tiny_data), run)
    assert path.read_bytes() == before
    assert checkpoints(run) == [2]
    lines = read_metrics(run)
    assert lines[-2]["step"] == 3 and lines[-2]["G_L1"] is None
    assert lines[-1]["warning"].startswith("D_fake and G_GAN and G_L1 became non-finite")


# -----------------------------------------------------------------------------------------------------------
# Refused before anything is trained


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"data__path": "/nowhere/at/all"}, DataError, "/nowhere/at/all does not exist"),
        ({"training__device": "cuda:9"}, DeviceError, "'cuda:9' is not on this machine"),
        ({"training__device": "tpu9000"}, DeviceError, "'tpu9000' is unknown"),
        ({"generator__source_channels": 1}, ConfigError, "source_channels is 1, but the source"),
        ({"generator__target_channels": 4}, ConfigError, "target_channels is 4, but the target"),
        ({"logging__track": "wandb"}, ConfigError, "pip install wandb"),
        ({"data__source_one_hot": True}, DataError, "one_hot"),
    ],
)  # fmt: skip
def test_an_impossible_run_is_refused_before_the_first_step(tiny_data, tmp_path, fields, error, words):
    with pytest.raises(error) as raised:
        train(tiny_config(**{"data": tiny_data, **fields}), tmp_path / "run")
    assert words in str(raised.value)
    assert not (tmp_path / "run/checkpoints").exists()
    assert read_metrics(tmp_path / "run") == []


def test_a_file_that_breaks_later_is_one_sentence_and_costs_nothing(tmp_path):
    data = write_pairs(tmp_path / "data", train=3)
    run = train(tiny_config(data, training__steps=2), tmp_path / "run")
    for file in (data / "train").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"train-\d\.png: cannot be read, it is damaged or cut short"):
        train(tiny_config(data), run)
    assert checkpoints(run) == [2]
    write_pairs(data, train=3)
    train(tiny_config(data), run)
    assert checkpoints(run) == [2, 4]


@pytest.mark.parametrize("what", ["cut short", "of other channels"])
def test_a_broken_held_out_file_is_found_before_the_first_step(tmp_path, what):
    data = write_pairs(tmp_path / "data", train=3, val=3)
    victim = data / "val/val-1.png"
    if what == "cut short":
        victim.write_bytes(victim.read_bytes()[:100])
    else:
        Image.open(victim).convert("L").save(victim)
    with pytest.raises((ImageError, DataError), match=r"val-1\.png"):
        train(tiny_config(data), tmp_path / "run")
    assert read_metrics(tmp_path / "run") == []


@pytest.mark.parametrize("what", ["cut short", "of other channels"])
def test_a_broken_file_that_is_only_drawn_is_left_out_and_said(tmp_path, what):
    data = write_pairs(tmp_path / "data", train=3, test=3)
    victim = data / "test/test-1.png"
    if what == "cut short":
        victim.write_bytes(victim.read_bytes()[:100])
    else:
        Image.open(victim).convert("L").save(victim)
    run = train(tiny_config(data, training__steps=1, logging__sample_pairs=3), tmp_path / "run")
    (line,) = [line for line in (run / "log.txt").read_text().splitlines() if "Warning" in line]
    assert str(victim) in line and line.endswith("It is left out of the samples.")
    assert image_shape(run / "samples/step-00000001.png")[0] == 2 * 32 + 4


# -----------------------------------------------------------------------------------------------------------
# Trackers


def test_tensorboard_gets_every_figure(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, logging__track="tensorboard"), tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for name in ("G_L1", "G_GAN", "D_real", "val_L1", "lr"):
        written = [(e.step, e.value) for e in events.Scalars(name)]
        expected = [(line["step"], line[name]) for line in read_metrics(run) if name in line]
        assert [s for s, _ in written] == [s for s, _ in expected]
        assert [v for _, v in written] == pytest.approx([v for _, v in expected], rel=1e-6)


def test_wandb_gets_every_figure_and_a_resumed_run_goes_on_in_one_curve(tiny_data, tmp_path, monkeypatch):
    class Wandb(types.ModuleType):
        """Stands in for the package, which is not installed."""

        begun: ClassVar[list[dict[str, Any]]] = []
        logged: ClassVar[list[tuple[int, str]]] = []
        finished = 0

        def init(self, **fields: Any) -> Wandb:
            self.begun.append(fields)
            return self

        def log(self, figures: dict[str, float], step: int) -> None:
            self.logged += [(step, name) for name in figures]

        def finish(self) -> None:
            self.finished += 1

    package = Wandb("wandb")
    monkeypatch.setitem(sys.modules, "wandb", package)
    for steps in (2, 4):
        run = train(
            tiny_config(tiny_data, training__steps=steps, logging__track="wandb"), tmp_path / "my-run"
        )
    assert [(b["id"], b["resume"]) for b in package.begun] == [("my-run", "allow")] * 2
    assert package.begun[0]["config"]["objective"]["lambda_l1"] == 100.0
    assert [step for step, name in package.logged if name == "G_L1"] == [1, 2, 3, 4]
    assert [step for step, name in package.logged if name == "val_L1"] == [2, 4]
    assert package.finished == 2
    assert (run / "metrics.jsonl").exists()


def imports_after_training(data: Path, run: Path) -> None:
    train(tiny_config(data, training__steps=1), run)
    found = sorted({"tensorboard", "wandb", "torch.utils.tensorboard"} & sys.modules.keys())
    print("TRACKERS", found)


def test_no_tracker_is_imported_unless_asked_for(tiny_data, tmp_path):
    child = Child(tmp_path / "said.txt", imports_after_training, tiny_data, tmp_path / "run")
    assert child.wait() == 0, child.said
    assert "TRACKERS []" in child.said
    assert not (tmp_path / "run/tensorboard").exists()


def test_a_tracker_that_is_absent_is_named_with_its_cure(tiny_data, tmp_path):
    child = Child(
        tmp_path / "said.txt", cli, "train", tiny_data, "--out", tmp_path / "run", "--preset", "tiny",
        "--logging.track", "wandb",
    )  # fmt: skip
    assert child.wait() == 2
    last = child.said.splitlines()[-1]
    assert "logging.track is 'wandb', which is not installed; run `pip install wandb`" in last
    assert "Measuring" not in child.said
    # The choice of a tracker binds nobody: the same run goes on without.
    train(tiny_config(tiny_data, training__steps=1), tmp_path / "run")


# -----------------------------------------------------------------------------------------------------------
# What a person sees


def test_without_a_terminal_there_is_a_line_for_each_log_line(tiny_data, tmp_path, capsys):
    train(tiny_config(tiny_data, training__steps=5, logging__log_every_steps=2), tmp_path / "run")
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    for line in lines:
        assert re.search(r"G_L1 \d\.\d+ .*lr 2\.0e-04 \d+\.\d+ s/step \d+(\.\d)? (s|min|h) left", line)
    assert "\r" not in said.err


def test_a_pause_does_not_spoil_the_time_left(tmp_path, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("pairloom.progress.time.perf_counter", lambda: clock[0])
    line = {"G_L1": 0.1, "lr": 2e-4, "seconds_per_step": 1.0}
    with RunDir(tmp_path / "run") as run, Console(run).progress(1000) as bar:
        bar.update(0, {})
        for step in (10, 20, 30, 40):
            clock[0] += 10.0 + 7200.0 * (step == 30)  # asleep for two hours
            bar.update(step, line)
    assert capsys.readouterr().err.splitlines()[-1].endswith("s/step 16 min left")


def train_on(terminal: str, data: Path, run: Path) -> None:
    """Train with that terminal as standard error."""
    os.dup2(os.open(terminal, os.O_RDWR), 2)
    train(tiny_config(data), run)


def test_on_a_terminal_there_is_a_bar(tiny_data, tmp_path):
    run = tmp_path / "run"
    train(tiny_config(tiny_data, training__steps=2), run)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 120))
    child = Child(tmp_path / "said.txt", train_on, os.ttyname(theirs), tiny_data, run)
    shown = b""
    while child.process.is_alive() or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.02)[0]:
            shown += os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    assert child.wait() == 0, child.said
    text = shown.decode()
    assert "Resuming at step 2 of 4." in text
    assert re.search(r"100%\|.*\| 4/4 ", text)
    assert "G_L1" in text
    assert re.search(r"step 4/4 G_GAN \d", (run / "log.txt").read_text())


def test_a_first_signal_is_noted_and_a_second_one_obeyed():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.signum is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_means_are_over_the_steps_since_the_last_line():
    window = MetricsWindow()
    for value, seconds, waited in ((1.0, 0.1, 0.0), (2.0, 0.2, 0.1), (6.0, 0.3, 0.2)):
        window.add({"G_L1": torch.tensor(value)})
        window.time(seconds, waited)
    assert window.means() == {"G_L1": 3.0, "seconds_per_step": 0.2, "wait_share": 0.5}


def test_the_estimate_is_in_words():
    text = estimate(900, 1000, 2.0)
    assert text.startswith("900 of 1000 steps to go, about 30 min at 2 s a step ")
    assert [duration(s) for s in (5, 89, 600, 7200)] == ["5 s", "89 s", "10 min", "2.0 h"]


# -----------------------------------------------------------------------------------------------------------
# Where things are, and what a fault may cost


def test_a_run_inside_its_data_is_refused(tmp_path):
    data = write_pairs(tmp_path / "pairs")
    with pytest.raises(ConfigError, match="lies in the data folder"):
        train(tiny_config(data), data / "run")
    assert not (data / "run").exists()


def test_a_run_without_a_name_takes_that_of_its_data(tmp_path, monkeypatch):
    write_pairs(tmp_path / "buildings")
    monkeypatch.chdir(tmp_path)
    run = train(tiny_config("buildings", training__steps=1))
    assert run == Path("runs/buildings")
    assert (run / "generator.safetensors").exists()


def test_relative_folders_are_saved_whole(tmp_path, monkeypatch):
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for i in range(3):
            Image.fromarray(np.full((40, 40, 3), 60 * i + 20, np.uint8)).save(tmp_path / side / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    train(tiny_config("a", data__path_b="b", data__source_kind="intensity", training__steps=1), "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (saved["path"], saved["path_b"]) == (str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_file_that_breaks_before_the_first_step_leaves_no_checkpoint(tmp_path):
    data = write_pairs(tmp_path / "pairs", train=3, test=1)
    config = tiny_config(data, training__steps=2, data__workers=0)
    pairs = find_pairs(config.data).split("train")
    first = pairs[permutation(config.training.seed, 0, 3)[0]]
    first.source.path.write_bytes(b"")
    # Measured before, as of another run on the same files.
    spec = images.ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    run = tmp_path / "run"
    with RunDir(run) as directory, pytest.raises(ImageError, match="0 bytes"):
        fit(
            directory,
            Console(directory),
            resolve(config, spec, spec, torch.device("cpu")),
            find_pairs(config.data),
            spec,
            spec,
            torch.device("cpu"),
        )
    assert checkpoints(run) == []


def test_a_file_that_breaks_while_training_costs_no_steps(tmp_path):
    data = write_pairs(tmp_path / "pairs", train=220)
    # Between the evenly spread pairs that are measured, so that it is met only in training.
    names = sorted((data / "train").iterdir(), key=lambda p: int(p.stem.split("-")[1]))
    measured = set(np.unique(np.linspace(0, 219, 200).round().astype(int)))
    names[next(i for i in range(219, 0, -1) if i not in measured)].write_bytes(b"")
    config = tiny_config(data, training__steps=220, logging__save_every_steps=10_000, logging__sample_pairs=0)
    with pytest.raises(ImageError, match="0 bytes"):
        train(config, tmp_path / "run")
    (step,) = checkpoints(tmp_path / "run")
    assert step == state_of(tmp_path / "run", step)["step"] > 0


def test_after_a_lost_best_json_the_next_validation_is_the_best_again(tiny_data, tmp_path):
    run = train(tiny_config(tiny_data, training__steps=2), tmp_path / "run")
    (run / "checkpoints" / "best.json").unlink()
    train(tiny_config(tiny_data, training__steps=4), run)
    assert json.loads((run / "checkpoints" / "best.json").read_text())["step"] == 4
    assert Translator.load(run, checkpoint="best").provenance["step"] == 4


@pytest.mark.parametrize(
    ("steps", "seconds", "words"),
    [
        (10, 1.0, r"about 10 s .*: until \w{3} \d\d:\d\d\.$"),
        (10**5, 2.5, r"about 69\.4 h .*: until \w{3} \d\d:\d\d\.$"),
        (10**6, 2.5, r"about 28\.9 days .*: until \d\d \w+ 20\d\d\.$"),
        (10**12, 60.0, r"days at 60 s a step \(measured on three trial steps\)\.$"),
    ],
)
def test_the_end_of_a_run_is_a_date_when_it_is_not_this_week(steps: int, seconds: float, words: str) -> None:
    assert re.search(words, estimate(steps, steps, seconds))
