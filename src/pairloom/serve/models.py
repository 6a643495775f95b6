"""The models that are served: loaded once, described for whoever draws, and run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pairloom import checkpoint as checkpoints
from pairloom import hub, images, pictures
from pairloom.config import height_width
from pairloom.devices import pick_device
from pairloom.evaluation.patches import patch_map
from pairloom.images import Array, ImageSpec
from pairloom.networks import Discriminator, build_discriminator
from pairloom.onnx_generator import SUFFIX
from pairloom.pictures import Rgb
from pairloom.serve.colours import Palette, palette_for
from pairloom.serve.examples import find_examples
from pairloom.serve.refusals import ServeFault
from pairloom.translator import Samples, Translator


@dataclass(frozen=True, slots=True)
class Translated:
    """What a model made of one image."""

    samples: Samples
    pictures: tuple[Rgb, ...]
    """The samples for the eye."""
    mean: Rgb
    spread: Rgb
    """Standard deviation over the samples, scaled so that the largest is white; black where there is none."""
    patches: np.ndarray | None
    """(h, w): how real D finds each patch, 0 generated, 1 real; None: not asked for, or there is no room."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model."""

    name: str
    translator: Translator
    discriminator: Discriminator | None
    palette: Palette
    examples: tuple[Rgb, ...]

    @property
    def draws_noise(self) -> bool:
        """Do two seeds give two outputs?"""
        noise = self.translator.config.generator.noise
        return noise == "gaussian" or (noise == "dropout" and self.translator.semantics.dropout)

    def translate(self, image: Array, *, seed: int, samples: int, patches: bool) -> Translated:
        """Run the model; the samples are those of `Translator.samples`.

        Shapes: image (H, W, C).
        Units: file values of the source.

        Raises:
            ImageError: The image is not of the kind that the model was trained on.
        """
        t = self.translator
        image = t.pixels(image)
        valid = images.valid_pixels(image)
        x = images.to_tensor(image, t.source_spec).unsqueeze(0)
        outputs = torch.cat([t.translate_tensor(x, seed=seed, sample=s).cpu() for s in range(samples)])
        found, spec = images.recombined(outputs, x, t.target_spec)
        made = Samples.of(found, spec).without(valid)
        counting = None if valid.all() else torch.from_numpy(valid)[None]
        return Translated(
            samples=made,
            pictures=tuple(pictures.preview(y_hat, spec, counting) for y_hat in found),
            mean=pictures.preview(found.mean(0), spec, counting),
            spread=_spread_picture(made.spread),
            patches=self._patches(x, outputs[:1]) if patches else None,
        )

    def _patches(self, x: Tensor, y_hat: Tensor) -> np.ndarray | None:
        d = self.discriminator
        if d is None or min(x.shape[-2:]) < least_side(d.windows):
            return None
        device = next(d.parameters()).device
        with torch.inference_mode():
            logits = d(x.to(device), y_hat.to(device)).cpu()
        return patch_map(logits, self.translator.config.objective.gan_mode)

    def describe(self) -> dict[str, Any]:
        """For `/api/models`: what a page, or a program, must know to use the model."""
        t = self.translator
        height, width = height_width(t.config.data.crop_size)
        d = self.discriminator
        return {
            "name": self.name,
            "source": {"words": t.source_spec.words(), "spec": t.source_spec.to_dict()},
            "target": {"words": t.target_spec.words(), "spec": t.target_spec.to_dict()},
            "semantics": asdict(t.semantics),
            "trained": {
                "height": height,
                "width": width,
                "step": t.provenance.get("step"),
                "base_channels": t.config.generator.base_channels,
            },
            "manner": self.palette.manner,
            "palette": [{"name": c.name, "rgb": list(c.rgb)} for c in self.palette.colours],
            "background": list(self.palette.background),
            "examples": len(self.examples),
            "noise": self.draws_noise,
            "patches": None if d is None else {**patch_geometry(d.windows), "field": d.receptive_field},
            "is_picture": is_picture(t.target_spec),
        }


def least_side(windows: Iterable[tuple[int, int]]) -> int:
    """Pixels: the smallest image of which D makes a logit; two at least, as it takes statistics over them."""
    side = 1
    for kernel, stride in reversed(list(windows)):
        side = (side - 1) * stride + kernel - 2 * (kernel > 1)
    return max(side, 2)


def patch_geometry(windows: Iterable[tuple[int, int]]) -> dict[str, float]:
    """Where patches lie: pixel of the first one's centre, and pixels from one to the next.

    Source: `evaluation.patches.nearest_patch`.
    """
    centre, jump = 0.0, 1
    for kernel, stride in windows:
        centre += ((kernel - 1) / 2 - (kernel > 1)) * jump
        jump *= stride
    return {"centre": centre, "jump": jump}


def is_picture(spec: ImageSpec) -> bool:
    """Is what is shown of an output all of it? Else a file holds more than the eye sees."""
    spec = spec.file_spec
    full = set(spec.low) == {0.0} and set(spec.high) == {255.0}  # another range is stretched to be seen
    return spec.dtype == "uint8" and spec.channels in (1, 3) and full


def _spread_picture(spread: Array) -> Rgb:
    values = np.nan_to_num(spread.astype(np.float64).mean(axis=2))
    most = float(values.max()) or 1.0
    grey = np.rint(values / most * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def load_models(
    paths: Iterable[str], *, checkpoint: Literal["last", "best"] = "last", device: str = "auto"
) -> dict[str, Served]:
    """Load models, each under a name of its own: NAME=PATH, else the run directory's name.

    Args:
        paths: What `Translator.load` takes: run directories, weights, exported .onnx files, hf://owner/name.
        checkpoint: Of run directories.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises:
        ServeFault: None is given, or two have the same given name.
        CheckpointError: There is no model, or it is damaged.
    """
    found: dict[str, Served] = {}
    for given in paths:
        name, path = name_and_path(given)
        if name in found:
            raise ServeFault(f"Two models are named {name!r}; name them: one={path} other=PATH.")
        found[name] = _load(name, path, checkpoint, device)
    if not found:
        raise ServeFault("serve: give a run directory, or the weights of a model.")
    return found


def name_and_path(given: str) -> tuple[str, str]:
    """Of a model as it is given: NAME=PATH, else the run directory's own name."""
    named = re.fullmatch(r"([\w.+-]{1,64})=(.+)", given)
    if named and not Path(given).exists():
        return named[1], named[2]
    if given.startswith("hf://"):
        return given.removeprefix("hf://").partition("@")[0].rpartition("/")[2], given
    path = Path(given).resolve()
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    return re.sub(r"[^\w.+-]", "-", folder.name)[:64] or "model", given


def _load(name: str, given: str, checkpoint: Literal["last", "best"], device: str) -> Served:
    translator = Translator.load(given, checkpoint=checkpoint, device=device)
    path = hub.resolve(given)
    examples = find_examples(path, translator.config)
    palette = palette_for(translator.source_spec, translator.config, examples)
    return Served(name, translator, _discriminator(path, checkpoint, device), palette, examples)


def _discriminator(path: Path, checkpoint: Literal["last", "best"], device: str) -> Discriminator | None:
    """D of the same moment as G; of a file of weights the D that lies beside it, of an export none."""
    if path.suffix.lower() == SUFFIX:
        return None
    if path.suffix == ".safetensors":
        path = path.with_name("discriminator.safetensors")
        if not path.exists():
            return None
    saved = checkpoints.find_network(path, "discriminator", checkpoint)
    if saved is None:
        return None
    config = saved.config()
    net = build_discriminator(config.discriminator, *config.generator.channels)
    checkpoints.fill(net, saved.weights, saved.file)
    return net.to(pick_device(device)).eval().requires_grad_(False)
