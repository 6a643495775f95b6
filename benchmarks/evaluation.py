"""What evaluating costs, beside reading the pairs and running the generator once.

    python benchmarks/evaluation.py [--pairs 1000] [--size 256]

An untrained U-Net of the paper's width translates drawn facades. Timed in one process, in seconds a pair:
reading and translating, the least that any evaluation does, on a third of the pairs before and after; and the
whole evaluation, with baselines, sections and page. The ratio that counts is the whole over the least. The
result goes to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from pairloom import presets
from pairloom.data import find_pairs, load_pair, measure_specs
from pairloom.data.sample import write_sample_set
from pairloom.evaluation.evaluate import evaluate
from pairloom.networks import build_generator
from pairloom.translator import Translator
from result import save


def translator_for(path: Path, size: int) -> Translator:
    """The paper's generator on the set in `path`, with the weights that it starts from."""
    config = presets.paper()
    config = replace(
        config, data=replace(config.data, path=str(path), crop_size=size, source_kind="intensity")
    )
    source, target = measure_specs(find_pairs(config.data), config.data)
    g = replace(config.generator, source_channels=3, target_channels=3, num_downs=size.bit_length() - 1)
    config = replace(config, generator=replace(g, num_downs=min(8, g.num_downs or 8)))
    net = build_generator(config.generator, torch.Generator().manual_seed(0))
    return Translator(net, source, target, config)


def read_and_translate(translator: Translator, count: int) -> float:
    """Seconds a pair."""
    data = translator.config.data
    pairs = find_pairs(data).split("test")[:count]
    started = time.perf_counter()
    for pair in pairs:
        x, _ = load_pair(pair, translator.source_spec, translator.target_spec, data)
        translator.translate_tensor(x[None])
    return (time.perf_counter() - started) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        # 40 drawn pairs, each linked as often as needed: drawing a thousand would take longer than measuring.
        write_sample_set(path, count=50, size=arguments.size, seed=0)
        drawn = sorted((path / "train").iterdir())
        for old in (path / "test").iterdir():
            old.unlink()
        for i in range(arguments.pairs):
            (path / "test" / f"pair-{i:05}.png").hardlink_to(drawn[i % len(drawn)])
        translator = translator_for(path, arguments.size)
        third = max(arguments.pairs // 3, 1)
        read_and_translate(translator, 3)  # warm up
        before = read_and_translate(translator, third)
        started = time.perf_counter()
        evaluate(translator, out=Path(folder) / "out")
        whole = (time.perf_counter() - started) / arguments.pairs
        after = read_and_translate(translator, third)

    least = (before + after) / 2
    figures = {
        "pairs": arguments.pairs,
        "size": arguments.size,
        "least_seconds_per_pair": [round(before, 4), round(after, 4)],
        "whole_seconds_per_pair": round(whole, 4),
        "whole_over_least": round(whole / least, 2),
    }
    save(f"evaluation_{arguments.size}_{arguments.pairs}", figures)


if __name__ == "__main__":
    main()
