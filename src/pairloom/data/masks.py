"""Which pixels of a pair count: those that its mask says, and of float images those that are not NaN.

A mask file counts for both sides: where it is 0, source and target are 0, the middle of [-1, 1], whatever the
files hold. NaN counts for its own side: where only the target is unknown, the source is kept, as it will be
there when the model translates. A pixel counts, in losses and metrics, where both sides are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pairloom import images
from pairloom.config import DataConfig
from pairloom.content import Content
from pairloom.data.pairs import DataError, ImageRef, Pair, evenly, pair_tensors
from pairloom.images import ImageSpec
from pairloom.pixels import Array
from pairloom.validity import filled, known_part

Known = NDArray[np.bool_]
"""(H, W): which pixels of one side are known."""

NOTED_PAIRS = 50
"""The share of pixels that do not count is that of at most so many pairs."""


class View(NamedTuple):
    """A pair as a network sees it, and which pixels count; or a batch of them."""

    x: Tensor
    """Source, (C, H, W)."""
    y: Tensor
    """Target, (C', H, W)."""
    valid: Tensor | None
    """(1, H, W), 1 where a pixel counts, else 0, as y is there; None: all do."""


def read_mask(ref: ImageRef) -> Known:
    """A mask file: what is 0 in all channels, or NaN, does not count.

    Shapes: -> (H, W).

    Raises:
        DataError: It was saved with loss, which leaves no zeros.
        ImageError: It cannot be read.
    """
    file = ref.file
    if not images.is_lossless(file):
        raise DataError(
            f"{ref}: is a mask saved with loss, in which 0 is no longer 0; save it as PNG, or as TIFF."
        )
    array = images.read_image(file, alpha="white", part=ref.part, nan="keep")
    return np.asarray((array != 0).any(axis=2) & images.valid_pixels(array))


def known_pixels(pair: Pair, source: Array, target: Array) -> tuple[Known, Known] | None:
    """Which pixels of each side are known; None: all of both.

    Raises:
        DataError: The mask is of another size than the images, or no pixel of the pair counts.
        ImageError: The mask cannot be read.
    """
    known = [images.valid_pixels(side) for side in (source, target)]
    if pair.mask is not None:
        mask = read_mask(pair.mask)
        refs = pair.source, pair.target
        known = [side & _of_size(pair.mask, mask, ref, side) for ref, side in zip(refs, known, strict=True)]
    if all(side.all() for side in known):
        return None
    both = known[0] & known[1] if known[0].shape == known[1].shape else known[0].any() and known[1].any()
    if not np.any(both):
        raise DataError(
            f"{pair.source}: no pixel of the pair {pair.name} counts, as all are NaN or masked; leave it out."
        )
    return known[0], known[1]


def _of_size(ref: ImageRef, mask: Known, image: ImageRef, side: Known) -> Known:
    if mask.shape != side.shape:
        raise DataError(
            f"{ref} is {mask.shape[1]}x{mask.shape[0]} pixels and {image} {side.shape[1]}x{side.shape[0]}; "
            "a mask must have the size of both images of its pair."
        )
    return mask


def read_known(
    pair: Pair, source_spec: ImageSpec, target_spec: ImageSpec, data: DataConfig
) -> tuple[Tensor, ...]:
    """Both sides as of `read_pair`, 0 where they are not known; and unless all is, two maps of what is.

    Shapes: (C, H, W), (C', H, W), and (1, H, W) twice, of 1 and 0.

    Raises:
        DataError: See `pairs.read_pair` and `known_pixels`.
        ImageError: A file cannot be read.
    """
    source, target = pair.read(source_spec, target_spec)
    x, y = pair_tensors(pair, source, target, source_spec, target_spec, data)
    known = known_pixels(pair, source, target)
    if known is None:
        return x, y
    known_x, known_y = (torch.from_numpy(side)[None].float() for side in known)
    return filled(x, known_x), filled(y, known_y), known_x, known_y


def settled(x: Tensor, y: Tensor, *known: Tensor) -> tuple[View, Tensor | None]:
    """The view that geometry made of what `read_known` gave; and where its source is known; None: everywhere.

    A pixel is what was interpolated from known pixels, and counts where these were half of it or more.

    Shapes: (C, H, W), (C', H, W), (1, H, W) twice or not at all.
    """
    if not known:
        return View(x, y, None), None
    x, known_x = known_part(x, known[0])
    y, known_y = known_part(y, known[1])
    valid = known_x * known_y
    if bool(valid.all()):
        return View(x, y, None), None
    return View(x, filled(y, valid), valid), known_x


# ------------------------------------------------------------------------------------------------------------
# What is measured of the files


@dataclass(frozen=True, slots=True)
class Counting:
    """One side of a pair, of which only those pixels are read that count."""

    ref: ImageRef
    mask: ImageRef | None

    def __str__(self) -> str:
        return str(self.ref)

    @property
    def file(self) -> Path | Content:
        """What is opened."""
        return self.ref.file

    def read(self, how: ImageSpec | DataConfig | None = None) -> Array:
        """File values; where not all pixels count, those that do in one row.

        Shapes: (H, W, C), or (1, P, C).

        Raises:
            ImageError: A file cannot be read.
            DataError: No pixel counts, or the mask is of another size.
        """
        array = self.ref.read(how)
        valid = images.valid_pixels(array)
        if self.mask is not None:
            valid = valid & _of_size(self.mask, read_mask(self.mask), self.ref, valid)
        if not valid.any():
            raise DataError(f"{self.ref}: no pixel counts, as all are NaN or masked; leave the pair out.")
        return array if valid.all() else array[valid][None]


@dataclass(frozen=True, slots=True)
class SideOf(Sequence[Counting]):
    """One side of each of the pairs, made when it is asked for."""

    pairs: Sequence[Pair]
    side: Literal["source", "target"]

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, i: int) -> Counting: ...
    @overload
    def __getitem__(self, i: slice) -> list[Counting]: ...
    def __getitem__(self, i: int | slice) -> Counting | list[Counting]:
        if isinstance(i, slice):
            return [self._of(pair) for pair in self.pairs[i]]
        return self._of(self.pairs[i])

    def _of(self, pair: Pair) -> Counting:
        return Counting(getattr(pair, self.side), pair.mask)


def others_repeated(array: Array, valid: Known) -> Array:
    """The image with pixels that count in the place of those that do not, so that it shows nothing else.

    No value comes in that was not there, and none becomes much more frequent.

    Shapes: (H, W, C), (H, W) -> (H, W, C).
    """
    if valid.all():
        return array
    array = array.copy()
    array[~valid] = np.resize(array[valid], (int((~valid).sum()), array.shape[2]))
    return array


def mask_notes(pairs: Sequence[Pair], source_spec: ImageSpec, target_spec: ImageSpec) -> list[str]:
    """How many pixels of training pairs do not count, as a sentence, if there are any.

    Raises:
        DataError: A mask does not suit its pair, or a pair has no pixel that counts.
        ImageError: A file cannot be read.
    """
    floats = "float32" in (source_spec.dtype, target_spec.dtype)
    some = evenly(pairs, NOTED_PAIRS)
    if not floats and not any(pair.mask for pair in some):
        return []
    share = sum(map(invalid_share, some)) / len(some)
    if not share:
        return []
    told = f", as far as {len(some)} of the {len(pairs)} pairs tell" if len(some) < len(pairs) else ""
    return [f"{percent(share)} of the training pixels are invalid and left out (masked or NaN){told}."]


def invalid_share(pair: Pair) -> float:
    """The share of a pair's pixels that do not count, 0 to 1; of sides of unequal size, that of the worse."""
    known = known_pixels(pair, *pair.read())
    return 0.0 if known is None else share_invalid(known)


def share_invalid(known: tuple[Known, Known]) -> float:
    """`invalid_share`, of what `known_pixels` found."""
    if known[0].shape == known[1].shape:
        return float(1 - (known[0] & known[1]).mean())
    return float(1 - min(side.mean() for side in known))


def percent(share: float) -> str:
    """`3.2 %`; what is not 0 is not shown as 0."""
    return f"{100 * share:.2g} %" if share < 0.01 else f"{100 * share:.1f} %"
