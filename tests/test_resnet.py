"""ResNet generators: published counts, a layer-by-layer reference, borders, z, norms, training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pairloom
from conftest import tiny_config
from pairloom import noise
from pairloom.config import Config, ConfigError, DataConfig, GeneratorConfig
from pairloom.describe import describe
from pairloom.images import ImageSpec
from pairloom.networks import BatchNorm, ResNet, build_generator
from pairloom.resnet import reflected
from pairloom.translator import Semantics, Translator

SPEC = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 1, c: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, c, side, side, generator=seeded(seed)) * 2 - 1


def fields(**changes: Any) -> GeneratorConfig:
    given = {"architecture": "resnet", "source_channels": 3, "target_channels": 3, "base_channels": 4}
    return GeneratorConfig(**(given | {"resnet_blocks": 2} | changes))


def resnet(**changes: Any) -> ResNet:
    net = build_generator(fields(**changes), seeded())
    assert isinstance(net, ResNet)
    for parameter in net.parameters():  # large enough for every layer to matter
        parameter.data *= 3
    return net


def loud(net: ResNet) -> ResNet:
    """Norms with scales and shifts of their own, as after training."""
    rng = seeded(5)
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.weight.data = torch.rand(len(module.weight), generator=rng) + 0.5
            module.bias.data = torch.randn(len(module.bias), generator=rng) * 0.3
    return net


@pytest.mark.parametrize(
    ("changes", "golden"),
    [
        ({"resnet_blocks": 9, "norm": "instance", "noise": "none"}, 11_378_179),
        ({"resnet_blocks": 6, "norm": "instance", "noise": "none"}, 7_837_699),
        ({"resnet_blocks": 9, "norm": "batch"}, 11_383_427),
    ],
    ids=["9_instance", "6_instance", "9_batch"],
)
def test_golden_parameter_counts(changes: dict[str, Any], golden: int) -> None:
    """By hand: the kernels of c7s1-64, d128, d256, R256 x n, u128, u64, c7s1-3; then biases or norms."""
    n = changes["resnet_blocks"]
    convolutions = 147 * 64 + 9 * 64 * 128 + 9 * 128 * 256 + n * 2 * 9 * 256**2
    convolutions += 9 * 256 * 128 + 9 * 128 * 64 + 49 * 64 * 3
    normed = 64 + 128 + 256 + n * 2 * 256 + 128 + 64
    assert golden == convolutions + 3 + normed * (2 if changes["norm"] == "batch" else 1)
    net = build_generator(fields(base_channels=64, **changes))
    assert sum(p.numel() for p in net.parameters()) == golden


def reference(net: ResNet, x: Tensor) -> Tensor:
    """The published list, layer by layer, with each image's own statistics and without dropout."""

    def norm(h: Tensor, module: Any) -> Tensor:
        affine = (module.weight, module.bias) if isinstance(module, BatchNorm) else (None, None)
        return F.instance_norm(h, weight=affine[0], bias=affine[1])

    def layer(h: Tensor, part: Any, pad: int, stride: int = 1) -> Tensor:
        h = F.pad(h, (pad,) * 4, mode="reflect") if stride == 1 else h
        return norm(F.conv2d(h, part.conv.weight, part.conv.bias, stride, 0 if stride == 1 else 1), part.norm)

    h = F.relu(layer(x, net.downs[0], 3))
    h = F.relu(layer(h, net.downs[1], 0, 2))
    h = F.relu(layer(h, net.downs[2], 0, 2))
    for block in net.blocks:
        h = h + layer(F.relu(layer(h, block.first, 1)), block.second, 1)
    for up in net.ups:
        h = F.relu(norm(F.conv_transpose2d(h, up.conv.weight, up.conv.bias, 2, 1, 1), up.norm))
    return torch.tanh(F.conv2d(F.pad(h, (3,) * 4, mode="reflect"), net.last.weight, net.last.bias))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_it_computes_the_published_list(norm: str) -> None:
    net, x = loud(resnet(norm=norm)).eval(), images(2, side=24)
    net.set_norm_stats("image")
    expected = reference(net, x)
    assert torch.allclose(net(x), expected, atol=1e-5)
    assert expected.std() > 0.05
    assert net.stride == 4


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_biases_stand_where_no_batch_norm_follows(norm: str) -> None:
    net = resnet(norm=norm)
    biased = {name for name, _ in net.named_parameters() if name.endswith(("conv.bias", "last.bias"))}
    assert (biased == {"last.bias"}) == (norm == "batch")
    assert len(biased) == (1 if norm == "batch" else 3 + 4 + 2 + 1)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 12), (8, 4), (8, 8)])
def test_the_smallest_sides(height: int, width: int) -> None:
    net = resnet().eval()
    net.set_norm_stats("image")
    y_hat = net(images(side=16)[..., :height, :width])
    assert y_hat.shape == (1, 3, height, width)
    assert y_hat.isfinite().all()


def test_a_side_of_4_is_mirrored_to_8() -> None:
    net, x = resnet(noise="none").eval(), images(side=4)
    net.set_norm_stats("image")
    mirrored = x[..., [0, 1, 2, 3, 2, 1, 0, 1], :][..., [0, 1, 2, 3, 2, 1, 0, 1]]
    assert torch.equal(net(x), net(mirrored)[..., :4, :4])
    assert torch.equal(reflected(x, 1)[..., 0, 1:5], x[..., 1, :])


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_reach_and_receptive_field_by_gradient_support(upsample: str, blocks: int) -> None:
    net = resnet(
        source_channels=1,
        target_channels=1,
        base_channels=1,
        norm="none",
        noise="none",
        upsample=upsample,
        resnet_blocks=blocks,
    ).double()
    for parameter in net.parameters():  # positive and equal, so that no gradients cancel
        parameter.data.fill_(0.1)
    side, middle = 128, 64
    reach, field = 0, 0
    for pixel in range(middle, middle + 4):
        x = torch.full((1, 1, side, side), 1e-3, dtype=torch.float64, requires_grad=True)
        h: Tensor = x
        for down in net.downs:
            h = down(h)
        for block in net.blocks:
            h = block(h, None)
        for up in net.ups:
            h = up(h)
        net.last(reflected(h, 3))[0, 0, middle, pixel].backward()  # before tanh, which saturates
        assert x.grad is not None
        columns = (x.grad[0, 0] != 0).any(0).nonzero().flatten()
        first, last = int(columns[0]), int(columns[-1])
        assert first > 0 and last < side - 1, "the image is too small to tell"
        reach, field = max(reach, pixel - first, last - pixel), max(field, last - first + 1)
    assert (net.reach, net.receptive_field) == (reach, field)


def test_dropout_is_a_function_of_the_key_and_none_of_the_neighbours() -> None:
    net, x = resnet().eval(), images(3)
    net.set_norm_stats("image")
    first, second = noise.key(0, 0), noise.key(0, 1)
    torch.manual_seed(3)
    together = net(x, first)
    torch.manual_seed(4)
    alone = torch.cat([net(x[i : i + 1], first) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, net(x, second), atol=1e-2)
    assert not torch.allclose(together, net(x), atol=1e-2)
    assert [block.dropout.layer for block in net.blocks] == [1, 2]


def test_without_noise_there_is_no_dropout_and_a_gaussian_z_is_a_channel() -> None:
    assert all(block.dropout is None for block in resnet(noise="none").blocks)
    net, x = resnet(noise="gaussian").eval(), images()
    net.set_norm_stats("image")
    assert net.downs[0].conv.in_channels == 4
    assert not torch.allclose(net(x, 1), net(x, 2), atol=1e-3)


def test_statistics_by_name() -> None:
    net, x = loud(resnet(noise="none")), images(2)
    net.train()(images(4, seed=1))
    net.eval()
    outputs = []
    for stats in ("image", "running", "batch"):
        net.set_norm_stats(stats)  # type: ignore[arg-type]
        outputs.append(net(x))
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in itertools.pairwise(outputs))


def test_any_image_from_one_pixel_on_goes_through_a_translator() -> None:
    config = Config(data=DataConfig(crop_size=32), generator=fields())
    semantics = Semantics(norm_stats="image", dropout=True)
    translator = Translator(resnet(), SPEC, SPEC, config, semantics=semantics)
    for height, width in ((1, 1), (3, 17), (13, 6)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        assert translator(image).shape == (height, width, 3)
        assert (translator(image) == translator(image)).all()


def test_describe_counts_it_and_says_what_is_not_read() -> None:
    config = Config(
        generator=GeneratorConfig(architecture="resnet", norm="instance", noise="none", skip="add")
    )
    description = describe(config)
    assert description.generator_parameters == 11_378_179
    assert sum(layer.parameters for layer in description.generator) == 11_378_179
    assert [layer.size[0] for layer in description.generator] == [256, 128] + [64] * 19 + [128, 256, 256]
    assert "skip and dropout_blocks are the U-Net's, and not read" in description.words()
    with_dropout = describe(Config(generator=fields(resnet_blocks=6, base_channels=8)))
    dropped = [layer.name for layer in with_dropout.generator if "Dropout" in layer.kind]
    assert dropped == [f"blocks.{i}.first" for i in range(6)]
    assert describe(Config()).remark == ""


@pytest.mark.parametrize(
    ("crop", "generator", "named"),
    [
        (4, {}, "data.crop_size is 4"),
        (18, {}, "data.crop_size is 18"),
        (16, {"resnet_blocks": 0}, "generator.resnet_blocks is 0"),
    ],
)
def test_what_no_resnet_can_be(crop: int, generator: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Config(data=DataConfig(crop_size=crop), generator=fields(**generator))


def test_num_downs_is_not_read() -> None:
    config = Config(data=DataConfig(crop_size=36), generator=fields(num_downs=8))
    assert isinstance(build_generator(config.generator), ResNet)


def test_it_trains_and_is_loaded_again(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_data,
        training__steps=2,
        generator__architecture="resnet",
        generator__resnet_blocks=1,
        generator__base_channels=4,
    )
    run = pairloom.train(config, tmp_path / "run")
    translator = Translator.load(run, precision="fp32")
    assert isinstance(translator.generator, ResNet)
    assert translator.generator.stride == 4
    image = np.zeros((9, 11, 3), np.uint8)
    assert translator(image).shape == (9, 11, 3)
