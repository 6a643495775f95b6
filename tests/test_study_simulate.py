"""Artificial observers through the real server: nothing is lost, and the analysis finds what is known."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from pairloom.study.analysis import analyse
from pairloom.study.making import new_study
from pairloom.study.protocol import StudyFault, StudySettings
from pairloom.study.server import make_links
from pairloom.study.simulate import Visitor, count_missing, named_shares, serving, simulate
from pairloom.study.store import Store
from study_people import insert, made_up_key, people, write_study

FOOL = {"L1": 0.05, "GAN": 0.4}


def small(folder: Path, **fields: object) -> Path:
    settings = StudySettings(
        algorithms=("L1", "GAN"), **{"trials": 20, "practice": 2, "attention": 2, **fields}
    )  # type: ignore[arg-type]
    study = write_study(folder / "study", settings, made_up_key(settings.algorithms, 24, attention=2))
    for name in ("consent.md", "instructions.md"):
        (study / name).write_text("Thank you.")
    return study


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that 16 observers have played; the first simulation of it is checked here."""
    study = small(tmp_path_factory.mktemp("simulate"))
    simulation = simulate(study, 16, FOOL, seed=3)
    assert (simulation.observers, simulation.answers, simulation.missing) == (16, 16 * 24, 0)
    assert "none is missing" in simulation.words()
    for arm, p in FOOL.items():
        assert simulation.known[arm] == p and simulation.drawn[arm] == pytest.approx(p, abs=0.12)
    return study


def test_analysis_finds_the_known_truth(played: Path) -> None:
    results = analyse(played, resamples=2000)
    assert results.artificial and not [s for s in results.sessions if s.reason]
    for arm, p in FOOL.items():
        share = results.shares[arm]
        assert (share.sessions, share.trials) == (8, 160)
        assert share.low <= p <= share.high
    assert results.pairs["GAN", "L1"].distinguishable
    assert "artificial observers" in (played / "results" / "study.html").read_text()


def test_played_is_what_the_analysis_counts_and_repeats(tmp_path: Path) -> None:
    first = simulate(small(tmp_path / "a", trials=6), 4, FOOL, seed=1, at_once=1)
    study = small(tmp_path / "b", trials=6)
    assert simulate(study, 4, FOOL, seed=1, at_once=4).drawn == first.drawn
    shares = analyse(study, resamples=200).shares
    assert {arm: share.mean for arm, share in shares.items()} == pytest.approx(first.drawn)


@pytest.mark.parametrize("mode", ["single", "prefer"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    study = small(tmp_path, mode=mode, trials=16)
    simulation = simulate(study, 8, {"L1": 0.2, "GAN": 0.6}, false_alarm=0.3, seed=1)
    assert simulation.missing == 0 and simulation.answers == 8 * 20
    results = analyse(study, resamples=1000)
    assert not [s for s in results.sessions if s.reason], "attention checks are answered rightly"
    for arm, p in simulation.known.items():
        assert results.shares[arm].mean == pytest.approx(simulation.drawn[arm])
        assert results.shares[arm].low <= p <= results.shares[arm].high
    if mode == "prefer":
        assert simulation.known == {"L1|GAN": 0.25}
    else:
        assert results.reals["GAN"].low <= 0.3 <= results.reals["GAN"].high


def test_adaptive_by_invitation_uses_links_of_its_own(tmp_path: Path) -> None:
    study = small(tmp_path, adaptive=True, trials=8)
    make_links(study, 3)
    assert simulate(study, 2, {"L1": 0.0, "GAN": 0.5}, spread=0.3).missing == 0
    with Store(study) as store:
        used = [session for session in store.links().values() if session]
        first_three = list(store.links().values())[:3]
    assert len(used) == 2 and first_three == [None] * 3
    assert analyse(study, resamples=200).thresholds["L1"].ms < 1000


def test_lost_answers_are_counted(played: Path, tmp_path: Path) -> None:
    with sqlite3.connect(played / "study.sqlite") as db:
        (secret, session), *_ = db.execute("SELECT secret, id FROM sessions ORDER BY seed").fetchall()
        stored = db.execute("SELECT number, answer FROM trials WHERE session = ?", (session,)).fetchall()
    db.close()
    assert count_missing(played, {secret: stored}) == 0
    wrong = [(number, 1 - answer) for number, answer in stored[:2]] + stored[2:]
    assert count_missing(played, {secret: wrong}) == 2
    assert count_missing(played, {"no such secret": stored}) == 24
    simulation = simulate(small(tmp_path, trials=2, practice=0, attention=0), 1, FOOL)
    assert "MISSING" in dataclasses.replace(simulation, missing=1).words()


def test_made_by_new_study(tmp_path: Path) -> None:
    """A study as `study new` makes it, from folders."""
    for name, source in (("real", 0), ("L1", 80), ("GAN", 160)):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(6):
            colour = (source + number, 20 * number, 90)
            Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")
    fakes = {name: tmp_path / name for name in ("L1", "GAN")}
    new_study(tmp_path / "study", seed=1, real=tmp_path / "real", fakes=fakes, trials=4, practice=2)
    assert simulate(tmp_path / "study", 2, FOOL).missing == 0
    assert set(analyse(tmp_path / "study", resamples=200).shares) == {"L1", "GAN"}


def test_what_cannot_be_simulated_is_said(tmp_path: Path) -> None:
    study = small(tmp_path)
    for fool, said in (({"L1": 0.1}, "must name each"), ({**FOOL, "x": 0.1}, "must name each")):
        with pytest.raises(StudyFault, match=said):
            simulate(study, 1, fool)
    with pytest.raises(StudyFault, match="fool of L1 is 20"):
        simulate(study, 1, {"L1": 20, "GAN": 0.1})
    with pytest.raises(StudyFault, match="observers is 0"):
        simulate(study, 0, FOOL)
    with pytest.raises(StudyFault, match="spread is 1"):
        simulate(study, 1, FOOL, spread=1)
    settings = StudySettings.load(study)
    insert(study, *people(settings, made_up_key(("L1", "GAN"), 24, attention=2), 2, FOOL))
    with pytest.raises(StudyFault, match="people have begun 2 sessions"):
        simulate(study, 1, FOOL)
    with pytest.raises(StudyFault, match="holds no study"):
        simulate(tmp_path / "none", 1, FOOL)


def test_refusals_and_silence_of_the_server_are_said(tmp_path: Path) -> None:
    study = small(tmp_path)
    with serving(study) as port:
        visitor = Visitor("127.0.0.1", port)
        with pytest.raises(StudyFault, match="refused trial with 404"):
            visitor.post("trial", session="unknown")
        visitor.close()
    with pytest.raises(StudyFault, match="did not answer begin"):
        Visitor("127.0.0.1", port).begin()


def test_named_shares() -> None:
    assert named_shares(["L1=0.2", "a=b=1"]) == {"L1": 0.2, "a=b": 1.0}
    for bad in (["L1"], ["=0.2"], ["L1=x"], ["L1=20"], ["L1=nan"], ["L1=0.1", "L1=0.2"]):
        with pytest.raises(StudyFault, match=r"NAME=SHARE|given twice"):
            named_shares(bad)
