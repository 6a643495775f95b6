"""Reading ahead and writing behind while the caller computes: the slowest of the three sets the pace."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
STAGES = ("reading", "translating", "writing")


class Busy:
    """How long each of the stages was at work; each is written by one thread only."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.total_seconds = 0.0

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Counts the block as work of a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def words(self) -> str:
        """One line for people: what is near 100 % sets the pace."""
        total = max(self.total_seconds, 1e-9)
        shares = ", ".join(f"{stage} {self.seconds[stage] / total:.0%}" for stage in STAGES)
        return f"Busy, of {total:.1f} s: {shares.replace('%', ' %')}."


class Overlap:
    """A thread that reads ahead and one that writes behind, while the `with` block lasts.

    Args:
        busy: Counts what the two do; the caller counts what it does itself.
        ahead: How many things are read before they are wanted, at most.
    """

    def __init__(self, busy: Busy, *, ahead: int = 2) -> None:
        self._busy, self._ahead = busy, ahead

    def __enter__(self) -> Overlap:
        self._started = time.perf_counter()
        self._reader = ThreadPoolExecutor(1, "reading")
        self._writer = ThreadPoolExecutor(1, "writing")
        self._writing: deque[Future[Path | None]] = deque()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()  # what was made is written, whatever came after
        self._busy.total_seconds += time.perf_counter() - self._started

    def read(self, function: Callable[[T], R], things: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each thing and what the function makes of it, in their order."""
        coming: deque[tuple[T, Future[R]]] = deque()
        for thing in things:
            coming.append((thing, self._reader.submit(self._timed, "reading", function, thing)))
            if len(coming) > self._ahead:
                first, future = coming.popleft()
                yield first, future.result()
        for first, future in coming:
            yield first, future.result()

    def write(self, function: Callable[[], Path | None]) -> None:
        """Write a file behind; the function returns None if it could not.

        The caller bounds how much waits by asking for what is `written` in between.
        """
        self._writing.append(self._writer.submit(self._timed, "writing", lambda _: function(), None))

    def written(self) -> Iterator[Path]:
        """The files that were written, in order, waiting for all that were handed over."""
        while self._writing:
            path = self._writing.popleft().result()
            if path is not None:
                yield path

    def _timed(self, stage: str, function: Callable[[T], R], thing: T) -> R:
        with self._busy.at(stage):
            return function(thing)
