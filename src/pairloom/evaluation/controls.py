"""The ladder of controls: what each metric gives to images whose faults are known, beside the model's.

A metric is a number without a scale. Other real photos, the targets blurred, greyed, shifted or paired at
random, the mean target and the source give it one, and show what it cannot see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import lab2rgb, rgb2lab
from skimage.filters import gaussian
from torch import Tensor

from pairloom import images
from pairloom.evaluation.sets import ImageSetError

Pairs = Sequence[tuple[Tensor, Tensor]]
"""(source, target) of each, (C, H, W) and (C', H, W) in [-1, 1]."""
Control = Callable[[Pairs, Sequence[Tensor], int], list[Tensor]]
"""(pairs, other targets, seed) -> one image a pair, of its target's shape."""
PerImage = Callable[..., Tensor]
"""(outputs, targets), both (N, C, H, W) -> (N,); those of `METRICS` take a map of valid pixels besides."""
PerSet = Callable[[Sequence[Tensor], Sequence[Tensor]], float]
"""(outputs, targets), lists of (C, H, W) -> one figure."""

SHIFT_PX = 2
NOTHING = 1e-9
"""A figure that is nearer to 0 is 0, but for rounding."""
MODEL = "model"
TARGETS = "the targets"
OTHER = "other real images"
RANDOM = "paired at random"
MEAN = "mean target"
SOURCE = "source"
GREY = "greyed"
BLUR_1, BLUR_2 = "blurred, sigma 1 px", "blurred, sigma 2 px"
SHIFTED = f"shifted by {SHIFT_PX} px"


# ------------------------------------------------------------------------------------------------------------
# The controls


def _targets(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The targets themselves: the best that there is."""
    return [y for _, y in pairs]


def _other(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Training targets, as many as there are pairs: real images, of other scenes."""
    if len(others) < len(pairs):
        raise ImageSetError(
            f"There are {len(others)} training targets beside {len(pairs)} pairs; it needs as many, as set "
            "metrics depend on the number of images."
        )
    chosen = np.linspace(0, len(others) - 1, len(pairs)).round().astype(int)
    return [_like(others[i], y) for i, (_, y) in zip(chosen, pairs, strict=True)]


def _greyed(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The targets without colour: a = b = 0, L as it is."""
    channels = pairs[0][1].shape[0]
    if channels != 3:
        raise ImageSetError(f"The targets have {channels} channels, and only RGB has colour to lose.")
    return [_grey(y) for _, y in pairs]


def _blurred(sigma: float) -> Control:
    def control(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
        """The targets, blurred."""
        return [
            torch.from_numpy(
                gaussian(y.numpy(), sigma, mode="mirror", preserve_range=True, channel_axis=0)
            ).to(y.dtype)
            for _, y in pairs
        ]

    return control


def _shifted(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The targets moved right by 2 px, the left edge repeated."""
    return [
        F.pad(y[None], (SHIFT_PX, 0, 0, 0), mode="replicate")[0, :, :, : y.shape[-1]].contiguous()
        for _, y in pairs
    ]


def _random(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
    """To each source another pair's target."""
    if len(pairs) < 2:
        raise ImageSetError("There is 1 pair, and no other to take the target from.")
    # One cycle through all in random order leaves none in its place.
    order = np.random.default_rng(seed).permutation(len(pairs))
    taken = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [_like(pairs[taken[i]][1], y) for i, (_, y) in enumerate(pairs)]


def _mean(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The mean of the training targets, else of the targets: the best guess that is the same for all."""
    size = pairs[0][1]
    total = torch.zeros_like(size, dtype=torch.float64)
    pool = others or [y for _, y in pairs]
    for y in pool:
        total += _like(y, size)
    mean = (total / len(pool)).to(size.dtype)
    return [_like(mean, y) for _, y in pairs]


def _source(pairs: Pairs, others: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The source as it is: a model that does nothing."""
    have, need = pairs[0][0].shape[0], pairs[0][1].shape[0]
    if have != need and {have, need} != {1, 3}:
        raise ImageSetError(f"The sources have {have} channels and the targets {need}.")
    if (have, need) == (3, 1):
        return [_grey(x)[:1] for x, _ in pairs]
    return [x.expand(need, -1, -1).contiguous() for x, _ in pairs]


def _grey(rgb: Tensor) -> Tensor:
    """The grey of the same L. Shapes: (3, H, W) -> the same."""
    lab = rgb2lab((rgb.permute(1, 2, 0).numpy().clip(-1, 1) + 1) / 2)
    lab[..., 1:] = 0
    # The grey axis of Lab is grey in sRGB but for rounding.
    grey = torch.from_numpy(lab2rgb(lab)).mean(-1).mul(2).sub(1)
    return grey.to(rgb.dtype).expand(3, -1, -1).contiguous()


def _like(image: Tensor, y: Tensor) -> Tensor:
    return images.resize(image, (y.shape[1], y.shape[2]), labels=False)


CONTROLS: MappingProxyType[str, Control] = MappingProxyType(
    {
        TARGETS: _targets,
        OTHER: _other,
        SHIFTED: _shifted,
        BLUR_1: _blurred(1),
        BLUR_2: _blurred(2),
        GREY: _greyed,
        RANDOM: _random,
        MEAN: _mean,
        SOURCE: _source,
    }
)
"""Every control by its row's name."""
