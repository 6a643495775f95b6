"""The whole job on the built-in sample set, with nothing to download: draw, train, evaluate, report."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pairloom import configfile, presets
from pairloom.config import Config
from pairloom.data.sample import PALETTE, draw_labels, draw_layout, write_sample_set
from pairloom.devices import has_bf16, pick_device
from pairloom.evaluation.evaluate import evaluate
from pairloom.evaluation.report import write_report
from pairloom.fit import train, trial_seconds_per_step
from pairloom.images import Array
from pairloom.translator import Translator

COUNT, SIZE, SEED = 500, 128, 0
"""Pairs of the sample set, their side in pixels, and its seed."""
TRAINING_SECONDS = 290
"""A slower machine trains fewer steps, so that the whole stays below eight minutes; but
never fewer than `MIN_STEPS`, below which the pictures are no use."""
MIN_STEPS = 700


def run_demo(out: Path) -> Path:
    """Draw the sample set beside `out`, train on it, evaluate on its test split, and write the report.

    The same call again resumes, and does not train a finished run anew.

    Returns:
        The report.
    """
    started = time.perf_counter()
    out = out if out.name else out.resolve()
    _say(f"1/4  Drawing {COUNT} facades with their label maps, {SIZE}x{SIZE} pixels.")
    data = write_sample_set(out.with_name(f"{out.name}-data"), count=COUNT, size=SIZE, seed=SEED)
    _say(f"     {data}")

    _say("2/4  Training: labels -> photo, the paper's objective on small networks.")
    run = train(_config(data, out), out)

    _say("3/4  Translating the test pairs, which the training has not seen.")
    summary = evaluate(run, data, split="test", out=run / "evaluation")
    print(summary.words(whole=False))
    print(f"All figures, beside controls, with difference maps: {run / 'evaluation' / 'evaluation.html'}")
    moved = move_window(Translator.load(run))
    moved.picture().save(run / "moved-window.png")
    print(
        f"\nMoving one window in the labels changes the output {moved.change_inside:.0f} times as much there "
        f"as elsewhere: {run / 'moved-window.png'}"
    )

    _say("4/4  Writing the report.")
    report = write_report(run)
    pairloom = Path(sys.argv[0]) if Path(sys.argv[0]).name == "pairloom" else "pairloom"
    minutes = (time.perf_counter() - started) / 60
    print(
        f"\nDone in {minutes:.1f} minutes. Open {report}\n\n"
        "What to do next:\n"
        f"  translate label maps:   {pairloom} translate {run} LABELS.png --out translated\n"
        f"  look at a data set:     {pairloom} data check {data} --preset demo\n"
        f"  train on your own:      {pairloom} train YOUR-PAIRS --out runs/mine\n"
        f"  what a preset builds:   {pairloom} describe --preset paper"
    )
    return report


def _config(data: Path, out: Path) -> Config:
    """The demo preset on `data`, with as many of its steps as this machine does in `TRAINING_SECONDS`."""
    config = presets.demo()
    config = replace(config, data=replace(config.data, path=str(data)))
    if (out / "config.json").exists():
        steps = configfile.load(out / "config.json").training.steps
    else:
        trial = replace(
            config,
            generator=replace(config.generator, source_channels=len(PALETTE), target_channels=3, num_downs=7),
            training=replace(config.training, precision="bf16" if has_bf16(pick_device("auto")) else "fp32"),
        )
        seconds = trial_seconds_per_step(trial, pick_device("auto"))
        assert config.training.steps is not None
        steps = min(config.training.steps, max(int(TRAINING_SECONDS / seconds), MIN_STEPS))
    return replace(config, training=replace(config.training, steps=steps))


@dataclass(frozen=True, slots=True)
class MovedWindow:
    """One label map, the same with one window moved by half its width, and both translations."""

    labels: Array
    moved_labels: Array
    output: Array
    moved_output: Array
    """(SIZE, SIZE, 3) uint8 each."""

    @property
    def change_inside(self) -> float:
        """Mean change of the output where the labels changed, over the mean change elsewhere."""
        where = (self.labels != self.moved_labels).any(axis=2)
        change = np.abs(self.output.astype(float) - self.moved_output.astype(float)).mean(axis=2)
        return float(change[where].mean() / max(change[~where].mean(), 1e-6))

    def picture(self) -> Image.Image:
        """Labels and output, above the moved labels and their output."""
        rows = (self.labels, self.output), (self.moved_labels, self.moved_output)
        return Image.fromarray(np.vstack([np.hstack(row) for row in rows]))


def move_window(translator: Translator, *, seed: int = 2) -> MovedWindow:
    """Draw labels, move one window in them, and translate both: does the output follow?"""
    layout = draw_layout(seed)
    labels = draw_labels(layout, SIZE)
    windows = [i for i, part in enumerate(layout.parts) if part.kind == "window"]
    i = windows[len(windows) // 2]
    part = layout.parts[i]
    shift = (part.x1 - part.x0) / 2
    parts = (*layout.parts[:i], replace(part, x0=part.x0 + shift, x1=part.x1 + shift), *layout.parts[i + 1 :])
    moved = draw_labels(replace(layout, parts=parts), SIZE)
    return MovedWindow(labels, moved, translator(labels), translator(moved))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
