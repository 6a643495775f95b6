"""Translating volumes: every slice, and one file again, with the place and the voxels of the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pairloom import config as configs
from pairloom import images
from pairloom.images import Array, ImageError, ImageSpec
from pairloom.stacks.opening import is_stack, open_stack
from pairloom.stacks.suffixes import stem_of, suffix_of
from pairloom.stacks.writing import volume_suffix as suffix
from pairloom.stacks.writing import write_volume
from pairloom.translator import Samples, Translator
from pairloom.validity import known_part

__all__ = ["at_scale", "is_volume", "make_folder", "suffix", "translate_volume"]


def is_volume(path: Path, translator: Translator) -> bool:
    """Whether a model's source file is a stack, also of a single plane: its container is kept."""
    spec = translator.source_spec
    first_page = spec.page_axis == "first" and path.suffix.lower() in images.FORMATS
    return is_stack(path, spec.slice_axis) and not first_page


def translate_volume(
    translator: Translator,
    file: Path,
    path: Path,
    *,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 1,
    scale: str = "native",
) -> Iterator[Path]:
    """Translate each slice of a file and write one volume like it, yielding what is written.

    The whole output is held in memory.

    Args:
        translator: The model.
        file: The source, a stack.
        path: Where the output goes; further samples, mean and spread beside it, with endings.
        seed: Of z; the same for all slices.
        samples: Translations of each slice.
        batch_size: Slices translated together.
        scale: native or training; see `files.translate_files`.

    Raises:
        ImageError: The file is not of the kind that the model was trained on, is damaged, or cannot be
            written.
    """
    spec, part = translator.source_spec, translator.source_spec.part
    stack = open_stack(file, part)
    count = stack.count(part.axis)
    made: dict[str, Array] = {}
    for start in tqdm(range(0, count, batch_size), desc=file.name, unit="slice", disable=None, leave=False):
        numbers = range(start, min(start + batch_size, count))
        slices = [_slice(file, spec, number) for number in numbers]
        x = torch.stack([images.to_tensor(array, spec) for array in slices])
        valid = np.stack([images.valid_pixels(array) for array in slices])
        outputs = [at_scale(translator, x, valid, scale, seed=seed, sample=s).cpu() for s in range(samples)]
        whole, of_file = images.recombined(torch.stack(outputs), x, translator.target_spec)
        for number, of_one, where in zip(numbers, whole.unbind(1), valid, strict=True):
            for ending, plane in Samples.of(of_one, of_file).without(where).named():
                if ending not in made:
                    made[ending] = stack.empty(plane.shape[2], plane.dtype)
                stack.place(made[ending], part.axis, number, plane)
    make_folder(path.parent)
    target = translator.target_spec.file_spec
    for ending, volume in made.items():
        result = path.with_name(f"{stem_of(path.name)}{ending}{suffix_of(path)}")
        names = target.names if volume.shape[4] == len(target.names) else ()
        write_volume(result, volume, stack, names=names, limits=_limits(target, volume))
        yield result


def _slice(file: Path, spec: ImageSpec, number: int) -> Array:
    part = spec.part.of(number)
    return images.read_image(file, alpha=spec.alpha, page_axis=spec.page_axis, part=part, nan="keep")


def _limits(spec: ImageSpec, volume: Array) -> tuple[tuple[float, float], ...]:
    if volume.dtype.name == spec.dtype and volume.shape[4] == len(spec.low):
        return tuple(zip(spec.low, spec.high, strict=True))
    return tuple((float(np.nanmin(v)), float(np.nanmax(v))) for v in np.moveaxis(volume, -1, 0))


def make_folder(folder: Path) -> None:
    """A folder for results.

    Raises:
        ImageError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{folder}: cannot be made ({error.strerror}); choose another --out.") from error


def at_scale(
    translator: Translator, x: Tensor, valid: NDArray[np.bool_], scale: str, *, seed: int, sample: int
) -> Tensor:
    """Outputs at the source's own size, translated there or at the scale of the training.

    Shapes: x (N, C, H, W); valid (N, H, W): where the sources are no NaN.
    """
    height, width = x.shape[-2:]
    data = translator.config.data
    if scale == "native" or data.resize == "none":
        return translator.translate_tensor(x, seed=seed, sample=sample)
    side = configs.height_width(data.crop_size)
    if data.resize == "shorter":
        ratio = min(side) / min(height, width)
        side = (max(round(height * ratio), 1), max(round(width * ratio), 1))
    resized = images.resize(x, side, labels=translator.source_spec.kind == "labels")
    if not valid.all():
        known = torch.from_numpy(valid)[:, None].float()
        resized, _ = known_part(resized, images.resize(known, side, labels=False))
    y_hat = translator.translate_tensor(resized, seed=seed, sample=sample)
    return images.resize(y_hat, (height, width), labels=translator.target_spec.kind == "labels")
