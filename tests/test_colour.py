"""Lab histograms against colours known by hand, and the figure against what it promises."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb
from torch import Tensor

from pairloom.data.sample import draw_pair
from pairloom.evaluation.colour import RANGES, LabHistogram, figure, intersection
from pairloom.evaluation.sets import ImageSetError


def flat(*rgb: int, size: int = 4) -> Tensor:
    """An image of one 8-bit colour. Shapes: -> (1, 3, size, size)."""
    return (torch.tensor(rgb) / 127.5 - 1).view(1, 3, 1, 1).expand(1, 3, size, size)


def histogram(*images: Tensor) -> LabHistogram:
    collected = LabHistogram()
    for image in images:
        collected.add(image)
    return collected


@pytest.mark.parametrize(
    ("rgb", "lab"),
    # Of D65, as tables of the sRGB primaries have them.
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((118, 118, 118), (49.6, None, None)),
        ((0, 0, 0), (0, None, None)),
        ((255, 255, 255), (99.9, None, None)),
    ],
)
def test_known_colours_fall_into_their_bins(
    rgb: tuple[int, ...], lab: tuple[float, float | None, float | None]
) -> None:
    found = histogram(flat(*rgb))
    for (name, (low, _)), value in zip(RANGES.items(), lab, strict=True):
        (bins,) = found.counts[name].nonzero()
        if value is None:  # grey: 0 but for rounding, which may fall on either side of the bins' edge
            assert set(bins + low) <= {-1, 0}
        else:
            assert bins.tolist() == [int(np.floor(value)) - low]
        assert found.counts[name].sum() == 16


def test_every_pixel_of_every_image_counts_once() -> None:
    images = torch.rand(3, 3, 20, 31, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, apart = histogram(images), histogram(*(image[None] for image in images.flip(0)))
    assert whole.images == apart.images == 3
    for name, share in whole.probabilities.items():
        assert (whole.counts[name] == apart.counts[name]).all()
        assert whole.counts[name].sum() == 3 * 20 * 31
        assert share.sum() == pytest.approx(1)


def test_all_of_srgb_lies_within_the_bins() -> None:
    levels = torch.linspace(-1, 1, 18)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(2)[None]
    found = histogram(cube)
    for name in ("a", "b"):
        assert found.counts[name][0] == found.counts[name][-1] == 0
    beyond = histogram(cube * 3)  # clipped
    assert beyond.counts["L"].sum() == 18**3


def test_intersections_by_hand() -> None:
    p, q = LabHistogram(), LabHistogram()
    p.images = q.images = 1
    for name, (mine, theirs) in {"L": ([3, 1], [1, 3]), "a": ([4, 0], [0, 4]), "b": ([1, 1], [5, 5])}.items():
        p.counts[name][:2], q.counts[name][:2] = mine, theirs
    assert intersection(p, q) == {"L": 0.5, "a": 0.0, "b": 1.0}
    assert intersection(p, q) == intersection(q, p)


def test_greying_moves_a_and_b_and_not_lightness() -> None:
    drawn = [torch.from_numpy(draw_pair(0, i, 96)[0]).permute(2, 0, 1)[None] / 127.5 - 1 for i in range(3)]
    targets = histogram(*drawn)
    assert intersection(targets, targets) == pytest.approx({"L": 1, "a": 1, "b": 1})
    lightness = np.linspace(1, 99, 64)
    grey = torch.from_numpy(lab2rgb(np.stack([lightness, 0 * lightness, 0 * lightness], axis=-1)[None]))
    red = torch.from_numpy(lab2rgb(np.stack([lightness, 0 * lightness + 5, 0 * lightness], axis=-1)[None]))
    shared = intersection(*(histogram(c.permute(2, 0, 1)[None] * 2 - 1) for c in (grey, red)))
    assert shared["L"] > 0.9
    assert shared["a"] < 0.1


def test_the_figure_has_each_set_in_each_channel_and_the_truth_dotted_on_top() -> None:
    sets = {"targets": histogram(flat(200, 30, 30)), "L1 & cGAN": histogram(flat(30, 30, 200))}
    svg = figure(sets, truth="targets")
    root = ElementTree.fromstring(svg)
    curves = [path.attrib for path in root if len(path.get("d", "")) > 60]
    assert len(curves) == 3 * 2
    colours = [curve["stroke"] for curve in curves]
    assert colours == ["var(--c1)", "var(--ink)"] * 3
    assert all("stroke-dasharray" in curve for curve in curves[1::2])
    texts = ["".join(text.itertext()) for text in root.iter("text")]
    assert {"L1 & cGAN", "targets", "L", "a", "b", "1", "10−6"} <= set(texts)
    assert not re.search("#[0-9a-f]{3}|nan|inf|http", svg)
    assert len(figure(dict.fromkeys("abcdefg", sets["targets"]), truth="a")) < 60_000


def test_a_curve_is_the_logarithm_of_the_probability() -> None:
    svg = figure({"targets": histogram(flat(0, 0, 0), flat(255, 255, 255, size=12))}, truth="targets")
    lightness = next(path for path in re.findall(r'd="M([^"]+)"', svg) if path.count("L") == 99)
    heights = [float(point.split()[1]) for point in lightness.split("L")]
    top, bottom = 24, 24 + 118
    assert heights[0] == pytest.approx(top + (bottom - top) * np.log10(1 / 10) / -6, abs=0.1)
    assert heights[-1] == pytest.approx(top + (bottom - top) * np.log10(9 / 10) / -6, abs=0.1)
    assert set(heights[1:-1]) == {bottom}


def test_colours_say_what_is_wrong() -> None:
    with pytest.raises(ImageSetError, match="have 1 channel; colours need the 3 of RGB"):
        histogram(torch.zeros(1, 1, 4, 4))
    empty = LabHistogram()
    with pytest.raises(ImageSetError, match="has no images; add at least 1"):
        intersection(empty, empty)
    with pytest.raises(ImageSetError, match=r"'truth' is not among the histograms \['model'\]"):
        figure({"model": empty}, truth="truth")
