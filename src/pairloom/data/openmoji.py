"""OpenMoji as pairs: the black line drawing of each emoji (A) and the emoji in colour (B).

A real edges -> picture set, about as large as ten facades sets, from a package registry: no site of an author
has to stay alive for it. Both sides are drawn from the same vector graphics, so they are aligned exactly.

Source: https://openmoji.org, the npm package `openmoji`; CC BY-SA 4.0.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from pairloom import npm
from pairloom.data.archives import ArchiveError
from pairloom.data.pairs import DataError
from pairloom.formats import write_image
from pairloom.pixels import Array

Layout = Literal["side-by-side", "folders"]

LARGEST_SIZE = 2048
NATIVE_SIZE = 72
"""Side of an emoji's canvas. Drawings are compared at this size, so that splits do not depend on `size`."""
MOST_SHARING = 16
"""A drawing that more emoji share (all flags have the same empty frame) cannot say their colours."""
HELD_OUT = (("test", 0.1), ("val", 0.1))
"""Splits and their shares of the groups; the rest is for training."""

# fmt: off
_VARIANTS = frozenset((
    "200D", "FE0E", "FE0F",  # joiners
    "2640", "2642", "27A1",  # woman, man, facing right
    "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF",  # skin
    "1F9B0", "1F9B1", "1F9B2", "1F9B3",  # hair
))
"""Codepoints that vary an emoji."""
# fmt: on
_SAME_PERSON = {
    **dict.fromkeys(("1F468", "1F469"), "1F9D1"),
    **dict.fromkeys(("1F466", "1F467"), "1F9D2"),
    **dict.fromkeys(("1F474", "1F475"), "1F9D3"),
}
"""Man and woman to person, boy and girl to child, old man and old woman to older person."""


@dataclass(frozen=True, slots=True)
class _Emoji:
    name: str
    black: Path
    colour: Path


def write_openmoji(package: Path, out: Path, *, size: int, layout: Layout) -> list[str]:
    """Render the SVG files of a package into pairs on white, in train, val and test.

    A hash of the group's name decides the split: a tenth of the groups each goes to val and test. A group
    is an emoji with its variants (skin tones, sexes, hair, direction) and whatever has the very same line
    drawing, so that no drawing of the test pairs was trained on.

    Args:
        package: The unpacked package, or a folder with black/svg and color/svg.
        out: Gets side-by-side files in train, val and test, or A/train, B/train and so on; and LICENSE.txt.
        size: Side of each image in pixels.
        layout: "side-by-side", the drawing on the left; or "folders", A with the drawings and B.

    Returns:
        Sentences about what was left out.

    Raises:
        DataError: The size is out of range, the folder holds no such files, or resvg-py is not installed.
        ImageError: A file cannot be written.
    """
    if not 16 <= size <= LARGEST_SIZE:
        raise DataError(f"size is {size} pixels; an emoji can be rendered at 16 to {LARGEST_SIZE}.")
    root = find_package(package)
    render = renderer()
    emojis, notes = _pairs_of_files(root)
    with _threads() as threads:
        drawings = list(_along(threads.map(lambda e: _drawing(render, e), emojis), emojis, "comparing"))
        chosen, more = _chosen(emojis, drawings)
        groups = _groups([emojis[i].name for i in chosen], [drawings[i] for i in chosen])

        def write(i: int, group: str) -> str | None:
            emoji = emojis[i]
            try:
                sides = render(emoji.black, size), render(emoji.colour, size)
            except ValueError as error:
                return f"{emoji.name} was left out: it cannot be rendered ({error})."
            _write(out, split_of(group), emoji.name, sides, layout)
            return None

        said = list(_along(threads.map(write, chosen, groups), chosen, "rendering"))
    failed = [sentence for sentence in said if sentence is not None]
    if len(failed) == len(chosen):
        raise DataError(f"{root}: none of {len(emojis)} emoji could be rendered. {(more + failed)[0]}")
    _write_licence(root, out, size)
    return notes + more + failed


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads, because resvg works outside Python's lock; what waits is dropped when one of them fails."""
    threads = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def find_package(folder: Path) -> Path:
    """The folder with black/svg and color/svg in it: this one, or `package` below it, as npm packs it."""
    for root in (folder, folder / "package", folder / "node_modules" / "openmoji"):
        if (root / "black" / "svg").is_dir() and (root / "color" / "svg").is_dir():
            return root
    raise ArchiveError(
        f"{folder} is no OpenMoji package: it holds no folders black/svg and color/svg. `npm pack openmoji` "
        "fetches one as a .tgz file."
    )


def npm_pack(package: str, folder: Path) -> Path:
    """A package of npm as it packs it, a .tgz file in the folder.

    Args:
        package: Name@version.
        folder: Where it is to lie.

    Raises:
        DataError: npm is not installed, or cannot have it.
    """
    try:
        return npm.pack(package, folder, instead="give the package as a .tgz file with --source")
    except npm.NpmError as error:
        raise DataError(str(error)) from None


def renderer() -> Any:
    """A function (SVG file, size) -> (size, size, 3) uint8 on white.

    Raises:
        DataError: resvg-py is not installed.
    """
    try:
        resvg = importlib.import_module("resvg_py")
    except ImportError:
        raise DataError(
            "OpenMoji is vector graphics, drawn by resvg-py, which is not installed: "
            "pip install 'pairloom[openmoji]'."
        ) from None

    def render(path: Path, size: int) -> Array:
        png: bytes = resvg.svg_to_bytes(
            svg_string=path.read_text(encoding="utf-8"),
            width=size,
            height=size,
            background="#ffffff",
            skip_system_fonts=True,
        )
        with Image.open(io.BytesIO(png)) as image:
            return np.asarray(image.convert("RGB"))

    return render


def group_of(code: str) -> str:
    """An emoji's code without what varies it: `1F469-1F3FD-200D-1F33E` and `1F468-200D-1F33E` become one."""
    kept = [_SAME_PERSON.get(part, part) for part in code.split("-") if part not in _VARIANTS]
    return "-".join(kept) or code


def split_of(group: str) -> str:
    """train, val or test: a function of the group's name alone."""
    position = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    for split, share in HELD_OUT:
        if position < share:
            return split
        position -= share
    return "train"


# ------------------------------------------------------------------------------------------------------------
# What goes into the set


def _pairs_of_files(root: Path) -> tuple[list[_Emoji], list[str]]:
    sides = [{p.stem: p for p in sorted((root / side / "svg").glob("*.svg"))} for side in ("black", "color")]
    both = [_Emoji(name, sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]]
    if not both:
        raise ArchiveError(f"{root}: no file in black/svg has the name of a file in color/svg.")
    alone = sorted(sides[0].keys() ^ sides[1].keys())
    return both, [f"{name} was left out: it has only one of the two sides." for name in alone]


def _drawing(render: Any, emoji: _Emoji) -> bytes | str | None:
    """What tells drawings apart; None when it is empty, and a sentence when it cannot be rendered."""
    try:
        pixels: Array = render(emoji.black, NATIVE_SIZE)
    except ValueError as error:
        return f"{emoji.name} was left out: it cannot be rendered ({error})."
    return None if pixels.min() == 255 else hashlib.sha256(pixels.tobytes()).digest()


def _chosen(emojis: list[_Emoji], drawings: list[bytes | str | None]) -> tuple[list[int], list[str]]:
    """Which emoji are kept, by position, and sentences about the others."""
    sharing: dict[bytes, set[str]] = defaultdict(set)
    for emoji, drawing in zip(emojis, drawings, strict=True):
        if isinstance(drawing, bytes):
            sharing[drawing].add(group_of(emoji.name))
    common = {drawing for drawing, groups in sharing.items() if len(groups) > MOST_SHARING}
    notes: list[str] = []
    for emoji, drawing in zip(emojis, drawings, strict=True):
        if drawing is None:
            notes.append(f"{emoji.name} was left out: its line drawing is empty.")
        elif isinstance(drawing, str):
            notes.append(drawing)
    shared = sum(drawing in common for drawing in drawings)
    if shared:
        notes.append(
            f"{shared} emoji, such as flags, were left out: each shares one line drawing with more than "
            f"{MOST_SHARING} others, which cannot say their colours."
        )
    kept = [i for i, drawing in enumerate(drawings) if isinstance(drawing, bytes) and drawing not in common]
    return kept, notes


def _groups(names: list[str], drawings: list[Any]) -> list[str]:
    """The group of each emoji: the smallest name among all that are joined by code or by drawing."""
    parent: dict[str, str] = {}

    def top(group: str) -> str:
        while parent.setdefault(group, group) != group:
            group = parent[group]
        return group

    first: dict[Any, str] = {}
    for name, drawing in zip(names, drawings, strict=True):
        a, b = top(group_of(name)), top(first.setdefault(drawing, group_of(name)))
        parent[max(a, b)] = min(a, b)
    return [top(group_of(name)) for name in names]


def _along(results: Iterator[Any], items: list[Any], what: str) -> Iterator[Any]:
    yield from tqdm(results, total=len(items), desc=what, unit="emoji", disable=None)


# ------------------------------------------------------------------------------------------------------------
# Writing


def _write(out: Path, split: str, name: str, sides: tuple[Array, Array], layout: Layout) -> None:
    if layout == "side-by-side":
        files = {out / split / f"{name}.png": np.concatenate(sides, axis=1)}
    else:
        files = {out / side / split / f"{name}.png": image for side, image in zip("AB", sides, strict=True)}
    for path, image in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)


def _write_licence(root: Path, out: Path, size: int) -> None:
    """The attribution that the licence asks for, and its text as the package has it."""
    try:
        version = json.loads((root / "package.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError):
        version = "of unknown number"
    full = root / "LICENSE.txt"
    text = f"""These images are made from OpenMoji, version {version}.

OpenMoji - the open-source emoji and icon project (https://openmoji.org), by the students, professors and
contributors of HfG Schwaebisch Gmuend. License: CC BY-SA 4.0
(https://creativecommons.org/licenses/by-sa/4.0/).

Changes: pairloom rendered the SVG files at {size} x {size} pixels on white and put the black line drawing of
each emoji (A) and its coloured version (B) into pairs. Whoever shares these images, or images made from them,
names OpenMoji, says what was changed, and does so under the same licence.
"""
    if full.is_file():
        text += f"\n{'-' * 100}\n\n{full.read_text(encoding='utf-8', errors='replace')}"
    (out / "LICENSE.txt").write_text(text, encoding="utf-8")
