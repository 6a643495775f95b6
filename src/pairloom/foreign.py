"""Weights of pytorch-CycleGAN-and-pix2pix, from their files and to them.

Source: that repository's published structure and options; none of its code. The key maps are
`foreign_keys`, its file of options `foreign_options`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pairloom import checkpoint as checkpoints
from pairloom import configfile, hub, images
from pairloom.checkpoint import CheckpointError, SavedNetwork
from pairloom.config import Config, ConfigError, DiscriminatorConfig, GeneratorConfig, TrainingConfig
from pairloom.described import specs_of
from pairloom.foreign_keys import (
    PIXEL_BIAS,
    THEIRS,
    Weights,
    discriminator_modules,
    discriminator_of,
    dropout_blocks,
    generator_modules,
    generator_of,
    read_weights,
    rejoined,
    their_name,
    to_ours,
)
from pairloom.foreign_options import data_of, flag, is_colorization, number, read_options, write_options
from pairloom.images import ImageSpec
from pairloom.networks import build_discriminator, build_generator


@dataclass(frozen=True, slots=True)
class Transfer:
    """What an import or an export wrote."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """What was found, assumed or left out, as sentences."""


# ------------------------------------------------------------------------------------------------------------
# Import


@dataclass(frozen=True, slots=True)
class Found:
    """Files of theirs that belong together."""

    networks: tuple[Path, ...]
    options: Path | None
    reverse: bool
    """The half of a CycleGAN that goes from B to A."""


def find_files(path: Path, *, epoch: str = "latest", side: Literal["A", "B"] | None = None) -> Found:
    """The networks of a folder of theirs, or one file, and the options beside.

    Args:
        path: checkpoints/NAME, or a .pth file.
        epoch: Of a folder: which of its epochs.
        side: Of a CycleGAN's folder: the generator from A (to B), or from B (to A).

    Raises:
        CheckpointError: Nothing there, two generators and no choice between them, or a choice for one file.
    """
    folder = path if path.is_dir() else path.parent
    options = folder / "train_opt.txt"
    beside = options if options.is_file() else None
    if not path.is_dir():
        asked = [f"side {side}"] * (side is not None) + [f"epoch {epoch}"] * (epoch != "latest")
        if asked and path.exists():
            raise CheckpointError(
                f"{path}: is one file, so {' and '.join(asked)} cannot be chosen; leave that out, or give "
                f"the folder {folder}."
            )
        return Found((path,), beside, path.stem.endswith(("_net_G_B", "_net_D_B")))
    suffixes = [s for s in ("", "_A", "_B") if (path / f"{epoch}_net_G{s}.pth").is_file()]
    if side is not None:
        suffixes = [s for s in suffixes if s == f"_{side}"]
    if not suffixes:
        there = ", ".join(sorted(p.name for p in path.glob("*_net_*.pth"))[:8]) or "no *_net_*.pth at all"
        wanted = f"{epoch}_net_G{f'_{side}' if side else ''}.pth"
        raise CheckpointError(f"{path}: holds no {wanted} ({there}); name another epoch or folder.")
    if suffixes == ["_A", "_B"]:
        raise CheckpointError(
            f"{path}: holds the two generators of a CycleGAN; say which: side A (to B) or B."
        )
    files = (path / f"{epoch}_net_{network}{suffixes[0]}.pth" for network in "GD")
    return Found(tuple(f for f in files if f.is_file()), beside, suffixes[0] == "_B")


def import_weights(
    path: str | Path,
    out: str | Path,
    *,
    epoch: str = "latest",
    side: Literal["A", "B"] | None = None,
    dropout: bool | None = None,
    options: str | Path | None = None,
) -> Transfer:
    """Networks of theirs as OUT/generator.safetensors and discriminator.safetensors, for `Translator.load`.

    Their test runs with dropout and the statistics of the image at hand, unless --eval is given; so do the
    imported weights.

    Args:
        path: A checkpoints/NAME folder, or one .pth file.
        out: Folder to write into; made if absent.
        epoch: Of a folder: which of its epochs.
        side: Of a CycleGAN's folder: the generator from A or from B.
        dropout: Of a U-Net: was it trained with dropout? None: as train_opt.txt says, else yes.
        options: Another train_opt.txt than the one beside the weights.

    Raises:
        CheckpointError: Not theirs, damaged, of a kind that is not known here, or OUT holds a model.
    """
    found = find_files(Path(path), epoch=epoch, side=side)
    out = Path(out)
    if taken := [n for n in ("generator", "discriminator") if (out / f"{n}.safetensors").exists()]:
        raise CheckpointError(f"{out}: holds a {taken[0]}.safetensors already; name another folder.")
    file = Path(options) if options is not None else found.options
    said = read_options(file) if file is not None else {}
    notes = [] if said else ["No train_opt.txt: direction AtoB and sizes of 256 are recorded."]
    try:
        config, weights = _recognise(found, said, dropout, notes)
    except ConfigError as error:
        raise CheckpointError(f"{found.networks[0]}: cannot be described here: {error}") from error
    description = _description(config, found, said, notes)
    out.mkdir(parents=True, exist_ok=True)
    for network, tensors in weights.items():
        checkpoints.save_weights(out / f"{network}.safetensors", tensors, description | {"network": network})
    return Transfer(tuple(out / f"{network}.safetensors" for network in weights), tuple(notes))


def _recognise(
    found: Found, options: dict[str, str], dropout: bool | None, notes: list[str]
) -> tuple[Config, dict[str, Weights]]:
    """The configuration that the files come to, and their tensors by our names; what was assumed is noted."""
    files = {file: read_weights(file) for file in found.networks}
    no_dropout = flag(options, "no_dropout")
    assumed = dropout if dropout is not None else not no_dropout
    generators = {f: generator_of(w, f, dropout=assumed) for f, w in files.items()}
    g = next((g for g in generators.values() if g is not None), None)
    d, weights = DiscriminatorConfig(), {}
    for file, theirs in files.items():
        own = generators[file]
        if own is not None:
            weights["generator"] = to_ours(theirs, build_generator(own), generator_modules(own), file)
            _note_generator(own, file, dropout, no_dropout, notes)
            continue
        sides = number(options, "input_nc"), number(options, "output_nc")
        known = (sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None
        channels = g.channels if g is not None else known
        d = discriminator_of(theirs, file, channels)
        if channels is None:
            notes.append("Nothing says how many channels x and y have: 3 and 3 are assumed.")
        source, target = channels or (3, 3)
        net = build_discriminator(d, source, target)
        weights["discriminator"] = to_ours(theirs, net, discriminator_modules(d), file)
        notes.append(
            f"{file.name}: a D of {d.num_layers} strided layers, {d.base_channels} wide, {d.norm} norm."
        )
        if g is None:
            g = GeneratorConfig(source_channels=source, target_channels=target, num_downs=8)
    assert g is not None, "each file is a generator, a discriminator, or refused"
    stride = 4 if g.architecture == "resnet" else 2 ** (g.num_downs or 0)
    data, more = data_of(options, stride, reverse=found.reverse)
    notes += more
    training = TrainingConfig(batch_size=number(options, "batch_size") or 1)
    note = f"Imported from {THEIRS}; the networks are its, the training's fields only where its options say."
    return Config(data=data, generator=g, discriminator=d, training=training, note=note), weights


def _note_generator(
    g: GeneratorConfig, file: Path, dropout: bool | None, no_dropout: bool | None, notes: list[str]
) -> None:
    on = g.noise == "dropout"
    words = "with" if on else "without"
    if g.architecture == "resnet":
        kind = f"a ResNet of {g.resnet_blocks} blocks"
        if dropout is not None and dropout != on:
            raise CheckpointError(
                f"{file}: its keys are those of a ResNet {words} dropout; leave the choice out here, and "
                "make it when you translate."
            )
        why = "its keys say so"
    else:
        kind = f"a U-Net of {g.num_downs} halvings"
        why = "its keys do not tell: " + (
            "as asked"
            if dropout is not None
            else "as train_opt.txt says"
            if no_dropout is not None
            else "assumed"
        )
    notes.append(f"{file.name}: {kind}, {g.base_channels} wide, {g.norm} norm, {words} dropout ({why}).")


def _description(config: Config, found: Found, options: dict[str, str], notes: list[str]) -> dict[str, Any]:
    """What our files say of themselves, but for which network they hold."""
    source, target = config.generator.channels
    if is_colorization(options) and (source, target) == (1, 2):
        source_spec, target_spec = images.lab_spec("L", channels=1), images.lab_spec("a", "b")
    else:
        source_spec, target_spec = _eight_bit(source), _eight_bit(target)
    private = ("dataroot", "checkpoints_dir", "results_dir")
    provenance = {
        "imported_from": THEIRS,
        "files": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in found.networks},
        "options": {name: value for name, value in options.items() if name not in private},
        "notes": list(notes),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        "config": configfile.to_dict(config),
        "source_spec": source_spec.to_dict(),
        "target_spec": target_spec.to_dict(),
        "semantics": {"norm_stats": "image", "dropout": config.generator.noise == "dropout"},
        "provenance": provenance,
    }


def _eight_bit(channels: int) -> ImageSpec:
    return ImageSpec(channels=channels, dtype="uint8", low=(0.0,) * channels, high=(255.0,) * channels)


# ------------------------------------------------------------------------------------------------------------
# Export


def export_weights(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: Literal["last", "best"] = "last",
    no_dropout: bool = False,
) -> Transfer:
    """G, and D where theirs can hold it, as OUT/latest_net_G.pth and latest_net_D.pth, with train_opt.txt.

    Args:
        run: A run directory, its generator.safetensors, one of its checkpoints, or hf://owner/name.
        out: Their checkpoints/NAME folder; made if absent.
        checkpoint: Of a run directory.
        no_dropout: For use with their --no_dropout, wherever the dropout stood in training.

    Raises:
        CheckpointError: No generator there, one that theirs cannot hold, or OUT holds one.
    """
    path, out = hub.resolve(run), Path(out)
    saved = checkpoints.find_network(path, "generator", checkpoint)
    if saved is None:
        raise CheckpointError(f"{run}: holds no generator; give a run directory or a generator.safetensors.")
    if (out / "latest_net_G.pth").exists():
        raise CheckpointError(f"{out}: holds a latest_net_G.pth already; name another folder.")
    config = saved.config()
    for reason in (*_unheld(config.generator, no_dropout), *_unread(saved)):
        raise CheckpointError(f"{saved.file}: {THEIRS} cannot hold it: {reason}.")
    if no_dropout and config.generator.noise == "dropout":
        config = replace(config, generator=replace(config.generator, noise="none"))
    g = config.generator
    weights = {"G": to_theirs(saved, build_generator(saved.config().generator), generator_modules(g))}
    notes = list(_how_to_run(saved, config))
    if (beside := _discriminator_beside(path, checkpoint)) is not None:
        if reason := _unheld_discriminator(beside):
            notes.append(f"The discriminator was left out: {reason}.")
        else:
            d = config.discriminator
            weights["D"] = to_theirs(beside, build_discriminator(d, *g.channels), discriminator_modules(d))
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, tensors in weights.items():
        files.append(out / f"latest_net_{name}.pth")
        checkpoints.write_atomically(files[-1], lambda file, tensors=tensors: torch.save(tensors, file))  # type: ignore[misc]
    files.append(out / "train_opt.txt")
    write_options(
        files[-1], config, netG=_netG(g), netD=_netD(config.discriminator) if "D" in weights else None
    )
    return Transfer(tuple(files), tuple(notes))


def to_theirs(saved: SavedNetwork, net: nn.Module, modules: dict[str, str]) -> Weights:
    """Our tensors under their names; `net` has no memory yet, and is what the weights must fit."""
    checkpoints.fill(net, saved.weights, saved.file)
    state = net.state_dict()
    theirs = {their_name(modules, name): rejoined(net, name, tensor) for name, tensor in state.items()}
    if "net.3.weight" in theirs:  # their PixelGAN with batch norm
        del theirs[PIXEL_BIAS[1]]
    return theirs


def _unheld(g: GeneratorConfig, no_dropout: bool) -> Iterator[str]:
    """What of a generator theirs does not have, as half sentences."""
    if g.norm == "none":
        yield 'generator.norm is "none", theirs are batch and instance'
    if g.upsample != "transposed":
        yield f'generator.upsample is "{g.upsample}", theirs is by transposed convolutions'
    if g.noise == "gaussian":
        yield 'generator.noise is "gaussian", theirs has dropout or none'
    drops = g.noise == "dropout" and not no_dropout
    if drops and g.dropout_rate != 0.5:
        yield f"generator.dropout_rate is {g.dropout_rate}, theirs 0.5 (no_dropout exports it without)"
    if g.architecture == "resnet":
        if g.resnet_blocks not in (6, 9):
            yield f"generator.resnet_blocks is {g.resnet_blocks}, theirs has 6 or 9"
        return
    if g.skip != "concat":
        yield f'generator.skip is "{g.skip}", theirs has skips by concatenation'
    if g.num_downs not in (7, 8):
        yield f"generator.num_downs is {g.num_downs}, theirs has 7 or 8"
        return
    blocks = tuple(b for b in sorted(set(g.dropout_blocks)) if b < g.num_downs)
    if drops and blocks != dropout_blocks(g.num_downs):
        yield (
            f"its dropout stands in the decoder blocks {_listed(blocks)}, theirs in "
            f"{_listed(dropout_blocks(g.num_downs))} (no_dropout exports it without)"
        )


def _unread(saved: SavedNetwork) -> Iterator[str]:
    """Images that their programs do not read or write as ours do."""
    specs = dict(zip(("source", "target"), specs_of(saved), strict=True))
    lab = (images.lab_spec("L").low, images.lab_spec("a", "b").low)
    if all(s.kind == "lab" for s in specs.values()) and lab == (specs["source"].low, specs["target"].low):
        return
    for side, spec in specs.items():
        eight_bit = spec.dtype == "uint8" and set(spec.low) == {0.0} and set(spec.high) == {255.0}
        if spec.one_hot or not eight_bit or spec.tensor_channels not in (1, 3):
            yield f"its {side} is {spec.words()}; theirs is grey or RGB, 8 bits, full range"


def _discriminator_beside(path: Path, checkpoint: Literal["last", "best"]) -> SavedNetwork | None:
    whole = path.is_dir() or path.suffix == ".pt"
    beside = path if whole else path.with_name("discriminator.safetensors")
    return checkpoints.find_network(beside, "discriminator", checkpoint) if beside.exists() else None


def _unheld_discriminator(saved: SavedNetwork) -> str:
    d = saved.config().discriminator
    if d.norm == "none":
        return 'discriminator.norm is "none", theirs are batch and instance'
    bias = saved.weights.get(PIXEL_BIAS[0]) if d.num_layers == 0 and d.norm == "batch" else None
    if bias is not None and bool(bias.any()):
        return "its last layer has a bias, which their PixelGAN with batch norm does not have"
    return ""


def _how_to_run(saved: SavedNetwork, config: Config) -> Iterator[str]:
    """Their test flags that come to our semantics, or that nothing does."""
    g, semantics = config.generator, saved.description.get("semantics", {})
    drops = g.noise == "dropout" and semantics.get("dropout", True)
    running = g.norm == "batch" and semantics.get("norm_stats") == "running"
    colour = config.data.derive == "colorize"
    flags = [
        f"--model {'colorization' if colour else 'pix2pix'}",
        f"--netG {_netG(g)} --norm {g.norm} --ngf {g.base_channels}",
        f"--input_nc {g.channels[0]} --output_nc {g.channels[1]} --direction {config.data.direction}",
    ]
    flags += ["--no_dropout"] * (g.noise == "none") + ["--eval"] * (running and not drops)
    yield f"Their test.py runs it with {' '.join(flags)}."
    if running and drops:
        yield (
            "It was made for the averages of training with dropout on; theirs has each image's statistics "
            "with dropout, or with --eval the averages without."
        )
    if not drops and g.noise == "dropout" and not running:
        yield "It is used here without dropout; theirs drops unless it is exported with no_dropout."
    if saved.description["target_spec"].get("kind") == "labels":
        yield "Its outputs snap to the palette here, and not there."
    yield "Their resizing is bicubic, ours bilinear: results of resized images differ slightly."


def _netG(g: GeneratorConfig) -> str:
    if g.architecture == "resnet":
        return f"resnet_{g.resnet_blocks}blocks"
    return "unet_256" if g.num_downs == 8 else "unet_128"


def _netD(d: DiscriminatorConfig) -> str:
    return {0: "pixel", 3: "basic"}.get(d.num_layers, "n_layers")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"
