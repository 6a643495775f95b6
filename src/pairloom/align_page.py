"""The page of `pairloom data align`: the pairs that moved most, before and after, and those left out.

``align.html.jinja`` holds the looks and most of the words, this module the facts.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from pairloom import images
from pairloom.check_page import as_shown, red_cyan, scatter
from pairloom.checkpoint import write_text_atomically
from pairloom.data import DataError
from pairloom.data.align import PAGE, STILL_PX, Aligned, AlignReport
from pairloom.data.registration import SURE
from pairloom.evaluation.gallery import Picture, Triptych, picture, render
from pairloom.images import ImageError
from pairloom.pictures import Rgb

SHOWN = 12
"""Pairs that moved most, and pairs left out, that are shown."""
CHECKS = 8
"""Squares along the longer side of a checkerboard."""
ROWS = 2000
"""Rows of the table; align.csv has all."""


def write_align_page(report: AlignReport) -> Path:
    """Write OUT/align.html beside the table; what is shown is read again from the files.

    Args:
        report: What `align` gave; its files must still be there.
    """
    kept = sorted(report.kept, key=lambda pair: -pair.moved_px)
    moved = [pair.moved_px for pair in kept]
    page = {
        "title": f"Alignment of {Path(report.data.path).name or report.data.path}",
        "written": datetime.now().isoformat(" ", "minutes"),
        "report": report,
        "kept": kept,
        "left_out": report.left_out,
        "median": float(np.median(moved)) if moved else 0.0,
        "still": sum(px == 0 for px in moved),
        "still_px": STILL_PX,
        "sure": SURE,
        "svg": scatter([pair.before.motion.shift for pair in kept if pair.before is not None], least=2.0),
        "figures": [_figure(pair, report) for pair in kept[:SHOWN] if pair.moved_px > 0],
        "refused": [_refused(pair, report) for pair in report.left_out[:SHOWN] if pair.before is not None],
        "rows": report.pairs[:ROWS],
        "signed": signed,
    }
    path = report.out / PAGE
    write_text_atomically(path, render("align.html.jinja", page, folder=Path(__file__).parent))
    return path


def signed(value: float) -> str:
    """With the typographer's minus."""
    return f"{value:+.2f}".replace("-", "−")


def _figure(pair: Aligned, report: AlignReport) -> Triptych:
    """Overlay and checkerboard of the same part of the target's frame, before and after."""
    assert pair.box is not None and pair.files is not None and pair.before is not None
    before = _pixels(pair, report)
    after = tuple(as_shown(images.read_image(path), None) for path in pair.files)
    pictures: list[Picture] = []
    if before is not None:
        cut = np.s_[pair.box.top : pair.box.bottom, pair.box.left : pair.box.right]
        for sides, when in (((before[0][cut], before[1][cut]), "before"), (after, "after")):
            pictures.append(picture(red_cyan(*sides), when, f"edges of {pair.name} {when}"))
        for sides, when in (((before[0][cut], before[1][cut]), "before"), (after, "after")):
            pictures.append(picture(checkerboard(*sides), when, f"checkerboard of {pair.name} {when}"))
    down, right = pair.before.motion.shift
    words = f"{signed(right)} px right, {signed(down)} px down; confidence {pair.before.confidence:.1f}"
    return Triptych(pair.name, tuple(pictures), words)


def _refused(pair: Aligned, report: AlignReport) -> Triptych:
    sides = _pixels(pair, report)
    if sides is None:
        return Triptych(pair.name, (), pair.reason)
    views = {"source": sides[0], "target": sides[1], "overlay": red_cyan(*sides)}
    pictures = tuple(picture(v, label, f"{label} of {pair.name}") for label, v in views.items())
    return Triptych(pair.name, pictures, pair.reason)


def _pixels(pair: Aligned, report: AlignReport) -> tuple[Rgb, Rgb] | None:
    """Both sides as they were, the source at the target's size; None where they cannot be read."""
    try:
        source, target = (as_shown(side, None) for side in pair.pair.read(report.data, report.data))
    except (DataError, ImageError):
        return None
    if source.shape != target.shape:
        tensor = torch.from_numpy(source.transpose(2, 0, 1).copy()).float()
        resized = images.resize(tensor, (target.shape[0], target.shape[1]), labels=False)
        source = resized.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return source, target


def checkerboard(source: Rgb, target: Rgb) -> Rgb:
    """Squares of one and the other in turn: lines run on where they lie on each other.

    Shapes: (H, W, 3) twice -> (H, W, 3).
    """
    side = max(1, max(target.shape[:2]) // CHECKS)
    y, x = np.indices(target.shape[:2]) // side
    board: Rgb = np.where(((y + x) % 2 == 0)[..., None], source, target).astype(np.uint8)
    return board
