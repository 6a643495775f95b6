"""How one image lies against another of the same thing: the shift, or the affine map, and how sure that is.

What is compared is the direction of edges, not their brightness: a photo, its negative and its label map have
their edges at the same places and of the same direction, and little else in common. Where two images share
no edges, the mutual information of their brightness decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage

from pairloom import images
from pairloom.pixels import Array

Floats = NDArray[np.float64]
Orientation = NDArray[np.complex128]
Model = Literal["shift", "affine"]
Evidence = Literal["edges", "mutual information"]

SEARCH_PX = 256
"""The search for the shift sees images whose longer side is at most this."""
REFINE_PX = 512
"""... and the refinement to fractions of a pixel at most this."""
SMALLEST_PX = 16
"""Images with a shorter side cannot be registered."""
SURE = {"edges": 1.5, "mutual information": 2.0}
"""An estimate counts when its peak is so many times the highest one elsewhere (docs/align.md: what errs)."""
ANGLES = (-6.0, -3.0, 0.0, 3.0, 6.0)
"""Degrees that the search for an affine map starts from; the refinement finds what lies between."""
SCALES = (0.92, 0.96, 1.0, 1.04, 1.08)
"""... and magnifications."""
_BINS = 8
"""Levels of brightness, equally frequent, whose coincidence mutual information counts."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Where the pixels of the target lie in the source: q = centre + matrix (p - centre) + offset.

    Units: pixels of the target, (down, right); the centre is that of the image, ((H - 1) / 2, (W - 1) / 2).
    """

    matrix: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def shift(self) -> tuple[float, float]:
        """How far the source's content moves at the centre, (down, right), to lie on the target."""
        return -self.offset[0], -self.offset[1]

    def apply(self, points: Floats, size: tuple[int, int]) -> Floats:
        """Positions in the source. Shapes: (2, ...) target positions -> (2, ...)."""
        centre, offset = (
            (np.array(v)).reshape(2, *[1] * (points.ndim - 1)) for v in (_centre(size), self.offset)
        )
        moved: Floats = np.tensordot(np.array(self.matrix), points - centre, axes=1) + centre + offset
        return moved

    def scaled(self, factor: float) -> Motion:
        """The same motion of images that are `factor` times as large."""
        return Motion(self.matrix, (self.offset[0] * factor, self.offset[1] * factor))

    def length(self, size: tuple[int, int]) -> float:
        """The largest distance that a corner moves, in target pixels."""
        (height, width) = size
        corners = np.array([(0, 0, height - 1, height - 1), (0, width - 1, 0, width - 1)], np.float64)
        return float(np.hypot(*(self.apply(corners, size) - corners)).max())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A motion, on what evidence, and the confidence in it.

    `confidence` is the height of the peak over the highest one elsewhere, each above the middle of the
    surface: 1 is a draw, `SURE` what counts.
    """

    motion: Motion
    confidence: float
    evidence: Evidence = "edges"

    @property
    def sure(self) -> bool:
        """Whether the confidence reaches the threshold of its evidence."""
        return self.confidence >= SURE[self.evidence]


def register(source: Array, target: Array, *, model: Model = "shift", most_px: float) -> Estimate | None:
    """Where the source lies against a target of the same size.

    Source: phase correlation (Kuglin and Hines 1975) of edge directions at double angle, partly whitened;
    refined by the enhanced correlation coefficient (Evangelidis and Psarakis 2008).
    Shapes: (H, W, C) and (H, W, C').
    Units: file values of any range in; target pixels out.

    Args:
        source: What is to be moved.
        target: What stays.
        model: shift, or affine: shift, rotation, magnification and shear.
        most_px: Shifts at the centre further than this, in target pixels, are not looked for.

    Returns:
        None when the images are smaller than `SMALLEST_PX`, or one has no edges at all.
    """
    size = target.shape[:2]
    factor = max(1.0, max(size) / SEARCH_PX)
    if min(size) / factor < SMALLEST_PX:
        return None
    small = [_reduced(side, SEARCH_PX) for side in (source, target)]
    first, second = (_orientation(side) for side in small)
    if not first.any() or not second.any():
        return None
    motion = _coarse_affine(source, target, most_px) if model == "affine" else Motion()
    moved = _moved(first, motion.scaled(1 / factor))
    shift, confidence = _peak(_correlation(moved, second), most_px / factor)
    estimate = Estimate(_with_shift(motion, shift).scaled(factor), confidence)
    if model == "shift" and not estimate.sure:
        found = _by_information(source, target, most_px)
        return found if found.sure else estimate
    motion = estimate.motion
    for side_px in sorted({min(px, max(size)) for px in (SEARCH_PX // 2, SEARCH_PX, REFINE_PX)}):
        motion = _refined(source, target, motion, side_px, affine=model == "affine")
    if model == "affine":  # the peak stands out once turned
        moved = _moved(first, motion.scaled(1 / factor))
        shift, confidence = _peak(_correlation(moved, second), most_px / factor)
        if math.hypot(*shift) > 1:  # the refinement ran away from it
            confidence = min(confidence, 1.0)
    return Estimate(motion, confidence)


# -----------------------------------------------------------------------------------------------------------
# What is compared


def _reduced(array: Array, longest_px: int) -> Floats:
    """(H, W, C) -> (C, h, w), at most `longest_px` long."""
    height, width = array.shape[:2]
    factor = max(1.0, max(height, width) / longest_px)
    tensor = torch.from_numpy(array.astype(np.float32).transpose(2, 0, 1).copy())
    size = max(1, round(height / factor)), max(1, round(width / factor))
    small: Floats = images.resize(tensor, size, labels=False).double().numpy()
    return small


def _orientation(channels: Floats) -> Orientation:
    """Direction of the edges at double angle, which a negative leaves as it is, times their strength, 0 to 1.

    Shapes: (C, H, W) -> (H, W).
    """
    total: Orientation = np.zeros(channels.shape[1:], np.complex128)
    for channel in channels:
        down, right = (ndimage.gaussian_filter(channel, 1.0, order=order) for order in ((1, 0), (0, 1)))
        total += (right + 1j * down) ** 2
    strength = np.sqrt(np.abs(total))
    if strength.max() <= 1e-9 * max(1.0, float(np.abs(channels).max())):
        return np.zeros_like(total)
    # Saturating: a faint edge says nearly as much about places as a strong one.
    directions: Orientation = total / np.maximum(np.abs(total), 1e-300)
    directions *= strength / (strength + strength.mean())
    return directions


def _correlation(first: Orientation, second: Orientation) -> Floats:
    """How well each shift of `second` against `first` fits; no shift stands at the centre, size // 2."""
    fade = np.outer(*(np.hanning(side + 2)[1:-1] for side in first.shape))
    spectra = [fft.fft2((side - side.mean()) * fade) for side in (first, second)]
    spectrum = spectra[1] * np.conj(spectra[0])
    strength = np.abs(spectrum) ** 0.85
    down, right = fft.fftfreq(first.shape[0])[:, None], fft.fftfreq(first.shape[1])[None]
    # Whitened, then smoothed: edges of two renderings of a thing agree in place, not in profile.
    smooth = np.exp(-2 * np.pi**2 * (down**2 + right**2) * 1.5**2)
    surface: Floats = fft.ifft2(spectrum / (strength + 1e-9 * strength.max()) * smooth).real
    return fft.fftshift(surface)  # type: ignore[no-any-return]


def _peak(surface: Floats, most: float) -> tuple[tuple[float, float], float]:
    """The best shift (down, right) of at most `most`, and its confidence against all up to a third."""
    middle = [side // 2 for side in surface.shape]
    reach = [side // 3 for side in surface.shape]
    window = surface[tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))]
    down, right = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    allowed = down**2 + right**2 <= max(most, 1.0) ** 2
    y, x = (int(v) for v in np.unravel_index(np.where(allowed, window, -np.inf).argmax(), window.shape))
    tops = window == ndimage.maximum_filter(window, 9)
    tops[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = False
    floor = float(np.median(window))
    others = float(window[tops].max()) if tops.any() else floor
    height = float(window[y, x]) - floor
    confidence = min(height / max(others - floor, 0.01 * abs(height), 1e-12), 99.0)
    shift = y - reach[0] + _vertex(window[:, x], y), x - reach[1] + _vertex(window[y], x)
    return shift, confidence


def _vertex(values: Floats, at: int) -> float:
    """Offset of the top of the parabola through a maximum and its two neighbours; 0 at a flank."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, top, after = (float(v) for v in values[at - 1 : at + 2])
    bend = before - 2 * top + after
    return 0.5 * (before - after) / bend if bend < 0 and max(before, after) <= top else 0.0


# -----------------------------------------------------------------------------------------------------------
# Mutual information


def _by_information(source: Array, target: Array, most_px: float) -> Estimate:
    """The shift at which the brightness of one image tells most about that of the other."""
    factor = max(1.0, max(target.shape[:2]) / (SEARCH_PX // 2))
    levels = [_levels(_reduced(side, SEARCH_PX // 2).mean(axis=0)) for side in (source, target)]
    surface = ndimage.gaussian_filter(_information(*levels), 1.5)  # broad, with noise on its flanks
    shift, confidence = _peak(surface, most_px / factor)
    return Estimate(_with_shift(Motion(), shift).scaled(factor), confidence, "mutual information")


def _levels(grey: Floats) -> NDArray[np.intp]:
    smooth = ndimage.gaussian_filter(grey, 2.0)
    edges = np.unique(np.quantile(smooth, np.linspace(0, 1, _BINS + 1)[1:-1]))
    levels: NDArray[np.intp] = np.digitize(smooth, edges)
    return levels


def _information(first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
    """Mutual information in nats at every shift, no shift at the centre.

    The joint histogram of all shifts at once: each of its cells is a correlation of two indicator images.
    """
    height, width = first.shape
    size = fft.next_fast_len(2 * height, real=True), fft.next_fast_len(2 * width, real=True)

    def spectra(levels: NDArray[np.intp]) -> list[Any]:
        return [fft.rfft2(levels == n, s=size) for n in range(_BINS)]

    rows, columns = (
        np.arange(-(height // 2), height - height // 2),
        np.arange(-(width // 2), width - width // 2),
    )
    ones, others = spectra(first), spectra(second)
    shape = (height, width)
    of_first, of_second = np.zeros((_BINS, *shape)), np.zeros((_BINS, *shape))
    joint = np.zeros(shape)
    for i, one in enumerate(ones):
        for j, other in enumerate(others):
            count = np.rint(fft.irfft2(np.conj(one) * other, s=size)[np.ix_(rows, columns)])
            of_first[i] += count
            of_second[j] += count
            joint += _x_log_x(count)
    pixels = of_first.sum(axis=0)
    sides = _x_log_x(of_first).sum(axis=0) + _x_log_x(of_second).sum(axis=0)
    information: Floats = (joint - sides) / pixels + np.log(pixels)
    return information


def _x_log_x(counts: Floats) -> Floats:
    found: Floats = counts * np.log(np.maximum(counts, 1.0))
    return found


# -----------------------------------------------------------------------------------------------------------
# Motion


def _centre(size: tuple[int, int]) -> tuple[float, float]:
    return (size[0] - 1) / 2, (size[1] - 1) / 2


def _with_shift(motion: Motion, shift: tuple[float, float]) -> Motion:
    """The motion, after which the content of the source moves on by `shift`."""
    offset = np.array(motion.offset) - np.array(motion.matrix) @ np.array(shift)
    return Motion(motion.matrix, (float(offset[0]), float(offset[1])))


def _moved(image: Orientation, motion: Motion) -> Orientation:
    if motion == Motion():
        return image
    at = motion.apply(np.indices(image.shape).astype(np.float64), (image.shape[0], image.shape[1]))
    moved: Orientation = ndimage.map_coordinates(image, at, order=1, mode="constant")
    return moved


def _coarse_affine(source: Array, target: Array, most_px: float) -> Motion:
    """The best of a few rotations and magnifications, without its shift."""
    factor = max(1.0, max(target.shape[:2]) / (SEARCH_PX // 2))
    first, second = (_orientation(_reduced(side, SEARCH_PX // 2)) for side in (source, target))
    best, best_height = Motion(), -math.inf
    for angle in ANGLES:
        for scale in SCALES:
            cosine, sine = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
            motion = Motion(((cosine, sine), (-sine, cosine)))
            surface = _correlation(_moved(first, motion), second)
            (down, right), _ = _peak(surface, most_px / factor)
            middle = surface.shape[0] // 2 + round(down), surface.shape[1] // 2 + round(right)
            if surface[middle] > best_height:
                best, best_height = motion, float(surface[middle])
    return best


def _refined(source: Array, target: Array, motion: Motion, side_px: int, *, affine: bool) -> Motion:
    """The motion that maximises the correlation of the edges, near the one given."""
    factor = max(1.0, max(target.shape[:2]) / side_px)
    first, second = (_orientation(_reduced(side, side_px)) for side in (source, target))
    fields = (first, *np.gradient(first))
    found = start = motion.scaled(1 / factor)
    step, before = _ecc_step(fields, second, start, affine)
    score = before
    for _ in range(20):
        change = _difference(step, found, second.shape)
        if change > 4:  # a step that long left the linear neighbourhood
            break
        found = step
        step, score = _ecc_step(fields, second, found, affine)
        if change < 0.005:
            break
    return found.scaled(factor) if score >= before else motion


def _difference(one: Motion, other: Motion, shape: tuple[int, ...]) -> float:
    corners = np.array([(0, 0, shape[0], shape[0]), (0, shape[1], 0, shape[1])], np.float64)
    size = shape[0], shape[1]
    return float(np.hypot(*(one.apply(corners, size) - other.apply(corners, size))).max())


def _ecc_step(
    fields: tuple[Orientation, ...], second: Orientation, motion: Motion, affine: bool
) -> tuple[Motion, float]:
    """One step that increases the correlation coefficient, and the coefficient before it.

    `fields` are the moving image and its derivatives down and right.
    """
    size = (second.shape[0], second.shape[1])
    grid = np.indices(size).astype(np.float64)
    at = motion.apply(grid, size)
    inside = np.all([(a >= 1) & (a <= side - 2) for a, side in zip(at, size, strict=True)], axis=0)
    if inside.sum() < 64:
        return motion, -1.0
    at = at[:, inside]
    warped, down, right = (ndimage.map_coordinates(field, at, order=1) for field in fields)
    columns = [down, right]
    if affine:
        y, x = (g[inside] - c for g, c in zip(grid, _centre(size), strict=True))
        columns += [down * y, down * x, right * y, right * x]
    jacobian = np.stack([_real(column) for column in columns], axis=1)
    jacobian -= jacobian.mean(axis=0)
    w, t = _real(warped), _real(second[inside])
    w, t = w - w.mean(), t - t.mean()
    norm = float(np.linalg.norm(w) * np.linalg.norm(t))
    if norm == 0:
        return motion, -1.0
    hessian = jacobian.T @ jacobian
    hessian += 1e-9 * np.diag(np.diag(hessian) + 1e-12)
    jw, jt = jacobian.T @ w, jacobian.T @ t
    solved_w, solved_t = np.linalg.solve(hessian, jw), np.linalg.solve(hessian, jt)
    below = float(t @ w - jt @ solved_w)
    gain = float(w @ w - jw @ solved_w) / below if below > 1e-9 * norm else 1.0
    step = gain * solved_t - solved_w
    matrix = np.array(motion.matrix) + (step[2:].reshape(2, 2) if affine else 0)
    rows = tuple((float(a), float(b)) for a, b in matrix)
    offset = motion.offset[0] + float(step[0]), motion.offset[1] + float(step[1])
    return Motion((rows[0], rows[1]), offset), float(w @ t) / norm


def _real(values: Orientation) -> Floats:
    """Complex values as twice as many real ones."""
    return np.concatenate([values.real, values.imag])
