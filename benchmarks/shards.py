"""Reading training pairs from shards, beside reading them from a folder: memory, order, pairs a second.

    python benchmarks/shards.py [--pairs 100000] [--size 32] [--keep FOLDER]

Draws a set of small pairs (A as PNG, B as JPEG, two folders) and packs it, and a hundredth of it. Memory is
that of a process of its own that reads a thousand training pairs, here and there: resident, from the moment
before the pairs are found. Pairs a second are those of one reader, `training_batches` without workers, timed
in turn, folder, shards, folder, shards ...: with the files in the system's memory, and after asking the
system to forget them. The result goes to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from pairloom.config import DataConfig
from pairloom.data import PairSet, find_pairs, measure_specs, training_batches
from pairloom.data.packing import pack
from result import save

ROUNDS = 5
READ = 1000
"""Pairs read in a round."""


def draw(root: Path, count: int, size: int) -> None:
    """Blocks on a slope; A as PNG, B, the same with grain, as JPEG."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    for side in "AB":
        for folder in range(-(-count // 1000)):
            (root / side / "train" / f"{folder:03}").mkdir(parents=True, exist_ok=True)
    for i in tqdm(range(count), desc="drawing", unit="pair", disable=None):
        a = np.stack([255 * x, 255 * y, np.full_like(x, rng.integers(256))], axis=-1)
        top, left = rng.integers(0, size // 2, 2)
        a[top : top + size // 2, left : left + size // 2] = rng.integers(0, 256, 3)
        b = (a[..., ::-1] + rng.normal(0, 8, a.shape)).clip(0, 255)
        name = f"train/{i // 1000:03}/{i:06}"
        Image.fromarray(a.astype(np.uint8)).save(root / "A" / f"{name}.png", compress_level=1)
        Image.fromarray(b.astype(np.uint8)).save(root / "B" / f"{name}.jpg", quality=90)


def config(path: Path, size: int) -> DataConfig:
    return DataConfig(path=str(path), crop_size=size, source_kind="intensity", target_kind="intensity")


def batches(pairs: PairSet, data: DataConfig, start: int, stop: int, workers: int = 0) -> Iterator[Any]:
    specs = measure_specs(pairs, data)
    return training_batches(
        pairs, *specs, data, batch_size=1, seed=0, start=start, stop=stop, workers=workers
    )


def resident_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def memory(path: Path, size: int) -> dict[str, float]:
    """In this process: megabytes that finding the pairs, and reading some of them all over an epoch, add."""
    data = config(path, size)
    before = resident_mb()
    pairs = find_pairs(data)
    found = resident_mb()
    count = len(pairs.split("train"))
    for start in range(0, count, max(count // 8, 1)):
        for _ in batches(pairs, data, start, min(start + READ // 8, count)):
            pass
    return {"found_mb": round(found - before, 1), "read_mb": round(resident_mb() - before, 1)}


def order(path: Path, size: int, workers: int) -> str:
    """Digest of what a thousand training images show."""
    data = config(path, size)
    digest = hashlib.sha256()
    for x, y in batches(find_pairs(data), data, 0, READ, workers):
        digest.update(x.numpy().tobytes() + y.numpy().tobytes())
    return digest.hexdigest()[:16]


def rate(batches: Iterator[Any]) -> float:
    """Pairs a second."""
    started = time.perf_counter()
    count = sum(1 for _ in batches)
    return count / (time.perf_counter() - started)


def forget(root: Path) -> None:
    """Ask the system to drop the files' contents from its memory; those of the disk's own stay."""
    os.sync()
    for folder, _, names in os.walk(root):
        for name in names:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def rates(folder: Path, shards: Path, size: int, *, cold: bool) -> dict[str, list[float]]:
    found = {name: find_pairs(config(path, size)) for name, path in (("folder", folder), ("shards", shards))}
    places = {"folder": folder, "shards": shards}
    result: dict[str, list[float]] = {"folder": [], "shards": []}
    for number in range(-1, ROUNDS):  # the first only warms up
        for name, pairs in found.items():
            if cold:
                forget(places[name])
            start = (number + 1) * READ
            if not cold:  # what is timed was read before
                rate(batches(pairs, config(places[name], size), start, start + READ))
            measured = rate(batches(pairs, config(places[name], size), start, start + READ))
            if number >= 0:
                result[name].append(round(measured))
    return result


def in_own_process(what: str, *arguments: object) -> Any:
    run = [sys.executable, __file__, "--only", what, *map(str, arguments)]
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    if sys.argv[1:2] == ["--only"]:
        torch.set_num_threads(1)
        what, path, *numbers = sys.argv[2:]
        function = {"memory": memory, "order": order}[what]
        print(json.dumps(function(Path(path), *map(int, numbers))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--keep", type=Path, help="folder for the drawn set, which is used again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        seconds: dict[str, float] = {}
        sets = {"large": arguments.pairs, "small": arguments.pairs // 100}
        for name, count in sets.items():
            if not (root / name).exists():
                draw(root / name, count, arguments.size)
            shutil.rmtree(root / f"{name}-shards", ignore_errors=True)
            started = time.perf_counter()
            print(pack(config(root / name, arguments.size), root / f"{name}-shards").words())
            seconds[name] = round(time.perf_counter() - started, 1)
        size = arguments.size
        places = {f"{name}{kind}": root / f"{name}{kind}" for kind in ("", "-shards") for name in sets}
        grown = {name: in_own_process("memory", path, size) for name, path in places.items()}
        orders = [in_own_process("order", root / "large-shards", size, workers) for workers in (0, 0, 1, 2)]
        large = root / "large", root / "large-shards"
        warm, cold = (rates(*large, size, cold=cold) for cold in (False, True))

    def ratio(measured: dict[str, list[float]]) -> list[float]:
        each = [s / f for f, s in zip(measured["folder"], measured["shards"], strict=True)]
        return [round(value, 2) for value in (statistics.median(each), min(each), max(each))]

    figures = {
        "pairs": sets,
        "size": size,
        "packing_seconds": seconds,
        "memory": grown,
        "digests_with_0_0_1_2_workers": orders,
        "pairs_a_second_in_memory": warm,
        "shards_over_folder_in_memory": ratio(warm),
        "pairs_a_second_forgotten": cold,
        "shards_over_folder_forgotten": ratio(cold),
    }
    save(f"shards_{arguments.size}_{arguments.pairs}", figures)


if __name__ == "__main__":
    main()
