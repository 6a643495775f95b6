"""A translation by U-Net-256: the prepared network against eager fp32, onnxruntime and the roofline.

    python benchmarks/inference.py [--size 256] [--batches 1 16] [--rounds 9] [--threads 2]

All translate the same noise in turn, A B C A B C ..., in one process; ratios are to eager fp32 in the
same round, and the median over the rounds is given. Dropout is off, so that the time is the network's. The
roofline: the generator's matrix FLOPs over the peak of a bf16 matrix product, and the weights' bytes in bf16
over the rate of a copy, both measured between the rounds, the best of them; their sum is the least time
for a batch, and is compared with the least of the times. Weights are random: they change neither. The result
goes to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backends import noise
from pairloom import presets
from pairloom.bench import matrix_peak, memory_rate, seconds
from pairloom.checkpoint import save_weights
from pairloom.export import export_model
from pairloom.images import ImageSpec
from pairloom.inference import Prepared
from pairloom.networks import Generator, build_generator
from pairloom.translator import Semantics, Translator
from result import save

FIRST = "eager fp32"
"""What the others are measured against."""


def networks(folder: Path, size: int) -> tuple[Generator, dict[str, Callable[[Tensor], Any]]]:
    """U-Net-256 with random weights, and every way in which it is run."""
    config = presets.paper()
    config = replace(
        config,
        data=replace(config.data, crop_size=size, load_size=size),
        generator=replace(config.generator, source_channels=3, target_channels=3, num_downs=8),
    )
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    net = build_generator(config.generator, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    model = Translator(net, spec, spec, config, semantics=Semantics(dropout=False))
    save_weights(folder / "generator.safetensors", net.state_dict(), model.describe())
    export_model(folder / "generator.safetensors", folder / "model.onnx", format="onnx", dynamic=True)
    devices = {"onnxruntime fp32": "cpu"}
    if importlib.util.find_spec("openvino"):
        devices |= {"OpenVINO fp32": "openvino", "OpenVINO bf16": "openvino:bf16"}
    exported = {
        name: Translator.load(folder / "model.onnx", device=device).generator
        for name, device in devices.items()
    }
    ways = {
        FIRST: net,
        "prepared fp32": Prepared(net, "fp32"),
        "prepared bf16": Prepared(net, "bf16"),
        **exported,
    }
    return net, {name: lambda x, way=way: way(x, None) for name, way in ways.items()}  # type: ignore[misc]


def measure(
    net: Generator, ways: dict[str, Callable[[Tensor], Any]], batch: int, size: int, rounds: int
) -> dict[str, Any]:
    """Times, ratios and the roofline."""
    x = noise(batch, size)
    counter = FlopCounterMode(display=False)
    with counter:
        expected = net(x, None)
    times: dict[str, list[float]] = {name: [] for name in ways}
    peak = rate = 0.0
    for i in range(rounds + 1):
        for name, way in ways.items():
            taken = seconds(lambda way=way: way(x))  # type: ignore[misc]
            if i:  # the first round warms up
                times[name].append(taken)
        peak, rate = max(peak, matrix_peak(torch.bfloat16)), max(rate, memory_rate())
    weights = sum(p.numel() for p in net.parameters())
    roofline = counter.get_total_flops() / peak + 2 * weights / rate
    found: dict[str, Any] = {
        "roofline": {
            "milliseconds": round(1000 * roofline, 1),
            "gflop": round(counter.get_total_flops() / 1e9, 1),
            "bf16_peak_gflops": round(peak / 1e9),
            "memory_gigabytes_a_second": round(rate / 1e9, 1),
        }
    }
    for name, values in times.items():
        ratios = [a / b for a, b in zip(times[FIRST], values, strict=True)]
        found[name] = {
            "milliseconds": round(1000 * statistics.median(values), 1),
            "milliseconds_least": round(1000 * min(values), 1),
            "times_as_fast": round(statistics.median(ratios), 2),
            "times_as_fast_min_max": [round(min(ratios), 2), round(max(ratios), 2)],
            "times_the_roofline": round(min(values) / roofline, 2),
            "largest_difference": float(f"{float((ways[name](x) - expected).abs().max()):.2g}"),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        net, ways = networks(Path(folder), arguments.size)
        for batch in arguments.batches:
            results[f"batch {batch}"] = measure(net, ways, batch, arguments.size, arguments.rounds)
            print(json.dumps({f"batch {batch}": results[f"batch {batch}"]}, indent=2), file=sys.stderr)
    name = f"inference_{arguments.size}_threads_{arguments.threads}"
    save(name, {"results": results}, "onnx", "onnxruntime", "openvino")


if __name__ == "__main__":
    main()
