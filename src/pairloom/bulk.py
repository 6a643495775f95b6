"""A translation divided among the tasks of a job array, each of which can be killed and started again."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pairloom.images import is_image_name

Found = tuple[Path, Path]
"""A file, and the name of its result below the output folder, as `files.find_images` gives them."""
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
"""What `disk.writing_whole` calls a file that is not whole yet."""


def share(found: Sequence[Found], part: str) -> list[Found]:
    """The files of one task of n: `2/8` is every eighth of the sorted files, from the second.

    Files whose results may have one name go together, so that the task sees that they collide.

    Raises:
        ValueError: It is not i/n with 1 <= i <= n.
    """
    first, _, count = part.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ValueError(f"--shard is {part!r}; it must be i/n with i from 1 to n, such as 2/8.")
    return [one for group in groups(found)[int(first) - 1 :: int(count)] for one in group]


def groups(found: Iterable[Found]) -> list[list[Found]]:
    """The files, sorted; those whose results may have one name are one group."""
    by_stem: defaultdict[str, list[Found]] = defaultdict(list)
    for file, name in found:
        by_stem[_stem(name)].append((file, name))
    return [sorted(by_stem[stem]) for stem in sorted(by_stem)]


def _stem(name: Path) -> str:
    """Whatever suffix a result gets, it follows this."""
    text = str(name)
    if is_image_name(name.name):
        text = os.path.splitext(text)[0]
    return re.sub(r"\.(ome|nii)$", "", text, flags=re.IGNORECASE)


def sweep(results: Iterable[Path]) -> None:
    """Delete what killed processes left half-written of these results; nobody may be writing them now."""
    by_folder: defaultdict[Path, set[str]] = defaultdict(set)
    for path in results:
        by_folder[path.parent].add(path.name)
    for folder, names in by_folder.items():
        with suppress(OSError):  # not made yet, or not ours to tidy up
            for entry in list(os.scandir(folder)):
                half = _TEMPORARY.fullmatch(entry.name)
                if half and half[1] in names:
                    os.unlink(entry.path)
