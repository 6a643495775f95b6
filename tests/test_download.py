"""Public sets from a server that breaks, changes and lies; nothing here is fetched from the authors."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import shutil
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from PIL import Image

from conftest import write_pairs
from pairloom import presets
from pairloom.config import DataConfig
from pairloom.data import find_pairs
from pairloom.data.download import SETS, download
from pairloom.data.pairs import DataError
from pairloom.formats import read_image

# ------------------------------------------------------------------------------------------------------------
# A server on this machine


@dataclass
class Site:
    """What the server does; a test changes it while it runs."""

    body: bytes = b""
    etag: str | None = '"one"'
    modified: str | None = None
    kind: str = "application/x-gzip"
    cuts: list[int] = field(default_factory=list)
    """After how many bytes of its body the next answers break off."""
    resets: bool = False
    """Break off as a crash does, not as an orderly end."""
    stalls: bool = False
    """Do not break off, but send nothing more for a second."""
    statuses: list[int] = field(default_factory=list)
    """Status codes of the next answers."""
    ranges: bool = True
    conditions: bool = True
    """Whether If-Range is understood."""
    length: bool = True
    asked: list[dict[str, str]] = field(default_factory=list)
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(dict(request.headers))
        if self.statuses:
            request.send_error(self.statuses.pop(0))
            return
        start = self.start(request.headers)
        if start is not None and start >= len(self.body):
            request.send_error(416)
            return
        rest = self.body[start or 0 :]
        request.send_response(200 if start is None else 206)
        request.send_header("Content-Type", self.kind)
        if start is not None:
            size = len(self.body)
            request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in (("ETag", self.etag), ("Last-Modified", self.modified)):
            if value is not None:
                request.send_header(name, value)
        if self.length:
            request.send_header("Content-Length", str(len(rest)))
        else:
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        self.send(request, rest)

    def start(self, headers: Any) -> int | None:
        """Where the range that was asked for begins, if it is to be granted."""
        found = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        condition = headers.get("If-Range")
        same = condition is None or condition in (self.etag, self.modified) or not self.conditions
        return int(found[1]) if found and self.ranges and same else None

    def send(self, request: BaseHTTPRequestHandler, rest: bytes) -> None:
        cut = self.cuts.pop(0) if self.cuts else None
        sent = rest[:cut]
        if self.length:
            request.wfile.write(sent)
        else:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
            request.wfile.write(b"0\r\n\r\n" if cut is None else b"")
        if cut is None:
            return
        if self.stalls:
            release.wait(1)
        if self.resets:
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
        request.close_connection = True


release = threading.Event()
"""Set when a stalled answer need not wait any longer."""


@pytest.fixture
def site(pairs: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Site(body=pairs)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                served.answer(self)
            except OSError:  # the other side went away, or was cut off
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except OSError:
                self.rfile.close()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    release.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # they are waited for
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_port}/facades.tar.gz"
    yield served
    release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def tarred(folder: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname=name)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A set as the authors pack it: one folder, with some bytes that do not compress."""
    root = write_pairs(tmp_path_factory.mktemp("facades"), train=3, val=2, test=1)
    (root / "notes.bin").write_bytes(random.Random(0).randbytes(400_000))
    return tarred(root, "facades")


def get(site: Site, out: Path, **more: Any) -> list[str]:
    """Download facades from the site; what was said."""
    said: list[str] = []
    arguments = {"address": site.address, "say": said.append, "wait_seconds": 0.001, "timeout_seconds": 20}
    assert download("facades", out, **{**arguments, **more}) == out
    return said


def fails(site: Site, out: Path, words: str, **more: Any) -> str:
    with pytest.raises(DataError, match=words) as error:
        get(site, out, **more)
    assert "\n" not in str(error.value)
    assert not out.exists()
    return str(error.value)


def ranges(site: Site) -> list[str | None]:
    return [headers.get("Range") for headers in site.asked]


def part(out: Path) -> Path:
    return out.with_name(f"{out.name}.download") / "facades.tar.gz.part"


# ------------------------------------------------------------------------------------------------------------
# Fetching


def test_a_set_is_fetched_unpacked_and_recorded(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "set"
    said = get(site, out)
    found = find_pairs(DataConfig(path=str(out)))
    assert [len(found.split(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert any("3 train, 2 val, 1 test" in line for line in said)
    assert said[-1].startswith(f"pairloom train {out} --out runs/facades --preset facades")
    record = json.loads((out / "SOURCE.json").read_text())
    assert record["address"] == site.address
    assert record["sha256"] == hashlib.sha256(site.body).hexdigest()
    assert (record["bytes"], record["sha256_checked"]) == (len(site.body), False)
    assert record["date"].startswith("20") and "Tylecek" in record["licence"]
    assert [p.name for p in out.parent.iterdir()] == ["set"], "nothing else is left"
    assert len(site.asked) == 1


def test_a_cut_connection_goes_on_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000, 50_000, 0, 130_000]
    said = get(site, tmp_path / "set")
    assert ranges(site) == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=280000-"]
    assert [headers.get("If-Range") for headers in site.asked[1:]] == ['"one"'] * 4
    assert any("connection broke" in line.lower() and "100 kB" in line for line in said)
    assert (tmp_path / "set" / "notes.bin").stat().st_size == 400_000


@pytest.mark.parametrize("how", ["resets", "stalls"])
def test_a_crash_and_a_silence_are_a_cut_connection(site: Site, tmp_path: Path, how: str) -> None:
    site.cuts = [200_000]
    setattr(site, how, True)
    get(site, tmp_path / "set", timeout_seconds=0.2 if how == "stalls" else 20)
    assert len(site.asked) == 2
    assert (tmp_path / "set" / "notes.bin").stat().st_size == 400_000


def test_the_same_call_again_goes_on(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000] + [0] * 5
    words = fails(site, tmp_path / "set", "6 times in a row")
    assert "100 kB of it are in" in words and str(part(tmp_path / "set")) in words
    assert part(tmp_path / "set").stat().st_size == 100_000
    site.asked.clear()
    get(site, tmp_path / "set")
    assert ranges(site) == ["bytes=100000-"]


def test_an_interruption_keeps_what_is_there(site: Site, tmp_path: Path) -> None:
    site.cuts = [70_000]

    def interrupt(text: str) -> None:
        if "connection broke" in text.lower():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(site, tmp_path / "set", say=interrupt)
    get(site, tmp_path / "set")
    assert ranges(site) == [None, "bytes=70000-"]


def test_what_is_whole_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    """Killed after the last byte, before it was unpacked."""
    out = tmp_path / "set"
    site.cuts = [100_000] + [0] * 5
    fails(site, out, "in a row")
    part(out).write_bytes(site.body)
    site.asked.clear()
    get(site, out)
    assert site.asked == []


def test_a_server_without_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    site.cuts, site.ranges = [100_000, 200_000], False
    said = get(site, tmp_path / "set")
    assert ranges(site) == [None, "bytes=100000-", "bytes=200000-"]
    assert sum("from the beginning" in line for line in said) == 2
    assert (tmp_path / "set" / "notes.bin").stat().st_size == 400_000


DATE = "Wed, 01 Jan 2020 00:00:00 GMT"


@pytest.mark.parametrize(
    ("etag", "modified", "condition"),
    [('"strong"', DATE, '"strong"'), ('W/"weak"', DATE, DATE), (None, DATE, DATE), (None, None, None)],
)
def test_each_kind_of_mark_lets_it_go_on(
    site: Site, tmp_path: Path, etag: str | None, modified: str | None, condition: str | None
) -> None:
    site.etag, site.modified, site.cuts = etag, modified, [100_000]
    get(site, tmp_path / "set")
    assert ranges(site) == [None, "bytes=100000-"]
    assert site.asked[1].get("If-Range") == condition


def other_pairs(tmp_path: Path, train: int) -> bytes:
    root = write_pairs(tmp_path / "other", train=train)
    (root / "notes.bin").write_bytes(random.Random(train).randbytes(300_000 if train == 1 else 500_000))
    return tarred(root, "facades")


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("train", [1, 4])
def test_a_file_that_changed_is_fetched_anew(
    site: Site, tmp_path: Path, conditions: bool, train: int
) -> None:
    """Also from a server that does not understand If-Range, and also when it became shorter than the part."""
    site.cuts = [350_000] + [0] * 5
    fails(site, tmp_path / "set", "in a row")
    site.body, site.etag, site.conditions = other_pairs(tmp_path, train), '"two"', conditions
    get(site, tmp_path / "set")
    assert len(list((tmp_path / "set" / "train").iterdir())) == train


def test_another_address_is_another_file(site: Site, tmp_path: Path) -> None:
    site.cuts = [100_000] + [0] * 5
    fails(site, tmp_path / "set", "in a row")
    site.asked.clear()
    get(site, tmp_path / "set", address=site.address + "?mirror")
    assert ranges(site) == [None]


def test_without_a_length_the_end_is_still_told_from_a_cut(site: Site, tmp_path: Path) -> None:
    site.length, site.cuts = False, [100_000]
    get(site, tmp_path / "set")
    assert ranges(site) == [None, "bytes=100000-"]
    assert (tmp_path / "set" / "notes.bin").stat().st_size == 400_000


def test_a_server_that_is_busy_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    said = get(site, tmp_path / "set")
    assert len(site.asked) == 3
    assert any("503" in line for line in said)


# ------------------------------------------------------------------------------------------------------------
# What is not the file


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_one_sentence_at_once(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status]
    fails(site, tmp_path / "set", f"the server answered {status} .* give another --address, or a file")
    assert len(site.asked) == 1
    assert list(tmp_path.iterdir()) == []


PAGE = b"<!DOCTYPE html><html><head><title>\n Moved for good </title></head><body>Sorry</body></html>"


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_one_sentence(site: Site, tmp_path: Path, kind: str) -> None:
    site.body, site.kind = PAGE, kind
    words = fails(site, tmp_path / "set", "is a web page with the title 'Moved for good', not an archive")
    assert words.startswith(site.address)
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_in_the_middle_destroys_nothing(site: Site, tmp_path: Path) -> None:
    """A hotel's login page answers every address."""
    site.cuts = [100_000] + [0] * 5
    fails(site, tmp_path / "set", "in a row")
    whole = site.body, site.etag, site.kind
    site.body, site.etag, site.kind = PAGE, None, "text/html"
    site.ranges = False
    fails(site, tmp_path / "set", "is a web page")
    site.body, site.etag, site.kind = whole
    site.ranges = True
    site.asked.clear()
    get(site, tmp_path / "set")
    assert ranges(site) == ["bytes=100000-"]


def test_what_is_no_archive_is_one_sentence(site: Site, tmp_path: Path) -> None:
    site.body = b"PK\x03\x04" + bytes(5000)
    fails(site, tmp_path / "set", r"the answer is no \.tar or \.tar\.gz \(it begins with")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_one_sentence(site: Site, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/facades.tar.gz"
        fails(site, tmp_path / "set", "cannot be reached .* 6 times in a row", address=address)


def test_an_archive_that_is_cut_at_its_address_is_not_kept(site: Site, tmp_path: Path) -> None:
    whole = site.body
    site.body = whole[:200_000]
    fails(site, tmp_path / "set", r"ends in the middle.* was removed; the same command fetches it again\.$")
    assert list(tmp_path.iterdir()) == []
    site.body = whole
    get(site, tmp_path / "set")


def test_an_archive_without_pairs_is_not_the_set(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "readme.txt").write_text("nothing here")
    site.body = tarred(tmp_path / "x", "x")
    fails(site, tmp_path / "set", "holds no pairs of images")


def test_an_archive_that_leads_elsewhere_writes_nothing(site: Site, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))
    site.body = buffer.getvalue()
    fails(site, tmp_path / "in" / "set", "leads out of its folder")
    assert [p.name for p in tmp_path.rglob("*")] == ["in"]


def test_a_checksum_that_is_known_is_checked(site: Site, tmp_path: Path) -> None:
    right = hashlib.sha256(site.body).hexdigest()
    fails(site, tmp_path / "set", f"its SHA-256 is {right}, and should be {'0' * 64}", sha256="0" * 64)
    get(site, tmp_path / "set", sha256=right.upper())
    assert json.loads((tmp_path / "set" / "SOURCE.json").read_text())["sha256_checked"] is True
    assert len(site.asked) == 2, "what is wrong is not kept"


def test_a_full_disk_is_told_before_it_is_full(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500_000))
    fails(site, tmp_path / "set", r"500 kB are free, and .* needs .*; make room")


# ------------------------------------------------------------------------------------------------------------
# Files that one has, and folders that are there


def test_a_file_that_one_has_is_used(site: Site, tmp_path: Path) -> None:
    mine = tmp_path / "mine.tgz"
    mine.write_bytes(site.body)
    get(site, tmp_path / "set", source=mine, address=None)
    record = json.loads((tmp_path / "set" / "SOURCE.json").read_text())
    assert (record["source"], record["bytes"]) == (str(mine), len(site.body))
    assert mine.read_bytes() == site.body
    assert site.asked == []
    mine.write_bytes(site.body[:1000])
    fails(site, tmp_path / "again", "ends in the middle", source=mine, address=None)
    assert mine.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "nothing"}, r"no public set 'nothing'; there are facades, maps, .*openmoji"),
        ({"source": "missing.tgz"}, r"missing\.tgz: there is no such file"),
        ({"source": "."}, r"is a folder: if it holds facades, unpacked, use it as it is: pairloom train \."),
        ({"source": "a", "address": "http://b"}, "exclude each other"),
        ({"address": "ftp://127.0.0.1/a.tgz"}, "begins with http:// or https://"),
        ({"address": "http://127.0.0.1/a b.tgz"}, "is no address"),
        ({"size": 128}, "facades comes as it is"),
        ({"out": "."}, "name a new folder"),
        ({"name": "cityscapes"}, r"registered users.*leftImg8bit_trainvaltest\.zip"),
        ({"name": "cityscapes", "source": __file__}, "is a file. Cityscapes is"),
        ({"name": "cityscapes", "source": ".", "size": 0}, "size is 0 pixels"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        download(**{"name": "facades", "out": tmp_path / "set", "say": lambda text: None, **arguments})
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_there_is_not_made_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()  # an empty one is fine
    get(site, tmp_path / "set")
    assert get(site, tmp_path / "set") == [f"{tmp_path / 'set'} holds facades already."]
    assert len(site.asked) == 1
    with pytest.raises(DataError, match="does not hold maps"):
        download("maps", tmp_path / "set", address=site.address, say=lambda text: None)


def test_a_folder_with_something_else_is_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and does not hold facades"):
        get(site, tmp_path / "set")
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["mine.txt"]
    assert site.asked == []


def test_two_at_once_do_not_meet(site: Site, tmp_path: Path) -> None:
    work = tmp_path / "set.download"
    work.mkdir()
    with filelock.FileLock(work / ".lock"):
        fails(site, tmp_path / "set", "another process is downloading")
    get(site, tmp_path / "set")


def test_what_a_killed_call_left_behind_is_cleared(site: Site, tmp_path: Path) -> None:
    left = tmp_path / "set.download" / "unpacked" / "facades"
    left.mkdir(parents=True)
    (left / "1.jpg").write_bytes(b"half")
    get(site, tmp_path / "set")
    assert not (tmp_path / "set" / "1.jpg").exists()
    assert not left.exists()


# ------------------------------------------------------------------------------------------------------------
# The list, and Cityscapes


@pytest.mark.parametrize("name", SETS)
def test_the_list_agrees_with_the_presets(name: str) -> None:
    public = SETS[name]
    assert presets.get(public.preset).data.direction == public.direction
    assert public.licence and public.about.startswith("A: ")
    assert public.address is None or public.address.startswith("http")


def cityscapes(root: Path, *, photos: int = 2) -> Path:
    """A copy with the folders and the names of the real one: 64 x 32 pixels, two colours of labels."""
    rng = np.random.default_rng(0)
    for split, city in (("train", "aachen"), ("val", "ulm"), ("test", "berlin")):
        for i in range(photos):
            stem = f"{city}_{i:06}_000019"
            photo = rng.integers(0, 256, (32, 64, 3), np.uint8)
            labels = np.full((32, 64, 4), (128, 64, 128, 255), np.uint8)
            labels[:, 21 + i :, :3] = (70, 130, 180)
            for part_, ending, array in (
                ("leftImg8bit", "leftImg8bit", photo),
                ("gtFine", "gtFine_color", labels),
            ):
                path = root / part_ / split / city / f"{stem}_{ending}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
            (root / "gtFine" / split / city / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def test_cityscapes_is_built_from_ones_own_copy(tmp_path: Path) -> None:
    source = cityscapes(tmp_path / "mine")
    said: list[str] = []
    out = download("cityscapes", tmp_path / "set", source=source, size=16, say=said.append)
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*.png"))
    assert files == [f"{s}_{i:06}_000019.png" for s in ("train/aachen", "val/ulm") for i in range(2)]
    pair = read_image(out / files[0])
    assert pair.shape == (16, 32, 3)
    colours = {tuple(map(int, colour)) for colour in pair[:, 16:].reshape(-1, 3)}
    assert colours == {(128, 64, 128), (70, 130, 180)}, "labels on the right, their colours exact"
    assert len(np.unique(pair[:, :16])) > 100
    record = json.loads((out / "SOURCE.json").read_text())
    assert (record["size_px"], record["source"]) == (16, str(source))
    assert "2 train, 2 val" in said[-2]
    with pytest.raises(DataError, match="holds cityscapes with size_px 16; choose another folder"):
        download("cityscapes", out, source=source, say=said.append)


def test_a_copy_of_cityscapes_with_gaps(tmp_path: Path) -> None:
    source = cityscapes(tmp_path / "mine", photos=8)
    for labels in sorted((source / "gtFine" / "train" / "aachen").glob("*color.png"))[1:]:
        labels.unlink()
    said: list[str] = []
    out = download("cityscapes", tmp_path / "set", source=source, size=16, say=said.append)
    assert sum("has no labels" in line for line in said) == 5
    assert "... and 2 more like these." in said
    assert len(list((out / "train").iterdir())) == 1


def test_what_is_no_copy_of_cityscapes(tmp_path: Path) -> None:
    source = cityscapes(tmp_path / "mine")
    shutil.rmtree(source / "gtFine")
    with pytest.raises(DataError, match="holds no folder gtFine"):
        download("cityscapes", tmp_path / "set", source=source, say=lambda text: None)
    (source / "gtFine").mkdir()
    with pytest.raises(DataError, match=r"no photo .* with labels"):
        download("cityscapes", tmp_path / "set", source=source, say=lambda text: None)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
