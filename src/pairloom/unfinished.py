"""A result that is not finished: the hidden folder `.NAME.part` beside it.

| file | what |
|---|---|
| `job.json` | what is being done: another job does not continue this one |
| `image.map` | the result's values, uncompressed, tile by tile |
| `tiles.txt` | the finished tiles, a line each: top, left, height, width |
| `spill/` | what `tiling` does not keep in memory |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from pairloom import containers
from pairloom.canvas import Canvas
from pairloom.checkpoint import write_text_atomically
from pairloom.images import Array, ImageError, ImageSpec
from pairloom.tile_kernels import Window
from pairloom.translator import Translator
from pairloom.windows import gib


class Unfinished:
    """The folder of an unfinished result, held by this process while the `with` block lasts."""

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int, int],
        dtype: str,
        job: dict[str, Any],
        *,
        tiles: Iterable[Window],
        spill_bytes: int = 0,
    ) -> None:
        self.out, self._job, self._spill_bytes = out, job, spill_bytes
        self._expected = {_line(*rows, *columns): (rows, columns) for rows, columns in tiles}
        self.folder = folder_of(out)
        self.spill = self.folder / "spill"
        self._canvas = Canvas(self.folder / "image.map", shape, dtype)
        self._tiles = self.folder / "tiles.txt"
        self._pixels = 0
        self.done: list[tuple[int, int]] = []
        """(top, left) of the finished tiles."""
        self.was_damaged = False
        """Was there an unfinished job of which nothing can be used?"""

    def __enter__(self) -> Unfinished:
        containers.make_folder(self.folder)
        self._lock = FileLock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ImageError(f"{self.out}: another process is writing it (in {self.folder}).") from None
        except OSError as error:
            raise ImageError(
                f"{self.folder}: cannot be written to ({error.strerror}); choose another --out."
            ) from error
        try:
            self._resume()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *fault: object) -> None:
        self._lock.release()

    @property
    def is_complete(self) -> bool:
        """Is every pixel there?"""
        height, width, _ = self._canvas.shape
        return self._pixels == height * width

    def _resume(self) -> None:
        described = self.folder / "job.json"
        if described.exists():
            self._check_job(described)
            if self._is_whole():
                self._read_tiles()
                return
            self.was_damaged = True
        self._check_room()
        try:
            self._canvas.make()
            self._tiles.write_bytes(b"")
            self.spill.mkdir(exist_ok=True)
            write_text_atomically(described, json.dumps(self._job, indent=2) + "\n")
        except (OSError, ValueError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ImageError(f"{self.out}: cannot be written ({error}); free some disk space.") from error

    def _check_job(self, described: Path) -> None:
        try:
            found = json.loads(described.read_text(encoding="utf-8"))
            differ = [name for name, value in self._job.items() if found.get(name) != value]
        except (ValueError, AttributeError, OSError):
            differ = ["its description, which is damaged"]
        if differ:
            raise ImageError(
                f"{self.out}: {self.folder} holds the unfinished work of another command (it differs in: "
                f"{', '.join(differ)}); give that command again to finish it, or delete the folder."
            )

    def _is_whole(self) -> bool:
        """Are the map, by its size, and the list of tiles there?"""
        values = self._canvas.path
        return values.is_file() and values.stat().st_size == self._canvas.nbytes and self._tiles.is_file()

    def _read_tiles(self) -> None:
        """The tiles listed, to the first line that names none, or one twice: from there on all is cut off."""
        left, length = dict(self._expected), 0
        for line in self._tiles.read_bytes().splitlines(keepends=True):
            if line not in left:
                break
            (top, bottom), (first, end) = left.pop(line)
            self.done.append((top, first))
            self._pixels += (bottom - top) * (end - first)
            length += len(line)
        os.truncate(self._tiles, length)

    def _check_room(self) -> None:
        """The map, a third more for the pyramid, as much again for the file, if nothing compresses; spill."""
        needed = self._canvas.nbytes * 8 // 3 + self._spill_bytes + 2**20
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            self._lock.release()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ImageError(
                f"{self.out}: writing it takes up to {gib(needed)} of disk space, and {gib(free)} are free "
                "there; free some, or choose another --out."
            )

    def write_tile(self, top: int, left: int, array: Array) -> None:
        """First the values, then the line that says they are there, both to the disk."""
        self._canvas.write(top, left, array)
        height, width = array.shape[:2]
        with self._tiles.open("ab") as file:
            file.write(_line(top, top + height, left, left + width))
            file.flush()
            os.fsync(file.fileno())
        self._pixels += height * width

    def write(
        self, kept: containers.Kept, spec: ImageSpec, digest: str, progress: Callable[[int, int, str], None]
    ) -> None:
        """The map becomes the file, and the folder goes."""
        containers.write(
            self.out,
            self._canvas,
            kept,
            labels=spec.kind == "labels",
            job=digest,
            within=self.folder,
            tick=lambda finished, total: progress(finished, total, "writing"),
        )
        shutil.rmtree(self.folder, ignore_errors=True)


def folder_of(out: Path) -> Path:
    """Where the unfinished work on a result lies."""
    return out.with_name(f".{out.name}.part")


def forget(out: Path, source: Path) -> None:
    """Delete the unfinished work on a result of this very source, which was made in another way since."""
    folder = folder_of(out)
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        if job["source"] != fingerprint(source):
            return
        with FileLock(folder / ".lock", timeout=0):
            shutil.rmtree(folder)
    except (OSError, ValueError, LookupError, TypeError, Timeout):  # none, not ours, or somebody is at it
        return


def _line(top: int, bottom: int, left: int, right: int) -> bytes:
    return f"{top} {left} {bottom - top} {right - left}\n".encode()


def fingerprint(source: Path) -> str:
    """Size, time of change and some of the content of a file; of a folder, of all its files the first two."""
    digest = hashlib.sha256()
    if source.is_dir():
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            facts = file.stat()
            digest.update(f"{file.relative_to(source)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    facts = source.stat()
    digest.update(f"{facts.st_size} {facts.st_mtime_ns}\n".encode())
    with source.open("rb") as opened:
        for start in np.linspace(0, max(facts.st_size - 2**16, 0), 16).astype(np.int64):
            opened.seek(int(start))
            digest.update(opened.read(2**16))
    return digest.hexdigest()


def weights_digest(translator: Translator) -> str:
    """Of everything about the model that its outputs depend on."""
    about = {
        "semantics": [translator.semantics.norm_stats, translator.semantics.dropout],
        "specs": [translator.source_spec.to_dict(), translator.target_spec.to_dict()],
        "device": translator.device.type,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(translator.generator.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def digest_of(job: dict[str, Any]) -> str:
    """What tells a job from others, in 32 letters."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:32]
