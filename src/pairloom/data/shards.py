"""Pairs from shards: a set too large for a folder, of which only what is asked for is ever in memory."""

from __future__ import annotations

import hashlib
import operator
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, overload

from pairloom.config import DataConfig
from pairloom.content import Content
from pairloom.data.addresses import is_address
from pairloom.data.pairs import Colours, DataError, ImageRef, Pair, PairSet, StoredPairs
from pairloom.data.shard_files import ShardFiles
from pairloom.data.shard_index import AGAIN, INDEX, UNFINISHED, Index, Shard, read_as
from pairloom.data.shard_order import ShardOrder
from pairloom.data.slices import rule
from pairloom.stacks.stack import WHOLE, Part


@dataclass(frozen=True, slots=True)
class ShardRef(ImageRef):
    """One side of a pair in a shard; `path` is where it would lie if the shard were a folder."""

    files: ShardFiles = field(kw_only=True, compare=False, repr=False)
    shard: Shard = field(kw_only=True, compare=False, repr=False)
    offset: int = field(kw_only=True, compare=False)
    member: str = field(kw_only=True, compare=False)
    """Its name in the shard."""
    size: int = field(kw_only=True, compare=False)
    sum: int = field(kw_only=True, compare=False)
    """CRC-32 of the bytes."""

    def __str__(self) -> str:
        return self._name if self.half is None else f"{self._name} ({self.half} half)"

    @property
    def _name(self) -> str:
        return f"{self.files.where(self.shard.file)}: {self.member}"

    @property
    def file(self) -> Content:
        """Its bytes.

        Raises:
            DataError: The shard is missing, cut short, or damaged here.
        """
        data = self.files.read(self.shard, self.offset, self.size)
        if len(data) < self.size:
            raise DataError(f"{self._name} is missing, for the shard is cut short; {AGAIN}.")
        if zlib.crc32(data) != self.sum:
            raise DataError(f"{self._name} is damaged, its checksum differs from the index; {AGAIN}.")
        return Content(self._name, data)


class ShardPairs(StoredPairs):
    """The pairs of some shards, as they stand there.

    Args:
        index: Of all shards.
        files: Where they are.
        shards: These.
        swapped: B is the source.
        parts: What is read of sources and of targets.
        most: Training pairs at most.
    """

    def __init__(
        self,
        index: Index,
        files: ShardFiles,
        shards: Sequence[Shard],
        *,
        swapped: bool,
        parts: tuple[Part, Part],
        most: int | None,
    ) -> None:
        self._index, self._files, self._swapped, self._parts, self._most = index, files, swapped, parts, most
        self._shards: list[Shard] = []
        self._counts: list[int] = []
        for shard in shards:  # they were shuffled when packed, so that the first are as good as any
            room = shard.count if most is None or shard.split != "train" else most - sum(self._counts)
            if room > 0:
                self._shards.append(shard)
                self._counts.append(min(shard.count, room))
        self._ends = list(accumulate(self._counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> Pair: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Pair, ...]: ...
    def __getitem__(self, i: int | slice) -> Pair | tuple[Pair, ...]:
        if isinstance(i, slice):
            return tuple(self[k] for k in range(*i.indices(len(self))))
        i = operator.index(i)
        i += len(self) if i < 0 else 0
        if not 0 <= i < len(self):
            raise IndexError(i)
        number = bisect_right(self._ends, i)
        return self._pair(self._shards[number], i - (self._ends[number] - self._counts[number]))

    def _pair(self, shard: Shard, row: int) -> Pair:
        table = self._files.table(shard)
        key, name, group, *suffixes = table.words(row)
        refs: dict[str, ShardRef] = {}
        for number, (part, suffix) in enumerate(zip(self._index.parts, suffixes, strict=True)):
            offset = int(table.offsets[row, number])
            if offset >= 0:
                member = f"{key}.{part}{suffix}"
                refs[part] = ShardRef(
                    Path(self._files.place, shard.file, member),
                    member=member,
                    files=self._files,
                    shard=shard,
                    offset=offset,
                    size=int(table.sizes[row, number]),
                    sum=int(table.sums[row, number]),
                )
        a, b = _sides(refs)
        if self._swapped:
            a, b = b, a
        source, target = (replace(ref, part=part) for ref, part in zip((a, b), self._parts, strict=True))
        further: dict[str, Any] = refs  # a hole, a mask
        return Pair(name, source, target, shard.split, group, **further)

    def split(self, name: str) -> ShardPairs:
        """The pairs of "train", "val" or "test"."""
        shards = [shard for shard in self._shards if shard.split == name]
        return ShardPairs(
            self._index, self._files, shards, swapped=self._swapped, parts=self._parts, most=self._most
        )

    @property
    def fingerprint(self) -> str:
        """Of the shards, of which of their pairs these are, and of what is read of them."""
        used = [f"{shard.file} {count}" for shard, count in zip(self._shards, self._counts, strict=True)]
        used += [repr(self._parts)] if self._parts != (WHOLE, WHOLE) else []
        return hashlib.sha256("\n".join([self._index.fingerprint, *used]).encode()).hexdigest()[:16]

    def order(self, seed: int, epoch: int) -> ShardOrder:
        """Of these pairs; entering a window has its shards, and those of the next, brought near."""

        def enter(now: list[int], soon: list[int]) -> None:
            self._files.need([self._shards[i] for i in now], [self._shards[i] for i in soon])

        return ShardOrder(self._counts, seed, epoch, enter)

    def colours(self, side: Literal["source", "target"], data: DataConfig) -> Colours | None:
        """As they were counted, of all training pairs, when packed; not where they are read otherwise."""
        return self._index.colours_of(
            "a" if (side == "source") != self._swapped else "b", read_as(data, side)
        )

    def faults(self) -> list[str]:
        """A sentence for each shard whose bytes are not those that were packed."""
        return [fault for shard in self._shards if (fault := self._files.fault(shard))]


def _sides(refs: dict[str, ShardRef]) -> tuple[ImageRef, ImageRef]:
    """A and B, taken out of the parts."""
    if "ab" in refs:
        whole = refs.pop("ab")
        return replace(whole, half="left"), replace(whole, half="right")
    if "photo" in refs:
        photo = refs.pop("photo")
        return photo, photo
    return refs.pop("a"), refs.pop("b")


def are_shards(place: str) -> bool:
    """Does `data.path` name shards: an address, or a folder that was packed, or half packed?"""
    if is_address(place):
        return True
    folder = Path(place)
    if (folder / UNFINISHED).is_file():
        return True
    return (folder / INDEX).is_file() and (_names_us(folder / INDEX) or any(folder.glob("*.tar")))


def _names_us(file: Path) -> bool:
    """A folder of images may hold an index.json of somebody else's."""
    with file.open("rb") as opened:
        return b"pairloom-shards" in opened.read(200)


def open_shards(data: DataConfig) -> PairSet:
    """The pairs in the shards that `data.path` names: a folder, or an address.

    Raises:
        DataError: They cannot be read, or `data` asks for what is decided when a set is packed.
    """
    files = ShardFiles(data.path.rstrip("/"), data.shard_cache, data.shard_cache_gb)
    index = files.index()
    if data.path_b is not None:
        raise DataError(f"data.path: {data.path} are shards, which hold both sides; leave data.path_b unset.")
    if data.group_pattern is not None:
        raise DataError(_when_packed("group_pattern", data.group_pattern, "leave it out here"))
    splits = {shard.split for shard in index.shards}
    for split, share in (("val", data.val_fraction), ("test", data.test_fraction)):
        if share > 0 and split not in splits:
            raise DataError(
                _when_packed(f"{split}_fraction", share, f"set it to 0 here, for no {split} split")
            )
    single = index.layout == "photos"
    if single != (data.derive != "none"):
        held = "single photos; say what to make of them with data.derive" if single else "pairs; leave it out"
        raise DataError(f"data.derive is {data.derive}, but the shards of {data.path} hold {held}.")
    if single and data.direction != "AtoB":
        raise DataError(f"data.direction is {data.direction}, but derived pairs have only one; give AtoB.")
    if data.slice_axis != "auto" or data.slice_neighbours:
        name, value = (
            ("axis", data.slice_axis) if data.slice_axis != "auto" else ("neighbours", data.slice_neighbours)
        )
        raise DataError(
            f"data.slice_{name} is {value}, but shards hold no volumes; give it to `pairloom data prepare`, "
            "whose slices can be packed, and leave it out here."
        )
    pairs = ShardPairs(
        index,
        files,
        index.shards,
        swapped=data.direction == "BtoA",
        parts=(rule(data, "source"), rule(data, "target")),
        most=data.max_pairs,
    )
    return PairSet(index.layout, pairs, ())


def _when_packed(name: str, value: object, otherwise: str) -> str:
    return (
        f"data.{name} is {value}, but splits and groups of shards are made when they are packed; give it to "
        f"`pairloom data pack`, or {otherwise}."
    )
