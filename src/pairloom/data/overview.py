"""What a page shows of a data set beyond words, gathered in the pass that `check` makes over the files.

Nothing that is kept grows with the size of the images; of each pair there are two hashes and a shift.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from pairloom import images
from pairloom.data.alignment import Shift
from pairloom.data.pairs import Pair
from pairloom.data.reading import content_digest
from pairloom.palette import MAX_CLASSES, Colour, distinct_colours, nearest
from pairloom.pixels import Array

Role = Literal["source", "target"]
ROLES: tuple[Role, Role] = ("source", "target")
BINS = 256
SHOWN_CHANNELS = 6
"""Histograms are made of at most so many channels."""
NEAR_BITS = 10
"""Two images are nearly the same when so few of the 63 bits of their perceptual hashes differ, or fewer."""
_HASH_SIDE = 32


class Histogram:
    """Counts of values in 256 bins whose range grows with what it is given, by doubling."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.low, self.width = 0.0, 0.0

    def add(self, values: Array) -> None:
        """Count the values of an image's channel. Shapes: any."""
        low, high = float(values.min()), float(values.max())
        whole = values.dtype.kind == "u"
        if self.width == 0:
            self.low = 0.0 if whole else low
            self.width = 1.0 if whole else max((high - low) / BINS, 1e-6 * max(abs(low), 1.0))
        while low < self.low or high >= self.low + BINS * self.width:
            self._double(downwards=low < self.low)
        index = ((values.astype(np.float64) - self.low) / self.width).astype(np.intp).ravel()
        self.counts += np.bincount(index.clip(0, BINS - 1), minlength=BINS)

    def _double(self, *, downwards: bool) -> None:
        halved = self.counts.reshape(-1, 2).sum(axis=1)
        empty = np.zeros(BINS // 2, np.int64)
        self.counts = np.concatenate([empty, halved] if downwards else [halved, empty])
        self.low -= BINS * self.width * downwards
        self.width *= 2

    @property
    def edges(self) -> NDArray[np.float64]:
        """The bins' borders, in file values. Shapes: -> (257,)."""
        edges: NDArray[np.float64] = self.low + self.width * np.arange(BINS + 1, dtype=np.float64)
        return edges


def perceptual_hash(array: Array) -> int | None:
    """63 bits that survive compression, another size and another light; None for images without contrast.

    Source: the lowest 8 x 8 frequencies of the grey image at 32 x 32 pixels (its discrete cosine transform),
    without the mean, each above or below their median.
    Shapes: (H, W, C).
    """
    grey = array.mean(axis=2, dtype=np.float64)
    small = _reduced(grey)
    if np.ptp(small) <= 1e-3 * max(float(np.abs(grey).max()), 1e-12):
        return None
    low = fft.dctn(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _reduced(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    tensor = torch.from_numpy(grey).float()[None]
    small: NDArray[np.float64] = (
        images.resize(tensor, (_HASH_SIDE, _HASH_SIDE), labels=False)[0].double().numpy()
    )
    return small


@dataclass(frozen=True, slots=True)
class Near:
    """Two pairs of different splits that look nearly the same, and by how many bits each side differs."""

    first: Pair
    second: Pair
    bits: tuple[int | None, int | None]
    """Of source and target, of 63; None where one of the images has no contrast to compare."""


@dataclass(slots=True)
class Overview:
    """Sees every pair once; see `check.check`, whose `look` it is."""

    histograms: dict[tuple[Role, str], list[Histogram]] = field(default_factory=dict)
    channels: dict[Role, int] = field(default_factory=dict)
    """The most that an image of the side has."""
    sizes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Pairs by split, size of the source and size of the target."""
    colours: dict[Role, Counter[Colour] | None] = field(
        default_factory=lambda: {role: Counter() for role in ROLES}
    )
    """Pixels of each colour of a side; None when there are too many for a label map."""
    shifts: list[tuple[Pair, Shift]] = field(default_factory=list)
    _alike: dict[tuple[bytes, bytes], list[Pair]] = field(default_factory=lambda: defaultdict(list))
    _hashes: list[tuple[Pair, tuple[int | None, int | None]]] = field(default_factory=list)

    def look(self, pair: Pair, source: Array, target: Array, shift: Shift | None) -> None:
        """Take note of a pair; of a photo that pairs are derived from, both sides are that photo."""
        sizes = [f"{side.shape[1]}x{side.shape[0]}" for side in (source, target)]
        self.sizes[pair.split, sizes[0], sizes[1]] += 1
        for role, side in zip(ROLES, (source, target), strict=True):
            self._count(role, pair.split, side)
        self._alike[content_digest(source), content_digest(target)].append(pair)
        self._hashes.append((pair, (perceptual_hash(source), perceptual_hash(target))))
        if shift is not None:
            self.shifts.append((pair, shift))

    def _count(self, role: Role, split: str, side: Array) -> None:
        self.channels[role] = max(self.channels.get(role, 0), side.shape[2])
        channels = self.histograms.setdefault((role, split), [])
        channels += [Histogram() for _ in range(min(side.shape[2], SHOWN_CHANNELS) - len(channels))]
        for number, histogram in enumerate(channels[: side.shape[2]]):
            histogram.add(side[..., number])
        before = self.colours[role]
        if before is not None:
            here = colour_counts(side)
            together = None if here is None else before + here
            self.colours[role] = together if together and len(together) <= MAX_CLASSES else None

    def copies(self) -> list[list[Pair]]:
        """Groups of pairs both of whose sides are the same to the pixel."""
        return [group for group in self._alike.values() if len(group) > 1]

    def near_copies(self) -> list[Near]:
        """Pairs of different splits both of whose sides look nearly the same, but are not; the closest first.

        A side without contrast, such as an empty mask, says nothing; the other one decides.
        """
        exact = {id(pair): number for number, group in enumerate(self._alike.values()) for pair in group}
        found = []
        table = [[np.array([hashes[n] or 0 for _, hashes in self._hashes], np.uint64) for n in (0, 1)],
                 [np.array([hashes[n] is None for _, hashes in self._hashes]) for n in (0, 1)]]  # fmt: skip
        splits = np.array([pair.split for pair, _ in self._hashes])
        for at, (pair, _) in enumerate(self._hashes):
            near = splits[at + 1 :] != pair.split
            distances, comparable = [], np.zeros_like(near)
            for bits, blank in zip(*table, strict=True):
                distance = np.bitwise_count(bits[at + 1 :] ^ bits[at])
                known = ~(blank[at + 1 :] | blank[at])
                near &= ~known | (distance <= NEAR_BITS)
                comparable |= known
                distances.append(np.where(known, distance.astype(int), -1))
            for other in np.flatnonzero(near & comparable):
                second = self._hashes[at + 1 + other][0]
                if exact[id(pair)] != exact[id(second)]:
                    bits_of = [None if d[other] < 0 else int(d[other]) for d in distances]
                    found.append(Near(pair, second, (bits_of[0], bits_of[1])))
        return sorted(found, key=lambda near: sum(bits or 0 for bits in near.bits))


def colour_counts(array: Array) -> Counter[Colour] | None:
    """Pixels of each colour; None when there are more than a label map has."""
    colours = distinct_colours(array, at_most=MAX_CLASSES)
    if colours is None:
        return None
    palette = tuple(sorted(colours))
    counts = np.bincount(nearest(array, palette).ravel(), minlength=len(palette))
    return Counter(dict(zip(palette, counts.tolist(), strict=True)))


def counted(maps: Sequence[Array], palette: Sequence[Colour]) -> Counter[Colour]:
    """Pixels of these label maps by the palette's colour that is nearest."""
    total: Counter[Colour] = Counter(dict.fromkeys(palette, 0))
    for array in maps:
        counts = np.bincount(nearest(array, tuple(palette)).ravel(), minlength=len(palette))
        total.update(dict(zip(palette, counts.tolist(), strict=True)))
    return total
