"""Reading from shards: those of a folder where they lie, those of an address through a bounded copy on disk.

Nothing here is shared between processes but files: a process that was forked, or sent this, opens its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from filelock import FileLock

from pairloom.data.addresses import filesystem, is_address, unopened
from pairloom.data.pairs import DataError
from pairloom.data.shard_index import AGAIN, INDEX, UNFINISHED, Index, Shard, Table

OPEN_FILES = 64
"""Shards open at a time in a process."""
TABLED_PAIRS = 65536
"""Pairs in the tables that a process remembers; one table at least."""
SINGLE_READS = 32
"""Members that are asked for singly from an address before their shard is copied whole."""
DIFFERS = "is not the shard that the index knows (its size or its sha256 differs)"
TRIES = 3
"""Of an address, seconds apart."""


class ShardFiles:
    """The files of a folder, or of an address."""

    def __init__(self, place: str, cache: str | None = None, cache_gb: float = 0.0) -> None:
        self.place = place
        self._remote = is_address(place)
        self._cache, self._cache_gb = cache, cache_gb
        self._fresh()

    def _fresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._open: OrderedDict[str, BufferedReader] = OrderedDict()
        self._tables: OrderedDict[str, Table] = OrderedDict()
        self._whole: set[str] = set()
        self._singly: Counter[str] = Counter()
        self._ahead: list[Shard] = []
        self._reader: threading.Thread | None = None

    def __getstate__(self) -> tuple[str, str | None, float]:
        return self.place, self._cache, self._cache_gb

    def __setstate__(self, state: tuple[str, str | None, float]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __del__(self) -> None:
        self._close(())

    def _close(self, kept: Collection[str]) -> None:
        for file in [file for file in self._open if file not in kept]:
            self._open.pop(file).close()

    def _own(self) -> None:
        """After a fork the parent's open files have positions in common with ours: open others."""
        if self._pid != os.getpid():
            tables = self._tables
            self._close(())
            self._fresh()
            self._tables = tables

    def where(self, file: str) -> str:
        """What a file is called in messages."""
        return f"{self.place}/{file}" if self._remote else os.path.join(self.place, file)

    # -------------------------------------------------------------------------------------------------------
    # The index, the tables, the members

    def index(self) -> Index:
        """Read index.json, and look at the sizes of a folder's shards.

        Raises:
            DataError: There is none, it is not ours, or a shard is missing or of another size.
        """
        if not self._remote and not (Path(self.place) / INDEX).exists():
            raise DataError(
                f"{self.place}: its packing was not finished (there is {UNFINISHED}, and no {INDEX}); run "
                "the same `pairloom data pack` again, and it goes on."
            )
        index = Index.from_json(self._small(INDEX), self.where(INDEX))
        if not self._remote:
            for shard in index.shards:
                self._check_size(Path(self.place) / shard.file, shard)
        return index

    def _check_size(self, path: Path, shard: Shard) -> None:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(
                f"{path}: is in the index, but cannot be read ({error.strerror}); {AGAIN}."
            ) from error
        if size != shard.bytes:
            cut = "is cut short" if size < shard.bytes else "was changed"
            raise DataError(
                f"{path}: {cut}, it has {size} bytes where the index says {shard.bytes}; {AGAIN}."
            )

    def table(self, shard: Shard) -> Table:
        """The table of a shard, from a few that are remembered."""
        self._own()
        with self._lock:
            table = self._tables.get(shard.file)
            if table is None:
                table = Table.from_bytes(self._small(shard.table), shard, self.where(shard.table))
                self._tables[shard.file] = table
                while len(self._tables) > 1 and sum(map(len, self._tables.values())) > TABLED_PAIRS:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(shard.file)
            return table

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Bytes of a shard; fewer where it is cut short.

        Raises:
            DataError: The shard is missing, or cannot be copied from its address.
        """
        self._own()
        if self._remote and shard.file not in self._whole and not self._is_copied(shard):
            self._singly[shard.file] += 1
            if self._singly[shard.file] <= SINGLE_READS:
                return self._part(shard, offset, size)
        with self._lock:
            file = self._opened(shard)
            file.seek(offset)
            return file.read(size)

    def fault(self, shard: Shard) -> str:
        """A sentence if a shard's bytes, or its table, are not those that the index knows; else nothing."""
        try:
            self.table(shard)
            if self._remote:
                self._fetch(shard)  # what is copied is looked at
                return ""
            with self._open_own(shard) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except DataError as error:
            return str(error)
        return "" if digest == shard.sha256 else f"{self.where(shard.file)}: {DIFFERS}; {AGAIN}."

    def _opened(self, shard: Shard) -> BufferedReader:
        file = self._open.get(shard.file)
        if file is None:
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            file = self._open[shard.file] = self._open_copy(shard) if self._remote else self._open_own(shard)
        self._open.move_to_end(shard.file)
        return file

    def _open_own(self, shard: Shard) -> BufferedReader:
        path = Path(self.place) / shard.file
        try:
            return path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror}); {AGAIN}.") from error

    def _small(self, file: str) -> bytes:
        """A whole small file."""
        if self._remote:
            content: bytes = self._asked(file, lambda system, path: system.cat_file(path))
            return content
        path = Path(self.place) / file
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {AGAIN}.") from error

    # -------------------------------------------------------------------------------------------------------
    # Addresses

    def _asked(self, file: str, ask: Callable[[Any, str], Any]) -> Any:
        """What a file system answers; a fault of the network is tried again."""
        address = self.where(file)
        for wait in (*range(1, TRIES), 0):
            system, path = filesystem(address)
            try:
                return ask(system, path)
            except (FileNotFoundError, PermissionError) as error:
                raise DataError(unopened(address, error)) from error
            except Exception as error:  # each file system has its own kinds
                if not wait:
                    raise DataError(unopened(address, error)) from error
                time.sleep(wait)
        raise AssertionError

    def _part(self, shard: Shard, offset: int, size: int) -> bytes:
        content: bytes = self._asked(
            shard.file, lambda system, path: system.cat_file(path, start=offset, end=offset + size)
        )
        if len(content) == shard.bytes:  # a server that knows no ranges sends all
            content = content[offset : offset + size]
        return content

    @property
    def cache(self) -> Path:
        """The folder of the copies."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.place).strip("-")[-80:]
        name += "-" + hashlib.sha256(self.place.encode()).hexdigest()[:8]
        user = os.getuid() if hasattr(os, "getuid") else "user"
        root = self._cache or os.path.join(tempfile.gettempdir(), f"pairloom-shards-{user}")
        return Path(root) / name

    def _copy_of(self, shard: Shard) -> Path:
        return self.cache / f"{shard.sha256[:16]}-{shard.file}"

    def _is_copied(self, shard: Shard) -> bool:
        if self._copy_of(shard).exists():
            self._whole.add(shard.file)
        return shard.file in self._whole

    def _open_copy(self, shard: Shard) -> BufferedReader:
        path = self._copy_of(shard)
        for _ in range(TRIES):  # another process may take it away between the two
            self._fetch(shard)
            with contextlib.suppress(FileNotFoundError):
                file = path.open("rb")
                os.utime(path)
                return file
        raise DataError(
            f"{path}: is removed as soon as it is there, so the copies do not fit into data.shard_cache_gb="
            f"{self._cache_gb:g}; give more."
        )

    def _fetch(self, shard: Shard) -> None:
        """Copy a shard unless it is there.

        One at a time, of all processes and threads: whoever makes room knows all that is taken.
        """
        path = self._copy_of(shard)
        if path.exists():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.cache.parent / "copying.lock"):
                if not path.exists():
                    self._copy(shard, path)
        except OSError as error:
            raise DataError(
                f"{path}: a shard cannot be copied there ({error.strerror or error}); name another folder "
                "with data.shard_cache, or less room with data.shard_cache_gb."
            ) from error

    def _copy(self, shard: Shard, path: Path) -> None:
        temporary = path.with_name(path.name + ".part")
        self._make_room(shard.bytes)
        try:
            self._asked(shard.file, lambda system, there: system.get_file(there, str(temporary)))
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if (temporary.stat().st_size, digest) != (shard.bytes, shard.sha256):
                raise DataError(f"{self.where(shard.file)}: {DIFFERS}; {AGAIN}.")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove the copies that were opened longest ago."""
        copies = []
        for path in self.cache.parent.glob("*/*.tar"):
            with contextlib.suppress(OSError):  # another process removes too
                status = path.stat()
                copies.append((status.st_mtime, status.st_size, path))
        room = self._cache_gb * 1e9 - size - sum(size for _, size, _ in copies)
        for _, freed, path in sorted(copies):
            if room >= 0:
                return
            path.unlink(missing_ok=True)
            room += freed

    def need(self, now: Sequence[Shard], soon: Iterable[Shard]) -> None:
        """Training reads these shards, and then those: copy them whole, in the background.

        Raises:
            DataError: They do not fit into the room for copies.
        """
        self._own()
        if not self._remote:
            return
        together = list(dict.fromkeys([*now, *soon]))
        wanted = sum(shard.bytes for shard in together)
        if wanted > self._cache_gb * 1e9:
            raise DataError(
                f"data.shard_cache_gb is {self._cache_gb:g}, but the {len(together)} shards of {self.place} "
                f"that are read at a time, and next, hold {wanted / 1e9:.3g} GB; give at least "
                f"{1.1 * wanted / 1e9:.2g}."
            )
        with self._lock:
            self._whole = {shard.file for shard in together}
            self._close(self._whole)  # a copy that was removed takes room for as long as it is open
            self._ahead = together
            if self._reader is None or not self._reader.is_alive():
                self._reader = threading.Thread(target=self._read_ahead, daemon=True)
                self._reader.start()

    def _read_ahead(self) -> None:
        while True:
            with self._lock:
                if not self._ahead:
                    self._reader = None
                    return
                shard = self._ahead.pop(0)
            # Whoever reads the shard meets the same fault, and says so.
            with contextlib.suppress(DataError):
                self._fetch(shard)
