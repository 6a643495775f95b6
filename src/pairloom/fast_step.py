"""How a run takes its steps: as they are, with compiled networks, or as a recorded CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pairloom.config import ConfigError, TrainingConfig
from pairloom.cuda_graph import CapturedStep, CudaRecorder
from pairloom.training import TrainState, train_step

Step = Callable[..., dict[str, Tensor]]
"""What `train_step` is."""


def check_step(training: TrainingConfig, device: torch.device, processes: int) -> None:
    """Refuse what cannot work here, before anything is written.

    Raises:
        ConfigError: CUDA graphs on another device, several processes, or no compiler.
    """
    if training.cuda_graphs and device.type != "cuda":
        raise ConfigError(
            f"training.cuda_graphs needs a CUDA device, and this run is on {device}; leave it out."
        )
    for name in ("compile", "cuda_graphs"):
        if getattr(training, name) and processes > 1:
            raise ConfigError(f"training.{name} is for one process, and there are {processes}; leave it out.")
    if training.compile:
        _try_compiler(device)


def step_for(training: TrainingConfig, state: TrainState) -> Step:
    """The step that the configuration asks for; compiling itself waits for the first batch."""
    if training.compile:
        compile_networks(state)
    return CapturedStep(CudaRecorder(state.device)) if training.cuda_graphs else train_step


def compile_networks(state: TrainState) -> None:
    """Let the step run G and D as torch.compile makes them.

    The networks themselves stay as they are, with their keys: validation, which meets other sizes and other
    modes, and everything that is written uses them.
    """
    G, D = state.generator, state.discriminator
    # Static shapes: every batch is full, as they run on over the ends of epochs.
    state.compiled = (
        torch.compile(G, dynamic=False),
        None if D is None else torch.compile(D, dynamic=False),
    )


def _try_compiler(device: torch.device) -> None:
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # whatever is missing, each version of torch has another exception for it
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"training.compile: torch.compile does not work on this machine ({first}); install a C++ "
            "compiler (g++; on CUDA, Triton), or leave it out."
        ) from error
