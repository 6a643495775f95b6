"""The run directory: one run, everything it said and made, guarded by a lock."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout

from pairloom import configfile
from pairloom.checkpoint import steps, write_text_atomically
from pairloom.config import Config
from pairloom.images import ImageSpec


class RunError(ValueError):
    """A run directory cannot be used as asked; the message says why and what to do."""


class RunDir:
    """A run directory, held by this process while the `with` block lasts."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(f"{self.path}: another process is training in this run directory.") from error
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written ({error.strerror}); choose another --out."
            ) from error

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def checkpoints(self) -> Path:
        """Folder of states to resume from."""
        return self.path / "checkpoints"

    @property
    def begun(self) -> bool:
        """Is there a run here to go on with? One that ended before its first checkpoint left nothing.

        Raises:
            RunError: There is a trained model, and not all that it takes to go on: it would be overwritten.
        """
        there = {name: (self.path / name).exists() for name in ("config.json", "specs.json")}
        there["checkpoints/step-*.pt"] = resumable = bool(steps(self.checkpoints))
        trained = resumable or (self.path / "generator.safetensors").exists()
        missing = [name for name, found in there.items() if not found]
        if trained and missing:
            raise RunError(
                f"{self.path}: holds a trained model, and no {' and no '.join(missing)} to resume it; "
                f"name another --out (with --init-from {self.path} it starts from these weights)."
            )
        return trained

    # What the run is

    def write_identity(
        self,
        config: Config,
        source: ImageSpec,
        target: ImageSpec,
        *,
        device: str,
        data_fingerprint: str,
        processes: dict[str, Any] | None = None,
    ) -> None:
        """Record the resolved configuration, the image specs and the environment."""
        specs = {"source": source.to_dict(), "target": target.to_dict()}
        self._write_json("specs.json", specs)
        facts = {**environment(), "device": device, "data_fingerprint": data_fingerprint, **(processes or {})}
        self._write_json("environment.json", facts)
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        """Record the resolved configuration; of a resumed run, with the run-time fields as they are now."""
        self._write_json("config.json", configfile.to_dict(config))

    def read_config(self) -> Config:
        """The configuration that the run was started with."""
        return configfile.load(self.path / "config.json")

    def read_specs(self) -> tuple[ImageSpec, ImageSpec]:
        """Source and target spec, measured when the run was started."""
        path = self.path / "specs.json"
        values = read_json(path)
        try:
            return ImageSpec.from_dict(values["source"]), ImageSpec.from_dict(values["target"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{path}: is incomplete ({error}); train into a new run directory.") from error

    def read_environment(self) -> dict[str, Any]:
        """What `environment` said when the run was started."""
        path = self.path / "environment.json"
        return read_json(path) if path.exists() else {}

    def _write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=2) + "\n"
        write_text_atomically(self.path / name, text)

    # What the run says

    def say(self, text: str) -> None:
        """To the log, one time-stamped line."""
        _append(self.path / "log.txt", f"{datetime.now().isoformat(timespec='seconds')} {text}\n")

    def append_metrics(self, line: dict[str, Any]) -> None:
        """One object a line; non-finite numbers become null, which every JSON reader takes."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        _append(self.path / "metrics.jsonl", json.dumps(finite, allow_nan=False) + "\n")

    def cut_metrics(self, step: int) -> list[dict[str, Any]]:
        """Forget the lines after `step` (they will be written again); return the others."""
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_text_atomically(self.path / "metrics.jsonl", text)
        return kept


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a line that was cut off by a kill, or damaged, is left out."""
    path = Path(run) / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and _is_metrics(line):
                lines.append(line)
    return lines


def _is_metrics(line: dict[str, Any]) -> bool:
    """A step, and numbers or nulls besides; only a warning is a text."""
    figures = [value for name, value in line.items() if name != "warning"]
    return isinstance(line.get("step"), int) and all(isinstance(v, int | float | None) for v in figures)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RunError: Missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: holds {type(value).__name__}, not a JSON object; it is not ours or damaged.")
    return value


def environment() -> dict[str, Any]:
    """Versions, machine, command line and date: what somebody else needs to know to repeat the run."""
    packages = ("pairloom", "torch", "numpy", "pillow", "tifffile", "scikit-image", "torchmetrics")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: metadata.version(name) for name in packages},
    }


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RunError(
            f"{path}: could not be written ({error.strerror}); free some disk space or check the folder's "
            "permissions. The checkpoints are untouched."
        ) from error
