"""What translating a large image by tiles takes: time by pass, memory above the model, arithmetic.

    python benchmarks/large_image.py --height 4000 --width 6000 --base-channels 16 --norm-stats running

The image is made as it is read (waves), the result is thrown away, the weights are random: the figures are
those of the passes, without files of images. Memory needs Linux. The result goes to benchmarks/results/, a
file for each kind of machine.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pairloom import presets
from pairloom.config import GeneratorConfig
from pairloom.images import ImageSpec
from pairloom.networks import build_generator
from pairloom.tile_plan import plan_tiles
from pairloom.tiling import translate_tiled
from pairloom.translator import Semantics, Translator
from result import save

WAVES = (0.01, 0.02), (0.3, 0.001), (0.02, 0.05)


def translator(base_channels: int, norm_stats: str) -> Translator:
    config = GeneratorConfig(source_channels=3, target_channels=3, base_channels=base_channels, num_downs=8)
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    generator = build_generator(config, torch.Generator().manual_seed(0)).requires_grad_(False)
    whole = replace(presets.paper(), generator=config)
    return Translator(generator, spec, spec, whole, semantics=Semantics(norm_stats=norm_stats))  # type: ignore[arg-type]


def read(top: int, left: int, height: int, width: int) -> Tensor:
    rows = torch.arange(top, top + height)[:, None].float()
    columns = torch.arange(left, left + width)[None].float()
    return torch.stack([torch.sin(rows * down + columns * right) for down, right in WAVES])


def held(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=4000)
    parser.add_argument("--width", type=int, default=6000)
    parser.add_argument("--base-channels", type=int, default=16)
    parser.add_argument("--norm-stats", choices=("running", "image"), default="running")
    parser.add_argument("--memory-mib", type=int, default=2048)
    parser.add_argument("--split", type=int, help="instead of the cheapest")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = translator(asked.base_channels, asked.norm_stats)
    model.translate_tensor(torch.zeros(1, 3, 256, 256))
    size = asked.height, asked.width
    plan = plan_tiles(model, size, asked.memory_mib * 2**20, split=asked.split)
    spent: dict[str, float] = defaultdict(float)
    last = time.monotonic()

    def progress(finished: int, of: int, words: str) -> None:
        nonlocal last
        now = time.monotonic()
        spent[words] += now - last
        last = now

    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted from here
    before, started = held("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    report = translate_tiled(model, read, size, lambda top, left, y_hat: None, plan=plan, progress=progress)
    ended = resource.getrusage(resource.RUSAGE_SELF)
    print(report.words())
    user, system = ended.ru_utime - started.ru_utime, ended.ru_stime - started.ru_stime
    peak = (held("VmHWM") - before) / 2**20
    figures = {
        "norm_stats": asked.norm_stats,
        "seconds": round(sum(spent.values()), 1),
        "processor_seconds": round(user, 1),
        "system_seconds": round(system, 1),
        "memory_above_the_model_mib": round(peak),
        "planned_mib": round(plan.memory_bytes / 2**20),
        "gmac_and_seconds": {
            stage.name: [
                round(stage.macs / 1e9, 1),
                round(spent[stage.name + (" (sample)" if stage.sampled else "")], 1),
            ]
            for stage in plan.stages
        },
    }
    save(f"large_image_{asked.height}_{asked.width}_{asked.base_channels}_{asked.norm_stats}", figures)


if __name__ == "__main__":
    main()
