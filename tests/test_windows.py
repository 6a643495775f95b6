"""Images read by windows: every kind gives what the whole file gives, and no more of it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pairloom.images import ImageError, ImageSpec, image_shape, read_image
from pairloom.windows import open_windows

Writer = Callable[[Path], None]
SIZE = (150, 203)
WINDOWS = [
    (0, 0, 150, 203),
    (0, 0, 1, 1),
    (149, 202, 1, 1),
    (31, 17, 70, 90),
    (64, 128, 64, 64),
    (1, 190, 149, 13),
]
"""(top, left, height, width)"""


def spec(channels: int = 3, dtype: Any = "uint8", **fields: Any) -> ImageSpec:
    """Only alpha and page_axis matter for reading."""
    return ImageSpec(channels=channels, dtype=dtype, low=(0,) * channels, high=(1,) * channels, **fields)


def noise(channels: int = 3, dtype: str = "uint8", size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth enough for JPEG, with noise in it."""
    rng = np.random.default_rng(channels)
    values = np.add.outer(np.arange(size[0]), np.arange(size[1]))[..., None] / sum(size) + 0.1 * rng.random(
        (*size, channels)
    )
    if dtype == "float32":
        return (values - 0.5).astype(np.float32)
    return (values / values.max() * np.iinfo(dtype).max).astype(dtype)


def tiff(channels: int = 3, dtype: str = "uint8", *, pages: bool = False, **options: Any) -> Writer:
    def write(path: Path) -> None:
        array = noise(channels, dtype)
        if pages or options.get("planarconfig") == "separate":
            array = np.moveaxis(array, 2, 0)
        elif channels == 1:
            array = array[..., 0]
        given = {"planarconfig": "contig"} if channels in (2, 5) and not pages else {}
        given |= {"photometric": "rgb" if channels in (3, 4) and not pages else "minisblack", **options}
        tifffile.imwrite(path, array, **given)

    return write


def turned(turn: int, **options: Any) -> Writer:
    return tiff(extratags=[(274, 3, 1, turn, True)], **options)


def pyramid(path: Path) -> None:
    array = noise()
    with tifffile.TiffWriter(path) as writer:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
        writer.write(array, subifds=1, **options)
        writer.write(array[::2, ::2], subfiletype=1, **options)
        writer.write(array[::4, ::4], subfiletype=1, **options)


def palette(path: Path) -> None:
    index = noise(1)[..., 0]
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256), dtype=np.uint16)
    tifffile.imwrite(path, index, photometric="palette", colormap=colours, tile=(32, 32), compression="lzw")


def holes(path: Path) -> None:
    """Tiles that the writer left out, as GDAL's sparse files do."""
    tiles = [noise(1, size=(64, 64))[..., 0] if number % 2 == 0 else None for number in range(12)]
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=SIZE,
        dtype="uint8",
        tile=(64, 64),
        compression="zlib",
        photometric="minisblack",
    )


def imagej(path: Path) -> None:
    stack = np.moveaxis(noise(4, "uint16"), 2, 0)
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "CYX"})


def bits(path: Path) -> None:
    Image.fromarray(noise(1)[..., 0] > 99).save(path, compression="group4")


def jpeg_in_tiff(path: Path) -> None:
    tifffile.imwrite(path, noise(), photometric="ycbcr", compression="jpeg", tile=(64, 64))


def saved(array: np.ndarray, **options: Any) -> Writer:
    return lambda path: Image.fromarray(array).save(path, **options)


KINDS: dict[str, tuple[str, Writer]] = {
    "one strip": (".tif", tiff()),
    "strips": (".tif", tiff(rowsperstrip=13)),
    "strips, zlib": (".tif", tiff(rowsperstrip=13, compression="zlib")),
    "rows, lzw, predictor": (".tif", tiff(rowsperstrip=1, compression="lzw", predictor=True)),
    "tiles": (".tif", tiff(tile=(64, 48))),
    "tiles, zlib": (".tif", tiff(5, "uint16", tile=(64, 48), compression="zlib")),
    "tiles, zstd, float": (".tif", tiff(2, "float32", tile=(32, 32), compression="zstd", predictor=True)),
    "tiles, deflate, planar": (
        ".tif",
        tiff(3, "uint16", tile=(32, 64), planarconfig="separate", compression="zlib"),
    ),
    "strips, planar": (".tif", tiff(3, planarconfig="separate", rowsperstrip=20)),
    "big-endian": (".tif", tiff(3, "uint16", byteorder=">")),
    "big-endian tiles": (".tif", tiff(3, "float32", byteorder=">", tile=(64, 64), compression="zlib")),
    "BigTIFF": (".tif", tiff(1, "uint16", bigtiff=True, tile=(64, 64), compression="zlib")),
    "jpeg tiles": (".tif", jpeg_in_tiff),
    "jpeg 2000 tiles": (".tif", tiff(tile=(64, 64), compression="jpeg2000")),
    "pages": (".tif", tiff(4, "uint16", pages=True, metadata=None, tile=(64, 64), compression="zlib")),
    "pages, plain": (".tif", tiff(4, "float32", pages=True, metadata=None)),
    "ImageJ stack": (".tif", imagej),
    "OME-TIFF": (".ome.tif", tiff(4, "uint16", pages=True, ome=True, tile=(64, 64), compression="zlib")),
    "pyramid": (".tif", pyramid),
    "palette": (".tif", palette),
    "white is zero": (".tif", tiff(1, photometric="miniswhite", tile=(64, 64), compression="zlib")),
    "alpha": (".tif", tiff(4, extrasamples=["unassalpha"], tile=(64, 64), compression="zlib")),
    "premultiplied": (".tif", tiff(4, extrasamples=["assocalpha"], tile=(64, 64), compression="zlib")),
    "holes": (".tif", holes),
    "one bit": (".tif", bits),
    **{f"turned {turn}": (".tif", turned(turn, tile=(64, 48), compression="zlib")) for turn in range(2, 9)},
    "turned 6, plain": (".tif", turned(6)),
    "NPY": (".npy", lambda path: np.save(path, noise(5, "float32"))),
    "NPY, two axes, big-endian": (
        ".npy",
        lambda path: np.save(path, noise(1, "uint16")[..., 0].astype(">u2")),
    ),
    "NPY, columns first": (".npy", lambda path: np.save(path, np.asfortranarray(noise()))),
    "NPY, float64": (".npy", lambda path: np.save(path, noise(2, "float32").astype(float))),
    "PNG": (".png", saved(noise())),
    "PNG, alpha": (".png", saved(noise(4))),
    "JPEG": (".jpg", saved(noise())),
    "WebP": (".webp", saved(noise(), lossless=True)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", ["white", "keep"])
def test_a_window_is_that_of_the_whole_image(kind, alpha, tmp_path):
    suffix, write = KINDS[kind]
    path = tmp_path / f"image{suffix}"
    write(path)
    expected = read_image(path, alpha=alpha)
    with open_windows(path, spec(alpha=alpha)) as image:
        assert (image.height, image.width, image.channels) == expected.shape
        assert image.dtype == expected.dtype
        for top, left, height, width in WINDOWS:
            if "turned" in kind and expected.shape[0] > expected.shape[1]:
                top, left, height, width = left, top, width, height
            window = image.read(top, left, height, width)
            assert window.flags.c_contiguous and window.flags.writeable and window.dtype.isnative
            assert np.array_equal(window, expected[top : top + height, left : left + width])


def test_only_the_first_page_by_choice(tmp_path):
    tiff(4, "uint16", pages=True, metadata=None, compression="zlib")(tmp_path / "x.tif")
    with open_windows(tmp_path / "x.tif", spec(page_axis="first")) as image:
        assert np.array_equal(image.read(3, 5, 60, 70), noise(4, "uint16")[3:63, 5:75, :1])


def test_only_the_tiles_that_touch_the_window_are_read(tmp_path):
    """The others are spoilt, and nobody minds."""
    path = tmp_path / "x.tif"
    tiff(tile=(64, 64), compression="zlib")(path)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as file:
        for number, (start, size) in enumerate(places):
            if number not in (0, 5, 6):  # of 3 rows of 4
                file.seek(start)
                file.write(b"\xff" * size)
    with open_windows(path, spec()) as image:
        assert np.array_equal(image.read(70, 64, 50, 128), noise()[70:120, 64:192])
        with pytest.raises(ImageError, match=r"x\.tif: cannot be read, it is damaged or cut short"):
            image.read(60, 64, 50, 128)


def test_tiles_are_decoded_once_while_they_fit(tmp_path, monkeypatch):
    """Reading the same tiles again touches the file no more, and the memory that is kept is bounded."""
    path = tmp_path / "x.tif"
    tiff(1, tile=(16, 16), compression="zlib")(path)
    with open_windows(path, spec(1), memory_bytes=8 * 4 * 256) as image:  # room for four tiles
        expected = image.read(16, 16, 32, 32)
        fetched: list[int] = []
        file = image._tif.filehandle  # type: ignore[attr-defined]
        read = type(file).read
        monkeypatch.setattr(type(file), "read", lambda self, size: fetched.append(size) or read(self, size))
        assert np.array_equal(image.read(16, 16, 32, 32), expected)
        assert not fetched
        image.read(0, 0, 150, 203)
        assert len(fetched) >= 130 - 4
        assert image._segments._held <= 4 * 256  # type: ignore[attr-defined]
        assert image.reserved_bytes <= 8 * 4 * 256


# -----------------------------------------------------------------------------------------------------------
# OME-Zarr


def zarr_image(
    path: Path,
    array: np.ndarray,
    axes: str = "cyx",
    version: str = "0.4",
    scale: Any = None,
    unit: str = "",
    place: Any = None,
) -> None:
    """Written by hand, from the specification."""
    zarr = pytest.importorskip("zarr")
    new = version == "0.5"
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if new else 2)
    chunks = tuple(min(64, side) if axis in "yx" else 1 for axis, side in zip(axes, array.shape, strict=True))
    group.create_array("full", data=array, chunks=chunks)
    group.create_array("half", data=array[..., ::2, ::2], chunks=chunks)
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in described:
        if unit and axis["type"] == "space":
            axis["unit"] = unit
    steps = [{"type": "scale", "scale": scale or [1.0] * len(axes)}]
    steps += [{"type": "translation", "translation": place}] if place else []
    image = {
        "axes": described,
        "datasets": [
            {"path": "full", "coordinateTransformations": steps},
            {"path": "half", "coordinateTransformations": steps},
        ],
    }
    if new:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [image | {"version": version}]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "yx", "tczyx", "zyx"])
def test_an_ome_zarr_is_read_by_windows(version, axes, tmp_path):
    array = noise(3 if "c" in axes else 1, "uint16")
    stored = np.moveaxis(array, 2, 0) if "c" in axes else array[..., 0]
    stored = stored.reshape([{"t": 1, "z": 1, "c": 3, "y": SIZE[0], "x": SIZE[1]}[axis] for axis in axes])
    zarr_image(tmp_path / "x.zarr", stored, axes, version)
    with open_windows(tmp_path / "x.zarr", spec(dtype="uint16")) as image:
        assert (image.height, image.width, image.channels) == array.shape
        for top, left, height, width in WINDOWS:
            window = image.read(top, left, height, width)
            assert np.array_equal(window, array[top : top + height, left : left + width])


def test_what_is_no_ome_zarr_is_one_sentence(tmp_path):
    zarr = pytest.importorskip("zarr")
    (tmp_path / "empty.zarr").mkdir()
    zarr.open_group(str(tmp_path / "plain.zarr"), mode="w")
    zarr_image(tmp_path / "volume.zarr", np.zeros((5, 40, 40), np.uint8), "zyx")
    zarr_image(tmp_path / "odd.zarr", np.zeros((40, 40), np.uint8), "yx")
    group = zarr.open_group(str(tmp_path / "odd.zarr"), mode="r+")
    group.attrs["multiscales"] = [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "gone"}]}]
    zarr_image(tmp_path / "damaged.zarr", np.zeros((40, 40), np.uint8), "yx")
    group = zarr.open_group(str(tmp_path / "damaged.zarr"), mode="r+")
    group.attrs["multiscales"] = [{"datasets": []}]
    words = {
        "empty": "is no Zarr folder",
        "plain": "is a Zarr folder without `multiscales`",
        "volume": r"has the axes zyx with the lengths \(5, 40, 40\)",
        "odd": "cannot be read, it is damaged or cut short .*gone",
        "damaged": "cannot be read, it is damaged or cut short",
    }
    for name, sentence in words.items():
        with pytest.raises(ImageError, match=rf"{name}\.zarr: {sentence}"):
            open_windows(tmp_path / f"{name}.zarr", spec())


# -----------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("kind", ["tiles", "tiles, zlib", "one strip", "NPY", "PNG"])
def test_a_file_cut_short_is_one_sentence(kind, tmp_path):
    suffix, write = KINDS[kind]
    path = tmp_path / f"x{suffix}"
    write(path)
    if suffix == ".tif":  # with the header first, as they lie in files that a download left unfinished
        with tifffile.TiffFile(path) as tif:
            cut = (
                tif.pages[0].dataoffsets[-1] + 10
                if len(tif.pages[0].dataoffsets) > 1
                else path.stat().st_size - 99
            )
    else:
        cut = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:cut])
    with (
        pytest.raises(ImageError, match=rf"x\{suffix}: .*(cut short|damaged)") as error,
        open_windows(path, spec()) as image,
    ):
        image.read(0, 0, *SIZE)
    assert "\n" not in str(error.value)


def test_parts_larger_than_the_memory_are_refused_unless_they_lie_plain(tmp_path):
    few = 60_000
    tiff(compression="zlib", rowsperstrip=SIZE[0])(tmp_path / "packed.tif")
    with pytest.raises(
        ImageError, match=r"packed\.tif: its largest compressed tile or strip takes .*tiled TIFF"
    ):
        open_windows(tmp_path / "packed.tif", spec(), memory_bytes=few)
    tiff(rowsperstrip=SIZE[0])(tmp_path / "plain.tif")
    with open_windows(tmp_path / "plain.tif", spec(), memory_bytes=few) as image:
        assert np.array_equal(image.read(9, 9, 99, 99), noise()[9:108, 9:108])
        assert image.reserved_bytes <= few
    saved(noise())(tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"x\.png: the \.png file can only be read whole .*tiled TIFF"):
        open_windows(tmp_path / "x.png", spec(), memory_bytes=few)


def test_what_is_wrong_anywhere_is_wrong_here(tmp_path):
    array = noise(1, "float32")
    array[50, 50], array[100, 100] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "inf.tif", array, tile=(64, 64))
    with open_windows(tmp_path / "inf.tif", spec()) as image:
        assert np.isnan(image.read(0, 0, 100, 203)).sum() == 1  # a pixel that counts for nothing
        with pytest.raises(ImageError, match=r"inf\.tif: 1 of its 10302 values are infinite"):
            image.read(99, 0, 51, 202)
    tifffile.imwrite(tmp_path / "int32.tif", np.zeros((20, 20), np.int32))
    with pytest.raises(ImageError, match=r"int32\.tif: holds int32 values"):
        open_windows(tmp_path / "int32.tif", spec())
    with pytest.raises(ImageError, match=r"gone\.tif: there is no such file"):
        open_windows(tmp_path / "gone.tif", spec())
    (tmp_path / "text.tif").write_text("text")
    with pytest.raises(ImageError, match=r"text\.tif: is not an image in a known format"):
        open_windows(tmp_path / "text.tif", spec())


def test_two_widths_are_one_sentence(tmp_path):
    """For the header alone, for windows, and among other files in a folder."""
    path = tmp_path / "x.tif"
    tiff(tile=(64, 64))(path)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags[256].overwrite((203, 203), dtype=3)
    for read in (image_shape, read_image, lambda path: open_windows(path, spec())):
        with pytest.raises(ImageError, match=r"x\.tif: .* damaged or cut short"):
            read(path)


def test_a_list_of_pages_that_turns_back_on_itself_is_one_sentence(tmp_path):
    path = tmp_path / "x.tif"
    tiff(tile=(64, 64))(path)
    with tifffile.TiffFile(path) as tif:
        first = tif.pages[0].offset
        assert len(tif.pages) == 1
        end = tif.pages.next_page_offset
    data = bytearray(path.read_bytes())
    data[end : end + 4] = first.to_bytes(4, "little")
    path.write_bytes(data)
    for read in (read_image, lambda path: open_windows(path, spec())):
        with pytest.raises(ImageError, match=r"x\.tif: .* damaged or cut short"):
            read(path)
