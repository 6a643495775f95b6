"""How a pair becomes the tensors that a network sees: read, brought into place, and by choice derived."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pairloom.config import DataConfig
from pairloom.data.augment import augment, evaluation_geometry
from pairloom.data.derive import derivation, read_photo
from pairloom.data.masks import View, read_known, settled
from pairloom.data.pairs import DataError, Pair, label_sides
from pairloom.data.warp import draw_warp, relight
from pairloom.images import ImageSpec
from pairloom.validity import filled

Transform = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]
"""A user's own step: source, target (C, H, W), [-1, 1], a generator of this view -> both, in those shapes.

It sees 0 where a pixel does not count, and what it puts there is taken back; the map of these pixels stays.
"""


def training_view(
    pair: Pair,
    source_spec: ImageSpec,
    target_spec: ImageSpec,
    data: DataConfig,
    rng: np.random.Generator,
    transform: Transform | None = None,
) -> View:
    """Both sides of a random view: resized, cropped, mirrored, warped, lit as `data` says; then `transform`.

    Shapes: (C, *crop_size) each, [-1, 1]; valid (1, *crop_size).

    Raises:
        DataError: See `read_known` and `read_photo`; or `transform` changes shapes.
        ImageError: A file cannot be read.
    """
    # Streams of their own: whatever is switched on or off, all else stays as it was.
    warp_rng, light_rng, transform_rng = rng.spawn(3)
    geometry = partial(
        augment,
        load_size=data.load_sides,
        crop_size=data.crop_size,
        resize=data.resize,
        mirror=data.mirror,
        warp=draw_warp(data, warp_rng),
        rng=rng,
    )
    (x, y, valid), known = _view(pair, source_spec, target_spec, data, geometry, rng)
    if data.light and source_spec.kind != "labels":
        x = filled(relight(x, data.light, light_rng), known)
    if transform is not None:
        x, y = _transformed(x, y, transform, transform_rng, pair.name)
        x, y = filled(x, known), filled(y, valid)
    return View(x, y, valid)


def _transformed(
    x: Tensor, y: Tensor, transform: Transform, rng: np.random.Generator, name: str
) -> tuple[Tensor, Tensor]:
    # It may write into what it is given, and source and target may share memory.
    wanted = [(tuple(side.shape), side.dtype) for side in (x, y)]
    made = transform(x.clone(), y.clone(), rng)
    sides = list(made) if isinstance(made, tuple | list) else [made]
    if not all(isinstance(side, Tensor) for side in sides):
        got = f"{type(made).__name__} of {', '.join(type(side).__name__ for side in sides)}"
    else:
        got = _described([(tuple(side.shape), side.dtype) for side in sides])
        if [(tuple(side.shape), side.dtype) for side in sides] == wanted:
            return sides[0], sides[1]
    raise DataError(
        f"The transform made of the pair {name} {got}; it must return source and target of the shapes and "
        f"the type that it was given: {_described(wanted)}."
    )


def _described(sides: list[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return " and ".join(f"{shape} {str(dtype).removeprefix('torch.')}" for shape, dtype in sides) or "nothing"


def load_pair(
    pair: Pair, source_spec: ImageSpec, target_spec: ImageSpec, data: DataConfig
) -> tuple[Tensor, Tensor]:
    """The two sides of `evaluation_view`, for whoever need not tell apart which pixels count: they are 0."""
    return evaluation_view(pair, source_spec, target_spec, data)[:2]


def evaluation_view(pair: Pair, source_spec: ImageSpec, target_spec: ImageSpec, data: DataConfig) -> View:
    """Both sides as tensors in evaluation geometry: resized as `data.resize` says; no jitter, no mirror.

    What is random in a derived pair, as the place of a hole, follows from the pair's name.

    Shapes: (C, H, W) each, [-1, 1]; valid (1, H, W).

    Raises:
        DataError: See `read_known` and `read_photo`.
        ImageError: A file cannot be read.
    """
    geometry = partial(evaluation_geometry, crop_size=data.crop_size, resize=data.resize)
    return _view(pair, source_spec, target_spec, data, geometry, _rng_of(pair.name))[0]


def _view(
    pair: Pair,
    source_spec: ImageSpec,
    target_spec: ImageSpec,
    data: DataConfig,
    geometry: Callable[..., tuple[Tensor, ...]],
    rng: np.random.Generator,
) -> tuple[View, Tensor | None]:
    """And where the source is known, if not everywhere."""
    derive = derivation(data)
    if derive is None:
        # What is known of a side goes its way, read at the same places with the same weights.
        sides = read_known(pair, source_spec, target_spec, data)
        return settled(*geometry(*sides, labels=2 * label_sides(source_spec, target_spec)))
    photo, *hole = geometry(*read_photo(pair, target_spec), labels=(False, True))
    return View(*derive(photo, hole[0] if hole else None, rng), None), None


def _rng_of(name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
