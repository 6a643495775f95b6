"""The images below folders, by name, and the splits that folders make."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pairloom import images
from pairloom.data.pairs import DataError
from pairloom.data.series import is_series
from pairloom.stacks.suffixes import stem_of

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
    return not name.startswith(".") and images.is_image_name(name)


def folders(root: Path) -> list[str]:
    """Names of the folders in `root`, in order, without hidden ones."""
    return sorted(
        e.name
        for e in os.scandir(root)
        if e.is_dir() and not e.name.startswith(".") and not e.name.lower().endswith(".zarr")
    )


def list_images(root: Path) -> dict[str, str]:
    """Relative path of each image below `root`, by its name: the same path without extension."""
    if is_series(root):
        raise DataError(
            f"{root} holds the files of one DICOM series; a series is a folder of its own inside, so move "
            f"them to {root / 'NAME'}."
        )
    files: dict[str, str] = {}
    for file, name in _walk(str(root), "", {os.path.realpath(root)}):
        if name in files:
            raise DataError(
                f"{root / files[name]} and {root / file} have the same name; partners are found by name, so "
                "keep one of them."
            )
        files[name] = file
    return files


def _walk(folder: str, prefix: str, links: set[str]) -> Iterator[tuple[str, str]]:
    """Images below a folder, each with its name: without the suffix, but whole of a folder with a series.

    Linked folders are entered, each once, so that a cycle of links ends.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.name.lower().endswith(".zarr") or is_series(Path(entry.path)):
                    name = stem_of(entry.name) if _is_image(entry.name) else entry.name
                    yield prefix + entry.name, prefix + name
                    continue
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if real in links:
                        continue
                    links.add(real)
                yield from _walk(entry.path, f"{prefix}{entry.name}/", links)
            elif _is_image(entry.name):
                yield prefix + entry.name, prefix + stem_of(entry.name)


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
        files = [root / entry.name for entry in os.scandir(root) if _is_image(entry.name)]
        files = [file for file in files if file.is_file() or file.suffix.lower() == ".zarr"]
        unused = [root / name for name in folders(root) if root / name not in used]
        unused = [folder for folder in unused if any(_is_image(name) for name in os.listdir(folder))]
        sentences += [
            f"{shown(path, base)} lies beside the split folders and is not used"
            for path in sorted(files + unused, key=lambda path: natural(path.name))
        ]
    return sentences
