"""Which file belongs to which, and in which split.

Three layouts are read: side-by-side files (the paper's), two folders, and a CSV manifest; and single photos,
of which pairs are derived. Partners have the same relative path without extension; nothing is ever paired by
order. Listing opens no image, so that a hundred thousand pairs are listed in seconds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data.listing import (
    SPLIT_OF,
    beside,
    folders,
    in_order,
    list_images,
    natural,
    shown,
    side_splits,
)
from pairloom.data.mask_folder import with_masks
from pairloom.data.pairs import SPLITS, DataError, ImageRef, Pair, PairSet, without_collection
from pairloom.data.photos import find_photos
from pairloom.data.shards import are_shards, open_shards
from pairloom.data.slices import cut_volumes, with_parts
from pairloom.stacks.suffixes import stem_of

_COLUMNS = ("a", "b", "split", "group", "mask")


# -----------------------------------------------------------------------------------------------------------
# Finding


def find_pairs(data: DataConfig) -> PairSet:
    """List the pairs that `data` describes, with their splits made and their direction applied.

    `data.path` is a manifest (.csv), the first of two folders (`data.path_b` is the second), a folder with
    subfolders A and B, a folder with trainA and trainB, or else a folder of side-by-side files. Folders may
    hold train, val and test below them; without these, all pairs are training pairs. A folder `mask` beside
    them, with the same splits, says which pixels count. With `data.derive` the
    folder holds single photos, at any depth. A folder of shards, and an address, are opened as they were
    packed. A split that does not
    exist is made from the training pairs where `val_fraction` or `test_fraction` asks for it; where these
    cannot be divided there is no validation, and a note says so.

    Raises:
        DataError: Nothing was found, a name is ambiguous, or the manifest or a split setting is wrong.
    """
    if not data.path:
        raise DataError("data.path is empty; give a folder of image pairs or a manifest .csv.")
    if are_shards(data.path):
        return open_shards(data)
    root = Path(data.path)
    if not root.exists():
        raise DataError(f"data.path: {root} does not exist.")
    try:
        with without_collection():
            return _found(root, data)
    except OSError as error:
        raise DataError(f"data.path: {error.filename or root} cannot be read ({error.strerror}).") from error


def _found(root: Path, data: DataConfig) -> PairSet:
    found = _listed(root, data.path_b) if data.derive == "none" else find_photos(root, data)
    if not found.pairs:
        raise DataError(_nothing_found(root, found))

    pairs, notes = _with_splits(cut_volumes(_grouped(found, data), data), data)
    notes = [*found.notes, *notes]
    if data.direction == "BtoA":
        pairs = [replace(pair, source=pair.target, target=pair.source) for pair in pairs]
    pairs = with_parts(pairs, data)
    return replace(found, pairs=tuple(pairs), notes=tuple(notes))


def _listed(root: Path, second: str | None) -> PairSet:
    if root.suffix.lower() == ".csv" and root.is_file():
        if second is not None:
            raise DataError(f"data.path: {root} is a manifest and names both sides; leave data.path_b unset.")
        return _from_manifest(root)
    if not root.is_dir():
        raise DataError(f"data.path: {root} is neither a folder nor a manifest (.csv).")
    return _from_folders(root, second)


def _from_folders(root: Path, second: str | None) -> PairSet:
    if second is not None:
        other = Path(second)
        if not other.is_dir():
            raise DataError(f"data.path_b: {other} is not a folder.")
        return _two_folders(side_splits(root), side_splits(other), (root, other), base=None)

    below = {name.lower(): root / name for name in folders(root)}
    if "a" in below and "b" in below:
        sides = below["a"], below["b"]
        paired = _two_folders(side_splits(sides[0]), side_splits(sides[1]), sides, base=root)
        return with_masks(paired, root)
    a, b = (
        {SPLIT_OF[n[:-1]]: p for n, p in below.items() if n[-1] == side and n[:-1] in SPLIT_OF}
        for side in "ab"
    )
    if "train" in a and "train" in b:
        return with_masks(_two_folders(a, b, (root,), base=root), root)
    for name, partner in (("a", "B"), ("b", "A"), ("traina", "trainB"), ("trainb", "trainA")):
        if name in below:
            raise DataError(f"{below[name]} has no partner: {root} holds no folder {partner} beside it.")
    splits = side_splits(root)
    inside = {split: {n.lower(): folder / n for n in folders(folder)} for split, folder in splits.items()}
    if any(sides.keys() >= {"a", "b"} for sides in inside.values()):
        a, b = ({split: sides[side] for split, sides in inside.items() if side in sides} for side in "ab")
        return with_masks(_two_folders(a, b, splits.values(), base=root), root)
    found = replace(_side_by_side(root), notes=tuple(_look_like_sides(splits.values())))
    return with_masks(found, root)


def _look_like_sides(splits: Iterable[Path]) -> Iterator[str]:
    """A sentence where two folders of images of the same names are read as side-by-side files."""
    for folder in splits:
        inside = folders(folder)
        names = [
            {stem_of(name) for name in os.listdir(at) if images.is_image_name(name)}
            for at in (folder, *(folder / name for name in inside))
        ]
        if len(inside) == 2 and not names[0] and names[1] and names[1] == names[2]:
            yield (
                f"{folder}: {inside[0]} and {inside[1]} hold images of the same names, and each is read as "
                "two halves; if they are the two sides of pairs, name them A and B."
            )


def _side_by_side(root: Path) -> PairSet:
    splits = side_splits(root)
    pairs = []
    for split in SPLITS:
        if split in splits:
            folder = splits[split]
            for name, file in in_order(list_images(folder)):
                path = folder / file
                pairs.append(Pair(name, ImageRef(path, "left"), ImageRef(path, "right"), split, name))
    unused = beside([root], splits.values(), base=root)
    return PairSet("side-by-side", tuple(pairs), tuple(unused))


def _two_folders(
    a: dict[str, Path], b: dict[str, Path], roots: Iterable[Path], *, base: Path | None
) -> PairSet:
    """Pair the files of each split by name; messages name paths relative to `base`."""
    pairs: list[Pair] = []
    unpaired: list[str] = []
    for split in SPLITS:
        folders = a.get(split), b.get(split)
        files_a, files_b = ({} if folder is None else list_images(folder) for folder in folders)
        if folders[0] is not None and folders[1] is not None:
            for name, file in in_order(files_a):
                if name in files_b:
                    left, right = ImageRef(folders[0] / file), ImageRef(folders[1] / files_b[name])
                    pairs.append(Pair(name, left, right, split, name))
        for own, other, files, partners in (
            (folders[0], folders[1], files_a, files_b),
            (folders[1], folders[0], files_b, files_a),
        ):
            where = f"the other side, which has no {split} folder" if other is None else shown(other, base)
            unpaired += [
                f"{shown(own / file, base)} has no partner in {where}"
                for name, file in in_order({n: f for n, f in files.items() if n not in partners})
                if own is not None
            ]
    unpaired += beside(roots, [*a.values(), *b.values()], base=base)
    return PairSet("two folders", tuple(pairs), tuple(unpaired))


def _nothing_found(root: Path, found: PairSet) -> str:
    if found.layout == "manifest":
        return f"{root} has a header but no rows."
    if found.layout == "photos":
        why = found.unpaired[0] if found.unpaired else f"looked for {', '.join(sorted(images.SUFFIXES))}"
        return f"No photos were found in {root}: {why}."
    if not found.unpaired:
        return (
            f"No images were found in {root}: looked for {', '.join(sorted(images.SUFFIXES))} in "
            "side-by-side files (directly or in train, val, test), in A and B, in trainA and trainB, and in "
            "train/A and train/B."
        )
    examples = "; ".join(dict.fromkeys((found.unpaired[0], found.unpaired[-1])))
    return (
        f"No pairs were found in {root}: {examples}. Partners have the same relative path without extension; "
        "where names differ, write a manifest .csv with the header a,b[,split][,group][,mask]."
    )


# -----------------------------------------------------------------------------------------------------------
# The manifest


def _from_manifest(path: Path) -> PairSet:
    """Rows of `a,b[,split][,group][,mask]`; paths are relative to the manifest's folder."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a manifest in UTF-8 ({error}).") from error
    rows = csv.reader(io.StringIO(text, newline=""))
    header = [column.strip().lower() for column in next(rows, [])]
    unknown = [column for column in header if column not in _COLUMNS]
    if unknown or not {"a", "b"} <= set(header) or len(set(header)) != len(header):
        fault = f"has the unknown column {unknown[0]!r}" if unknown else "lacks a or b, or repeats a column"
        raise DataError(f"{path}: the header {fault}; it must be a,b[,split][,group][,mask], with commas.")

    pairs: list[Pair] = []
    lines: dict[tuple[str, str], int] = {}
    taken: set[tuple[str, str]] = set()
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, line {rows.line_num}"
        if len(cells) != len(header):
            raise DataError(f"{where} has {len(cells)} fields; the header has {len(header)}.")
        row = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
        first = lines.setdefault((row["a"], row["b"]), rows.line_num)
        if first != rows.line_num:
            raise DataError(f"{where} repeats the pair of line {first} ({row['a']}, {row['b']}); remove one.")
        split = SPLIT_OF.get(row.get("split", "train").lower())
        if split is None:
            raise DataError(f"{where}: split is {row['split']!r}; it must be train, val or test.")
        a, b = (_manifest_file(path.parent, row[column], f"{where}: {column}") for column in "ab")
        name = _free_name(_manifest_name(row["a"]), split, taken)
        mask = None
        if row.get("mask"):  # an empty cell: all pixels of this pair count
            mask = ImageRef(_manifest_file(path.parent, row["mask"], f"{where}: mask"))
        pairs.append(Pair(name, ImageRef(a), ImageRef(b), split, row.get("group", ""), mask=mask))
    pairs.sort(key=lambda pair: (SPLITS.index(pair.split), natural(pair.name)))
    return PairSet("manifest", tuple(pairs), ())


def _manifest_file(folder: Path, cell: str, where: str) -> Path:
    if not cell:
        raise DataError(f"{where} is empty; every row names two files.")
    path = folder / cell
    if not images.is_image_name(path.name) and not path.is_dir():  # a DICOM series is a folder
        raise DataError(f"{where} is {cell!r}, which is not one of {', '.join(sorted(images.SUFFIXES))}.")
    if not path.exists():
        raise DataError(f"{where}: {path} does not exist.")
    return path


def _manifest_name(cell: str) -> str:
    """The relative path without extension; an absolute path or one with `..` is brought below the folder."""
    path = PurePath(cell)
    parts = [part for part in PurePath(stem_of(cell)).parts if part not in (path.anchor, "..")]
    return "/".join(parts)


def _free_name(name: str, split: str, taken: set[tuple[str, str]]) -> str:
    """`name`, or `name~2` and so on: one source may have several targets, but each pair needs a name."""
    shown, count = name, 1
    while (split, shown) in taken:
        count += 1
        shown = f"{name}~{count}"
    taken.add((split, shown))
    return shown


# -----------------------------------------------------------------------------------------------------------
# Groups and splits


def _grouped(found: PairSet, data: DataConfig) -> Sequence[Pair]:
    """Each pair with its group: the manifest's, else the pattern's, else the first name of its source."""
    by_pattern = None if data.group_pattern is None else _by_pattern(data.group_pattern)
    if found.layout != "manifest" and by_pattern is None:
        return found.pairs  # a source is a file here, and has one name
    first: dict[ImageRef, str] = {}
    grouped = []
    for pair in found.pairs:
        name = first.setdefault(pair.source, pair.name)  # further targets of a source stay with its first
        stated = pair.group if found.layout == "manifest" else ""
        group = stated or (name if by_pattern is None else by_pattern(pair.name))
        grouped.append(replace(pair, group=group))
    return grouped


def _by_pattern(expression: str) -> Callable[[str], str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise DataError(
            f"data.group_pattern is {expression!r}, which is no regular expression ({error})."
        ) from error
    if pattern.groups < 1:
        raise DataError(f"data.group_pattern is {expression!r}; it must have a group, as in '(p[0-9]+)_'.")

    def group_of(name: str) -> str:
        match = pattern.search(name)
        if match is None or not match.group(1):
            raise DataError(
                f"data.group_pattern {expression!r} finds no group in the name {name!r}; change the pattern, "
                "so that no group can be divided between splits."
            )
        return match.group(1)

    return group_of


def _with_splits(pairs: list[Pair], data: DataConfig) -> tuple[list[Pair], list[str]]:
    """Make the splits that are asked for and do not exist, then keep `max_pairs` training pairs.

    Returns:
        The pairs, and a sentence where no validation split could be made.
    """
    train = [pair for pair in pairs if pair.split == "train"]
    present = {pair.split for pair in pairs}
    moved: dict[str, str] = {}
    notes: list[str] = []
    for split, share in (("test", data.test_fraction), ("val", data.val_fraction)):
        if share > 0 and split not in present and train:
            rest = [pair for pair in train if pair.name not in moved]
            if len({pair.group for pair in rest}) < 2:
                one = (
                    "is only one training pair" if len(rest) == 1 else "are training pairs of one group only"
                )
                sentence = f"There {one} ({rest[0].group}), from which no {split} split can be set aside"
                if split == "test":
                    raise DataError(f"{sentence}; set data.test_fraction=0.")
                notes.append(f"{sentence}: training goes without validation.")
                continue
            chosen = _draw_groups(rest, wanted=round(share * len(train)), seed=data.split_seed, split=split)
            moved |= {pair.name: split for pair in rest if pair.group in chosen}
    kept = [pair for pair in train if pair.name not in moved]
    if data.max_pairs is not None and len(kept) > data.max_pairs:
        kept = sorted(kept, key=lambda pair: _rank(data.split_seed, "max_pairs", pair.name))[: data.max_pairs]
    names = {pair.name for pair in kept}

    result = []
    for pair in pairs:
        if pair.split != "train" or pair.name in names:
            result.append(pair)
        elif pair.name in moved:
            result.append(replace(pair, split=moved[pair.name]))
    return sorted(result, key=lambda pair: SPLITS.index(pair.split)), notes


def _draw_groups(pairs: list[Pair], *, wanted: int, seed: int, split: str) -> set[str]:
    """Of two groups or more, whole ones of about `wanted` pairs: at least one, and at least one is left."""
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes[pair.group] = sizes.get(pair.group, 0) + 1
    order = sorted(sizes, key=lambda group: _rank(seed, split, group))
    chosen: set[str] = set()
    count = 0
    for group in order:
        if count + sizes[group] <= wanted and len(chosen) < len(order) - 1:
            chosen.add(group)
            count += sizes[group]
    return chosen or {min(order, key=lambda group: sizes[group])}


def _rank(seed: int, purpose: str, name: str) -> bytes:
    """A seeded random order by hashing: stable over library versions, and little moved by added files."""
    text = f"{seed}\0{purpose}\0{name}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
