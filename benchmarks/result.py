"""The result file of a benchmark: its figures, with the machine, the versions and the command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pairloom.bench import cpu

LOAD_BEFORE = os.getloadavg()[0]
"""Of whatever else the machine does, when the benchmark starts."""


def save(name: str, figures: Mapping[str, Any], *packages: str, threads: int | None = None) -> None:
    """Print the result and write it to results/NAME.MACHINE.json.

    Args:
        name: The benchmark, and the settings that tell its files apart.
        figures: What was measured: plain JSON.
        packages: Whose versions count, beside Python's and torch's.
        threads: Of torch while it was measured; None: as many as now.
    """
    processor, features = cpu()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "cpu": f"{processor} ({features})",
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "load_average_before_and_after": [round(load, 1) for load in (LOAD_BEFORE, os.getloadavg()[0])],
        "niceness": os.nice(0),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in ("torch", *packages)}},
        **figures,
    }
    text = json.dumps(result, indent=2)
    print(text)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    machine = re.sub(r"\W+", "-", processor.lower()).strip("-")
    (folder / f"{name}.{machine}.json").write_text(text + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
