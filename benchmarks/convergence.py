"""Do the fast and the plain path learn the same? Validation L1 over seeds, from the same starts and batches.

    python benchmarks/convergence.py [--steps 300] [--seeds 3] [--channels 16]

Plain: fp32, convolutions as torch's, torch's unfused Adam. Fast: bf16 autocast, the deep levels as matrix
products (small_maps.py), our Adam. The sample set at 64 px, labels to photo. Both are validated in fp32.
Each seed's figures, both means with 95 % t-intervals over the seeds, and the paired difference's; the result
goes to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from pairloom import presets
from pairloom.config import Config
from pairloom.data import find_pairs, measure_specs, training_batches
from pairloom.data.sample import write_sample_set
from pairloom.prefetch import on_device
from pairloom.training import TrainState, learning_rate, train_step
from pairloom.translator import Semantics, Translator
from pairloom.validation import HeldOut
from result import save

CPU = torch.device("cpu")
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Student's t for 95 %, by the number of seeds."""


def config_for(path: Path, channels: int, seed: int, steps: int, *, fast: bool) -> Config:
    config = presets.paper()
    return replace(
        config,
        data=replace(
            config.data, path=str(path), direction="BtoA", crop_size=64, load_size=72, source_kind="intensity"
        ),
        generator=replace(
            config.generator, source_channels=3, target_channels=3, num_downs=6, base_channels=channels
        ),
        discriminator=replace(config.discriminator, base_channels=channels, num_layers=2),
        training=replace(
            config.training,
            batch_size=4,
            steps=steps,
            seed=seed,
            decay_fraction=0.5,
            precision="bf16" if fast else "fp32",
        ),
    )


def val_l1(config: Config, *, fast: bool) -> float:
    """Train, and validate the end."""
    pairs = find_pairs(config.data)
    train, training = pairs.split("train"), config.training
    specs = measure_specs(train, config.data)
    state = TrainState.create(config, CPU)
    if not fast:
        betas = training.beta1, training.beta2
        for name, net in (("optimizer_g", state.generator), ("optimizer_d", state.discriminator)):
            plain = torch.optim.Adam(
                net.parameters(), training.learning_rate, betas, foreach=False, fused=False
            )
            setattr(state, name, plain)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=fast)
    steps, size = training.steps, training.batch_size
    batches = training_batches(
        train, *specs, config.data, batch_size=size, seed=training.seed, start=0, stop=steps * size, workers=0
    )
    with closing(on_device(batches, CPU)) as placed:
        for x, y, valid in placed:
            rate = learning_rate(training.learning_rate, state.step, steps, training.decay_fraction)
            for optimizer in (state.optimizer_g, state.optimizer_d):
                optimizer.param_groups[0]["lr"] = rate
            train_step(state, x, y, config.objective, autocast, valid)
    state.generator.eval()
    in_fp32 = replace(config, training=replace(training, precision="fp32"))
    model = Translator(
        state.generator, *specs, in_fp32, semantics=Semantics.as_trained(config, 1), provenance={}
    )
    value = HeldOut(pairs, *specs, config.data, drawn=0).validate(model)
    assert value is not None
    return value


def interval(values: list[float]) -> dict[str, float]:
    half = T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(T95))
    parser.add_argument("--channels", type=int, default=16)
    a = parser.parse_args()
    found: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        path = write_sample_set(Path(folder) / "set", count=200, size=72, seed=0)
        for seed in range(a.seeds):
            for fast in (False, True):
                started = time.perf_counter()
                found[fast].append(val_l1(config_for(path, a.channels, seed, a.steps, fast=fast), fast=fast))
                name = "fast " if fast else "plain"
                seconds = time.perf_counter() - started
                print(f"seed {seed}, {name}: L1 {found[fast][-1]:.4f} ({seconds:.0f} s)", flush=True)
    plain, fast_ones = found[False], found[True]
    differences = [b - a for a, b in zip(plain, fast_ones, strict=True)]
    figures = {
        "plain_val_l1": [round(value, 4) for value in plain],
        "fast_val_l1": [round(value, 4) for value in fast_ones],
        "plain": interval(plain),
        "fast": interval(fast_ones),
        "fast_less_plain_paired": interval(differences),
    }
    save(f"convergence_{a.channels}_{a.steps}", figures)


if __name__ == "__main__":
    main()
