"""Further augmentation: drawn once for a pair, off unless asked for, exact for any workers and resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pairloom
from conftest import tiny_config
from pairloom.checkpoint import steps
from pairloom.config import Config, ConfigError, DataConfig
from pairloom.data import find_pairs, measure_specs, training_batches
from pairloom.data.augment import augment
from pairloom.data.loading import item_rng
from pairloom.data.pairs import DataError, read_pair
from pairloom.data.views import training_view
from pairloom.data.warp import affine, draw_warp, elastic, read_window, relight

GEOMETRY: dict[str, dict[str, Any]] = {
    "rotate": {"rotate": "quarter"},
    "degrees": {"affine_degrees": 20.0},
    "scale": {"affine_scale": 0.3},
    "elastic": {"elastic_px": 2.0},
    "all": {"rotate": "quarter", "affine_degrees": 20.0, "affine_scale": 0.3, "elastic_px": 2.0},
}
ALL = GEOMETRY["all"] | {"light": 0.3}
geometries = pytest.mark.parametrize("fields", GEOMETRY.values(), ids=GEOMETRY)


def coordinates(height: int, width: int) -> Tensor:
    """(2, H, W): every pixel holds its own row and column."""
    return torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).float()


def drawn(*sides: Tensor, seed: int, crop_size: Any = 32, **fields: Any) -> tuple[Tensor, ...]:
    labels = fields.pop("labels", (False,) * len(sides))
    load_size = fields.pop("load_size", 40)
    data = DataConfig(crop_size=crop_size, **fields)
    rng = item_rng(seed, 0, 0)
    warp = draw_warp(data, rng.spawn(1)[0])
    options = {"load_size": load_size, "crop_size": crop_size, "resize": "stretch", "mirror": data.mirror}
    return augment(*sides, **options, labels=labels, warp=warp, rng=rng)


# -----------------------------------------------------------------------------------------------------------
# One geometry for all sides


@geometries
def test_painted_coordinates_stay_aligned(fields: dict[str, Any]) -> None:
    painted = coordinates(40, 40)
    moved = 0
    for seed in range(20):
        x, y, hole = drawn(painted, painted + 100, painted, seed=seed, labels=(False, False, True), **fields)
        assert x.shape == y.shape == hole.shape == (2, 32, 32)
        assert torch.allclose(x, y - 100, atol=1e-3)
        # Nearest neighbours lie within half a pixel of what is interpolated, but at the reflected border.
        inside = ((x > 1) & (x < 38)).all(dim=0)
        assert (x - hole).abs()[:, inside].max() <= 0.501
        assert x.is_contiguous() and y.is_contiguous() and hole.is_contiguous()
        moved += not torch.equal(x, drawn(painted, seed=seed)[0])
    assert moved >= 10


@geometries
def test_label_maps_hold_only_their_colours(fields: dict[str, Any]) -> None:
    classes = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 40, 40))).float()
    for seed in range(10):
        x, y = drawn(classes, classes, seed=seed, labels=(True, False), **fields)
        assert set(x.unique().tolist()) <= {0.0, 1.0, 2.0}
        assert fields == GEOMETRY["rotate"] or len(y.unique()) > 3


def test_without_a_warp_nothing_is_drawn() -> None:
    rng, untouched = item_rng(3, 1, 2), item_rng(3, 1, 2)
    assert draw_warp(DataConfig(), rng) is None
    assert rng.random() == untouched.random()


def test_a_grid_that_moves_nothing_is_the_crop() -> None:
    painted = coordinates(12, 20)
    still = affine(elastic(8, 6, np.zeros((2, 7, 7))), 0.0, 1.0)
    for labels in (False, True):
        window = read_window(painted, 3, 5, still, labels=labels)
        assert torch.allclose(window, painted[:, 3:11, 5:11], atol=1e-5)


def test_quarter_turns_are_pixel_by_pixel_and_all_four_come() -> None:
    painted = coordinates(40, 40)
    seen = set()
    for seed in range(40):
        before, after = drawn(painted, seed=seed)[0], drawn(painted, seed=seed, rotate="quarter")[0]
        turns = [k for k in range(4) if torch.equal(torch.rot90(before, k, (1, 2)), after)]
        assert len(turns) == 1, "the crop and the mirror stay as they were"
        seen |= set(turns)
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("angle", [-90, 90])
def test_a_positive_angle_turns_as_quarter_turns_do(angle: int) -> None:
    picture = torch.rand(1, 16, 16)
    places = affine(elastic(16, 16, np.zeros((2, 7, 7))), np.deg2rad(angle), 1.0)
    assert torch.allclose(
        read_window(picture, 0, 0, places, labels=False), torch.rot90(picture, angle // 90, (1, 2)), atol=1e-4
    )


def test_a_factor_enlarges() -> None:
    places = affine(elastic(16, 16, np.zeros((2, 7, 7))), 0.0, 2.0)
    view = read_window(coordinates(16, 16), 0, 0, places, labels=False)
    assert float(view[0, -1, 0] - view[0, 0, 0]) == pytest.approx(7.5)


def test_the_elastic_field_is_bounded_and_does_not_fold() -> None:
    worst = np.where(np.indices((2, 7, 7)).sum(axis=0) % 2, 2.0, -2.0)
    for controls in (worst, np.full((2, 7, 7), 2.0)):
        places = elastic(32, 48, controls)
        moved = places - elastic(32, 48, np.zeros((2, 7, 7)))
        assert np.abs(moved).max() <= 2 + 1e-9
        assert (np.diff(places[..., 0], axis=1) > 0).all() and (np.diff(places[..., 1], axis=0) > 0).all()
    assert np.abs(moved - 2).max() < 1e-9, "the weights of each pixel sum to 1"


def test_the_window_is_bent_out_of_the_whole_image() -> None:
    """What is read beside the window is the image's own, no reflection of the window."""
    places = elastic(8, 8, np.full((2, 7, 7), 3.0))
    view = read_window(coordinates(20, 20), 6, 6, places, labels=False)
    assert torch.allclose(view, coordinates(20, 20)[:, 9:17, 9:17], atol=1e-4)


def test_beyond_the_image_it_is_reflected() -> None:
    places = elastic(8, 8, np.full((2, 7, 7), -3.0))
    view = read_window(coordinates(8, 8), 0, 0, places, labels=True)
    assert view[0, :, 0].tolist() == [2, 1, 0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("height", [1, 3])
def test_tiny_images_and_oblong_crops(height: int) -> None:
    fields = {k: v for k, v in GEOMETRY["all"].items() if k != "rotate"} | {"crop_size": (32, 48)}
    x, y = drawn(torch.rand(3, height, 2), torch.rand(1, height, 2), seed=0, load_size=(32, 50), **fields)
    assert (x.shape, y.shape) == ((3, 32, 48), (1, 32, 48))
    assert x.isfinite().all()


# -----------------------------------------------------------------------------------------------------------
# Light


def test_light_is_brightness_and_contrast_within_its_bounds() -> None:
    ramp = torch.linspace(-0.5, 0.5, 11).view(1, 1, 11)
    values = [relight(ramp, 0.2, item_rng(seed, 0, 0)) for seed in range(50)]
    slopes = torch.stack([v[0, 0, -1] - v[0, 0, 0] for v in values])
    middles = torch.stack([v[0, 0, 5] for v in values])
    assert 0.8 <= slopes.min() < 0.85 and 1.15 < slopes.max() <= 1.2
    assert -0.2 <= middles.min() < -0.15 and 0.15 < middles.max() <= 0.2
    assert relight(torch.ones(1, 1, 1) * 0.99, 0.9, item_rng(0, 0, 0)).abs().max() <= 1


# -----------------------------------------------------------------------------------------------------------
# Training batches


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders: label maps of three greys (A) and photos (B)."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for i in range(4):
        for side, array in (
            ("A", rng.choice(np.array([0, 100, 255], np.uint8), (40, 40))),
            ("B", rng.integers(0, 256, (40, 40, 3), np.uint8)),
        ):
            (root / side).mkdir(exist_ok=True)
            Image.fromarray(array).save(root / side / f"{i}.png")
    return root


def batches(path: Path, *, start: int = 0, stop: int = 8, **fields: Any) -> list[tuple[Tensor, Tensor]]:
    options = {name: fields.pop(name) for name in ("workers", "transform") if name in fields}
    data = DataConfig(path=str(path), **{"crop_size": 32, "load_size": 36, **fields})
    pairs = find_pairs(data)
    specs = measure_specs(pairs.split("train"), data)
    options = {"workers": 0, **options}
    made = training_batches(pairs, *specs, data, batch_size=2, seed=1, start=start, stop=stop, **options)
    return [(x, y) for x, y, _ in made]


def same(
    a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]], sides: tuple[int, ...] = (0, 1)
) -> bool:
    return len(a) == len(b) and all(torch.equal(p[i], q[i]) for p, q in zip(a, b, strict=True) for i in sides)


def test_off_is_what_it_was(tiny_data: Path) -> None:
    """The views of a release before: jitter and mirror, drawn from the image's own generator."""
    data = DataConfig(path=str(tiny_data), crop_size=32, load_size=36)
    pairs = find_pairs(data).split("train")
    specs = measure_specs(pairs, data)
    for position, pair in enumerate(pairs):
        sides = read_pair(pair, *specs, data)
        options = {"load_size": 36, "crop_size": 32, "resize": "stretch", "mirror": True}
        before = augment(*sides, **options, rng=item_rng(0, 2, position))
        now = training_view(pair, *specs, data, item_rng(0, 2, position))
        assert torch.equal(before[0], now[0]) and torch.equal(before[1], now[1])


def test_light_changes_the_source_only(tiny_data: Path) -> None:
    plain, lit = batches(tiny_data), batches(tiny_data, light=0.3)
    assert same(plain, lit, (1,)) and not same(plain, lit, (0,))
    for x, _ in lit:
        assert x.abs().max() <= 1


@pytest.mark.parametrize("one_hot", [False, True])
def test_light_leaves_label_maps(labelled: Path, one_hot: bool) -> None:
    assert same(
        batches(labelled, source_one_hot=one_hot), batches(labelled, source_one_hot=one_hot, light=0.9)
    )


def test_label_maps_of_a_data_set_keep_their_colours(labelled: Path) -> None:
    colours = {v for x, _ in batches(labelled) for v in x.unique().tolist()}
    assert len(colours) == 3
    assert {v for x, _ in batches(labelled, **ALL) for v in x.unique().tolist()} == colours
    for x, _ in batches(labelled, **ALL, source_one_hot=True):
        assert torch.equal(x.add(1).div(2).sum(dim=1) if x.min() < 0 else x.sum(dim=1), torch.ones(2, 32, 32))


def test_a_hole_goes_with_its_photo_and_warps_leave_drawn_holes(tiny_data: Path) -> None:
    derived = {"derive": "inpaint", "hole": "boxes"}
    plain, warped = batches(tiny_data, **derived), batches(tiny_data, **derived, **GEOMETRY["all"])
    for (x, y), (u, v) in zip(plain, warped, strict=True):
        assert not torch.equal(y, v)
        kept = (u == v).all(dim=1)
        assert (u[(~kept)[:, None].expand_as(u)] == 1).all(), "a hole is white"
        # Boxes are drawn in the view, so they are as they were; white pixels of the photo apart.
        assert ((x != y).any(dim=1) == (u != v).any(dim=1)).float().mean() > 0.98


@pytest.mark.parametrize("start", [0, 3])
def test_workers_do_not_change_a_pixel(tiny_data: Path, start: int) -> None:
    alone = batches(tiny_data, start=start, stop=12, **ALL)
    assert same(alone, batches(tiny_data, start=start, stop=12, workers=2, **ALL))


def test_to_resume_is_to_start_later(tiny_data: Path) -> None:
    assert same(batches(tiny_data, stop=12, **ALL)[3:], batches(tiny_data, start=6, stop=12, **ALL))


def paint(x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A user's own step: one random value into the corner of both."""
    assert x.shape[1:] == y.shape[1:] == (32, 32)
    value = float(rng.uniform(-1, 1))
    x[:, 0, 0] = y[:, 0, 0] = value
    return x, y


def halve(x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    return x[:, ::2], y


def forget(x: Tensor, y: Tensor, rng: np.random.Generator) -> Any:
    return None


@pytest.mark.parametrize("workers", [0, 2])
def test_four_steps_are_two_and_two(tiny_data: Path, tmp_path: Path, workers: int) -> None:
    fields = {f"data__{name}": value for name, value in ALL.items()}
    fields |= {"data__crop_size": 32, "data__load_size": 36, "data__workers": workers}

    def config(count: int) -> Config:
        return tiny_config(tiny_data, training__steps=count, training__batch_size=2, **fields)

    whole = pairloom.train(config(4), tmp_path / "whole", transform=paint)
    parts = pairloom.train(config(2), tmp_path / "parts", transform=paint)
    pairloom.train(config(4), parts, transform=paint)
    states = [
        torch.load(run / f"checkpoints/step-{steps(run / 'checkpoints')[-1]:08d}.pt", weights_only=True)
        for run in (whole, parts)
    ]
    assert states[0]["step"] == states[1]["step"] == 4
    for name, weight in states[0]["generator"].items():
        assert torch.equal(weight, states[1]["generator"][name]), name


# -----------------------------------------------------------------------------------------------------------
# A user's own step


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_sees_pairs_and_has_the_last_word(tiny_data: Path, workers: int) -> None:
    plain = batches(tiny_data, **ALL)
    painted = batches(tiny_data, **ALL, transform=paint, workers=workers)
    corners = set()
    for (x, y), (u, v) in zip(plain, painted, strict=True):
        assert torch.equal(x[..., 1:, :], u[..., 1:, :]) and torch.equal(y[..., 1:, :], v[..., 1:, :])
        assert torch.equal(u[:, :, 0, 0], v[:, :, 0, 0])
        corners |= set(u[:, 0, 0, 0].tolist())
    assert len(corners) == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_changed_shapes_are_a_sentence(tiny_data: Path, workers: int) -> None:
    with pytest.raises(
        DataError, match=r"pair train-\d \(3, 16, 32\) float32 and \(3, 32, 32\) float32; it must"
    ):
        batches(tiny_data, transform=halve, workers=workers)
    with pytest.raises(DataError, match="NoneType; it must return source and target"):
        batches(tiny_data, transform=forget, workers=workers)


def test_a_transform_that_cannot_be_sent_is_a_sentence(tiny_data: Path) -> None:
    with pytest.raises(DataError, match=r"top of a module, or set data\.workers=0"):
        batches(tiny_data, transform=lambda x, y, rng: (x, y), workers=1)
    assert same(batches(tiny_data), batches(tiny_data, transform=lambda x, y, rng: (x, y)))


# -----------------------------------------------------------------------------------------------------------
# The fields


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rotate": "quarter", "crop_size": (64, 128)}, r"data\.rotate is 'quarter'; .* square \(128x64\)"),
        ({"affine_degrees": -1.0}, r"data\.affine_degrees is -1\.0; it must be between 0 and 180"),
        ({"affine_degrees": float("nan")}, r"data\.affine_degrees is nan"),
        ({"affine_scale": 0.6}, r"data\.affine_scale is 0\.6; it must be between 0 and 0\.5"),
        ({"elastic_px": 17.0}, r"data\.elastic_px is 17\.0; it must be between 0 and 16, a sixteenth"),
        ({"light": 1.0}, r"data\.light is 1\.0; it must be at least 0 and below 1"),
        ({"light": 0.1, "derive": "inpaint"}, r"data\.light is 0\.1; it must be 0 for data\.derive=inpaint"),
        ({"light": 0.1, "derive": "edges"}, r"data\.light is 0\.1; it must be 0 for data\.derive=edges"),
    ],
)
def test_impossible_values_are_sentences(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Config(data=DataConfig(**fields))


def test_off_in_every_preset() -> None:
    off = DataConfig()
    for name, preset in pairloom.presets.PRESETS.items():
        data = preset().data
        assert replace(data, rotate="none", **dict.fromkeys(FIELDS, 0.0)) == data, name
    assert off.rotate == "none" and not any(getattr(off, name) for name in FIELDS)


FIELDS = ("affine_degrees", "affine_scale", "elastic_px", "light")
