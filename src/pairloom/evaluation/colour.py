"""Do the outputs have the targets' colours? Lab histograms of a set, their intersections, and their figure.

Source: Figure 7 of the paper: the marginal distributions of L, a and b over all pixels of the Cityscapes set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from skimage.color import rgb2lab
from torch import Tensor

from pairloom.evaluation.sets import ImageSetError, check_images

RANGES = {"L": (0, 100), "a": (-110, 110), "b": (-110, 110)}
"""Of the bins, each one unit wide; sRGB reaches from -86 to 98 in a and from -108 to 94 in b."""
RAREST = -6
"""The figure ends at this power of ten: one pixel in a million."""


class LabHistogram:
    """Collects how often each L, a and b occurs among the pixels of a set.

    Deviation: the paper leaves the bins open; they are 1 unit wide here. Finer bins lower an intersection.

    Attributes:
        images: How many have been added.
        counts: By channel, pixels in each bin: 100 of L, 220 of a and of b.

    Source: Figure 7.
    """

    def __init__(self) -> None:
        self.images = 0
        self.counts: dict[str, NDArray[np.int64]] = {
            name: np.zeros(high - low, np.int64) for name, (low, high) in RANGES.items()
        }

    def add(self, images: Tensor, valid: Tensor | None = None) -> None:
        """Count the pixels of some images.

        Shapes: images (N, 3, H, W), of any size; valid (N, 1, H, W), the pixels that count.
        Units: [-1, 1], sRGB, clipped; Lab is of the D65 white, 2 degree observer.

        Raises:
            ImageSetError: The images do not have 3 channels.
        """
        check_images(images)
        if images.shape[1] != 3:
            raise ImageSetError(
                f"The images have {images.shape[1]} channel{'s' * (images.shape[1] != 1)}; colours need the "
                "3 of RGB: leave the colour histograms out."
            )
        for number, image in enumerate(images.detach().cpu().float()):
            rgb = (image.permute(1, 2, 0).numpy().clip(-1, 1) + 1) / 2
            if valid is not None:
                rgb = rgb[valid[number, 0].cpu().numpy() > 0][None]
            for (name, (low, high)), values in zip(
                RANGES.items(), rgb2lab(rgb).reshape(-1, 3).T, strict=True
            ):
                # White is 100.0000x by rounding, and 100 itself belongs to the last bin.
                bins = np.floor(values - low).astype(np.intp).clip(0, high - low - 1)
                self.counts[name] += np.bincount(bins, minlength=high - low)
        self.images += len(images)

    @property
    def probabilities(self) -> dict[str, NDArray[np.float64]]:
        """By channel, the share of the pixels in each bin.

        Raises:
            ImageSetError: There are no images yet.
        """
        if not self.images:
            raise ImageSetError("A colour histogram has no images; add at least 1.")
        return {name: counts / counts.sum() for name, counts in self.counts.items()}


def intersection(p: LabHistogram, q: LabHistogram) -> dict[str, float]:
    """How far two sets share their L, a and b: sum of min(p, q) over the bins.

    Common colours decide it; rare ones show in `figure` only.

    Source: Figure 7 (d).
    Units: 0, nothing in common, to 1, the same.

    Raises:
        ImageSetError: One of them has no images.
    """
    first, second = p.probabilities, q.probabilities
    return {name: float(np.minimum(first[name], second[name]).sum()) for name in RANGES}


# ------------------------------------------------------------------------------------------------------------
# The figure

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 150, 118, 26, 24, 16
"""Of one frame, and the room around it, in px of the drawing; text is as large as in the other charts."""
_STYLES = ("var(--c1)", ""), ("var(--c2)", "4 2"), ("var(--ink-2)", ""), ("var(--c1)", "6 1.5 1 1.5")
"""Colour and dashes of the curves, in turn; the truth is dotted."""
_DOTTED = ("var(--ink)", "0.1 2.6")


def figure(histograms: Mapping[str, LabHistogram], truth: str) -> Markup:
    """The three log-probability curves of each set as inline SVG in the page's colours.

    What is rarer than one pixel in a million lies on the bottom line.

    Args:
        histograms: By the name that the legend gives.
        truth: Which of the names is the targets', dotted and drawn on top.

    Source: Figure 7 (a) to (c).

    Raises:
        ImageSetError: There is no histogram of that name, or one has no images.
    """
    if truth not in histograms:
        raise ImageSetError(f"{truth!r} is not among the histograms {sorted(histograms)}; name one of them.")
    powers = {
        name: {key: np.log10(np.maximum(p, 10.0**RAREST)) for key, p in histogram.probabilities.items()}
        for name, histogram in histograms.items()
    }
    styles = dict(zip((name for name in powers if name != truth), cycle(_STYLES), strict=False))
    styles[truth] = _DOTTED  # last, so drawn on top
    parts = [
        f'<svg viewBox="0 0 {_LEFT + 3 * _WIDTH + 2 * _GAP + 6} {_TOP + _HEIGHT + 28}" role="img" '
        'font-size="8" fill="var(--ink-2)" '
        f'aria-label="Log-probability of L, a and b: {escape(", ".join(styles))}">',
        *_legend(styles),
    ]
    for number, channel in enumerate(RANGES):
        left = _LEFT + number * (_WIDTH + _GAP)
        parts += _frame(left, labelled=number == 0)
        parts += _curves(channel, {name: powers[name][channel] for name in styles}, styles, left)
    return Markup("".join([*parts, "</svg>"]))


def _legend(styles: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    x = float(_LEFT)
    for name, style in styles.items():
        yield f'<path d="M{x:g} 7h18" {_stroke(style)}/><text x="{x + 22:g}" y="10">{escape(name)}</text>'
        x += 34 + 4.4 * len(name)


def _stroke(style: tuple[str, str]) -> str:
    colour, dashes = style
    width, cap = (1.7, "round") if style == _DOTTED else (1.3, "butt")
    dashed = f' stroke-dasharray="{dashes}" stroke-linecap="{cap}"' if dashes else ""
    return f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"{dashed}'


def _down(power: float) -> float:
    return _TOP + _HEIGHT * power / RAREST


def _frame(left: int, *, labelled: bool) -> Iterator[str]:
    """A line for each second power of ten, which the first frame names."""
    for power in range(RAREST, 1, 2):
        y = _down(power)
        yield f'<path d="M{left} {y:.1f}h{_WIDTH}" stroke="var(--line)" stroke-width=".6"/>'
        if labelled:
            raised = f'10<tspan dy="-3" font-size="6">{_number(power)}</tspan>' if power else "1"
            yield f'<text x="{left - 4}" y="{y + 3:.1f}" text-anchor="end">{raised}</text>'


def _curves(
    channel: str,
    curves: Mapping[str, NDArray[np.float64]],
    styles: Mapping[str, tuple[str, str]],
    left: int,
) -> Iterator[str]:
    """The ticks of one channel and its curves, over those values only that occur."""
    first = RANGES[channel][0]
    occurring = np.flatnonzero(np.max(list(curves.values()), axis=0) > RAREST)
    low = first + int(occurring[0]) // 10 * 10
    high = first + -(-int(occurring[-1] + 1) // 10) * 10
    scale = _WIDTH / (high - low)
    bottom = _TOP + _HEIGHT
    step = next(step for step in (5, 10, 20, 50) if (high - low) / step <= 6)
    for value in range(-(-low // step) * step, high + 1, step):
        x = left + (value - low) * scale
        yield f'<text x="{x:.1f}" y="{bottom + 12}" text-anchor="middle">{_number(value)}</text>'
    yield f'<text x="{left + _WIDTH / 2:g}" y="{bottom + 24}" text-anchor="middle">{channel}</text>'
    for name, style in styles.items():
        points = (
            f"{left + (value + 0.5 - low) * scale:.1f} {_down(curves[name][value - first]):.1f}"
            for value in range(low, high)
        )
        yield f'<path d="M{"L".join(points)}" {_stroke(style)}/>'


def _number(value: int) -> str:
    return str(value).replace("-", "\N{MINUS SIGN}")
