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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pairloom import config as configs
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
        raise CheckpointError(
            f"{path}: could not be written ({reason}); free some disk space or check the folder's "
            "permissions. Earlier checkpoints are untouched."
        ) from error


def write_text_atomically(path: Path, text: str) -> None:
    """`write_atomically` for text, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


# ------------------------------------------------------------------------------------------------------------
# For resuming


def save_state(
    folder: Path, state: dict[str, Any], step: int, *, best: dict[str, float] | None = None
) -> Path:
    """Write `step-*.pt`, point latest.json (and best.json) at it, keep the last two and the best.

    Args:
        folder: The run's checkpoints folder; made if absent.
        state: Nested dicts and lists of tensors, numbers and strings.
        step: Names the file.
        best: The validation figures, when this is the best so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    write_atomically(path, lambda temporary: torch.save(state, temporary))
    if best is not None:
        _point(folder / "best.json", {"step": step, **best})
    _point(folder / "latest.json", {"step": step})
    # What is newer than this could not be read when the run resumed; it must not count as one of the two.
    done = [s for s in steps(folder) if s <= step]
    for old in done[:-2]:
        if old != best_step(folder):
            (folder / f"step-{old:08d}.pt").unlink()
    return path


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending."""
    return sorted(int(p.stem.removeprefix("step-")) for p in folder.glob("step-*.pt"))


def best_step(folder: Path) -> int | None:
    """The step with the best validation, or None."""
    found = _best(folder)
    return None if found is None else found[0]


def best_val_l1(folder: Path) -> float:
    """The validation L1 of the best checkpoint that there is; infinite when there is none."""
    found = _best(folder)
    return math.inf if found is None else found[1]


def _best(folder: Path) -> tuple[int, float] | None:
    try:
        value = json.loads((folder / "best.json").read_text(encoding="utf-8"))
        return int(value["step"]), float(value["val_L1"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_latest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that can be read, and a sentence for each newer one that cannot.

    Raises:
        CheckpointError: There are checkpoints, and none can be read.
    """
    complaints: list[str] = []
    for step in reversed(steps(folder)):
        try:
            return load_state(folder / f"step-{step:08d}.pt"), complaints
        except CheckpointError as error:
            complaints.append(str(error))
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


def _point(path: Path, value: dict[str, Any]) -> None:
    write_text_atomically(path, json.dumps(value) + "\n")


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
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file.")
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: is not a .safetensors file; give a run directory or its generator.safetensors."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("pairloom")
            # Copied out of the memory map, so that a later change of the file cannot change the model.
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a whole .safetensors file (cut off, or damaged).") from error
    if metadata is None:
        raise CheckpointError(
            f"{path}: says nothing of a pairloom model; weights from elsewhere cannot be used as they are."
        )
    description = json.loads(metadata)
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has the format {description.get('format')!r}, but this pairloom reads {FORMAT!r}; "
            "use the version that wrote it."
        )
    return weights, description


def fill(net: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put weights into a network built without memory.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    try:
        net.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights do not fit the networks that its own configuration names."
        ) from error


def load_discriminator(run: str | Path, device: str | torch.device = "cpu") -> Discriminator | None:
    """D of a run, in eval mode; None when the run has none.

    Args:
        run: The run directory, its discriminator.safetensors, or one of its checkpoints.
        device: Where to put it.
    """
    path = Path(run)
    path = path / "discriminator.safetensors" if path.is_dir() else path
    if not path.exists():
        return None
    if path.suffix == ".pt":
        state = load_state(path)
        weights, metadata = state["discriminator"], json.loads(state["model"])
        if weights is None:
            return None
    else:
        weights, metadata = load_weights(path)
    config = configs.from_dict(metadata["config"])
    net = build_discriminator(config.discriminator, *config.generator.channels)
    fill(
        net,
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()},
        path,
    )
    return net.to(device).eval().requires_grad_(False)
