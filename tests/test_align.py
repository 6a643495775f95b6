"""Pairs with known shifts and affine maps are brought together; what cannot be is left out, by name."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from skimage.filters import gaussian

from pairloom import images
from pairloom.cli import main
from pairloom.config import DataConfig
from pairloom.data.align import Box, align, move, shared_box
from pairloom.data.pairs import DataError
from pairloom.data.registration import Motion, register
from pairloom.stacks.opening import open_stack

SIDE, MARGIN = 96, 24
CORNERS = np.array([(0, 0, SIDE - 1, SIDE - 1), (0, SIDE - 1, 0, SIDE - 1)], float)


def scene(seed: int, channels: int = 3) -> np.ndarray:
    """Blobs with edges, larger than an image by a margin on each side: (H, W, C), 0 to 255."""
    rng = np.random.default_rng(seed)
    noise = gaussian(rng.standard_normal((SIDE + 2 * MARGIN,) * 2), 3)
    steps = gaussian(np.digitize(noise, np.quantile(noise, [0.3, 0.6, 0.85])) * 70.0, 0.8)
    return np.stack([steps * k for k in np.linspace(1, 0.6, channels)], axis=-1) + 10


def cut(whole: np.ndarray, motion: Motion = Motion()) -> np.ndarray:  # noqa: B008
    """What an image shows of a scene: its pixel p is the scene's at `motion`(p)."""
    grid = np.indices((SIDE, SIDE)).astype(float)
    at = motion.apply(grid, (SIDE, SIDE)) + MARGIN
    return np.stack([ndimage.map_coordinates(c, at, order=3) for c in np.moveaxis(whole, 2, 0)], axis=2)


def inverse(motion: Motion) -> Motion:
    matrix = np.linalg.inv(motion.matrix)
    return Motion(tuple(map(tuple, matrix)), tuple(-(matrix @ motion.offset)))


def bytes_of(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def classes(whole: np.ndarray) -> np.ndarray:
    """A label map of the same scene, in four colours that have nothing of its brightness."""
    index = np.digitize(cut(whole)[..., 0], [45, 115, 185])
    return np.array([(200, 0, 0), (0, 0, 90), (0, 200, 0), (90, 0, 200)], np.uint8)[index]


def error_px(found: Motion, true: Motion) -> float:
    """The largest distance between where the two say that a corner is."""
    size = SIDE, SIDE
    return float(np.hypot(*(found.apply(CORNERS, size) - true.apply(CORNERS, size))).max())


OTHERS = {
    "the same": bytes_of,
    "a negative": lambda v: bytes_of(255 - v),
    "another light, with grain": lambda v: bytes_of(
        255 * (v / 255).clip(0) ** 0.5 + np.random.default_rng(0).normal(0, 8, v.shape)
    ),
    "16 bits of one channel": lambda v: (v[..., :1] * 200).round().clip(0, 65535).astype(np.uint16),
    "floats of five channels": lambda v: np.concatenate([v, -v[..., :2]], axis=2).astype(np.float32) / 7,
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, -7.0), (-3.4, 2.75), (0.5, 9.3)])
def test_known_shifts_are_found_to_a_tenth_of_a_pixel(shift, other):
    whole, true = scene(1), Motion(offset=shift)
    found = register(bytes_of(cut(whole, inverse(true))), OTHERS[other](cut(whole)), most_px=12)
    assert found.sure
    assert found.evidence == "edges"
    assert error_px(found.motion, true) < 0.1


AFFINE = {
    "turned": Motion(((0.999, 0.04), (-0.04, 0.999)), (2.3, -1.6)),
    "turned more": Motion(((0.996, -0.087), (0.087, 0.996)), (-3.0, 4.2)),
    "larger": Motion(((0.95, 0.0), (0.0, 0.95)), (0.4, 0.0)),
    "sheared": Motion(((1.02, 0.03), (0.0, 0.97)), (-1.5, -2.5)),
}


@pytest.mark.parametrize("other", ["the same", "a negative"])
@pytest.mark.parametrize("name", AFFINE)
def test_known_affine_maps_are_found(name, other):
    whole, true = scene(2), AFFINE[name]
    found = register(
        bytes_of(cut(whole, inverse(true))), OTHERS[other](cut(whole)), model="affine", most_px=12
    )
    assert found.sure
    assert error_px(found.motion, true) < 0.2


def test_a_photo_and_its_label_map():
    whole, true = scene(3), Motion(offset=(-4.5, 6.25))
    found = register(bytes_of(cut(whole, inverse(true))), classes(whole), most_px=12)
    assert found.sure
    assert error_px(found.motion, true) < 0.5, "the label map's own borders are whole pixels"


def test_sides_that_share_brightness_but_no_edges():
    """One is but a veil of noise over a smooth hill: mutual information finds the shift."""
    y, x = np.mgrid[: SIDE + 2 * MARGIN, : SIDE + 2 * MARGIN]
    hill = 200 * np.exp(-((y - 60) ** 2 + (x - 80) ** 2) / 500)[..., None]
    rng, true = np.random.default_rng(0), Motion(offset=(6.0, -4.0))
    first = bytes_of(cut(hill, inverse(true)) + rng.normal(0, 30, (SIDE, SIDE, 1)) + 30)
    found = register(first, bytes_of(225 - cut(hill) + rng.normal(0, 30, (SIDE, SIDE, 1))), most_px=12)
    assert found.evidence == "mutual information"
    assert found.sure
    assert error_px(found.motion, true) < 2


@pytest.mark.parametrize("model", ["shift", "affine"])
def test_noise_and_strangers_are_never_sure(model):
    rng = np.random.default_rng(4)
    for seed in range(6 if model == "shift" else 2):
        noise = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        photo, stranger = (bytes_of(cut(scene(n))) for n in (10 + seed, 30 + seed))
        assert not register(photo, noise, model=model, most_px=12).sure
        assert not register(photo, stranger, model=model, most_px=12).sure


def test_too_small_and_empty_images_have_no_estimate():
    one = np.zeros((15, 40, 3), np.uint8)
    assert register(one, one, most_px=2) is None
    flat = np.full((SIDE, SIDE, 1), 7, np.uint16)
    assert register(flat, bytes_of(cut(scene(0))), most_px=2) is None


def test_the_common_area():
    assert shared_box(Motion(), (20, 30)) == Box(0, 0, 20, 30)
    assert shared_box(Motion(offset=(3.0, -2.5)), (20, 30)) == Box(0, 3, 17, 30)
    turned = AFFINE["turned"]
    box = shared_box(turned, (SIDE, SIDE))
    corners = np.array([(box.top, box.top, box.bottom - 1, box.bottom - 1),
                        (box.left, box.right - 1, box.left, box.right - 1)], float)  # fmt: skip
    at = turned.apply(corners, (SIDE, SIDE))
    assert at.min() >= 0
    assert at.max() <= SIDE - 1
    assert box.height * box.width > 0.75 * SIDE**2


def test_labels_move_without_new_colours():
    labels = classes(scene(5))
    moved = move(labels, AFFINE["turned more"], Box(10, 10, 80, 80), labels=True)
    assert {tuple(c) for c in moved.reshape(-1, 3)} <= {tuple(c) for c in labels.reshape(-1, 3)}
    assert moved.shape == (70, 70, 3)


# -----------------------------------------------------------------------------------------------------------
# Data sets


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels if pixels.shape[2] > 1 else pixels[..., 0])
    else:
        Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0]).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two pairs off by a known shift, one that is right, one of strangers, one of the test split, empty."""
    root = tmp_path / "data"
    shifts = {"down": (-6.0, 0.0), "oblique": (2.5, -3.25), "right": (0.0, 0.0)}
    for seed, (name, offset) in enumerate(shifts.items()):
        whole = scene(seed)
        save(root / f"A/train/{name}.png", bytes_of(cut(whole, inverse(Motion(offset=offset)))))
        save(root / f"B/train/{name}.png", bytes_of(255 - cut(whole)))
    save(root / "A/train/strangers.png", bytes_of(cut(scene(20))))
    save(root / "B/train/strangers.png", bytes_of(cut(scene(21))))
    save(root / "A/test/empty.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    save(root / "B/test/empty.png", bytes_of(cut(scene(22))))
    return root


def test_a_folder(folder, tmp_path):
    out = tmp_path / "out"
    report = align(DataConfig(path=str(folder)), out, jobs=2)
    rows = {pair.name: pair for pair in report.pairs}
    assert {name: pair.kept for name, pair in rows.items()} == {
        "train/down": True, "train/oblique": True, "train/right": True,
        "train/strangers": False, "test/empty": False,
    }  # fmt: skip
    assert rows["train/down"].before.motion.shift == pytest.approx((6, 0), abs=0.1)
    assert rows["train/oblique"].moved_px == pytest.approx(np.hypot(2.5, 3.25), abs=0.1)
    assert rows["train/oblique"].after.motion.length((SIDE, SIDE)) < 0.2
    assert not list(out.rglob("*strangers*")) + list(out.rglob("*empty*"))

    for name in ("down", "oblique", "right"):
        box = rows[f"train/{name}"].box
        a, b = (images.read_image(out / side / "train" / f"{name}.png") for side in "AB")
        cut_b = images.read_image(folder / f"B/train/{name}.png")[box.top : box.bottom, box.left : box.right]
        np.testing.assert_array_equal(b, cut_b, "the target's pixels are untouched")
        assert a.shape == b.shape
        assert np.abs(255.0 - a - b).mean() < 2.5, "the source lies on it"
    for side in "AB":
        copy = out / side / "train/right.png"
        assert copy.read_bytes() == (folder / side / "train/right.png").read_bytes()

    words = report.words()
    assert words.startswith(f"3 of 5 pairs are aligned in {out}; side A, the source, was moved")
    assert "1 lay right already" in words
    assert "train/strangers: the confidence is" in words
    assert "test/empty: a side shows no edges" in words
    with (out / "align.csv").open(newline="") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    assert len(table) == 5
    assert float(table["train/down"]["dy"]) == pytest.approx(6, abs=0.1)
    assert len(table["train/down"]["matrix"].split()) == 4
    assert table["train/strangers"]["kept"] == "no"
    assert float(table["train/strangers"]["confidence_before"]) < 1.5


def test_the_other_direction_moves_the_other_side(folder, tmp_path):
    report = align(DataConfig(path=str(folder), direction="BtoA"), tmp_path / "out", jobs=1)
    assert report.moved_side == "B"
    down = report.pairs[0]
    assert down.before.motion.shift == pytest.approx((-6, 0), abs=0.1)
    whole = images.read_image(folder / "A/train/down.png")
    kept = images.read_image(tmp_path / "out/A/train/down.png")
    np.testing.assert_array_equal(kept, whole[down.box.top : down.box.bottom, down.box.left : down.box.right])


def test_depth_channels_and_containers_are_kept(tmp_path):
    root, whole = tmp_path / "data", scene(6)
    true = Motion(offset=(3.0, 4.5))
    a = (cut(whole, inverse(true))[..., :1] * 250).round().clip(0, 65535).astype(np.uint16)
    b = np.concatenate([cut(whole)] * 2, axis=2).astype(np.float32)
    save(root / "A/one.tif", a)
    save(root / "B/one.npy", b)
    report = align(DataConfig(path=str(root)), tmp_path / "out")
    source, target = (images.read_image(path) for path in report.pairs[0].files)
    assert report.pairs[0].files[0].suffix == ".tif"
    assert source.dtype == np.uint16
    assert source.max() > 255
    assert report.pairs[0].files[1].suffix == ".npy"
    box = report.pairs[0].box
    np.testing.assert_array_equal(target, b[box.top : box.bottom, box.left : box.right])


def save_ome(path: Path, planes: np.ndarray, names: list[str], micrometres: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {f"PhysicalSize{a}": micrometres for a in "XY"} | {f"PhysicalSize{a}Unit": "µm" for a in "XY"}
    metadata = {"axes": "CYX", "Channel": {"Name": names}, **sizes}
    tifffile.imwrite(path, planes, ome=True, photometric="minisblack", metadata=metadata)
    return path


def test_ome_tiff_keeps_names_and_sizes_and_is_copied_where_it_lies_right(tmp_path):
    root, names = tmp_path / "data", ["BF", "ER", "Mito"]
    for seed, (name, shift) in enumerate({"moved": 4.0, "right": 0.0, "larger": 0.0}.items()):
        whole = scene(seed)
        a = np.moveaxis(bytes_of(cut(whole, inverse(Motion(offset=(shift, 0.0))))), 2, 0)
        a = a.repeat(2, axis=1).repeat(2, axis=2) if name == "larger" else a
        save_ome(root / f"A/train/{name}.ome.tif", a, names, 0.25 if name == "larger" else 0.5)
        b = np.moveaxis(cut(whole)[..., :2].astype(np.float32), 2, 0)
        save_ome(root / f"B/train/{name}.ome.tif", b, ["nucleus", "membrane"], 0.5)
    report = align(DataConfig(path=str(root), source_kind="intensity"), tmp_path / "out", jobs=1)
    assert [pair.reason for pair in report.pairs] == ["", "", ""]
    assert report.note == ""
    for pair in report.pairs:
        for path, theirs in zip(pair.files, (names, ["nucleus", "membrane"]), strict=True):
            stack = open_stack(path)
            assert stack.container == "OME-TIFF"
            assert list(stack.names) == theirs
            assert stack.size == {"x": 0.5, "y": 0.5}, "a source that was resized has the target's pixels"
            copied = path.read_bytes() == (root / path.relative_to(tmp_path / "out")).read_bytes()
            assert copied == (pair.pair.name == "right")

    some = DataConfig(path=str(tmp_path / "out"), source_select=("ER", "Mito"), source_kind="intensity")
    again = align(some, tmp_path / "again", jobs=1)
    assert open_stack(again.pairs[-1].files[0]).names == ("ER", "Mito")
    assert images.read_image(again.pairs[-1].files[0]).shape[2] == 2


def test_what_is_not_kept_is_told_once(tmp_path):
    """Arrays with names become a TIFF without; a file of which one page was read is not copied."""
    root = tmp_path / "data"
    for name in ("one", "two"):
        (root / "A/train").mkdir(parents=True, exist_ok=True)
        image = bytes_of(cut(scene(1)))
        np.savez(root / f"A/train/{name}.npz", BF=image[..., 0], ER=image[..., 1])
        pages = np.stack([image[..., 0], image[..., 1]])
        (root / "B/train").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / f"B/train/{name}.tif", pages, photometric="minisblack", metadata=None)
    report = align(DataConfig(path=str(root), pages="first"), tmp_path / "out", jobs=1)
    assert report.words().count("Note: names of channels and sizes") == 1
    assert "one.npz and 1 more" in report.words()
    source, target = report.pairs[0].files
    assert source.suffix == target.suffix == ".tif"
    with tifffile.TiffFile(target) as tif:
        assert len(tif.pages) == 1, "the second page was not read"


def test_side_by_side_jpeg_becomes_two_lossless_folders(tmp_path):
    whole = scene(7)
    pair = np.concatenate([bytes_of(cut(whole, Motion(offset=(4.0, 0.0)))), bytes_of(cut(whole))], axis=1)
    save(tmp_path / "data/train/one.jpg", pair)
    report = align(DataConfig(path=str(tmp_path / "data")), tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in report.pairs[0].files] == [
        "out/A/train/one.png",
        "out/B/train/one.png",
    ]
    assert report.pairs[0].before.motion.shift == pytest.approx((4, 0), abs=0.1)


def test_a_palette_source_keeps_its_classes(tmp_path):
    """The label map moves, in colours of its palette only, and of another size than the photo."""
    root = tmp_path / "data"
    for name in ("one", "two"):
        whole = scene(8)
        labels = classes(whole)
        image = Image.fromarray(labels).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
        (root / "A").mkdir(parents=True, exist_ok=True)
        image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.NEAREST).save(root / f"A/{name}.png")
        save(root / f"B/{name}.png", bytes_of(cut(whole, Motion(offset=(0.0, 5.0)))))
    report = align(DataConfig(path=str(root)), tmp_path / "out", model="affine")
    assert [pair.reason for pair in report.pairs] == ["", ""]
    moved = images.read_image(report.pairs[0].files[0])
    assert {tuple(c) for c in moved.reshape(-1, 3)} <= {tuple(c) for c in labels.reshape(-1, 3)}
    # Half a pixel: nearest neighbour.
    assert report.pairs[0].before.motion.shift == pytest.approx((0, -5), abs=0.5)
    assert moved.shape[:2] == images.read_image(report.pairs[0].files[1]).shape[:2]


def test_unreadable_files_and_long_moves_are_named(folder, tmp_path):
    (folder / "A/train/right.png").write_bytes(b"")
    report = align(DataConfig(path=str(folder), source_kind="intensity"), tmp_path / "out", most_px=3)
    reasons = {pair.name: pair.reason for pair in report.pairs}
    assert "right.png" in reasons["train/right"]
    assert reasons["train/down"], "6 px are more than 3"


def test_where_none_can_be_aligned_it_is_told_and_the_folder_can_be_used_again(tmp_path, capsys):
    """By a move that is too long, NaN, and no edges: reasons, table and page, and the same --out next."""
    root, out, whole = tmp_path / "data", tmp_path / "out", scene(1)
    with_nan = cut(whole).astype(np.float32)
    with_nan[3, 4] = np.nan
    save(root / "A/train/far.npy", cut(whole, Motion(offset=(5.0, 0.0))).astype(np.float32))
    save(root / "A/train/holes.npy", with_nan)
    save(root / "A/train/plain.npy", np.zeros((SIDE, SIDE, 3), np.float32))
    for name in ("far", "holes", "plain"):
        save(root / f"B/train/{name}.npy", cut(whole).astype(np.float32))
    align_by_command = ["data", "align", str(root), "--out", str(out), "--data.val-fraction", "0"]
    with pytest.raises(SystemExit) as ended:
        main([*align_by_command, "--most-px", "2"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert said.startswith(f"None of the 3 pairs could be aligned, so none is in {out}; another try")
    assert "train/far: " in said
    assert "train/holes: some of its pixels are masked or NaN" in said
    assert "train/plain: a side shows no edges" in said
    assert {path.name for path in out.iterdir()} == {"align.csv", "align.html"}
    assert "0 of 3 pairs are aligned and written; 3 are left out." in (out / "align.html").read_text()
    with (out / "align.csv").open(newline="") as file:
        assert [row["kept"] for row in csv.DictReader(file)] == ["no"] * 3

    main(align_by_command)
    assert "1 of 3 pairs are aligned" in capsys.readouterr().out
    with pytest.raises(DataError, match="not an empty folder"):
        align(DataConfig(path=str(root)), out)


def test_mistakes_are_told(folder, tmp_path):
    data = DataConfig(path=str(folder))
    with pytest.raises(DataError, match="lies in the data folder"):
        align(data, folder / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        align(data, tmp_path / "full")
    with pytest.raises(DataError, match=r"most_px is 0\.5"):
        align(data, tmp_path / "out", most_px=0.5)
    with pytest.raises(DataError, match="jobs is 0"):
        align(data, tmp_path / "out", jobs=0)
    with pytest.raises(DataError, match="nothing to align"):
        align(replace(data, derive="gray"), tmp_path / "out")
