"""The ladder of controls: each metric of the model and of images with known faults, and what that shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from torch import Tensor

from pairloom.evaluation.controls import (
    BLUR_1,
    BLUR_2,
    CONTROLS,
    GREY,
    MEAN,
    MODEL,
    NOTHING,
    OTHER,
    RANDOM,
    SHIFT_PX,
    SHIFTED,
    SOURCE,
    TARGETS,
    Control,
    Pairs,
    PerImage,
    PerSet,
)
from pairloom.evaluation.metrics import METRICS
from pairloom.evaluation.sets import ImageSetError
from pairloom.validity import filled

# ------------------------------------------------------------------------------------------------------------
# The ladder

Rows = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """Each metric of each control and of the model."""

    rows: dict[str, dict[str, float | None]]
    """By row ("model", "the targets", ...), then by metric; None where it has no meaning."""
    remarks: tuple[str, ...] = ()
    """What was left out, and why, as sentences."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.rows[MODEL])

    @property
    def order(self) -> tuple[str, ...]:
        """The rows from best to worst: by their mean place over the metrics, the targets first."""
        places = {name: _places(self.rows, name) for name in self.metrics}

        def place(row: str) -> float:
            own = [column[row] for column in places.values() if row in column]
            return sum(own) / len(own) if own else math.inf

        return tuple(sorted(self.rows, key=lambda row: (row != TARGETS, place(row))))

    def words(self) -> str:
        """An aligned plain-text table, best rows first and the model's marked, with the remarks below."""
        table = [["", *self.metrics]]
        for row in self.order:
            mark = "> " if row == MODEL else "  "
            table.append([mark + row, *(_number(value) for value in self.rows[row].values())])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in table]
        return "\n".join([*lines, "", *cannot_see(self.rows), *self.remarks]).rstrip() + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite is null."""
        rows = {
            row: {name: v if v is not None and math.isfinite(v) else None for name, v in values.items()}
            for row, values in self.rows.items()
        }
        return {"rows": rows, "remarks": list(self.remarks), "cannot_see": list(cannot_see(self.rows))}


def ladder(
    pairs: Pairs,
    model_outputs: Sequence[Tensor],
    per_image: Mapping[str, PerImage],
    per_set: Mapping[str, PerSet],
    *,
    others: Sequence[Tensor] = (),
    valid: Sequence[Tensor | None] = (),
    seed: int = 0,
) -> Ladder:
    """Measure the model's outputs, and every control in their place.

    A control or a metric that these images do not allow is left out with a sentence. One control's images
    are in memory at a time.

    Args:
        pairs: Source and target of each; sizes may differ between pairs.
        model_outputs: One a pair.
        per_image: Metrics of an output and its target; the row holds their mean over images.
        per_set: Metrics of all outputs and all targets. Only these have a figure for other real images.
        others: Training targets: the other real images, and what the mean target is the mean of.
        valid: Of each pair which pixels count, (1, H, W); empty: all of all. The others are 0 in every row,
            and metrics of `METRICS` leave them out.
        seed: Of the random pairing.

    Units: [-1, 1].

    Raises:
        ImageSetError: There are no pairs, or the outputs are not of the targets' number and shapes.
    """
    _check(pairs, model_outputs)
    targets = [y for _, y in pairs]
    where = valid or [None] * len(pairs)
    rows: dict[str, dict[str, float | None]] = {}
    remarks: dict[str, None] = {}  # an ordered set: one fault is told once, whatever the rows it leaves empty
    rungs: dict[str, Control] = {MODEL: lambda *_: list(model_outputs), **CONTROLS}
    for name, make in rungs.items():
        try:
            outputs = [filled(y_hat, v) for y_hat, v in zip(make(pairs, others, seed), where, strict=True)]
        except ImageSetError as error:
            remarks[f'"{name}" is left out. {error}'] = None
            continue
        row: dict[str, float | None] = {}
        for key in (*per_image, *per_set):
            try:
                if key in per_set:
                    row[key] = _known(float(per_set[key](outputs, targets)))
                else:
                    counting = where if key in METRICS else [None] * len(pairs)
                    figure = _mean_over_images(per_image[key], outputs, targets, counting)
                    row[key] = None if name == OTHER else figure
            except ValueError as error:  # a metric's own sentence: too few images, too small, no RGB
                remarks[f"{key} is left out. {error}"] = None
                row[key] = None
        rows[name] = row
    return Ladder(rows=rows, remarks=tuple(remarks))


def _check(pairs: Pairs, outputs: Sequence[Tensor]) -> None:
    if not pairs:
        raise ImageSetError("There are no pairs; the ladder of controls needs 1 or more.")
    if len(outputs) != len(pairs):
        raise ImageSetError(
            f"There are {len(outputs)} outputs and {len(pairs)} pairs; give one output a pair."
        )
    for number, (output, (_, y)) in enumerate(zip(outputs, pairs, strict=True)):
        if output.shape != y.shape:
            raise ImageSetError(
                f"Output {number} has shape {tuple(output.shape)} and its target {tuple(y.shape)}; "
                "they must agree."
            )


def _mean_over_images(
    metric: PerImage, outputs: Iterable[Tensor], targets: Iterable[Tensor], where: Iterable[Tensor | None]
) -> float | None:
    """The mean of what is finite; infinity when all is, as is the PSNR of copies; None when there is none."""
    values = [
        float(metric(output[None], y[None]) if valid is None else metric(output[None], y[None], valid[None]))
        for output, y, valid in zip(outputs, targets, where, strict=True)
    ]
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        return sum(finite) / len(finite)
    return None if any(map(math.isnan, values)) else values[0]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) < NOTHING:  # what rounding left
        return "0"
    return f"{value:#.3g}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"


# ------------------------------------------------------------------------------------------------------------
# What the rows show

UNSEEN = 0.02
"""A fault that moves a metric by less of its range than this, the metric does not see."""
CLEARLY = 0.85
"""The mean target beats another row clearly when it costs less than this share of it."""
FAR = 0.8
"""A fault that costs less than this share of a blur costs less by far enough to say so."""
MUCH = 0.25
"""A shift that costs this much of what a wrong image costs is worth a sentence."""


def _costs(rows: Rows, name: str) -> dict[str, float]:
    """How far each row is from the targets' own figure, as a share of the farthest control's; {} if unknown.

    The targets are best by definition, so that no metric need say which way it is better. Where their own
    figure is infinite (PSNR), distances are of the error that the decibels stand for.
    """
    found = {row: columns.get(name) for row, columns in rows.items()}
    values = {row: value for row, value in found.items() if value is not None}
    best = values.get(TARGETS)
    if best is None:
        return {}
    if math.isinf(best):
        distances = {row: 10 ** (-v / 20) for row, v in values.items()}
    else:
        distances = {row: abs(v - best) for row, v in values.items()}
    farthest = max(distance for row, distance in distances.items() if row != MODEL)
    return {row: d / farthest for row, d in distances.items()} if farthest > NOTHING else {}


def _places(rows: Rows, name: str) -> dict[str, float]:
    """Each row's place, 0 the best to 1 the worst; ties share."""
    costs = _costs(rows, name)
    ordered = sorted(costs.values())
    return {
        row: (ordered.index(cost) + len(ordered) - 1 - ordered[::-1].index(cost)) / 2 / (len(ordered) - 1)
        for row, cost in costs.items()
        if len(ordered) > 1
    }


def cannot_see(rows: Rows) -> tuple[str, ...]:
    """What each metric cannot see, as sentences; each only when the rows show it.

    Args:
        rows: Of a `Ladder`.
    """
    costs = {name: _costs(rows, name) for name in next(iter(rows.values()), {})}
    return tuple(
        sentence
        for finding in (_pairing, _blur_meter, _rewards_blur, _shift, _colour)
        for sentence in finding(rows, {name: cost for name, cost in costs.items() if cost})
    )


Costs = Mapping[str, Mapping[str, float]]


def _pairing(rows: Rows, costs: Costs) -> Iterator[str]:
    blind = [n for n, c in costs.items() if RANDOM in c and c[RANDOM] <= max(UNSEEN, c.get(OTHER, 0) / 2)]
    if blind:
        yield (
            f"{_listed(blind)} {_verb(blind, 'rank')} targets {RANDOM} as well as the targets themselves: "
            f"{_they(blind)} {_verb(blind, 'ignore')} the pairing."
        )


def _blur_meter(rows: Rows, costs: Costs) -> Iterator[str]:
    gross = {OTHER: "other real images", GREY: "the loss of all colour", SOURCE: "the source itself"}
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, cost in costs.items():
        # Metrics of pairs rank blur low; only of a set's is it news that blur outweighs other faults.
        for blur in (BLUR_1, BLUR_2) if OTHER in cost else ():
            less = tuple(row for row in gross if cost.get(row, math.inf) < FAR * cost.get(blur, 0))
            if OTHER in less and (blur == BLUR_2 or GREY in less):
                alike.setdefault((blur, less), []).append(name)
                break
    for (blur, less), names in alike.items():
        mostly = f": {_they(names)} mostly {_verb(names, 'measure')} blur" if blur == BLUR_1 else ""
        yield (
            f"{_listed(names)} {_verb(names, 'move')} more for a blur of {_px(blur)} than for "
            f"{_listed([gross[row] for row in less], 'or')}{mostly}."
        )


def _rewards_blur(rows: Rows, costs: Costs) -> Iterator[str]:
    def beaten(by: float, row: str) -> list[str]:
        return [
            name
            for name, cost in costs.items()
            if MEAN in cost and cost.get(RANDOM, 0) > UNSEEN and cost[MEAN] < by * cost.get(row, 0)
        ]

    sharp, model = beaten(CLEARLY, RANDOM), beaten(CLEARLY, MODEL)
    if sharp:
        yield (
            f"{_listed(sharp)} {_verb(sharp, 'place')} the mean target above sharp targets {RANDOM}: "
            f"{_they(sharp)} {_verb(sharp, 'reward')} blur."
        )
    if model:
        yield f"By {_listed(model)} the mean target, which is one blur for all, beats the model."


def _shift(rows: Rows, costs: Costs) -> Iterator[str]:
    for name, cost in costs.items():
        wrong = cost.get(RANDOM, 0)
        if wrong > UNSEEN and cost.get(SHIFTED, 0) >= MUCH * wrong:
            best, moved = rows[TARGETS][name], rows[SHIFTED][name]
            share = cost[SHIFTED] / wrong
            yield (
                f"{name} goes from {_number(best)} to {_number(moved)} for a shift of {SHIFT_PX} px, "
                f"{share:.0%} of the way to targets {RANDOM}: it wants each pixel in its place."
            )


def _colour(rows: Rows, costs: Costs) -> Iterator[str]:
    blind = [name for name, cost in costs.items() if cost.get(GREY, 1) <= UNSEEN]
    if blind:
        yield f"{_listed(blind)} {_verb(blind, 'rank')} greyed targets with the targets: colour is not seen."
    dim = [n for n, c in costs.items() if UNSEEN < c.get(GREY, 1) < c.get(BLUR_1, 0) / 2]
    if dim:
        yield (
            f"{_listed(dim)} hardly {_verb(dim, 'see')} colour: its loss costs less than half of a blur of "
            f"{_px(BLUR_1)}."
        )


def _px(blur: str) -> str:
    return blur.removeprefix("blurred, ")


def _listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"


def _they(names: Sequence[str]) -> str:
    return "they" if len(names) > 1 else "it"


# ------------------------------------------------------------------------------------------------------------
# The strip

_NAMES, _WIDTH, _VALUES, _LANE = 80, 196, 40, 13
"""Room for the names, for the axis and for the figures, and the height of a row, in px of the drawing."""


def draw(ladder: Ladder, metric: str) -> Markup:
    """The model among the controls on one axis, the best on top, as inline SVG in the page's colours.

    A figure that is infinite (the PSNR of the targets themselves) has no mark on the axis.

    Raises:
        ImageSetError: The ladder has no such metric, or the model has no finite figure of it.
    """
    found = {row: columns.get(metric) for row, columns in ladder.rows.items()}
    values = {row: value for row, value in found.items() if value is not None}
    finite = [value for value in values.values() if math.isfinite(value)]
    if not math.isfinite(values.get(MODEL, math.inf)):
        raise ImageSetError(f"The model has no {metric} to draw; the ladder has {_listed(ladder.metrics)}.")
    costs = _costs(ladder.rows, metric)
    low, high = min(finite), max(finite)

    def at(value: float) -> float:
        return _NAMES + 10 + (value - low) / ((high - low) or 1.0) * (_WIDTH - 10)

    height, model = _LANE * len(values) + 4, at(values[MODEL])
    parts = [
        f'<svg viewBox="0 0 {_NAMES + _WIDTH + _VALUES} {height}" role="img" font-size="8" '
        f'fill="var(--ink-2)" aria-label="{escape(metric)} of the model and of the controls">',
        f'<path d="M{model:.1f} 0V{height}" stroke="var(--c1)" stroke-width=".6" stroke-dasharray="2 2"/>',
    ]
    for lane, row in enumerate(sorted(values, key=lambda row: (row != TARGETS, costs.get(row, 0.0)))):
        parts += _strip_row(row, values[row], at, _LANE * lane + _LANE / 2 + 2)
    return Markup("".join([*parts, "</svg>"]))


def _strip_row(row: str, value: float, at: Callable[[float], float], y: float) -> Iterator[str]:
    """Name, line, mark and figure. Units: y in px, of the middle."""
    mine = row == MODEL
    style = ' font-weight="600"' if mine else ""
    yield f'<text x="{_NAMES}" y="{y + 3:g}" text-anchor="end"{style}>{escape(row)}</text>'
    yield f'<path d="M{_NAMES + 10} {y:g}h{_WIDTH - 10}" stroke="var(--line)" stroke-width=".6"/>'
    if math.isfinite(value):
        colour, radius = ("var(--c1)", 3.6) if mine else ("var(--ink-2)", 2.4)
        yield f'<circle cx="{at(value):.1f}" cy="{y:g}" r="{radius}" fill="{colour}"/>'
    end = _NAMES + _WIDTH + _VALUES
    yield f'<text x="{end}" y="{y + 3:g}" text-anchor="end"{style}>{_number(value)}</text>'
