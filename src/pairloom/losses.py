"""The objective: adversarial terms, L1 and L2, and their sum (Section 3.1, equations 1 to 4).

All losses are means over the batch and over all patches, or all pixels and channels, computed in fp32.
With a map of valid pixels (`validity`) they are means over those that count: L1 and L2 over pixels, the
adversarial terms over the patches in which some pixel counts (`Discriminator.sees`).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pairloom import validity
from pairloom.networks import Discriminator

GanMode = Literal["vanilla", "lsgan", "hinge", "wgan-gp"]


class AdversarialTerms(NamedTuple):
    """D's two terms, each a scalar; D minimises their sum (halved, as Section 3.3 has it)."""

    real: Tensor
    fake: Tensor


def d_terms(
    logits_real: Tensor, logits_fake: Tensor, mode: GanMode, seen: Tensor | None = None
) -> AdversarialTerms:
    """What D minimises: that real patches look real, and generated ones fake.

    Source: vanilla, equation 1 in logits; lsgan, Mao et al. 2017 with labels 1 and 0; hinge, Lim and Ye 2017;
    wgan-gp, Gulrajani et al. 2017 (`gradient_penalty` comes besides).
    Shapes: logits (N, 1, h, w), any h and w; seen likewise, 1 for the patches that count and 0.
    """
    real, fake = logits_real.float(), logits_fake.float()
    if mode == "vanilla":
        terms = F.softplus(-real), F.softplus(fake)
    elif mode == "lsgan":
        terms = (real - 1) ** 2, fake**2
    elif mode == "hinge":
        terms = F.relu(1 - real), F.relu(1 + fake)
    else:
        terms = -real, fake
    return AdversarialTerms(*(validity.mean(term, seen) for term in terms))


def g_term(
    logits_fake: Tensor, mode: GanMode, *, saturating: bool = False, seen: Tensor | None = None
) -> Tensor:
    """What G minimises: that its patches look real to D.

    Source: vanilla, -log D, the non-saturating form of Section 3.3; saturating, log(1 - D), equation 1
    literally.
    Shapes: (N, 1, h, w), seen likewise -> scalar.
    """
    fake = logits_fake.float()
    if mode == "vanilla":
        return validity.mean(-F.softplus(fake) if saturating else F.softplus(-fake), seen)
    return validity.mean((fake - 1) ** 2 if mode == "lsgan" else -fake, seen)


def chance_level(mode: GanMode) -> float:
    """Each of D's two terms when D cannot tell: for vanilla log 2 = 0.693 (their sum, not halved: 1.386)."""
    return {"vanilla": math.log(2), "lsgan": 0.25, "hinge": 1.0, "wgan-gp": 0.0}[mode]


def accuracy(logits: Tensor, mode: GanMode, *, real: bool, seen: Tensor | None = None) -> Tensor:
    """Share of patches that D judges rightly. Shapes: (N, 1, h, w), seen likewise -> scalar in [0, 1]."""
    threshold = 0.5 if mode == "lsgan" else 0.0
    judged_real = logits.detach().float() > threshold
    return validity.mean((judged_real if real else ~judged_real).float(), seen)


def gradient_penalty(
    discriminator: Discriminator, x: Tensor, y: Tensor, y_hat: Tensor, valid: Tensor | None = None
) -> Tensor:
    """WGAN-GP's penalty: (the norm of D's gradient - 1) squared, between real and generated images.

    With a map of valid pixels, scores are means over the patches that count, and gradients those in the
    pixels that count; the others are the same 0 in every image.

    Source: Gulrajani et al. 2017, equation 3; the gradient is taken in y only, x being given.
    Shapes: x (N, C, H, W), y and y_hat (N, C', H, W), valid (N, 1, H, W) -> scalar.
    """
    mix = torch.rand(y.shape[0], 1, 1, 1, device=y.device)
    between = (mix * y + (1 - mix) * y_hat.detach()).requires_grad_(True)
    # Each image's score is its patches' mean; their sum gives all gradients at once. In fp32, because the
    # penalty is differentiated once more.
    with torch.autocast(y.device.type, enabled=False):
        logits = discriminator(x, between)
        if valid is None:
            score = logits.mean(dim=(1, 2, 3)).sum()
        else:
            seen = discriminator.sees(valid)
            patches = seen.sum(dim=(1, 2, 3)).clamp_min(1)
            score = ((logits * seen).sum(dim=(1, 2, 3)) / patches).sum()
        (gradient,) = torch.autograd.grad(score, between, create_graph=True)
        gradient = validity.filled(gradient, valid)
        penalty: Tensor = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def l1(y_hat: Tensor, y: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error (equation 3), on [-1, 1]. Shapes: (N, C, H, W) twice, (N, 1, H, W) -> scalar."""
    return validity.mean(_difference(y_hat, y, valid).abs(), valid)


def l2(y_hat: Tensor, y: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared error, on [-1, 1]. Shapes: (N, C, H, W) twice, (N, 1, H, W) -> scalar."""
    return validity.mean(_difference(y_hat, y, valid) ** 2, valid)


def _difference(y_hat: Tensor, y: Tensor, valid: Tensor | None) -> Tensor:
    """0 where pixels do not count, before any function of it: so is their gradient, whatever y is there."""
    return validity.filled(y_hat.float() - y.float(), valid)
