"""One pass over the files of a data set: what each pair holds, or what is wrong with it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from pairloom.config import DataConfig
from pairloom.data.alignment import Shift, estimate_shift
from pairloom.data.derive import check_whole
from pairloom.data.masks import known_pixels, others_repeated, share_invalid
from pairloom.data.pairs import DataError, Pair
from pairloom.images import ImageError
from pairloom.pixels import Array, described

MAX_SHIFTS = 2000
"""Shifts are estimated for at most so many pairs, evenly spread."""
Look = Callable[[Pair, Array, Array, Shift | None], None]
"""Sees a pair, its source and target in file values, and the shift if it was estimated.

Pixels that do not count show others of the same image."""


@dataclass(frozen=True, slots=True)
class Side:
    """What is kept of an image."""

    height: int
    width: int
    mode: str
    """Channels and type, in words."""
    digest: bytes
    """Equal for equal pixels."""
    constant: bool
    """Is it of a single colour?"""

    @property
    def size(self) -> str:
        """Width x height, in pixels."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Read:
    """What one pair was found to hold: two sides, or a fault."""

    pair: Pair
    sides: tuple[Side, Side] | None
    fault: str = ""
    shift: Shift | None = None
    invalid: float = 0.0
    """The share of its pixels that do not count."""

    @property
    def name(self) -> str:
        """Its split and its name."""
        return f"{self.pair.split}/{self.pair.name}"


def read_all(pairs: Sequence[Pair], data: DataConfig, look: Look | None) -> list[Read]:
    """Read every pair once; no fault of a file is raised.

    Args:
        pairs: Of the data set.
        data: How they are read.
        look: Called with each pair that could be read.
    """
    every = math.ceil(len(pairs) / MAX_SHIFTS)
    reads = []
    for number, pair in enumerate(tqdm(pairs, desc="checking", unit="pair", disable=None)):
        try:
            source, target = pair.read(data, data)
            if data.derive != "none":
                check_whole(pair, target)
            known = known_pixels(pair, source, target)
        except (DataError, ImageError) as error:
            reads.append(Read(pair, None, str(error)))
            continue
        invalid = 0.0
        if known is not None:
            invalid = share_invalid(known)
            source, target = (others_repeated(*side) for side in zip((source, target), known, strict=True))
        # The edges of a mask, equal on both sides, would speak against any shift.
        tried = number % every == 0 and data.derive == "none" and known is None
        shift = estimate_shift(source, target) if tried else None
        if look is not None:
            look(pair, source, target, shift)
        reads.append(Read(pair, (_measured(source), _measured(target)), shift=shift, invalid=invalid))
    return reads


def _measured(array: Array) -> Side:
    height, width, channels = array.shape
    mode = described(channels, array.dtype.name)
    return Side(height, width, mode, content_digest(array), bool((array == array[:1, :1]).all()))


def content_digest(array: Array) -> bytes:
    """Equal for equal pixels."""
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
