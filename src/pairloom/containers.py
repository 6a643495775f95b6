"""Files that hold large images: tiled TIFF and OME-TIFF with a pyramid, OME-Zarr; what is kept of the source.

A translation has the size of its source, so what says where its pixels are is true of it too: the tags of a
GeoTIFF, the resolution, the physical sizes of OME.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import tifffile

from pairloom import __version__
from pairloom.canvas import Canvas, windows
from pairloom.geotags import GeoTag, extra_tags, geo_tags, nodata_of
from pairloom.pixels import Array, ImageError
from pairloom.stacks.omezarr import Layout
from pairloom.tiff import page_orientation, stated_resolution
from pairloom.windows import is_zarr
from pairloom.zarr_windows import job_of, layout_of, write_pyramid

T = TypeVar("T")
TILE = 512
"""Pixels: side of a tile of the TIFF files written here."""
ZARR_MARKS = (".zgroup", "zarr.json")
"""One of them is in each Zarr group, of version 2 and of version 3."""
_XML = "{*}"
_PHYSICAL = ("PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeY", "PhysicalSizeYUnit")
_JOB = "; job "


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a source beside its size."""

    geo: tuple[GeoTag, ...] = ()
    """Of a GeoTIFF."""
    nodata: str = ""
    """Of a GeoTIFF: the value that means "no data"."""
    resolution: tuple[float, float, int] | None = None
    """Pixels per unit along x and y, and the unit's number in a TIFF: 2 inch, 3 centimetre."""
    ome: dict[str, Any] | None = None
    """Physical sizes and units of an OME-TIFF; empty when it states none, None of any other file."""
    zarr: Layout | None = None
    """Of an OME-Zarr."""
    lost: tuple[str, ...] = ()
    """What the source states in a way that cannot be written again."""

    def note(self, path: Path) -> str | None:
        """A sentence when something of this source is not kept; else None."""
        if not self.lost:
            return None
        what = " and ".join(self.lost)
        return f"Note: {path}: {what} cannot be written again as the file states it, and is left out."


def kept_of(path: Path) -> Kept:
    """What a source says beside its pixels.

    Of a TIFF that is stored turned nothing is kept: its tags are about the stored rows and columns.
    """
    if is_zarr(path):
        return Kept(zarr=layout_of(path))
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            if page_orientation(page) != 1:
                return Kept(ome={} if tif.is_ome else None)
            geo, odd = geo_tags(tif, page)
            lost = [*odd]
            resolution = _unless_odd(lambda: _resolution(page), "its resolution", lost)
            sizes = _unless_odd(lambda: _physical(tif.ome_metadata), "its physical sizes", lost)
            ome = (sizes or {}) if tif.is_ome else None
            return Kept(geo, nodata_of(page), resolution, ome, lost=tuple(lost))
    except Exception:  # no TIFF; or a damaged one, and its reader says so in a sentence
        return Kept()


def _unless_odd(read: Callable[[], T], name: str, lost: list[str]) -> T | None:
    """What a file states; None, and its name among the lost, when it cannot be understood."""
    try:
        return read()
    except Exception:  # a tag may hold values of any type and number
        lost.append(name)
        return None


def _resolution(page: Any) -> tuple[float, float, int] | None:
    stated = stated_resolution(page)
    if stated is None or stated == ((1, 1), (1, 1), 1):
        return None
    (x, per_x), (y, per_y), unit = stated
    return x / per_x, y / per_y, unit


def _physical(xml: str | None) -> dict[str, Any]:
    try:
        pixels = ElementTree.fromstring(xml or "").find(f".//{_XML}Pixels")
    except ElementTree.ParseError:
        return {}
    found = {} if pixels is None else {name: pixels.get(name) for name in _PHYSICAL}
    sizes = {name: value if name.endswith("Unit") else float(value) for name, value in found.items() if value}
    if not all(0 < size < math.inf for size in sizes.values() if isinstance(size, float)):
        raise ValueError("sizes are above 0")
    return sizes


def result_name(name: Path) -> Path:
    """The name of the file that holds a large translation: what cannot be written by windows becomes .tif."""
    return name if name.suffix.lower() in (".tif", ".tiff", ".zarr") else name.with_suffix(".tif")


def make_folder(folder: Path) -> None:
    """Make a folder for results.

    Raises:
        ImageError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{folder}: cannot be made ({error.strerror}); choose another --out.") from error


def refuse_folder(path: Path) -> None:
    """Raise an ImageError if a folder that is no Zarr store has the name of a result: it may be dear."""
    if path.is_dir() and not (is_zarr(path) and any((path / name).exists() for name in ZARR_MARKS)):
        raise ImageError(
            f"{path}: is a folder, and the translation would take its place; move it away, or choose another "
            "--out."
        )


def job_in(path: Path) -> str | None:
    """The job that a finished file is the result of, as `write` was told; None of anything else."""
    if is_zarr(path):
        return job_of(path)
    try:
        with tifffile.TiffFile(path) as tif:
            return str(tif.pages.first.software).partition(_JOB)[2] or None
    except Exception:  # not there, not ours, damaged: then it is not finished
        return None


def write(
    path: Path,
    canvas: Canvas,
    kept: Kept,
    *,
    labels: bool,
    job: str = "",
    within: Path,
    tick: Callable[[int, int], None] | None = None,
) -> None:
    """Turn a canvas into the file `path`, which takes its name only when it is whole.

    Args:
        path: .tif, .tiff or .zarr; what is there already is replaced, unless `refuse_folder` refuses it.
        canvas: The image.
        kept: From the source.
        labels: Are the values classes? See `Canvas.pyramid`.
        job: What `job_in` gives back.
        within: A folder on the same disk for what is not finished yet.
        tick: Called with the tiles done, and all.

    Raises:
        ImageError: The disk is full, the folder cannot be written to, or `refuse_folder`.
    """
    refuse_folder(path)
    temporary = within / f"whole{path.suffix}"
    try:
        _remove(temporary)
        levels = list(canvas.pyramid(labels=labels, within=within))
        counted = _counted(levels, tick)
        if path.suffix.lower() == ".zarr":
            write_pyramid(temporary, levels, kept.zarr, job, counted)
        else:
            with temporary.open("xb") as file:
                ome = kept.ome is not None or path.name.lower().endswith((".ome.tif", ".ome.tiff"))
                _write_tiff(file, levels, kept, counted, ome=ome, job=job)
                file.flush()
                os.fsync(file.fileno())
        if temporary.is_dir() and path.exists():  # a folder takes the place of nothing but an empty one
            path.rename(within / "replaced")
        os.replace(temporary, path)
    except Exception as error:  # the disk's and the encoders' own kinds
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"{path}: cannot be written ({detail}); check that the folder exists, is writable and has room."
        ) from error


def write_array(path: Path, array: Array, kept: Kept, *, labels: bool) -> None:
    """The same for an image in memory. Shapes: array (H, W, C)."""
    height, width, channels = array.shape
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        canvas = Canvas(Path(folder) / "image.map", (height, width, channels), array.dtype.name)
        canvas.make()
        canvas.write(0, 0, array)
        write(path, canvas, kept, labels=labels, within=Path(folder))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _counted(levels: list[Canvas], tick: Callable[[int, int], None] | None) -> Callable[[], None]:
    """A function to be called after each tile."""
    total = sum(-(-level.shape[0] // TILE) * -(-level.shape[1] // TILE) for level in levels)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if tick is not None:
            tick(min(done, total), total)

    return count


def _write_tiff(
    file: Any, levels: list[Canvas], kept: Kept, count: Callable[[], None], *, ome: bool, job: str
) -> None:
    """Three channels are RGB; others are grey with extra samples, in an OME-TIFF a page each.

    The smaller levels hang below the page as OME wants it; in a GeoTIFF they follow it, as GDAL wants it.
    """
    channels = levels[0].shape[2]
    pages = ome and channels not in (1, 3)
    layout: dict[str, Any] = {"photometric": "rgb" if channels == 3 else "minisblack"}
    if channels not in (1, 3) and not pages:
        layout |= {"planarconfig": "contig", "extrasamples": ("unspecified",) * (channels - 1)}
    layout |= {"tile": (TILE, TILE), "compression": "zlib", "maxworkers": 2, "buffersize": 2**24}
    follow = bool(kept.geo) and not ome
    head: dict[str, Any] = {
        "software": f"pairloom {__version__}" + (f"{_JOB}{job}" if job else ""),
        "extratags": extra_tags(kept.geo, kept.nodata, levels[0].dtype),
        "metadata": {"axes": "CYX" if pages else "YX" if channels == 1 else "YXS", **(kept.ome or {})}
        if ome
        else None,
    }
    if not follow and len(levels) > 1:
        head["subifds"] = len(levels) - 1
    if kept.resolution is not None:
        head |= {"resolution": kept.resolution[:2], "resolutionunit": kept.resolution[2]}
    # Compressed it may be smaller, but that is known only at the end.
    large = sum(level.nbytes for level in levels) > 2**32 - 2**26
    with tifffile.TiffWriter(file, bigtiff=large, ome=ome) as writer:
        for number, level in enumerate(levels):
            height, width, _ = level.shape
            shape = (channels, height, width) if pages else (height, width, channels)
            writer.write(
                _tiles(level, count, pages=pages),
                shape=shape[:2] if channels == 1 else shape,
                dtype=level.dtype,
                **layout,
                **(head if number == 0 else {"subfiletype": 1, "metadata": None}),
            )


def _tiles(level: Canvas, count: Callable[[], None], *, pages: bool) -> Iterator[Array]:
    height, width, channels = level.shape
    for channel in range(channels) if pages else [slice(None)]:
        for window in windows(height, width, TILE):
            tile = level.read(*window)[..., channel]
            count()  # before it is taken: nobody comes back after the last one
            yield tile[..., 0] if channels == 1 else tile
