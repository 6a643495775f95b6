"""Arrays that are images: (H, W, C), C from 1 to 64, `uint8 | uint16 | float32`, upright, never infinite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""(H, W, C), uint8 | uint16 | float32."""
Alpha = Literal["auto", "white", "keep"]
"""auto: `white` for uint8; `keep` for uint16 and float32, whose values are never altered unasked."""
PageAxis = Literal["channels", "first"]
Nan = Literal["refuse", "keep"]
"""NaN in a float32 image: an error, or the mark of a pixel that counts for nothing (`valid_pixels`)."""

MAX_CHANNELS = 64
DTYPES = ("uint8", "uint16", "float32")
WHITE = {"uint8": 255, "uint16": 65535, "float32": 1.0}
"""The value of white, and of full opacity, when an alpha channel is laid over white."""
ORIENTATION = 0x0112
"""The tag of the orientation, in EXIF data and in TIFF files."""


class ImageError(ValueError):
    """An image cannot be used; one sentence says which file, what is wrong, and what to do."""


def check_array(name: object, array: Array, *, nan: Nan = "refuse") -> None:
    """Raise an ImageError that begins with `name` unless `array` is an image in the sense of this module."""
    if array.ndim != 3:
        raise ImageError(f"{name}: has shape {array.shape}; an image is (height, width, channels).")
    if array.dtype.name not in DTYPES:
        raise ImageError(f"{name}: holds {array.dtype.name} values; allowed are {', '.join(DTYPES)}.")
    height, width, channels = array.shape
    if height < 1 or width < 1 or channels < 1:
        raise ImageError(f"{name}: has shape {array.shape}, which holds no pixels; leave it out.")
    check_channels(name, channels, array.shape)
    if array.dtype.name == "float32":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad and nan == "refuse":
            raise ImageError(f"{name}: {bad} of its {array.size} values are NaN or infinite; replace them.")
        if bad and (infinite := int(np.isinf(array).sum())):
            raise ImageError(
                f"{name}: {infinite} of its {array.size} values are infinite; replace them, by NaN where the "
                "pixel is to count for nothing."
            )


def valid_pixels(array: Array) -> npt.NDArray[np.bool_]:
    """Which pixels count: those without NaN in any channel. Shapes: (H, W, C) -> (H, W)."""
    if array.dtype.kind != "f":
        return np.ones(array.shape[:2], np.bool_)
    return np.asarray(~np.isnan(array).any(axis=2))


def leave_out(array: Array, valid: npt.NDArray[np.bool_]) -> Array:
    """NaN where pixels count for nothing, as far as the type can say so; integers stay as they are.

    Shapes: array (..., H, W, C), valid (H, W) -> array's.
    """
    if array.dtype.kind != "f" or valid.all():
        return array
    return np.where(valid[..., None], array, np.float32(np.nan))


def described(channels: int, dtype: str) -> str:
    """Channels and dtype in words, for messages."""
    return f"{channels} channel{'' if channels == 1 else 's'} of {dtype}"


def check_channels(name: object, channels: int, shape: tuple[int, ...]) -> None:
    """Raise an ImageError unless there are at most `MAX_CHANNELS`."""
    if channels > MAX_CHANNELS:
        raise ImageError(
            f"{name}: has {channels} channels (shape {shape}), and at most {MAX_CHANNELS} are allowed;"
            " the order must be (height, width, channels): a channel axis that comes first goes last."
        )


def in_allowed_dtype(path: Path, array: Array) -> Array:
    """Native uint8, uint16 or float32: bool becomes 0 and 255, floats become float32, the rest is refused."""
    name = array.dtype.name
    if name == "bool":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which check_array counts
            return array.astype(np.float32, copy=False)
    if name in DTYPES:
        return array.astype(np.dtype(name), copy=False)
    raise ImageError(
        f"{path}: holds {name} values; allowed are {', '.join(DTYPES)}"
        " (bool, float16 and float64 are converted), so save it with a dtype that holds its values."
    )


def with_channel_axis(path: Path, array: Array) -> Array:
    """(H, W, C) from (H, W) or (H, W, C); anything else is an ImageError."""
    if array.ndim not in (2, 3):
        raise ImageError(
            f"{path}: has shape {array.shape}; allowed are (height, width) and (height, width, channels)."
        )
    return array[..., None] if array.ndim == 2 else array


def keeps_alpha(alpha: Alpha, dtype: str) -> bool:
    """Whether an alpha channel stays one in arrays of this dtype; otherwise it is laid over white."""
    return alpha == "keep" or (alpha == "auto" and dtype != "uint8")


def over_white(array: Array, index: int, *, premultiplied: bool) -> Array:
    """(H, W, C) laid over white by its alpha channel `index`, which goes; opaque pixels stay exact."""
    white = WHITE[array.dtype.name]
    colour = np.delete(array, index, axis=2).astype(np.float64)
    opacity = array[..., index : index + 1].astype(np.float64) / white
    laid = (colour if premultiplied else colour * opacity) + white * (1.0 - opacity)
    if array.dtype.kind == "u":
        laid = np.clip(np.rint(laid), 0, white)
    return laid.astype(array.dtype)


def upright(array: Array, turn: int) -> Array:
    """(H, W, C) as EXIF orientation `turn`, 1 to 8, says it is to be shown."""
    if turn in (5, 7):
        array = array.transpose(1, 0, 2)
    if turn == 2:
        return array[:, ::-1]
    if turn == 4:
        return array[::-1]
    return np.rot90(array, {3: 2, 6: -1, 7: 2, 8: 1}.get(turn, 0))
