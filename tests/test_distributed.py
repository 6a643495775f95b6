"""Several processes train as one: the same losses, the same states, and one end for all of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from conftest import Child, tiny_config, wait_until, write_pairs
from pairloom import distributed
from pairloom.checkpoint import load_state, steps
from pairloom.cli import main
from pairloom.config import Config, ConfigError
from pairloom.data import View, find_pairs, measure_specs, training_batches
from pairloom.devices import DeviceError
from pairloom.exchange import BUCKET, Exchange
from pairloom.fit import train
from pairloom.flags import parse_run
from pairloom.rundir import read_metrics
from pairloom.training import TrainState
from pairloom.translator import Semantics, Translator
from test_resume import assert_same_run, assert_same_state, last_step, losses, state_of

SLURM = Path(__file__).parents[1] / "examples/slurm/train.sbatch"
PATIENCE = 300
"""Seconds: a busy machine is no fault."""
QUIET = {"generator__noise": "none", "generator__norm": "instance", "discriminator__norm": "instance"}
"""Nothing in a step depends on who computes it."""


# -----------------------------------------------------------------------------------------------------------
# Processes: forked from a server that has imported torch, with torchrun's variables; or torchrun itself


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ranked(rank: int, size: int, port: int, target: Any, *args: Any, **kwargs: Any) -> None:
    """In a process of its own: be one of several, and call."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    target(*args, **kwargs)


def trained(config: Config, run: Path, transform: Any = None) -> None:
    """`train`, as the command line would end."""
    try:
        train(config, run, transform=transform)
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + getattr(stop, "signum", 0)) from None
    except ValueError as error:
        print(f"pairloom: {error}", flush=True)
        raise SystemExit(2) from None


class Job:
    """Several processes that call the same."""

    def __init__(self, folder: Path, size: int, target: Any, *args: Any, **kwargs: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.size, port = size, free_port()
        number = len(list(folder.glob("said-*")))
        self.children = [
            Child(folder / f"said-{number}-{rank}", ranked, rank, size, port, target, *args, **kwargs)
            for rank in range(size)
        ]
        for child in self.children:
            child.log.touch()

    def wait(self) -> list[int]:
        """The exit statuses, in the order of ranks."""
        return [child.wait(PATIENCE) for child in self.children]

    @property
    def said(self) -> list[str]:
        return [child.said for child in self.children]

    def done(self) -> Job:
        assert self.wait() == [0] * self.size, self.said
        return self


def train_by(size: int, config: Config, run: Path, transform: Any = None) -> Path:
    """A run trained by so many processes."""
    Job(run.parent / "jobs", size, trained, config, run, transform).done()
    return run


def script(folder: Path, config: Config, run: Path, transform: str = "None") -> Path:
    """A program of the user's own, for torchrun."""
    from pairloom import configfile

    file, settings = folder / "program.py", folder / "settings.json"
    settings.write_text(json.dumps(configfile.to_dict(config)))
    file.write_text(
        "import os, sys, signal, pathlib, torch\n"
        "import pairloom\n"
        "from pairloom import configfile\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_distributed\n"
        "torch.set_num_threads(1)\n"
        f"config = configfile.load({str(settings)!r})\n"
        f"test_distributed.trained(config, pathlib.Path({str(run)!r}), {transform})\n"
    )
    return file


def torchrun(
    log: Path, size: int, *arguments: object, options: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """The real launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", size, "--master-port"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [str(a) for a in [*command, free_port(), *options, *arguments]],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def until(condition: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    def met_or_over() -> bool:
        return bool(condition()) or process.poll() is not None

    wait_until(met_or_over, seconds=PATIENCE)
    assert condition(), log.read_text()


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that torchrun started, in the order of ranks."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return sorted(map(int, found.split()))


def steps_done(run: Path) -> int:
    return max((line["step"] for line in read_metrics(run)), default=0)


def config_of(data: Path, **fields: Any) -> Config:
    base = {"training__batch_size": 4, "training__steps": 5, "data__crop_size": 32, "data__load_size": 36}
    return tiny_config(data, **{**base, "logging__sample_pairs": 1, **fields})


def figures(run: Path) -> list[dict[str, float]]:
    return [line for line in losses(run) if "G_L1" in line]


def assert_same_losses(run: Path, other: Path, within: float = 1e-5) -> None:
    assert [line["step"] for line in figures(run)] == [line["step"] for line in figures(other)]
    for line, expected in zip(figures(run), figures(other), strict=True):
        for name in ("G_GAN", "G_L1", "D_real", "D_fake"):
            assert line[name] == pytest.approx(expected[name], rel=0, abs=within), (line["step"], name)
        assert line["images_seen"] == expected["images_seen"]


# -----------------------------------------------------------------------------------------------------------
# The same losses


@pytest.fixture(scope="module")
def alone(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps of a global batch of 4 by one process."""
    return train(config_of(tiny_data, **QUIET), tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize("size", [2, 4])
def test_the_losses_are_those_of_one_process(tiny_data, tmp_path, alone, size):
    run = train_by(size, config_of(tiny_data, **QUIET), tmp_path / "run")
    assert_same_losses(run, alone)
    assert [line for line in losses(run) if "val_L1" in line] == [
        {"step": line["step"], "val_L1": pytest.approx(line["val_L1"], abs=1e-5)}
        for line in losses(alone)
        if "val_L1" in line
    ]


@pytest.mark.parametrize("size", [2, 4])
def test_synchronised_batch_norm_sees_the_whole_batch(tiny_data, tmp_path, size):
    fields = {"generator__noise": "none", "training__sync_batch_norm": True}
    config = config_of(tiny_data, **fields)
    assert config.generator.norm == config.discriminator.norm == "batch"
    one = train(config, tmp_path / "one")
    run = train_by(size, config, tmp_path / "run")
    assert_same_losses(run, one)
    for net in ("generator", "discriminator"):
        ours, theirs = state_of(run, 5)[net], state_of(one, 5)[net]
        running = [name for name in theirs if "running" in name or "num_batches" in name]
        assert running
        for name in running:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert Translator.load(run).semantics.norm_stats == "running"


def test_batch_norm_sees_its_own_share_otherwise(tiny_data, tmp_path):
    config = config_of(tiny_data, generator__noise="none", training__steps=2)
    one = train(config, tmp_path / "one")
    run = train_by(2, config, tmp_path / "run")
    with pytest.raises(AssertionError):
        assert_same_losses(run, one)


def test_the_penalty_of_wgan_passes_through_synchronised_batch_norm(tiny_data, tmp_path):
    """It is differentiated twice. Each process draws its mixing, so that no other run has the same losses."""
    fields = {"objective__gan_mode": "wgan-gp", "training__sync_batch_norm": True, "training__steps": 2}
    run = train_by(2, config_of(tiny_data, **fields), tmp_path / "run")
    assert all(line["D_real"] is not None for line in figures(run))


# -----------------------------------------------------------------------------------------------------------
# What they tell each other


def exchanging(check: Any) -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    exchange = Exchange(rank, size, torch.device("cpu"), "")
    check(exchange)
    exchange.close()


def check_average(exchange: Exchange) -> None:
    mine = torch.full((2, 3), float(exchange.rank))
    large = torch.full((BUCKET + 1,), 10.0 * exchange.rank)
    picture = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last) * exchange.rank
    last = torch.full((), float(exchange.rank))
    exchange.average([mine, large, picture, last])
    middle = (exchange.size - 1) / 2
    assert torch.equal(mine, torch.full((2, 3), middle))
    assert torch.equal(large, torch.full((BUCKET + 1,), 10 * middle))
    assert torch.equal(picture, torch.arange(24.0).view(1, 2, 3, 4) * middle)
    assert picture.is_contiguous(memory_format=torch.channels_last)
    assert last == middle
    # Shares of unequal weight: the mean over 1, 2, ... numbers on each process is that of all of them.
    counts = torch.arange(1.0, exchange.size + 1)
    weighted = torch.full((5,), float(exchange.rank))
    exchange.average([weighted], weight=counts[exchange.rank])
    expected = (counts * torch.arange(exchange.size)).sum() / counts.sum()
    torch.testing.assert_close(weighted, expected.expand(5))


def check_total(exchange: Exchange) -> None:
    """Against the same function of all the numbers at once; first and second derivatives."""
    everything = torch.linspace(0.5, 2, 3 * exchange.size, dtype=torch.float64).view(exchange.size, 3)

    def objective(share: Tensor, total: Tensor) -> Tensor:
        return (share * total.square()).sum()

    whole = everything.clone().requires_grad_(True)
    (first,) = torch.autograd.grad(objective(whole, whole.sum(0)), whole, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), whole)

    mine = everything[exchange.rank].clone().requires_grad_(True)
    (own,) = torch.autograd.grad(objective(mine, exchange.total(mine)), mine, create_graph=True)
    torch.testing.assert_close(own, first[exchange.rank])
    (own,) = torch.autograd.grad(own.square().sum(), mine)
    torch.testing.assert_close(own, second[exchange.rank])


def check_spread(exchange: Exchange) -> None:
    picture = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    state = {"a": [picture, torch.tensor(3)], "b": {"c": torch.zeros(0), "d": "text"}, "e": (1, None)}
    got = exchange.spread({"other": 1} if exchange.rank else state)
    assert got["a"][0].stride() == picture.stride() and torch.equal(got["a"][0], picture)
    assert got["a"][1].dtype == torch.int64 and got["a"][1] == 3
    assert got["b"]["d"] == "text" and got["b"]["c"].shape == (0,) and got["e"] == (1, None)


@pytest.mark.parametrize("check", [check_average, check_total, check_spread])
def test_the_exchange(tmp_path, check):
    Job(tmp_path, 3, exchanging, check).done()


def test_each_process_reads_its_slice_of_every_batch(tiny_data):
    config = config_of(tiny_data).data
    pairs = find_pairs(config)
    specs = measure_specs(pairs.split("train"), config)

    def batches(workers: int, **share: int) -> list[View]:
        return list(
            training_batches(
                pairs, *specs, config, batch_size=4, seed=3, start=4, stop=20, workers=workers, **share
            )
        )

    whole = batches(0)
    for workers in (0, 2):
        shares = [batches(workers, rank=rank, ranks=2) for rank in range(2)]
        for k, (x, y, _) in enumerate(whole):
            assert torch.equal(x, torch.cat([share[k][0] for share in shares]))
            assert torch.equal(y, torch.cat([share[k][1] for share in shares]))
        assert all(len(share) == len(whole) == 4 for share in shares)


# -----------------------------------------------------------------------------------------------------------
# Resuming

ALIVE = {"training__ema_decay": 0.9, "logging__save_every_steps": 2}
"""Dropout, jitter and batch norm of each its own share are on in `tiny`."""


def test_four_steps_equal_two_and_two(tiny_data, tmp_path):
    whole = train_by(2, config_of(tiny_data, training__steps=4, **ALIVE), tmp_path / "whole")
    parts = train_by(2, config_of(tiny_data, training__steps=2, **ALIVE), tmp_path / "parts")
    train_by(2, config_of(tiny_data, training__steps=4, **ALIVE), parts)
    state = state_of(whole, 4)
    assert len(state["ranks"]) == 2
    assert not torch.equal(state["ranks"][0]["rng"]["cpu"], state["ranks"][1]["rng"]["cpu"])
    statistics = [rank["buffers"] for rank in state["ranks"]]
    assert any(not torch.equal(a, b) for a, b in zip(*statistics, strict=True))
    assert_same_run(whole, parts, 4)
    # The published statistics are the mean of theirs.
    names = [n for n, t in state["generator"].items() if "running" in n]
    for name, a, b in zip(names, *statistics, strict=False):
        torch.testing.assert_close(state["generator"][name], (a + b) / 2)


def test_when_it_is_saved_changes_nothing(tiny_data, tmp_path):
    often = train_by(2, config_of(tiny_data, logging__save_every_steps=1), tmp_path / "often")
    once = train_by(2, config_of(tiny_data, logging__save_every_steps=100), tmp_path / "once")
    assert_same_state(state_of(often, 5), state_of(once, 5))


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (4, 2)])
def test_another_number_of_processes_goes_on(tiny_data, tmp_path, alone, sizes):
    run = tmp_path / "run"
    for size, end in zip(sizes, (2, 5), strict=True):
        config = config_of(tiny_data, **QUIET, training__steps=end)
        train_by(size, config, run) if size > 1 else train(config, run)
    assert_same_losses(run, alone)
    was, now = sizes
    log = (run / "log.txt").read_text()
    said = (
        f"Warning: this run was trained by {was} process{'es' * (was > 1)} until now and goes on with {now}."
    )
    assert said in log
    assert "The order of the images is the same, but sums over a batch are rounded in another order." in log
    assert len(state_of(run, 5).get("ranks", [])) == (now if now > 1 else 0)


def test_what_another_number_changes_is_said(tiny_data):
    config = config_of(tiny_data)
    text = distributed.what_changes(4, 2, config)
    assert "the noise z is drawn anew" in text
    assert "batch norm takes its statistics from 2 images at a time, not 1" in text
    assert "inference uses the averages of training for them" in text
    assert "inference uses each image for them" in distributed.what_changes(2, 4, config)
    synced = replace(config, training=replace(config.training, sync_batch_norm=True))
    assert "batch norm" not in distributed.what_changes(4, 2, synced)


def test_the_same_number_is_no_reason_for_a_warning(tiny_data, tmp_path):
    run = tmp_path / "run"
    for end in (1, 2):
        train_by(2, config_of(tiny_data, training__steps=end), run)
    assert "Warning" not in (run / "log.txt").read_text()


def test_fine_tuning_starts_all_of_them_from_the_same_weights(tiny_data, tmp_path, alone):
    config = config_of(tiny_data, **QUIET, training__steps=1, training__init_from=str(alone))
    assert_same_losses(train_by(2, config, tmp_path / "two"), train(config, tmp_path / "one"))


# -----------------------------------------------------------------------------------------------------------
# Who writes and speaks


def test_process_0_alone_writes_and_speaks(tiny_data, tmp_path):
    config = config_of(tiny_data, training__steps=2, training__batch_size=2)
    job = Job(tmp_path, 2, trained, config, tmp_path / "run").done()
    assert "Trained 2 steps" in job.said[0]
    assert "2 processes on 1 machine (gloo), each with its share of every batch." in job.said[0]
    assert job.said[1] == ""
    assert [line["step"] for line in figures(tmp_path / "run")] == [1, 2]
    facts = json.loads((tmp_path / "run/environment.json").read_text())
    assert (facts["world_size"], facts["backend"], len(facts["hosts"])) == (2, "gloo", 2)
    # One image at a time is what batch norm saw.
    assert Translator.load(tmp_path / "run").semantics.norm_stats == "image"


@pytest.mark.parametrize(
    ("batch", "processes", "sync", "expected"),
    [
        (1, 1, False, "image"),
        (4, 1, False, "running"),
        (4, 4, False, "image"),
        (4, 2, False, "running"),
        (4, 4, True, "running"),
    ],
)
def test_inference_follows_what_batch_norm_saw(tiny_data, batch, processes, sync, expected):
    config = config_of(tiny_data, training__batch_size=batch, training__sync_batch_norm=sync)
    assert Semantics.as_trained(config, processes).norm_stats == expected


def not_several(x: Tensor, y: Tensor, rng: Any) -> tuple[Tensor, Tensor]:
    assert not dist.is_initialized()
    return x, y


def test_one_process_is_no_group(tiny_data, tmp_path, monkeypatch):
    config = config_of(tiny_data, training__steps=1)
    run = train(config, tmp_path / "run", transform=not_several)
    assert "ranks" not in state_of(run, 1)
    assert "world_size" not in json.loads((run / "environment.json").read_text())
    # torchrun --nproc-per-node 1 sets these.
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    train(config, tmp_path / "again", transform=not_several)
    assert_same_run(run, tmp_path / "again", 1)


# -----------------------------------------------------------------------------------------------------------
# One end for all


def test_a_batch_that_cannot_be_shared_is_one_sentence(tiny_data, tmp_path):
    job = Job(tmp_path, 2, trained, config_of(tiny_data, training__batch_size=3), tmp_path / "run")
    assert job.wait() == [2, 2]
    assert "training.batch_size is 3, for all processes together, and 2 processes cannot" in job.said[0]
    assert job.said[1] == ""
    assert not (tmp_path / "run").exists()


def test_what_process_0_finds_wrong_ends_all(tiny_data, tmp_path):
    run = train_by(2, config_of(tiny_data, training__steps=1), tmp_path / "run")
    other = config_of(tiny_data, training__steps=2, training__learning_rate=1e-3)
    job = Job(tmp_path / "jobs", 2, trained, other, run)
    assert job.wait() == [2, 2]
    assert "training.learning_rate: 0.0002 -> 0.001" in job.said[0]
    assert job.said[1] == ""


def test_other_images_on_another_machine_are_noticed(tiny_data, tmp_path):
    other = write_pairs(tmp_path / "other", train=4)
    port, run = free_port(), tmp_path / "run"
    children = [
        Child(tmp_path / f"{rank}", ranked, rank, 2, port, trained, config_of(data), run)
        for rank, data in enumerate((tiny_data, other))
    ]
    assert [child.wait(PATIENCE) for child in children] == [2, 2]
    assert re.search(r"Process 1 \(\S+\) has other images than process 0", children[0].said)
    assert children[1].said == "" and not run.exists()


def broken_on_1(x: Tensor, y: Tensor, rng: Any) -> tuple[Tensor, Tensor]:
    """The third image of process 1 makes its loss NaN."""
    global seen
    seen += 1
    return (x * float("nan"), y) if os.environ.get("RANK") == "1" and seen == 3 else (x, y)


seen = 0


def test_a_loss_that_is_not_finite_on_one_ends_all(tiny_data, tmp_path):
    run = tmp_path / "run"
    config = config_of(tiny_data, training__batch_size=2, logging__save_every_steps=1)
    job = Job(tmp_path, 2, trained, config, run, broken_on_1)
    assert job.wait() == [2, 2]
    assert "became non-finite at step 3; stopped, and the last good checkpoint is step 2." in job.said[0]
    assert job.said[1] == ""
    assert steps(run / "checkpoints")[-1] == 2


class BreaksAFile:
    """Cuts off all files but the first after the second image of process 1."""

    def __init__(self, data: Path) -> None:
        self.data, self.count = data, 0

    def __call__(self, x: Tensor, y: Tensor, rng: Any) -> tuple[Tensor, Tensor]:
        self.count += 1
        if os.environ.get("RANK") == "1" and self.count == 2:
            for file in sorted(self.data.glob("train/*.png")):
                file.write_bytes(file.read_bytes()[:60])
        return x, y


def test_a_file_that_one_cannot_read_ends_all_and_nothing_is_lost(tmp_path):
    data, run = write_pairs(tmp_path / "data", train=8), tmp_path / "run"
    config = config_of(data, training__batch_size=2, logging__save_every_steps=100)
    job = Job(tmp_path, 2, trained, config, run, BreaksAFile(data))
    assert job.wait() == [2, 2]
    said = "".join(job.said)
    assert said.count("pairloom: ") == 1 and ".png" in job.said[0]
    stopped = last_step(run)
    assert stopped in (1, 2)
    write_pairs(data, train=8)
    train_by(2, config, run)
    assert_same_run(run, train_by(2, config, tmp_path / "whole"), 5)


def drifting(config: Config, run: Path) -> None:
    g = replace(config.generator, source_channels=3, target_channels=3, num_downs=5)
    config = replace(config, generator=g)
    with distributed.join(config, run) as world:
        state = TrainState.create(config, world.device)
        if world.rank == 1:  # drawn differently: what process 0 has counts
            torch.nn.init.ones_(next(state.generator.parameters()))
        world.spread(state, config)
        world.settle(state)
        world.release(state)
        if world.rank == 1:
            next(state.generator.parameters()).data[0, 0, 0, 0] += 1e-4
        with pytest.raises(ValueError, match="weights"):
            world.settle(state)


def test_weights_are_the_same_at_first_and_a_drift_is_noticed(tiny_data, tmp_path):
    Job(tmp_path, 2, drifting, config_of(tiny_data), tmp_path / "run").done()


def test_other_commands_are_not_for_torchrun(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tiny_run)])
    assert stop.value.code == 2
    assert "report: only `pairloom train` shares its work among processes" in capsys.readouterr().err


# -----------------------------------------------------------------------------------------------------------
# Signals, deaths, restarts

LONG = {"training__steps": 4000, "training__batch_size": 2, "logging__save_every_steps": 5}


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_one_stops_all_after_the_same_step(tiny_data, tmp_path, signum, status):
    run = tmp_path / "run"
    job = Job(tmp_path, 2, trained, config_of(tiny_data, **LONG), run)
    wait_until(lambda: steps_done(run) >= 2, job.children[0], PATIENCE)
    job.children[1].signal(signum)
    job.children[1].signal(signum)  # as torchrun repeats a terminal's Ctrl-C: no reason to break off
    assert job.wait() == [status, status], job.said
    stopped = last_step(run)
    assert f"Stopped by a signal after step {stopped}; saved." in job.said[0]
    assert job.said[1] == ""
    whole = train_by(2, config_of(tiny_data, **LONG | {"training__steps": stopped}), tmp_path / "whole")
    assert_same_state(state_of(run, stopped), state_of(whole, stopped))


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_job_and_the_run_goes_on(tiny_data, tmp_path, victim):
    run, log = tmp_path / "run", tmp_path / "torchrun.txt"
    config = config_of(tiny_data, **LONG)
    job = torchrun(log, 2, script(tmp_path, config, run))
    until(lambda: (run / "checkpoints").exists() and len(steps(run / "checkpoints")) == 2, job, log)
    os.kill(workers_of(job)[victim], signal.SIGKILL)
    assert job.wait(PATIENCE) != 0
    said = log.read_text()
    assert "another of the 2 processes of this training ended or cannot be reached" in said
    assert f"The last checkpoint in {run} is good, and the same command goes on from it." in said
    stopped = last_step(run)
    assert load_state(run / f"checkpoints/step-{stopped:08d}.pt")["step"] == stopped
    end = {"training__steps": stopped + 2}
    train_by(2, config_of(tiny_data, **LONG | end), run)
    whole = train_by(2, config_of(tiny_data, **LONG | end), tmp_path / "whole")
    assert_same_state(state_of(run, stopped + 2), state_of(whole, stopped + 2))


class DiesOnce:
    """Process 1 kills itself at its n-th image, unless it has done so before."""

    def __init__(self, mark: str, at: int) -> None:
        self.mark, self.at, self.count = Path(mark), at, 0

    def __call__(self, x: Tensor, y: Tensor, rng: Any) -> tuple[Tensor, Tensor]:
        self.count += 1
        if os.environ["RANK"] == "1" and self.count == self.at and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x, y


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(tiny_data, tmp_path):
    run, log, mark = tmp_path / "run", tmp_path / "torchrun.txt", tmp_path / "mark"
    fields = {"training__steps": 8, "training__batch_size": 2, "logging__save_every_steps": 3}
    config = config_of(tiny_data, **fields)
    program = script(tmp_path, config, run, f"test_distributed.DiesOnce({str(mark)!r}, 5)")
    job = torchrun(log, 2, program, options=("--max-restarts", "2"))
    assert job.wait(PATIENCE) == 0, log.read_text()
    assert mark.exists()
    assert "Resuming at step 3 of 8." in (run / "log.txt").read_text()
    assert_same_run(run, train_by(2, config, tmp_path / "whole"), 8)


@pytest.mark.slow
def test_the_command_under_torchrun_writes_one_report_and_stops_on_sigterm(tiny_data, tmp_path):
    run, log = tmp_path / "run", tmp_path / "torchrun.txt"
    command = ["-m", "pairloom", "train", tiny_data, "--out", run, "--preset", "tiny"]
    command += ["--training.batch-size", 2, "--training.steps"]
    job = torchrun(log, 2, *command, 100000)
    until(lambda: steps_done(run) >= 3, job, log)
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE) != 0
    assert "Stopped by a signal after step" in log.read_text()
    end = last_step(run) + 1
    again = torchrun(log, 2, *command, end)
    assert again.wait(PATIENCE) == 0, log.read_text()
    assert log.read_text().count("Report: ") == 1
    assert (run / "report.html").exists() and last_step(run) == end


# -----------------------------------------------------------------------------------------------------------
# Devices: as torch would say it on a machine with two GPUs


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    taken: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.own_device("auto") == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]
    assert distributed.own_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="'cuda:0', which several processes cannot share"):
        distributed.own_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceError, match="has 2 GPUs, and more processes were started on it"):
        distributed.own_device("cuda")


# -----------------------------------------------------------------------------------------------------------
# SLURM


def test_the_slurm_example_is_a_script_and_its_command_is_ours():
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    text = SLURM.read_text().replace("\\\n", " ")
    for name, value in (('"$DATA"', "facades"), ('"$RUN"', "runs/facades"), ("${EXTRA:-}", "")):
        assert name in text
        text = text.replace(name, value)
    words = shlex.split(re.search(r"-m pairloom train (.*?)&?$", text, re.MULTILINE)[1])
    config, out = parse_run("pairloom train", words)
    assert out == Path("runs/facades") and config.data.path == "facades"
    assert config.training.batch_size % 8 == 0, "two machines of four GPUs"


@pytest.mark.slow
def test_the_slurm_example_trains_stops_and_asks_to_be_queued_again(tiny_data, tmp_path):
    """With srun and scontrol played by a line of shell each, on this machine."""
    tools = tmp_path / "bin"
    tools.mkdir()
    played = {
        "srun": 'exec "$@"',
        "scontrol": f'[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> {tmp_path}/asked',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }
    for name, line in played.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (tools / name).chmod(0o755)
    text = SLURM.read_text()
    copy, run, log = tmp_path / "train.sbatch", tmp_path / "run", tmp_path / "said.txt"
    copy.write_text(re.sub(r"--preset \S+", "--preset tiny --logging.save-every-steps 5", text))
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "DATA": str(tiny_data),
        "RUN": str(run),
        "PORT": str(free_port()),
        "EXTRA": "--training.steps 100000",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "here",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with log.open("wb") as file:
        job = subprocess.Popen(["bash", str(copy)], stdout=file, stderr=subprocess.STDOUT, env=environment)
    until(lambda: steps_done(run) >= 3, job, log)
    job.send_signal(signal.SIGUSR1)
    job.wait(PATIENCE)
    assert "Stopped by a signal after step" in log.read_text()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert steps(run / "checkpoints")


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_a_variable_that_is_no_number_is_named(tiny_data, tmp_path, monkeypatch, name):
    for variable, value in {"RANK": "0", "WORLD_SIZE": "2", name: "two"}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"The variable {name} is 'two'"):
        train(tiny_config(tiny_data), tmp_path / "run")
