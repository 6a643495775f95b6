"""Pixels that count for nothing, as tensors: filled with 0, interpolated without a trace, left out of means.

A map of valid pixels is (1, H, W) or (N, 1, H, W), float32, 1 where a pixel counts and 0 where it does not.
None stands for a map of 1, so that data without such pixels cost nothing and are computed as ever.
"""

from __future__ import annotations

import torch
from torch import Tensor


def filled(values: Tensor, valid: Tensor | None) -> Tensor:
    """0, the middle of [-1, 1], where pixels do not count, whatever is there: NaN too.

    Shapes: values (..., C, H, W), valid (..., 1, H, W) -> values'.
    """
    return values if valid is None else values.masked_fill(valid == 0, 0.0)


def known_part(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """What was interpolated from pixels that count, where these make half of it or more.

    `values` were 0 where pixels did not count, and `known` 1 or 0, when both went through the same
    interpolation. Their quotient is the mean over the pixels that count alone: nothing of the 0 is in it.

    Source: Knutsson and Westin 1993, normalised convolution.
    Shapes: values (..., C, H, W), known (..., 1, H, W) -> values, 0 where they do not count; and their map.
    """
    valid = known >= 0.5
    return torch.where(valid, values / known.where(valid, 1.0), 0.0), valid.float()


def mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """The mean over what counts; 0 where nothing does.

    Shapes: values (N, C, H, W), valid (N, 1, H, W) -> scalar.
    """
    if valid is None:
        return values.mean()
    # Not a product: 0 times infinity would be NaN.
    return filled(values, valid).sum() / (valid.sum() * values.shape[1]).clamp_min(1)
