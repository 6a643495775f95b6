"""NIfTI files: (x, y[, z][, channel]) with a place in the patient.

Values are scaled by the header's slope and intercept, to float32; where these are 1 and 0 they are kept. The
fourth axis, and the fifth, are channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from pairloom.pixels import Array, ImageError
from pairloom.stacks.memory import VALUES, key_of
from pairloom.stacks.needed import needed
from pairloom.stacks.spatial import patient_axes, voxel_size
from pairloom.stacks.stack import Index, Stack


def open_nifti(path: Path, *, time: bool = False) -> Stack:
    """The header; with `time` the fourth axis is t, not channels."""
    nibabel = needed("nibabel", path, "NIfTI")
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):
        raise ImageError(f"{path}: is no NIfTI file but {type(image).__name__}; convert it.")
    proxy, shape = image.dataobj, tuple(image.shape)
    if not 2 <= len(shape) <= 5 or 0 in shape:
        raise ImageError(f"{path}: has the shape {shape}; a NIfTI image has 2 to 5 axes, none of them empty.")
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    letters, against = patient_axes(path, image.affine)
    axes = letters[: len(shape)] + ("" if len(shape) < 4 else "t" if time else "c")
    if len(shape) == 5:  # a vector at each (x, y, z, t), t most often of length 1
        axes = letters + "tc"
    colours = proxy.dtype.names or ()
    if colours:
        axes, shape = axes + "s", (*shape, len(colours))
    packed = path.name.lower().endswith(".gz")
    key = key_of(path)

    def load(index: Index) -> Array:
        if packed:
            whole = VALUES.get(key, lambda: _values(np.asarray(proxy.get_unscaled()), colours))
            return _scaled(whole[index], proxy) if scaled else whole[index]
        own = index[:-1] if colours else index
        values = _values(np.asarray(proxy[own]), colours)
        return values[..., index[-1]] if colours else values

    unit = image.header.get_xyzt_units()[0]
    return Stack(
        path=path,
        container="NIfTI volume" if len(shape) > 2 else "NIfTI image",
        axes=axes,
        shape=shape,
        stored="float32" if scaled else "uint8" if colours else proxy.dtype.name,
        load=load,
        against=against,
        upside_down=True,
        size=voxel_size(image.affine, letters),
        unit="" if unit == "unknown" else "µm" if unit == "micron" else unit,
        origin=image.affine,
    )


def _values(array: Array, colours: tuple[str, ...]) -> Array:
    return np.stack([array[name] for name in colours], axis=-1) if colours else array


def _scaled(values: Array, proxy: Any) -> Array:
    """As nibabel scales what is not compressed."""
    scaled: Array = values * np.float64(proxy.slope) + np.float64(proxy.inter)
    return scaled


def encode_nifti(file: IO[bytes], stack: Stack, volume: Array, *, packed: bool) -> None:
    """A volume at the place of another one, with its header if that was NIfTI, too.

    Shapes: volume (T, Z, Y, X, C).
    """
    import gzip

    nibabel = needed("nibabel", stack.path, "NIfTI")
    channels = volume.shape[4]
    # Channels are the fourth axis, as they are read; time comes before them.
    times = stack.length("t") > 1
    letters = "".join(letter for letter in _letters(stack) if letter in "xyz")
    if channels > 1 or times:
        letters += "".join(letter for letter in "xyz" if letter not in letters)
    axes = letters + ("t" if times else "") + ("c" if channels > 1 else "")
    values = np.ascontiguousarray(stack.as_stored(volume, axes))
    like = nibabel.load(stack.path).header if stack.container.startswith("NIfTI") else None
    kind = nibabel.Nifti2Image if isinstance(like, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(values, stack.origin, None if like is None else like.copy())
    image.set_data_dtype(values.dtype)
    if like is None:
        image.header.set_xyzt_units("mm")
    for name in ("cal_min", "cal_max"):  # the window in which the source was shown
        image.header[name] = 0
    image.header.set_intent("none")
    image.header["descrip"] = b"pairloom translation"
    data = image.to_bytes()
    # No time of writing inside: the same volume gives the same bytes.
    file.write(gzip.compress(data, compresslevel=6, mtime=0) if packed else data)


def _letters(stack: Stack) -> str:
    """The axes of the stored array, in the order of the affine's columns."""
    return stack.axes if stack.container.startswith("NIfTI") else stack.axes[::-1]
