"""How a pair becomes the tensors that a network sees: read, brought into place, and by choice derived."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from pairloom.config import DataConfig
from pairloom.data.augment import augment, evaluation_geometry
from pairloom.data.derive import derivation, read_photo
from pairloom.data.pairs import Pair, label_sides, read_pair
from pairloom.images import ImageSpec


def training_view(
    pair: Pair,
    source_spec: ImageSpec,
    target_spec: ImageSpec,
    data: DataConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Both sides of a random view: resized, cropped and mirrored as `data` says.

    Shapes: (C, *crop_size) each, [-1, 1].

    Raises:
        DataError: See `read_pair` and `read_photo`.
        ImageError: A file cannot be read.
    """
    geometry = partial(
        augment,
        load_size=data.load_sides,
        crop_size=data.crop_size,
        resize=data.resize,
        mirror=data.mirror,
        rng=rng,
    )
    return _view(pair, source_spec, target_spec, data, geometry, rng)


def load_pair(
    pair: Pair, source_spec: ImageSpec, target_spec: ImageSpec, data: DataConfig
) -> tuple[Tensor, Tensor]:
    """Both sides as tensors in evaluation geometry: resized as `data.resize` says; no jitter, no mirror.

    What is random in a derived pair, as the place of a hole, follows from the pair's name.

    Shapes: (C, H, W) each, [-1, 1].

    Raises:
        DataError: See `read_pair` and `read_photo`.
        ImageError: A file cannot be read.
    """
    geometry = partial(evaluation_geometry, crop_size=data.crop_size, resize=data.resize)
    return _view(pair, source_spec, target_spec, data, geometry, _rng_of(pair.name))


def _view(
    pair: Pair,
    source_spec: ImageSpec,
    target_spec: ImageSpec,
    data: DataConfig,
    geometry: Callable[..., tuple[Tensor, ...]],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    derive = derivation(data)
    if derive is None:
        x, y = geometry(
            *read_pair(pair, source_spec, target_spec, data), labels=label_sides(source_spec, target_spec)
        )
        return x, y
    photo, *hole = geometry(*read_photo(pair, target_spec), labels=(False, True))
    return derive(photo, hole[0] if hole else None, rng)


def _rng_of(name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
