import dataclasses
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairloom.data.sample import (
    PALETTE,
    Layout,
    Part,
    draw_labels,
    draw_layout,
    draw_pair,
    draw_photo,
    write_sample_set,
)
from pairloom.images import ImageError

COLOURS = np.array([colour for _, colour in PALETTE])
BY_NAME = dict(PALETTE)


def classes(labels):
    """Class index of each pixel; fails where a colour is not in the palette."""
    same = (labels[:, :, None, :] == COLOURS).all(-1)
    assert same.any(-1).all()
    return same.argmax(-1)


def one_window(x0):
    parts = (
        Part(kind="wall", x0=0.0, y0=0.0, x1=1.0, y1=1.0),
        Part(kind="window", x0=x0, y0=0.25, x1=x0 + 0.25, y1=0.75),
    )
    return Layout(parts=parts)


def test_palette_colours_are_far_apart():
    gaps = np.abs(COLOURS[:, None] - COLOURS[None]).max(-1)
    assert gaps[~np.eye(len(PALETTE), dtype=bool)].min() >= 64
    assert len({name for name, _ in PALETTE}) == len(PALETTE)


@pytest.mark.parametrize("size", [64, 100, 128])
def test_same_numbers_give_the_same_pair(size):
    first, second = draw_pair(3, 5, size), draw_pair(3, 5, size)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_other_index_or_seed_gives_another_scene():
    layouts = [draw_layout((seed, index)) for seed in range(3) for index in range(3)]
    assert len(set(layouts)) == 9


@pytest.mark.parametrize("size", [64, 100, 1024])
def test_any_size(size):
    photo, labels = draw_pair(0, 1, size)
    assert photo.shape == labels.shape == (size, size, 3)
    assert photo.dtype == labels.dtype == np.uint8


def test_labels_hold_palette_colours_only_and_every_class_occurs():
    seen = np.zeros(len(PALETTE), int)
    for index in range(40):
        found = np.unique(classes(draw_labels(draw_layout((1, index)), 96)))
        seen[found] += 1
        names = {PALETTE[i][0] for i in found}
        assert {"sky", "wall", "window", "ground"} <= names
    assert seen.min() >= 3


def test_labels_show_the_same_scene_at_every_size():
    small, large = (classes(draw_labels(draw_layout(4), size)) for size in (128, 1024))
    assert (small == large[4::8, 4::8]).mean() > 0.9


def shrink(photo, side):
    """Block means: the scene without the fine lines, which are never thinner than a pixel."""
    step = len(photo) // side
    return photo.astype(float).reshape(side, step, side, step, 3).mean((1, 3))


@pytest.mark.parametrize("index", range(4))
def test_photo_shows_the_same_scene_at_every_size(index):
    layout = draw_layout((4, index))
    small, large, other = (shrink(draw_photo(layout, *how), 16) for how in ((128, 4), (512, 4), (128, 5)))
    assert np.abs(small - large).mean() < 0.4 * np.abs(small - other).mean()


@pytest.mark.parametrize("index", range(6))
def test_two_photo_seeds_give_two_pictures_of_one_layout(index):
    layout = draw_layout((2, index))
    first, second = (draw_photo(layout, 128, seed).astype(float) for seed in (10, 11))
    assert np.abs(first - second).mean() > 10


@pytest.mark.parametrize("index", range(6))
def test_edges_of_the_photo_are_the_borders_of_the_labels(index):
    photo, labels = draw_pair(6, index, 128)
    found, grey = classes(labels), photo.astype(float).mean(-1)
    is_border = found[:, 1:] != found[:, :-1]
    slope = np.abs(np.diff(grey, axis=1))
    assert slope[is_border].mean() > 3 * slope[~is_border].mean()


def test_moving_a_window_moves_it_in_labels_and_photo():
    left, right = one_window(0.125), one_window(0.625)
    for layout, columns in ((left, slice(16, 48)), (right, slice(80, 112))):
        is_window = (draw_labels(layout, 128) == BY_NAME["window"]).all(-1)
        expected = np.zeros((128, 128), bool)
        expected[32:96, columns] = True
        np.testing.assert_array_equal(is_window, expected)
    photos = [draw_photo(layout, 128, 0).astype(float) for layout in (left, right)]
    changed = np.abs(photos[0] - photos[1]).max(-1) > 12
    assert changed[32:96, 16:48].mean() > 0.9
    assert changed[32:96, 80:112].mean() > 0.9
    # Elsewhere stands the same wall.
    changed[32:96, 16:48] = changed[32:96, 80:112] = False
    assert changed.mean() < 0.01


def test_parts_that_reach_out_of_the_picture_are_clipped():
    wall = Part(kind="wall", x0=-0.5, y0=-0.5, x1=1.5, y1=1.5)
    balcony = Part(kind="balcony", x0=0.75, y0=0.75, x1=1.5, y1=1.5)
    gone = Part(kind="window", x0=1.25, y0=-0.75, x1=1.5, y1=-0.25, arch=1.0)
    layout = Layout(parts=(wall, gone, balcony))
    labels = draw_labels(layout, 64)
    assert (labels[48:, 48:] == BY_NAME["balcony"]).all()
    assert (labels[:48] == BY_NAME["wall"]).all()
    # Of the balcony only a corner is seen: its rail, at the top, is drawn there and nowhere else.
    without = dataclasses.replace(layout, parts=(wall, gone))
    changed = np.abs(draw_photo(layout, 64, 1).astype(int) - draw_photo(without, 64, 1)).max(-1) > 20
    assert changed[48, 48:].all()
    assert not changed[:40].any()


def test_outlines():
    triangle = Part(kind="roof", x0=0.0, y0=0.0, x1=1.0, y1=1.0, slant=0.5).outline(64, 64)
    assert triangle is not None
    assert triangle.mean() == pytest.approx(0.5, abs=0.02)
    arch = Part(kind="window", x0=0.0, y0=0.0, x1=1.0, y1=1.0, arch=1.0).outline(200, 200)
    assert arch is not None
    # A half circle over a rectangle of half the height: (pi / 8 + 1 / 2) of the square.
    assert arch.mean() == pytest.approx(np.pi / 8 + 0.5, abs=0.01)
    assert Part(kind="wall", x0=0.0, y0=0.0, x1=1.0, y1=1.0).outline(4, 4) is None


def test_written_set(tmp_path):
    out = write_sample_set(tmp_path / "set", count=20, size=64, seed=9)
    names = {split: sorted(p.name for p in (out / split).iterdir()) for split in ("train", "val", "test")}
    assert [len(names[split]) for split in ("train", "val", "test")] == [16, 2, 2]
    assert sorted(name for split in names.values() for name in split) == [
        f"{i:04d}.png" for i in range(1, 21)
    ]
    files = [path for split in names for path in (out / split).iterdir()]
    assert len({path.read_bytes() for path in files}) == 20
    photo, labels = draw_pair(9, 0, 64)
    with Image.open(out / "train" / "0001.png") as pair:
        assert pair.size == (128, 64)
        np.testing.assert_array_equal(np.asarray(pair), np.concatenate([photo, labels], axis=1))
    lines = (out / "palette.txt").read_text().splitlines()
    assert lines == [f"{r},{g},{b},{name}" for name, (r, g, b) in PALETTE]
    readme = (out / "README.txt").read_text()
    assert "--preset demo" in readme
    assert all(name in readme for name, _ in PALETTE)


def test_smallest_set_has_one_pair_a_split(tmp_path):
    out = write_sample_set(tmp_path, count=3, size=64, seed=0)
    assert [len(list((out / split).iterdir())) for split in ("train", "val", "test")] == [1, 1, 1]


def test_the_same_set_may_be_written_again_and_another_may_not(tmp_path):
    write_sample_set(tmp_path, count=3, size=64, seed=0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    before_missing = next(iter(before))
    before_missing.unlink()
    write_sample_set(tmp_path, count=3, size=64, seed=0)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    with pytest.raises(ValueError, match="is not empty and holds something other"):
        write_sample_set(tmp_path, count=3, size=64, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 63}, "size is 63 pixels; a sample is 64 to 1024"),
        ({"size": 1025}, "size is 1025 pixels"),
        ({"count": 2}, "count is 2; a sample set needs at least 3"),
        ({"seed": -1}, "seed is -1; a seed is a whole number, 0 or larger"),
    ],
)
def test_wrong_numbers_are_refused_in_a_sentence(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        write_sample_set(tmp_path / "set", **{"count": 3, "size": 64, "seed": 0, **change})
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "set").exists()


def test_folders_with_other_things_are_left_alone(tmp_path):
    note: Path = tmp_path / "README.txt"
    note.write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        write_sample_set(tmp_path, count=3, size=64, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["README.txt"]
    assert note.read_text() == "mine"
    with pytest.raises(ValueError, match="is a file"):
        write_sample_set(note, count=3, size=64, seed=0)


@contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """As on a full disk, a write fails in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("limit", "name"), [(20, "README.txt"), (4000, "0001.png")])
def test_after_a_full_disk_the_same_call_goes_on(tmp_path, limit, name):
    out = tmp_path / "set"
    with no_file_larger_than(limit), pytest.raises(ImageError, match=f"{name}: cannot be written"):
        write_sample_set(out, count=3, size=64, seed=0)
    assert not (out / name).exists()
    assert not list(out.rglob(".*"))
    write_sample_set(out, count=3, size=64, seed=0)
    assert len(list(out.rglob("*.png"))) == 3


def test_negative_seed_of_a_layout_is_refused():
    with pytest.raises(ValueError, match="a seed is a whole number"):
        draw_layout((0, -4))
