"""Verdicts that the data must allow, their words, and the three tables read back."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import pairloom
from pairloom.ablation.findings import Verdict, judge, paragraph
from pairloom.ablation.results import Results
from pairloom.ablation.scores import SCORES, Arrays
from pairloom.ablation.studies import STUDIES
from pairloom.ablation.study import Finding, Study, Variant
from pairloom.ablation.tables import write_tables
from pairloom.ablation.uncertainty import Estimate, difference, estimate

NOISE = np.random.default_rng(0).normal(0, 0.05, 24)
"""What makes an image easy or hard, for every model alike."""


def runs(*seeds: float, images: int = 24) -> tuple[Arrays, ...]:
    """Models of this SSIM each; images differ, but alike for all models."""
    noise = NOISE[:images] - NOISE[:images].mean()
    names = np.array([f"image {i}" for i in range(images)])
    return tuple(
        {"names": names, "ssim": seed + noise, "samples": np.full(images, seed / 100)} for seed in seeds
    )


def study(*findings: Finding, titles: Sequence[str] = ("A", "B")) -> Study:
    names = ("a", "b", "c")
    variants = tuple(Variant(name=n, title=t) for n, t in zip(names, titles, strict=False))
    return Study(name="test", title="Which?", question="?", answer="", variants=variants, findings=findings)


def finding(statement: str = "A beats B", **fields: object) -> Finding:
    values = {"source": "Table 9", "score": "ssim", "higher": "a", "lower": "b"} | fields
    return Finding(statement=statement, **values)  # type: ignore[arg-type]


def verdict(a: Sequence[Arrays], b: Sequence[Arrays], **fields: object) -> Verdict:
    (found,) = judge(study(finding(**fields)), {"a": a, "b": b})
    return found


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])[-+]?\d+\.\d+", text)]


# -----------------------------------------------------------------------------------------------------------
# One finding


@pytest.mark.parametrize(
    ("a", "b", "outcome"),
    [
        ((0.60, 0.61, 0.62), (0.50, 0.52, 0.51), "holds"),
        ((0.50, 0.52, 0.51), (0.60, 0.61, 0.62), "does not hold"),
        ((0.60, 0.50, 0.62), (0.50, 0.58, 0.51), "undecided"),
    ],
)
def test_an_ordering_is_claimed_only_beyond_chance(
    a: tuple[float, ...], b: tuple[float, ...], outcome: str
) -> None:
    found = verdict(runs(*a), runs(*b))
    assert found.outcome == outcome
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert found.figures is not None
    assert (found.figures.low, found.figures.high) == pytest.approx((low, high), abs=1e-6)
    assert (low > 0, high < 0) == (outcome == "holds", outcome == "does not hold")
    assert found.words.startswith("A beats B (Table 9): SSIM ")
    assert re.search(rf"\]: {outcome}(, as the interval does not exclude 0)?\.$", found.words)
    shown = (np.mean(a), np.mean(b), np.mean(a) - np.mean(b), low, high)
    assert numbers(found.words) == pytest.approx(shown, abs=0.0006)
    assert f"{np.mean(a):.3f} (A) against {np.mean(b):.3f} (B)" in found.words


def test_one_seed_decides_nothing_and_says_so() -> None:
    for a, b in ((runs(0.9), runs(0.1)), (runs(0.9), runs(0.1, 0.11, 0.12)), (runs(0.9, 0.91), runs(0.1))):
        found = verdict(a, b)
        assert found.outcome == "undecided"
        assert "it takes two seeds or more of each variant" in found.words
        assert found.figures is not None and found.figures.seeds == 1
    text = paragraph([found])
    assert "With one seed" in text and "two or more" in text
    one = verdict(runs(0.9, 0.91, images=1), runs(0.1, 0.11, images=1))
    assert one.outcome == "undecided" and "two test images or more" in one.words


def test_what_was_not_measured_says_why() -> None:
    some = runs(0.5, 0.6)
    diverged = tuple({**arrays, "ssim": np.full(24, math.nan)} for arrays in some)
    for found, why in (
        (verdict(some, ()), "no run of B was finished"),
        (judge(study(finding()), {"b": some})[0], "no run of A was finished"),
        (verdict(some, some, score="class_iou"), "there are no labels to score by"),
        (verdict(some, some, score="fine_detail"), "the images are too small for a spectrum"),
        (verdict(some, diverged), "SSIM has no value for B"),
    ):
        assert found.outcome == "not measured"
        assert found.figures is None
        assert f"A beats B (Table 9): not measured, as {why}" in found.words


def test_runs_that_failed_are_told_in_the_words() -> None:
    found = verdict(runs(0.60, 0.61), runs(0.50, 0.51, 0.52))
    assert found.outcome == "holds"
    assert "0.605 (A, 2 seeds) against 0.510 (B)," in found.words


@pytest.mark.parametrize(
    ("threshold", "seeds", "outcome"),
    [
        ({"below": 1.0}, (0.2, 0.25, 0.3), "holds"),
        ({"below": 1.0}, (2.1, 2.2, 2.3), "does not hold"),
        ({"below": 1.0}, (0.7, 0.9, 1.2), "undecided"),
        ({"above": 1.0}, (2.1, 2.2, 2.3), "holds"),
        ({"above": 1.0}, (0.2, 0.25, 0.3), "does not hold"),
        ({"below": 1.0}, (0.0, 0.0, 0.0), "holds"),
        ({"above": 0.0}, (0.0, 0.0, 0.0), "undecided"),
        ({"below": 1.0}, (0.2,), "undecided"),
    ],
)
def test_a_threshold_is_claimed_only_beyond_chance(
    threshold: Mapping[str, float], seeds: Sequence[float], outcome: str
) -> None:
    levels = tuple(
        {**r, "samples": np.full(24, s * 2 / 255)} for r, s in zip(runs(*seeds), seeds, strict=True)
    )
    found = verdict(levels, (), score="sample_distance", lower=None, **threshold)
    assert found.outcome == outcome
    (word, limit), mean = next(iter(threshold.items())), np.mean(seeds)
    assert f"sample distance {mean:.2f} [" in found.words
    assert f"] grey levels (A), to be {word} {limit:g}: {outcome}" in found.words


def test_a_bound_beside_zero_does_not_look_like_zero() -> None:
    found = verdict(runs(0.500301, 0.500302), runs(0.5000, 0.500001))
    assert found.outcome == "holds"
    _, _, mean, low, high = numbers(found.words)
    assert 0 < low <= mean <= high


@pytest.mark.parametrize("name", STUDIES)
def test_every_finding_of_the_studies_can_be_judged(name: str) -> None:
    one = STUDIES[name](pairloom.presets.tiny(), 400)
    rng = np.random.default_rng(0)

    def arrays(quality: float) -> Arrays:
        right = rng.binomial(200, quality, (8, 3))
        lab = {key: rng.integers(0, 30, (8, 540)) for key in ("lab_outputs", "lab_targets")}
        return {
            "ssim": rng.normal(quality, 0.1, 8),
            "confusion": right[:, :, None] * np.eye(3, 4, dtype=int) + (200 - right)[:, :, None] // 2,
            "detail": rng.normal(-30 + quality, 1, (8, 2)),
            "variety": rng.uniform(0.2, 0.4, (8, 2)),
            "samples": np.full(8, quality / 100),
            **lab,
        }

    verdicts = judge(one, {v.name: [arrays(0.5) for _ in range(2)] for v in one.variants})
    assert [v.finding for v in verdicts] == list(one.findings) and verdicts
    assert all(v.outcome in ("holds", "does not hold", "undecided") for v in verdicts)
    text = paragraph(verdicts)
    assert all(f.statement in text for f in one.findings)
    assert ("the paper's" in text) == (name != "data"), "whose learning curve is not in the paper"


# -----------------------------------------------------------------------------------------------------------
# All of them


def clause(text: str, beginning: str) -> str:
    """What a paragraph says of one outcome."""
    found = re.search(rf"{beginning}: (.*?)\.(?= [A-Z0-9]|$)", text)
    assert found, text
    return found[1]


def test_the_paragraph_says_of_each_finding_once_what_became_of_it() -> None:
    good, bad = runs(0.60, 0.61, 0.62), runs(0.50, 0.52, 0.51)
    findings = (
        finding("first"),
        finding("second", higher="b", lower="a"),
        finding("third", higher="b", lower="c"),
        finding("fourth", score="class_iou"),
        finding("fifth"),
        finding("sixth", score="class_accuracy"),
    )
    verdicts = judge(study(*findings, titles="ABC"), {"a": good, "b": bad, "c": runs(0.50, 0.51, 0.53)})
    text = paragraph(verdicts)
    assert text.startswith("Of the paper's 6 findings, 2 hold here: first; fifth (SSIM +0.100 [")
    held = verdicts[0].figures
    assert held is not None
    assert numbers(clause(text, "2 hold here")) == pytest.approx((held.mean, held.low, held.high), abs=0.0006)
    assert clause(text, "1 does not hold here").startswith("second (SSIM -0.100 [")
    assert clause(text, "These data cannot decide 1").startswith("third (SSIM -0.003 [")
    unmeasured = clause(text, "2 were not measured")
    assert unmeasured.startswith("fourth; sixth (there are no labels"), "a reason in common is said once"
    for one in findings:
        assert text.count(one.statement) == 1
    assert "over 3 seeds and 24 test images" in text
    assert "Of 4 findings tested at 95 %, one in twenty errs by chance." in text


def test_the_paragraph_of_one_finding_of_none_and_of_findings_alike() -> None:
    good, bad = runs(0.60, 0.61, 0.62), runs(0.50, 0.52, 0.51)
    assert paragraph([verdict(good, bad)]).startswith(
        "The paper's finding holds here: A beats B (SSIM +0.100"
    )
    assert paragraph([verdict(good, ())]) == (
        "The paper's finding was not measured: A beats B (no run of B was finished)."
    )
    two = [verdict(good, bad), verdict(good, bad, statement="again")]
    assert paragraph(two).startswith("Of the paper's 2 findings, all hold here: A beats B; again (SSIM")
    assert "one in twenty" not in paragraph(two)
    assert paragraph([verdict(bad, good)] * 2).startswith("Of the paper's 2 findings, none holds here:")
    ours = [verdict(good, bad, source="expected"), verdict(good, bad)]
    assert paragraph(ours).startswith("Of the 2 findings, ")
    assert paragraph([]) == "This study tests no finding."


def test_few_images_are_said_to_be_few() -> None:
    some = [verdict(runs(0.60, 0.61, images=8), runs(0.50, 0.52, images=8))]
    assert "With 8 test images, the intervals are rough" in paragraph(some)
    assert "rough" not in paragraph([verdict(runs(0.60, 0.61), runs(0.50, 0.52))])


# -----------------------------------------------------------------------------------------------------------
# Results


TITLES = ("A | 50 % of $x_1$", "λ = 100 [new] & *improved* {~^#\\}", "C")


def make_results(**changes: object) -> Results:
    """Three variants: whole, with a run that failed, and with none."""
    targets = dict(runs(1.0)[0]) | {"ssim": np.ones(24), "psnr": np.full(24, math.inf)}
    values = {
        "study": study(finding(), finding("C beats B", higher="c"), titles=TITLES),
        "seeds": 3,
        "images_seen": 4000,
        "test_images": 24,
        "split": "test",
        "runs": {"a": runs(0.60, 0.61, 0.62), "b": runs(0.50, 0.52), "c": ()},
        "references": {"targets": targets, "mean target": {**runs(0.3)[0], "psnr": np.full(24, 15.0)}},
        "failures": {"b, seed 2": "diverged", "c, seed 0": "no memory", "c, seed 1": "x", "c, seed 2": "x"},
        "notes": ("A note.",),
    } | changes
    return Results(**values)  # type: ignore[arg-type]


@pytest.fixture
def results() -> Results:
    return make_results()


def test_the_table_holds_each_variant_then_the_references(results: Results) -> None:
    assert list(results.table) == [*TITLES, "mean target", "ground truth"]
    assert [score.name for score in results.scores] == ["psnr", "ssim", "sample_distance"]
    ssim = SCORES["ssim"]
    assert results.table[TITLES[0]]["ssim"] == estimate(ssim, results.runs["a"])
    assert results.table[TITLES[1]]["ssim"].seeds == 2
    assert math.isnan(results.table["C"]["ssim"].mean)
    mean = results.table["mean target"]["ssim"]
    assert (mean.mean, mean.seeds) == (pytest.approx(0.3), 0)
    low, high = stats.ttest_1samp(results.references["mean target"]["ssim"], 0).confidence_interval(0.95)
    assert (mean.low, mean.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    truth = results.table["ground truth"]
    assert (truth["ssim"].mean, truth["ssim"].low) == (1, 1)
    assert math.isnan(truth["psnr"].mean), "an exact copy has no PSNR"


def test_variants_of_one_title_keep_a_row_each() -> None:
    twins = study(titles=("same", "same"))
    table = make_results(study=twins, runs={"a": runs(0.1), "b": runs(0.2)}).table
    assert [table[f"same ({name})"]["ssim"].mean for name in "ab"] == pytest.approx([0.1, 0.2])


def test_scores_of_other_test_images_are_never_compared() -> None:
    other = tuple({**arrays, "names": arrays["names"][::-1]} for arrays in runs(0.5))
    with pytest.raises(AssertionError, match="different test images"):
        make_results(runs={"a": runs(0.5), "b": other, "c": ()})


def test_a_judge_that_sees_nothing_in_real_photos_decides_nothing() -> None:
    def counted(right: float) -> Arrays:
        """Of 100 pixels of two classes an image, so many are right."""
        hits = int(50 * right)
        matrix = np.array([[hits, 50 - hits, 0], [50 - hits, hits, 0]])
        return {"names": np.array(["0", "1", "2"]), "confusion": np.stack([matrix] * 3)}

    asked = study(finding(score="class_iou"))
    three = {name: (counted(a), counted(a), counted(a - 0.02)) for name, a in (("a", 0.6), ("b", 0.4))}
    for real, outcome in ((0.9, "holds"), (0.5, "not measured")):
        results = make_results(
            study=asked,
            runs=three,
            references={"targets": counted(real), "mean target": counted(0.5)},
            test_images=3,
        )
        (found,) = results.verdicts
        assert found.outcome == outcome
        assert ("no better on the real targets" in found.words) == (outcome == "not measured")


def test_results_as_json_hold_every_figure(results: Results) -> None:
    values = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert values["version"] == 1
    cell = values["table"]["a"]["scores"]["ssim"]
    assert Estimate(**cell) == results.table[TITLES[0]]["ssim"]
    assert values["table"]["targets"]["scores"]["psnr"]["mean"] is None
    assert [v["outcome"] for v in values["verdicts"]] == ["holds", "not measured"]
    first = difference(SCORES["ssim"], results.runs["a"], results.runs["b"])
    assert values["verdicts"][0]["figures"] == dataclasses.asdict(first)
    assert values["paragraph"] == paragraph(results.verdicts)
    assert values["failures"] == dict(results.failures) and values["notes"] == ["A note."]


def test_results_in_words(results: Results) -> None:
    text = results.words()
    assert re.search(r"^SSIM +0\.610 +0\.510 +- +0\.300 +1\.000$", text, re.MULTILINE)
    for verdict_ in results.verdicts:
        assert verdict_.words in text
    assert "b, seed 2: diverged" in text and text.endswith("A note.\n")


# -----------------------------------------------------------------------------------------------------------
# Tables


@pytest.fixture
def tables(results: Results, tmp_path: Path) -> dict[str, str]:
    write_tables(tmp_path, results)
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "table.md", "table.tex"}
    return {path.suffix[1:]: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}


def test_the_csv_gives_every_figure_back(tables: dict[str, str], results: Results) -> None:
    rows = list(csv.DictReader(tables["csv"].splitlines()))
    assert len(rows) == len(results.table) * len(results.scores)
    for row in rows:
        cell = results.table[row["title"]][row["score"]]
        found = [float(row[key]) if row[key] else math.nan for key in ("mean", "low", "high")]
        assert found == pytest.approx([cell.mean, cell.low, cell.high], abs=0, nan_ok=True)
    by_key = {(row["variant"], row["score"]): row for row in rows}
    assert [by_key[name, "ssim"]["seeds"] for name in ("a", "b", "c", "targets")] == ["3", "2", "0", "0"]
    assert by_key["a", "sample_distance"]["unit"] == "grey levels"
    assert (by_key["a", "ssim"]["better"], by_key["a", "ssim"]["images"]) == ("higher", "24")


def read_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().replace("\\|", "|") for cell in line] for line in cells]


def test_the_markdown_gives_every_cell_back(tables: dict[str, str], results: Results) -> None:
    head, rule, *rows = read_markdown(tables["md"])
    assert head == ["variant", "seeds", "PSNR (dB) ↑", "SSIM ↑", "sample distance (grey levels)"]
    assert {len(row) for row in (head, rule, *rows)} == {5}
    assert [row[0] for row in rows] == list(results.table)
    assert [row[1] for row in rows] == ["3", "2", "-", "-", "-"]
    for title, _, psnr, ssim, _ in rows:
        cell = results.table[title]["ssim"]
        expected = [] if math.isnan(cell.mean) else [cell.mean, cell.low, cell.high]
        assert numbers(ssim) == pytest.approx(expected, abs=0.0006)
        assert (psnr == "-") == (title != "mean target")
    assert "Means and 95 % intervals over seeds and test images: 3 seeds, 24 images" in tables["md"]
    assert "b, seed 2" in tables["md"]


PLAIN = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textbar": "|",
    "lambda": "λ",
    "uparrow": "↑",
    "downarrow": "↓",
    "%": "%",
    "&": "&",
    "$": "$",
    "#": "#",
    "_": "_",
    "{": "{",
    "}": "}",
    "scriptsize": "",
    "raggedright": "",
}
"""What LaTeX prints for a command."""


def printed(tex: str) -> str:
    """The text that LaTeX prints, without groups and math; a command that we do not know is an error."""
    parts = re.findall(r"\\([a-z]+|[^a-z])(?:\{\}|(?<=[a-z]) )?|([^\\])", tex)
    return "".join(other if other else PLAIN[command] for command, other in parts if other not in set("{}$"))


def read_latex(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    rows = re.findall(r"^(?!\\(?:top|mid|bottom)rule)(.*?) \\\\$", text, re.MULTILINE)
    return [[printed(cell).strip() for cell in re.split(r"(?<!\\)&", row)] for row in rows]


def test_the_latex_gives_every_cell_back(tables: dict[str, str]) -> None:
    _, _, *rows = read_markdown(tables["md"])
    head, *found = read_latex(tables["tex"])
    assert head == ["", "PSNR (dB) ↑", "SSIM ↑", "sample distance (grey levels)"]
    titles = [*TITLES, "mean target", "ground truth"]
    titles[1] += " (2 seeds)"
    assert [row[0] for row in found] == titles
    for ours, theirs in zip(found, rows, strict=True):
        assert [cell.replace("--", "-") for cell in ours[1:]] == theirs[2:]
    caption = re.search(r"\\caption\{(.*)\}$", tables["tex"], re.MULTILINE)
    assert caption
    assert printed(caption[1]).startswith(
        "Which? Means and 95 % intervals over seeds and test images: 3 seeds"
    )


def test_the_latex_is_well_formed(tables: dict[str, str], tmp_path: Path) -> None:
    text = tables["tex"]
    open_, depth = [], 0
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert not open_
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert text.isascii(), "pdflatex needs no package for its letters"
    for row in re.findall(r"\\\\\n(.*)", text):
        assert not row.lstrip().startswith(("[", "*")), "a line's end would take it for its own"
    if shutil.which("pdflatex"):
        page = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{text}\\end{{document}}"
        (tmp_path / "page.tex").write_text(page)
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)


def test_many_scores_are_laid_out_as_tables_that_fit_a_page(tmp_path: Path) -> None:
    more = ({**arrays, "l1": arrays["ssim"], "psnr": arrays["ssim"]} for arrays in runs(0.5, 0.6))
    found = make_results(runs={"a": tuple(more), "b": (), "c": ()})
    write_tables(tmp_path, found)
    text = (tmp_path / "table.tex").read_text()
    heads = [row[1:] for row in read_latex(text) if row[0] == ""]
    assert heads == [["L1 ↓", "PSNR (dB) ↑", "SSIM ↑"], ["sample distance (grey levels)"]]
    assert re.findall(r"\\label\{(.*?)\}", text) == ["tab:test-1", "tab:test-2"]
