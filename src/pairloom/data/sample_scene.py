"""The canvas on which a made-up facade is painted, with its light, its shadows and its random textures.

It has twice the sides of the photo, which is averaged down at the end, so that edges are smooth. Colours are
display RGB in [0, 1] while painting.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pairloom.data.sample_layout import Part, overlap

Floats = NDArray[np.float32]

OVERSAMPLING = 2
"""Sides of the canvas over sides of the photo."""


class Scene:
    """The picture while it is painted, with its light and its random fields.

    Shapes: canvas (n, n, 3); fields and shadow (n, n).
    """

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n, self.rng = n, rng
        self.canvas = np.empty((n, n, 3), np.float32)
        self.shadow = np.zeros((n, n), np.float32)
        self.solid = np.zeros((n, n), np.float32)
        # Drawn in a fixed order and on fixed grids, so that every size shows the same scene.
        self.sun = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0))
        self.strength = float(rng.uniform(0.25, 0.5))
        self.clouds = self.field((4, 9, 18, 40))
        self.stains = self.field((5, 11, 30, 90))
        self.table = rng.normal(0, 1, (64, 64)).astype(np.float32)

    def field(self, cells: tuple[int, ...]) -> Floats:
        """Smooth noise, coarse to fine, each octave half as strong; about zero mean and unit range."""
        total = np.zeros((self.n, self.n), np.float32)
        for octave, count in enumerate(cells):
            grid = Image.fromarray(self.rng.normal(0, 0.5**octave, (count, count)).astype(np.float32))
            total += np.asarray(grid.resize((self.n, self.n), Image.Resampling.BICUBIC))
        return total

    def px(self, units: float) -> int:
        """A length in pixels of the canvas, at least one pixel of the photo."""
        return max(OVERSAMPLING, round(units * self.n))

    def box(self, part: Part) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) on the canvas: on the very pixel borders that the label map has."""
        y0, y1, x0, x1 = (OVERSAMPLING * side for side in part.box(self.n // OVERSAMPLING))
        return y0, y1, x0, x1

    def paste(self, part: Part, patch: Floats, alpha: Floats | None = None) -> None:
        """Lay a patch of the size of the part's box over the canvas, within the part's outline."""
        y0, y1, x0, x1 = self.box(part)
        outline = part.outline(y1 - y0, x1 - x0)
        if outline is not None:
            alpha = outline.astype(np.float32) if alpha is None else alpha * outline
        (rows, part_rows), (columns, part_columns) = overlap(y0, y1, self.n), overlap(x0, x1, self.n)
        region = self.canvas[rows, columns]
        if alpha is None:
            region[:] = patch[part_rows, part_columns]
            self.solid[rows, columns] = 1
        else:
            weight = alpha[part_rows, part_columns]
            region += weight[..., None] * (patch[part_rows, part_columns] - region)
            np.maximum(self.solid[rows, columns], weight, out=self.solid[rows, columns])

    def crop(self, field: Floats, part: Part) -> Floats:
        """The values of a field in the part's box; outside the picture its border is repeated."""
        y0, y1, x0, x1 = self.box(part)
        rows, columns = np.arange(y0, y1).clip(0, self.n - 1), np.arange(x0, x1).clip(0, self.n - 1)
        values: Floats = field[rows[:, None], columns[None, :]]
        return values

    def bricks(self, part: Part, course: float, length: float) -> tuple[Floats, Floats]:
        """The tone of each brick of a running bond, about N(0, 1), and where its joints are, 0 to 1.

        Shapes: -> two of (height, width) of the part's box.
        """
        y0, y1, x0, x1 = self.box(part)
        # Counted upwards from the foot of the part: masons begin there.
        y = (y1 - np.arange(y0, y1)[:, None] - 0.5) / (course * self.n)
        x = (np.arange(x0, x1)[None, :] + 0.5) / (length * self.n)
        row = np.floor(y).astype(np.int64)
        x = x + 0.5 * (row % 2)
        column = np.floor(x).astype(np.int64)
        tone = self.table[row % 64, column % 64]
        # A joint is never thinner than one canvas pixel, or it would break up into dots.
        joint_y = (y - row) < max(0.14, 1.01 / (course * self.n))
        joint_x = (x - column) < max(0.14 * course / length, 1.01 / (length * self.n))
        return tone, (joint_y | joint_x).astype(np.float32)

    def cast_shadow(self, part: Part) -> None:
        """Let a protruding part darken what is below it and away from the sun."""
        reach = self.px({"cornice": 0.022, "sill": 0.012, "balcony": 0.03}[part.kind])
        y0, y1, x0, x1 = self.box(part)
        shift = round(self.sun * reach * 0.6)
        # Light passes between the bars of a balcony: only its slab casts a shadow.
        first = y1 - reach // 2 if part.kind == "balcony" else y0 + reach // 2
        rows, _ = overlap(first, y1 + reach, self.n)
        columns, _ = overlap(x0 + shift, x1 + shift, self.n)
        region = self.shadow[rows, columns]
        fade = np.linspace(1.0, 0.45, region.shape[0], dtype=np.float32)[:, None]
        np.maximum(region, fade, out=region)

    def apply_shadows(self) -> None:
        """Darken the canvas by the shadows cast so far, softened; the sky takes none."""
        mask = Image.fromarray((self.shadow * self.solid * 255).astype(np.uint8))
        soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(self.n / 200)), np.float32) / 255
        # Shadows are lit by the sky alone, so they are a little bluer.
        tint = np.array([1.0, 0.96, 0.86], np.float32) * (0.3 + self.strength)
        self.canvas *= 1 - soft[..., None] * tint

    def paint_sky(self) -> None:
        """A gradient from blue to bright haze, with clouds."""
        height = np.linspace(0, 1, self.n, dtype=np.float32)[:, None, None]
        blue = np.array([0.50, 0.67, 0.88], np.float32) + np.float32(self.rng.normal(0, 0.03))
        haze = np.array([0.86, 0.90, 0.94], np.float32)
        cover = float(self.rng.uniform(-0.6, 0.9))
        cloud = np.clip(0.5 + 0.9 * (self.clouds + cover), 0, 1)[..., None] * 0.85
        white = np.array([0.92, 0.93, 0.95], np.float32) + 0.03 * self.clouds[..., None]
        self.canvas[:] = blue + (haze - blue) * np.minimum(1.6 * height, 1)
        self.canvas += cloud * (white - self.canvas)
