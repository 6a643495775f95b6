"""Folders of DICOM files that are one volume."""

from __future__ import annotations

from pathlib import Path

from pairloom.data.pairs import DataError
from pairloom.disk import reading
from pairloom.images import ImageError
from pairloom.stacks.dicom import files_of, is_dicom_file, series_of


def is_series(folder: Path) -> bool:
    """Whether the files of a folder are one DICOM series, and not images that stand for themselves.

    Raises:
        DataError: It mixes series.
    """
    if not any(is_dicom_file(path) for path in folder.iterdir()):
        return False
    files = files_of(folder)
    if len(files) == 1:
        return False
    try:
        with reading(folder):
            found = series_of(files)
    except ImageError as error:
        raise DataError(str(error)) from error
    count = len(set(found))
    if 1 < count < len(files):
        raise DataError(
            f"{folder}: mixes {count} DICOM series in its {len(files)} files; put each series into a folder "
            "of its own."
        )
    return count == 1
