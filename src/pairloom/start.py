"""Fine-tuning: the weights of another run to start from, checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pairloom import checkpoint as checkpoints
from pairloom.checkpoint import CheckpointError
from pairloom.config import Config, ConfigError
from pairloom.images import ImageSpec
from pairloom.networks import Discriminator, build_discriminator, build_generator
from pairloom.onnx_generator import OnnxGenerator
from pairloom.training import TrainState
from pairloom.translator import Translator


@dataclass(frozen=True, slots=True)
class Start:
    """G, and D when it lies beside, of a run, of its files or of its checkpoints."""

    path: Path
    model: Translator
    discriminator: Discriminator | None

    @classmethod
    def load(cls, path: Path) -> Start:
        """Read the weights.

        Raises:
            ConfigError: There is nothing at that path.
            CheckpointError: No model there.
        """
        if not path.exists():
            raise ConfigError(f"training.init_from: there is no {path}.")
        model = Translator.load(path, device="cpu")
        if isinstance(model.generator, OnnxGenerator):
            raise CheckpointError(f"{path}: is an export, which cannot be trained; give the run directory.")
        whole = path.is_dir() or path.suffix == ".pt"
        beside = path if whole else path.with_name("discriminator.safetensors")
        return cls(path, model, checkpoints.load_discriminator(beside))

    def check(self, config: Config, source_spec: ImageSpec, target_spec: ImageSpec) -> list[str]:
        """Do the weights suit a run of that configuration on such images?

        Returns:
            A sentence for each side whose values mean something else than those that the weights learned.

        Raises:
            CheckpointError: The networks have another shape, or one-hot channels stand for other classes.
        """
        self._check_shape(build_generator(config.generator), self.model.generator)
        if config.objective.lambda_gan > 0 and self.discriminator is not None:
            net = build_discriminator(config.discriminator, *config.generator.channels)
            self._check_shape(net, self.discriminator)
        sides = (
            ("source", self.model.source_spec, source_spec),
            ("target", self.model.target_spec, target_spec),
        )
        warnings = []
        for side, learned, here in sides:
            if _meaning(learned) == _meaning(here):
                continue
            if learned.one_hot or here.one_hot:
                raise CheckpointError(
                    f"{self.path}: its channels of the {side} stand for other classes ({learned.words()}; "
                    f"here: {here.words()}); give data.{side}_palette the classes it learned, in their order."
                )
            warnings.append(
                f"the weights of {self.path} learned another {side} "
                f"({learned.words()}; here: {here.words()})."
            )
        return warnings

    def _check_shape(self, net: nn.Module, other: nn.Module) -> None:
        """`net` has no memory yet, so that this costs nothing."""
        try:
            net.load_state_dict(other.state_dict(), assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: its networks have another shape than this configuration's; give the same "
                "generator and discriminator fields and the same channels "
                f"({str(error).splitlines()[1].strip()})."
            ) from error

    def give(self, state: TrainState) -> str:
        """Put the weights into a fresh state that `check` found to suit; what was taken, in words."""
        state.generator.load_state_dict(self.model.generator.state_dict())
        if state.ema is not None:
            state.ema.load_state_dict(state.generator.state_dict())
        if state.discriminator is not None and self.discriminator is not None:
            state.discriminator.load_state_dict(self.discriminator.state_dict())
            return f"Starting from the generator and the discriminator of {self.path}."
        missing = "" if state.discriminator is None else "; no discriminator lies beside it, so D starts anew"
        return f"Starting from the generator of {self.path}{missing}."


def _meaning(spec: ImageSpec) -> object:
    """What the numbers that a network sees stand for."""
    return spec.dtype, spec.kind, spec.low, spec.high, spec.palette, spec.one_hot
