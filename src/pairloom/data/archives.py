"""Unpacking an archive that somebody else made: nothing lands outside, nothing grows without bound.

Only plain files and folders come out of it. The files are written here, byte by byte, so that neither
permissions nor owners, links or devices can get in.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Self, cast

from tqdm import tqdm

from pairloom.data.pairs import DataError

GIGABYTE = 10**9
MOST_BYTES = 100 * GIGABYTE
"""Unpacked, all files together; the largest of the public sets has a tenth of it."""
MOST_FILES = 1_000_000
"""Files and folders of an archive."""
MOST_HEADER_BYTES = 4 << 20
"""What may stand between the contents of two files: their names and attributes, and the read-ahead."""
MOST_TAIL_BYTES = 16 << 20
"""What may follow the end of the tar inside its compression: padding."""
_CHUNK = 1 << 20


class ArchiveError(DataError):
    """An archive is not what it should be; another copy may be."""


class _Fault(Exception):
    """What is wrong with an archive, as the end of a sentence that begins with its path."""


def is_archive(head: bytes) -> bool:
    """Whether a file that begins with these bytes (512 or more) may be a tar, compressed by gzip or not."""
    return head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar"


def unpack(
    archive: str | Path, out: str | Path, *, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES
) -> Path:
    """Unpack a .tar or .tar.gz into a new folder; on a fault nothing of it stays behind.

    Deviation: not `tarfile`'s data filter: it renames absolute paths instead of refusing them, lets links
    through, and is missing from Python 3.11.2.

    Args:
        archive: The file; its first bytes say what it is, not its name.
        out: A folder that is not there yet.
        most_bytes: Refuse what would be larger, all files together.
        most_files: Refuse more files and folders than this.

    Raises:
        ArchiveError: The file is no tar, is cut short or damaged, holds a path that leads out of the folder,
            a link or a device, or goes beyond a bound.
        DataError: The folder is there already, or cannot be written to.
    """
    archive, out = Path(archive), Path(out)
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise DataError(f"{out} is there already; unpack into a new folder.") from None
    except OSError as error:
        raise DataError(f"{out} cannot be made ({error.strerror}).") from error
    try:
        with _faults_as_sentences(archive):
            _unpack(archive, out, most_bytes, most_files)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return out


@contextmanager
def _faults_as_sentences(archive: Path) -> Iterator[None]:
    try:
        yield
    except _Fault as fault:
        raise ArchiveError(f"{archive} {fault}") from None
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        cut = isinstance(error, EOFError) or "end of data" in str(error)
        raise ArchiveError(f"{archive} {_cut_short() if cut else _damaged(str(error))}") from error
    except OSError as error:
        raise DataError(
            f"{error.filename or archive}: unpacking failed ({error.strerror or error})."
        ) from error


def _cut_short() -> str:
    return "ends in the middle: it was not copied or downloaded as a whole; fetch it again."


def _damaged(detail: str) -> str:
    return f"is damaged ({detail}); fetch it again."


def _unpack(archive: Path, out: Path, most_bytes: int, most_files: int) -> None:
    size = archive.stat().st_size
    count = total = 0
    with (
        archive.open("rb") as raw,
        tqdm(total=size, unit="B", unit_scale=True, desc="unpacking", leave=False, disable=None) as bar,
    ):
        stream = _Rationed(_decompressed(raw))
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry, bufsize=_CHUNK) as tar:  # type: ignore[call-overload]
            while (entry := tar.next()) is not None:
                count, total = count + 1, total + entry.size
                if count > most_files:
                    raise _Fault(f"holds more than {most_files:,} files and folders: more than is expected.")
                if total > most_bytes:
                    raise _Fault(f"would unpack to more than {in_words(most_bytes)}: more than is expected.")
                path = out / _safe_name(entry)
                stream.left = entry.size + MOST_HEADER_BYTES
                _write(tar, entry, path)
                stream.left = MOST_HEADER_BYTES
                tar.members.clear()  # else it remembers each
                bar.update(raw.tell() - bar.n)
        stream.left = MOST_TAIL_BYTES
        while stream.read(_CHUNK):  # to the end of the compression, where its checksum is
            pass


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    head = raw.read(tarfile.BLOCKSIZE)
    raw.seek(0)
    if not is_archive(head):
        raise _Fault(f"is no .tar or .tar.gz (it begins with {head[:8]!r}).")
    return cast(IO[bytes], gzip.open(raw)) if head.startswith(b"\x1f\x8b") else raw


class _Rationed:
    """A stream of which no more may be read than was granted: `tarfile` reads some things into memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.left = MOST_HEADER_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise _Fault(_damaged("it holds more than its files and their names"))
        return data


class _Entry(tarfile.TarInfo):
    """A header of a tar. `tarfile` takes a cut or damaged one that is not the first for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The header in a block of 512 bytes; a block of zeros marks the end."""
        if len(buf) < tarfile.BLOCKSIZE:
            raise _Fault(_cut_short())
        if not any(buf):
            return super().frombuf(buf, encoding, errors)
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise _Fault(_damaged(str(error))) from None


def _safe_name(entry: tarfile.TarInfo) -> PurePosixPath:
    """The path of an entry below the folder.

    Raises:
        _Fault: It leads elsewhere, or the entry is neither a file nor a folder.
    """
    name, windows = PurePosixPath(entry.name), PureWindowsPath(entry.name)
    if name.is_absolute() or windows.drive or windows.root:
        raise _Fault(
            f"holds the absolute path {entry.name!r}: it would be written elsewhere; nothing was kept."
        )
    if ".." in name.parts or ".." in windows.parts:
        raise _Fault(f"holds the path {entry.name!r}, which leads out of its folder; nothing was kept.")
    if "\0" in entry.name:
        raise _Fault(_damaged(f"the name {entry.name!r}"))
    if not (entry.isdir() or entry.isreg()) or entry.issparse() or entry.size < 0:
        kind = "link" if entry.issym() or entry.islnk() else "device or special file"
        raise _Fault(
            f"holds {entry.name!r}, a {kind}: a data set has only files and folders; nothing was kept."
        )
    return name


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    if entry.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data: Any = tar.extractfile(entry)
    with path.open("wb") as file:
        shutil.copyfileobj(data, file, _CHUNK)


def in_words(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
