"""Finding pairs, making splits, measuring specs, and the order of training batches."""

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from pairloom.config import DataConfig
from pairloom.data import (
    DataError,
    ImageRef,
    Pair,
    evenly,
    find_pairs,
    fingerprint,
    load_pair,
    measure_specs,
    spec_notes,
    training_batches,
)
from pairloom.data.loading import TrainingImages, item_rng, permutation
from pairloom.images import ImageError


def paint(path: Path, *, size=(12, 16), channels=3, seed=0, suffix=None, low=0, high=256) -> Path:
    """A noise image of (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(low, high, (*size, channels)).astype(np.uint8)
    Image.fromarray(pixels if channels > 1 else pixels[..., 0]).save(path)
    return path


def touch(root: Path, *files: str) -> None:
    """Empty files: listing never opens them."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(pairs, split="train") -> list[str]:
    return [pair.name for pair in pairs.split(split)]


def config(root: Path, **fields) -> DataConfig:
    return DataConfig(path=str(root), **fields)


# -----------------------------------------------------------------------------------------------------------
# Layouts


def test_side_by_side_folders_are_splits_in_natural_order(tmp_path):
    touch(tmp_path, "train/10.png", "train/2.JPG", "train/1.webp", "valid/5.tif", "test/7.npy")
    touch(tmp_path, "train/.hidden.png", "train/notes.txt", "train/.cache/1.png", "loose.png", "extra/9.png")
    found = find_pairs(config(tmp_path))
    assert found.layout == "side-by-side"
    assert names(found) == ["1", "2", "10"]
    assert names(found, "val") == ["5"]
    assert names(found, "test") == ["7"]
    first = found.split("train")[0]
    assert first == Pair(
        "1",
        ImageRef(tmp_path / "train/1.webp", "left"),
        ImageRef(tmp_path / "train/1.webp", "right"),
        "train",
        "1",
    )
    assert found.unpaired == (
        "extra lies beside the split folders and is not used",
        "loose.png lies beside the split folders and is not used",
    )


def test_flat_side_by_side_files_are_training_pairs(tmp_path):
    touch(tmp_path, "b.png", "deep/er/a.png")
    found = find_pairs(config(tmp_path))
    assert names(found) == ["b", "deep/er/a"]
    assert found.unpaired == ()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("A/train", "B/train"),
        ("A", "B"),
        ("trainA", "trainB"),
        ("a/training", "b/training"),
        ("A", "B/train"),
    ],
)
def test_two_folders_pair_by_relative_name(tmp_path, a, b):
    touch(tmp_path, f"{a}/1.png", f"{a}/s/2.png", f"{a}/3.png", f"{b}/1.jpg", f"{b}/s/2.tif", f"{b}/2.tif")
    found = find_pairs(config(tmp_path))
    assert found.layout == "two folders"
    assert names(found) == ["1", "s/2"]
    pair = found.pairs[1]
    assert (pair.source, pair.target) == (
        ImageRef(tmp_path / a / "s/2.png"),
        ImageRef(tmp_path / b / "s/2.tif"),
    )
    assert found.unpaired == (f"{a}/3.png has no partner in {b}", f"{b}/2.tif has no partner in {a}")


def test_two_given_folders_and_a_split_on_one_side_only(tmp_path):
    touch(tmp_path, "photo/train/1.png", "photo/test/1.png", "label/train/1.png", "label/val/4.png")
    found = find_pairs(config(tmp_path / "photo", path_b=str(tmp_path / "label")))
    assert [(pair.split, pair.name) for pair in found.pairs] == [("train", "1")]
    assert found.unpaired == (
        f"{tmp_path}/label/val/4.png has no partner in the other side, which has no val folder",
        f"{tmp_path}/photo/test/1.png has no partner in the other side, which has no test folder",
    )


def test_trainA_layout_has_all_splits(tmp_path):
    touch(tmp_path, *(f"{split}{side}/1.png" for split in ("train", "val", "test") for side in "AB"))
    assert [pair.split for pair in find_pairs(config(tmp_path)).pairs] == ["train", "val", "test"]


def test_the_two_sides_may_lie_in_each_split(tmp_path):
    touch(
        tmp_path, *(f"{split}/{side}/{n}.png" for split in ("train", "test") for side in "AB" for n in "12")
    )
    touch(tmp_path, "val/A/7.png", "train/A/9.png", "train/stray.png")
    found = find_pairs(config(tmp_path))
    assert found.layout == "two folders"
    assert [(p.split, p.name) for p in found.pairs] == [
        ("train", "1"),
        ("train", "2"),
        ("test", "1"),
        ("test", "2"),
    ]
    assert found.pairs[0].source == ImageRef(tmp_path / "train/A/1.png")
    assert found.pairs[0].target == ImageRef(tmp_path / "train/B/1.png")
    assert set(found.unpaired) == {
        "train/A/9.png has no partner in train/B",
        "val/A/7.png has no partner in the other side, which has no val folder",
        "train/stray.png lies beside the split folders and is not used",
    }


def test_two_folders_under_other_names_are_told_of(tmp_path):
    touch(tmp_path, "train/input/1.png", "train/target/1.jpg", "test/input/1.png", "test/other/2.png")
    found = find_pairs(config(tmp_path))
    assert found.layout == "side-by-side"
    (note,) = found.notes
    assert note.startswith(f"{tmp_path}/train: input and target hold images of the same names")
    assert "name them A and B" in note


def test_direction_swaps_the_sides(tmp_path):
    touch(tmp_path, "1.png")
    forth, back = (find_pairs(config(tmp_path, direction=d)).pairs[0] for d in ("AtoB", "BtoA"))
    assert (forth.source.half, forth.target.half) == ("left", "right")
    assert (back.source.half, back.target.half) == ("right", "left")


def test_a_cycle_of_links_ends(tmp_path):
    touch(tmp_path, "1.png", "sub/2.png")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert names(find_pairs(config(tmp_path))) == ["1", "sub/2"]


@pytest.mark.parametrize(
    ("files", "fields", "words"),
    [
        (["notes.txt"], {}, ["No images were found", ".png", "trainA"]),
        (
            ["A/img1.png", "B/lab1.png"],
            {},
            ["No pairs", "A/img1.png has no partner in B", "B/lab1.png", "manifest"],
        ),
        (["train/1.png", "train/1.jpg"], {}, ["train/1.png", "train/1.jpg", "same name"]),
        (["A/1.png"], {}, ["A has no partner", "folder B"]),
        (["trainB/1.png"], {}, ["trainB has no partner", "folder trainA"]),
        (["val/1.png", "valid/2.png"], {}, ["both the val split"]),
        (["1.png"], {"path_b": "nowhere"}, ["data.path_b", "nowhere"]),
        (["1.png"], {"group_pattern": "p("}, ["data.group_pattern", "regular expression"]),
        (["1.png"], {"group_pattern": "p"}, ["data.group_pattern", "must have a group"]),
        (["1.png", "q.png"], {"group_pattern": "([0-9])"}, ["finds no group in the name 'q'"]),
        (
            ["p_1.png", "p_2.png"],
            {"group_pattern": "(p)", "test_fraction": 0.5},
            ["one group only (p)", "no test split", "data.test_fraction=0"],
        ),
    ],
)
def test_faults_are_sentences(tmp_path, files, fields, words):
    touch(tmp_path, *files)
    with pytest.raises(DataError) as raised:
        find_pairs(config(tmp_path, **fields))
    assert all(word in str(raised.value) for word in words), raised.value
    assert str(raised.value).endswith(".")


def test_a_path_that_is_nothing(tmp_path):
    touch(tmp_path, "photo.png")
    for path, word in (
        ("", "empty"),
        (tmp_path / "no", "does not exist"),
        (tmp_path / "photo.png", "neither"),
    ):
        with pytest.raises(DataError, match=word):
            find_pairs(DataConfig(path=str(path)))


def test_listing_opens_no_file(tmp_path):
    (tmp_path / "A").mkdir()
    (tmp_path / "B").mkdir()
    for number in range(500):
        (tmp_path / "A" / f"{number}.png").touch()  # empty: opened, it would be a fault
        (tmp_path / "B" / f"{number}.png").touch()
    found = find_pairs(config(tmp_path, val_fraction=0.1))
    assert len(found.pairs) == 500


# -----------------------------------------------------------------------------------------------------------
# Manifests


def manifest(root: Path, text: str) -> DataConfig:
    (root / "pairs.csv").write_text(text, encoding="utf-8-sig")
    return config(root / "pairs.csv")


def test_manifest_rows_with_splits_and_groups(tmp_path):
    touch(tmp_path, "x/1.png", "x/2.png", "y/one.tif", "y/two.tif")
    rows = "a,b,split,group\nx/2.png , y/two.tif,validation,p2\n\n"
    rows += "x/1.png,y/one.tif,train,p1\nx/1.png,y/two.tif,train,\n"
    found = find_pairs(manifest(tmp_path, rows))
    assert found.layout == "manifest"
    assert [(p.name, p.split, p.group) for p in found.pairs] == [
        ("x/1", "train", "p1"),
        ("x/1~2", "train", "x/1"),
        ("x/2", "val", "p2"),
    ]
    assert found.pairs[2].target.path == tmp_path / "y/two.tif"


def test_manifest_names_stay_below_the_output_folder(tmp_path):
    touch(tmp_path, "far/1.png", "far/2.png")
    (tmp_path / "in").mkdir()
    found = find_pairs(
        manifest(tmp_path / "in", f"a,b\n../far/1.png,../far/1.png\n{tmp_path}/far/2.png,../far/2.png\n")
    )
    assert all(not name.startswith(("/", "..")) for name in names(found))
    assert "far/1" in names(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,colour\n", ["unknown column 'colour'"]),
        ("a;b\n", ["unknown column 'a;b'", "commas"]),
        ("a,split\n", ["lacks a or b"]),
        ("a,b\n", ["no rows"]),
        ("a,b\n1.png,1.png\n1.png\n", ["line 3", "1 fields"]),
        ("a,b\n1.png,\n", ["line 2: b is empty"]),
        ("a,b\n1.png,9.png\n", ["line 2: b", "9.png does not exist"]),
        ("a,b\n1.png,1.gif\n", ["line 2: b", "1.gif"]),
        ("a,b\n1.png,2.png\n2.png,1.png\n1.png,2.png\n", ["line 4 repeats the pair of line 2"]),
        ("a,b,split\n1.png,2.png,tarin\n", ["line 2: split is 'tarin'", "train, val or test"]),
    ],
)
def test_manifest_faults_name_the_line(tmp_path, text, words):
    touch(tmp_path, "1.png", "2.png")
    with pytest.raises(DataError) as raised:
        find_pairs(manifest(tmp_path, text))
    assert all(word in str(raised.value) for word in ["pairs.csv", *words]), raised.value


# -----------------------------------------------------------------------------------------------------------
# Splits


def slides(tmp_path, patients=10, each=6):
    touch(tmp_path, *(f"p{p}_{n}.png" for p in range(patients) for n in range(each)))
    return config(tmp_path, group_pattern="(p[0-9]+)_")


def test_made_splits_never_divide_a_group(tmp_path):
    data = replace(slides(tmp_path), val_fraction=0.2, test_fraction=0.3)
    found = find_pairs(data)
    groups = {split: {pair.group for pair in found.split(split)} for split in ("train", "val", "test")}
    assert [len(groups[s]) for s in ("train", "val", "test")] == [5, 2, 3]
    assert (
        not groups["train"] & groups["val"]
        | groups["train"] & groups["test"]
        | groups["val"] & groups["test"]
    )
    assert len(found.pairs) == 60
    assert find_pairs(data) == found
    other = find_pairs(replace(data, split_seed=1))
    assert {pair.group for pair in other.split("test")} != groups["test"]


@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_at_least_one_group_on_each_side(tmp_path, fraction):
    data = replace(slides(tmp_path, patients=2), val_fraction=fraction)
    found = find_pairs(data)
    assert {len({p.group for p in found.split(s)}) for s in ("train", "val")} == {1}


@pytest.mark.parametrize(
    ("files", "pattern", "words"),
    [
        (["p_1.png"], None, "There is only one training pair (p_1)"),
        (["p_1.png", "p_2.png"], "(p)", "There are training pairs of one group only (p)"),
    ],
)
def test_what_cannot_be_divided_is_trained_without_validation(tmp_path, files, pattern, words):
    touch(tmp_path, *files)
    found = find_pairs(config(tmp_path, group_pattern=pattern, val_fraction=0.1))
    assert [len(found.split(split)) for split in ("train", "val")] == [len(files), 0]
    assert found.notes == (
        f"{words}, from which no val split can be set aside: training goes without validation.",
    )
    assert find_pairs(config(tmp_path, group_pattern=pattern)).notes == ()


def test_what_the_test_split_leaves_need_not_be_divided_again(tmp_path):
    touch(tmp_path, "1.png", "2.png")
    found = find_pairs(config(tmp_path, val_fraction=0.5, test_fraction=0.5))
    assert [len(found.split(split)) for split in ("train", "val", "test")] == [1, 0, 1]
    assert len(found.notes) == 1


def test_one_huge_group_does_not_become_the_validation_split(tmp_path):
    touch(tmp_path, *(f"big_{n}.png" for n in range(50)), *(f"s{n}_0.png" for n in range(50)))
    for seed in range(5):
        found = find_pairs(config(tmp_path, group_pattern="([a-z0-9]+)_", val_fraction=0.1, split_seed=seed))
        assert len(found.split("val")) == 10


def test_existing_splits_are_kept(tmp_path):
    touch(tmp_path, *(f"train/{n}.png" for n in range(20)), "val/1.png", "test/1.png")
    found = find_pairs(config(tmp_path, val_fraction=0.5, test_fraction=0.5))
    assert [len(found.split(s)) for s in ("train", "val", "test")] == [20, 1, 1]


def test_max_pairs_draws_nested_training_sets_only(tmp_path):
    touch(tmp_path, *(f"train/{n}.png" for n in range(20)), *(f"test/{n}.png" for n in range(3)))
    few, more = (find_pairs(config(tmp_path, max_pairs=n)) for n in (4, 9))
    assert len(few.split("train")) == 4
    assert set(names(few)) < set(names(more))
    assert names(few) == sorted(names(few), key=int)
    assert len(few.split("test")) == 3
    assert names(find_pairs(config(tmp_path, max_pairs=4, split_seed=3))) != names(few)


def test_one_source_with_two_targets_is_one_group(tmp_path):
    touch(tmp_path, "1.png", "2.png", "3.png")
    rows = "a,b\n1.png,2.png\n1.png,3.png\n2.png,3.png\n"
    for seed in range(6):
        found = find_pairs(replace(manifest(tmp_path, rows), val_fraction=0.3, split_seed=seed))
        where = {pair.split for pair in found.pairs if pair.name.startswith("1")}
        assert len(where) == 1


def test_a_tilde_in_a_file_name_means_nothing(tmp_path):
    touch(tmp_path, "a~1.png", "a~2.png", "a.png")
    assert {pair.group for pair in find_pairs(config(tmp_path)).pairs} == {"a", "a~1", "a~2"}


# -----------------------------------------------------------------------------------------------------------
# Reading and measuring


def test_halves_and_their_odd_width(tmp_path):
    path = paint(tmp_path / "1.png", size=(4, 10))
    pixels = np.asarray(Image.open(path))
    assert np.array_equal(ImageRef(path, "left").read(), pixels[:, :5])
    assert np.array_equal(ImageRef(path, "right").read(), pixels[:, 5:])
    source, target = find_pairs(config(tmp_path)).pairs[0].read()
    assert np.array_equal(np.concatenate([source, target], axis=1), pixels)
    odd = paint(tmp_path / "odd.png", size=(4, 9))
    with pytest.raises(DataError, match=r"odd\.png is 9 pixels wide"):
        ImageRef(odd, "left").read()


def test_specs_follow_the_sides_and_the_direction(tmp_path):
    for n in range(3):
        paint(tmp_path / f"A/{n}.png", channels=1, seed=n, high=4)  # four classes
        paint(tmp_path / f"B/{n}.png", seed=n)
    found = find_pairs(config(tmp_path))
    source, target = measure_specs(found, config(tmp_path))
    assert (source.kind, source.channels, source.palette) == ("labels", 1, ((0,), (1,), (2,), (3,)))
    assert (target.kind, target.channels) == ("intensity", 3)
    back = config(tmp_path, direction="BtoA", target_one_hot=True)
    source, target = measure_specs(find_pairs(back), back)
    assert (source.kind, target.kind, target.tensor_channels) == ("intensity", "labels", 4)


def test_one_late_colourful_or_lossy_file_makes_a_side_intensity(tmp_path):
    for n in range(300):
        paint(tmp_path / f"A/{n}.png", size=(4, 4), channels=1, high=4, seed=n)
        paint(tmp_path / f"B/{n}.png", size=(4, 4), channels=1, high=4, seed=n)
    paint(tmp_path / "A/298.png", size=(32, 32), channels=1)  # not among the evenly spread ones
    (tmp_path / "B/298.png").unlink()
    paint(tmp_path / "B/298.jpg", size=(4, 4), channels=1, high=1)
    source, target = measure_specs(find_pairs(config(tmp_path)), config(tmp_path))
    assert (source.kind, target.kind) == ("intensity", "intensity")
    forced = config(tmp_path, target_kind="labels")
    assert measure_specs(find_pairs(forced), forced)[1].kind == "labels"


def test_palette_and_settings_that_do_not_fit(tmp_path):
    paint(tmp_path / "A/1.png", size=(20, 20), high=30)
    paint(tmp_path / "B/1.png", seed=1, size=(20, 20))
    (tmp_path / "palette.txt").write_text("0,0,0,wall\n255,255,255,sky\n")
    data = config(tmp_path, source_palette=str(tmp_path / "palette.txt"))
    source, _ = measure_specs(find_pairs(data), data)
    assert (source.kind, source.palette_names) == ("labels", ("wall", "sky"))
    for fields, word in (
        ({"source_kind": "labels"}, "data.source_palette"),
        ({"target_one_hot": True}, "target images"),
        ({"source_kind": "intensity", "source_palette": str(tmp_path / "palette.txt")}, "source images"),
        ({"source_palette": str(tmp_path / "none.txt")}, "none.txt"),
        (
            {"target_palette": str(tmp_path / "palette.txt")},
            r"data\.target_palette: .*palette\.txt does not match the target images: their pixels lie [0-9]+",
        ),
    ):
        with pytest.raises(DataError, match=word):
            measure_specs(find_pairs(data), config(tmp_path, **fields))


@pytest.mark.parametrize(
    ("off", "channels", "good"), [(25, 1, True), (26, 1, False), (25, 3, True), (26, 3, False)]
)
def test_a_palette_is_refused_from_a_tenth_of_the_range_on(tmp_path, off, channels, good):
    for n in range(3):
        for side in "AB":
            paint(tmp_path / f"{side}/{n}.png", channels=channels, low=off, high=off + 1)
    (tmp_path / "palette.txt").write_text("0\n200\n" if channels == 1 else "0,0,0\n200,200,200\n")
    data = config(tmp_path, source_palette=str(tmp_path / "palette.txt"))
    if good:
        assert measure_specs(find_pairs(data), data)[0].kind == "labels"
    else:
        with pytest.raises(DataError, match=rf"lie {off * channels**0.5:.1f} file values"):
            measure_specs(find_pairs(data), data)


def test_what_the_specs_lose_is_said(tmp_path):
    for n in range(60):
        paint(tmp_path / f"A/{n}.png", channels=1, low=4, high=5)
        values = np.zeros((10, 10, 1), np.float32)
        values[0, :5] = 7.0
        (tmp_path / "B").mkdir(exist_ok=True)
        np.save(tmp_path / f"B/{n}.npy", values)
    (tmp_path / "palette.txt").write_text("0\n200\n")
    data = config(
        tmp_path,
        source_palette=str(tmp_path / "palette.txt"),
        target_scaling="range",
        target_range=(0, 5),
    )
    found = find_pairs(data)
    source, target = measure_specs(found, data)
    assert spec_notes(found.pairs, source, target) == [
        "The source's pixels lie 4 file values on average from their palette colour.",
        "5 % of the target's values lie outside its range and are clipped; "
        "see data.target_scaling and data.target_range.",
    ]
    exact = replace(source, palette=((4,), (200,)), low=(4.0,))
    wide = replace(target, high=(7.0,))
    assert spec_notes(found.pairs, exact, wide) == []
    (tmp_path / "B/0.npy").write_bytes(b"")
    with pytest.raises(ImageError, match=r"0\.npy"):
        spec_notes(found.pairs, exact, wide)


def test_alpha_is_kept_where_the_settings_say_so(tmp_path):
    rng = np.random.default_rng(0)
    for side in "AB":
        (tmp_path / side).mkdir()
        for n in range(2):
            rgba = rng.integers(0, 256, (12, 16, 4)).astype(np.uint8)
            Image.fromarray(rgba, "RGBA").save(tmp_path / side / f"{n}.png")
    for alpha, channels in (("white", 3), ("keep", 4)):
        data = config(tmp_path, alpha=alpha, load_size=8, crop_size=8)
        found = find_pairs(data)
        source, target = measure_specs(found, data)
        assert (source.channels, source.alpha) == (target.channels, target.alpha) == (channels, alpha)
        x, y = load_pair(found.pairs[0], source, target, data)
        assert x.shape == y.shape == (channels, 8, 8)
        batches = training_batches(
            found, source, target, data, batch_size=2, seed=0, start=0, stop=2, workers=0
        )
        assert next(batches)[0].shape == (2, channels, 8, 8)


@pytest.mark.parametrize(
    ("dtype", "alpha", "decided"),
    [
        ("uint8", "auto", "white"),
        ("uint16", "auto", "keep"),
        ("float32", "auto", "keep"),
        ("uint8", "keep", "keep"),
        ("uint16", "white", "white"),
    ],
)
def test_measurements_are_not_laid_over_white_unasked(tmp_path, dtype, alpha, decided):
    """Writers of TIFF call the last of four channels alpha, whatever it holds."""
    rng = np.random.default_rng(0)
    for side in "AB":
        (tmp_path / side).mkdir()
        for n in range(3):
            values = rng.random((12, 16, 4)) if dtype == "float32" else rng.integers(0, 256, (12, 16, 4))
            tifffile.imwrite(tmp_path / side / f"{n}.tif", values.astype(dtype), photometric="rgb",
                             extrasamples=("unassalpha",))  # fmt: skip
    data = config(tmp_path, alpha=alpha, crop_size=8)
    found = find_pairs(data)
    source, target = measure_specs(found, data)
    assert source.alpha == target.alpha == decided
    assert source.channels == target.channels == (4 if decided == "keep" else 3)
    said = [note for note in spec_notes(found.pairs, source, target) if "alpha channel" in note]
    assert [note.split("'")[0] for note in said] == (
        [] if decided == "keep" else ["The source", "The target"]
    )
    assert all("3 of 3 images; data.alpha=keep" in note for note in said)
    if decided == "keep":
        stored = tifffile.imread(found.pairs[0].source.path)
        assert np.array_equal(found.pairs[0].source.read(source), stored)


def test_an_opaque_alpha_channel_is_not_worth_a_word(tmp_path):
    for side in "AB":
        (tmp_path / side).mkdir()
        Image.fromarray(np.full((8, 8, 4), 255, np.uint8)).save(tmp_path / side / "1.png")
    found = find_pairs(config(tmp_path))
    assert not any(
        "alpha" in note for note in spec_notes(found.pairs, *measure_specs(found, config(tmp_path)))
    )


def test_files_with_and_without_alpha_are_told_how_to_mix(tmp_path):
    (tmp_path / "A").mkdir()
    for name, channels in (("1", 3), ("2", 4)):
        values = np.full((8, 8, channels), 9, np.uint16)
        kind = ("unassalpha",) if channels == 4 else None
        tifffile.imwrite(tmp_path / f"A/{name}.tif", values, photometric="rgb", extrasamples=kind)
    touch(tmp_path, "B/1.png", "B/2.png")
    with pytest.raises(DataError, match=r"2\.tif has 4 channels of uint16.*data\.alpha=white"):
        measure_specs(find_pairs(config(tmp_path)), config(tmp_path))


def test_further_pages_are_left_out_where_the_settings_say_so(tmp_path):
    rng = np.random.default_rng(0)
    for side in "AB":
        (tmp_path / side).mkdir()
        stack = rng.integers(0, 256, (2, 12, 16)).astype(np.uint8)
        tifffile.imwrite(tmp_path / side / "1.tif", stack, photometric="minisblack")
    for pages, channels in (("channels", 2), ("first", 1)):
        data = config(tmp_path, pages=pages, load_size=8, crop_size=8)
        found = find_pairs(data)
        source, target = measure_specs(found, data)
        assert (source.channels, source.page_axis) == (target.channels, target.page_axis) == (channels, pages)
        assert load_pair(found.pairs[0], source, target, data)[0].shape == (channels, 8, 8)


def test_evenly_chosen():
    assert evenly(range(10), 4) == [0, 2, 5, 7]
    assert evenly("abc", 9) == ["a", "b", "c"]
    assert evenly((), 3) == []


def test_mixed_modes_name_both_files(tmp_path):
    paint(tmp_path / "A/1.png")
    paint(tmp_path / "A/2.png", channels=1)
    touch(tmp_path, "B/1.png", "B/2.png")
    with pytest.raises(
        DataError, match=r"2\.png has 1 channel of uint8, but .*1\.png has 3 channels of uint8"
    ):
        measure_specs(find_pairs(config(tmp_path)), config(tmp_path))


def test_no_training_pairs(tmp_path):
    touch(tmp_path, "test/1.png")
    with pytest.raises(DataError, match="no training pairs"):
        measure_specs(find_pairs(config(tmp_path)), config(tmp_path))


def test_load_pair_geometry(tmp_path):
    paint(tmp_path / "1.png", size=(12, 32))
    for resize, shape in (("stretch", (8, 4)), ("shorter", (4, 5)), ("none", (12, 16))):
        data = config(tmp_path, load_size=(9, 9), crop_size=(8, 4), resize=resize)
        found = find_pairs(data)
        x, y = load_pair(found.pairs[0], *measure_specs(found, data), data)
        assert x.shape == y.shape == (3, *shape)
        assert x.is_contiguous()
        assert x.dtype == torch.float32
        assert -1 <= x.min() < x.max() <= 1


def test_sizes_that_differ_need_stretch(tmp_path):
    paint(tmp_path / "A/1.png", size=(12, 16))
    paint(tmp_path / "B/1.png", size=(6, 8))
    data = config(tmp_path, load_size=8, crop_size=8)
    found = find_pairs(data)
    specs = measure_specs(found, data)
    assert [side.shape for side in load_pair(found.pairs[0], *specs, data)] == [(3, 8, 8)] * 2
    with pytest.raises(DataError, match=r"A/1\.png is 16x12 pixels and .*B/1\.png 8x6.*stretch"):
        load_pair(found.pairs[0], *specs, replace(data, resize="none"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_file_names_need_not_be_utf_8(tmp_path):
    for n in range(4):
        Image.new("RGB", (16, 8), (n, n, n)).save(os.fsencode(tmp_path) + b"/x\xff%d.png" % n, format="PNG")
    found = find_pairs(config(tmp_path, val_fraction=0.3, max_pairs=2))
    assert [len(found.split(split)) for split in ("train", "val")] == [2, 1]
    assert fingerprint(found) == fingerprint(found.pairs)


def test_fingerprint_sees_changes_but_not_the_place(tmp_path):
    for root in ("here", "there"):
        touch(tmp_path / root, "1.png", "2.png")
    os.utime(tmp_path / "there/1.png", ns=(10**18, 10**18))  # a copy often has times of its own
    here, there = (fingerprint(find_pairs(config(tmp_path / root))) for root in ("here", "there"))
    assert here == there
    (tmp_path / "there/2.png").write_bytes(b"x")
    assert fingerprint(find_pairs(config(tmp_path / "there"))) != here
    assert fingerprint(find_pairs(config(tmp_path / "here", direction="BtoA"))) != here


# -----------------------------------------------------------------------------------------------------------
# The order of training


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Seven noise pairs of 12x16, and their specs."""
    root = tmp_path_factory.mktemp("small")
    for n in range(7):
        paint(root / f"{n}.png", size=(12, 32), seed=n)
    data = config(root, load_size=(10, 12), crop_size=(8, 8))
    found = find_pairs(data)
    return found, *measure_specs(found, data), data


def run(small, *, start=0, stop=12, batch_size=2, workers=0, seed=5):
    batches = training_batches(
        *small, batch_size=batch_size, seed=seed, start=start, stop=stop, workers=workers
    )
    return [(x.clone(), y.clone()) for x, y, _ in batches]


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in zip(one, other, strict=True)
    )


def test_every_epoch_is_another_permutation():
    orders = [permutation(3, epoch, 50) for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(3, 0, 5).tolist() == permutation(3, 0, 5).tolist()


def test_order_and_augmentation_are_independent_streams():
    first = item_rng(3, 0, 0).integers(1 << 30, size=4).tolist()
    assert first != np.random.default_rng([3, 0, 0, 1]).integers(1 << 30, size=4).tolist()
    assert first != item_rng(3, 1, 0).integers(1 << 30, size=4).tolist()
    assert first != item_rng(3, 0, 1).integers(1 << 30, size=4).tolist()


def test_batches_run_across_epoch_ends(small):
    batches = run(small, stop=14, batch_size=2)
    assert [x.shape for x, _ in batches] == [(2, 3, 8, 8)] * 7
    singles = run(small, stop=14, batch_size=1)
    joined = [
        tuple(torch.cat([a[i], b[i]]) for i in range(2))
        for a, b in zip(singles[::2], singles[1::2], strict=True)
    ]
    assert same(batches, joined)
    assert [len(x) for x, _ in run(small, stop=5, batch_size=2)] == [2, 2, 1]


def test_a_start_gives_the_tail(small):
    assert same(run(small, start=6, stop=16), run(small, start=0, stop=16)[3:])
    assert not same(run(small), run(small, seed=6))


def test_epochs_differ_in_augmentation(small):
    found, *rest = small
    one = (found.pairs[:1], *rest)
    views = run(one, stop=12, batch_size=1)
    assert len({x.numpy().tobytes() for x, _ in views}) > 3


def test_workers_change_nothing(small):
    assert same(run(small, start=3, stop=19, workers=2), run(small, start=3, stop=19))


def test_global_random_states_stay_as_they_are(small):
    for workers in (0, 1):
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        run(small, workers=workers)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
        assert random.getstate() == before[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_sentence(tmp_path, workers):
    for n in range(3):
        paint(tmp_path / f"{n}.png", size=(12, 32), seed=n)
    data = config(tmp_path, load_size=8, crop_size=8)
    found = find_pairs(data)
    specs = measure_specs(found, data)
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises((ImageError, DataError)) as raised:
        run((found, *specs, data), stop=3, batch_size=1, workers=workers)
    assert "1.png" in str(raised.value)
    assert "Traceback" not in str(raised.value)
    paint(tmp_path / "1.png", channels=1, size=(12, 32))
    with pytest.raises(DataError, match=r"1\.png"):
        run((found, *specs, data), stop=3, batch_size=1, workers=workers)


def test_workers_outlive_signals_to_the_group_but_not_a_kill(small):
    batches = training_batches(*small, batch_size=1, seed=0, start=0, stop=10**6, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for name in ("-INT", "-TERM"):  # sent by another process than the parent
        subprocess.run(["kill", name, str(worker.pid)], check=True)
    for _ in range(50):
        next(batches)
    assert worker.is_alive()
    killer = threading.Timer(0.1, worker.kill)
    killer.start()
    with pytest.raises(DataError, match=r"data\.workers=0"):
        deque(batches, maxlen=0)
    killer.join()


def test_closing_ends_the_workers(small):
    batches = training_batches(*small, batch_size=1, seed=0, start=0, stop=400, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    batches.close()
    worker.join(timeout=60)
    assert not worker.is_alive()


def test_the_training_images_can_be_spawned(small):
    found, *rest = small
    dataset = TrainingImages(found.pairs, *rest, 5)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[9][0], dataset[9][0])


def test_no_pairs_to_train_on(small):
    with pytest.raises(DataError, match="no training pairs"):
        run(((), *small[1:]))
