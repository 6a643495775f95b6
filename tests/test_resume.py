"""The same command again goes on where it stopped, bit for bit, however it was stopped."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pairloom
from conftest import Child, cli, tiny_config, wait_until, write_pairs
from pairloom.checkpoint import steps
from pairloom.config import Config, ConfigError
from pairloom.fit import train
from pairloom.rundir import RunError, read_metrics

TIMES = {"seconds_per_step", "wait_share", "memory_mb", "elapsed_seconds"}
"""Fields of metrics.jsonl that measure the machine."""


def state_of(run: Path, step: int) -> dict[str, Any]:
    return torch.load(run / f"checkpoints/step-{step:08d}.pt", weights_only=True)


def last_step(run: Path) -> int:
    return steps(run / "checkpoints")[-1]


def losses(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what measures the machine."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run)]


def assert_same_state(a: Any, b: Any, where: str = "state") -> None:
    """Equal to the last bit: every tensor, number and string but the clock and the description of the run."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"elapsed_seconds", "model"}:
            assert_same_state(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same_state(one, other, f"{where}[{i}]")
    elif isinstance(a, Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(run: Path, other: Path, step: int) -> None:
    assert_same_state(state_of(run, step), state_of(other, step))
    assert losses(run) == losses(other)


def more(config: Config, **fields: Any) -> Config:
    """The same with other fields of `training`, `logging` or `data`."""
    return tiny_config(config.data.path, **{**BASE, **fields})


BASE = {"training__ema_decay": 0.9, "training__batch_size": 2, "data__crop_size": 32, "data__load_size": 36}
"""Dropout, jitter and mirror are on in `tiny`; besides, a moving average, and batches across epoch ends."""


@pytest.fixture
def config(tiny_data: Path) -> Config:
    config = tiny_config(tiny_data, **BASE)
    assert config.generator.noise == "dropout" and config.data.mirror
    assert config.data.load_size != config.data.crop_size
    return config


# -----------------------------------------------------------------------------------------------------------
# Stopped by choice


@pytest.mark.parametrize("workers", [0, 2])
def test_four_steps_equal_two_and_two(config, tmp_path, workers):
    whole = train(more(config, training__steps=4, data__workers=workers), tmp_path / "whole")
    parts = tmp_path / "parts"
    train(more(config, training__steps=2, data__workers=workers), parts)
    torch.rand(17)  # whatever another program draws in between
    train(more(config, training__steps=4, data__workers=workers), parts)
    assert_same_run(whole, parts, 4)
    assert [line["step"] for line in losses(parts) if "G_L1" in line] == [1, 2, 3, 4]


def test_dropout_and_jitter_really_are_on(config, tmp_path):
    # Otherwise the comparisons above would prove less than they say.
    plain = train(more(config, training__steps=2), tmp_path / "plain")
    dry = train(more(config, training__steps=2, generator__noise="none"), tmp_path / "dry")
    still = train(more(config, training__steps=2, data__load_size=32), tmp_path / "still")
    assert losses(plain) != losses(dry)
    assert losses(plain) != losses(still)


def test_the_number_of_workers_changes_nothing(config, tmp_path):
    none = train(more(config, training__steps=3), tmp_path / "none")
    two = train(more(config, training__steps=3, data__workers=2), tmp_path / "two")
    assert_same_run(none, two, 3)


def test_neither_validation_nor_samples_touch_the_training(config, tmp_path):
    often = train(
        more(config, training__steps=4, logging__save_every_steps=1, logging__keep_snapshots=True),
        tmp_path / "often",
    )
    never = train(
        more(config, training__steps=4, logging__save_every_steps=100, logging__sample_pairs=0),
        tmp_path / "never",
    )
    assert len([line for line in losses(often) if "val_L1" in line]) == 4
    assert len(list((often / "samples").glob("*.png"))) == 4
    assert not (never / "samples").exists()
    assert_same_state(state_of(often, 4), state_of(never, 4))
    assert [x for x in losses(often) if "G_L1" in x] == [x for x in losses(never) if "G_L1" in x]


def test_a_data_set_without_held_out_pairs_trains_the_same(config, tiny_data, tmp_path):
    alone = write_pairs(tmp_path / "alone", train=5)
    with_val = train(more(config, logging__save_every_steps=1), tmp_path / "with")
    without = train(replace(more(config), data=replace(config.data, path=str(alone))), tmp_path / "without")
    assert not any("val_L1" in line for line in losses(without))
    assert_same_state(state_of(with_val, 4), state_of(without, 4))


def test_more_steps_on_a_finished_run_go_on(config, tmp_path):
    # 5 pairs, batches of 2: one epoch is 3 steps.
    run = train(more(config, training__steps=None, training__epochs=1), tmp_path / "run")
    assert last_step(run) == 3
    train(more(config, training__steps=None, training__epochs=2), run)
    assert last_step(run) == 5
    assert json.loads((run / "config.json").read_text())["training"]["epochs"] == 2
    whole = train(more(config, training__steps=None, training__epochs=2), tmp_path / "whole")
    assert_same_state(state_of(run, 5), state_of(whole, 5))
    assert pairloom.Translator.load(run).provenance["step"] == 5


def test_a_finished_run_is_left_as_it_is(config, tmp_path):
    run = train(more(config), tmp_path / "run")
    before = (losses(run), (run / "checkpoints/step-00000004.pt").stat().st_mtime_ns)
    train(more(config), run)
    assert before == (losses(run), (run / "checkpoints/step-00000004.pt").stat().st_mtime_ns)


def test_run_time_fields_may_change(config, tmp_path):
    run = train(more(config, training__steps=2), tmp_path / "run")
    train(
        more(
            config,
            training__steps=3,
            data__workers=1,
            logging__log_every_steps=2,
            logging__save_every_steps=1,
            logging__sample_pairs=2,
            logging__keep_snapshots=True,
        ),
        run,
    )
    assert last_step(run) == 3


def test_another_configuration_is_refused_and_the_differences_are_listed(config, tmp_path):
    run = train(more(config, training__steps=2), tmp_path / "run")
    before = losses(run)
    with pytest.raises(ConfigError) as error:
        train(more(config, training__learning_rate=1e-3, objective__lambda_l1=10.0), run)
    text = str(error.value)
    assert str(run) in text
    assert "training.learning_rate: 0.0002 -> 0.001" in text
    assert "objective.lambda_l1: 100.0 -> 10.0" in text
    assert "steps" not in text and "batch_size" not in text
    assert losses(run) == before and last_step(run) == 2


def test_what_was_decided_may_be_left_open_or_given(config, tmp_path):
    run = train(more(config, training__steps=2), tmp_path / "run")
    train(more(config, training__steps=3, generator__num_downs=5, generator__source_channels=3), run)
    with pytest.raises(ConfigError, match=r"generator\.num_downs: 5 -> 4"):
        train(more(config, training__steps=3, generator__num_downs=4), run)


def test_a_run_that_failed_before_its_first_checkpoint_binds_nobody(config, tmp_path):
    missing = tmp_path / "nowhere.safetensors"
    with pytest.raises(ValueError, match=r"nowhere\.safetensors"):
        train(more(config, training__init_from=str(missing)), tmp_path / "run")
    assert last_step(train(more(config, training__steps=2), tmp_path / "run")) == 2


def test_changed_data_are_noticed(config, tmp_path):
    data = write_pairs(tmp_path / "data", train=4)
    config = replace(config, data=replace(config.data, path=str(data)))
    run = train(replace(config, training=replace(config.training, steps=1)), tmp_path / "run")
    assert "has changed" not in (run / "log.txt").read_text()
    write_pairs(data, train=5)
    train(replace(config, training=replace(config.training, steps=2)), run)
    assert "Warning: the data set has changed since this run began" in (run / "log.txt").read_text()


# -----------------------------------------------------------------------------------------------------------
# metrics.jsonl


def test_lines_after_the_checkpoint_are_forgotten(config, tmp_path):
    run = train(more(config, training__steps=2), tmp_path / "run")
    whole = train(more(config, training__steps=4), tmp_path / "whole")
    with (run / "metrics.jsonl").open("a") as file:  # as a kill leaves it: lines too many, the last one half
        file.write('{"step": 3, "G_L1": 9.0}\n{"step": 3, "val_L1": 9.0}\n{"step": 4, "G_L')
    train(more(config, training__steps=4), run)
    assert losses(run) == losses(whole)


@pytest.mark.parametrize(("log_every", "save_every"), [(3, 2), (2, 3), (100, 2)])
def test_no_line_averages_over_steps_on_both_sides_of_a_checkpoint(config, tmp_path, log_every, save_every):
    fields = {"logging__log_every_steps": log_every, "logging__save_every_steps": save_every}
    every = train(more(config, training__steps=6, logging__log_every_steps=1), tmp_path / "every")
    whole = train(more(config, training__steps=6, **fields), tmp_path / "whole")
    single = {line["step"]: line["G_L1"] for line in losses(every) if "G_L1" in line}
    done = 0
    for line in (x for x in losses(whole) if "G_L1" in x):
        covered = range(done + 1, line["step"] + 1)
        assert line["G_L1"] == pytest.approx(np.mean([single[s] for s in covered]), abs=2e-6)
        done = line["step"]
    assert done == 6
    parts = tmp_path / "parts"
    for end in (save_every, 6):
        train(more(config, training__steps=end, **fields), parts)
    assert losses(parts) == losses(whole)


# -----------------------------------------------------------------------------------------------------------
# Killed

LONG = 30


@pytest.fixture(scope="module")
def uninterrupted(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the killed ones must end as."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    return train(long_config(tiny_data, workers=0), run)


def long_config(data: Path, *, workers: int) -> Config:
    return tiny_config(
        data,
        **BASE,
        training__steps=LONG,
        data__workers=workers,
        logging__save_every_steps=3,
        logging__log_every_steps=2,
    )


def steps_done(run: Path) -> int:
    lines = read_metrics(run)
    return max((line["step"] for line in lines), default=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(tiny_data, tmp_path, workers, uninterrupted):
    run = tmp_path / "run"
    config = long_config(tiny_data, workers=workers)
    chance = random.Random()
    ends = []
    for goal in sorted(chance.sample(range(1, LONG - 8), 3)):
        child = Child(tmp_path / "said.txt", train, config, run)
        wait_until(lambda at=goal, child=child: steps_done(run) >= at or not child.process.is_alive())
        time.sleep(0.03 * chance.random())
        child.signal(signal.SIGKILL)
        ends.append(child.wait())
    assert -signal.SIGKILL in ends, child.said
    assert set(ends) <= {-signal.SIGKILL, 0}, child.said  # the machine may be too slow to kill in time
    child = Child(tmp_path / "said.txt", train, config, run)
    assert child.wait() == 0, child.said
    assert "Resuming at step" in child.said
    assert_same_run(run, uninterrupted, LONG)
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_saves(tiny_data, tmp_path, signum, status, workers, uninterrupted):
    run, said = tmp_path / "run", tmp_path / "said.txt"
    command = [
        "train", tiny_data, "--out", run, "--preset", "tiny", "--training.ema-decay", 0.9,
        "--training.batch-size", 2, "--training.steps", LONG, "--data.workers", workers,
        "--logging.save-every-steps", 1000,
    ]  # fmt: skip
    child = Child(said, cli, *command)
    wait_until(lambda: steps_done(run) >= 2, child)
    child.signal(signum)
    assert child.wait() == status, child.said
    stopped = last_step(run)
    assert 2 <= stopped < LONG
    assert f"Stopped by a signal after step {stopped}; saved." in child.said
    assert "The same command goes on from there." in child.said
    assert "Traceback" not in child.said
    # What people load is the same step, and every step done is in the metrics.
    assert pairloom.Translator.load(run).provenance["step"] == stopped
    assert [line["step"] for line in losses(run) if "G_L1" in line] == list(range(1, stopped + 1))

    train(long_config(tiny_data, workers=0), run)
    assert_same_state(state_of(run, LONG), state_of(uninterrupted, LONG))


def test_a_second_process_in_the_same_run_directory_is_refused(tiny_data, tmp_path):
    run = tmp_path / "run"
    long = tiny_config(tiny_data, training__steps=100_000)
    child = Child(tmp_path / "said.txt", train, long, run)
    wait_until(lambda: steps_done(run) >= 1, child)
    before = (run / "config.json").read_bytes()
    with pytest.raises(RunError, match="another process is training in this run directory") as error:
        train(long, run)
    assert str(run) in str(error.value)
    assert child.process.is_alive()
    child.signal(signal.SIGKILL)
    child.wait()
    assert (run / "config.json").read_bytes() == before
    # The lock dies with its holder.
    train(tiny_config(tiny_data, training__steps=1), run)


# -----------------------------------------------------------------------------------------------------------
# Damaged checkpoints


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_checkpoint_cut_off_falls_back_to_the_one_before(config, tmp_path, share):
    run = train(more(config), tmp_path / "run")
    assert sorted(p.name for p in (run / "checkpoints").glob("*.pt")) == [
        "step-00000002.pt",
        "step-00000004.pt",
    ]
    whole, lines = state_of(run, 4), losses(run)
    broken = run / "checkpoints/step-00000004.pt"
    cut(broken, share)
    train(more(config), run)
    log = (run / "log.txt").read_text()
    assert f"Warning: {broken}: is not a whole checkpoint" in log
    assert "An earlier one is used." in log
    assert "Resuming at step 2 of 4." in log
    assert_same_state(state_of(run, 4), whole)
    assert losses(run) == lines


def test_an_unreadable_newer_checkpoint_never_displaces_a_good_one(config, tmp_path):
    run = train(more(config, training__steps=8, logging__save_every_steps=1), tmp_path / "run")
    cut(run / "checkpoints/step-00000008.pt")
    # Now 7 is the last good one. Saving at 9 and 10 only, so that 8 stays unreadable.
    train(more(config, training__steps=10, logging__save_every_steps=9), run)
    assert {9, 10} <= {int(p.stem[-8:]) for p in (run / "checkpoints").glob("*.pt")}
    for step in (9, 10):
        assert state_of(run, step)["step"] == step


def test_a_run_that_ends_before_its_damaged_checkpoint_is_loaded_from_what_is_good(config, tmp_path):
    run = train(more(config, training__steps=4, logging__save_every_steps=1), tmp_path / "run")
    (run / "checkpoints/best.json").write_text('{"step": 4, "val_L1": 0.0}')
    for step in (4, 3):
        cut(run / f"checkpoints/step-{step:08d}.pt")
    shutil.copy(tmp_path / "run/checkpoints/step-00000004.pt", tmp_path / "half.pt")
    state = train(more(config, training__steps=2), tmp_path / "other") / "checkpoints/step-00000002.pt"
    shutil.copy(state, run / "checkpoints")
    # As after a signal at step 3: it ends before the damaged one would have.
    train(more(config, training__steps=3), run)
    assert steps(run / "checkpoints") == [2, 3]
    assert pairloom.Translator.load(run).provenance["step"] == 3
    assert pairloom.Translator.load(run, checkpoint="best").provenance["step"] == 3
    assert (run / "checkpoints/step-00000004.pt.damaged").read_bytes() == (tmp_path / "half.pt").read_bytes()


def test_without_its_checkpoints_a_finished_run_is_not_overwritten(config, tmp_path):
    run = train(more(config, training__steps=2), tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    before = (run / "generator.safetensors").read_bytes(), (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"holds a trained model, and no checkpoints/step-\*\.pt") as error:
        train(more(config, training__steps=2), run)
    assert f"--init-from {run}" in str(error.value)
    assert before == ((run / "generator.safetensors").read_bytes(), (run / "metrics.jsonl").read_bytes())


def test_a_longer_run_says_that_its_falling_rate_goes_up_again(config, tmp_path):
    fields = {"training__decay_fraction": 0.5, "training__learning_rate": 1e-3}
    run = train(more(config, training__steps=4, **fields), tmp_path / "run")
    train(more(config, training__steps=4, **fields), run)
    assert "learning rate goes on" not in (run / "log.txt").read_text()
    train(more(config, training__steps=8, **fields), run)
    words = (
        "Note: the run ends at step 8 now, so the learning rate goes on from 0.001; it had come to 0.0005."
    )
    assert words in (run / "log.txt").read_text()
    steady = train(more(config, training__steps=1), tmp_path / "steady")
    train(more(config, training__steps=2), steady)
    assert "learning rate goes on" not in (steady / "log.txt").read_text()


def test_with_all_checkpoints_cut_off_one_sentence_says_so(config, tmp_path):
    run = train(more(config), tmp_path / "run")
    for path in (run / "checkpoints").glob("*.pt"):
        cut(path)
    with pytest.raises(ValueError, match="No earlier checkpoint is left") as error:
        train(more(config), run)
    assert type(error.value).__name__ == "CheckpointError"
    assert "step-00000004.pt" in str(error.value)
