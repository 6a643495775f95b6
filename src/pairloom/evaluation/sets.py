"""What may be a set of images."""

from __future__ import annotations

from torch import Tensor

COARSEST_PX = 16
"""No scale's shorter side is below this (Karras et al. 2018), nor may that of a spectrum be."""


class ImageSetError(ValueError):
    """Images cannot be measured as a set as asked; one sentence says why."""


def check_images(images: Tensor) -> None:
    """Raise an ImageSetError unless these are images (N, C, H, W) of finite values."""
    if images.ndim != 4 or not images.numel() or not images.is_floating_point():
        raise ImageSetError(
            f"Images of shape {tuple(images.shape)}, {images.dtype}; give floats (N, C, H, W) from -1 to 1."
        )
    if not images.isfinite().all():
        raise ImageSetError(
            "The images hold NaN or infinite values; the network that made them has diverged."
        )


def check_channels(images: Tensor, channels: int) -> None:
    """Raise an ImageSetError unless a set's images all have as many channels."""
    if channels not in (0, images.shape[1]):
        raise ImageSetError(
            f"The images have {images.shape[1]} channels and those before {channels}; a set holds one kind."
        )
