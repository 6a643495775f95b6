"""Small maps as matrix products: the numbers of the convolution, to the rounding of bf16."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pairloom import small_maps
from pairloom.config import GeneratorConfig
from pairloom.networks import build_generator

SIDES = ((1, 1), (2, 2), (1, 2), (2, 1), (4, 4), (2, 8), (3, 5))


def layer(transposed: bool, *, bias: bool) -> nn.Module:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    return kind(24, 40, 4, stride=2, padding=1, bias=bias).to(memory_format=torch.channels_last)


def error(got: Tensor, true: Tensor) -> float:
    return float((got.detach().double() - true.detach()).norm() / true.detach().norm())


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
def test_output_and_gradients_are_those_of_the_convolution_in_double_precision(
    transposed: bool, batch: int, sides: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = layer(transposed, bias=True)
    true = layer(transposed, bias=True).double()
    true.load_state_dict({name: value.double() for name, value in conv.state_dict().items()})
    height, width = sides if transposed else (2 * sides[0], 2 * sides[1])
    x = torch.randn(batch, 24, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
    x_true = x.detach().double().requires_grad_()
    y_true = true(x_true)
    g = torch.randn_like(y_true)
    y_true.backward(g)

    with torch.autocast("cpu", torch.bfloat16):
        assert small_maps.suits(x, conv)
        y = small_maps.convolved(x, conv)
    y.backward(g.to(y.dtype))  # rounded once more on its way in

    # One rounding to bf16 is 2^-9 at most; an output or a gradient has seen two or three.
    assert y.dtype == torch.bfloat16
    assert error(y, y_true) < 0.005
    assert error(conv.weight.grad, true.weight.grad) < 0.005
    assert error(conv.bias.grad, true.bias.grad) < 0.005
    assert error(x.grad, x_true.grad) < 0.005


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
def test_a_gradient_lies_in_memory_as_its_weight_does(transposed: bool) -> None:
    conv = layer(transposed, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        small_maps.convolved(torch.randn(1, 24, 4, 4), conv).float().sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()


def test_only_small_maps_of_a_training_in_bf16_go_this_way() -> None:
    conv, x = layer(False, bias=False), torch.randn(1, 24, 4, 4)
    assert not small_maps.suits(x, conv)  # fp32
    with torch.autocast("cpu", torch.bfloat16):
        assert small_maps.suits(x, conv)
        assert not small_maps.suits(torch.empty(1, 24, 64, 64), conv)
        assert not small_maps.suits(x, nn.Conv2d(24, 40, 4, stride=1, padding=1))
        assert not small_maps.suits(x, nn.Conv2d(24, 40, 3, stride=2, padding=1))
        with torch.no_grad():
            assert not small_maps.suits(x, conv)


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
@pytest.mark.parametrize(
    "other",
    [
        {"kernel_size": 3},
        {"stride": 1},
        {"stride": (2, 1)},
        {"padding": 0},
        {"dilation": 2, "padding": 3},
        {"groups": 2},
        {"padding_mode": "reflect"},
        {"output_padding": 1},
    ],
    ids=str,
)
def test_layers_of_another_geometry_are_left_to_torch(transposed: bool, other: dict[str, Any]) -> None:
    if ("output_padding" in other and not transposed) or ("padding_mode" in other and transposed):
        pytest.skip("torch has no such layer")
    given: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False} | other
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(4, 6, **given)
    x = torch.randn(1, 4, 8, 8)
    assert small_maps.smaller_map(x, conv) == math.inf
    with torch.autocast("cpu", torch.bfloat16):
        assert not small_maps.suits(x, conv)
        assert torch.equal(small_maps.convolved(x, conv), conv(x))


@pytest.mark.parametrize("transposed", [False, True], ids=["strided", "transposed"])
def test_a_second_derivative_is_refused_and_not_wrong(transposed: bool) -> None:
    conv, x = layer(transposed, bias=False), torch.randn(1, 24, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = small_maps.convolved(x, conv)
    (g,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.square().sum().backward()


def test_in_fp32_and_at_inference_the_layers_are_called_as_they_are() -> None:
    conv, x = layer(True, bias=True), torch.randn(2, 24, 2, 2)
    assert torch.equal(small_maps.convolved(x, conv), conv(x))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(small_maps.convolved(x, conv), conv(x))


def test_a_whole_generator_has_gradients_as_true_as_the_convolutions_in_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Norms make bf16's rounding large, in either way; against fp32 one is as far off as the other."""

    def gradients(seed: int, *, bf16: bool) -> list[Tensor]:
        config = GeneratorConfig(
            source_channels=3, target_channels=3, base_channels=8, num_downs=5, noise="none"
        )
        G = build_generator(config, torch.Generator().manual_seed(seed)).train()
        G.to(memory_format=torch.channels_last)
        torch.manual_seed(seed)
        x = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y_hat = G(x)
        (y_hat * torch.randn_like(y_hat)).sum().backward()
        return [parameter.grad for parameter in G.parameters()]

    ours, theirs = [], []
    for seed in range(8):
        true = [gradient.double() for gradient in gradients(seed, bf16=False)]
        ours += [error(got, t) for got, t in zip(gradients(seed, bf16=True), true, strict=True)]
        with monkeypatch.context() as patch:
            patch.setattr(small_maps, "LARGEST_PRODUCT", 0)
            theirs += [error(got, t) for got, t in zip(gradients(seed, bf16=True), true, strict=True)]
    assert ours != theirs, "both ways were gone"
    assert statistics.mean(ours) < 1.05 * statistics.mean(theirs)
