"""`train_opt.txt` of pytorch-CycleGAN-and-pix2pix: read for what weights do not say, written beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pairloom.checkpoint import CheckpointError, write_text_atomically
from pairloom.config import Config, DataConfig, height_width

LARGEST_BYTES = 1_000_000
OLDER = {
    "which_direction": "direction",
    "which_model_netG": "netG",
    "which_model_netD": "netD",
    "loadSize": "load_size",
    "fineSize": "crop_size",
    "resize_or_crop": "preprocess",
    "batchSize": "batch_size",
}
"""What the repository's releases of 2017 and 2018 called them."""
RESIZE = {
    "resize_and_crop": "stretch",
    "scale_width_and_crop": "shorter",
    "scale_width": "shorter",
    "crop": "none",
    "none": "none",
}
"""By their `preprocess`, our `data.resize`."""


def read_options(path: Path) -> dict[str, str]:
    """The options by their newer names, as text.

    Raises:
        CheckpointError: Unreadable, or no such file of options.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise CheckpointError(
                f"{path}: is too large to be a file of options; remove it, or name another."
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as text; remove it, or name another.") from error
    options: dict[str, str] = {}
    for line in text.splitlines():
        if found := re.match(r"\s*(\w+): (.*?)\s*(\[default: .*\])?\s*$", line):
            options[OLDER.get(found[1], found[1])] = found[2]
    if not options:
        raise CheckpointError(f"{path}: holds no options (`name: value` lines); remove it, or name another.")
    return options


def flag(options: dict[str, str], name: str) -> bool | None:
    """A flag's value; None where the file does not hold it."""
    return {"True": True, "False": False}.get(options.get(name, ""))


def number(options: dict[str, str], name: str) -> int | None:
    """A whole number from 1; None where the file does not hold one."""
    text = options.get(name, "")
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,5}", text, re.ASCII) else None


def is_colorization(options: dict[str, str]) -> bool:
    """Does the model turn L into ab?"""
    return "colorization" in (options.get("model"), options.get("dataset_mode"))


def data_of(options: dict[str, str], stride: int, *, reverse: bool) -> tuple[DataConfig, list[str]]:
    """How the training images were made into tensors, and a sentence for each thing that was not taken.

    Args:
        options: As read.
        stride: Sides of the generator's images are multiples of it.
        reverse: The generator of a CycleGAN that goes the other way.
    """
    notes = []
    crop = number(options, "crop_size") or 256
    if crop % stride:
        notes.append(f"Their crop_size {crop} is no multiple of {stride}; 256 is recorded instead.")
        crop = 256
    load: int | None = number(options, "load_size") or 286
    preprocess = options.get("preprocess", "resize_and_crop")
    if preprocess not in RESIZE:
        notes.append(f"Their preprocess {preprocess!r} is not known here; resize_and_crop is recorded.")
    if preprocess.startswith("scale_width"):
        notes.append(
            "Their preprocess brings the width to load_size; data.resize=shorter, the nearest here, "
            "the shorter side."
        )
    if load is not None and load < crop:
        notes.append(f"Their load_size {load} is below the crop {crop}; it is not recorded.")
        load = None
    direction = options.get("direction", "AtoB")
    if direction not in ("AtoB", "BtoA"):
        notes.append(f"Their direction {direction!r} is not known here; AtoB is recorded.")
    backwards = (direction == "BtoA") != reverse
    fields: dict[str, Any] = {"resize": RESIZE.get(preprocess, "stretch")}
    data = DataConfig(
        direction="BtoA" if backwards else "AtoB",
        derive="colorize" if is_colorization(options) else "none",
        load_size=load,
        crop_size=crop,
        mirror=not flag(options, "no_flip"),
        **fields,
    )
    return data, notes


def write_options(path: Path, config: Config, *, netG: str, netD: str | None) -> None:
    """What `read_options` and `data_of` take back, in their layout."""
    data, g, d = config.data, config.generator, config.discriminator
    source, target = g.channels
    values: dict[str, object] = {
        "model": "colorization" if data.derive == "colorize" else "pix2pix",
        "dataset_mode": "colorization" if data.derive == "colorize" else "aligned",
        "direction": data.direction,
        "netG": netG,
        "ngf": g.base_channels,
        "norm": g.norm,
        "input_nc": source,
        "output_nc": target,
        "no_dropout": g.noise != "dropout",
        "no_flip": not data.mirror,
        "batch_size": config.training.batch_size,
    }
    if netD is not None:
        values |= {"netD": netD, "n_layers_D": d.num_layers, "ndf": d.base_channels}
    values |= _geometry(data)
    lines = [f"{name:>25}: {value!s:<30}" for name, value in sorted(values.items())]
    text = "\n".join(
        ["----------------- Options ---------------", *lines, "----------------- End -------------------"]
    )
    write_text_atomically(path, text + "\n")


def _geometry(data: DataConfig) -> dict[str, object]:
    """Sizes, where theirs are the same: square ones."""
    crop, load = height_width(data.crop_size), data.load_sides
    if data.resize == "shorter" or crop[0] != crop[1] or load[0] != load[1]:
        return {}
    preprocess = "resize_and_crop" if data.resize == "stretch" else "crop"
    return {"preprocess": preprocess, "load_size": load[0], "crop_size": crop[0]}
