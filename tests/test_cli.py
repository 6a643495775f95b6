"""The command line: what can be typed, what is printed, and the exit status."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pairloom
from conftest import tiny_config, write_pairs
from pairloom import configfile, images
from pairloom.cli import COMMANDS, main
from pairloom.data import find_pairs

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONWARNINGS": "error"}


def status_of(*arguments: object) -> int:
    """Exit status of a command run in this process."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# -----------------------------------------------------------------------------------------------------------
# Help


@pytest.mark.parametrize("command", [*COMMANDS, ""])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(command, flag, capsys):
    assert status_of(*command.split(), flag) == 0
    said = capsys.readouterr()
    assert said.err == ""
    first = (COMMANDS[command].__doc__ or "").splitlines()[0] if command else "pairloom COMMAND --help"
    words = " ".join(said.out.replace("│", " ").split())
    assert first.rstrip(".") in words


def test_the_list_of_commands_is_complete(capsys):
    assert status_of("--help") == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in text
    assert status_of() == 0
    assert capsys.readouterr().out == text


def test_the_help_of_train_names_every_field(capsys):
    assert status_of("train", "--help") == 0
    text = capsys.readouterr().out
    names = configfile.field_names()
    assert len(names) > 40
    for name in names:
        flag = re.escape(f"--{name.replace('_', '-')}")
        assert bool(re.search(rf" {flag}[ ,]", text)) == (name not in ("note", "data.path")), name


def test_the_data_are_given_once(capsys):
    for flag in (["--data.path", "x"], ["--data.path=x"]):
        assert status_of("train", "d", "--out", "o", *flag) == 2
        assert capsys.readouterr().err.startswith(
            "pairloom: --data.path is DATA, the argument without a flag"
        )


def test_the_help_of_train_shows_the_presets_values(capsys):
    assert status_of("train", "--preset", "tiny", "--help") == 0
    text = capsys.readouterr().out
    assert "(default: 32)" in text  # data.crop_size of tiny


def test_the_version(capsys):
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"{pairloom.__version__}\n"


@pytest.mark.parametrize("command", ["", "train", "translate", "demo"])
def test_help_does_not_import_torch(command):
    code = (
        "import sys, pairloom.cli\n"
        "try: pairloom.cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'matplotlib', 'skimage'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "pairloom" in done.stdout


# -----------------------------------------------------------------------------------------------------------
# What is mistyped


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("trian", "train"), ("translat", "translate"), ("data chek", "data check"), ("evalute", "evaluate")],
)
def test_an_unknown_command_names_the_nearest(typed, meant, capsys):
    assert status_of(*typed.split(), "x") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0] == f"pairloom: there is no command {typed!r}; did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["train", "d", "--out", "o", "--training.lerning-rate", "1"], "--training.learning-rate"),
        (["train", "d", "--out", "o", "--data.crop-sise", "64"], "--data.crop-size"),
        (["translate", "r", "x.png", "--out", "o", "--sample", "2"], "--samples"),
        (["data", "sample", "o", "--cuont", "2"], "--count"),
    ],
)
def test_an_unknown_flag_names_the_nearest(arguments, meant, capsys):
    assert status_of(*arguments) == 2
    said = capsys.readouterr()
    assert meant in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "data"],
        ["translate", "run"],
        ["translate", "run", "--out", "o"],
        ["evaluate", "run"],
        ["train", "d", "--out", "o", "--training.batch-size", "many"],
        ["train", "d", "--out", "o", "--objective.gan-mode", "wgan"],
    ],
    ids=" ".join,
)
def test_what_is_missing_or_of_the_wrong_type_is_exit_status_2(arguments, capsys):
    assert status_of(*arguments) == 2
    said = capsys.readouterr()
    assert said.err != ""
    assert "Traceback" not in said.err


# -----------------------------------------------------------------------------------------------------------
# Configuration: preset < file < flags


def config_of(run: Path) -> dict[str, dict[str, object]]:
    return json.loads((run / "config.json").read_text())


def test_preset_then_file_then_flags(tiny_data, tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text(
        "[training]\nlearning_rate = 0.001\nbeta1 = 0.7\nsteps = 1\n[data]\nload_size = [36, 40]\n"
    )
    run = tmp_path / "run"
    assert status_of(
        "train", tiny_data, "--out", run, "--preset", "tiny", "--config", file, "--training.beta1", "0.6",
        "--generator.dropout-blocks", "1", "2", "--data.no-mirror",
    ) == 0  # fmt: skip
    config = config_of(run)
    assert config["generator"]["base_channels"] == 8  # the preset's
    assert config["training"]["learning_rate"] == 0.001  # the file's
    assert config["data"]["load_size"] == [36, 40]
    assert config["training"]["beta1"] == 0.6  # the flag's
    assert config["generator"]["dropout_blocks"] == [1, 2]
    assert config["data"]["mirror"] is False
    out = capsys.readouterr().out
    assert f"Report: {run / 'report.html'}" in out
    assert (run / "report.html").exists()
    assert f"pairloom translate {run} IMAGES --out OUT" in out


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["--training.epochs", 1], 5),
        (["--training.epochs=1"], 5),
        (["--training.epochs", 1, "--training.steps", 2], 2),
        ([], 4),
    ],
)
def test_epochs_that_are_given_take_the_place_of_the_presets_steps(tiny_data, tmp_path, flags, steps):
    run = tmp_path / "run"
    assert status_of("train", tiny_data, "--out", run, "--preset", "tiny", *flags) == 0
    assert f"Trained {steps} steps" in (run / "log.txt").read_text()


def test_a_crop_alone_is_trained_and_validated_at_one_scale(tiny_data, tmp_path):
    run = tmp_path / "run"
    small = ["--training.steps", 1, "--generator.base-channels", 4, "--discriminator.num-layers", 1]
    command = ["train", tiny_data, "--out", run, "--preset", "paper", "--data.crop-size", 16, 32, *small]
    assert status_of(*command) == 0
    assert configfile.load(run / "config.json").data.load_sides == (18, 36)
    assert status_of(*command, "--data.load-size", "crop") == 2  # another configuration
    assert status_of(*command, "--data.load-size", 18, 36) == 0  # the same, in numbers


# -----------------------------------------------------------------------------------------------------------
# The commands


def test_the_same_command_again_resumes(tiny_data, tmp_path, capsys):
    command = ["train", tiny_data, "--out", tmp_path / "run", "--preset", "tiny", "--training.steps"]
    assert status_of(*command, 1) == 0
    assert status_of(*command, 2) == 0
    assert "Resuming at step 1 of 2." in capsys.readouterr().err


def test_translate_writes_and_counts(tiny_run, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 37, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg")
    out = tmp_path / "out"
    assert status_of("translate", tiny_run, tmp_path / "a.png", tmp_path / "b.jpg", "--out", out) == 0
    assert capsys.readouterr().out == f"2 images written to {out}\n"
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png"]
    expected = pairloom.Translator.load(tiny_run)(pixels)
    assert np.array_equal(images.read_image(out / "a.png"), expected)


def test_translates_flags_reach_the_model(tiny_run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    flags = ["--seed", 3, "--norm-stats", "running", "--checkpoint", "best", "--batch-size", 2]
    assert status_of("translate", tiny_run, tmp_path / "a.png", "--out", tmp_path / "one", *flags) == 0
    best = pairloom.Translator.load(tiny_run, checkpoint="best", norm_stats="running")
    assert np.array_equal(images.read_image(tmp_path / "one/a.png"), best(pixels, seed=3))
    flags = ["--samples", 2, "--scale", "training"]
    assert status_of("translate", tiny_run, tmp_path / "a.png", "--out", tmp_path / "out", *flags) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a-1.png", "a-2.png", "a-mean.png", "a-spread.tif",
    ]  # fmt: skip
    assert (
        status_of("translate", tiny_run, tmp_path / "a.png", "--out", tmp_path / "dry", "--dropout", False)
        == 0
    )
    dry = pairloom.Translator.load(tiny_run, dropout=False)(pixels)
    assert np.array_equal(images.read_image(tmp_path / "dry/a.png"), dry)


def test_check_finds_faults_with_status_1_and_none_with_0(tiny_data, tmp_path, capsys):
    assert status_of("data", "check", tiny_data, "--preset", "tiny") == 0
    assert "5" in capsys.readouterr().out
    data = write_pairs(tmp_path / "data", train=3)
    (data / "train/train-1.png").write_bytes(b"")
    assert status_of("data", "check", data, "--preset", "tiny") == 1
    said = capsys.readouterr()
    assert "train-1.png" in said.out
    assert "Traceback" not in said.err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_not_text_can_be_said_and_trained_on(tmp_path):
    for i in range(3):
        images.write_image(tmp_path / "image.png", np.full((32, 64, 3), i, np.uint8))
        os.rename(tmp_path / "image.png", os.fsencode(tmp_path) + b"/x\xff%d.png" % i)
    done = subprocess.run(
        [sys.executable, "-m", "pairloom", "data", "check", str(tmp_path), "--preset", "tiny"],
        capture_output=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"train/x\\udcff0" in done.stdout  # it is of a single colour
    run = pairloom.train(tiny_config(tmp_path, training__steps=1), tmp_path.with_name("run"))
    assert (run / "generator.safetensors").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_a_fault_that_names_no_file_is_a_sentence():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-u", "-m", "pairloom", "describe", "--preset", "tiny"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == (
        b"pairloom: No space left on device; check the path, its permissions and the free space.\n"
    )


def test_a_full_disk_is_a_sentence(tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        status = status_of("data", "sample", tmp_path / "set", "--count", 3, "--size", 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pairloom: {tmp_path / 'set'}") and "cannot be written" in said


def test_describe_prints_words_or_json(capsys):
    assert status_of("describe", "--preset", "paper", "--json") == 0
    description = capsys.readouterr().out
    assert "54413955" in description
    json.loads(description)
    assert status_of("describe", "--preset", "paper") == 0
    assert "54,413,955" in capsys.readouterr().out


def test_sample_draws_what_train_reads(tmp_path, capsys):
    out = tmp_path / "sample"
    assert status_of("data", "sample", out, "--count", 10, "--size", 64, "--seed", 3) == 0
    assert str(out) in capsys.readouterr().out
    pairs = find_pairs(tiny_config(out).data)
    assert len(pairs.pairs) == 10
    assert images.image_shape(pairs.pairs[0].source.path) == (64, 128)


def test_python_m_pairloom_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "pairloom", "--version"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{pairloom.__version__}\n", "")


def test_a_reader_that_stops_reading_causes_no_noise():
    command = [sys.executable, "-m", "pairloom", "train", "--help"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_whoever_looks_for_a_fault_of_ours_gets_the_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRLOOM_DEBUG", "1")
    with pytest.raises(ValueError, match="gone"):
        main(["train", str(tmp_path / "gone"), "--out", str(tmp_path / "run")])
