"""The issue's list of bad input, through the command line: one sentence, exit status 2, nothing lost."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

import pairloom
from conftest import Child, cli, draw_pair, tiny_config, write_pairs
from pairloom.cli import main


def train(data: Path, run: Path, *flags: object) -> list[object]:
    return ["train", data, "--out", run, "--preset", "tiny", *flags]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of one's own, to be spoilt."""
    return write_pairs(tmp_path / "data", train=3)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


# -----------------------------------------------------------------------------------------------------------
# Files that are no images

SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:300]), "damaged or cut short"),
    "zero bytes": (lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
    "text named .png": (lambda p: p.write_text("This is a text.\n"), "is not an image in a known format"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_training_file(data, run, refused, how):
    victim = data / "train/train-1.png"
    spoil, words = SPOILT[how]
    spoil(victim)
    sentence = refused(*train(data, run))
    assert str(victim) in sentence
    assert words in sentence
    # Mended, the same command starts.
    Image.fromarray(draw_pair(1)).save(victim)
    main([str(a) for a in train(data, run, "--training.steps", 1)])


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_file_among_good_ones_to_translate(tiny_run, tmp_path, capsys, how):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(draw_pair(0)).save(inputs / f"{name}.png")
    spoil, words = SPOILT[how]
    spoil(inputs / "b.png")
    with pytest.raises(SystemExit) as stop:
        cli("translate", tiny_run, inputs, "--out", out)
    assert stop.value.code == 2
    sentence, total = capsys.readouterr().err.splitlines()[-2:]
    assert sentence.startswith(f"pairloom: {inputs / 'b.png'}: ")
    assert words in sentence
    assert total == "1 of 3 images could not be translated; the others were."
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "c.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(data, run, refused):
    victim = data / "train/train-1.png"
    victim.chmod(0)
    assert str(victim) in refused(*train(data, run))


def test_a_spoilt_file_while_resuming_keeps_what_was_trained(data, run, refused):
    main([str(a) for a in train(data, run, "--training.steps", 2)])
    before = (run / "checkpoints/step-00000002.pt").read_bytes()
    for victim in (data / "train").iterdir():
        victim.write_bytes(victim.read_bytes()[:300])
    assert "damaged or cut short" in refused(*train(data, run))
    assert (run / "checkpoints/step-00000002.pt").read_bytes() == before


# -----------------------------------------------------------------------------------------------------------
# Data sets that cannot be


def test_a_folder_without_images(tmp_path, tiny_run, run, refused):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("")
    assert f"No images were found in {empty}" in refused(*train(empty, run))
    assert f"{empty}: the folder holds no images" in refused("translate", tiny_run, empty, "--out", run)
    assert f"No images were found in {empty}" in refused("evaluate", tiny_run, empty, "--out", run)
    assert not run.exists()


def test_a_folder_that_is_not_there(tmp_path, tiny_run, run, refused):
    gone = tmp_path / "gone"
    assert f"{gone} does not exist" in refused(*train(gone, run))
    assert f"{gone}: there is no such file or folder" in refused("translate", tiny_run, gone, "--out", run)
    assert f"{gone} does not exist" in refused("evaluate", tiny_run, gone, "--out", run)
    assert not run.exists()


def test_halves_of_odd_width(data, run, refused):
    victim = data / "train/train-2.png"
    Image.fromarray(draw_pair(0)[:, :-1]).save(victim)
    sentence = refused(*train(data, run))
    assert f"{victim} is 79 pixels wide" in sentence
    assert "width must be even" in sentence


@pytest.mark.parametrize("mode", ["L", "five", "uint16"])
def test_mixed_channels_or_depths(data, run, refused, mode):
    victim = data / "train/train-1.tif"
    (data / "train/train-1.png").unlink()
    pixels = draw_pair(1)
    if mode == "L":
        tifffile.imwrite(victim, pixels[..., 0])
    elif mode == "uint16":
        tifffile.imwrite(victim, pixels.astype(np.uint16), photometric="rgb")
    else:
        tifffile.imwrite(victim, np.concatenate([pixels, pixels], -1)[..., :5], planarconfig="contig")
    sentence = refused(*train(data, run))
    assert str(victim) in sentence
    expected = {"L": "1 channel", "uint16": "3 channels of uint16", "five": "5 channels of uint8"}
    assert f"{victim} (right half) has {expected[mode]}" in sentence
    assert "all images of one side must have the same" in sentence


def two_folders(root: Path, suffix: str, dtype: str) -> Path:
    """A and B, three images each."""
    rng = np.random.default_rng(0)
    for side in "AB":
        (root / side / "train").mkdir(parents=True)
        for i in range(3):
            values = rng.random((40, 40)).astype(dtype)
            path = root / side / f"train/{i}.{suffix}"
            if suffix == "npy":
                np.save(path, values)
            else:
                tifffile.imwrite(path, values)
    return root


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_infinity_in_a_float_image(tmp_path, run, refused, suffix):
    data = two_folders(tmp_path / "data", suffix, "float32")
    victim = data / f"A/train/1.{suffix}"
    values = np.full((40, 40), 0.5, np.float32)
    values[3, :2] = np.inf
    np.save(victim, values) if suffix == "npy" else tifffile.imwrite(victim, values)
    sentence = refused(*train(data, run))
    assert f"{victim}: 2 of its 1600 values are infinite" in sentence


def test_nothing_but_nan_to_translate(tmp_path, run, refused):
    data = two_folders(tmp_path / "data", "npy", "float32")
    pairloom.train(tiny_config(data, training__steps=1), run)
    victim = tmp_path / "new.npy"
    np.save(victim, np.full((8, 8), np.nan, np.float32))
    assert f"{victim}: all its pixels are NaN" in refused("translate", run, victim, "--out", tmp_path / "out")


def test_a_palette_that_does_not_match(data, tmp_path, run, refused):
    palette = tmp_path / "classes.txt"
    flags = ["--data.source-palette", palette]
    assert f"{palette}: cannot be read as a palette" in refused(*train(data, run, *flags))
    palette.write_text("0,background\n1,cell\n")
    sentence = refused(*train(data, run, *flags))
    assert "data.source_" in sentence
    assert "The palette's colours have 1 values, but the images 3 channels of uint8" in sentence
    palette.write_text("0,0,0,wall\n255,0\n")
    assert f"{palette}, line 2 ('255,0')" in refused(*train(data, run, *flags))
    palette.write_text("")
    assert f"{palette}: holds 0 classes" in refused(*train(data, run, *flags))


def test_sizes_that_differ_inside_a_pair(tmp_path, run, refused):
    data = two_folders(tmp_path / "data", "npy", "float32")
    victim = data / "B/train/1.npy"
    np.save(victim, np.random.default_rng(0).random((40, 44)).astype(np.float32))
    sentence = refused(*train(data, run, "--data.resize", "none"))
    assert str(victim) in sentence and "44x40" in sentence and "40x40" in sentence


# -----------------------------------------------------------------------------------------------------------
# What needs a package that is absent


@pytest.fixture
def deep_png(tmp_path: Path) -> Path:
    """A PNG of 16 bits and three channels."""
    path = tmp_path / "deep/train/deep.png"
    path.parent.mkdir(parents=True)
    pixels = draw_pair(0).astype(np.uint16) * 257
    path.write_bytes(imagecodecs.png_encode(pixels))
    return path


def test_a_deep_png_without_imagecodecs(deep_png, tiny_run, run, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # the import now fails
    for command in (train(deep_png.parents[1], run), ["translate", tiny_run, deep_png, "--out", run]):
        sentence = refused(*command)
        assert f"{deep_png}: is a PNG of 16 bits and several channels" in sentence
        assert "pip install imagecodecs" in sentence


def test_with_imagecodecs_it_is_only_of_another_depth(deep_png, tiny_run, run, refused):
    sentence = refused("translate", tiny_run, deep_png, "--out", run)
    assert f"{deep_png}: " in sentence
    assert "3 channels of uint16, but the spec is for 3 channels of uint8" in sentence


# -----------------------------------------------------------------------------------------------------------
# Models that are none


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def picture(folder: Path) -> Path:
    path = folder / "picture.png"
    Image.fromarray(draw_pair(0)).save(path)
    return path


def test_a_checkpoint_cut_in_half(tiny_run, tiny_data, tmp_path, refused):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for path in [*(run / "checkpoints").glob("*.pt"), run / "generator.safetensors"]:
        half(path)
    source = picture(tmp_path)
    newest = run / "checkpoints/step-00000004.pt"
    for model in (newest, run / "generator.safetensors"):
        sentence = refused("translate", model, source, "--out", tmp_path / "out")
        assert sentence.startswith(f"{model}: is not a whole")
    assert f"{run / 'generator.safetensors'}: is not a whole" in refused("report", run)
    sentence = refused(*train(tiny_data, run))
    assert f"{newest}: is not a whole checkpoint" in sentence
    assert "No earlier checkpoint is left; train into a new run directory." in sentence
    assert not (tmp_path / "out").exists()


def test_weights_from_somewhere_else(tiny_data, tmp_path, refused):
    source, out = picture(tmp_path), tmp_path / "out"
    foreign = tmp_path / "model.safetensors"
    save_file({"model.0.weight": torch.ones(3)}, foreign)
    pth = tmp_path / "latest_net_G.pth"
    torch.save({"model.0.weight": torch.ones(3)}, pth)
    pt = tmp_path / "latest_net_G.pt"
    torch.save({"model.0.weight": torch.ones(3)}, pt)
    for path in (foreign, pth, pt, source, tmp_path / "gone"):
        for command in (
            ["translate", path, source, "--out", out],
            ["evaluate", path, tiny_data, "--out", out],
            train(tiny_data, tmp_path / "run", "--training.init-from", path),
        ):
            assert refused(*command).startswith((f"{path}: ", f"training.init_from: there is no {path}"))
    assert not out.exists()


def test_a_folder_that_is_no_run(tmp_path, tiny_data, refused):
    source, empty = picture(tmp_path), tmp_path / "empty"
    empty.mkdir()
    for command in (
        ["translate", empty, source, "--out", tmp_path / "out"],
        ["evaluate", empty, tiny_data, "--out", tmp_path / "out"],
        ["report", empty],
    ):
        assert refused(*command).startswith(f"{empty}: holds no trained model")
    assert list(empty.iterdir()) == []


def test_no_best_without_validation(data, run, tmp_path, refused):
    pairloom.train(tiny_config(data, training__steps=1), run)
    source = picture(tmp_path)
    sentence = refused("translate", run, source, "--out", tmp_path / "out", "--checkpoint", "best")
    assert "no best checkpoint; it was trained without validation pairs" in sentence


# -----------------------------------------------------------------------------------------------------------
# Configurations that cannot be


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[training]\nlerning_rate = 1.0\n",
            "'training.lerning_rate'; did you mean 'training.learning_rate'?",
        ),
        ("[trainin]\nsteps = 1\n", "there is no field 'trainin'"),
        ("crop_size = 64\n", "did you mean 'data.crop_size'?"),
        ("[training]\nbatch_size = 'two'\n", "training.batch_size is 'two'; it must be of type int"),
        ("[objective]\ngan_mode = 'wgan'\n", "objective.gan_mode is 'wgan'; it must be one of 'vanilla'"),
        ("[training\n", "cannot be read as a .toml or .json configuration"),
    ],
)
def test_a_configuration_file_with_a_mistake(tiny_data, tmp_path, run, refused, text, words):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    for command in (
        train(tiny_data, run, "--config", file),
        ["data", "check", tiny_data, "--config", file],
        ["describe", "--config", file],
    ):
        sentence = refused(*command)
        assert sentence.startswith(f"{file}: ")
        assert words in sentence
    assert not run.exists()


def test_a_configuration_file_that_is_not_there(tiny_data, tmp_path, run, refused):
    gone = tmp_path / "gone.toml"
    assert refused(*train(tiny_data, run, "--config", gone)).startswith(f"{gone}: cannot be read")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--training.batch-size", 0], "training.batch_size is 0; it must be 1 or more"),
        (["--data.crop-size", 33], "data.crop_size"),
        (["--data.val-fraction", 0.9], "data.val_fraction is 0.9; it must be between 0 and 0.5"),
        (["--objective.lambda-l1", 0, "--objective.lambda-gan", 0], "objective.lambda_gan"),
        (["--training.device", "cuda:7"], "'cuda:7'"),
        (["--preset", "papre"], "there is no preset 'papre'; there are default, paper"),
    ],
    ids=str,
)
def test_an_impossible_value(tiny_data, run, refused, flags, words):
    assert words in refused(*train(tiny_data, run, *flags))
    assert not run.exists()


def test_a_run_of_another_configuration(data, run, refused):
    main([str(a) for a in train(data, run, "--training.steps", 1)])
    sentence = refused(*train(data, run, "--objective.lambda-l1", 10))
    assert sentence.startswith(f"{run}: ")
    assert "objective.lambda_l1: 100.0 -> 10.0" in sentence


@pytest.mark.parametrize("memory", ["inf", "1e308", "nan", "-1", "0", "1e-10"])
@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_a_memory_that_is_no_amount(tmp_path, refused, memory, launcher):
    out = tmp_path / "out"
    where = ["translate", tmp_path / "run", picture(tmp_path), "--out", out, "--launcher", launcher]
    sentence = refused(*where, f"--memory={memory}")
    assert sentence.startswith("--memory is ") and "in GiB" in sentence
    assert not out.exists()


def with_little_memory(*arguments: object) -> None:
    """The command line in a process that may take half a gigabyte more than it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29))
    cli(*arguments)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_more_than_the_memory_holds(tiny_data, run, tmp_path):
    flags = ["--data.load-size", 16384, "--data.crop-size", 16384]
    child = Child(tmp_path / "said.txt", with_little_memory, *train(tiny_data, run, *flags))
    assert child.wait() == 2, child.said
    last = child.said.splitlines()[-1]
    assert last.startswith("pairloom: not enough memory (")
    assert "data.crop_size" in last
    assert "Traceback" not in child.said


# -----------------------------------------------------------------------------------------------------------
# Places that cannot be written


@pytest.mark.parametrize("where", ["below a file", "a file", "a kernel folder"])
def test_an_output_folder_that_is_not_writable(tiny_run, tiny_data, tmp_path, refused, where):
    file = tmp_path / "file"
    file.write_text("precious")
    out = {"below a file": file / "out", "a file": file, "a kernel folder": Path("/proc/nowhere/out")}[where]
    for command in (
        train(tiny_data, out),
        ["translate", tiny_run, picture(tmp_path), "--out", out],
        ["evaluate", tiny_run, tiny_data, "--out", out],
        ["data", "sample", out, "--count", 10, "--size", 64],
    ):
        sentence = refused(*command)
        assert sentence.startswith((str(out), f"{out.parent}: "))
    assert file.read_text() == "precious"


def test_a_result_that_would_replace_a_neighbour_of_its_source(tiny_run, tmp_path, refused):
    picture(tmp_path)
    Image.open(tmp_path / "picture.png").save(tmp_path / "picture.jpg")
    before = (tmp_path / "picture.png").read_bytes()
    sentence = refused("translate", tiny_run, tmp_path / "picture.jpg", "--out", tmp_path)
    assert sentence.startswith(f"{tmp_path / 'picture.png'}: is there already")
    assert (tmp_path / "picture.png").read_bytes() == before


# -----------------------------------------------------------------------------------------------------------
# Judging


def test_what_judges_is_not_there_or_something_else(tiny_run, tiny_data, tmp_path, refused):
    evaluate = ["evaluate", tiny_run, tiny_data, "--out", tmp_path / "out"]
    gone = tmp_path / "gone.safetensors"
    assert refused(*evaluate, "--segmenter", gone).startswith(f"{gone}: there is no such file")
    generator = tiny_run / "generator.safetensors"
    sentence = refused(*evaluate, "--segmenter", generator)
    assert sentence.startswith(f"{generator}: is a generator, which names no classes")
    assert refused(*evaluate, "--weights", tmp_path / "nowhere").startswith(
        f"{tmp_path / 'nowhere'}: there is no"
    )
    onnx = tmp_path / "judge.onnx"
    onnx.write_bytes(b"no model")
    assert "give a palette" in refused(*evaluate, "--segmenter", onnx)
    assert refused(*evaluate, "--split", "test", "--out", tiny_data).startswith(
        f"{tiny_data}: lies in the data"
    )
    assert not (tmp_path / "out" / "summary.json").exists()


def test_models_that_cannot_be_compared(tiny_run, tmp_path, refused):
    assert "give two or more" in refused("compare", tiny_run, "--out", tmp_path / "out")
    gone = tmp_path / "gone"
    assert refused("compare", tiny_run, gone, "--out", tmp_path / "out").startswith(
        f"{gone}: there is no such file"
    )


def test_photos_without_label_maps_make_no_segmenter(tmp_path, refused):
    rng = np.random.default_rng(0)
    for i in range(3):
        noise = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    sentence = refused("segmenter", "train", tmp_path, "--out", tmp_path.parent / "judge", "--size", 32)
    assert "neither the source nor the target images consist of few colours" in sentence


def test_a_segmenter_is_trained_and_judges(tmp_path, capsys):
    data, run, judge = tmp_path / "data", tmp_path / "run", tmp_path / "judge"
    main(["data", "sample", str(data), "--count", "10", "--size", "64"])
    main(["train", str(data), "--out", str(run), "--preset", "tiny", "--training.steps", "1"])
    main(
        [
            "segmenter",
            "train",
            str(data),
            "--out",
            str(judge),
            "--size",
            "32",
            "--epochs",
            "1",
            "--trunk",
            "own",
        ]
    )
    assert f"--segmenter {judge / 'segmenter.safetensors'}" in capsys.readouterr().out
    main(["evaluate", str(run), str(data), "--out", str(tmp_path / "out"), "--segmenter", str(judge)])
    said = capsys.readouterr().out
    assert "FCN-score by FCN-8s on own" in said
    assert str(tmp_path / "out" / "evaluation.html") in said


# -----------------------------------------------------------------------------------------------------------
# Slips of the hand


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", ""], "train: --out is empty"),
        (["--out="], "train: --out is empty"),
        (["--data.path-b", ""], "data.path_b"),
        (["--init-from", ""], "training.init_from"),
        (["--data.cache-gb", "1e308"], "data.cache_gb"),
        (["--data.edge-sigma", "1e308"], "data.edge_sigma"),
        (["--training.steps", str(2**63)], "training.steps"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_named(data, run, tmp_path, monkeypatch, refused, flags, words):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert words in refused(*train(data, run, *flags))
    assert not list((tmp_path / "here").iterdir()) and not run.exists()


@pytest.mark.parametrize("size", [0, -5])
def test_photos_of_no_size_are_refused(data, tmp_path, refused, size):
    said = refused("segmenter", "train", data, "--out", tmp_path / "seg", "--size", size)
    assert said == f"size is {size}; it must be 1 or more."


def test_a_folder_for_the_page_of_a_check_is_refused_before_the_check(data, tmp_path, monkeypatch, refused):
    monkeypatch.setattr("pairloom.check_page.write_check_page", lambda *_: pytest.fail("it checked"))
    said = refused("data", "check", data, "--out", tmp_path)
    assert said == f"--out is {tmp_path}, which is a folder; give a file, such as check.html."


@pytest.mark.parametrize("checkpoint", ["Best", "nosuch", 5])
def test_weights_are_the_last_or_the_best_and_nothing_else(tiny_run, checkpoint):
    with pytest.raises(ValueError, match=r"checkpoint is .*; use last or best"):
        pairloom.Translator.load(tiny_run, checkpoint=checkpoint)


def test_the_command_that_is_printed_can_be_pasted(data, tmp_path, capsys):
    run = tmp_path / "a run"
    cli(*train(data, run, "--training.steps", 1))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Translate with: "))
    _, command, model, *_ = shlex.split(line.removeprefix("Translate with: "))
    assert (command, model) == ("translate", str(run))
