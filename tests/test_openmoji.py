"""OpenMoji as pairs: from a hand-written package, and once from the real one where npm can fetch it."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairloom.config import DataConfig
from pairloom.data import find_pairs
from pairloom.data.download import SETS, download
from pairloom.data.openmoji import MOST_SHARING, group_of, npm_pack, split_of
from pairloom.data.pairs import DataError
from pairloom.formats import read_image

pytest.importorskip("resvg_py", reason="resvg-py renders the emoji: pip install 'pairloom[openmoji]'")

LINES = '<g id="line" fill="none" stroke="#000000" stroke-width="4">{}</g>'
FRAME = '<path d="M4,16H68V56H4Z"/>'


def svg(*parts: str) -> str:
    return f'<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def circle(radius: int, fill: str = "none") -> str:
    return f'<circle cx="36" cy="36" r="{radius}" fill="{fill}"/>'


def emoji(root: Path, name: str, drawing: str, *colours: str) -> None:
    lines = LINES.format(drawing)
    for side, text in (("black", svg(lines)), ("color", svg(*colours, lines))):
        (root / side / "svg").mkdir(parents=True, exist_ok=True)
        (root / side / "svg" / f"{name}.svg").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("npm") / "package"
    for i in range(24):
        emoji(root, f"1F6{i:02X}", circle(8 + i), circle(8 + i, "#fcea2b"))
    for tone, colour in (("", "#fcea2b"), ("-1F3FB", "#fadcbc"), ("-1F3FF", "#6a462f")):
        emoji(
            root,
            f"1F44B{tone}",
            "<path d='M20,20H50V60H20Z'/>",
            f"<path d='M20,20H50V60H20Z' fill='{colour}'/>",
        )
    for name, colour in (("1F534", "#ea5a47"), ("1F535", "#92d3f5")):  # circles of one drawing
        emoji(root, name, circle(33), circle(33, colour))
    for i in range(MOST_SHARING + 1):
        emoji(root, f"1F1E6-1F1{i:02X}", FRAME, f'<path d="M4,16H{10 + 3 * i}V56H4Z" fill="#d22f27"/>')
    emoji(root, "1F195", "")
    emoji(root, "1F999", circle(5))
    (root / "black" / "svg" / "1F999.svg").unlink()
    emoji(root, "1FBAD", circle(6))
    (root / "color" / "svg" / "1FBAD.svg").write_text("<svg", encoding="utf-8")
    (root / "package.json").write_text(json.dumps({"name": "openmoji", "version": "17.9.9"}))
    (root / "LICENSE.txt").write_text("Attribution-ShareAlike 4.0 International\n")
    return root


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def rendered(package: Path, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("openmoji") / "set"
    return download("openmoji", out, source=package, size=48, say=said.append)


def split_by_name(root: Path) -> dict[str, str]:
    return {pair.name: pair.split for pair in find_pairs(DataConfig(path=str(root))).pairs}


def test_a_pair_is_the_drawing_and_the_picture_on_white(rendered: Path) -> None:
    splits = split_by_name(rendered)
    pair = read_image(rendered / splits["1F610"] / "1F610.png")
    assert pair.shape == (48, 96, 3)
    drawing, picture = pair[:, :48].astype(int), pair[:, 48:].astype(int)
    assert (drawing[0, 0] == 255).all() and (picture[0, 0] == 255).all()
    assert np.ptp(drawing, axis=2).max() == 0, "black, white and what is between"
    assert drawing.min() == 0
    assert picture[24, 24].tolist() == [0xFC, 0xEA, 0x2B]
    assert (drawing[24, 24] == 255).all()
    black = (drawing == 0).all(axis=2)
    assert black.sum() > 50
    assert (picture[black] == 0).all(), "the lines are at the same place"


def test_what_cannot_be_learned_is_left_out_and_told(rendered: Path, said: list[str]) -> None:
    names = split_by_name(rendered)
    assert len(names) == 24 + 3 + 2
    assert not any(name.startswith("1F1E6") for name in names)
    assert "1F195 was left out: its line drawing is empty." in said
    assert "1F999 was left out: it has only one of the two sides." in said
    assert any(f"{MOST_SHARING + 1} emoji, such as flags, were left out" in line for line in said)
    assert any("1FBAD was left out: it cannot be rendered" in line for line in said)
    assert said[-1] == f"pairloom train {rendered} --out runs/openmoji --preset edges2shoes    # AtoB"


def test_variants_and_twins_stay_in_one_split(rendered: Path) -> None:
    splits = split_by_name(rendered)
    assert len({splits[f"1F44B{tone}"] for tone in ("", "-1F3FB", "-1F3FF")}) == 1
    assert splits["1F534"] == splits["1F535"], "one drawing"
    assert set(splits.values()) == {"train", "val", "test"}


def test_the_split_depends_on_neither_size_nor_layout(rendered: Path, package: Path, tmp_path: Path) -> None:
    out = download(
        "openmoji", tmp_path / "set", source=package.parent, size=20, layout="folders", say=lambda text: None
    )
    found = find_pairs(DataConfig(path=str(out)))
    assert found.layout == "two folders"
    assert not found.unpaired
    assert {pair.name: pair.split for pair in found.pairs} == split_by_name(rendered)
    with Image.open(found.pairs[0].source.path) as image:
        assert image.size == (20, 20)
    assert found.pairs[0].source.path.parts[-3] == "A"


def test_the_licence_goes_with_the_images(rendered: Path) -> None:
    text = (rendered / "LICENSE.txt").read_text()
    for part in (
        "OpenMoji, version 17.9.9",
        "CC BY-SA 4.0",
        "https://openmoji.org",
        "48 x 48",
        "Attribution-S",
    ):
        assert part in text
    record = json.loads((rendered / "SOURCE.json").read_text())
    assert (record["size_px"], record["layout"]) == (48, "side-by-side")


def test_the_packed_package_is_read_too(rendered: Path, package: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(package, arcname="package")
    (tmp_path / "openmoji.tgz").write_bytes(buffer.getvalue())
    out = download(
        "openmoji", tmp_path / "set", source=tmp_path / "openmoji.tgz", size=48, say=lambda text: None
    )
    assert split_by_name(out) == split_by_name(rendered)
    assert json.loads((out / "SOURCE.json").read_text())["sha256_checked"] is False
    assert sorted(p.name for p in tmp_path.iterdir()) == ["openmoji.tgz", "set"]


def test_mistakes_are_one_sentence(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: str, source: Path = package, size: int = 48) -> None:
        with pytest.raises(DataError, match=words) as error:
            download("openmoji", tmp_path / "set", source=source, size=size, say=lambda text: None)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "set").exists()

    (tmp_path / "empty" / "black" / "svg").mkdir(parents=True)
    fails("is no OpenMoji package: it holds no folders", source=tmp_path / "empty")
    (tmp_path / "empty" / "color" / "svg").mkdir(parents=True)
    fails("no file in black/svg has the name", source=tmp_path / "empty")
    emoji(tmp_path / "empty", "1F600", "<circle")
    fails(r"none of 1 emoji could be rendered\. 1F600 was left out", source=tmp_path / "empty")
    fails("size is 8 pixels; an emoji can be rendered at 16 to 2048", size=8)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    fails(r"is not installed: pip install 'pairloom\[openmoji\]'")


@pytest.mark.parametrize(
    ("code", "group"),
    [
        ("1F600", "1F600"),
        ("1F44B-1F3FD", "1F44B"),
        ("1F469-1F3FD-200D-1F33E", "1F9D1-1F33E"),
        ("1F468-200D-1F33E", "1F9D1-1F33E"),
        ("1F3C3-1F3FF-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),
        ("1F9D1-1F3FB-200D-1F9B0", "1F9D1"),
        ("1F1E9-1F1EA", "1F1E9-1F1EA"),
        ("1F3FB", "1F3FB"),  # a skin tone by itself
    ],
)
def test_the_group_is_what_varies_nothing(code: str, group: str) -> None:
    assert group_of(code) == group


def test_a_tenth_of_the_groups_each_is_held_out() -> None:
    splits = [split_of(f"{i:05X}") for i in range(5000)]
    assert 450 < splits.count("val") < 550
    assert 450 < splits.count("test") < 550


def test_without_npm_the_package_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"npm.* is not installed: .* give the package as a \.tgz file"):
        download("openmoji", tmp_path / "set", say=lambda text: None)


@pytest.mark.slow
def test_the_real_package(tmp_path: Path) -> None:
    """The very file whose checksum is known, through npm: rendered whole, at the emoji's own size."""
    try:
        npm_pack(str(SETS["openmoji"].npm), tmp_path)
    except DataError as error:
        pytest.skip(str(error))
    out = download(
        "openmoji",
        tmp_path / "set",
        size=72,
        say=lambda text: None,
    )
    found = find_pairs(DataConfig(path=str(out)))
    counts = ", ".join(f"{len(found.split(split))} {split}" for split in ("train", "val", "test"))
    assert counts == SETS["openmoji"].pairs
    drawings: dict[bytes, set[str]] = {}
    for pair in found.pairs:
        pixels = pair.source.read()
        assert pixels.min() < 255, pair.name
        drawings.setdefault(pixels.tobytes(), set()).add(pair.split)
    assert all(len(splits) == 1 for splits in drawings.values()), "no drawing in two splits"
    assert len(drawings) > 2000
