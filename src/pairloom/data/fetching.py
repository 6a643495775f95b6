"""One large file from a web server, however often the connection breaks.

What has arrived lies in FILE.part; FILE.json says what it is a part of. The next request asks for the
rest with HTTP's Range, on condition that the file there is still the same; where the server cannot do that,
or the file has changed, it starts again.

Source: RFC 9110, Sections 8.8 (validators), 13.1.5 (If-Range), 14.2 (Range) and 15.3.7 (206).
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pairloom.data.archives import in_words, is_archive
from pairloom.data.pairs import DataError

Say = Callable[[str], None]

CHUNK = 1 << 16
LONGEST_WAIT_SECONDS = 60.0
SENT = {"User-Agent": "pairloom", "Accept-Encoding": "identity"}
WAITING_HELPS = (408, 425, 429, 500, 502, 503, 504)
"""Status codes after which the same request may succeed."""


class _Broken(Exception):
    """This attempt has failed, another one may succeed; in words."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What the bytes in FILE.part are the beginning of."""

    address: str
    total_bytes: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else the date."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.last_modified

    @classmethod
    def of(cls, address: str, headers: Any, total_bytes: int | None) -> _Part:
        return cls(address, total_bytes, headers.get("ETag"), headers.get("Last-Modified"))

    @classmethod
    def read(cls, path: Path) -> _Part | None:
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # absent, or cut while it was written
            return None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def fetch(
    address: str,
    path: Path,
    *,
    say: Say,
    timeout_seconds: float = 30.0,
    tries: int = 6,
    wait_seconds: float = 1.0,
) -> None:
    """Fetch a .tar or .tar.gz to `path`, going on from what an earlier call has left there.

    Args:
        address: An http or https address.
        path: The file; beside it lies FILE.part until it is whole, and FILE.json.
        say: Told in a sentence when the connection breaks or the file starts again.
        timeout_seconds: Without a byte for so long, the connection counts as broken.
        tries: Give up after so many attempts in a row that brought nothing.
        wait_seconds: Before the second attempt; doubled before each further one.

    Raises:
        DataError: The address cannot be reached, has no such file, or answers with something that is no
            archive; or the disk is full.
    """
    download = _Download(address, path, say, timeout_seconds)
    failures = 0
    while True:
        before = download.have
        try:
            download.go_on()
            return
        except _Broken as broken:
            failures = 1 if download.have > before else failures + 1
            if failures >= tries:
                raise DataError(
                    f"{address}: {broken}, {failures} times in a row. {download.kept()} Check the connection "
                    "and the address; the same command goes on from there."
                ) from None
            wait = min(wait_seconds * 2 ** (failures - 1), LONGEST_WAIT_SECONDS)
            say(f"{broken} at {in_words(download.have)}; trying again in {wait:.0f} s.")
            time.sleep(wait)


def forget(path: Path) -> None:
    """Remove a file that was fetched, or its part, so that the next call begins at the beginning."""
    for name in (path.name, f"{path.name}.part", f"{path.name}.json"):
        path.with_name(name).unlink(missing_ok=True)


class _Download:
    def __init__(self, address: str, path: Path, say: Say, timeout_seconds: float) -> None:
        self._address, self._path, self._say, self._timeout = address, path, say, timeout_seconds
        self._bytes = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.json")
        known = _Part.read(self._note)
        if known is None or known.address != address:
            forget(path)

    @property
    def have(self) -> int:
        """Bytes of the file that are here."""
        return self._bytes.stat().st_size if self._bytes.exists() else 0

    def kept(self) -> str:
        return f"{in_words(self.have)} of it are in {self._bytes}." if self.have else "Nothing has arrived."

    def go_on(self) -> None:
        """One request, and the file under its name if that was the last of it.

        Raises:
            _Broken: Something is missing, and another request may bring it.
            DataError: See `fetch`.
        """
        if self._path.exists():
            return
        have, known = self.have, _Part.read(self._note)
        if known is None or known.total_bytes != have or not have:
            with self._ask(have, known) as answer:
                self._receive(answer, have, known)
        self._bytes.replace(self._path)

    def _ask(self, have: int, known: _Part | None) -> http.client.HTTPResponse:
        request = urllib.request.Request(self._address, headers=SENT)
        if have and known is not None:
            request.add_header("Range", f"bytes={have}-")
            if known.validator is not None:
                request.add_header("If-Range", known.validator)
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the file there is shorter than what is here
                forget(self._path)
                raise _Broken("The file at the address has changed") from None
            if error.code in WAITING_HELPS:
                raise _Broken(f"The server answered {error.code} {error.reason}") from None
            raise DataError(
                f"{self._address}: the server answered {error.code} {error.reason}. The file may have moved: "
                "give another --address, or a file that you have with --source."
            ) from None
        except urllib.error.URLError as error:
            raise _Broken(f"The address cannot be reached ({error.reason})") from None
        except (http.client.HTTPException, OSError) as error:
            raise _Broken(f"The address cannot be reached ({_words(error)})") from None
        return answer

    def _receive(self, answer: http.client.HTTPResponse, have: int, known: _Part | None) -> None:
        if answer.status == 206 and known is not None:
            start, total = have, self._rest(answer, have, known)
        else:
            start, total = 0, _content_length(answer)
        first = self._first(answer, start, total)
        if start == 0:
            if have:
                self._say(
                    "The server cannot go on in the middle, or the file has changed: from the beginning."
                )
            _Part.of(self._address, answer.headers, total).write(self._note)
        self._check_room(start, total)
        self._copy(answer, first, start, total)
        if total is not None and self.have < total:
            raise _Broken("The connection broke")

    def _rest(self, answer: http.client.HTTPResponse, have: int, known: _Part) -> int | None:
        """Bytes of the whole file, of which the answer is the rest.

        Raises:
            _Broken: It is the rest of another file, or another part.
        """
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
        total = int(found[2]) if found and found[2] != "*" else None
        now = _Part.of(self._address, answer.headers, known.total_bytes if total is None else total)
        same = now.total_bytes == known.total_bytes or known.total_bytes is None
        if now.etag and known.etag:
            same = same and now.etag == known.etag
        if found is None or int(found[1]) != have or not same:
            forget(self._path)
            raise _Broken("The file at the address has changed")
        return now.total_bytes

    def _first(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> bytes:
        """The first bytes of an answer, once it is sure that they belong to an archive."""
        if start:
            return _read(answer)
        first = b""
        while len(first) < 512 and (more := _read(answer)):
            first += more
        kind = answer.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml") or first.lstrip()[:1] == b"<":
            title = re.search(rb"<title[^>]*>\s*(.*?)\s*</title>", first, re.IGNORECASE | re.DOTALL)
            named = f" with the title {title[1][:100].decode('utf-8', 'replace')!r}" if title else ""
            raise DataError(
                f"{self._address}: the answer is a web page{named}, not an archive. Open the address in a "
                "browser to see what it says; give another --address, or a file that you have with --source."
            )
        if len(first) < min(512, total or 0):
            raise _Broken("The connection broke")
        if not is_archive(first):
            raise DataError(
                f"{self._address}: the answer is no .tar or .tar.gz (it begins with {first[:8]!r}). "
                "Give another --address, or a file that you have with --source."
            )
        return first

    def _check_room(self, start: int, total: int | None) -> None:
        """Room for the rest, and for the images in it, which compression makes hardly smaller."""
        needed = 0 if total is None else 2 * total - start
        free = shutil.disk_usage(self._path.parent).free
        if free < needed:
            raise DataError(
                f"{self._path.parent}: {in_words(free)} are free, and the file with what it unpacks to needs "
                f"{in_words(needed)}; make room or choose another folder."
            )

    def _copy(self, answer: http.client.HTTPResponse, chunk: bytes, start: int, total: int | None) -> None:
        with (
            _open(self._bytes, "ab" if start else "wb") as file,
            tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=self._path.name, disable=None
            ) as bar,
        ):
            while chunk:
                start += len(chunk)
                try:
                    file.write(chunk)
                except OSError as error:
                    raise _disk(self._bytes, error) from error
                bar.update(len(chunk))
                chunk = b"" if start == total else _read(answer)


def _open(path: Path, mode: str) -> Any:
    try:
        return path.open(mode, buffering=0)  # what has arrived is in the file, whatever happens next
    except OSError as error:
        raise _disk(path, error) from error


def _disk(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error.strerror}); make room, then give the same command.")


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK)  # not read: what came before a silence would be lost
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(f"The connection broke ({_words(error)})") from None


def _content_length(answer: http.client.HTTPResponse) -> int | None:
    with suppress(TypeError, ValueError):
        return int(answer.headers["Content-Length"])
    return None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
