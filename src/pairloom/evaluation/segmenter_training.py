"""Training a segmenter on the real photos of a data set, so that generated photos can be judged by it.

Like the paper's FCN-8s it learns from the train split and never sees a generated photo. What it can do on the
real photos of the test split is the ceiling of every FCN-score.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pairloom import __version__
from pairloom.checkpoint import write_text_atomically
from pairloom.config import DataConfig, height_width
from pairloom.data import Pair, evenly
from pairloom.data.loading import item_rng, permutation
from pairloom.devices import pick_device
from pairloom.evaluation.confusion import (
    MEASURES,
    Counts,
    bootstrap_scores,
    confusion_matrix,
    plain,
    scores,
)
from pairloom.evaluation.labelled_photos import MEASURED_MAPS, LabelledPhotos, Side
from pairloom.evaluation.segmenter import (
    PixelClassifier,
    Segmenter,
    SegmenterError,
    TrunkName,
    build_network,
    class_index,
    class_names,
)
from pairloom.progress import Interrupted, StopSignals

Balance = Literal["none", "root", "full"]

VALIDATED = 200
"""Validation pairs looked at as the training goes, at most."""


def train_segmenter(
    data: DataConfig,
    out: str | Path,
    *,
    photo_side: Side | None = None,
    palette: str | Path | None = None,
    ignored: str | int | None = None,
    trunk: TrunkName | Literal["auto"] = "auto",
    crop_px: int | None = None,
    epochs: int = 40,
    steps: int | None = None,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    balance: Balance = "root",
    val_fraction: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train on the real photos of the train split; keep the weights that do best on the val split.

    Writes OUT/segmenter.safetensors whenever the val split's class IoU is the best so far, a line of
    OUT/metrics.jsonl at each validation, and at the end OUT/summary.json with its scores on val and test.
    Interrupted, it finishes the step, and what was saved last is usable.

    Args:
        data: Where the pairs are; photos are seen at the geometry in which it evaluates them, and between
            that and load_size while training.
        out: Folder to write to; made when missing.
        photo_side: None: decided from which side is the label map.
        palette: File with the classes; None: as in `data`, else measured.
        ignored: A class by its name or number that is neither learned, predicted nor scored.
        trunk: own: from scratch; efficientnet-lite0: from ImageNet's weights; auto: that, if installed.
        crop_px: Side of the training crops; None: the crop_size of `data`.
        epochs: Passes over the training photos; `steps` takes precedence.
        steps: Updates.
        batch_size: Photos an update.
        learning_rate: Of the layers from scratch; those from ImageNet learn at a tenth. It falls to 0 along
            half a cosine.
        balance: Weight of each class in the loss: none; root: one over the root of its frequency; full: one
            over its frequency. Measured on the facades (12 classes, 250 steps of 8 crops of 128 px, 20 val
            photos; pixel / class accuracy / class IoU): none .56/.37/.24, root .52/.43/.24, full
            .43/.46/.20. Root costs no IoU and finds more of the rare classes.
        val_fraction: Share of the training pairs set aside where there is no val split; 0: none, and the last
            weights are kept.
        seed: Everything random follows from it.
        device: auto, cpu, cuda, cuda:1, mps.
        say: Takes each line for people; None: stderr.

    Returns: OUT/segmenter.safetensors.

    Raises:
        SegmenterError: A setting is impossible, or photos and labels cannot be told apart.
        DataError: The pairs cannot be found or read.
        ValueError: The weights of ImageNet were asked for and are not installed.
        Interrupted: SIGINT or SIGTERM came.
    """
    say = say or _to_stderr
    _check(min(height_width(data.crop_size)), epochs, steps, batch_size, learning_rate, crop_px, val_fraction)
    out = Path(out)
    data = replace(data, val_fraction=data.val_fraction or val_fraction)
    photos = LabelledPhotos.decide(data, photo_side=photo_side, palette=palette)
    excluded = class_index(photos.label_spec, ignored)
    network, chosen = _network(trunk, photos, torch.Generator().manual_seed(seed))
    segmenter = Segmenter(
        network.to(pick_device(device)), chosen, photos.photo_spec, photos.label_spec, ignored=excluded
    )
    train, val = photos.pairs.split("train"), evenly(photos.pairs.split("val"), VALIDATED)
    per_epoch = math.ceil(len(train) / batch_size)
    total = steps or epochs * per_epoch
    parameters = sum(p.numel() for p in network.parameters())
    for line in (*photos.notes, f"{segmenter.words()}; {parameters / 1e6:.1f} M parameters; {total} steps."):
        say(line)
    segmenter.provenance = {
        "pairloom": __version__,
        "data": photos.pairs.fingerprint,
        "notes": list(photos.notes),
        "train_photos": len(train),
        "val_photos": len(val),
        "photo_side": photos.photo_side,
        "geometry": {"resize": data.resize, "crop_size": data.crop_size},
        "settings": {
            "epochs": epochs,
            "steps": total,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "balance": balance,
            "crop_px": crop_px,
            "seed": seed,
        },
    }
    weights = class_weights(photos, train, balance, excluded).to(segmenter.device)
    started, best, file = time.perf_counter(), -math.inf, out / "segmenter.safetensors"
    optimizer, schedule = _optimizer(segmenter, learning_rate, total)
    losses: list[Tensor] = []
    out.mkdir(parents=True, exist_ok=True)
    with (
        StopSignals() as stop,
        (out / "metrics.jsonl").open("w", encoding="utf-8") as log,
        ThreadPoolExecutor(data.workers or 2) as readers,
    ):
        batches = _batches(photos, train, batch_size, total, crop_px, seed, readers)
        for step, (x, y) in enumerate(batches, start=1):
            losses.append(_update(segmenter, x, y, weights, optimizer))
            schedule.step()
            if stop.signum is not None:
                break
            # Tiny sets have epochs of a step or two: no more than forty validations in all.
            if step % max(per_epoch, total // 40) and step != total:
                continue
            figures = _validate(segmenter, photos, val) if val else {}
            quality = figures.get("class_iou", float(step))
            if quality > best:
                best = quality
                segmenter.provenance |= {"step": step, "val": figures}
                segmenter.save(file)
            loss = _mean_loss(losses, step)
            losses.clear()
            seconds = time.perf_counter() - started
            _log(
                log, say, total, {"step": step, "loss": loss, **figures, "elapsed_seconds": round(seconds, 1)}
            )
        if stop.signum is not None:
            if best == -math.inf:
                segmenter.save(file)
            say(f"Stopped after step {step} of {total}; {file} holds the best so far.")
            raise Interrupted(stop.signum)
    _summarise(Segmenter.load(file, device=device), photos, out, say, time.perf_counter() - started)
    return file


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check(
    size: int,
    epochs: int,
    steps: int | None,
    batch_size: int,
    rate: float,
    crop_px: int | None,
    val_fraction: float,
) -> None:
    for name, value in (
        ("size", size),
        ("epochs", epochs),
        ("steps", steps),
        ("batch_size", batch_size),
        ("crop_px", crop_px),
    ):
        if value is not None and value < 1:
            raise SegmenterError(f"{name} is {value}; it must be 1 or more.")
    if not rate > 0:
        raise SegmenterError(f"learning_rate is {rate}; it must be above 0.")
    if not 0 <= val_fraction <= 0.5:
        raise SegmenterError(f"val_fraction is {val_fraction}; it must be from 0 to 0.5.")


def _network(
    trunk: TrunkName | Literal["auto"], photos: LabelledPhotos, rng: torch.Generator
) -> tuple[Any, TrunkName]:
    channels, classes = photos.photo_spec.tensor_channels, len(photos.label_spec.palette)
    if trunk != "auto":
        return build_network(trunk, channels, classes, rng), trunk
    try:
        return build_network("efficientnet-lite0", channels, classes, rng), "efficientnet-lite0"
    except ValueError:  # not installed, or photos that it does not take
        return build_network("own", channels, classes, rng), "own"


def class_weights(
    photos: LabelledPhotos, train: Sequence[Pair], balance: Balance, ignored: int | None
) -> Tensor:
    """The weight of each class in the loss, 1 on average over the pixels; 0 for the ignored one.

    Shapes: -> (K,).
    """
    count = len(photos.label_spec.palette)
    pixels = np.zeros(count)
    for pair in evenly(train, MEASURED_MAPS):
        pixels += np.bincount(photos.arrays(pair)[1].ravel(), minlength=count)
    if ignored is not None:
        pixels[ignored] = 0
    if not pixels.sum():
        raise SegmenterError("The label maps show nothing but the ignored class; there is nothing to learn.")
    share = pixels / pixels.sum()
    power = {"none": 0.0, "root": 0.5, "full": 1.0}[balance]
    weights = np.where(share > 0, np.maximum(share, 1e-4) ** -power, 0.0)
    return torch.from_numpy(weights / (weights * share).sum()).float()


def _optimizer(
    segmenter: Segmenter, rate: float, total: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    segmenter.network.requires_grad_(True)
    trunk_rate = rate if segmenter.trunk == "own" else rate / 10
    optimizer = torch.optim.AdamW(
        [
            {"params": list(segmenter.network.trunk.parameters()), "lr": trunk_rate},
            {"params": list(segmenter.network.heads.parameters()), "lr": rate},
        ],
        weight_decay=1e-4,
    )
    warm = max(1, min(50, total // 10))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _batches(
    photos: LabelledPhotos,
    train: Sequence[Pair],
    batch_size: int,
    total: int,
    crop_px: int | None,
    seed: int,
    readers: ThreadPoolExecutor,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of views, read ahead by threads; image j is the one of `loading`, and so is its randomness."""
    order = (0, permutation(seed, 0, len(train)))

    def read(j: int) -> tuple[Tensor, Tensor]:
        nonlocal order
        epoch, position = divmod(j, len(train))
        known = order  # one reference: other threads may replace it meanwhile
        if known[0] != epoch:
            order = known = (epoch, permutation(seed, epoch, len(train)))
        return photos.view(train[int(known[1][position])], crop_px, item_rng(seed, epoch, position))

    waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
    asked = 0
    try:
        for step in range(total):
            while asked < min((step + 3) * batch_size, total * batch_size):
                waiting.append(readers.submit(read, asked))
                asked += 1
            views = [waiting.popleft().result() for _ in range(batch_size)]
            yield torch.stack([x for x, _ in views]), torch.stack([y for _, y in views])
    finally:
        for future in waiting:
            future.cancel()


def _update(
    segmenter: Segmenter, x: Tensor, y: Tensor, weights: Tensor, optimizer: torch.optim.Optimizer
) -> Tensor:
    """One step of the cross-entropy, weighted by class. Shapes: x (N, C, h, w), y (N, h, w) -> ()."""
    segmenter.network.train()
    logits = segmenter.network(x.to(segmenter.device))
    y = y.to(segmenter.device)
    # Not torch's own mean: over weights that are all 0 (a crop of the ignored class) that would be NaN.
    total = F.cross_entropy(logits, y, weight=weights, reduction="sum")
    loss = total / weights[y].sum().clamp(min=1.0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(segmenter.network.parameters(), 5.0)
    optimizer.step()
    return loss.detach()


def _mean_loss(losses: Sequence[Tensor], step: int) -> float:
    loss = float(torch.stack(list(losses)).mean())
    if not math.isfinite(loss):
        raise SegmenterError(
            f"The loss is not finite by step {step}; train again with a lower learning_rate (what was saved "
            "before is usable)."
        )
    return round(loss, 6)


def real_matrices(segmenter: PixelClassifier, photos: LabelledPhotos, pairs: Sequence[Pair]) -> list[Counts]:
    """The confusion matrix of each real photo, at the own size of its label map.

    Shapes: N of (K, K + 1).
    """
    count = len(segmenter.label_spec.palette)
    found = []
    for pair in pairs:
        x, index = photos.photo(pair)
        predicted = segmenter.predict(x, (index.shape[0], index.shape[1]))
        found.append(confusion_matrix(predicted, index, count, segmenter.ignored))
    return found


def _validate(segmenter: Segmenter, photos: LabelledPhotos, val: Sequence[Pair]) -> dict[str, float]:
    found = scores(np.sum(real_matrices(segmenter, photos, val), axis=0))
    # NaN only where all of the val split is of the ignored class: then no weights are better than others.
    return {name: float(np.nan_to_num(round(getattr(found, name), 6))) for name in MEASURES}


def _log(log: TextIO, say: Callable[[str], None], total: int, line: dict[str, Any]) -> None:
    log.write(json.dumps(plain(line)) + "\n")
    log.flush()
    words = " ".join(
        f"{MEASURES.get(name, name)} {value:.3f}"
        for name, value in line.items()
        if isinstance(value, float) and name != "elapsed_seconds"
    )
    say(f"step {line['step']}/{total} {words} {line['elapsed_seconds']:.0f} s")


def _summarise(
    segmenter: Segmenter, photos: LabelledPhotos, out: Path, say: Callable[[str], None], seconds: float
) -> None:
    """Its own scores on the val and the test split, the latter the ceiling of FCN-scores."""
    summary: dict[str, Any] = {
        "version": 1,
        "segmenter": segmenter.words(),
        "classes": list(class_names(segmenter.label_spec)),
        "elapsed_seconds": round(seconds, 1),
        "provenance": segmenter.provenance,
    }
    for split in ("val", "test"):
        matrices = real_matrices(segmenter, photos, photos.pairs.split(split))
        if not matrices:
            summary[split] = None
            continue
        intervals = bootstrap_scores(matrices)
        summary[split] = {
            "photos": len(matrices),
            "intervals": plain(intervals),
            "scores": scores(np.sum(matrices, axis=0)).to_dict(),
        }
        listed = ", ".join(
            f"{MEASURES[name]} {i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for name, i in intervals.items()
        )
        say(f"On the {len(matrices)} real photos of the {split} split: {listed}.")
    write_text_atomically(out / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
