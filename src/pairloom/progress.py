"""What a person sees while a run goes on, and how they stop it."""

from __future__ import annotations

import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import FrameType, TracebackType
from typing import Any

from torch import Tensor
from tqdm import tqdm

from pairloom.rundir import RunDir

DAY = 24 * 3600
"""Seconds."""


class Interrupted(KeyboardInterrupt):
    """A signal came; the step was finished and everything saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopSignals:
    """While the block lasts, SIGINT and SIGTERM are noted instead of obeyed; a second SIGINT is obeyed.

    Not if `patient`: a terminal's Ctrl-C reaches each of several processes twice, once from torchrun.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.signum: int | None = None
        self._patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python takes signals in the main thread only; elsewhere the caller has its own way to stop.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT and not self._patient:
            raise KeyboardInterrupt
        self.signum = signum


class Console:
    """Says things on the terminal and in log.txt; not `aloud`, where another process speaks: nowhere."""

    def __init__(self, run: RunDir, *, aloud: bool = True) -> None:
        self._run, self._aloud = run, aloud

    def say(self, text: str) -> None:
        """One line for people."""
        if not self._aloud:
            return
        tqdm.write(text, file=sys.stderr)
        self._run.say(text)

    @contextmanager
    def progress(self, total_steps: int) -> Iterator[_Progress]:
        """A bar on a terminal; without one, a line for each log line."""
        if self._aloud and sys.stderr.isatty():
            with tqdm(total=total_steps, unit="step", dynamic_ncols=True, file=sys.stderr) as bar:
                yield _Progress(self, total_steps, bar)
        else:
            yield _Progress(self, total_steps, None)


class _Progress:
    def __init__(self, console: Console, total_steps: int, bar: Any) -> None:
        self._console, self._total, self._bar = console, total_steps, bar
        self._last: tuple[int, float] | None = None
        # The median of the last few: a laptop that slept an hour does not make the rest seem days.
        self._rates: deque[float] = deque(maxlen=9)

    def update(self, step: int, line: dict[str, Any]) -> None:
        """The step done last, and its metrics if it was logged."""
        if self._last is None:
            self._last = (step, time.perf_counter())
        words = " ".join(
            f"{name} {line[name]:.3f}"
            for name in ("G_GAN", "G_L1", "G_L2", "D_real", "D_fake")
            if name in line
        )
        if self._bar is not None:
            if step < self._bar.n or self._bar.n == 0:
                self._bar.initial = step
            self._bar.update(step - self._bar.n)
            if words:
                self._bar.set_postfix_str(words, refresh=False)
                self._console._run.say(f"step {step}/{self._total} {words}")
        elif words:
            (last_step, last_time), self._last = self._last, (step, time.perf_counter())
            self._rates.append((self._last[1] - last_time) / max(step - last_step, 1))
            left = duration((self._total - step) * statistics.median(self._rates))
            rate = f"lr {line['lr']:.1e} {line['seconds_per_step']:.3f} s/step {left} left"
            self._console.say(f"step {step}/{self._total} {words} {rate}")


class MetricsWindow:
    """Means of the losses and times since the last log line; sums stay on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count, self.seconds, self.waited = 0, 0.0, 0.0

    def add(self, logs: dict[str, Tensor]) -> None:
        """Take one step's losses."""
        for name, value in logs.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1

    def time(self, seconds: float, waited: float) -> None:
        """Take one step's duration, and the part of it spent waiting for data."""
        self.seconds += seconds
        self.waited += waited

    def means(self) -> dict[str, float]:
        """What a line of metrics.jsonl says of these steps."""
        means = {name: round(total.item() / self.count, 6) for name, total in self.sums.items()}
        means["seconds_per_step"] = round(self.seconds / self.count, 5)
        means["wait_share"] = round(self.waited / self.seconds, 4)
        return means


class TileProgress:
    """What a person sees while images go by tiles: a bar on a terminal, else a line a minute."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> TileProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if isinstance(error, Interrupted):
            self.say("Stopped; the finished tiles are kept, and the same command continues.")

    def say(self, text: str) -> None:
        """One line for people."""
        tqdm.write(text, file=sys.stderr)

    def update(self, finished: int, total: int, stage: str) -> None:
        """Take what is done of a stage."""
        if sys.stderr.isatty():
            if self._bar is None or stage != self._stage or finished < self._bar.n:
                self._close()
                self._bar = tqdm(total=total, desc=stage, leave=False, dynamic_ncols=True, file=sys.stderr)
            self._bar.update(finished - self._bar.n)
        elif time.monotonic() - self._said > 60:
            self.say(f"{stage}: {finished} of {total}")
            self._said = time.monotonic()
        self._stage = stage

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def estimate(steps: int, total: int, seconds_per_step: float) -> str:
    """How long the rest of a run will take, in words."""
    seconds = steps * seconds_per_step
    until = ""
    if seconds < 366 * DAY:  # beyond, nobody waits, and calendars end
        end = datetime.now() + timedelta(seconds=seconds)
        until = f": until {end:%a %H:%M}" if seconds < 6 * DAY else f": until {end:%d %B %Y}"
    return (
        f"{steps} of {total} steps to go, about {duration(seconds)} at {seconds_per_step:.3g} s a step "
        f"(measured on three trial steps){until}."
    )


def duration(seconds: float) -> str:
    """A time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 6 * DAY else f"{seconds / DAY:.1f} days"
