"""Do what a plan leaves to do: several runs at a time, each in a process of its own."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import torch

from pairloom import configfile
from pairloom.ablation.plan import Cell
from pairloom.ablation.study import StudyError
from pairloom.config import Config, ConfigError
from pairloom.data import find_pairs, measure_specs
from pairloom.devices import pick_device
from pairloom.fit import resolve, trial_seconds_per_step
from pairloom.progress import Interrupted, StopSignals, duration

Say = Callable[[str], None]
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of a run that saved its state after a signal."""


def share(cells: Sequence[Cell], part: str | None) -> list[Cell]:
    """The runs of one task of n: `2/8` is every eighth, from the second.

    Raises:
        StudyError: It is not i/n with 1 <= i <= n.
    """
    if part is None:
        return list(cells)
    first, _, count = part.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise StudyError(f"--cell is {part!r}; it must be i/n with i from 1 to n, such as 2/8.")
    return list(cells)[int(first) - 1 :: int(count)]


def estimate(cells: Sequence[Cell], jobs: int, say: Say) -> None:
    """Say how long the runs will take, from trial steps of each variant.

    Raises:
        StudyError: A variant that the data do not allow.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads(jobs))
    seconds: dict[str, float] = {}
    left = 0.0
    for cell in cells:
        name = cell.variant.name
        if name not in seconds:
            seconds[name] = trial_seconds_per_step(*_resolved(cell))
            minutes = duration(cell.steps * seconds[name])
            say(f"  {name}: {cell.steps} steps, about {minutes} a run at {seconds[name]:.3g} s a step")
        left += (cell.steps - cell.steps_done) * seconds[name]
    torch.set_num_threads(threads)
    beside = f", {jobs} at a time on {_threads(jobs)} threads each" if jobs > 1 else ""
    say(f"{len(cells)} runs to go{beside}: about {duration(left / jobs)} of training, then the scoring.")


def _resolved(cell: Cell) -> tuple[Config, torch.device]:
    config = cell.config
    device = pick_device(config.training.device)
    try:
        specs = measure_specs(find_pairs(config.data).split("train"), config.data)
        return resolve(config, *specs, device), device
    except ConfigError as error:
        raise StudyError(f"variant {cell.variant.name!r}: {error}") from error


def _threads(jobs: int) -> int:
    """Of each process: the machine's, shared out; OMP_NUM_THREADS has the last word."""
    if given := os.environ.get("OMP_NUM_THREADS"):
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jobs, 1)


@dataclass(slots=True)
class _Process:
    cell: Cell
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    started: float

    def last_words(self) -> str:
        """The sentence that it ended with."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        if code < 0:
            return f"its process was ended by signal {-code} (9: usually for want of memory)."
        return lines[-1] if lines else f"its process ended with status {code}."


def run(cells: Sequence[Cell], *, jobs: int, say: Say) -> None:
    """Train the runs, `jobs` at a time; what fails is recorded, and the others go on.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the runs under way have saved their states.
    """
    waiting, working = list(cells), list[_Process]()
    took: list[float] = []
    done = 0
    with StopSignals() as stop:
        while waiting or working:
            while waiting and len(working) < jobs:
                working.append(_start(waiting.pop(0), jobs))
            time.sleep(0.2)
            if stop.signum is not None:
                _end(working, say)
                raise Interrupted(stop.signum)
            for one in [w for w in working if w.process.poll() is not None]:
                working.remove(one)
                done += 1
                took.append(time.monotonic() - one.started)
                say(
                    f"[{done}/{len(cells)}] {one.cell.words}: {_finish(one)} {_left(took, cells, done, jobs)}"
                )


def _start(cell: Cell, jobs: int) -> _Process:
    cell.path.mkdir(parents=True, exist_ok=True)
    (cell.path / "failed.txt").unlink(missing_ok=True)
    file = cell.path / "asked.json"
    file.write_text(json.dumps(configfile.to_dict(cell.config)), encoding="utf-8")
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
    process = subprocess.Popen(
        [sys.executable, "-m", "pairloom.ablation.work", str(file), str(cell.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=os.environ | {"OMP_NUM_THREADS": str(_threads(jobs))},
        start_new_session=True,  # a Ctrl-C is ours to pass on, once
    )
    return _Process(cell, process, errors, time.monotonic())


def _finish(one: _Process) -> str:
    """Keep the weights, or record why there are none; what happened, in words."""
    seconds = duration(time.monotonic() - one.started)
    if one.process.returncode == 0 and one.cell.is_done:
        shutil.rmtree(one.cell.path / "checkpoints", ignore_errors=True)
        return f"{one.cell.steps} steps in {seconds}."
    why = one.last_words()
    if one.process.returncode in STOPPED:  # somebody stopped it: no fault of its configuration
        return f"stopped after {seconds}; its state is saved."
    one.cell.fail(why)
    return f"FAILED after {seconds}: {why}"


def _left(took: Sequence[float], cells: Sequence[Cell], done: int, jobs: int) -> str:
    left = math.ceil((len(cells) - done) / jobs) * statistics.mean(took)
    return f"About {duration(left)} left." if done < len(cells) else ""


def _end(working: Sequence[_Process], say: Say) -> None:
    say("Stopping: the runs under way save their states.")
    for one in working:
        one.process.terminate()
    for one in working:
        one.process.wait()
    say("The same command goes on from there.")
