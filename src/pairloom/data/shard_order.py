"""The order of an epoch over shards: neither a list of all pairs, nor the shards one after the other.

The shards are shuffled, neighbours in that order are joined to windows, and the pairs of a window are
shuffled. All of it follows from (seed, epoch) and the numbers of pairs, and any place in it is found at once:
what is kept is a number for each shard, and one for each pair of a single window.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import overload

import numpy as np
from numpy.typing import NDArray

WINDOW_PAIRS = 8192
"""A window has at least so many pairs, and two shards, where there are so many."""


class ShardOrder(Sequence[int]):
    """A permutation of the pairs, which are counted through the shards as they stand.

    Args:
        counts: Pairs of each shard.
        seed: Of the training.
        epoch: From 0.
        enter: Called when a place in another window is asked for: with the shards of that window, and those
            of the next.
    """

    def __init__(
        self,
        counts: Sequence[int],
        seed: int,
        epoch: int,
        enter: Callable[[list[int], list[int]], None] | None = None,
    ) -> None:
        self._counts, self._seed, self._epoch, self._enter = counts, seed % 2**64, epoch, enter
        self._first = [0, *accumulate(counts)]
        self.windows = windows(counts, seed, epoch)
        """The shards of each window."""
        sizes = [sum(counts[shard] for shard in window) for window in self.windows]
        self._starts = [0, *accumulate(sizes)]
        self._start, self._members = 0, np.empty(0, dtype=np.int64)  # of the window that was entered last

    def __len__(self) -> int:
        return self._first[-1]

    @overload
    def __getitem__(self, position: int) -> int: ...
    @overload
    def __getitem__(self, position: slice) -> list[int]: ...
    def __getitem__(self, position: int | slice) -> int | list[int]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        if not 0 <= position < len(self):
            raise IndexError(position)
        if not 0 <= position - self._start < len(self._members):
            window = bisect_right(self._starts, position) - 1
            if self._enter is not None:
                self._enter(self.windows[window], self._after(window))
            self._start, self._members = self._starts[window], self._shuffled(window)
        return int(self._members[position - self._start])

    def _shuffled(self, window: int) -> NDArray[np.int64]:
        members = np.concatenate(
            [np.arange(self._first[shard], self._first[shard + 1]) for shard in self.windows[window]]
        )
        rng = np.random.default_rng([self._seed, self._epoch, window, 2])
        shuffled: NDArray[np.int64] = rng.permutation(members)
        return shuffled

    def _after(self, window: int) -> list[int]:
        if window + 1 < len(self.windows):
            return self.windows[window + 1]
        return windows(self._counts, self._seed, self._epoch + 1)[0]


def windows(counts: Sequence[int], seed: int, epoch: int) -> list[list[int]]:
    """The shards in the order of an epoch, joined to windows; what is left over joins the last."""
    # The last word tells this stream from those of `loading.permutation` and of the windows.
    shards = np.random.default_rng([seed % 2**64, epoch, 0, 3]).permutation(len(counts))
    joined: list[list[int]] = [[]]
    size = 0
    for shard in shards.tolist():
        if size >= WINDOW_PAIRS and len(joined[-1]) >= 2:
            joined.append([])
            size = 0
        joined[-1].append(shard)
        size += counts[shard]
    if len(joined) > 1 and (size < WINDOW_PAIRS or len(joined[-1]) < 2):
        joined[-2:] = [joined[-2] + joined[-1]]
    return joined
