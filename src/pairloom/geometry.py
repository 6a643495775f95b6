"""Tensors brought to another size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(tensor: Tensor, size: tuple[int, int], *, labels: bool) -> Tensor:
    """Bilinear with antialiasing, or for label maps nearest neighbour, which makes no new colours.

    Shapes: tensor (C, H, W) or (N, C, H, W); size (height, width) -> the same with that height and width.
    """
    if tuple(tensor.shape[-2:]) == tuple(size):
        return tensor
    batch = tensor if tensor.ndim == 4 else tensor[None]
    if labels:
        batch = F.interpolate(batch, size=size, mode="nearest-exact")
    else:
        batch = F.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)
    return batch if tensor.ndim == 4 else batch[0]


def reflect_to(x: Tensor, height: int, width: int) -> Tensor:
    """Continued to the right and downwards by reflection, as often repeated as it takes.

    A side that is long enough already stays as it is.

    Shapes: (..., H, W), H and W from 1 -> (..., max(H, height), max(W, width)).
    """
    for axis, wanted in ((-2, height), (-1, width)):
        size = x.shape[axis]
        if size < wanted:
            # A triangle wave 0 1 2 1 0 1 2 ...: F.pad refuses a pad as wide as the side.
            period = max(2 * (size - 1), 1)
            wave = torch.arange(wanted, device=x.device) % period
            x = x.index_select(axis, torch.minimum(wave, period - wave) if size > 1 else wave)
    return x
