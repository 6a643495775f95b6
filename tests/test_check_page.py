"""The page of `data check`: what it shows of data sets whose faults are known; check's words stay."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairloom.align_page import checkerboard, write_align_page
from pairloom.check_page import red_cyan, scatter, write_check_page
from pairloom.config import DataConfig
from pairloom.data.align import align
from pairloom.data.check import check
from pairloom.data.overview import BINS, Histogram, Overview, colour_counts, perceptual_hash
from pairloom.data.pairs import ImageRef, Pair
from test_check import save, scene


def page(data: DataConfig, tmp_path: Path) -> str:
    write_check_page(data, tmp_path / "check.html")
    return (tmp_path / "check.html").read_text()


def words(html: str) -> str:
    """What a reader reads: without style, tags and pictures."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for split, seeds in (("train", range(4)), ("test", (10, 11))):
        for seed in seeds:
            save(root / f"A/{split}/{seed}.png", scene(seed))
            save(root / f"B/{split}/{seed}.png", 255 - scene(seed))
    return root


def config(root: Path, **fields) -> DataConfig:
    return DataConfig(path=str(root), **{"load_size": 40, "crop_size": 32, **fields})


def test_a_good_data_set(folder, tmp_path):
    data = config(folder)
    report = write_check_page(data, tmp_path / "new/check.html")
    assert report.words() == check(data).words(), "a page changes no word"
    assert report.specs is not None
    html = (tmp_path / "new/check.html").read_text()
    text = words(html)
    assert "6 pairs: 4 train, 2 test. No faults found; training can start." in text
    assert "40 × 40 the same 4 2" in text
    assert "No two pairs are the same to the pixel." in text
    assert "6 of 6 pairs tried share enough edges to tell." in text
    assert html.count("<img ") == 12, "every pair on a sheet; none is misaligned"
    assert html.count('aria-label="histogram"') == 6
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_each_file_is_read_once_with_or_without_a_page(folder):
    seen = []
    check(config(folder), look=lambda pair, *_: seen.append(pair.name))
    assert seen == ["0", "1", "2", "3", "10", "11"]


def test_copies_and_near_copies_are_told_apart(folder, tmp_path):
    for side in "AB":
        pixels = np.asarray(Image.open(folder / side / "train/1.png"))
        save(folder / side / "train/7.png", pixels)
        compressed = io.BytesIO()
        Image.fromarray(pixels).save(compressed, "JPEG", quality=80)
        save(folder / side / "test/12.png", np.asarray(Image.open(compressed)))
    text = words(page(config(folder), tmp_path))
    assert "train/1 = train/7" in text
    assert "2 pairs look like one of another split." in text
    assert "train/1 ≈ test/12" in text
    assert "differ in at most 10 of 63 bits" in text


def test_the_worst_misaligned_pair_is_shown(folder, tmp_path):
    large = scene(50, (80, 80))
    save(folder / "A/train/2.png", large[10:50, 10:50])
    save(folder / "B/train/2.png", 255 - large[5:45, 13:53])
    text = words(page(config(folder), tmp_path))
    assert re.search(r"train/2 −[23]\.\d px right, \+[45]\.\d px down; clarity", text)
    assert "overlay" in text


def labels_of(seed: int) -> np.ndarray:
    colours = np.array([(0, 0, 170), (255, 85, 0), (0, 255, 170)], np.uint8)
    return np.kron(
        colours[np.random.default_rng(seed).integers(0, 3, (4, 4))], np.ones((12, 12, 1), np.uint8)
    )


def test_a_label_map_has_its_pixels_counted(tmp_path):
    for seed in range(3):
        save(tmp_path / f"data/A/{seed}.png", np.kron(scene(seed, (12, 12)), np.ones((4, 4, 1), np.uint8)))
        save(tmp_path / f"data/B/{seed}.png", labels_of(seed))
    html = page(config(tmp_path / "data", source_kind="intensity"), tmp_path)
    blue = sum(int((labels_of(seed) == (0, 0, 170)).all(axis=2).sum()) for seed in range(3))
    assert f"0, 0, 170 {blue:,} {100 * blue / (3 * 48 * 48):.2f} %" in words(html)
    assert "All pixels of all splits: 6,912 pixels." in words(html)
    assert "background: rgb(0,0,170)" in html


def test_a_label_map_saved_as_jpeg_is_recognised_and_its_palette_offered(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(3):
        labels = np.kron(labels_of(seed), np.ones((4, 4, 1), np.uint8))[3:, 5:]  # off the blocks of JPEG
        noise = rng.integers(0, 256, labels.shape).astype(np.uint8)
        for side, pixels in (("A", noise), ("B", labels)):
            (tmp_path / "data" / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"data/{side}/{seed}.jpg", quality=60, subsampling=0)
    html = page(config(tmp_path / "data"), tmp_path)
    text = words(html)
    assert "The target looks like a label map of 3 classes that was saved with loss" in text
    assert "--data.target-palette palette.txt" in text
    found = re.search(r'<pre class="narrow">(.*?)</pre>', html, re.S)[1].splitlines()
    true = np.array([(0, 0, 170), (255, 85, 0), (0, 255, 170)])
    assert len(found) == 3
    for line in found:
        assert np.abs(true - [int(v) for v in line.split(",")]).max(axis=1).min() <= 4
    (tmp_path / "palette.txt").write_text("\n".join(found))
    again = write_check_page(
        config(tmp_path / "data", target_palette=str(tmp_path / "palette.txt")), tmp_path / "again.html"
    )
    assert again.specs[1].kind == "labels", "the advice works"
    assert "each pixel counts for the nearest" in words((tmp_path / "again.html").read_text())


def test_faults_have_a_page_too(folder, tmp_path):
    assert "does not exist" in words(page(config(tmp_path / "none"), tmp_path))
    (folder / "A/train/2.png").write_bytes(b"")
    text = words(page(config(folder), tmp_path))
    assert "Training cannot start before the problems are solved." in text
    assert "train/2: cannot be read" in text


def test_names_are_escaped(folder, tmp_path):
    for side in "AB":
        save(folder / side / "train/<b>&amp;.png", scene(30))
    html = page(config(folder), tmp_path)
    assert "<b>&amp;.png" not in html
    assert "&lt;b&gt;&amp;amp;" in html


def test_sixteen_bits_many_channels_and_derived_pairs(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(2):
        save(tmp_path / f"deep/A/{seed}.npy", rng.normal(0, 100, (40, 40, 8)).astype(np.float32))
        save(tmp_path / f"deep/B/{seed}.npy", rng.integers(0, 5000, (40, 40, 1)).astype(np.uint16))
        save(tmp_path / f"photos/{seed}.png", scene(seed))
    html = page(config(tmp_path / "deep"), tmp_path)
    assert html.count('aria-label="histogram"') == 7
    assert "At most 6 channels of a side are drawn." in words(html)
    html = page(config(tmp_path / "photos", derive="colorize"), tmp_path)
    assert html.count("<img ") == 4
    assert 'id="alignment"' not in html


# -----------------------------------------------------------------------------------------------------------
# What is gathered


def test_a_histogram_grows_and_loses_no_value():
    histogram = Histogram()
    for values in ([5, 6], [300, 1], [70000 // 2]):
        histogram.add(np.array(values, np.uint16))
    assert histogram.counts.sum() == 5
    assert histogram.low == 0
    assert histogram.counts[0] == 3, "below 256, in bins of 256"
    assert histogram.counts[1] == 1
    floats = Histogram()
    for values in ([0.0, 1.0], [-5.0], [40.0]):
        floats.add(np.array(values, np.float32))
    assert floats.counts.sum() == 4
    assert floats.edges[0] <= -5
    assert floats.edges[-1] >= 40
    for value in (0.0, 1.0, -5.0, 40.0):
        assert floats.counts[min(int((value - floats.low) / floats.width), BINS - 1)] >= 1


def test_the_hash_sees_through_compression_size_and_light_and_not_through_another_scene():
    photo = np.kron(scene(1, (32, 32)), np.ones((4, 4, 1), np.uint8))
    of = perceptual_hash(photo)
    image = Image.fromarray(photo)
    compressed = io.BytesIO()
    image.save(compressed, "JPEG", quality=30)
    for like in (Image.open(compressed), image.resize((90, 90)), image.point(lambda v: v // 2 + 30)):
        assert (of ^ perceptual_hash(np.asarray(like))).bit_count() <= 6
    assert (of ^ perceptual_hash(scene(2, (128, 128)))).bit_count() > 15
    assert perceptual_hash(np.full((20, 20, 1), 9, np.uint16)) is None


def test_a_side_without_contrast_leaves_it_to_the_other():
    overview, blank = Overview(), np.zeros((40, 40, 1), np.uint8)

    def see(name: str, split: str, photo: np.ndarray, mask: np.ndarray) -> None:
        refs = (ImageRef(Path(f"{side}/{name}")) for side in "AB")
        overview.look(Pair(name, *refs, split, ""), photo, mask, None)

    see("a", "train", scene(1), blank)
    see("b", "test", scene(1) + 3, blank)
    see("c", "test", scene(2), blank)
    (near,) = overview.near_copies()
    assert (near.first.name, near.second.name, near.bits[1]) == ("a", "b", None)
    assert overview.copies() == []


def test_colours_are_counted_while_they_are_few():
    assert colour_counts(labels_of(0)).total() == 48 * 48
    assert colour_counts(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)) is None
    assert colour_counts(np.zeros((3, 3, 1), np.float32)) is None


def test_overlay_and_checkerboard():
    one = np.kron(scene(1, (10, 10)), np.ones((8, 8, 1), np.uint8))
    aligned, shifted = red_cyan(one, 255 - one), red_cyan(one, np.roll(one, 3, axis=1))
    grey = np.abs(aligned.astype(int).max(axis=2) - aligned.min(axis=2)).mean()
    colour = np.abs(shifted.astype(int).max(axis=2) - shifted.min(axis=2)).mean()
    assert grey < 1 < colour
    board = checkerboard(np.zeros_like(one), np.full_like(one, 255))
    assert 0.4 < (board == 0).mean() < 0.6
    assert scatter([], least=2.0).count("<circle") == 0


# -----------------------------------------------------------------------------------------------------------
# The page of `data align`


def test_the_page_of_an_alignment(tmp_path):
    for number, (down, right) in enumerate(((4, -3), (0, 0))):
        large = np.kron(scene(number, (60, 60), channels=1), np.ones((2, 2, 1), np.uint8))
        save(tmp_path / f"data/A/{number}.png", large[10 + down : 90 + down, 10 + right : 90 + right])
        save(tmp_path / f"data/B/{number}.png", 255 - large[10:90, 10:90])
    save(tmp_path / "data/A/odd.png", scene(20, (80, 80)))
    save(tmp_path / "data/B/odd.png", scene(21, (80, 80)))
    report = align(config(tmp_path / "data", source_kind="intensity"), tmp_path / "out", jobs=1)
    path = write_align_page(report)
    assert path == tmp_path / "out/align.html"
    html = path.read_text()
    text = words(html)
    assert "2 of 3 pairs are aligned and written; 1 is left out." in text
    assert "train/0 −3.0" in text or "train/0 −2.9" in text
    assert "train/odd : the confidence is" in text
    assert html.count("<img ") == 4 + 3, "the moved pair before and after, twice; the one left out"
