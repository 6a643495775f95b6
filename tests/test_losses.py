"""The objective, against formulas computed another way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pairloom import losses
from pairloom.config import DiscriminatorConfig
from pairloom.losses import GanMode
from pairloom.networks import build_discriminator

MODES: list[GanMode] = ["vanilla", "lsgan", "hinge", "wgan-gp"]


def logits(seed: int, scale: float = 3.0) -> Tensor:
    return torch.randn(2, 1, 5, 7, generator=torch.Generator().manual_seed(seed)) * scale


REAL, FAKE = logits(0), logits(1)


def slope(logit: float, mode: GanMode, *, saturating: bool = False) -> float:
    """d(G's term) / d(logit of a generated patch)."""
    fake = torch.full((1, 1, 1, 1), logit, requires_grad=True)
    losses.g_term(fake, mode, saturating=saturating).backward()
    assert fake.grad is not None
    return fake.grad.item()


# ------------------------------------------------------------------------------------------------------------
# What D minimises


def test_vanilla_terms_are_binary_cross_entropy() -> None:
    bce = nn.BCEWithLogitsLoss()
    terms = losses.d_terms(REAL, FAKE, "vanilla")
    assert terms.real.item() == pytest.approx(bce(REAL, torch.ones_like(REAL)).item(), rel=1e-5)
    assert terms.fake.item() == pytest.approx(bce(FAKE, torch.zeros_like(FAKE)).item(), rel=1e-5)
    # Equation 1: D's gain is log D(x, y) + log(1 - D(x, G(x, z))).
    gain = torch.sigmoid(REAL).log().mean() + (1 - torch.sigmoid(FAKE)).log().mean()
    assert (terms.real + terms.fake).item() == pytest.approx(-gain.item(), rel=1e-4)


def test_lsgan_terms_are_squared_distances_to_the_labels() -> None:
    terms, mse = losses.d_terms(REAL, FAKE, "lsgan"), nn.MSELoss()
    assert terms.real.item() == pytest.approx(mse(REAL, torch.ones_like(REAL)).item(), rel=1e-5)
    assert terms.fake.item() == pytest.approx(mse(FAKE, torch.zeros_like(FAKE)).item(), rel=1e-5)
    assert losses.g_term(FAKE, "lsgan").item() == pytest.approx(
        mse(FAKE, torch.ones_like(FAKE)).item(), rel=1e-5
    )


def test_hinge_terms_stop_at_the_margin() -> None:
    real, fake = (
        torch.tensor(values).view(1, 1, 1, 4) for values in ([2.0, 1.0, 0.5, -1.0], [-2.0, -1.0, 0.0, 3.0])
    )
    terms = losses.d_terms(real, fake, "hinge")
    assert terms.real.item() == pytest.approx((0 + 0 + 0.5 + 2) / 4)
    assert terms.fake.item() == pytest.approx((0 + 0 + 1 + 4) / 4)
    assert losses.g_term(fake, "hinge").item() == pytest.approx(-(-2 - 1 + 0 + 3) / 4)


def test_wasserstein_terms_are_plain_means() -> None:
    terms = losses.d_terms(REAL, FAKE, "wgan-gp")
    assert terms.real.item() == pytest.approx(-REAL.mean().item(), rel=1e-5)
    assert terms.fake.item() == pytest.approx(FAKE.mean().item(), rel=1e-5)
    assert losses.g_term(FAKE, "wgan-gp").item() == pytest.approx(-FAKE.mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "undecided"), [("vanilla", 0.0), ("lsgan", 0.5), ("hinge", 0.0), ("wgan-gp", 0.0)]
)
def test_chance_level_is_each_term_when_d_cannot_tell(mode: GanMode, undecided: float) -> None:
    flat = torch.full((1, 1, 3, 3), undecided)
    terms = losses.d_terms(flat, flat, mode)
    assert terms.real.item() == pytest.approx(losses.chance_level(mode))
    assert terms.fake.item() == pytest.approx(losses.chance_level(mode))


def test_chance_level_of_the_papers_loss_is_log_2() -> None:
    assert losses.chance_level("vanilla") == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_d_is_pushed_to_high_logits_for_real_and_low_for_generated(mode: GanMode) -> None:
    real, fake = (
        torch.zeros(1, 1, 2, 2, requires_grad=True),
        torch.full((1, 1, 2, 2), 0.5, requires_grad=True),
    )
    terms = losses.d_terms(real, fake, mode)
    (terms.real + terms.fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


# ------------------------------------------------------------------------------------------------------------
# What G minimises


def test_gs_vanilla_terms_are_those_of_section_33_and_of_equation_1() -> None:
    d = torch.sigmoid(FAKE.double())
    assert losses.g_term(FAKE, "vanilla").item() == pytest.approx(-d.log().mean().item(), rel=1e-5)
    literal = losses.g_term(FAKE, "vanilla", saturating=True)
    assert literal.item() == pytest.approx((1 - d).log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_g_is_pushed_to_logits_that_look_real(mode: GanMode) -> None:
    assert slope(-1.0, mode) < 0


def test_only_the_saturating_loss_vanishes_where_d_is_confident() -> None:
    """-sigmoid(logit) against sigmoid(logit) - 1: both push up, but at a logit of -20 only one still does."""
    for logit in (-20.0, -2.0, 0.0, 2.0):
        d = 1 / (1 + math.exp(-logit))
        assert slope(logit, "vanilla") == pytest.approx(d - 1, rel=1e-4)
        assert slope(logit, "vanilla", saturating=True) == pytest.approx(-d, rel=1e-4)
    assert slope(-20.0, "vanilla") < -0.99
    assert -1e-8 < slope(-20.0, "vanilla", saturating=True) < 0


@pytest.mark.parametrize("mode", MODES)
def test_extreme_logits_and_bf16_give_finite_float32(mode: GanMode) -> None:
    extreme = torch.tensor([-200.0, 200.0], dtype=torch.bfloat16).view(1, 1, 1, 2)
    values = [*losses.d_terms(extreme, extreme, mode), losses.g_term(extreme, mode)]
    if mode == "vanilla":
        values.append(losses.g_term(extreme, mode, saturating=True))
    assert all(v.dtype == torch.float32 and v.shape == () and v.isfinite() for v in values)


# ------------------------------------------------------------------------------------------------------------
# Accuracies


@pytest.mark.parametrize(
    ("mode", "threshold"), [("vanilla", 0), ("hinge", 0), ("wgan-gp", 0), ("lsgan", 0.5)]
)
def test_accuracy_is_the_share_of_patches_judged_rightly(mode: GanMode, threshold: float) -> None:
    judged = torch.tensor([-0.1, 0.1, 2.0, 3.0]).view(1, 1, 2, 2) + threshold  # three look real
    assert losses.accuracy(judged, mode, real=True).item() == 0.75
    assert losses.accuracy(judged, mode, real=False).item() == 0.25


def test_accuracy_is_not_part_of_the_graph() -> None:
    assert not losses.accuracy(
        torch.zeros(1, 1, 2, 2, requires_grad=True), "vanilla", real=True
    ).requires_grad


# ------------------------------------------------------------------------------------------------------------
# Gradient penalty


class Linear(nn.Module):
    """D(x, y) = <x, a> + <y, b>, as a map of 1x1: its gradient in y is b everywhere."""

    def __init__(self, b: Tensor) -> None:
        super().__init__()
        self.b = nn.Parameter(b)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (100 * x.sum(dim=(1, 2, 3)) + (y * self.b).sum(dim=(1, 2, 3))).view(-1, 1, 1, 1)


@pytest.mark.parametrize("n", [1, 3])
def test_gradient_penalty_of_a_linear_d(n: int) -> None:
    rng = torch.Generator().manual_seed(0)
    b = torch.randn(3, 4, 4, generator=rng)
    D = Linear(b)
    x, y, y_hat = (torch.randn(n, 3, 4, 4, generator=rng) for _ in range(3))
    penalty = losses.gradient_penalty(D, x, y, y_hat)  # type: ignore[arg-type]
    norm = b.square().sum().sqrt().item()
    assert penalty.item() == pytest.approx((norm - 1) ** 2, rel=1e-4)
    # d(|b| - 1)^2 / db = 2 (|b| - 1) b / |b|: the penalty teaches D.
    penalty.backward()
    assert D.b.grad is not None
    assert torch.allclose(D.b.grad, 2 * (norm - 1) * b / norm, atol=1e-4)


class Quadratic(nn.Module):
    """D(x, y) = |y|^2 / 2: its gradient in y is y itself, so the penalty shows where it was taken."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y.square().sum(dim=(1, 2, 3)).view(-1, 1, 1, 1) / 2


def test_gradient_penalty_is_taken_between_real_and_generated() -> None:
    y, y_hat = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0, requires_grad=True)
    seen = []
    torch.manual_seed(0)
    for _ in range(200):
        penalty = losses.gradient_penalty(Quadratic(), y, y, y_hat)  # type: ignore[arg-type]
        seen.append(penalty.item())
    # At a point m of [0, 2] the penalty is (m - 1)^2, whose mean over the segment is 1/3.
    assert 0 <= min(seen) <= max(seen) <= 1
    assert sum(seen) / len(seen) == pytest.approx(1 / 3, abs=0.1)
    assert y_hat.grad is None


def test_gradient_penalty_of_a_patch_d_reaches_its_weights_and_not_g() -> None:
    D = build_discriminator(
        DiscriminatorConfig(base_channels=2, norm="none"), 3, 3, torch.Generator().manual_seed(0)
    )
    x, y, y_hat = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(3))
    y_hat.requires_grad_(True)
    penalty = losses.gradient_penalty(D, x, y, y_hat)
    penalty.backward()
    assert 0 < penalty.item() < 1, "the gradient of a fresh D is small, hence its penalty just below 1"
    assert y_hat.grad is None
    assert all(p.grad is not None and p.grad.any() for n, p in D.named_parameters() if n.endswith("weight"))


# ------------------------------------------------------------------------------------------------------------
# L1 and L2


def test_l1_and_l2_are_means_over_all_pixels_and_channels() -> None:
    y_hat, y = (torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2))
    assert losses.l1(y_hat, y).item() == pytest.approx(nn.L1Loss()(y_hat, y).item(), rel=1e-6)
    assert losses.l2(y_hat, y).item() == pytest.approx(nn.MSELoss()(y_hat, y).item(), rel=1e-6)
    assert losses.l1(torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)).item() == 2
    assert losses.l2(torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)).item() == 4


def test_l1_and_l2_of_bf16_are_computed_in_float32() -> None:
    y_hat, y = torch.full((1, 1, 64, 64), 0.5, dtype=torch.bfloat16), torch.full((1, 1, 64, 64), 0.4)
    assert losses.l1(y_hat, y).dtype == torch.float32
    assert losses.l1(y_hat, y).item() == pytest.approx(0.1, rel=1e-5)
    assert losses.l2(y_hat, y).item() == pytest.approx(0.01, rel=1e-5)
