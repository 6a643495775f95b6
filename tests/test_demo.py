"""The demo: the whole job on the built-in sample set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pairloom import demo
from pairloom.data.sample import PALETTE
from pairloom.translator import Translator


def test_the_demo_goes_from_nothing_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "COUNT", 30)
    monkeypatch.setattr(demo, "TRAINING_SECONDS", 0)
    monkeypatch.setattr(demo, "MIN_STEPS", 2)
    report = demo.run_demo(tmp_path / "demo")
    said = capsys.readouterr().out
    assert report == tmp_path / "demo" / "report.html"
    assert report.stat().st_size > 100_000
    assert "mean target" in said
    assert "nearest pair" in said
    assert "favour the mean" in said
    assert str(report) in said
    assert "pairloom translate" in said
    assert (tmp_path / "demo" / "moved-window.png").exists()
    assert len(list((tmp_path / "demo" / "evaluation" / "images").rglob("*.png"))) == 3

    # The same call again does not train a finished run anew.
    before = (tmp_path / "demo" / "metrics.jsonl").read_text()
    demo.run_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_the_demo_learns_what_its_baselines_do_not_know(tmp_path: Path) -> None:
    run = demo.run_demo(tmp_path / "demo").parent
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    for baseline in ("mean_target", "nearest_pair"):
        assert summary["differences"][baseline]["SSIM"]["low"] > 0
    assert summary["differences"]["nearest_pair"]["L1"]["high"] < 0

    moved = demo.move_window(Translator.load(run))
    assert moved.change_inside > 5
    now = (moved.moved_labels != moved.labels).any(axis=2) & (
        moved.moved_labels == dict(PALETTE)["window"]
    ).all(axis=2)
    assert now.any()
    # Where wall became window the output becomes darker: glass.
    assert moved.moved_output[now].mean() < moved.output[now].mean() - 10
