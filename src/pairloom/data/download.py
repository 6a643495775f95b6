"""Public sets of pairs: fetched or taken from a file, checked, unpacked, and moved into place as a whole.

Until a set is whole, everything lies in OUT.download beside it; the same command again goes on from there.
OUT/SOURCE.json says where a set came from, when, and the checksum of what was fetched.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock
from tqdm import tqdm

from pairloom.config import DataConfig
from pairloom.data import cityscapes, openmoji
from pairloom.data.archives import ArchiveError, unpack
from pairloom.data.fetching import Say, fetch, forget
from pairloom.data.finding import find_pairs
from pairloom.data.openmoji import Layout
from pairloom.data.pairs import SPLITS, DataError
from pairloom.data.public_sets import SETS, PublicSet

__all__ = ["SETS", "PublicSet", "download"]

RECORD = "SOURCE.json"
RENDERED = ("openmoji", "cityscapes")
"""Sets that are made here, at a size of choice, from what was fetched or given."""
DEFAULT_SIZE = 256
MOST_SAID = 5
"""Sentences about single files; of the others only the number."""


def say_on_terminal(text: str) -> None:
    """A line on standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def download(
    name: str,
    out: str | Path,
    *,
    source: str | Path | None = None,
    address: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    layout: Layout = "side-by-side",
    say: Say = say_on_terminal,
    timeout_seconds: float = 30.0,
    wait_seconds: float = 1.0,
) -> Path:
    """Make a public set of pairs at `out`. The same call again goes on, or says that it is done.

    Args:
        name: One of SETS.
        out: A new or an empty folder.
        source: What the user has already: the archive; of cityscapes the folder with leftImg8bit and gtFine;
            of openmoji the package or its folder.
        address: Another address of the archive.
        sha256: What its checksum must be; by default the known one, for the known address.
        size: Side of each image in pixels, of openmoji and cityscapes; 256 by default.
        layout: Of openmoji: "side-by-side" or "folders".
        say: Told what happens, in sentences.
        timeout_seconds: Without a byte for so long, a connection counts as broken.
        wait_seconds: Before the second attempt; doubled before each further one.

    Raises:
        DataError: There is no such set, it cannot be had, or what came is not it.
        ImageError: A file cannot be written.
    """
    public = _named(name)
    out = Path(out)
    if out.name in ("", ".."):
        raise DataError(f"{out}: name a new folder for the set.")
    settings = _settings(public, size, layout)
    _check_request(public, source, address)
    if _is_there(public, out, settings):
        say(f"{out} holds {name} already.")
        return out
    if source is None:
        about = f", about {public.size_about}" if public.size_about else ""
        say(f"{name}: {public.about}; {public.pairs} pairs{about}. Licence: {public.licence}.")
    with _workplace(out) as work:
        given, origin = _material(
            public,
            work,
            source,
            address,
            sha256,
            say,
            timeout_seconds=timeout_seconds,
            wait_seconds=wait_seconds,
        )
        made = work / "made"
        with _removing_what_is_wrong(given, origin):
            say_some(_make(public, given, made, work / "unpacked", settings), say)
            found = _counted(made, given)
        _record(public, made, origin, settings)
        _move(made, out)
    say(f"{out}: {found}. {public.about}. Licence: {public.licence}.")
    say(f"pairloom train {out} --out runs/{name} --preset {public.preset}    # {public.direction}")
    return out


# ------------------------------------------------------------------------------------------------------------
# What was asked for


def _named(name: str) -> PublicSet:
    if name not in SETS:
        raise DataError(f"there is no public set {name!r}; there are {', '.join(SETS)}.")
    return SETS[name]


def _settings(public: PublicSet, size: int | None, layout: Layout) -> dict[str, Any]:
    """What a set is made with, beyond its source."""
    if public.name not in RENDERED:
        if size is not None:
            raise DataError(
                f"size: {public.name} comes as it is; data.load_size and data.crop_size resize it to train."
            )
        return {}
    size = DEFAULT_SIZE if size is None else size
    if size < 1:
        raise DataError(f"size is {size} pixels; it must be 1 or more.")
    return {"size_px": size} | ({"layout": layout} if public.name == "openmoji" else {})


def _check_request(public: PublicSet, source: str | Path | None, address: str | None) -> None:
    """Raise a DataError for what cannot succeed, before anything is fetched."""
    if source is not None and address is not None:
        raise DataError("source and address exclude each other: a file that you have is not fetched.")
    if public.name == "cityscapes":
        if source is None:
            raise DataError(cityscapes.HOW_TO_GET_IT)
    elif source is not None and Path(source).is_dir() and public.name != "openmoji":
        raise DataError(
            f"{source} is a folder: if it holds {public.name}, unpacked, use it as it is: "
            f"pairloom train {source} --preset {public.preset}."
        )
    if source is not None and not Path(source).exists():
        raise DataError(f"{source}: there is no such file or folder.")
    if address is not None and (
        urlsplit(address).scheme not in ("http", "https") or re.search(r"\s", address)
    ):
        raise DataError(f"address: {address!r} is no address; it begins with http:// or https://.")
    if public.name == "openmoji":
        openmoji.renderer()


def _is_there(public: PublicSet, out: Path, settings: dict[str, Any]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record: Any = None
    with suppress(OSError, ValueError):
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.get("name") != public.name:
        raise DataError(f"{out} is not empty and does not hold {public.name} from an earlier download.")
    if any(record.get(key) != value for key, value in settings.items()):
        other = ", ".join(f"{key} {record.get(key)}" for key in settings)
        raise DataError(f"{out} holds {public.name} with {other}; choose another folder.")
    return True


# ------------------------------------------------------------------------------------------------------------
# Making it


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """OUT.download, for one process at a time; kept when something fails, but for what was unpacked."""
    work = out.with_name(f"{out.name}.download")
    lock = filelock.FileLock(work / ".lock", timeout=0)
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise DataError(f"{work}: another process is downloading to {out}; wait for it.") from None
    except OSError as error:
        raise DataError(f"{work} cannot be made ({error.strerror}); choose another folder.") from error
    done = False
    try:
        _remove(work / "made", work / "unpacked")
        yield work
        done = True
    finally:
        _remove(work / "made", work / "unpacked")
        lock.release()
        (work / ".lock").unlink(missing_ok=True)
        if done:
            _remove(work)
        with suppress(OSError):  # there is something that a later call can use
            work.rmdir()


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _removing_what_is_wrong(given: Path, origin: dict[str, Any]) -> Iterator[None]:
    """What was fetched and is no archive, or one of something else, must not be found by the next call."""
    try:
        yield
    except ArchiveError as error:
        if "address" not in origin:
            raise
        forget(given)
        raise DataError(
            f"{error} It came from {origin['address']} and was removed; the same command fetches it again."
        ) from None


def _material(
    public: PublicSet,
    work: Path,
    source: str | Path | None,
    address: str | None,
    sha256: str | None,
    say: Say,
    **patience: float,
) -> tuple[Path, dict[str, Any]]:
    """The archive or folder that the set is made from, and what is to be recorded of it.

    Raises:
        DataError: It cannot be fetched, or its checksum is not the one it must have.
    """
    if source is not None:
        given, origin = Path(source), {"source": str(Path(source).resolve())}
    elif address is None and public.npm is not None:
        given, origin = openmoji.npm_pack(public.npm, work), {"npm": public.npm}
        sha256 = sha256 or public.sha256
    else:
        address = address or str(public.address)
        given, origin = work / f"{public.name}.tar.gz", {"address": address}
        if address == public.address:
            sha256 = sha256 or public.sha256
        fetch(address, given, say=say, **patience)  # type: ignore[arg-type]
    if given.is_dir():
        return given, origin
    with given.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    sha256 = sha256.lower() if sha256 else None
    if sha256 is not None and found != sha256:
        if source is None:
            forget(given)  # else the same command would find it again
        raise DataError(
            f"{origin.get('address', given)}: its SHA-256 is {found}, and should be {sha256}: it is "
            "damaged, or another version. Nothing of it was kept."
        )
    return given, origin | {
        "bytes": given.stat().st_size,
        "sha256": found,
        "sha256_checked": found in (sha256, public.sha256),
    }


def _make(public: PublicSet, given: Path, made: Path, unpacked: Path, settings: dict[str, Any]) -> list[str]:
    """Write the set to `made`; sentences about what was left out."""
    if given.is_file() and public.name == "cityscapes":
        raise DataError(f"{given} is a file. {cityscapes.HOW_TO_GET_IT}")
    if given.is_file():
        unpack(given, unpacked)
        given = _inner(unpacked)
    if public.name not in RENDERED:
        given.rename(made)
        return []
    made.mkdir()
    if public.name == "cityscapes":
        return cityscapes.write_cityscapes(given, made, size=settings["size_px"])
    return openmoji.write_openmoji(given, made, size=settings["size_px"], layout=settings["layout"])


def _inner(folder: Path) -> Path:
    """A folder, or the only one in it: `facades.tar.gz` holds a folder `facades`."""
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in SPLITS:
        return inside[0]
    return folder


def _counted(made: Path, given: Path) -> str:
    """How many pairs of each split there are, in words."""
    try:
        found = find_pairs(DataConfig(path=str(made)))
    except DataError:
        raise ArchiveError(f"{given} holds no pairs of images.") from None
    counts = {split: len(found.split(split)) for split in SPLITS}
    return ", ".join(f"{count} {split}" for split, count in counts.items() if count)


def _record(public: PublicSet, made: Path, origin: dict[str, Any], settings: dict[str, Any]) -> None:
    record = {
        "name": public.name,
        **origin,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **settings,
        "about": public.about,
        "direction": public.direction,
        "licence": public.licence,
    }
    (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _move(made: Path, out: Path) -> None:
    try:
        if out.exists():
            out.rmdir()  # an empty one
        made.rename(out)
    except OSError as error:
        raise DataError(f"{out} cannot be made ({error.strerror}); choose another folder.") from error


def say_some(sentences: list[str], say: Say) -> None:
    """The first few, and how many more there are."""
    for sentence in sentences[:MOST_SAID]:
        say(sentence)
    if len(sentences) > MOST_SAID:
        say(f"... and {len(sentences) - MOST_SAID} more like these.")
