"""What changes when torchrun starts more than one process, and nothing else.

Every process holds the whole state and computes its share of each global batch; gradients are averaged before
each optimizer's step, so that all take the same step. Process 0 alone reads and writes the run directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pairloom.config import Config, ConfigError
from pairloom.devices import DeviceError, pick_device
from pairloom.exchange import Exchange, LostProcess
from pairloom.health import NonFiniteLoss
from pairloom.layers import BatchNorm
from pairloom.progress import Interrupted
from pairloom.rundir import RunDir
from pairloom.training import TrainState

T = TypeVar("T")


class ProcessError(ValueError):
    """What another process of the training met, as process 0 says it."""


class _EndTogether(ValueError):
    """Process 0 says why all of them end; this one has nothing to add."""


class World:
    """One process alone: nothing to share, nobody to ask. Of several, each method says what all agree on."""

    rank = 0
    size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def leads(self) -> bool:
        """Is this the one that reads and writes the run directory?"""
        return self.rank == 0

    def run_dir(self, out: Path) -> RunDir:
        """The run directory, held by process 0 alone."""
        return RunDir(out)

    def words(self) -> str | None:
        """What a person should know about the processes."""
        return None

    def facts(self) -> dict[str, Any]:
        """What environment.json says of the processes."""
        return {}

    def share(self, config: Config) -> Config:
        """The configuration of what one process computes in a step."""
        return config

    def all(self, function: Callable[[], T]) -> T:
        """Call on every process; a ValueError on one of them ends all, and is said once."""
        return function()

    def same(self, text: Callable[[], str], name: str) -> None:
        """End all processes unless the text is the same on each."""

    def decided(self, value: T | None) -> T:
        """What process 0 gives, on every process."""
        assert value is not None
        return value

    def spread(self, state: TrainState, config: Config) -> str | None:
        """Give all processes the state of process 0, and each what is its own; join their steps.

        Returns:
            What changes in a run that another number of processes trained until now, in words.
        """
        return self._change(state, config)

    def agreed(self, signum: int | None) -> int | None:
        """The signal that any process got: all of them stop after the same step."""
        return signum

    def mean(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the global batch, from those of the shares: non-finite on one is so on all."""
        return logs

    def settle(self, state: TrainState) -> bool:
        """Make the state whole, for validating and saving; True where it is to be written."""
        return True

    def release(self, state: TrainState) -> None:
        """Undo `settle`, and wait until process 0 has written."""

    def _change(self, state: TrainState, config: Config) -> str | None:
        was, state.ranks = len(state.ranks) or (1 if state.step else self.size), []
        return None if was == self.size else what_changes(was, self.size, config)


class _Group(World):
    """Several processes."""

    def __init__(self, config: Config, out: Path) -> None:
        super().__init__(own_device(config.training.device))
        self.rank, self.size = _number("RANK"), _number("WORLD_SIZE")
        advice = f"The last checkpoint in {out} is good, and the same command goes on from it."
        self._exchange = Exchange(self.rank, self.size, self.device, advice)
        self._deciding = False
        self._own: list[Tensor] = []

    def run_dir(self, out: Path) -> RunDir:
        self._deciding = self.leads  # until `spread`: all the others do is wait for what this one decides
        return super().run_dir(out) if self.leads else _Unwritten(out)

    def words(self) -> str:
        machines = len(set(self._exchange.hosts))
        return (
            f"{self.size} processes on {machines} machine{'s' * (machines != 1)} ({self._exchange.backend}), "
            "each with its share of every batch."
        )

    def facts(self) -> dict[str, Any]:
        exchange = self._exchange
        return {"world_size": self.size, "backend": exchange.backend, "hosts": exchange.hosts}

    def share(self, config: Config) -> Config:
        training = config.training
        return replace(config, training=replace(training, batch_size=training.batch_size // self.size))

    def check(self, config: Config) -> None:
        batch = config.training.batch_size
        if batch % self.size:
            raise ConfigError(
                f"training.batch_size is {batch}, for all processes together, and {self.size} processes "
                f"cannot share it equally; give a multiple of {self.size}, or start another number of them."
            )

    def all(self, function: Callable[[], T]) -> T:
        error: ValueError | None = None
        try:
            result = function()
        except ValueError as caught:
            error = caught
        failed = self._exchange.largest(0 if error is None else self.size - self.rank)
        if not failed:
            return result
        first = self.size - failed
        sentence = self._exchange.told(str(error), first)
        if not self.leads:
            raise _EndTogether(sentence) from error
        raise error or ProcessError(f"Process {first} ({self._exchange.hosts[first]}): {sentence}")

    def same(self, text: Callable[[], str], name: str) -> None:
        texts = self._exchange.gathered(text())
        other = next((rank for rank, found in enumerate(texts) if found != texts[0]), None)
        if other is None:
            return
        if not self.leads:
            raise _EndTogether(name)
        hosts = self._exchange.hosts
        raise ProcessError(
            f"Process {other} ({hosts[other]}) has other {name} than process 0 ({hosts[0]}); give all of "
            "them the same files, version of pairloom and kind of processor."
        )

    def decided(self, value: T | None) -> T:
        value = self._exchange.told(value)
        if value is None:
            raise _EndTogether("process 0 ended before it had decided")
        return value

    def agreed(self, signum: int | None) -> int | None:
        return self._exchange.largest(signum or 0) or None

    def mean(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        means = torch.stack([value.float() for value in logs.values()])
        self._exchange.average([means])
        return dict(zip(logs, means.unbind(), strict=True))

    def spread(self, state: TrainState, config: Config) -> str | None:
        self._deciding = False
        contents = self._exchange.spread(state.state_dict())
        if contents is None:
            raise _EndTogether("process 0 ended before it had a state")
        if not self.leads:
            state.load_state_dict(contents)
        ranks = state.ranks
        change = self._change(state, config)
        if self.rank < len(ranks):
            state.set_rng(ranks[self.rank]["rng"])
            if change is None:
                for buffer, own in zip(_buffers(state), ranks[self.rank]["buffers"], strict=True):
                    buffer.copy_(own)
        elif self.rank:  # else all would drop the same activations; process 0 draws as one alone would
            words = np.random.SeedSequence([config.training.seed, self.rank, state.step])
            torch.manual_seed(int(words.generate_state(1, np.uint64)[0]))
        self._join_steps(state, sync=config.training.sync_batch_norm)
        return change

    def _join_steps(self, state: TrainState, *, sync: bool) -> None:
        """Average the gradients before each optimizer's step, D's as G's.

        No DistributedDataParallel: it fails on CUDA with batch norm and D's two forwards before one backward
        (pytorch issue 175024).
        """
        for optimizer in filter(None, (state.optimizer_g, state.optimizer_d)):
            optimizer.register_step_pre_hook(lambda optimizer, *_: self._exchange.average(_grads(optimizer)))
        for net in filter(None, (state.generator, state.discriminator) if sync else ()):
            for module in net.modules():
                if isinstance(module, BatchNorm):
                    module.total = self._exchange.total

    def settle(self, state: TrainState) -> bool:
        self.same(lambda: str(_digest(state)), "weights")
        buffers = _buffers(state)
        self._own = [buffer.clone() for buffer in buffers]
        own = {"rng": state.rng(), "buffers": [buffer.cpu() for buffer in self._own]}
        state.ranks = self._exchange.collected(own)
        self._exchange.average(buffers)
        return self.leads

    def release(self, state: TrainState) -> None:
        for buffer, own in zip(_buffers(state), self._own, strict=True):
            buffer.copy_(own)
        state.ranks, self._own = [], []
        self._exchange.largest(0)

    def wait_for_the_end(self) -> None:
        """Until process 0 is gone: what ended first would have the others killed before they spoke."""
        if not self.leads:
            with suppress(LostProcess):
                self._exchange.largest(0)

    def close(self, error: BaseException | None) -> None:
        if error is None:
            self._exchange.close()
        elif self._deciding:
            with suppress(LostProcess):
                self._exchange.told(None)


def leads() -> bool:
    """Is this the process that says and writes things: the only one, or the first?"""
    return os.environ.get("RANK", "0") == "0"


def _number(name: str, default: int = 0) -> int:
    """A variable of torchrun's."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"The variable {name} is {value!r}, and must be a number: torchrun sets it.")
    return int(value)


@contextmanager
def join(config: Config, out: Path) -> Iterator[World]:
    """This process alone, or with the others that torchrun started, while the block lasts.

    Raises:
        ConfigError: The batch cannot be shared among so many.
        DeviceError: No such device, or fewer GPUs than processes on this machine.
        LostProcess: Another process ended, or cannot be reached.
    """
    if _number("WORLD_SIZE", 1) == 1 or "RANK" not in os.environ:
        yield World(pick_device(config.training.device))
        return
    group = _Group(config, out)
    ended: BaseException | None = None
    try:
        group.all(lambda: group.check(config))
        yield group
    except (_EndTogether, NonFiniteLoss, Interrupted) as error:
        ended = error
        group.wait_for_the_end()
        if group.leads or isinstance(error, Interrupted):
            raise
        raise SystemExit(2) from None
    except BaseException as error:
        ended = error
        raise
    finally:
        group.close(ended)


def own_device(name: str) -> torch.device:
    """The device of this process among several: on CUDA, the one of its number on this machine.

    Raises:
        DeviceError: No such device, one GPU for all, or fewer GPUs than processes.
    """
    device = pick_device(name)
    if device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise DeviceError(
            f"training.device is {str(device)!r}, which several processes cannot share; give cuda (each "
            "takes a GPU of its own), or cpu."
        )
    local, there = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= there:
        raise DeviceError(
            f"This machine has {there} GPU{'s' * (there != 1)}, and more processes were started on it; start "
            f"{there} (torchrun --nproc-per-node {there})."
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def what_changes(was: int, now: int, config: Config) -> str:
    """What another number of processes changes in the rest of a run, in one sentence."""
    g, training = config.generator, config.training
    changes = ["sums over a batch are rounded in another order"]
    if g.noise != "none":
        changes.append("the noise z is drawn anew")
    norms = {g.norm, config.discriminator.norm if config.objective.lambda_gan > 0 else "none"}
    if "batch" in norms and not training.sync_batch_norm:
        a, b = training.batch_size // was, training.batch_size // now
        changes.append(f"batch norm takes its statistics from {b} image{'s' * (b != 1)} at a time, not {a}")
        if g.norm == "batch" and 1 in (a, b):
            changes.append(
                f"inference uses {'each image' if b == 1 else 'the averages of training'} for them"
            )
    return (
        f"this run was trained by {was} process{'es' * (was != 1)} until now and goes on with {now}. The "
        f"order of the images is the same, but {', and '.join(changes)}."
    )


class _Unwritten(RunDir):
    """The run directory of process 0, to whom the others leave it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def append_metrics(self, line: dict[str, Any]) -> None:
        pass

    def cut_metrics(self, step: int) -> list[dict[str, Any]]:
        return []


def _grads(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [p.grad for p in parameters if p.grad is not None]


def _nets(state: TrainState) -> list[nn.Module]:
    nets: tuple[nn.Module | None, ...] = (state.generator, state.discriminator, state.ema)
    return [net for net in nets if net is not None]


def _buffers(state: TrainState) -> list[Tensor]:
    """The running statistics, which differ between processes that normalise each its own share."""
    return [buffer for net in _nets(state) for buffer in net.buffers() if buffer.is_floating_point()]


def _digest(state: TrainState) -> int:
    """A number that other weights do not have: the sum of their bits, each tensor's times its place."""
    parameters = (p for net in _nets(state) for p in net.parameters())
    sums = [p.detach().view(torch.int32).sum() * place for place, p in enumerate(parameters, 1)]
    return int(torch.stack(sums).sum())
