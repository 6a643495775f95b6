"""Images translated by tiles: what is in the file, what is kept of the source, and what survives a stop."""

from __future__ import annotations

import json
import re
import shutil
import signal
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from conftest import Child, cli, wait_until
from pairloom import containers, images, large
from pairloom.canvas import Canvas, halved
from pairloom.cli import main
from pairloom.config import GeneratorConfig
from pairloom.files import scale_hint, translate_files
from pairloom.images import ImageError, lab_spec, read_image
from pairloom.large import goes_by_tiles, translate_large
from pairloom.memory import activation_bytes_per_pixel, whole_image_bytes
from pairloom.networks import build_generator
from pairloom.progress import Interrupted
from pairloom.tile_plan import plan_tiles
from pairloom.translator import Semantics, Translator
from test_translator import labels, model, picture, spec
from test_windows import zarr_image

SIZE = (420, 560)
SOURCE = picture(SIZE)
LARGE = (640, 720)
"""(height, width)"""


def fixed(source: Any = None, target: Any = None, **options: Any) -> Translator:
    """With fixed statistics tiles equal the whole; with z from a seed, too."""
    return model(source, target, semantics=Semantics(norm_stats="running"), **options)


def least_memory(translator: Translator, size: tuple[int, int] = SIZE) -> int:
    """A little more than the least that tiles can do with, so that there are many of them."""
    memory = 2**20
    while True:
        try:
            plan_tiles(translator, size, memory)
            return memory * 5 // 4 + 2**17  # an eighth, and a part of the file, are for reading
        except ValueError:
            memory = memory * 17 // 16


def not_whole(translator: Translator, size: tuple[int, int] = SIZE) -> int:
    """Just less than the image takes in one piece."""
    return whole_image_bytes(translator, *size) - 1


def by_tiles(translator: Translator, source: Path, out: Path, **options: Any) -> list[str]:
    """The number of tiles finished, and that all their stages were told."""
    said: list[str] = []
    stages: list[tuple[int, int, str]] = []
    report = translate_large(
        translator,
        source,
        out,
        memory_bytes=least_memory(translator),
        progress=lambda *stage: stages.append(stage),
        say=said.append,
        **options,
    )
    assert report is not None and "mismatch" in report.words()
    assert stages[-1][2] == "writing" and stages[-1][0] == stages[-1][1]
    assert not out.with_name(f".{out.name}.part").exists()
    return said


def save(path: Path, array: np.ndarray = SOURCE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"tile": (64, 64), "compression": "zlib", **options}
    tifffile.imwrite(path, array[..., 0] if array.shape[2] == 1 else array, **options)
    return path


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for a last digit that rounding turned over."""
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.dtype == np.float32:
        return bool(np.allclose(a, b, atol=1e-3))
    return bool((np.abs(a.astype(int) - b.astype(int)) > (0 if a.dtype == np.uint8 else 7)).mean() < 1e-3)


# -----------------------------------------------------------------------------------------------------------
# The values


TARGETS = {
    "uint8": spec(),
    "uint16, 1": spec(1, "uint16"),
    "float32, 5": spec(5, "float32"),
    "labels": labels(4, one_hot=False),
    "one-hot": labels(4, one_hot=True),
}


@pytest.mark.parametrize("target", TARGETS)
def test_tiles_give_what_the_whole_image_gives(target, tmp_path):
    translator = fixed(target=TARGETS[target])
    source = save(tmp_path / "x.tif")
    by_tiles(translator, source, tmp_path / "out" / "x.tif", seed=3)
    result = read_image(tmp_path / "out" / "x.tif")
    assert close(result, translator(SOURCE, seed=3))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.tif"]


def test_colours_are_recombined_with_the_light_of_the_source(tmp_path):
    translator = fixed(lab_spec("L"), lab_spec("a", "b"))
    by_tiles(translator, save(tmp_path / "x.tif"), tmp_path / "y.tif")
    assert close(read_image(tmp_path / "y.tif"), translator(SOURCE))


def test_a_sample_is_another_draw(tmp_path):
    translator = fixed()
    source = save(tmp_path / "x.tif")
    for sample in (0, 2):
        by_tiles(translator, source, tmp_path / f"{sample}.tif", seed=5, sample=sample)
        expected = translator.samples(SOURCE, 3, seed=5).images[sample]
        assert close(read_image(tmp_path / f"{sample}.tif"), expected)


@pytest.mark.parametrize("suffix", ["npy", "png"])
def test_other_sources_become_tiff(suffix, tmp_path):
    translator = fixed()
    path = tmp_path / f"x.{suffix}"
    np.save(path, SOURCE) if suffix == "npy" else Image.fromarray(SOURCE).save(path)
    memory = not_whole(translator)
    (written,) = translate_files(translator, [path], tmp_path / "out", memory_bytes=memory)
    assert written == tmp_path / "out/x.tif"
    assert close(read_image(written), translator(SOURCE))


# -----------------------------------------------------------------------------------------------------------
# The file


def test_the_file_has_tiles_and_a_pyramid(tmp_path):
    array = picture((700, 1301), 3)
    canvas = Canvas(tmp_path / "x.map", array.shape, "uint8")
    canvas.make()
    canvas.write(0, 0, array)
    assert np.array_equal(canvas.read(3, 5, 600, 700), array[3:603, 5:705])
    containers.write(tmp_path / "x.tif", canvas, containers.Kept(), labels=False, within=tmp_path)
    assert np.array_equal(read_image(tmp_path / "x.tif"), array)
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:
        levels = tif.series[0].levels
        assert [level.shape for level in levels] == [(700, 1301, 3), (350, 651, 3), (175, 326, 3)]
        for page in (level.pages[0] for level in levels):
            assert page.is_tiled and page.tile == (512, 512)
            assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        whole = np.pad(array, ((0, 0), (0, 1), (0, 0)), mode="edge").reshape(350, 2, 651, 2, 3)
        assert np.array_equal(levels[1].asarray(), np.rint(whole.mean((1, 3))))
    assert {path.name for path in tmp_path.iterdir()} >= {"x.tif"}


def test_smaller_label_maps_hold_no_new_colours():
    array = np.array([[[1], [5], [9]], [[5], [5], [7]], [[3], [2], [1]]], np.uint8)
    assert halved(array, True)[..., 0].tolist() == [[1, 9], [3, 1]]
    assert halved(array, False)[..., 0].tolist() == [[4, 8], [2, 1]]


@pytest.mark.parametrize(("channels", "pages"), [(1, 1), (3, 1), (5, 5)])
def test_an_ome_tiff_comes_back_as_one(channels, pages, tmp_path):
    translator = fixed(spec(4, "uint16"), spec(channels, "uint16"))
    source, out = tmp_path / "x.ome.tif", tmp_path / "out.tif"
    array = picture(SIZE, 4, "uint16")
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    tifffile.imwrite(
        source,
        np.moveaxis(array, 2, 0),
        ome=True,
        photometric="minisblack",
        metadata={"axes": "CYX", **sizes},
    )
    by_tiles(translator, source, out)
    with tifffile.TiffFile(out) as tif:
        assert tif.is_ome and len(tif.pages) == pages
        for words in ('PhysicalSizeX="0.25"', 'PhysicalSizeXUnit="nm"', 'PhysicalSizeY="0.5"'):
            assert words in (tif.ome_metadata or "")
        series = tif.series[0].asarray()
    expected = translator(array)
    assert close(read_image(out), expected)
    assert close(series if channels == 3 else np.moveaxis(np.atleast_3d(series.T).T, 0, 2), expected)
    by_tiles(fixed(), save(tmp_path / "plain.tif"), tmp_path / "named.ome.tif")
    with tifffile.TiffFile(tmp_path / "named.ome.tif") as tif:
        assert tif.is_ome


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_comes_back_as_one(version, tmp_path):
    zarr = pytest.importorskip("zarr")
    translator = fixed(spec(2, "uint16"), spec(5, "float32"))
    array = picture((530, 400), 2, "uint16")
    source, out = tmp_path / "in" / "x.zarr", tmp_path / "out" / "x.zarr"
    source.parent.mkdir()
    there = {"scale": [1.0, 0.5, 0.25], "place": [0.0, 70.0, 80.0], "unit": "micrometer"}
    zarr_image(source, np.moveaxis(array, 2, 0), version=version, **there)
    memory = least_memory(translator)
    (written,) = translate_files(translator, [source.parent], out.parent, memory_bytes=memory)
    assert written == out
    group = zarr.open_group(str(out), mode="r")
    assert group.metadata.zarr_format == {"0.4": 2, "0.5": 3}[version]
    attributes = dict(group.attrs)
    found = attributes["ome"] if version == "0.5" else attributes["multiscales"][0]
    assert found["version"] == version
    image = found["multiscales"][0] if version == "0.5" else found
    assert [(axis["name"], axis["type"], axis.get("unit")) for axis in image["axes"]] == [
        ("c", "channel", None), ("y", "space", "micrometer"), ("x", "space", "micrometer")
    ]  # fmt: skip
    scales = [data["coordinateTransformations"][0]["scale"] for data in image["datasets"]]
    assert scales == [[1.0, 0.5, 0.25], [1.0, 1.0, 0.5]]
    places = [data["coordinateTransformations"][1]["translation"] for data in image["datasets"]]
    assert places == [[0.0, 70.0, 80.0]] * 2
    full, half = (group[data["path"]] for data in image["datasets"])
    expected, before = translator(array), full[:]
    assert full.chunks == (1, 512, 400) and full.dtype == np.float32
    assert close(np.moveaxis(before, 0, 2), expected)
    assert half.shape == (5, 265, 200)
    # What it writes, it reads; and the same command again takes its place.
    again = translate_files(translator, [source], out.parent, seed=1, memory_bytes=memory)
    assert list(again) == [out]
    assert not np.array_equal(zarr.open_group(str(out), mode="r")[image["datasets"][0]["path"]][:], before)
    assert [path.name for path in out.parent.iterdir()] == ["x.zarr"]


def geotiff(path: Path, array: np.ndarray, **options: Any) -> Path:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=array.shape[0],
        width=array.shape[1],
        count=array.shape[2],
        dtype=array.dtype.name,
        crs="EPSG:32632",
        **options,
    ) as file:
        file.write(np.moveaxis(array, 2, 0))
    return path


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_geotiff_keeps_its_place_on_the_earth(whole, turned, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.Affine(0.5, 0.1 * turned, 432100.25, 0.2 * turned, -0.5, 5430000.75)
    array = picture((600, 400))
    source = geotiff(tmp_path / "x.tif", array, transform=transform, nodata=7)
    translator = fixed()
    memory = 2**31 if whole else not_whole(translator, (600, 400))
    assert goes_by_tiles(translator, source, memory_bytes=memory) is not whole
    (out,) = translate_files(translator, [source], tmp_path / "out", memory_bytes=memory)
    with rasterio.open(source) as before, rasterio.open(out) as after:
        assert after.transform == before.transform == transform
        assert after.crs == before.crs and after.crs.to_epsg() == 32632
        assert after.nodata == 7
        assert after.overviews(1) == [2]
        assert close(np.moveaxis(after.read(), 0, 2), translator(array))
    assert close(read_image(out), translator(array))


def test_a_value_for_no_data_that_the_target_cannot_hold_goes(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    array = picture(SIZE, 1, "float32")
    source = geotiff(tmp_path / "x.tif", array, transform=rasterio.Affine(1, 0, 5, 0, -1, 9), nodata=-9999)
    for dtype, expected in (("uint8", None), ("float32", -9999)):
        out = tmp_path / f"{dtype}.tif"
        by_tiles(fixed(spec(1, "float32"), spec(1, dtype)), source, out)
        with rasterio.open(out) as after:
            assert after.nodata == expected


PLACED = {
    33550: (12, (10.0, 10.0, 0.0)),
    33922: (12, (0.0, 0.0, 0.0, 5.0, 4.0, 0.0)),
    34735: (4, (1, 1, 0, 0)),
}
"""Type and values of the tags of a small GeoTIFF."""
FRENCH = "Réseau géodésique français 1993|"
ODD = {
    "UTF-8": ({34737: (2, FRENCH.encode())}, ""),
    "Latin-1": ({34737: (2, FRENCH.encode("latin-1"))}, ""),
    "text as bytes": ({34737: (1, b"WGS 84|")}, ""),
    "whole numbers": ({33550: (4, (10, 10, 0))}, ""),
    "one number": ({33550: (12, (10.0,))}, "its transform (tag 33550)"),
    "text": ({33550: (2, b"ten")}, "its transform (tag 33550)"),
    "a large key": ({34735: (4, (1, 1, 0, 99999))}, "its coordinate system (tag 34735)"),
    "no text": ({34737: (12, (1.0,)), 34736: (2, b"x")}, "its coordinate system (tag 34736, 34737)"),
    "resolution": ({282: (12, (1e300,)), 283: (12, (1e300,))}, "its resolution"),
    "0 / 0": ({282: (5, (0, 0)), 283: (5, (0, 0))}, ""),
    "no data": ({42113: (2, "７".encode())}, ""),
}
"""Tags that differ, and what cannot be kept of them."""


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_in_a_geotiff_is_kept_or_told_of(case, whole, tmp_path):
    """Told before the tiles begin, and no reason to fail after them."""
    own, lost = ODD[case]
    tags = [
        (code, kind, len(values), values, True)
        for code, (kind, values) in (PLACED | own).items()
        if code not in (282, 283)
    ]
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, SOURCE, tile=(64, 64), photometric="rgb", metadata=None, extratags=tags)
    with tifffile.TiffFile(source, mode="r+") as tif:
        for code in {282, 283} & set(own):
            tif.pages[0].tags[code].overwrite(own[code][1], dtype=own[code][0])
    translator = fixed()
    said: list[str] = []
    (out,) = translate_files(
        translator,
        [source],
        tmp_path / "out",
        memory_bytes=2**31 if whole else not_whole(translator),
        progress=lambda done, total, stage: said.append(stage),
        say=said.append,
    )
    assert close(read_image(out), translator(SOURCE))
    notes = [text for text in said if text.startswith("Note")]
    words = f"Note: {source}: {lost} cannot be written again as the file states it, and is left out."
    assert notes == ([words] if lost else [])
    assert said[: len(notes)] == notes
    kept, expected = containers.kept_of(out), containers.kept_of(source)
    assert kept == replace(expected, lost=(), nodata="")
    codes = [code for code, _, _ in kept.geo]
    assert (33922 in codes) == ("transform" not in lost)
    assert (34735 in codes) == ("system" not in lost)
    if 34737 in own and not lost:
        assert kept.geo[-1] == (34737, 2, own[34737][1])


@pytest.mark.parametrize(("name", "samples"), [("x.tif", 1), ("x-mean.tif", 2), ("x.zarr", 1)])
def test_a_folder_in_the_way_stays_and_is_told_of_before_the_work(name, samples, tmp_path):
    translator = fixed()
    source, out = tmp_path / f"x{Path(name).suffix}", tmp_path / "out"
    if name == "x.zarr":
        zarr_image(source, np.moveaxis(SOURCE, 2, 0))
    else:
        save(source)
    (out / name).mkdir(parents=True)
    (out / name / "dear.txt").write_text("dear")
    stages: list[str] = []
    with pytest.raises(ImageError, match=rf"{name}: is a folder, and the translation would take its place"):
        list(
            translate_files(
                translator,
                [source],
                out,
                samples=samples,
                memory_bytes=least_memory(translator),
                progress=lambda done, total, stage: stages.append(stage),
            )
        )
    assert not stages
    assert [path.relative_to(out).as_posix() for path in out.rglob("*")] == [name, f"{name}/dear.txt"]


def test_the_resolution_is_kept(tmp_path):
    source = save(tmp_path / "x.tif", resolution=(118.5, 236.25), resolutionunit="CENTIMETER")
    by_tiles(fixed(), source, tmp_path / "tiles.tif")
    (whole,) = translate_files(fixed(), [source], tmp_path / "whole")
    for path in (tmp_path / "tiles.tif", whole):
        with tifffile.TiffFile(path) as tif:
            tags = tif.pages[0].tags
            x, y = (np.divide(*tags[code].value) for code in (282, 283))
            assert np.allclose((x, y), (118.5, 236.25)) and tags[296].value == 3


# -----------------------------------------------------------------------------------------------------------
# Files and samples


def test_large_and_small_images_go_together(tmp_path):
    translator = fixed()
    for number, size in enumerate([(20, 24), SIZE, (20, 24)]):
        Image.fromarray(picture(size, seed=number)).save(tmp_path / f"{number}.png")
    said: list[str] = []
    written = translate_files(
        translator,
        [tmp_path],
        tmp_path / "out",
        memory_bytes=not_whole(translator),
        say=said.append,
        batch_size=9,
    )
    assert [path.name for path in written] == ["0.png", "1.tif", "2.png"]
    assert len(said) == 1 and "tile mismatch" in said[0] and said[0].startswith(f"{tmp_path / 'out/1.tif'}: ")
    for name in ("0.png", "1.tif", "2.png"):
        source = picture(SIZE if name == "1.tif" else (20, 24), seed=int(name[0]))
        assert close(read_image(tmp_path / "out" / name), translator(source))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_mean_and_spread_are_those_of_the_files(dtype, tmp_path):
    translator = fixed(target=spec(3, dtype))
    source = save(tmp_path / "x.ome.tif")
    memory = least_memory(translator)
    written = list(
        translate_files(translator, [source], tmp_path / "out", samples=3, memory_bytes=memory, seed=2)
    )
    names = ["x-1.ome.tif", "x-2.ome.tif", "x-3.ome.tif", "x-mean.ome.tif", "x-spread.ome.tif"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    *draws, mean, spread = (read_image(path) for path in written)
    exact = translator.samples(SOURCE, 3, seed=2)
    half = 0.5 if dtype == "uint8" else 1e-3
    assert np.abs(mean.astype(float) - np.mean(draws, 0)).max() <= half
    assert np.abs(mean.astype(float) - exact.mean).max() <= 2 * half
    assert spread.dtype == np.float32
    assert np.allclose(spread, np.std(np.stack(draws).astype(float), 0), atol=1e-5)
    assert np.abs(spread - exact.spread).max() <= 2 * half


def test_mean_and_spread_of_a_model_for_chosen_channels(tmp_path):
    """What was chosen of the training files is not chosen of the results once more."""
    chosen = replace(spec(1, "uint16"), chosen=("2",), neighbours=0, slice_axis="z")
    translator = fixed(target=chosen)
    source = save(tmp_path / "x.tif")
    written = list(
        translate_files(translator, [source], tmp_path / "out", samples=2, memory_bytes=not_whole(translator))
    )
    one, two, mean, spread = (read_image(path).astype(float) for path in written)
    assert np.abs(mean - (one + two) / 2).max() <= 0.5
    assert np.allclose(spread, np.abs(one - two) / 2, rtol=1e-6)


@pytest.mark.parametrize("of", ["mean", "spread"])
def test_the_memory_holds_for_mean_and_spread(of, tmp_path):
    """Of each further sample two decoded tiles are in memory at most; the bound is divided among them."""
    array = picture((1100, 1100))
    files = [save(tmp_path / f"{number}.tif", array, tile=(512, 512)) for number in range(12)]
    peaks = []
    for count in (2, 12):
        tracemalloc.start()
        large._combine(files[:count], tmp_path / "y.tif", of, spec(), containers.Kept(), memory_bytes=2**20)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        expected = array if of == "mean" else np.zeros(array.shape, np.float32)
        assert np.array_equal(read_image(tmp_path / "y.tif"), expected)
    assert peaks[1] - peaks[0] <= 10 * 2.1 * 512 * 512 * 3


def test_samples_of_label_maps_are_refused(tmp_path):
    translator = fixed(target=labels(4, one_hot=True))
    source = save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif: .* samples of label maps have no mean"):
        list(
            translate_files(
                translator, [source], tmp_path / "out", samples=2, memory_bytes=least_memory(translator)
            )
        )


def test_the_training_scale_is_refused_for_tiles(tmp_path):
    translator = fixed()
    source = save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif: is too large .* leave out --scale training"):
        list(
            translate_files(
                translator,
                [source],
                tmp_path / "out",
                scale="training",
                memory_bytes=least_memory(translator),
            )
        )


def test_the_training_scale_is_not_recommended_for_tiles(tmp_path):
    translator = fixed()
    source = save(tmp_path / "x.tif")
    assert "--scale training" in (scale_hint(translator, source) or "")
    assert scale_hint(translator, source, memory_bytes=not_whole(translator)) is None


# -----------------------------------------------------------------------------------------------------------
# How much memory


def test_the_estimate_grows_with_the_image_the_network_and_the_samples():
    small, several = fixed(), fixed(target=spec(5))
    one = whole_image_bytes(small, 512, 512)
    assert whole_image_bytes(small, 1024, 2048) == 8 * one
    assert whole_image_bytes(small, 500, 510) == one  # the stride is 16
    assert whole_image_bytes(small, 512, 512, samples=9) > one
    assert whole_image_bytes(several, 512, 512) > one


def test_what_lives_is_counted_by_hand():
    """A network of two halvings, 4 and 8 channels: at the last convolution of the decoder, per pixel."""
    config = GeneratorConfig(
        source_channels=3, target_channels=3, base_channels=4, num_downs=2, noise="none", norm="none"
    )
    net = build_generator(config, torch.Generator())
    translator = Translator(net, spec(), spec(), fixed().config)
    # x is the caller's. Floats: the joined 8 channels at a quarter, their ReLU, 3 channels, their tanh.
    assert activation_bytes_per_pixel(translator) == pytest.approx(4 * (8 / 4 + 3 + 3), abs=4.1)


# -----------------------------------------------------------------------------------------------------------
# Stopped and continued


def part(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


def finished(out: Path) -> int:
    tiles = part(out) / "tiles.txt"
    return tiles.read_text().count("\n") if tiles.exists() else 0


class Stopped(Exception):
    """By the test."""


def stop_after(tiles: int, out: Path) -> Any:
    def progress(done: int, total: int, stage: str) -> None:
        if finished(out) >= tiles:
            raise Stopped

    return progress


def test_what_was_finished_is_not_done_again(tmp_path):
    translator = fixed()
    source, out = save(tmp_path / "x.tif"), tmp_path / "y.tif"
    by_tiles(translator, source, tmp_path / "once.tif")
    memory = least_memory(translator)
    with pytest.raises(Stopped):
        translate_large(translator, source, out, memory_bytes=memory, progress=stop_after(3, out))
    assert finished(out) >= 3 and not out.exists()
    # Marked, to be seen in the result: whoever repeats this tile overwrites the mark.
    top, left, height, width = map(int, (part(out) / "tiles.txt").read_text().splitlines()[0].split())
    canvas = Canvas(part(out) / "image.map", (*SIZE, 3), "uint8")
    canvas.write(top, left, np.full((height, width, 3), 77, np.uint8))
    # A line that was not written to its end, and what is behind it, is not believed.
    with (part(out) / "tiles.txt").open("a") as file:
        file.write("0 0 20")
    said = by_tiles(translator, source, out)
    assert any("continues after" in line for line in said)
    expected = read_image(tmp_path / "once.tif")
    expected[top : top + height, left : left + width] = 77
    assert np.array_equal(read_image(out), expected)


@pytest.mark.parametrize(
    ("name", "content", "anew"),
    [
        ("image.map", b"", True),
        ("image.map", None, True),
        ("tiles.txt", None, True),
        ("tiles.txt", b"0 0 x y\n", False),
        ("tiles.txt", b"\0" * 40 + b"\n", False),
        ("tiles.txt", b"\xff\n", False),
        ("tiles.txt", b"0 0 3 3\n", False),
        ("spill", b"cut off", False),
    ],
)
def test_what_is_damaged_of_a_job_is_done_again(name, content, anew, tmp_path):
    translator = model()  # with statistics of the image, which are recorded
    source, out = save(tmp_path / "x.tif"), tmp_path / "y.tif"
    by_tiles(translator, source, tmp_path / "once.tif")
    memory = least_memory(translator)
    with pytest.raises(Stopped):
        translate_large(translator, source, out, memory_bytes=memory, progress=stop_after(3, out))
    if name == "tiles.txt" and content:  # in the second line
        lines = (part(out) / name).read_bytes().splitlines(keepends=True)
        content = lines[0] + content + b"".join(lines[1:])
    files = sorted(part(out).glob("spill/*/*.pt"))[:2] if name == "spill" else [part(out) / name]
    assert files
    for file in files:
        file.write_bytes(content) if content is not None else file.unlink()
    said = by_tiles(translator, source, out)
    assert np.array_equal(read_image(out), read_image(tmp_path / "once.tif"))
    assert [text for text in said if "anew" in text] == anew * [
        f"{out}: its unfinished work in {part(out)} is damaged, and begins anew."
    ]
    if name == "tiles.txt" and content:
        assert f"{out}: continues after 1 finished tiles." in said


def test_stopped_while_the_file_is_written_only_that_is_done_again(tmp_path):
    translator = fixed()
    source, out = save(tmp_path / "x.tif"), tmp_path / "y.tif"
    memory = least_memory(translator)

    def stop(done: int, total: int, stage: str) -> None:
        if stage == "writing":
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        translate_large(translator, source, out, memory_bytes=memory, progress=stop)
    assert not out.exists() and (part(out) / "image.map").exists()
    stages: list[str] = []
    told = lambda done, total, stage: stages.append(stage)  # noqa: E731
    assert translate_large(translator, source, out, memory_bytes=memory, progress=told) is None
    assert set(stages) == {"writing"}
    assert close(read_image(out), translator(SOURCE))
    assert not part(out).exists()


def test_a_finished_file_is_not_made_again(tmp_path):
    translator = fixed()
    source, out = save(tmp_path / "x.tif"), tmp_path / "y.tif"
    by_tiles(translator, source, out)
    before = (out.read_bytes(), out.stat().st_mtime_ns)
    said: list[str] = []
    memory = least_memory(translator)
    assert translate_large(translator, source, out, memory_bytes=memory, say=said.append) is None
    assert said == [f"{out}: is finished already."]
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    by_tiles(translator, source, out, seed=1)  # another job takes its place
    assert out.read_bytes() != before[0]


def test_another_job_does_not_continue(tmp_path):
    translator = fixed()
    source, out = save(tmp_path / "x.tif"), tmp_path / "y.tif"
    memory = least_memory(translator)
    with pytest.raises(Stopped):
        translate_large(translator, source, out, memory_bytes=memory, progress=stop_after(2, out))
    other = fixed()
    next(other.generator.parameters()).data.add_(1)
    for what, (model_, options) in {
        "seed": (translator, {"seed": 1}),
        "statistics": (translator, {"statistics": "exact"}),
        "weights": (other, {}),
        "plan": (translator, {"memory_bytes": 2 * memory}),
    }.items():
        with pytest.raises(
            ImageError, match=rf"unfinished work of another command .*differs in: {what}\)"
        ) as error:
            translate_large(model_, source, out, **{"memory_bytes": memory, **options})
        assert str(part(out)) in str(error.value)
    save(source, picture(SIZE, seed=9))
    with pytest.raises(ImageError, match=r"differs in: source\)"):
        translate_large(translator, source, out, memory_bytes=memory)
    shutil.rmtree(part(out))
    by_tiles(translator, source, out)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_what_was_unfinished_goes_when_the_image_is_translated_in_one_piece(suffix, tmp_path):
    translator, out = fixed(), tmp_path / "out"
    source = tmp_path / f"x.{suffix}"
    save(source) if suffix == "tif" else Image.fromarray(SOURCE).save(source)
    others = save(tmp_path / "other.tif", picture(SIZE, seed=1))
    memory = not_whole(translator)
    for path in (source, others):
        result = out / f"{path.stem}.tif"
        with pytest.raises(Stopped):
            list(
                translate_files(translator, [path], out, memory_bytes=memory, progress=stop_after(1, result))
            )

    shutil.copytree(part(out / "other.tif"), part(out / "mine.tif"))
    mine = Image.fromarray(picture((20, 24)))
    mine.save(tmp_path / "mine.png")
    list(translate_files(translator, [source, tmp_path / "mine.png"], out))
    left = {path.name for path in out.iterdir()}
    assert left == {source.name, "mine.png", ".other.tif.part", ".mine.tif.part"}  # of other images


def test_two_processes_do_not_write_one_file(tmp_path):
    translator = fixed()
    source, out = save(tmp_path / "x.tif"), tmp_path / "y.tif"
    memory = least_memory(translator)

    def again(done: int, total: int, stage: str) -> None:
        with pytest.raises(ImageError, match=r"y\.tif: another process is writing it"):
            translate_large(translator, source, out, memory_bytes=memory)
        raise Stopped

    with pytest.raises(Stopped):
        translate_large(translator, source, out, memory_bytes=memory, progress=again)


@pytest.fixture(scope="module")
def large_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """The tiny run, a source of many tiles, and the memory in GiB that makes it so."""
    source = save(tmp_path_factory.mktemp("large") / "x.tif", picture(LARGE))
    translator = Translator.load(tiny_run)
    return tiny_run, source, least_memory(translator, LARGE) / 2**30


def command(large_run: tuple[Path, Path, float], out: Path, *more: object) -> list[str]:
    run, source, memory = large_run
    return [str(word) for word in ("translate", run, source, "--out", out, "--memory", memory, *more)]


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_stopped_in_the_middle_and_continued_it_is_the_same_to_the_bit(
    large_run, tmp_path, signum, status, capsys
):
    main(command(large_run, tmp_path / "once"))
    expected = read_image(tmp_path / "once" / "x.tif")
    out = tmp_path / "out" / "x.tif"
    child = Child(tmp_path / "log", cli, *command(large_run, out.parent))
    wait_until(lambda: finished(out) >= 2 or out.exists(), child)
    child.signal(signum)
    assert child.wait() == status
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == [".x.tif.part"]
    if status > 0:
        assert "the same command continues" in child.said
    capsys.readouterr()
    main(command(large_run, out.parent))
    said = capsys.readouterr()
    assert "continues after" in said.err
    assert "1 image written to" in said.out
    assert np.array_equal(read_image(out), expected)
    assert [path.name for path in out.parent.iterdir()] == ["x.tif"]


# -----------------------------------------------------------------------------------------------------------
# The command, and bad input


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in said and said.count("pairloom: ") == 1
    return said[said.index("pairloom: ") :]


def test_the_command_says_how_well_the_tiles_match(large_run, tmp_path, capsys):
    main(command(large_run, tmp_path / "out", "--statistics", "exact"))
    said = capsys.readouterr()
    assert "tile mismatch" in said.err
    assert "1 image written to" in said.out


def test_a_disk_without_room_is_one_sentence(large_run, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=900_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = refused(capsys, command(large_run, tmp_path / "out"))
    assert re.search(r"writing it takes up to \S+ MiB of disk space, and 0\.9 MiB are free", said)
    assert not list((tmp_path / "out").iterdir())


def test_too_little_memory_is_one_sentence(large_run, tmp_path, capsys):
    run, source, _ = large_run
    said = refused(capsys, command((run, source, 1e-6), tmp_path / "out"))
    assert "memory" in said.lower()
    said = refused(capsys, command((run, source, 0), tmp_path / "out"))
    assert "memory is 0; it must be" in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_bad_sources_are_one_sentence_each(large_run, tmp_path, capsys):
    run, _, memory = large_run
    cut = save(tmp_path / "cut.tif", picture(LARGE))
    with tifffile.TiffFile(cut) as tif:
        start = tif.pages[0].dataoffsets[20]
    cut.write_bytes(cut.read_bytes()[: start + 10])
    four = save(tmp_path / "four.tif", picture(LARGE, 5), planarconfig="contig", photometric="minisblack")
    deep = save(tmp_path / "deep.tif", picture(LARGE, 3, "uint16"))
    strip = save(tmp_path / "strip.tif", picture(LARGE), tile=None, rowsperstrip=LARGE[0])
    for path, words in {
        cut: "is cut short in part ",
        four: "The image has 5 channels of uint8, but the spec is for 3 channels of uint8",
        deep: "The image has 3 channels of uint16, but the spec is for 3 channels of uint8",
        strip: "its largest compressed tile or strip takes",
    }.items():
        said = refused(
            capsys, command((run, path, memory if path != strip else 6e5 / 2**30), tmp_path / "out")
        )
        assert words in said and str(path) in said
        assert not (tmp_path / "out" / path.name).exists()


def test_a_zarr_without_multiscales_is_one_sentence(large_run, tmp_path, capsys):
    zarr = pytest.importorskip("zarr")
    zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    said = refused(capsys, command((large_run[0], tmp_path / "x.zarr", 1), tmp_path / "out"))
    assert "without `multiscales`" in said


def test_what_is_kept_of_a_job_is_readable(tmp_path):
    """So that somebody who finds the folder knows what it is."""
    translator = fixed()
    source, out = save(tmp_path / "x.tif"), tmp_path / "y.tif"
    with pytest.raises(Stopped):
        translate_large(
            translator,
            source,
            out,
            memory_bytes=least_memory(translator),
            progress=stop_after(1, out),
            seed=4,
        )
    job = json.loads((part(out) / "job.json").read_text())
    assert job["seed"] == 4 and len(job["weights"]) == 64
    assert images.image_shape(source) == SIZE
    assert replace(containers.kept_of(source), nodata="") == containers.Kept()


@pytest.mark.slow
def test_a_photo_of_24_megapixels_stays_within_the_memory(tmp_path):
    """4,000 x 6,000 pixels: tiles, not the whole, and nothing else of that size in memory."""
    size = (4000, 6000)
    source = save(tmp_path / "x.tif", picture(size), tile=(256, 256))
    out = tmp_path / "y.tif"
    memory = 200 * 2**20
    peak = tmp_path / "peak"
    child = Child(tmp_path / "log", _translate_and_measure, source, out, memory, peak)
    assert child.wait(1200) == 0, child.said
    assert int(peak.read_text()) < memory
    assert images.image_shape(out) == size


def _translate_and_measure(source: Path, out: Path, memory: int, peak: Path) -> None:
    """In a process of its own: how much the peak grew after a small image had warmed everything up."""
    translator = fixed()
    small = save(source.with_name("small.tif"), picture((600, 600)))
    translate_large(translator, small, out, memory_bytes=memory)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _peak()
    translate_large(translator, source, out, memory_bytes=memory, seed=1)
    peak.write_text(str(_peak() - before))


def _peak() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
