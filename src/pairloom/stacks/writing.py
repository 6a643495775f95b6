"""Volumes written as their sources were: the same kind of container, the same place and size of a voxel.

| source | output |
|---|---|
| NIfTI | NIfTI with its header, affine and sizes; several channels are the fourth axis |
| DICOM | NIfTI: a new DICOM series would claim to be somebody's examination |
| OME-TIFF, OME-Zarr | the same with its sizes; the channels have the names of the target's |
| TIFF | TIFF with its resolution; ImageJ's stays ImageJ's |
| NPZ, NPY | the same; arrays have the names of the target's channels |
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pairloom.disk import writing_whole
from pairloom.pixels import Array, ImageError
from pairloom.stacks.stack import Stack
from pairloom.stacks.suffixes import suffix_of


def volume_suffix(source: Path) -> str:
    """What a translated volume is called like."""
    suffix = suffix_of(source)
    series = source.is_dir() and suffix.lower() != ".zarr" and suffix.lower() != ".ome.zarr"
    return ".nii.gz" if series or suffix.lower() in (".dcm", ".dicom") else suffix


def write_volume(
    path: Path,
    volume: Array,
    like: Stack,
    *,
    names: tuple[str, ...] = (),
    limits: tuple[tuple[float, float], ...] = (),
) -> None:
    """Write a volume at the place of `like`; it appears under its name only when it is whole.

    Shapes: volume (T, Z, Y, X, C).

    Args:
        path: With the suffix that `volume_suffix` gives.
        volume: Values.
        like: The source.
        names: Of the channels, or none.
        limits: Of each channel's values, for viewers of OME-Zarr.

    Raises:
        ImageError: The folder cannot be written to, or the disk is full.
    """
    suffix = suffix_of(path).lower()
    if suffix.endswith(".zarr"):
        from pairloom.stacks import omezarr

        known = limits or ((0.0, 1.0),) * volume.shape[4]
        with _whole_folder(path) as folder:
            omezarr.write_zarr(folder, like, volume, names, known)
        return
    with writing_whole(path) as file:
        if suffix in (".nii", ".nii.gz"):
            from pairloom.stacks import nifti

            nifti.encode_nifti(file, like, volume, packed=suffix.endswith(".gz"))
        elif suffix in (".npz", ".npy"):
            from pairloom.stacks import arrays

            arrays.encode_arrays(file, like, volume, names)
        else:
            from pairloom.stacks import ometiff

            ometiff.encode_stack(file, like, volume, names)


@contextlib.contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which takes its name, and another one's place, only when it is whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    former = temporary.with_suffix(".old")
    try:
        yield temporary
        if path.exists():
            os.replace(path, former)
        try:
            os.replace(temporary, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
    except Exception as error:  # the disk's and the encoder's own kinds
        if isinstance(error, ImageError):
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"{path}: cannot be written ({detail}); check that the folder exists, is writable and has room."
        ) from error
    finally:
        for folder in (temporary, former):
            shutil.rmtree(folder, ignore_errors=True)
