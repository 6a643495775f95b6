"""What a process keeps of the stacks that it has opened: headers, and a bounded amount of values."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pairloom.pixels import Array

CACHE_BYTES = 1 << 29
"""Decompressed values that a process keeps, in bytes; the newest stack is kept however large it is."""
HEADERS = 512
"""Opened stacks of which the header is kept."""
T = TypeVar("T")
Key = tuple[object, ...]


class Kept(Generic[T]):
    """The things used last, as long as their weights together stay within a bound."""

    def __init__(self, bound: int, weight: Callable[[T], int]) -> None:
        self._bound, self._weight = bound, weight
        self._things: OrderedDict[Key, T] = OrderedDict()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):  # another thread may hold it while a worker process is forked
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], T]) -> T:
        """What was kept under that key, or what `make` makes."""
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
                return self._things[key]
        made = make()  # not under the lock: reading takes long
        with self._lock:
            self._things[key] = made
            while len(self._things) > 1 and sum(map(self._weight, self._things.values())) > self._bound:
                self._things.popitem(last=False)
        return made


VALUES: Kept[Array] = Kept(CACHE_BYTES, lambda array: array.nbytes)
"""Whole arrays of files of which no part can be decompressed alone."""


def key_of(path: Path) -> Key:
    """Another one when the file has changed."""
    found = path.stat()
    return str(path.absolute()), found.st_mtime_ns, found.st_size
