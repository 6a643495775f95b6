"""The plan of a made-up facade: what stands where, before any picture is drawn.

A layout is a list of parts in painter's order: a later part covers an earlier one. The label map and the
photo are both drawn from this one list, so they cannot disagree.

Frame: unit coordinates, x to the right, y down, (0, 0) the top left corner and (1, 1) the bottom right one.
Parts of neighbouring houses may reach outside; they are clipped when drawn.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seed = int | tuple[int, ...]
"""What every drawing is a function of: one number, or several such as (seed, index)."""

PALETTE: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("sky", (0, 0, 130)),
    ("wall", (0, 70, 255)),
    ("roof", (140, 0, 170)),
    ("window", (0, 190, 255)),
    ("door", (255, 225, 0)),
    ("balcony", (180, 255, 70)),
    ("cornice", (255, 110, 0)),
    ("sill", (90, 255, 190)),
    ("shop", (165, 0, 0)),
    ("pillar", (255, 0, 90)),
    ("ground", (85, 85, 85)),
)
"""The classes of the label maps and their colours, 8-bit RGB; the spirit is that of the CMP facades."""

PROTRUDING = frozenset({"cornice", "sill", "balcony"})
"""Classes that stand out of the wall: they are drawn last and cast shadows."""


SMALLEST, LARGEST = 64, 1024
"""Pixels: the sides that a sample may have."""


def check_size(size: int) -> None:
    """Refuse sides that the drawing does not cover.

    Raises:
        ValueError: `size` is outside 64 to 1024 pixels.
    """
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size is {size} pixels; a sample is {SMALLEST} to {LARGEST} pixels wide and high.")


def overlap(start: int, stop: int, size: int) -> tuple[slice, slice]:
    """Where start..stop lies in a picture of `size` pixels: the slice of the picture, and of the span."""
    first, last = min(max(start, 0), size), min(max(stop, 0), size)
    return slice(first, last), slice(first - start, last - start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One thing of a scene: its class, its box in unit coordinates and its outline inside the box."""

    kind: str
    """A name of PALETTE."""
    x0: float
    y0: float
    x1: float
    y1: float
    house: int = 0
    """Which house it belongs to: parts of one house share materials and colours."""
    slant: float = 0.0
    """How far the top corners move inwards, in units; half of the width makes a triangle."""
    arch: float = 0.0
    """Rise of a round top over the half width: 0 is straight, 1 a half circle."""

    def box(self, size: int) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) in pixels of a square image; at least one pixel each way, not clipped."""
        y0, x0 = round(self.y0 * size), round(self.x0 * size)
        return y0, max(y0 + 1, round(self.y1 * size)), x0, max(x0 + 1, round(self.x1 * size))

    def outline(self, height: int, width: int) -> NDArray[np.bool_] | None:
        """The pixels of a (height, width) box that the part covers; None when it covers all of them."""
        if not (self.slant or self.arch):
            return None
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
        x = np.abs(2 * (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width - 1)
        half = 1 - (1 - y) * 2 * self.slant / (self.x1 - self.x0)
        if self.arch:
            rise = self.arch * width / 2 / height
            half = half * np.sqrt(np.clip(1 - np.clip((rise - y) / rise, 0, 1) ** 2, 0, 1))
        return np.asarray(x <= half)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A whole scene: the parts in painter's order, over a sky that fills what they leave free."""

    parts: tuple[Part, ...]

    @property
    def houses(self) -> int:
        """How many houses stand in the scene."""
        return 1 + max((part.house for part in self.parts), default=0)


def make_generator(seed: Seed, purpose: int) -> np.random.Generator:
    """A random generator of its own for each purpose, so that plan and picture vary independently."""
    numbers = seed if isinstance(seed, tuple) else (seed,)
    if min(numbers) < 0:
        raise ValueError(f"seed is {seed}; a seed is a whole number, 0 or larger.")
    return np.random.default_rng([*numbers, purpose])


def draw_layout(seed: Seed) -> Layout:
    """Invent a street front: one main house, often neighbours, always some sky and pavement.

    Storeys, columns, window shapes, doors, shops, balconies, roofs and widths all vary: two layouts seldom
    look alike, so looking up the nearest one of a training set is a beatable way of answering.
    """
    rng = make_generator(seed, 0)
    ground = float(rng.uniform(0.9, 0.97))
    left = 0.0 if rng.random() < 0.35 else float(rng.uniform(0.04, 0.3))
    right = 1.0 if rng.random() < 0.35 else float(rng.uniform(0.72, 0.96))
    spans = [(left, right)]
    if left > 0 and rng.random() < 0.7:
        spans.append((left - float(rng.uniform(0.3, 0.5)), left))
    if right < 1 and rng.random() < 0.7:
        spans.append((right, right + float(rng.uniform(0.3, 0.5))))
    parts = [Part(kind="ground", x0=0.0, y0=ground, x1=1.0, y1=1.0)]
    for house, (x0, x1) in enumerate(spans):
        plan = _House(rng, house, x0, x1, ground)
        parts += plan.draw()
    visible = [part for part in parts if part.x1 > 0 and part.x0 < 1]
    # Stable, so that within both groups the painter's order stays as drawn.
    return Layout(parts=tuple(sorted(visible, key=lambda part: part.kind in PROTRUDING)))


class _House:
    """Draws the parts of one house between x0 and x1, standing on y = ground."""

    def __init__(self, rng: np.random.Generator, house: int, x0: float, x1: float, ground: float) -> None:
        self.rng, self.house, self.x0, self.x1, self.ground = rng, house, x0, x1, ground
        self.parts: list[Part] = []
        self.roof = str(rng.choice(["flat", "hip", "mansard", "gable"], p=[0.4, 0.25, 0.2, 0.15]))
        self.roof_height = {
            "flat": 0.0,
            "hip": rng.uniform(0.07, 0.16),
            "mansard": rng.uniform(0.1, 0.17),
            "gable": rng.uniform(0.12, 0.2),
        }[self.roof]
        self.top = float(max(rng.uniform(0.04, 0.34), self.roof_height + 0.03))
        self.storeys = int(np.clip(round((ground - self.top) / rng.uniform(0.125, 0.25)), 2, 6))
        # Bays follow the storeys, so that windows are seldom much wider than high.
        bay = max((ground - self.top) / self.storeys * rng.uniform(0.7, 1.35), 0.105)
        self.columns = max(2, round((x1 - x0) / bay))
        self.pitch = (x1 - x0) / self.columns
        weights = np.ones(self.storeys)
        weights[-1] = rng.uniform(1.0, 1.45)
        weights[0] = rng.uniform(0.75, 1.1)
        edges = self.top + np.cumsum([0.0, *weights]) / weights.sum() * (ground - self.top)
        self.floors = [(float(a), float(b)) for a, b in itertools.pairwise(edges)]

    def add(self, kind: str, x0: float, y0: float, x1: float, y1: float, **outline: float) -> None:
        """Append one part of this house."""
        part = Part(kind=kind, x0=float(x0), y0=float(y0), x1=float(x1), y1=float(y1), house=self.house)
        self.parts.append(dataclasses.replace(part, **outline))  # type: ignore[arg-type]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def draw(self) -> list[Part]:
        """All parts: roof and wall first, what stands in front of them after."""
        self.draw_roof()
        self.add("wall", self.x0, self.top, self.x1, self.ground)
        self.draw_bands()
        self.draw_upper_floors()
        self.draw_ground_floor()
        return self.parts

    def draw_roof(self) -> None:
        """The roof above the wall, with chimneys, dormers or a gable."""
        rng, width, height, top = self.rng, self.x1 - self.x0, self.roof_height, self.top
        if self.roof != "flat":
            for x in rng.uniform(
                self.x0 + 0.2 * width, self.x1 - 0.2 * width - 0.04, int(rng.integers(0, 3))
            ):
                self.draw_chimney(x, rng.uniform(0.022, 0.045))
        if self.roof == "gable":
            self.add(
                "roof", self.x0 - 0.015, top - height - 0.02, self.x1 + 0.015, top, slant=width / 2 + 0.015
            )
            self.add(
                "wall", self.x0 + 0.01, top - height + 0.012, self.x1 - 0.01, top, slant=width / 2 - 0.01
            )
            middle, side = (self.x0 + self.x1) / 2, min(0.06, height * 0.35)
            self.add(
                "window", middle - side / 2, top - 1.55 * side, middle + side / 2, top - 0.25 * side, arch=1.0
            )
        elif self.roof == "hip":
            self.add(
                "roof",
                self.x0 - 0.01,
                top - height,
                self.x1 + 0.01,
                top,
                slant=width * rng.uniform(0.08, 0.3),
            )
        elif self.roof == "mansard":
            self.add("roof", self.x0, top - height, self.x1, top, slant=rng.uniform(0.01, 0.05))
        if self.roof in ("hip", "mansard") and self.chance(0.75):
            self.draw_dormers(every=1 if self.roof == "mansard" and self.chance(0.6) else 2)

    def draw_chimney(self, x: float, above: float) -> None:
        """A stack behind the roof that rises `above` the slope it stands on."""
        run = {"gable": 0.5, "hip": 0.2, "mansard": 0.01}[self.roof] * (self.x1 - self.x0)
        climb = min(1.0, min(x + 0.04 - self.x0, self.x1 - x) / run)
        y = self.top - (self.roof_height + 0.02) * climb - above
        self.add("wall", x, y, x + 0.04, self.top)
        self.add("cornice", x - 0.006, y - 0.01, x + 0.046, y + 0.004)

    def draw_dormers(self, every: int) -> None:
        """Windows in the roof, each in a small front of its own, above the columns of the wall."""
        side, height = min(0.42 * self.pitch, 0.075), self.roof_height
        arch = float(self.rng.choice([0.0, 0.6]))
        for column in range(every - 1, self.columns - every + 1, every):
            middle = self.x0 + (column + 0.5) * self.pitch
            y0, y1 = self.top - 0.72 * height, self.top - 0.12 * height
            self.add(
                "wall",
                middle - side / 2 - 0.014,
                y0 - 0.016,
                middle + side / 2 + 0.014,
                y1 + 0.012,
                arch=arch,
            )
            self.add("window", middle - side / 2, y0, middle + side / 2, y1, arch=arch)

    def draw_bands(self) -> None:
        """The cornice under the roof, bands between storeys, pilasters between columns."""
        rng = self.rng
        eaves = rng.uniform(0.02, 0.045)
        if self.roof != "gable" or self.chance(0.4):
            self.add("cornice", self.x0 - 0.012, self.top - eaves / 2, self.x1 + 0.012, self.top + eaves / 2)
        has_pillars, stops_above_ground = self.chance(0.35), self.chance(0.6)
        # Pilasters that end above the ground floor stand on a band.
        above_ground = self.chance(0.5) or (has_pillars and stops_above_ground)
        for index, (_, bottom) in enumerate(self.floors[:-1]):
            is_last = index == len(self.floors) - 2
            if (is_last and above_ground) or self.chance(0.15):
                half = rng.uniform(0.006, 0.013)
                self.add("cornice", self.x0, bottom - half, self.x1, bottom + half)
        if has_pillars:
            thickness = min(0.16 * self.pitch, 0.03)
            bottom = self.floors[-1][0] if stops_above_ground else self.ground
            step = int(rng.choice([1, 1, 2, self.columns]))
            for column in range(0, self.columns + 1, step):
                x = np.clip(self.x0 + column * self.pitch, self.x0 + thickness / 2, self.x1 - thickness / 2)
                self.add("pillar", x - thickness / 2, self.top, x + thickness / 2, bottom)

    def draw_upper_floors(self) -> None:
        """Windows with their sills and hoods on every storey but the ground floor, and balconies."""
        rng = self.rng
        share = rng.uniform(0.48, 0.7)
        storey = self.floors[0][1] - self.floors[0][0]
        width = min(rng.uniform(0.36, 0.66) * self.pitch, rng.uniform(0.75, 1.2) * share * storey)
        has_sills, has_hoods, is_paired = (
            self.chance(0.75),
            self.chance(0.3),
            self.chance(0.15) and width > 0.09,
        )
        blank = 0.12 if self.chance(0.2) else 0.0
        balconies = self.choose_balconies()
        for row, (top, bottom) in enumerate(self.floors[:-1]):
            height = (bottom - top) * np.clip(share + rng.uniform(-0.06, 0.06), 0.45, 0.72)
            y0 = top + 0.55 * (bottom - top - height)
            arch = float(rng.choice([0.0, 0.0, 0.0, 0.35, 1.0]))
            for column in range(self.columns):
                if self.chance(blank):
                    continue
                middle = self.x0 + (column + 0.5) * self.pitch
                x0, x1, y1 = middle - width / 2, middle + width / 2, y0 + height
                has_balcony = (row, column) in balconies
                if has_balcony:
                    y1 = bottom - 0.006
                if is_paired and not has_balcony:
                    self.add("window", x0, y0, middle - 0.012, y1, arch=arch)
                    self.add("window", middle + 0.012, y0, x1, y1, arch=arch)
                else:
                    self.add("window", x0, y0, x1, y1, arch=arch)
                if has_hoods and not arch and y0 - 0.03 > top:
                    self.add("cornice", x0 - 0.014, y0 - 0.028, x1 + 0.014, y0 - 0.01)
                if has_balcony:
                    rail = min(0.42 * (y1 - y0), 0.075)
                    self.add("balcony", x0 - 0.022, y1 - rail, x1 + 0.022, y1 + 0.014)
                elif has_sills:
                    self.add("sill", x0 - 0.01, y1, x1 + 0.01, y1 + 0.016)

    def choose_balconies(self) -> set[tuple[int, int]]:
        """Which (storey, column) carry one: none, a column, a whole storey, or some here and there."""
        rng, rows = self.rng, range(self.storeys - 1)
        mode = str(rng.choice(["none", "column", "storey", "some"], p=[0.35, 0.2, 0.2, 0.25]))
        if mode == "column":
            column = int(rng.integers(self.columns))
            columns = {column, self.columns - 1 - column}
            return {(row, column) for row in rows for column in columns}
        if mode == "storey":
            row = int(rng.integers(self.storeys - 1))
            return {(row, column) for column in range(self.columns)}
        if mode == "some":
            return {(row, column) for row in rows for column in range(self.columns) if self.chance(0.3)}
        return set()

    def draw_ground_floor(self) -> None:
        """A door, and beside it shop fronts or windows, one for each column."""
        rng = self.rng
        top, bottom = self.floors[-1]
        height = bottom - top
        door = int(rng.integers(self.columns))
        has_shops, arch = self.chance(0.4), float(rng.choice([0.0, 0.0, 0.4, 1.0]))
        width = min(rng.uniform(0.4, 0.7) * self.pitch, rng.uniform(0.4, 0.65) * height)
        door_width = float(np.clip(width, 0.07, 0.13))
        for column in range(self.columns):
            middle = self.x0 + (column + 0.5) * self.pitch
            if column == door:
                y0 = top + max(0.16 * height, 0.02)
                self.add("door", middle - door_width / 2, y0, middle + door_width / 2, bottom, arch=arch)
            elif has_shops:
                gap = 0.07 * self.pitch
                self.add(
                    "shop",
                    middle - self.pitch / 2 + gap,
                    top + 0.14 * height,
                    middle + self.pitch / 2 - gap,
                    bottom,
                )
            else:
                y0, y1 = top + 0.24 * height, top + 0.74 * height
                self.add("window", middle - width / 2, y0, middle + width / 2, y1, arch=arch)
                self.add("sill", middle - width / 2 - 0.01, y1, middle + width / 2 + 0.01, y1 + 0.016)
