"""D's patch map: which parts of an image D takes for real, laid over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from torch import Tensor

from pairloom.pictures import Rgb

MAP_COLOURS = LinearSegmentedColormap.from_list("patches", ["#c2611a", "#f6f3ec", "#2b68ae"])
"""Of the patch map, as of the curves: orange is generated, blue is real."""


def patch_map(logits: Tensor, gan_mode: str) -> NDArray[np.float64]:
    """How real D finds each patch: 0 generated, 1 real.

    Shapes: logits (1, 1, h, w) -> (h, w).
    Units: sigmoid of the logits; lsgan's are a regression to 0 and 1 and are only clipped.
    """
    values = logits[0, 0].double()
    return (values.clamp(0, 1) if gan_mode == "lsgan" else values.sigmoid()).numpy()


def nearest_patch(windows: Sequence[tuple[int, int]], side: int, patches: int) -> NDArray[np.intp]:
    """The patch whose centre is nearest, for each pixel along a side.

    The first patch is centred on pixel sum(((kernel - 1) / 2 - padding) * jump), the others one jump apart;
    the padding is 1 for kernels above 1, as in `Discriminator`.

    Args:
        windows: (kernel, stride) of each convolution.
        side: Pixels.
        patches: Logits along that side.

    Shapes: -> (side,), indices below `patches`.
    """
    centre, jump = 0.0, 1
    for kernel, stride in windows:
        centre += ((kernel - 1) / 2 - (kernel > 1)) * jump
        jump *= stride
    index = np.rint((np.arange(side) - centre) / jump)
    return np.clip(index, 0, patches - 1).astype(np.intp)


def laid_over(pixels: Rgb, values: NDArray[np.float64], windows: Sequence[tuple[int, int]]) -> Rgb:
    """The patch map over the image in grey.

    Shapes: pixels (H, W, 3), values (h, w) -> (H, W, 3).
    """
    height, width = pixels.shape[:2]
    rows = nearest_patch(windows, height, values.shape[0])
    columns = nearest_patch(windows, width, values.shape[1])
    colours = MAP_COLOURS(values)[..., :3][np.ix_(rows, columns)]
    grey = pixels.mean(axis=2, keepdims=True) / 255
    over: Rgb = np.rint((0.35 * grey + 0.65 * colours) * 255).astype(np.uint8)
    return over
