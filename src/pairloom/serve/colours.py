"""What to draw with: the colours of a model's sources as they are shown, their names, and the first tool.

A *picture* is what the page shows and sends: (H, W, 3), 8-bit RGB. `to_source` makes of it what the model
takes; for 8-bit RGB sources, the usual ones, it is the same pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pairloom import images, palette, pictures
from pairloom.config import Config
from pairloom.images import Array, ImageError, ImageSpec
from pairloom.pictures import Rgb
from pairloom.pixels import WHITE

Manner = Literal["labels", "paint", "pen", "photo", "none"]
"""labels: exact colours of classes; paint: few colours, but no classes; pen: dark lines on white; photo: a
picture of anything; none: sources of other than 1 or 3 channels, which cannot be drawn."""

NEAR = 40.0
"""Euclidean distance in 8-bit RGB at which a pixel counts as being of a colour."""


@dataclass(frozen=True, slots=True)
class Colour:
    """One colour to draw with."""

    rgb: tuple[int, int, int]
    name: str


@dataclass(frozen=True, slots=True)
class Palette:
    """How sources are drawn."""

    manner: Manner
    colours: tuple[Colour, ...]
    background: tuple[int, int, int]
    """Of an empty drawing, and of the eraser."""


def palette_for(spec: ImageSpec, config: Config, examples: Sequence[Rgb]) -> Palette:
    """What a person draws a model's sources with.

    Args:
        spec: Of the sources.
        config: How the model was trained.
        examples: Pictures of sources, from which colours are measured where the spec has none.
    """
    white, black = Colour((255, 255, 255), "white"), Colour((0, 0, 0), "black")
    if spec.kind == "labels":
        shown = label_colours(spec)
        names = _class_names(spec, config)
        colours = tuple(Colour(rgb, name) for rgb, name in zip(shown, names, strict=True))
        return Palette("labels", colours, _most_frequent(shown, examples))
    if spec.channels not in (1, 3):
        return Palette("none", (), white.rgb)
    lines = config.data.derive == "edges" or (bool(examples) and _are_lines(examples))
    unseen_grey = spec.channels == 1 and spec.kind == "intensity" and not examples
    if lines or unseen_grey:
        return Palette("pen", (black, white), white.rgb)
    measured, share = measure_colours(examples)
    few = share > 0.9 and len(measured) > 1
    named = tuple(map(Colour, measured, _words(measured)))
    if few:
        return Palette("paint", named, measured[0])
    return Palette("photo", (*named[:8], black, white) if named else (black, white), white.rgb)


def _class_names(spec: ImageSpec, config: Config) -> tuple[str, ...]:
    """Of the spec; else of the palette file that it was trained with; else the sample set's; else words."""
    if spec.palette_names:
        return spec.palette_names
    if config.data.source_palette is not None:
        try:
            colours, names = palette.read_palette(Path(config.data.source_palette))
        except ImageError:  # it may have stayed where the model was trained
            colours, names = (), ()
        if names and set(colours) == set(spec.palette):
            found = dict(zip(colours, names, strict=True))
            return tuple(found[colour] for colour in spec.palette)
    from pairloom.data.sample_layout import PALETTE  # the one thing of the data that serving knows

    sample: dict[tuple[int, ...], str] = {rgb: name for name, rgb in PALETTE}
    if all(colour in sample for colour in spec.palette):
        return tuple(sample[colour] for colour in spec.palette)
    if spec.channels == 1:
        return tuple(f"class {colour[0]}" for colour in spec.palette)
    return _words(label_colours(spec))


def label_colours(spec: ImageSpec) -> tuple[tuple[int, int, int], ...]:
    """A colour to show for each class, all different: the palette's own where it is 8-bit RGB."""
    strip = np.array(spec.palette, spec.dtype)[None]
    shown = pictures.preview(images.to_tensor(strip, spec), spec)[0]
    seen: set[tuple[int, int, int]] = set()
    for number, colour in enumerate(shown.astype(int)):
        while (rgb := (int(colour[0]), int(colour[1]), int(colour[2]))) in seen:
            colour = (colour * 4 // 5 + (number * 37 % 60, number * 71 % 60, number * 13 % 60)) % 256
        seen.add(rgb)
        shown[number] = rgb
    return tuple((int(r), int(g), int(b)) for r, g, b in shown)


def to_source(picture: Rgb, spec: ImageSpec) -> Array:
    """A picture as the file values that the model takes.

    Labels become the class whose shown colour is nearest; grey is the luminance; deeper sources take 0 to 255
    as their channel's low to high.

    Shapes: picture (H, W, 3) -> (H, W, spec.channels).

    Raises:
        ImageError: The model's sources have neither 1 nor 3 channels, and are no label maps.
    """
    if spec.kind == "labels":
        index = palette.nearest(picture, label_colours(spec))
        return np.array(spec.palette, spec.dtype)[index]
    if spec.channels not in (1, 3):
        raise ImageError(f"The model's sources have {spec.channels} channels; send a TIFF or an NPY file.")
    if spec.channels == 1:
        grey = picture.astype(np.float64) @ np.array(images.LUMINANCE)
        picture = np.rint(grey)[..., None].astype(np.uint8)
    if spec.dtype == "uint8":
        return picture
    low, high = (np.array(limits, np.float64) for limits in (spec.low, spec.high))
    values = low + picture / 255.0 * (high - low)
    if spec.dtype != "float32":
        values = np.clip(np.rint(values), 0, WHITE[spec.dtype])
    return values.astype(spec.dtype)


# -----------------------------------------------------------------------------------------------------------
# Colours of examples


def measure_colours(
    examples: Sequence[Rgb], *, most: int = 12
) -> tuple[tuple[tuple[int, int, int], ...], float]:
    """The most frequent colours of pictures, in that order, and the share of pixels near one of them."""
    if not examples:
        return (), 0.0
    pixels = np.concatenate([picture.reshape(-1, 3) for picture in examples])
    _, inverse, counts = np.unique(pixels // 16, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    sums = np.stack([np.bincount(inverse, pixels[:, c]) for c in range(3)], axis=1)
    means = sums / counts[:, None]
    found: list[np.ndarray] = []
    for index in np.argsort(-counts, kind="stable"):
        if counts[index] < 0.004 * len(pixels) or len(found) == most:
            break
        if all(np.linalg.norm(means[index] - other) > NEAR for other in found):
            found.append(means[index])
    if not found:
        return (), 0.0
    table = np.rint(np.stack(found))
    distance = np.stack([((pixels - colour) ** 2).sum(axis=1) for colour in table]).min(axis=0)
    colours = tuple((int(r), int(g), int(b)) for r, g, b in table)
    return colours, float((distance < NEAR**2).mean())


def _are_lines(examples: Sequence[Rgb]) -> bool:
    """Dark lines on white: nearly all is white, and the rest is grey."""
    pixels = np.concatenate([picture.reshape(-1, 3) for picture in examples]).astype(int)
    white = (pixels.min(axis=1) > 224).mean()
    grey = (np.ptp(pixels, axis=1) < 24).mean()
    dark = (pixels.max(axis=1) < 96).mean()
    return bool(white > 0.6 and grey > 0.98 and dark > 0.001)


def _most_frequent(shown: Sequence[tuple[int, int, int]], examples: Sequence[Rgb]) -> tuple[int, int, int]:
    """Of the shown colours that which fills the most of the examples' top rows, the sky of a drawing."""
    if not examples:
        return shown[0]
    top = np.concatenate([picture[: max(1, len(picture) // 8)].reshape(-1, 3) for picture in examples])
    counts = [int((top == colour).all(axis=1).sum()) for colour in shown]
    return shown[int(np.argmax(counts))]


def _words(colours: Sequence[tuple[int, int, int]]) -> tuple[str, ...]:
    """A name for each colour, numbered where two have the same."""
    names = [colour_word(colour) for colour in colours]
    return tuple(
        f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    )


def colour_word(rgb: tuple[int, int, int]) -> str:
    """A colour in one or two words, as one would say it."""
    hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in rgb))
    if light > 0.95 or light < 0.06:
        return "white" if light > 0.5 else "black"
    tone = "light " if light > 0.72 else "dark " if light < 0.3 else ""
    if saturation < 0.12:
        return f"{tone}grey"
    hues = (
        (15, "red"), (42, "orange"), (68, "yellow"), (160, "green"), (196, "cyan"), (255, "blue"),
        (290, "purple"), (345, "pink"), (361, "red"),
    )  # fmt: skip
    return tone + next(name for most, name in hues if hue * 360 < most)
