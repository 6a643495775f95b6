"""Sliced Wasserstein distance of the patches of two sets of images, scale by scale; no weights needed."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pairloom.evaluation.sets import COARSEST_PX, ImageSetError, check_channels, check_images

PATCH_PX = 7
"""Side of a patch (Karras et al. 2018)."""
PATCHES_AN_IMAGE = 256
"""On each scale; 128 in Karras et al. 2018, with many more images."""
MAX_PATCHES = 2**16
"""Of a set, on each scale: 39 MB of RGB; a set of more than 256 images keeps fewer patches of each."""
DIRECTIONS = 128
"""Random projections of each scale; 512 in Karras et al. 2018. More patches steady the distance more."""
LEAST_IMAGES = 8
"""Of a set whose patches are compared: with fewer the distance is mostly that of the few scenes."""


class Patches:
    """Collects patches of the Laplacian pyramid of each image.

    One position in each field of a 16 x 16 grid, drawn by the seed: the same for every image, so that the
    order of a set and its batches do not matter, and two sets of the same images are at distance 0.

    Attributes:
        images: How many have been added.
        channels: Theirs; 0 before the first.
        shortest_px: The shortest side of any.

    Source: Karras, Aila, Laine, Lehtinen 2018, section 5 and appendix.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.images, self.channels, self.shortest_px = 0, 0, 0
        self._seed, self._kept = seed, PATCHES_AN_IMAGE
        self._scales: list[list[Tensor]] = []

    def add(self, images: Tensor) -> None:
        """Take patches of each image on each scale: native pixels, halves, quarters, ... down to 16 px.

        Shapes: images (N, C, H, W), of any size from 16 px; sizes may differ between calls.
        Units: [-1, 1].

        Raises:
            ImageSetError: A side is below 16 px, or the channels are not those of the images before.
        """
        check_images(images)
        check_channels(images, self.channels)
        shortest = min(images.shape[-2:])
        if shortest < COARSEST_PX:
            raise ImageSetError(
                f"A side of the images is {shortest} px; patches of {PATCH_PX} px need {COARSEST_PX} or more."
            )
        pyramid = _laplacian_pyramid(images.detach().cpu().float())
        for i in range(len(images)):
            self._add_one([scale[i] for scale in pyramid])
        self.channels = images.shape[1]
        self.shortest_px = min(self.shortest_px or shortest, shortest)

    def scale(self, level: int) -> Tensor:
        """The patches of one scale, 0 the finest. Shapes: -> (M, C, 7, 7)."""
        return torch.cat(self._scales[level])

    @property
    def scales(self) -> int:
        """How many scales every image has."""
        return sum(len(scale) == self.images for scale in self._scales)

    def _add_one(self, pyramid: list[Tensor]) -> None:
        for level, scale in enumerate(pyramid):
            corners = _positions(self._seed, level)[: self._kept]
            rows, columns = (corners * (np.array(scale.shape[1:]) - PATCH_PX + 1)).astype(np.intp).T
            windows = scale.unfold(1, PATCH_PX, 1).unfold(2, PATCH_PX, 1)
            if level == len(self._scales):
                self._scales.append([])
            self._scales[level].append(windows[:, rows, columns].transpose(0, 1).contiguous())
        self.images += 1
        while self.images * self._kept > MAX_PATCHES and self._kept > 1:
            self._kept //= 2  # the positions are in random order, so that the first half is as good as any
            self._scales = [[patches[: self._kept].clone() for patches in scale] for scale in self._scales]


def sliced_wasserstein(a: Patches, b: Patches, *, seed: int = 0) -> dict[int, float]:
    """Distance between the patches of two sets on each scale.

    On each scale both sets are normalised to mean 0 and standard deviation 1 in each channel, each by its own
    figures (so that contrast and brightness are not seen), and projected on random directions; the distance
    is the mean over the directions of the 1-D Wasserstein distance. It falls with the number of images even
    between sets of one kind: compare only values of equally many, beside that of other real images.

    Args:
        a: Of one set.
        b: Of the other; the numbers of images may differ, which biases nothing but the above.
        seed: Of the directions.

    Source: Karras et al. 2018, who quote it times 1000.
    Units: {shorter side of the scale in px: distance}, finest first; a distance is in standard deviations.

    Raises:
        ImageSetError: A set has fewer than 8 images, or the channels or the sizes do not match.
    """
    fewest = min(a.images, b.images)
    if fewest < LEAST_IMAGES:
        raise ImageSetError(
            f"A set has {fewest} image{'s' * (fewest != 1)}; the patches of two sets need {LEAST_IMAGES} "
            "or more in each."
        )
    if a.channels != b.channels:
        raise ImageSetError(f"One set has {a.channels} channels and the other {b.channels}; give equal ones.")
    side, other = sorted((a.shortest_px, b.shortest_px))
    if other >= 2 * side:
        raise ImageSetError(
            f"The images of one set are {side} px and of the other {other} px; resize them to one scale, as "
            "patches are compared pixel by pixel."
        )
    distances = {}
    for level in range(min(a.scales, b.scales)):
        rng = np.random.default_rng((seed, level))
        directions = rng.normal(size=(a.channels * PATCH_PX**2, DIRECTIONS)).astype(np.float32)
        directions /= np.linalg.norm(directions, axis=0)
        p, q = (np.sort((_normalised(s.scale(level)) @ directions).T, axis=1) for s in (a, b))
        distances[side] = float(_wasserstein_1d(p, q).mean())
        side = -(-side // 2)
    return distances


@lru_cache(maxsize=64)
def _positions(seed: int, level: int) -> NDArray[np.float64]:
    """Fractions of height and width, one in each field of a grid, in random order. Shapes: -> (256, 2)."""
    rng = np.random.default_rng((seed, level))
    side = math.isqrt(PATCHES_AN_IMAGE)
    fields = rng.permutation(PATCHES_AN_IMAGE)
    return (np.stack([fields // side, fields % side], axis=1) + rng.random((PATCHES_AN_IMAGE, 2))) / side


def _normalised(patches: Tensor) -> NDArray[np.float32]:
    """Mean 0 and deviation 1 in each channel; a flat one stays flat. Shapes: (M, C, 7, 7) -> (M, C*49)."""
    deviation, mean = torch.std_mean(patches, dim=(0, 2, 3), correction=0, keepdim=True)
    flat: NDArray[np.float32] = ((patches - mean) / deviation.clamp_min(1e-8)).flatten(1).numpy()
    return flat


def _wasserstein_1d(p: NDArray[Any], q: NDArray[Any]) -> NDArray[Any]:
    """Between the rows of p and q, which are sorted: the area between the two quantile functions.

    Shapes: p (K, M), q (K, L) -> (K,).
    """
    m, n = p.shape[1], q.shape[1]
    if m == n:
        direct: NDArray[Any] = np.abs(p - q).mean(1)
        return direct
    # Whole numbers from 0 to m * n in place of probabilities: no step is lost to rounding.
    steps = np.union1d(np.arange(1, m + 1) * n, np.arange(1, n + 1) * m)
    widths = np.diff(steps, prepend=0) / (m * n)
    area: NDArray[Any] = np.abs(p[:, (steps - 1) // n] - q[:, (steps - 1) // m]) @ widths.astype(p.dtype)
    return area


def _laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Each scale without what the next coarser one holds; the coarsest whole.

    Source: Burt and Adelson 1983, with their filter (1 4 6 4 1) / 16.
    Shapes: (N, C, H, W) -> [(N, C, H, W), (N, C, H/2, W/2), ...], halves rounded up.
    """
    scales = [images]
    while -(-min(scales[-1].shape[-2:]) // 2) >= COARSEST_PX:
        smaller = _smooth(scales[-1])[..., ::2, ::2]
        spread = torch.zeros_like(scales[-1])
        spread[..., ::2, ::2] = 4 * smaller
        scales[-1] = scales[-1] - _smooth(spread)
        scales.append(smaller)
    return scales


def _smooth(images: Tensor) -> Tensor:
    """(1 4 6 4 1) / 16 along both axes, mirrored at the border. Shapes: (N, C, H, W) -> the same."""
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    for axis in (2, 3):
        size = padded.shape[axis] - 4
        outer, inner, centre = (
            padded.narrow(axis, first, size) + padded.narrow(axis, last, size)
            for first, last in ((0, 4), (1, 3), (2, 2))
        )
        padded = outer.add_(inner, alpha=4).add_(centre, alpha=3).mul_(1 / 16)
    return padded
