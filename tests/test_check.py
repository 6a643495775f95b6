"""What `check` says about data sets with every fault it knows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.filters import gaussian

from pairloom.config import DataConfig
from pairloom.data.alignment import CLEAR, estimate_shift
from pairloom.data.check import check


def scene(seed: int, size=(40, 40), channels=3) -> np.ndarray:
    """Smooth random blobs with edges: (H, W, C) uint8."""
    noise = gaussian(np.random.default_rng(seed).standard_normal(size), 2)
    steps = np.digitize(noise, np.quantile(noise, [0.3, 0.6, 0.85])) * 80
    fine = np.random.default_rng(seed).integers(0, 15, (*size, channels))
    return (steps[..., None] + fine).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0]).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Four good training pairs and two good test pairs in A and B."""
    for split, seeds in (("train", range(4)), ("test", (10, 11))):
        for seed in seeds:
            save(tmp_path / "A" / split / f"{seed}.png", scene(seed))
            save(tmp_path / "B" / split / f"{seed}.png", 255 - scene(seed))
    return tmp_path


def report(root: Path, **fields):
    return check(DataConfig(path=str(root), **{"load_size": 40, "crop_size": 32, **fields}))


def one(sentences, *words: str) -> str:
    """The only sentence that holds all the words."""
    found = [s for s in sentences if all(word in s for word in words)]
    assert len(found) == 1, (words, sentences)
    return found[0]


def test_a_good_data_set(folder):
    found = report(folder)
    assert found.ok
    assert found.warnings == found.problems == ()
    one(found.facts, "6 pairs (two folders): 4 train, 2 test", "A is the source")
    one(found.facts, "no validation split", "data.val_fraction")
    one(found.facts, "Source images: 3 channels of uint8, 40x40")
    one(found.facts, "Alignment", "clear for 6 of 6", "median shift 0 px")
    one(found.facts, "source will be read as", "0..255")
    assert found.words().startswith("Found:\n  - 6 pairs")
    assert found.words().endswith("No faults found; training can start.")


def test_nothing_to_check(tmp_path):
    found = report(tmp_path / "none")
    assert not found.ok
    one(found.problems, "does not exist")
    assert found.words().endswith("Training cannot start before the problems are solved.")


def test_unreadable_files_stop_training_but_not_tests(folder):
    (folder / "A/test/10.png").write_bytes(b"not an image")
    found = report(folder)
    assert found.ok
    one(found.warnings, "1 of 6 pairs cannot be read", "A/test/10.png")
    (folder / "B/train/2.png").write_bytes(b"")
    found = report(folder)
    assert not found.ok
    one(found.problems, "2 of 6 pairs cannot be read", "B/train/2.png")


def test_odd_halves_and_nan(tmp_path):
    save(tmp_path / "1.png", scene(1, (40, 81)))
    save(tmp_path / "2.png", scene(2, (40, 80)))
    one(report(tmp_path).problems, "1.png is 81 pixels wide")
    save(tmp_path / "3.npy", np.full((40, 80, 3), np.nan, dtype=np.float32))
    one(report(tmp_path).problems, "2 of 3", "3.npy", "NaN")


def test_names_are_bounded(folder):
    for n in range(20, 32):
        save(folder / f"A/train/{n}.png", scene(n))
    sentence = one(report(folder).warnings, "12 files are not used")
    assert "A/train/20.png has no partner in B/train" in sentence
    assert sentence.count("has no partner") == 5
    assert sentence.endswith("and 7 more.")


def test_mixed_modes(folder):
    save(folder / "B/test/10.png", scene(10, channels=1))
    one(report(folder).warnings, "target images are mixed", "test/10 (1 channel of uint8)")
    save(folder / "A/train/1.png", scene(1, channels=1))
    found = report(folder)
    one(
        found.problems,
        "source images are mixed",
        "most have 3 channels of uint8",
        "train/1 (1 channel of uint8)",
    )
    assert not found.ok


def test_sizes_that_differ_inside_a_pair(folder):
    save(folder / "B/train/1.png", scene(1, (20, 20)))
    found = report(folder)
    assert found.ok
    one(found.warnings, "1 of 6 pairs", "stretched", "train/1 (40x40 and 20x20)")
    found = report(folder, resize="none")
    assert not found.ok
    one(found.problems, "train/1 (40x40 and 20x20)", "resize='stretch'")


def test_shapes_and_sizes_against_the_crop(folder):
    save(folder / "A/train/1.png", scene(1, (40, 80)))
    save(folder / "B/train/1.png", scene(2, (40, 80)))
    one(report(folder).warnings, "1 pair is not of the shape", "train/1 (80x40)", "distorted", "shorter")
    one(report(folder).facts, "40x40 to 80x40 (2 sizes)")
    assert not report(folder, resize="shorter").warnings
    for resize, fate in (("stretch", "enlarged"), ("shorter", "enlarged"), ("none", "reflection")):
        found = report(folder, load_size=64, crop_size=64, resize=resize)
        one(found.warnings, "4 training pairs are smaller than the crop (64x64)", fate)
        assert found.ok


def test_duplicates_within_and_across_splits(folder):
    for side in "AB":
        pixels = (folder / side / "train/1.png").read_bytes()
        (folder / side / "train/1 copy.png").write_bytes(pixels)
        (folder / side / "test/12.png").write_bytes((folder / side / "train/2.png").read_bytes())
    (folder / "A/test/13.png").write_bytes((folder / "A/train/3.png").read_bytes())
    save(folder / "B/test/13.png", scene(13))
    save(folder / "A/train/20.png", scene(0))
    save(folder / "B/train/20.png", scene(20))
    found = report(folder)
    one(found.warnings, "1 pair is an exact copy", "train/1 = train/1 copy")
    one(found.warnings, "1 pair is in more than one split", "train/2 = test/12")
    one(found.warnings, "1 source image is in more than one split", "train/3 = test/13")
    one(found.warnings, "1 source image is paired with different targets", "train/0 = train/20")
    assert found.ok


def test_constant_images_are_named_and_no_duplicates(folder):
    for split, n in (("train", 1), ("test", 10)):
        save(folder / "B" / split / f"{n}.png", np.zeros((40, 40, 3), dtype=np.uint8))
    found = report(folder)
    one(found.warnings, "2 target images are of a single colour", "train/1, test/10")
    assert len(found.warnings) == 1


def test_divided_groups(folder):
    rows = ["a,b,split,group", "A/train/1.png,B/train/1.png,train,p1", "A/train/2.png,B/train/2.png,test,p1"]
    (folder / "pairs.csv").write_text("\n".join(rows))
    found = report(folder / "pairs.csv")
    one(found.warnings, "1 group is divided", "p1 (in train and test)")
    one(found.warnings, "only one training pair", "A/train/1")


def test_no_training_pairs(tmp_path):
    save(tmp_path / "test/1.png", scene(1, (40, 80)))
    one(report(tmp_path).problems, "no training pairs, only 1 test")


def test_pairs_that_cannot_be_divided(tmp_path):
    save(tmp_path / "1.png", scene(1, (40, 80)))
    found = report(tmp_path, val_fraction=0.1)
    assert found.ok
    one(found.warnings, "only one training pair (1)", "without validation")
    assert not any("data.val_fraction" in sentence for sentence in found.facts)


def test_crops_much_larger_than_life(folder):
    one(report(folder, load_size=286).warnings, "resized to 286x286", "cropped to 32x32", "data.load_size")


def test_settings_that_do_not_fit_the_files(folder):
    one(report(folder, source_kind="labels").problems, "source images", "data.source_palette")


def test_distance_to_the_palette(folder):
    (folder / "palette.txt").write_text("0,0,0\n255,255,255\n")
    palette = str(folder / "palette.txt")
    one(report(folder, source_palette=palette).problems, "palette.txt does not match the source images")
    for off, sentences in ((0, None), (3, "facts"), (18, "warnings")):
        for path in (folder / "A").rglob("*.png"):
            white = np.asarray(Image.open(path)).mean(axis=2, keepdims=True) > 99
            Image.fromarray(np.where(white, 255 - off, 0).astype(np.uint8).repeat(3, 2)).save(path)
        found = report(folder, source_palette=palette)
        assert found.ok
        said = [s for s in found.facts + found.warnings if "from their palette colour" in s]
        assert len(said) == (off > 0)
        if sentences:
            assert said[0] in getattr(found, sentences)
            assert ("is data.source_palette the right one?" in said[0]) == (sentences == "warnings")


def test_transparency_and_pages_are_read_as_the_settings_say(folder):
    for path in (folder / "A").rglob("*.png"):
        rgba = np.dstack([np.asarray(Image.open(path)), scene(3, channels=1)])
        Image.fromarray(rgba, "RGBA").save(path)
    found = report(folder)
    one(found.facts, "Source images: 3 channels")
    one(found.warnings, "source's alpha channel is laid over white", "4 of 4 images", "data.alpha=keep")
    one(report(folder, alpha="white").facts, "source's alpha channel is laid over white")
    # One setting holds for both sides; the targets have no alpha to keep.
    one(report(folder, alpha="keep").facts, "Source images: 4 channels")


def test_clipped_share_and_empty_channels(tmp_path):
    for n in range(3):
        deep = scene(n, (40, 80)).astype(np.uint16) * 100
        deep[..., 1] = 7
        deep[0, 60, 0] = 60_000
        save(tmp_path / f"{n}.npy", deep)
    found = report(tmp_path)
    one(found.facts, "% of the target's values lie outside its range and are clipped.")
    one(found.warnings, "source's 3 channels, number 1 (from 0) never varies")
    narrow = report(tmp_path, source_scaling="range", source_range=(0, 8000))
    one(narrow.warnings, "of the source's values lie outside", "data.source_range")


# -----------------------------------------------------------------------------------------------------------
# Shifts


def shifted(down: int, right: int, size=(96, 128), seed=0):
    """A scene, and its negative whose content lies (down, right) further."""
    margin = 24
    whole = scene(seed, (size[0] + 2 * margin, size[1] + 2 * margin))
    source = whole[margin:-margin, margin:-margin]
    top, left = margin - down, margin - right
    return source, 255 - whole[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (0, -5), (-9, 7), (12, 15)])
def test_known_shifts_are_recovered(down, right):
    found = estimate_shift(*shifted(down, right))
    assert found is not None
    assert abs(found.down - down) < 1
    assert abs(found.right - right) < 1
    assert found.clarity > CLEAR


def test_shifts_of_large_images_are_in_source_pixels():
    source, target = (side.repeat(4, axis=0).repeat(4, axis=1) for side in shifted(5, -3))
    found = estimate_shift(source, target)
    assert abs(found.down - 20) < 2
    assert abs(found.right + 12) < 2
    small = target[::2, ::2]  # another size on the target's side
    assert abs(estimate_shift(source, small).down - 20) < 2


def test_unrelated_and_empty_images_are_not_clear():
    clear = [estimate_shift(scene(n, (96, 96)), scene(n + 50, (96, 96))).clarity > CLEAR for n in range(10)]
    assert sum(clear) <= 1
    assert estimate_shift(scene(0), np.zeros((40, 40, 3), dtype=np.uint8)) is None
    assert estimate_shift(scene(0, (8, 8)), scene(0, (8, 8))) is None


def pairs_with_shifts(root: Path, shifts) -> None:
    for n, (down, right) in enumerate(shifts):
        source, target = shifted(down, right, seed=n)
        save(root / f"A/{n}.png", source)
        save(root / f"B/{n}.png", target)


def test_one_misaligned_pair_is_named(tmp_path):
    pairs_with_shifts(tmp_path, [(0, 0), (0, 1), (-6, 8), (0, 0), (1, 0), (0, 0)])
    found = report(tmp_path, resize="none")
    one(found.warnings, "1 pair is misaligned", "train/2 (8.", "px right and 6.")
    one(found.facts, "worst: train/2")


def test_a_common_shift_is_told_as_such(tmp_path):
    pairs_with_shifts(tmp_path, [(4, 0)] * 5)
    one(report(tmp_path, resize="none").warnings, "as a whole", "down", "register")
