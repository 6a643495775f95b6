"""A pair of images: where its files are, and how they become tensors."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from torch import Tensor

from pairloom import images
from pairloom.config import DataConfig
from pairloom.content import Content
from pairloom.data.stamps import Stamps
from pairloom.images import ImageError, ImageSpec
from pairloom.pixels import Array
from pairloom.stacks.stack import WHOLE, Part

SPLITS = ("train", "val", "test")
T = TypeVar("T")


class DataError(ValueError):
    """Something about the data is wrong; one sentence says which file, what, and what to do."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One side of a pair: a file, the left or right half of a side-by-side file, or a part of a file."""

    path: Path
    half: Literal["left", "right"] | None = None
    part: Part = WHOLE
    """Which slice of a volume, and which channels."""

    def __str__(self) -> str:
        if self.part.index is not None:
            return f"{self.path} (slice {self.part.index})"
        return str(self.path) if self.half is None else f"{self.path} ({self.half} half)"

    @property
    def file(self) -> Path | Content:
        """What is opened: the path, or what lies there inside another file."""
        return self.path

    def cut(self, array: Array) -> Array:
        """This side of the file's pixels, (H, W, C)."""
        if self.half is None:
            return array
        width = array.shape[1]
        if width % 2:
            raise DataError(
                f"{self.path} is {width} pixels wide: a side-by-side file holds two images of equal width, "
                "so its width must be even."
            )
        return array[:, : width // 2] if self.half == "left" else array[:, width // 2 :]

    def read(self, how: ImageSpec | DataConfig | None = None) -> Array:
        """The pixels, in file values; NaN of a float image is a pixel that counts for nothing.

        Shapes: (H, W, C).

        Args:
            how: What says what becomes of alpha and of further pages: the spec, or before there is one, the
                settings. None: alpha as with "auto", and pages are channels.

        Raises:
            ImageError: The file cannot be read.
            DataError: A side-by-side file is of odd width.
        """
        return self.cut(self.whole(how))

    def whole(self, how: ImageSpec | DataConfig | None) -> Array:
        """The pixels of the whole file, of which a half may be this side."""
        return _read_file(self.file, how, self.part)


def _read_file(path: Path | Content, how: ImageSpec | DataConfig | None, part: Part) -> Array:
    if how is None:
        return images.read_image(path, part=part, nan="keep")
    pages = how.pages if isinstance(how, DataConfig) else how.page_axis
    return images.read_image(path, alpha=how.alpha, page_axis=pages, part=part, nan="keep")


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and its target. `name` is the relative path without extension, unique within its split.

    Of a pair that is derived from a single photo, both are that photo; `hole` is a mask of its own. `mask` is
    of the pixels that count (`masks`).
    """

    name: str
    source: ImageRef
    target: ImageRef
    split: str
    group: str
    hole: ImageRef | None = None
    mask: ImageRef | None = None

    def read(
        self, source: ImageSpec | DataConfig | None = None, target: ImageSpec | DataConfig | None = None
    ) -> tuple[Array, Array]:
        """The pixels of both sides, (H, W, C) each, in file values; a side-by-side file is decoded once.

        Args:
            source: How the source is read; see `ImageRef.read`.
            target: How the target is read.

        Raises:
            ImageError: A file cannot be read.
            DataError: A side-by-side file is of odd width.
        """
        if (self.source.path, self.source.part) != (self.target.path, self.target.part):
            return self.source.read(source), self.target.read(target)
        array = self.source.whole(source)  # one file, one policy on alpha and pages
        return self.source.cut(array), self.target.cut(array)


@dataclass(frozen=True)
class PairSet:
    """All pairs of a data set, in natural order of their names, and what is to be said of them."""

    layout: Literal["side-by-side", "two folders", "manifest", "photos"]
    pairs: Sequence[Pair]
    unpaired: tuple[str, ...]
    """A sentence for each file left out."""
    notes: tuple[str, ...] = ()
    """Sentences about the splits."""

    def split(self, name: str) -> Sequence[Pair]:
        """The pairs of "train", "val" or "test"."""
        if isinstance(self.pairs, StoredPairs):
            return self.pairs.split(name)
        return tuple(pair for pair in self.pairs if pair.split == name)

    @cached_property
    def fingerprint(self) -> str:
        """As the function `fingerprint`; the files are looked at when it is first asked for, then no more."""
        pairs = self.pairs
        if isinstance(pairs, StoredPairs):
            return pairs.fingerprint
        with without_collection():
            return _fingerprint(pairs, self.stamps)

    @cached_property
    def stamps(self) -> Stamps:
        """Of its files, as they were when they were looked at first."""
        return Stamps()


class StoredPairs(Sequence[Pair]):
    """Pairs made when they are asked for, so that memory does not grow with their number."""

    @abstractmethod
    def split(self, name: str) -> StoredPairs:
        """Those of "train", "val" or "test"."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """As the function `fingerprint`, without looking at each."""

    @abstractmethod
    def order(self, seed: int, epoch: int) -> Sequence[int]:
        """The order of an epoch of training: a permutation, any element of which is found at once."""

    @abstractmethod
    def colours(self, side: Literal["source", "target"], data: DataConfig) -> Colours | None:
        """All colours of a side as they are known beforehand; None: not known, look at the files."""

    @abstractmethod
    def faults(self) -> list[str]:
        """A sentence for each file that holds pairs and is not as it was written; reads all of them."""


@dataclass(frozen=True, slots=True)
class Colours:
    """The colours of all files of a side."""

    all: frozenset[tuple[int, ...]] | None
    """None: more than a label map may have."""
    lossless: bool
    """In lossless files?"""

    def within(self, *, at_most: int, lossless: bool) -> set[tuple[int, ...]] | None:
        """All of them; None when there are too many, or a file that must be lossless is not."""
        if self.all is None or len(self.all) > at_most or (lossless and not self.lossless):
            return None
        return set(self.all)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spread over all."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def training_pairs(pairs: PairSet | Sequence[Pair]) -> Sequence[Pair]:
    """A PairSet stands for its training pairs; a sequence for itself."""
    return pairs.split("train") if isinstance(pairs, PairSet) else pairs


def read_pair(
    pair: Pair, source_spec: ImageSpec, target_spec: ImageSpec, data: DataConfig
) -> tuple[Tensor, Tensor]:
    """Both sides as tensors at their own size.

    Shapes: (C, H, W) each, [-1, 1]; of equal H and W unless `data.resize` is "stretch".

    Raises:
        DataError: The files do not suit their specs, or differ in size where they must not.
        ImageError: A file cannot be read.
    """
    return pair_tensors(pair, *pair.read(source_spec, target_spec), source_spec, target_spec, data)


def pair_tensors(
    pair: Pair,
    source: Array,
    target: Array,
    source_spec: ImageSpec,
    target_spec: ImageSpec,
    data: DataConfig,
) -> tuple[Tensor, Tensor]:
    """The tensors of `read_pair`, from file values."""
    x, y = as_tensor(source, source_spec, pair.source), as_tensor(target, target_spec, pair.target)
    if data.resize != "stretch" and x.shape[1:] != y.shape[1:]:
        raise DataError(
            f"{pair.source} is {x.shape[2]}x{x.shape[1]} pixels and {pair.target} {y.shape[2]}x{y.shape[1]}; "
            f"both sides must be of one size with data.resize={data.resize!r} (or use 'stretch')."
        )
    return x, y


def as_tensor(array: Array, spec: ImageSpec, ref: ImageRef) -> Tensor:
    """File values as a tensor; what does not suit the spec is a DataError that names the file."""
    try:
        return images.to_tensor(array, spec)
    except ImageError as error:
        raise DataError(f"{ref}: {error}") from error


def label_sides(source_spec: ImageSpec, target_spec: ImageSpec) -> tuple[bool, bool]:
    """Which sides are label maps, resized by nearest neighbour."""
    return source_spec.kind == "labels", target_spec.kind == "labels"


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Of a million new objects all are needed: to look for garbage among them takes a third of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def fingerprint(pairs: PairSet | Sequence[Pair]) -> str:
    """Hash over names, splits and file sizes: a copy elsewhere has the same.

    Raises:
        DataError: A file is no longer there.
    """
    if isinstance(pairs, PairSet | StoredPairs):
        return pairs.fingerprint
    with without_collection():
        return _fingerprint(pairs, Stamps())


def _fingerprint(pairs: Sequence[Pair], stamps: Stamps) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        text = f"{pair.name}\0{pair.split}"
        for ref in (pair.source, pair.target, pair.hole, pair.mask):
            if ref is None:
                continue
            try:
                size = stamps.bytes_of(ref.path)
            except OSError as error:
                raise DataError(f"{ref.path} is no longer readable ({error.strerror}).") from error
            text += f"\0{ref.path.name}\0{ref.half}\0{size}"
            if ref.part is not WHOLE and ref.part != WHOLE:
                text += f"\0{ref.part!r}"
        # The names of files are bytes, which need not be UTF-8.
        digest.update(f"{text}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
