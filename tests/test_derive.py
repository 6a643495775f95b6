"""Pairs made from single photos: what source and target are, where a hole lies, and that it all repeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

import pairloom
from conftest import draw_pair, tiny_config
from pairloom import images
from pairloom.config import DERIVED_CHANNELS, DataConfig
from pairloom.data import (
    DataError,
    find_pairs,
    fingerprint,
    load_pair,
    measure_specs,
    spec_notes,
    training_batches,
)
from pairloom.data.check import check
from pairloom.data.derive import LUMINANCE, derivation
from pairloom.data.edges import canny_edges, cleaned, model_edges, suppressed
from pairloom.data.holes import boxes, center, strokes
from pairloom.images import ImageError, ImageSpec
from pairloom.translator import Translator

SIDE = 40


def photo_of(seed: int) -> np.ndarray:
    return draw_pair(seed, SIDE)[:, :SIDE]


def write_photos(root: Path, count: int = 4, split: str = "") -> Path:
    for i in range(count):
        path = root / split / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo_of(i)).save(path)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def settings(path: Path, derive: str, **fields: Any) -> DataConfig:
    return DataConfig(path=str(path), derive=derive, crop_size=32, **fields)  # type: ignore[arg-type]


def first(data: DataConfig) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = find_pairs(data)
    return load_pair(pairs.pairs[0], *measure_specs(pairs, data), data)


def batches(data: DataConfig, start: int = 0, stop: int = 8, workers: int = 0) -> list[torch.Tensor]:
    pairs = find_pairs(data)
    made = training_batches(
        pairs, *measure_specs(pairs, data), data,
        batch_size=2, seed=3, start=start, stop=stop, workers=workers,
    )  # fmt: skip
    return [torch.cat(batch[:2], 1) for batch in made]


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1)


# -----------------------------------------------------------------------------------------------------------
# Lab and luminance


def test_lab_is_scaled_as_in_the_papers_code() -> None:
    photo = photo_of(0)
    lab = rgb2lab(photo)
    x = images.to_tensor(photo, images.lab_spec("L", channels=1))
    y = images.to_tensor(photo, images.lab_spec("a", "b"))
    assert x.shape == (1, SIDE, SIDE) and y.shape == (2, SIDE, SIDE)
    assert torch.allclose(x, torch.from_numpy(lab[None, ..., 0] / 50 - 1).float(), atol=1e-4)
    assert torch.allclose(y, torch.from_numpy(lab[..., 1:].transpose(2, 0, 1) / 110).float(), atol=1e-4)


def test_ab_and_l_are_the_photo_again() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(
        0, 256, (64, 48, 3), dtype=np.uint8
    )  # all colours there are, the gamut's corners too
    photo[0, :8] = [[255 * (i >> c & 1) for c in range(3)] for i in range(8)]
    spec = images.lab_spec("a", "b")
    x, y = images.to_tensor(photo, images.lab_spec("L", channels=1)), images.to_tensor(photo, spec)
    whole, of_file = images.recombined(y, x, spec)
    assert (of_file.kind, of_file.channels, of_file.dtype) == ("intensity", 3, "uint8")
    assert np.array_equal(images.to_array(whole, of_file), photo)
    stacked, _ = images.recombined(torch.stack([y, -y]), x, spec)
    assert torch.equal(stacked[0], whole) and not torch.equal(stacked[1], whole)


def test_colours_outside_the_gamut_are_clipped_without_a_warning() -> None:
    y = torch.tensor([[1.0, -1, 1, -1, 9], [1, 1, -1, -1, -9]])[:, None]
    whole, _ = images.recombined(y, torch.linspace(-1, 1, 5)[None, None], images.lab_spec("a", "b"))
    assert whole.min() >= -1 and whole.max() <= 1 and whole.isfinite().all()


def test_a_grey_image_has_the_lightness_of_its_colour_twin() -> None:
    grey = photo_of(0)[..., :1]
    for spec in (images.lab_spec("L", channels=1), LUMINANCE):
        one, three = (images.to_tensor(array, spec) for array in (grey, grey.repeat(3, 2)))
        deep = images.to_tensor(grey.astype(np.uint16) * 257, spec)
        assert torch.allclose(one, three, atol=1e-4) and torch.allclose(one, deep, atol=1e-6)
    with pytest.raises(ImageError, match="2 channels of uint8, but a photo is expected"):
        images.to_tensor(grey.repeat(2, 2), LUMINANCE)


def test_luminance_is_pillows() -> None:
    photo = photo_of(1)
    grey = np.asarray(Image.fromarray(photo).convert("L")).astype(int)
    array = images.to_array(images.to_tensor(photo, LUMINANCE), LUMINANCE)
    assert np.abs(array[..., 0] - grey).max() <= 1
    assert np.array_equal(images.to_array(images.to_tensor(array, LUMINANCE), LUMINANCE), array)


def test_lab_specs_survive_json_and_refuse_nonsense() -> None:
    spec = images.lab_spec("a", "b")
    assert ImageSpec.from_dict(spec.to_dict()) == spec
    assert (spec.tensor_channels, spec.channels) == (2, 3)
    assert "Lab (a, b)" in spec.words()
    for fields in ({"names": ("x", "b")}, {"dtype": "uint16"}, {"channels": 2}, {"low": (-110.0,)}):
        with pytest.raises(ImageError, match=f"ImageSpec.{next(iter(fields))}"):
            replace(spec, **fields)
    with pytest.raises(ImageError, match="recombined"):
        images.to_array(torch.zeros(2, 4, 4), spec)


# -----------------------------------------------------------------------------------------------------------
# What source and target are


@pytest.mark.parametrize("derive", ["colorize", "inpaint", "edges", "gray"])
def test_a_pair_has_the_channels_that_describe_says(derive: str, photos: Path) -> None:
    data = settings(photos, derive)
    x, y = first(data)
    assert (len(x), len(y)) == DERIVED_CHANNELS[derive]
    assert x.shape[1:] == y.shape[1:] == (32, 32)
    source, target = measure_specs(find_pairs(data), data)
    assert (source.tensor_channels, target.tensor_channels) == DERIVED_CHANNELS[derive]


def test_the_pair_is_made_of_the_view_that_is_drawn(photos: Path) -> None:
    """The target of gray is the view itself: its luminance is the source, to the bit."""
    for batch in batches(settings(photos, "gray")):
        for item in batch:
            assert torch.equal(images.from_photo(item[1:], LUMINANCE), item[:1])
    for batch in batches(settings(photos, "edges", edge_sigma=1)):
        for item in batch:
            grey = (images.from_photo(item[1:], LUMINANCE)[0] + 1) / 2
            lines = torch.from_numpy(canny_edges(grey.numpy(), sigma=1, least_px=5))
            assert torch.equal(item[0] < 0, lines)
    for batch in batches(settings(photos, "inpaint")):
        for item in batch:
            hole = torch.from_numpy(center(32, 32))
            assert (item[:3, hole] == 1).all(), "in the middle of the crop, not of the photo"
            assert torch.equal(item[:3, ~hole], item[3:, ~hole])


def test_the_view_is_that_of_plain_pairs(photos: Path, tmp_path: Path) -> None:
    """Deriving draws nothing before jitter and mirror are drawn."""
    plain = DataConfig(path=str(photos), path_b=str(photos), crop_size=32)
    for derived, pairs in zip(batches(settings(photos, "gray")), batches(plain), strict=True):
        assert torch.equal(derived[:, 1:], pairs[:, 3:])


def test_native_pixels_and_any_shape(tmp_path: Path) -> None:
    Image.fromarray(photo_of(0)[:31, :37]).save(tmp_path / "a.png")
    x, y = first(settings(tmp_path, "colorize", resize="none"))
    assert (x.shape, y.shape) == ((1, 31, 37), (2, 31, 37))


def test_grey_photos_among_colours_count_as_colours(photos: Path) -> None:
    Image.fromarray(photo_of(7)[..., 0]).save(photos / "a-grey.png")
    for derive in ("colorize", "inpaint", "edges", "gray"):
        data = settings(photos, derive)
        x, y = first(data)
        assert (len(x), len(y)) == DERIVED_CHANNELS[derive]
        found = check(data)
        assert found.ok, found.words()
        assert any("no colours to learn: train/a-grey" in w for w in found.warnings) == (
            derive in ("colorize", "gray")
        )


def test_photos_that_are_all_grey_stay_so(tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(photo_of(i)[..., 0]).save(tmp_path / f"{i}.png")
    x, y = first(settings(tmp_path, "inpaint"))
    assert len(x) == len(y) == 1
    assert len(first(settings(tmp_path, "gray"))[1]) == 3, "repeated: there is no colour to be had"


def test_deep_photos_with_holes(tmp_path: Path) -> None:
    for i in range(2):
        images.write_image(tmp_path / f"{i}.png", photo_of(i)[..., :1].astype(np.uint16) * 250)
    x, _ = first(settings(tmp_path, "inpaint"))
    assert (x[:, torch.from_numpy(center(32, 32))] == 1).all()
    with pytest.raises(
        DataError, match="colorize takes photos of 3 channels of uint8, but these have 3 chan"
    ):
        first(settings(tmp_path, "colorize"))


# -----------------------------------------------------------------------------------------------------------
# Holes


def test_the_central_hole_is_the_papers() -> None:
    hole = center(256, 256)
    assert hole[64:192, 64:192].all() and hole.sum() == 128**2
    assert center(5, 7).sum() == 2 * 3 and center(1, 1).sum() == 1


@pytest.mark.parametrize("draw", [boxes, strokes])
def test_random_holes_leave_something_and_take_something(draw: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    shares = [draw(48, 64, rng).mean() for _ in range(100)]
    assert min(shares) > 0 and max(shares) < 0.8 and np.std(shares) > 0.02
    assert draw(1, 1, rng).shape == (1, 1)


@pytest.mark.parametrize("hole", ["boxes", "strokes"])
def test_random_holes_follow_from_the_image_number(hole: str, photos: Path) -> None:
    data = settings(photos, "inpaint", hole=hole)
    once = batches(data)
    for again in (batches(data), batches(data, workers=2), batches(data, stop=2) + batches(data, start=2)):
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    holes = [(item[:3] == 1).all(0) for batch in once for item in batch]
    assert not torch.equal(holes[0], holes[1])
    assert torch.equal(first(data)[0], first(data)[0])
    one, two = (
        load_pair(p, *measure_specs(find_pairs(data), data), data)[0] for p in find_pairs(data).pairs[:2]
    )
    assert not torch.equal((one == 1).all(0), (two == 1).all(0)), "each pair has its own"


def test_a_mask_of_its_own_goes_with_its_photo(tmp_path: Path) -> None:
    """Black photos with one white spot, and masks of just that spot: the hole covers it in every view."""
    rng = np.random.default_rng(0)
    for i in range(3):
        spot = np.zeros((SIDE, SIDE), np.uint8)
        top, left = rng.integers(4, SIDE - 12, 2)
        spot[top : top + 8, left : left + 8] = 255
        for folder, array in (("photos", np.stack([spot // 2] * 3, -1)), ("masks", spot)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    data = settings(tmp_path / "photos", "inpaint", hole=str(tmp_path / "masks"))
    for batch in batches(data):
        for item in batch:
            hole = (item[:3] == 1).all(0)
            assert (item[3, hole] > -0.9).float().mean() > 0.7, "at the edges both are resized"
            assert hole.sum() == 0 or (item[3:, ~hole] < 0.2).all()
    assert fingerprint(find_pairs(data)) != fingerprint(find_pairs(replace(data, hole="center")))

    with pytest.raises(DataError, match=r"No photos were found in .*no mask in"):
        find_pairs(replace(data, path=str(write_photos(tmp_path / "others" / "deeper").parent)))
    (tmp_path / "masks" / "2.png").unlink()
    found = find_pairs(data)
    assert [pair.name for pair in found.pairs] == ["0", "1"]
    assert found.unpaired == (f"2.png has no mask in {tmp_path / 'masks'}",)
    Image.new("L", (8, 8)).save(tmp_path / "masks" / "1.png")
    with pytest.raises(DataError, match=r"1\.png is 8x8 pixels .* 40x40; a mask must have the size"):
        load_pair(find_pairs(data).pairs[1], *measure_specs(found, data), data)


def test_one_mask_for_all(photos: Path, tmp_path: Path) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    x, y = first(settings(photos, "inpaint", hole=str(tmp_path / "mask.png")))
    assert (x[:, :16] == 1).all() and torch.equal(x[:, 16:], y[:, 16:])


# -----------------------------------------------------------------------------------------------------------
# Edges


def square(side: int = 64) -> np.ndarray:
    grey = np.full((side, side), 0.2, np.float32)
    grey[16:48, 16:48] = 0.8
    return grey


def test_canny_draws_the_outline_one_pixel_wide() -> None:
    lines = canny_edges(square(), sigma=1, least_px=5)
    rows, columns = np.nonzero(lines)
    assert set(np.unique(np.minimum.reduce([abs(rows - 15.5), abs(rows - 47.5), abs(columns - 15.5), abs(columns - 47.5)]))) <= {0.5, 1.5}  # fmt: skip  # noqa: E501
    assert 100 < lines.sum() < 140
    assert not canny_edges(square(), sigma=1, least_px=500).any()
    assert not canny_edges(np.zeros((1, 1), np.float32), sigma=1, least_px=0).any()


def test_small_components_are_removed_and_lines_thinned() -> None:
    edges = np.zeros((20, 20), np.bool_)
    edges[3, 3:7] = True  # 4 pixels
    edges[np.arange(10, 15), np.arange(10, 15)] = True  # 5 pixels, touching at their corners
    edges[17:20, 2:12] = True  # three pixels thick
    kept = cleaned(edges, least_px=5)
    assert not kept[3].any() and kept[np.arange(10, 15), np.arange(10, 15)].all()
    assert (kept[17:, 4:10].sum(0) == 1).all()


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 120])
def test_suppression_leaves_the_crest_of_a_line(angle: float) -> None:
    y, x = np.mgrid[:48, :48] - 23.5
    across = x * np.sin(np.deg2rad(angle)) - y * np.cos(np.deg2rad(angle))
    probability = np.exp(-((across / 3) ** 2)).astype(np.float32)
    kept = suppressed(probability) & (probability > 25 / 255)
    inside = (abs(x) < 18) & (abs(y) < 18)
    assert abs(across[kept & inside]).max() <= 1.0
    assert kept[inside & (abs(across) < 0.51)].mean() > 0.9


def edge_model(path: Path, *, sigmoid: bool = True, size: int | None = None) -> Path:
    """How far green is from its mean over 5 x 5 pixels, as a network of one convolution."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    make = onnx.helper
    weights = np.zeros((1, 3, 5, 5), np.float32)
    weights[0, 1] = -8 / 25
    weights[0, 1, 2, 2] += 8
    nodes = [
        make.make_node("Conv", ["x", "w"], ["found"], pads=[2, 2, 2, 2]),
        make.make_node("Mul", ["found", "found"], ["squared"]),
        make.make_node("Clip", ["squared", "zero", "one"], ["p"]),
    ]
    sides = ["h", "w"] if size is None else [size, size]
    outputs = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, *sides])
        for name in (("found", "p") if sigmoid else ("p", "found"))
    ]
    entry = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, *sides])
    constants = [
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in (("w", weights), ("zero", 0), ("one", 1))
    ]
    graph = make.make_graph(nodes, "g", [entry], outputs, constants)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_network_finds_the_edges(photos: Path, tmp_path: Path) -> None:
    path = edge_model(tmp_path / "hed.onnx")
    lines = model_edges(np.stack([square()] * 3), str(path), least_px=5)
    assert lines[14:18, 20:44].any() and not lines[24:40, 24:40].any()
    data = settings(photos, "edges", edge_model=str(path))
    x, _ = first(data)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    once, twice = batches(data, stop=4), batches(data, stop=4, workers=2)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_edge_models_that_cannot_be_used_are_one_sentence(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    logits = edge_model(tmp_path / "logits.onnx", sigmoid=False)
    fixed = edge_model(tmp_path / "fixed.onnx", size=8)
    for path, words in (
        (tmp_path / "none.onnx", "does not exist"),
        (tmp_path / "broken.onnx", "is not an ONNX model"),
        (logits, "probabilities from 0 to 1"),
        (fixed, "of any height and width"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            first(settings(photos, "edges", edge_model=str(path)))
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


# -----------------------------------------------------------------------------------------------------------
# Finding photos


def test_photos_are_found_at_any_depth_and_in_splits(tmp_path: Path) -> None:
    write_photos(tmp_path / "flat", 2, "street/night")
    write_photos(tmp_path / "split", 3, "train/a")
    write_photos(tmp_path / "split", 1, "test")
    found = find_pairs(settings(tmp_path / "flat", "gray"))
    assert [(pair.name, pair.split) for pair in found.pairs] == [
        ("street/night/0", "train"), ("street/night/1", "train"),
    ]  # fmt: skip
    assert found.layout == "photos"
    found = find_pairs(settings(tmp_path / "split", "gray", val_fraction=0.4))
    assert [len(found.split(s)) for s in ("train", "val", "test")] == [2, 1, 1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"direction": "BtoA"}, "data.direction is BtoA, but what data.derive=gray makes has only one"),
        ({"path_b": "other"}, "data.path_b is for pairs"),
        ({"target_palette": "p.txt"}, "data.target_palette is for pairs"),
        ({"derive": "inpaint", "hole": "middle"}, "data.hole is 'middle', which does not exist"),
    ],
)
def test_what_does_not_suit_single_photos_is_one_sentence(
    fields: dict[str, Any], words: str, photos: Path
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        find_pairs(replace(settings(photos, "gray"), **fields))
    assert "\n" not in str(caught.value)


def test_folders_of_pairs_are_not_taken_for_photos(tmp_path: Path) -> None:
    for side in "AB":
        write_photos(tmp_path, 1, side)
    with pytest.raises(DataError, match="holds two folders of pairs"):
        find_pairs(settings(tmp_path, "gray"))
    (tmp_path / "pairs.csv").write_text("a,b\nA/0.png,B/0.png\n")
    with pytest.raises(DataError, match=r"is no folder; data\.derive=gray takes"):
        find_pairs(settings(tmp_path / "pairs.csv", "gray"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No photos were found"):
        find_pairs(settings(tmp_path / "empty", "gray"))


def test_check_and_notes_speak_of_photos(photos: Path) -> None:
    Image.fromarray(np.dstack([photo_of(9), np.full((SIDE, SIDE), 99, np.uint8)])).save(photos / "9.png")
    data = settings(photos, "colorize")
    found = check(data)
    assert found.ok
    assert "each makes a pair (data.derive=colorize)" in found.words()
    assert "Alignment" not in found.words()
    pairs = find_pairs(data)
    notes = spec_notes(pairs.pairs, *measure_specs(pairs, data))
    assert len([note for note in notes if "alpha" in note]) == 1, "one file, one sentence"


def test_no_derivation_is_none() -> None:
    assert derivation(DataConfig()) is None


# -----------------------------------------------------------------------------------------------------------
# A whole run


@pytest.mark.parametrize(("derive", "hole"), [("colorize", "center"), ("inpaint", "boxes")])
def test_a_run_resumes_exactly(derive: str, hole: str, photos: Path, tmp_path: Path) -> None:
    fields = {
        "data__direction": "AtoB", "data__derive": derive, "data__hole": hole, "data__val_fraction": 0.25,
    }  # fmt: skip
    whole = pairloom.train(tiny_config(photos, training__steps=4, **fields), tmp_path / "whole")
    for steps in (2, 4):
        parts = tiny_config(photos, training__steps=steps, data__workers=steps // 2 - 1, **fields)
        resumed = pairloom.train(parts, tmp_path / "parts")
    one, two = (Translator.load(run, device="cpu") for run in (whole, resumed))
    for name, value in one.generator.state_dict().items():
        assert torch.equal(value, two.generator.state_dict()[name]), name
    assert one.config.data.derive == derive, "the weights know how their pairs were made"
