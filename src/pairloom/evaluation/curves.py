"""Loss curves as inline SVG in the page's own colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pairloom.config import Config
from pairloom.health import legend as how_to_read
from pairloom.losses import chance_level

MAX_POINTS = 1000
"""Points of one curve."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One set of axes."""

    title: str
    svg: Markup
    legend: tuple[tuple[str, str], ...]
    """(CSS class, name) of each line."""
    caption: str


_CSS = {"#010101": "var(--ink-2)", "#010102": "var(--line)", "#010103": "var(--c1)", "#010104": "var(--c2)"}
"""Stand-in colours, replaced in the SVG by the page's own, so that curves follow light and dark."""
_TEXT, _LINE, _FIRST, _SECOND = _CSS


def thin(steps: Sequence[float], values: Sequence[float | None]) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most MAX_POINTS points: means over equal numbers of lines; null is left out of them.

    Shapes: (n,) twice -> (m,) twice.
    """
    finite = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None and math.isfinite(v)]
    parts = np.array_split(np.array(finite).reshape(-1, 2), min(MAX_POINTS, max(len(finite), 1)))
    means = np.array([part.mean(0) for part in parts if len(part)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def running_mean(values: NDArray[Any]) -> NDArray[Any]:
    """Centred mean over a 25th of the curve, shorter at its ends. Shapes: (n,) -> (n,)."""
    half = max(len(values) // 50, 1)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    means: NDArray[Any] = (total[high] - total[low]) / (high - low)
    return means


def charts(lines: Sequence[dict[str, Any]], config: Config) -> list[Chart]:
    """The curves of the lines of metrics.jsonl; terms that the run does not have are left out."""
    objective = config.objective
    drawn = (
        chart(
            lines,
            "D's two terms",
            {"D_real": "D_real, real pairs", "D_fake": "D_fake, generated pairs"},
            how_to_read(objective.gan_mode, halved=objective.halve_d),
            level=chance_level(objective.gan_mode),
        ),
        chart(lines, "G's adversarial term", {"G_GAN": "G_GAN"}, "How far G is from fooling D."),
        chart(
            lines,
            "L1",
            {"G_L1": "G_L1, training", "val_L1": "val_L1, validation"},
            "Mean absolute error on [-1, 1]. Validation rising while training falls is overfitting.",
        ),
        chart(lines, "L2", {"G_L2": "G_L2, training"}, "Mean squared error on [-1, 1]."),
        chart(
            lines,
            "Patches that D judges rightly",
            {"D_real_accuracy": "real pairs", "D_fake_accuracy": "generated pairs"},
            "Share of all. Near one for long: D is too strong for G to learn from.",
            level=0.5,
        ),
    )
    return [found for found in drawn if found is not None]


def chart(
    lines: Sequence[dict[str, Any]],
    title: str,
    names: dict[str, str],
    caption: str,
    *,
    level: float | None = None,
) -> Chart | None:
    """A chart of the terms that the run has; None when it has none of them."""
    figure = Figure(figsize=(4.4, 2.2), layout="constrained")
    axes = figure.add_subplot()
    legend, peaks = [], []
    for (key, name), colour, css in zip(names.items(), (_FIRST, _SECOND), ("c1", "c2"), strict=False):
        logged = [line for line in lines if key in line]
        steps, values = thin([line["step"] for line in logged], [line[key] for line in logged])
        if not len(values):
            continue
        smooth, style = running_mean(values), "-" if css == "c1" else "--"
        if key.startswith("val_"):
            smooth, style = values, "o--"
        else:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
        axes.plot(steps, smooth, style, color=colour, linewidth=1.5, markersize=2.5)
        legend.append((css, name))
        peaks.append((float(smooth.min()), float(smooth.max())))
    if not legend:
        return None
    if level is not None:
        axes.axhline(level, color=_TEXT, linewidth=1, linestyle=(0, (1, 2)), zorder=4)
        at = axes.get_yaxis_transform()
        axes.text(1.01, level, "chance", transform=at, fontsize=8, color=_TEXT, va="center")
        peaks.append((level, level))
    # The running mean fills the frame; single spikes may leave it.
    lowest, highest = min(min(pair) for pair in peaks), max(max(pair) for pair in peaks)
    margin = 0.1 * (highest - lowest) or 0.1
    axes.set_ylim(min(lowest - margin, 0) if lowest < 0 else 0, highest + margin)
    return Chart(title, _svg(figure, axes, re.sub(r"\W+", "-", title.lower())), tuple(legend), caption)


def _svg(figure: Figure, axes: Any, key: str) -> Markup:
    """The figure as inline SVG in the page's colours and type, with ids of its own and no addresses."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(colors=_TEXT, labelsize=8, length=0, pad=4)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.locator_params(nbins=5)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")
    axes.set_xlabel("step", fontsize=8, color=_TEXT)
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": key, "path.simplify_threshold": 0.3}
    with matplotlib.rc_context(settings):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|url\(#|xlink:href="#)', rf"\g<1>{key}-", svg)
    for colour, variable in _CSS.items():
        svg = svg.replace(colour, variable)
    return Markup(svg)
