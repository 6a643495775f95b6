"""The networks of pytorch-CycleGAN-and-pix2pix: their keys and ours, and what a file of theirs is.

Source: that repository's published structure, as shared keys and shapes show it; none of its code. Its
networks are ours but for the order in which the U-Net joins a skip to what comes from below (theirs has the
skip first; ours, as models.lua, last), where its dropout stands, and the last bias of the PixelGAN.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pairloom.checkpoint import CheckpointError
from pairloom.config import DiscriminatorConfig, GeneratorConfig
from pairloom.networks import UNet

THEIRS = "pytorch-CycleGAN-and-pix2pix"
DEPTHS = (5, 8)
"""Fewest and most halvings of a U-Net of theirs that is read."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
PIXEL_BIAS = ("layers.5.bias", "net.5.bias")
"""Of the last layer of a PixelGAN, ours and theirs; with batch norm theirs has none."""

Weights = dict[str, Tensor]


# ------------------------------------------------------------------------------------------------------------
# The key maps: our module -> theirs


def dropout_blocks(depth: int) -> tuple[int, ...]:
    """Where their U-Net drops, counted from the innermost, 1: its blocks of full width but the innermost."""
    return tuple(range(2, depth - 3))


def unet_modules(depth: int) -> dict[str, str]:
    """A U-Net: theirs are nested, each level the submodule of the one above."""
    modules = {"downs.0.conv": "model.model.0", f"ups.{depth - 1}.conv": "model.model.3"}
    base = "model.model.1.model"
    for level in range(1, depth - 1):
        down, up = f"downs.{level}", f"ups.{depth - 1 - level}"
        modules |= {f"{down}.conv": f"{base}.1", f"{down}.norm": f"{base}.2"}
        modules |= {f"{up}.conv": f"{base}.5", f"{up}.norm": f"{base}.6"}
        base += ".3.model"
    innermost = {f"downs.{depth - 1}.conv": f"{base}.1", "ups.0.conv": f"{base}.3", "ups.0.norm": f"{base}.4"}
    return modules | innermost


def resnet_modules(blocks: int, *, dropout: bool) -> dict[str, str]:
    """A ResNet: one sequence; dropout in a block moves what follows it by one."""
    modules: dict[str, str] = {}
    for ours, place in (("downs.0", 1), ("downs.1", 4), ("downs.2", 7), ("ups.0", 10), ("ups.1", 13)):
        at = place + blocks * ours.startswith("ups")
        modules |= {f"{ours}.conv": f"model.{at}", f"{ours}.norm": f"model.{at + 1}"}
    second = 5 + dropout
    for i in range(blocks):
        theirs = f"model.{10 + i}.conv_block"
        modules |= {f"blocks.{i}.first.conv": f"{theirs}.1", f"blocks.{i}.first.norm": f"{theirs}.2"}
        modules |= {
            f"blocks.{i}.second.conv": f"{theirs}.{second}",
            f"blocks.{i}.second.norm": f"{theirs}.{second + 1}",
        }
    return modules | {"last": f"model.{17 + blocks}"}


def generator_modules(g: GeneratorConfig) -> dict[str, str]:
    """Of a generator as configured."""
    if g.architecture == "resnet":
        return resnet_modules(g.resnet_blocks, dropout=g.noise == "dropout")
    assert g.num_downs is not None, "resolve the config first"
    return unet_modules(g.num_downs)


def discriminator_modules(d: DiscriminatorConfig) -> dict[str, str]:
    """A D: the same sequence as ours, under another name."""
    theirs = "model" if d.num_layers else "net"
    return {f"layers.{i}": f"{theirs}.{i}" for i in range(3 * max(d.num_layers, 1) + 3)}


def their_name(modules: dict[str, str], name: str) -> str:
    """Of one of our tensors."""
    module, _, parameter = name.rpartition(".")
    return f"{modules[module]}.{parameter}"


def rejoined(net: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """One of our tensors as theirs, or back: kernels behind a skip have their inputs' halves swapped."""
    if isinstance(net, UNet) and re.fullmatch(r"ups\.[1-9]\.conv\.weight", name):
        return torch.cat(tensor.chunk(2)[::-1])
    return tensor.contiguous()


# ------------------------------------------------------------------------------------------------------------
# What a file of theirs is


def read_weights(file: Path) -> Weights:
    """Their state dict, plain: prefixes of wrappers stripped, full precision.

    Raises:
        CheckpointError: Missing, cut off, hostile, or not a state dict.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file.")
    try:
        # torch stores without compression; what is compressed was made to grow in memory.
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("compressed")
        with warnings.catch_warnings():  # torch warns of other programs' pickles before it refuses them
            warnings.simplefilter("ignore")
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file is met with every kind of exception
        raise CheckpointError(
            f"{file}: is not a whole .pth file of weights (cut off, or another program's; nothing of it "
            "was run)."
        ) from error
    if not isinstance(state, dict) or not state or not all(map(_is_plain, state, state.values())):
        raise CheckpointError(f"{file}: holds something else than the weights of one network of {THEIRS}.")
    weights = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in state.items()}
    if len(weights) < len(state):
        raise CheckpointError(f"{file}: holds two tensors of the same name; it was not written by {THEIRS}.")
    return {name: t.float() if t.is_floating_point() else t for name, t in weights.items()}


def _is_plain(name: object, value: object) -> bool:
    """A named dense tensor that is as large as it says."""
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def generator_of(weights: Weights, file: Path, *, dropout: bool) -> GeneratorConfig | None:
    """Depth, widths, norm and, of a ResNet, dropout, from keys and shapes; None: no generator of theirs.

    Args:
        weights: As read.
        file: For messages.
        dropout: Of a U-Net, whose keys do not say.
    """
    if "model.model.0.weight" in weights:
        depth = 2
        while f"model.model.1.model{'.3.model' * (depth - 1)}.1.weight" in weights:
            depth += 1
        if not DEPTHS[0] <= depth <= DEPTHS[1]:
            raise CheckpointError(
                f"{file}: is a U-Net of {depth} halvings; of {THEIRS} those of {DEPTHS[0]} to {DEPTHS[1]} "
                "are read."
            )
        width, source = _shape(weights, "model.model.0.weight", file)[:2]
        modules = unet_modules(depth)
        target = _shape(weights, f"{modules[f'ups.{depth - 1}.conv']}.weight", file)[1]
        fields: dict[str, Any] = {"num_downs": depth, "dropout_blocks": dropout_blocks(depth)}
        middle = "downs.1"
    elif any(".conv_block." in name for name in weights) and "model.1.weight" in weights:
        blocks = len({name.split(".")[1] for name in weights if ".conv_block." in name})
        dropout = "model.10.conv_block.6.weight" in weights and "model.10.conv_block.5.weight" not in weights
        width, source = _shape(weights, "model.1.weight", file)[:2]
        modules = resnet_modules(blocks, dropout=dropout)
        target = _shape(weights, f"{modules['last']}.weight", file)[0]
        fields = {"architecture": "resnet", "resnet_blocks": blocks, "num_downs": 8}
        middle = "downs.0"
    else:
        return None
    return GeneratorConfig(
        source_channels=source,
        target_channels=target,
        base_channels=width,
        norm=_norm(weights, modules[f"{middle}.conv"], modules[f"{middle}.norm"], file),
        noise="dropout" if dropout else "none",
        **fields,
    )


def discriminator_of(weights: Weights, file: Path, channels: tuple[int, int] | None) -> DiscriminatorConfig:
    """Layers, width, norm, and whether it sees x, from keys and shapes.

    Args:
        weights: As read.
        file: For messages.
        channels: Of x and y; None: not known, 3 each if it has 6.
    """
    root = next((root for root in ("model", "net") if f"{root}.0.weight" in weights), None)
    convolutions = [name for name, t in weights.items() if name.endswith(".weight") and t.ndim == 4]
    if root is None or len(convolutions) < 3:
        raise CheckpointError(
            f"{file}: holds no network of {THEIRS} that is known here (its keys are others)."
        )
    width, given = _shape(weights, f"{root}.0.weight", file)[:2]
    source, target = channels or (3, 3)
    if given not in (source + target, target):
        raise CheckpointError(
            f"{file}: is a discriminator of {given} channels, which fits neither {source} + {target} of x "
            f"and y nor {target} of y alone; import it beside its generator or its train_opt.txt."
        )
    return DiscriminatorConfig(
        num_layers=len(convolutions) - 2 if root == "model" else 0,
        base_channels=width,
        conditional=given == source + target,
        norm=_norm(weights, f"{root}.2", f"{root}.3", file),
    )


def _shape(weights: Weights, name: str, file: Path) -> tuple[int, ...]:
    """Of a convolution's kernel."""
    shape = tuple(weights[name].shape) if name in weights else ()
    if len(shape) != 4 or 0 in shape:
        raise CheckpointError(
            f"{file}: its {name} is no convolution's kernel ({_sides(shape) or 'missing'}); it is damaged."
        )
    return shape


def _norm(weights: Weights, conv: str, norm: str, file: Path) -> Literal["batch", "instance"]:
    """Batch norm has weights; before instance norm, which has none, convolutions have a bias."""
    if f"{norm}.weight" in weights:
        return "batch"
    if f"{conv}.bias" in weights:
        return "instance"
    raise CheckpointError(f"{file}: has neither batch nor instance norm, the two that are read of {THEIRS}.")


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def to_ours(theirs: Weights, net: nn.Module, modules: dict[str, str], file: Path) -> Weights:
    """Their tensors under our names.

    Deviation: counters that old files lack are 0, the bias that their PixelGAN lacks is zeros, and averages
    of instance norms, which old files hold and nothing uses, are left out.

    Args:
        theirs: As read.
        net: What they are to fill; without memory.
        modules: Our module -> theirs.
        file: For messages.

    Raises:
        CheckpointError: A tensor is missing, has another shape, or is one too many.
    """
    ours: Weights = {}
    rest = dict(theirs)
    for name, like in net.state_dict().items():
        their = their_name(modules, name)
        tensor = rest.pop(their, None)
        if tensor is None and (name.endswith("num_batches_tracked") or (name, their) == PIXEL_BIAS):
            tensor = torch.zeros(like.shape, dtype=like.dtype)
        if tensor is None or tensor.shape != like.shape or tensor.dtype != like.dtype:
            found = "missing" if tensor is None else f"{_sides(tensor.shape)} of {tensor.dtype}"
            raise CheckpointError(
                f"{file}: its {their} is {found}, where its other tensors ask for {_sides(like.shape)}; "
                "it is damaged, or of a changed network."
            )
        ours[name] = rejoined(net, name, tensor)
    for name in list(rest):
        module, _, parameter = name.rpartition(".")
        if parameter in BUFFERS and f"{module}.weight" not in theirs:
            del rest[name]
    if rest:
        raise CheckpointError(f"{file}: holds {min(rest)}, for which the known networks have no place.")
    return ours
