"""A generator over a split: its images, a table with one line an image, and a summary beside two baselines.

The baselines need no learning from the pair at hand: the mean training target, and the target of the training
pair whose source is nearest. A generator that does not beat both has learned little.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pairloom import images
from pairloom.checkpoint import write_atomically
from pairloom.config import DataConfig
from pairloom.data import Pair, PairSet, evenly, find_pairs, load_pair
from pairloom.evaluation.metrics import METRICS, Interval, bootstrap_mean, measure, paired_difference
from pairloom.images import ImageSpec
from pairloom.translator import Translator

WHO = {"model": "model", "mean_target": "mean target", "nearest_pair": "nearest pair"}
"""Whose figures a summary holds: column prefix in the files, and name for people."""
MAX_TRAIN_PAIRS = 5000
"""The baselines look at no more training pairs than this, evenly chosen: it bounds their time and memory."""
REDUCED_PX = 32
"""Side of the area-averaged sources that the nearest pair is searched by."""
COMPARED = ("L1", "SSIM")
"""Metrics whose paired difference, model - baseline, is summarised."""
RESAMPLES = 10_000
FEW = 20
"""With fewer images the summary says that a bootstrap interval is rough."""

Load = Callable[[Pair], tuple[Tensor, Tensor]]


class EvaluationError(ValueError):
    """A model cannot be evaluated as asked, or an evaluation cannot be read; one sentence says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What an evaluation found: the settings, and every mean with its interval."""

    settings: dict[str, Any]
    metrics: dict[str, dict[str, Interval]]
    """By who ("model", "mean_target", "nearest_pair"), then by metric."""
    differences: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """By baseline, then by metric: model - baseline over the same images."""
    remarks: tuple[str, ...] = ()
    """What a reader must know to read the figures, as sentences."""

    @property
    def where(self) -> str:
        """Which pairs the figures are of."""
        return "data without splits" if self.settings.get("unsplit") else f"{self.settings['split']} split"

    def words(self) -> str:
        """An aligned plain-text table with the remarks below."""
        count = self.settings["pairs"]
        pairs = "1 pair" if count == 1 else f"{count} pairs"
        head = f"{self.where}, {pairs}: mean over images [95 % interval]"
        table = [["", *(WHO[who] for who in self.metrics)]]
        table += [[name, *(_words(name, row[name]) for row in self.metrics.values())] for name in METRICS]
        lines = [head, "", *_aligned(table)]
        if self.differences:
            table = [["", *(f"model - {WHO[who]}" for who in self.differences)]]
            for name in COMPARED:
                table.append([name, *(_words(name, d[name], sign="+") for d in self.differences.values())])
            lines += ["", *_aligned(table)]
        return "\n".join([*lines, "", *self.remarks]).rstrip() + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict for JSON; what is not finite is null."""
        plain: dict[str, Any] = _finite({"version": 1, **dataclasses.asdict(self)})
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Summary:
        """The inverse of `to_dict`.

        Raises:
            EvaluationError: The dict is not of that form.
        """

        def intervals(table: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Interval]]:
            def interval(v: dict[str, Any]) -> Interval:
                finite: dict[str, Any] = {key: math.nan if n is None else n for key, n in v.items()}
                return Interval(**finite)

            return {who: {name: interval(v) for name, v in row.items()} for who, row in table.items()}

        try:
            if values["version"] != 1:
                raise EvaluationError(f"has version {values['version']!r}, this pairloom reads 1")
            missing = {"split", "pairs", "checkpoint", "seed", "data", "model", "ssim"} - set(
                values["settings"]
            )
            if missing or set(values["metrics"]["model"]) != set(METRICS):
                raise EvaluationError("lacks settings or metrics")
            return cls(
                settings=values["settings"],
                metrics=intervals(values["metrics"]),
                differences=intervals(values["differences"]),
                remarks=tuple(values["remarks"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise EvaluationError("is not of the form that evaluate writes") from error


def number(name: str, value: float, *, sign: Literal["", "+"] = "") -> str:
    """A metric's value with the digits that mean something: decibels to 0.01, the others to 0.001."""
    if math.isnan(value):
        return "-"
    return f"{value:{'+' if name == 'bias' else sign}z.{2 if name == 'PSNR' else 3}f}"


def _words(name: str, interval: Interval, *, sign: Literal["", "+"] = "") -> str:
    if math.isnan(interval.mean):
        return "-"
    mean, low, high = (number(name, v, sign=sign) for v in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -----------------------------------------------------------------------------------------------------------
# The baselines


@dataclass(frozen=True, kw_only=True, slots=True)
class Baselines:
    """The training pairs as the two baselines need them."""

    pairs: tuple[Pair, ...]
    mean: Tensor
    """Mean target (C, H, W) at the size of the first training target."""
    reduced: Tensor
    """Sources (M, C * 32 * 32), area-averaged."""

    @classmethod
    def collect(cls, train: Sequence[Pair], load: Load) -> Baselines:
        """One pass over at most MAX_TRAIN_PAIRS training pairs, evenly chosen."""
        chosen = tuple(evenly(train, MAX_TRAIN_PAIRS))
        total, reduced = torch.empty(0), []
        for pair in tqdm(chosen, desc="baselines", unit="pair", disable=None, leave=False):
            x, y = load(pair)
            reduced.append(_reduce(x))
            total = y.double() if not total.numel() else total + _at_size(y, total.shape[-2:]).double()
        return cls(pairs=chosen, mean=(total / len(chosen)).float(), reduced=torch.stack(reduced))

    def mean_target(self, size: torch.Size) -> Tensor:
        """The mean training target (C, H, W) at this (height, width)."""
        return _at_size(self.mean, size)

    def nearest(self, x: Tensor, *, other_than: Pair) -> Pair | None:
        """The training pair with the nearest source (L2 on 32 x 32), never the pair in question itself.

        Shapes: x (C, H, W).
        """
        order = (self.reduced - _reduce(x)).square().sum(1).argsort()[:2].tolist()
        return next((self.pairs[i] for i in order if self.pairs[i] != other_than), None)


def _at_size(y: Tensor, size: torch.Size) -> Tensor:
    return images.resize(y, (size[0], size[1]), labels=False)


def _reduce(x: Tensor) -> Tensor:
    return F.interpolate(x[None], size=(REDUCED_PX, REDUCED_PX), mode="area").flatten()


# -----------------------------------------------------------------------------------------------------------
# The evaluation


def evaluate(
    model: str | Path | Translator,
    data: DataConfig | str | Path | None = None,
    *,
    split: str = "test",
    out: str | Path,
    checkpoint: Literal["last", "best"] = "last",
    device: str = "auto",
    baselines: bool = True,
    seed: int = 0,
) -> Summary:
    """Translate every pair of a split, measure each output, and write images, table and summary.

    Writes ``OUT/images/NAME.png`` (.tif where a PNG cannot hold the target's values), ``OUT/per_image.csv``
    and ``OUT/summary.json``. The two files appear when complete; if something fails half-way, the lines
    measured so far are in ``OUT/per_image.partial.csv``, and an earlier evaluation's files stand.

    Metrics compare tensors in [-1, 1] at evaluation geometry, before the output is rounded to file values.

    Args:
        model: Run directory, generator.safetensors, or a loaded Translator (its checkpoint and device stand).
        data: None, or their path: the data the model was trained on. Another path: read as the model's own
            data are, from there, with the splits that stand there.
        split: "test", "val" or "train". Data other than the model's own that have no splits are evaluated
            whole.
        out: Folder to write to; made when missing.
        checkpoint: "last" or "best".
        device: auto, cpu, cuda, mps.
        baselines: Also measure the mean training target and the nearest training pair.
        seed: Of the dropout masks, where the model's dropout is on.

    Raises:
        EvaluationError: The split is empty (the message names those that are not), or the other path holds
            side-by-side files where the model learned from two folders.
    """
    if isinstance(model, Translator):
        translator, which = model, "as loaded"
    else:
        translator, which = Translator.load(model, checkpoint=checkpoint, device=device), checkpoint
    path_given = isinstance(data, str | Path)
    data = data_config(translator, data)
    own = is_own(translator, data)
    pair_set = find_pairs(data)
    if path_given and not own and translator.config.data.path_b and pair_set.layout == "side-by-side":
        raise EvaluationError(
            f"{data.path}: the model learned from two folders, and this is one of side-by-side files; give a "
            "folder that holds A and B, a manifest .csv, or the model's own data."
        )
    pairs, unsplit = pairs_of(pair_set, split, own=own)
    if not pairs:
        raise EvaluationError(f"{data.path}: no pairs in the {split!r} split; {_splits_in_words(pair_set)}.")

    def load(pair: Pair) -> tuple[Tensor, Tensor]:
        return load_pair(pair, translator.source_spec, translator.target_spec, data)

    out = Path(out)
    former = _image_names(out)
    train = pair_set.split("train") if baselines and not unsplit else ()
    references = Baselines.collect(train, load) if train else None
    columns: dict[str, list[float]] = {}
    with _table(out) as write:
        for pair in tqdm(pairs, desc=f"evaluating {split}", unit="pair", disable=None, leave=False):
            x, y = load(pair)
            y_hat = translator.translate_tensor(x[None], seed=seed)[0].cpu().float()
            _write_output(out, pair.name, y_hat, translator.target_spec)
            row = _measure_row(pair, x, y, y_hat, references, load)
            write(row)
            for key, value in row.items():
                if isinstance(value, float):
                    columns.setdefault(key, []).append(value)

    settings = _settings(translator, data) | {
        "split": split,
        "unsplit": unsplit,
        "own_data": own,
        "pairs": len(pairs),
        "checkpoint": which,
        "seed": seed,
        "baselines": baselines,
        "train_pairs": len(train),
        "train_pairs_used": len(references.pairs) if references else 0,
    }
    _remove_images(out, former - {pair.name for pair in pairs})
    summary = _summarise(columns, settings)
    text = json.dumps(summary.to_dict(), indent=2, allow_nan=False) + "\n"
    write_atomically(out / "summary.json", lambda temporary: _write_text(temporary, text))
    return summary


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def data_config(translator: Translator, data: DataConfig | str | Path | None) -> DataConfig:
    """The data to evaluate on: as given, or the model's own, or others that are read as the model's own."""
    own = translator.config.data
    if isinstance(data, DataConfig):
        return data
    if data is None or _same_place(data, own.path):
        return own
    # Another path holds its pairs by itself; what drew splits and subsets of the training data stays behind.
    return dataclasses.replace(
        own,
        path=str(data),
        path_b=None,
        val_fraction=0.0,
        test_fraction=0.0,
        group_pattern=None,
        max_pairs=None,
    )


def is_own(translator: Translator, data: DataConfig) -> bool:
    """Are these the data that the model was trained on?"""
    own = translator.config.data
    if (own.path_b is None) != (data.path_b is None):
        return False
    return _same_place(data.path, own.path) and _same_place(data.path_b or "", own.path_b or "")


def _same_place(a: str | Path, b: str | Path) -> bool:
    return a == b if "" in (a, b) else Path(a).resolve() == Path(b).resolve()


def pairs_of(pair_set: PairSet, split: str, *, own: bool) -> tuple[tuple[Pair, ...], bool]:
    """The pairs of a split, and whether these are all: of other data that have no splits."""
    pairs = pair_set.split(split)
    unsplit = not own and not pairs and all(pair.split == "train" for pair in pair_set.pairs)
    return (pair_set.pairs, True) if unsplit else (pairs, False)


def _image_names(out: Path) -> set[str]:
    """The images that an earlier evaluation's table names."""
    path = out / "per_image.csv"
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return {row["name"] for row in csv.DictReader(file) if row.get("name")}


def _remove_images(out: Path, names: set[str]) -> None:
    folder = (out / "images").resolve()
    for name in names:
        for suffix in (".png", ".tif"):
            path = folder / f"{name}{suffix}"
            if path.resolve().is_relative_to(folder):
                path.unlink(missing_ok=True)


def _write_output(out: Path, name: str, y_hat: Tensor, spec: ImageSpec) -> None:
    """Write one output as file values of the target; its name may hold folders. Shapes: y_hat (C, H, W)."""
    path = out / "images" / f"{name}{images.output_suffix('.png', spec)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, images.to_array(y_hat, spec))


@contextmanager
def _table(out: Path) -> Iterator[Callable[[dict[str, str | float]], None]]:
    """per_image.csv, a flushed line at a time under another name, renamed when whole."""
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "per_image.partial.csv"
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None

        def write(row: dict[str, str | float]) -> None:
            nonlocal writer
            if writer is None:
                writer = csv.DictWriter(file, fieldnames=list(row))
                writer.writeheader()
            writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})
            file.flush()

        yield write
    partial.replace(out / "per_image.csv")


def _measure_row(
    pair: Pair, x: Tensor, y: Tensor, y_hat: Tensor, references: Baselines | None, load: Load
) -> dict[str, str | float]:
    """One line of the table. Shapes: x, y, y_hat (C, H, W)."""

    def measured(output: Tensor, prefix: str = "") -> dict[str, float]:
        return {prefix + name: float(value) for name, value in measure(output[None], y[None]).items()}

    row: dict[str, str | float] = {"name": pair.name, **measured(y_hat)}
    if references is None:
        return row
    row |= measured(references.mean_target(y.shape[-2:]), "mean_target_")
    neighbour = references.nearest(x, other_than=pair)
    if neighbour is None:
        return row | {f"nearest_pair_{name}": math.nan for name in METRICS} | {"nearest_pair": ""}
    row |= measured(_at_size(load(neighbour)[1], y.shape[-2:]), "nearest_pair_")
    return row | {"nearest_pair": neighbour.name}


def _summarise(columns: dict[str, list[float]], settings: dict[str, Any]) -> Summary:
    def column(who: str, name: str) -> list[float]:
        return columns[name if who == "model" else f"{who}_{name}"]

    present = [who for who in WHO if who == "model" or f"{who}_L1" in columns]
    metrics = {
        who: {name: bootstrap_mean(column(who, name), resamples=RESAMPLES) for name in METRICS}
        for who in present
    }
    differences = {
        who: {
            name: paired_difference(column("model", name), column(who, name), resamples=RESAMPLES)
            for name in COMPARED
        }
        for who in present[1:]
    }
    remarks = tuple(_remarks(metrics, settings))
    return Summary(settings=settings, metrics=metrics, differences=differences, remarks=remarks)


def _remarks(metrics: dict[str, dict[str, Interval]], settings: dict[str, Any]) -> Iterator[str]:
    total, train, used = settings["pairs"], settings["train_pairs"], settings["train_pairs_used"]
    if settings["unsplit"]:
        yield "The folder has no splits: all its pairs are evaluated."
    if settings["split"] == "train" and settings["own_data"]:
        yield "These pairs were trained on: the figures say nothing of how others will do."
    if total < FEW:
        yield f"With {total} image{'s' * (total > 1)}, the intervals are rough, and likely too narrow."
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
            why = {"PSNR": " (exact copies)", "SSIM": " (a side below 11 px)"}.get(name, "")
            yield f"{name} leaves out {interval.left_out} of {total} images whose value is not finite{why}."


def _settings(translator: Translator, data: DataConfig) -> dict[str, Any]:
    """What decides the figures, besides the split."""
    return {
        "data": str(Path(data.path).resolve()),
        "direction": data.direction,
        "resize": data.resize,
        "crop_size": data.crop_size,
        "model": translator.provenance,
        "norm_stats": translator.semantics.norm_stats,
        "dropout": translator.semantics.dropout,
        "device": str(translator.device),
        "target": translator.target_spec.words(),
        "scale": "[-1, 1], PSNR with data range 2; one value an image, then the mean over images",
        "ssim": (
            "values from 0 to 1, data range 1 (as 8-bit values with data range 255), "
            "Gaussian 11 x 11, sigma 1.5, K 0.01 and 0.03, mean over channels, border mirrored"
        ),
        "interval": f"95 % percentile bootstrap over images, {RESAMPLES} resamples, seed 0",
        "versions": {name: version(name) for name in ("pairloom", "torch", "numpy")}
        | {"python": platform.python_version()},
    }


def _splits_in_words(pair_set: PairSet) -> str:
    counts = Counter(pair.split for pair in pair_set.pairs)
    listed = ", ".join(f"{count} in {split!r}" for split, count in counts.items())
    return f"there are {listed or 'none at all'}"
