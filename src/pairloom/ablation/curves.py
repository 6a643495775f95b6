"""Small multiples as inline SVG in the page's own colours: a frame a variant, the same axes in all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pairloom.ablation.plan import Plan
from pairloom.ablation.results import Results
from pairloom.ablation.scores import Arrays
from pairloom.ablation.uncertainty import Estimate
from pairloom.evaluation.colour import RANGES, LabHistogram, figure
from pairloom.evaluation.curves import running_mean, thin
from pairloom.losses import chance_level
from pairloom.rundir import read_metrics

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x and y, (n,) each."""
Curves = Mapping[str, Sequence[Points]]
"""Of one variant: by term, a curve a run."""
POINTS = 100
"""Of one line; a frame is about three hundred pixels wide."""
TERMS: Mapping[str, Mapping[str, str]] = {
    "L1": {"G_L1": ""},
    "L2": {"G_L2": ""},
    "D": {"D_real": "real pairs", "D_fake": "generated pairs"},
}
"""By group: what metrics.jsonl calls the lines of one frame, and the legend their names."""
TITLES = {"L1": "L1 in training", "L2": "L2 in training", "D": "D's two terms"}
CAPTIONS = {
    "L1": "Mean absolute error on [-1, 1], unweighted.",
    "L2": "Mean squared error on [-1, 1], unweighted.",
    "D": "Dotted: where both would be if D could not tell. Below it, D is winning.",
}
COLOURS = "var(--c1)", "var(--c2)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One set of axes."""

    title: str
    svg: Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Frames that share their axes."""

    title: str
    caption: str
    frames: tuple[Frame, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """(CSS class, name) of each line, where there are several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """The frame around some lines, in px of the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_title: str
    logarithmic: bool = False
    x_ticks: tuple[float, ...] = ()
    """Empty: some round numbers."""
    left: float = field(default=34, init=False)
    top: float = field(default=8, init=False)
    width: float = field(default=258, init=False)
    height: float = field(default=120, init=False)

    def across(self, value: float) -> float:
        """The place of an x."""
        low, high, value = (math.log(v) if self.logarithmic else v for v in (*self.x, value))
        return self.left + self.width * (value - low) / ((high - low) or 1)

    def down(self, value: float) -> float:
        """The place of a y; what leaves the frame is drawn on its edge."""
        low, high = self.y
        return self.top + self.height * (1 - min(max((value - low) / ((high - low) or 1), 0), 1))

    def path(self, points: Points) -> str:
        """The `d` of a line."""
        places = (f"{self.across(x):.1f} {self.down(y):.1f}" for x, y in zip(*points, strict=True))
        return "M" + "L".join(places)

    def drawn(self, words: str, inside: Sequence[str]) -> Markup:
        """The frame with what is in it; the words are for those who do not see it."""
        size = f"0 0 {self.left + self.width + 8:g} {self.top + self.height + 32:g}"
        parts = [f'<svg viewBox="{size}" role="img" font-size="9.5" aria-label="{escape(words)}">']
        parts += self._grid()
        return Markup("".join([*parts, *inside, "</svg>"]))

    def _grid(self) -> Iterator[str]:
        bottom = self.top + self.height
        for value in _round_numbers(self.y, 4):
            y = self.down(value)
            yield f'<path d="M{self.left:g} {y:.1f}h{self.width:g}" stroke="var(--line)" stroke-width=".7"/>'
            yield f'<text x="{self.left - 5:g}" y="{y + 3.2:.1f}" text-anchor="end">{shown(value)}</text>'
        for value in self.x_ticks or _round_numbers(self.x, 4):
            x = self.across(value)
            yield f'<text x="{x:.1f}" y="{bottom + 13:g}" text-anchor="middle">{shown(value)}</text>'
        middle = self.left + self.width / 2
        yield f'<text x="{middle:g}" y="{bottom + 27:g}" text-anchor="middle">{escape(self.x_title)}</text>'


def _round_numbers(ends: tuple[float, float], count: int) -> list[float]:
    ticks = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends)
    slack = 1e-9 * (ends[1] - ends[0])
    return [float(v) for v in ticks if ends[0] - slack <= v <= ends[1] + slack]


def shown(value: float) -> str:
    """A number on an axis: 20k for 20000, and the typographer's minus."""
    text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def stroke(colour: str, width: float, *, dashes: str = "", opacity: float = 1) -> str:
    """The attributes of a line."""
    dashed = f' stroke-dasharray="{dashes}" stroke-linecap="round"' if dashes else ""
    faint = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"{dashed}{faint}'


# -----------------------------------------------------------------------------------------------------------
# Learning curves


def learning_curves(plan: Plan) -> list[Group]:
    """The terms of the objective over the images seen, a frame for each trained variant that has them."""
    trained = {v.name: v for v in plan.study.variants if not v.runs_of}
    logged = {
        name: [read_metrics(plan.cell(variant, seed).path) for seed in range(plan.seeds)]
        for name, variant in trained.items()
    }
    groups = []
    for group, terms in TERMS.items():
        curves: dict[str, Curves] = {}
        for name, runs in logged.items():
            found = {key: [c for lines in runs if (c := curve(lines, key))] for key in terms}
            if any(found.values()):
                curves[name] = found
        if not curves:
            continue
        modes = {name: plan.cell(trained[name], 0).config.objective.gan_mode for name in curves}
        levels = {name: chance_level(mode) for name, mode in modes.items()} if group == "D" else {}
        titles = {name: trained[name].title for name in curves}
        groups.append(
            Group(
                title=TITLES[group],
                caption=CAPTIONS[group],
                frames=tuple(_frames(TITLES[group], titles, curves, levels, plan.images)),
                legend=tuple(zip(("c1", "c2"), terms.values(), strict=False)) if len(terms) > 1 else (),
            )
        )
    return groups


def curve(lines: Sequence[dict[str, Any]], key: str) -> Points | None:
    """One term of one run over the images seen, smoothed; None where it was not logged.

    Shapes: -> (n,) twice, n up to POINTS.
    """
    found = [line for line in lines if line.get(key) is not None and "images_seen" in line]
    x, y = thin([line["images_seen"] for line in found], [line[key] for line in found])
    if not len(x):
        return None
    smooth = running_mean(y)
    if len(x) <= POINTS:
        return x, smooth
    at = np.linspace(x[0], x[-1], POINTS)
    return at, np.interp(at, x, smooth)


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean of several runs, as far as the longest of them go; one that ended early is left out."""
    furthest = max(float(x[-1]) for x, _ in curves)
    whole = [(x, y) for x, y in curves if x[-1] >= furthest]
    at = max((x for x, _ in whole), key=len)
    return at, np.mean([np.interp(at, x, y) for x, y in whole], axis=0)


def _frames(
    what: str,
    titles: Mapping[str, str],
    curves: Mapping[str, Curves],
    levels: Mapping[str, float],
    images: int,
) -> Iterator[Frame]:
    means = {n: {key: mean_curve(c) for key, c in found.items() if c} for n, found in curves.items()}
    axes = Axes(x=(0, images), y=_y_range(means, levels), x_title="images seen")
    for name, found in curves.items():
        inside = []
        if name in levels:
            place = axes.path((np.array([0.0, images]), np.full(2, levels[name])))
            inside.append(f'<path d="{place}" {stroke("var(--ink-2)", 1, dashes="0.1 3")}/>')
        said = []
        for (key, runs), colour in zip(found.items(), COLOURS, strict=False):
            if len(runs) > 1:
                inside += [
                    f'<path d="{axes.path(one)}" {stroke(colour, 0.8, opacity=0.55)}/>' for one in runs
                ]
            if runs:
                dashes = "5 2.5" if colour == COLOURS[1] else ""
                mean = means[name][key]
                inside.append(f'<path d="{axes.path(mean)}" {stroke(colour, 1.9, dashes=dashes)}/>')
                said.append(f"{key} from {mean[1][0]:.3g} to {mean[1][-1]:.3g}")
        yield Frame(title=titles[name], svg=axes.drawn(f"{what}, {titles[name]}: {', '.join(said)}", inside))


def _y_range(means: Mapping[str, Mapping[str, Points]], levels: Mapping[str, float]) -> tuple[float, float]:
    """All means and levels; from 0 where there are levels, whose distance from 0 says something."""
    values = np.concatenate([y for found in means.values() for _, y in found.values()])
    low = min(float(values.min()), *levels.values(), *([0.0] if levels else []), math.inf)
    high = max(float(values.max()), *levels.values(), -math.inf)
    margin = 0.06 * (high - low) or 0.1
    return (low if levels and low == 0 else low - margin), high + margin


# -----------------------------------------------------------------------------------------------------------
# Colours


def histograms(results: Results) -> list[tuple[str, Markup]]:
    """Of each variant, its outputs' colours of all seeds beside the targets'."""
    return [
        (
            row.title,
            figure(
                {"outputs": _pooled(runs, "lab_outputs"), "targets": _pooled(runs, "lab_targets")}, "targets"
            ),
        )
        for row in results.rows
        if (runs := results.runs.get(row.name, ())) and all("lab_outputs" in arrays for arrays in runs)
    ]


def _pooled(runs: Sequence[Arrays], name: str) -> LabHistogram:
    """The histogram of all images of all seeds."""
    counts = sum(arrays[name].sum(axis=0) for arrays in runs)
    histogram = LabHistogram()
    histogram.images = sum(len(arrays[name]) for arrays in runs)
    first = 0
    for channel, (low, high) in RANGES.items():
        histogram.counts[channel] = counts[first : first + high - low]
        first += high - low
    return histogram


# -----------------------------------------------------------------------------------------------------------
# Figures with their intervals


def over_numbers(title: str, x: Sequence[float], values: Sequence[Estimate], x_title: str) -> Frame:
    """A score over a number, with its intervals.

    Args:
        title: Of the score.
        x: One a variant.
        values: One a variant; what is not finite is left out.
        x_title: What the number is.
    """
    known = [
        (at, e.mean, *_ends(e))
        for at, e in sorted(zip(x, values, strict=True), key=lambda pair: pair[0])
        if e.is_finite
    ]
    low, high = min((k[2] for k in known), default=0.0), max((k[3] for k in known), default=1.0)
    margin = 0.08 * (high - low) or 0.1
    left, right = min(x), max(x)
    axes = Axes(
        x=(left, right),
        y=(low - margin, high + margin),
        x_title=x_title,
        logarithmic=left > 0 and right >= 4 * left,
        x_ticks=tuple(sorted(x)),
    )
    line = np.array([k[0] for k in known]), np.array([k[1] for k in known])
    inside = [f'<path d="{axes.path(line)}" {stroke(COLOURS[0], 1.2, opacity=0.5)}/>'] if known else []
    for at, mean, least, most in known:
        centre, middle = axes.across(at), axes.down(mean)
        whisker = f"M{centre:.1f} {axes.down(least):.1f}V{axes.down(most):.1f}"
        inside.append(f'<path d="{whisker}" {stroke(COLOURS[0], 1.4)}/>')
        inside.append(f'<circle cx="{centre:.1f}" cy="{middle:.1f}" r="3" fill="{COLOURS[0]}"/>')
    said = ", ".join(f"{mean:.3g} at {at:g}" for at, mean, *_ in known)
    return Frame(title=title, svg=axes.drawn(f"{title} over {x_title}: {said}", inside))


def _ends(e: Estimate) -> tuple[float, float]:
    return (e.low, e.high) if math.isfinite(e.low) else (e.mean, e.mean)


def interval_bar(e: Estimate, threshold: float, colour: str) -> Markup:
    """An interval beside the value that it must exclude, drawn for the eye; its figures stand beside it."""
    if not (e.is_finite and math.isfinite(e.low)):
        return Markup("")
    largest = max(abs(v - threshold) for v in (e.mean, e.low, e.high)) or 1
    mean, low, high = (60 + 54 * (v - threshold) / largest for v in (e.mean, e.low, e.high))
    return Markup(
        '<svg class="bar" viewBox="0 0 120 18" width="120" height="18" aria-hidden="true">'
        '<path d="M60 1v16" stroke="var(--ink-2)" stroke-width="1" stroke-dasharray="2 2"/>'
        f'<path d="M{low:.1f} 9H{high:.1f}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{mean:.1f}" cy="9" r="3.6" fill="{colour}"/></svg>'
    )
