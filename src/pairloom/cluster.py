"""A translation on a Ray cluster: actors hold the model, Ray Data hands them names of files.

The machines of the cluster see the sources, the model and the output folder at the same paths. An actor that
dies is started again, and its files are given out again; what it had finished is left alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pairloom import bulk
from pairloom.bulk import Found
from pairloom.images import ImageError

THREADS = 4
"""Cores for each actor, where there are no GPUs."""
BATCH = 16
"""Files that an actor is handed at a time, at most; of those of a dead one, the finished are skipped."""


class ClusterError(ValueError):
    """Ray, or its cluster, cannot be used; the message says why and what to do."""


class _Translating:
    """An actor: loads the model once."""

    def __init__(self, model: str, out: str, loading: dict[str, Any], how: dict[str, Any], threads: int):
        import torch

        from pairloom.translator import Translator

        torch.set_num_threads(threads)
        self._translator = Translator.load(model, **loading)
        self._out, self._how = out, how

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Each row is a group of files, as `bulk.groups` makes them; back come the lines of what failed."""
        groups = [[(Path(a), Path(b)) for a, b in json.loads(row)] for row in batch["files"]]
        return {"faults": [json.dumps(self._faults(groups))]}

    def _faults(self, groups: list[list[Found]]) -> list[str]:
        """A line for each file that could not be translated."""
        from pairloom.files import SomeFailed, translate_found

        found = [one for group in groups for one in group]
        try:
            for _ in translate_found(self._translator, found, self._out, skip_finished=True, **self._how):
                pass
        except SomeFailed as error:
            return error.faults
        except ImageError as error:  # refused before the first: of several groups, not for all of them
            if len(groups) == 1:
                return [f"{file}: {error}" for file, _ in found]
            return [line for group in groups for line in self._faults([group])]
        return []


def translate_on_ray(
    model: str | Path,
    found: Sequence[Found],
    out: str | Path,
    *,
    shard: str | None = None,
    actors: int = 0,
    loading: dict[str, Any] | None = None,
    how: dict[str, Any] | None = None,
) -> int:
    """Translate files on the cluster of RAY_ADDRESS, else on one that is started on this machine.

    Args:
        model: What `Translator.load` takes.
        found: What `files.find_images` found.
        out: A folder.
        shard: i/n: only this share of the files.
        actors: Processes that hold the model; 0: one for each GPU, else for every four cores.
        loading: Further arguments of `Translator.load`.
        how: Further arguments of `files.translate_found`.

    Returns:
        How many of the files have their results, those that were there before included.

    Raises:
        ClusterError: Ray is not installed, its cluster cannot be reached, or gave up.
        CheckpointError: No such model.
        SomeFailed: Which files could not be translated and why, a line each, after all others are done.
        ValueError: As `files.translate_files`.
    """
    from pairloom.files import SomeFailed, check_counts
    from pairloom.translator import Translator

    if actors < 0:
        raise ClusterError(f"--actors is {actors}; it must be 0 or more.")
    loading, how = loading or {}, how or {}
    counts = {"samples": "samples", "batch_size": "batch_size", "memory": "memory_bytes"}
    check_counts(**{name: how.get(field, 1) for name, field in counts.items()})
    files = list(found) if shard is None else bulk.share(found, shard)
    if not files:
        return 0
    ray, data = _ray()
    Translator.load(model, **loading)  # what is wrong with it is said here, once, and not by each actor
    mine = _join(ray)
    try:
        cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
        use_gpus = gpus > 0 and loading.get("device", "auto") in ("auto", "cuda")
        count = actors or (gpus if use_gpus else max(cpus // THREADS, 1))
        rows = [json.dumps([[_there(a), str(b)] for a, b in group]) for group in bulk.groups(files)]
        size = max(1, min(BATCH, len(rows) // (4 * count)))
        result = data.from_items([{"files": row} for row in rows], override_num_blocks=-(-len(rows) // size))
        result = result.map_batches(
            _Translating,
            fn_constructor_args=(_there(model), _there(out), loading, how, max(cpus // count, 1)),
            batch_size=size,
            compute=data.ActorPoolStrategy(size=count),  # dead ones are started again, tasks given out again
            num_cpus=1,
            num_gpus=1 if use_gpus else 0,
        )
        faults = [line for row in result.iter_rows() for line in json.loads(row["faults"])]
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray gave up ({_cause(error)}); what is finished stays, and the same command goes on."
        ) from error
    finally:
        if mine:
            ray.shutdown()
    _sweep(Path(out))
    if faults:
        raise SomeFailed(faults, len(files))
    return len(files)


def _ray() -> tuple[Any, Any]:
    # Read when it is imported.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of actors that it starts again, it complains
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClusterError(
            f'--launcher ray needs the package ray ({error}); pip install "pairloom[scale]".'
        ) from error
    return ray, ray.data


def _join(ray: Any) -> bool:
    """Connect, unless that has been done; whether it was done here."""
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address and ":" in address:  # Ray itself tries for minutes
            host, _, port = address.rpartition("://")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # it raises ConnectionError, ValueError, RuntimeError and others
        where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "a Ray cluster on this machine"
        raise ClusterError(
            f"{where} cannot be reached or started ({_first_line(error)}); `ray status` says what is there."
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it would say is the cause that we give
    return True


def _there(path: str | Path) -> str:
    """What another working directory finds, too."""
    return (
        str(path) if str(path).startswith("hf://") or str(path).startswith("hf:/") else os.path.abspath(path)
    )


def _cause(error: BaseException) -> str:
    """The last line, without colours: the exception in the actor, which Ray wraps in traces."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(getattr(error, "cause", None) or error))
    return ([line.strip() for line in plain.splitlines() if line.strip()] or [type(error).__name__])[-1][:300]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).split("\n")), "").strip()[:200] or type(error).__name__


def _sweep(out: Path) -> None:
    """What killed actors left half-written of results that are whole."""
    for folder, _, names in os.walk(out):
        with suppress(OSError):
            bulk.sweep(Path(folder) / name for name in names if not name.startswith("."))
