"""Where pixels are missing: the paper's central square, random boxes, brush strokes, the user's masks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pairloom import images
from pairloom.content import Content
from pairloom.pixels import WHITE

Hole = NDArray[np.bool_]
"""(H, W): where pixels are missing."""

BOXES = (1, 4)
STROKES = (2, 5)
"""How many, at least and at most."""


def center(height: int, width: int) -> Hole:
    """The paper's: half the height and half the width, in the middle."""
    hole = np.zeros((height, width), np.bool_)
    h, w = max(height // 2, 1), max(width // 2, 1)
    top, left = (height - h) // 2, (width - w) // 2
    hole[top : top + h, left : left + w] = True
    return hole


def boxes(height: int, width: int, rng: np.random.Generator) -> Hole:
    """A few boxes, each side an eighth to a half of the image's, all of them inside it."""
    hole = np.zeros((height, width), np.bool_)
    for _ in range(int(rng.integers(BOXES[0], BOXES[1] + 1))):
        (top, h), (left, w) = (_span(side, rng) for side in (height, width))
        hole[top : top + h, left : left + w] = True
    return hole


def _span(side: int, rng: np.random.Generator) -> tuple[int, int]:
    length = max(1, round(side * float(rng.uniform(1 / 8, 1 / 2))))
    return int(rng.integers(side - length + 1)), length


def strokes(height: int, width: int, rng: np.random.Generator) -> Hole:
    """A few strokes of a round brush, each a walk that turns a little at every step."""
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    side = min(height, width)
    for _ in range(int(rng.integers(STROKES[0], STROKES[1] + 1))):
        radius = max(0.5, side * float(rng.uniform(0.02, 0.05)))
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        angle = float(rng.uniform(0, 2 * np.pi))
        for _ in range(int(rng.integers(3, 9))):
            angle += float(rng.normal(0, 0.7))
            length = side * float(rng.uniform(0.05, 0.2))
            x0, y0, x, y = x, y, x + length * float(np.cos(angle)), y + length * float(np.sin(angle))
            draw.line((x0, y0, x, y), fill=1, width=max(1, round(2 * radius)))
            for cx, cy in ((x0, y0), (x, y)):
                draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=1)
    return np.array(canvas, dtype=np.bool_)


def read_hole(path: Path | Content) -> Hole:
    """A mask file: what is brighter than half of white is missing.

    Raises:
        ImageError: The file cannot be read.
    """
    array = images.read_image(path, alpha="white")
    hole: Hole = array.mean(axis=2) > WHITE[array.dtype.name] / 2
    return hole


read_same_hole = lru_cache(maxsize=4)(read_hole)
"""`read_hole` of a mask that all photos share."""
