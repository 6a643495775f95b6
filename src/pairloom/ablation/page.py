"""The page of a study: one self-contained HTML file with the question, the verdict, and what it rests on.

``study.html.jinja`` holds the looks and most of the words, this module the facts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.colors import to_hex

from pairloom import configfile
from pairloom.ablation.curves import Frame, histograms, interval_bar, learning_curves, over_numbers
from pairloom.ablation.figures import GAP_PX, make_figures, patch_sheet, picture_sheet, write_figure
from pairloom.ablation.findings import MORE_DIGITS, Verdict
from pairloom.ablation.plan import Plan
from pairloom.ablation.results import Results, Row
from pairloom.ablation.scores import SCORES, Score
from pairloom.ablation.study import PaperTable
from pairloom.ablation.uncertainty import Estimate
from pairloom.checkpoint import write_text_atomically
from pairloom.config import Config, height_width
from pairloom.evaluation.gallery import render
from pairloom.evaluation.patches import MAP_COLOURS
from pairloom.rundir import read_json

FAMILIES = {
    "confusion": "By class",
    "l1": "Pixel by pixel",
    "lab_outputs": "Colour",
    "detail": "Sharpness, variety, noise",
    "variety": "Sharpness, variety, noise",
}
"""Tables of scores, by the first array that theirs need; others stand with the score before them."""
BESIDE = {"Class IoU": "By class", "a": "Colour"}
"""Which of them a table of the paper stands beside, by a column that it has."""
CURVES = ("class_iou", "ssim", "l1", "fine_detail")
"""Scores that are drawn over a study's numbers, besides those that its findings ask for."""
COLOURS = {"holds": "var(--c1)", "does not hold": "var(--c2)"}
"""Of the outcomes that are decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Scores that belong together, and the paper's tables of the same."""

    title: str
    scores: tuple[Score, ...]
    paper: tuple[PaperTable, ...]


def write_page(out: Path, plan: Plan, results: Results) -> Path:
    """Write OUT/study.html and OUT/figure.png.

    Args:
        out: The study's folder.
        plan: Its runs: the pictures and the curves are theirs.
        results: Its figures.

    Returns:
        The page.

    Raises:
        DataError: The data are no longer there.
        CheckpointError: A run's weights are damaged.
    """
    figures = make_figures(plan, results.split)
    write_figure(out / "figure.png", figures)
    blocks, others = numbers(results)
    page = {
        "study": results.study,
        "results": results,
        "paragraph": typeset(results.paragraph),
        "counts": Counter(verdict.outcome for verdict in results.verdicts),
        "failures": failures(results),
        "run_count": len(list(plan.cells())),
        "facts": facts(plan, results),
        "setup": setup(plan, results),
        "verdicts": [(v, SCORES[v.finding.score], *tested(v)) for v in results.verdicts],
        "blocks": blocks,
        "other_tables": others,
        "sheet": picture_sheet(figures),
        "seeds_shown": sorted({c.seed for c in figures.columns if c.seed is not None}),
        "judged_on": figures.names[0] if figures.names else "",
        "maps": patch_sheet(figures.judged),
        "modes": {judged.gan_mode for judged in figures.judged},
        "scale": [to_hex(MAP_COLOURS(v / 4)) for v in range(5)],
        "histograms": histograms(results),
        "curves": learning_curves(plan),
        "over": over(results),
        "gap": GAP_PX,
        "number": number,
        "ends": ends,
        "written": datetime.now().isoformat(" ", "minutes"),
    }
    write_text_atomically(out / "study.html", render("study.html.jinja", page, folder=Path(__file__).parent))
    return out / "study.html"


# -----------------------------------------------------------------------------------------------------------
# Numbers


def numbers(results: Results) -> tuple[list[Block], list[PaperTable]]:
    """Our tables, each with the paper's of the same scores; and those of the paper that have none beside."""
    families: dict[str, list[Score]] = {}
    family = "Scores"
    for score in SCORES.values():
        family = FAMILIES.get(score.needs[0], family)
        if score in results.scores:
            families.setdefault(family, []).append(score)
    paper: dict[str, list[PaperTable]] = {}
    for table in results.study.paper:
        where = next((block for column, block in BESIDE.items() if column in table.columns), "")
        paper.setdefault(where if where in families else "", []).append(table)
    blocks = [
        Block(title=title, scores=tuple(scores), paper=tuple(paper.get(title, ())))
        for title, scores in families.items()
    ]
    return blocks, paper.get("", [])


def number(value: float, digits: int, *, sign: str = "") -> str:
    """A figure with the typographer's minus; a dash where there is none."""
    return f"{value:{sign}z.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def ends(e: Estimate, digits: int, *, sign: str = "") -> str:
    """Of the interval; empty where there is none, or none to be seen."""
    low, high = (number(v, digits, sign=sign) for v in (e.low, e.high))
    return "" if low == high else f"{low} to {high}"


def tested(verdict: Verdict) -> tuple[str, str, Markup]:
    """What a finding is judged by: its figure, the ends of the interval, and both drawn."""
    finding, e = verdict.finding, verdict.figures
    if e is None:
        return "–", "", Markup("")
    threshold = next((v for v in (finding.above, finding.below) if v is not None), 0.0)
    sign, digits = "+" if finding.lower else "", SCORES[finding.score].digits
    # An end that excludes the threshold must not look as if it were on it.
    for _ in range(MORE_DIGITS):
        digits += any(0 < abs(v - threshold) < 0.5 * 10**-digits for v in (e.low, e.high))
    bar = interval_bar(e, threshold, COLOURS.get(verdict.outcome, "var(--ink-2)"))
    return number(e.mean, digits, sign=sign), ends(e, digits, sign=sign), bar


def typeset(text: str) -> str:
    """Sentences with the typographer's minus, and no line that begins with a percent sign."""
    return re.sub(r"(?<=[\s\[(])-(?=\d)", "−", text).replace(" %", "\N{NO-BREAK SPACE}%")


def failures(results: Results) -> dict[str, list[str]]:
    """By reason, the runs that have no weights."""
    reasons: dict[str, list[str]] = {}
    for run, why in results.failures.items():
        reasons.setdefault(why, []).append(run)
    return reasons


def over(results: Results) -> list[Frame]:
    """The main scores over the study's numbers."""
    study = results.study
    rows: Sequence[Row] = results.rows[: len(study.curve)]
    wanted = {*CURVES, *(finding.score for finding in study.findings)}
    return [
        over_numbers(score.heading, study.curve, [row.cells[score.name] for row in rows], study.curve_title)
        for score in results.scores
        if rows and score.name in wanted
    ]


# -----------------------------------------------------------------------------------------------------------
# How it was done


def facts(plan: Plan, results: Results) -> list[tuple[str, str]]:
    """What stands below the question."""
    height, width = height_width(plan.base.data.crop_size)
    return [
        ("Data", Path(plan.base.data.path).name or plan.base.data.path),
        ("Image size", f"{width} × {height} px"),
        ("Seeds", str(plan.seeds)),
        ("Each run saw", f"{plan.images:,} images".replace(",", "\N{THIN SPACE}")),
        ("Scored on", f"{results.test_images} {results.split} images"),
        ("Device", _device(plan)),
    ]


def _device(plan: Plan) -> str:
    """Where the runs were trained; several, where they differ."""
    devices = []
    for cell in plan.cells():
        file = cell.path / "environment.json"
        if file.exists():
            environment = read_json(file)
            devices.append(str(environment.get("cuda") or environment.get("device") or ""))
    return ", ".join(dict.fromkeys(filter(None, devices))) or plan.base.training.device


def setup(plan: Plan, results: Results) -> dict[str, Any]:
    """The variants, and the configuration that they start from."""
    return {
        "data": plan.base.data.path,
        "direction": plan.base.data.direction,
        "runs": str(plan.out / "runs"),
        "base": configfile.differences(Config(), plan.base),
        "variants": list(_variants(plan, results)),
    }


def _variants(plan: Plan, results: Results) -> Iterator[dict[str, Any]]:
    for variant in plan.study.variants:
        fields = [f"{name} = {_value(value)}" for name, value in variant.fields.items()]
        if variant.dropout is not None:
            fields.append(f"noise {'on' if variant.dropout else 'off'} at test")
        yield {
            "title": variant.title,
            "fields": fields,
            "folder": variant.run_name,
            "done": len(results.runs.get(variant.name, ())),
        }


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
