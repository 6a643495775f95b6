"""Pairs made from single photos: colourisation, inpainting, edges, grey.

A pair is derived after the geometry: a view of the photo is drawn first, and source and target are made from
it, so that edges are those of the scale that the network sees, and a hole lies in the middle of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data import edges, holes
from pairloom.data.pairs import DataError, Pair, as_tensor
from pairloom.images import ImageSpec
from pairloom.pixels import Array, described

LUMINANCE = ImageSpec(channels=1, dtype="uint8", kind="luminance", low=(0.0,), high=(255.0,))
"""A source of grey values: a grey image as it is, of a colour image its luminance."""


class Derivation(Protocol):
    """How a photo becomes a pair."""

    @property
    def needs_colour(self) -> bool:
        """Must the photos be RGB?"""

    def specs(self, photo: ImageSpec) -> tuple[ImageSpec, ImageSpec]:
        """The specs of source and target, from that of the photos.

        Raises:
            DataError: Photos of this kind do not do.
        """

    def __call__(self, photo: Tensor, hole: Tensor | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Source and target of one view of a photo.

        Shapes: photo (C, H, W); hole (1, H, W), where the photo has its own -> x, y (C', H, W), (C'', H, W).
        Units: [-1, 1]; of the hole, 1 is missing and 0 is there.
        """


@dataclass(frozen=True, slots=True)
class Colorize:
    """L to ab (Section 4: colourisation)."""

    needs_colour = True

    def specs(self, photo: ImageSpec) -> tuple[ImageSpec, ImageSpec]:
        """L, and ab that is recombined with it."""
        _require_rgb(photo, "colorize", "uint8")
        return (
            images.lab_spec("L", channels=1, page_axis=photo.page_axis),
            images.lab_spec("a", "b", page_axis=photo.page_axis),
        )

    def __call__(self, photo: Tensor, hole: Tensor | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Both from one conversion."""
        lab = images.from_photo(photo, images.lab_spec("L", "a", "b"))
        return lab[:1], lab[1:]


@dataclass(frozen=True, slots=True)
class Gray:
    """Luminance to photo: as Colorize, but the network makes all three channels."""

    needs_colour = True

    def specs(self, photo: ImageSpec) -> tuple[ImageSpec, ImageSpec]:
        """Luminance, and the photo."""
        _require_rgb(photo, "gray")
        return LUMINANCE, photo

    def __call__(self, photo: Tensor, hole: Tensor | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Grey values beside colours."""
        return images.from_photo(photo, LUMINANCE), photo


@dataclass(frozen=True, slots=True)
class Inpaint:
    """A photo with a white hole to the whole photo (Section 4)."""

    hole: str
    needs_colour = False

    def specs(self, photo: ImageSpec) -> tuple[ImageSpec, ImageSpec]:
        """The same for both."""
        return photo, photo

    def __call__(self, photo: Tensor, hole: Tensor | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The hole is drawn in the view, unless the photo has its own, which has gone with it."""
        if hole is None:
            hole = self._drawn(photo.shape[1], photo.shape[2], rng)
        return torch.where(hole > 0.5, 1.0, photo), photo

    def _drawn(self, height: int, width: int, rng: np.random.Generator) -> Tensor:
        if self.hole == "center":
            missing = holes.center(height, width)
        elif self.hole == "boxes":
            missing = holes.boxes(height, width, rng)
        elif self.hole == "strokes":
            missing = holes.strokes(height, width, rng)
        else:
            missing = holes.read_same_hole(Path(self.hole))
        hole = torch.from_numpy(missing)[None].float()
        return images.resize(hole, (height, width), labels=True)


@dataclass(frozen=True, slots=True)
class Edges:
    """A line drawing, black on white, to the photo (Section 4)."""

    sigma: float
    least_px: int
    model: str | None
    needs_colour = False

    def specs(self, photo: ImageSpec) -> tuple[ImageSpec, ImageSpec]:
        """A drawing of grey values, and the photo."""
        if photo.channels not in (1, 3):
            raise DataError(
                f"data.derive=edges looks for edges in photos that are grey or RGB, but these have "
                f"{described(photo.channels, photo.dtype)}; data.alpha=white takes an alpha channel away."
            )
        return LUMINANCE, photo

    def __call__(self, photo: Tensor, hole: Tensor | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The edges of this very view."""
        if self.model is not None:
            rgb = (photo.expand(3, -1, -1).add(1) / 2).numpy()
            found = edges.model_edges(rgb, self.model, least_px=self.least_px)
        else:
            grey = (images.from_photo(photo, LUMINANCE)[0].add(1) / 2).numpy()
            found = edges.canny_edges(grey, sigma=self.sigma, least_px=self.least_px)
        return 1 - 2 * torch.from_numpy(found)[None].float(), photo


def derivation(data: DataConfig) -> Derivation | None:
    """How the photos of a data set become pairs; None: they are pairs already."""
    match data.derive:
        case "none":
            return None
        case "colorize":
            return Colorize()
        case "gray":
            return Gray()
        case "inpaint":
            return Inpaint(data.hole)
        case "edges":
            return Edges(data.edge_sigma, data.edge_least_px, data.edge_model)


def _require_rgb(photo: ImageSpec, derive: str, dtype: str | None = None) -> None:
    if photo.channels != 3 or photo.dtype != (dtype or photo.dtype):
        raise DataError(
            f"data.derive={derive} takes photos of 3 channels{f' of {dtype}' if dtype else ''}, but these "
            f"have {described(photo.channels, photo.dtype)}; convert them (data.alpha=white takes an alpha "
            "channel away)."
        )


def as_photo(array: Array, channels: int) -> Array:
    """A grey image among colour photos counts as one. Shapes: (H, W, 1) -> (H, W, channels), if that is 3."""
    return np.repeat(array, 3, axis=2) if (array.shape[2], channels) == (1, 3) else array


def check_whole(pair: Pair, photo: Array) -> None:
    """Raise a DataError if a photo has pixels that count for nothing."""
    if not images.valid_pixels(photo).all():
        raise DataError(
            f"{pair.target}: holds NaN; data.derive makes pairs of whole photos only, so fill such pixels, "
            "or leave the photo out."
        )


def read_photo(pair: Pair, target_spec: ImageSpec) -> tuple[Tensor, ...]:
    """The photo that a pair is made of, at its own size, and the mask of its hole where it has one.

    Shapes: (C, H, W), and (1, H, W) of 1, missing, and 0.

    Raises:
        DataError: The photo does not suit the spec, or the mask is of another size.
        ImageError: A file cannot be read.
    """
    spec = target_spec.file_spec
    array = as_photo(pair.target.read(spec), spec.channels)
    check_whole(pair, array)
    photo = as_tensor(array, spec, pair.target)
    if pair.hole is None:
        return (photo,)
    hole = torch.from_numpy(holes.read_hole(pair.hole.file))[None].float()
    if hole.shape[1:] != photo.shape[1:]:
        raise DataError(
            f"{pair.hole} is {hole.shape[2]}x{hole.shape[1]} pixels and {pair.target} "
            f"{photo.shape[2]}x{photo.shape[1]}; a mask must have the size of its photo."
        )
    return photo, hole
