"""NPZ files, and NPY files that are volumes.

| axes of an array | without `data.slice_axis` | with it |
|---|---|---|
| 2 | (y, x) | (y, x) |
| 3 | (y, x, channel) | (z, y, x) |
| 4 | (z, y, x, channel) | (z, y, x, channel) |

Each array of an NPZ file gives channels: those of arrays that are chosen by name stand one after the other.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from pairloom.pixels import Array, ImageError
from pairloom.stacks.memory import VALUES, key_of
from pairloom.stacks.stack import Index, Part, Stack


def open_arrays(path: Path, part: Part) -> Stack:
    """The header of an NPY file, or those of the arrays in an NPZ file that are selected."""
    volume = part.axis != "auto"
    if path.suffix.lower() == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        axes = _axes(path, array.shape, volume)
        return Stack(
            path=path,
            container="NPY array",
            axes=axes,
            shape=array.shape,
            stored=array.dtype.name,
            load=lambda index: np.load(path, mmap_mode="r", allow_pickle=False)[index],
        )
    found = {name: header for name, header in _headers(path).items() if len(header[0]) in (2, 3, 4)}
    if not found:
        raise ImageError(
            f"{path}: holds no array of 2 to 4 axes; save images as (height, width[, channels])."
        )
    wanted = {select.partition(":")[0] for select in part.select}
    return _stack(path, {name: found[name] for name in found if name in wanted} or found, volume)


def _stack(path: Path, found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], volume: bool) -> Stack:
    axes = {name: _axes(path, shape, volume) for name, (shape, _) in found.items()}
    places = {name: shape[: axes[name].index("x") + 1] for name, (shape, _) in found.items()}
    first = next(iter(found))
    alike = [name for name in found if places[name] == places[first] and found[name][1] == found[first][1]]
    if len(alike) < len(found):
        listed = "; ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in found.items())
        raise ImageError(
            f"{path}: its arrays differ in size or type ({listed}), so name those that are the image with "
            "data.source_select or data.target_select."
        )
    counts = {name: shape[-1] if axes[name].endswith("c") else 1 for name, (shape, _) in found.items()}
    names = tuple(
        f"{name}:{number}" if count > 1 else name for name, count in counts.items() for number in range(count)
    )
    channels = [(name, number) for name, count in counts.items() for number in range(count)]
    key = key_of(path)

    def load(index: Index) -> Array:
        name, number = channels[_number(index[-1])]
        with np.load(path, allow_pickle=False) as archive:
            whole = VALUES.get((*key, name), lambda: archive[name])
        return whole[(*index[:-1], number)] if axes[name].endswith("c") else whole[index[:-1]]

    return Stack(
        path=path,
        container="NPZ archive",
        axes=axes[first].removesuffix("c") + "c",
        shape=(*places[first], len(channels)),
        stored=found[first][1].name,
        load=load,
        names=names,
    )


def _number(index: int | slice) -> int:
    assert isinstance(index, int), "channels are read one by one"
    return index


def _axes(path: Path, shape: tuple[int, ...], volume: bool) -> str:
    axes = {2: "yx", 3: "zyx" if volume else "yxc", 4: "zyxc"}.get(len(shape))
    if axes is None:
        raise ImageError(
            f"{path}: has the shape {shape}; allowed are (height, width), (height, width, channels) and "
            "(z, y, x, channels), and with data.slice_axis (z, y, x)."
        )
    return axes


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array, without reading it."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                shape, _, dtype = (
                    np.lib.format.read_array_header_1_0(file)
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0(file)
                )
            found[member.removesuffix(".npy")] = (shape, dtype)
    return found


def encode_arrays(file: IO[bytes], stack: Stack, volume: Array, names: tuple[str, ...]) -> None:
    """An NPY array, or an NPZ archive with one array for each channel that has a name, else with `output`.

    Shapes: volume (T, Z, Y, X, C).
    """
    place = stack.axes.removesuffix("c")
    if stack.container.startswith("NPY"):
        values = stack.as_stored(volume, place + ("c" if volume.shape[4] > 1 else ""))
        np.save(file, np.ascontiguousarray(values), allow_pickle=False)
        return
    each = {name: volume[..., number] for number, name in enumerate(names)} or {"output": volume}
    arrays = {
        name: stack.as_stored(v if v.ndim == 5 else v[..., None], place + ("c" if v.ndim == 5 else ""))
        for name, v in each.items()
    }
    np.savez_compressed(file, allow_pickle=False, **arrays)
