"""What goes into which shard, and under which name: known from the pairs before anything is written."""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairloom.data.pairs import SPLITS, DataError, ImageRef, Pair, PairSet
from pairloom.stacks.opening import is_stack

BLOCK = 512
"""Bytes: members of a tar are padded to a multiple, and headed by one."""
PACKED = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy"})
"""Files that are read from within a shard."""


@dataclass(frozen=True, slots=True)
class Item:
    """A pair as it will stand in a shard."""

    pair: Pair
    key: str
    files: tuple[Path | None, ...]
    """Of each part."""
    sizes: tuple[int, ...]
    times: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard to be written."""

    file: str
    split: str
    items: list[Item]


def parts_of(found: PairSet) -> tuple[str, ...]:
    """The members of a pair; what it has besides its sides is a part with that field's name."""
    sides = {"side-by-side": ("ab",), "photos": ("photo",)}.get(found.layout, ("a", "b"))
    names = [
        f.name
        for f in dataclasses.fields(Pair)
        if f.name not in ("name", "source", "target", "split", "group")
    ]
    return (*sides, *(name for name in names if any(getattr(pair, name) is not None for pair in found.pairs)))


def plan(found: PairSet, parts: tuple[str, ...], seed: int, most_bytes: int, most: int) -> list[PlannedShard]:
    """Shards of at most so many bytes, about, and so many pairs; training pairs in an order drawn by `seed`.

    Raises:
        DataError: A file is missing, or cannot be packed.
    """
    planned: list[PlannedShard] = []
    for split in SPLITS:
        pairs = list(found.split(split))
        if split == "train":
            pairs.sort(key=lambda pair: _rank(seed, pair.name))
        taken: set[str] = set()
        size, number = 0, 0
        for pair in pairs:
            item = _item(pair, parts, taken)
            wanted = sum(padded(s) + BLOCK for s in item.sizes)
            full = not planned or planned[-1].split != split or len(planned[-1].items) >= most
            if full or size + wanted > most_bytes:
                planned.append(PlannedShard(f"{split}-{number:06d}.tar", split, []))
                size, number = 0, number + 1
            planned[-1].items.append(item)
            size += wanted
    return planned


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0pack\0{name}".encode(errors="surrogateescape")).digest()


def _item(pair: Pair, parts: tuple[str, ...], taken: set[str]) -> Item:
    files: list[Path | None] = []
    sizes, times = [], []
    for part in parts:
        ref = _ref(pair, part)
        if ref is None:
            files.append(None)
            continue
        try:
            status = ref.path.stat()
        except OSError as error:
            raise DataError(f"{ref.path} cannot be read ({error.strerror}).") from error
        if ref.part.index is not None:
            raise DataError(
                f"{ref} cannot be packed: it is part of a volume, and a shard holds files of one image; "
                "write the slices as such files with `pairloom data prepare` first."
            )
        packed = stat.S_ISREG(status.st_mode) and ref.path.suffix.lower() in PACKED
        if not packed or is_stack(ref.path, ref.part.axis):
            raise DataError(
                f"{ref} cannot be packed: a shard holds flat files of {', '.join(sorted(PACKED))}; write "
                "the pairs as such files with `pairloom data prepare` first."
            )
        files.append(ref.path)
        sizes.append(status.st_size)
        times.append(status.st_mtime_ns)
    return Item(pair, _free_key(pair.name, taken), tuple(files), tuple(sizes), tuple(times))


def _ref(pair: Pair, part: str) -> ImageRef | None:
    field = {"ab": "source", "photo": "source", "a": "source", "b": "target"}.get(part, part)
    ref: object = getattr(pair, field)
    assert ref is None or isinstance(ref, ImageRef), field
    return ref


def _free_key(name: str, taken: set[str]) -> str:
    """A name as WebDataset can read it, which takes what follows the first dot for the kind of a file."""
    first = "".join(letter if letter.isalnum() or letter in "-_/~" else "_" for letter in name).strip("/")
    first = "/".join(part or "_" for part in first.split("/"))
    key, count = first, 1
    while key in taken:
        count += 1
        key = f"{first}~{count}"
    taken.add(key)
    return key


def padded(size: int) -> int:
    """Bytes that a member's content takes in a tar."""
    return -(-size // BLOCK) * BLOCK


def digest_of(planned: Sequence[PlannedShard], settings: tuple[object, ...]) -> str:
    """Equal only for the same plan over files of the same sizes and times."""
    digest = hashlib.sha256(repr(settings).encode())
    for shard in planned:
        digest.update(f"\n{shard.file}".encode())
        for item in shard.items:
            facts = (
                item.pair.name,
                item.pair.group,
                [str(f and f.suffix) for f in item.files],
                item.sizes,
                item.times,
            )
            digest.update(repr(facts).encode())
    return digest.hexdigest()
