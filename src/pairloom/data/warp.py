"""What may be drawn besides jitter and mirror: turns, small affine maps, elastic, light; off by default.

Deviation: the paper has none of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pairloom.config import ELASTIC_SPANS, DataConfig, height_width


@dataclass(frozen=True, kw_only=True, slots=True)
class Warp:
    """The further geometry of one pair: the same for each of its sides."""

    quarters: int
    """Quarter turns, counter-clockwise."""
    places: NDArray[np.float64] | None
    """(h, w, 2): where in the crop, as x and y from its top left, each pixel is read; None: its own."""


def draw_warp(data: DataConfig, rng: np.random.Generator) -> Warp | None:
    """The warp of one pair as `data` says; None when all of it is off.

    All parts are always drawn, so that switching one off leaves the others as they were.
    """
    moves = bool(data.affine_degrees or data.affine_scale or data.elastic_px)
    if data.rotate == "none" and not moves:
        return None
    quarters = int(rng.integers(4))
    angle = np.deg2rad(data.affine_degrees * rng.uniform(-1, 1))
    factor = 1 + data.affine_scale * rng.uniform(-1, 1)
    controls = rng.uniform(-1, 1, (2, ELASTIC_SPANS + 3, ELASTIC_SPANS + 3))
    places = None
    if moves:
        height, width = height_width(data.crop_size)
        places = affine(elastic(height, width, data.elastic_px * controls), angle, factor)
    return Warp(quarters=quarters if data.rotate == "quarter" else 0, places=places)


def elastic(height: int, width: int, controls: NDArray[np.float64]) -> NDArray[np.float64]:
    """The pixels' centres, moved by a smooth field: a uniform cubic B-spline.

    No pixel moves further, along an axis, than the largest control value, and below a sixteenth of the side
    the field cannot fold: its slope is at most the difference of two neighbouring values over their distance.

    Shapes: controls (2, ELASTIC_SPANS + 3, the same): x and y -> (height, width, 2).
    Units: pixels.
    """
    rows, columns = _spline(height), _spline(width)
    # einsum, not a matrix product: the sums do not depend on a library's threads.
    moved = np.einsum("chj,wj->chw", np.einsum("hi,cij->chj", rows, controls), columns)
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    places: NDArray[np.float64] = np.stack([x + moved[0], y + moved[1]], axis=-1)
    return places


def affine(places: NDArray[np.float64], angle: float, factor: float) -> NDArray[np.float64]:
    """Places for a picture turned counter-clockwise about the crop's middle, and enlarged by the factor.

    Shapes: (h, w, 2) -> (h, w, 2).
    Units: angle in radians.
    """
    middle = np.array([places.shape[1] / 2, places.shape[0] / 2])
    x, y = np.moveaxis(places - middle, -1, 0) / factor
    cos, sin = np.cos(angle), np.sin(angle)
    turned: NDArray[np.float64] = middle + np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
    return turned


def read_window(side: Tensor, top: int, left: int, places: NDArray[np.float64], *, labels: bool) -> Tensor:
    """The window of an image at (top, left), read at those places: nearest for label maps, else bilinear.

    It reads the whole image, not a crop of it: what comes into the window is there, as far as the image goes;
    beyond, the image is continued by reflection. And pixels are interpolated once.

    Shapes: side (C, H, W), places (h, w, 2) -> (C, h, w).
    """
    height, width = side.shape[1:]
    # grid_sample's -1 and 1 are the outer edges of the image.
    grid = torch.from_numpy((places + np.array([left, top])) * np.array([2 / width, 2 / height]) - 1).to(
        side.dtype
    )
    mode = "nearest" if labels else "bilinear"
    return F.grid_sample(side[None], grid[None], mode, padding_mode="reflection", align_corners=False)[0]


def relight(source: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Contrast times 1 +- amount about mid-grey, and brightness +- amount; clipped to [-1, 1].

    Shapes: (C, H, W) -> (C, H, W), a new tensor; one draw for all channels.
    """
    contrast, brightness = amount * rng.uniform(-1, 1, 2)
    return (source * float(1 + contrast) + float(brightness)).clamp(-1, 1)


def _spline(side: int) -> NDArray[np.float64]:
    """Weights of the control values for each pixel. Shapes: -> (side, ELASTIC_SPANS + 3), rows sum to 1."""
    t = (np.arange(side) + 0.5) / side * ELASTIC_SPANS
    distance = np.abs(t[:, None] - np.arange(-1, ELASTIC_SPANS + 2))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)
