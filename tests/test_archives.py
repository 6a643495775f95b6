"""Archives made by others: cut, damaged, leading elsewhere, swelling."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pairloom.data.archives import MOST_HEADER_BYTES, ArchiveError, in_words, unpack
from pairloom.data.pairs import DataError

NOISE = random.Random(0).randbytes(300_000)


def packed(*entries: tuple[str, bytes] | tarfile.TarInfo, compressed: bool = True) -> bytes:
    """A tar of files (name, content) and of headers alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if compressed else "w") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def special(kind: bytes, name: str = "a", target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def write(folder: Path, data: bytes) -> Path:
    path = folder / "archive.tar.gz"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_files_and_folders_come_out_as_they_are(tmp_path: Path, compressed: bool) -> None:
    long = "x" * 90 + "/" + "é" * 80 + ".jpg"
    archive = write(
        tmp_path,
        packed(("set/train/1.jpg", NOISE), ("./set/val/2.jpg", b"two"), (long, b""), compressed=compressed),
    )
    out = unpack(archive, tmp_path / "out")
    assert (out / "set" / "train" / "1.jpg").read_bytes() == NOISE
    assert (out / "set" / "val" / "2.jpg").read_bytes() == b"two"
    assert (out / long).read_bytes() == b""


def test_permissions_in_the_archive_do_not_matter(tmp_path: Path) -> None:
    folder, file = special(tarfile.DIRTYPE, "a"), tarfile.TarInfo("a/1.jpg")
    folder.mode, file.mode = 0, 0o4777
    out = unpack(write(tmp_path, packed(folder, file)), tmp_path / "out")
    assert (out / "a" / "1.jpg").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (packed(("ok", b"1"), ("../evil", b"x")), "leads out of its folder"),
        (packed(("ok", b"1"), ("a/../../evil", b"x")), "leads out of its folder"),
        (packed(("ok", b"1"), ("a\\..\\..\\evil", b"x")), "leads out of its folder"),
        (packed(("ok", b"1"), ("/tmp/evil", b"x")), "absolute path"),
        (packed(("ok", b"1"), ("C:evil", b"x")), "absolute path"),
        (packed(("ok", b"1"), ("\\evil", b"x")), "absolute path"),
        (packed(("ok", b"1"), special(tarfile.SYMTYPE, "a", "/etc")), "a link"),
        (packed(("ok", b"1"), special(tarfile.SYMTYPE, "a", "ok")), "a link"),
        (packed(("ok", b"1"), special(tarfile.LNKTYPE, "a", "ok")), "a link"),
        (packed(("ok", b"1"), special(tarfile.CHRTYPE)), "a device"),
        (packed(("ok", b"1"), special(tarfile.FIFOTYPE)), "a device"),
        (packed(("ok", b"1"), special(tarfile.GNUTYPE_SPARSE)), "a device or special file"),
        (packed(("ok", b"1"), special(b"Z")), "a device or special file"),
    ],
)
def test_what_leads_elsewhere_is_refused_and_nothing_is_kept(tmp_path: Path, data: bytes, words: str) -> None:
    archive = write(tmp_path, data)
    with pytest.raises(ArchiveError, match=words) as error:
        unpack(archive, tmp_path / "in" / "out")
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["archive.tar.gz", "in"]


def test_a_link_cannot_be_written_through(tmp_path: Path) -> None:
    data = packed(special(tarfile.SYMTYPE, "a", str(tmp_path)), ("a/evil", b"x"))
    with pytest.raises(ArchiveError, match="a link"):
        unpack(write(tmp_path, data), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def at_a_header(data: bytes) -> bytes:
    """Cut where the second file begins."""
    return data[: 512 + -(-len(NOISE) // 512) * 512]


def at_a_header_of_the_compressed(data: bytes) -> bytes:
    return gzip.compress(at_a_header(gzip.decompress(data)))


def without_checksum(data: bytes) -> bytes:
    return data[:-6]


@pytest.mark.parametrize(
    ("compressed", "cut"),
    [
        (True, half),
        (False, half),
        (False, at_a_header),
        (True, at_a_header_of_the_compressed),
        (False, lambda data: at_a_header(data) + b"n" * 100),
        (True, without_checksum),
        (True, lambda data: data[:5]),
    ],
)
def test_a_tar_cut_in_the_middle_is_one_sentence(
    tmp_path: Path, compressed: bool, cut: Callable[[bytes], bytes]
) -> None:
    """Where it is cut at a header, tarfile alone would take it for whole."""
    whole = packed(("1.jpg", NOISE), ("2.jpg", NOISE), compressed=compressed)
    archive = write(tmp_path, cut(whole))
    with pytest.raises(ArchiveError, match=r"ends in the middle: .* fetch it again\.$"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_found_in_headers_and_contents(tmp_path: Path) -> None:
    whole = packed(("1.jpg", NOISE), ("2.jpg", NOISE), compressed=False)
    second = len(at_a_header(whole))
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack(write(tmp_path, whole[:second] + b"\xff" * 512 + whole[second + 512 :]), tmp_path / "out")
    compressed = bytearray(gzip.compress(whole))
    compressed[-7] ^= 1  # in the checksum, behind the end of the tar
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack(write(tmp_path, bytes(compressed)), tmp_path / "out")
    compressed[len(compressed) // 2 : len(compressed) // 2 + 400] = bytes(400)
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack(write(tmp_path, bytes(compressed)), tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"PK\x03\x04" + bytes(600), NOISE])
def test_what_is_no_tar_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"is no \.tar or \.tar\.gz"):
        unpack(write(tmp_path, data), tmp_path / "out")


def test_what_is_compressed_but_no_tar_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"is damaged|ends in the middle"):
        unpack(write(tmp_path, gzip.compress(NOISE)), tmp_path / "out")
    with pytest.raises(ArchiveError, match="ends in the middle"):
        unpack(write(tmp_path, gzip.compress(b"")), tmp_path / "out2")


def test_a_bomb_of_size_is_refused_before_it_is_written(tmp_path: Path) -> None:
    archive = write(tmp_path, packed(("1.jpg", bytes(30_000_000))))
    assert archive.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match=r"would unpack to more than 1\.0 MB"):
        unpack(archive, tmp_path / "out", most_bytes=1_000_000)
    assert not (tmp_path / "out").exists()


def test_a_bomb_of_many_files_is_refused(tmp_path: Path) -> None:
    archive = write(tmp_path, packed(*((f"{i}.jpg", b"") for i in range(101))))
    with pytest.raises(ArchiveError, match="more than 100 files"):
        unpack(archive, tmp_path / "out", most_files=100)
    assert len(list(unpack(archive, tmp_path / "out", most_files=101).iterdir())) == 101


def test_a_bomb_in_a_name_is_not_read_into_memory(tmp_path: Path) -> None:
    """A name may be of any length, and tarfile reads it as a whole; after the end anything may follow."""
    header = special(tarfile.GNUTYPE_LONGNAME, "././@LongLink")
    header.size = 2 * MOST_HEADER_BYTES
    name = header.tobuf(tarfile.GNU_FORMAT) + b"n" * header.size
    with pytest.raises(ArchiveError, match="holds more than its files"):
        unpack(write(tmp_path, gzip.compress(name, 1)), tmp_path / "out")
    tail = packed(("1.jpg", b"1"), compressed=False) + bytes(20 << 20)
    with pytest.raises(ArchiveError, match="holds more than its files"):
        unpack(write(tmp_path, gzip.compress(tail, 1)), tmp_path / "out")


def test_a_size_below_zero_is_damage(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("1.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12  # the binary form of -1
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    header[148:156] = b"%06o\0 " % checksum
    with pytest.raises(ArchiveError, match=r"is damaged|special file"):
        unpack(write(tmp_path, bytes(header) + bytes(1024)), tmp_path / "out")


def test_a_name_that_is_both_file_and_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unpacking failed"):
        unpack(write(tmp_path, packed(("a", b"1"), ("a/b", b"2"))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_unpacks_only_into_a_new_folder(tmp_path: Path) -> None:
    archive = write(tmp_path, packed(("a", b"1")))
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="is there already"):
        unpack(archive, tmp_path / "mine")
    assert (tmp_path / "mine").exists()


def test_sizes_for_people() -> None:
    assert [in_words(n) for n in (0, 999, 1500, 29_300_000, 2_163_000_000, 10**13)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "29.3 MB",
        "2.2 GB",
        "10000 GB",
    ]
