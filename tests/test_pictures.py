"""Pictures for the eye: 8-bit RGB, whatever the channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pairloom.images import ImageSpec
from pairloom.pictures import preview, sample_sheet


def spec(channels: int, dtype: str = "uint8") -> ImageSpec:
    high = {"uint8": 255.0, "uint16": 65535.0, "float32": 9.0}[dtype]
    return ImageSpec(channels=channels, dtype=dtype, low=(0.0,) * channels, high=(high,) * channels)  # type: ignore[arg-type]


def ramp(channels: int, height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.linspace(-1, 1, channels * height * width).reshape(channels, height, width)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    ("channels", "shown"), [(1, (0, 0, 0)), (2, (0, 0, 0)), (3, (0, 1, 2)), (5, (0, 1, 2))]
)
def test_channels_are_shown_as_promised(channels, shown, dtype):
    tensor = ramp(channels)
    picture = preview(tensor, spec(channels, dtype))
    assert picture.dtype == np.uint8
    assert picture.shape == (4, 6, 3)
    expected = np.rint((tensor.numpy() + 1) * 127.5)
    for colour, channel in enumerate(shown):
        assert np.abs(picture[..., colour] - expected[channel]).max() <= 1
    assert picture.min() == 0


def test_what_is_out_of_range_is_clipped_not_wrapped():
    tensor = torch.tensor([[[-7.0, -1.0, 0.0, 1.0, 7.0]]])
    assert preview(tensor, spec(1))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_tensor_with_a_gradient_may_be_shown():
    picture = preview(torch.zeros(3, 2, 2, requires_grad=True), spec(3))
    assert (picture == 128).all()


RGB_PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def test_label_maps_with_colours_are_shown_in_them():
    labels = ImageSpec(
        channels=3, dtype="uint8", kind="labels", low=(0.0,) * 3, high=(255.0,) * 3, palette=RGB_PALETTE
    )
    colours = np.array(RGB_PALETTE)[[[0, 1], [2, 0]]]
    tensor = torch.from_numpy(colours).permute(2, 0, 1) / 127.5 - 1 + 0.05
    assert np.array_equal(preview(tensor.float(), labels), colours)


def test_one_hot_label_maps_are_shown_in_their_colours():
    labels = ImageSpec(
        channels=3,
        dtype="uint8",
        kind="labels",
        low=(0.0,) * 3,
        high=(255.0,) * 3,
        palette=RGB_PALETTE,
        one_hot=True,
    )
    classes = torch.tensor([[2, 0, 1]])
    tensor = torch.stack([(classes == c).float() * 2 - 1 for c in range(3)])
    assert np.array_equal(preview(tensor, labels)[0], np.array(RGB_PALETTE)[[2, 0, 1]])


@pytest.mark.parametrize("one_hot", [False, True])
def test_class_numbers_get_colours_that_can_be_told_apart(one_hot):
    numbers = tuple(range(10))
    labels = ImageSpec(
        channels=1,
        dtype="uint8",
        kind="labels",
        low=(0.0,),
        high=(9.0,),
        palette=tuple((n,) for n in numbers),
        one_hot=one_hot,
    )
    classes = torch.arange(10.0)[None, None]
    tensor = torch.cat([(classes == n).float() * 2 - 1 for n in numbers]) if one_hot else classes / 4.5 - 1
    colours = preview(tensor, labels)[0].astype(int)
    for a in range(10):
        for b in range(a):
            assert np.abs(colours[a] - colours[b]).sum() > 60


def test_a_sheet_has_a_row_for_each_pair():
    rows = [(ramp(1, 4, 6), ramp(3, 4, 6), ramp(3, 4, 6)), (ramp(1, 8, 10), ramp(3, 8, 10), ramp(3, 8, 10))]
    sheet = np.asarray(sample_sheet(rows, spec(1), spec(3), gap=2))
    assert sheet.shape == (4 + 2 + 8, 3 * 10 + 2 * 2, 3)
    # source | output | target of the first row, white besides
    assert np.array_equal(sheet[:4, :6], preview(rows[0][0], spec(1)))
    assert (sheet[:4, 6:8] == 255).all()
    assert np.array_equal(sheet[:4, 8:14], preview(rows[0][1], spec(3)))
    assert np.array_equal(sheet[:4, 16:22], preview(rows[0][2], spec(3)))
    assert (sheet[:4, 22:] == 255).all() and (sheet[4:6] == 255).all()
    assert np.array_equal(sheet[6:, 24:], preview(rows[1][2], spec(3)))
