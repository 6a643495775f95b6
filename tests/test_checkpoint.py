"""Files that carry a model: whole or not there, kept as promised, and never believed blindly."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import random
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import pairloom
from conftest import Child, cli, tiny_config
from pairloom import checkpoint
from pairloom.checkpoint import CheckpointError
from pairloom.networks import Discriminator


def state(step: int) -> dict[str, object]:
    return {"format": checkpoint.FORMAT, "step": step, "tensor": torch.arange(step)}


def save(folder: Path, step: int, best: float | None = None) -> Path:
    figures = None if best is None else {"val_L1": best}
    return checkpoint.save_state(folder, state(step), step, best=figures)


# -----------------------------------------------------------------------------------------------------------
# Writing


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"file\.txt: could not be written .*No space left on device"):
        checkpoint.write_atomically(path, fails)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_new_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        seen.append(path.exists())
        temporary.write_text("whole")

    checkpoint.write_atomically(path, write)
    assert seen == [False]
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_folder_that_is_no_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoint.write_atomically(tmp_path / "file" / "x.txt", lambda path: path.write_text("x"))


# -----------------------------------------------------------------------------------------------------------
# Which are kept


def test_the_last_two_and_the_best_are_kept(tmp_path):
    for step, val in ((10, 0.5), (20, 0.3), (30, None), (40, None), (50, None)):
        save(tmp_path, step, val)
    assert checkpoint.steps(tmp_path) == [20, 40, 50]
    assert checkpoint.best_step(tmp_path) == 20
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 20, "val_L1": 0.3}
    save(tmp_path, 60, 0.2)
    assert checkpoint.steps(tmp_path) == [50, 60]
    save(tmp_path, 70)
    save(tmp_path, 80)
    assert checkpoint.steps(tmp_path) == [60, 70, 80]


@pytest.mark.parametrize(
    "name", ["step-00000006-backup.pt", "step-6.pt", "step-.pt", "step-final00.pt", "step-00000006 (1).pt"]
)
def test_files_of_other_names_are_no_checkpoints(tmp_path, name):
    save(tmp_path, 3)
    (tmp_path / name).write_text("mine")
    assert checkpoint.steps(tmp_path) == [3]
    for step in (4, 5, 100_000_000):
        save(tmp_path, step)
    assert checkpoint.steps(tmp_path) == [5, 100_000_000]
    assert (tmp_path / name).read_text() == "mine"


def test_the_best_is_none_once_its_file_is_gone(tmp_path):
    save(tmp_path, 1, 0.5)
    save(tmp_path, 2)
    (tmp_path / "step-00000001.pt").unlink()
    assert checkpoint.best_step(tmp_path) is None
    assert checkpoint.best_val_l1(tmp_path) == math.inf


def test_no_best_without_validation(tmp_path):
    save(tmp_path, 1)
    assert checkpoint.best_step(tmp_path) is None
    assert not (tmp_path / "best.json").exists()
    assert checkpoint.best_step(tmp_path / "nowhere") is None


def test_a_checkpoint_is_given_back_as_it_was(tmp_path):
    loaded = checkpoint.load_state(save(tmp_path, 7))
    assert torch.equal(loaded.pop("tensor"), torch.arange(7))
    assert loaded == {"format": checkpoint.FORMAT, "step": 7}


# -----------------------------------------------------------------------------------------------------------
# Reading what is damaged or foreign


def test_of_several_the_newest_readable_one_is_loaded(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    loaded, complaints = checkpoint.load_latest(tmp_path)
    assert loaded is not None and loaded["step"] == 2 and complaints == []
    (tmp_path / "step-00000002.pt").write_bytes(b"")
    loaded, complaints = checkpoint.load_latest(tmp_path)
    assert loaded is not None and loaded["step"] == 1
    assert len(complaints) == 1 and "step-00000002.pt" in complaints[0]
    # It is out of the way: nobody takes it for the newest, and nobody lost it.
    assert checkpoint.steps(tmp_path) == [1]
    assert (tmp_path / "step-00000002.pt.damaged").read_bytes() == b""
    assert checkpoint.load_latest(tmp_path)[1] == []
    (tmp_path / "step-00000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-00000001\.pt.*No earlier checkpoint is left"):
        checkpoint.load_latest(tmp_path)
    assert checkpoint.steps(tmp_path) == [1]
    assert checkpoint.load_latest(tmp_path / "nowhere") == (None, [])


def test_cut_off_anywhere_it_is_one_sentence(tiny_run, tmp_path):
    whole = (tiny_run / "checkpoints/step-00000004.pt").read_bytes()
    path = tmp_path / "step-00000004.pt"
    places = [0, 1, 3, 4, 30, 100, 1000, len(whole) - 1, len(whole) - 30]
    places += [len(whole) * i // 12 for i in range(1, 12)]
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(CheckpointError, match="is not a whole checkpoint") as error:
            checkpoint.load_state(path)
        assert str(path) in str(error.value)


def test_damaged_anywhere_it_is_one_sentence_or_harmless(tmp_path):
    path = tmp_path / "step-00000001.pt"
    damage = random.Random(0)
    for legacy in (False, True):
        torch.save(state(3), path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(damage.choice((1, 2, 5))):
                content[damage.randrange(len(content))] = damage.randrange(256)
            path.write_bytes(content)
            with contextlib.suppress(CheckpointError):  # and nothing else
                assert checkpoint.load_state(path)["format"] == checkpoint.FORMAT


class Trap:
    """Does something when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(Trap.path),)

    path: Path


def test_pickled_code_is_never_run(tmp_path):
    Trap.path = tmp_path / "sprung"
    for name, write in (("new.pt", torch.save), ("old.pt", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        path = tmp_path / name
        write({"format": checkpoint.FORMAT, "x": Trap()}, path)
        with pytest.raises(CheckpointError, match=name):
            checkpoint.load_state(path)
    assert not Trap.path.exists()


@pytest.mark.parametrize("content", [{"model": torch.zeros(2)}, {"format": "theirs"}, torch.zeros(2), [1, 2]])
def test_another_programs_checkpoint_is_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "latest_net_G.pt")
    with pytest.raises(CheckpointError, match=r"latest_net_G\.pt: is not a checkpoint of pairloom"):
        checkpoint.load_state(tmp_path / "latest_net_G.pt")


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: there is no such file"):
        checkpoint.load_state(tmp_path / "gone.pt")


# -----------------------------------------------------------------------------------------------------------
# Weights for people


def test_weights_carry_their_description(tmp_path):
    path = tmp_path / "net.safetensors"
    weights = {"a": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    checkpoint.save_weights(path, weights, {"network": "generator", "note": 'with "quotes" and ä'})
    loaded, described = checkpoint.load_weights(path)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[k], weights[k]) for k in weights)
    assert described == {"format": checkpoint.FORMAT, "network": "generator", "note": 'with "quotes" and ä'}


def test_loaded_weights_do_not_depend_on_the_file_any_more(tmp_path):
    path = tmp_path / "net.safetensors"
    checkpoint.save_weights(path, {"a": torch.ones(1000)}, {})
    loaded, _ = checkpoint.load_weights(path)
    with path.open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4000))
    assert torch.equal(loaded["a"], torch.ones(1000))


def test_weights_that_cannot_be_used_are_one_sentence(tmp_path):
    good, foreign, newer = (tmp_path / f"{name}.safetensors" for name in ("good", "foreign", "newer"))
    checkpoint.save_weights(good, {"a": torch.ones(9)}, {})
    save_file({"a": torch.ones(9)}, foreign, metadata={"format": "pt"})
    save_file({"a": torch.ones(9)}, newer, metadata={"pairloom": '{"format": "pairloom-2"}'})
    lists, no_json = (tmp_path / f"{name}.safetensors" for name in ("lists", "no_json"))
    save_file({"a": torch.ones(9)}, lists, metadata={"pairloom": "[1]"})
    save_file({"a": torch.ones(9)}, no_json, metadata={"pairloom": '{"format": '})
    half = tmp_path / "half.safetensors"
    half.write_bytes(good.read_bytes()[:-10])
    header = tmp_path / "header.safetensors"
    header.write_bytes(good.read_bytes()[:20])
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    pth = tmp_path / "latest_net_G.pth"
    torch.save({}, pth)
    for path, words in (
        (half, "is not a whole .safetensors file"),
        (header, "is not a whole .safetensors file"),
        (text, "is not a whole .safetensors file"),
        (foreign, "weights from elsewhere"),
        (newer, "'pairloom-2'"),
        (lists, "its description of the model is damaged"),
        (no_json, "its description of the model is damaged"),
        (pth, "is not a .safetensors file"),
        (tmp_path / "missing.safetensors", "there is no such file"),
    ):
        with pytest.raises(CheckpointError) as error:
            checkpoint.load_weights(path)
        assert str(error.value).startswith(f"{path}: ")
        assert words in str(error.value)


def test_the_published_files_describe_themselves(tiny_run):
    for network in ("generator", "discriminator"):
        with safe_open(tiny_run / f"{network}.safetensors", framework="pt") as file:
            described = json.loads(file.metadata()["pairloom"])
        assert described["format"] == checkpoint.FORMAT
        assert described["network"] == network
        assert described["config"]["objective"]["lambda_l1"] == 100.0
        assert described["source_spec"]["channels"] == described["target_spec"]["channels"] == 3
        assert described["semantics"] == {"norm_stats": "image", "dropout": True}
        environment = json.loads((tiny_run / "environment.json").read_text())
        assert described["provenance"] == {
            "run": "run",
            "pairs": 5,
            "data_fingerprint": environment["data_fingerprint"],
            "step": 4,
            "images_seen": 4,
        }


def test_the_published_weights_are_those_of_the_last_checkpoint(tiny_run):
    last = checkpoint.load_state(tiny_run / "checkpoints/step-00000004.pt")
    for network in ("generator", "discriminator"):
        weights, _ = checkpoint.load_weights(tiny_run / f"{network}.safetensors")
        assert weights.keys() == last[network].keys()
        assert all(torch.equal(weights[k], last[network][k]) for k in weights)


def test_d_is_loaded_from_a_run_or_its_file_or_is_none(tiny_run, tmp_path):
    for where in (tiny_run, tiny_run / "discriminator.safetensors"):
        d = checkpoint.load_discriminator(where)
        assert isinstance(d, Discriminator)
        assert not d.training and not any(p.requires_grad for p in d.parameters())
        assert d(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)).shape[1] == 1
    assert checkpoint.load_discriminator(tmp_path) is None
    assert checkpoint.load_discriminator(tmp_path / "gone") is None
    with pytest.raises(CheckpointError, match=r"is a generator; give discriminator\.safetensors"):
        checkpoint.load_discriminator(tiny_run / "generator.safetensors")


@pytest.mark.parametrize("published", [(), ("generator",), ("generator", "discriminator")], ids=str)
def test_g_and_d_are_of_one_step_wherever_a_kill_came(tiny_data, tmp_path, published):
    """Killed after the state of step 4 was written, and before all the files for people were."""
    run = pairloom.train(tiny_config(tiny_data, training__steps=2), tmp_path / "run")
    later = tmp_path / "later"
    shutil.copytree(run, later)
    pairloom.train(tiny_config(tiny_data, training__steps=4), later)
    for name in ("checkpoints/step-00000004.pt", *(f"{network}.safetensors" for network in published)):
        shutil.copy(later / name, run / name)
    state = checkpoint.load_state(run / "checkpoints/step-00000004.pt")
    d = checkpoint.load_discriminator(run)
    assert d is not None
    for network, net in (("generator", pairloom.Translator.load(run).generator), ("discriminator", d)):
        for key, value in net.state_dict().items():
            assert torch.equal(value, state[network][key]), (network, key)


def test_a_state_with_a_damaged_description_is_one_sentence(tiny_run, tmp_path):
    state = checkpoint.load_state(tiny_run / "checkpoints/step-00000004.pt")
    path = tmp_path / "step-00000004.pt"
    for damaged in ("[1]", "{", None):
        torch.save({**state, "model": damaged}, path)
        for load in (pairloom.Translator.load, checkpoint.load_discriminator):
            with pytest.raises(
                CheckpointError, match=r"00000004\.pt: its description of the model is damaged"
            ):
                load(path)


# -----------------------------------------------------------------------------------------------------------
# A full disk


def on_a_small_disk(limit: int, *arguments: object) -> None:
    """The command line where no file can grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as of a process that was started with a pipe
    cli(*arguments)


@pytest.mark.parametrize("limit", [20, 50_000], ids=["nothing fits", "no checkpoint fits"])
def test_a_full_disk_costs_nothing_that_was_written(tiny_data, tmp_path, limit):
    run = tmp_path / "run"
    pairloom.train(tiny_config(tiny_data, training__steps=2), run)
    files = {path: path.read_bytes() for path in [*run.rglob("*.pt"), *run.rglob("*.safetensors")]}
    assert len(files) == 3 and sorted(map(len, files.values()))[1] > 50_000
    # What is said goes through a pipe: a file would be limited too.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = Child(pipe, on_a_small_disk, limit, "train", tiny_data, "--out", run, "--preset", "tiny")
    said = pipe.read_text()
    assert child.wait() == 2, said
    last = said.splitlines()[-1]
    assert last.startswith("pairloom: ") and "could not be written" in last and "free some disk space" in last
    assert str(run) in last
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in files} == files
    assert not list(run.rglob("*.tmp"))

    pairloom.train(tiny_config(tiny_data), run)
    assert checkpoint.steps(run / "checkpoints") == [2, 4]
    assert "Resuming at step 2 of 4." in (run / "log.txt").read_text()
