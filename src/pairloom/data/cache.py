"""The decoded cache: images of a folder's training pairs as arrays in memory maps, decoded once for all runs.

Off unless `data.cache` says otherwise. Each data set has a folder of its own in the cache, with blocks
(`blocks.py`) and what was measured of the files (`remembered.py`). An entry is found by path, part, policy on
alpha and pages, and counts only while the file has the size and the time that it had. Whatever is wrong with
the cache is a sentence, and the files are decoded as without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from pairloom.config import DataConfig
from pairloom.data.blocks import (
    BLOCK_BYTES,
    SUFFIX,
    TEMPORARY,
    Wanted,
    Written,
    end_with_parent,
    image_in,
    key_of,
    read_index,
    write_block,
)
from pairloom.data.pairs import ImageRef, Pair
from pairloom.data.stamps import Stamps
from pairloom.images import ImageSpec
from pairloom.pixels import Array

Say = Callable[[str], None]
Images = dict[str, Wanted]
"""By their keys."""
FEW = 64
"""Up to so many images are decoded here: to start processes would take longer."""
MOST_AT_ONCE = 2048
"""Images that a process is given at a time."""
MOST_PROCESSES = 16
KEPT_FREE = 1 << 30
"""Bytes of the disk that are left free."""
DAMAGED = ".damaged"


def folder_of(data: DataConfig) -> Path | None:
    """Where the cache of a data set lies; None: there is none."""
    if data.cache == "off":
        return None
    if data.cache == "auto":
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pairloom"
    else:
        root = Path(data.cache)
    places = [str(Path(place).resolve()) for place in (data.path, data.path_b) if place]
    digest = hashlib.sha256("\0".join(places).encode(errors="surrogateescape")).hexdigest()[:12]
    return root / "decoded" / f"{Path(places[0]).stem}-{digest}"


@dataclass
class Decoded:
    """What the cache holds of some images; safe to send to, or to inherit in, any number of processes."""

    blocks: list[Path]
    rows: dict[str, tuple[int, int]]
    """Of each key, the block and the row in it."""
    indices: list[NDArray[np.int64]]
    """Of each block."""
    _maps: dict[int, Array | None] = field(default_factory=dict, repr=False)
    _seen: set[tuple[int, int]] = field(default_factory=set, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}, "_seen": set()}

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def read(self, key: str) -> Array | None:
        """An image in file values, the caller's own; None: decode it.

        Shapes: -> (H, W, C).
        """
        place = self.rows.get(key)
        if place is None:
            return None
        number, row = place
        block = self._map(number)
        if block is None:
            return None
        array = image_in(block, self.indices[number][row], check=place not in self._seen)
        if array is None:  # the next start decodes the whole block again
            path = self.blocks[number]
            with contextlib.suppress(OSError):
                os.replace(path, path.with_name(path.name + DAMAGED))
            self._maps[number] = None
            return None
        self._seen.add(place)
        return array

    def _map(self, number: int) -> Array | None:
        """A block, opened when it is first asked for; None: it was removed, as by another run."""
        if number not in self._maps:
            try:
                self._maps[number] = np.memmap(self.blocks[number], dtype=np.uint8, mode="r")
            except (OSError, ValueError):
                self._maps[number] = None
        return self._maps[number]

    def over(self, pair: Pair) -> Pair:
        """The same pair, whose images are read from here where they can be."""
        return replace(pair, source=self._ref(pair.source), target=self._ref(pair.target))

    def _ref(self, ref: ImageRef) -> ImageRef:
        return CachedRef(ref.path, ref.half, ref.part, self) if type(ref) is ImageRef else ref


@dataclass(frozen=True, slots=True)
class CachedRef(ImageRef):
    """An image that is looked for in the cache before its file is opened."""

    decoded: Decoded | None = field(default=None, repr=False, compare=False)

    def whole(self, how: ImageSpec | DataConfig | None) -> Array:
        """See `ImageRef.whole`."""
        if self.decoded is not None and isinstance(how, ImageSpec):
            found = self.decoded.read(key_of(self.path, self.part, how.alpha, how.page_axis))
            if found is not None:
                return found
        return ImageRef.whole(self, how)


def wanted_images(pairs: Sequence[Pair], source_spec: ImageSpec, target_spec: ImageSpec) -> Images:
    """The images that training reads, each once, in the order of the pairs; without masks and holes.

    Pairs that do not lie in a folder are left out: other kinds of references read in other ways.
    """
    wanted: Images = {}
    for pair in pairs:
        a, b = pair.source, pair.target
        one = str(a.path) == str(b.path) and a.part == b.part
        # As `Pair.read` and, of a single photo, `derive.read_photo` decode them.
        single = one and pair.source == pair.target
        sides = [(pair.source, source_spec), (pair.target, target_spec)]
        for ref, spec in sides[1:] if single else sides[:1] if one else sides:
            if type(ref) is ImageRef:
                key = key_of(ref.path, ref.part, spec.alpha, spec.page_axis)
                wanted[key] = Wanted(key, ref.path, ref.part, spec.alpha, spec.page_axis)
    return wanted


def decode(folder: Path, wanted: Images, *, room: int, stamps: Stamps, say: Say) -> Decoded | None:
    """What the cache in `folder` holds of the images, after those that it lacks were decoded into it.

    One process builds at a time, others wait for it. What was built before an end of any kind is kept.

    Args:
        folder: Of the data set.
        wanted: In the order in which they are kept, if not all have room.
        room: Bytes that the cache may take.
        stamps: Of the images' files.
        say: Takes sentences for people.

    Returns:
        None: nothing is cached, and `say` was told why.
    """
    decoded, _ = _opened(folder, wanted, stamps, room)
    missing = _missing(wanted, decoded, stamps)
    if missing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder, say):
                decoded, damaged = _opened(folder, wanted, stamps, room)  # another run may have built it
                missing = _missing(wanted, decoded, stamps)
                if damaged:
                    say(f"Cache: {damaged} damaged files in {folder} are made anew.")
                if missing:
                    _tidy(folder, decoded)
                    decoded, _ = _opened(folder, wanted, stamps, room)
                    _build(folder, _missing(wanted, decoded, stamps), room - _bytes_in(folder), say)
                    decoded, _ = _opened(folder, wanted, stamps, room)
        except OSError as error:
            why = error.strerror or error
            say(f"Cache: {folder} cannot be written ({why}); what it lacks is decoded each time.")
    if not decoded.rows:
        say(f"Cache: nothing is held in {folder}; all images are decoded from their files.")
        return None
    say(_what_is_held(folder, decoded, len(wanted), room))
    return decoded


def recalled(folder: Path, names: Sequence[str], *, room: int, say: Say) -> Decoded | None:
    """What `decode` gave when it used all that these blocks hold, and nothing else was wanted.

    Returns:
        None: they are no longer there, or do not fit into the room; `decode` finds out.
    """
    decoded = Decoded([], {}, [])
    for number, name in enumerate(names):
        path = folder / name
        index = read_index(path)
        if index is None:
            return None
        decoded.blocks.append(path)
        decoded.indices.append(index[1])
        decoded.rows.update((key, (number, row)) for row, key in enumerate(index[0]))
    if sum(path.stat().st_size for path in decoded.blocks) > room:
        return None
    say(_what_is_held(folder, decoded, len(decoded.rows), room))
    return decoded


def _what_is_held(folder: Path, decoded: Decoded, wanted: int, room: int) -> str:
    part = f"{len(decoded.rows)} of " if len(decoded.rows) < wanted else ""
    held = sum(block.stat().st_size for block in decoded.blocks if block.exists()) / 1e9
    return (
        f"Cache: {part}{wanted} training images are read decoded from {folder} ({held:.2f} GB, at most "
        f"{room / 1e9:g}); remove that folder to free the disk."
    )


def _opened(folder: Path, wanted: Images, stamps: Stamps, room: int) -> tuple[Decoded, int]:
    """What the blocks hold of what is wanted and unchanged; and how many blocks are damaged."""
    decoded = Decoded([], {}, [])
    damaged = 0
    for path in _blocks(folder):
        with contextlib.suppress(OSError):
            room -= path.stat().st_size
        if room < 0:
            break
        index = read_index(path)
        if index is None:
            damaged += 1
            continue
        decoded.blocks.append(path)
        decoded.indices.append(index[1])
        files = index[1][:, :2].tolist()
        number = len(decoded.blocks) - 1
        for row, key in enumerate(index[0]):
            if key in wanted and stamps.of(wanted[key].path) == tuple(files[row]):
                decoded.rows[key] = number, row
    return decoded, damaged + len(_named(folder, DAMAGED))


def _missing(wanted: Images, decoded: Decoded, stamps: Stamps) -> list[Wanted]:
    # What is gone, or a folder, is not for the cache.
    return [w for key, w in wanted.items() if key not in decoded and stamps.of(w.path) is not None]


def _named(folder: Path, suffix: str) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(suffix))
    except OSError:
        return []


def _blocks(folder: Path) -> list[Path]:
    return _named(folder, SUFFIX)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in _blocks(folder))


@contextlib.contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Cache: another run is building {folder}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _tidy(folder: Path, decoded: Decoded) -> None:
    """Remove what cannot be used, and blocks less than half of which is wanted and unchanged."""
    good = dict.fromkeys(decoded.blocks, 0)
    for number, row in decoded.rows.values():
        place = decoded.indices[number][row]
        height, width, channels, dtype = (int(value) for value in place[3:7])
        good[decoded.blocks[number]] += height * width * channels * (1, 2, 4)[dtype]
    for path in (*_named(folder, TEMPORARY), *_named(folder, DAMAGED), *_blocks(folder)):
        if 2 * good.get(path, 0) < path.stat().st_size:
            with contextlib.suppress(OSError):  # Windows keeps what another run has open
                path.unlink()


# ------------------------------------------------------------------------------------------------------------
# Building


def _build(folder: Path, missing: Sequence[Wanted], room: int, say: Say) -> None:
    """Decode images into new blocks, several at a time, until there is no more room."""
    processes = min(_processors(), MOST_PROCESSES) if len(missing) > FEW else 0
    say(f"Cache: decoding {len(missing)} images into {folder}.")
    share = min(MOST_AT_ONCE, max(FEW, -(-len(missing) // (4 * max(processes, 1)))))
    queue = deque(missing[i : i + share] for i in range(0, len(missing), share))
    running: dict[Future[Written], tuple[Sequence[Wanted], int]] = {}
    full, fault = False, ""
    with contextlib.ExitStack() as stack, _progress(len(missing)) as bar:
        pool = ProcessPoolExecutor(processes, initializer=end_with_parent) if processes else None
        if pool is not None:
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        while (queue and not full and not fault) or running:
            while queue and len(running) < max(processes, 1) and not full and not fault:
                reserved = sum(size for _, size in running.values())
                free = shutil.disk_usage(folder).free - reserved - KEPT_FREE
                size = min(room - reserved, free, 4 * BLOCK_BYTES)
                if size <= 0:
                    full = full or not running
                    break
                images = queue.popleft()
                path = folder / f"{secrets.token_hex(8)}{SUFFIX}"
                if pool is None:
                    task: Future[Written] = Future()
                    task.set_result(write_block(path, images, size))
                else:
                    task = pool.submit(write_block, path, images, size)
                running[task] = images, size
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                images, _ = running.pop(task)
                try:
                    written = task.result()
                except BrokenProcessPool:
                    written = Written(
                        fault="a process that decodes was killed, most often for want of memory"
                    )
                room -= written.bytes
                bar.update(written.done)
                full = full or (written.full and not written.bytes)
                fault = fault or written.fault
                if written.done < len(images):
                    queue.appendleft(images[written.done :])
    if fault:
        say(f"Cache: {fault}; what is there is used.")
    elif queue:
        left = sum(len(images) for images in queue)
        say(f"Cache: no room for {left} more images (data.cache_gb, or the disk): decoded each time.")


def _progress(count: int) -> tqdm[Any]:
    return tqdm(total=count, desc="decoding", unit="image", disable=None)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
