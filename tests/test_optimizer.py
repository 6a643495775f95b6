"""Our Adam: torch's numbers, in whatever order weights and gradients lie in memory."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import nn

from pairloom.optimizer import Adam

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize(("weights", "gradients"), list(product(LAYOUTS, LAYOUTS)), ids=str)
def test_any_layout_gives_what_plain_adam_gives_in_double_precision(
    weights: torch.memory_format, gradients: torch.memory_format
) -> None:
    torch.manual_seed(0)
    first, bias = torch.randn(7, 5, 4, 4), torch.randn(7)
    ours = [nn.Parameter(first.clone().to(memory_format=weights)), nn.Parameter(bias.clone())]
    plain = [nn.Parameter(value.double()) for value in (first, bias)]
    adam, reference = Adam(ours, 2e-4, (0.5, 0.999)), torch.optim.Adam(plain, 2e-4, (0.5, 0.999))
    for _ in range(5):
        for own, other in zip(ours, plain, strict=True):
            g = torch.randn(own.shape)
            own.grad = g.to(memory_format=gradients) if g.ndim == 4 else g
            other.grad = g.double()
        adam.step()
        reference.step()
    for own, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=0, atol=1e-6)


def test_its_state_is_that_of_torch_and_back() -> None:
    torch.manual_seed(0)

    def made(kind: type[torch.optim.Adam]) -> tuple[nn.Parameter, torch.optim.Adam]:
        weight = nn.Parameter(torch.ones(3, 2, 4, 4))
        how = {} if kind is Adam else {"fused": True}
        return weight, kind([weight], lr=2e-4, betas=(0.5, 0.999), **how)

    gradient = torch.randn(3, 2, 4, 4)
    for one, other in ((Adam, torch.optim.Adam), (torch.optim.Adam, Adam)):
        (a, first), (b, second) = made(one), made(other)
        a.grad = gradient
        first.step()
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        b.data.copy_(a.data)
        a.grad, b.grad = 2 * gradient, 2 * gradient
        first.step()
        second.step()
        assert torch.equal(a, b)


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    weight, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    Adam([weight, idle], 2e-4, (0.5, 0.999)).step()
    assert torch.equal(idle, torch.ones(2))
    assert (weight < 1).all()
