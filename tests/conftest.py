"""What several test files need: a tiny data set, one tiny run trained on it, and processes to be killed."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pairloom
from pairloom.cli import main
from pairloom.config import Config

torch.set_num_threads(1)

SIDE = 40
"""Side of each image of the tiny data set, in pixels."""


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; its sentence."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        *_, last = said.splitlines()
        assert last.startswith("pairloom: ")
        assert said.count("pairloom: ") == 1
        return last.removeprefix("pairloom: ")

    return run


def draw_pair(seed: int, side: int = SIDE) -> np.ndarray:
    """A photo (left) and its label map (right): blocks on a slope, and the same blocks with light and grain.

    Shapes: -> (side, 2 side, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    labels = np.stack([60 + 120 * x, 60 + 120 * y, 180 - 80 * x], axis=-1)
    for _ in range(4):
        top, left = rng.integers(0, side - 8, 2)
        height, width = rng.integers(6, 14, 2)
        labels[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    photo = labels[..., ::-1] * (0.7 + 0.3 * y[..., None]) + rng.normal(0, 6, labels.shape)
    return np.concatenate([photo, labels], axis=1).round().clip(0, 255).astype(np.uint8)


def write_pairs(root: Path, *, train: int = 5, val: int = 0, test: int = 0) -> Path:
    """Side-by-side PNG pairs in split folders."""
    for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        for i in range(count):
            (root / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_pair(100 * number + i)).save(root / split / f"{split}-{i}.png")
    return root


def tiny_config(data: Path | str, **fields: Any) -> Config:
    """The preset `tiny` on that data; fields as `training__steps=6`."""
    changes: dict[str, dict[str, Any]] = {"data": {"path": str(data)}}
    for name, value in fields.items():
        group, field = name.split("__")
        changes.setdefault(group, {})[field] = value
    config = pairloom.presets.tiny()
    return replace(config, **{group: replace(getattr(config, group), **c) for group, c in changes.items()})


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Side-by-side pairs of 40 x 40 pixels: 5 to train on, 2 for validation, 2 to test. Read only."""
    return write_pairs(tmp_path_factory.mktemp("tiny-data"), train=5, val=2, test=2)


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 4 steps on `tiny_data`, validated twice. Copy it before you change it."""
    return pairloom.train(tiny_config(tiny_data), tmp_path_factory.mktemp("tiny-run") / "run")


# -----------------------------------------------------------------------------------------------------------
# Real processes, to be killed. They are forked from a server that has imported torch already, so each costs
# hundredths of a second instead of seconds.

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["pairloom.fit", "pairloom.evaluation.report", "pairloom.cli", "pytest", "torch._dynamo"]
)


class Child:
    """A function running in a process of its own; what it prints goes to a file."""

    def __init__(self, log: Path, target: Callable[..., object], *args: object, **kwargs: object) -> None:
        self.log = log
        # In a server's child a DataLoader would start servers of its own; a command has the default method.
        default = multiprocessing.get_start_method()
        self.process = _PROCESSES.Process(target=_in_child, args=(default, log, target, args, kwargs))
        self.process.start()

    def signal(self, signum: int) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signum)

    def wait(self, seconds: float = 60) -> int:
        """The exit status; -9 when it was killed by signal 9."""
        self.process.join(seconds)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {seconds} s: {self.said}")
        return status

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _in_child(start_method: str, log: Path, target: Callable[..., object], args: Any, kwargs: Any) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    target(*args, **kwargs)


def cli(*arguments: object) -> None:
    """The command line, as a target for `Child`."""
    main([str(argument) for argument in arguments])


def wait_until(condition: Callable[[], object], child: Child | None = None, seconds: float = 60) -> None:
    """Poll every two milliseconds."""
    end = time.monotonic() + seconds
    while not condition():
        if child is not None and not child.process.is_alive():
            raise RuntimeError(f"ended too early: {child.said}")
        if time.monotonic() > end:
            raise TimeoutError(f"did not happen within {seconds} s")
        time.sleep(0.002)
