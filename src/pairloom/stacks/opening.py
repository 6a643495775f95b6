"""Which reader a file has."""

from __future__ import annotations

from pathlib import Path

from pairloom.disk import reading
from pairloom.pixels import ImageError
from pairloom.stacks.memory import HEADERS, Kept, key_of
from pairloom.stacks.stack import WHOLE, Part, Stack
from pairloom.stacks.suffixes import is_always_stack, may_be_stack, suffix_of

_OPENED: Kept[Stack] = Kept(HEADERS, lambda _: 1)


_FLAT = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy")


def is_stack(path: Path, axis: str = "auto") -> bool:
    """Whether a file, or a folder, is read as a stack: by its name, with a slice axis also TIFF and NPY."""
    name = path.name.lower()
    flat = name.endswith(_FLAT)
    if flat and axis == "auto" and not name.rpartition(".")[0].endswith(".ome"):
        return False  # nearly all files: asked for by the hundred thousand
    if is_always_stack(path) or (axis != "auto" and may_be_stack(path)):
        return True
    return not flat and path.is_dir()


def open_stack(path: str | Path, part: Part = WHOLE) -> Stack:
    """A stack by its header; with a slice axis, pages of a TIFF are planes.

    Args:
        path: A file, or a folder of DICOM files or of OME-Zarr.
        part: Along which axis it is to be cut, and which arrays of an NPZ file are wanted.

    Raises:
        ImageError: There is no such file, it is damaged, holds no such thing, or its package is missing.
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"{path}: there is no such file; check the name.")
    if path.is_file() and not path.stat().st_size:
        raise ImageError(f"{path}: is empty (0 bytes); copy or export it again.")
    return _OPENED.get((*key_of(path), part.axis, part.select), lambda: _opened(path, part))


def _opened(path: Path, part: Part) -> Stack:
    suffix = suffix_of(path).lower()
    with reading(path):
        if path.is_dir() and not suffix.endswith(".zarr"):
            from pairloom.stacks import dicom

            return dicom.open_series(path)
        if suffix.endswith(".zarr"):
            from pairloom.stacks import omezarr

            return omezarr.open_zarr(path)
        if suffix in (".nii", ".nii.gz"):
            from pairloom.stacks import nifti

            return nifti.open_nifti(path, time=part.axis == "t")
        if suffix in (".dcm", ".dicom"):
            from pairloom.stacks import dicom

            return dicom.open_file(path)
        if suffix in (".npz", ".npy"):
            from pairloom.stacks import arrays

            return arrays.open_arrays(path, part)
        from pairloom.stacks import ometiff

        return ometiff.open_tiff(path)
