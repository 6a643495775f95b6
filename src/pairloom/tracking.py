"""Trackers besides the files: imported only when asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from pairloom import configfile
from pairloom.config import Config, ConfigError

Name = Literal["none", "tensorboard", "wandb"]


class Tracker:
    """Takes metric lines and does nothing: the files have them already."""

    def log(self, line: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl."""

    def close(self) -> None:
        """Flush and end."""


class _TensorBoard(Tracker):
    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._writer.close()


class _WandB(Tracker):
    def __init__(self, run: Path, config: Config) -> None:
        import wandb

        # The run directory's name is the run's identity there too: a resumed run goes on in one curve.
        self._run = wandb.init(
            project="pairloom", id=run.name, resume="allow", dir=str(run), config=configfile.to_dict(config)
        )

    def log(self, line: dict[str, Any]) -> None:
        self._run.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])

    def close(self) -> None:
        self._run.finish()


def open_tracker(name: Name, run: Path, config: Config) -> Tracker:
    """The tracker of that name, which `check_tracker` found."""
    if name == "tensorboard":
        return _TensorBoard(run)
    return _WandB(run, config) if name == "wandb" else Tracker()


def check_tracker(name: Name) -> None:
    """Import what the tracker needs, before anything is done.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        if name != "none":
            importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise ConfigError(
            f"logging.track is {name!r}, which is not installed; run `pip install {name}`, or leave it out "
            "(metrics.jsonl and report.html are written in any case)."
        ) from error
