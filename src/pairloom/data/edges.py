"""Line drawings of photos: Canny's edges, or those of a network like HED, thinned and cleaned.

Source: the paper's code, `scripts/edges/PostprocessHED.m`: non-maximum suppression, threshold 25/255,
thinning to one pixel, removal of components of fewer than 5 pixels, black lines on white.
"""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairloom.data.pairs import DataError

Edges = NDArray[np.bool_]
"""(H, W): where a line is."""
Plane = NDArray[np.float32]

THRESHOLD = 25 / 255
"""Of a network's edge probability."""
STRONGER = 1.01
"""An edge stays where its probability, times this, is at least that of its neighbours across the line."""
SMOOTHING_PX = 2.0
"""Blur of the probabilities in which the direction of a line is sought."""


def canny_edges(grey: Plane, *, sigma: float, least_px: int) -> Edges:
    """Canny's edges of a grey image, one pixel wide.

    Deviation: the paper took the edges of HED; see `model_edges`.
    Shapes: (H, W) -> (H, W).
    Units: 0 to 1.
    """
    from skimage.feature import canny

    return cleaned(canny(grey, sigma=sigma), least_px=least_px)


def model_edges(rgb: Plane, path: str, *, least_px: int) -> Edges:
    """The edges that a network finds, as the paper made them of HED's.

    Shapes: (3, H, W) -> (H, W).
    Units: 0 to 1.

    Raises:
        DataError: The file cannot be run, or gives something else than probabilities at every pixel.
    """
    probability = _probability(rgb, path)
    return cleaned(suppressed(probability) & (probability > THRESHOLD), least_px=least_px)


def suppressed(probability: Plane) -> Edges:
    """Non-maximum suppression: where a line is at least as probable as its neighbours to both sides.

    Source: `edgesNms` of P. Dollar's toolbox, which the paper used: the direction across a line is that in
    which the smoothed probabilities bend most.
    Shapes: (H, W) -> (H, W).
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    smooth = gaussian_filter(probability.astype(np.float64), SMOOTHING_PX)
    down, right = np.gradient(smooth) if min(smooth.shape) > 1 else (smooth * 0, smooth * 0)
    (yy, xy), (_, xx) = (np.gradient(g) if min(g.shape) > 1 else (g, g) for g in (down, right))
    # Of the Hessian's two directions the one with the larger curvature, up or down: on a crest it falls.
    upward = 0.5 * np.arctan2(2 * xy, xx - yy)
    across = np.where(xx + yy < 0, upward + np.pi / 2, upward)
    rows, columns = np.indices(probability.shape)
    kept = np.ones(probability.shape, np.bool_)
    for side in (-1, 1):
        place = rows + side * np.sin(across), columns + side * np.cos(across)
        kept &= probability * STRONGER >= map_coordinates(probability, place, order=1, mode="nearest")
    return kept


def cleaned(edges: Edges, *, least_px: int) -> Edges:
    """Thinned to one pixel, without components of fewer than `least_px`, diagonal neighbours being one."""
    from skimage.measure import label
    from skimage.morphology import thin

    components = label(thin(edges), connectivity=2)
    large = np.bincount(components.ravel()) >= least_px
    large[0] = False
    kept: Edges = large[components]
    return kept


# ------------------------------------------------------------------------------------------------------------
# The network


def _probability(rgb: Plane, path: str) -> Plane:
    session = _session(path, os.getpid())
    entry = session.get_inputs()[0]
    try:
        outputs = session.run(None, {entry.name: np.ascontiguousarray(rgb[None], np.float32)})
    except Exception as error:  # the runtime's own exceptions have no common base
        reason = str(error).splitlines()[0]
        raise DataError(
            f"data.edge_model: {path} cannot be run on a photo (1, 3, {rgb.shape[1]}, {rgb.shape[2]}) of "
            f"float32 ({reason}); export it with the input (N, 3, H, W), of any height and width."
        ) from error
    found = np.asarray(outputs[-1], np.float32)  # of HED, the fusion of all scales comes last
    plane = found.reshape(found.shape[-2:]) if found.size == rgb[0].size and found.ndim >= 2 else None
    if plane is None or plane.shape != rgb.shape[1:] or not (plane.min() >= 0 and plane.max() <= 1):
        raise DataError(
            f"data.edge_model: the last output of {path} has shape {found.shape} and values from "
            f"{found.min():.3g} to {found.max():.3g}; it must be (1, 1, {rgb.shape[1]}, {rgb.shape[2]}), "
            "probabilities from 0 to 1: end it with a sigmoid."
        )
    return plane


@lru_cache(maxsize=2)
def _session(path: str, process: int) -> Any:
    """One a process: a session does not survive a fork."""
    if not Path(path).is_file():
        raise DataError(f"data.edge_model: {path} does not exist.")
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DataError(
            f"data.edge_model: {path} needs the package onnxruntime, which is not installed; "
            "run: pip install onnxruntime"
        ) from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base
        raise DataError(f"data.edge_model: {path} is not an ONNX model that onnxruntime can read.") from error
