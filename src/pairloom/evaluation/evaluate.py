"""A generator over a split: its images, a table with one line an image, a summary beside two baselines."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from pairloom import images
from pairloom.checkpoint import write_text_atomically
from pairloom.config import DataConfig
from pairloom.data import DataError, Pair, PairSet, View, evaluation_view, evenly, find_pairs
from pairloom.data.addresses import whole
from pairloom.disk import among_data
from pairloom.evaluation.baselines import Baselines, Load, known_at_size
from pairloom.evaluation.checkpoints import over_checkpoints
from pairloom.evaluation.controls import PerImage
from pairloom.evaluation.metrics import METRICS, PER_CHANNEL
from pairloom.evaluation.page import write_page
from pairloom.evaluation.sections import LADDER_PAIRS, NOISE_SAMPLES, Learned, choose_looks
from pairloom.evaluation.segmenter import PixelClassifier
from pairloom.evaluation.summary import RESAMPLES, EvaluationError, Summary, summarise
from pairloom.images import ImageSpec
from pairloom.translator import Translator
from pairloom.validity import filled


def evaluate(
    model: str | Path | Translator,
    data: DataConfig | str | Path | None = None,
    *,
    split: str = "test",
    out: str | Path,
    checkpoint: Literal["last", "best"] = "last",
    device: str = "auto",
    baselines: bool = True,
    sections: bool = True,
    segmenter: PixelClassifier | None = None,
    weights: str | Path | None = None,
    samples: int = NOISE_SAMPLES,
    all_checkpoints: bool = False,
    seed: int = 0,
) -> Summary:
    """Translate every pair of a split, measure each output, and write images, table, summary and page.

    Writes ``OUT/images/NAME.png`` (.tif where a PNG cannot hold the target's values), ``OUT/per_image.csv``,
    ``OUT/summary.json`` and ``OUT/evaluation.html``. The files appear when complete; if something fails
    half-way, the lines measured so far are in ``OUT/per_image.partial.csv``, and the files of an earlier
    evaluation stand.

    Metrics compare tensors in [-1, 1] at evaluation geometry, before the output is rounded to file values.
    Pixels that a mask or NaN leaves out count in none; the images hold what the model made there.

    Args:
        model: Run directory, generator.safetensors, or a loaded Translator (its checkpoint and device stand).
        data: None, or their path: the data the model was trained on, also when they have been copied
            elsewhere. Another path: read as the model's own data are, from there, with the splits that stand
            there.
        split: "test", "val" or "train". Data other than the model's own that have no splits are evaluated
            whole.
        out: Folder to write to; made when missing.
        checkpoint: "last" or "best".
        device: auto, cpu, cuda, mps.
        baselines: Also measure the mean training target and the nearest training pair.
        sections: Also look at the outputs as a set, at their colours, at controls, at the noise.
        segmenter: Of real photos, for the FCN-score of label -> photo models.
        weights: Folder with the public weight files of LPIPS, DISTS and FID.
        samples: Translations of the same source, for the noise; below 2: none.
        all_checkpoints: Of a run directory, also follow L1, PSNR and SSIM over its checkpoints.
        seed: Of the dropout masks, where the model's dropout is on.

    Raises:
        EvaluationError: The split is empty (the message names those that are not), or the other path holds
            side-by-side files where the model learned from two folders, or `out` lies among the data.
    """
    if isinstance(model, Translator):
        translator, which = model, "as loaded"
    else:
        which = checkpoint
        translator = Translator.load(model, checkpoint=checkpoint, device=device, precision="fp32")
    run = Path() if isinstance(model, Translator) else Path(model)
    if all_checkpoints and not (run / "checkpoints").is_dir():
        raise EvaluationError(f"{model}: is no run directory, so it has no checkpoints to follow.")
    path_given = isinstance(data, str | Path)
    data, own = data_of(translator, data)
    out = Path(out)
    _refuse_among_the_data(out, data)
    pair_set = find_pairs(data)
    if path_given and not own and translator.config.data.path_b and pair_set.layout == "side-by-side":
        raise EvaluationError(
            f"{data.path}: the model learned from two folders, and this is one of side-by-side files; give a "
            "folder that holds A and B, a manifest .csv, or the model's own data."
        )
    pairs, unsplit = pairs_of(pair_set, split, own=own)
    if not pairs:
        raise EvaluationError(f"{data.path}: no pairs in the {split!r} split; {_splits_in_words(pair_set)}.")

    def load(pair: Pair) -> View:
        return evaluation_view(pair, translator.source_spec, translator.target_spec, data)

    former = _image_names(out)
    train = pair_set.split("train") if not unsplit else ()
    references = Baselines.collect(train, load) if train and baselines else None
    learned = Learned.load(weights, translator.device)
    looks = (
        choose_looks(
            translator,
            pairs,
            train_targets=lambda: [
                images.recombined(y, x, translator.target_spec)[0]
                for x, y, _ in map(load, evenly(train, LADDER_PAIRS))
            ],
            learned=learned,
            segmenter=segmenter,
            samples=samples,
            seed=seed,
        )
        if sections
        else {}
    )
    # A table has its columns before its first line: float files may hold NaN, which only reading tells.
    specs = translator.source_spec, translator.target_spec
    masked = any(pair.mask for pair in pairs) or any(spec.dtype == "float32" for spec in specs)
    valid_shares: list[float] = []
    columns: dict[str, list[float]] = {}
    with _table(out) as write:
        for pair in tqdm(pairs, desc=f"evaluating {split}", unit="pair", disable=None, leave=False):
            view = load(pair)
            x, y, valid = view
            y_hat = translator.translate_tensor(x[None], seed=seed)[0].cpu().float()
            _write_output(out, pair.name, *images.recombined(y_hat, x, translator.target_spec))
            y_hat = filled(y_hat, valid)
            valid_shares.append(1.0 if valid is None else float(valid.mean()))
            row = _measure_row(
                pair,
                view,
                y_hat,
                spec=translator.target_spec,
                extra=learned.metrics,
                references=references,
                load=load,
            )
            if masked:
                row["valid_share"] = valid_shares[-1]
            write(row)
            for key, value in row.items():
                if isinstance(value, float):
                    columns.setdefault(key, []).append(value)
            for look in looks.values():
                look.add(pair, x, y, y_hat, valid)

    settings = _settings(translator, data) | {
        "split": split,
        "unsplit": unsplit,
        "own_data": own,
        "data_changed": own and _has_changed(translator, pair_set),
        "pairs": len(pairs),
        "invalid_share": 1 - sum(valid_shares) / len(pairs),
        "checkpoint": which,
        "seed": seed,
        "baselines": baselines,
        "train_pairs": len(train) if baselines else 0,
        "train_pairs_used": len(references.pairs) if references else 0,
        "missing_weights": list(learned.missing),
    }
    _remove_images(out, former - {pair.name for pair in pairs})
    found = {name: look.section() for name, look in looks.items()}
    if all_checkpoints:
        found["checkpoints"] = over_checkpoints(run, pairs, load, split=split, seed=seed, device=device)
    summary = summarise(columns, settings, channels=_channel_columns(translator.target_spec), sections=found)
    text = json.dumps(summary.to_dict(), indent=2, allow_nan=False) + "\n"
    write_text_atomically(out / "summary.json", text)
    write_page(out, translator, summary, pairs, data)
    return summary


def _refuse_among_the_data(out: Path, data: DataConfig) -> None:
    if (fault := among_data(out, data.path, data.path_b)) is not None:
        raise EvaluationError(fault)


def data_of(translator: Translator, data: DataConfig | str | Path | None) -> tuple[DataConfig, bool]:
    """The data to evaluate on, and whether they are those that the model was trained on.

    Given are the data themselves, None for the model's own, or a path: of the model's own, of a copy of
    these (recognised by the fingerprint saved with the weights, and split in the same way), or of others.
    """
    own = translator.config.data
    if data is None:
        return own, True
    if isinstance(data, DataConfig):
        same = _same_place(data.path, own.path) and _same_place(data.path_b or "", own.path_b or "")
        return data, same
    if _same_place(data, own.path):
        return own, True
    moved = dataclasses.replace(own, path=str(data), path_b=None)
    if own.path_b is None and _is_copy(translator, moved):
        return moved, True
    # Others hold their pairs by themselves; what drew splits and subsets of the training data stays behind.
    nothing_drawn: dict[str, Any] = {
        "val_fraction": 0.0, "test_fraction": 0.0, "group_pattern": None, "max_pairs": None
    }  # fmt: skip
    return dataclasses.replace(moved, **nothing_drawn), False


def _is_copy(translator: Translator, data: DataConfig) -> bool:
    known = translator.provenance.get("data_fingerprint")
    try:
        return known is not None and find_pairs(data).fingerprint == known
    except DataError:
        return False


def _has_changed(translator: Translator, pair_set: PairSet) -> bool:
    known = translator.provenance.get("data_fingerprint")
    return known is not None and pair_set.fingerprint != known


def _same_place(a: str | Path, b: str | Path) -> bool:
    return a == b if "" in (a, b) else whole(a) == whole(b)


def pairs_of(pair_set: PairSet, split: str, *, own: bool) -> tuple[Sequence[Pair], bool]:
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
    with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
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


def _channel_columns(spec: ImageSpec) -> dict[str, dict[str, str]]:
    """By metric, the column of each channel of an intensity image of several: `bias_0`, `bias_DAPI`."""
    if spec.kind == "labels" or spec.tensor_channels == 1:
        return {}
    names = spec.names or tuple(map(str, range(spec.tensor_channels)))
    return {metric: {name: f"{metric}_{name}" for name in names} for metric in PER_CHANNEL}


def _measure_row(
    pair: Pair,
    view: View,
    y_hat: Tensor,
    *,
    spec: ImageSpec,
    extra: Mapping[str, PerImage],
    references: Baselines | None,
    load: Load,
) -> dict[str, str | float]:
    """One line of the table. Shapes: y_hat (C, H, W)."""
    x, y, valid = view
    metrics = {name: metric for name, metric in METRICS.items() if name != "Pearson" or spec.kind != "labels"}
    target = images.recombined(y, x, spec)[0]

    def measured(output: Tensor, prefix: str = "", valid: Tensor | None = valid) -> dict[str, float]:
        # What sees photos sees colours, and both images filled alike where pixels do not count.
        shown = images.recombined(filled(output, view.valid), x, spec)[0] if extra else output
        where = None if valid is None else valid[None]
        of_tensors = {name: metric(output[None], y[None], where) for name, metric in metrics.items()}
        of_photos = {name: metric(shown[None], target[None]) for name, metric in extra.items()}
        return {prefix + name: float(value) for name, value in (of_tensors | of_photos).items()}

    row: dict[str, str | float] = {"name": pair.name, **measured(y_hat)}
    for metric, columns in _channel_columns(spec).items():
        where = None if valid is None else valid[None]
        values = PER_CHANNEL[metric](y_hat[None], y[None], where)[0].tolist()
        row |= dict(zip(columns.values(), values, strict=True))
    if references is None:
        return row
    row |= measured(references.mean_target(y.shape[-2:]), "mean_target_")
    neighbour = references.nearest(x, valid, other_than=pair)
    if neighbour is None:
        nothing = {f"nearest_pair_{name}": math.nan for name in (*metrics, *extra)}
        return row | nothing | {"nearest_pair": ""}
    _, target_there, valid_there = load(neighbour)
    target_there, valid_there = known_at_size(target_there, valid_there, y.shape[-2:])
    both = valid if valid_there is None else valid_there if valid is None else valid * valid_there
    row |= measured(target_there, "nearest_pair_", both)
    return row | {"nearest_pair": neighbour.name}


def _settings(translator: Translator, data: DataConfig) -> dict[str, Any]:
    """What decides the figures, besides the split."""
    return {
        "data": whole(data.path),
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
