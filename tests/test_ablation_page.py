"""A study's page and figure: every variant, its pictures, the paper's numbers; nothing from outside."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image, ImageFont

import pairloom
from conftest import tiny_config
from pairloom import Translator
from pairloom.ablation.curves import POINTS, curve, interval_bar, mean_curve, over_numbers, shown
from pairloom.ablation.figures import Sheet, make_figures, picture_sheet, shown_size, wrap
from pairloom.ablation.page import ends, number, typeset, write_page
from pairloom.ablation.plan import Plan
from pairloom.ablation.results import Results
from pairloom.ablation.scores import SCORES, Arrays
from pairloom.ablation.study import Finding, PaperTable, Study, Variant
from pairloom.ablation.uncertainty import Estimate
from pairloom.checkpoint import load_discriminator
from pairloom.data import find_pairs, load_pair
from pairloom.pictures import preview
from test_report import Page

HOSTILE = "cGAN <script>alert(1)</script> & more"
SIDE, SCALE, GAP = 32, 4, 4
"""Of the crops, of the figure's enlargement, and between its columns."""
STUDY = Study(
    name="tiny",
    title="Which <b>term</b>?",
    question="L1 or cGAN?",
    answer="The paper prefers both.",
    variants=(
        Variant(name="l1", title="L1", fields={"objective.lambda_gan": 0.0}),
        Variant(name="cgan", title=HOSTILE, fields={"objective.lambda_l1": 0.0}),
        Variant(name="quiet", title="cGAN, dropout off at test", dropout=False, runs_of="cgan"),
        Variant(name="lost", title="Diverging", fields={"training.learning_rate": 1e30}),
    ),
    findings=(
        Finding(
            statement="L1 is <i>nearer</i>", source="Table 9", score="ssim", higher="l1", lower="cgan"
        ),
        Finding(statement="G has colour", source="Figure 9", score="colour_spread", higher="l1", above=0.5),
        Finding(
            statement="Diverging is best", source="Table 8", score="ssim", higher="lost", lower="l1"
        ),
    ),
    paper=(
        PaperTable(
            title="Table 1: <Cityscapes>",
            columns=("Per-pixel acc.", "Per-class acc.", "Class IoU"),
            rows={"L1": (0.4217, 0.15, 0.11), "cGAN": (0.57, 0.22, 0.16)},
        ),
        PaperTable(title="Figure 7 (d)", columns=("L", "a", "b"), rows={"PixelGAN": (0.83, 0.68, 0.78)}),
    ),
)  # fmt: skip


def arrays(seed: int, *, images: int = 2, without: tuple[str, ...] = ()) -> Arrays:
    """What a trained model adds on each image; made up."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, (images, 540))
    found = {
        "names": np.array([f"test-{i}" for i in range(images)]),
        "l1": rng.uniform(0.2, 0.3, images),
        "psnr": rng.uniform(12, 13, images),
        "ssim": rng.uniform(0.3, 0.4, images),
        "confusion": rng.integers(1, 50, (images, 3, 4)),
        "lab_outputs": counts,
        "lab_targets": np.arange(540) % 7 + np.zeros((images, 1), int),
        "detail": rng.normal(-20, 1, (images, 2)),
        "variety": rng.uniform(0.2, 0.4, (images, 2)),
        "samples": rng.uniform(0, 0.1, images),
    }
    return {name: values for name, values in found.items() if name not in without}


def results_of(plan: Plan, *, without: tuple[str, ...] = (), **fields: object) -> Results:
    runs = {
        v.name: tuple(
            arrays(10 * i + seed, without=without) for seed in range(plan.seeds) if plan.cell(v, seed).is_done
        )
        for i, v in enumerate(plan.study.variants)
    }
    values = {
        "study": plan.study,
        "seeds": plan.seeds,
        "images_seen": plan.images,
        "test_images": 2,
        "split": "test",
        "runs": runs,
        "references": {name: arrays(99, without=without) for name in ("mean target", "targets")},
        "failures": {cell.words: cell.failure for cell in plan.cells() if cell.failure},
        "notes": ("A <note> & more.",),
    }
    return Results(**values | fields)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def plan(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two seeds of two steps each, trained; `lost` has failed. Read only."""
    base = tiny_config(tiny_data, training__steps=2, data__load_size=SIDE)
    made = Plan.make(tmp_path_factory.mktemp("study"), STUDY, base, seeds=2, pairs=5)
    for cell in made.cells():
        if cell.variant.name == "lost":
            cell.fail("The loss <became> NaN at step 1.")
        else:
            pairloom.train(cell.config, cell.path)
    return made


@pytest.fixture(scope="session")
def folder(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    assert write_page(out, plan, results_of(plan)) == out / "study.html"
    return out


@pytest.fixture(scope="session")
def page(folder: Path) -> Page:
    return Page((folder / "study.html").read_text(encoding="utf-8"))


@pytest.fixture
def page_with(plan: Plan, tmp_path: Path) -> Callable[..., Page]:
    """The page of the same runs, with other results or another study."""

    def write(*, study: Study | None = None, **fields: object) -> Page:
        other = plan if study is None else dataclasses.replace(plan, study=study)
        write_page(tmp_path, other, results_of(other, **fields))  # type: ignore[arg-type]
        return Page((tmp_path / "study.html").read_text(encoding="utf-8"))

    return write


def section(page: Page, name: str) -> str:
    start = page.source.index(f'<section id="{name}"')
    return page.source[start : page.source.index("</section>", start)]


# -----------------------------------------------------------------------------------------------------------
# The page


def test_the_page_needs_nothing_but_itself(folder: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
    assert "://" not in re.sub(r'"data:[^"]*"', "", page.source)
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert "default-src 'none'" in page.source
    assert page.all("script") == []
    assert (folder / "study.html").stat().st_size < 1_000_000


def test_the_page_is_well_formed_and_accessible(page: Page) -> None:
    assert page.source.lstrip().startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = {link["href"] for link in page.all("a")}
    assert links
    assert links <= {f"#{i}" for i in ids}
    assert all(image.get("alt") and image.get("width") for image in page.all("img"))
    assert all(image.get("class") == "pixelated" for image in page.all("img"))
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    drawings = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in drawings)


def test_titles_and_notes_are_text_not_markup(page: Page) -> None:
    assert {"script", "b>term", "note", "cityscapes", "became"}.isdisjoint(tag for tag, _ in page.elements)
    for words in ("Which <b>term</b>?", HOSTILE, "A <note> & more.", "L1 is <i>nearer</i>", "<Cityscapes>"):
        assert words in page.text
    assert "The loss <became> NaN at step 1." in page.text


def test_it_asks_answers_and_says_how_it_was_done(page: Page, plan: Plan) -> None:
    for words in (
        "L1 or cGAN?",
        "The paper prefers both.",
        "2 images",
        "2 test images",
        "32 × 32 px",
        "cpu",
        plan.base.data.path,
        "objective.lambda_gan = 0",
        "noise off at test",
        "2 of 2",
        "0 of 2",
        "generator.base_channels: 64 -> 8",
    ):
        assert words in page.text, words


def test_every_variant_has_a_row_in_each_table_and_a_column_in_the_figure(page: Page) -> None:
    tables = re.findall(r'<table class="scores">.*?</table>', page.source, re.DOTALL)
    assert len(tables) == 4
    for variant in STUDY.variants:
        title = str(escape(variant.title))
        assert all(f'<th scope="row">{title}' in table for table in tables)
        assert f'<th scope="col">{title}</th>' in section(page, "figure")
    assert all(row in table for table in tables for row in ("mean target", "ground truth"))


def test_figures_stand_with_their_intervals(page: Page, plan: Plan) -> None:
    row = results_of(plan).rows[0]
    cell = row.cells["ssim"]
    assert f"<td>{cell.mean:.3f}<small>{cell.low:.3f} to {cell.high:.3f}</small></td>" in page.source
    psnr = row.cells["psnr"]
    assert f"<td>{psnr.mean:.2f}<small>" in page.source
    assert "Means and 95 % intervals over seeds and test images: 2 seeds, 2 images" in page.text


def test_every_score_is_explained(page: Page) -> None:
    explained = re.findall(r"<dt>(.*?)<small>.*?</small></dt><dd>(.*?)</dd>", section(page, "reading"))
    assert [title for title, _ in explained] == [score.heading for score in SCORES.values()]
    assert all(meaning.endswith(".") for _, meaning in explained)
    assert "An ordering is claimed only where the interval of the difference excludes zero" in page.text


def test_each_finding_has_its_outcome_and_its_figures(page: Page, plan: Plan) -> None:
    verdict = results_of(plan).verdicts[0]
    assert verdict.figures
    rows = re.findall(r"<tr>.*?</tr>", section(page, "verdict"), re.DOTALL)[1:]
    assert len(rows) == len(STUDY.findings)
    assert f"<td>{number(verdict.figures.mean, 3, sign='+')}</td>" in rows[0]
    assert f">{verdict.outcome}</td>" in rows[0]
    assert "to be above 0.5" in rows[1]
    assert "not measured" in rows[2]
    assert [row.count('<svg class="bar"') for row in rows] == [1, 1, 0]
    assert str(escape(typeset(results_of(plan).paragraph))) in page.source


def test_the_papers_numbers_are_labelled_as_its_own(page: Page) -> None:
    tables = re.findall(r'<table class="paper">.*?</table>', page.source, re.DOTALL)
    assert len(tables) == 2
    for table in tables:
        assert "The paper's numbers, on its data: not comparable in size, only in order." in table
    assert "<td>0.42</td><td>0.15</td><td>0.11</td>" in tables[0]
    assert "<td>0.83</td><td>0.68</td><td>0.78</td>" in tables[1]
    assert page.source.index("By class") < page.source.index(tables[0]) < page.source.index("Pixel by pixel")


def test_failed_runs_are_named_with_their_reason(page: Page) -> None:
    notice = page.source[page.source.index('id="failures"') : page.source.index("</aside>")]
    assert "2 of 6 runs" in notice
    assert "lost, seed 0; lost, seed 1" in notice
    assert "became" in notice
    cells = re.findall(r'<td class="none">.*?</td>', section(page, "figure"))
    assert cells == ['<td class="none"><span>failed</span></td>'] * 2


def test_patch_maps_are_of_each_d_and_say_what_it_sees(page: Page, plan: Plan) -> None:
    maps = section(page, "patches")
    d = load_discriminator(plan.cell(STUDY.variant("cgan"), 0).path)
    assert d is not None
    assert maps.count(f"{d.receptive_field} × {d.receptive_field} px") == 2
    assert '<th scope="col">L1<' not in maps
    for title in (HOSTILE, "cGAN, dropout off at test"):
        alts = {f"patch map of the output of {title}", f"patch map of the target by D of {title}"}
        assert alts <= set(page.alts())


def test_curves_are_drawn_of_every_trained_variant(page: Page) -> None:
    drawn = section(page, "curves")
    assert drawn.count("<figure") == 2  # L1 of `l1`, and the two terms of D of `cgan`
    assert "D&#39;s two terms" in drawn
    line = re.search(r'aria-label="L1 in training, L1: G_L1 from ([\d.]+) to ([\d.]+)"', drawn)
    assert line
    assert drawn.count('stroke-width="0.8"') == 2 + 4  # a thin line for each seed and term
    assert drawn.count('stroke-width="1.9"') == 1 + 2  # a bold one for each term


def test_histograms_and_maps_are_there_exactly_when_their_data_are(
    page: Page, page_with: Callable[..., Page], plan: Plan
) -> None:
    colour = section(page, "colour")
    assert colour.count('role="img"') == 3  # not of the variant that failed
    assert {"colour", "patches"} <= set(page.ids())
    only = STUDY.only(("l1",))
    without = page_with(study=only, without=("lab_outputs", "lab_targets", "confusion", "detail"))
    assert {"colour", "patches", "failures", "over"}.isdisjoint(without.ids())
    assert "pixel accuracy" not in without.text
    # Without figures by class the paper's table has none to stand beside, but is still there.
    assert without.text.count("The paper's numbers, on its data") == 2


def test_a_study_over_numbers_draws_its_scores(page_with: Callable[..., Page]) -> None:
    study = dataclasses.replace(STUDY, curve=(10.0, 20.0, 40.0, 400.0), curve_title="training pairs")
    drawn = section(page_with(study=study), "over")
    assert drawn.count("<figure") == 5  # class IoU, L1, SSIM, colour spread, fine detail
    assert drawn.count("<circle") == 5 * 3  # the fourth variant failed
    assert "SSIM over training pairs: 0." in drawn
    assert ">400</text>" in drawn


def test_a_study_without_findings_or_answer(page_with: Callable[..., Page]) -> None:
    bare = dataclasses.replace(STUDY, findings=(), paper=(), answer="", question="")
    found = page_with(study=bare, failures={}, notes=())
    assert "The paper's answer" not in found.text
    assert "The paper's numbers" not in found.text
    assert "This study tests no finding." in found.text


# -----------------------------------------------------------------------------------------------------------
# The figure


def tile(sheet: Image.Image, row: int, column: int, rows: int = 2) -> np.ndarray:
    """One image of the figure: rows stand on its lower edge."""
    side = SIDE * SCALE
    left = GAP + column * (side + GAP)
    top = sheet.height - GAP - (rows - row) * (side + GAP)
    return np.asarray(sheet.crop((left, top, left + side, top + side)))


def enlarged(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def test_the_figure_holds_the_translations_themselves(folder: Path, plan: Plan) -> None:
    with Image.open(folder / "figure.png") as file:
        sheet = file.convert("RGB")
    columns = len(STUDY.variants) + 2
    assert sheet.width == GAP + columns * (SIDE * SCALE + GAP)
    pairs = find_pairs(plan.base.data).split("test")
    assert len(pairs) == 2
    for row, pair in enumerate(pairs):
        for column, variant in enumerate(STUDY.variants[:3], start=1):
            model = Translator.load(plan.cell(variant, 0).path, dropout=variant.dropout, precision="fp32")
            x, y = load_pair(pair, model.source_spec, model.target_spec, model.config.data)
            y_hat = model.translate_tensor(x[None])[0]
            np.testing.assert_array_equal(
                tile(sheet, row, column), enlarged(preview(y_hat, model.target_spec))
            )
        np.testing.assert_array_equal(tile(sheet, row, 0), enlarged(preview(x, model.source_spec)))
        np.testing.assert_array_equal(tile(sheet, row, columns - 1), enlarged(preview(y, model.target_spec)))
    assert not np.array_equal(tile(sheet, 0, 2), tile(sheet, 0, 3))  # dropout on, and off
    failed = tile(sheet, 0, 4)
    assert (failed[5:100, 5:-5] == 255).all()
    head = np.asarray(sheet)[: sheet.height - 2 * (SIDE * SCALE + GAP) - GAP]
    assert tuple(head[0, 0]) == (255, 255, 255)
    for column in range(columns):  # each has its title
        left = GAP + column * (SIDE * SCALE + GAP)
        assert head[:, left : left + SIDE * SCALE].min() < 100


def test_the_lowest_seed_that_exists_is_shown(plan: Plan, tmp_path: Path) -> None:
    copy = dataclasses.replace(plan, out=tmp_path / "copy")
    shutil.copytree(plan.out, copy.out)
    l1 = STUDY.variant("l1")
    (copy.cell(l1, 0).path / "generator.safetensors").unlink()
    columns = make_figures(copy, "test").columns
    assert [column.seed for column in columns] == [None, 1, 0, 0, None, None]
    (copy.cell(l1, 1).path / "generator.safetensors").unlink()
    column = make_figures(copy, "test").columns[1]
    assert (column.pictures, column.instead) == ((), "not trained")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (128, 128)), ((48, 32), (144, 96)), ((256, 256), (256, 256)), ((1024, 600), (512, 300))],
)
def test_images_are_shown_at_integer_scales(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    assert shown_size(image).size == expected


def test_a_title_is_broken_where_it_does_not_fit() -> None:
    font = ImageFont.load_default(14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    width = font.getlength("added, L1+cGAN")
    assert wrap("U-Net, skips added, L1+cGAN", font, width) == ["U-Net, skips", "added, L1+cGAN"]
    whole = "a-single-word-that-is-wider-than-its-column"
    pieces = wrap(f"a {whole}", font, width)
    assert "".join(pieces) == f"a{whole}"
    assert max(map(font.getlength, pieces)) <= width
    assert wrap("", font, width) == [""]


def test_eight_columns_fit_a_page_at_whole_pixels(plan: Plan) -> None:
    figures = make_figures(plan, "test")
    picture = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
    column = dataclasses.replace(figures.columns[1], pictures=(picture, picture))

    def sheet(count: int) -> Sheet:
        return picture_sheet(dataclasses.replace(figures, columns=(column,) * count))

    assert sheet(8).width_px == 128
    assert sheet(8).is_wide
    assert sheet(5).width_px == 192
    assert sheet(12).width_px == 128
    assert len(sheet(8).rows) == 2


# -----------------------------------------------------------------------------------------------------------
# Curves and numbers


def test_a_mean_curve_leaves_out_a_run_that_ended_early() -> None:
    long, other = (np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])), (np.array([2.0, 6.0]), np.ones(2))
    short = np.array([2.0, 4.0]), np.array([99.0, 99.0])
    at, values = mean_curve([long, other, short])
    np.testing.assert_array_equal(at, [2, 4, 6])
    np.testing.assert_allclose(values, [1, 1.5, 2])


def test_a_curve_is_thinned_and_leaves_out_what_was_not_logged() -> None:
    lines = [{"step": i, "images_seen": 4 * i, "G_L1": 0.5 if i != 7 else None} for i in range(1, 5000)]
    found = curve(lines, "G_L1")
    assert found is not None
    x, y = found
    assert len(x) == POINTS
    np.testing.assert_allclose(y, 0.5)
    assert 4 <= x[0] < x[-1] <= 4 * 4999
    assert curve(lines, "D_real") is None
    assert curve([{"step": 3, "warning": "odd"}], "G_L1") is None


def test_numbers_are_set_as_in_print() -> None:
    assert number(-0.0004, 3) == "0.000"
    assert number(-12.34, 1, sign="+") == "−12.3"
    assert number(math.nan, 2) == "–"
    assert ends(Estimate(0.5, 0.25, 0.75, 3, 9), 2, sign="+") == "+0.25 to +0.75"
    assert ends(Estimate(0.5, math.nan, math.nan, 1, 1), 2) == ""
    assert typeset("at 95 % (L1 -0.5 [-0.7, +0.1])") == "at 95\u00a0% (L1 −0.5 [−0.7, +0.1])"
    assert [shown(v) for v in (0.0, -20.0, 0.3, 4000.0, 25_000.0)] == ["0", "−20", "0.3", "4000", "25k"]


def test_an_interval_is_drawn_beside_what_it_must_exclude() -> None:
    drawn = interval_bar(Estimate(2.0, 1.0, 3.0, 3, 9), 1.0, "red")
    low, high = map(float, re.search(r"M([\d.]+) 9H([\d.]+)", drawn).groups())  # type: ignore[union-attr]
    assert low == 60
    assert high == 114
    assert interval_bar(Estimate(2.0, math.nan, math.nan, 1, 1), 0.0, "red") == ""


def test_a_score_over_numbers_survives_missing_and_single_ones() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan, 0, 0)
    point = Estimate(0.5, math.nan, math.nan, 1, 1)
    assert over_numbers("SSIM", [5.0], [point], "pairs").svg.count("<circle") == 1
    assert over_numbers("SSIM", [5.0, 0.0], [nothing, nothing], "pairs").svg.count("<circle") == 0
    doubled = over_numbers("SSIM", [10.0, 20.0, 40.0], [point] * 3, "pairs").svg
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', doubled)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)  # a logarithmic axis
