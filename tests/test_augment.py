"""Jitter and mirror: both sides of a pair are moved alike."""

import numpy as np
import pytest
import torch

from pairloom.data.augment import augment, evaluation_geometry


def coordinates(height: int, width: int) -> torch.Tensor:
    """(2, H, W): every pixel holds its own row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).float()


def drawn(x, y, seed=0, **options):
    fields = {"load_size": 8, "crop_size": 8, "resize": "none", "mirror": True, **options}
    return augment(x, y, **fields, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("resize", ["stretch", "shorter", "none"])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("load_size", [(14, 12), 9])
def test_painted_coordinates_stay_aligned(resize, labels, load_size):
    x = coordinates(12, 20)
    for seed in range(20):
        both = drawn(
            x, x + 100, seed, resize=resize, load_size=load_size, crop_size=(8, 6), labels=(labels, labels)
        )
        assert both[0].shape == both[1].shape == (2, 8, 6)
        assert torch.allclose(both[0], both[1] - 100, atol=1e-4)
        assert all(side.is_contiguous() for side in both)


def test_the_crop_is_a_window_of_the_image():
    x = coordinates(12, 20)
    for seed in range(10):
        view, _ = drawn(x, x, seed, crop_size=(8, 6), mirror=False)
        top, left = (int(v) for v in view[:, 0, 0])
        assert torch.equal(view, x[:, top : top + 8, left : left + 6])


def test_windows_reach_every_place_and_mirrors_are_half():
    x = coordinates(10, 9)
    corners = set()
    mirrored = 0
    for seed in range(300):
        view, _ = drawn(x, x, seed)
        flipped = bool(view[1, 0, 0] > view[1, 0, 1])
        mirrored += flipped
        corners.add((int(view[0, 0, 0]), int(view[1, 0].min())))
    assert corners == {(top, left) for top in range(3) for left in range(2)}
    assert 110 < mirrored < 190


def test_mirror_off_leaves_the_crops_as_they_were():
    x = coordinates(12, 12)
    for seed in range(10):
        on, off = (drawn(x, x, seed, mirror=mirror)[0] for mirror in (True, False))
        assert torch.equal(on, off) or torch.equal(on, off.flip(2))


def test_same_generator_same_view():
    x = torch.rand(3, 20, 30)
    assert all(torch.equal(a, b) for a, b in zip(drawn(x, x, 4), drawn(x, x, 4), strict=True))


def test_labels_get_no_new_values_under_resize():
    classes = torch.randint(0, 3, (1, 17, 23)).float()
    x, y = drawn(
        classes, classes, resize="stretch", load_size=(30, 40), crop_size=(16, 16), labels=(True, False)
    )
    assert set(x.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert len(y.unique()) > 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (5, 40), (8, 8)])
def test_small_images_are_continued_by_reflection(height, width):
    x = coordinates(height, width)
    view, _ = drawn(x, x, mirror=False)
    rows = np.pad(np.arange(height), (0, max(0, 8 - height)), mode="reflect" if height > 1 else "edge")
    assert view.shape == (2, 8, 8)
    assert view[0, :, 0].tolist() == rows[:8].tolist()


def test_stretch_accepts_sides_of_different_sizes():
    x, y = drawn(torch.rand(1, 10, 12), torch.rand(2, 30, 20), resize="stretch", load_size=9)
    assert (x.shape, y.shape) == ((1, 8, 8), (2, 8, 8))


@pytest.mark.parametrize("resize", ["shorter", "none"])
def test_other_resizes_refuse_them(resize):
    x, y = torch.rand(1, 10, 12), torch.rand(1, 10, 13)
    with pytest.raises(ValueError, match="12x10 pixels and the target 13x10"):
        drawn(x, y, resize=resize)
    with pytest.raises(ValueError, match="12x10 pixels and the target 13x10"):
        evaluation_geometry(x, y, crop_size=8, resize=resize)


@pytest.mark.parametrize(
    ("resize", "crop_size", "shape"),
    [
        ("stretch", (8, 4), (8, 4)),
        ("shorter", 8, (8, 16)),
        ("shorter", (16, 6), (6, 12)),
        ("none", 4, (10, 20)),
    ],
)
def test_evaluation_geometry(resize, crop_size, shape):
    x, y = evaluation_geometry(
        torch.rand(3, 10, 20), torch.rand(1, 10, 20), crop_size=crop_size, resize=resize
    )
    assert (x.shape, y.shape) == ((3, *shape), (1, *shape))


def test_evaluation_geometry_of_labels_is_nearest():
    classes = torch.randint(0, 3, (1, 17, 23)).float()
    x, _ = evaluation_geometry(classes, classes, crop_size=32, resize="stretch", labels=(True, True))
    assert set(x.unique().tolist()) <= {0.0, 1.0, 2.0}
