"""What is answered to a translation: an image file in the target's own depth, or JSON for pages."""

from __future__ import annotations

import base64
import io
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairloom.formats import holds_losslessly, write_image
from pairloom.images import ImageSpec
from pairloom.pictures import Rgb
from pairloom.pixels import Array
from pairloom.serve.models import Translated

JSON = "application/json"
FILES = {"image/png": ".png", "image/webp": ".webp", "image/tiff": ".tif", "application/x-npy": ".npy"}
"""Content types of image files, in the order in which they are preferred."""


def offered_types(spec: ImageSpec, *, single: bool) -> list[str]:
    """What a translation can be answered as: files that hold it without loss, and JSON; else JSON alone."""
    dtype, channels = spec.dtype, spec.channels
    held = [
        kind for kind, suffix in FILES.items() if holds_losslessly(suffix, dtype=dtype, channels=channels)
    ]
    return [*held, JSON] if single else [JSON]


def as_file(array: Array, kind: str, folder: Path) -> bytes:
    """An image file of that content type, without loss. Shapes: array (H, W, C)."""
    path = folder / f"{secrets.token_hex(8)}{FILES[kind]}"
    try:
        write_image(path, array)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def as_json(made: Translated, *, seed: int, milliseconds: float) -> bytes:
    """Pictures for the eye as PNG in base64, the patch map as numbers."""
    height, width = made.pictures[0].shape[:2]
    body: dict[str, Any] = {
        "width": width,
        "height": height,
        "seed": seed,
        "milliseconds": round(milliseconds, 1),
        "images": [_png(picture) for picture in made.pictures],
        "mean": None,
        "spread": None,
        "most_spread": None,
        "patch_map": None,
    }
    if len(made.pictures) > 1:
        most = float(np.nanmax(np.asarray(made.samples.spread, np.float64).mean(axis=2)))
        body |= {"mean": _png(made.mean), "spread": _png(made.spread), "most_spread": most}
    if made.patches is not None:
        rows, columns = made.patches.shape
        values = [round(float(value), 4) for value in made.patches.ravel()]
        body["patch_map"] = {"width": columns, "height": rows, "values": values}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def _png(picture: Rgb) -> str:
    return base64.b64encode(png(picture)).decode()


def png(picture: Rgb) -> bytes:
    """A PNG for the wire: level 1 takes a third of the time of the default."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG", compress_level=1)
    return out.getvalue()
