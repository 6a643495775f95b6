"""The networks: the paper's counts, widths and receptive fields, and what their forward passes promise."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom import noise
from pairloom.config import DiscriminatorConfig, GeneratorConfig
from pairloom.layers import joined
from pairloom.networks import (
    BatchNorm,
    Discriminator,
    Dropout,
    Generator,
    build_discriminator,
    build_generator,
)

NORMS = ["batch", "instance", "none"]
STATS = ["image", "running", "batch"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 1, c: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(n, c, side, side, generator=seeded(seed)) * 2 - 1


def generator(seed: int = 0, **fields: Any) -> Generator:
    """A small one: depth 5, 4 base channels, unless said otherwise."""
    given = {"source_channels": 3, "target_channels": 3, "base_channels": 4, "num_downs": 5} | fields
    return build_generator(GeneratorConfig(**given), seeded(seed))


def discriminator(seed: int = 0, channels: tuple[int, int] = (3, 3), **fields: Any) -> Discriminator:
    given = {"base_channels": 4} | fields
    return build_discriminator(DiscriminatorConfig(**given), *channels, seeded(seed))


def paper_generator(**fields: Any) -> Generator:
    """Full size, without memory."""
    given = {"source_channels": 3, "target_channels": 3, "num_downs": 8} | fields
    return build_generator(GeneratorConfig(**given))


def convolutions(net: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, BatchNorm | nn.InstanceNorm2d)]


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def outputs_of(modules: list[nn.Module], net: nn.Module, *inputs: Any) -> list[Tensor]:
    """What each module gives during one forward pass of the net."""
    seen: dict[int, Tensor] = {}
    hooks = [m.register_forward_hook(lambda m, _, y: seen.__setitem__(id(m), y)) for m in modules]
    with torch.no_grad():
        net(*inputs)
    for hook in hooks:
        hook.remove()
    return [seen[id(m)] for m in modules]


def inputs_of(modules: list[nn.Module], net: nn.Module, *inputs: Any) -> list[Tensor]:
    """What each module is given during one forward pass of the net."""
    seen: dict[int, Tensor] = {}
    hooks = [m.register_forward_pre_hook(lambda m, args: seen.__setitem__(id(m), args[0])) for m in modules]
    with torch.no_grad():
        net(*inputs)
    for hook in hooks:
        hook.remove()
    return [seen[id(m)] for m in modules]


# ------------------------------------------------------------------------------------------------------------
# The paper's numbers


@pytest.mark.parametrize(
    ("fields", "golden"),
    [
        ({}, 54_413_955),
        ({"skip": "none"}, 39_075_459),
        ({"num_downs": 7}, 41_828_995),
        ({"source_channels": 1, "target_channels": 2}, 54_409_858),
    ],
    ids=["unet_256", "encoder_decoder", "unet_128", "colorization"],
)
def test_golden_parameter_counts_of_the_generators(fields: dict[str, Any], golden: int) -> None:
    assert count(paper_generator(**fields)) == golden


@pytest.mark.parametrize(
    ("num_layers", "golden"),
    # Pixel: the table's 9,024 and the bias that its last layer, like every other D's, has here.
    [(0, 9_025), (1, 139_585), (2, 666_433), (3, 2_768_705), (4, 6_964_033), (5, 11_159_361)],
)
def test_golden_parameter_counts_of_the_discriminators(num_layers: int, golden: int) -> None:
    assert count(build_discriminator(DiscriminatorConfig(num_layers=num_layers), 3, 3)) == golden


def test_golden_parameter_counts_of_three_channel_discriminators() -> None:
    unconditional = build_discriminator(DiscriminatorConfig(conditional=False), 3, 3)
    colorization = build_discriminator(DiscriminatorConfig(), 1, 2)
    assert count(unconditional) == count(colorization) == 2_765_633


def test_generators_have_the_layer_widths_of_the_appendix() -> None:
    encoder = [64, 128, 256, 512, 512, 512, 512, 512]
    unet, encoder_decoder = paper_generator(), paper_generator(skip="none")
    for net in (unet, encoder_decoder):
        assert [m.out_channels for m in convolutions(net.downs)] == encoder
    # The U-Net's list, CD512-CD1024-CD1024-C1024-C1024-C512-C256-C128, counts what enters each layer.
    assert [m.in_channels for m in convolutions(unet.ups)] == [512, 1024, 1024, 1024, 1024, 512, 256, 128]
    # The other decoder's, CD512-CD512-CD512-C512-C256-C128-C64, what leaves it; the code has one C512 more.
    for net in (unet, encoder_decoder):
        assert [m.out_channels for m in convolutions(net.ups)] == [512, 512, 512, 512, 256, 128, 64, 3]


def test_every_convolution_of_the_generator_is_4x4_of_stride_2() -> None:
    net = paper_generator()
    assert {(m.kernel_size, m.stride, m.padding) for m in convolutions(net)} == {((4, 4), (2, 2), (1, 1))}


@pytest.mark.parametrize(
    ("num_layers", "widths"),
    [
        (0, [64, 128, 1]),
        (1, [64, 128, 1]),
        (3, [64, 128, 256, 512, 1]),
        (5, [64, 128, 256, 512, 512, 512, 1]),
    ],
)
def test_discriminators_have_the_layer_widths_of_the_appendix(num_layers: int, widths: list[int]) -> None:
    net = build_discriminator(DiscriminatorConfig(num_layers=num_layers), 3, 3)
    assert [m.out_channels for m in convolutions(net)] == widths
    assert convolutions(net)[0].in_channels == 6


@pytest.mark.parametrize(
    ("num_layers", "side"), [(0, 256), (1, 126), (2, 62), (3, 30), (4, 14), (5, 6)], ids=str
)
def test_size_of_the_logit_map_at_256(num_layers: int, side: int) -> None:
    net = build_discriminator(DiscriminatorConfig(num_layers=num_layers), 3, 3)
    logits = net(*(torch.empty(2, 3, 256, 256, device="meta") for _ in range(2)))
    assert logits.shape == (2, 1, side, side)


def patch_of(net: Discriminator, side: int, row: int, column: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the pixels that reach one logit: where its gradient is not zero."""
    y = torch.zeros(1, 1, side, side, requires_grad=True)
    net(y, y)[0, 0, row, column].backward()
    assert y.grad is not None
    touched = y.grad[0, 0] != 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1], columns[0], columns[-1]))
    assert touched[top : bottom + 1, left : right + 1].all(), "the patch has holes"
    return top, bottom, left, right


@pytest.mark.parametrize(
    ("num_layers", "field", "jump"),
    [(0, 1, 1), (1, 16, 2), (2, 34, 4), (3, 70, 8), (4, 142, 16), (5, 286, 32)],
)
def test_receptive_field_measured_by_gradient_support(num_layers: int, field: int, jump: int) -> None:
    net = discriminator(
        channels=(1, 1), num_layers=num_layers, base_channels=1, norm="none", conditional=False
    )
    for parameter in net.parameters():  # positive and equal, so that no gradients cancel or underflow
        parameter.data.fill_(0.1)
    side = 2 * field + 4 * jump
    middle = (side // jump) // 2 - (num_layers > 0)
    top, bottom, left, right = patch_of(net, side, middle, middle)
    assert (bottom - top + 1, right - left + 1) == (field, field)
    below = patch_of(net, side, middle + 1, middle - 1)
    assert below == (top + jump, bottom + jump, left - jump, right - jump)
    assert (net.receptive_field, net.jump) == (field, jump)


# ------------------------------------------------------------------------------------------------------------
# Biases and norms


def test_batch_norm_leaves_biases_only_where_no_norm_follows_at_the_ends() -> None:
    net = generator()
    assert [m.bias is not None for m in convolutions(net)] == [False] * 9 + [True]
    for num_layers in (0, 1, 3, 5):
        biases = [m.bias is not None for m in convolutions(discriminator(num_layers=num_layers))]
        assert biases[0] and biases[-1] and not any(biases[1:-1])


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_without_batch_norm_every_convolution_has_a_bias(norm: str) -> None:
    for net in (generator(norm=norm), generator(norm=norm, upsample="resize"), discriminator(norm=norm)):
        assert all(m.bias is not None for m in convolutions(net))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_first_innermost_and_last_layer_of_the_generator_have_no_norm(norm: str) -> None:
    net = generator(norm=norm)
    assert [len(norms(block)) for block in net.downs] == [0, 1, 1, 1, 0]
    assert [len(norms(block)) for block in net.ups] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_first_and_last_layer_of_the_discriminator_have_no_norm(num_layers: int) -> None:
    kinds = [m for m in discriminator(num_layers=num_layers).layers if not isinstance(m, nn.LeakyReLU)]
    normed = [isinstance(after, BatchNorm) for after in [*kinds[1:], None]]
    follows = [n for m, n in zip(kinds, normed, strict=True) if isinstance(m, nn.Conv2d)]
    assert follows == [False] + [True] * max(num_layers, 1) + [False]


def test_instance_norm_has_no_affine_and_none_has_no_norm() -> None:
    assert not any(list(m.parameters()) for m in norms(generator(norm="instance")))
    assert not norms(generator(norm="none"))
    assert not norms(discriminator(norm="none"))


# ------------------------------------------------------------------------------------------------------------
# The forward pass


def unet_by_recursion(net: Generator, x: Tensor, level: int = 0) -> Tensor:
    """The U-Net as nested blocks, in training mode and without dropout: another way to say the same."""

    def normed(h: Tensor, norm: nn.Module) -> Tensor:
        return F.batch_norm(h, None, None, norm.weight, norm.bias, training=True) if norms(norm) else h

    deepest = len(net.downs) - 1
    down, up = net.downs[level], net.ups[deepest - level]
    h = F.conv2d(F.leaky_relu(x, 0.2) if level else x, down.conv.weight, None, 2, 1)
    skip = normed(h, down.norm)
    h = skip if level == deepest else unet_by_recursion(net, skip, level + 1)
    h = F.conv_transpose2d(F.relu(h), up.conv.weight, up.conv.bias, 2, 1)
    return torch.tanh(h) if level == 0 else torch.cat([normed(h, up.norm), x], 1)


def test_the_generator_computes_the_unet() -> None:
    net, x = generator(noise="none", num_downs=4).train(), images(2, side=16)
    for parameter in net.parameters():  # large enough for every layer to matter
        parameter.data *= 8
    expected = unet_by_recursion(net, x)
    assert torch.allclose(net(x), expected, atol=1e-5)
    assert expected.std() > 0.05


def test_the_discriminator_computes_the_patchgan() -> None:
    net = discriminator(channels=(2, 3), num_layers=3).train()
    reference = nn.Sequential(
        *(nn.Conv2d(5, 4, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(16, 32, 4, 1, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2)),
        nn.Conv2d(32, 1, 4, 1, 1),
    )
    reference.load_state_dict(net.layers.state_dict())
    x, y = images(2, 2, 64), images(2, 3, 64, seed=1)
    assert torch.allclose(net(x, y), reference(torch.cat([x, y], 1)), atol=1e-6)


@pytest.mark.parametrize("skip", ["concat", "add", "none"])
def test_what_enters_the_decoder_with_each_kind_of_skip(skip: str) -> None:
    net, x = generator(skip=skip, noise="none").train(), images()
    downs, ups = list(net.downs), list(net.ups)
    encoded, decoded, given = outputs_of(downs, net, x), outputs_of(ups, net, x), inputs_of(ups, net, x)
    assert torch.equal(given[0], encoded[-1])
    for i in range(1, 5):
        below, mirror = decoded[i - 1], encoded[4 - i]
        expected = {"concat": torch.cat([below, mirror], 1), "add": below + mirror, "none": below}[skip]
        assert torch.equal(given[i], expected)


@pytest.mark.parametrize("skip", ["concat", "add", "none"])
@pytest.mark.parametrize("upsample", ["transposed", "resize"])
def test_shape_and_range_of_the_output(skip: str, upsample: str) -> None:
    net = generator(skip=skip, upsample=upsample).train()
    for parameter in net.parameters():  # drive tanh into its limits
        parameter.data *= 30
    x = torch.rand(2, 3, 32, 64, generator=seeded()) * 2 - 1
    torch.manual_seed(0)
    y_hat = net(x)
    assert y_hat.shape == (2, 3, 32, 64)
    assert y_hat.dtype == torch.float32
    assert 0.9 < y_hat.abs().max() <= 1


def test_resize_upsampling_doubles_by_nearest_neighbour() -> None:
    net, x = generator(upsample="resize", noise="none").eval(), images()
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in net.modules())
    conv = next(m for m in net.ups[1].modules() if isinstance(m, nn.Conv2d))
    assert (conv.kernel_size, conv.stride) == ((3, 3), (1, 1))
    (given,), (convolved,) = inputs_of([net.ups[1]], net, x), inputs_of([conv], net, x)
    assert torch.equal(convolved, F.relu(given).repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(("source", "target"), [(1, 1), (1, 2), (5, 1), (13, 7)])
def test_any_numbers_of_channels(source: int, target: int) -> None:
    x = images(1, source)
    y_hat = generator(source_channels=source, target_channels=target).eval()(x)
    assert y_hat.shape == (1, target, 32, 32)
    assert discriminator(channels=(source, target)).eval()(x, y_hat).shape == (1, 1, 2, 2)


@pytest.mark.parametrize("depth", range(1, 9))
def test_every_depth_trains_at_batch_1_on_its_smallest_crop(depth: int) -> None:
    """At 1x1 the bottleneck holds one number a channel: a norm there would erase it (Section 6.3)."""
    net, x = generator(num_downs=depth, noise="none").train(), images(side=2**depth)
    assert net.stride == 2**depth
    (bottleneck,) = outputs_of([net.downs[-1]], net, x)
    assert bottleneck.shape[-2:] == (1, 1)
    assert (bottleneck != 0).all()
    y_hat = net(x)
    assert y_hat.shape == x.shape
    assert y_hat.isfinite().all()
    y_hat.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert net.downs[-1].conv.weight.grad.abs().max() > 0


def test_the_output_is_float32_and_the_last_convolution_too_under_bf16_autocast() -> None:
    for mode, n in itertools.product((True, False), (1, 2)):
        net, x = generator().train(mode), images(n)
        net.set_norm_stats("image")
        first, last = net.ups[0].conv, net.ups[-1].conv
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y_hat = net(x)
            inner, outer = outputs_of([first, last], net, x)
        assert (inner.dtype, outer.dtype, y_hat.dtype) == (torch.bfloat16, torch.float32, torch.float32)
        assert y_hat.abs().max() <= 1


def test_the_unconditional_discriminator_does_not_see_the_source() -> None:
    y = images(seed=1)
    blind, seeing = discriminator(conditional=False), discriminator()
    assert torch.equal(blind(images(seed=2), y), blind(images(seed=3), y))
    assert not torch.equal(seeing(images(seed=2), y), seeing(images(seed=3), y))
    assert not torch.equal(blind(images(seed=2), y), blind(images(seed=2), -y))


# ------------------------------------------------------------------------------------------------------------
# Initial weights


def test_initial_weights_are_normal_with_the_papers_deviation() -> None:
    for net in (generator(base_channels=16), discriminator(base_channels=32)):
        for conv in convolutions(net):
            n = conv.weight.numel()
            assert abs(conv.weight.mean().item()) < 5 * 0.02 / n**0.5
            assert conv.weight.std().item() == pytest.approx(0.02, rel=5 / (2 * n) ** 0.5)
            assert conv.bias is None or not conv.bias.any()
        weights = torch.cat([conv.weight.flatten() for conv in convolutions(net)]) / 0.02
        assert (weights**4).mean().item() == pytest.approx(3, abs=0.15), "not a normal distribution"


def test_initial_norms_scale_by_about_one_and_their_averages_are_fresh() -> None:
    net = generator(base_channels=32)
    scales = torch.cat([norm.weight for norm in norms(net)])
    assert scales.mean().item() == pytest.approx(1, abs=5 * 0.02 / len(scales) ** 0.5)
    assert scales.std().item() == pytest.approx(0.02, rel=5 / (2 * len(scales)) ** 0.5)
    for norm in norms(net):
        assert not norm.bias.any()
        assert not norm.running_mean.any()
        assert (norm.running_var == 1).all()
        assert norm.num_batches_tracked == 0


def test_same_seed_same_weights_other_seed_others() -> None:
    for build in (generator, discriminator):
        torch.manual_seed(1)
        first = build(seed=3).state_dict()
        torch.manual_seed(2)
        again, other = build(seed=3).state_dict(), build(seed=4).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not any(torch.equal(first[n], other[n]) for n in first if n.endswith("conv.weight"))


# ------------------------------------------------------------------------------------------------------------
# Whose statistics batch norm uses


def by_hand(x: Tensor, mean: Tensor, var: Tensor, norm: BatchNorm) -> Tensor:
    scale, shift = (p.detach().view(1, -1, 1, 1) for p in (norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(var + norm.eps) * scale + shift


@pytest.mark.parametrize("stats", STATS)
@pytest.mark.parametrize("n", [1, 3])
def test_batch_norm_at_inference_computes_what_its_name_says(stats: str, n: int) -> None:
    norm = BatchNorm(4)
    rng = seeded()
    norm.weight.data, norm.bias.data = torch.rand(4, generator=rng) + 0.5, torch.randn(4, generator=rng)
    norm.running_mean, norm.running_var = torch.randn(4, generator=rng), torch.rand(4, generator=rng) + 0.5
    norm.stats = stats  # type: ignore[assignment]
    x = torch.randn(n, 4, 5, 6, generator=rng) * torch.tensor([1.0, 5.0, 2.0])[:n].view(-1, 1, 1, 1) + 3
    dims = {"image": (2, 3), "batch": (0, 2, 3)}
    if stats == "running":
        mean, var = norm.running_mean.view(1, -1, 1, 1), norm.running_var.view(1, -1, 1, 1)
    else:
        mean = x.mean(dims[stats], keepdim=True)
        var = x.var(dims[stats], keepdim=True, correction=0)
    assert torch.allclose(norm.eval()(x), by_hand(x, mean, var, norm), atol=1e-5)


@pytest.mark.parametrize("stats", ["image", "running"])
def test_an_image_does_not_depend_on_its_neighbours(stats: str) -> None:
    net, x = generator(), images(3)
    net.train()(images(3, seed=5))  # running averages other than the initial ones
    net.eval().set_norm_stats(stats)  # type: ignore[arg-type]
    alone = net(x[1:2], noise.key(0))
    assert torch.allclose(net(x, noise.key(0))[1:2], alone, atol=1e-5)
    assert torch.allclose(net(x.flip(0), noise.key(0))[1:2], alone, atol=1e-5)


def test_with_the_batchs_statistics_neighbours_matter() -> None:
    net = generator(noise="none").eval()
    net.set_norm_stats("batch")
    x = images(2) * torch.tensor([1.0, 0.1]).view(2, 1, 1, 1)
    assert not torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)


@pytest.mark.parametrize("stats", ["image", "batch"])
def test_at_batch_1_the_papers_test_mode_is_the_training_mode(stats: str) -> None:
    net, x = generator(noise="none"), images()
    net.set_norm_stats(stats)  # type: ignore[arg-type]
    trained = net.train()(x)
    assert torch.allclose(net.eval()(x), trained, atol=1e-6)


@pytest.mark.parametrize("stats", STATS)
def test_no_eval_forward_changes_the_running_averages(stats: str) -> None:
    G, D = generator(), discriminator()
    x = images(2)
    for net, inputs in ((G, (x,)), (D, (x, x))):
        for module in norms(net):
            module.stats = stats
        before = {name: value.clone() for name, value in net.eval().state_dict().items()}
        net(*inputs)
        net(*(i[:1] for i in inputs))
        after = net.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        net.train()(*inputs)
        averages = [name for name in before if "running" in name or "tracked" in name]
        assert averages
        assert not any(torch.equal(before[name], after[name]) for name in averages)


def test_the_discriminator_at_inference_judges_each_image_by_its_own_statistics() -> None:
    D, x, y = discriminator().eval(), images(3), images(3, seed=1)
    assert torch.allclose(D(x, y)[:1], D(x[:1], y[:1]), atol=1e-5)
    assert torch.allclose(D(x[:1], y[:1]), D.train()(x[:1], y[:1]), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------
# z


@pytest.mark.parametrize("blocks", [(1, 2, 3), (2, 3, 4), ()])
def test_dropout_is_in_the_blocks_named_counted_from_the_innermost(blocks: tuple[int, ...]) -> None:
    net = generator(base_channels=16, num_downs=7, dropout_blocks=blocks).train()
    torch.manual_seed(0)
    outputs = outputs_of(list(net.ups), net, images(4, side=128))
    zeros = [(y == 0).float().mean().item() for y in outputs]
    assert [block for block, share in enumerate(zeros, 1) if share > 0.3] == list(blocks)
    assert all(share == 0 for block, share in enumerate(zeros, 1) if block not in blocks)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_comes_after_the_norm_and_before_the_concat(training: bool) -> None:
    net, x = generator(base_channels=16).train(training), images(2)
    modules = [net.ups[0].norm, net.ups[0], net.downs[3]]
    key = noise.key(0)
    torch.manual_seed(0)
    normed, dropped, skip = outputs_of(modules, net, x, key)
    kept = dropped != 0
    assert 0.3 < kept.float().mean() < 0.7
    assert torch.allclose(dropped[kept], 2 * normed[kept])
    torch.manual_seed(0)
    (joined,) = inputs_of([net.ups[1]], net, x, key)
    assert torch.equal(joined, torch.cat([dropped, skip], 1))
    assert (skip != 0).all(), "skip channels are never dropped"


def test_the_last_layer_is_never_dropped() -> None:
    net = generator(num_downs=2, dropout_blocks=(1, 2, 3)).train()
    assert [block.dropout is not None for block in net.ups] == [True, False]


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_dropout_at_inference_drops_its_rate_and_keeps_the_mean(rate: float) -> None:
    dropout = Dropout(rate, 1).eval()
    ones = torch.ones(2, 64, 32, 32)
    y = dropout(ones, noise.key(7))
    assert (y == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - rate)))
    assert torch.equal(y[0], y[1]), "one mask for all images of a batch"
    assert torch.equal(dropout(ones, None), ones)


def test_the_mask_at_inference_follows_from_the_key_alone() -> None:
    net, x = generator(base_channels=16).eval(), images()
    net.set_norm_stats("image")
    torch.manual_seed(1)
    first = net(x, noise.key(0))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(net(x, noise.key(0)), first)
    assert torch.equal(torch.get_rng_state(), state), "inference must not advance torch's RNG"
    assert not torch.allclose(net(x, noise.key(1)), first, atol=1e-4)
    assert not torch.allclose(net(x, noise.key(0, sample=1)), first, atol=1e-4)
    assert not torch.allclose(net(x), first, atol=1e-4)
    assert torch.equal(net(x), net(x)), "no key, no dropout"


def test_the_blocks_have_masks_of_their_own() -> None:
    net = generator(base_channels=16, num_downs=4).eval()
    dropouts = [block.dropout for block in net.ups if block.dropout is not None]
    masks = [dropout(torch.ones(1, 64, 8, 8), noise.key(0)) for dropout in dropouts]
    assert len(masks) == 3
    for a, b in itertools.combinations(masks, 2):
        assert (a == b).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_dropout_in_training_follows_torchs_generator() -> None:
    net, x = generator().train(), images()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(net(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_without_noise_training_uses_no_random_numbers() -> None:
    net, x = generator(noise="none").train(), images()
    state = torch.get_rng_state()
    assert torch.equal(net(x), net(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_gaussian_z_is_one_more_source_channel() -> None:
    net = generator(noise="gaussian")
    x = images(2, side=64)
    first = [net.downs[0].conv]

    def given(*arguments: Any) -> Tensor:
        (joined,) = inputs_of(first, net, *arguments)
        assert torch.equal(joined[:, :3], x)
        assert joined.shape[1] == 4
        return joined[:, 3]

    net.eval()
    assert not given(x).any(), "without a key, z is zero"
    z = given(x, noise.key(3))
    assert torch.equal(z, given(x, noise.key(3)))
    assert torch.equal(z[0], z[1]), "an image's z does not depend on its place in the batch"
    assert not torch.equal(z, given(x, noise.key(4)))
    assert (z.mean().item(), z.std().item()) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))
    net.train()
    torch.manual_seed(0)
    trained = given(x, noise.key(3))
    assert not torch.equal(trained[0], trained[1])
    assert (trained.mean().item(), trained.std().item()) == (
        pytest.approx(0, abs=0.1),
        pytest.approx(1, abs=0.1),
    )
    assert not any(isinstance(m, Dropout) for m in net.modules())


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_joined_is_cat_whose_gradients_are_no_views(layout: torch.memory_format) -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(2, c, 6, 6, generator=rng).to(memory_format=layout).requires_grad_(True) for c in (3, 5)
    )
    y = joined(a, b)
    assert torch.equal(y, torch.cat([a, b], 1))
    g = torch.randn(2, 8, 6, 6, generator=rng).to(memory_format=layout)
    for found, expected in zip(torch.autograd.grad(y, [a, b], g), g.split([3, 5], 1), strict=True):
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=layout)
