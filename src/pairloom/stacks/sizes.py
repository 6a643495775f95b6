"""How large files are, and folders that are one image."""

from __future__ import annotations

import os
from pathlib import Path

_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def bytes_of(path: Path) -> int:
    """Of a file, its own; of a DICOM series, those of its files; of OME-Zarr, of its metadata.

    Raises:
        OSError: It is no longer there.
    """
    if not path.is_dir():
        return path.stat().st_size
    if path.suffix.lower() == ".zarr":  # a large one has a million chunks
        places = [path, *(entry for entry in path.iterdir() if entry.is_dir())]
        return sum((p / name).stat().st_size for p in places for name in _METADATA if (p / name).exists())
    with os.scandir(path) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
