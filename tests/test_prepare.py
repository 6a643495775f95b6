"""Pairs on disk: derived, joined, split, and nothing overwritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import draw_pair, write_pairs
from pairloom import images
from pairloom.config import DataConfig
from pairloom.data import DataError, find_pairs, load_pair, measure_specs
from pairloom.data.prepare import prepare
from pairloom.stacks.opening import open_stack

SIDE = 40


def write_photos(root: Path, count: int = 2, split: str = "train") -> Path:
    (root / split).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(draw_pair(i, SIDE)[:, :SIDE]).save(root / split / f"{split}.{i}.png")
    return root


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("derive", ["colorize", "inpaint", "edges", "gray"])
def test_derived_pairs_on_disk_are_those_that_are_made_on_the_fly(derive: str, tmp_path: Path) -> None:
    photos = write_photos(write_photos(tmp_path / "photos"), 1, "test")
    data = DataConfig(path=str(photos), derive=derive, crop_size=32)  # type: ignore[arg-type]
    done = prepare(data, tmp_path / "out")
    assert (done.pairs, done.written, done.left_out) == (3, 6, ())
    assert files(tmp_path / "out") == [
        f"{side}/{name}.png" for side in "AB" for name in ("test/test.0", "train/train.0", "train/train.1")
    ]
    flying = find_pairs(data)
    specs = measure_specs(flying, data)
    written = find_pairs(DataConfig(path=str(tmp_path / "out"), crop_size=32))
    assert [pair.name for pair in written.pairs] == [pair.name for pair in flying.pairs]
    for one, two in zip(flying.pairs, written.pairs, strict=True):
        sides = [load_pair(pair, *specs, how) for pair, how in ((one, data), (two, DataConfig(crop_size=32)))]
        for made, stored in zip(*sides, strict=True):
            assert made.shape == stored.shape
            assert (made - stored).abs().max() < 3 / 255, "but for rounding to 8 bits"


def test_a_derived_photo_is_its_file_where_nothing_is_resized(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    for derive in ("colorize", "edges", "gray"):
        data = DataConfig(path=str(photos), derive=derive, resize="none")  # type: ignore[arg-type]
        prepare(data, tmp_path / derive)
        for name in ("train.0", "train.1"):
            b = read(tmp_path / derive / "B" / "train" / f"{name}.png")
            assert np.array_equal(b, read(photos / "train" / f"{name}.png"))
            assert read(tmp_path / derive / "A" / "train" / f"{name}.png").shape == (SIDE, SIDE)


def test_side_by_side_and_back_keep_every_pixel(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", train=2, test=1)
    for direction in ("AtoB", "BtoA"):
        data = DataConfig(path=str(pairs), direction=direction, crop_size=16)  # type: ignore[arg-type]
        prepare(data, tmp_path / "folders")  # the second time all of it is there
    assert files(tmp_path / "folders") == [
        f"{side}/{split}/{name}.png"
        for side in "AB"
        for split, name in (("test", "test-0"), ("train", "train-0"), ("train", "train-1"))
    ]
    assert np.array_equal(
        read(tmp_path / "folders/A/train/train-0.png"), read(pairs / "train/train-0.png")[:, :SIDE]
    )
    data = DataConfig(path=str(tmp_path / "folders"))
    done = prepare(data, tmp_path / "joined", layout="side-by-side")
    assert done.words() == f"3 pairs in {tmp_path / 'joined'}; 3 files written."
    for path in files(pairs):
        assert np.array_equal(read(tmp_path / "joined" / path), read(pairs / path))


def test_a_grey_source_stands_beside_a_colour_target(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_photos(tmp_path / "photos")), derive="gray", crop_size=32)
    prepare(data, tmp_path / "out", layout="side-by-side")
    joined = read(tmp_path / "out/train/train.0.png")
    assert joined.shape == (32, 64, 3) and np.ptp(joined[:, :32], axis=2).max() == 0


def test_deep_values_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side, channels in (("A", 5), ("B", 1)):
        array = rng.integers(0, 65536, (8, 9, channels), dtype=np.uint16)
        (tmp_path / "pairs" / side).mkdir(parents=True)
        images.write_image(tmp_path / "pairs" / side / "x.tif", array)
    prepare(DataConfig(path=str(tmp_path / "pairs")), tmp_path / "out")
    assert files(tmp_path / "out") == ["A/train/x.tif", "B/train/x.png"]
    for side, file in (("A", "A/train/x.tif"), ("B", "B/train/x.png")):
        before = images.read_image(tmp_path / "pairs" / side / "x.tif")
        assert np.array_equal(images.read_image(tmp_path / "out" / file), before)


def test_ome_tiff_stays_one_with_names_and_sizes(tmp_path: Path) -> None:
    names, root = ["BF", "ER", "Mito"], tmp_path / "pairs"
    volume = np.random.default_rng(0).integers(0, 65536, (2, 3, 8, 9), dtype=np.uint16)
    for side in "AB":
        (root / side / "train").mkdir(parents=True)
        for name, planes, axes in (("flat", volume[0], "CYX"), ("deep", volume, "ZCYX")):
            metadata = {"axes": axes, "Channel": {"Name": names}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
            path = root / side / "train" / f"{name}.ome.tif"
            tifffile.imwrite(path, planes, ome=True, photometric="minisblack", metadata=metadata)
    data = DataConfig(path=str(root), source_select=("ER", "Mito"))
    for _ in range(2):
        done = prepare(data, tmp_path / "out")
    assert (done.written, done.note) == (0, "")
    assert files(tmp_path / "out") == [
        f"{side}/train/{name}.ome.tif" for side in "AB" for name in ("deep/z0000", "deep/z0001", "flat")
    ]
    for side, own in (("A", ("ER", "Mito")), ("B", tuple(names))):
        for name, planes in (("deep/z0001", volume[1]), ("flat", volume[0])):
            path = tmp_path / f"out/{side}/train/{name}.ome.tif"
            stack = open_stack(path)
            assert (stack.names, dict(stack.size)) == (own, {"x": 0.5, "y": 0.25})
            assert np.array_equal(images.read_image(path), np.moveaxis(planes[-len(own) :], 0, 2))
    copy = tmp_path / "out/B/train/flat.ome.tif"
    assert copy.read_bytes() == (root / "B/train/flat.ome.tif").read_bytes()

    # What was written is a data set of which channels are chosen by name.
    assert prepare(replace(data, path=str(tmp_path / "out")), tmp_path / "again").pairs == 3

    joined = prepare(replace(data, target_select=("ER", "BF")), tmp_path / "joined", layout="side-by-side")
    assert joined.words().count("are not kept of") == 1
    assert files(tmp_path / "joined")[-1] == "train/flat.tif"


def test_splits_are_made_and_holes_are_the_same_every_time(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 4)
    data = DataConfig(
        path=str(photos),
        derive="inpaint",
        hole="strokes",
        crop_size=32,
        val_fraction=0.25,
        test_fraction=0.25,
    )
    prepare(data, tmp_path / "out")
    assert {Path(file).parent.as_posix() for file in files(tmp_path / "out/A")} == {"train", "val", "test"}
    assert prepare(data, tmp_path / "out").written == 0
    assert "all of it was there already" in prepare(data, tmp_path / "out").words()


def test_it_goes_on_where_it_was_stopped_and_overwrites_nothing(tmp_path: Path) -> None:
    data = DataConfig(path=str(write_photos(tmp_path / "photos", 3)), derive="gray", crop_size=32)
    prepare(data, tmp_path / "out")
    (tmp_path / "out/A/train/train.1.png").unlink()
    assert prepare(data, tmp_path / "out").written == 1
    mine = tmp_path / "out/B/train/train.2.png"
    Image.new("RGB", (4, 4)).save(mine)
    before = mine.read_bytes()
    with pytest.raises(DataError) as caught:
        prepare(data, tmp_path / "out")
    first, last = str(caught.value).splitlines()
    assert first == f"{mine}: is there already and holds something else; choose another --out."
    assert last == "1 of 3 pairs could not be written; the others were."
    assert mine.read_bytes() == before


def test_faults_are_a_line_each_and_stop_nothing(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 4)
    (photos / "train/train.3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = DataConfig(path=str(photos), derive="inpaint", crop_size=32, test_fraction=0.5, split_seed=1)
    if find_pairs(data).split("train")[-1].name == "train.3":  # measuring would meet it
        data = DataConfig(path=str(photos), derive="inpaint", crop_size=32, test_fraction=0.5, split_seed=2)
    with pytest.raises(DataError, match=r"train\.3\.png"):
        prepare(data, tmp_path / "out")
    assert len(files(tmp_path / "out")) == 6

    for side, size in (("A", 8), ("B", 9)):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        Image.new("RGB", (size, 8)).save(tmp_path / "pairs" / side / "x.png")
    with pytest.raises(DataError, match=r"8x8 pixels and 3 channels of uint8, but .* 9x8 .*two folders, or"):
        prepare(DataConfig(path=str(tmp_path / "pairs")), tmp_path / "joined", layout="side-by-side")
    with pytest.raises(DataError, match="lies in the data folder"):
        prepare(data, photos / "out")
