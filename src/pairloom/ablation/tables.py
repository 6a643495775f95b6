"""The table of a study: as CSV for programs, as Markdown for people, as LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from pairloom.ablation.results import Results, Row
from pairloom.ablation.scores import Score
from pairloom.ablation.uncertainty import Estimate
from pairloom.checkpoint import write_text_atomically
from pairloom.evaluation.fcn_score import plural

COLUMNS = ("variant", "title", "score", "mean", "low", "high", "seeds", "images", "unit", "better")
ARROWS = {"higher": "↑", "lower": "↓", "near 0": "→ 0", "near 1": "→ 1", "": ""}
"""Which figures are the better ones, in a heading."""
ACROSS = 3
"""Scores that stand beside one another in LaTeX: with their intervals they fill the width of a page."""
WIDE = 20
"""Letters of a title beyond which LaTeX is to break it."""
# Greek, and what LaTeX calls it.
_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi "
    "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's \\ it would be its optional argument,
    "*": "{*}",  # and this its star
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    **{letter: f"$\\{name}$" for letter, name in zip(_LETTERS, _NAMES.split(), strict=True)},
}
"""What LaTeX takes for a command, or its default fonts lack."""


def write_tables(out: Path, results: Results) -> None:
    """Write table.csv, table.md and table.tex into the folder, each whole or not at all."""
    write_text_atomically(out / "table.csv", as_csv(results))
    write_text_atomically(out / "table.md", as_markdown(results))
    write_text_atomically(out / "table.tex", as_latex(results))


def as_csv(results: Results) -> str:
    """A row for each score of each variant; what is not finite is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in results.rows:
        for score in results.scores:
            cell = row.cells[score.name]
            numbers = [v if math.isfinite(v) else "" for v in (cell.mean, cell.low, cell.high)]
            counts = [row.seeds, results.test_images]
            writer.writerow([row.name, row.title, score.name, *numbers, *counts, score.unit, score.better])
    return text.getvalue()


def as_markdown(results: Results) -> str:
    """One table; each cell is `mean [low, high]`."""
    head = ["variant", "seeds", *(_heading(score) for score in results.scores)]
    lines = [head, ["---"] * len(head)]
    for row in results.rows:
        cells = [row.cells[score.name].words(score.digits) for score in results.scores]
        lines.append([row.title.replace("|", "\\|"), str(row.seeds or "-"), *cells])
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*table, "", results.caption, *_failed(results)]) + "\n"


def _heading(score: Score) -> str:
    return f"{score.heading} {ARROWS[score.better]}".rstrip()


def _failed(results: Results) -> Iterator[str]:
    if results.failures:
        yield f"Not finished, and left out: {'; '.join(results.failures)}."


# ------------------------------------------------------------------------------------------------------------
# LaTeX


def as_latex(results: Results) -> str:
    """Floating tables in booktabs' style, each of as many scores as a page is wide."""
    parts = [results.scores[i : i + ACROSS] for i in range(0, len(results.scores), ACROSS)]
    tables = ("\n".join(_float(results, scores, number)) for number, scores in enumerate(parts, 1))
    return "\n\n".join(["% Needs \\usepackage{booktabs}.", *tables]) + "\n"


def _float(results: Results, scores: Sequence[Score], number: int) -> Iterator[str]:
    title = results.study.title
    title += "" if title.endswith((".", "?", "!")) else "."
    yield "\\begin{table}"
    yield "\\centering\\footnotesize\\setlength{\\tabcolsep}{4pt}"
    yield f"\\caption{{{escape(' '.join([title, results.caption, *_failed(results)]))}}}"
    yield f"\\label{{tab:{results.study.name}-{number}}}"
    titles = {row.name: escape(_title(row, results)) for row in results.rows}
    if max(map(len, titles.values())) > WIDE:
        titles = {name: f"\\raggedright {title}" for name, title in titles.items()}
        yield f"\\begin{{tabular}}{{@{{}}p{{0.24\\textwidth}}{'l' * len(scores)}@{{}}}}"
    else:
        yield f"\\begin{{tabular}}{{@{{}}l{'l' * len(scores)}@{{}}}}"
    yield "\\toprule"
    yield " & ".join(["", *(escape(_heading(score)) for score in scores)]) + r" \\"
    yield "\\midrule"
    references = [row for row in results.rows if row.name in results.references]
    for row in results.rows:
        if references and row is references[0]:
            yield "\\midrule"
        cells = (_tex_cell(score, row.cells[score.name]) for score in scores)
        yield " & ".join([titles[row.name], *cells]) + r" \\"
    yield "\\bottomrule"
    yield "\\end{tabular}"
    yield "\\end{table}"


def _title(row: Row, results: Results) -> str:
    """With the number of seeds where some are missing."""
    return row.title if row.seeds in (0, results.seeds) else f"{row.title} ({plural(row.seeds, 'seed')})"


def _tex_cell(score: Score, cell: Estimate) -> str:
    mean, _, interval = cell.words(score.digits).partition(" ")
    if mean == "-":
        return "--"
    return f"${mean}$" + (f" {{\\scriptsize ${interval}$}}" if interval else "")


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(TEX.get(letter, letter) for letter in text)
