"""The folder `mask` beside the images: which file says which pixels of a pair count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pairloom.data.listing import folders, in_order, list_images, shown, side_splits
from pairloom.data.pairs import SPLITS, ImageRef, PairSet

FOLDER = "mask"


def with_masks(found: PairSet, root: Path) -> PairSet:
    """The pairs with their masks: ROOT/mask/SPLIT/NAME, of pairs without splits ROOT/mask/NAME.

    All pixels of a pair without a mask count; how many such pairs there are is noted. A mask without a pair
    is named among what is left out. Side-by-side files that lie in no split folders have no place beside
    them: a folder `mask` there holds pairs as any other.
    """
    name = next((name for name in folders(root) if name.lower() == FOLDER), None)
    below = name is not None and all(root in pair.source.path.parents for pair in found.pairs)
    if name is None or not below or _holds_pairs(found, root / name):
        return found
    masks = {split: list_images(folder) for split, folder in side_splits(root / name).items()}
    places = side_splits(root / name)
    pairs, bare = [], 0
    taken: set[tuple[str, str]] = set()
    for pair in found.pairs:
        file = masks.get(pair.split, {}).get(pair.name)
        taken.add((pair.split, pair.name))
        bare += file is None
        pairs.append(pair if file is None else replace(pair, mask=ImageRef(places[pair.split] / file)))
    unused = [
        f"{shown(places[split] / file, root)} is the mask of no pair"
        for split in SPLITS
        for key, file in in_order(masks.get(split, {}))
        if (split, key) not in taken
    ]
    unread = f"{name} lies beside the split folders and is not used"
    unpaired = [sentence for sentence in found.unpaired if sentence != unread] + unused
    notes = (f"{bare} of {len(pairs)} pairs have no mask in {root / name}: all their pixels count.",)
    return replace(
        found, pairs=tuple(pairs), unpaired=tuple(unpaired), notes=found.notes + notes * (bare > 0)
    )


def _holds_pairs(found: PairSet, folder: Path) -> bool:
    """Are files in it read as pairs already?"""
    return any(folder in pair.source.path.parents for pair in found.pairs)
