"""The report: one self-contained HTML page that says what a run did and how good it is.

It opens from disk: no server, no network. Images are PNGs inside the page, curves are SVG in the page's own
colours, and the only script makes the table sortable. ``report.html.jinja`` holds the looks and most of the
words, this module the facts.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_hex
from PIL import Image

from pairloom import images
from pairloom.checkpoint import load_discriminator, write_text_atomically
from pairloom.config import Config
from pairloom.data import Pair, evenly, find_pairs
from pairloom.evaluation.curves import charts
from pairloom.evaluation.evaluate import data_of, evaluate, pairs_of
from pairloom.evaluation.gallery import (
    MAX_ROWS,
    SHOWN_SIDE_PX,
    Examples,
    Triptych,
    picture,
    ranking,
    read_rows,
    read_summary,
    render,
    shown_number,
    verdict,
    view,
)
from pairloom.evaluation.metrics import BETTER
from pairloom.evaluation.patches import MAP_COLOURS, laid_over, patch_map
from pairloom.evaluation.summary import WHO, EvaluationError, Summary
from pairloom.networks import Discriminator
from pairloom.rundir import read_json, read_metrics
from pairloom.translator import Translator

SHOWN = {"held out": 6, "train": 2, "best": 2, "worst": 2}
"""Triptychs in each section."""


def write_report(run: str | Path, *, evaluation: Path | None = None) -> Path:
    """Write RUN/report.html.

    Where the run has not been evaluated, it is: on the test split, else val, else train. Where its data are
    no longer there, the page says so and shows the samples drawn while training.

    Args:
        run: Run directory with a finished, or at least checkpointed, model.
        evaluation: Folder that `evaluate` wrote; None: RUN/evaluation.

    Returns:
        The page.

    Raises:
        EvaluationError: There is no such run directory, or its evaluation is damaged.
        CheckpointError: The run holds no model.
    """
    run = Path(run)
    if not run.is_dir():
        raise EvaluationError(f"{run}: there is no such run directory.")
    folder = run / "evaluation" if evaluation is None else Path(evaluation)
    notes: list[str] = []
    summary = read_summary(folder)
    best = summary is not None and summary.settings["checkpoint"] == "best"
    translator = Translator.load(run, checkpoint="best" if best else "last", precision="fp32")
    if summary is None:
        summary = _evaluate(translator, folder, notes)
    elif summary.settings["model"] != translator.provenance:
        # The model has been trained further. Only the run's own evaluation is ours to make again.
        again = _evaluate(translator, folder, notes, summary.settings) if evaluation is None else None
        if again is None:
            notes.append(f"The figures in {folder} are of another state of the model.")
        summary = again or summary
    names = tuple(summary.metrics["model"]) if summary else ()
    rows = read_rows(folder / "per_image.csv", names) if summary else []
    lines = read_metrics(run)
    page = {
        **_facts(run, translator, lines, summary),
        "summary": summary,
        "rows": rows[:MAX_ROWS],
        "row_count": len(rows),
        "charts": charts(lines, translator.config),
        "warnings": _warnings(lines),
        "ranked_by": ranking(rows),
        "scale": [to_hex(MAP_COLOURS(v / 4)) for v in range(5)],
        "notes": notes,
        "evaluation_page": folder / "evaluation.html" if (folder / "evaluation.html").exists() else None,
        "metrics": names,
        "better": BETTER,
        "who": WHO,
        "number": shown_number,
        "verdict": verdict,
        **_sections(run, translator, summary, rows, notes),
    }
    write_text_atomically(run / "report.html", render("report.html.jinja", page))
    return run / "report.html"


# -----------------------------------------------------------------------------------------------------------
# Numbers


def _evaluate(
    translator: Translator, folder: Path, notes: list[str], like: dict[str, Any] | None = None
) -> Summary | None:
    """An evaluation made now: with the settings of an earlier one, else on the first split that has pairs."""
    try:
        if like is not None:
            data, split, seed = like["data"], like["split"], like["seed"]
            return evaluate(translator, data, split=split, seed=seed, out=folder)
        pair_set = find_pairs(translator.config.data)
        split = next((s for s in ("test", "val") if pair_set.split(s)), "train")
        if split != "test":
            notes.append(f"There is no test split: everything measured here is from the {split} split.")
        return evaluate(translator, split=split, out=folder)
    except (ValueError, OSError) as error:
        notes.append(f"The model could not be evaluated. {error}")
        return None


def _warnings(lines: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Each warning with the steps at which it was said."""
    steps: dict[str, list[int]] = {}
    for line in lines:
        if "warning" in line:
            steps.setdefault(line["warning"], []).append(line["step"])
    return steps


# -----------------------------------------------------------------------------------------------------------
# Pictures


def _sections(
    run: Path, translator: Translator, summary: Summary | None, rows: list[dict[str, Any]], notes: list[str]
) -> dict[str, Any]:
    """Triptychs and patch maps; the samples of the training where the data are gone."""
    sections: dict[str, Any] = dict.fromkeys(("held_out", "train", "best", "worst", "samples", "patches"), ())
    settings: dict[str, Any] = {"split": "test", "data": None, "seed": 0}
    settings |= summary.settings if summary else {}
    data, own = data_of(translator, settings["data"])
    sections["where"] = summary.where if summary else f"{settings['split']} split"
    examples = Examples(translator, data, settings["seed"])
    measured = {row["name"]: row for row in rows}
    try:
        pair_set = find_pairs(data)
        shown, _ = pairs_of(pair_set, settings["split"], own=own)
        pairs = {pair.name: pair for pair in shown}
        metric = ranking(rows)
        ordered = sorted(rows, key=lambda row: row[metric], reverse=BETTER[metric] == "higher")
        ranked = [row["name"] for row in ordered if row["name"] in pairs]
        ends = min(SHOWN["best"], len(ranked) // 2)
        chosen = {
            "held_out": evenly(list(pairs.values()), SHOWN["held out"]),
            "best": [pairs[name] for name in ranked[:ends]],
            "worst": [pairs[name] for name in reversed(ranked[-ends:])] if ends else [],
        }
        for section, members in chosen.items():
            sections[section] = [examples.triptych(pair, measured.get(pair.name)) for pair in members]
        if settings["split"] != "train" and own:
            train = evenly(pair_set.split("train"), SHOWN["train"])
            sections["train"] = [examples.triptych(pair, None) for pair in train]
        discriminator = load_discriminator(run)
        if discriminator is not None and chosen["held_out"]:
            sections["patches"] = _patches(discriminator, examples, chosen["held_out"][0])
    except (ValueError, OSError) as error:
        reason = f" {error}" if summary else ""  # else it has been said
        notes.append(f"The pairs could not be read: the pictures are those drawn while training.{reason}")
        sections["samples"] = [_sample(path) for path in sorted((run / "samples").rglob("*.png"))[-2:]]
    return sections


def _sample(path: Path) -> Triptych:
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB"))
    return Triptych(path.stem, (picture(sheet, "", f"sample sheet {path.stem}", side_px=3 * SHOWN_SIDE_PX),))


def _patches(discriminator: Discriminator, examples: Examples, pair: Pair) -> dict[str, Any] | None:
    """The patch maps of a real and a generated pair; None where the image is smaller than D's kernels."""
    x, y, y_hat = examples.tensors(pair)
    target = examples.translator.target_spec
    figures, values = [], np.empty((0, 0))
    for title, label, tensor in (("Real pair", "target", y), ("Generated pair", "output", y_hat)):
        try:
            with torch.inference_mode():
                logits = discriminator(x[None], tensor[None])
        except (RuntimeError, ValueError):  # ValueError: a norm over a single value
            return None
        values = patch_map(logits, examples.translator.config.objective.gan_mode)
        (shown, spec), (whole, _) = (images.recombined(side, x, target) for side in (tensor, y))
        pixels = view(shown, spec, whole)
        pictures = (
            picture(pixels, label, f"{label} of {pair.name}"),
            picture(laid_over(pixels, values, discriminator.windows), "D's map", f"patch map of the {label}"),
        )
        judged = f"mean {values.mean():.2f} · {100 * (values > 0.5).mean():.0f} % of patches judged real"
        figures.append(Triptych(title, pictures, judged))
    return {"figures": figures, "grid": values.shape, "name": pair.name, "discriminator": discriminator}


# -----------------------------------------------------------------------------------------------------------
# Facts


def _facts(
    run: Path, translator: Translator, lines: Sequence[dict[str, Any]], summary: Summary | None
) -> dict[str, Any]:
    """What stands in the head and the settings of the page."""
    config = translator.config
    path = run / "environment.json"
    environment = read_json(path) if path.exists() else {}
    packages = environment.pop("packages", {})
    last: dict[str, Any] = next((line for line in reversed(lines) if "images_seen" in line), {})
    learned = translator.provenance.get("pairs")
    where = config.data.path or "an unknown place"
    lead = f"Learned from {learned or 'the'} pairs in {where}, direction {config.data.direction}."
    if summary:
        means = summary.metrics["model"]
        figures = ", ".join(f"{name} {shown_number(name, means[name].mean)}" for name in ("SSIM", "L1"))
        kind = "other" if summary.settings.get("unsplit") else summary.settings["split"]
        lead += f" On {summary.settings['pairs']} {kind} pairs: {figures}."
    groups = _groups(config)
    return {
        "run": {"shell": shlex.quote(str(run)), "python": json.dumps(str(run))},
        "data": shlex.quote(config.data.path),
        "title": run.resolve().name,
        "lead": lead,
        "written": datetime.now().isoformat(" ", "minutes"),
        "environment": environment | packages,
        "last": last,
        "duration": _duration,
        "model": translator,
        "config": config,
        "groups": groups,
        "changed": sum(changed for group in groups.values() for _, _, changed in group),
    }


def _groups(config: Config) -> dict[str, list[tuple[str, str, bool]]]:
    """Every field of every group: name, value, and whether it differs from the default."""
    default = Config()
    groups = {}
    for group in dataclasses.fields(config):
        values = getattr(config, group.name)
        if dataclasses.is_dataclass(values):
            usual = getattr(default, group.name)
            groups[group.name] = [
                (f.name, str(getattr(values, f.name)), getattr(values, f.name) != getattr(usual, f.name))
                for f in dataclasses.fields(values)
            ]
    return groups


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
