"""A training step of U-Net-256 and the 70x70 D, against a plain fp32 eager loop of the same networks.

    python benchmarks/train_step.py [--size 256] [--batch 1] [--rounds 9]

The two are timed in turn, A B A B ..., in one process, each time the median of three steps after two; the
ratio is the median over the rounds. The share of the peak counts the step's matrix FLOPs against a bf16
matrix product measured in the same run; the roofline adds to their time that of the memory which Adam must
move, at the rate of a copy. Then real batches are loaded beside the steps by one worker, and the share of
time spent waiting for them is taken.
Peak memory is that of two further processes that do nothing but the one loop or the other. The result goes
to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from pairloom.bench import Loops, config_for, matrix_peak, memory_rate, seconds
from pairloom.config import Config, height_width
from pairloom.data import View, find_pairs, measure_specs, training_batches
from pairloom.data.sample import write_sample_set
from pairloom.describe import step_flops
from pairloom.devices import has_bf16, peak_memory_mb
from pairloom.training import TrainState, train_step
from result import save

ADAM_BYTES = 28
"""Of memory that Adam reads (weight, gradient, two moments) or writes (all but the gradient), a parameter."""


def wait_share(config: Config, state: TrainState, steps: int = 12) -> tuple[float, float]:
    """Share of the time spent waiting for batches, and seconds a pair takes to load in this process."""
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.training.precision == "bf16")
    batch = config.training.batch_size
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample_set(
            Path(folder) / "set", count=40, size=height_width(config.data.crop_size)[0], seed=0
        )
        data = replace(config.data, path=str(path), source_kind="intensity")
        train = find_pairs(data).split("train")
        specs = measure_specs(train, data)

        def batches(count: int, workers: int) -> Generator[View, None, None]:
            return training_batches(
                train, *specs, data, batch_size=batch, seed=0, start=0, stop=count * batch, workers=workers
            )

        alone = seconds(lambda: [None for _ in batches(40, 0)]) / (40 * batch)
        waited = total = 0.0
        with closing(batches(steps, 1)) as loader:
            for i in range(steps):
                started = time.perf_counter()
                x, y, _ = next(loader)
                fetched = time.perf_counter()
                train_step(
                    state,
                    x.contiguous(memory_format=torch.channels_last),
                    y.contiguous(memory_format=torch.channels_last),
                    config.objective,
                    autocast,
                )
                if i >= 2:  # the worker starts
                    waited += fetched - started
                    total += time.perf_counter() - started
    return waited / total, alone


def memory_of(which: str, size: int, batch: int) -> float:
    """Peak memory in MB of a process that runs three steps of one loop."""
    command = [sys.executable, __file__, "--size", str(size), "--batch", str(batch), "--only", which]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=["plain", "pairloom"], help="print the peak memory of one loop")
    arguments = parser.parse_args()
    size, batch = arguments.size, arguments.batch

    device = torch.device("cpu")
    config = config_for(size, batch, "bf16" if has_bf16(device) else "fp32")
    loops = Loops(config, size, batch)
    if arguments.only:
        step = getattr(loops, arguments.only)()
        loops.step_seconds(step)
        print(peak_memory_mb(device))
        return

    plain, ours = loops.plain(), loops.pairloom()
    precision = config.training.precision
    times: dict[str, list[float]] = {"plain": [], "pairloom": []}
    peak = rate = 0.0
    for i in range(arguments.rounds + 2):
        # Beside every round, as a neighbour on the machine may halve a single measurement.
        peak = max(peak, matrix_peak(torch.bfloat16 if precision == "bf16" else torch.float32))
        rate = max(rate, memory_rate())
        pair = loops.step_seconds(plain), loops.step_seconds(ours)
        if i >= 2:  # the first two warm up
            times["plain"].append(pair[0])
            times["pairloom"].append(pair[1])
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["plain"], times["pairloom"], strict=True)]
    flops = step_flops(config)
    nets = filter(None, (loops.state.generator, loops.state.discriminator))
    roofline = flops / peak + ADAM_BYTES * sum(p.numel() for net in nets for p in net.parameters()) / rate
    waited, pair_seconds = wait_share(config, loops.state)
    figures = {
        "precision": precision,
        "plain_fp32_seconds": round(median["plain"], 4),
        "pairloom_seconds": round(median["pairloom"], 4),
        "times_as_fast": round(statistics.median(ratios), 3),
        "times_as_fast_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
        "gflop_per_step": round(flops / 1e9, 2),
        "matrix_peak_gflops": round(peak / 1e9, 1),
        "share_of_peak": round(flops / median["pairloom"] / peak, 3),
        "memory_gigabytes_a_second": round(rate / 1e9, 1),
        "roofline_seconds": round(roofline, 4),
        "times_the_roofline": round(median["pairloom"] / roofline, 2),
        "times_the_roofline_least": round(min(times["pairloom"]) / roofline, 2),
        "loading_seconds_per_pair": round(pair_seconds, 5),
        "wait_share_with_one_worker": round(waited, 4),
        "peak_memory_mb": {name: memory_of(name, size, batch) for name in times},
    }
    save(f"train_step_{size}_{batch}", figures)


if __name__ == "__main__":
    main()
