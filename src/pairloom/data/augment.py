"""Geometry of a pair: the paper's jitter and mirror, drawn once for both sides, and the resize of evaluation.

Source: Section 6.2: "random jitter was applied by resizing the 256 x 256 input images to 286 x 286 and then
randomly cropping back to size 256 x 256", and mirroring.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from pairloom import images
from pairloom.config import Sides, height_width

Resize = Literal["stretch", "shorter", "none"]


def augment(
    x: Tensor,
    y: Tensor,
    *,
    load_size: Sides,
    crop_size: Sides,
    resize: Resize,
    mirror: bool,
    labels: tuple[bool, bool] = (False, False),
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """One training view of a pair: resize, the same random crop of both sides, the same mirror.

    "stretch" resizes to `load_size` exactly; "shorter" brings the shorter side to the shorter of `load_size`
    and keeps the shape; "none" keeps native pixels. What is then smaller than the crop is continued by
    reflection.

    Shapes: (C, H, W) each -> (C, *crop_size), contiguous.

    Raises:
        ValueError: The sides differ in size, and `resize` is not "stretch".
    """
    height, width = height_width(crop_size)
    x, y = _resized(x, y, size=height_width(load_size), resize=resize, labels=labels)
    x, y = (images.reflect_to(side, height, width) for side in (x, y))
    # All three are always drawn, so that switching the mirror off leaves the crops as they were.
    top = int(rng.integers(x.shape[1] - height + 1))
    left = int(rng.integers(x.shape[2] - width + 1))
    flip = bool(rng.random() < 0.5) and mirror

    def view(side: Tensor) -> Tensor:
        side = side[:, top : top + height, left : left + width]
        return side.flip(2) if flip else side.contiguous()

    return view(x), view(y)


def evaluation_geometry(
    x: Tensor, y: Tensor, *, crop_size: Sides, resize: Resize, labels: tuple[bool, bool] = (False, False)
) -> tuple[Tensor, Tensor]:
    """A pair as validation and tests see it.

    "stretch" resizes to `crop_size` exactly; "shorter" brings the shorter side to the shorter of `crop_size`
    and keeps the shape; "none" keeps native pixels.

    Shapes: (C, H, W) each -> (C, h, w) of equal h and w.

    Raises:
        ValueError: The sides differ in size, and `resize` is not "stretch".
    """
    x, y = _resized(x, y, size=height_width(crop_size), resize=resize, labels=labels)
    return x.contiguous(), y.contiguous()


def _resized(
    x: Tensor, y: Tensor, *, size: tuple[int, int], resize: Resize, labels: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    if resize != "stretch":
        height, width = x.shape[1:]
        if y.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"The source is {width}x{height} pixels and the target {y.shape[2]}x{y.shape[1]}; both must "
                f"be of one size with resize={resize!r}."
            )
        if resize == "none":
            return x, y
        scale = min(size) / min(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
    first, second = (
        side if tuple(side.shape[1:]) == size else images.resize(side, size, labels=flag)
        for side, flag in zip((x, y), labels, strict=True)
    )
    return first, second
