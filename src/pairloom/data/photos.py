"""Single photos, of which pairs are derived; with masks of the user's, each with its own."""

from __future__ import annotations

from pathlib import Path

from pairloom.config import HOLES, DataConfig
from pairloom.data.listing import beside, folders, in_order, list_images, shown, side_splits
from pairloom.data.pairs import SPLITS, DataError, ImageRef, Pair, PairSet


def find_photos(root: Path, data: DataConfig) -> PairSet:
    """A pair of each photo with itself; with a folder of masks, only of the photos that have one."""
    _check_photos(root, data)
    splits = side_splits(root)
    own_holes = data.derive == "inpaint" and data.hole not in HOLES and Path(data.hole).is_dir()
    holes = side_splits(Path(data.hole)) if own_holes else {}
    pairs: list[Pair] = []
    unpaired: list[str] = []
    for split in SPLITS:
        if split not in splits:
            continue
        folder = splits[split]
        masked = holes.get(split, Path(data.hole))
        masks = list_images(masked) if own_holes else {}
        for name, file in in_order(list_images(folder)):
            photo = ImageRef(folder / file)
            if own_holes and name not in masks:
                unpaired.append(f"{shown(folder / file, root)} has no mask in {masked}")
                continue
            hole = ImageRef(masked / masks[name]) if own_holes else None
            pairs.append(Pair(name, photo, photo, split, name, hole))
    unpaired += beside([root], splits.values(), base=root)
    return PairSet("photos", tuple(pairs), tuple(unpaired))


def _check_photos(root: Path, data: DataConfig) -> None:
    """Raise a DataError where a setting, or the folder, is of pairs that need not be derived."""
    derived = f"data.derive={data.derive}"
    if not root.is_dir():
        raise DataError(f"data.path: {root} is no folder; {derived} takes a folder of single photos.")
    below = {name.lower() for name in folders(root)}
    if {"a", "b"} <= below or {"traina", "trainb"} <= below:
        raise DataError(
            f"{root} holds two folders of pairs; {derived} makes pairs from single photos: give it one of "
            "the folders, or leave data.derive out."
        )
    of_pairs = [
        name
        for name in (
            "path_b",
            "source_palette",
            "target_palette",
            "source_one_hot",
            "target_one_hot",
            "source_select",
            "target_select",
            "slice_neighbours",
        )
        if getattr(data, name)
    ]
    if of_pairs:
        raise DataError(f"data.{of_pairs[0]} is for pairs, and {derived} makes them; leave one of them out.")
    if data.direction != "AtoB":
        raise DataError(
            f"data.direction is {data.direction}, but what {derived} makes has only one; give AtoB."
        )
    if data.derive == "inpaint" and data.hole not in HOLES and not Path(data.hole).exists():
        raise DataError(
            f"data.hole is {data.hole!r}, which does not exist; it is one of {', '.join(HOLES)}, a mask "
            "file, or a folder of masks with the names of the photos."
        )
