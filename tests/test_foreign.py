"""Weights of pytorch-CycleGAN-and-pix2pix: a reference written from its published structure, layer by layer.

Nothing here is that repository's code. The reference is nested and numbered as its keys are, so that its own
state dict is what a file of theirs holds.
"""

from __future__ import annotations

import functools
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pairloom
from conftest import tiny_config
from pairloom import noise
from pairloom.checkpoint import CheckpointError, load_discriminator, load_weights, save_weights
from pairloom.config import GeneratorConfig
from pairloom.foreign import export_weights, import_weights
from pairloom.foreign_keys import dropout_blocks
from pairloom.networks import ResNet, UNet
from pairloom.translator import Translator

WIDTH = 4

# ------------------------------------------------------------------------------------------------------------
# Theirs, from the published structure


class KeyedDropout(nn.Module):
    """In place of their dropout: nothing without a key, else the mask that ours has in that layer."""

    def __init__(self, layer: int = 0) -> None:
        super().__init__()
        self.layer, self.key = layer, None

    def forward(self, x: Tensor) -> Tensor:
        if self.key is None:
            return x
        return x * (noise.uniform(self.key, self.layer, *x.shape[1:]) >= 0.5) * 2


class Nested(nn.Module):
    """One level: down, the level below, up; beside what came in, but for the outermost."""

    def __init__(self, *layers: nn.Module, outermost: bool = False) -> None:
        super().__init__()
        self.outermost, self.model = outermost, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class Holder(nn.Module):
    def __init__(self, model: nn.Module, name: str = "model") -> None:
        super().__init__()
        self.name = name
        setattr(self, name, model)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


def norm_of(name: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if name == "batch" else nn.InstanceNorm2d(width)


def their_unet(
    depth: int, channels: tuple[int, int] = (3, 3), norm: str = "batch", dropout: bool = True, c: int = WIDTH
) -> nn.Module:
    bias = norm == "instance"
    make = functools.partial(nn.Conv2d, kernel_size=4, stride=2, padding=1)
    back = functools.partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1)
    leaky, relu = functools.partial(nn.LeakyReLU, 0.2, True), functools.partial(nn.ReLU, True)
    block = Nested(
        *(leaky(), make(8 * c, 8 * c, bias=bias)),
        *(relu(), back(8 * c, 8 * c, bias=bias), norm_of(norm, 8 * c)),
    )

    def middle(outer: int, inner: int, below: nn.Module, *after: nn.Module) -> Nested:
        down = (leaky(), make(outer, inner, bias=bias), norm_of(norm, inner))
        return Nested(*down, below, relu(), back(2 * inner, outer, bias=bias), norm_of(norm, outer), *after)

    for i in range(depth - 5):
        block = middle(8 * c, 8 * c, block, *([KeyedDropout(i + 2)] if dropout else []))
    for outer, inner in ((4, 8), (2, 4), (1, 2)):
        block = middle(outer * c, inner * c, block)
    ends = (make(channels[0], c, bias=bias), block, relu(), back(2 * c, channels[1]), nn.Tanh())
    return Holder(Nested(*ends, outermost=True))


class Residual(nn.Module):
    def __init__(self, number: int, c: int, norm: str, dropout: bool) -> None:
        super().__init__()
        bias = norm == "instance"
        between = [KeyedDropout(number)] if dropout else []
        first = (nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3, bias=bias), norm_of(norm, c), nn.ReLU(True))
        second = (nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3, bias=bias), norm_of(norm, c))
        self.conv_block = nn.Sequential(*first, *between, *second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def their_resnet(
    blocks: int, channels: tuple[int, int] = (3, 3), norm: str = "instance", dropout: bool = False
) -> nn.Module:
    c, bias = WIDTH, norm == "instance"
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels[0], c, 7, bias=bias)]
    layers += [norm_of(norm, c), nn.ReLU(True)]
    for k in (1, 2):
        layers += [nn.Conv2d(c * k, 2 * c * k, 3, 2, 1, bias=bias), norm_of(norm, 2 * c * k), nn.ReLU(True)]
    layers += [Residual(number, 4 * c, norm, dropout) for number in range(1, blocks + 1)]
    for k in (4, 2):
        up = nn.ConvTranspose2d(c * k, c * k // 2, 3, 2, 1, output_padding=1, bias=bias)
        layers += [up, norm_of(norm, c * k // 2), nn.ReLU(True)]
    return Holder(nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(c, channels[1], 7), nn.Tanh()))


def their_patches(n: int, channels: int = 6, norm: str = "batch") -> nn.Module:
    c, bias = WIDTH, norm == "instance"
    layers: list[nn.Module] = [nn.Conv2d(channels, c, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    widths = [c * min(2**i, 8) for i in range(n + 1)]
    for i in range(1, n + 1):
        stride = 2 if i < n else 1
        layers += [nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=bias), norm_of(norm, widths[i])]
        layers += [nn.LeakyReLU(0.2, True)]
    return Holder(nn.Sequential(*layers, nn.Conv2d(widths[n], 1, 4, 1, 1)))


def their_pixels(channels: int = 6, norm: str = "batch") -> nn.Module:
    c, bias = WIDTH, norm == "instance"
    first = (nn.Conv2d(channels, c, 1), nn.LeakyReLU(0.2, True))
    second = (nn.Conv2d(c, 2 * c, 1, bias=bias), norm_of(norm, 2 * c), nn.LeakyReLU(0.2, True))
    return Holder(nn.Sequential(*first, *second, nn.Conv2d(2 * c, 1, 1, bias=bias)), "net")


def trained(net: nn.Module, seed: int = 0) -> nn.Module:
    """With weights of a size at which every layer matters, and norms of their own; in training mode."""
    rng = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            spread = 0.2 if tensor.ndim == 4 else 0.3
            centre = 1.0 if tensor.ndim == 1 and name.endswith(("weight", "running_var")) else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=rng) * spread + centre)
    return net.train()


def pixels(side: int, c: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(1, c, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def save(net: nn.Module, path: Path) -> dict[str, Tensor]:
    """As their programs save it; a copy of what was saved (the reference's own averages will move)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def with_key(net: nn.Module, key: int | None) -> nn.Module:
    for module in net.modules():
        if isinstance(module, KeyedDropout):
            module.key = key  # type: ignore[assignment]
    return net


GENERATORS: dict[str, Callable[[], nn.Module]] = {
    "unet_256": lambda: their_unet(8),
    "unet_128": lambda: their_unet(7),
    "unet_128_instance": lambda: their_unet(7, norm="instance"),
    "unet_128_colours": lambda: their_unet(7, (1, 2)),
    "resnet_9blocks": lambda: their_resnet(9),
    "resnet_6blocks": lambda: their_resnet(6, norm="batch"),
    "resnet_6blocks_dropout": lambda: their_resnet(6, norm="batch", dropout=True),
    "resnet_9blocks_dropout": lambda: their_resnet(9, dropout=True),
}
DISCRIMINATORS: dict[str, Callable[[], nn.Module]] = {
    "basic": lambda: their_patches(3),
    "n_layers_5": lambda: their_patches(5),
    "n_layers_1": lambda: their_patches(1, norm="instance"),
    "basic_alone": lambda: their_patches(3, channels=3, norm="instance"),
    "pixel": lambda: their_pixels(),
    "pixel_instance": lambda: their_pixels(norm="instance"),
}


# ------------------------------------------------------------------------------------------------------------
# The same numbers


@pytest.mark.parametrize("name", GENERATORS)
def test_an_imported_generator_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    theirs = trained(GENERATORS[name]())
    save(theirs, tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "out")
    ours = Translator.load(tmp_path / "out", device="cpu", precision="fp32")
    x = pixels(
        256 if name == "unet_256" else 128 if "unet" in name else 36, ours.config.generator.channels[0]
    )
    key = noise.key(3)
    for k, dropout in ((None, False), (key, True)):
        with torch.no_grad():  # in training mode: their test without --eval
            expected = with_key(theirs, k)(x)
        here = Translator.load(tmp_path / "out", device="cpu", precision="fp32", dropout=dropout)
        assert torch.allclose(here.translate_tensor(x, seed=3), expected, atol=1e-5)
        assert expected.std() > 0.05
    assert ours.semantics.norm_stats == "image"
    assert ours.semantics.dropout == ("unet" in name or "dropout" in name)


def test_with_running_averages_it_is_their_eval(tmp_path: Path) -> None:
    theirs, x = trained(their_unet(7)), pixels(128)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        theirs(pixels(128, seed=5))  # averages as of training: those of another image
    save(theirs, tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "out")
    ours = Translator.load(
        tmp_path / "out", device="cpu", precision="fp32", norm_stats="running", dropout=False
    )
    with torch.no_grad():
        assert torch.allclose(ours.translate_tensor(x), theirs.eval()(x), atol=1e-5)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_an_imported_discriminator_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    theirs = trained(DISCRIMINATORS[name]())
    save(theirs, tmp_path / "latest_net_D.pth")
    done = import_weights(tmp_path / "latest_net_D.pth", tmp_path / "out")
    assert any("3 and 3 are assumed" in note for note in done.notes)
    ours = load_discriminator(tmp_path / "out")
    assert ours is not None
    side = 160 if name == "n_layers_5" else 72
    x, y = pixels(side), pixels(side, seed=1)
    with torch.no_grad():
        expected = theirs(torch.cat([x, y], 1) if ours.conditional else y)
        assert torch.allclose(ours(x, y), expected, atol=1e-5)
    assert ours.conditional == (name != "basic_alone")


# ------------------------------------------------------------------------------------------------------------
# There and back


@pytest.mark.parametrize("name", GENERATORS)
def test_there_and_back_is_the_identity(name: str, tmp_path: Path) -> None:
    channels = (1, 2) if "colours" in name else (3, 3)
    options = "model: colorization\n" if "colours" in name else "direction: BtoA\nload_size: 300\n"
    theirs = save(trained(GENERATORS[name]()), tmp_path / "theirs/latest_net_G.pth")
    judge = save(trained(their_patches(3, sum(channels)), 1), tmp_path / "theirs/latest_net_D.pth")
    (tmp_path / "theirs/train_opt.txt").write_text(options)
    import_weights(tmp_path / "theirs", tmp_path / "ours")
    done = export_weights(tmp_path / "ours", tmp_path / "back")
    assert [file.name for file in done.files] == ["latest_net_G.pth", "latest_net_D.pth", "train_opt.txt"]
    for network, saved in (("G", theirs), ("D", judge)):
        back = torch.load(tmp_path / f"back/latest_net_{network}.pth", weights_only=True)
        assert sorted(back) == sorted(saved)
        assert all(torch.equal(back[key], saved[key]) for key in saved)
    import_weights(tmp_path / "back", tmp_path / "again")
    for network in ("generator", "discriminator"):
        first, described = load_weights(tmp_path / f"ours/{network}.safetensors")
        second, again = load_weights(tmp_path / f"again/{network}.safetensors")
        assert all(torch.equal(first[key], second[key]) for key in first)
        for part in ("config", "source_spec", "target_spec", "semantics"):
            assert described[part] == again[part]


@pytest.mark.parametrize("name", ["n_layers_1", "pixel", "pixel_instance"])
def test_other_discriminators_go_back_too(name: str, tmp_path: Path) -> None:
    save(trained(their_resnet(6)), tmp_path / "latest_net_G.pth")
    judge = save(trained(DISCRIMINATORS[name]()), tmp_path / "latest_net_D.pth")
    import_weights(tmp_path, tmp_path / "ours")
    export_weights(tmp_path / "ours" / "generator.safetensors", tmp_path / "back")
    back = torch.load(tmp_path / "back/latest_net_D.pth", weights_only=True)
    assert sorted(back) == sorted(judge)
    assert all(torch.equal(back[key], judge[key]) for key in judge)


def test_what_is_exported_loads_into_the_reference(tmp_path: Path) -> None:
    theirs = trained(their_unet(7))
    save(theirs, tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "ours")
    done = export_weights(tmp_path / "ours", tmp_path / "back")
    other = their_unet(7)
    other.load_state_dict(torch.load(tmp_path / "back/latest_net_G.pth", weights_only=True))
    x = pixels(128)
    with torch.no_grad():
        assert torch.equal(other(x), theirs(x))
    assert "--netG unet_128 --norm batch --ngf 4" in " ".join(done.notes)


# ------------------------------------------------------------------------------------------------------------
# What is found, assumed and said


def imported(tmp_path: Path, net: nn.Module, options: str = "", **arguments: Any) -> tuple[Translator, str]:
    save(net, tmp_path / "in/latest_net_G.pth")
    if options:
        (tmp_path / "in/train_opt.txt").write_text(options)
    done = import_weights(tmp_path / "in", tmp_path / "out", **arguments)
    return Translator.load(tmp_path / "out", device="cpu", precision="fp32"), " ".join(done.notes)


def test_a_unets_dropout_is_assumed_and_said(tmp_path: Path) -> None:
    model, notes = imported(tmp_path, their_unet(8))
    assert model.semantics.dropout
    assert model.config.generator.dropout_blocks == (2, 3, 4)
    assert "with dropout (its keys do not tell: assumed)" in notes


@pytest.mark.parametrize(
    ("options", "flag", "on", "why"),
    [
        ("no_dropout: True\n", None, False, "as train_opt.txt says"),
        ("no_dropout: False\n", None, True, "as train_opt.txt says"),
        ("no_dropout: True\n", True, True, "as asked"),
        ("", False, False, "as asked"),
    ],
)
def test_a_unets_dropout_as_said(tmp_path: Path, options: str, flag: bool | None, on: bool, why: str) -> None:
    model, notes = imported(tmp_path, their_unet(7), options, dropout=flag)
    assert model.semantics.dropout is on
    assert (model.config.generator.noise == "dropout") is on
    assert why in notes


def test_where_their_dropout_stands() -> None:
    assert dropout_blocks(8) == (2, 3, 4)
    assert dropout_blocks(7) == (2, 3)
    assert dropout_blocks(5) == ()


def test_a_resnets_dropout_is_in_its_keys(tmp_path: Path) -> None:
    model, notes = imported(tmp_path, their_resnet(6, norm="batch", dropout=True), "no_dropout: True\n")
    assert isinstance(model.generator, ResNet)
    assert model.semantics.dropout
    assert "with dropout (its keys say so)" in notes
    with pytest.raises(CheckpointError, match="a ResNet with dropout"):
        import_weights(tmp_path / "in", tmp_path / "other", dropout=False)


def test_options_of_today_and_of_2018(tmp_path: Path) -> None:
    today = (
        "----------------- Options ---------------\n"
        "               batch_size: 4                             \t[default: 1]\n"
        "                crop_size: 512                           \n"
        "                 dataroot: /home/somebody/secret         \t[default: None]\n"
        "                direction: BtoA                          \t[default: AtoB]\n"
        "                load_size: 572                           \n"
        "                  no_flip: True                          \n"
        "               preprocess: scale_width_and_crop          \n"
        "----------------- End -------------------\n"
    )
    model, notes = imported(tmp_path, their_unet(7), today)
    data = model.config.data
    assert (data.direction, data.load_size, data.crop_size, data.mirror) == ("BtoA", 572, 512, False)
    assert (data.resize, model.config.training.batch_size) == ("shorter", 4)
    assert model.semantics.norm_stats == "image", "as their test, whatever the batch of training"
    assert "secret" not in str(model.describe())
    assert model.provenance["options"]["direction"] == "BtoA"
    assert "the shorter side" in notes
    old = "------------ Options -------------\nfineSize: 128\nloadSize: 143\nwhich_direction: BtoA\n"
    (tmp_path / "in/train_opt.txt").write_text(old)
    import_weights(tmp_path / "in", tmp_path / "old")
    data = Translator.load(tmp_path / "old").config.data
    assert (data.direction, data.load_size, data.crop_size) == ("BtoA", 143, 128)


def test_sizes_that_cannot_be_are_said(tmp_path: Path) -> None:
    options = "crop_size: 100\nload_size: 90\npreprocess: odd\n"
    model, notes = imported(tmp_path, their_unet(7), options)
    assert (model.config.data.crop_size, model.config.data.load_size) == (256, None)
    assert all(words in notes for words in ("no multiple of 128", "below the crop", "'odd' is not known"))


@pytest.mark.parametrize(("said", "recorded"), [("XtoY", "AtoB"), ("BtoA", "BtoA"), ("AtoB", "AtoB")])
def test_a_direction_that_is_not_known_is_said(tmp_path: Path, said: str, recorded: str) -> None:
    model, notes = imported(tmp_path, their_unet(7), f"direction: {said}\n")
    assert model.config.data.direction == recorded
    assert (f"Their direction {said!r} is not known here; AtoB is recorded." in notes) == (said == "XtoY")


def test_a_colorization_takes_l_and_gives_ab(tmp_path: Path) -> None:
    model, _ = imported(tmp_path, trained(their_unet(7, (1, 2))), "model: colorization\n")
    assert (model.source_spec.kind, model.target_spec.names) == ("lab", ("a", "b"))
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    assert model(photo).shape == (20, 20, 3)


def test_an_8_bit_rgb_photo_goes_through(tmp_path: Path) -> None:
    model, _ = imported(tmp_path, trained(their_unet(7)))
    assert isinstance(model.generator, UNet)
    assert model(np.zeros((5, 7, 3), np.uint8)).shape == (5, 7, 3)
    assert model.source_spec == model.target_spec
    assert (model.source_spec.low, model.source_spec.high) == ((0,) * 3, (255,) * 3)
    assert model.provenance["imported_from"] == "pytorch-CycleGAN-and-pix2pix"
    assert len(model.provenance["files"]["latest_net_G.pth"]) == 64


def test_the_halves_of_a_cyclegan(tmp_path: Path) -> None:
    nets = {}
    for number, half in enumerate("AB"):
        nets[half] = save(trained(their_resnet(6), number), tmp_path / f"in/latest_net_G_{half}.pth")
        save(trained(their_patches(3, 3, "instance"), 7 + number), tmp_path / f"in/latest_net_D_{half}.pth")
    with pytest.raises(CheckpointError, match="two generators of a CycleGAN"):
        import_weights(tmp_path / "in", tmp_path / "out")
    for half, direction in (("A", "AtoB"), ("B", "BtoA")):
        import_weights(tmp_path / "in", tmp_path / half, side=half)  # type: ignore[arg-type]
        model = Translator.load(tmp_path / half)
        assert model.config.data.direction == direction
        weight = model.generator.state_dict()["last.weight"]
        assert torch.equal(weight, nets[half]["model.23.weight"])
        judge = load_discriminator(tmp_path / half)
        assert judge is not None and not judge.conditional


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"side": "B"}, "side B cannot"),
        ({"epoch": "7"}, "epoch 7 cannot"),
        ({"side": "B", "epoch": "7"}, "side B and epoch 7 cannot"),
    ],
    ids=str,
)
def test_of_one_file_there_is_nothing_to_choose(tmp_path: Path, choice: dict[str, Any], says: str) -> None:
    save(trained(their_resnet(6)), file := tmp_path / "latest_net_G_A.pth")
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(file))}: is one file, so {says} be chosen"):
        import_weights(file, tmp_path / "out", **choice)
    assert not (tmp_path / "out").exists()


def test_prefixes_old_averages_and_missing_counters(tmp_path: Path) -> None:
    plain = trained(their_unet(7, norm="instance")).state_dict()
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in plain.items()}
    wrapped["module._orig_mod.model.model.1.model.2.running_mean"] = torch.zeros(2 * WIDTH)
    wrapped["module._orig_mod.model.model.1.model.2.running_var"] = torch.ones(2 * WIDTH)
    torch.save(wrapped, tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "out")
    ours, _ = load_weights(tmp_path / "out/generator.safetensors")
    assert torch.equal(ours["downs.0.conv.weight"], plain["model.model.0.weight"])
    old = {k: t for k, t in trained(their_unet(7)).state_dict().items() if "num_batches" not in k}
    torch.save(old, tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "old")
    ours, _ = load_weights(tmp_path / "old/generator.safetensors")
    assert ours["downs.1.norm.num_batches_tracked"] == 0


def test_another_epoch(tmp_path: Path) -> None:
    for epoch, seed in (("5", 1), ("latest", 2)):
        save(trained(their_resnet(6), seed), tmp_path / f"{epoch}_net_G.pth")
    import_weights(tmp_path, tmp_path / "five", epoch="5")
    ours, described = load_weights(tmp_path / "five/generator.safetensors")
    expected = torch.load(tmp_path / "5_net_G.pth", weights_only=True)["model.23.weight"]
    assert torch.equal(ours["last.weight"], expected)
    assert list(described["provenance"]["files"]) == ["5_net_G.pth"]


# ------------------------------------------------------------------------------------------------------------
# What is refused: one sentence each


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def bytes_of(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def compressed(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return file.getvalue()


def changed(net: nn.Module, **changes: Tensor | None) -> bytes:
    state = dict(net.state_dict())
    for name, tensor in changes.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    return bytes_of(state)


WEIGHT = "model.model.1.model.1.weight"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a whole .pth file"),
    "truncated": (lambda: bytes_of(their_resnet(6).state_dict())[:5000], "not a whole .pth file"),
    "text": (lambda: b"not weights at all", "not a whole .pth file"),
    "a_pickle_that_runs": (lambda: bytes_of({"model.model.0.weight": Hostile()}), "nothing of it was run"),
    "a_bare_pickle_that_runs": (lambda: pickle.dumps(Hostile()), "nothing of it was run"),
    "compressed": (lambda: compressed(bytes_of(their_resnet(6).state_dict())), "not a whole .pth file"),
    "a_list": (lambda: bytes_of([torch.zeros(2)]), "something else than the weights"),
    "no_tensors": (lambda: bytes_of({"epoch": 3}), "something else than the weights"),
    "nothing": (lambda: bytes_of({}), "something else than the weights"),
    "numbers_as_names": (lambda: bytes_of({1: torch.zeros(2)}), "something else than the weights"),
    "sparse": (lambda: bytes_of({"a": torch.zeros(2, 2).to_sparse()}), "something else than the weights"),
    "larger_than_it_is": (
        lambda: bytes_of({"model.model.0.weight": torch.zeros(1).expand(10**6, 10**6, 4, 4)}),
        "something else than the weights",
    ),
    "twice": (
        lambda: bytes_of({"a": torch.zeros(1), "module.a": torch.zeros(1)}),
        "two tensors of the same name",
    ),
    "not_theirs": (lambda: bytes_of(nn.Linear(2, 2).state_dict()), "no network of"),
    "another_classifier": (
        lambda: bytes_of(Holder(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))).state_dict()),
        "no network of",
    ),
    "wrong_shape": (lambda: changed(their_unet(7), **{WEIGHT: torch.zeros(3, 4, 4, 4)}), "is 3x4x4x4"),
    "no_kernel": (
        lambda: changed(their_unet(7), **{"model.model.0.weight": torch.zeros(4)}),
        "is no convolution's kernel",
    ),
    "zero_wide": (
        lambda: changed(their_unet(7), **{"model.model.0.weight": torch.zeros(0, 3, 4, 4)}),
        "is no convolution's kernel",
    ),
    "integers": (
        lambda: changed(their_unet(7), **{WEIGHT: torch.zeros(8, 4, 4, 4, dtype=torch.int64)}),
        "of torch.int64",
    ),
    "one_missing": (lambda: changed(their_unet(7), **{"model.model.3.bias": None}), "is missing"),
    "one_too_many": (lambda: changed(their_unet(7), extra=torch.zeros(1)), "holds extra"),
    "too_shallow": (lambda: bytes_of(cut_unet().state_dict()), "2 halvings"),
    "too_deep": (lambda: bytes_of(their_unet(9, c=1).state_dict()), "9 halvings"),
    "no_norm": (lambda: bytes_of(without_norms()), "neither batch nor instance norm"),
    "a_discriminator_of_5": (lambda: bytes_of(their_patches(3, 5).state_dict()), "5 channels, which fits"),
}


def cut_unet() -> nn.Module:
    inner = Nested(nn.LeakyReLU(), nn.Conv2d(4, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4))
    return Holder(Nested(nn.Conv2d(3, 4, 4), inner, nn.ReLU(), nn.ConvTranspose2d(8, 3, 4)))


def without_norms() -> dict[str, Tensor]:
    return {k: t for k, t in their_unet(7).state_dict().items() if t.ndim == 4 or k == "model.model.3.bias"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = REFUSED[name]
    file = tmp_path / "latest_net_G.pth"
    file.write_bytes(make())
    with pytest.raises(CheckpointError) as caught:
        import_weights(file, tmp_path / "out")
    message = str(caught.value)
    assert says in message
    assert message.startswith(f"{file}: ")
    assert "\n" not in message and message.endswith(".")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ran").exists()


def test_any_cut_of_a_file_is_one_sentence(tmp_path: Path) -> None:
    whole = bytes_of(their_resnet(6).state_dict())
    rng = np.random.default_rng(0)
    file = tmp_path / "latest_net_G.pth"
    for _ in range(30):
        content = bytearray(whole[: rng.integers(1, len(whole))])
        content[rng.integers(0, len(content))] ^= 0xFF
        file.write_bytes(bytes(content))
        with pytest.raises(CheckpointError, match=r"^[^\n]+\.$"):
            import_weights(file, tmp_path / "out")


def test_folders_and_options_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        import_weights(tmp_path / "nothing.pth", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds no latest_net_G.pth \(no \*_net_\*.pth at all\)"):
        import_weights(tmp_path, tmp_path / "out")
    save(their_resnet(6), tmp_path / "10_net_G.pth")
    with pytest.raises(CheckpointError, match=r"\(10_net_G.pth\); name another epoch"):
        import_weights(tmp_path, tmp_path / "out")
    for content, says in ((b"\xff\xfe\x00", "cannot be read as text"), (b"hello", "holds no options")):
        (tmp_path / "train_opt.txt").write_bytes(content)
        with pytest.raises(CheckpointError, match=says):
            import_weights(tmp_path, tmp_path / "out", epoch="10")
    (tmp_path / "train_opt.txt").write_bytes(b"a: b\n" * 300_000)
    with pytest.raises(CheckpointError, match="too large"):
        import_weights(tmp_path, tmp_path / "out", epoch="10")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    save(trained(their_resnet(6)), tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds a generator.safetensors already"):
        import_weights(tmp_path, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds a latest_net_G.pth already"):
        export_weights(tmp_path / "out", tmp_path)


def reconfigured(source: Path, out: Path, part: str, **changes: Any) -> Path:
    """A generator file whose description says something else; its weights are never looked at."""
    weights, described = load_weights(source / "generator.safetensors")
    fields = {k: v for k, v in described.items() if k != "format"}
    if part == "generator":
        fields["config"]["generator"] |= changes
    else:
        fields[part] |= changes
    out.mkdir()
    save_weights(out / "generator.safetensors", weights, fields)
    return out


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("generator", {"skip": "add"}, 'generator.skip is "add"'),
        ("generator", {"skip": "none"}, 'generator.skip is "none"'),
        ("generator", {"upsample": "resize"}, 'generator.upsample is "resize"'),
        ("generator", {"noise": "gaussian"}, 'generator.noise is "gaussian"'),
        ("generator", {"norm": "none"}, 'generator.norm is "none"'),
        ("generator", {"num_downs": 6}, "generator.num_downs is 6"),
        ("generator", {"dropout_rate": 0.3}, "generator.dropout_rate is 0.3"),
        (
            "generator",
            {"dropout_blocks": [1, 2, 3]},
            "its dropout stands in the decoder blocks 1, 2, 3, theirs in 2, 3 ",
        ),
        ("generator", {"architecture": "resnet", "resnet_blocks": 4}, "generator.resnet_blocks is 4"),
        ("source_spec", {"dtype": "uint16", "high": [65535.0] * 3}, "its source is 3 channels, uint16"),
        (
            "target_spec",
            {"kind": "labels", "palette": [[0] * 3, [1] * 3, [2] * 3], "one_hot": True},
            "its target is 3 channels, uint8, label map of 3 classes, one-hot",
        ),
    ],
)
def test_what_theirs_cannot_hold(tmp_path: Path, part: str, changes: dict[str, Any], says: str) -> None:
    save(trained(their_unet(7)), tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "ours")
    changed_model = reconfigured(tmp_path / "ours", tmp_path / "changed", part, **changes)
    with pytest.raises(CheckpointError) as caught:
        export_weights(changed_model, tmp_path / "back")
    assert f"cannot hold it: {says}" in str(caught.value)
    assert not (tmp_path / "back").exists()


def test_a_paper_models_dropout_is_exported_by_leaving_it_out(tmp_path: Path) -> None:
    save(trained(their_unet(7)), tmp_path / "latest_net_G.pth")
    import_weights(tmp_path, tmp_path / "ours")
    blocks = {"dropout_blocks": list(GeneratorConfig().dropout_blocks)}
    paper = reconfigured(tmp_path / "ours", tmp_path / "paper", "generator", **blocks)
    done = export_weights(paper, tmp_path / "back", no_dropout=True)
    assert "--no_dropout" in done.notes[0]
    import_weights(tmp_path / "back", tmp_path / "again")
    again, x = Translator.load(tmp_path / "again"), pixels(128)
    assert not again.semantics.dropout
    before = Translator.load(paper, dropout=False)
    assert torch.equal(again.translate_tensor(x), before.translate_tensor(x))


def test_a_discriminator_that_theirs_cannot_hold_is_left_out_and_said(tmp_path: Path) -> None:
    save(trained(their_resnet(6)), tmp_path / "latest_net_G.pth")
    save(trained(their_pixels()), tmp_path / "latest_net_D.pth")
    import_weights(tmp_path, tmp_path / "ours")
    file = tmp_path / "ours/discriminator.safetensors"
    weights, described = load_weights(file)
    weights["layers.5.bias"] += 1
    save_weights(file, weights, {k: v for k, v in described.items() if k != "format"})
    done = export_weights(tmp_path / "ours", tmp_path / "back")
    assert any("left out: its last layer has a bias" in note for note in done.notes)
    assert not (tmp_path / "back/latest_net_D.pth").exists()


def test_a_run_of_ours_goes_there_and_back(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_data,
        training__steps=1,
        generator__architecture="resnet",
        generator__resnet_blocks=6,
        generator__base_channels=4,
    )
    run = pairloom.train(config, tmp_path / "run")
    export_weights(run, tmp_path / "theirs")
    import_weights(tmp_path / "theirs", tmp_path / "back")
    for network in ("generator", "discriminator"):
        ours, _ = load_weights(run / f"{network}.safetensors")
        back, _ = load_weights(tmp_path / f"back/{network}.safetensors")
        assert sorted(ours) == sorted(back)
        assert all(torch.equal(ours[name], back[name]) for name in ours)
    again = pairloom.train(
        tiny_config(
            tiny_data,
            training__steps=1,
            generator__architecture="resnet",
            generator__resnet_blocks=6,
            generator__base_channels=4,
            training__init_from=str(tmp_path / "back"),
        ),
        tmp_path / "tuned",
    )
    assert (again / "generator.safetensors").exists(), "imported weights can be trained further"
