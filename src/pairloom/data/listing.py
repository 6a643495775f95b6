"""The images below folders, by name, and the splits that folders make."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pairloom import images
from pairloom.data.pairs import DataError

# fmt: off
SPLIT_OF = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}
"""What folders and manifests may call a split."""
# fmt: on


def side_splits(root: Path) -> dict[str, Path]:
    """The split folders below one side, or the side itself as its training split."""
    splits: dict[str, Path] = {}
    for name in folders(root):
        split = SPLIT_OF.get(name.lower())
        if split is None:
            continue
        if split in splits:
            raise DataError(
                f"{splits[split]} and {root / name} are both the {split} split; keep one of them."
            )
        splits[split] = root / name
    return splits or {"train": root}


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in images.SUFFIXES


def folders(root: Path) -> list[str]:
    """Names of the folders in `root`, in order, without hidden ones."""
    return sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))


def list_images(root: Path) -> dict[str, str]:
    """Relative path of each image below `root`, by its name: the same path without extension."""
    files: dict[str, str] = {}
    for file in _walk(str(root), "", {os.path.realpath(root)}):
        name = os.path.splitext(file)[0]
        if name in files:
            raise DataError(
                f"{root / files[name]} and {root / file} have the same name; partners are found by name, so "
                "keep one of them."
            )
        files[name] = file
    return files


def _walk(folder: str, prefix: str, links: set[str]) -> Iterator[str]:
    """Images below a folder. Linked folders are entered, each once, so that a cycle of links ends."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if real in links:
                        continue
                    links.add(real)
                yield from _walk(entry.path, f"{prefix}{entry.name}/", links)
            elif _is_image(entry.name):
                yield prefix + entry.name


_DIGITS = re.compile(r"([0-9]+)")


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key under which 2 comes before 10."""
    parts: list[str | int] = list(_DIGITS.split(name.casefold()))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name


def in_order(files: dict[str, str]) -> list[tuple[str, str]]:
    """Names and files in the natural order of the names."""
    return sorted(files.items(), key=lambda item: natural(item[0]))


def shown(path: Path, base: Path | None) -> str:
    """A path in a message: below `base`, if there is one."""
    return str(path) if base is None else path.relative_to(base).as_posix()


def beside(roots: Iterable[Path], used: Collection[Path], *, base: Path | None) -> list[str]:
    """A sentence for each image, and each folder of images, that split folders leave unread beside them."""
    sentences = []
    for root in roots:
        if root in used:
            continue
        files = [root / entry.name for entry in os.scandir(root) if entry.is_file() and _is_image(entry.name)]
        unused = [root / name for name in folders(root) if root / name not in used]
        unused = [folder for folder in unused if any(_is_image(name) for name in os.listdir(folder))]
        sentences += [
            f"{shown(path, base)} lies beside the split folders and is not used"
            for path in sorted(files + unused, key=lambda path: natural(path.name))
        ]
    return sentences
