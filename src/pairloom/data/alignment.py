"""How far a target is shifted against its source: phase correlation on edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy import fft
from numpy.typing import NDArray
from skimage.filters import sobel

from pairloom import images
from pairloom.pixels import Array

SHIFT_PX = 256
"""Shifts are estimated on images whose longer side is at most this."""
CLEAR = 1.5
"""An estimate counts when its correlation peak is so many times the next one."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Where the target's content lies relative to the source's, in source pixels.

    `clarity` is the height of the correlation peak over that of the next one; below `CLEAR` it means nothing.
    """

    down: float
    right: float
    clarity: float

    @property
    def length(self) -> float:
        """Euclidean, in source pixels."""
        return math.hypot(self.down, self.right)


def estimate_shift(source: Array, target: Array) -> Shift | None:
    """How far the target is shifted against the source, by phase correlation of their edges.

    Edges, because the two sides often share nothing else. At most a quarter of the image is found.

    Shapes: (H, W, C) and (H', W', C'); the target is brought to the source's size.
    Units: file values of any range in; source pixels out.

    Returns:
        None when a side is too small or has no edges.
    """
    height, width = source.shape[:2]
    scale = max(1.0, max(height, width) / SHIFT_PX)
    size = round(height / scale), round(width / scale)
    if min(size) < 16:
        return None
    first, second = (_edges(side, size) for side in (source, target))
    if not first.any() or not second.any():
        return None

    spectrum = fft.rfft2(second) * np.conj(fft.rfft2(first))
    strength = np.abs(spectrum)
    # Whitened, then smoothed by one pixel: edges of two renderings of a thing agree in place, not in profile.
    down, right = fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1])[None]
    smooth = np.exp(-2 * np.pi**2 * (down**2 + right**2))
    surface = fft.irfft2(spectrum / (strength + 1e-9 * strength.max()) * smooth, s=size)
    # Centred, so that the peak of no shift stands at size // 2, and cut to shifts that leave enough overlap.
    surface = fft.fftshift(surface)
    middle = size[0] // 2, size[1] // 2
    reach = size[0] // 4, size[1] // 4
    window = surface[tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))]
    y, x = (int(v) for v in np.unravel_index(window.argmax(), window.shape))
    others = window.copy()
    others[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = -np.inf
    next_best = max(float(others.max()), 1e-12)
    return Shift(
        down=(y - reach[0] + _vertex(window[:, x], y)) * height / size[0],
        right=(x - reach[1] + _vertex(window[y], x)) * width / size[1],
        clarity=float(window[y, x]) / next_best,
    )


def _edges(array: Array, size: tuple[int, int]) -> NDArray[np.float64]:
    """Edge strength of the mean of the channels, faded out towards the border."""
    grey = torch.from_numpy(array.mean(axis=2, dtype=np.float64)).float()[None]
    small = images.resize(grey, size, labels=False)[0].double().numpy()
    edges: NDArray[np.float64] = sobel(small)
    fade = np.outer(*(np.hanning(side + 2)[1:-1] for side in size))
    return (edges - edges.mean()) * fade if edges.max() > 0 else edges


def _vertex(values: NDArray[np.float64], at: int) -> float:
    """Offset of the top of the parabola through a maximum and its two neighbours."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, top, after = (float(v) for v in values[at - 1 : at + 2])
    bend = before - 2 * top + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
