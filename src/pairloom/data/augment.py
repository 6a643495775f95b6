"""Geometry of a pair: the paper's jitter and mirror, drawn once for all sides, and the resize of evaluation.

The sides are images of the same place: mostly source and target. By choice a warp (`warp.py`) joins in.

Source: Section 6.2: "random jitter was applied by resizing the 256 x 256 input images to 286 x 286 and then
randomly cropping back to size 256 x 256", and mirroring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pairloom import images
from pairloom.config import Sides, height_width
from pairloom.data.warp import Warp, read_window

Resize = Literal["stretch", "shorter", "none"]


def augment(
    *sides: Tensor,
    load_size: Sides,
    crop_size: Sides,
    resize: Resize,
    mirror: bool,
    labels: Sequence[bool] = (False, False),
    warp: Warp | None = None,
    rng: np.random.Generator,
) -> tuple[Tensor, ...]:
    """One training view of a pair: resize, the same random crop of all sides, the same mirror.

    "stretch" resizes to `load_size` exactly; "shorter" brings the shorter side to the shorter of `load_size`
    and keeps the shape; "none" keeps native pixels. What is then smaller than the crop is continued by
    reflection.

    A warp bends the very window that is cut, so that what it brings in from beside the window is the image's
    own wherever the image goes on; were it cut first, the crop's border would be mirrored into it. Quarter
    turns come last, and interpolate nothing.

    Shapes: (C, H, W) each -> (C, *crop_size), contiguous.

    Raises:
        ValueError: The sides differ in size, and `resize` is not "stretch".
    """
    height, width = height_width(crop_size)
    resized = _resized(sides, size=height_width(load_size), resize=resize, labels=labels)
    sides = tuple(images.reflect_to(side, height, width) for side in resized)
    # All three are always drawn, so that switching the mirror off leaves the crops as they were.
    top = int(rng.integers(sides[0].shape[1] - height + 1))
    left = int(rng.integers(sides[0].shape[2] - width + 1))
    flip = bool(rng.random() < 0.5) and mirror

    def view(side: Tensor, is_labels: bool) -> Tensor:
        if warp is None or warp.places is None:
            side = side[:, top : top + height, left : left + width]
        else:
            side = read_window(side, top, left, warp.places, labels=is_labels)
        side = side.flip(2) if flip else side
        return (side if warp is None else torch.rot90(side, warp.quarters, (1, 2))).contiguous()

    return tuple(view(side, flag) for side, flag in zip(sides, labels, strict=False))


def evaluation_geometry(
    *sides: Tensor, crop_size: Sides, resize: Resize, labels: Sequence[bool] = (False, False)
) -> tuple[Tensor, ...]:
    """A pair as validation and tests see it.

    "stretch" resizes to `crop_size` exactly; "shorter" brings the shorter side to the shorter of `crop_size`
    and keeps the shape; "none" keeps native pixels.

    Shapes: (C, H, W) each -> (C, h, w) of equal h and w.

    Raises:
        ValueError: The sides differ in size, and `resize` is not "stretch".
    """
    resized = _resized(sides, size=height_width(crop_size), resize=resize, labels=labels)
    return tuple(side.contiguous() for side in resized)


def _resized(
    sides: tuple[Tensor, ...], *, size: tuple[int, int], resize: Resize, labels: Sequence[bool]
) -> tuple[Tensor, ...]:
    if resize != "stretch":
        height, width = sides[0].shape[1:]
        for side in sides[1:]:
            if side.shape[1:] != sides[0].shape[1:]:
                raise ValueError(
                    f"The source is {width}x{height} pixels and the target {side.shape[2]}x{side.shape[1]}; "
                    f"both must be of one size with resize={resize!r}."
                )
        if resize == "none":
            return sides
        scale = min(size) / min(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return tuple(images.resize(side, size, labels=flag) for side, flag in zip(sides, labels, strict=False))
