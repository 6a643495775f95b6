"""What this machine can do: a short suite, its table, and how long the paper's presets would train here.

`benchmarks/` measures with the same pieces, at more length.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam

from pairloom import inference, presets
from pairloom.allocator import keeping_freed_memory
from pairloom.checkpoint import save_weights
from pairloom.config import Config
from pairloom.data.finding import find_pairs
from pairloom.data.loading import training_batches
from pairloom.data.measuring import measure_specs
from pairloom.devices import has_bf16, pick_device
from pairloom.images import ImageSpec
from pairloom.networks import build_generator
from pairloom.training import TrainState, train_step
from pairloom.translator import Semantics, Translator

PAIRS = {
    "facades": 400,
    "maps": 1_096,
    "cityscapes": 2_975,
    "inpainting": 14_900,
    "day2night": 17_823,
    "thermal": 36_609,
    "edges2shoes": 50_000,
    "edges2handbags": 137_000,
    "colorization": 1_200_000,
}
"""Training pairs of the paper's data sets; see the notes of the presets for how sure they are."""
Times = dict[str, list[float]]


# ------------------------------------------------------------------------------------------------------------
# Pieces, which benchmarks/ uses too


def seconds(run: Callable[[], Any]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def in_turn(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    most_seconds: float = math.inf,
    time_of: Callable[[Callable[[], Any]], float] = seconds,
) -> Times:
    """The times of each, measured A B A B ..., so that what disturbs the machine disturbs all.

    The first round warms up. After `most_seconds` no further one begins, but one is always measured.
    `time_of` gives the seconds of one of them.
    """
    times: Times = {name: [] for name in runs}
    started = time.perf_counter()
    for i in range(rounds + 1):
        if i > 1 and time.perf_counter() - started > most_seconds:
            break
        for name, run in runs.items():
            taken = time_of(run)
            if i:
                times[name].append(taken)
    return times


def matrix_peak(dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of five."""
    n = 2048
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    return 2 * n**3 / min(seconds(lambda: a @ b) for _ in range(5))


def memory_rate() -> float:
    """Bytes/s that a copy of more than caches hold reads and writes, the best of three."""
    source = torch.ones(2**27)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(3))


def cpu() -> tuple[str, str]:
    """The processor's name, and what it can do with bf16."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor(), "unknown"
    names = (line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    features = [f for f in ("avx512_bf16", "amx_bf16") if f in text]
    return next(names, platform.processor()), ", ".join(features) or "no bf16"


def config_for(size: int, batch: int, precision: Literal["fp32", "bf16"], width: int = 64) -> Config:
    """The paper's networks at this crop."""
    config = presets.paper()
    return replace(
        config,
        data=replace(config.data, crop_size=size, load_size=size * 286 // 256),
        generator=replace(
            config.generator,
            source_channels=3,
            target_channels=3,
            num_downs=min(8, size.bit_length() - 1),
            base_channels=width,
        ),
        discriminator=replace(config.discriminator, base_channels=width),
        training=replace(config.training, batch_size=batch, precision=precision),
    )


def plain_step(G: nn.Module, D: nn.Module, opt_g: Adam, opt_d: Adam, x: Tensor, y: Tensor) -> None:
    """The loop everybody writes first: fp32, contiguous, unfused Adam."""
    bce = nn.BCEWithLogitsLoss()
    y_hat = G(x)
    D.requires_grad_(True)
    real, fake = D(x, y), D(x, y_hat.detach())
    loss_d = (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))) / 2
    opt_d.zero_grad()
    loss_d.backward()
    opt_d.step()
    D.requires_grad_(False)
    judged = D(x, y_hat)
    loss_g = bce(judged, torch.ones_like(judged)) + 100 * (y_hat - y).abs().mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()


class Loops:
    """Our training step and the plain one, on the same noise."""

    def __init__(self, config: Config, size: int, batch: int, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        x, y = (torch.rand(batch, 3, size, size, device=self.device) * 2 - 1 for _ in range(2))
        self.noise = x, y
        self.noise_last = tuple(t.contiguous(memory_format=torch.channels_last) for t in (x, y))
        self.config = config
        self._ours: Callable[[], Any] | None = None
        self.autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.training.precision == "bf16"
        )

    def pairloom(self) -> Callable[[], Any]:
        """Our step."""
        self.state = TrainState.create(self.config, self.device)
        x, y = self.noise_last
        self._ours = waited_for(
            lambda: train_step(self.state, x, y, self.config.objective, self.autocast), self.device
        )
        return self._ours

    def step_seconds(self, step: Callable[[], Any]) -> float:
        """Of a step, the median of three after two, with memory handled as its own loop does."""
        with keeping_freed_memory() if step is self._ours else nullcontext():
            step()  # what the other loop has left in caches and memory gives way
            step()
            return statistics.median(seconds(step) for _ in range(3))

    def plain(self) -> Callable[[], Any]:
        """The plain loop's step, on the same networks in the usual layout."""
        state = TrainState.create(self.config, self.device)
        assert state.discriminator is not None
        G, D = (
            net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            for net in (state.generator, state.discriminator)
        )
        opt_g, opt_d = (
            Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=False, foreach=False) for net in (G, D)
        )
        return waited_for(lambda: plain_step(G, D, opt_g, opt_d, *self.noise), self.device)


def waited_for(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The same, until a GPU has done it, too."""
    if device.type != "cuda":
        return run

    def whole() -> None:
        run()
        torch.cuda.synchronize(device)

    return whole


# ------------------------------------------------------------------------------------------------------------
# The suite


def bench(
    *,
    quick: bool = False,
    device: str = "auto",
    size: int = 256,
    width: int = 64,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure this machine: plain JSON, which `words` says.

    Args:
        quick: Fewer rounds; without batches of four, and without what must be exported first.
        device: auto, cpu, cuda, cuda:1, mps.
        size: Pixels, of the side of an image.
        width: Base channels.
        say: Called with what is measured next.
    """
    chosen = pick_device(device)
    load = [_load()]
    precision: Literal["fp32", "bf16"] = "bf16" if has_bf16(chosen) else "fp32"
    rows: dict[str, dict[str, float]] = {}
    step_seconds: dict[int, float] = {}
    rounds = 3 if quick else 9
    for batch in (1,) if quick else (1, 4):
        say(f"training, batch {batch}")
        loops = Loops(config_for(size, batch, precision, width), size, batch, chosen)
        names = {"plain": f"training step, batch {batch}, plain fp32 loop"}
        names["ours"] = f"training step, batch {batch}, pairloom ({precision})"
        runs = {names["plain"]: loops.plain(), names["ours"]: loops.pairloom()}
        rows |= _rows(
            in_turn(runs, rounds, most_seconds=20 if quick else math.inf, time_of=loops.step_seconds), batch
        )
        step_seconds[batch] = rows[names["ours"]]["seconds"]
        del loops, runs
    say("inference")
    rows |= _inference(chosen, size, width, rounds, exported=not quick)
    say("reading")
    rows |= _reading(size, rounds)
    load.append(_load())
    name, features = cpu()
    read = rows["reading and jittering a JPEG pair"]["seconds"]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type,
        "processor": f"{name} ({features})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_1_min": load,
        "versions": {
            "pairloom": importlib.metadata.version("pairloom"),
            "python": platform.python_version(),
            **{package: _version(package) for package in ("torch", "onnxruntime")},
        },
        "size": size,
        "base_channels": width,
        "rows": rows,
        "estimates": estimates(step_seconds, read),
    }


def estimates(step_seconds: Mapping[int, float], pair_seconds: float) -> dict[str, dict[str, float]]:
    """How long the paper's presets train, of those whose batch size was measured.

    Args:
        step_seconds: Of a step, by batch size.
        pair_seconds: To read a pair in one worker, which goes on beside the step.
    """
    found = {}
    for name, pairs in PAIRS.items():
        training = presets.get(name).training
        batch = training.batch_size
        if batch in step_seconds:
            steps = training.steps or math.ceil((training.epochs or 1) * pairs / batch)
            each = max(step_seconds[batch], batch * pair_seconds)
            found[name] = {"steps": steps, "seconds_per_step": each, "seconds": steps * each}
    return found


def words(result: Mapping[str, Any]) -> str:
    """The table, the estimates, and how far to trust them."""
    rows: dict[str, dict[str, float]] = result["rows"]
    width = max(map(len, rows))
    lines = [
        f"{result['device']}: {result['processor']}, {result['threads']} threads; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        f"{result['size']}x{result['size']} pixels, {result['base_channels']} base channels; medians.",
        "",
        f"{'':{width}}  {'seconds':>9}  {'from':>9}  {'to':>9}  {'images/s':>9}  {'ratio':>6}",
    ]
    for name, row in rows.items():
        ratio = f"{row['times_as_fast']:6.2f}" if "times_as_fast" in row else ""
        lines.append(
            f"{name:{width}}  {row['seconds']:9.4f}  {row['least']:9.4f}  {row['most']:9.4f}  "
            f"{row['images_per_second']:9.2f}  {ratio}".rstrip()
        )
    lines += ["", "ratio: times as fast as the first of its kind, in the same rounds.", ""]
    lines += [
        f"This machine trains the {name} preset in about {span(found['seconds'])} "
        f"({found['steps']:,} steps of {found['seconds_per_step']:.3g} s)."
        for name, found in result["estimates"].items()
    ]
    load, cores = result["load_average_1_min"], result["cores"] or 1
    if None not in load and load[0] > cores / 4:
        lines.append(
            f"The machine was busy with other work (load {load[0]:.1f} on {cores} cores before the start): "
            "alone it is faster than this."
        )
    return "\n".join(lines)


def span(seconds_: float) -> str:
    """A time to plan with: two units, no more."""
    minutes = round(seconds_ / 60)
    if seconds_ < 90:
        return f"{seconds_:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds_ / 3600), 24)
    return f"{days} days {hours} h"


def _rows(times: Times, images: int) -> dict[str, dict[str, float]]:
    """Each one's median, extremes and rate; and its ratio to the first, the median over the rounds."""
    first = next(iter(times.values()))
    return {
        name: {
            "seconds": (median := statistics.median(values)),
            "least": min(values),
            "most": max(values),
            "images_per_second": images / median,
            "times_as_fast": statistics.median(a / b for a, b in zip(first, values, strict=True)),
        }
        for name, values in times.items()
    }


def _inference(
    device: torch.device, size: int, width: int, rounds: int, *, exported: bool
) -> dict[str, dict[str, float]]:
    config = config_for(size, 1, "fp32", width)
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    net = build_generator(config.generator, torch.Generator().manual_seed(0)).requires_grad_(False)
    precision = inference.choose("auto", device, spec)
    semantics = Semantics(dropout=False)
    model = Translator(net.to(device), spec, spec, config, semantics=semantics, precision=precision)
    x = torch.rand(1, 3, size, size, device=device) * 2 - 1

    runs: dict[str, Callable[[], Any]] = {
        "inference, batch 1, plain fp32": waited_for(lambda: net(x, None), device),
        f"inference, batch 1, pairloom ({precision})": waited_for(lambda: model.translate_tensor(x), device),
    }
    needed = ("onnx", "onnxscript", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        if exported and device.type == "cpu" and all(map(importlib.util.find_spec, needed)):
            runs["inference, batch 1, onnxruntime"] = _onnxruntime(model, Path(folder), x)
        return _rows(in_turn(runs, 3 * rounds, most_seconds=math.inf if exported else 8), 1)


def _onnxruntime(model: Translator, folder: Path, x: Tensor) -> Callable[[], Any]:
    from pairloom.export import export_model

    save_weights(folder / "generator.safetensors", model.generator.state_dict(), model.describe())
    with torch.inference_mode(False):
        export_model(folder / "generator.safetensors", folder / "model.onnx", format="onnx")
    generator = Translator.load(folder / "model.onnx", device="cpu").generator
    return lambda: generator(x, None)


def _reading(size: int, rounds: int, count: int = 8) -> dict[str, dict[str, float]]:
    """Pairs as JPEG, decoded, jittered and made tensors in one process."""
    rng = np.random.default_rng(0)
    config = config_for(size, 1, "fp32")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train").mkdir()
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 4, 3), np.uint8))
            coarse.resize((2 * size, size)).save(Path(folder) / f"train/{i}.jpg", quality=90)
        data = replace(config.data, path=folder, source_kind="intensity", target_kind="intensity")
        pairs = find_pairs(data).split("train")
        specs = measure_specs(pairs, data)

        def read() -> None:
            for _ in training_batches(
                pairs, *specs, data, batch_size=1, seed=0, start=0, stop=count, workers=0
            ):
                pass

        times = in_turn({"": read}, rounds)[""]
    row = _rows({"": [taken / count for taken in times]}, 1)[""]
    del row["times_as_fast"]
    return {"reading and jittering a JPEG pair": row}


def _load() -> float | None:
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
