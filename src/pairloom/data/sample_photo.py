"""The picture of a made-up facade: what each part of a layout looks like.

Where things stand comes from the layout alone; the seed chooses materials, colours, light, window style, sky
and camera. One painter for each class of the label map, and a camera at the end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairloom.data.sample_layout import PROTRUDING, Layout, Part, Seed, check_size, make_generator
from pairloom.data.sample_scene import OVERSAMPLING, Floats, Scene

_WALLS = {
    "brick": ((0.66, 0.40, 0.31), (0.70, 0.46, 0.35), (0.62, 0.42, 0.35), (0.74, 0.57, 0.43)),
    "stone": ((0.74, 0.69, 0.59), (0.70, 0.67, 0.61), (0.77, 0.70, 0.60)),
    "plaster": ((0.86, 0.80, 0.68), (0.84, 0.74, 0.56), (0.80, 0.76, 0.69), (0.82, 0.69, 0.57)),
    "paint": ((0.87, 0.85, 0.80), (0.86, 0.78, 0.62), (0.79, 0.67, 0.58)),
}
_TRIMS = ((0.90, 0.88, 0.82), (0.84, 0.80, 0.72), (0.93, 0.92, 0.90), (0.76, 0.74, 0.70))
_FRAMES = ((0.93, 0.93, 0.91), (0.90, 0.87, 0.79), (0.82, 0.80, 0.76), (0.66, 0.55, 0.44))
_ROOFS = ((0.58, 0.31, 0.23), (0.50, 0.28, 0.22), (0.38, 0.40, 0.44), (0.44, 0.36, 0.32), (0.42, 0.52, 0.49))
_DOORS = ((0.17, 0.30, 0.24), (0.40, 0.24, 0.15), (0.45, 0.15, 0.14), (0.16, 0.22, 0.36), (0.30, 0.28, 0.26))
_SHUTTERS = ((0.27, 0.40, 0.33), (0.36, 0.44, 0.52), (0.50, 0.36, 0.28), (0.72, 0.71, 0.67))
_SIGNS = ((0.55, 0.16, 0.15), (0.15, 0.30, 0.27), (0.17, 0.22, 0.38), (0.68, 0.53, 0.26), (0.24, 0.22, 0.22))


def draw_photo(layout: Layout, size: int, seed: Seed) -> NDArray[np.uint8]:
    """Paint a picture of a layout.

    The layout fixes every edge of a wall, window, door, balcony or roof; the seed chooses materials, colours,
    light, window style, sky and camera. One seed gives the same scene at every size.

    Shapes: -> (size, size, 3).
    Units: 8-bit RGB.

    Raises:
        ValueError: `size` is outside 64 to 1024 pixels.
    """
    check_size(size)
    scene = Scene(size * OVERSAMPLING, make_generator(seed, 1))
    looks = [_Look.choose(scene.rng) for _ in range(layout.houses)]
    scene.paint_sky()
    for part in layout.parts:
        if part.kind not in PROTRUDING:
            _PAINTERS[part.kind](scene, part, looks[part.house])
    for part in layout.parts:
        if part.kind in PROTRUDING:
            scene.cast_shadow(part)
    scene.apply_shadows()
    for part in layout.parts:
        if part.kind in PROTRUDING:
            _PAINTERS[part.kind](scene, part, looks[part.house])
    return _photograph(scene, size)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """The materials, colours and style of one house."""

    material: str
    wall: Floats
    trim: Floats
    frame: Floats
    roof: Floats
    door: Floats
    shutter: Floats
    sign: Floats
    course: float
    """Height of a course of bricks or stones, in units."""
    panes: tuple[int, int]
    """Columns and rows of panes in a window."""
    has_transom: bool
    """The panes of the top row are the smaller ones."""
    has_shutters: bool
    has_awnings: bool
    has_flowers: bool
    railing: str
    """iron | stone"""

    @classmethod
    def choose(cls, rng: np.random.Generator) -> _Look:
        """Draw one at random."""

        def pick(colours: tuple[tuple[float, float, float], ...], spread: float = 0.035) -> Floats:
            colour = np.asarray(colours[int(rng.integers(len(colours)))])
            return np.clip(colour + rng.normal(0, spread, 3) * 0.5 + rng.normal(0, spread), 0, 1).astype(
                np.float32
            )

        material = str(rng.choice(list(_WALLS), p=[0.25, 0.2, 0.35, 0.2]))
        return cls(
            material=material,
            wall=pick(_WALLS[material]),
            trim=pick(_TRIMS),
            frame=pick(_FRAMES),
            roof=pick(_ROOFS),
            door=pick(_DOORS),
            shutter=pick(_SHUTTERS),
            sign=pick(_SIGNS),
            course=float(rng.uniform(0.018, 0.023) if material == "brick" else rng.uniform(0.045, 0.065)),
            panes=(int(rng.choice([1, 2, 2, 2, 3])), int(rng.choice([1, 2, 2, 3]))),
            has_transom=bool(rng.random() < 0.5),
            has_shutters=bool(rng.random() < 0.15),
            has_awnings=bool(rng.random() < 0.85),
            has_flowers=bool(rng.random() < 0.35),
            railing=str(rng.choice(["iron", "stone"], p=[0.75, 0.25])),
        )


def _blank(scene: Scene, part: Part, colour: Floats) -> Floats:
    """A patch of one colour, of the size of the part's box."""
    y0, y1, x0, x1 = scene.box(part)
    patch = np.empty((y1 - y0, x1 - x0, 3), np.float32)
    patch[:] = colour
    return patch


def _paint_wall(scene: Scene, part: Part, look: _Look) -> None:
    patch = _blank(scene, part, look.wall)
    stains = scene.crop(scene.stains, part)
    if look.material in ("brick", "stone"):
        length = look.course * (2.6 if look.material == "brick" else 1.9)
        tone, joint = scene.bricks(part, look.course, length)
        patch *= (1 + (0.06 if look.material == "brick" else 0.045) * tone)[..., None]
        mortar = look.wall * 0.35 + 0.4 if look.material == "brick" else look.wall * 0.72
        patch += (joint * 0.55)[..., None] * (mortar - patch)
        patch *= (1 + 0.025 * stains)[..., None]
    else:
        patch *= (1 + (0.055 if look.material == "plaster" else 0.025) * stains)[..., None]
    if part.y1 > 0.85:
        # It stands on the street: splashes leave its foot darker than its top.
        foot = np.linspace(0, 1, patch.shape[0], dtype=np.float32)[:, None, None] ** 6
        patch *= 1 - 0.14 * foot
    scene.paste(part, patch)


def _paint_roof(scene: Scene, part: Part, look: _Look) -> None:
    patch = _blank(scene, part, look.roof)
    tone, joint = scene.bricks(part, 0.022, 0.03)
    patch *= (1 + 0.08 * tone - 0.28 * joint + 0.03 * scene.crop(scene.stains, part))[..., None]
    patch *= np.linspace(1.12, 0.92, patch.shape[0], dtype=np.float32)[:, None, None]
    patch[: scene.px(0.008)] *= 1.15
    scene.paste(part, patch)


def _paint_glass(scene: Scene, part: Part) -> Floats:
    """Dark panes that mirror some sky, with a curtain, a blind or a lamp behind some of them."""
    patch = _blank(scene, part, np.array([0.15, 0.18, 0.22], np.float32))
    height, width = patch.shape[:2]
    sky = np.linspace(0.2, 0.02, height, dtype=np.float32)[:, None] + 0.05 * scene.crop(scene.clouds, part)
    patch += np.clip(sky, 0, 1)[..., None] * np.array([0.75, 0.9, 1.0], np.float32)
    inside, amount = scene.rng.random(), scene.rng.random()
    if inside < 0.07:
        lamp = np.linspace(0.75, 0.45, height, dtype=np.float32)[:, None, None]
        patch += lamp * (np.array([0.98, 0.80, 0.48], np.float32) - patch)
    elif inside < 0.32:
        folds = 0.9 + 0.1 * np.sin(np.arange(width, dtype=np.float32) * (40 / max(width, 40)))
        curtain = (np.array([0.80, 0.78, 0.73], np.float32) * folds[None, :, None]).astype(np.float32)
        side = round(width * (0.2 + 0.14 * amount))
        for half in (slice(0, side), slice(width - side, width)):
            patch[:, half] += 0.6 * (curtain[:, half] - patch[:, half])
    elif inside < 0.46:
        patch[: round(height * (0.15 + 0.35 * amount))] = np.array([0.74, 0.72, 0.67], np.float32)
    return patch


def _paint_window(scene: Scene, part: Part, look: _Look) -> None:
    patch = _paint_glass(scene, part)
    height, width = patch.shape[:2]
    thick = max(OVERSAMPLING, round(0.08 * min(width, height)))
    thin = max(OVERSAMPLING, round(0.05 * min(width, height)))
    columns, rows = look.panes
    # Panes narrower than a few pixels would be all frame.
    columns, rows = min(columns, max(1, width // 10)), min(rows, max(1, height // 12))
    for x in np.linspace(0, width, columns + 1)[1:-1]:
        patch[:, round(x) - thin // 2 : round(x) - thin // 2 + thin] = look.frame
    levels = [height * 0.32] if look.has_transom else list(np.linspace(0, height, rows + 1)[1:-1])
    for y in levels:
        patch[round(y) - thin // 2 : round(y) - thin // 2 + thin] = look.frame
    _frame_edges(patch, part, look.frame, thick)
    if look.has_shutters and not part.arch and width > 0.06 * scene.n:
        _add_shutters(scene, patch, look)
    # The wall is thicker than the window: its upper and its sunward reveal shade the frame and the glass.
    depth = min(scene.px(0.012), max(1, height // 6))
    patch[:depth] *= 0.5 + 0.25 * (1 - scene.strength)
    side = slice(0, depth // 2 + 1) if scene.sun > 0 else slice(width - depth // 2 - 1, width)
    patch[:, side] *= 0.72
    patch[-max(1, depth // 2) :] *= 1.05
    scene.paste(part, patch)


def _frame_edges(patch: Floats, part: Part, colour: Floats, thick: int) -> None:
    """Paint the outer frame; under an arch it follows the curve."""
    height, width = patch.shape[:2]
    patch[:thick], patch[-thick:], patch[:, :thick], patch[:, -thick:] = colour, colour, colour, colour
    if part.arch and height > 4 * thick and width > 4 * thick:
        inner = part.outline(height - 2 * thick, width - 2 * thick)
        assert inner is not None
        patch[thick:-thick, thick:-thick][~inner] = colour


def _add_shutters(scene: Scene, patch: Floats, look: _Look) -> None:
    """Two louvred leaves at the sides, inside the window's box."""
    height, width = patch.shape[:2]
    leaf = max(2 * OVERSAMPLING, round(0.22 * width))
    slats = 1 - 0.22 * (np.arange(height) % scene.px(0.016) < scene.px(0.016) // 2)[:, None, None]
    for side in (slice(0, leaf), slice(width - leaf, width)):
        patch[:, side] = look.shutter * slats.astype(np.float32)


def _paint_door(scene: Scene, part: Part, look: _Look) -> None:
    patch = _blank(scene, part, look.door)
    height, width = patch.shape[:2]
    edge = max(OVERSAMPLING, round(0.08 * width))
    light = round(0.24 * height)
    patch[edge:light, edge:-edge] = np.array([0.25, 0.29, 0.33], np.float32)
    patch[light : light + edge] = look.door * 1.25
    rows = 3 if height > 2.2 * width else 2
    leaves = np.linspace(edge, width - edge, 3)
    levels = np.linspace(light + edge, height, rows + 1)
    gap = max(1, round(0.05 * width))
    for x0, x1 in itertools.pairwise(leaves):
        for y0, y1 in itertools.pairwise(levels):
            panel = patch[round(y0) + gap : round(y1) - gap, round(x0) + gap : round(x1) - gap]
            panel *= 1.3
            panel[: max(1, gap)] *= 0.6
    middle = width // 2
    patch[light + edge :, middle - 1 : middle + 1] *= 0.5
    handle = round(0.62 * height)
    patch[handle : handle + edge, middle + gap : middle + gap + max(2, edge // 2)] = np.array(
        [0.85, 0.75, 0.45], np.float32
    )
    _frame_edges(patch, part, look.trim * 0.92, edge)
    patch[-edge:, edge:-edge] = look.trim * 0.7
    patch[: scene.px(0.014)] *= 0.6
    scene.paste(part, patch)


def _paint_shop(scene: Scene, part: Part, look: _Look) -> None:
    patch = _blank(scene, part, look.sign)
    height, width = patch.shape[:2]
    edge = scene.px(0.009)
    fascia, foot = round(0.22 * height), round(0.88 * height)
    glass = np.array([0.20, 0.23, 0.26], np.float32)
    patch[fascia:foot, edge:-edge] = glass
    pane = patch[fascia:foot, edge:-edge]
    _add_goods(scene, part, pane)
    for x in np.linspace(0, width, max(1, round(width / scene.n / 0.06)) + 1)[1:-1]:
        patch[fascia:, round(x) - edge // 2 : round(x) - edge // 2 + edge] = look.sign * 0.9
    patch[foot:] *= 0.75
    if look.has_awnings:
        drop = round(0.4 * height)
        stripe = (np.arange(width) * (2 * round(width / scene.n / 0.05) + 1) // max(width, 1)) % 2
        cloth = np.where(stripe[:, None] == 0, look.sign * 1.25 + 0.05, np.float32(0.88)).astype(np.float32)
        patch[:drop] = cloth[None] * np.linspace(1.08, 0.8, drop, dtype=np.float32)[:, None, None]
        patch[drop : drop + scene.px(0.016)] *= 0.55
    else:
        letters = np.repeat(scene.table[part.house % 64, :16] > -0.5, 2)[np.arange(width) * 32 // width]
        band = slice(round(0.07 * height), max(round(0.07 * height) + 2, round(0.15 * height)))
        margin = (np.arange(width) > 0.2 * width) & (np.arange(width) < 0.8 * width)
        patch[band, letters & margin] = np.array([0.90, 0.86, 0.74], np.float32)
        patch[fascia : fascia + edge] *= 0.6
    scene.paste(part, patch)


def _add_goods(scene: Scene, part: Part, pane: Floats) -> None:
    """Lamplight from above and goods on the shop window's floor, behind glass."""
    height, width = pane.shape[:2]
    pane += np.linspace(0.16, 0.05, height, dtype=np.float32)[:, None, None] * np.array(
        [1.0, 0.85, 0.55], np.float32
    )
    item = ((np.arange(width) + part.x0 * scene.n) / scene.px(0.016)).astype(np.int64) % 64
    tall = (0.22 + 0.1 * scene.table[part.house, item]) * height
    goods = np.arange(height)[:, None] > height - tall[None, :]
    colour = np.array([0.50, 0.44, 0.36], np.float32) + 0.09 * scene.table[:3, item].T
    pane += 0.65 * goods[..., None] * (colour[None] - pane)


def _paint_cornice(scene: Scene, part: Part, look: _Look) -> None:
    patch = _blank(scene, part, look.trim)
    height, width = patch.shape[:2]
    patch *= np.linspace(1.06, 0.86, height, dtype=np.float32)[:, None, None]
    if height > 0.022 * scene.n:
        # A moulding of three steps, the lowest with dentils.
        patch[round(0.35 * height) : round(0.35 * height) + max(1, height // 10)] *= 0.72
        tooth = np.arange(width) % scene.px(0.02) < scene.px(0.02) // 2
        patch[round(0.68 * height) :, tooth] *= 0.75
    scene.paste(part, patch)


def _paint_sill(scene: Scene, part: Part, look: _Look) -> None:
    patch = _blank(scene, part, look.trim * 1.04)
    patch[patch.shape[0] // 2 :] *= 0.82
    scene.paste(part, patch)


def _paint_pillar(scene: Scene, part: Part, look: _Look) -> None:
    patch = _blank(scene, part, look.trim)
    height, width = patch.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    patch *= 0.97 - 0.13 * np.sign(scene.sun) * x - 0.08 * x**2
    patch *= (1 + 0.03 * scene.crop(scene.stains, part))[..., None]
    cap = min(scene.px(0.018), max(1, height // 4))
    patch[:cap] *= 1.08
    patch[cap : cap + max(1, cap // 3)] *= 0.78
    patch[-cap:] *= 0.9
    scene.paste(part, patch)


def _paint_balcony(scene: Scene, part: Part, look: _Look) -> None:
    """A slab, a hand rail, and between them bars through which one sees the wall and the window."""
    is_iron = look.railing == "iron"
    patch = _blank(scene, part, np.array([0.12, 0.12, 0.13], np.float32) if is_iron else look.trim * 0.97)
    height, width = patch.shape[:2]
    alpha = np.zeros((height, width), np.float32)
    slab = max(2 * OVERSAMPLING, round(0.2 * height))
    rail = scene.px(0.008)
    count = max(3, round(width / scene.n / (0.0185 if is_iron else 0.026)))
    bar = max(OVERSAMPLING, round((0.28 if is_iron else 0.5) * width / count))
    for x in np.linspace(0, width - bar, count + 1):
        alpha[:, round(x) : round(x) + bar] = 0.9
    alpha[:rail] = 1
    alpha[-slab:] = 1
    patch[-slab:] = look.trim * 0.98
    patch[-max(1, slab // 3) :] *= 0.75
    patch[: max(1, rail // 2)] *= 1.15
    if look.has_flowers:
        _add_flowers(scene, part, patch, alpha, slab)
    scene.paste(part, patch, alpha)


def _add_flowers(scene: Scene, part: Part, patch: Floats, alpha: Floats, slab: int) -> None:
    """Boxes of leaves and blossoms that hang from the rail."""
    depth = max(2, round(0.38 * (patch.shape[0] - slab)))
    tone = scene.crop(scene.stains, part)[:depth]
    leaves = np.array([0.24, 0.40, 0.20], np.float32) * (1 + 0.2 * tone[..., None])
    spots, _ = scene.bricks(part, 0.008, 0.01)
    blossoms = (spots[:depth] > 0.6)[..., None]
    patch[:depth] = np.where(blossoms, np.array([0.80, 0.28, 0.32], np.float32), leaves)
    alpha[:depth] = 1


def _paint_ground(scene: Scene, part: Part, look: _Look) -> None:
    """Pavement slabs, a kerb, and the street."""
    patch = _blank(scene, part, np.array([0.60, 0.59, 0.57], np.float32))
    tone, joint = scene.bricks(part, 0.05, 0.09)
    patch *= (1 + 0.03 * tone - 0.13 * joint)[..., None]
    kerb = round(0.45 * patch.shape[0])
    patch[kerb:] = np.array([0.36, 0.36, 0.38], np.float32)
    patch *= (1 + 0.04 * scene.crop(scene.stains, part))[..., None]
    patch[kerb : kerb + scene.px(0.008)] = np.array([0.74, 0.73, 0.70], np.float32)
    patch[: scene.px(0.006)] *= 0.7
    scene.paste(part, patch)


_PAINTERS = {
    "wall": _paint_wall,
    "roof": _paint_roof,
    "window": _paint_window,
    "door": _paint_door,
    "balcony": _paint_balcony,
    "cornice": _paint_cornice,
    "sill": _paint_sill,
    "shop": _paint_shop,
    "pillar": _paint_pillar,
    "ground": _paint_ground,
}


def _photograph(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Average the canvas down and expose it: daylight, vignette, colour of the light, noise."""
    rng = scene.rng
    exposure, warmth, falloff = rng.normal(0.98, 0.05), rng.normal(0, 0.025), rng.uniform(0.02, 0.14)
    slope = -scene.sun * rng.uniform(0.0, 0.06)
    noise = rng.normal(0, 0.008, (size, size, 1)).astype(np.float32)
    photo = scene.canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean((1, 3), dtype=np.float32)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    corner = (axis[:, None] ** 2 + axis[None, :] ** 2) / 2
    light = exposure * (1 - falloff * corner**1.5) * (1 + slope * axis[None, :])
    photo *= light[..., None].astype(np.float32) * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    return np.asarray(np.clip((photo + noise) * 255 + 0.5, 0, 255), dtype=np.float32).astype(np.uint8)
