"""Many files: divided among tasks, skipped when finished, read ahead and written behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import cli
from pairloom import bulk, images
from pairloom.files import translate_files
from pairloom.images import ImageError
from pairloom.memory import activation_bytes_per_pixel, surely_fits, whole_image_bytes
from pairloom.networks import build_generator
from pairloom.overlap import Busy, Overlap
from pairloom.translator import Translator
from test_files import save_picture
from test_translator import model, picture, spec


def make_sources(folder: Path, count: int = 7) -> Path:
    for i in range(count):
        save_picture(folder / f"{i % 3}/{i}.png", (12 + i % 2, 16), i)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -----------------------------------------------------------------------------------------------------------
# Shares


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_shares_together_are_one_run(tmp_path, count):
    sources, translator = make_sources(tmp_path / "in"), model()
    list(translate_files(translator, [sources], tmp_path / "one", seed=3, samples=2))
    taken = [
        list(
            translate_files(translator, [sources], tmp_path / "many", seed=3, samples=2, shard=f"{i}/{count}")
        )
        for i in range(1, count + 1)
    ]
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert sum(map(len, taken)) == len(tree(tmp_path / "one"))
    assert max(map(len, taken)) - min(map(len, taken)) <= 4  # of one image


def test_what_is_finished_is_left_alone_and_the_rest_is_made(tmp_path):
    sources, out = make_sources(tmp_path / "in"), tmp_path / "out"
    said: list[str] = []
    first = list(translate_files(model(), [sources], out, shard="1/2", say=said.append))
    assert said == []
    before = {path: path.stat().st_mtime_ns for path in first}
    first[1].unlink()
    assert list(translate_files(model(), [sources], out, shard="1/2", say=said.append)) == [first[1]]
    assert said == [f"{len(first) - 1} of {len(first)} images are there already."]
    assert all(path.stat().st_mtime_ns == before[path] for path in first if path != first[1])


def test_samples_are_finished_when_all_of_them_are_there(tmp_path):
    source, out = save_picture(tmp_path / "in/x.png"), tmp_path / "out"
    whole = list(translate_files(model(), [source], out, samples=2, shard="1/1"))
    assert list(translate_files(model(), [source], out, samples=2, shard="1/1")) == []
    (out / "x-spread.tif").unlink()
    assert list(translate_files(model(), [source], out, samples=2, shard="1/1")) == whole


def test_what_a_killed_task_left_half_written_goes_and_what_is_others_stays(tmp_path):
    sources, out = make_sources(tmp_path / "in", 3), tmp_path / "out"
    half = [out / "0/.0.png.0123abcd.tmp", out / "1/.1.png.0123abcd.tmp", out / "0/.keep.png.tmp"]
    for path in half:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    list(translate_files(model(), [sources], out, shard="1/3"))
    assert [path.exists() for path in half] == [False, True, True]


def test_files_that_would_collide_are_in_one_share(tmp_path):
    names = ["a.png", "a.jpg", "b.tif", "a.ome.tif", "a.nii.gz", "c.1.png", "c.2.png", "series.1", "d"]
    found = [(tmp_path / name, Path(name)) for name in names]
    grouped = [[name.name for _, name in group] for group in bulk.groups(found)]
    assert grouped == [
        ["a.jpg", "a.nii.gz", "a.ome.tif", "a.png"],
        ["b.tif"],
        ["c.1.png"],
        ["c.2.png"],
        ["d"],
        ["series.1"],
    ]
    for suffix in ("png", "jpg"):
        save_picture(tmp_path / f"in/x.{suffix}")
    with pytest.raises(ImageError, match="both would be written to"):
        list(translate_files(model(), [tmp_path / "in"], tmp_path / "out", shard="1/2"))
    assert list(translate_files(model(), [tmp_path / "in"], tmp_path / "out", shard="2/2")) == []


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", ""])
def test_a_share_that_is_none_is_refused(tmp_path, part):
    source = save_picture(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"it must be i/n with i from 1 to n, such as 2/8"):
        list(translate_files(model(), [source], tmp_path / "out", shard=part))


def test_volumes_are_shared_and_skipped_too(tmp_path):
    translator = model(spec(1, "uint16", slice_axis="0"), spec(1, "uint16"))
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(2):
        planes = [picture((16, 16), 1, "uint16", seed=10 * i + s)[..., 0] for s in range(3)]
        np.savez(folder / f"{i}.npz", image=np.stack(planes))
    list(translate_files(translator, [folder], tmp_path / "one"))
    for part in ("1/2", "2/2"):
        assert len(list(translate_files(translator, [folder], out, shard=part))) == 1
        assert list(translate_files(translator, [folder], out, shard=part)) == []
    for name in ("0.npz", "1.npz"):
        with np.load(out / name) as made, np.load(tmp_path / "one" / name) as expected:
            assert made.files == expected.files
            assert all(np.array_equal(made[key], expected[key]) for key in expected.files)


def test_tiles_are_shared_and_skipped_too(tmp_path):
    translator = model(spec(1, "uint16"), spec(1, "uint16"))
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    images.write_image(folder / "large.tif", picture((600, 500), 1, "uint16"))
    images.write_image(folder / "small.png", picture((16, 16), 1, "uint16"))
    options: dict[str, Any] = {"memory_bytes": whole_image_bytes(translator, 600, 500) - 1}
    list(translate_files(translator, [folder], tmp_path / "one", **options))
    for part, name in (("1/2", "large.tif"), ("2/2", "small.png")):
        assert list(translate_files(translator, [folder], out, shard=part, **options)) == [out / name]
        assert list(translate_files(translator, [folder], out, shard=part, **options)) == []
        assert np.array_equal(images.read_image(out / name), images.read_image(tmp_path / "one" / name))


def test_the_command_takes_a_share_and_counts_it(tiny_run, tmp_path, capsys):
    sources = make_sources(tmp_path / "in", 3)
    for said in ("2 images written", "0 images written"):
        cli("translate", tiny_run, sources, "--out", tmp_path / "out", "--shard", "1/2")
        assert said in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli("translate", tiny_run, sources, "--out", tmp_path / "out", "--shard", "3/2")
    assert stop.value.code == 2
    assert "--shard is '3/2'" in capsys.readouterr().err


# -----------------------------------------------------------------------------------------------------------
# Three things at once


def test_reading_goes_ahead_within_its_bound_and_keeps_the_order():
    read: list[int] = []
    enough = threading.Event()

    def load(number: int) -> int:
        read.append(number)
        if len(read) == 4:
            enough.set()
        return -number

    with Overlap(Busy(), ahead=3) as overlap:
        coming = overlap.read(load, range(100))
        assert next(coming) == (0, 0)
        assert enough.wait(30)  # three more, while nobody asked for them
        time.sleep(0.05)
        assert read == [0, 1, 2, 3]
        assert list(coming) == [(i, -i) for i in range(1, 100)]


def test_writing_goes_on_behind_in_its_order():
    allowed, done = threading.Event(), []

    def write(name: str) -> Path:
        assert allowed.wait(30)
        done.append(name)
        return Path(name)

    with Overlap(Busy()) as overlap:
        overlap.write(lambda: write("a"))
        overlap.write(lambda: write("b"))
        assert done == []  # and we are still here
        allowed.set()
        assert list(overlap.written()) == [Path("a"), Path("b")]


def test_what_was_made_is_written_though_the_rest_failed(tmp_path):
    def write() -> Path:
        time.sleep(0.05)
        (tmp_path / "x").write_bytes(b"whole")
        return tmp_path / "x"

    def fail() -> None:
        with Overlap(Busy()) as overlap:
            overlap.write(write)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reading", "writing"))]


def test_a_fault_of_writing_stops_the_run(tmp_path):
    sources = make_sources(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1").write_bytes(b"where a folder should be")
    with pytest.raises(ImageError, match="cannot be made"):
        list(translate_files(model(), [sources], tmp_path / "out"))


def test_whoever_stops_asking_leaves_no_thread_and_nothing_half_written(tmp_path):
    sources, out = make_sources(tmp_path / "in", 30), tmp_path / "out"
    coming = translate_files(model(), [sources], out)
    next(coming)
    coming.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reading", "writing"))]
    assert 1 <= len(tree(out)) < 30
    assert not list(out.rglob(".*.tmp"))


def test_the_pace_is_said_of_many_images_and_not_of_few(tmp_path, monkeypatch):
    monkeypatch.setattr("pairloom.files.MANY", 4)
    sources = make_sources(tmp_path / "in", 4)
    said: list[str] = []
    list(translate_files(model(), [sources], tmp_path / "out", say=said.append))
    assert len(said) == 1 and said[0].startswith("Busy, of ")
    list(translate_files(model(), [sources / "0/0.png"], tmp_path / "few", say=said.append))
    assert len(said) == 1
    busy = Busy()
    busy.seconds.update(reading=1.2, translating=8.0, writing=0.8)
    busy.total_seconds = 10.0
    assert busy.words() == "Busy, of 10.0 s: reading 12 %, translating 80 %, writing 8 %."


# -----------------------------------------------------------------------------------------------------------
# What a small image does not need


@pytest.mark.parametrize("architecture", ["unet", "resnet"])
@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize(("width", "channels"), [(4, 1), (4, 24), (64, 3)])
def test_the_coarse_bound_is_above_what_is_counted(architecture, upsample, width, channels):
    from dataclasses import replace

    from pairloom import presets

    config = presets.paper()
    config = replace(
        config,
        generator=replace(
            config.generator,
            architecture=architecture,
            upsample=upsample,
            base_channels=width,
            source_channels=channels,
            target_channels=channels,
            num_downs=4,
        ),
    )
    both = spec(channels)
    with torch.device("meta"):
        net = build_generator(config.generator)
    translator = Translator(net, both, both, config)
    assert activation_bytes_per_pixel(translator) > 0
    exact = whole_image_bytes(translator, 512, 512)
    assert not surely_fits(translator, 512, 512, exact)
    assert surely_fits(translator, 512, 512, 8 * exact)
    assert not surely_fits(translator, 512, 512, 8 * exact, count=20)


def test_translating_a_png_loads_nothing_heavy(tiny_run, tmp_path):
    """What these take to load is seconds; a small image takes hundredths."""
    heavy = (
        *("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.fsdp", "skimage", "scipy"),
        *("matplotlib", "torchmetrics", "jinja2", "ray", "pandas", "onnx", "onnxruntime", "openvino"),
        *("zarr", "nibabel", "pydicom", "rasterio", "starlette", "pairloom.fit"),
    )
    source = save_picture(tmp_path / "x.png")
    code = "import json, sys; from pairloom.cli import main; main(sys.argv[1:])"
    code += "; print(json.dumps([*sys.modules]))"
    command = [sys.executable, "-c", code, "translate", tiny_run, source, "--out", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"torch", "PIL", "pairloom.files"} <= loaded
    assert not loaded & set(heavy)
