"""Cityscapes pairs from a copy that the user has: its licence lets nobody else hand them out.

Source: `prepare_cityscapes_dataset.py` of the PyTorch reference: photo left, coloured labels right, 256 x
256 each, the folders train and val.
Deviation: PNG instead of JPEG, and labels resized by nearest neighbour: they keep their exact colours. The
file names keep city, sequence and frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from pairloom.data.pairs import DataError
from pairloom.formats import write_image
from pairloom.pixels import Array, ImageError

PHOTOS, LABELS = "leftImg8bit", "gtFine"
PHOTO_ENDING, LABELS_ENDING = "_leftImg8bit.png", "_gtFine_color.png"
SPLITS = ("train", "val")
"""The labels of Cityscapes' own test split are not public."""

HOW_TO_GET_IT = (
    "Cityscapes is for registered users, for non-commercial purposes, and may not be handed on, so it cannot "
    "be fetched for you. Register at https://www.cityscapes-dataset.com, accept its licence, download "
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unzip both into one folder, and give that "
    f"folder, which holds {PHOTOS} and {LABELS}, with --source."
)


def write_cityscapes(source: Path, out: Path, *, size: int) -> list[str]:
    """Write the pairs of a folder with `leftImg8bit` and `gtFine` as side-by-side PNG files.

    Args:
        source: The folder.
        out: Its train and val folders are written here.
        size: Side of each image in pixels; the 2:1 photos are squeezed to squares, as the authors did.

    Returns:
        A sentence for each photo that was left out.

    Raises:
        DataError: The folder is not of this kind, or no photo in it has labels.
        ImageError: A file cannot be read or written.
    """
    for part in (PHOTOS, LABELS):
        if not (source / part).is_dir():
            raise DataError(f"{source} holds no folder {part}. {HOW_TO_GET_IT}")
    pairs: list[tuple[Path, Path, Path]] = []
    left_out: list[str] = []
    for split, photo in _photos(source / PHOTOS):
        stem = photo.name.removesuffix(PHOTO_ENDING)
        labels = source / LABELS / split / photo.parent.name / f"{stem}{LABELS_ENDING}"
        if labels.exists():
            pairs.append((photo, labels, out / split / f"{stem}.png"))
        else:
            left_out.append(f"{photo} has no labels: there is no {labels}.")
    if not pairs:
        raise DataError(
            f"{source}: no photo {PHOTOS}/SPLIT/CITY/*{PHOTO_ENDING} with labels "
            f"{LABELS}/SPLIT/CITY/*{LABELS_ENDING} was found, SPLIT being train or val."
        )
    for photo, labels, path in tqdm(pairs, desc="cityscapes", unit="pair", disable=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        sides = (
            _square(photo, size, Image.Resampling.BICUBIC),
            _square(labels, size, Image.Resampling.NEAREST),
        )
        write_image(path, np.concatenate(sides, axis=1))
    return left_out


def _photos(root: Path) -> Iterator[tuple[str, Path]]:
    for split in SPLITS:
        for photo in sorted((root / split).glob(f"*/*{PHOTO_ENDING}")):
            yield split, photo


def _square(path: Path, size: int, how: Image.Resampling) -> Array:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), how))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read ({error}); unzip it again.") from error
