"""Pixels as participants see them: 8-bit RGB, reduced by area, or wrecked for the attention checks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pairloom.pixels import Array, described
from pairloom.study.protocol import StudyFault

Rgb = npt.NDArray[np.uint8]
"""(H, W, 3)."""
WRECK_BLOCKS = 8
"""A wreck is cut into this many blocks a side."""


def eight_bit_rgb(array: Array, said: str) -> Rgb:
    """Grey becomes RGB; anything but 8 bits is refused.

    Shapes: (H, W, 1 or 3) -> (H, W, 3).

    Raises:
        StudyFault: It is of another depth or has other channels.
    """
    channels = array.shape[2]
    if array.dtype.name != "uint8" or channels not in (1, 3):
        raise StudyFault(
            f"{said}: has {described(channels, array.dtype.name)}; a study shows 8-bit images in grey or "
            "RGB, so convert it as you want people to see it."
        )
    rgb: Rgb = np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
    return rgb


def reduced(pixels: Rgb, size: int | None, said: str) -> Rgb:
    """At the longer side `size`, each pixel the mean over its area.

    Source: Section 4.1 on maps: the 512 x 512 images "were downsampled and presented" at 256.
    Shapes: (H, W, 3) -> (h, w, 3).
    """
    height, width = pixels.shape[:2]
    longer = max(height, width)
    if size is None or longer == size:
        return pixels
    if longer < size:
        raise StudyFault(
            f"{said}: has {width} x {height} pixels, which --size {size} would enlarge; images are only ever "
            "reduced, so give a smaller --size or none."
        )
    rows = _area_weights(height, max(1, round(height * size / longer)))
    columns = _area_weights(width, max(1, round(width * size / longer)))
    means = np.einsum("ih,hwc,jw->ijc", rows, pixels.astype(np.float64), columns, optimize=True)
    rounded: Rgb = np.clip(np.rint(means), 0, 255).astype(np.uint8)
    return rounded


def _area_weights(old: int, new: int) -> npt.NDArray[np.float64]:
    """Share of each old pixel in each new one. Shapes: -> (new, old), rows sum to 1."""
    edges = np.arange(new + 1) * old / new
    pixel = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    shares: npt.NDArray[np.float64] = np.clip(overlap, 0, None) * new / old
    return shares


def wreck_of(pixels: Rgb, rng: np.random.Generator) -> Rgb:
    """Nobody who looks takes this for real: its blocks are shuffled, and half of them are negatives."""
    wreck = np.empty_like(pixels)
    height, width = (max(1, side // WRECK_BLOCKS) for side in pixels.shape[:2])
    y, x = np.meshgrid(
        np.arange(0, pixels.shape[0], height), np.arange(0, pixels.shape[1], width), indexing="ij"
    )
    corners = list(zip(y.ravel().tolist(), x.ravel().tolist(), strict=True))
    padded = np.pad(pixels, ((0, height), (0, width), (0, 0)), mode="edge")
    for (top, left), old in zip(corners, rng.permutation(len(corners)), strict=True):
        from_top, from_left = corners[old]
        block = padded[from_top : from_top + height, from_left : from_left + width]
        block = 255 - block if rng.random() < 0.5 else block
        room = wreck[top : top + height, left : left + width]
        room[:] = block[: room.shape[0], : room.shape[1]]
    return wreck
