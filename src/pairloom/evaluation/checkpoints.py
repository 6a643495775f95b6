"""A metric over the checkpoints of a run: when was it best, and is it still getting better?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pairloom.data import Pair, View
from pairloom.evaluation.curves import chart
from pairloom.evaluation.metrics import BETTER, l1, psnr, ssim
from pairloom.evaluation.summary import EvaluationError, Section, aligned, number
from pairloom.translator import Translator

FOLLOWED = {"L1": l1, "PSNR": psnr, "SSIM": ssim}
"""Metrics that are followed: of pairs, and quick."""


def find_checkpoints(run: Path) -> dict[int, Path]:
    """Every model of a run by its step: states to resume from, and snapshots.

    Raises:
        EvaluationError: There is none.
    """
    found: dict[int, Path] = {}
    for path in sorted([*run.glob("snapshots/step-*.safetensors"), *run.glob("checkpoints/step-*.pt")]):
        if re.fullmatch(r"step-\d+", path.stem):
            found[int(path.stem[5:])] = path
    if not found:
        raise EvaluationError(f"{run}: holds no checkpoints; give a run directory.")
    return dict(sorted(found.items()))


def over_checkpoints(
    run: Path,
    pairs: Sequence[Pair],
    load: Callable[[Pair], View],
    *,
    split: str,
    seed: int,
    device: str,
) -> Section:
    """Mean L1, PSNR and SSIM of every checkpoint over the same pairs, and the best step of each.

    Args:
        run: The run directory.
        pairs: Those measured.
        load: Reads a pair as tensors in evaluation geometry.
        split: Theirs; a step that was chosen on the test split has no test left.
        seed: Of the noise.
        device: auto, cpu, cuda, mps.

    Raises:
        EvaluationError: The run holds no checkpoints.
    """
    lines: list[dict[str, Any]] = []
    for step, path in tqdm(
        find_checkpoints(run).items(), desc="checkpoints", unit="model", disable=None, leave=False
    ):
        model = Translator.load(path, device=device, precision="fp32")
        values: dict[str, list[float]] = {name: [] for name in FOLLOWED}
        for pair in pairs:
            x, y, valid = load(pair)
            where = None if valid is None else valid[None]
            y_hat = model.translate_tensor(x[None], seed=seed).cpu().float()
            for name, metric in FOLLOWED.items():
                values[name].append(float(metric(y_hat, y[None], where)))
        lines.append({"step": step} | {f"val_{name}": _mean(v) for name, v in values.items()})
    best = {name: _best(lines, name) for name in FOLLOWED}
    table = [["step", *FOLLOWED]]
    for line in lines:
        table.append([str(line["step"]), *(number(name, line[f"val_{name}"]) for name in FOLLOWED)])
    words = [*aligned(table), "", *_sentences(lines, best, split)]
    drawn = [chart(lines, name, {f"val_{name}": name}, f"{BETTER[name]} is better") for name in FOLLOWED]
    return Section(
        title="Over checkpoints",
        words="\n".join(words),
        figures={"steps": lines, "best": best},
        svg="".join(f'<div class="chart"><h3>{c.title}</h3>{c.svg}</div>' for c in drawn if c is not None),
    )


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _best(lines: Sequence[dict[str, Any]], name: str) -> int | None:
    known = [line for line in lines if math.isfinite(line[f"val_{name}"])]
    sign = 1 if BETTER[name] == "lower" else -1
    return min(known, key=lambda line: sign * line[f"val_{name}"])["step"] if known else None


def _sentences(lines: Sequence[dict[str, Any]], best: dict[str, int | None], split: str) -> list[str]:
    steps = ", ".join(f"step {step} by {name}" for name, step in best.items() if step is not None)
    sentences = [f"Best: {steps}."]
    if split == "test":
        sentences.append(
            "A step chosen on the test split has no test left: choose on val, and report test once."
        )
    if len(lines) < 4:
        sentences.append(
            "A run keeps its last two states and the best; logging.keep_snapshots=True keeps a small "
            "generator of every checkpoint."
        )
    return sentences
