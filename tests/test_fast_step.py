"""Compiled networks, recorded steps, batches ahead: what of it can be tested on a CPU.

A CUDA graph itself cannot. Its stand-in here keeps the contract of one: recording computes nothing and runs
what Python does once, a replay computes with the tensors of the recording and runs nothing of Python's own.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pairloom
from conftest import tiny_config
from pairloom.checkpoint import load_state, steps
from pairloom.config import Config, ConfigError
from pairloom.cuda_graph import WARM_UP, CapturedStep, Logs
from pairloom.data.masks import View
from pairloom.fast_step import check_step, compile_networks, step_for
from pairloom.networks import build_discriminator, build_generator
from pairloom.optimizer import Adam
from pairloom.prefetch import _one_ahead, on_device
from pairloom.progress import MetricsWindow
from pairloom.training import TrainState, train_step, update_ema

CPU = torch.device("cpu")


def resolved(**fields: Any) -> Config:
    sides = {"generator__source_channels": 3, "generator__target_channels": 3, "generator__num_downs": 4}
    return tiny_config("", **{**sides, **fields})


def batches(count: int, n: int = 2) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(1)
    return [
        (torch.rand(n, 3, 32, 32, generator=rng) * 2 - 1, torch.rand(n, 3, 32, 32, generator=rng) * 2 - 1)
        for _ in range(count)
    ]


def parts(state: TrainState) -> dict[str, Tensor]:
    assert state.discriminator is not None
    return {
        f"{which}.{name}": tensor
        for which, net in (("G", state.generator), ("D", state.discriminator))
        for name, tensor in net.state_dict().items()
    }


# -----------------------------------------------------------------------------------------------------------
# Recorded


class StandIn:
    """A recorder without a GPU."""

    def __init__(self, state: TrainState) -> None:
        self.state, self.asides, self.recordings, self.replays = state, 0, 0, 0

    def aside(self, step: Callable[[], Logs]) -> Logs:
        self.asides += 1
        return step()

    def record(self, step: Callable[[], Logs]) -> tuple[Callable[[], None], Logs]:
        self.recordings += 1
        state = self.state
        before = copy.deepcopy(state.state_dict())
        logs = {name: value.clone() for name, value in step().items()}
        counted = state.step, state.images_seen
        state.load_state_dict(before)
        state.step, state.images_seen = counted
        for value in logs.values():
            value.zero_()

        def replay() -> None:
            self.replays += 1
            python = state.step, state.images_seen
            rates = [
                group["lr"] for o in (state.optimizer_g, state.optimizer_d) if o for group in o.param_groups
            ]
            for optimizer in filter(None, (state.optimizer_g, state.optimizer_d)):
                optimizer.param_groups[0]["lr"] = float("nan")  # a recording does not read Python's numbers
            for name, value in step().items():
                logs[name].copy_(value)
            for optimizer, rate in zip((state.optimizer_g, state.optimizer_d), rates, strict=True):
                assert optimizer is not None
                optimizer.param_groups[0]["lr"] = rate
            state.step, state.images_seen = python

        return replay, logs


def taken(
    config: Config, given: list[tuple[Tensor, Tensor]], *, captured: bool
) -> tuple[TrainState, list[Logs], StandIn]:
    state = TrainState.create(config, CPU)
    recorder = StandIn(state)
    step = CapturedStep(recorder) if captured else train_step
    logs = []
    for i, (x, y) in enumerate(given):
        for optimizer in filter(None, (state.optimizer_g, state.optimizer_d)):
            optimizer.param_groups[0]["lr"] = 2e-4 * (1 - i / 10)
        logs.append(step(state, x, y, config.objective, nullcontext()))
    return state, logs, recorder


def test_a_recorded_step_is_the_step_with_new_images_and_rates_each_time() -> None:
    config, given = resolved(), batches(7)
    plain, logs, _ = taken(config, given, captured=False)
    state, same, recorder = taken(config, given, captured=True)
    assert (recorder.asides, recorder.recordings, recorder.replays) == (WARM_UP, 1, 7 - WARM_UP)
    assert (state.step, state.images_seen) == (plain.step, plain.images_seen) == (7, 14)
    for one, other in zip(logs, same, strict=True):  # as they were returned: a replay overwrites none of them
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    # The rate is a number of 24 bits in a tensor, of 53 elsewhere.
    torch.testing.assert_close(parts(state), parts(plain), rtol=1e-4, atol=1e-6)


def test_a_batch_of_another_size_or_with_a_map_is_computed_as_ever_at_todays_rate() -> None:
    config = resolved()
    given = [*batches(5), *batches(1, n=1), *batches(1)]
    plain, logs, _ = taken(config, given, captured=False)
    state, same, recorder = taken(config, given, captured=True)
    assert recorder.asides + recorder.replays == 6
    assert (state.step, state.images_seen) == (plain.step, plain.images_seen) == (7, 13)
    torch.testing.assert_close(same, logs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts(state), parts(plain), rtol=1e-4, atol=1e-6)

    step = CapturedStep(recorder)
    x, y = given[0]
    counts = recorder.asides, recorder.replays
    step(state, x, y, config.objective, nullcontext(), torch.ones(2, 1, 32, 32))
    assert (recorder.asides, recorder.replays) == counts


def test_a_state_after_recorded_steps_is_an_ordinary_one() -> None:
    state, _, _ = taken(resolved(), batches(5), captured=True)
    saved = state.state_dict()["optimizer_g"]
    assert saved["param_groups"][0]["lr"] == 2e-4 * (1 - 4 / 10)
    assert saved.keys() == {"state", "param_groups"}


def test_adam_reads_its_rate_from_a_tensor_when_it_has_one() -> None:
    gradient = torch.randn(5)

    def after(rate: float, tensor: float | None) -> Tensor:
        weight = nn.Parameter(torch.ones(5))
        weight.grad = gradient
        adam = Adam([weight], lr=rate, betas=(0.5, 0.999))
        adam.rate = None if tensor is None else torch.tensor(tensor)
        adam.step()
        return weight.detach()

    torch.testing.assert_close(after(1.0, 2e-4), after(2e-4, None))


@pytest.mark.parametrize(
    ("fields", "device", "processes", "sentence"),
    [
        ({"cuda_graphs": True}, "cpu", 1, "training.cuda_graphs needs a CUDA device"),
        ({"cuda_graphs": True}, "cuda", 2, "training.cuda_graphs is for one process"),
        ({"compile": True}, "cpu", 2, "training.compile is for one process"),
    ],
)
def test_what_cannot_work_here_is_refused(
    fields: dict[str, Any], device: str, processes: int, sentence: str
) -> None:
    training = replace(resolved().training, **fields)
    with pytest.raises(ConfigError, match=sentence):
        check_step(training, torch.device(device), processes)


def test_a_run_that_is_refused_leaves_nothing(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, training__cuda_graphs=True, training__device="cpu")
    with pytest.raises(ConfigError, match="this run is on cpu"):
        pairloom.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_being_asked_the_step_is_the_plain_one() -> None:
    config = resolved()
    check_step(config.training, CPU, 4)
    state = TrainState.create(config, CPU)
    assert step_for(config.training, state) is train_step
    assert state.compiled is None


# -----------------------------------------------------------------------------------------------------------
# No waiting for the device


@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "hinge"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_never_looks_at_a_number(mode: str, masked: bool) -> None:
    """On the meta device there are none: .item(), or a branch on a tensor, would fail there."""
    config = resolved(objective__gan_mode=mode)
    generator = build_generator(config.generator).train()
    discriminator = build_discriminator(config.discriminator, 3, 3).train()
    optimizers: list[Any] = [torch.optim.SGD(net.parameters()) for net in (generator, discriminator)]
    state = TrainState(generator, discriminator, *optimizers, ema=build_generator(config.generator))
    x, y = (torch.empty(2, 3, 32, 32, device="meta") for _ in range(2))
    valid = torch.empty(2, 1, 32, 32, device="meta") if masked else None
    window = MetricsWindow()
    for _ in range(2):
        logs = train_step(state, x, y, config.objective, nullcontext(), valid)
        window.add(logs)
        update_ema(state, 0.9)
    assert all(value.is_meta for value in logs.values())


# -----------------------------------------------------------------------------------------------------------
# Compiled


def test_no_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: none of g++, clang++\nand much more")

    monkeypatch.setattr(torch, "compile", missing)
    training = replace(resolved().training, compile=True)
    with pytest.raises(ConfigError, match=r"\(InvalidCxxCompiler: none of g\+\+, clang\+\+\); install a C"):
        check_step(training, CPU, 1)


def test_the_step_runs_what_was_compiled_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compiled(net: nn.Module, dynamic: bool) -> Callable[..., Any]:
        assert not dynamic

        def call(*args: Any) -> Any:
            calls.append(type(net).__name__)
            return net(*args)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    config = resolved()
    state = TrainState.create(config, CPU)
    keys = list(parts(state))
    compile_networks(state)
    train_step(state, *batches(1)[0], config.objective, nullcontext())
    assert calls == ["UNet", "Discriminator", "Discriminator", "Discriminator"]
    assert list(parts(state)) == keys
    state.inference_generator(batches(1)[0][0])
    assert len(calls) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_is_the_eager_one_within_rounding(tiny_data: Path, tmp_path: Path) -> None:
    states = []
    for compiled in (False, True):
        config = tiny_config(
            tiny_data,
            training__steps=2,
            training__epochs=None,
            training__compile=compiled,
            training__precision="fp32",
            generator__num_downs=2,
            generator__noise="none",  # inductor draws dropout from its own numbers
        )
        run = pairloom.train(config, tmp_path / str(compiled))
        folder = run / "checkpoints"
        states.append(load_state(folder / f"step-{steps(folder)[-1]:08d}.pt"))
    eager, fast = (state["generator"] | state["discriminator"] for state in states)
    assert list(eager) == list(fast)
    torch.testing.assert_close(fast, eager, rtol=1e-3, atol=1e-4)


# -----------------------------------------------------------------------------------------------------------
# Batches


def views(log: list[str], count: int = 3, bad: int | None = None) -> Generator[View, None, None]:
    try:
        for i in range(count):
            log.append(f"read {i}")
            if i == bad:
                raise ValueError("unreadable")
            yield View(torch.full((1, 3, 8, 8), i), torch.full((1, 3, 8, 8), -i), None)
    finally:
        log.append("closed")


def test_on_a_cpu_batches_come_in_turn_and_channels_last() -> None:
    log: list[str] = []
    given = on_device(views(log), CPU)
    first = next(given)
    assert log == ["read 0"]
    assert first.x.is_contiguous(memory_format=torch.channels_last)
    assert [int(view.x[0, 0, 0, 0]) for view in given] == [1, 2]
    assert log[-1] == "closed"


def test_ahead_each_copy_begins_before_the_batch_in_front_is_given() -> None:
    log: list[str] = []

    def noted(word: str) -> Callable[[View], View]:
        def note(view: View) -> View:
            log.append(f"{word} {int(view.x[0, 0, 0, 0])}")
            return view

        return note

    for view in _one_ahead(views(log), noted("begin"), noted("finish")):
        log.append(f"step {int(view.x[0, 0, 0, 0])}")
    expected = "read 0|begin 0|read 1|begin 1|finish 0|step 0|read 2|begin 2|finish 1|step 1|closed"
    assert log == [*expected.split("|"), "finish 2", "step 2"]


def test_ahead_a_bad_batch_is_said_in_its_turn() -> None:
    log: list[str] = []
    given = _one_ahead(views(log, bad=1), lambda view: view, lambda view: view)
    assert int(next(given).x[0, 0, 0, 0]) == 0
    with pytest.raises(ValueError, match="unreadable"):
        next(given)


def test_closing_closes_the_loader() -> None:
    for ahead in (False, True):
        log: list[str] = []
        inner = views(log)
        given = _one_ahead(inner, lambda v: v, lambda v: v) if ahead else on_device(inner, CPU)
        next(given)
        given.close()
        assert log[-1] == "closed"
