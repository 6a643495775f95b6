"""The Ray launcher, on a cluster that it starts itself in a process of its own: Ray warns of much."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import cli
from pairloom import bulk, cluster, images
from pairloom.files import find_images
from pairloom.translator import Translator
from test_bulk import make_sources, tree
from test_files import save_picture


def test_without_ray_it_is_one_sentence(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    sources = make_sources(tmp_path / "in", 2)
    with pytest.raises(SystemExit) as stop:
        cli("translate", tiny_run, sources, "--out", tmp_path / "out", "--launcher", "ray")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("pairloom: --launcher ray needs the package ray") and "pairloom[scale]" in said
    assert said.count("\n") == 1


@pytest.fixture
def no_cluster(monkeypatch):
    """Ray is there, and a cluster must not be asked for."""
    monkeypatch.setattr(cluster, "_ray", lambda: (None, None))
    monkeypatch.setattr(cluster, "_join", lambda ray: pytest.fail("a cluster was joined"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--samples", "0"], "samples is 0; it must be 1 or more."),
        (["--batch-size", "-2"], "batch_size is -2; it must be 1 or more."),
        (["--actors", "-1"], "--actors is -1; it must be 0 or more."),
        (["--shard", "3/2"], "--shard is '3/2'; it must be i/n"),
    ],
)
def test_what_is_wrong_is_said_before_a_cluster_is_there(
    no_cluster, tiny_run, tmp_path, refused, flags, words
):
    sources, out = make_sources(tmp_path / "in", 2), tmp_path / "out"
    assert words in refused("translate", tiny_run, sources, "--out", out, "--launcher", "ray", *flags)
    assert not out.exists()


def test_a_model_that_is_not_there_is_said_before_a_cluster_is(no_cluster, tmp_path, refused):
    sources = make_sources(tmp_path / "in", 2)
    said = refused("translate", tmp_path / "nothing", sources, "--out", tmp_path / "out", "--launcher", "ray")
    assert str(tmp_path / "nothing") in said


def test_the_cluster_loads_the_model_as_this_machine_does(tiny_run, tmp_path, monkeypatch):
    sources = make_sources(tmp_path / "in", 2)
    flags = ["--precision", "bf16", "--dropout", "False", "--norm-stats", "running", "--checkpoint", "best"]
    flags += ["--device", "cpu"]
    loaded, handed = [], []
    load = Translator.load
    monkeypatch.setattr(Translator, "load", lambda model, **how: loaded.append(how) or load(model, **how))
    monkeypatch.setattr(
        cluster, "translate_on_ray", lambda *given, **how: handed.append(how["loading"]) or len(given[1])
    )
    for launcher in ("local", "ray"):
        cli("translate", tiny_run, sources, "--out", tmp_path / launcher, *flags, "--launcher", launcher)
    assert handed == loaded
    assert handed[0]["precision"] == "bf16"


def test_an_actor_refuses_what_collides_and_translates_the_rest(tiny_run, tmp_path):
    sources, out = make_sources(tmp_path / "in", 4), tmp_path / "out"
    save_picture(sources / "0/3.jpg")
    (sources / "bad.png").write_bytes(b"no image")
    groups = bulk.groups(find_images([sources], besides=out))
    rows = [json.dumps([[str(file), str(name)] for file, name in group]) for group in groups]
    actor = cluster._Translating(str(tiny_run), str(out), {}, {}, torch.get_num_threads())
    (faults,) = map(json.loads, actor({"files": rows})["faults"])
    assert sorted(tree(out)) == ["0/0.png", "1/1.png", "2/2.png"]
    assert [line.split(": ")[0] for line in faults] == [
        str(sources / name) for name in ("0/3.jpg", "0/3.png", "bad.png")
    ]
    assert "both would be written" in faults[0]
    again = actor({"files": rows})
    assert json.loads(again["faults"][0]) == faults, "what is there stays, and the faults are told again"


def test_of_rays_traces_the_cause_is_said():
    wrapped = (
        "The actor died.\n\x1b[36mray::MapWorker\x1b[39m\n  File x\nOSError: \x1b[31mno room\x1b[39m\n\n"
    )
    assert cluster._cause(RuntimeError(wrapped)) == "OSError: no room"
    assert cluster._cause(RuntimeError()) == "RuntimeError"


def test_actors_without_a_cluster_are_refused(tiny_run, tmp_path, refused):
    sources = make_sources(tmp_path / "in", 2)
    said = refused("translate", tiny_run, sources, "--out", tmp_path / "out", "--actors", "3")
    assert said.startswith("--actors is 3, which is for --launcher ray")


def launched(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pairloom", "translate", *map(str, arguments), "--launcher", "ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", **environment},
    )


def descendants(of: int) -> dict[int, str]:
    """Process ids below a process, and how they are called."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended
                continue
    below: dict[int, str] = {}
    found = {of}
    while found:
        found = {pid for pid, parent in parents.items() if parent in found}
        below |= {pid: names.get(pid, "") for pid in found}
    return below


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_sentence(tiny_run, tmp_path):
    pytest.importorskip("ray.data")
    sources = make_sources(tmp_path / "in", 2)
    process = launched(tiny_run, sources, "--out", tmp_path / "out", RAY_ADDRESS="127.0.0.1:1")
    _, said = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "the Ray cluster at RAY_ADDRESS=127.0.0.1:1 cannot be reached or started" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the workers in /proc")
def test_a_worker_that_is_killed_costs_nothing(tiny_run, tmp_path):
    """Every output is there once, whole, as one process makes it; a bad file is told; no process stays."""
    pytest.importorskip("ray.data")
    sources, out = tmp_path / "in", tmp_path / "out"
    for i in range(40):
        save_picture(sources / f"{i % 2}/{i:02}.png", (400, 400), i)
    (sources / "bad.png").write_bytes(b"no image")
    process = launched(tiny_run, sources, "--out", out, "--seed", "4", "--actors", "1")
    end = time.monotonic() + 200
    while len(tree(out)) < 5:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
    below = descendants(process.pid)
    workers = [pid for pid, name in below.items() if name.startswith("ray::") and "Translating" in name]
    assert len(workers) == 1, below
    os.kill(workers[0], signal.SIGKILL)
    killed_at = len(tree(out))
    said, faults = process.communicate(timeout=300)
    assert killed_at < 40, "it was to be killed in the middle"
    assert process.returncode == 2, (said, faults)
    told = [line for line in faults.splitlines() if "bad.png" in line]
    assert len(told) == 1
    assert "1 of 41 images could not be translated; the others were." in faults

    with pytest.raises(SystemExit):
        cli("translate", tiny_run, sources, "--out", tmp_path / "alone", "--seed", "4")
    made, expected = tree(out), tree(tmp_path / "alone")
    assert made.keys() == expected.keys() and len(made) == 40
    for name in made:
        one, other = (images.read_image(folder / name).astype(int) for folder in (out, tmp_path / "alone"))
        assert np.abs(one - other).max() <= 1, name  # other numbers of threads add in another order
    end = time.monotonic() + 30
    while alive := [pid for pid in below if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.1)
