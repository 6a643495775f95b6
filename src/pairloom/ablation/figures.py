"""The same inputs through every variant, as in the figures of the paper, and what each D says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pairloom import images
from pairloom.ablation.plan import Plan
from pairloom.ablation.study import Variant
from pairloom.checkpoint import load_discriminator, write_atomically
from pairloom.config import DataConfig
from pairloom.data import Pair, evenly, find_pairs, load_pair
from pairloom.evaluation.evaluate import pairs_of
from pairloom.evaluation.gallery import Picture, picture, view
from pairloom.evaluation.patches import laid_over, patch_map
from pairloom.images import ImageSpec
from pairloom.networks import Discriminator
from pairloom.pictures import Rgb
from pairloom.translator import Translator

ROWS = 6
"""Test pairs that the figure shows, evenly chosen."""
LEAST_PX, MOST_PX = 128, 512
"""The file shows smaller images enlarged to this side at least, larger ones reduced to at most."""
GAP_PX, TEXT_PX, ROOM_PX = 4, 1000, 1056
"""Between the pictures of a row, for a row of text, and for a row of pictures on a wide screen."""
FAILED = "failed"
"""What stands in the column of a variant whose runs all failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column: the sources, the targets, or what one variant makes of the sources."""

    title: str
    pictures: tuple[Rgb, ...] = ()
    """One a row, (H, W, 3) each; empty: there are none."""
    instead: str = ""
    """Why there are none, in a word."""
    seed: int | None = None
    """Of the run that made them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What the D of one variant says of its own output and of the target, patch by patch."""

    title: str
    discriminator: Discriminator
    gan_mode: str
    grid: tuple[int, int]
    """Patches down and across."""
    output: Rgb
    output_map: Rgb
    target_map: Rgb
    output_mean: float
    """Mean of the map: 0 generated, 1 real."""
    target_mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The same test pairs in the same rows of every column."""

    names: tuple[str, ...]
    """Of the pairs: the rows."""
    columns: tuple[Column, ...]
    """Source, the variants in the study's order, target."""
    judged: tuple[Judged, ...]
    """On the first of the pairs; the variants that have a D."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """Rows of pictures below the titles of their columns."""

    heads: tuple[tuple[str, str], ...]
    """Title, and a remark below it."""
    rows: tuple[tuple[str, tuple[Picture | str, ...]], ...]
    """Name, and the pictures, or the word that stands instead."""
    width_px: int
    """Of each picture on the page."""

    @property
    def is_wide(self) -> bool:
        """Does it need more room than the text has?"""
        return len(self.heads) * (self.width_px + GAP_PX) > TEXT_PX


def make_figures(plan: Plan, split: str) -> Figures:
    """Translate some evenly chosen pairs of the split by one run of each variant: its lowest seed, last step.

    Raises:
        DataError: The data are no longer there.
        CheckpointError: A run's weights are damaged.
    """
    pairs, _ = pairs_of(find_pairs(plan.base.data), split, own=True)
    shown = evenly(pairs, ROWS)
    columns: list[Column] = []
    judged: list[Judged] = []
    ends: tuple[Column, ...] = ()
    for variant in plan.study.variants:
        found = _first_run(plan, variant)
        if found is None:
            columns.append(Column(title=variant.title, instead=_why_none(plan, variant)))
            continue
        run, seed = found
        device = plan.base.training.device
        model = Translator.load(run, device=device, dropout=variant.dropout, precision="fp32")
        made = [_translated(model, pair, plan.base.data) for pair in shown]
        source, target = model.source_spec, model.target_spec
        outputs = tuple(_seen(y_hat, x, y, target) for x, y, y_hat in made)
        columns.append(Column(title=variant.title, pictures=outputs, seed=seed))
        ends = ends or (
            Column(title="source", pictures=tuple(view(x, source) for x, _, _ in made)),
            Column(title="target", pictures=tuple(_seen(y, x, y, target) for x, y, _ in made)),
        )
        if made and (found_map := _judged(run, variant, model, *made[0])):
            judged.append(found_map)
    around = ends or (Column(title="source", instead="-"), Column(title="target", instead="-"))
    return Figures(
        names=tuple(pair.name for pair in shown),
        columns=(around[0], *columns, around[1]),
        judged=tuple(judged),
    )


def _first_run(plan: Plan, variant: Variant) -> tuple[Path, int] | None:
    """The finished run of the lowest seed."""
    cells = (plan.cell(variant, seed) for seed in range(plan.seeds))
    return next(((cell.path, cell.seed) for cell in cells if cell.is_done), None)


def _why_none(plan: Plan, variant: Variant) -> str:
    failures = [plan.cell(variant, seed).failure for seed in range(plan.seeds)]
    return FAILED if any(failures) else "not trained"


def _translated(model: Translator, pair: Pair, data: DataConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target and output. Shapes: (C, H, W) each."""
    x, y = load_pair(pair, model.source_spec, model.target_spec, data)
    return x, y, model.translate_tensor(x[None], seed=0)[0].cpu().float()


def _seen(image: Tensor, x: Tensor, y: Tensor, spec: ImageSpec) -> Rgb:
    """An output or a target for the eye, ab with the source's L. Shapes: (C, H, W) each -> (H, W, 3)."""
    (shown, file_spec), (like, _) = (images.recombined(side, x, spec) for side in (image, y))
    return view(shown, file_spec, like)


def _judged(
    run: Path, variant: Variant, model: Translator, x: Tensor, y: Tensor, y_hat: Tensor
) -> Judged | None:
    """D's two maps; None where the run has no D, or its kernels are larger than the image."""
    discriminator = load_discriminator(run)
    if discriminator is None:
        return None
    try:
        with torch.inference_mode():
            logits = [discriminator(x[None], image[None]) for image in (y_hat, y)]
    except (RuntimeError, ValueError):  # ValueError: a norm over a single value
        return None
    mode = model.config.objective.gan_mode
    maps = [patch_map(one, mode) for one in logits]
    views = [_seen(image, x, y, model.target_spec) for image in (y_hat, y)]
    laid = [laid_over(v, m, discriminator.windows) for v, m in zip(views, maps, strict=True)]
    return Judged(
        title=variant.title,
        discriminator=discriminator,
        gan_mode=mode,
        grid=(maps[0].shape[0], maps[0].shape[1]),
        output=views[0],
        output_map=laid[0],
        target_map=laid[1],
        output_mean=float(maps[0].mean()),
        target_mean=float(maps[1].mean()),
    )


# -----------------------------------------------------------------------------------------------------------
# On the page


def picture_sheet(figures: Figures) -> Sheet:
    """The figure: source, what each variant makes of it, target."""
    found = [column.pictures for column in figures.columns]
    rows = [
        (
            name,
            tuple(
                picture(column.pictures[row], "", _alt(column.title, name))
                if column.pictures
                else column.instead
                for column in figures.columns
            ),
        )
        for row, name in enumerate(figures.names)
    ]
    return Sheet(
        heads=tuple((column.title, "") for column in figures.columns),
        rows=tuple(rows),
        width_px=_width(rows, len(found), most=256),
    )


def _alt(title: str, name: str) -> str:
    return f"{title} of {name}" if title in ("source", "target") else f"output of {title} for {name}"


def patch_sheet(judged: Sequence[Judged]) -> Sheet | None:
    """What each D says of its variant's output, and of the target; None where there is no D."""
    if not judged:
        return None
    heads = []
    for one in judged:
        d, (down, across) = one.discriminator, one.grid
        field = f"{d.receptive_field} × {d.receptive_field} px, {across} × {down} patches"
        heads.append((one.title, field + ("" if d.conditional else ", source unseen")))
    rows = [
        ("output", [picture(j.output, "", f"output of {j.title}") for j in judged]),
        (
            "D's map of the output",
            [
                picture(j.output_map, f"mean {j.output_mean:.2f}", f"patch map of the output of {j.title}")
                for j in judged
            ],
        ),
        (
            "D's map of the target",
            [
                picture(
                    j.target_map, f"mean {j.target_mean:.2f}", f"patch map of the target by D of {j.title}"
                )
                for j in judged
            ],
        ),
    ]
    shown = tuple((name, tuple(pictures)) for name, pictures in rows)
    return Sheet(heads=tuple(heads), rows=shown, width_px=_width(shown, len(judged), most=192))


def _width(rows: Sequence[tuple[str, Sequence[Picture | str]]], columns: int, *, most: int) -> int:
    """The whole multiple of the pictures' own width that fits; what is too wide is shown smaller."""
    room = min(max((ROOM_PX + GAP_PX) // columns - GAP_PX, 128), most)
    own = max((p.width for _, row in rows for p in row if isinstance(p, Picture)), default=room)
    return own * max(room // own, 1) if own <= room else room


# -----------------------------------------------------------------------------------------------------------
# The file


def write_figure(path: Path, figures: Figures) -> None:
    """The figure as a PNG for a paper or a README: titled columns on white, visible pixels."""
    write_atomically(path, lambda where: compose(figures).save(where, format="PNG", optimize=True))


def compose(figures: Figures) -> Image.Image:
    """Columns beside each other below their titles; each image at an integer scale in a cell of its own."""
    columns = [[shown_size(Image.fromarray(p)) for p in column.pictures] for column in figures.columns]
    sizes = [image.size for column in columns for image in column] or [(LEAST_PX, LEAST_PX)]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    gap, font = max(width // 32, 4), _font(max(width // 9, 13))
    titles = [wrap(column.title, font, width) for column in figures.columns]
    leading = round(1.25 * font.size)
    head = max(len(lines) for lines in titles) * leading + gap
    rows = max(len(figures.names), 1)
    size = (len(columns) * (width + gap) + gap, head + rows * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (column, pictures, lines) in enumerate(zip(figures.columns, columns, titles, strict=True)):
        left = gap + number * (width + gap)
        middle = left + width / 2
        for line, text in enumerate(reversed(lines)):  # titles stand on the images
            bottom = head - gap / 2 - line * leading
            draw.text((middle, bottom), text, fill="black", font=font, anchor="md")
        for row, image in enumerate(pictures):
            top = head + row * (height + gap)
            sheet.paste(image, (left + (width - image.width) // 2, top + (height - image.height) // 2))
        if not pictures:
            bottom = head + rows * (height + gap) - gap
            draw.rectangle((left, head, left + width - 1, bottom - 1), outline="#cccccc")
            draw.text((middle, (head + bottom) / 2), column.instead, fill="#666666", font=font, anchor="mm")
    return sheet


def shown_size(image: Image.Image) -> Image.Image:
    """The image at an integer scale: enlarged to visible pixels, or reduced by means over whole blocks."""
    largest = max(image.size)
    if largest > MOST_PX:
        return image.reduce(math.ceil(largest / MOST_PX))
    scale = math.ceil(LEAST_PX / largest)
    return image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines that fit: broken at spaces, and within a word that is wider than a line."""
    lines = [""]
    for word in text.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The one that comes with matplotlib; it has the Greek letters and accents of titles."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
