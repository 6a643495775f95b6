"""The page of `pairloom data check`: what a data set holds, to look at, and what is wrong with it, in words.

``check.html.jinja`` holds the looks and most of the words, this module the facts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from scipy import ndimage

from pairloom import images
from pairloom.checkpoint import write_text_atomically
from pairloom.config import DataConfig
from pairloom.data import DataError, Pair, evenly, find_pairs, load_pair
from pairloom.data.alignment import CLEAR
from pairloom.data.check import CheckReport, check
from pairloom.data.masks import Known, known_pixels
from pairloom.data.overview import NEAR_BITS, ROLES, SHOWN_CHANNELS, Overview, Role, counted
from pairloom.data.pairs import SPLITS
from pairloom.evaluation.gallery import Triptych, picture, render, view
from pairloom.evaluation.labelled_photos import measure_palette
from pairloom.images import ImageError, ImageSpec
from pairloom.palette import Colour
from pairloom.pictures import Rgb
from pairloom.pixels import WHITE, Array

SHEET = 18
"""Pairs on a contact sheet, evenly chosen from the split."""
SHEET_PX = 128
"""Longer side of a picture on a contact sheet."""
SHOWN = 6
"""Worst misaligned, and nearly equal, pairs that are shown."""
SIZES = 20
"""Rows of the table of sizes."""
GROUPS = 12
"""Groups of exact copies that are named."""
MAPS = 40
"""JPEG label maps are counted on so many, evenly chosen from the training pairs."""
COLOURS = 60
"""Rows of the table of a palette."""
CHANNEL_NAMES = {1: ("brightness",), 3: ("red", "green", "blue")}


@dataclass(frozen=True, slots=True)
class Labels:
    """The classes of a side, with the share of pixels of each."""

    role: str
    rows: tuple[tuple[Colour, str, str, int, float], ...]
    """Colour, its CSS, its name, pixels, and their share of all."""
    total: int
    blended: bool
    """The files hold more colours than these, as JPEG leaves them: the counts are of the nearest."""
    palette: str
    """The lines of a palette file; "" where the side is read as a label map already."""


def write_check_page(data: DataConfig, out: str | Path) -> CheckReport:
    """Check a data set, and write one self-contained HTML file beside the words.

    Each file is read once, as without a page; only the pictures that are shown, and JPEG label maps whose
    palette is measured, are read again.

    Args:
        data: The data set.
        out: The .html file; its folder is made if absent.

    Returns:
        What `check` says.
    """
    overview = Overview()
    report = check(data, look=overview.look)
    try:
        pairs: Sequence[Pair] = find_pairs(data).pairs
    except DataError:
        pairs = ()
    look = _Look(data, report.specs)
    page = {
        "title": f"Data set {Path(data.path).name or data.path}",
        "path": data.path,
        "written": datetime.now().isoformat(" ", "minutes"),
        "report": report,
        "specs": report.specs,
        "counts": {split: n for split in SPLITS if (n := sum(pair.split == split for pair in pairs))},
        "sheets": _sheets(pairs, look),
        "histograms": _histograms(overview),
        "sizes": _sizes(overview),
        "labels": _labels(overview, report.specs, pairs, data),
        "copies": [[f"{p.split}/{p.name}" for p in group] for group in overview.copies()],
        "near": _near(overview, look),
        "alignment": _alignment(overview, look),
        "groups_shown": GROUPS,
        "near_bits": NEAR_BITS,
        "shown": SHOWN,
        "hidden_channels": any(n > SHOWN_CHANNELS for n in overview.channels.values()),
        "shown_channels": SHOWN_CHANNELS,
        "maps": MAPS,
        "colours_shown": COLOURS,
    }
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out, render("check.html.jinja", page, folder=Path(__file__).parent))
    return report


# -----------------------------------------------------------------------------------------------------------
# Pictures


@dataclass(frozen=True, slots=True)
class _Look:
    """Reads pairs again, to show them."""

    data: DataConfig
    specs: tuple[ImageSpec, ImageSpec] | None

    def views(self, pair: Pair) -> dict[str, Rgb]:
        """Source and target for the eye; none where they cannot be read."""
        try:
            if self.data.derive != "none":
                return self._derived(pair)
            arrays = pair.read(self.data, self.data)
            known = known_pixels(pair, *arrays) or (None, None)
        except (DataError, ImageError):
            return {}
        specs = self.specs or (None, None)
        return {
            role: as_shown(array, spec, where)
            for role, array, spec, where in zip(ROLES, arrays, specs, known, strict=True)
        }

    def _derived(self, pair: Pair) -> dict[str, Rgb]:
        if self.specs is None:
            return {"photo": as_shown(pair.target.read(self.data), None)}
        x, y = load_pair(pair, *self.specs, self.data)
        whole, spec = images.recombined(y, x, self.specs[1])
        return {"source": view(x, self.specs[0]), "target": view(whole, spec)}

    def figure(self, pair: Pair, words: str = "", *, overlay: bool = False, side_px: int = 256) -> Triptych:
        """A pair as a figure of the page."""
        views = self.views(pair)
        if overlay and len(views) == 2:
            views["overlay"] = red_cyan(views["source"], views["target"])
        name = f"{pair.split}/{pair.name}"
        pictures = tuple(
            picture(v, label, f"{label} of {name}", side_px=side_px) for label, v in views.items()
        )
        return Triptych(name, pictures, words)


def as_shown(array: Array, spec: ImageSpec | None, known: Known | None = None) -> Rgb:
    """Values for the eye, by the spec where it fits, else from the least to the greatest.

    Shapes: (H, W, C); known (H, W), grey where False; None: all are known -> (H, W, 3).
    """
    if spec is None or (array.shape[2], array.dtype.name) != (spec.channels, spec.dtype):
        c, white = array.shape[2], WHITE[array.dtype.name]
        high = white if array.dtype == np.uint8 else float(np.nanmax(array))
        low = 0.0 if array.dtype == np.uint8 else float(np.nanmin(array))
        dtype: Any = array.dtype.name
        spec = ImageSpec(channels=c, dtype=dtype, low=(low,) * c, high=(high,) * c)
    valid = None if known is None else torch.from_numpy(known)[None].float()
    return view(images.to_tensor(array, spec), spec, valid=valid)


def red_cyan(source: Rgb, target: Rgb) -> Rgb:
    """The edges of both on white: the source's red, the target's cyan, dark where they coincide.

    Shapes: (H, W, 3), (H', W', 3) -> (H', W', 3).
    """
    planes = []
    for side in (source, target):
        tensor = torch.from_numpy(side.transpose(2, 0, 1).copy()).float()
        resized = images.resize(tensor, target.shape[:2], labels=False).numpy()
        slopes = [ndimage.gaussian_gradient_magnitude(c, 0.8) for c in resized]
        edges = np.sqrt(np.square(slopes).sum(axis=0))
        planes.append(np.clip(edges / max(float(np.percentile(edges, 97)), 1e-6), 0, 1))
    red, cyan = planes
    shown = 1 - np.stack([cyan, red, red], axis=2)
    found: Rgb = (255 * (0.06 + 0.94 * shown)).round().astype(np.uint8)
    return found


def _sheets(pairs: Sequence[Pair], look: _Look) -> dict[str, list[Triptych]]:
    """Evenly chosen pairs of each split."""
    return {
        split: [look.figure(pair, side_px=SHEET_PX) for pair in evenly(own, SHEET)]
        for split in SPLITS
        if (own := [pair for pair in pairs if pair.split == split])
    }


def _near(overview: Overview, look: _Look) -> dict[str, Any]:
    found = overview.near_copies()
    figures = []
    for near in found[:SHOWN]:
        bits = " and ".join("no contrast" if b is None else f"{b} bits" for b in near.bits)
        both = [look.figure(near.first), look.figure(near.second)]
        name = f"{both[0].name} ≈ {both[1].name}"
        figures.append(Triptych(name, both[0].pictures + both[1].pictures, bits))
    return {"count": len(found), "figures": figures}


# -----------------------------------------------------------------------------------------------------------
# Values and sizes


def _histograms(overview: Overview) -> list[dict[str, Any]]:
    """A chart of each channel of each side."""
    found = []
    for role in ROLES:
        count = overview.channels.get(role, 0)
        names = CHANNEL_NAMES.get(count, tuple(f"channel {n}" for n in range(count)))
        for number in range(min(count, SHOWN_CHANNELS)):
            lines = {
                split: (h.counts / max(int(h.counts.sum()), 1) / h.width, h.edges)
                for split in SPLITS
                if number < len(own := overview.histograms.get((role, split), []))
                and (h := own[number]).width
            }
            found.append({"title": f"{role}, {names[number]}", "svg": _curves(lines), "splits": list(lines)})
    return found


def _curves(lines: dict[str, tuple[Any, Any]]) -> Markup:
    """Densities as steps, height by the square root: a few frequent values would flatten all others."""
    width, height = 300.0, 96.0
    low = min(float(edges[0]) for _, edges in lines.values())
    high = max(float(edges[-1]) for _, edges in lines.values())
    top = math.sqrt(max(float(density.max()) for density, _ in lines.values()) or 1.0)
    paths = []
    for split, (density, edges) in lines.items():
        x = (edges - low) / (high - low) * width
        y = height - np.sqrt(density) / top * (height - 4)
        steps = " ".join(f"H{b:.1f}V{v:.1f}" for b, v in zip(x[:-1], y, strict=True))
        area = f"M{x[0]:.1f} {height:.0f}{steps}H{x[-1]:.1f}V{height:.0f}"
        paths.append(f'<path class="{split}" d="{area}"/>')
    # Of integers, the last bin's own value.
    last = high - 1 if high in (256.0, 65536.0) else high
    ends = f'<text x="0" y="{height + 14}">{low:.5g}</text>'
    ends += f'<text x="{width}" y="{height + 14}" text-anchor="end">{last:.5g}</text>'
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height + 18:.0f}" role="img" aria-label="histogram">{"".join(paths)}'
        f'<path class="axis" d="M0 {height:.1f}H{width:.0f}"/>{ends}</svg>'
    )


def _sizes(overview: Overview) -> dict[str, Any]:
    """Pairs of each size by split, the most frequent first."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for (split, source, target), count in overview.sizes.items():
        rows.setdefault((source, target), Counter())[split] += count
    ordered = sorted(rows.items(), key=lambda row: -sum(row[1].values()))
    splits = [split for split in SPLITS if any(counts[split] for _, counts in ordered)]
    return {"splits": splits, "rows": ordered[:SIZES], "rest": max(0, len(ordered) - SIZES)}


# -----------------------------------------------------------------------------------------------------------
# Labels


def _labels(
    overview: Overview,
    specs: tuple[ImageSpec, ImageSpec] | None,
    pairs: Iterable[Pair],
    data: DataConfig,
) -> list[Labels]:
    """The sides that are label maps, or look like some that were saved as JPEG."""
    if data.derive != "none":
        return []
    train = [pair for pair in pairs if pair.split == "train"]
    found = []
    for number, role in enumerate(ROLES):
        spec = None if specs is None else specs[number]
        exact = overview.colours[role]
        if spec is not None and spec.kind == "labels":
            known = exact is not None and set(exact) <= set(spec.palette)
            counts = exact if exact is not None and known else counted(_maps(train, role, data), spec.palette)
            found.append(
                _table(role, counts, spec.palette_names, spec.palette, blended=not known, file=False)
            )
        elif (exact is None or _lossy(train, role)) and (
            palette := measure_palette(_maps(train, role, data))
        ):
            counts = counted(_maps(train, role, data), palette)
            found.append(_table(role, counts, (), palette, blended=True, file=True))
    return found


def _lossy(train: Sequence[Pair], role: Role) -> bool:
    try:
        return bool(train) and not images.is_lossless(getattr(train[0], role).file)
    except ImageError:
        return False


def _maps(train: Sequence[Pair], role: Role, data: DataConfig) -> list[Array]:
    maps: list[Array] = []
    for pair in evenly(train, MAPS):
        try:
            array = getattr(pair, role).read(data)
        except (DataError, ImageError):
            continue
        if not maps or (array.shape[2], array.dtype) == (maps[0].shape[2], maps[0].dtype):
            maps.append(array)
    return maps


def _table(
    role: str,
    counts: Counter[Colour],
    names: Sequence[str],
    palette: Sequence[Colour],
    *,
    blended: bool,
    file: bool,
) -> Labels:
    total = max(sum(counts.values()), 1)
    named = dict(zip(palette, names, strict=True)) if names else {}
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple(
        (colour, _css(colour), named.get(colour, ""), count, count / total) for colour, count in ordered
    )
    lines = "\n".join(",".join(map(str, colour)) for colour, _ in ordered) if file else ""
    return Labels(role, rows, total, blended, lines)


def _css(colour: Colour) -> str:
    """Empty for a class number, which has no colour."""
    return f"rgb({','.join(map(str, colour))})" if len(colour) == 3 and max(colour) <= 255 else ""


# -----------------------------------------------------------------------------------------------------------
# Alignment


def _alignment(overview: Overview, look: _Look) -> dict[str, Any] | None:
    """Where the targets lie against their sources, and the worst of those that can be told."""
    clear = sorted(
        (found for found in overview.shifts if found[1].clarity >= CLEAR), key=lambda found: -found[1].length
    )
    if not clear:
        return None
    figures = [
        look.figure(
            pair,
            f"{_signed(shift.right)} px right, {_signed(shift.down)} px down; clarity {shift.clarity:.1f}",
            overlay=True,
        )
        for pair, shift in clear[:SHOWN]
        if shift.length >= 1
    ]
    return {
        "told": len(clear),
        "tried": len(overview.shifts),
        "median": float(np.median([shift.length for _, shift in clear])),
        "beyond": sum(shift.length > 2 for _, shift in clear),
        "svg": scatter([(shift.down, shift.right) for _, shift in clear], least=4.0, ring=2.0),
        "figures": figures,
    }


def _signed(value: float) -> str:
    """With the typographer's minus, and none before nothing."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def scatter(points: Sequence[tuple[float, float]], *, least: float, ring: float | None = None) -> Markup:
    """One dot a pair at (down, right) pixels, nothing at the crossing; by choice a ring of so many pixels."""
    reach = max([least, *(1.1 * max(abs(down), abs(right)) for down, right in points)])
    scale = 140 / reach
    dots = "".join(
        f'<circle class="dot" cx="{150 + scale * right:.1f}" cy="{150 + scale * down:.1f}" r="2.6"/>'
        for down, right in points
    )
    circle = "" if ring is None else f'<circle class="ring" cx="150" cy="150" r="{ring * scale:.1f}"/>'
    return Markup(
        '<svg viewBox="0 0 300 300" role="img" aria-label="shifts">'
        f'<path class="axis" d="M10 150H290M150 10V290"/>{circle}{dots}'
        f'<text x="290" y="143" text-anchor="end">{reach:.1f} px right</text>'
        f'<text x="156" y="290">{reach:.1f} px down</text></svg>'
    )
