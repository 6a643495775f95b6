"""What an evaluation found: settings, means with intervals, further sections, remarks; to JSON, to words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pairloom.data.masks import percent
from pairloom.evaluation.metrics import BETTER, Interval, bootstrap_mean, paired_difference

WHO = {"model": "model", "mean_target": "mean target", "nearest_pair": "nearest pair"}
"""Whose figures a summary holds: column prefix in the files, and name for people."""
COMPARED = ("L1", "SSIM")
"""Metrics whose paired difference, model - baseline, is summarised."""
RESAMPLES = 10_000
FEW = 20
"""With fewer images the summary says that a bootstrap interval is rough."""
VERSION = 2


class EvaluationError(ValueError):
    """A model cannot be evaluated as asked, or an evaluation cannot be read; one sentence says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One further look at the same outputs: colour, sharpness, controls, ..."""

    title: str
    words: str
    """A table or sentences for a terminal."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Plain JSON."""
    svg: str = ""
    """Its drawing, as markup of ours for the page; not in the JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What an evaluation found: the settings, and every mean with its interval."""

    settings: dict[str, Any]
    metrics: dict[str, dict[str, Interval]]
    """By who ("model", "mean_target", "nearest_pair"), then by metric."""
    differences: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """By baseline, then by metric: model - baseline over the same images."""
    channels: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """By metric, then by channel: the model's figures where there are several channels."""
    sections: dict[str, Section] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """What a reader must know to read the figures, as sentences."""

    @property
    def where(self) -> str:
        """Which pairs the figures are of."""
        return "data without splits" if self.settings.get("unsplit") else f"{self.settings['split']} split"

    def words(self, *, whole: bool = True) -> str:
        """Aligned plain-text tables, the sections, and the remarks; not whole: the means and the remarks."""
        count = self.settings["pairs"]
        pairs = "1 pair" if count == 1 else f"{count} pairs"
        head = f"{self.where}, {pairs}: mean over images [95 % interval]"
        table = [["", *(WHO[who] for who in self.metrics)]]
        for name in self.metrics["model"]:
            table.append([name, *(interval_words(name, row[name]) for row in self.metrics.values())])
        lines = [head, "", *aligned(table)]
        if self.differences:
            table = [["", *(f"model - {WHO[who]}" for who in self.differences)]]
            for name in COMPARED:
                row = (interval_words(name, d[name], sign="+") for d in self.differences.values())
                table.append([name, *row])
            lines += ["", *aligned(table)]
        if self.channels and whole:
            names = list(next(iter(self.channels.values())))
            table = [["channel", *names]]
            for metric, row_ in self.channels.items():
                table.append([metric, *(interval_words(metric, row_[name]) for name in names)])
            lines += ["", *aligned(table)]
        for section in self.sections.values() if whole else ():
            lines += ["", section.title, *section.words.rstrip().splitlines()]
        return "\n".join([*lines, "", *self.remarks]).rstrip() + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict for JSON; what is not finite is null."""
        plain: dict[str, Any] = finite({"version": VERSION, **dataclasses.asdict(self)})
        for section in plain["sections"].values():
            del section["svg"]
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Summary:
        """The inverse of `to_dict`.

        Raises:
            EvaluationError: The dict is not of that form.
        """

        def intervals(table: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Interval]]:
            def interval(v: dict[str, Any]) -> Interval:
                numbers: dict[str, Any] = {key: math.nan if n is None else n for key, n in v.items()}
                return Interval(**numbers)

            return {who: {name: interval(v) for name, v in row.items()} for who, row in table.items()}

        try:
            if values["version"] != VERSION:
                raise EvaluationError(f"has version {values['version']!r}, this pairloom reads {VERSION}")
            missing = {"split", "pairs", "checkpoint", "seed", "data", "model", "ssim"} - set(
                values["settings"]
            )
            if missing or not {"L1", "SSIM"} <= set(values["metrics"]["model"]) <= set(BETTER):
                raise EvaluationError("lacks settings or metrics")
            return cls(
                settings=values["settings"],
                metrics=intervals(values["metrics"]),
                differences=intervals(values["differences"]),
                channels=intervals(values["channels"]),
                sections={name: Section(**section) for name, section in values["sections"].items()},
                remarks=tuple(values["remarks"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise EvaluationError("is not of the form that evaluate writes") from error


# -----------------------------------------------------------------------------------------------------------
# Numbers in words


def number(name: str, value: float, *, sign: Literal["", "+"] = "") -> str:
    """A metric's value with the digits that mean something: decibels to 0.01, the others to 0.001."""
    if math.isnan(value):
        return "-"
    return f"{value:{'+' if name == 'bias' else sign}z.{2 if name == 'PSNR' else 3}f}"


def interval_words(name: str, interval: Interval, *, sign: Literal["", "+"] = "") -> str:
    """`mean [low, high]`, of one value that value, of none a dash."""
    if math.isnan(interval.mean):
        return "-"
    if interval.count == 1:
        return number(name, interval.mean, sign=sign)
    mean, low, high = (number(name, v, sign=sign) for v in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def few_words(images: int) -> str:
    """What to say of intervals over so few images."""
    if images == 1:
        return "With 1 image there are no intervals: it says nothing of others."
    return f"With {images} images, the intervals are rough, and likely too narrow."


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a plain-text table."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]


def finite(value: Any) -> Any:
    """The same nested value with None for every number that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -----------------------------------------------------------------------------------------------------------
# From the table of images to the summary


def summarise(
    columns: dict[str, list[float]],
    settings: dict[str, Any],
    *,
    channels: dict[str, dict[str, str]],
    sections: dict[str, Section],
) -> Summary:
    """Means, intervals and paired differences of a table of images.

    Args:
        columns: The numbers of each column of per_image.csv.
        settings: What decided them.
        channels: By metric, the column of each channel.
        sections: Further looks at the same outputs.
    """

    def column(who: str, name: str) -> list[float]:
        return columns[name if who == "model" else f"{who}_{name}"]

    present = [who for who in WHO if who == "model" or f"{who}_L1" in columns]
    names = [name for name in BETTER if name in columns]
    if not any(map(math.isfinite, columns["MS-SSIM"])):
        names.remove("MS-SSIM")  # of images below its least size there is no more to say
    metrics = {
        who: {name: bootstrap_mean(column(who, name), resamples=RESAMPLES) for name in names}
        for who in present
    }
    differences = {
        who: {
            name: paired_difference(column("model", name), column(who, name), resamples=RESAMPLES)
            for name in COMPARED
        }
        for who in present[1:]
    }
    per_channel = {
        metric: {name: bootstrap_mean(columns[key], resamples=RESAMPLES) for name, key in keys.items()}
        for metric, keys in channels.items()
    }
    return Summary(
        settings=settings,
        metrics=metrics,
        differences=differences,
        channels=per_channel,
        sections=sections,
        remarks=tuple(_remarks(metrics, settings)),
    )


def _remarks(metrics: dict[str, dict[str, Interval]], settings: dict[str, Any]) -> Iterator[str]:
    total, train, used = settings["pairs"], settings["train_pairs"], settings["train_pairs_used"]
    if settings["unsplit"]:
        yield "The folder has no splits: all its pairs are evaluated."
    if settings["data_changed"]:
        yield "The data have changed since the training: some of these pairs may have been trained on."
    if settings["split"] == "train" and settings["own_data"]:
        yield "These pairs were trained on: the figures say nothing of how others will do."
    if invalid := settings.get("invalid_share", 0):
        yield (
            f"{percent(invalid)} of the pixels count for nothing (masked or NaN): L1, RMSE, bias, PSNR and "
            "Pearson leave them out, and SSIM every window that holds one."
        )
    if total < FEW:
        yield few_words(total)
    if len(metrics) > 1:
        yield (
            "L1, RMSE and PSNR favour the mean target where the source leaves the appearance free: "
            "it is the best blur, not the best picture. SSIM punishes blur more."
        )
    if settings["baselines"] and settings["unsplit"]:
        yield "There are no training pairs beside them, so there are no baselines."
    elif settings["baselines"] and not train:
        yield "The data hold no train split, so there are no baselines."
    if used < train:
        yield f"The baselines use {used} of {train} training pairs, evenly chosen."
    if used and settings["split"] == "train":
        yield "The nearest pair is never the pair itself; the mean target includes it."
    for name, interval in metrics["model"].items():
        if interval.left_out:
            why = {
                "PSNR": " (exact copies)",
                "SSIM": " (a side below 11 px)",
                "MS-SSIM": " (a side below 176 px)",
                "Pearson": " (a constant channel)",
            }.get(name, "")
            if invalid and name in ("SSIM", "MS-SSIM"):
                why = " (too small, or no window without invalid pixels)"
                why = " (too small, or with invalid pixels)" if name == "MS-SSIM" else why
            yield f"{name} leaves out {interval.left_out} of {total} images whose value is not finite{why}."
