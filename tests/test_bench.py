"""`pairloom bench`: the arithmetic and the table; how fast a machine is, no test can say."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from conftest import cli
from pairloom import bench as suite
from pairloom import presets
from pairloom.bench import Loops, bench, config_for, estimates, in_turn, span, words


@pytest.fixture(scope="module")
def result():
    return bench(quick=True, device="cpu", size=32, width=4)


def test_the_estimates_are_pairs_times_epochs_by_batch():
    found = estimates({1: 0.15, 4: 0.5}, pair_seconds=0.01)
    assert found["facades"]["steps"] == 80_000
    assert found["facades"]["seconds"] == pytest.approx(12_000)
    assert span(found["facades"]["seconds"]) == "3 h 20 min"
    assert found["maps"]["steps"] == 219_200
    assert found["day2night"]["steps"] == math.ceil(17 * 17_823 / 4)
    assert found["day2night"]["seconds"] == pytest.approx(0.5 * math.ceil(17 * 17_823 / 4))
    assert set(found) == set(suite.PAIRS) <= set(presets.PRESETS)


def test_reading_sets_the_pace_where_it_is_slower():
    found = estimates({1: 0.15, 4: 0.5}, pair_seconds=0.2)
    assert found["facades"]["seconds_per_step"] == 0.2
    assert found["thermal"]["seconds_per_step"] == pytest.approx(0.8)


def test_what_was_not_measured_is_not_estimated():
    assert set(estimates({1: 1.0}, 0.0)) == {"facades", "maps", "cityscapes"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0.4, "0 s"), (89, "89 s"), (91, "2 min"), (3599, "1 h 0 min")),
        *((12_000, "3 h 20 min"), (260_000, "3 days 0 h")),
    ],
)
def test_spans_are_for_people(seconds, said):
    assert span(seconds) == said


def test_the_times_are_taken_in_turn_after_warming_up():
    ran: list[str] = []
    runs = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    assert [len(values) for values in in_turn(runs, 3).values()] == [3, 3]
    assert "".join(ran) == "abababab"


def test_a_slow_machine_is_measured_once_and_not_for_an_hour():
    times = in_turn({"a": lambda: time.sleep(0.01)}, 10_000, most_seconds=0.001)
    assert len(times["a"]) == 1


def test_both_loops_train_the_same_networks():
    loops = Loops(config_for(32, 1, "fp32", width=4), 32, 1)
    loops.plain()()
    step = loops.pairloom()
    before = [p.clone() for p in loops.state.generator.parameters()]
    step()
    after = loops.state.generator.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_result_is_json_and_its_words_are_a_table(result):
    assert json.loads(json.dumps(result)) == result
    said = words(result)
    for row in result["rows"]:
        assert sum(line.startswith(row) for line in said.splitlines()) == 1
    kinds = [name.partition(",")[0] for name in result["rows"]]
    assert kinds[:3] == ["training step", "training step", "inference"]
    facades = result["estimates"]["facades"]
    assert f"This machine trains the facades preset in about {span(facades['seconds'])}" in said
    assert {"torch", "pairloom", "onnxruntime", "python"} <= set(result["versions"])
    assert result["threads"] == torch.get_num_threads()


def test_a_busy_machine_is_said_to_be_that(result):
    assert "was busy" in words({**result, "load_average_1_min": [5.4, 6.0], "cores": 2})
    assert "was busy" not in words({**result, "load_average_1_min": [0.1, 2.0], "cores": 2})
    assert "was busy" not in words({**result, "load_average_1_min": [None, None]})


def test_the_command_prints_and_writes(result, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "bench", lambda **_: result)
    cli("bench", "--quick", "--json", tmp_path / "bench.json")
    assert "This machine trains the facades preset" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text()) == result


@pytest.mark.parametrize("file", ["no/such/folder.json", "."])
def test_a_file_that_cannot_be_written_is_refused_before_measuring(tmp_path, monkeypatch, refused, file):
    monkeypatch.setattr("pairloom.bench.bench", lambda **_: pytest.fail("it measured"))
    assert refused("bench", "--json", tmp_path / file).startswith(
        f"--json is {tmp_path / file}, which is not"
    )
