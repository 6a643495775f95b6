"""Images: every format there and back, values exact, faults as sentences."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from pairloom import formats, palette
from pairloom.images import (
    SUFFIXES,
    ImageError,
    ImageSpec,
    clipped_share,
    has_alpha,
    image_shape,
    is_lossless,
    output_suffix,
    palette_distance,
    read_image,
    read_palette,
    reflect_to,
    resize,
    to_array,
    to_tensor,
    write_image,
)
from pairloom.survey import measure_spec, survey

RGB = ((0, 0, 170), (255, 85, 0), (0, 255, 255), (170, 255, 85))


def noise(height: int, width: int, channels: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if dtype == "float32":
        return generator.normal(0.0, 1e3, (height, width, channels)).astype(np.float32)
    return generator.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype=dtype)


def full_spec(channels: int = 1, dtype: Any = "uint8", **fields: Any) -> ImageSpec:
    top = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}[dtype]
    return ImageSpec(channels=channels, dtype=dtype, low=(0.0,) * channels, high=(top,) * channels, **fields)


def label_spec(colours: Any = RGB, **fields: Any) -> ImageSpec:
    return full_spec(len(colours[0]), kind="labels", palette=tuple(colours), **fields)


# ----------------------------------------------------------------------------------------------------------
# Files there and back


HELD = [
    *((".png", dtype, channels) for dtype, channels in (("uint8", 1), ("uint8", 3), ("uint16", 1))),
    (".webp", "uint8", 3),
    *(
        (suffix, dtype, channels)
        for suffix in (".tif", ".TIFF", ".npy")
        for dtype in ("uint8", "uint16", "float32")
        for channels in (1, 2, 3, 4, 5, 64)
    ),
]


@pytest.mark.parametrize(("suffix", "dtype", "channels"), HELD)
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 7)])
def test_written_files_read_back_exactly(
    tmp_path: Path, suffix: str, dtype: str, channels: int, size: tuple[int, int]
) -> None:
    array = noise(*size, channels, dtype)
    path = tmp_path / f"image{suffix}"
    write_image(path, array)
    for alpha in ("white", "keep"):
        back = read_image(path, alpha=alpha)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    assert back.flags.writeable
    assert back.flags.c_contiguous
    assert image_shape(path) == size
    assert is_lossless(path)
    assert os.listdir(tmp_path) == [path.name]


@settings(max_examples=40, deadline=None)
@given(
    array=st.sampled_from(["uint8", "uint16", "float32"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
            elements=None
            if dtype != "float32"
            else st.floats(width=32, allow_nan=False, allow_infinity=False),
        )
    )
)
def test_tiff_holds_any_array(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("any") / "image.tif"
    write_image(path, array)
    np.testing.assert_array_equal(read_image(path), array)


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [
        ("a.jpg", "uint8", 3),
        ("a.jpeg", "uint8", 1),
        ("a.png", "uint8", 2),
        ("a.png", "uint8", 4),
        ("a.png", "uint16", 3),
        ("a.png", "float32", 1),
        ("a.webp", "uint8", 1),
        ("a.webp", "uint8", 4),
    ],
)
def test_what_a_container_cannot_hold_is_refused(
    tmp_path: Path, name: str, dtype: str, channels: int
) -> None:
    with pytest.raises(ImageError, match=rf"{name}: .*without loss; write a \.tif"):
        write_image(tmp_path / name, noise(2, 2, channels, dtype))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2), np.uint8), r"\(2, 2\)"),
        (np.zeros((2, 2, 1), np.int64), "int64"),
        (np.zeros((2, 2, 65), np.uint8), "65 channels"),
        (np.zeros((0, 2, 1), np.uint8), "no pixels"),
        (np.full((2, 2, 1), np.inf, np.float32), "4 of its 4 values are infinite"),
    ],
)
def test_only_images_are_written(tmp_path: Path, array: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=rf"image\.tif: .*{words}"):
        write_image(tmp_path / "image.tif", array)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "old.webp"
    old = noise(4, 4, 3)
    write_image(path, old)
    with pytest.raises(ImageError, match=r"old\.webp: cannot be written"):
        write_image(path, np.zeros((1, 16384, 3), np.uint8))  # one pixel wider than WebP allows
    np.testing.assert_array_equal(read_image(path), old)
    assert os.listdir(tmp_path) == ["old.webp"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    array = noise(2, 2, 1)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "none" / "a.png", tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(ImageError, match=f"{path.name}: cannot be written"):
            write_image(path, array)
    with pytest.raises(ImageError, match=r"a\.gif: its suffix '\.gif' is none of"):
        write_image(tmp_path / "a.gif", array)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("suffix", "spec", "expected"),
    [
        (".png", full_spec(3), ".png"),
        (".jpg", full_spec(3), ".png"),
        (".JPEG", full_spec(1), ".png"),
        (".webp", full_spec(3), ".webp"),
        (".webp", full_spec(1), ".png"),
        (".TIF", full_spec(3), ".TIF"),
        (".PNG", full_spec(1, "uint16"), ".PNG"),
        (".jpg", full_spec(3, "uint16"), ".tif"),
        (".png", full_spec(4), ".tif"),
        (".png", full_spec(1, "float32"), ".tif"),
        (".npy", full_spec(5, "float32"), ".npy"),
        ("", full_spec(3), ".png"),
        (".bmp", full_spec(2), ".tif"),
    ],
)
def test_output_suffix(suffix: str, spec: ImageSpec, expected: str) -> None:
    assert output_suffix(suffix, spec) == expected


# ----------------------------------------------------------------------------------------------------------
# What other programs write


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    array = noise(4, 6, 1)
    write_image(tmp_path / "a.tif", array)
    (tmp_path / "a.tif").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), array)
    assert image_shape(tmp_path / "a.png") == (4, 6)
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy"} < SUFFIXES


def test_palette_and_one_bit_and_grey_depths(tmp_path: Path) -> None:
    rgb = np.array(RGB, np.uint8)[np.arange(12).reshape(3, 4) % 4]
    Image.fromarray(rgb).quantize(4).save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), rgb)

    bits = np.eye(5, dtype=bool)
    Image.fromarray(bits).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_image(tmp_path / "one.png"), bits[..., None] * np.uint8(255))

    Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2)).save(tmp_path / "two.png", bits=2)
    np.testing.assert_array_equal(read_image(tmp_path / "two.png")[..., 0], [[0, 85], [170, 255]])


def test_alpha_over_white_or_kept(tmp_path: Path) -> None:
    rgba = noise(6, 5, 4)
    rgba[:2, :, 3], rgba[2:4, :, 3] = 255, 0
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True, "exact": True})):
        Image.fromarray(rgba).save(tmp_path / name, **options)
        white = read_image(tmp_path / name)
        np.testing.assert_array_equal(white[:2], rgba[:2, :, :3])
        assert (white[2:4] == 255).all()
        share = rgba[4:, :, 3:] / 255.0
        np.testing.assert_array_equal(white[4:], np.rint(rgba[4:, :, :3] * share + 255 * (1 - share)))
        np.testing.assert_array_equal(read_image(tmp_path / name, alpha="keep"), rgba)

    Image.fromarray(rgba[..., 2:]).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").shape == (6, 5, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "la.png", alpha="keep"), rgba[..., 2:])


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3)])
def test_png_with_one_transparent_colour(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.new("RGB", (2, 1), (255, 255, 255))
    image.putpixel((0, 0), (0, 0, 0))
    image = image.convert(mode)
    black = image.getpixel((0, 0))
    image.save(tmp_path / "t.png", transparency=black)
    assert (read_image(tmp_path / "t.png") == 255).all()
    kept = read_image(tmp_path / "t.png", alpha="keep")
    assert kept.shape == (1, 2, channels + 1)
    np.testing.assert_array_equal(kept[0, :, -1], [0, 255])


def test_sixteen_bit_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    Image.fromarray(grey[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), grey)

    for channels in (2, 3, 4):
        array = noise(4, 5, channels, "uint16")
        path = tmp_path / f"deep{channels}.png"
        path.write_bytes(imagecodecs.png_encode(array))
        np.testing.assert_array_equal(read_image(path, alpha="keep"), array)
        assert image_shape(path) == (4, 5)
        if channels == 4:
            opaque = array.copy()
            opaque[..., 3] = 65535
            path.write_bytes(imagecodecs.png_encode(opaque))
            np.testing.assert_array_equal(read_image(path, alpha="white"), array[..., :3])

    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), grey)
    with pytest.raises(ImageError, match=r"deep3\.png: .*16 bits.*pip install imagecodecs.*TIFF"):
        read_image(tmp_path / "deep3.png")


def exif(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_exif_orientation_is_applied(tmp_path: Path, name: str, turn: int) -> None:
    array = noise(16, 24, 3)
    path = tmp_path / name
    if name == "a.tif":
        tifffile.imwrite(path, array, photometric="rgb", extratags=[(274, 3, 1, turn, True)])
        with_exif = Image.fromarray(array)
        with_exif.getexif()[0x0112] = turn
        expected = np.asarray(ImageOps.exif_transpose(with_exif))
    else:
        options = {"lossless": True, "exact": True} if name == "a.webp" else {}
        Image.fromarray(array).save(path, exif=exif(turn), **options)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_shape(path) == expected.shape[:2]
    assert expected.shape[:2] == ((16, 24) if turn < 5 else (24, 16))


def png_with_chunk(path: Path, name: bytes, body: bytes) -> None:
    """Insert a chunk behind the pixels."""
    data = path.read_bytes()
    at = data.rindex(b"IEND") - 4
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(data[:at] + chunk + data[at:])


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["eXIf", "text"])
def test_exif_behind_the_pixels_of_a_png(tmp_path: Path, kind: str, deep: bool) -> None:
    path = tmp_path / "late.png"
    array = noise(4, 6, 3, "uint16" if deep else "uint8")
    path.write_bytes(imagecodecs.png_encode(array))
    tags = exif(6).tobytes()
    if kind == "eXIf":
        png_with_chunk(path, b"eXIf", tags.removeprefix(b"Exif\0\0"))
    else:
        text = f"\nexif\n{len(tags):8d}\n{tags.hex()}\n"
        png_with_chunk(path, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text.encode()))
    assert image_shape(path) == (6, 4)
    np.testing.assert_array_equal(read_image(path), np.rot90(array, -1))


def test_damaged_exif_is_no_reason_to_refuse_a_photograph(tmp_path: Path) -> None:
    tags = exif(6).tobytes()
    for cut in range(len(tags)):
        Image.fromarray(noise(8, 9, 3)).save(tmp_path / "a.jpg", exif=tags[:cut])
        assert sorted(image_shape(tmp_path / "a.jpg")) == [8, 9]


def test_cmyk_jpeg_is_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    array = read_image(tmp_path / "cmyk.jpg")
    assert array.shape == (8, 8, 3)
    assert np.abs(array.astype(int) - (255, 0, 0)).max() < 20
    assert not is_lossless(tmp_path / "cmyk.jpg")


def test_large_images_do_not_warn_and_larger_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(noise(10, 10, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # Pillow warns above this, refuses above twice
    assert read_image(tmp_path / "a.png").shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    for function in (read_image, image_shape):
        with pytest.raises(ImageError, match=r"a\.png: has 10 x 10 pixels; .* 80.*MAX_IMAGE_PIXELS"):
            function(tmp_path / "a.png")


def test_lossless_or_not(tmp_path: Path) -> None:
    image = Image.fromarray(noise(16, 16, 3))
    image.save(tmp_path / "lossy.webp")
    image.save(tmp_path / "lossless.webp", lossless=True, exif=exif(1))
    tifffile.imwrite(tmp_path / "jpeg.tif", np.asarray(image), photometric="rgb", compression="jpeg")
    tifffile.imwrite(tmp_path / "lzw.tif", np.asarray(image), photometric="rgb", compression="lzw")
    found = {path.name: is_lossless(path) for path in tmp_path.iterdir()}
    assert found == {"lossy.webp": False, "lossless.webp": True, "jpeg.tif": False, "lzw.tif": True}


# TIFF -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_planar_and_paged_tiff(tmp_path: Path, dtype: str, byteorder: str) -> None:
    array = noise(6, 5, 4, dtype)
    planes = np.moveaxis(array, 2, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, planes, photometric="minisblack", planarconfig="separate", byteorder=byteorder, metadata=None
    )
    np.testing.assert_array_equal(read_image(path), array)
    assert read_image(path).dtype.isnative
    assert image_shape(path) == (6, 5)

    tifffile.imwrite(path, planes, photometric="minisblack", byteorder=byteorder)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 4
    np.testing.assert_array_equal(read_image(path), array)
    np.testing.assert_array_equal(read_image(path, page_axis="first"), array[..., :1])
    assert image_shape(path) == (6, 5)


def test_pages_of_rgb_stack(tmp_path: Path) -> None:
    array = noise(6, 5, 6)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for part in (array[..., :3], array[..., 3:]):
            tif.write(part, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), array)


def test_a_stack_behind_one_page_is_read_whole(tmp_path: Path) -> None:
    array = noise(6, 5, 4, "uint16")
    planes = np.moveaxis(array, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack", truncate=True)
    tifffile.imwrite(tmp_path / "ij.tif", planes, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert len(tif.pages) == 1
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), array)
    np.testing.assert_array_equal(read_image(tmp_path / "ij.tif"), array)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page_axis="first"), array[..., :1])


def test_smaller_copies_are_no_pages_and_unequal_pages_are_refused(tmp_path: Path) -> None:
    array = noise(8, 8, 1)
    for name, kind in (("pyramid.tif", 1), ("unequal.tif", 0)):
        with tifffile.TiffWriter(tmp_path / name) as tif:
            tif.write(array[..., 0], photometric="minisblack")
            tif.write(array[::2, ::2, 0], photometric="minisblack", subfiletype=kind)
    np.testing.assert_array_equal(read_image(tmp_path / "pyramid.tif"), array)
    with pytest.raises(ImageError, match=r"unequal\.tif: its 2 pages differ .*page_axis"):
        read_image(tmp_path / "unequal.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "unequal.tif", page_axis="first"), array)


def test_only_declared_alpha_of_a_tiff_is_alpha(tmp_path: Path) -> None:
    array = noise(4, 5, 4)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=("unspecified",))
    np.testing.assert_array_equal(read_image(path), array)

    tifffile.imwrite(path, array, photometric="rgb", extrasamples=("unassalpha",))
    np.testing.assert_array_equal(read_image(path, alpha="keep"), array)
    share = array[..., 3:] / 255.0
    np.testing.assert_array_equal(read_image(path), np.rint(array[..., :3] * share + 255 * (1 - share)))

    premultiplied = array.copy()
    premultiplied[..., :3] = np.minimum(array[..., :3], array[..., 3:])
    tifffile.imwrite(path, premultiplied, photometric="rgb", extrasamples=("assocalpha",))
    np.testing.assert_array_equal(read_image(path), premultiplied[..., :3] + (255 - array[..., 3:]))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_values_are_laid_over_white_only_when_asked(tmp_path: Path, dtype: str) -> None:
    array = (noise(4, 5, 4, "uint16") / (1 if dtype == "uint16" else 65535)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=("unassalpha",))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), array)
    assert read_image(tmp_path / "a.tif", alpha="white").shape == (4, 5, 3)


def test_alpha_is_seen_in_the_header(tmp_path: Path) -> None:
    rgba = noise(4, 5, 4)
    for name, channels, expected in (
        ("a.png", 4, True), ("b.png", 3, False), ("a.webp", 4, True), ("b.webp", 3, False),
        ("c.jpg", 3, False),
    ):  # fmt: skip
        Image.fromarray(rgba[..., :channels]).save(tmp_path / name)
        assert has_alpha(tmp_path / name) == expected, name
    for extra, expected in (("unassalpha", True), ("assocalpha", True), ("unspecified", False)):
        tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=(extra,))
        assert has_alpha(tmp_path / "a.tif") == expected
    np.save(tmp_path / "a.npy", rgba)
    assert not has_alpha(tmp_path / "a.npy")


def test_tiff_photometrics(tmp_path: Path) -> None:
    index = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    table = np.zeros((3, 256), np.uint16)
    table[:, :4] = np.array(RGB).T * 257
    tifffile.imwrite(tmp_path / "palette.tif", index, photometric="palette", colormap=table)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.tif"), np.array(RGB)[index])

    for dtype, top in (("uint8", 255), ("uint16", 65535)):
        array = noise(3, 4, 1, dtype)
        tifffile.imwrite(tmp_path / "white.tif", array[..., 0], photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / "white.tif"), top - array)

    bits = np.eye(9, dtype=bool)
    tifffile.imwrite(tmp_path / "bits.tif", bits, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.tif"), bits[..., None] * np.uint8(255))


def test_compressed_tiff_with_and_without_imagecodecs(tmp_path: Path) -> None:
    array = noise(6, 5, 3)
    for name in ("lzw", "zlib"):
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="rgb", compression=name)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif"), array)
    write_image(tmp_path / "ours.tif", array)
    # tifffile looks for imagecodecs when it is imported, so a fresh interpreter is needed.
    program = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from pairloom.formats import ImageError, read_image\n"
        "for name in ('zlib', 'ours', 'lzw'):\n"
        "    try: print(name, read_image(sys.argv[1] + f'/{name}.tif').shape)\n"
        "    except ImageError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    zlib_line, ours_line, lzw_line = run.stdout.strip().split("\n")
    assert (zlib_line, ours_line) == ("zlib (6, 5, 3)", "ours (6, 5, 3)")
    assert "lzw.tif: its compression needs the package imagecodecs" in lzw_line
    assert "pip install imagecodecs" in lzw_line


# NPY and dtypes -------------------------------------------------------------------------------------------


def test_npy_layouts_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    grey = noise(4, 5, 1, "float32")
    for stored in (
        grey[..., 0],
        grey[..., 0].astype(">f4"),
        grey.astype(np.float64),
        np.asfortranarray(grey),
    ):
        np.save(path, stored)
        back = read_image(path)
        assert back.dtype == np.float32
        assert back.dtype.isnative
        np.testing.assert_array_equal(back, grey)
        assert image_shape(path) == (4, 5)
    np.save(path, np.ones((2, 2), np.float16))
    assert read_image(path).dtype == np.float32
    np.save(path, np.array([[True, False]]))
    np.testing.assert_array_equal(read_image(path)[..., 0], [[255, 0]])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint32", "uint64", "complex64"])
def test_other_dtypes_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2), dtype))
    with pytest.raises(
        ImageError, match=rf"a\.npy: holds {dtype} values; allowed are uint8, uint16, float32"
    ):
        read_image(tmp_path / "a.npy")
    if dtype in ("int16", "uint32"):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 2), dtype), photometric="minisblack")
        with pytest.raises(ImageError, match=rf"a\.tif: holds {dtype} values"):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros((70, 2, 3), np.uint8).T, "70 channels .*height, width, channels"),
        (np.zeros(3, np.uint8), r"\(3,\)"),
        (np.zeros((1, 2, 3, 4), np.uint8), r"\(1, 2, 3, 4\)"),
        (np.array([[1.0, np.nan], [np.inf, 0.0]]), "2 of its 4 values are NaN or infinite"),
        (np.array([[1e300]]), "1 of its 1 values are NaN or infinite"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.array([[{}]], dtype=object), "damaged"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, stored: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", stored, allow_pickle=True)
    with pytest.raises(ImageError, match=rf"a\.npy: .*{words}"):
        read_image(tmp_path / "a.npy")


def test_too_many_pages_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((65, 4, 4), np.uint8), photometric="minisblack")
    with pytest.raises(ImageError, match=r"a\.tif: has 65 channels"):
        read_image(tmp_path / "a.tif")


# Damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.npy"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    array = noise(64, 64, 3)
    if name == "a.jpg":
        Image.fromarray(array).save(path)
    else:
        write_image(path, array)
    path.write_bytes(path.read_bytes()[: max(14, int(share * path.stat().st_size))])
    with pytest.raises(ImageError, match=rf"{name}: cannot be read, it is damaged or cut short \(.+\)"):
        read_image(path)


def test_a_tiff_that_lists_too_few_strips_is_not_filled_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64, 1)[..., 0], photometric="minisblack", rowsperstrip=64)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages.first.tags["RowsPerStrip"].overwrite(16)
    with pytest.raises(ImageError, match=r"a\.tif: lists 1 of the 4 parts"):
        read_image(path)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_truncated_tiff_of_other_programs(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64, 3), photometric="rgb", compression=compression)
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(ImageError, match=r"a\.tif: cannot be read, it is damaged"):
        read_image(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(["a.png", "a.webp", "a.tif", "a.npy"]))
def test_any_damage_gives_an_image_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    path = tmp_path_factory.mktemp("damage") / name
    write_image(path, noise(5, 6, 3))
    stored = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(stored)
    for function in (read_image, image_shape, is_lossless):
        with contextlib.suppress(ImageError):
            function(path)


def test_what_is_no_image_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("this is text\n")
    (tmp_path / "text.tif").write_text("x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "movie.gif").write_bytes(b"GIF89a")
    expected = {
        "empty.png": r"is empty \(0 bytes\)",
        "text.png": "is not an image in a known format .*this is",
        "text.tif": "is not an image in a known format",
        "folder.png": "is a folder",
        "missing.png": "there is no such file",
        "movie.gif": r"its suffix '\.gif' is none of",
    }
    for name, words in expected.items():
        for function in (read_image, image_shape, is_lossless):
            with pytest.raises(ImageError, match=f"{name}: {words}"):
                function(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_animations_are_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=rf"{name}: is an animation"):
        read_image(tmp_path / name)


# ----------------------------------------------------------------------------------------------------------
# Arrays <-> tensors


@pytest.mark.parametrize(("dtype", "side"), [("uint8", 16), ("uint16", 256)])
def test_integer_round_trips_are_the_identity(dtype: str, side: int) -> None:
    array = np.arange(side * side, dtype=dtype).reshape(side, side, 1)
    spec = full_spec(1, dtype)
    tensor = to_tensor(array, spec)
    assert tensor.shape == (1, side, side)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert (tensor.min(), tensor.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_array(tensor, spec), array)
    np.testing.assert_array_equal(to_array(tensor.double(), spec), array)


def test_channels_have_their_own_limits_and_place() -> None:
    spec = ImageSpec(channels=2, dtype="float32", scaling="range", low=(0.0, -10.0), high=(1.0, 30.0))
    array = np.array([[[0.25, 10.0], [2.0, -20.0]]], np.float32)
    tensor = to_tensor(array, spec)
    torch.testing.assert_close(tensor, torch.tensor([[[-0.5, 1.0]], [[0.0, -1.0]]]))
    np.testing.assert_allclose(to_array(tensor, spec), [[[0.25, 10.0], [1.0, -10.0]]])
    assert clipped_share(array, spec) == 0.5


def test_output_rounds_and_clips() -> None:
    spec = full_spec()
    values = torch.tensor([0.4, 0.6, 254.6, 300.0, -40.0])
    array = to_array((values / 127.5 - 1.0)[None, None], spec)
    np.testing.assert_array_equal(array[0, :, 0], [0, 1, 255, 255, 0])
    assert array.dtype == np.uint8
    beyond = ImageSpec(channels=1, dtype="uint8", scaling="zscore", low=(-50.0,), high=(290.0,))
    np.testing.assert_array_equal(to_array(torch.tensor([[[-1.0, 1.0]]]), beyond)[0, :, 0], [0, 255])
    half = to_array(torch.tensor([[[-1.0, 0.0, 1.0]]], dtype=torch.bfloat16, requires_grad=True), spec)
    np.testing.assert_array_equal(half[0, :, 0], [0, 128, 255])


def test_a_constant_channel_becomes_zero_and_comes_back() -> None:
    spec = ImageSpec(channels=2, dtype="float32", scaling="percentile", low=(7.0, 0.0), high=(7.0, 1.0))
    tensor = to_tensor(np.array([[[9.0, 1.0]]], np.float32), spec)
    assert tensor.flatten().tolist() == [0.0, 1.0]
    np.testing.assert_array_equal(to_array(torch.ones(2, 1, 1), spec), [[[7.0, 1.0]]])


def test_large_offsets_keep_their_digits() -> None:
    spec = ImageSpec(channels=1, dtype="float32", scaling="range", low=(1e6,), high=(1e6 + 1,))
    array = np.array([1e6, 1e6 + 0.25, 1e6 + 1], np.float32).reshape(1, 3, 1)
    assert to_tensor(array, spec).flatten().tolist() == [-1.0, -0.5, 1.0]
    np.testing.assert_array_equal(to_array(to_tensor(array, spec), spec), array)


def test_read_only_and_strided_arrays() -> None:
    array = noise(4, 6, 3)
    expected = to_tensor(array, full_spec(3))
    array.flags.writeable = False
    torch.testing.assert_close(to_tensor(array, full_spec(3)), expected)
    torch.testing.assert_close(to_tensor(array[:, ::-1], full_spec(3)), expected.flip(2))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (noise(2, 2, 1), "1 channel of uint8, .* 3 channels of uint16"),
        (noise(2, 2, 3), "3 channels of uint8, .* 3 channels of uint16"),
        (noise(2, 2, 3, "float32"), "3 channels of float32, .* 3 channels of uint16"),
        (np.zeros((2, 2, 3)), "float64"),
    ],
)
def test_images_that_are_not_the_specs(array: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        to_tensor(array, full_spec(3, "uint16"))


def test_tensors_that_are_not_the_specs() -> None:
    with pytest.raises(ImageError, match=r"\(1, 2, 2\); expected \(3, H, W\)"):
        to_array(torch.zeros(1, 2, 2), full_spec(3))
    with pytest.raises(ImageError, match="1 of the tensor's 4 values are NaN"):
        to_array(torch.tensor([[[0.0, 1.0], [torch.nan, 0.0]]]), full_spec())


# Label maps -----------------------------------------------------------------------------------------------


def test_labels_snap_to_the_nearest_colour() -> None:
    spec = label_spec()
    index = np.arange(30).reshape(5, 6) % 4
    clean = np.array(RGB, np.uint8)[index]
    dirty = np.clip(clean.astype(int) + np.random.default_rng(0).integers(-5, 6, clean.shape), 0, 255)
    dirty = dirty.astype(np.uint8)
    torch.testing.assert_close(to_tensor(dirty, spec), to_tensor(clean, spec))
    np.testing.assert_array_equal(to_array(to_tensor(dirty, spec), spec), clean)
    assert palette_distance(clean, spec) == 0.0
    expected = np.sqrt(((dirty.astype(float) - clean) ** 2).sum(axis=2)).mean()
    assert palette_distance(dirty, spec) == pytest.approx(expected)


def test_one_hot_there_and_back() -> None:
    spec = label_spec(one_hot=True)
    assert spec.tensor_channels == 4
    index = np.arange(30).reshape(5, 6) % 4
    clean = np.array(RGB, np.uint8)[index]
    tensor = to_tensor(clean, spec)
    assert tensor.shape == (4, 5, 6)
    assert tensor.unique().tolist() == [-1.0, 1.0]
    np.testing.assert_array_equal(tensor.argmax(dim=0).numpy(), index)
    np.testing.assert_array_equal(to_array(tensor * 0.1 - 0.5, spec), clean)


def test_outputs_of_label_maps_hold_only_palette_colours() -> None:
    tensor = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    array = to_array(tensor, label_spec())
    assert set(map(tuple, array.reshape(-1, 3).tolist())) <= set(RGB)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["uint8", "uint16"]), channels=st.sampled_from([1, 2, 3, 5, 9]))
def test_nearest_agrees_with_the_plain_search(data: st.DataObject, dtype: str, channels: int) -> None:
    values = st.integers(0, 7) | st.integers(0, np.iinfo(dtype).max)
    colours = data.draw(st.lists(st.tuples(*[values] * channels), min_size=1, max_size=6, unique=True))
    array = data.draw(hnp.arrays(dtype, (2, 3, channels), elements=values))
    found = palette.nearest(array, tuple(colours))
    distances = ((array[:, :, None].astype(np.int64) - np.array(colours)) ** 2).sum(axis=3)
    np.testing.assert_array_equal(
        np.take_along_axis(distances, found[..., None], axis=2)[..., 0], distances.min(axis=2)
    )
    np.testing.assert_array_equal(found, distances.argmin(axis=2))


@pytest.mark.parametrize("size", [(3, 5), (40, 33), (16, 16)])
def test_resize_nearest_makes_no_new_colours(size: tuple[int, int]) -> None:
    spec = label_spec()
    tensor = to_tensor(np.array(RGB, np.uint8)[np.random.default_rng(0).integers(0, 4, (16, 16))], spec)
    small = resize(tensor, size, labels=True)
    assert small.shape == (3, *size)
    assert {tuple(c) for c in small.flatten(1).T.tolist()} <= {tuple(c) for c in tensor.flatten(1).T.tolist()}


def test_resize_of_intensities() -> None:
    tensor = torch.zeros(2, 1, 8, 8)
    tensor[..., ::2] = 1.0  # the finest stripes: without antialiasing halving would keep 0 or 1
    half = resize(tensor, (4, 4), labels=False)
    assert half.shape == (2, 1, 4, 4)
    torch.testing.assert_close(half[..., 1:3], torch.full((2, 1, 4, 2), 0.5))
    assert resize(tensor[0], (3, 5), labels=False).shape == (1, 3, 5)
    assert resize(tensor, (8, 8), labels=False) is tensor


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (5, 4), (9, 9)])
def test_reflection_repeats_as_often_as_it_takes(size: tuple[int, int]) -> None:
    x = torch.arange(2 * size[0] * size[1]).float().reshape(1, 2, *size)
    reflected = reflect_to(x, 9, 7)
    rows, columns = (
        np.pad(np.arange(n), (0, max(0, wanted - n)), mode="reflect" if n > 1 else "edge")
        for n, wanted in zip(size, (9, 7), strict=True)
    )
    assert torch.equal(reflected, x[:, :, rows][..., columns])
    assert torch.equal(reflect_to(x[0], 9, 7), reflected[0])
    assert reflect_to(x, *size) is x


# ----------------------------------------------------------------------------------------------------------
# The spec


def test_spec_goes_through_json() -> None:
    for spec in (
        label_spec(one_hot=True, palette_names=("wall", "roof", "sky", "door")),
        full_spec(2, "uint16", names=("DAPI", "GFP"), alpha="keep", page_axis="first"),
        measure_spec([noise(8, 8, 3, "float32")], scaling="zscore"),
    ):
        assert ImageSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_spec_from_other_versions_and_damaged_records() -> None:
    record = full_spec().to_dict()
    del record["version"], record["names"]
    assert ImageSpec.from_dict(record) == full_spec()
    with pytest.raises(ImageError, match=r"version 2.*newer pairloom"):
        ImageSpec.from_dict({**record, "version": 2, "future": 1})
    with pytest.raises(ImageError, match=r"unknown fields \['colour'\].*lacks \['dtype'\]"):
        ImageSpec.from_dict({"channels": 1, "low": [0], "high": [1], "colour": 1})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"channels": 65}, "channels is 65"),
        ({"dtype": "int16"}, "dtype is 'int16'"),
        ({"kind": "photo"}, "kind is 'photo'"),
        ({"low": (0.0, 0.0)}, "low is .* 1 finite"),
        ({"high": (float("nan"),)}, "high is"),
        ({"low": (300.0,)}, "low is .* at most high"),
        ({"names": ("a", "b")}, "names is"),
        ({"one_hot": True}, "one_hot is True"),
        ({"palette": ((1,),)}, "palette is .* empty unless"),
        ({"kind": "labels"}, "palette is"),
        ({"kind": "labels", "palette": ((1, 2),)}, r"palette is \(1, 2\)"),
        ({"kind": "labels", "palette": ((256,),)}, r"palette is \(256,\)"),
        ({"kind": "labels", "palette": ((1,), (1,))}, "palette is .* all differ"),
        ({"kind": "labels", "palette": ((1,),), "dtype": "float32"}, "dtype is 'float32'"),
        ({"kind": "labels", "palette": ((1,),), "palette_names": ("a", "b")}, "palette_names"),
        ({"version": 2}, "version is 2"),
    ],
)
def test_impossible_specs(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"ImageSpec.{words}"):
        ImageSpec(**{"channels": 1, "dtype": "uint8", "low": (0.0,), "high": (255.0,), **fields})


def test_spec_in_words() -> None:
    assert full_spec(3).words() == "3 channels, uint8, intensity, 0..255 -> -1..1"
    assert label_spec(one_hot=True).words() == "3 channels, uint8, label map of 4 classes, one-hot"
    spec = ImageSpec(channels=1, dtype="uint16", scaling="percentile", low=(112.0,), high=(4093.5,))
    assert spec.words() == "1 channel, uint16, intensity, 112..4093.5 -> -1..1 (percentile)"


# Measuring ------------------------------------------------------------------------------------------------


def test_measure_photographs() -> None:
    spec = measure_spec(iter([noise(16, 16, 3), noise(9, 12, 3, seed=1)]))
    assert spec == full_spec(3)


def test_measure_percentiles_by_channel() -> None:
    array = np.stack([np.arange(10000).reshape(100, 100), np.full((100, 100), 5)], axis=2).astype(np.uint16)
    spec = measure_spec([array])
    assert (spec.dtype, spec.scaling) == ("uint16", "percentile")
    assert spec.low == pytest.approx((9.999, 5.0))
    assert spec.high == pytest.approx((9989.001, 5.0))
    spec = measure_spec([array], scaling="percentile", limits=(0, 100))
    assert (spec.low, spec.high) == ((0.0, 5.0), (9999.0, 5.0))


def test_a_sparse_channel_keeps_its_content() -> None:
    array = np.zeros((100, 100, 1), np.float32)
    array[0, 0] = 3.0
    spec = measure_spec([array])
    assert (spec.low, spec.high) == ((0.0,), (3.0,))


def test_measure_range_and_zscore() -> None:
    spec = measure_spec([noise(4, 4, 2, "float32")], scaling="range", limits=(-1000, 1000))
    assert (spec.low, spec.high, spec.scaling) == ((-1000.0,) * 2, (1000.0,) * 2, "range")
    array = np.random.default_rng(0).normal(10.0, 2.0, (100, 100, 1)).astype(np.float32)
    spec = measure_spec([array], scaling="zscore")
    assert spec.low == pytest.approx((4.0,), abs=0.2)
    assert spec.high == pytest.approx((16.0,), abs=0.2)
    assert clipped_share(array, spec) == pytest.approx(0.0027, abs=0.002)
    narrow = measure_spec([array], scaling="zscore", limits=(0, 1))
    assert clipped_share(array, narrow) == pytest.approx(0.317, abs=0.02)


def test_measure_labels() -> None:
    index = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) % 8
    spec = measure_spec([index], palette=[(i,) for i in range(8)])
    assert spec.kind == "labels"
    assert spec.palette == tuple((i,) for i in range(8))
    assert (spec.low, spec.high) == ((0.0,), (7.0,))
    assert sorted(set(to_tensor(index, spec).flatten().tolist())) == pytest.approx(np.linspace(-1, 1, 8))
    np.testing.assert_array_equal(to_array(to_tensor(index, spec), spec), index)

    rgb = np.array(RGB, np.uint8)[index[..., 0] % 4]
    spec = measure_spec([rgb[:1], rgb], kind="labels", palette=RGB, one_hot=True)
    assert (spec.palette, spec.tensor_channels) == (RGB, 4)
    assert (spec.low, spec.high) == ((0.0,) * 3, (255.0,) * 3)
    assert measure_spec([rgb]).kind == "intensity"


def test_a_given_palette_decides() -> None:
    photograph = noise(16, 16, 3)
    spec = measure_spec([photograph], palette=[list(c) for c in RGB], palette_names=["a", "b", "c", "d"])
    assert (spec.kind, spec.palette, spec.palette_names) == ("labels", RGB, ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ([], {}, "no training images"),
        ([noise(2, 2, 1), noise(2, 2, 3)], {}, "first has 1 channel of uint8, image 2 has 3 channels"),
        ([noise(2, 2, 1), noise(2, 2, 1, "uint16")], {}, "of uint8, image 2 has 1 channel of uint16"),
        ([noise(32, 32, 3)], {"kind": "labels"}, "kind=labels needs a palette"),
        ([noise(4, 4, 1, "float32")], {"palette": [(0,), (1,)]}, "float32"),
        ([noise(4, 4, 1)], {"palette": RGB}, "colours have 3 values, but the images 1 channel"),
        ([noise(32, 32, 3)], {"one_hot": True}, "one_hot .*no label maps"),
        ([noise(4, 4, 3)], {"kind": "intensity", "palette": RGB}, "kind=intensity"),
        ([noise(4, 4, 3)], {"palette": RGB, "scaling": "zscore"}, "scaling=zscore is for intensities"),
        ([noise(4, 4, 1)], {"scaling": "range"}, "scaling=range needs"),
        ([noise(4, 4, 1)], {"limits": (0, 1)}, "limits .*scaling=auto"),
        ([noise(4, 4, 1)], {"scaling": "percentile", "limits": (5, 101)}, "percentiles from 0 to 100"),
        ([noise(4, 4, 1)], {"scaling": "zscore", "limits": (1, 3)}, r"\(0, k\)"),
        ([noise(4, 4, 1, "float32")], {"scaling": "full"}, "no full range"),
        ([np.full((2, 2, 1), np.inf, np.float32)], {}, "Training image 1: 4 of its 4 values"),
    ],
)
def test_what_cannot_be_measured(arrays: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        measure_spec(arrays, **options)


def test_the_sample_is_bounded_and_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairloom.survey.SAMPLE_VALUES", 4000)
    monkeypatch.setattr("pairloom.survey.SAMPLE_PIXELS_PER_IMAGE", 500)
    found = survey(np.full((30, 30, 1), n, np.uint8) for n in range(100))
    assert 1000 <= found.sample.size <= 4000
    counts = np.bincount(found.sample[:, 0], minlength=100)
    assert counts[:50].sum() == pytest.approx(counts[50:].sum(), rel=0.2)
    assert (found.smallest, found.largest) == (0, 99)


# Palette files --------------------------------------------------------------------------------------------


def test_palette_files(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeff# facade classes\n\n0,0,170,wall\n 255 , 85, 0 , roof, red  # tiles\n0,255,255\n")
    assert read_palette(path) == (RGB[:3], ("wall", "roof, red", "0,255,255"))
    path.write_text("0,background\n7,cell\n300\n")
    assert read_palette(path) == (((0,), (7,), (300,)), ("background", "cell", "300"))
    path.write_text("1,2,3\n4,5,6\n")
    assert read_palette(path) == (((1, 2, 3), (4, 5, 6)), ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0,0,0\n\nwall\n", r"line 3 \('wall'\): begins with 0 whole numbers"),
        ("0,1,wall\n", r"line 1 .*begins with 2 whole numbers"),
        ("0,0,0\n5,wall\n", r"line 2 .*the lines above have 3 numbers"),
        ("1\n2\n1\n", r"line 3 .*repeats the colour of line 1"),
        ("0,0,-1\n", r"line 1 .*from 0 to 65535"),
        ("# nothing\n", "holds 0 classes"),
        ("\n".join(map(str, range(257))), "holds 257 classes"),
    ],
)
def test_faults_of_palette_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(ImageError, match=rf"classes\.txt.*{words}"):
        read_palette(path)


def test_palette_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.txt: cannot be read as a palette \(No such file"):
        read_palette(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImageError, match=r"binary\.txt: .*not UTF-8"):
        read_palette(tmp_path / "binary.txt")


def test_messages_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert formats.ImageError is ImageError
