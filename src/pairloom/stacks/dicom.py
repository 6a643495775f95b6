"""DICOM: a file, with one frame or several, or a folder that is one series.

Stored values are scaled by the modality's slope and intercept (or table), to float32; where there are none,
or 1 and 0, they are kept. MONOCHROME1 is turned so that larger is brighter, unless the values are scaled:
then they are quantities. Palettes become RGB. The window (VOI) is not applied: it is a way of looking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairloom.pixels import Array, ImageError
from pairloom.stacks.memory import VALUES, key_of
from pairloom.stacks.needed import needed
from pairloom.stacks.spatial import Affine, patient_axes, voxel_size
from pairloom.stacks.stack import Index, Stack

UNEVEN = 0.02
"""Distances between slices that differ by more than this share are a missing slice."""


def is_dicom_file(path: Path) -> bool:
    """By its suffix; a file without one by its first bytes."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    if path.suffix or path.name.startswith(".") or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def files_of(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder."""
    return sorted(path for path in folder.iterdir() if path.name[0] != "." and is_dicom_file(path))


def series_of(files: Sequence[Path]) -> list[str]:
    """The series that each file belongs to; unknown: empty."""
    pydicom = needed("pydicom", files[0], "DICOM")
    found = []
    for path in files:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        found.append(str(header.get("SeriesInstanceUID", "")))
    return found


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a plane is stored, and what its values mean."""

    path: Path
    number: int
    slope: float
    intercept: float
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    """Millimetres between rows and between columns."""
    order: float
    """Where it has no position: its number in the series."""

    @property
    def height(self) -> float | None:
        """Millimetres along the normal of the plane."""
        if self.position is None or self.orientation is None:
            return None
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return float(np.dot(normal, self.position))


def open_file(path: Path) -> Stack:
    """One DICOM file."""
    return _stack(path, [path], "DICOM image")


def open_series(folder: Path) -> Stack:
    """The files of a folder, sorted by their position.

    Raises:
        ImageError: They are of several series, or a slice is missing.
    """
    files = files_of(folder)
    if not files:
        raise ImageError(
            f"{folder}: is a folder without DICOM files, and no OME-Zarr; give a file or a series."
        )
    if (count := len(set(series_of(files)))) > 1:
        raise ImageError(
            f"{folder}: mixes {count} DICOM series in its {len(files)} files; put each series into a folder "
            "of its own."
        )
    return _stack(folder, files, "DICOM series")


def _stack(path: Path, files: Sequence[Path], container: str) -> Stack:
    pydicom = needed("pydicom", path, "DICOM")
    headers = [pydicom.dcmread(file, defer_size=1024) for file in files]
    for file, header in zip(files, headers, strict=True):
        if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise ImageError(f"{file}: is a DICOM file without pixels ({_kind(header)}); leave it out.")
    shapes = {
        (int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel", 1))) for header in headers
    }
    if len(shapes) > 1:
        raise ImageError(
            f"{path}: its slices differ in (rows, columns, samples): {sorted(shapes)}; take out those that "
            "do not belong to the volume."
        )
    rows, columns, samples = shapes.pop()
    frames = _sorted(path, [f for file, h in zip(files, headers, strict=True) for f in _frames(file, h)])
    colours = samples > 1 or headers[0].get("PhotometricInterpretation") == "PALETTE COLOR"
    scaled = any((f.slope, f.intercept) != (1.0, 0.0) for f in frames) or any(
        "ModalityLUTSequence" in header for header in headers
    )
    inverted = headers[0].get("PhotometricInterpretation") == "MONOCHROME1" and not scaled
    affine = _affine(frames)
    letters, against = ("xyz", frozenset[str]()) if affine is None else patient_axes(path, affine)
    stacked = len(frames) > 1
    moving = stacked and affine is None and "FrameTime" in headers[0]
    axes = (
        ("t" if moving else letters[2] if stacked else "")
        + letters[1]
        + letters[0]
        + ("s" if colours else "")
    )
    shape = (*((len(frames),) if stacked else ()), rows, columns, *((3,) if colours else ()))

    def plane(number: int) -> Array:
        return _values(pydicom, frames[number], scaled=scaled, inverted=inverted, colours=colours)

    def load(index: Index) -> Array:
        if not stacked:
            return plane(0)[index]
        if isinstance(index[0], int):
            return plane(index[0])[index[1:]]
        whole = VALUES.get(key_of(path), lambda: np.stack([plane(n) for n in range(len(frames))]))
        return whole[index]

    spacing = frames[0].spacing
    flat_size = {} if spacing is None else {letters[1]: spacing[0], letters[0]: spacing[1]}
    return Stack(
        path=path,
        container=container if not stacked or len(files) > 1 else "DICOM file of several frames",
        axes=axes,
        shape=shape,
        stored="float32" if scaled else _dtype(headers[0], colours),
        load=load,
        against=against,
        upside_down=affine is not None,
        size=flat_size if affine is None else voxel_size(affine, letters),
        unit="mm",
        origin=np.diag([*((spacing or (1.0, 1.0))[::-1]), 1.0, 1.0]) if affine is None else affine,
    )


def _kind(header: Any) -> str:
    return str(getattr(header.get("SOPClassUID", ""), "name", "")) or "of an unknown kind"


def _dtype(header: Any, colours: bool) -> str:
    if "PixelData" not in header:
        return "float32"
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return "uint16" if int(header.RedPaletteColorLookupTableDescriptor[2]) > 8 else "uint8"
    bits = max(int(header.BitsAllocated), 8)
    return f"{'int' if header.PixelRepresentation and not colours else 'uint'}{bits}"


def _frames(path: Path, header: Any) -> Iterator[_Frame]:
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    each = header.get("PerFrameFunctionalGroupsSequence")
    for number in range(int(header.get("NumberOfFrames") or 1)):
        own = each[number] if each is not None and number < len(each) else {}

        def found(group: str, name: str, own: Any = own) -> Any:
            """Of the frame, of all frames, or of a file of the older kind."""
            for place in (own, shared):
                sequence = place.get(group)
                if sequence and sequence[0].get(name) is not None:
                    return sequence[0].get(name)
            return header.get(name)

        values = "PixelValueTransformationSequence"
        slope, intercept = found(values, "RescaleSlope"), found(values, "RescaleIntercept")
        yield _Frame(
            path,
            number,
            1.0 if slope is None else float(slope),
            0.0 if intercept is None else float(intercept),
            _numbers(found("PlanePositionSequence", "ImagePositionPatient"), 3),
            _numbers(found("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
            _numbers(found("PixelMeasuresSequence", "PixelSpacing") or header.get("ImagerPixelSpacing"), 2),
            float(header.get("InstanceNumber") or 0) + number,
        )


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    return None if values is None or len(values) != count else tuple(float(v) for v in values)


def _sorted(path: Path, frames: list[_Frame]) -> list[_Frame]:
    """Along the normal of the slices, where these have places of their own; else by number."""
    heights = [frame.height for frame in frames]
    if len({frame.path for frame in frames}) == 1 and len(set(heights)) < len(frames):
        return frames  # the frames of one file, as of a film
    if any(height is None for height in heights):
        return sorted(frames, key=lambda frame: (frame.order, frame.path.name))
    ordered = sorted(frames, key=lambda frame: frame.height or 0.0)
    gaps = np.diff([frame.height or 0.0 for frame in ordered])
    if len(gaps) and gaps.min() <= 0:
        raise ImageError(
            f"{path}: holds several slices at one place, as of several echoes or times; part them."
        )
    if len(gaps) and gaps.max() - np.median(gaps) > UNEVEN * np.median(gaps):
        raise ImageError(
            f"{path}: its slices lie {gaps.min():.3g} to {gaps.max():.3g} mm apart, so that one seems to be "
            "missing; copy the series again."
        )
    return ordered


def _affine(frames: Sequence[_Frame]) -> Affine | None:
    """Of (column, row, slice) to RAS; DICOM itself counts to the left and to the back."""
    first, last = frames[0], frames[-1]
    if first.position is None or last.position is None or first.orientation is None or first.spacing is None:
        return None
    along, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    step = np.cross(along, down)
    if len(frames) > 1:
        moved = np.subtract(last.position, first.position) / (len(frames) - 1)
        if not moved.any():
            return None
        step = moved
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along * first.spacing[1], down * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, first.position
    affine[:2] *= -1
    return affine


def _values(pydicom: Any, frame: _Frame, *, scaled: bool, inverted: bool, colours: bool) -> Array:
    """(rows, columns[, 3]) of one frame."""
    pixels = needed("pydicom.pixels", frame.path, "DICOM")
    header = pydicom.dcmread(frame.path)
    array: Array = pixels.pixel_array(header, index=frame.number)
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        array = pixels.apply_color_lut(array, header)[..., :3]
    if "ModalityLUTSequence" in header:
        array = pixels.apply_modality_lut(array, header)
    elif scaled:
        array = array * frame.slope + frame.intercept
    if inverted:
        low, high = _stored_limits(header)
        array = (high - (array.astype(np.int64) - low)).astype(array.dtype)
    return array[..., :3] if colours else array


def _stored_limits(header: Any) -> tuple[int, int]:
    bits = int(header.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.PixelRepresentation else (0, 2**bits - 1)
