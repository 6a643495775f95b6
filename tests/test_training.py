"""The step of Section 3.3: who learns when, from what; and the state around it."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import tiny_config
from pairloom import presets
from pairloom.config import Config
from pairloom.training import TrainState, learning_rate, train_step, update_ema

CPU = torch.device("cpu")
MODES = ("vanilla", "lsgan", "hinge", "wgan-gp")


def resolved(**fields: Any) -> Config:
    """The preset `tiny` with 3 + 3 channels."""
    return tiny_config(
        "",
        **{
            "generator__source_channels": 3,
            "generator__target_channels": 3,
            "generator__num_downs": 5,
            **fields,
        },
    )


def batch(n: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(n, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
    return x, y


def step(state: TrainState, config: Config, n: int = 1, seed: int = 0) -> dict[str, Tensor]:
    return train_step(state, *batch(n, seed), config.objective, nullcontext())


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, without the buffers."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def gradients(net: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def stepped_with(optimizer: torch.optim.Optimizer | None, net: nn.Module | None) -> dict[str, Tensor | None]:
    """Filled by each step of the optimizer with the gradients that it had; none outlives the step."""
    kept: dict[str, Tensor | None] = {}
    if optimizer is not None and net is not None:
        optimizer.register_step_pre_hook(lambda *_: kept.update(gradients(net)))
    return kept


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    assert a.keys() == b.keys()
    return all(
        torch.equal(a[k], b[k]) if isinstance(a[k], Tensor) and isinstance(b[k], Tensor) else a[k] is b[k]
        for k in a
    )


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k] - b[k]).abs().max()) for k in a)


# -----------------------------------------------------------------------------------------------------------
# Who learns when


def test_d_learns_while_g_is_frozen_and_the_reverse():
    config = resolved()
    state = TrainState.create(config, CPU)
    G, D = state.generator, state.discriminator
    assert D is not None and state.optimizer_d is not None
    before_g, before_d = weights(G), weights(D)
    seen: dict[str, Any] = {}

    def after_d(*_: object) -> None:
        seen["order"] = [*seen.get("order", []), "D"]
        seen["g"], seen["g_grad"] = weights(G), gradients(G)
        seen["d"] = weights(D)

    def after_g(*_: object) -> None:
        seen["order"] = [*seen.get("order", []), "G"]
        seen["d_grad"] = gradients(D)

    state.optimizer_d.register_step_post_hook(after_d)
    state.optimizer_g.register_step_post_hook(after_g)
    step(state, config)

    assert seen["order"] == ["D", "G"]
    # D's step: every weight of D moved, none of G did, and G got no gradient.
    assert equal(seen["g"], before_g)
    assert all(gradient is None for gradient in seen["g_grad"].values())
    assert not any(torch.equal(seen["d"][k], before_d[k]) for k in before_d)
    # G's step: every weight of G moved, D is as its own step left it, and D got no gradient.
    assert not any(torch.equal(p, before_g[k]) for k, p in G.named_parameters())
    assert equal(weights(D), seen["d"])
    assert all(gradient is None for gradient in seen["d_grad"].values())
    # The memory of gradients serves the next forward pass.
    assert all(gradient is None for gradient in (gradients(G) | gradients(D)).values())


def test_one_generated_image_serves_both_and_real_and_fake_pass_d_apart():
    config = resolved()
    state = TrainState.create(config, CPU)
    made: list[Tensor] = []
    judged: list[tuple[Tensor, Tensor, bool]] = []
    state.generator.register_forward_hook(lambda _m, _i, output: made.append(output))
    assert state.discriminator is not None
    state.discriminator.register_forward_hook(
        lambda _m, inputs, _o: judged.append((inputs[0], inputs[1].detach(), inputs[1].requires_grad))
    )
    x, y = batch(2)
    train_step(state, x, y, config.objective, nullcontext())

    assert len(made) == 1
    assert [learns_g for _, _, learns_g in judged] == [False, False, True]
    assert all(torch.equal(given, x) for given, _, _ in judged)
    for (_, image, _), expected in zip(judged, (y, made[0], made[0]), strict=True):
        assert torch.equal(image, expected)


def test_d_sees_x_only_when_conditional():
    outputs = []
    for conditional in (True, False):
        config = resolved(discriminator__conditional=conditional)
        state = TrainState.create(config, CPU)
        assert state.discriminator is not None
        _, y = batch(seed=1)
        outputs.append([state.discriminator(batch(seed=s)[0], y) for s in (2, 3)])
    assert not torch.equal(*outputs[0])
    assert torch.equal(*outputs[1])


# -----------------------------------------------------------------------------------------------------------
# Against a step written down independently, in plain torch


def reference_step(
    config: Config, G: nn.Module, D: nn.Module | None, x: Tensor, y: Tensor, *, stale_d: bool = False
) -> None:
    """Section 3.3 once more, with nothing of ours but the two networks; `stale_d` is a mistake on purpose."""
    o, t = config.objective, config.training
    adam = {"lr": t.learning_rate, "betas": (t.beta1, t.beta2)}
    y_hat = G(x)
    stale = copy.deepcopy(D)
    if D is not None:
        real, fake = D(x, y), D(x, y_hat.detach())
        ones, zeros = torch.ones_like(real), torch.zeros_like(real)
        if o.gan_mode == "vanilla":
            cross_entropy = F.binary_cross_entropy_with_logits
            loss = cross_entropy(real, ones) + cross_entropy(fake, zeros)
        elif o.gan_mode == "lsgan":
            loss = F.mse_loss(real, ones) + F.mse_loss(fake, zeros)
        elif o.gan_mode == "hinge":
            loss = (ones - real).clamp(min=0).mean() + (ones + fake).clamp(min=0).mean()
        else:
            loss = fake.mean() - real.mean()
        if o.gan_mode == "wgan-gp":
            share = torch.rand(len(x), 1, 1, 1)
            between = (share * y + (1 - share) * y_hat.detach()).requires_grad_()
            slope = torch.autograd.grad(D(x, between).mean((1, 2, 3)).sum(), between, create_graph=True)[0]
            loss = loss + o.gradient_penalty * ((slope.square().sum((1, 2, 3)).sqrt() - 1) ** 2).mean()
        loss = loss * (0.5 if o.halve_d else 1.0)  # the whole of D's objective
        optimizer = torch.optim.Adam(D.parameters(), **adam)
        loss.backward()
        optimizer.step()

    loss = torch.zeros(())
    if D is not None:
        D.requires_grad_(False)
        fake = (stale if stale_d else D)(x, y_hat)
        if o.gan_mode == "vanilla":
            label = torch.zeros_like(fake) if o.saturating else torch.ones_like(fake)
            sign = -1 if o.saturating else 1
            loss = sign * F.binary_cross_entropy_with_logits(fake, label)
        elif o.gan_mode == "lsgan":
            loss = F.mse_loss(fake, torch.ones_like(fake))
        else:
            loss = -fake.mean()
        loss = o.lambda_gan * loss
    loss = loss + o.lambda_l1 * F.l1_loss(y_hat, y) + o.lambda_l2 * F.mse_loss(y_hat, y)
    optimizer = torch.optim.Adam(G.parameters(), **adam)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def apart(net: nn.Module, gradients: dict[str, Tensor | None], reference: nn.Module) -> float:
    """The largest difference of two networks' weights after a step, with these gradients of the first.

    Adam's first step is rate * g / (|g| + 1e-8): where g is as small as its own rounding error, the weight
    says nothing; there both gradients must be as small.
    """
    largest, compared, count = 0.0, 0, 0
    for (name, ours), theirs in zip(net.named_parameters(), reference.parameters(), strict=True):
        gradient = gradients[name]
        assert gradient is not None and theirs.grad is not None
        size = theirs.grad.abs()
        sound = (size > 1e-4 * size.max()) | (size == 0)
        if (gradient[~sound].abs() > 2e-4 * size.max()).any():
            return float("inf")
        largest = max(largest, float((ours - theirs).detach()[sound].abs().max()))
        compared, count = compared + int(sound.sum()), count + sound.numel()
    assert compared > 0.9 * count
    return largest


def both_ways(config: Config, n: int, **mistake: bool) -> tuple[float, float]:
    """One step by `train_step` and one by the reference: how far apart G's and D's weights are."""
    state = TrainState.create(config, CPU)
    G, D = copy.deepcopy(state.generator), copy.deepcopy(state.discriminator)
    for_g = stepped_with(state.optimizer_g, state.generator)
    for_d = stepped_with(state.optimizer_d, state.discriminator)
    x, y = batch(n)
    rng = torch.get_rng_state()
    train_step(state, x, y, config.objective, nullcontext())
    torch.set_rng_state(rng)
    reference_step(config, G, D, x, y, **mistake)
    assert (D is None) == (state.discriminator is None)
    d = 0.0 if D is None or state.discriminator is None else apart(state.discriminator, for_d, D)
    return apart(state.generator, for_g, G), d


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 3])
def test_a_step_equals_the_reference(mode, n):
    g, d = both_ways(resolved(objective__gan_mode=mode), n)
    assert g < 1e-6
    assert d < 1e-6


@pytest.mark.parametrize(
    "objective",
    [
        {"saturating": True},
        {"halve_d": False},
        {"lambda_gan": 0.0},
        {"lambda_l1": 0.0},
        {"lambda_l1": 0.0, "lambda_l2": 10.0},
        {"lambda_l1": 5.0, "lambda_l2": 7.0, "lambda_gan": 3.0},
    ],
    ids=str,
)
def test_a_step_equals_the_reference_with_other_weights(objective):
    config = resolved(**{f"objective__{name}": value for name, value in objective.items()})
    g, d = both_ways(config, 2)
    assert g < 1e-6
    assert d < 1e-6


@pytest.mark.parametrize("preset", [presets.l1, presets.gan, presets.cgan, presets.l1_gan, presets.l1_cgan])
def test_the_papers_five_objectives_equal_the_reference(preset):
    g, d = both_ways(preset(resolved()), 1)
    assert g < 1e-6
    assert d < 1e-6


def test_g_is_judged_by_the_updated_d():
    # The comparison above would notice the opposite: a G step against the D of before moves G elsewhere.
    config = resolved(objective__lambda_l1=0.0, training__learning_rate=0.01)
    right, _ = both_ways(config, 2)
    wrong, _ = both_ways(config, 2, stale_d=True)
    assert right < 1e-5 < 1e-3 < wrong


@pytest.mark.parametrize("which", ["G", "D"])
def test_both_learn_by_adam_with_the_papers_momenta(which):
    config = resolved()
    state = TrainState.create(config, CPU)
    net = state.generator if which == "G" else state.discriminator
    optimizer = state.optimizer_g if which == "G" else state.optimizer_d
    assert net is not None and optimizer is not None
    kernel = next(net.parameters())
    seen: list[Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(kernel.grad.clone()))
    for seed in (1, 2):
        step(state, config, seed=seed)
    first, second = seen
    moments = optimizer.state[kernel]
    # beta1 0.5, beta2 0.999 (Section 3.3)
    assert torch.allclose(moments["exp_avg"], 0.25 * first + 0.5 * second, rtol=1e-3, atol=1e-8)
    squares = 0.001 * (0.999 * first**2 + second**2)
    assert torch.allclose(moments["exp_avg_sq"], squares, rtol=1e-3, atol=1e-12)
    assert optimizer.param_groups[0]["lr"] == 2e-4


def test_halving_halves_ds_gradients():
    # Adam hides a constant factor from the weights, so the gradients are compared.
    found = []
    for halve in (True, False):
        config = resolved(objective__halve_d=halve)
        state = TrainState.create(config, CPU)
        had = stepped_with(state.optimizer_d, state.discriminator)
        logs = step(state, config)
        found.append((had, logs["D_real"], logs["D_fake"]))
    (halved, *logged), (whole, *logged_whole) = found
    for name, gradient in halved.items():
        assert torch.allclose(2 * gradient, whole[name], rtol=1e-5, atol=1e-9)
    assert logged == logged_whole  # the log has D's terms as they are


# -----------------------------------------------------------------------------------------------------------
# Objectives


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 4])
def test_every_mode_trains_both_networks(mode, n):
    config = resolved(objective__gan_mode=mode)
    state = TrainState.create(config, CPU)
    assert state.discriminator is not None
    for count in (1, 2):
        g, d = weights(state.generator), weights(state.discriminator)
        logs = step(state, config, n, seed=count)
        assert all(torch.isfinite(value) for value in logs.values())
        accuracies = set() if mode == "wgan-gp" else {"D_real_accuracy", "D_fake_accuracy"}
        assert set(logs) == {"D_real", "D_fake", "G_GAN", "G_L1"} | accuracies
        assert not any(torch.equal(p, g[k]) for k, p in state.generator.named_parameters())
        # (The bias of D's last layer may stand still: in hinge and wgan-gp real and fake pull it equally.)
        kernels = {k: p for k, p in state.discriminator.named_parameters() if p.ndim > 1}
        assert not any(torch.equal(p, d[k]) for k, p in kernels.items())
        assert (state.step, state.images_seen) == (count, n * count)


def test_without_the_adversarial_term_no_d_is_built():
    config = resolved(objective__lambda_gan=0.0)
    state = TrainState.create(config, CPU)
    assert state.discriminator is None and state.optimizer_d is None
    assert set(step(state, config)) == {"G_L1"}
    assert state.state_dict()["discriminator"] is None


def test_terms_of_weight_zero_are_not_logged_and_others_are_logged_unweighted():
    config = resolved(objective__lambda_l1=0.0, objective__lambda_l2=50.0)
    state = TrainState.create(config, CPU)
    made: list[Tensor] = []
    state.generator.register_forward_hook(lambda _m, _i, output: made.append(output.detach()))
    logs = step(state, config)
    assert "G_L1" not in logs
    assert logs["G_L2"].item() == pytest.approx(F.mse_loss(made[0], batch()[1]).item(), rel=1e-5)

    config = resolved(objective__lambda_l1=100.0)
    state = TrainState.create(config, CPU)
    state.generator.register_forward_hook(lambda _m, _i, output: made.append(output.detach()))
    logs = step(state, config)
    assert "G_L2" not in logs
    assert logs["G_L1"].item() == pytest.approx(F.l1_loss(made[1], batch()[1]).item(), rel=1e-5)


def test_logs_carry_no_graph():
    config = resolved()
    logs = step(TrainState.create(config, CPU), config)
    assert all(value.shape == () and not value.requires_grad for value in logs.values())


def test_a_step_in_bf16_keeps_the_weights_and_the_output_in_fp32():
    config = resolved()
    state = TrainState.create(config, CPU)
    before = weights(state.generator)
    made: list[Tensor] = []
    state.generator.register_forward_hook(lambda _m, _i, output: made.append(output))
    logs = train_step(
        state, *batch(2), config.objective, torch.autocast("cpu", dtype=torch.bfloat16, enabled=True)
    )
    assert made[0].dtype == torch.float32
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in logs.values())
    for name, parameter in state.generator.named_parameters():
        assert parameter.dtype == torch.float32
        assert not torch.equal(parameter, before[name])


# -----------------------------------------------------------------------------------------------------------
# The state


def test_the_seed_decides_the_weights():
    def drawn(seed: int) -> dict[str, Tensor]:
        return weights(TrainState.create(resolved(training__seed=seed), CPU).generator)

    assert equal(drawn(1), drawn(1))
    assert distance(drawn(1), drawn(2)) > 0.01


def test_a_state_becomes_another_with_everything_that_follows():
    config = resolved(training__ema_decay=0.9)
    first = TrainState.create(config, CPU)
    for seed in (1, 2):
        step(first, config, seed=seed)
        update_ema(first, 0.9)
    saved = copy.deepcopy(first.state_dict())
    second = TrainState.create(replace(config, training=replace(config.training, seed=9)), CPU)
    torch.rand(1000)
    second.load_state_dict(saved)
    assert (second.step, second.images_seen) == (2, 2)
    ends = []
    for state in (second, first):
        torch.set_rng_state(saved["rng"]["cpu"])
        if state is second:
            state.load_state_dict(saved)  # sets the global generator too
        logs = step(state, config, seed=3)
        update_ema(state, 0.9)
        ends.append((weights(state.generator), weights(state.ema), torch.get_rng_state(), logs))
    for a, b in zip(*ends, strict=True):
        assert equal(a, b) if isinstance(a, dict) else torch.equal(a, b)


def test_the_moving_average_is_an_average_of_parameters_and_a_copy_of_buffers():
    config = resolved(training__ema_decay=0.75)
    state = TrainState.create(config, CPU)
    assert state.ema is not None
    assert state.inference_generator is state.ema
    expected = {k: v.double() for k, v in weights(state.generator).items()}
    for seed in range(3):
        step(state, config, 2, seed=seed)
        update_ema(state, 0.75)
        for name, parameter in state.generator.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * parameter.detach().double()
    for name, average in state.ema.named_parameters():
        assert torch.allclose(average.double(), expected[name], rtol=0, atol=1e-6)
        assert not torch.equal(average, state.generator.get_parameter(name))
    buffers = dict(state.ema.named_buffers())
    assert any("running_var" in name for name in buffers)
    for name, buffer in state.generator.named_buffers():
        assert torch.equal(buffers[name], buffer)
    assert not any(p.requires_grad and p.grad is not None for p in state.ema.parameters())


def test_without_a_decay_there_is_no_average():
    state = TrainState.create(resolved(), CPU)
    assert state.ema is None
    assert state.inference_generator is state.generator
    before = weights(state.generator)
    update_ema(state, 0.0)
    assert equal(weights(state.generator), before)


# -----------------------------------------------------------------------------------------------------------
# The rate


def test_the_papers_rate_is_constant():
    assert presets.paper().training.decay_fraction == 0
    assert {learning_rate(2e-4, step, 100, 0.0) for step in range(100)} == {2e-4}


def test_the_pytorch_references_rate_falls_linearly_over_the_second_half():
    fraction = presets.junyanz().training.decay_fraction
    rates = [learning_rate(2e-4, step, 1000, fraction) for step in range(1000)]
    assert set(rates[:501]) == {2e-4}
    assert rates[750] == pytest.approx(1e-4)
    falls = [a - b for a, b in itertools.pairwise(rates[500:])]
    assert min(falls) == pytest.approx(max(falls), rel=1e-6)
    assert rates[-1] == pytest.approx(2e-4 / 500)
    assert learning_rate(2e-4, 1000, 1000, fraction) == 0
