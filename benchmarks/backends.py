"""A translation by U-Net-256 on each back end, against eager fp32 torch in the same run.

    python benchmarks/backends.py [--size 256] [--widths 64 32] [--batches 1 16] [--rounds 7] [--threads 2]

Every back end translates the same noise in turn, A B C A B C ..., in one process; ratios are to torch's time
in the same round, and the median over the rounds is given. Dropout is off, so that the time is the network's.
Peak memory is that of a process of its own for each, which loads the model and translates twice; the one that
only imports torch is given beside. Weights are random: they change neither. The result goes to
benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pairloom import presets
from pairloom.bench import seconds
from pairloom.checkpoint import save_weights
from pairloom.devices import peak_memory_mb
from pairloom.export import export_model
from pairloom.images import ImageSpec
from pairloom.networks import build_generator
from pairloom.translator import Semantics, Translator
from result import save

BACKENDS = {
    "torch fp32": "generator.safetensors",
    "torch bf16, channels last": "generator.safetensors",
    "torch.export fp32": "model.pt2",
    "onnxruntime fp32": "model.onnx",
    "onnxruntime fp16": "half.onnx",
    "OpenVINO fp32": "model.onnx",
    "OpenVINO bf16": "model.onnx",
    "OpenVINO fp32, fp16 file": "half.onnx",
}
"""Their files; the first is what the others are measured against."""


def write_models(folder: Path, size: int, width: int) -> dict[str, str]:
    """A U-Net-256 with random weights and its exports; what their checks said."""
    config = presets.paper()
    config = replace(
        config,
        data=replace(config.data, crop_size=size, load_size=size),
        generator=replace(
            config.generator, source_channels=3, target_channels=3, num_downs=8, base_channels=width
        ),
    )
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    net = build_generator(config.generator, torch.Generator().manual_seed(0))
    model = Translator(net, spec, spec, config, semantics=Semantics(dropout=False))
    save_weights(folder / "generator.safetensors", net.state_dict(), model.describe())
    said = {}
    for name, half in (("model.pt2", False), ("model.onnx", False), ("half.onnx", True)):
        suffix = name.rpartition(".")[2]
        file, source = folder / name, folder / "generator.safetensors"
        done = export_model(source, file, format=suffix, half=half, dynamic=True)  # type: ignore[arg-type]
        said[name] = f"{file.stat().st_size / 1e6:.1f} MB; " + "; ".join(c.words() for c in done.checks)
    return said


def translation(name: str, folder: Path) -> Callable[[Tensor], Any]:
    """How a back end translates x (N, C, H, W)."""
    file = folder / BACKENDS[name]
    if file.suffix == ".pt2":
        net = torch.export.load(file).module(check_guards=False)
        return lambda x: net(x)
    device = "openvino:bf16" if name == "OpenVINO bf16" else "openvino" if "OpenVINO" in name else "cpu"
    generator = Translator.load(file, device=device).generator
    if "bf16" not in name or device != "cpu":
        return lambda x: generator(x, None)
    generator.to(memory_format=torch.channels_last)

    def in_bf16(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y_hat: Tensor = generator(x.contiguous(memory_format=torch.channels_last), None)
        return y_hat

    return in_bf16


def noise(batch: int, size: int) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch)) * 2 - 1


def memory_of(name: str, folder: Path, batch: int, size: int) -> float:
    """Peak memory in MB of a process that translates twice."""
    command = [sys.executable, __file__, "--size", str(size), "--batches", str(batch)]
    command += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(
        [*command, "--only", name, "--folder", str(folder)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def measure(folder: Path, names: list[str], batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Times, ratios and memory of each back end."""
    x = noise(batch, size)
    runs = {name: translation(name, folder) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    first = names[0]
    with torch.inference_mode():
        expected = runs[first](x)
        differences = {name: float((run(x) - expected).abs().max()) for name, run in runs.items()}
        for i in range(rounds + 1):
            for name, run in runs.items():
                taken = seconds(lambda run=run: run(x))  # type: ignore[misc]
                if i:  # the first round warms up
                    times[name].append(taken)
    ratios = {
        name: [a / b for a, b in zip(times[first], values, strict=True)] for name, values in times.items()
    }
    del runs
    return {
        name: {
            "milliseconds": round(1000 * statistics.median(times[name]), 1),
            "times_as_fast": round(statistics.median(ratios[name]), 2),
            "times_as_fast_min_max": [round(min(ratios[name]), 2), round(max(ratios[name]), 2)],
            "largest_difference": float(f"{differences[name]:.2g}"),
            "peak_memory_mb": memory_of(name, folder, batch, size),
        }
        for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=[*BACKENDS, "nothing"], help="print the peak memory of one")
    parser.add_argument("--folder", type=Path, help="of --only: where the models are")
    arguments = parser.parse_args()
    size = arguments.size
    torch.set_num_threads(arguments.threads)

    if arguments.only:
        if arguments.only != "nothing":
            run, x = translation(arguments.only, arguments.folder), noise(arguments.batches[0], size)
            with torch.inference_mode():
                run(x)
                run(x)
        print(peak_memory_mb(torch.device("cpu")))
        return

    there = importlib.util.find_spec("openvino") is not None
    names = [name for name in BACKENDS if there or "OpenVINO" not in name]
    results: dict[str, Any] = {}
    exports: dict[str, dict[str, str]] = {}
    for width in arguments.widths:
        with tempfile.TemporaryDirectory() as folder:
            exports[str(width)] = write_models(Path(folder), size, width)
            for batch in arguments.batches:
                key = f"{width} base channels, batch {batch}"
                results[key] = measure(Path(folder), names, batch, size, arguments.rounds)
                print(json.dumps({key: results[key]}, indent=2), file=sys.stderr, flush=True)
    figures = {
        "process_that_only_imports_mb": memory_of("nothing", Path(), 1, size),
        "exports": exports,
        "results": results,
    }
    save(f"backends_{size}", figures, "onnx", "onnxscript", "onnxruntime", "openvino")


if __name__ == "__main__":
    main()
