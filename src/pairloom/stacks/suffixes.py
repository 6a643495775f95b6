"""What files are called: suffixes of two parts, folders that are one image, and names without them."""

from __future__ import annotations

import os
from pathlib import PurePath

SUFFIXES = frozenset({".nii", ".nii.gz", ".npz", ".dcm", ".dicom", ".zarr"})
"""Of the containers that are always read as stacks; `.zarr` is a folder, and so is a DICOM series."""
_DOUBLE = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr")


def suffix_of(path: str | PurePath) -> str:
    """As written, with both parts of `.nii.gz`, `.ome.tif`, `.ome.tiff` and `.ome.zarr`."""
    # Without a PurePath for each: names are asked for by the hundred thousand.
    if isinstance(path, PurePath):
        name = path.name
    else:
        name = path if os.sep not in path else os.path.basename(path) or PurePath(path).name
    if name.lower().endswith(_DOUBLE):
        for double in _DOUBLE:
            if name.lower().endswith(double) and len(name) > len(double):
                return name[-len(double) :]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def stem_of(path: str) -> str:
    """A relative path without its suffix."""
    suffix = suffix_of(path)
    return path[: -len(suffix)] if suffix else path


def is_always_stack(path: str | PurePath) -> bool:
    """Whether the name says that it is read as a stack, whatever the settings say."""
    suffix = suffix_of(path).lower()
    return suffix in SUFFIXES or suffix.startswith(".ome.")


def may_be_stack(path: str | PurePath) -> bool:
    """Whether it is read as a stack where a slice axis is given."""
    return is_always_stack(path) or suffix_of(path).lower() in (".tif", ".tiff", ".npy")
