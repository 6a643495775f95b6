"""Several models on the same pairs: which is better, by how much, and can these pairs tell?"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pairloom.checkpoint import write_text_atomically
from pairloom.data import Pair, evenly, find_pairs
from pairloom.evaluation.evaluate import data_of, evaluate, pairs_of
from pairloom.evaluation.gallery import Examples, Triptych, read_rows, render, shown_number
from pairloom.evaluation.metrics import BETTER, Interval, bootstrap_mean, paired_difference
from pairloom.evaluation.summary import (
    FEW,
    EvaluationError,
    aligned,
    few_words,
    finite,
    interval_words,
    number,
)
from pairloom.translator import Translator

SHOWN = 8
"""Sources in the picture: the same ones in the same rows for every model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The same metrics of several models over the same pairs."""

    split: str
    pairs: int
    metrics: dict[str, dict[str, Interval]]
    """By model, then by metric."""
    differences: dict[str, dict[str, dict[str, Interval]]]
    """By model A, by model B, then by metric: A - B over the same images."""

    def sentences(self) -> list[str]:
        """For each two models and each metric, which is better; or that these pairs cannot tell."""
        return [
            _sentence(a, b, name, interval)
            for a, others in self.differences.items()
            for b, row in others.items()
            for name, interval in row.items()
            if BETTER[name] != "near 0"
        ]

    def words(self) -> str:
        """An aligned table, and the sentences."""
        names = list(next(iter(self.metrics.values())))
        table = [["", *self.metrics]]
        table += [[n, *(interval_words(n, row[n]) for row in self.metrics.values())] for n in names]
        pairs = f"{self.pairs} pair{'s' * (self.pairs != 1)}"
        head = f"{self.split} split, {pairs}: mean over images [95 % interval]"
        lines = [head, "", *aligned(table), "", *self.sentences()]
        if self.pairs < FEW:
            lines.append(few_words(self.pairs))
        if len(self.metrics) > 2:
            lines.append(f"Of {len(self.sentences())} comparisons at 95 %, one in twenty errs by chance.")
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict for JSON; what is not finite is null."""
        plain: dict[str, Any] = finite(
            {"version": 1, **dataclasses.asdict(self), "sentences": self.sentences()}
        )
        return plain


def _sentence(a: str, b: str, name: str, d: Interval) -> str:
    shown = [number(name, v) for v in (d.mean, d.low, d.high)]
    if math.isnan(d.mean):
        return f"{name} has no value to compare {a} and {b} by."
    if d.count == 1:
        return f"{name} of one pair differs by {shown[0]} ({a} less {b}), which says nothing of other pairs."
    if not d.excludes_zero:
        return (
            f"{a} and {b} are not distinguishable on {name} with {d.count} pairs: the difference is "
            f"{shown[0]} [{shown[1]}, {shown[2]}]."
        )
    a_better = (d.mean < 0) == (BETTER[name] == "lower")
    better, worse = (a, b) if a_better else (b, a)
    low, high = sorted((abs(d.low), abs(d.high)))
    size, least, most = (number(name, v) for v in (abs(d.mean), low, high))
    return f"{better} is better than {worse} on {name} by {size} [{least}, {most}]."


def compare(
    models: Sequence[str | Path],
    data: str | Path | None = None,
    *,
    split: str = "test",
    out: str | Path,
    checkpoint: Literal["last", "best"] = "last",
    device: str = "auto",
    seed: int = 0,
) -> Comparison:
    """Evaluate models on the same pairs, and compare them image by image.

    Writes ``OUT/NAME/`` for each model (images and table), ``OUT/comparison.json`` and
    ``OUT/comparison.html``, in which the same sources stand in the same rows.

    Args:
        models: Run directories, weights, or checkpoints; two or more.
        data: Path of the pairs; None: those that the first model was trained on.
        split: Which pairs.
        out: Folder to write to.
        checkpoint: Of run directories: last, or best.
        device: auto, cpu, cuda, mps.
        seed: Of the noise.

    Raises:
        EvaluationError: Fewer than two models, or models that see the pairs differently.
    """
    if len(models) < 2:
        raise EvaluationError(f"There is {len(models)} model to compare; give two or more.")
    out = Path(out)
    loaded = {
        name: Translator.load(path, checkpoint=checkpoint, device=device, precision="fp32")
        for name, path in _names(models).items()
    }
    first = next(iter(loaded.values()))
    path = data if data is not None else first.config.data.path
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for name, model in loaded.items():
        _check_alike(name, model, next(iter(loaded)), first)
        summary = evaluate(
            model, path, split=split, out=out / name, baselines=False, sections=False, seed=seed
        )
        rows = read_rows(out / name / "per_image.csv", tuple(summary.metrics["model"]))
        tables[name] = {row.pop("name"): row for row in rows}
    pairs = list(next(iter(tables.values())))
    for name, table in tables.items():
        if list(table) != pairs:
            raise EvaluationError(
                f"{name}: its {split} split holds other pairs than that of {next(iter(tables))}; give data "
                "with fixed splits (folders train, val, test)."
            )
    found = _compared(split, pairs, tables)
    text = json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"
    write_text_atomically(out / "comparison.json", text)
    page = {
        "comparison": found,
        "rows": _pictures(loaded, path, split, seed),
        "names": list(loaded),
        "better": BETTER,
        "number": shown_number,
        "written": datetime.now().isoformat(" ", "minutes"),
    }
    write_text_atomically(out / "comparison.html", render("comparison.html.jinja", page))
    return found


def _names(models: Sequence[str | Path]) -> dict[str, Path]:
    """A name for each model: its folder's or file's, as much of the path as tells them apart."""
    paths = [Path(model).resolve() for model in models]
    if len(set(paths)) < len(paths):
        raise EvaluationError("The same model is given twice; there is nothing to compare.")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["-".join(part.strip("/") for part in path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, paths, strict=True))


def _check_alike(name: str, model: Translator, other: str, first: Translator) -> None:
    """Scores compare only between equal targets at equal geometry."""
    for what, a, b in (
        ("targets", model.target_spec.words(), first.target_spec.words()),
        ("data.crop_size", model.config.data.crop_size, first.config.data.crop_size),
        ("data.resize", model.config.data.resize, first.config.data.resize),
        ("data.direction", model.config.data.direction, first.config.data.direction),
    ):
        if a != b:
            raise EvaluationError(
                f"{name} and {other} cannot be compared: their {what} differ ({a} and {b}), so their figures "
                "are of different targets."
            )


def _compared(split: str, pairs: Sequence[str], tables: dict[str, dict[str, dict[str, Any]]]) -> Comparison:
    shared = set.intersection(*(set(next(iter(table.values()))) for table in tables.values()))
    metrics = [name for name in BETTER if name in shared]
    columns = {
        model: {name: [table[pair][name] for pair in pairs] for name in metrics}
        for model, table in tables.items()
    }
    return Comparison(
        split=split,
        pairs=len(pairs),
        metrics={m: {name: bootstrap_mean(v) for name, v in row.items()} for m, row in columns.items()},
        differences={
            a: {
                b: {name: paired_difference(columns[a][name], columns[b][name]) for name in metrics}
                for b in list(columns)[i + 1 :]
            }
            for i, a in enumerate(list(columns)[:-1])
        },
    )


def _pictures(models: dict[str, Translator], path: str | Path, split: str, seed: int) -> list[Triptych]:
    """The same sources for all models: source, each output, target."""
    rows: list[Triptych] = []
    shown: list[Pair] = []
    for name, model in models.items():
        data, own = data_of(model, path)
        examples = Examples(model, data, seed)
        if not shown:
            pairs, _ = pairs_of(find_pairs(data), split, own=own)
            shown = evenly(pairs, SHOWN)
            rows = [Triptych(pair.name, ()) for pair in shown]
        for i, pair in enumerate(shown):
            source, output, target = examples.triptych(pair, None).pictures
            output = dataclasses.replace(output, label=name, alt=f"output of {name} for {pair.name}")
            before = rows[i].pictures[:-1] if rows[i].pictures else (source,)
            rows[i] = dataclasses.replace(rows[i], pictures=(*before, output, target))
    return rows
