"""Example sources of a model: the held-out ones that its run has drawn into samples/ while it trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pairloom.config import Config, height_width
from pairloom.pictures import Rgb

GAP_PX = 4
"""Between the columns, and the rows, of a sheet: `pictures.sample_sheet`."""
MOST = 6


def find_examples(path: Path, config: Config) -> tuple[Rgb, ...]:
    """Source pictures of the newest sheet beside a model; () where there is none that can be cut up.

    Args:
        path: The run directory, or a file in it.
        config: How the model was trained: it says how large the pictures on the sheet are.
    """
    run = path if path.is_dir() else path.parent
    sheet = max((run / "samples").glob("step-*.png"), default=None)
    if sheet is None or config.data.resize != "stretch":
        return ()
    try:
        with Image.open(sheet) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError):  # only an ornament
        return ()
    return cut_up(pixels, *height_width(config.data.crop_size))


def cut_up(sheet: Rgb, height: int, width: int) -> tuple[Rgb, ...]:
    """The left column of a sheet, whose rows are source | output | target.

    Shapes: -> (height, width, 3) each.
    """
    rows = (sheet.shape[0] + GAP_PX) // (height + GAP_PX)
    if sheet.shape[:2] != (rows * (height + GAP_PX) - GAP_PX, 3 * width + 2 * GAP_PX):
        return ()
    return tuple(sheet[top : top + height, :width] for top in np.arange(rows)[:MOST] * (height + GAP_PX))
