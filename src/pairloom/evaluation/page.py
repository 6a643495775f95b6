"""The evaluation page: one self-contained HTML file with every figure of an evaluation, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pairloom.checkpoint import write_text_atomically
from pairloom.config import DataConfig
from pairloom.data import Pair, evenly
from pairloom.evaluation.gallery import (
    MAX_ROWS,
    Examples,
    ranking,
    read_rows,
    render,
    shown_number,
    verdict,
)
from pairloom.evaluation.metrics import BETTER
from pairloom.evaluation.summary import COMPARED, WHO, Summary
from pairloom.translator import Translator

GALLERY = 4
"""Pairs in each of the galleries: the best, the middle, the worst."""


def write_page(
    out: Path, translator: Translator, summary: Summary, pairs: Sequence[Pair], data: DataConfig
) -> Path:
    """Write OUT/evaluation.html beside the table and the summary of the same evaluation.

    Args:
        out: Folder that `evaluate` writes; per_image.csv is there.
        translator: The model, for the pictures.
        summary: The figures, with the drawings of their sections.
        pairs: Those evaluated.
        data: How they are read.
    """
    names = tuple(summary.metrics["model"])
    rows = read_rows(out / "per_image.csv", names)
    examples = Examples(translator, data, summary.settings["seed"])
    page = {
        "title": f"Evaluation of {summary.settings['model'].get('run', 'a model')}",
        "written": datetime.now().isoformat(" ", "minutes"),
        "summary": summary,
        "model": translator,
        "rows": rows[:MAX_ROWS],
        "row_count": len(rows),
        "ranked_by": ranking(rows),
        "galleries": galleries(examples, pairs, rows),
        "metrics": names,
        "compared": COMPARED,
        "better": BETTER,
        "who": WHO,
        "number": shown_number,
        "verdict": verdict,
    }
    write_text_atomically(out / "evaluation.html", render("evaluation.html.jinja", page))
    return out / "evaluation.html"


def galleries(examples: Examples, pairs: Sequence[Pair], rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The worst, the middle and the best pairs by SSIM (L1 for tiny images), no pair twice."""
    metric = ranking(rows)
    by_name = {pair.name: pair for pair in pairs}
    ordered = sorted(rows, key=lambda row: row[metric], reverse=BETTER[metric] == "lower")
    if len(ordered) < 3 * GALLERY:
        chosen = {"Every pair, the worst first": ordered}
    else:
        start = (len(ordered) - GALLERY) // 2
        chosen = {
            "The worst": ordered[:GALLERY],
            "From the middle": ordered[start : start + GALLERY],
            "The best": ordered[::-1][:GALLERY],
        }
    return {
        title: [examples.triptych(by_name[row["name"]], row, difference=True) for row in evenly(part, 12)]
        for title, part in chosen.items()
    }
