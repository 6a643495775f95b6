"""Truncated and hostile files: every reader answers, or says one sentence; none hangs or fails otherwise.

The HTTP interface has its own such test in test_serve.py.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

from conftest import draw_pair, tiny_config, write_pairs
from pairloom import configfile, images
from pairloom.checkpoint import load_state, read_description, save_weights
from pairloom.config import DataConfig
from pairloom.containers import kept_of, write_array
from pairloom.data import find_pairs
from pairloom.export import export_model
from pairloom.files import scale_hint, translate_files
from pairloom.foreign import import_weights
from pairloom.large import goes_by_tiles
from pairloom.networks import build_generator
from pairloom.onnx_generator import OnnxGenerator
from pairloom.translator import Translator
from pairloom.windows import open_windows
from test_foreign import save, their_unet, trained
from test_translator import model

Reader = Callable[[Path], object]
SECONDS = 60
"""No file is worth more, also on a busy machine."""


def save_images(folder: Path) -> dict[str, Reader]:
    """One small file of each kind, and what reads it."""
    photo = draw_pair(0)[:24, :24]
    deep = photo[..., 0].astype(np.uint16) * 257
    picture = Image.fromarray(photo)
    picture.save(folder / "rgb.png")
    Image.fromarray(deep).save(folder / "deep.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.save(folder / "photo.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "lossy.webp")
    picture.save(folder / "whole.webp", lossless=True)
    np.save(folder / "a.npy", deep)
    tifffile.imwrite(folder / "plain.tif", photo, photometric="rgb")
    tifffile.imwrite(folder / "packed.tif", photo, photometric="rgb", compression="zlib")
    tifffile.imwrite(folder / "tiles.tif", photo, photometric="rgb", tile=(16, 16), bigtiff=True)
    tifffile.imwrite(folder / "pages.tif", photo.transpose(2, 0, 1), photometric="minisblack")
    return {path.name: images.read_image for path in sorted(folder.iterdir())}


def save_large(folder: Path) -> dict[str, Reader]:
    """What images that go by tiles are read from, with all that is kept of it."""
    photo = draw_pair(0)[:40, :40]
    tags: list[Any] = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5.0, 4.0, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 1026, 34737, 7, 0), True),
        (34737, 2, 8, b"WGS 84|", True),
        (42113, 2, 2, b"7", True),
    ]
    tiff = partial(tifffile.imwrite, photometric="rgb", resolution=(118.5, 72), metadata=None)
    tiff(folder / "geo.tif", photo, extratags=tags)
    tiff(folder / "tiles.tif", photo, tile=(16, 16), compression="zlib", extratags=tags)
    tiff(folder / "turned.tif", photo, rowsperstrip=7, extratags=[(274, 3, 1, 6, True)])
    planes = photo.transpose(2, 0, 1)
    tiff(folder / "planar.tif", planes, planarconfig="separate", byteorder=">", bigtiff=True)
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5}
    tiff(folder / "x.ome.tif", photo, ome=True, metadata={"axes": "YXS", **sizes}, tile=(16, 16))
    tifffile.imwrite(folder / "stack.tif", planes, imagej=True, metadata={"unit": "nm"})
    np.save(folder / "x.npy", photo)
    Image.fromarray(photo).save(folder / "x.png")
    translator = model()

    def read(path: Path) -> None:
        try:
            goes_by_tiles(translator, path, memory_bytes=2**20)
            kept = kept_of(path)
            if kept.geo or kept.resolution or kept.ome:
                write_array(folder / "result.tif", photo[:9, :9], kept, labels=False)
        except ValueError as error:
            raise AssertionError("neither refuses a file, and what is kept can be written") from error
        height, width = images.image_shape(path)
        with open_windows(path, translator.source_spec, memory_bytes=2**22) as image:
            assert (height, width) == (image.height, image.width)
            rows, columns = min(40, height), min(40, width)
            image.read(0, 0, rows, columns)
            image.read(height - rows, width - columns, rows, columns)

    return {path.name: read for path in sorted(folder.iterdir())}


def save_scientific(folder: Path) -> dict[str, Reader]:
    nibabel, pydicom = pytest.importorskip("nibabel"), pytest.importorskip("pydicom")
    volume = draw_pair(1)[:16, :16, :3].astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "v.nii")
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "v.nii.gz")
    np.savez(folder / "v.npz", dapi=volume[..., 0], actin=volume[..., 1])
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "Channel": {"Name": ["a", "b", "c"]}}
    tifffile.imwrite(folder / "v.ome.tif", volume.transpose(2, 0, 1), metadata=metadata)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 16, 16, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    data.PixelData = volume[..., 0].astype(np.uint16).tobytes()
    data.save_as(folder / "slice.dcm", enforce_file_format=True)
    part = images.ImageSpec(channels=1, dtype="float32", low=(0,), high=(1,)).part

    def read(path: Path) -> object:
        return images.read_image(path, part=part.of(0) if ".nii" in path.name else part, nan="keep")

    return {path.name: read for path in sorted(folder.iterdir())}


def save_models(folder: Path, run: Path) -> dict[str, Reader]:
    (folder / "generator.safetensors").write_bytes((run / "generator.safetensors").read_bytes())
    state = sorted((run / "checkpoints").glob("*.pt"))[-1]
    (folder / "step-00000006.pt").write_bytes(state.read_bytes())
    save(trained(their_unet(7)), folder / "latest_net_G.pth")
    return {
        "generator.safetensors": lambda path: Translator.load(path, device="cpu"),
        "step-00000006.pt": load_state,
        "latest_net_G.pth": lambda path: import_weights(path, path.with_name("out")),
    }


def save_texts(folder: Path) -> dict[str, Reader]:
    pairs = write_pairs(folder / "pairs", train=2)
    table = "a,b,split,group\n" + "".join(
        f"pairs/train/train-{i}.png,pairs/train/train-{i}.png,train,g{i}\n" for i in (0, 1)
    )
    (folder / "pairs.csv").write_text(table, encoding="utf-8")
    (folder / "palette.txt").write_text("# classes\n0,0,0,wall\n255,0,0,door\n", encoding="utf-8")
    (folder / "c.toml").write_text(
        '[training]\nsteps = 5\n[data]\npath = "x"\ncrop_size = [64, 64]\n', encoding="utf-8"
    )
    config = configfile.to_dict(configfile.load(folder / "c.toml"))
    (folder / "c.json").write_text(json.dumps(config), encoding="utf-8")
    assert pairs.is_dir()
    return {
        "pairs.csv": lambda path: find_pairs(DataConfig(path=str(path))),
        "palette.txt": images.read_palette,
        "c.toml": configfile.load,
        "c.json": configfile.load,
    }


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Cut off, changed, repeated, or overwritten with numbers that headers fear, mostly near the start."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 5)):
        if not data:
            break
        at = min(len(data) - 1, int(rng.expovariate(1 / (8 + len(whole) / rng.choice([3, 30])))))
        kind = rng.random()
        if kind < 0.2:
            del data[at:]
        elif kind < 0.35:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif kind < 0.5:
            data[at : at + 4] = rng.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
            )
        else:
            data[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(data)


class TooLate(BaseException):
    """No `Exception`, which a reader would take for a fault of the file."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TooLate(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def what_is_said(read: Reader, path: Path, where: str) -> str | None:
    try:
        with at_most(SECONDS):
            read(path)
    except ValueError as error:
        if not type(error).__module__.startswith("pairloom."):
            raise AssertionError(f"{where}: not ours: {type(error).__name__}: {error}") from error
        return str(error)
    except Exception as error:
        raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
    except TooLate as late:
        raise AssertionError(f"{where}: {late}") from late
    return None


def attack(readers: dict[str, Reader], folder: Path, count: int) -> None:
    """Each reader gets `count` damaged files: it answers, or says one sentence that names the file."""
    refused = 0
    for name, read in readers.items():
        whole = (folder / name).read_bytes()
        read(folder / name)
        rng = random.Random(f"pairloom {name}")
        for number in range(count):
            (folder / name).write_bytes(damaged(whole, rng))
            said = what_is_said(read, folder / name, f"{name}, case {number}")
            refused += said is not None
            assert said is None or ("Traceback" not in said and said.count("\n") <= 1), (name, number, said)
        (folder / name).write_bytes(whole)
    assert refused > 0.2 * count * len(readers), "hardly any was damaged"


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # decoders warn of what is damaged; the command line ignores it too
    pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm to end what hangs"),
]
COUNTS = [100, pytest.param(1000, marks=pytest.mark.slow)]
"""Of each of 13 kinds of images, 5 scientific, 3 of models, 4 of texts, a quarter of 8 by tiles: 2,700 and
27,000 in all."""


@pytest.mark.parametrize("count", COUNTS)
def test_images(tmp_path: Path, count: int) -> None:
    attack(save_images(tmp_path), tmp_path, count)


@pytest.mark.parametrize("count", COUNTS)
def test_large_images(tmp_path: Path, count: int) -> None:
    attack(save_large(tmp_path), tmp_path, count // 4)  # each is read, and what is kept of it written


@pytest.mark.parametrize("count", COUNTS)
def test_scientific_files(tmp_path: Path, count: int) -> None:
    attack(save_scientific(tmp_path), tmp_path, count)


@pytest.mark.parametrize("count", COUNTS)
def test_models(tmp_path: Path, tiny_run: Path, count: int) -> None:
    attack(save_models(tmp_path, tiny_run), tmp_path, count)


HOSTILE: list[Any] = [1.5, True, None, -1, 10**12, 10**400, float("nan"), "", "\u00b2", {}, [], [[]], [1.5]]
"""What stands in the place of each value of a model's description, one after the other."""


def changed(value: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Plain JSON with one value replaced, also a whole table or list, and the place of it."""
    if where:
        yield from ((where, hostile) for hostile in HOSTILE)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        for place, new in changed(inner, (*where, key)):
            copied = value.copy()
            copied[key] = new
            yield place, copied


def use(path: Path) -> None:
    """Everything that `translate` does with a model."""
    translator = Translator.load(path, device="cpu")
    scale_hint(translator, path.with_name("source.tif"))
    list(translate_files(translator, [path.with_name("source.tif")], path.with_name("out"), samples=2))


def save_described(folder: Path, suffix: str) -> tuple[Path, Callable[[dict[str, Any]], object]]:
    """A small model of many fields, and how its description is replaced."""
    source = images.ImageSpec(
        channels=2, dtype="uint16", low=(0.0, 1.0), high=(9.0, 8.0), chosen=("0", "2"), names=("a", "b")
    )
    target = images.ImageSpec(
        channels=1, dtype="uint8", kind="labels", low=(0.0,), high=(255.0,), palette=((0,), (7,)),
        palette_names=("c", "d"), one_hot=True,
    )  # fmt: skip
    channels = {"generator__source_channels": 2, "generator__target_channels": 2}
    config = tiny_config("", generator__num_downs=2, generator__base_channels=2, **channels)
    net = build_generator(config.generator, torch.Generator().manual_seed(0)).requires_grad_(False)
    model, file = Translator(net, source, target, config), folder / "generator.safetensors"
    save_weights(file, net.state_dict(), model.describe())
    tifffile.imwrite(folder / "source.tif", np.arange(192, dtype=np.uint16).reshape(8, 8, 3))
    if suffix == ".safetensors":
        weights = net.state_dict()
        return file, lambda new: save_file(weights, file, metadata={"pairloom": json.dumps(new)})
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    file = folder / "model.onnx"
    export_model(folder, file, format="onnx")
    proto = onnx.load(file)

    def replace_description(description: dict[str, Any]) -> None:
        proto.metadata_props[0].value = json.dumps(description)
        onnx.save(proto, file)

    return file, replace_description


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_models_description_of_any_values(tmp_path: Path, suffix: str, every: int) -> None:
    """The whole file is intact; one value of its JSON is another. It is used, or one sentence names it."""
    file, write = save_described(tmp_path, suffix)
    use(file)
    whole = read_json(file)
    if suffix == ".onnx":  # what both containers hold is read by the same lines
        whole["config"] = {"generator": whole["config"]["generator"], "data": {"crop_size": 32}}
    named = 0
    for where, description in islice(changed(whole), 0, None, every):  # no divisor of how many are hostile
        write(description)
        said = what_is_said(use, file, f"{where}: {json.dumps(at(description, where))[:40]}")
        if said is not None:
            assert said.count("\n") == 0 and len(said) < 1000, (where, said)
            assert str(tmp_path) in said, (where, said)
            named += str(where[-1]) in said
    assert named > 200 / every, "hardly any names its field"


def at(value: Any, where: tuple[str | int, ...]) -> Any:
    for key in where:
        value = value[key]
    return value


def read_json(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        description = read_description(file)
    else:
        description = OnnxGenerator.load(file).saved.description
    found: dict[str, Any] = json.loads(json.dumps(description))
    return found


@pytest.mark.parametrize("count", COUNTS)
def test_texts(tmp_path: Path, count: int) -> None:
    attack(save_texts(tmp_path), tmp_path, count)
