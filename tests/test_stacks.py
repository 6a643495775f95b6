"""Scientific containers, against their own libraries: read, written, and damaged."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from pairloom.images import ImageError, Part, channel_names, image_shape, read_image
from pairloom.stacks import memory
from pairloom.stacks.opening import open_stack
from pairloom.stacks.writing import volume_suffix, write_volume

nibabel = pytest.importorskip("nibabel", reason="the extra `science` is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra `science` is not installed")
zarr = pytest.importorskip("zarr", reason="the extra `science` is not installed")
pytest.importorskip("imagecodecs", reason="the extra `science` is not installed")

NAMES = ["DAPI", "GFP", "RFP"]


def noise(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def write_ome(path: Path, array: np.ndarray, axes: str = "TZCYX", **options: Any) -> Path:
    metadata = {"axes": axes, "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "µm"}
    metadata |= {"Channel": {"Name": NAMES}}
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata, **options)
    return path


def write_zarr(folder: Path, array: np.ndarray, axes: str = "tczyx", version: str = "0.4") -> Path:
    group = zarr.open_group(store=str(folder), mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("big", shape=array.shape, dtype=array.dtype, chunks=array.shape)[...] = array
    kinds = {"t": "time", "c": "channel"}
    image = {
        "axes": [
            {"name": a, "type": kinds.get(a, "space"), **({"unit": "micrometer"} if a in "zyx" else {})}
            for a in axes
        ],
        "datasets": [
            {
                "path": "big",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [{"z": 2.0, "y": 0.5, "x": 0.25}.get(a, 1) for a in axes]}
                ],
            }
        ],
    }
    omero = {"channels": [{"label": name, "color": "FFFFFF"} for name in NAMES]}
    if version == "0.4":
        group.attrs.update({"multiscales": [{"version": "0.4", **image}], "omero": omero})
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image], "omero": omero}
    return folder


def write_dicom(path: Path, pixels: np.ndarray, **fields: Any) -> Path:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = Dataset()
    data.file_meta, data.SOPClassUID, data.SOPInstanceUID = meta, CTImageStorage, "1.2.3"
    data.Rows, data.Columns = pixels.shape[-2:] if fields.get("SamplesPerPixel", 1) == 1 else pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for name, value in fields.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, volume: np.ndarray, *, step: float = 2.5, **fields: Any) -> Path:
    """Axial slices (z, y, x), whose names say nothing of their order."""
    for number, plane in enumerate(volume):
        write_dicom(
            folder / f"IM{(7 * number) % 11:03d}.dcm",
            plane,
            **{
                "SeriesInstanceUID": "1.9",
                "ImagePositionPatient": [-10.0, -20.0, 100.0 + step * number],
                "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0],
                "PixelSpacing": [0.8, 0.6],
                "RescaleSlope": 1,
                "RescaleIntercept": -1024,
                **fields,
            },
        )
    return folder


def complaint(path: Path, part: Part | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path, part=part or Part())
    sentence = str(caught.value)
    assert str(path) in sentence and sentence.count("\n") == 0
    return sentence


# -----------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
def test_ome_tiff_planes_channels_and_sizes(tmp_path: Path, compression: str | None) -> None:
    array = noise((2, 4, 3, 20, 24))
    path = write_ome(tmp_path / "a.ome.tif", array, compression=compression)
    stack = open_stack(path)
    assert (stack.names, stack.size, stack.unit) == (
        ("DAPI", "GFP", "RFP"),
        {"x": 0.25, "y": 0.5, "z": 2.0},
        "µm",
    )
    assert stack.count("auto") == 8 and stack.slice_name("auto", 6) == "t0001z0002"
    np.testing.assert_array_equal(read_image(path, part=Part(index=6)), array[1, 2].transpose(1, 2, 0))
    chosen = read_image(path, part=Part(index=1, select=("RFP", "0")))
    np.testing.assert_array_equal(chosen, array[0, 1][[2, 0]].transpose(1, 2, 0))
    assert channel_names(path, Part(select=("RFP", "0"))) == ("RFP", "DAPI")
    # (z, x) planes at each (t, y)
    np.testing.assert_array_equal(
        read_image(path, part=Part(axis="y", index=25)), array[1, :, :, 5].transpose(0, 2, 1)
    )
    assert image_shape(path, Part(axis="x")) == (4, 20)


@pytest.mark.parametrize("axes", ["CTZYX", "ZTCYX", "TCZYX"])
def test_any_order_of_axes(tmp_path: Path, axes: str) -> None:
    array = noise((2, 4, 3, 20, 24))
    stored = array.transpose(["TZCYX".index(letter) for letter in axes])
    path = write_ome(tmp_path / "a.ome.tif", np.ascontiguousarray(stored), axes)
    np.testing.assert_array_equal(read_image(path, part=Part(index=6)), array[1, 2].transpose(1, 2, 0))


def test_a_flat_ome_tiff_is_one_image(tmp_path: Path) -> None:
    array = noise((3, 20, 24), "float32")
    path = write_ome(tmp_path / "a.ome.tiff", array, "CYX")
    np.testing.assert_array_equal(read_image(path), array.transpose(1, 2, 0))
    assert open_stack(path).slice_name("auto", 0) == ""
    whole = write_ome(tmp_path / "b.ome.tif", noise((3, 20, 24), "int16") - 100, "CYX")
    assert read_image(whole).dtype == np.float32 and read_image(whole).min() < 0


def test_plain_tiff_pages_are_channels_until_an_axis_is_given(tmp_path: Path) -> None:
    array = noise((5, 20, 24))
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in array:
            tif.write(page, metadata=None, contiguous=False, photometric="minisblack")
    np.testing.assert_array_equal(read_image(path), array.transpose(1, 2, 0))
    np.testing.assert_array_equal(
        read_image(path, part=Part(select=("4", "1"))), array[[4, 1]].transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(read_image(path, part=Part(axis="z", index=3)), array[3][..., None])
    hyperstack = noise((4, 3, 20, 24))
    tifffile.imwrite(
        tmp_path / "b.tif",
        hyperstack,
        imagej=True,
        resolution=(4, 2),
        metadata={"axes": "ZCYX", "spacing": 2.0, "unit": "um"},
    )
    np.testing.assert_array_equal(
        read_image(tmp_path / "b.tif", part=Part(axis="0", index=2)), hyperstack[2].transpose(1, 2, 0)
    )
    assert open_stack(tmp_path / "b.tif", Part(axis="z")).size == {"x": 0.25, "y": 0.5, "z": 2.0}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path: Path, version: str) -> None:
    array = noise((2, 3, 4, 20, 24))
    path = write_zarr(tmp_path / "a.ome.zarr", array, version=version)
    stack = open_stack(path)
    assert (stack.names, stack.size, stack.unit) == (
        ("DAPI", "GFP", "RFP"),
        {"x": 0.25, "y": 0.5, "z": 2.0},
        "µm",
    )
    np.testing.assert_array_equal(read_image(path, part=Part(index=6)), array[1, :, 2].transpose(1, 2, 0))
    np.testing.assert_array_equal(
        read_image(path, part=Part(index=6, select=("GFP",)))[..., 0], array[1, 1, 2]
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_nifti_slices_are_the_same_whatever_the_order_in_the_file(
    tmp_path: Path, suffix: str, axes: str
) -> None:
    """An axial slice has the front up and the patient's left to the right, as radiologists have it."""
    ras = noise((6, 7, 8), "int16") - 50
    image = nibabel.Nifti1Image(ras, np.diag([1.0, 2.0, 3.0, 1.0]))
    ornt = nibabel.orientations.axcodes2ornt(axes)
    image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), ornt)
    ).to_filename(tmp_path / f"v{suffix}")
    path = tmp_path / f"v{suffix}"
    stack = open_stack(path)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == tuple(axes)
    assert (stack.count("auto"), stack.size) == (8, pytest.approx({"x": 1.0, "y": 2.0, "z": 3.0}))
    lps = ras[::-1, ::-1]
    axial, coronal, sagittal = (read_image(path, part=Part(axis=axis, index=5)) for axis in "zyx")
    np.testing.assert_array_equal(axial[..., 0], lps[:, :, 5].T)
    np.testing.assert_array_equal(coronal[..., 0], lps[:, 5, ::-1].T)
    np.testing.assert_array_equal(sagittal[..., 0], lps[5, :, ::-1].T)
    assert axial.dtype == np.float32
    # a number is an axis of the file itself
    letter = {"R": "x", "L": "x", "A": "y", "P": "y", "S": "z", "I": "z"}[axes[0]]
    assert stack.cut("0") == letter


def test_nifti_scaled_values_channels_and_colours(tmp_path: Path) -> None:
    stored = noise((6, 7, 8), "int16")
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    for name in ("s.nii", "s.nii.gz"):
        image.to_filename(tmp_path / name)
        read = read_image(tmp_path / name, part=Part(index=2))
        expected = np.asarray(nibabel.load(tmp_path / name).dataobj)[::-1, ::-1, 2].T
        np.testing.assert_array_equal(read[..., 0], expected.astype(np.float32))
        assert read.dtype == np.float32
    nibabel.Nifti1Image(noise((6, 7, 8, 4), "uint8"), np.eye(4)).to_filename(tmp_path / "c.nii")
    assert read_image(tmp_path / "c.nii", part=Part(index=2, select=("3",))).shape == (7, 6, 1)
    assert open_stack(tmp_path / "c.nii", Part(axis="t")).count("t") == 32
    colours = np.zeros((6, 7, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = noise((6, 7, 8), "uint8")
    nibabel.Nifti1Image(colours, np.eye(4)).to_filename(tmp_path / "rgb.nii.gz")
    rgb = read_image(tmp_path / "rgb.nii.gz", part=Part(index=2))
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[..., 1], colours["G"][::-1, ::-1, 2].T)
    assert not rgb[..., 0].any()


def test_neighbours_are_channels_and_the_last_slice_is_repeated(tmp_path: Path) -> None:
    array = noise((5, 3, 20, 24))
    path = write_ome(tmp_path / "a.ome.tif", array, "ZCYX")
    middle, end = (read_image(path, part=Part(index=i, neighbours=1, select=("GFP", "RFP"))) for i in (2, 4))
    np.testing.assert_array_equal(middle, array[1:4, 1:].reshape(6, 20, 24).transpose(1, 2, 0))
    np.testing.assert_array_equal(end, array[[3, 4, 4], 1:].reshape(6, 20, 24).transpose(1, 2, 0))
    names = channel_names(path, Part(neighbours=1, select=("GFP",)))
    assert names == ("GFP-1", "GFP", "GFP+1")


def test_a_dicom_series_is_sorted_by_position_and_in_hounsfield_units(tmp_path: Path) -> None:
    stored = noise((5, 20, 24))
    folder = write_series(tmp_path / "ct", stored)
    (folder / "notes.txt").write_text("no image")
    stack = open_stack(folder)
    assert (stack.count("auto"), stack.size, stack.unit) == (5, {"x": 0.6, "y": 0.8, "z": 2.5}, "mm")
    for number in range(5):
        plane = read_image(folder, part=Part(index=number))
        np.testing.assert_array_equal(plane[..., 0], stored[number].astype(np.float32) - 1024)
    np.testing.assert_array_equal(
        read_image(folder, part=Part(axis="x", index=3))[..., 0], stored[::-1, :, 3].astype(np.float32) - 1024
    )
    # what is to the left and back in DICOM is to the right and front in NIfTI, with the other sign
    np.testing.assert_allclose(stack.origin @ [2, 3, 4, 1], [10 - 2 * 0.6, 20 - 3 * 0.8, 100 + 4 * 2.5, 1])


def test_single_dicom_files(tmp_path: Path) -> None:
    stored = noise((20, 24), "uint8")
    np.testing.assert_array_equal(read_image(write_dicom(tmp_path / "a.dcm", stored))[..., 0], stored)
    inverted = write_dicom(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_image(inverted)[..., 0], 255 - stored)
    # PET may be MONOCHROME1 too: scaled values are amounts, whatever the screen shows
    pet = write_dicom(
        tmp_path / "c.dcm",
        stored,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope="0.5",
        RescaleIntercept="0",
    )
    np.testing.assert_array_equal(read_image(pet)[..., 0], stored * np.float32(0.5))
    frames = noise((4, 20, 24))
    film = write_dicom(tmp_path / "d.dcm", frames, NumberOfFrames=4)
    assert open_stack(film).count("auto") == 4
    np.testing.assert_array_equal(read_image(film, part=Part(index=2))[..., 0], frames[2])
    rgb = noise((20, 24, 3), "uint8")
    colour = write_dicom(
        tmp_path / "e.dcm", rgb, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
    )
    np.testing.assert_array_equal(read_image(colour), rgb)


def test_npz_arrays_are_channels_by_name(tmp_path: Path) -> None:
    ct, mr, seg = noise((4, 20, 24), "float32"), noise((4, 20, 24), "float32", 1), noise((4, 20, 24), "uint8")
    np.savez(tmp_path / "a.npz", ct=ct, mr=mr, seg=seg, spacing=np.ones(3))
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.npz", part=Part(axis="z", index=3, select=("mr",)))[..., 0], mr[3]
    )
    both = read_image(tmp_path / "a.npz", part=Part(axis="z", index=3, select=("mr", "ct")))
    np.testing.assert_array_equal(both, np.stack([mr[3], ct[3]], axis=2))
    assert "ct (4, 20, 24) float32; mr" in complaint(
        tmp_path / "a.npz"
    ) and "data.source_select" in complaint(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "one.npz", image=noise((20, 24, 3), "uint8"))
    np.testing.assert_array_equal(read_image(tmp_path / "one.npz"), noise((20, 24, 3), "uint8"))


def test_whole_numbers_become_float32_only_where_that_is_exact(tmp_path: Path) -> None:
    values = np.array([[-5, 2**24], [0, 7]], np.int32)
    np.savez(tmp_path / "a.npz", image=values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npz")[..., 0], values)
    np.savez(tmp_path / "b.npz", image=values + 1)
    assert "16777217" in complaint(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", image=np.array([[0, 5]], np.int64))
    assert read_image(tmp_path / "c.npz", part=Part(classes=True)).dtype == np.uint16
    np.savez(tmp_path / "d.npz", image=np.array([[0.5, 5]]))
    assert "no classes" in complaint(tmp_path / "d.npz", Part(classes=True))


def test_compressed_volumes_are_unpacked_once_and_what_is_kept_is_bounded(tmp_path: Path) -> None:
    weights = memory.Kept[np.ndarray](1000, lambda array: array.nbytes)
    made = []

    def make(name: str, size: int) -> np.ndarray:
        made.append(name)
        return np.zeros(size, np.uint8)

    for name, size in (
        ("a", 600),
        ("a", 600),
        ("b", 300),
        ("a", 600),
        ("c", 300),
        ("b", 300),
        ("big", 5000),
        ("big", 5000),
    ):
        weights.get((name,), lambda name=name, size=size: make(name, size))
    assert made == ["a", "b", "c", "b", "big"], "b was used longest ago when c came, and big is kept alone"
    nibabel.Nifti1Image(noise((6, 7, 8), "int16"), np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    before = read_image(tmp_path / "v.nii.gz", part=Part(index=3))
    nibabel.Nifti1Image(noise((6, 7, 8), "int16") + np.int16(1), np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "v.nii.gz", part=Part(index=3)), before + 1)


# -----------------------------------------------------------------------------------------------------------
# Writing


def through(path: Path, out: Path, *, axis: str = "auto", offset: float = 0.5, **options: Any) -> Path:
    """Every plane read, changed, and written as one volume of float32 with two channels."""
    part = Part(axis=axis)
    stack = open_stack(path, part)
    volume = stack.empty(2, np.float32)
    for number in range(stack.count(axis)):
        plane = read_image(path, part=part.of(number))[..., :1].astype(np.float32)
        stack.place(volume, axis, number, np.concatenate([plane, plane + np.float32(offset)], axis=2))
    result = out / f"result{volume_suffix(path)}"
    out.mkdir(exist_ok=True)
    write_volume(result, volume, stack, names=("nuclei", "membrane"), **options)
    assert [p.name for p in out.iterdir()] == [result.name]
    return result


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("axes", ["RAS", "PIR"])
def test_nifti_back_to_nifti(tmp_path: Path, axis: str, axes: str) -> None:
    values = noise((6, 7, 8), "int16") - np.int16(50)
    image = nibabel.Nifti1Image(
        values, np.array([[-1, 0.1, 0, 5], [0.1, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    )
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"], image.header["aux_file"] = 120, b"notes"
    image.set_sform(image.affine, code="scanner")
    image = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
        )
    )
    image.to_filename(tmp_path / "v.nii.gz")
    back = nibabel.load(through(tmp_path / "v.nii.gz", tmp_path / "out", axis=axis))
    assert back.get_data_dtype() == np.float32 and back.shape == (*image.shape, 2)
    np.testing.assert_array_equal(back.get_fdata()[..., 0], image.get_fdata())
    np.testing.assert_array_equal(back.get_fdata()[..., 1], image.get_fdata() + 0.5)
    np.testing.assert_allclose(back.affine, image.affine)
    np.testing.assert_allclose(back.header.get_zooms()[:3], image.header.get_zooms(), rtol=1e-6)
    assert back.header["sform_code"] == image.header["sform_code"] and back.header["aux_file"] == b"notes"
    assert back.header["cal_max"] == 0 and back.header.get_xyzt_units() == ("mm", "sec")


def test_flat_nifti_with_channels_stays_flat(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(noise((6, 7), "uint8"), np.diag([2.0, 3, 1, 1]))
    image.to_filename(tmp_path / "v.nii")
    result = through(tmp_path / "v.nii", tmp_path / "out")
    assert nibabel.load(result).shape == (6, 7, 1, 2)
    assert read_image(result).shape == (7, 6, 2) and open_stack(result).size["y"] == 3


def test_dicom_becomes_nifti_at_the_same_place(tmp_path: Path) -> None:
    stored = noise((5, 20, 24))
    folder = write_series(tmp_path / "ct", stored)
    result = through(folder, tmp_path / "out")
    assert result.name == "result.nii.gz"
    back = nibabel.load(result)
    np.testing.assert_array_equal(back.get_fdata()[..., 0], stored.transpose(2, 1, 0) - 1024.0)
    np.testing.assert_allclose(back.affine @ [2, 3, 4, 1], [10 - 2 * 0.6, 20 - 3 * 0.8, 110, 1], rtol=1e-6)
    assert back.header.get_xyzt_units()[0] == "mm"


def test_ome_tiff_back_to_ome_tiff(tmp_path: Path) -> None:
    array = noise((2, 4, 3, 20, 24))
    result = through(write_ome(tmp_path / "a.ome.tif", array), tmp_path / "out", axis="y")
    with tifffile.TiffFile(result) as tif:
        assert tif.is_ome and tif.series[0].axes == "TZCYX"
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
        back = tif.series[0].asarray()
    np.testing.assert_array_equal(back[:, :, 0], array[:, :, 0])
    np.testing.assert_array_equal(back[:, :, 1], array[:, :, 0] + np.float32(0.5))
    assert [c["Name"] for c in pixels["Channel"]] == ["nuclei", "membrane"]
    sizes = {
        letter: (pixels[f"PhysicalSize{letter}"], pixels[f"PhysicalSize{letter}Unit"]) for letter in "XYZ"
    }
    assert sizes == {"X": (0.25, "µm"), "Y": (0.5, "µm"), "Z": (2.0, "µm")}


def test_imagej_and_plain_stacks_keep_their_resolution(tmp_path: Path) -> None:
    array = noise((4, 20, 24))
    tifffile.imwrite(
        tmp_path / "j.tif",
        array,
        imagej=True,
        resolution=(4, 2),
        metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"},
    )
    with tifffile.TiffFile(through(tmp_path / "j.tif", tmp_path / "j", axis="z")) as tif:
        own = tif.imagej_metadata
        assert (own["slices"], own["channels"], own["unit"], own["spacing"]) == (4, 2, "um", 2.0)
        assert tif.pages[0].resolution == (4.0, 2.0)
        np.testing.assert_array_equal(tif.series[0].asarray()[:, 0], array)
    with tifffile.TiffWriter(tmp_path / "p.tif") as tif:
        for page in array:
            tif.write(
                page, resolution=(300, 150), resolutionunit="CENTIMETER", metadata=None, contiguous=False
            )
    with tifffile.TiffFile(through(tmp_path / "p.tif", tmp_path / "p", axis="z")) as tif:
        assert len(tif.pages) == 8 and tif.pages[0].resolution == (300.0, 150.0)
        assert tif.pages[0].resolutionunit == tifffile.RESUNIT.CENTIMETER
        np.testing.assert_array_equal(tif.pages[2].asarray(), array[1])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "zyx"])
def test_ome_zarr_back_to_ome_zarr(tmp_path: Path, version: str, axes: str) -> None:
    array = noise((2, 3, 4, 20, 24))
    source = write_zarr(tmp_path / "a.zarr", array if axes == "tczyx" else array[0, 0], axes, version)
    result = through(source, tmp_path / "out", limits=((0.0, 200.0), (0.0, 201.0)))
    group = zarr.open_group(store=str(result), mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    own = dict(group.attrs) if version == "0.4" else dict(group.attrs)["ome"]
    image = own["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == list("tczyx" if axes == "tczyx" else "czyx")
    assert image["datasets"][0]["coordinateTransformations"][0]["scale"][-3:] == [2.0, 0.5, 0.25]
    assert [channel["label"] for channel in own["omero"]["channels"]] == ["nuclei", "membrane"]
    back = group["0"][...]
    first = back[:, 0] if axes == "tczyx" else back[0]
    np.testing.assert_array_equal(first, array[:, 0] if axes == "tczyx" else array[0, 0])
    assert open_stack(result).names == ("nuclei", "membrane")
    through(source, tmp_path / "out")  # written again: the former one is replaced, and nothing is left over


def test_npz_and_npy_back(tmp_path: Path) -> None:
    array = noise((4, 20, 24))
    np.savez(tmp_path / "a.npz", ct=array)
    with np.load(through(tmp_path / "a.npz", tmp_path / "z", axis="z")) as archive:
        assert set(archive) == {"nuclei", "membrane"}
        np.testing.assert_array_equal(archive["membrane"], array + np.float32(0.5))
    np.save(tmp_path / "a.npy", array)
    back = np.load(through(tmp_path / "a.npy", tmp_path / "y", axis="0"))
    np.testing.assert_array_equal(back[..., 0], array)


# -----------------------------------------------------------------------------------------------------------
# What is wrong


def test_there_is_no_such_axis(tmp_path: Path) -> None:
    nibabel.Nifti1Image(noise((6, 7, 8), "int16"), np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    assert "no axis t" in complaint(tmp_path / "v.nii.gz", Part(axis="t", index=0))
    assert "x (6), y (7), z (8)" in complaint(tmp_path / "v.nii.gz", Part(axis="t", index=0))
    nibabel.Nifti1Image(noise((6, 7, 1), "int16"), np.eye(4)).to_filename(tmp_path / "flat.nii")
    assert "length 1" in complaint(tmp_path / "flat.nii", Part(axis="z", index=0))
    nibabel.Nifti1Image(noise((6, 7), "int16"), np.eye(4)).to_filename(tmp_path / "two.nii")
    assert "no axis y" in complaint(tmp_path / "two.nii", Part(axis="y", index=0))
    assert "a volume of 8 slices" in complaint(tmp_path / "v.nii.gz")


def test_there_is_no_such_channel(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", noise((3, 20, 24)), "CYX")
    assert "no channel 'Cy5'; its channels are DAPI, GFP, RFP." in complaint(path, Part(select=("Cy5",)))
    assert "no channel '3'" in complaint(path, Part(select=("3",)))
    tifffile.imwrite(tmp_path / "b.tif", noise((20, 24, 3), "uint8"), photometric="rgb")
    assert "3 without names" in complaint(tmp_path / "b.tif", Part(select=("DAPI",)))


def test_damaged_and_incomplete_files(tmp_path: Path) -> None:
    nibabel.Nifti1Image(noise((40, 40, 40), "int16"), np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    whole = (tmp_path / "v.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in complaint(tmp_path / "cut.nii.gz", Part(index=3))
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"<html>not found</html>"))
    complaint(tmp_path / "text.nii.gz")
    (tmp_path / "empty.nii").write_bytes(b"")
    assert "0 bytes" in complaint(tmp_path / "empty.nii")
    zarr.open_group(store=str(tmp_path / "plate.zarr"), mode="w", zarr_format=2)
    assert "without `multiscales`" in complaint(tmp_path / "plate.zarr")
    (tmp_path / "nothing.zarr").mkdir()
    assert "no Zarr folder" in complaint(tmp_path / "nothing.zarr")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 cut")
    complaint(tmp_path / "cut.npz")


def test_dicom_without_pixels_and_folders_that_are_no_series(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "report.dcm", noise((20, 24)))
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)
    assert "without pixels (CT Image Storage)" in complaint(path)
    (tmp_path / "no.dcm").write_bytes(b"x" * 200)
    complaint(tmp_path / "no.dcm")
    mixed = write_series(tmp_path / "mixed", noise((5, 20, 24)))
    write_dicom(mixed / "other.dcm", noise((20, 24)), SeriesInstanceUID="1.8")
    assert "mixes 2 DICOM series in its 6 files" in complaint(mixed)
    gap = write_series(tmp_path / "gap", noise((5, 20, 24)))
    (gap / "IM003.dcm").unlink()  # the third of five
    assert "seems to be missing" in complaint(gap)
    (tmp_path / "folder").mkdir()
    assert "without DICOM files" in complaint(tmp_path / "folder")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel.Nifti1Image(noise((6, 7, 8), "int16"), np.eye(4)).to_filename(tmp_path / "v.nii")
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    assert 'needs the package nibabel; `pip install "pairloom[science]"`' in complaint(tmp_path / "v.nii")
