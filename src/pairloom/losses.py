"""The objective: adversarial terms, L1 and L2, and their sum (Section 3.1, equations 1 to 4).

All losses are means over the batch and over all patches, or all pixels and channels, computed in fp32.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pairloom.networks import Discriminator

GanMode = Literal["vanilla", "lsgan", "hinge", "wgan-gp"]


class AdversarialTerms(NamedTuple):
    """D's two terms, each a scalar; D minimises their sum (halved, as Section 3.3 has it)."""

    real: Tensor
    fake: Tensor


def d_terms(logits_real: Tensor, logits_fake: Tensor, mode: GanMode) -> AdversarialTerms:
    """What D minimises: that real patches look real, and generated ones fake.

    Source: vanilla, equation 1 in logits; lsgan, Mao et al. 2017 with labels 1 and 0; hinge, Lim and Ye 2017;
    wgan-gp, Gulrajani et al. 2017 (`gradient_penalty` comes besides).
    Shapes: logits (N, 1, h, w), any h and w.
    """
    real, fake = logits_real.float(), logits_fake.float()
    if mode == "vanilla":
        return AdversarialTerms(F.softplus(-real).mean(), F.softplus(fake).mean())
    if mode == "lsgan":
        return AdversarialTerms(((real - 1) ** 2).mean(), (fake**2).mean())
    if mode == "hinge":
        return AdversarialTerms(F.relu(1 - real).mean(), F.relu(1 + fake).mean())
    return AdversarialTerms(-real.mean(), fake.mean())


def g_term(logits_fake: Tensor, mode: GanMode, *, saturating: bool = False) -> Tensor:
    """What G minimises: that its patches look real to D.

    Source: vanilla, -log D, the non-saturating form of Section 3.3; saturating, log(1 - D), equation 1
    literally.
    Shapes: (N, 1, h, w) -> scalar.
    """
    fake = logits_fake.float()
    if mode == "vanilla":
        return -F.softplus(fake).mean() if saturating else F.softplus(-fake).mean()
    if mode == "lsgan":
        return ((fake - 1) ** 2).mean()
    return -fake.mean()


def chance_level(mode: GanMode) -> float:
    """Each of D's two terms when D cannot tell: for vanilla log 2 = 0.693 (their sum, not halved: 1.386)."""
    return {"vanilla": math.log(2), "lsgan": 0.25, "hinge": 1.0, "wgan-gp": 0.0}[mode]


def accuracy(logits: Tensor, mode: GanMode, *, real: bool) -> Tensor:
    """Share of patches that D judges rightly. Shapes: (N, 1, h, w) -> scalar in [0, 1]."""
    threshold = 0.5 if mode == "lsgan" else 0.0
    judged_real = logits.detach().float() > threshold
    return (judged_real if real else ~judged_real).float().mean()


def gradient_penalty(discriminator: Discriminator, x: Tensor, y: Tensor, y_hat: Tensor) -> Tensor:
    """WGAN-GP's penalty: (the norm of D's gradient - 1) squared, between real and generated images.

    Source: Gulrajani et al. 2017, equation 3; the gradient is taken in y only, x being given.
    Shapes: x (N, C, H, W), y and y_hat (N, C', H, W) -> scalar.
    """
    mix = torch.rand(y.shape[0], 1, 1, 1, device=y.device)
    between = (mix * y + (1 - mix) * y_hat.detach()).requires_grad_(True)
    # Each image's score is its patches' mean; their sum gives all gradients at once. In fp32, because the
    # penalty is differentiated once more.
    with torch.autocast(y.device.type, enabled=False):
        score = discriminator(x, between).mean(dim=(1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(score, between, create_graph=True)
        penalty: Tensor = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def l1(y_hat: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error (equation 3), on [-1, 1]. Shapes: (N, C, H, W) twice -> scalar."""
    return (y_hat.float() - y.float()).abs().mean()


def l2(y_hat: Tensor, y: Tensor) -> Tensor:
    """Mean squared error, on [-1, 1]. Shapes: (N, C, H, W) twice -> scalar."""
    return ((y_hat.float() - y.float()) ** 2).mean()
