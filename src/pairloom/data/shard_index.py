"""What a folder of shards holds: `index.json` for the whole, and a small table beside each shard.

A shard is a tar file with WebDataset's naming: the members of a pair stand one after the other, `KEY.a.png`
and `KEY.b.png`, or `KEY.ab.jpg` where a file holds both sides. The table says where each member's bytes
lie, so that any pair is read without its neighbours.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pairloom.config import DataConfig
from pairloom.data.pairs import SPLITS, Colours, DataError

INDEX = "index.json"
UNFINISHED = ".packing.json"
"""Stands in the folder from the first to the last shard: what is being packed."""
FORMAT, VERSION = "pairloom-shards", 1
AGAIN = "copy it again, or pack the set anew with `pairloom data pack`"


def read_as(data: DataConfig, side: Literal["source", "target"]) -> tuple[str, ...]:
    """What decides the colours that a flat file shows: alpha, pages, and the channels that are chosen."""
    return (data.alpha, data.pages, *getattr(data, f"{side}_select"))


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file as the index knows it."""

    file: str
    split: str
    count: int
    """Pairs."""
    bytes: int
    sha256: str
    table_sha256: str
    """Of the table beside it."""

    @property
    def table(self) -> str:
        """Name of the table."""
        return self.file.removesuffix(".tar") + ".idx"


@dataclass(frozen=True, slots=True)
class Index:
    """The whole set; nothing here depends on which side is the source."""

    layout: Literal["side-by-side", "two folders", "manifest", "photos"]
    """Of the set that was packed."""
    parts: tuple[str, ...]
    """Members of a pair: ab, or a and b, or photo; and what else a pair has, such as its hole."""
    shards: tuple[Shard, ...]
    """Those of train, then val, then test."""
    colours: Mapping[str, Mapping[str, Any]]
    """By side, a and b: what `Colours` holds of the training pairs."""
    read_as: Mapping[str, tuple[str, ...]]
    """By side: how the files were read when their colours were counted; see the function."""
    plan: str
    """Digest of the names, sizes and times of the files that were packed, and of how."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal shards in equal order."""
        parts = [self.layout, *self.parts, *(f"{s.split} {s.count} {s.sha256}" for s in self.shards)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def colours_of(self, side: str, how: tuple[str, ...]) -> Colours | None:
        """Of "a" or "b", read like this; None: not counted, or read otherwise."""
        found = self.colours.get(side)
        if found is None or self.read_as.get(side) != how:
            return None
        every = found["all"]
        return Colours(None if every is None else frozenset(map(tuple, every)), bool(found["lossless"]))

    def to_json(self) -> str:
        """The contents of index.json."""
        content = {"format": FORMAT, "version": VERSION, "fingerprint": self.fingerprint, **asdict(self)}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Index:
        """Read it; `where` is its name in messages.

        Raises:
            DataError: It is no index, not ours, of another version, or damaged.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: is damaged, it is no JSON ({error}); {AGAIN}.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(
                f"{where}: is no index of pairloom's shards; pack the pairs with `pairloom data pack`, or "
                "give the folder of the images themselves."
            )
        if content.get("version") != VERSION:
            raise DataError(
                f"{where}: is of version {content.get('version')!r}, and this pairloom reads version "
                f"{VERSION}; pack the set anew, or use the pairloom that packed it."
            )
        try:
            index = cls(
                layout=content["layout"],
                parts=tuple(content["parts"]),
                shards=tuple(Shard(**shard) for shard in content["shards"]),
                colours=content["colours"],
                read_as={side: tuple(how) for side, how in content["read_as"].items()},
                plan=content["plan"],
            )
            whole = content["fingerprint"] == index.fingerprint
            whole = whole and all(shard.split in SPLITS and shard.count > 0 for shard in index.shards)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: is damaged, it lacks {error}; {AGAIN}.") from error
        if not whole:
            raise DataError(f"{where}: was changed after packing; {AGAIN}.")
        return index


@dataclass(frozen=True, slots=True)
class Table:
    """Where the members of a shard's pairs lie.

    Shapes: offsets, sizes, sums (pairs, parts); ends (pairs + 1,).
    """

    offsets: NDArray[np.int64]
    """First byte in the tar; -1: the pair has no such part."""
    sizes: NDArray[np.int64]
    sums: NDArray[np.uint32]
    """CRC-32 of the bytes."""
    ends: NDArray[np.int64]
    """Of each pair's part of `text`, after a zero."""
    text: bytes
    """Of each pair key, name, group, and the suffix of each part, with NUL between them."""

    def __len__(self) -> int:
        return len(self.offsets)

    def words(self, row: int) -> list[str]:
        """Key, name, group, suffixes."""
        text = self.text[self.ends[row] : self.ends[row + 1]]
        return text.decode(errors="surrogateescape").split("\0")

    @classmethod
    def of(cls, rows: Sequence[tuple[list[str], list[tuple[int, int, int]]]]) -> Table:
        """From the words, and (offset, size, sum) of each part, of each pair."""
        texts = ["\0".join(words).encode(errors="surrogateescape") for words, _ in rows]
        figures = np.array([parts for _, parts in rows], dtype=np.int64).reshape(len(rows), -1, 3)
        return cls(
            figures[..., 0].copy(),
            figures[..., 1].copy(),
            figures[..., 2].astype(np.uint32),
            np.cumsum([0, *map(len, texts)], dtype=np.int64),
            b"".join(texts),
        )

    def to_bytes(self) -> bytes:
        """The contents of a table's file, an .npz: the same for the same table."""
        file = io.BytesIO()
        text = np.frombuffer(self.text, dtype=np.uint8)
        np.savez(file, offsets=self.offsets, sizes=self.sizes, sums=self.sums, ends=self.ends, text=text)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, shard: Shard, where: str) -> Table:
        """Read it.

        Raises:
            DataError: It is not the table of that shard.
        """
        if hashlib.sha256(content).hexdigest() != shard.table_sha256:
            raise DataError(f"{where}: is not the table that the index knows; {AGAIN}.")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                offsets, sizes, sums, ends = (arrays[n] for n in ("offsets", "sizes", "sums", "ends"))
                return cls(offsets, sizes, sums, ends, arrays["text"].tobytes())
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{where}: is damaged ({error}); {AGAIN}.") from error
