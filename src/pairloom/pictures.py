"""What a person sees of a tensor: 8-bit RGB pictures, whatever the channels and depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from pairloom import images
from pairloom.images import ImageSpec

Rgb = npt.NDArray[np.uint8]
Row = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Source, output, target, and by choice which pixels count."""

GREY = 128
"""What is shown of pixels that count for nothing."""

_CLASS_COLOURS = np.array(
    [
        (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
        (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
    ],
    np.uint8,
)  # fmt: skip


def preview(tensor: Tensor, spec: ImageSpec, valid: Tensor | None = None) -> Rgb:
    """One image for the eye.

    Three channels are red, green and blue; one is grey; of two the first is shown, of more the first three.
    Label maps are shown in their palette's colours, or in ten distinct ones when they are class numbers.
    Pixels that count for nothing are grey.

    Shapes: (C, H, W), valid (1, H, W) -> (H, W, 3).
    Units: [-1, 1] -> 0 to 255.
    """
    if valid is not None:
        shown_pixels = preview(tensor, spec)
        shown_pixels[valid[0].cpu().numpy() == 0] = GREY
        return shown_pixels
    if spec.kind == "labels":
        array = images.to_array(tensor, spec)
        if spec.channels == 3 and array.dtype == np.uint8:
            return array.astype(np.uint8)
        classes = np.zeros(array.shape[:2], np.intp)
        for number, colour in enumerate(spec.palette):
            classes[(array == np.asarray(colour)).all(axis=-1)] = number
        return _CLASS_COLOURS[classes % len(_CLASS_COLOURS)]
    shown = tensor.detach().cpu().float()
    shown = shown[:3] if shown.shape[0] >= 3 else shown[:1].expand(3, -1, -1)
    return ((shown.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)


def sample_sheet(rows: Sequence[Row], source: ImageSpec, target: ImageSpec, *, gap: int = 4) -> Image.Image:
    """Pairs below each other, each row source | output | target.

    Shapes: each row (C, H, W), (C', H, W), (C', H, W); rows may differ in size.
    """
    strips = []
    for x, y_hat, y, *rest in rows:
        valid = rest[0] if rest else None
        shown = (images.recombined(side, x, target) for side in (y_hat, y))
        parts = [preview(x, source, valid), *(preview(side, spec, valid) for side, spec in shown)]
        gutter = np.full((parts[0].shape[0], gap, 3), 255, np.uint8)
        strips.append(np.concatenate([parts[0], gutter, parts[1], gutter, parts[2]], axis=1))
    width = max(s.shape[1] for s in strips)
    height = sum(s.shape[0] for s in strips) + gap * (len(strips) - 1)
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for strip in strips:
        sheet[top : top + strip.shape[0], : strip.shape[1]] = strip
        top += strip.shape[0] + gap
    return Image.fromarray(sheet)
