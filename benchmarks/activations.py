"""Activation checkpointing: peak memory and time of a step with and without it, at a large crop.

    python benchmarks/activations.py [--size 1024] [--channels 16] [--steps 3]

Each measurement is a process of its own (VmHWM), twice in turn; before_mb is its peak with everything built
and no step taken. The result goes to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch

from pairloom import presets
from pairloom.devices import peak_memory_mb
from pairloom.training import TrainState, train_step
from result import save

CPU = torch.device("cpu")


def measure(size: int, channels: int, steps: int, architecture: str, again: bool) -> dict[str, float | None]:
    """Peak MB before and after some steps, and the median of their seconds."""
    config = presets.paper()
    config = replace(
        config,
        data=replace(config.data, crop_size=size, load_size=size),
        generator=replace(
            config.generator,
            architecture=architecture,
            source_channels=3,
            target_channels=3,
            num_downs=8,
            base_channels=channels,
        ),
        discriminator=replace(config.discriminator, base_channels=channels),
        training=replace(config.training, checkpoint_activations=again, precision="fp32"),
    )
    state = TrainState.create(config, CPU)
    x, y = (torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last) for _ in range(2))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    before, seconds = peak_memory_mb(CPU), []
    for _ in range(steps):
        started = time.perf_counter()
        train_step(state, x, y, config.objective, autocast)
        seconds.append(time.perf_counter() - started)
    return {"before_mb": before, "peak_mb": peak_memory_mb(CPU), "seconds": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--architecture", choices=["unet", "resnet"], default="unet")
    parser.add_argument("--only", choices=["kept", "again"])
    a = parser.parse_args()
    if a.only:
        print(json.dumps(measure(a.size, a.channels, a.steps, a.architecture, a.only == "again")))
        return
    found: dict[str, list[dict[str, float]]] = {"kept": [], "again": []}
    for _ in range(2):
        for which in ("kept", "again"):
            command = [sys.executable, __file__, *sys.argv[1:], "--only", which]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[which].append(json.loads(done.stdout))
            print(which, done.stdout.strip(), flush=True)
    save(f"activations_{a.architecture}_{a.size}_{a.channels}", found)


if __name__ == "__main__":
    main()
