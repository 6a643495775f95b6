"""Reading training pairs: from JPEG, from PNG, and from the decoded cache of the same files.

    python benchmarks/data_reading.py [--pairs 200] [--size 256] [--rounds 7] [--steps 30]

The readers take turns, A B C A B C ..., in one process on one thread; a ratio is the median over the rounds.
"Read" is from files to file values, "view" from files to the tensors that a network sees. Then a real
training (`train_step`, one reading worker) goes over JPEG files without and with the cache, and the share of
time spent waiting for data is taken. The result goes to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pairloom import presets
from pairloom.config import Config
from pairloom.data import Pair, find_pairs, measure_specs, training_batches, training_view
from pairloom.data.cache import Decoded
from pairloom.data.remembered import Cache
from pairloom.data.sample import write_sample_set
from pairloom.devices import has_bf16
from pairloom.images import ImageSpec
from pairloom.training import TrainState, train_step
from result import save

Specs = tuple[ImageSpec, ImageSpec]


def written(folder: Path, count: int, size: int) -> None:
    """The sample set as two folders of PNG, and of JPEG of quality 90; 40 of the pictures are drawn."""
    write_sample_set(folder / "drawn", count=50, size=size, seed=0)
    drawn = sorted((folder / "drawn" / "train").iterdir())
    for i in range(count):
        picture = Image.open(drawn[i % len(drawn)]).convert("RGB")
        halves = picture.crop((0, 0, size, size)), picture.crop((size, 0, 2 * size, size))
        for kind, options in (("png", {}), ("jpg", {"quality": 90})):
            for side, half in zip("AB", halves, strict=True):
                path = folder / kind / side / f"{i:05}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                half.save(path, **options)


def config_of(folder: Path, kind: str, size: int) -> Config:
    """The paper's preset on one of the folders, with a cache beside it."""
    config = presets.paper()
    data = replace(
        config.data, path=str(folder / kind), crop_size=size, load_size=None, source_kind="intensity"
    )
    return replace(config, data=replace(data, cache=str(folder / "cache")))


def seconds_each(pairs: Sequence[Pair], read: Callable[[Pair], object]) -> float:
    """Seconds that one pair takes."""
    started = time.perf_counter()
    for pair in pairs:
        read(pair)
    return (time.perf_counter() - started) / len(pairs)


def reading(folder: Path, size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds a pair of each reader, medians; and how many times as fast as JPEG each is."""
    readers: dict[str, tuple[Sequence[Pair], Specs, Config]] = {}
    for kind in ("jpg", "png"):
        config = config_of(folder, kind, size)
        pairs = find_pairs(config.data).split("train")
        specs = measure_specs(pairs, config.data)
        readers[kind] = pairs, specs, config
        if kind == "jpg":
            decoded = Cache(config.data, pairs).decoded(*specs, print)
            assert decoded is not None
            readers["cache"] = [decoded.over(pair) for pair in pairs], specs, config
    rng = np.random.default_rng(0)
    times: dict[str, dict[str, list[float]]] = {"read": {}, "view": {}}
    for _ in range(rounds):
        for name, (pairs, specs, config) in readers.items():
            read = seconds_each(pairs, lambda pair, specs=specs: pair.read(*specs))
            data = config.data
            view = seconds_each(pairs, lambda p, s=specs, d=data: training_view(p, *s, d, rng))
            times["read"].setdefault(name, []).append(read)
            times["view"].setdefault(name, []).append(view)
    result: dict[str, dict[str, float]] = {}
    for what, by_reader in times.items():
        jpg = by_reader["jpg"][1:]  # the first round warms up
        for name, seconds in by_reader.items():
            ratios = [a / b for a, b in zip(jpg, seconds[1:], strict=True)]
            result[f"{what} {name}"] = {
                "ms": round(1e3 * statistics.median(seconds[1:]), 4),
                "pairs_per_second": round(1 / statistics.median(seconds[1:]), 1),
                "times_as_fast_as_jpg": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
            }
    return result


def wait_share(config: Config, specs: Specs, decoded: Decoded | None, steps: int) -> float:
    """The share of a training's time spent waiting for its next batch, with one reading worker."""
    device = torch.device("cpu")
    g = replace(config.generator, source_channels=3, target_channels=3)
    g = replace(g, num_downs=min(8, config.data.load_sides[0].bit_length() - 1))
    config = replace(config, generator=g)
    state = TrainState.create(config, device)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bf16(device))
    pairs = find_pairs(config.data).split("train")
    batches = training_batches(
        pairs, *specs, config.data, batch_size=1, seed=0, start=0, stop=steps + 3, workers=1, decoded=decoded
    )
    waited = whole = 0.0
    with closing(batches):
        for number in range(steps + 3):
            started = time.perf_counter()
            x, y, _ = next(batches)
            fetched = time.perf_counter()
            x, y = (side.to(memory_format=torch.channels_last) for side in (x, y))
            train_step(state, x, y, config.objective, autocast)
            if number >= 3:  # the worker starts, the first steps warm up
                waited += fetched - started
                whole += time.perf_counter() - started
    return waited / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(folder, arguments.pairs, arguments.size)
        torch.set_num_threads(1)
        readers = reading(folder, arguments.size, arguments.rounds)
        torch.set_num_threads(threads)
        config = config_of(folder, "jpg", arguments.size)
        pairs = find_pairs(config.data).split("train")
        specs = measure_specs(pairs, config.data)
        decoded = Cache(config.data, pairs).decoded(*specs, print)
        shares: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(2):
            for name, held in (("without", None), ("with", decoded)):
                shares[name].append(round(wait_share(config, specs, held, arguments.steps), 4))
    figures = {
        "pairs": arguments.pairs,
        "size": arguments.size,
        "readers": readers,
        "share_of_a_training_spent_waiting": shares,
    }
    save(f"data_reading_{arguments.size}", figures)


if __name__ == "__main__":
    main()
