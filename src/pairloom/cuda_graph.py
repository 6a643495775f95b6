"""The whole training step as one CUDA graph: recorded once, then launched by a single call.

A step is some hundreds of small kernels, and launching each from Python takes longer than the small ones run.
Not run on a GPU yet: see docs/speed.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from pairloom.config import ObjectiveConfig
from pairloom.training import TrainState, train_step

WARM_UP = 3
"""Steps before the recording: real ones, in which cuDNN chooses kernels and Adam makes its state."""

Logs = dict[str, Tensor]


class Recorder(Protocol):
    """What CUDA gives: a stream aside for the first steps, and a recording."""

    def aside(self, step: Callable[[], Logs]) -> Logs:
        """Run it, on the stream on which it will be recorded."""

    def record(self, step: Callable[[], Logs]) -> tuple[Callable[[], None], Logs]:
        """What replays the step, and the tensors into which each replay writes; nothing is computed yet."""


class CudaRecorder:
    """torch's."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def aside(self, step: Callable[[], Logs]) -> Logs:
        """On a stream of its own; what was launched before comes before, what comes later after."""
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            logs = step()
        here.wait_stream(self._stream)
        return logs

    def record(self, step: Callable[[], Logs]) -> tuple[Callable[[], None], Logs]:
        """As the protocol has it."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread pins memory meanwhile, which would spoil a recording of all.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            logs = step()
        return graph.replay, logs


class CapturedStep:
    """`train_step` by the same call, replayed for batches of the first one's shape.

    A batch of another shape, the last and smaller one, or with a map of valid pixels is computed as ever.
    Learning rates are read from the optimizers before each step, into tensors that the recording reads.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._shapes: tuple[torch.Size, torch.Size] | None = None
        self._warm = 0
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], None] | None = None
        self._logs: Logs = {}

    def __call__(
        self,
        state: TrainState,
        x: Tensor,
        y: Tensor,
        objective: ObjectiveConfig,
        autocast: AbstractContextManager[Any],
        valid: Tensor | None = None,
    ) -> Logs:
        """One step; arguments and result are those of `train_step`."""
        _hand_over_rates(state)
        shapes = x.shape, y.shape
        if valid is not None or shapes != (self._shapes or shapes):
            return train_step(state, x, y, objective, autocast, valid)
        self._shapes = shapes
        if self._warm < WARM_UP:
            self._warm += 1
            return self._recorder.aside(lambda: train_step(state, x, y, objective, autocast))
        if self._inputs is None or self._replay is None:
            inputs = self._inputs = x.clone(), y.clone()
            # Recording runs what Python does, and so counts this step; nothing is computed before the replay.
            self._replay, self._logs = self._recorder.record(
                lambda: train_step(state, *inputs, objective, autocast)
            )
        else:
            for own, given in zip(self._inputs, (x, y), strict=True):
                own.copy_(given)
            state.step += 1
            state.images_seen += x.shape[0]
        self._replay()
        return {name: value.clone() for name, value in self._logs.items()}  # the next replay overwrites them


def _hand_over_rates(state: TrainState) -> None:
    for optimizer in filter(None, (state.optimizer_g, state.optimizer_d)):
        if optimizer.rate is None:
            optimizer.rate = torch.zeros((), device=state.device)
        optimizer.rate.fill_(optimizer.param_groups[0]["lr"])
