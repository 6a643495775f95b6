"""Translator: load a model once, call it on any image of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from pairloom import checkpoint as checkpoints
from pairloom import configfile, hub, images, inference, noise
from pairloom.checkpoint import CheckpointError
from pairloom.config import Config
from pairloom.described import specs_of
from pairloom.devices import pick_device
from pairloom.images import Array, ImageError, ImageSpec
from pairloom.networks import Generator, NormStats, build_generator
from pairloom.onnx_generator import SUFFIX, OnnxGenerator
from pairloom.pixels import Alpha, leave_out, over_white
from pairloom.plain import record


@dataclass(frozen=True, kw_only=True, slots=True)
class Semantics:
    """How the generator is run at inference (Section 3.3); saved with the weights."""

    norm_stats: NormStats = "image"
    """Whose statistics batch norm uses: each image's own, the training averages, or the batch's."""
    dropout: bool = True
    """Is dropout, the paper's z, on? Its mask follows from a seed."""

    @classmethod
    def as_trained(cls, config: Config, processes: int = 1) -> Semantics:
        """The image's own statistics after training on one at a time, else the averages; z as trained.

        Of a batch that several processes shared, each normalised its own share, unless synchronised.
        """
        together = config.training.batch_size // (1 if config.training.sync_batch_norm else processes)
        norm_stats: NormStats = "image" if together == 1 else "running"
        return cls(norm_stats=norm_stats, dropout=config.generator.noise != "none")


@dataclass(frozen=True, slots=True)
class Samples:
    """Several translations of one image, each with its own z."""

    images: Array
    """(S, H, W, C) in the target's dtype."""
    mean: Array
    """(H, W, C) in the target's dtype."""
    spread: Array
    """(H, W, C) float32: standard deviation over the samples, before they are rounded, in the target's units.

    Of a label map: of the colours' values before they snap to the palette; with one_hot, of the classes'
    scores on [-1, 1], one channel a class.
    """

    @classmethod
    def of(cls, outputs: Tensor, spec: ImageSpec) -> Samples:
        """The samples that a generator gave, ab recombined. Shapes: outputs (S, C, H, W) on [-1, 1]."""
        # A standard deviation has a scale but no offset, and no place in an 8-bit range.
        low, high = (np.asarray(limits, np.float32) for limits in (spec.low, spec.high))
        scale = np.float32(1) if spec.one_hot else (high - low) / 2
        arrays = np.stack([images.to_array(y_hat, spec) for y_hat in outputs])
        if len(outputs) == 1:  # most are: torch takes as long for this deviation as for the network
            return cls(arrays, arrays[0], np.zeros(outputs[0].shape, np.float32).transpose(1, 2, 0))
        spread = outputs.std(0, correction=0).permute(1, 2, 0).numpy() * scale
        return cls(arrays, images.to_array(outputs.mean(0), spec), spread)

    def without(self, valid: npt.NDArray[np.bool_]) -> Samples:
        """The same, NaN where the source is (the spread always, as it is float32). Shapes: valid (H, W)."""
        if valid.all():
            return self
        return Samples(*(leave_out(array, valid) for array in (self.images, self.mean, self.spread)))

    def named(self) -> Iterator[tuple[str, Array]]:
        """What follows the name of each one's file, and its pixels: a single sample goes without."""
        if len(self.images) == 1:
            yield "", self.images[0]
            return
        yield from ((f"-{number}", image) for number, image in enumerate(self.images, 1))
        yield "-mean", self.mean
        yield "-spread", self.spread


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
        precision: Of the arithmetic, "fp32" or "bf16"; None: the generator runs as it is, also while its
            weights move.
    """

    def __init__(
        self,
        generator: Generator | OnnxGenerator,
        source_spec: ImageSpec,
        target_spec: ImageSpec,
        config: Config,
        *,
        semantics: Semantics | None = None,
        provenance: dict[str, Any] | None = None,
        precision: inference.Precision | None = None,
    ) -> None:
        self.generator: Generator | OnnxGenerator = generator.eval()
        self.source_spec, self.target_spec, self.config = source_spec, target_spec, config
        self.semantics = semantics or Semantics.as_trained(config)
        self.provenance = provenance or {}
        self.device: torch.device = (
            generator.device if isinstance(generator, OnnxGenerator) else next(generator.parameters()).device
        )
        generator.set_norm_stats(self.semantics.norm_stats)
        self.precision = precision
        self._prepared: inference.Prepared | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        checkpoint: Literal["last", "best"] = "last",
        device: str = "auto",
        norm_stats: NormStats | None = None,
        dropout: bool | None = None,
        precision: inference.Asked = "auto",
    ) -> Translator:
        """From a run directory, a generator.safetensors, a checkpoint, an exported .onnx, or hf://owner/name.

        Args:
            path: Where the model is.
            checkpoint: Of a run directory: the last step, or the one with the best validation.
            device: auto, cpu, cuda, cuda:1, mps; of an .onnx file: auto or cpu (onnxruntime), openvino,
                openvino:bf16.
            norm_stats: Instead of the saved choice; of an .onnx file only what was written.
            dropout: Instead of the saved choice; of an .onnx file on only if it was written with its noise.
            precision: fp32, bf16, or auto: bf16 for 8-bit images on a CPU that multiplies it faster. Of an
                .onnx file the device says it. By tiles it is always fp32.

        Raises:
            ValueError: No such precision, or an .onnx file asked for in bf16.
            CheckpointError: No model there, a damaged file, or one from somewhere else.
            DeviceError: No such device.
        """
        found = hub.resolve(path)
        if found.suffix.lower() == ".pt2":
            raise CheckpointError(
                f"{path}: is for other programs, as loading a .pt2 file may run what it holds; give the run "
                "directory, or export it as .onnx."
            )
        exported = OnnxGenerator.load(found, device) if found.suffix.lower() == SUFFIX else None
        saved = exported.saved if exported else checkpoints.find_network(found, "generator", checkpoint)
        if saved is None:
            raise CheckpointError(
                f"{path}: holds no trained model; give a run directory or a generator.safetensors."
            )
        config, described = saved.config(), saved.description
        source_spec, target_spec = specs_of(saved)
        if "semantics" not in described:
            raise saved.incomplete("'semantics'")
        try:
            semantics = record(Semantics, described["semantics"])
        except ValueError as error:
            raise saved.wrong("semantics", error) from error
        if exported is None:
            net = build_generator(config.generator)
            checkpoints.fill(net, saved.weights, saved.file)
            net.requires_grad_(False).to(pick_device(device))
        elif dropout:
            exported.check_dropout()
        chosen = None
        if exported is None:
            chosen = inference.choose(precision, next(net.parameters()).device, target_spec)
        elif precision == "bf16":
            raise ValueError(
                f"{path}: precision=bf16 is not for .onnx files, which run as they were written; choose the "
                "device openvino:bf16, or give the run directory."
            )
        if norm_stats is not None:
            semantics = replace(semantics, norm_stats=norm_stats)
        if dropout is not None:
            semantics = replace(semantics, dropout=dropout)
        return cls(
            exported or net,
            source_spec,
            target_spec,
            config,
            semantics=semantics,
            provenance=described.get("provenance", {}),
            precision=chosen,
        )

    def describe(self) -> dict[str, Any]:
        """Everything about the model but its weights, as plain JSON: what `load` needs beside them."""
        return {
            "network": "generator",
            "config": configfile.to_dict(self.config),
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
            y_hat: Tensor = self._network()(padded, key)
        return y_hat[..., :height, :width]

    def _network(self) -> nn.Module:
        """What runs: the generator, or what was made of it when it was first needed."""
        if self.precision is None or isinstance(self.generator, OnnxGenerator):
            return self.generator
        if self._prepared is None:
            if not inference.can_prepare(self.generator):
                return self.generator
            self._prepared = inference.Prepared(self.generator, self.precision)
        return self._prepared

    def __call__(self, image: Array | str | Path | Image.Image, *, seed: int = 0) -> Array:
        """Translate one image, in one piece whatever its size; see `large.translate_large` for others.

        Args:
            image: An (H, W, C) or (H, W) array of the source's dtype and range, a file, or a PIL image.
            seed: Of z.

        Where a source of float32 is NaN, the network sees 0, the middle of its range, and a float32 output is
        NaN; outputs of integers hold what the network made.

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

        Raises:
            ImageError: An image is not of the kind that the model was trained on, or of another size.
        """
        if not batch:
            return []
        arrays = [self.pixels(image) for image in batch]
        tensors = [images.to_tensor(array, self.source_spec) for array in arrays]
        if len(sizes := {(t.shape[2], t.shape[1]) for t in tensors}) > 1:
            listed = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
            raise ImageError(
                f"A batch holds images of one size, but these have {listed} pixels; translate each by itself."
            )
        x = torch.stack(tensors)
        outputs, spec = images.recombined(self.translate_tensor(x, seed=seed).cpu(), x, self.target_spec)
        made = [images.to_array(y_hat, spec) for y_hat in outputs]
        return [leave_out(y_hat, images.valid_pixels(x)) for y_hat, x in zip(made, arrays, strict=True)]

    def samples(self, image: Array | str | Path | Image.Image, count: int, *, seed: int = 0) -> Samples:
        """Translate one image `count` times, each with another z. The spread is small: the paper says so too.

        Raises:
            ValueError: The count is below 1.
        """
        if count < 1:
            raise ValueError(f"samples is {count}; it must be 1 or more.")
        array = self.pixels(image)
        x = images.to_tensor(array, self.source_spec).unsqueeze(0)
        outputs = [self.translate_tensor(x, seed=seed, sample=s).cpu()[0] for s in range(count)]
        whole, spec = images.recombined(torch.stack(outputs), x, self.target_spec)
        return Samples.of(whole, spec).without(images.valid_pixels(array))

    def pixels(self, image: Array | str | Path | Image.Image) -> Array:
        """What `__call__` takes, as (H, W, C) file values; a PIL image as its file would be read."""
        array = self._pixels(image)
        if array.ndim == 3 and array.size and not images.valid_pixels(array).any():
            name = image if isinstance(image, str | Path) else "The image"
            raise ImageError(
                f"{name}: all its pixels are NaN, so there is nothing to translate; leave it out."
            )
        return array

    def read(self, path: str | Path, *, flat: bool = False) -> Array:
        """The values of a source in a file: of its channels those that the model was trained on.

        Args:
            path: The file.
            flat: It holds one image, also where the sources of the training were slices of volumes.

        Shapes: -> (H, W, C).
        Units: file values; NaN is a pixel that counts for nothing.

        Raises:
            ImageError: The file cannot be read.
        """
        spec = self.source_spec
        part = replace(spec.part, axis="auto") if flat else spec.part
        return images.read_image(path, alpha=spec.alpha, page_axis=spec.page_axis, part=part, nan="keep")

    def _pixels(self, image: Array | str | Path | Image.Image) -> Array:
        if isinstance(image, str | Path):
            return self.read(image)
        if isinstance(image, Image.Image):
            return _pillow_pixels(image, self.source_spec.alpha)
        array = np.asarray(image)
        return array[..., None] if array.ndim == 2 else array


def _pillow_pixels(image: Image.Image, alpha: Alpha) -> Array:
    """Upright, alpha over white or kept, and a palette's colours instead of its numbers."""
    image = ImageOps.exif_transpose(image)
    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if not image.mode.startswith(("I", "F")):  # these are amounts of 16 bits and more: as they are
        grey = image.mode in ("1", "L", "LA")
        image = image.convert(("L" if grey else "RGB") + ("A" if transparent else ""))
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if transparent and alpha == "white":
        return over_white(array, array.shape[2] - 1, premultiplied=False)
    return array


def reflect_to_multiple(x: Tensor, stride: int) -> Tensor:
    """Extend right and bottom to multiples of `stride`, by reflection.

    Shapes: (..., H, W), H and W from 1 -> (..., H', W').
    """
    height, width = (-(-side // stride) * stride for side in x.shape[-2:])
    return images.reflect_to(x, height, width)
