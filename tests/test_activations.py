"""Activation checkpointing: the same numbers, less kept."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import tiny_config
from pairloom.config import ConfigError
from pairloom.training import TrainState, train_step
from test_training import stepped_with

ARCHITECTURES: list[dict[str, Any]] = [
    {"generator__skip": "concat"},
    {"generator__skip": "add"},
    {"generator__skip": "none", "generator__norm": "instance"},
    {"generator__noise": "gaussian", "generator__upsample": "resize"},
    {"generator__architecture": "resnet", "generator__resnet_blocks": 2},
    {"objective__gan_mode": "wgan-gp", "discriminator__norm": "instance"},
    {"discriminator__num_layers": 0},
]


def trained(again: bool, steps: int = 3, **fields: Any) -> tuple[TrainState, list[dict[str, Tensor]]]:
    """After some steps, and the losses and gradients of each; with a moving average, which is a copy of G."""
    config = tiny_config(
        "",
        generator__source_channels=3,
        generator__target_channels=3,
        generator__num_downs=None if "generator__architecture" in fields else 4,
        training__checkpoint_activations=again,
        training__ema_decay=0.9,
        **fields,
    )
    state = TrainState.create(config, torch.device("cpu"))
    rng = torch.Generator().manual_seed(1)
    logs = []
    for_g = stepped_with(state.optimizer_g, state.generator)
    for_d = stepped_with(state.optimizer_d, state.discriminator)
    for _ in range(steps):
        x, y = (torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
        losses = train_step(state, x, y, config.objective, nullcontext())
        gradients = {f"G.{name}": g for name, g in for_g.items()} | {
            f"D.{name}": g for name, g in for_d.items()
        }
        logs.append(losses | {name: g for name, g in gradients.items() if g is not None})
    return state, logs


@pytest.mark.parametrize("fields", ARCHITECTURES, ids=str)
def test_losses_gradients_weights_and_running_averages_are_the_same_bit_for_bit(
    fields: dict[str, Any],
) -> None:
    (plain, logs), (again, same) = trained(False, **fields), trained(True, **fields)
    assert again.generator.recompute
    assert [a.keys() for a in logs] == [b.keys() for b in same] and any("conv" in name for name in logs[0])
    assert all(torch.equal(a[name], b[name]) for a, b in zip(logs, same, strict=True) for name in a)
    assert plain.discriminator is not None and again.discriminator is not None
    for net, other in ((plain.generator, again.generator), (plain.discriminator, again.discriminator)):
        kept, anew = net.state_dict(), other.state_dict()
        assert kept.keys() == anew.keys()
        assert [name for name in kept if not torch.equal(kept[name], anew[name])] == []


def test_dropout_leaves_the_random_numbers_where_they_would_be() -> None:
    after = []
    for again in (False, True):
        trained(again)
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


def test_less_is_kept_between_forward_and_backward() -> None:
    def kept(again: bool) -> int:
        """Bytes allocated in a forward pass and not freed at its end."""
        state, _ = trained(again, steps=0)
        x = torch.rand(1, 3, 256, 256)
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            y_hat = state.generator(x)
        assert y_hat.requires_grad
        return sum(event.self_cpu_memory_usage for event in profile.key_averages())

    assert 0 < kept(True) < 0.5 * kept(False)


def test_in_eval_mode_and_without_gradients_nothing_differs() -> None:
    state, _ = trained(True, steps=1)
    x = torch.rand(1, 3, 32, 32)
    net = state.generator.eval()
    with torch.no_grad():
        first = net(x, key=3)
        net.recompute = False
        assert torch.equal(first, net(x, key=3))


@pytest.mark.parametrize("other", ["compile", "cuda_graphs", "sync_batch_norm"])
def test_what_does_not_go_together_is_refused(other: str) -> None:
    with pytest.raises(ConfigError, match=f"training.{other} is True"):
        tiny_config("", training__checkpoint_activations=True, **{f"training__{other}": True})
