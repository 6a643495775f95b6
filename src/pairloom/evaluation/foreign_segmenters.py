"""Segmenters of others: a Python function, or an ONNX file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairloom import images
from pairloom.evaluation.segmenter import (
    RGB_8_BIT,
    ClassMap,
    Photo,
    PixelClassifier,
    Segmenter,
    SegmenterError,
    photo_tensor,
    read_label_spec,
    resized_logits,
)
from pairloom.images import ImageSpec
from pairloom.pictures import Rgb, preview


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionSegmenter:
    """Any Python function that takes a photo and gives classes."""

    function: Callable[[Rgb], Any]
    """From (H, W, 3) uint8 to (h, w) whole numbers: indices into the palette; others count as wrong."""
    label_spec: ImageSpec
    photo_spec: ImageSpec = RGB_8_BIT
    """What the photos are; the function always gets 8-bit RGB."""
    ignored: int | None = None
    name: str = "a function"

    def predict(self, photo: Photo, size: tuple[int, int] | None = None) -> ClassMap:
        """The class of each pixel, brought to `size` by nearest neighbour; see `Segmenter.predict`.

        Raises:
            ImageError: The photo does not suit `photo_spec`.
            SegmenterError: The function gives something else than a map of whole numbers.
        """
        x = photo_tensor(photo, self.photo_spec)
        found = np.asarray(self.function(preview(x, self.photo_spec)))
        if found.ndim != 2 or found.dtype.kind not in "iu" or not found.size:
            raise SegmenterError(
                f"The segmenter {self.name} gave {found.dtype.name} values of shape {found.shape}; it must "
                "give (height, width) whole numbers, the index of a class at each pixel."
            )
        return nearest_map(found.astype(np.int64), size or (x.shape[1], x.shape[2]))

    def words(self) -> str:
        """What it is, in one line."""
        return f"{self.name}, {len(self.label_spec.palette)} classes"


def nearest_map(index: ClassMap, size: tuple[int, int]) -> ClassMap:
    """Nearest neighbour, by pixel centres. Shapes: (h, w) -> size."""
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, index.shape, strict=True)
    )
    resized: ClassMap = index[rows[:, None], columns]
    return resized


class OnnxSegmenter:
    """An ONNX file: photos (N, 3, H, W) in, scores (N, K, H', W') out, float32 both.

    The photo, from 0 to 1, enters as (photo - mean) / std a channel; the default, 0.5 and 0.5, is [-1, 1].
    ImageNet's usual convention is mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225); 0 to 255 is mean 0,
    std 1/255. A file made for one fixed size gets the photo resized to it. Scores are brought to the size of
    the labels bilinearly; scores beyond the palette's classes are of no class, and count as wrong.
    """

    def __init__(
        self,
        path: str | Path,
        label_spec: ImageSpec,
        *,
        mean: float | Iterable[float] = 0.5,
        std: float | Iterable[float] = 0.5,
        ignored: int | None = None,
        photo_spec: ImageSpec = RGB_8_BIT,
    ) -> None:
        self.path, self.label_spec, self.photo_spec = Path(path), label_spec, photo_spec
        self.ignored = ignored
        self._mean, self._std = (
            torch.tensor([v] * 3 if isinstance(v, int | float) else list(v)).view(-1, 1, 1)
            for v in (mean, std)
        )
        if photo_spec.tensor_channels not in (1, 3):
            raise SegmenterError(
                f"{path}: an ONNX segmenter takes photos of 1 or 3 channels, and these have "
                f"{photo_spec.tensor_channels}; use a Python function instead."
            )
        if len(self._mean) != 3 or len(self._std) != 3 or not (self._std > 0).all():
            raise SegmenterError(
                "The mean and std of an ONNX segmenter are 1 or 3 numbers each, std above 0; "
                f"they are {mean} and {std}."
            )
        self._session = _session(self.path)

    def predict(self, photo: Photo, size: tuple[int, int] | None = None) -> ClassMap:
        """The class of each pixel; see `Segmenter.predict`.

        Raises:
            ImageError: The photo does not suit `photo_spec`.
            SegmenterError: The file gives something else than scores of at least as many classes.
        """
        x = photo_tensor(photo, self.photo_spec)
        size = size or (x.shape[1], x.shape[2])
        entry = self._session.get_inputs()[0]
        fixed = entry.shape[2:]
        if len(fixed) == 2 and all(isinstance(side, int) for side in fixed):
            x = images.resize(x, (fixed[0], fixed[1]), labels=False)
        value = ((x.expand(3, -1, -1) + 1) / 2 - self._mean) / self._std
        try:
            scores = np.asarray(self._session.run(None, {entry.name: value[None].numpy()})[0])
        except Exception as error:  # the runtime's own exceptions have no common base
            reason = str(error).splitlines()[0]
            raise SegmenterError(
                f"{self.path}: cannot be run on a photo (1, 3, {x.shape[1]}, {x.shape[2]}) of float32 "
                f"({reason}); export it with the input (N, 3, H, W)."
            ) from error
        count = len(self.label_spec.palette)
        if scores.ndim != 4 or scores.shape[1] < count or scores.dtype.kind != "f":
            raise SegmenterError(
                f"{self.path}: gives {scores.dtype.name} values of shape {scores.shape}, but the palette has "
                f"{count} classes; it must give scores (N, {count}, H, W)."
            )
        logits = resized_logits(torch.from_numpy(scores[0].astype(np.float32)), size, self.ignored)
        index: ClassMap = logits.argmax(dim=0).numpy()
        return index

    def words(self) -> str:
        """What it is, in one line."""
        return f"{self.path.name}, {len(self.label_spec.palette)} classes"


def _session(path: Path) -> Any:
    if not path.exists():
        raise SegmenterError(f"{path}: there is no such file.")
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise SegmenterError(
            f"{path}: an ONNX segmenter needs the package onnxruntime, which is not installed; "
            "run: pip install onnxruntime"
        ) from error
    try:
        return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base
        raise SegmenterError(f"{path}: is not an ONNX model that onnxruntime can read.") from error


def load_segmenter(
    path: str | Path, palette: str | Path | None = None, *, device: str = "auto"
) -> PixelClassifier:
    """A segmenter from a file: one of ours, or somebody's own .onnx with a palette of its classes.

    Raises:
        SegmenterError: An .onnx file without a palette, or the reverse.
        CheckpointError: The file is none of ours.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        if palette is not None:
            raise SegmenterError(
                f"{path}: knows its classes, so the palette {palette} is not used; leave it out."
            )
        return Segmenter.load(path, device=device)
    if palette is None:
        raise SegmenterError(
            f"{path}: an .onnx segmenter does not say what its classes are; give a palette, a text file with "
            "one class a line, `r,g,b[,name]`, in the order of its scores."
        )
    return OnnxSegmenter(path, read_label_spec(palette))
