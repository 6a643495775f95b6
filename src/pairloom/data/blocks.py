"""Blocks of the decoded cache: files that each hold many decoded images, one after the other, and an index.

A block is written under a temporary name and renamed when it is whole, and never changed. Its index says of
each image by what key it is found, the size and time of the file that it was decoded from, and where it lies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairloom.images import ImageError, Part, read_image
from pairloom.pixels import DTYPES, Alpha, Array, PageAxis
from pairloom.stacks.stack import WHOLE

SUFFIX = ".block"
TEMPORARY = ".tmp"
BLOCK_BYTES = 64 << 20
"""A block is closed when it has reached this."""
COLUMNS = ("size", "mtime_ns", "offset", "height", "width", "channels", "dtype", "crc")
"""Of the index: one row an image."""
_FOOTER = struct.Struct("<8sQQQI")
_MAGIC = b"plblock1"
_ALIGN = 64
_INDEX_BYTES = 8 * len(COLUMNS) + 4
"""Of an image in the index, beside its key."""


class Wanted(NamedTuple):
    """An image as it is to be decoded; of a kind that is quickly made, as there may be a million."""

    key: str
    """See `key_of`."""
    path: Path
    part: Part
    alpha: Alpha
    page_axis: PageAxis


def key_of(path: Path, part: Part, alpha: str, page_axis: str) -> str:
    """All that the values of an image depend on, but for the content of its file."""
    return f"{path}\0{'' if part is WHOLE or part == WHOLE else part}\0{alpha}\0{page_axis}"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the images of one block."""

    bytes: int = 0
    """Of the file; 0: there is none."""
    done: int = 0
    """The first so many are settled: written, or not readable."""
    full: bool = False
    """The next one would not have gone into the room that there was."""
    fault: str = ""
    """Why nothing could be written."""


def write_block(path: Path, wanted: Sequence[Wanted], room: int) -> Written:
    """Decode images into a block of at most `room` bytes; those that cannot be read are left out.

    What is wrong with a file is for whoever needs it to say.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            keys, rows, done, full = _write_images(file, wanted, room)
            if keys:
                _write_index(file, keys, rows)
                size = file.tell()
        if keys:
            os.replace(temporary, path)
        return Written(size if keys else 0, done, full)
    except OSError as error:
        return Written(fault=f"{path.parent}: cannot be written ({error.strerror or error})")
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made
            temporary.unlink()


def _write_images(
    file: IO[bytes], wanted: Sequence[Wanted], room: int
) -> tuple[list[str], list[tuple[int, ...]], int, bool]:
    keys: list[str] = []
    rows: list[tuple[int, ...]] = []
    room -= _FOOTER.size + 2
    for done, image in enumerate(wanted):
        if file.tell() >= BLOCK_BYTES:
            return keys, rows, done, False
        try:
            # Before reading: if the file changes meanwhile, the time is too old, and the next run sees it.
            found = os.stat(image.path)
            array = read_image(
                image.path, alpha=image.alpha, page_axis=image.page_axis, part=image.part, nan="keep"
            )
        except (ImageError, OSError):
            continue
        key = json.dumps(image.key)
        room -= len(key) + 2 + _INDEX_BYTES
        offset = -(-file.tell() // _ALIGN) * _ALIGN
        if offset + array.nbytes > room:
            return keys, rows, done, True
        file.write(bytes(offset - file.tell()))
        values = array.reshape(-1).view(np.uint8).data
        file.write(values)
        keys.append(image.key)
        place = (offset, *array.shape, DTYPES.index(array.dtype.name), zlib.crc32(values))
        rows.append((found.st_size, found.st_mtime_ns, *place))
    return keys, rows, len(wanted), False


def _write_index(file: IO[bytes], keys: list[str], rows: list[tuple[int, ...]]) -> None:
    start = file.tell()
    text = json.dumps(keys, separators=(",", ":")).encode()
    numbers = np.array(rows, dtype="<i8").tobytes()
    file.write(text + numbers)
    file.write(_FOOTER.pack(_MAGIC, start, len(text), len(rows), zlib.crc32(text + numbers)))


def read_index(path: Path) -> tuple[list[str], NDArray[np.int64]] | None:
    """The keys of a block's images, and a row for each (`COLUMNS`); None: it is damaged, or gone.

    Shapes: rows (N, len(COLUMNS)).
    """
    try:
        with path.open("rb") as file:
            end = file.seek(-_FOOTER.size, os.SEEK_END)
            magic, start, length, count, crc = _FOOTER.unpack(file.read())
            if magic != _MAGIC or start + length + 8 * len(COLUMNS) * count != end:
                return None
            file.seek(start)
            index = file.read(end - start)
        if zlib.crc32(index) != crc:
            return None
        rows = np.frombuffer(index[length:], dtype="<i8").reshape(count, len(COLUMNS))
        return json.loads(index[:length]), rows.astype(np.int64)
    except (OSError, ValueError, struct.error):
        return None


def image_in(block: Array, row: NDArray[np.int64], *, check: bool) -> Array | None:
    """A copy of an image of a block that is mapped as bytes; None: the values are not those written.

    Shapes: -> (H, W, C).
    """
    _, _, offset, height, width, channels, dtype, crc = (int(value) for value in row)
    kind = np.dtype(DTYPES[dtype])
    values = np.array(block[offset : offset + height * width * channels * kind.itemsize])
    if check and zlib.crc32(values.data) != crc:
        return None
    return values.view(kind).reshape(height, width, channels)


def end_with_parent() -> None:
    """In a process that writes blocks: end when the one that asked for them has, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent's to obey
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
