"""What a run leaves at a step: the state to resume from, the files for people, a small snapshot."""

from __future__ import annotations

import json

from pairloom import checkpoint as checkpoints
from pairloom.rundir import RunDir
from pairloom.training import TrainState
from pairloom.translator import Translator


def save(run: RunDir, state: TrainState, model: Translator, *, best: float | None) -> None:
    """The whole state; `best`: the validation L1, when it is the lowest so far."""
    model.provenance |= {"step": state.step, "images_seen": state.images_seen}
    contents = state.state_dict() | {"model": json.dumps(model.describe())}
    figures = None if best is None else {"val_L1": best}
    checkpoints.save_state(run.checkpoints, contents, state.step, best=figures)


def snapshot(run: RunDir, model: Translator, step: int) -> None:
    """The generator alone, in half precision, for curves over checkpoints."""
    folder = run.path / "snapshots"
    folder.mkdir(exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.generator.state_dict().items()}
    checkpoints.save_weights(folder / f"step-{step:08d}.safetensors", half, model.describe())


def publish(run: RunDir, state: TrainState, model: Translator) -> None:
    """The files for people: G and D at the last step."""
    model.provenance |= {"step": state.step, "images_seen": state.images_seen}
    description = model.describe()
    checkpoints.save_weights(run.path / "generator.safetensors", model.generator.state_dict(), description)
    if state.discriminator is not None:
        weights = state.discriminator.state_dict()
        checkpoints.save_weights(
            run.path / "discriminator.safetensors", weights, description | {"network": "discriminator"}
        )
