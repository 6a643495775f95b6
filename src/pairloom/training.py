"""The training state and the training step (Section 3.3): all the mathematics of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from pairloom import checkpoint as checkpoints
from pairloom import losses, validity
from pairloom.config import Config, ObjectiveConfig
from pairloom.networks import Discriminator, Generator, build_discriminator, build_generator
from pairloom.optimizer import Adam

# ------------------------------------------------------------------------------------------------------------
# The state


@dataclass
class TrainState:
    """What must survive a restart, named once; all else is a function of it and of the configuration."""

    generator: Generator
    discriminator: Discriminator | None
    optimizer_g: Adam
    optimizer_d: Adam | None
    ema: Generator | None
    step: int = 0
    images_seen: int = 0
    elapsed_seconds: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ranks: list[dict[str, Any]] = field(default_factory=list)
    """Of several processes, gathered for a save: what each has of its own (see distributed.py)."""
    compiled: tuple[Callable[..., Tensor], Callable[..., Tensor] | None] | None = None
    """The forward passes of G and D that a step uses in place of the networks' own (see fast_step.py)."""

    @classmethod
    def create(cls, config: Config, device: torch.device) -> TrainState:
        """Fresh networks and optimizers, drawn by the configuration's seed."""
        rng = torch.Generator().manual_seed(config.training.seed)
        generator = _place(build_generator(config.generator, rng), device).train()
        generator.recompute = config.training.checkpoint_activations
        discriminator = None
        if config.objective.lambda_gan > 0:
            net = build_discriminator(config.discriminator, *config.generator.channels, rng)
            discriminator = _place(net, device).train()
            discriminator.recompute = config.training.checkpoint_activations
        torch.manual_seed(config.training.seed)
        return cls(
            generator=generator,
            discriminator=discriminator,
            optimizer_g=_adam(generator, config),
            optimizer_d=_adam(discriminator, config) if discriminator is not None else None,
            ema=copy.deepcopy(generator).eval() if config.training.ema_decay > 0 else None,
            device=device,
        )

    @property
    def inference_generator(self) -> Generator:
        """What validation and export use: the moving average when there is one."""
        return self.ema if self.ema is not None else self.generator

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and numbers."""
        ranks = {"ranks": self.ranks} if self.ranks else {}
        return ranks | {
            "format": checkpoints.FORMAT,
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict() if self.discriminator is not None else None,
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict() if self.optimizer_d is not None else None,
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "step": self.step,
            "images_seen": self.images_seen,
            "elapsed_seconds": self.elapsed_seconds,
            "rng": self.rng(),
        }

    def rng(self) -> dict[str, Tensor | None]:
        """The state of torch's global generators."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def set_rng(self, rng: dict[str, Any]) -> None:
        """Go on with the draws from there."""
        torch.set_rng_state(rng["cpu"])
        if self.device.type == "cuda" and rng["cuda"] is not None:
            torch.cuda.set_rng_state(rng["cuda"], self.device)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the state that was saved, torch's global RNG included."""
        for name in ("generator", "discriminator", "optimizer_g", "optimizer_d", "ema"):
            part = getattr(self, name)
            if part is not None:
                part.load_state_dict(state[name])
        self.step, self.images_seen = state["step"], state["images_seen"]
        self.elapsed_seconds = state["elapsed_seconds"]
        self.ranks = state.get("ranks", [])
        self.set_rng(state["rng"])


Net = TypeVar("Net", Generator, Discriminator)


def _place(net: Net, device: torch.device) -> Net:
    # channels_last: the layout of the fast convolution kernels, on CPUs and on tensor cores.
    net.to(device=device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def _adam(net: torch.nn.Module, config: Config) -> Adam:
    training = config.training
    betas = (training.beta1, training.beta2)
    return Adam(net.parameters(), lr=training.learning_rate, betas=betas)


# ------------------------------------------------------------------------------------------------------------
# The step


def train_step(
    state: TrainState,
    x: Tensor,
    y: Tensor,
    objective: ObjectiveConfig,
    autocast: AbstractContextManager[Any],
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """One D step, then one G step, on the same generated image (Section 3.3).

    Real and generated pairs pass D separately, so that each has its own batch statistics; G's adversarial
    term runs the updated D.

    Args:
        state: Changed in place.
        x: Source images.
        y: Target images.
        objective: What is minimised.
        autocast: A re-enterable context in which the networks run.
        valid: Which target pixels count; None: all. The others are 0 in y and in G(x, z) before D or a loss
            sees them, so that they say nothing, and G gets no gradient there.

    Shapes: x (N, C, H, W), y (N, C', H, W), valid (N, 1, H, W).
    Units: [-1, 1].

    Returns:
        Detached scalars: G_GAN, G_L1, G_L2 unweighted; D_real, D_fake not halved; D's accuracies.
    """
    G, D = state.generator, state.discriminator
    run_G, run_D = state.compiled or (G, D)
    mode = objective.gan_mode
    logs: dict[str, Tensor] = {}

    with autocast:
        y_hat = run_G(x)
    y, y_hat = validity.filled(y, valid), validity.filled(y_hat, valid)
    seen = None if D is None or valid is None else D.sees(valid)

    # D: tell (x, y) from (x, G(x, z))
    if D is not None:
        assert run_D is not None
        assert state.optimizer_d is not None
        D.requires_grad_(True)
        with autocast:
            logits_real = run_D(x, y)
            logits_fake = run_D(x, y_hat.detach())
        terms = losses.d_terms(logits_real, logits_fake, mode, seen)
        loss_d = terms.real + terms.fake
        if mode == "wgan-gp":
            penalty = losses.gradient_penalty(D, x, y, y_hat, valid)
            loss_d = loss_d + objective.gradient_penalty * penalty
        if objective.halve_d:
            loss_d = loss_d / 2
        loss_d.backward()  # type: ignore[no-untyped-call]
        state.optimizer_d.step()
        state.optimizer_d.zero_grad(set_to_none=True)  # now, so that no forward pass finds them in memory
        logs |= {"D_real": terms.real, "D_fake": terms.fake}
        if mode != "wgan-gp":  # a critic's zero means nothing
            logs["D_real_accuracy"] = losses.accuracy(logits_real, mode, real=True, seen=seen)
            logs["D_fake_accuracy"] = losses.accuracy(logits_fake, mode, real=False, seen=seen)

    # G: fool the updated D, and stay near y
    loss_g = y_hat.new_zeros(())
    if D is not None:
        assert run_D is not None
        D.requires_grad_(False)
        with autocast:
            logits = run_D(x, y_hat)
        logs["G_GAN"] = losses.g_term(logits, mode, saturating=objective.saturating, seen=seen)
        loss_g = loss_g + objective.lambda_gan * logs["G_GAN"]
    if objective.lambda_l1 > 0:
        logs["G_L1"] = losses.l1(y_hat, y, valid)
        loss_g = loss_g + objective.lambda_l1 * logs["G_L1"]
    if objective.lambda_l2 > 0:
        logs["G_L2"] = losses.l2(y_hat, y, valid)
        loss_g = loss_g + objective.lambda_l2 * logs["G_L2"]
    loss_g.backward()  # type: ignore[no-untyped-call]
    state.optimizer_g.step()
    state.optimizer_g.zero_grad(set_to_none=True)

    state.step += 1
    state.images_seen += x.shape[0]
    return {name: value.detach() for name, value in logs.items()}


def update_ema(state: TrainState, decay: float) -> None:
    """Average the parameters, copy the buffers."""
    if state.ema is None:
        return
    with torch.no_grad():
        for average, parameter in zip(state.ema.parameters(), state.generator.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        for copied, buffer in zip(state.ema.buffers(), state.generator.buffers(), strict=True):
            copied.copy_(buffer)


def learning_rate(base: float, step: int, total_steps: int, decay_fraction: float) -> float:
    """The rate of a step (from 0): constant, then linear to zero over the last `decay_fraction` of the run.

    Source: the paper's is constant; the linear decay is the PyTorch reference's (decay_fraction 0.5).
    """
    decay_steps = decay_fraction * total_steps
    return base if decay_steps == 0 else base * min(1.0, (total_steps - step) / decay_steps)
