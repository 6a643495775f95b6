"""Translator: load a model once, call it on any image of any size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pairloom import checkpoint as checkpoints
from pairloom import config as configs
from pairloom import images, noise
from pairloom.checkpoint import CheckpointError
from pairloom.config import Config
from pairloom.devices import pick_device
from pairloom.images import Array, ImageError, ImageSpec
from pairloom.networks import Generator, NormStats, build_generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Semantics:
    """How the generator is run at inference (Section 3.3); saved with the weights."""

    norm_stats: NormStats = "image"
    """Whose statistics batch norm uses: each image's own, the training averages, or the batch's."""
    dropout: bool = True
    """Is dropout, the paper's z, on? Its mask follows from a seed."""

    @classmethod
    def as_trained(cls, config: Config) -> Semantics:
        """The image's own statistics after training at batch size 1, else the averages; z as trained."""
        norm_stats: NormStats = "image" if config.training.batch_size == 1 else "running"
        return cls(norm_stats=norm_stats, dropout=config.generator.noise != "none")


@dataclass(frozen=True, slots=True)
class Samples:
    """Several translations of one image, each with its own z."""

    images: Array
    """(S, H, W, C) in the target's dtype."""
    mean: Array
    """(H, W, C) in the target's dtype."""
    spread: Array
    """(H, W, C) float32: standard deviation over the samples, in the target's units."""


class Translator:
    """A generator with everything needed to use it.

    Attributes:
        generator: In eval mode, on `device`.
        source_spec: What it takes.
        target_spec: What it gives.
        semantics: How it is run.
        config: How it was trained.
        provenance: Where it came from.
        device: Where it runs.
    """

    def __init__(
        self,
        generator: Generator,
        source_spec: ImageSpec,
        target_spec: ImageSpec,
        config: Config,
        *,
        semantics: Semantics | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.generator = generator.eval()
        self.source_spec, self.target_spec, self.config = source_spec, target_spec, config
        self.semantics = semantics or Semantics.as_trained(config)
        self.provenance = provenance or {}
        self.device = next(generator.parameters()).device
        generator.set_norm_stats(self.semantics.norm_stats)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        checkpoint: Literal["last", "best"] = "last",
        device: str = "auto",
        norm_stats: NormStats | None = None,
        dropout: bool | None = None,
    ) -> Translator:
        """From a run directory, a generator.safetensors, or one of its checkpoints.

        Args:
            path: Where the model is.
            checkpoint: Of a run directory: the last step, or the one with the best validation.
            device: auto, cpu, cuda, cuda:1, mps.
            norm_stats: Instead of the saved choice.
            dropout: Instead of the saved choice.

        Raises:
            CheckpointError: No model there, a damaged file, or one from somewhere else.
            DeviceError: No such device.
        """
        weights, metadata, file = _find(Path(path), checkpoint)
        if metadata.get("network") != "generator":
            raise CheckpointError(
                f"{file}: is a {metadata.get('network')}, which cannot translate; give generator.safetensors."
            )
        try:
            config = configs.from_dict(metadata["config"], where=str(file))
            source_spec = ImageSpec.from_dict(metadata["source_spec"])
            target_spec = ImageSpec.from_dict(metadata["target_spec"])
            semantics = Semantics(**metadata["semantics"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: its description of the model is incomplete ({error}).") from error
        generator = build_generator(config.generator)
        full = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
        checkpoints.fill(generator, full, file)
        if norm_stats is not None:
            semantics = replace(semantics, norm_stats=norm_stats)
        if dropout is not None:
            semantics = replace(semantics, dropout=dropout)
        return cls(
            generator.requires_grad_(False).to(pick_device(device)),
            source_spec,
            target_spec,
            config,
            semantics=semantics,
            provenance=metadata.get("provenance", {}),
        )

    def describe(self) -> dict[str, Any]:
        """Everything about the model but its weights, as plain JSON: what `load` needs beside them."""
        return {
            "network": "generator",
            "config": configs.to_dict(self.config),
            "source_spec": self.source_spec.to_dict(),
            "target_spec": self.target_spec.to_dict(),
            "semantics": asdict(self.semantics),
            "provenance": self.provenance,
        }

    def translate_tensor(self, x: Tensor, *, seed: int = 0, sample: int = 0) -> Tensor:
        """Translate tensors of any size.

        Args:
            x: Source images in [-1, 1].
            seed: Of z, where the model has one.
            sample: Which draw of z.

        Shapes: (N, C, H, W), H and W from 1 -> (N, C', H, W).
        Units: [-1, 1], float32, on `device`.
        """
        height, width = x.shape[-2:]
        key = noise.key(seed, sample) if self.semantics.dropout else None
        assert not self.generator.training, "inference never drops by torch's RNG nor moves running averages"
        with torch.inference_mode():
            padded = reflect_to_multiple(x.to(self.device, torch.float32), self.generator.stride)
            y_hat: Tensor = self.generator(padded, key)
        return y_hat[..., :height, :width]

    def __call__(self, image: Array | str | Path | Image.Image, *, seed: int = 0) -> Array:
        """Translate one image.

        Args:
            image: An (H, W, C) or (H, W) array of the source's dtype and range, a file, or a PIL image.
            seed: Of z.

        Shapes: -> (H, W, C') in the target's dtype and range.

        Raises:
            ImageError: The image is not of the kind that the model was trained on.
        """
        return self.translate_batch([image], seed=seed)[0]

    def translate_batch(
        self, batch: Sequence[Array | str | Path | Image.Image], *, seed: int = 0
    ) -> list[Array]:
        """Translate images of one size in one pass; each result is what the image alone would give.

        (Except with norm_stats="batch", the paper's literal test mode, where neighbours share statistics.)
        """
        x = torch.stack([images.to_tensor(self._array(image), self.source_spec) for image in batch])
        return [
            images.to_array(y_hat, self.target_spec) for y_hat in self.translate_tensor(x, seed=seed).cpu()
        ]

    def samples(self, image: Array | str | Path | Image.Image, count: int, *, seed: int = 0) -> Samples:
        """Translate one image `count` times, each with another z. The spread is small: the paper says so too.

        Raises:
            ValueError: The count is below 1.
        """
        if count < 1:
            raise ValueError(f"samples is {count}; it must be 1 or more.")
        x = images.to_tensor(self._array(image), self.source_spec).unsqueeze(0)
        outputs = [self.translate_tensor(x, seed=seed, sample=s).cpu()[0] for s in range(count)]
        arrays = np.stack([images.to_array(y_hat, self.target_spec) for y_hat in outputs])
        mean = images.to_array(torch.stack(outputs).mean(0), self.target_spec)
        return Samples(arrays, mean, arrays.astype(np.float32).std(axis=0))

    def _array(self, image: Array | str | Path | Image.Image) -> Array:
        if isinstance(image, str | Path):
            spec = self.source_spec
            return images.read_image(image, alpha=spec.alpha, page_axis=spec.page_axis)
        if isinstance(image, Image.Image) and image.mode in ("1", "P"):
            # As from a file: white is 255, and the numbers of a palette are not intensities.
            image = image.convert("L" if image.mode == "1" else "RGB")
        array = np.asarray(image)
        return array[..., None] if array.ndim == 2 else array


def reflect_to_multiple(x: Tensor, stride: int) -> Tensor:
    """Extend right and bottom to multiples of `stride`, by reflection repeated as often as needed.

    Shapes: (..., H, W), H and W from 1 -> (..., H', W').
    """
    for dim in (-2, -1):
        side = x.shape[dim]
        total = -(-side // stride) * stride
        if total != side:
            # A triangle wave 0 1 2 1 0 1 2 ...: F.pad refuses a pad as wide as the side.
            period = max(2 * (side - 1), 1)
            wave = torch.arange(total, device=x.device) % period
            x = x.index_select(
                dim, torch.minimum(wave, (period - wave) % period if side == 1 else period - wave)
            )
    return x


def _find(path: Path, checkpoint: str) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """Weights, metadata and the file they came from."""
    if path.is_dir():
        folder = path / "checkpoints"
        if checkpoint == "best":
            step = checkpoints.best_step(folder)
            if step is None:
                raise CheckpointError(
                    f"{path}: has no best checkpoint; it was trained without validation pairs."
                )
            return _from_state(folder / f"step-{step:08d}.pt")
        last = checkpoints.steps(folder)[-1:]
        file = path / "generator.safetensors"
        if file.exists():
            weights, metadata = checkpoints.load_weights(file)
            # A run that was killed after it had been resumed has a newer checkpoint than published weights.
            if not last or metadata.get("provenance", {}).get("step", last[0]) >= last[0]:
                return weights, metadata, file
        if not last:
            raise CheckpointError(
                f"{path}: holds no trained model; give a run directory or a generator.safetensors."
            )
        return _from_state(folder / f"step-{last[0]:08d}.pt")
    if path.suffix == ".pt" and path.exists():
        return _from_state(path)
    return *checkpoints.load_weights(path), path


def _from_state(file: Path) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    state = checkpoints.load_state(file)
    return state["ema"] or state["generator"], json.loads(state["model"]), file


# ------------------------------------------------------------------------------------------------------------
# Files


def find_images(inputs: Iterable[str | Path]) -> list[tuple[Path, Path]]:
    """(file, name under the output folder) for each image in files and folders, folders searched in depth.

    Raises:
        ImageError: A path is missing, or a folder holds no images.
    """
    found: list[tuple[Path, Path]] = []
    for given in map(Path, inputs):
        if given.is_dir():
            inside = sorted(
                p for p in given.rglob("*") if p.suffix.lower() in images.SUFFIXES and p.is_file()
            )
            inside = [
                p for p in inside if not any(part.startswith(".") for part in p.relative_to(given).parts)
            ]
            if not inside:
                kinds = " ".join(sorted(images.SUFFIXES))
                raise ImageError(f"{given}: the folder holds no images ({kinds}).")
            found += [(p, p.relative_to(given)) for p in inside]
        elif given.exists():
            found.append((given, Path(given.name)))
        else:
            raise ImageError(f"{given}: there is no such file or folder.")
    return found


def scale_hint(translator: Translator, file: Path) -> str | None:
    """A sentence when an image is of quite another scale than the model's training crops; else None."""
    data = translator.config.data
    crop = configs.height_width(data.crop_size)
    try:
        shape = images.image_shape(file)
    except ImageError:  # it will be reported when its turn comes
        return None
    ratio = max(a / b for a, b in zip(shape, crop, strict=True))
    if data.resize == "shorter":
        ratio = min(shape) / min(crop)
    if data.resize == "none" or 1 / 1.5 < ratio < 1.5:
        return None
    return (
        f"Note: {file} is {shape[1]}x{shape[0]} pixels, and the model was trained on pairs resized to about "
        f"{crop[1]}x{crop[0]}; --scale training translates at that scale and keeps the image's size."
    )


def translate_files(
    translator: Translator,
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 1,
    scale: Literal["native", "training"] = "native",
) -> Iterator[Path]:
    """Translate files and folders into `out`, yielding each file as it is written.

    Size and name follow the source; dtype, range and channels the target. A container that cannot hold that
    losslessly is replaced: PNG, else TIFF. With several samples, NAME-1, NAME-2, ..., NAME-mean, and
    NAME-spread, a float32 TIFF in the target's units. A file that cannot be read does not stop the others.

    Args:
        translator: The model.
        inputs: Files and folders.
        out: A folder; made if absent.
        seed: Of z.
        samples: Translations of each image.
        batch_size: Images of one size translated together.
        scale: native, at the image's own pixels; training, resized as the training pairs were and back again.

    Raises:
        ValueError: samples or batch_size is below 1.
        ImageError: Before the first: two results would have one name. After all others are done: which files
            could not be translated, and why.
    """
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")
    out = Path(out)
    work = [(file, out / _result_name(name, translator.target_spec)) for file, name in find_images(inputs)]
    _refuse_collisions(work)
    faults: list[str] = []
    waiting: list[tuple[Array, Path]] = []

    def flush() -> Iterator[Path]:
        if waiting:
            x = torch.stack([images.to_tensor(array, translator.source_spec) for array, _ in waiting])
            for name, tensors in _draws(translator, x, samples, seed, scale):
                for (_, path), tensor in zip(waiting, tensors, strict=True):
                    yield _write(path, name, tensor, translator.target_spec)
            waiting.clear()

    for file, path in work:
        try:
            array = translator._array(file)
            images.to_tensor(array[:1, :1], translator.source_spec)  # the right dtype and channels?
        except ImageError as error:
            faults.append(str(error) if str(file) in str(error) else f"{file}: {error}")
            continue
        if waiting and (len(waiting) == batch_size or waiting[0][0].shape != array.shape):
            yield from flush()
        waiting.append((array, path))
    yield from flush()
    if faults:
        others = (
            f" ({len(faults) - 1} more files like it: {'; '.join(faults[1:4])})" if len(faults) > 1 else ""
        )
        done = len(work) - len(faults)
        rest = f" The other {done} of {len(work)} images were translated." if done else ""
        raise ImageError(f"{faults[0]}{others}{rest}")


def _draws(
    translator: Translator, x: Tensor, samples: int, seed: int, scale: str
) -> Iterator[tuple[str, Tensor]]:
    """(name suffix, (N, C, H, W) tensors on [-1, 1]): each sample; of several, also their mean and spread."""
    outputs = []
    for sample in range(samples):
        y_hat = _at_scale(translator, x, scale, seed=seed, sample=sample).cpu()
        yield (f"-{sample + 1}" if samples > 1 else ""), y_hat
        if samples > 1:
            outputs.append(y_hat)
    if samples > 1:
        yield "-mean", torch.stack(outputs).mean(0)
        yield "-spread", torch.stack(outputs).std(0, correction=0)


def _at_scale(translator: Translator, x: Tensor, scale: str, *, seed: int, sample: int) -> Tensor:
    height, width = x.shape[-2:]
    data = translator.config.data
    if scale == "native" or data.resize == "none":
        return translator.translate_tensor(x, seed=seed, sample=sample)
    side = configs.height_width(data.crop_size)
    if data.resize == "shorter":
        ratio = min(side) / min(height, width)
        side = (max(round(height * ratio), 1), max(round(width * ratio), 1))
    resized = images.resize(x, side, labels=translator.source_spec.kind == "labels")
    y_hat = translator.translate_tensor(resized, seed=seed, sample=sample)
    return images.resize(y_hat, (height, width), labels=translator.target_spec.kind == "labels")


def _result_name(name: Path, spec: ImageSpec) -> Path:
    return name.with_suffix(images.output_suffix(name.suffix, spec))


def _refuse_collisions(work: list[tuple[Path, Path]]) -> None:
    first: dict[Path, Path] = {}
    for file, path in work:
        if path in first:
            raise ImageError(
                f"{file} and {first[path]}: both would be written to {path}; translate them separately."
            )
        if path.resolve() == file.resolve():
            raise ImageError(f"{file}: its translation would overwrite it; choose another --out.")
        first[path] = file


def _write(path: Path, suffix: str, tensor: Tensor, spec: ImageSpec) -> Path:
    path = path.with_name(f"{path.stem}{suffix}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"{path.parent}: cannot be made ({error.strerror}); choose another --out."
        ) from error
    if suffix == "-spread":
        # A standard deviation has a scale but no offset, and no place in an 8-bit range: float32 TIFF.
        # (Of one-hot classes it has no unit at all.)
        low, high = (np.asarray(limits, np.float32) for limits in (spec.low, spec.high))
        scale = np.float32(1) if spec.one_hot else (high - low) / 2
        path = path.with_suffix(".tif")
        images.write_image(path, tensor.permute(1, 2, 0).numpy() * scale)
    else:
        images.write_image(path, images.to_array(tensor, spec))
    return path
