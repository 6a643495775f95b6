"""The built-in sample set: made-up facades with their label maps, drawn, not downloaded.

``sample_layout`` invents what stands where, ``sample_photo`` paints a picture of it on the canvas of
``sample_scene``; this module draws the label map and writes the set. Everything is a function of
(seed, index, size): the same numbers give the same files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pairloom.data.sample_layout import PALETTE, Layout, Part, Seed, check_size, draw_layout, overlap
from pairloom.data.sample_photo import draw_photo
from pairloom.disk import writing_whole
from pairloom.formats import write_image

__all__ = [
    "PALETTE",
    "Layout",
    "Part",
    "Seed",
    "draw_labels",
    "draw_layout",
    "draw_pair",
    "draw_photo",
    "write_sample_set",
]

_COLOURS = dict(PALETTE)


def draw_labels(layout: Layout, size: int) -> NDArray[np.uint8]:
    """The label map of a layout: every pixel has exactly one colour of PALETTE, without antialiasing.

    Shapes: -> (size, size, 3).
    Units: 8-bit RGB.

    Raises:
        ValueError: `size` is outside 64 to 1024 pixels.
    """
    check_size(size)
    labels = np.empty((size, size, 3), np.uint8)
    labels[:] = _COLOURS["sky"]
    for part in layout.parts:
        y0, y1, x0, x1 = part.box(size)
        outline = part.outline(y1 - y0, x1 - x0)
        (rows, part_rows), (columns, part_columns) = overlap(y0, y1, size), overlap(x0, x1, size)
        inside = slice(None) if outline is None else outline[part_rows, part_columns]
        labels[rows, columns][inside] = _COLOURS[part.kind]
    return labels


def draw_pair(seed: int, index: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photo and label map number `index` of the sample set with this seed.

    Shapes: -> photo (size, size, 3), labels (size, size, 3).
    Units: 8-bit RGB.
    """
    layout = draw_layout((seed, index))
    return draw_photo(layout, size, (seed, index)), draw_labels(layout, size)


def write_sample_set(out: Path, *, count: int, size: int, seed: int) -> Path:
    """Write `count` pairs as side-by-side PNG files, with a palette and a README.

    As in the CMP facades the photo is the left half (A) and the label map the right half (B): labels to
    photo is direction BtoA. A tenth of the pairs goes to ``val``, a tenth to ``test``, at least one each; the
    numbers in the file names are unique over the three. Writing the same set over itself is allowed; nothing
    is deleted.

    Units: size in pixels, of one side of each half.

    Raises:
        ValueError: `size`, `count` or `seed` is out of range, or `out` holds something else.
        ImageError: A file cannot be written; the same call goes on when there is room.
    """
    check_size(size)
    if count < 3:
        raise ValueError(
            f"count is {count}; a sample set needs at least 3 pairs: one each to train, validate and test."
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}; a seed is a whole number, 0 or larger.")
    readme = _readme(count, size, seed)
    _check_folder(out, readme)
    out.mkdir(parents=True, exist_ok=True)
    # The README goes first: it marks the folder as ours, so an interrupted writing can be started again.
    palette = "".join(f"{_triple(rgb)},{name}\n" for name, rgb in PALETTE)
    for name, text in (("README.txt", readme), ("palette.txt", palette)):
        with writing_whole(out / name) as file:
            file.write(text.encode())
    held_out = max(1, round(count / 10))
    splits = ["train"] * (count - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    digits = max(4, len(str(count)))
    for index, split in enumerate(splits):
        (out / split).mkdir(exist_ok=True)
        pair = np.concatenate(draw_pair(seed, index, size), axis=1)
        write_image(out / split / f"{index + 1:0{digits}}.png", pair)
    return out


def _check_folder(out: Path, readme: str) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a new or an empty folder for the sample set.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    marker = out / "README.txt"
    if not marker.is_file() or marker.read_text(encoding="utf-8", errors="replace") != readme:
        raise ValueError(
            f"{out} is not empty and holds something other than this very set; name a new or an empty folder."
        )


def _triple(rgb: tuple[int, int, int]) -> str:
    return ",".join(str(value) for value in rgb)


def _readme(count: int, size: int, seed: int) -> str:
    classes = "\n".join(f"  {_triple(rgb):<12} {name}" for name, rgb in PALETTE)
    return f"""The sample set of pairloom: made-up facades with their label maps
{count} pairs of {size} x {size} pixels, seed {seed}

Each PNG holds a pair side by side: the photo is the left half (A), its label map the right half (B).
Labels to photo is therefore direction BtoA. The folders train, val and test share no facade.
No camera was involved: all of it is drawn by pairloom, and free to use for anything.

Train on it:
  pairloom train OUT --out runs/sample --preset demo        (OUT is this folder)

The classes (the same as in palette.txt; 8-bit red,green,blue):
{classes}
"""
