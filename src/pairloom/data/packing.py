"""Packing: the files of a data set, byte for byte, into tar shards with an index."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, cast

from filelock import FileLock, Timeout
from tqdm import tqdm

from pairloom.config import DataConfig
from pairloom.data.finding import find_pairs
from pairloom.data.masks import SideOf
from pairloom.data.measuring import AUTO_LABEL_COLOURS, colours_of
from pairloom.data.packing_plan import Item, PlannedShard, digest_of, padded, parts_of, plan
from pairloom.data.pairs import DataError, PairSet, StoredPairs
from pairloom.data.shard_index import INDEX, UNFINISHED, Index, Shard, Table, read_as
from pairloom.disk import among_data
from pairloom.images import ImageError
from pairloom.palette import MAX_CLASSES

SIDES: dict[str, Literal["source", "target"]] = {"a": "source", "b": "target"}
"""While packing."""
MOST_PER_SHARD = 20_000
"""So that a reader can remember the tables of a whole window (`shard_files.TABLED_PAIRS`)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What was done."""

    out: Path
    pairs: int
    shards: int
    written: int
    """Shards that were not there before."""
    bytes: int
    left_out: tuple[str, ...]
    """A sentence for each file that is in no pair."""

    def words(self) -> str:
        """For people."""
        there = f"{self.written} written" if self.written else "all of it was there already"
        size = f"{self.bytes / 1e6:.4g} MB"
        unused = "".join(f"\n{sentence}." for sentence in self.left_out)
        return f"{self.pairs} pairs in {self.shards} shards of {self.out}, {size}; {there}.{unused}"


def pack(data: DataConfig, out: str | Path, *, shard_mb: float = 256.0, per_shard: int = 10_000) -> Packed:
    """Write a data set as tar shards, train-000000.tar and so on, each with a table, and an index.json.

    Files stay as they are, byte for byte. Training pairs are shuffled once, by `data.split_seed`, so that
    each shard is a random share of them; the others stand in their order. Masks of the pixels that count go
    along. Splits and groups are those of the
    data, made where `data.val_fraction`, `data.test_fraction` or `data.group_pattern` ask. Whether the
    training files of a side hold few colours, as label maps do, is counted now and written to the index.

    The same call again goes on where it was stopped, and gives the same bytes.

    Args:
        data: The data set; its direction does not matter.
        out: A folder, made if absent.
        shard_mb: Megabytes (10^6 bytes) of a shard, about.
        per_shard: Pairs of a shard at most.

    Raises:
        DataError: No pairs; a file that cannot be packed; or `out` holds something else, or lies among the
            data.
    """
    out = Path(out)
    _check(data, out, shard_mb, per_shard)
    data = replace(data, direction="AtoB")
    found = find_pairs(data)
    if isinstance(found.pairs, StoredPairs):
        raise DataError(f"{data.path}: are shards already; pack the set that they were made of.")
    parts = parts_of(found)
    planned = plan(found, parts, data.split_seed, round(shard_mb * 1e6), per_shard)
    digest = digest_of(planned, (found.layout, parts, _read_as(data)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            if _is_complete(out, digest):
                shards, written = Index.from_json((out / INDEX).read_bytes(), str(out / INDEX)).shards, 0
            else:
                shards, written = _write(data, found, parts, planned, digest, out)
    except Timeout:
        raise DataError(f"{out}: another process is packing there; wait for it.") from None
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}); see that there is room, and run the same "
            "command again."
        ) from error
    size = sum(shard.bytes for shard in shards)
    return Packed(out, len(found.pairs), len(shards), written, size, found.unpaired)


def _check(data: DataConfig, out: Path, shard_mb: float, per_shard: int) -> None:
    if not shard_mb > 0:
        raise DataError(f"shard_mb is {shard_mb}; it must be above 0.")
    if not 1 <= per_shard <= MOST_PER_SHARD:
        raise DataError(f"per_shard is {per_shard}; it must be between 1 and {MOST_PER_SHARD}.")
    if (fault := among_data(out, data.path, data.path_b)) is not None:
        raise DataError(fault)


# -----------------------------------------------------------------------------------------------------------
# Writing


def _is_complete(out: Path, digest: str) -> bool:
    """Are these very shards there? What else is there must be their beginning.

    Raises:
        DataError: Something else stands in `out`.
    """
    other = (
        "holds something else, or the data have changed since; choose another OUT, or remove it to pack anew."
    )
    if (out / INDEX).exists():
        index = Index.from_json((out / INDEX).read_bytes(), str(out / INDEX))
        if index.plan != digest:
            raise DataError(f"{out}: {other}")
        return all(
            _size(out / shard.file) == shard.bytes and (out / shard.table).exists() for shard in index.shards
        )
    begun = out / UNFINISHED
    if begun.exists():
        if json.loads(begun.read_text() or "null") not in (None, digest):
            raise DataError(f"{out}: {other}")
    elif any(path.name != ".lock" and path.suffix != ".part" for path in out.iterdir()):
        raise DataError(f"{out}: {other}")
    return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _write(
    data: DataConfig,
    found: PairSet,
    parts: tuple[str, ...],
    planned: Sequence[PlannedShard],
    digest: str,
    out: Path,
) -> tuple[tuple[Shard, ...], int]:
    with _whole(out / UNFINISHED) as file:
        file.write(json.dumps(digest).encode())
    shards: list[Shard] = []
    written = 0
    with tqdm(total=len(found.pairs), desc="packing", unit="pair", disable=None) as bar:
        for shard in planned:
            done = _finished(out, shard, parts)
            if done is None:
                done = _write_shard(out, shard, parts)
                written += 1
            shards.append(done)
            bar.update(len(shard.items))
    index = Index(
        layout=found.layout,
        parts=parts,
        shards=tuple(shards),
        colours=_colours(found, data),
        read_as=_read_as(data),
        plan=digest,
    )
    with _whole(out / INDEX) as file:
        file.write(index.to_json().encode())
    (out / UNFINISHED).unlink()
    return index.shards, written


def _finished(out: Path, planned: PlannedShard, parts: tuple[str, ...]) -> Shard | None:
    """A shard that an earlier call finished: its table takes its name last."""
    shard = Shard(planned.file, planned.split, len(planned.items), _size(out / planned.file), "", "")
    try:
        content = (out / shard.table).read_bytes()
        with (out / shard.file).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shard = replace(shard, sha256=digest, table_sha256=hashlib.sha256(content).hexdigest())
        table = Table.from_bytes(content, shard, shard.table)
    except (OSError, DataError):
        return None
    ends = table.offsets + table.sizes
    whole = len(table) == shard.count and ends.shape[1] == len(parts) and int(ends.max()) <= shard.bytes
    return shard if whole else None


def _write_shard(out: Path, planned: PlannedShard, parts: tuple[str, ...]) -> Shard:
    rows: list[tuple[list[str], list[tuple[int, int, int]]]] = []
    with _whole(out / planned.file) as file:
        hashing = _Hashing(file)
        with tarfile.open(fileobj=cast(IO[bytes], hashing), mode="w", format=tarfile.PAX_FORMAT) as tar:
            for item in planned.items:
                rows.append(_add(tar, item, parts))
    content = Table.of(rows).to_bytes()
    shard = Shard(
        file=planned.file,
        split=planned.split,
        count=len(rows),
        bytes=hashing.size,
        sha256=hashing.digest.hexdigest(),
        table_sha256=hashlib.sha256(content).hexdigest(),
    )
    with _whole(out / shard.table) as file:
        file.write(content)
    return shard


def _add(
    tar: tarfile.TarFile, item: Item, parts: tuple[str, ...]
) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Write the members of a pair; its row of the table."""
    suffixes: list[str] = []
    places: list[tuple[int, int, int]] = []
    sizes = iter(item.sizes)
    for part, path in zip(parts, item.files, strict=True):
        if path is None:
            suffixes.append("")
            places.append((-1, 0, 0))
            continue
        data = _bytes_of(path, next(sizes))
        suffixes.append(path.suffix.lower())
        places.append((_member(tar, f"{item.key}.{part}{suffixes[-1]}", data), len(data), zlib.crc32(data)))
    pair = item.pair
    if pair.name != item.key or pair.group not in ("", pair.name):
        # JSON writes what is no text with its escapes.
        _member(tar, f"{item.key}.json", json.dumps({"name": pair.name, "group": pair.group}).encode())
    return [item.key, pair.name, pair.group, *suffixes], places


def _bytes_of(path: Path, size: int) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); mend it, and run the same command."
        ) from error
    if len(data) != size:
        raise DataError(f"{path} changed while it was packed; leave the data as they are, and pack anew.")
    return data


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a file; where its bytes begin."""
    info = tarfile.TarInfo(name)  # of no time and nobody, so that the same files give the same tar
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - padded(len(data))


class _Hashing:
    """A file to write to, of which the digest and the size are known at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name only when it is whole, and on the disk."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_as(data: DataConfig) -> dict[str, tuple[str, ...]]:
    return {name: read_as(data, side) for name, side in SIDES.items()}


def _colours(found: PairSet, data: DataConfig) -> dict[str, dict[str, Any]]:
    """What training would find when it asks whether a side is a label map, which wants every file."""
    train = found.split("train")
    if found.layout == "photos" or not train:
        return {}
    return {name: _counted(SideOf(train, side), data) for name, side in SIDES.items()}


def _counted(refs: SideOf, data: DataConfig) -> dict[str, Any]:
    try:
        every = colours_of(refs, data, at_most=AUTO_LABEL_COLOURS, lossless=True)
        lossless = every is not None
        if every is None:
            every = colours_of(refs, data, at_most=MAX_CLASSES, lossless=False)
    except (ImageError, DataError):  # it is packed as it is; `data check` finds it
        every, lossless = None, False
    return {"all": None if every is None else sorted(every), "lossless": lossless}
