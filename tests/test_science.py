"""Scientific data from raw files to a translated one: microscopy, volumes, and what may be wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import pairloom
from conftest import cli, tiny_config
from pairloom import images
from pairloom.cli import main
from pairloom.config import DataConfig
from pairloom.data import DataError, find_pairs, fingerprint, load_pair, measure_specs
from pairloom.data.check import check
from pairloom.files import find_images, translate_files
from pairloom.images import ImageSpec
from pairloom.translator import Translator
from test_stacks import noise, write_dicom, write_ome, write_series, write_zarr

nibabel = pytest.importorskip("nibabel", reason="the extra `science` is not installed")

PAGE = Path(__file__).parent.parent / "docs" / "science.md"
# fmt: off
SMALL = (
    "--data.crop-size", "32", "--data.resize", "none", "--data.workers", "0",
    "--generator.base-channels", "8", "--discriminator.base-channels", "8", "--discriminator.num-layers", "1",
    "--training.steps", "2", "--training.device", "cpu", "--training.precision", "fp32",
    "--logging.sample-pairs", "1",
)
# fmt: on


def volume(seed: int, shape: tuple[int, int, int] = (20, 24, 5)) -> np.ndarray:
    """(x, y, z) int16, smooth enough to be an organ, with values as of a CT."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    rng = np.random.default_rng(seed)
    body = (x**2 + y**2 + 0.3 * z**2 < 0.8) * 900.0 + 200 * np.sin(3 * x + seed) * y
    return np.round(body - 1000 + rng.normal(0, 5, shape)).astype(np.int16)


def write_nifti(path: Path, values: np.ndarray, step: float = 3.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([-1.5, 1.0, step, 1.0]))
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def write_volumes(root: Path, names: tuple[str, ...] = ("p1", "p2", "p10")) -> Path:
    """Pairs of volumes; the target is float32 and has other values."""
    for seed, name in enumerate(names):
        write_nifti(root / "A" / f"{name}.nii.gz", volume(seed))
        write_nifti(root / "B" / f"{name}.nii", volume(seed).astype(np.float32) / 100)
    return root


def refused(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that ends with status 2: one sentence, and no trace."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    return said


def data(root: Path | str, **fields: Any) -> DataConfig:
    return DataConfig(path=str(root), **{"crop_size": 16, "resize": "none", **fields})


# -----------------------------------------------------------------------------------------------------------
# From raw files to a translated one


def test_microscopy_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five channels of uint16 to two of float32: the program and the commands of docs/science.md."""
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1], {})
    found = check(data("CELLS", crop_size=32))
    facts = " ".join(found.facts)
    assert found.ok and "OME-TIFF, x 96 x y 96, 5 channels (BF1, BF2, ER, AGP, Mito) of uint16" in facts
    assert "2 channels (nucleus, membrane) of float32, pixels of 0.325 x 0.325 µm" in facts

    cli("train", "CELLS", "--out", "run", *SMALL)
    model = Translator.load("run", device="cpu")
    assert model.source_spec.names == ("BF1", "BF2", "ER", "AGP", "Mito")
    assert (model.target_spec.names, model.target_spec.dtype) == (("nucleus", "membrane"), "float32")
    cli("evaluate", "run", "CELLS", "--out", "evaluation", "--device", "cpu", "--no-sections")
    assert images.read_image("evaluation/images/0.tif").shape == (96, 96, 2)
    assert "membrane" in (tmp_path / "evaluation/per_image.csv").read_text().splitlines()[0]

    cli("translate", "run", "CELLS/A/test", "--out", "OUT", "--device", "cpu")
    with tifffile.TiffFile("OUT/0.ome.tif") as tif:
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
        values = tif.series[0].asarray()
    assert (values.shape, values.dtype) == ((2, 96, 96), np.float32)
    assert [channel["Name"] for channel in pixels["Channel"]] == ["nucleus", "membrane"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.325, "µm")
    own = model("CELLS/A/test/0.ome.tif")
    np.testing.assert_array_equal(values, own.transpose(2, 0, 1))


def test_chosen_channels_need_no_flag_at_translation(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(2):
        for side in "AB":
            (root / side).mkdir(parents=True, exist_ok=True)
            write_ome(root / side / f"{number}.ome.tif", noise((3, 40, 40), seed=number), "CYX")
    cli(
        "train",
        root,
        "--out",
        tmp_path / "run",
        "--data.source-select",
        "RFP",
        "0",
        "--data.target-select",
        "GFP",
        *SMALL,
    )
    model = Translator.load(tmp_path / "run", device="cpu")
    assert (model.source_spec.channels, model.source_spec.names) == (2, ("RFP", "DAPI"))
    raw = root / "A" / "1.ome.tif"
    both = noise((3, 40, 40), seed=1)[[2, 0]].transpose(1, 2, 0)
    np.testing.assert_array_equal(model(raw), model(np.ascontiguousarray(both)))
    cli("translate", tmp_path / "run", raw, "--out", tmp_path / "out", "--device", "cpu")
    with tifffile.TiffFile(tmp_path / "out" / "1.ome.tif") as tif:
        assert tif.series[0].asarray().dtype == np.uint16 and 'Name="GFP"' in tif.ome_metadata


def test_volumes_from_slices_to_a_volume(tmp_path: Path) -> None:
    root = write_volumes(tmp_path / "MRI")
    cli(
        "train",
        root,
        "--out",
        tmp_path / "run",
        "--data.slice-neighbours",
        "1",
        "--data.val-fraction",
        "0.3",
        *SMALL,
    )
    model = Translator.load(tmp_path / "run", device="cpu")
    assert (model.source_spec.channels, model.source_spec.neighbours, model.target_spec.channels) == (3, 1, 1)
    source = write_nifti(tmp_path / "new.nii.gz", volume(7, (21, 23, 4)))
    cli(
        "translate",
        tmp_path / "run",
        source,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        "--batch-size",
        "3",
    )
    before, after = nibabel.load(source), nibabel.load(tmp_path / "out" / "new.nii.gz")
    assert (after.shape, after.get_data_dtype()) == (before.shape, np.float32)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header.get_zooms() == (1.5, 1.0, 3.0)
    # each slice is what the model makes of it and its neighbours, by nibabel's own reading
    stored = np.asarray(before.dataobj).astype(np.float32)
    for z in range(4):
        planes = [stored[:, ::-1, min(max(z + d, 0), 3)].T for d in (-1, 0, 1)]
        expected = model(np.ascontiguousarray(np.stack(planes, axis=2)))[..., 0]
        np.testing.assert_allclose(after.get_fdata()[:, ::-1, z].T, expected, rtol=1e-5, atol=1e-5)
    cli(
        "evaluate",
        tmp_path / "run",
        root,
        "--split",
        "val",
        "--out",
        tmp_path / "ev",
        "--device",
        "cpu",
        "--no-sections",
    )
    written = sorted(
        p.relative_to(tmp_path / "ev/images").as_posix() for p in (tmp_path / "ev/images").rglob("*.tif")
    )
    assert len(written) == 5 and written[0].endswith("/z0000.tif")


def test_samples_mean_and_spread_of_a_volume(tmp_path: Path, volume_model: Translator) -> None:
    source = write_nifti(tmp_path / "v.nii", volume(3))
    names = [path.name for path in translate_files(volume_model, [source], tmp_path / "out", samples=2)]
    assert names == ["v-1.nii", "v-2.nii", "v-mean.nii", "v-spread.nii"]
    first, second, mean, spread = (nibabel.load(tmp_path / "out" / name).get_fdata() for name in names)
    np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-4)
    np.testing.assert_allclose(spread, np.abs(first - second) / 2, atol=1e-4)


@pytest.fixture(scope="module")
def volume_model(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A model of single slices, float32 to float32."""
    root = write_volumes(tmp_path_factory.mktemp("volumes") / "data")
    config = tiny_config(root, data__resize="none", training__steps=1)
    run = pairloom.train(config, root.parent / "run")
    return Translator.load(run, device="cpu")


def test_other_containers_through_one_model(tmp_path: Path, volume_model: Translator) -> None:
    """What was learned of NIfTI serves every container of like values; each comes back as what it was."""
    sources = tmp_path / "in"
    write_series(sources / "series", noise((4, 20, 24)))
    write_dicom(sources / "one.dcm", noise((20, 24)), RescaleSlope=1, RescaleIntercept=-1024)
    write_ome(sources / "t.ome.tif", noise((2, 4, 1, 20, 24), "float32"))
    write_zarr(sources / "z.ome.zarr", noise((2, 1, 4, 20, 24), "float32"))
    np.savez(sources / "n.npz", image=noise((20, 24), "float32"))
    Image.fromarray(noise((20, 24), "uint8")).save(sources / "wrong.png")
    listed = [name.as_posix() for _, name in find_images([sources])]
    assert listed == ["n.npz", "one.dcm", "series", "t.ome.tif", "wrong.png", "z.ome.zarr"]
    with pytest.raises(images.ImageError, match=r"wrong\.png.*\n1 of 6 images"):
        list(translate_files(volume_model, [sources], tmp_path / "out"))
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert made == ["n.npz", "one.nii.gz", "series.nii.gz", "t.ome.tif", "z.ome.zarr"]
    assert nibabel.load(tmp_path / "out/series.nii.gz").header.get_zooms() == pytest.approx((0.6, 0.8, 2.5))


def test_resolution_of_a_plain_tiff_is_carried(tmp_path: Path, tiny_run: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise((20, 24, 3), "uint8"),
        photometric="rgb",
        resolution=(7000, 3500),
        resolutionunit="CENTIMETER",
    )
    cli("translate", tiny_run, tmp_path / "a.tif", "--out", tmp_path / "out", "--device", "cpu")
    with tifffile.TiffFile(tmp_path / "out/a.tif") as tif:
        assert tif.pages[0].resolution == (7000.0, 3500.0)
        assert tif.pages[0].resolutionunit == tifffile.RESUNIT.CENTIMETER


@pytest.mark.parametrize("scaling", ["percentile", "zscore"])
def test_scalings_are_inverted(tmp_path: Path, scaling: str) -> None:
    """What to_tensor does not clip comes back as it was, in its own units."""
    root = write_volumes(tmp_path)
    settings = data(root, source_scaling=scaling, target_scaling=scaling)
    pairs = find_pairs(settings)
    for spec, side in zip(measure_specs(pairs, settings), ("source", "target"), strict=True):
        assert spec.scaling == scaling and spec.dtype == "float32"
        array = getattr(pairs.pairs[3], side).read(spec)
        tensor = images.to_tensor(array, spec)
        inside = (array > spec.low[0]) & (array < spec.high[0])
        assert inside.mean() > 0.5
        np.testing.assert_allclose(images.to_array(tensor, spec)[inside], array[inside], rtol=1e-4, atol=1e-3)
        assert float(tensor.min()) >= -1 and float(tensor.max()) <= 1


# -----------------------------------------------------------------------------------------------------------
# Pairs


def test_slices_are_pairs_in_natural_order_and_volumes_are_never_divided(tmp_path: Path) -> None:
    root = write_volumes(tmp_path, tuple(f"p{n}" for n in range(1, 13)))
    pairs = find_pairs(data(root, val_fraction=0.2, test_fraction=0.2))
    names = [pair.name for pair in pairs.split("train")]
    first = names[0].partition("/")[0]
    assert names[:5] == [f"{first}/z{z:04d}" for z in range(5)]
    assert [int(name[1:].partition("/")[0]) for name in names] == sorted(
        int(n[1:].partition("/")[0]) for n in names
    )
    splits: dict[str, set[str]] = {}
    for pair in pairs.pairs:
        splits.setdefault(pair.name.partition("/")[0], set()).add(pair.split)
    assert len(pairs.pairs) == 60 and {len(where) for where in splits.values()} == {1}
    assert {len(pairs.split(split)) for split in ("val", "test")} == {10}
    x, y = load_pair(pairs.pairs[0], *measure_specs(pairs, data(root)), data(root))
    assert x.shape == y.shape == (1, 24, 20)


def test_other_axes_and_directions(tmp_path: Path) -> None:
    root = write_volumes(tmp_path, ("p1",))
    pairs = find_pairs(data(root, slice_axis="y", slice_neighbours=2, direction="BtoA"))
    assert len(pairs.pairs) == 24 and pairs.pairs[23].name == "p1/y0023"
    source, target = pairs.pairs[9].read()
    assert (source.shape, target.shape) == ((5, 20, 5), (5, 20, 1)), "neighbours are the source's"
    np.testing.assert_allclose(source[..., 2:3] * 100, target, rtol=1e-5)
    assert len(find_pairs(data(root, slice_axis="2")).pairs) == 5


def test_both_sides_may_be_channels_of_one_file(tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.tif", noise((4, 3, 20, 24)), "ZCYX")
    (tmp_path / "pairs.csv").write_text("a,b\na.ome.tif,a.ome.tif\n")
    settings = data(tmp_path / "pairs.csv", source_select=("DAPI", "GFP"), target_select=("RFP",))
    pairs = find_pairs(settings)
    source, target = pairs.pairs[2].read()
    whole = noise((4, 3, 20, 24))[2].transpose(1, 2, 0)
    np.testing.assert_array_equal(source, whole[..., :2])
    np.testing.assert_array_equal(target, whole[..., 2:])
    assert [spec.names for spec in measure_specs(pairs, settings)] == [("DAPI", "GFP"), ("RFP",)]
    assert fingerprint(pairs) != fingerprint(find_pairs(replace(settings, target_select=("GFP",))))


def test_series_and_zarr_folders_are_files(tmp_path: Path) -> None:
    for side in "AB":
        write_series(tmp_path / side / "p1", noise((4, 20, 24)))
        write_zarr(tmp_path / side / "deep" / "w.ome.zarr", noise((1, 3, 4, 20, 24)))
        for number in range(3):  # radiographs: each a series of its own
            write_dicom(
                tmp_path / side / f"rays/{number}.dcm", noise((20, 24)), SeriesInstanceUID=f"1.{number}"
            )
    names = [pair.name for pair in find_pairs(data(tmp_path)).pairs]
    assert names == [
        *(f"deep/w/z{z:04d}" for z in range(4)),
        *(f"p1/z{z:04d}" for z in range(4)),
        *(f"rays/{number}" for number in range(3)),
    ]


def test_label_volumes_of_any_whole_type(tmp_path: Path) -> None:
    root = write_volumes(tmp_path, ("p1", "p2"))
    for name in ("p1", "p2"):
        write_nifti(root / "B" / f"{name}.nii", (volume(0) > 0).astype(np.int16) * 4)
    settings = data(root, target_kind="labels")
    _, spec = measure_specs(find_pairs(settings), settings)
    assert (spec.dtype, spec.palette) == ("uint16", ((0,), (4,)))


def test_check_says_what_it_is(tmp_path: Path) -> None:
    root = write_volumes(tmp_path)
    write_nifti(root / "B" / "p2.nii", volume(1).astype(np.float32), step=2.0)
    found = check(data(root, slice_neighbours=1))
    facts, warnings = " ".join(found.facts), " ".join(found.warnings)
    assert "3 volumes cut along z into 15 slices, each with 1 neighbour on each side" in facts
    assert "NIfTI volume, x 20 x y 24 x z 5, 1 channel of int16, voxels of 1.5 x 1 x 3 mm" in facts
    assert "differ in size in 1 files: p2 (1.5 x 1 x 3 mm and 1.5 x 1 x 2 mm)" in warnings


def test_an_old_spec_is_still_read() -> None:
    old = {"version": 1, "channels": 1, "dtype": "uint8", "low": [0.0], "high": [255.0]}
    spec = ImageSpec.from_dict(old)
    assert (spec.chosen, spec.slice_axis, spec.neighbours) == ((), "auto", 0)
    new = replace(spec, chosen=("DAPI",), slice_axis="y", neighbours=2)
    assert ImageSpec.from_dict(new.to_dict()) == new


# -----------------------------------------------------------------------------------------------------------
# What is wrong, in one sentence


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data.slice-axis", "t"), "no axis t"),
        (("--data.source-select", "T1"), "no channel 'T1'"),
        (("--data.source-select", "4"), "1 without names"),
    ],
)
def test_settings_that_do_not_suit_volumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    root = write_volumes(tmp_path / "data", ("p1",))
    said = refused("train", root, "--out", tmp_path / "run", *flags, *SMALL, capsys=capsys)
    fault = said.strip().splitlines()[-1]  # what comes before says what is being done
    assert words in fault and "p1" in fault and said.count("pairloom:") == 1


def test_settings_that_do_not_suit_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_data: Path
) -> None:
    said = refused(
        "train", tiny_data, "--out", tmp_path / "run", "--data.slice-axis", "z", *SMALL, capsys=capsys
    )
    assert "is flat, with no axis z" in said
    said = refused(
        "train", tiny_data, "--out", tmp_path / "run", "--data.slice-neighbours", "1", *SMALL, capsys=capsys
    )
    assert "there are no volumes" in said


def test_volumes_of_a_pair_that_differ(tmp_path: Path) -> None:
    root = write_volumes(tmp_path / "data", ("p1",))
    write_nifti(root / "B" / "p1.nii", volume(0, (20, 24, 6)))
    with pytest.raises(DataError, match=r"5 slices of 20x24 along z and .*p1\.nii 6 slices .*resample"):
        find_pairs(data(root))
    (root / "B" / "p1.nii").unlink()
    Image.fromarray(noise((24, 20), "uint8")).save(root / "B" / "p1.png")
    with pytest.raises(DataError, match=r"p1\.png one image"):
        find_pairs(data(root))


def test_a_truncated_volume_is_named_by_check_and_by_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_volumes(tmp_path / "data", ("p1", "p2"))
    whole = (root / "A/p2.nii.gz").read_bytes()
    (root / "A/p2.nii.gz").write_bytes(whole[: len(whole) // 2])
    (problem,) = check(data(root)).problems
    assert "5 of 10 pairs cannot be read" in problem and "p2.nii.gz" in problem
    said = refused("train", root, "--out", tmp_path / "run", *SMALL, capsys=capsys)
    assert "damaged or cut short" in said


def test_series_that_are_mixed_or_lie_bare(tmp_path: Path) -> None:
    for side in "AB":
        write_series(tmp_path / side / "p1", noise((4, 20, 24)))
    write_dicom(tmp_path / "A/p1/other.dcm", noise((20, 24)), SeriesInstanceUID="1.8")
    with pytest.raises(DataError, match=r"p1: mixes 2 DICOM series in its 5 files"):
        find_pairs(data(tmp_path))
    (tmp_path / "bare").mkdir()
    for side in "AB":
        write_series(tmp_path / "bare" / side, noise((4, 20, 24)))
    with pytest.raises(DataError, match="a folder of its own inside"):
        find_pairs(data(tmp_path / "bare"))


def test_label_maps_that_were_jpeg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thousands of colours where there were four: the sentence says why, and what snaps them back."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255], [200, 200, 10]], np.uint8)
    for number in range(2):
        labels = colours[rng.integers(0, 4, (4, 4)).repeat(20, 0).repeat(20, 1)]
        for side, suffix in (("A", "jpg"), ("B", "png")):
            (root / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(root / side / f"{number}.{suffix}", quality=85)
    said = refused(
        "train", root, "--out", tmp_path / "run", "--data.source-kind", "labels", *SMALL, capsys=capsys
    )
    assert "are JPEG" in said and "--data.source-palette FILE" in said and "0.jpg" in said
    (tmp_path / "classes.txt").write_text("\n".join(",".join(map(str, colour)) for colour in colours))
    settings = data(root, source_palette=str(tmp_path / "classes.txt"))
    spec, _ = measure_specs(find_pairs(settings), settings)
    assert len(spec.palette) == 4
    for file in (
        root / "A"
    ).iterdir():  # blocks that are those of JPEG: few colours, and still not the classes
        flat = colours[rng.integers(0, 4, (5, 5)).repeat(16, 0).repeat(16, 1)]
        Image.fromarray(flat).save(file, quality=85)
    assert "were probably made by compression" in " ".join(check(data(root, source_kind="labels")).warnings)
    (tmp_path / "many.txt").write_text("\n".join(f"{n % 256},{n // 256},9" for n in range(3000)))
    with pytest.raises(
        images.ImageError, match=r"holds 3000 classes; .*JPEG made of the classes.*snaps to the nearest"
    ):
        images.read_palette(tmp_path / "many.txt")
