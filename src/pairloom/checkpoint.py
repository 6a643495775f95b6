"""A whole training state to and from disk, atomically; a self-describing generator file.

`checkpoints/step-*.pt` are for resuming, `generator.safetensors` and `discriminator.safetensors` for people.
Each carries the configuration, both image specs, the inference semantics and where it came from, so that no
flag is needed to use it. Nothing here is ever unpickled as code.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pairloom import configfile
from pairloom.config import Config, ConfigError
from pairloom.networks import Discriminator, build_discriminator

FORMAT = "pairloom-1"


class CheckpointError(ValueError):
    """A checkpoint or weights file cannot be written, read, or is not ours; the message names the file."""


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, flush to the disk, and rename: never half a file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # Some writers make their files private; ours are for whoever may read the folder.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # nothing to remove: never made
            temporary.unlink()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        do = "free some disk space or check the folder's permissions"
        if path.is_dir():
            reason, do = "it is a folder", "choose another name"
        raise CheckpointError(f"{path}: could not be written ({reason}); {do}.") from error


def write_text_atomically(path: Path, text: str) -> None:
    """`write_atomically` for text, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


# ------------------------------------------------------------------------------------------------------------
# For resuming


def save_state(
    folder: Path, state: dict[str, Any], step: int, *, best: dict[str, float] | None = None
) -> Path:
    """Write `step-*.pt`, point best.json at it when it is the best, keep the last two and the best.

    Args:
        folder: The run's checkpoints folder; made if absent.
        state: Nested dicts and lists of tensors, numbers and strings.
        step: Names the file.
        best: The validation figures, when this is the best so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = state_path(folder, step)
    try:
        write_atomically(path, lambda temporary: torch.save(state, temporary))
    except CheckpointError as error:
        raise CheckpointError(f"{error} Earlier checkpoints are untouched.") from error
    if best is not None:
        write_text_atomically(folder / "best.json", json.dumps({"step": step, **best}) + "\n")
    for old in steps(folder)[:-2]:
        if old != best_step(folder):
            state_path(folder, old).unlink()
    return path


def state_path(folder: Path, step: int) -> Path:
    """The file of a step's state."""
    return folder / f"step-{step:08d}.pt"


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending; files of other names are no checkpoints."""
    found = (re.fullmatch(r"step-(\d{8,})\.pt", path.name, re.ASCII) for path in folder.glob("step-*.pt"))
    return sorted(int(name[1]) for name in found if name)


def best_step(folder: Path) -> int | None:
    """The step with the best validation, or None when it is not known or its checkpoint is gone."""
    found = _best(folder)
    return None if found is None else found[0]


def best_val_l1(folder: Path) -> float:
    """The validation L1 of the best checkpoint that there is; infinite when there is none."""
    found = _best(folder)
    return math.inf if found is None else found[1]


def _best(folder: Path) -> tuple[int, float] | None:
    try:
        value = json.loads((folder / "best.json").read_text(encoding="utf-8"))
        step, val_l1 = int(value["step"]), float(value["val_L1"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (step, val_l1) if step in steps(folder) else None


def load_latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that can be read, and a sentence for each newer one that cannot.

    Those are set aside as step-*.pt.damaged: the run goes on from before them.

    Raises:
        CheckpointError: There are checkpoints, and none can be read.
    """
    damaged: list[Path] = []
    complaints: list[str] = []
    for step in reversed(steps(folder)):
        path = state_path(folder, step)
        try:
            state = load_state(path)
        except CheckpointError as error:
            damaged.append(path)
            complaints.append(str(error))
            continue
        for newer in damaged:
            newer.replace(newer.with_name(f"{newer.name}.damaged"))
        return state, complaints
    if complaints:
        raise CheckpointError(
            f"{complaints[0]} No earlier checkpoint is left; train into a new run directory."
        )
    return None, complaints


def load_state(path: Path) -> dict[str, Any]:
    """A state as it was saved.

    Raises:
        CheckpointError: Unreadable, cut off, or not one of ours.
    """
    try:
        with warnings.catch_warnings():  # torch warns of other programs' pickles before it refuses them
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file.") from error
    except Exception as error:  # a damaged file is met with every kind of exception
        raise CheckpointError(
            f"{path}: is not a whole checkpoint (cut off, or another program's file)."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of pairloom.")
    return state


# ------------------------------------------------------------------------------------------------------------
# For people


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """One network with everything needed to use it.

    Args:
        path: A .safetensors file.
        weights: The network's state dict.
        metadata: Plain JSON: network, config, source_spec, target_spec, semantics, provenance.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    text = {"pairloom": json.dumps({"format": FORMAT, **metadata})}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=text))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata of a file that `save_weights` wrote.

    Raises:
        CheckpointError: Missing, cut off, or from somewhere else.
    """
    description = read_description(path)
    try:
        with safe_open(path, framework="pt") as file:
            # Copied out of the memory map, so that a later change of the file cannot change the model.
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a whole .safetensors file (cut off, or damaged).") from error
    return weights, description


def read_description(path: Path) -> dict[str, Any]:
    """The metadata alone of a file that `save_weights` wrote.

    Raises:
        CheckpointError: Missing, cut off, or from somewhere else.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file.")
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: is not a .safetensors file; give a run directory or its generator.safetensors."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("pairloom")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a whole .safetensors file (cut off, or damaged).") from error
    if metadata is None:
        raise CheckpointError(
            f"{path}: says nothing of a pairloom model; weights from elsewhere cannot be used as they are."
        )
    description = _described(metadata, path)
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has the format {description.get('format')!r}, but this pairloom reads {FORMAT!r}; "
            "use the version that wrote it."
        )
    return description


def fill(net: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put weights, in full precision, into a network built without memory.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    full = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
    try:
        net.load_state_dict(full, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights do not fit the networks that its own configuration names."
        ) from error


def _described(text: object, path: Path) -> dict[str, Any]:
    """A model's description: the JSON that its file holds as text."""
    try:
        description = json.loads(str(text))
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict) or not isinstance(description.get("provenance", {}), dict):
        raise CheckpointError(
            f"{path}: its description of the model is damaged; use another copy of the file."
        )
    return description


# ------------------------------------------------------------------------------------------------------------
# Either


@dataclass(frozen=True, slots=True)
class SavedNetwork:
    """A network as it lies on the disk."""

    weights: dict[str, Tensor]
    description: dict[str, Any]
    file: Path
    """Where both came from, for messages."""

    def config(self) -> Config:
        """The configuration of the whole model, everything decided.

        Raises:
            CheckpointError: The description has none, or not a whole one.
        """
        try:
            config = configfile.from_dict(self.description["config"], where="its configuration")
        except (KeyError, AttributeError) as error:
            raise self.incomplete(error) from error
        except ConfigError as error:
            raise CheckpointError(f"{self.file}: {error}") from error
        g = config.generator
        if None in (g.num_downs, g.source_channels, g.target_channels):
            raise self.incomplete("generator.num_downs or its channels are not decided")
        return config

    def wrong(self, field: str, why: object) -> CheckpointError:
        """What to raise when something in the description cannot be."""
        return CheckpointError(
            f"{self.file}: {field} in its description of the model is wrong ({str(why).rstrip('.')}); use "
            "another copy of the file."
        )

    def incomplete(self, why: object) -> CheckpointError:
        """What to raise when something is not in the description."""
        return CheckpointError(f"{self.file}: its description of the model is incomplete ({why}).")


def find_network(
    path: Path, network: Literal["generator", "discriminator"], checkpoint: Literal["last", "best"] = "last"
) -> SavedNetwork | None:
    """G or D of a run directory, of a .safetensors file, or of a checkpoint; one rule for both.

    A run's last is its newest: what was published, or a newer state, which a run has that was killed between
    the two. None: a run directory without that network.

    Raises:
        CheckpointError: No such file, a damaged one, another network's, or a run without a best checkpoint.
        ValueError: checkpoint is neither last nor best.
    """
    if checkpoint not in ("last", "best"):
        raise ValueError(f"checkpoint is {checkpoint!r}; use last or best, or give a checkpoints/step-*.pt.")
    if not path.is_dir():
        if path.suffix == ".pt" and path.exists():
            return _from_state(path, network)
        saved = SavedNetwork(*load_weights(path), path)
        if (found := saved.description.get("network")) != network:
            raise CheckpointError(f"{path}: is a {found}; give {network}.safetensors.")
        return saved
    folder = path / "checkpoints"
    if checkpoint == "best":
        step = best_step(folder)
        if step is None:
            raise CheckpointError(
                f"{path}: has no best checkpoint; it was trained without validation pairs, or it is gone."
            )
        return _from_state(state_path(folder, step), network)
    newest = max(steps(folder), default=None)
    file = path / f"{network}.safetensors"
    if file.exists():
        saved = SavedNetwork(*load_weights(file), file)
        step = saved.description.get("provenance", {}).get("step")
        if newest is None or not isinstance(step, int) or step >= newest:
            return saved
    return None if newest is None else _from_state(state_path(folder, newest), network)


def _from_state(file: Path, network: str) -> SavedNetwork | None:
    state = load_state(file)
    weights = state.get(network)
    if network == "generator":
        weights = state.get("ema") or weights
    return None if weights is None else SavedNetwork(weights, _described(state.get("model"), file), file)


def load_discriminator(run: str | Path, device: str | torch.device = "cpu") -> Discriminator | None:
    """D of a run, in eval mode; None when the run has none.

    Args:
        run: The run directory, its discriminator.safetensors, or one of its checkpoints.
        device: Where to put it.
    """
    path = Path(run)
    saved = find_network(path, "discriminator") if path.exists() else None
    if saved is None:
        return None
    config = saved.config()
    net = build_discriminator(config.discriminator, *config.generator.channels)
    fill(net, saved.weights, saved.file)
    return net.to(device).eval().requires_grad_(False)
