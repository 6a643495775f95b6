"""Writing pairs to disk: derived from single photos, joined side by side, or split into two folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data.derive import derivation
from pairloom.data.finding import find_pairs
from pairloom.data.mask_folder import FOLDER as MASK_FOLDER
from pairloom.data.masks import read_mask
from pairloom.data.measuring import measure_specs
from pairloom.data.pairs import DataError, ImageRef, Pair
from pairloom.data.views import load_pair
from pairloom.data.writing import holds, is_ome_tiff, not_kept, side_suffix, write_side
from pairloom.disk import among_data
from pairloom.formats import holds_losslessly
from pairloom.images import ImageError, ImageSpec
from pairloom.pixels import Array, described

Layout = Literal["folders", "side-by-side"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was done."""

    out: Path
    pairs: int
    written: int
    """Files that were not there before."""
    left_out: tuple[str, ...]
    """A sentence for each file that is in no pair."""
    note: str = ""
    """Of what the files say beside their pixels, what is not kept."""

    def words(self) -> str:
        """For people."""
        there = f"; {self.written} files written" if self.written else "; all of it was there already"
        unused = "".join(f"\n{sentence}." for sentence in self.left_out)
        return f"{self.pairs} pairs in {self.out}{there}.{unused}" + (self.note and f"\n{self.note}")


def prepare(data: DataConfig, out: str | Path, *, layout: Layout = "folders") -> Prepared:
    """Write a data set's pairs as PNG files, or as TIFF where a PNG cannot hold the values.

    In two folders an OME-TIFF stays one, with the names of its channels and the sizes of its pixels.

    Pairs of files keep their pixels: two folders, or a manifest, become side-by-side files (A is the left
    half), and these two folders; masks of the pixels that count go along, into OUT/mask. Pairs derived from
    photos are as evaluation sees them: of the size that `data.crop_size` and `data.resize` say ("none": of
    the photos' own), without jitter or mirror. Splits are those of the data, made where `data.val_fraction`
    or `data.test_fraction` asks. Colourisation becomes the grey image of the lightness, and the photo.

    The same call again goes on where it was stopped. Nothing that differs is overwritten.

    Args:
        data: The data set; its direction does not matter.
        out: A folder, made if absent.
        layout: folders: OUT/A/train/NAME.png and OUT/B/train/NAME.png; side-by-side: OUT/train/NAME.png.

    Raises:
        DataError: No pairs; or `out` lies among the data; or, after all others are done: which pairs could
            not be written and why, a line each.
    """
    out = Path(out)
    if data.derive == "none":
        data = replace(data, direction="AtoB")  # A stays A
    elif data.target_scaling == "auto":
        data = replace(data, target_scaling="full")  # files hold all of a photo's values
    if (fault := among_data(out, data.path, data.path_b)) is not None:
        raise DataError(fault)
    found = find_pairs(data)
    specs = None
    if derivation(data) is not None:
        specs = measure_specs(found.split("train") or found.pairs, data)

    faults: list[str] = []
    written = 0
    for pair in tqdm(found.pairs, desc="preparing", unit="pair", disable=None):
        try:
            sides = _sides(pair, specs, data)
            for path, array, ref in _files(pair, sides, out, layout, derived=specs is not None):
                written += _write(path, array, ref, data)
            if pair.mask is not None:
                path = out / MASK_FOLDER / pair.split / pair.name
                written += _write(path, np.uint8(255) * read_mask(pair.mask)[..., None], None, data)
        except (DataError, ImageError) as error:
            faults.append(str(error))
    if faults:
        count = f"{len(faults)} of {len(found.pairs)} pairs could not be written"
        others = "; the others were." if len(faults) < len(found.pairs) else "."
        raise DataError("\n".join([*faults, count + others]))
    note = not_kept(found.pairs, data, joined=layout == "side-by-side") if specs is None else None
    return Prepared(out, len(found.pairs), written, found.unpaired, note or "")


def _sides(pair: Pair, specs: tuple[ImageSpec, ImageSpec] | None, data: DataConfig) -> tuple[Array, Array]:
    """Both sides as file values, (H, W, C): their files', or made of a photo."""
    if specs is None:
        return pair.read(data, data)
    x, y = load_pair(pair, *specs, data)
    source, target = (
        images.to_array(*images.recombined(side, x, spec)) for side, spec in zip((x, y), specs, strict=True)
    )
    return source, target


def _files(
    pair: Pair, sides: tuple[Array, Array], out: Path, layout: Layout, *, derived: bool
) -> list[tuple[Path, Array, ImageRef | None]]:
    """Where what is written, and the side that it is, where it is one as its file has it."""
    name = f"{pair.split}/{pair.name}"
    if layout == "side-by-side":
        return [(out / name, _joined(pair, *sides), None)]
    refs = (None, None) if derived else (pair.source, pair.target)
    return [(out / side / name, array, ref) for side, array, ref in zip("AB", sides, refs, strict=True)]


def _joined(pair: Pair, a: Array, b: Array) -> Array:
    """A to the left of B; a grey one beside a colour image is written in colours. Shapes: -> (H, 2 W, C)."""
    channels = max(a.shape[2], b.shape[2])
    a, b = (np.repeat(side, 3, axis=2) if (side.shape[2], channels) == (1, 3) else side for side in (a, b))
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        first, second = (
            f"{side.shape[1]}x{side.shape[0]} pixels and {described(side.shape[2], side.dtype.name)}"
            for side in (a, b)
        )
        raise DataError(
            f"{pair.source} has {first}, but {pair.target} {second}; only images of one size and kind can "
            "stand side by side: write two folders, or resize them first."
        )
    return np.concatenate([a, b], axis=1)


def _write(path: Path, array: Array, ref: ImageRef | None, data: DataConfig) -> int:
    """Write a file unless it is there already; how many were written. `ref`: the side that it is, if any."""
    # The name may have dots of its own.
    if ref is not None:
        suffix = side_suffix(ref, array, data, own=False)
    else:
        png = holds_losslessly(".png", dtype=array.dtype.name, channels=array.shape[2])
        suffix = ".png" if png else ".tif"
    path = path.with_name(path.name + suffix)
    if path.exists():
        if holds(path, array):
            return 0
        raise DataError(f"{path}: is there already and holds something else; choose another --out.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be made ({error.strerror}); choose another --out.") from error
    if ref is None:
        images.write_image(path, array)
    else:
        write_side(path, array, ref, data, still=is_ome_tiff(ref, data))
    return 1
