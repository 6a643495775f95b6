"""Radial power spectra of outputs and targets: is it blurred, is it noisy, does it have a checkerboard?"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pairloom.evaluation.sets import COARSEST_PX, ImageSetError, check_channels, check_images

BINS = 64
"""Radial frequencies from 0 to 0.5 cycles/px are told apart this finely."""
BANDS = ((1 / 32, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2))
"""Octaves that a report names, in cycles/px; the last is fine detail."""
FLOOR = (2 / 255) ** 2 / 12
"""Power of rounding to 8 bits: what lies below it cannot be seen, nor what is missing from it."""
BLUR_DB = 3.0
"""Fine detail that differs by more has less than half, or more than twice, the targets' power."""
PERIODS_PX = (2, 4, 8)
"""Of the grids that one, two and three stride-2 transposed convolutions leave."""
LEAST_GRID_PX = 64
"""Shorter side of the images in which a grid can be told from its surroundings."""
GRID_DB = 6.0
"""A grid stands out from its surroundings by this much more than in the targets."""
GRID_ERRORS = 4.0
"""Nine waves are looked at: by chance one of them stands out so far in one comparison of 3000."""
GRID_LEVELS = 0.1
"""A grid weaker than this (root mean square, in 8-bit grey levels) is not reported: rounding hides it."""


class Spectrum:
    """Collects the power of each image by radial frequency, and how far grids stand out of it.

    Images are cut to multiples of 8 px (so that a grid falls on whole frequencies), freed of their mean,
    and faded out to the border (Hann), which else would look like fine detail.

    Attributes:
        images: How many have been added.
        channels: Theirs; 0 before the first.
    """

    def __init__(self) -> None:
        self.images, self.channels = 0, 0
        self._sum = torch.zeros(BINS, dtype=torch.float64)
        self._count = torch.zeros(BINS, dtype=torch.float64)
        self._grids: list[Tensor] = []

    def add(self, images: Tensor) -> None:
        """Take the spectrum of each image.

        Shapes: images (N, C, H, W), of any size from 16 px; sizes may differ between calls.
        Units: [-1, 1].

        Raises:
            ImageSetError: A side is below 16 px, or the channels are not those of the images before.
        """
        check_images(images)
        check_channels(images, self.channels)
        height, width = (side // 8 * 8 for side in images.shape[-2:])
        if min(height, width) < COARSEST_PX:
            raise ImageSetError(
                f"A side of the images is {min(images.shape[-2:])} px; spectra need {COARSEST_PX} or more."
            )
        window, radius, weights = _plane(height, width)
        x = images[..., :height, :width].detach().cpu().double()
        x = (x - (x * window).sum((2, 3), keepdim=True) / window.sum()) * window
        power = torch.fft.rfft2(x).abs().square().mean(1).flatten(1) / window.square().sum()
        total = torch.zeros(len(x), BINS + 1, dtype=torch.float64).index_add_(1, radius, power * weights)
        count = torch.zeros(BINS + 1, dtype=torch.float64).index_add_(0, radius, weights)[:BINS]
        self._sum += (total[:, :BINS] / count.clamp_min(1) + FLOOR).log10().mul(10).sum(0) * (count > 0)
        self._count += len(x) * (count > 0)
        if min(height, width) >= LEAST_GRID_PX:
            self._grids.append(_grids(power, height, width))
        self.channels = images.shape[1]
        self.images += len(x)

    @property
    def frequencies(self) -> Tensor:
        """Centres of the bins. Shapes: -> (64,). Units: cycles/px."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (0.5 / BINS)

    @property
    def decibels(self) -> Tensor:
        """Mean over the images of the power, each in decibels; NaN where no image has that frequency.

        Shapes: -> (64,).
        Units: dB; white noise of variance 1 is at 0 dB at every frequency.
        """
        return self._sum / self._count.where(self._count > 0, math.nan)

    @property
    def grids(self) -> Tensor:
        """How far the grids of each image stand out.

        Shapes: -> (images of 64 px and more, 2, periods, 3 ways to lie: in rows, in columns, in both).
        Units: [:, 0] dB above the surroundings; [:, 1] variance above them, of the [-1, 1] scale.
        """
        return torch.cat(self._grids) if self._grids else torch.zeros(0, 2, len(PERIODS_PX), 3)


@lru_cache(maxsize=16)
def _plane(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hann window (H, W); bin and weight of each frequency of the half plane that rfft2 gives, flattened.

    Frequencies beyond 0.5 cycles/px, in the corners, go to bin 64, which is not read.
    """
    hann = [torch.hann_window(side, dtype=torch.float64) for side in (height, width)]
    y, x = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    radius = torch.hypot(y[:, None], x[None])
    # 0.5 itself belongs to the last bin.
    bins = torch.where(radius > 0.5, BINS, (radius * 2 * BINS).long().clamp_max(BINS - 1))
    weights = torch.full_like(radius, 2.0)  # a frequency and its mirror image in the other half
    weights[:, 0] = weights[:, -1] = 1.0
    return hann[0][:, None] * hann[1][None], bins.flatten(), weights.flatten()


def _grids(power: Tensor, height: int, width: int) -> Tensor:
    """See `Spectrum.grids`. Shapes: power (N, H * (W/2 + 1)) -> (N, 2, periods, 3)."""
    peaks, around, share = _grid_points(height, width)
    peak, near = power[:, peaks] + FLOOR, power[:, around] + FLOOR
    above = 10 * (peak.log10().mean(-1) - near.log10().mean(-1))
    # What the window takes from a wave, it takes from (sum w)^2 / sum w^2 of its power: Hann's is (2/3)^2 HW.
    excess = (peak.mean(-1) - near.mean(-1)) * share / (height * width * 4 / 9)
    return torch.stack([above, excess], dim=1)


@lru_cache(maxsize=16)
def _grid_points(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where in the flattened half plane a grid's power lies, and where its surroundings.

    The surroundings of a wave along an axis are on that axis alone: edges of walls and windows fill the axes.
    They begin two frequencies away, as the Hann window spreads a wave over its two neighbours.

    Shapes: peaks (periods, 3, 2), surroundings (periods, 3, 32), waves per peak (periods, 3).
    """

    def flat(y: int, x: int) -> int:
        y, x = y % height, x % width
        if x > width // 2:  # the other half plane mirrors this one
            y, x = -y % height, width - x
        return y * (width // 2 + 1) + x

    steps = [d for k in range(2, 6) for d in (-k, k)]
    peaks, around, share = [], [], []
    for period in PERIODS_PX:
        fy, fx = height // period, width // period
        for points in ([(fy, 0)] * 2, [(0, fx)] * 2, [(fy, fx), (fy, -fx)]):
            peaks.append([flat(*point) for point in points])
            along_y = [flat(y + d, x) for y, x in points for d in steps if y]
            along_x = [flat(y, x + d) for y, x in points for d in steps if x]
            around.append((along_y + along_x) * (1 if along_y and along_x else 2))
            # Period 2 is its own mirror image; other waves have two halves, and the diagonals are two waves.
            share.append(1.0 if period == 2 else 4.0 if along_y and along_x else 2.0)
    shape = (len(PERIODS_PX), 3, -1)
    return (
        torch.tensor(peaks).view(shape),
        torch.tensor(around).view(shape),
        torch.tensor(share, dtype=torch.float64).view(shape[:2]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectrumReport:
    """How the outputs' power is spread over frequencies, beside the targets'."""

    bands: dict[str, float]
    """By octave ("1/8 to 1/4" cycles/px), dB of the outputs over the targets."""
    fine_db: float
    """Of the finest octave, above 1/4 cycles/px: below -3 the outputs are blurred, above 3 noisy."""
    grids_db: dict[str, float]
    """By period in px, dB by which a grid stands out more than in the targets; empty for small images."""
    grids_levels: dict[str, float]
    """By period in px, the strength of the outputs' grid: root mean square, 8-bit grey levels."""
    grids_found: tuple[int, ...]
    """Periods in px of the grids that the outputs have and the targets lack."""
    sentences: tuple[str, ...]
    """What a reader must know."""

    @property
    def blurred(self) -> bool:
        """Do the outputs lack half of the targets' fine detail, or more?"""
        return self.fine_db < -BLUR_DB

    def words(self) -> str:
        """The bands in one line, and the sentences."""
        bands = ", ".join(f"{name}: {value:+z.1f} dB" for name, value in self.bands.items())
        return "\n".join([f"Power over the targets', by cycles/px: {bands}.", *self.sentences]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "grids_found": list(self.grids_found)} | {
            "sentences": list(self.sentences)
        }


def spectrum_report(outputs: Spectrum, targets: Spectrum) -> SpectrumReport:
    """Are the outputs blurred, noisy, or laid over with a grid?

    A grid is reported when its waves stand out of their surroundings by 6 dB and 5 standard errors more than
    in the targets (whose JPEG blocks may have period 8), and amount to a tenth of a grey level.

    Units: decibels; cycles/px.

    Raises:
        ImageSetError: A set is empty, or the channels or sizes do not match.
    """
    if not outputs.images or not targets.images:
        raise ImageSetError("A spectrum has no images; add at least 1 to each of the two.")
    if outputs.channels != targets.channels:
        raise ImageSetError(
            f"The outputs have {outputs.channels} channels and the targets {targets.channels}; give one kind."
        )
    ratio = outputs.decibels - targets.decibels
    bands = {}
    for low, high in BANDS:
        inside = (outputs.frequencies > low) & (outputs.frequencies < high) & ratio.isfinite()
        if inside.any():  # a small image has no low frequencies
            bands[f"1/{1 / low:.0f} to 1/{1 / high:.0f}"] = float(ratio[inside].mean())
    if not bands:
        raise ImageSetError("The outputs and targets have no frequency in common; give images of one size.")
    fine = list(bands.values())[-1]
    above, levels, found = _stand_out(outputs.grids, targets.grids)
    sentences = (_fine_in_words(fine), _grids_in_words(above, levels, found))
    return SpectrumReport(
        bands=bands,
        fine_db=fine,
        grids_db={str(period): value for period, value in above.items()},
        grids_levels={str(period): value for period, value in levels.items()},
        grids_found=found,
        sentences=sentences,
    )


def _stand_out(
    outputs: Tensor, targets: Tensor
) -> tuple[dict[int, float], dict[int, float], tuple[int, ...]]:
    """By period: dB above the targets' of the grid that is surest, its strength, and which are found.

    Shapes: outputs, targets (N, 2, periods, 3), N may differ.
    """
    if not len(outputs) or not len(targets):
        return {}, {}, ()
    above = outputs[:, 0].mean(0) - targets[:, 0].mean(0)
    error = (_squared_error(outputs[:, 0]) + _squared_error(targets[:, 0])).sqrt()
    levels = outputs[:, 1].mean(0).clamp_min(0).sqrt() * 127.5
    sure = (above > GRID_DB) & (above > GRID_ERRORS * error) & (levels > GRID_LEVELS)
    best = (above / error + 1e6 * sure).argmax(1, keepdim=True)
    columns = (above.gather(1, best), levels.gather(1, best))
    named = [dict(zip(PERIODS_PX, column.flatten().tolist(), strict=True)) for column in columns]
    found = tuple(period for period, row in zip(PERIODS_PX, sure.tolist(), strict=True) if any(row))
    return named[0], named[1], found


def _squared_error(values: Tensor) -> Tensor:
    """Squared standard error of the mean over images. Shapes: (N, ...) -> (...)."""
    # Of one frequency of noise the power in dB deviates by 5.6, and at period 2, where it is real, by 9.6;
    # with its surroundings' own deviation that is about 6.5 and 10: few images may deviate less by chance.
    least = torch.tensor([10.0] + [6.5] * (len(PERIODS_PX) - 1), dtype=values.dtype)[:, None].square()
    variance = values.var(0) if len(values) > 1 else torch.zeros_like(values[0])
    return torch.maximum(variance, least) / len(values)


def _fine_in_words(fine: float) -> str:
    amount = f"Above 1/4 cycles/px the outputs have {abs(fine):.1f} dB {'less' if fine < 0 else 'more'} power"
    if fine < -BLUR_DB:
        return f"{amount} than the targets: they are blurred."
    if fine > BLUR_DB:
        return f"{amount} than the targets: they carry noise or a grid that the targets lack."
    return f"{amount} than the targets, within {BLUR_DB:g} dB: neither blurred nor noisy."


def _grids_in_words(above: dict[int, float], levels: dict[int, float], found: tuple[int, ...]) -> str:
    if not above:
        return f"No grid was looked for: that needs images of {LEAST_GRID_PX} px or more."
    if not found:
        return "No grid of period 2, 4 or 8 px that the targets lack: no checkerboard."
    each = [f"{period} px ({above[period]:.0f} dB, {levels[period]:.1f} grey levels)" for period in found]
    listed = " and ".join([", ".join(each[:-1]), each[-1]] if len(each) > 1 else each)
    return (
        f"The outputs carry a grid that the targets lack, of period {listed}: a checkerboard, as stride-2 "
        'transposed convolutions leave; generator.upsample = "resize" avoids it.'
    )
