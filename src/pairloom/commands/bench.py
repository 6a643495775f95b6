"""The command that measures this machine, `pairloom bench`: parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro


def bench(
    quick: bool = False,
    json_: Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
    device: str = "auto",
) -> None:
    """Measure this machine: training, inference, reading, and how long the paper's presets would take here.

    Args:
        quick: Batch 1 only, fewer rounds.
        json_: Write the figures to this file, too.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from pairloom.bench import bench as measure
    from pairloom.bench import words
    from pairloom.checkpoint import write_text_atomically

    if json_ is not None and (json_.is_dir() or not json_.parent.is_dir()):
        raise ValueError(f"--json is {json_}, which is not a file in a folder that is there; choose another.")
    found = measure(quick=quick, device=device, say=lambda text: print(f"Measuring: {text}", file=sys.stderr))
    print(words(found))
    if json_ is not None:
        write_text_atomically(json_, json.dumps(found, indent=2) + "\n")


COMMANDS: dict[str, Callable[..., None]] = {"bench": bench}
