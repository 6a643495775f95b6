"""The page of a study's results: one self-contained HTML file in the form of the paper's Tables 4 and 5."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairloom.checkpoint import write_text_atomically
from pairloom.evaluation.gallery import (
    PIXELATED_BELOW_PX,
    SHOWN_SIDE_PX,
    Picture,
    Triptych,
    picture,
    render,
)
from pairloom.study import results_words
from pairloom.study.exclusions import counted, rule_words
from pairloom.study.protocol import Key
from pairloom.study.results import Results, Shown, extremes, response_seconds
from pairloom.study.results_words import percent

EXTREMES = 3
"""Images of an algorithm that fooled most, and as many that fooled least."""
BINS_S = np.geomspace(0.1, 30, 31)
"""Edges of the response times' histogram, in seconds; what lies beyond is in the first or last bin."""
LABELLED_S = (0.1, 0.3, 1, 3, 10, 30)

PAPER = (
    (
        "Table 4: maps and aerial photos",
        ("Photo → map", "Map → photo"),
        (("L1", "2.8 ± 1.0", "0.8 ± 0.3"), ("L1+cGAN", "6.1 ± 1.3", "18.9 ± 2.5")),
    ),
    (
        "Table 5: colourisation",
        ("Grey → colour",),
        (
            ("L2 regression, from Zhang et al. 2016", "16.3 ± 2.4"),
            ("Zhang et al. 2016", "27.8 ± 2.7"),
            ("L1+cGAN (ours in the paper)", "22.5 ± 1.6"),
        ),
    ),
)
"""% labeled real, as the paper prints it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One algorithm in the drawing. Units: percent of the drawing's width."""

    name: str
    value: str
    at: float
    low: float
    high: float
    sessions: tuple[tuple[float, float], ...]
    """Across and down, one dot a session."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The drawing's scale: shares from 0 to `top`, with labels. Units: share; percent of the width."""

    top: float
    ticks: tuple[tuple[float, str], ...]
    chance: float | None

    def at(self, share: float) -> float:
        """Where a share lies."""
        return round(100 * min(share / self.top, 1.0), 2)


def write_page(out: Path, results: Results, key: Key, images: Path) -> Path:
    """Write OUT/study.html.

    Args:
        out: The study's folder of results.
        results: What was found.
        key: Which image is which.
        images: The study's folder of images.
    """
    axis = _axis(results)
    page: dict[str, Any] = {
        "results": results,
        "settings": results.settings,
        "words": results_words,
        "percent": percent,
        "seconds": lambda value: "–" if math.isnan(value) else f"{value:.2f}",
        "written": datetime.now().isoformat(" ", "minutes"),
        "dates": _dates(results),
        "counted": counted(results.sessions),
        "axis": axis,
        "lanes": [_lane(results, arm, axis) for arm in results.shares],
        "paper": PAPER,
        "histogram": _histogram(results),
        "galleries": _galleries(results, key, images),
        "rule": rule_words(results.settings.exclusion),
        "left_out": [s for s in results.sessions if s.reason],
        "remarks": results_words.remarks(results),
    }
    text = render("results.html.jinja", page, folder=Path(__file__).parent)
    write_text_atomically(out / "study.html", text)
    return out / "study.html"


def _dates(results: Results) -> str:
    days = sorted({session.row.started[:10] for session in results.sessions})
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


# -----------------------------------------------------------------------------------------------------------
# The drawing of the shares, and of the response times


def _axis(results: Results) -> Axis:
    """To 60 % where nothing reaches further, so that one half, which is chance, is always on it."""
    found = [
        one for arm, share in results.shares.items() for one in (share.high, *results.session_shares[arm])
    ]
    top = math.ceil(10 * max(found, default=0.6)) / 10
    top = min(max(top, 0.6), 1.0)
    ticks = [i / 10 for i in range(0, round(10 * top) + 1, 1 if top < 0.8 else 2)]
    chance = None if results.settings.mode == "single" else 0.5
    return Axis(top, tuple((round(100 * t / top, 2), f"{100 * t:.0f}") for t in ticks), chance)


def _lane(results: Results, arm: str, axis: Axis) -> Lane:
    share = results.shares[arm]
    shares = results.session_shares[arm]
    dots = [(axis.at(one), 12 + 76 * _spread(i)) for i, one in enumerate(shares)]
    return Lane(
        results_words.arm_words(arm),
        results_words.mean_se(share),
        axis.at(share.mean),
        axis.at(share.low),
        axis.at(share.high),
        tuple(dots),
    )


def _spread(i: int) -> float:
    """A number from 0 to 1 far from those before it (van der Corput): dots of equal shares lie apart."""
    found, part = 0.0, 0.5
    while i:
        found, part, i = found + part * (i % 2), part / 2, i // 2
    return found


def _histogram(results: Results) -> dict[str, Any]:
    """Bars of the response times: by right and wrong, or all where nothing is right or wrong."""
    kinds = {"Right": True, "Wrong": False} if results.settings.mode != "prefer" else {"All": None}
    seconds = {name: response_seconds(results, right) for name, right in kinds.items()}
    bars = {name: _bars(times) for name, times in seconds.items() if times}
    highest = max((max(bar) for bar in bars.values()), default=1.0)
    places = [
        (round(100 * float(np.log(t / BINS_S[0]) / np.log(BINS_S[-1] / BINS_S[0])), 2), f"{t:g}")
        for t in LABELLED_S
    ]
    shown = {name: [round(100 * bar / highest, 1) for bar in found] for name, found in bars.items()}
    return {"bars": shown, "ticks": places, "counts": {name: len(times) for name, times in seconds.items()}}


def _bars(seconds: Sequence[float]) -> list[float]:
    clipped = np.clip(seconds, BINS_S[0], BINS_S[-1])
    found: list[float] = (np.histogram(clipped, BINS_S)[0] / len(seconds)).tolist()
    return found


# -----------------------------------------------------------------------------------------------------------
# Pictures


def _galleries(results: Results, key: Key, images: Path) -> dict[str, dict[str, list[Triptych]]]:
    """By algorithm: the images that fooled most, and those that fooled least."""
    found = {}
    for name in results.settings.algorithms:
        most, least = extremes(results, name, EXTREMES)
        if most:
            rows = {"most": most, "least": least}
            found[name] = {k: [_figure(image, results, key, images) for image in v] for k, v in rows.items()}
    return found


def _figure(shown: Shown, results: Results, key: Key, images: Path) -> Triptych:
    """A fake beside the real image of the same source, if the study has it; with prefer, beside another."""
    known = key[shown.id]
    kinds: set[str | None] = {None}
    if results.settings.mode == "prefer":
        kinds = {name for name in results.settings.algorithms if name != shown.algorithm}
    others = [
        (id_, image)
        for id_, image in key.items()
        if image.pair == known.pair and image.algorithm in kinds and not image.attention
    ]
    pictures = [_picture(images, shown.id, shown.algorithm, known.source)]
    pictures += [_picture(images, id_, image.algorithm or "real", image.source) for id_, image in others[:1]]
    verb = "preferred" if results.settings.mode == "prefer" else "taken for real"
    return Triptych(known.source, tuple(pictures), f"{verb} in {shown.hits} of {shown.shown}")


def _picture(images: Path, id_: str, label: str, source: str) -> Picture:
    """The study's own file, as it was shown; larger ones reduced."""
    path, alt = images / f"{id_}.png", f"{label}: {source}"
    with Image.open(path) as image:
        if max(image.size) > SHOWN_SIDE_PX:
            return picture(np.asarray(image.convert("RGB")), label, alt)
        uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        return Picture(uri, *image.size, label, alt, max(image.size) < PIXELATED_BELOW_PX)
