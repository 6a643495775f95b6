"""What the pages share: pictures as data, pairs as rows of pictures, the table of images, the template."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from pairloom import images
from pairloom.config import DataConfig
from pairloom.data import Pair, evaluation_view
from pairloom.evaluation.metrics import BETTER, Interval
from pairloom.evaluation.summary import EvaluationError, Summary, number
from pairloom.images import ImageSpec
from pairloom.pictures import Rgb, preview
from pairloom.rundir import read_json
from pairloom.translator import Translator
from pairloom.validity import filled

SHOWN_SIDE_PX = 256
"""Larger images are shown reduced to this side: it keeps the page below a few megabytes."""
PIXELATED_BELOW_PX = 160
"""Images with a smaller side are enlarged with visible pixels, not blurred."""
MAX_ROWS = 2000
"""Lines of the table of images; per_image.csv has them all."""
DIFFERENCE_OF_WHITE = 0.5
"""Mean absolute difference, on the [-1, 1] scale, that a difference map shows at full strength."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image as it stands in the page."""

    uri: str
    width: int
    height: int
    label: str
    alt: str
    pixelated: bool


@dataclass(frozen=True, slots=True)
class Triptych:
    """Pictures that belong together, and the words below them."""

    name: str
    pictures: tuple[Picture, ...]
    numbers: str = ""


def render_views(pictures: Sequence[Picture]) -> Markup:
    """Pictures in a row, as markup for a section."""
    views = Markup("").join(
        Markup(
            '<div class="view"><img src="{}" width="{}" height="{}" alt="{}"><span>{}</span></div>'
        ).format(p.uri, p.width, p.height, p.alt, p.label)
        for p in pictures
    )
    return Markup('<div class="views wide" style="--n: {}">{}</div>').format(len(pictures), views)


def render(template: str, page: dict[str, Any], *, folder: Path | None = None) -> str:
    """A page from its template; whatever the page says is escaped, unless it is markup of ours.

    Args:
        template: Its name.
        page: What it says.
        folder: Of another room's templates, which may include those that lie here; None: only these.
    """
    environment = Environment(
        loader=FileSystemLoader([*filter(None, (folder,)), Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(page)
    return text.encode(errors="backslashreplace").decode()  # the names of files need not be text


# -----------------------------------------------------------------------------------------------------------
# Numbers


def read_summary(folder: Path) -> Summary | None:
    """The summary of an evaluation's folder; None when it holds none.

    Raises:
        EvaluationError: It is damaged, or not ours.
    """
    path = folder / "summary.json"
    if not path.exists():
        return None
    try:
        return Summary.from_dict(read_json(path))
    except EvaluationError as error:
        raise EvaluationError(
            f"{path}: {error}; it is damaged or not ours. Remove it, and the model is evaluated again."
        ) from error


def read_rows(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Name and metrics of each image of a per_image.csv.

    Raises:
        EvaluationError: It cannot be read, or lacks one of the metrics.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {"name": row["name"], **{name: float(row[name]) for name in names}}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path}: cannot be read as the table that evaluate writes; remove its summary.json, and "
            "the model is evaluated again."
        ) from error


def ranking(rows: Sequence[dict[str, Any]]) -> str:
    """The metric that orders images: SSIM, or L1 where images are too small for it."""
    return "SSIM" if all(math.isfinite(row["SSIM"]) for row in rows) else "L1"


def shown_number(name: str, value: float, *, sign: Literal["", "+"] = "") -> str:
    """As in the plain-text table, with the typographer's minus."""
    return number(name, value, sign=sign).replace("-", "−")


def verdict(name: str, difference: Interval) -> str:
    """What model - baseline says about the model."""
    if not difference.excludes_zero:
        return "not clearly different"
    return "better" if (difference.mean < 0) == (BETTER[name] == "lower") else "worse"


# -----------------------------------------------------------------------------------------------------------
# Pictures


def view(tensor: Tensor, spec: ImageSpec, like: Tensor | None = None, valid: Tensor | None = None) -> Rgb:
    """A tensor for the eye: as `pictures.preview`, and stretched where the file values are no 8-bit ones.

    From the 1st to the 99th percentile of each channel of `like`: an output is shown just as its target.

    Shapes: tensor, like (C, H, W), valid (1, H, W) -> (H, W, 3).
    """
    if spec.dtype != "uint8" and spec.kind != "labels":
        reference = (tensor if like is None else like).flatten(1).double().numpy()
        if valid is not None and valid.any():
            reference = reference[:, valid.flatten().numpy() > 0]
        low, high = torch.from_numpy(np.percentile(reference, (1, 99), axis=1)).float()[..., None, None]
        tensor = 2 * (tensor - low) / torch.where(high > low, high - low, 2.0) - 1
    return preview(tensor, spec, valid)


def picture(pixels: Rgb, label: str, alt: str, *, side_px: int = SHOWN_SIDE_PX) -> Picture:
    """An image as a PNG inside the page, reduced where it is larger than `side_px`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, *image.size, label, alt, max(image.size) < PIXELATED_BELOW_PX)


def difference_map(y_hat: Tensor, y: Tensor) -> Rgb:
    """Where output and target differ: mean absolute difference over the channels, dark is none.

    Shapes: (C, H, W) twice -> (H, W, 3).
    """
    return heat((y_hat - y).abs().mean(0), full=DIFFERENCE_OF_WHITE)


def heat(values: Tensor, *, full: float) -> Rgb:
    """A map of amounts, from black at 0 to nearly white at `full`. Shapes: (H, W) -> (H, W, 3)."""
    share = (values / full).clamp(0, 1).numpy()
    shown: Rgb = (colormaps["magma"](share)[..., :3] * 255).round().astype(np.uint8)
    return shown


class Examples:
    """Pairs of one split, loaded and translated when asked for."""

    def __init__(self, translator: Translator, data: DataConfig, seed: int) -> None:
        self.translator, self.data, self.seed = translator, data, seed
        self.specs = translator.source_spec, translator.target_spec
        self._made: dict[tuple[str, str], Triptych] = {}

    def tensors(self, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """Source, target and output. Shapes: (C, H, W) each."""
        return self._view(pair)[:3]

    def _view(self, pair: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """And which pixels count; the others are 0 in the output too."""
        x, y, valid = evaluation_view(pair, *self.specs, self.data)
        y_hat = self.translator.translate_tensor(x[None], seed=self.seed)[0].cpu().float()
        return x, y, filled(y_hat, valid), valid

    def triptych(self, pair: Pair, row: dict[str, Any] | None, *, difference: bool = False) -> Triptych:
        """Source, output, target, and by choice their difference; the same pair is only made once."""
        key = pair.split, pair.name
        if key not in self._made:
            x, y, y_hat, valid = self._view(pair)
            source, target = self.specs
            (y_hat, target), (y, _) = (images.recombined(side, x, target) for side in (y_hat, y))
            views = {
                "source": view(x, source, valid=valid),
                "output": view(y_hat, target, y, valid),
                "target": view(y, target, valid=valid),
            }
            if difference:
                views["difference"] = difference_map(y_hat, y)
            pictures = tuple(picture(v, label, f"{label} of {pair.name}") for label, v in views.items())
            names = ("SSIM", "L1", "PSNR")
            numbers = " · ".join(f"{name} {shown_number(name, row[name])}" for name in names) if row else ""
            self._made[key] = Triptych(pair.name, pictures, numbers)
        return self._made[key]
