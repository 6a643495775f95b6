"""The run directory: what it records, and who may use it."""

from __future__ import annotations

import json
import math
import platform
import re
import sys

import pytest
import torch

from conftest import tiny_config
from pairloom import configfile
from pairloom.images import ImageSpec
from pairloom.rundir import RunDir, RunError, environment, read_json, read_metrics

RGB = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
LABELS = ImageSpec(
    channels=1,
    dtype="uint8",
    kind="labels",
    low=(0.0,),
    high=(2.0,),
    palette=((0,), (1,), (2,)),
    one_hot=True,
)


def test_a_run_directory_is_made_with_its_parents_and_held_once(tmp_path):
    path = tmp_path / "runs" / "deep" / "first"
    with RunDir(path) as run:
        assert path.is_dir()
        assert not run.begun
        with pytest.raises(RunError, match="another process is training in this run directory") as error:
            RunDir(path)
        assert str(path) in str(error.value)
    with RunDir(path):
        pass


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), RunDir(tmp_path):
        raise ZeroDivisionError
    with RunDir(tmp_path):
        pass


@pytest.mark.parametrize("below", ["a file", "a kernel folder"])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, below):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run" if below == "a file" else "/proc/nowhere/run"
    with pytest.raises(RunError, match=r"cannot be written .* choose another --out") as error:
        RunDir(path)
    assert str(error.value).startswith(f"{path}: ")


def test_identity_is_written_and_read_back(tmp_path):
    config = tiny_config("somewhere", data__load_size=(40, 36), generator__dropout_blocks=(1, 2))
    with RunDir(tmp_path) as run:
        run.write_identity(config, RGB, LABELS, device="cpu", data_fingerprint="0123")
        assert run.read_config() == config
        assert run.read_specs() == (RGB, LABELS)
        assert run.read_environment()["data_fingerprint"] == "0123"
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        json.dumps(configfile.to_dict(config))
    )


def test_a_run_has_begun_once_there_is_something_to_go_on_with(tmp_path):
    with RunDir(tmp_path) as run:
        run.write_identity(tiny_config("x"), RGB, RGB, device="cpu", data_fingerprint="")
        assert not run.begun
        run.checkpoints.mkdir()
        (run.checkpoints / "step-00000010.pt").touch()
        assert run.begun


@pytest.mark.parametrize("lost", ["config.json", "specs.json", "checkpoints/step-00000010.pt"])
def test_a_trained_model_without_all_that_resumes_it_is_never_begun_anew(tmp_path, lost):
    with RunDir(tmp_path) as run:
        run.write_identity(tiny_config("x"), RGB, RGB, device="cpu", data_fingerprint="")
        run.checkpoints.mkdir()
        (run.checkpoints / "step-00000010.pt").touch()
        (tmp_path / "generator.safetensors").touch()
        assert run.begun
        (tmp_path / lost).unlink()
        name = "checkpoints/step-*.pt" if "step" in lost else lost
        with pytest.raises(
            RunError, match=re.escape(f"a trained model, and no {name} to resume it")
        ) as error:
            _ = run.begun
        assert "name another --out" in str(error.value)


def test_the_environment_says_what_is_needed_to_repeat_the_run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/pairloom", "train", "data", "--out", "x"])
    found = environment()
    assert found["command"] == "pairloom train data --out x"
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == torch.__version__
    assert {"pairloom", "numpy", "pillow", "tifffile"} <= found["packages"].keys()
    assert found["threads"] == torch.get_num_threads()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$", found["date"])
    json.dumps(found, allow_nan=False)


def test_metrics_are_one_object_a_line_and_never_nan(tmp_path):
    with RunDir(tmp_path) as run:
        run.append_metrics({"step": 1, "G_L1": 0.5})
        run.append_metrics({"step": 2, "G_L1": math.nan, "D_real": math.inf, "D_fake": -math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == ('{"step": 1, "G_L1": 0.5}\n{"step": 2, "G_L1": null, "D_real": null, "D_fake": null}\n')
    assert read_metrics(tmp_path) == [json.loads(line) for line in text.splitlines()]


def test_lines_cut_off_or_strange_are_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1}\n\nhello\n[1, 2]\n{"G_L1": 1}\n{"step": 2}\n{"step": 3, "G_'
    )
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1}\n{"step": "x"}\n{"step": 3, "val_L1": "abc"}\n{"step": null}\n{"step": 3, "lr": [1]}\n'
        b'{"st\xffep": 3}\n{"step": 4, \xff"G_L1": 1}\n{"step": 2}\n'
    )
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
    assert read_metrics(tmp_path / "nowhere") == []


def test_cutting_forgets_what_came_after(tmp_path):
    lines = [{"step": 1}, {"step": 2, "warning": "w"}, {"step": 2, "val_L1": 0.1}, {"step": 3}]
    with RunDir(tmp_path) as run:
        for line in lines:
            run.append_metrics(line)
        assert run.cut_metrics(2) == lines[:3]
        assert read_metrics(tmp_path) == lines[:3]
        run.append_metrics({"step": 3, "again": True})
        assert read_metrics(tmp_path)[-1] == {"step": 3, "again": True}
        assert run.cut_metrics(0) == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_the_log_has_a_time_stamp_on_each_line(tmp_path):
    with RunDir(tmp_path) as run:
        run.say("one")
        run.say("zwei äöü")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d ", "", line) for line in lines] == ["one", "zwei äöü"]
    assert all(len(line) > 20 for line in lines)


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path, name):
    with RunDir(tmp_path) as run:
        (tmp_path / name).mkdir()
        write = {"log.txt": lambda: run.say("x"), "metrics.jsonl": lambda: run.append_metrics({"step": 1})}
        with pytest.raises(RunError, match=rf"{name}: could not be written .*The checkpoints are untouched"):
            write[name]()


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    path = tmp_path / "specs.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"specs\.json: cannot be read as JSON"):
        read_json(path)
