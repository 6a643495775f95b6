"""The analysis of a study: against independent computations, hand-made sessions, and known truths."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairloom.study import resampling
from pairloom.study.analysis import analyse, hit, measure
from pairloom.study.drawing import staircase
from pairloom.study.exclusions import Session, counted, rule_words, sessions_of
from pairloom.study.power import session_hits
from pairloom.study.protocol import StudyFault, StudySettings
from pairloom.study.results import Results, extremes
from pairloom.study.results_page import PAPER
from pairloom.study.results_tables import to_csv
from pairloom.study.store import SessionRow, TrialRow
from study_people import insert, made_up_key, people, write_study

TWO = StudySettings(algorithms=("L1", "GAN"), trials=20, practice=4, attention=2, admin_token_sha256="f" * 64)
KEY = made_up_key(TWO.algorithms, 30, attention=2)
HIT = {"L1": 0.1, "GAN": 0.3}


def found(
    settings: StudySettings, rows: list[SessionRow], trials: list[TrialRow], key: Any = KEY, **options: Any
) -> Results:
    return measure(settings, key, sessions_of(rows, trials, settings.exclusion), resamples=2000, **options)


def changed(trials: list[TrialRow], session: int, numbers: Any, **fields: Any) -> list[TrialRow]:
    """The same trials, some of one session with other fields."""
    return [
        dataclasses.replace(t, **fields) if t.session == f"id-{session}" and t.number in numbers else t
        for t in trials
    ]


# -----------------------------------------------------------------------------------------------------------
# The bootstrap


def copied_bootstrap(fooled: list[list[int]], resamples: int, seed: int) -> np.ndarray:
    """As the original tool does it: sessions by index, then every trial by index."""
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for r in range(resamples):
        drawn = [fooled[i] for i in rng.integers(len(fooled), size=len(fooled))]
        again = [np.asarray(session)[rng.integers(len(session), size=len(session))] for session in drawn]
        means[r] = np.concatenate(again).mean()
    return means


def test_bootstrap_is_the_original_tools() -> None:
    rng = np.random.default_rng(5)
    fooled = [(rng.random(40) < p).astype(int).tolist() for p in rng.beta(2, 8, 12)]
    fooled[3] = fooled[3][:17]  # a session with fewer trials that count
    counts = [(sum(session), len(session)) for session in fooled]
    ours = resampling.bootstrap(counts, np.random.default_rng(0), resamples=10_000)
    theirs = copied_bootstrap(fooled, 4000, 1)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.004)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    for quantile in (0.025, 0.975):
        assert np.quantile(ours, quantile) == pytest.approx(np.quantile(theirs, quantile), abs=0.006)


def test_standard_error_by_hand() -> None:
    """With equal trials, SE^2 = (variance of the sessions' shares + mean of x (1 - x) / n) / S."""
    hits, trials = np.array([2, 4, 9, 0, 5, 1, 12, 3]), 40
    x = hits / trials
    counts = [(int(h), trials) for h in hits]
    rng = np.random.default_rng(0)
    draws = resampling.bootstrap(counts, rng)
    share = resampling.share(counts, draws, rng)
    assert share.se == pytest.approx(math.sqrt((x.var() + (x * (1 - x)).mean() / trials) / 8), rel=0.03)
    assert (share.mean, share.hits, share.trials, share.sessions) == (36 / 320, 36, 320, 8)
    alone = resampling.bootstrap_sessions(counts, rng)
    assert alone.std() == pytest.approx(x.std() / math.sqrt(8), rel=0.03)
    assert share.low < share.sessions_only[0] < share.mean < share.sessions_only[1] < share.high


@pytest.mark.parametrize(("spread", "least", "most"), [(0.0, 0.96, 1.0), (0.37, 0.88, 0.985)])
def test_coverage(spread: float, least: float, most: float) -> None:
    """Near 95 % where people differ as the paper's; above, as the module says, where they do not."""
    rng, inside = np.random.default_rng(3), []
    for _ in range(200):
        counts = [(int(k), 40) for k in session_hits(0.2, 40, spread, (40,), rng)]
        share = resampling.share(counts, resampling.bootstrap(counts, rng, resamples=400), rng)
        inside.append(share.low <= 0.2 <= share.high)
    assert least <= np.mean(inside) <= most


def test_no_hit_at_all_has_an_interval_and_is_said() -> None:
    rows, trials = people(TWO, KEY, 6, {"L1": 0.0, "GAN": 1.0})
    results = found(dataclasses.replace(TWO, exclusion={}), rows, trials)
    low, high = results.shares["L1"], results.shares["GAN"]
    assert (low.mean, low.se, low.low) == (0, 0, 0)
    assert low.high == pytest.approx(1 - 0.025 ** (1 / 60))  # Clopper and Pearson, 0 of 60
    assert (high.mean, high.high) == (1, 1) and high.low == pytest.approx(0.025 ** (1 / 60))
    assert results.pairs["GAN", "L1"].distinguishable
    assert "no trial of 60" in results.words() and "every trial of 60" in results.words()


def test_holm_by_hand() -> None:
    assert resampling.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert resampling.holm([0.9, 0.8]) == [1.0, 1.0]


def test_ties_count_one_half() -> None:
    contrast = resampling.contrast(0.1, np.array([0.2, 0.1, 0.0, 0.0, -0.1]))
    assert contrast.greater == pytest.approx(0.6)
    assert contrast.p == pytest.approx(0.8)
    assert resampling.contrast(0.0, np.zeros(100)).p == 1.0
    assert resampling.contrast(0.3, np.full(100, 0.3)).p == pytest.approx(2 / 100)


def test_d_prime_by_hand() -> None:
    assert resampling.d_prime(0.2, 0.2, 1e9, 1e9) == pytest.approx(2 * 0.841621, abs=1e-4)
    assert resampling.d_prime(0.5, 0.5, 40, 40) == pytest.approx(0.0)
    assert math.isfinite(resampling.d_prime(0.0, 0.0, 20, 20))


# -----------------------------------------------------------------------------------------------------------
# What counts


def test_shares_count_main_trials_of_their_own_algorithm() -> None:
    rows, trials = people(TWO, KEY, 12, HIT)
    results = found(TWO, rows, trials)
    for arm in TWO.algorithms:
        own = {row.id for row in rows if row.algorithm == arm}
        main = [t for t in trials if t.session in own and not t.practice and not t.attention]
        assert len(main) == 6 * 20
        share = results.shares[arm]
        assert (share.hits, share.trials) == (sum(t.answer != t.fake_side for t in main), len(main))
        assert results.everything[arm].hits == share.hits
    assert {image.algorithm for image in results.images} == {"L1", "GAN"}
    assert sum(image.shown for image in results.images) == 240
    other = changed(changed(trials, 0, range(4), answer=0), 3, range(4), answer=1)  # practice
    assert found(TWO, rows, other).shares == results.shares


def test_truth_is_inside_its_interval() -> None:
    rows, trials = people(TWO, KEY, 80, HIT, spread=0.3, seed=2)
    results = found(TWO, rows, trials)
    for arm, p in HIT.items():
        assert results.shares[arm].low <= p <= results.shares[arm].high
        assert results.chance[arm].distinguishable and results.chance[arm].difference < 0
    pair = results.pairs["GAN", "L1"]
    assert pair.distinguishable and pair.greater > 0.99 and pair.low < 0.2 < pair.high


def test_equal_algorithms_are_not_told_apart() -> None:
    rows, trials = people(TWO, KEY, 40, {"L1": 0.2, "GAN": 0.2}, spread=0.3, seed=4)
    results = found(TWO, rows, trials)
    (pair,) = results.pairs.values()
    assert not pair.distinguishable and pair.low < 0 < pair.high
    assert "not distinguishable" in results.words()


@pytest.mark.parametrize(
    ("numbers", "fields", "reason"),
    [
        (range(20, 26), {"answer": None, "answered_at": None, "shown_at": None}, "not finished"),
        (range(26), {"answered_at": "2026-11-02T09:00:20.000+00:00"}, "less than 60 s"),
        (range(4, 14), {"hidden": True}, "tab hidden"),
        (range(26), {"answer": 1}, "the same answer"),
        (range(4, 26), {"measured_first_ms": 1051.0}, "none of its trials counts"),
        (range(26), {"answer": None, "answered_at": None}, "no main trial answered"),
    ],
)
def test_sessions_are_left_out_by_the_rule(numbers: range, fields: dict[str, Any], reason: str) -> None:
    rows, trials = people(TWO, KEY, 6, HIT)
    results = found(TWO, rows, changed(trials, 0, numbers, **fields))
    (left_out,) = [s for s in results.sessions if s.reason]
    assert left_out.number == 1 and reason in left_out.reason
    arm = rows[0].algorithm
    assert results.shares[arm].sessions == 2
    assert results.everything[arm].sessions == (2 if reason == "no main trial answered" else 3)


def test_failed_attention_checks_leave_out() -> None:
    rows, trials = people(TWO, KEY, 6, HIT)
    wrong = [
        dataclasses.replace(t, answer=1 - (t.fake_side or 0)) if t.attention and t.session == "id-2" else t
        for t in trials
    ]
    (left_out,) = [s for s in found(TWO, rows, wrong).sessions if s.reason]
    assert left_out.number == 3 and left_out.reason == "0 % of the attention checks right, less than 50 %"


def test_rules_that_are_not_stated_are_not_asked_for() -> None:
    settings = dataclasses.replace(TWO, exclusion={})
    rows, trials = people(settings, KEY, 4, HIT)
    results = found(settings, rows, changed(trials, 0, range(26), answer=1, hidden=False))
    assert not [s for s in results.sessions if s.reason]
    assert len(rule_words({})) == 2 and len(rule_words(TWO.exclusion)) == 6


def test_single_trials_are_left_out() -> None:
    rows, trials = people(TWO, KEY, 4, HIT)
    main = [t.number for t in trials if t.session == "id-1" and not t.practice and not t.attention]
    faulty = changed(trials, 1, main[:1], hidden=True)
    faulty = changed(faulty, 1, main[1:2], measured_second_ms=949.0)
    faulty = changed(faulty, 1, main[2:3], times_shown=2)
    faulty = changed(faulty, 1, main[3:4], measured_first_ms=1050.0)  # not more than 50 ms
    faulty = changed(faulty, 1, main[4:5], measured_first_ms=None, measured_second_ms=None)
    results = found(TWO, rows, faulty)
    arm = rows[1].algorithm
    assert results.shares[arm].trials == 2 * 20 - 3 and results.everything[arm].trials == 40
    said = results.words()
    assert "Left out: 1 trial of 80, tab hidden." in said
    assert "Left out: 1 trial of 80, exposure off by more than 50 ms." in said
    assert "Left out: 1 trial of 80, shown again after a reload." in said
    assert "no exposure in 1 trial," in said


def test_artificial_observers_never_stand_among_people() -> None:
    rows, trials = people(TWO, KEY, 6, HIT)
    only = [dataclasses.replace(row, user_agent="pairloom-simulate/1") for row in rows]
    quick = [dataclasses.replace(t, answered_at=t.shown_at, shown_at=rows[0].started) for t in trials]
    results = found(TWO, only, quick)
    assert results.artificial and len(counted(results.sessions)) == 6
    assert "no person took part" in results.words()
    mixed = found(TWO, [*rows[:4], *only[4:]], trials)
    assert not mixed.artificial and len(counted(mixed.sessions)) == 4
    assert sum(share.sessions for share in mixed.everything.values()) == 4


# -----------------------------------------------------------------------------------------------------------
# The other modes


def test_single_separates_sensitivity_from_readiness() -> None:
    settings = StudySettings(algorithms=("L1", "GAN"), mode="single", trials=24, practice=2)
    rows, trials = people(settings, KEY, 40, {"L1": 0.1, "GAN": 0.75}, false_alarm=0.25, seed=1)
    results = found(settings, rows, trials)
    share, reals = results.shares["GAN"], results.reals["GAN"]
    assert share.trials == reals.trials == 20 * 12
    assert share.low <= 0.75 <= share.high and reals.low <= 0.25 <= reals.high
    assert not results.chance["GAN"].distinguishable  # as often called real as real images are
    assert results.chance["L1"].distinguishable
    d_prime = results.sensitivity["L1"]
    assert d_prime.low <= 1.2816 + 0.6745 <= d_prime.high
    assert results.sensitivity["GAN"].low <= 0 <= results.sensitivity["GAN"].high
    real = next(t for t in trials if t.fake_side == 0 and not t.practice)
    assert hit(real, settings, KEY, "GAN") is None


def test_prefer_counts_the_first_of_the_pair_wherever_it_stands() -> None:
    settings = StudySettings(algorithms=("A", "B", "C"), mode="prefer", trials=20, practice=0)
    key = made_up_key(settings.algorithms, 20)
    truth = {"A|B": 0.3, "A|C": 0.1, "B|C": 0.5}
    rows, trials = people(settings, key, 45, truth, seed=1)
    results = found(settings, rows, trials, key)
    for arm, p in truth.items():
        assert results.shares[arm].trials == 300
        assert results.shares[arm].low <= p <= results.shares[arm].high
    assert results.pairs == {} and results.chance["A|B"].distinguishable
    mean = (results.shares["A|B"].mean + results.shares["A|C"].mean) / 2
    assert results.wins["A"].value == pytest.approx(mean)
    assert results.wins["A"].low < mean < results.wins["A"].high
    assert sum(win.value for win in results.wins.values()) == pytest.approx(1.5)
    assert math.isnan(results.times["A|B"].right) and results.times["A|B"].median > 0
    assert sum(image.hits for image in results.images) == sum(image.shown for image in results.images) / 2


def test_adaptive_exposure_compares_exposures() -> None:
    settings = StudySettings(algorithms=("L1", "GAN"), adaptive=True, trials=40, practice=2)
    key = made_up_key(settings.algorithms, 42)
    rows, trials = people(settings, key, 24, {"L1": 0.0, "GAN": 0.0})
    middle, rng = {"L1": 120.0, "GAN": 500.0}, np.random.default_rng(0)
    played: list[TrialRow] = []
    for row in rows:
        right: list[bool] = []
        for trial in (t for t in trials if t.session == row.id):
            ms = 1000 if trial.practice else staircase(1000, right)
            ok = bool(rng.random() < 0.5 + 0.5 / (1 + (middle[row.algorithm] / ms) ** 1.5))
            right += [] if trial.practice else [ok]
            answer = trial.fake_side if ok else 1 - (trial.fake_side or 0)
            shown = {"measured_first_ms": float(ms), "measured_second_ms": float(ms)}
            played.append(dataclasses.replace(trial, exposure_ms=ms, answer=answer, **shown))
    results = found(settings, rows, played, key)
    for arm, ms in middle.items():
        truth = ms / 1.415 ** (1 / 1.5)  # where that curve is at 70.7 %
        threshold = results.thresholds[arm]
        assert 0.75 * truth < threshold.ms < 1.4 * truth and threshold.low < threshold.ms < threshold.high
        assert sum(row.trials for row in threshold.exposures) == results.shares[arm].trials
    pair = results.pairs["GAN", "L1"]
    assert pair.distinguishable and 2**pair.low < 500 / 120 < 2**pair.high
    assert not results.chance and "must be seen longer" in results.words()
    stuck = [dataclasses.replace(t, exposure_ms=50 if t.number > 12 else 1000) for t in played]
    assert found(settings, rows, stuck, key).thresholds["L1"].at_floor == 12


def test_extremes_are_drawn_towards_the_mean() -> None:
    rows, trials = people(TWO, KEY, 30, {"L1": 0.4, "GAN": 0.4})
    results = found(TWO, rows, trials)
    most, least = extremes(results, "GAN", 3)
    assert len(most) == len(least) == 3 and not {i.id for i in most} & {i.id for i in least}
    assert min(i.hits / i.shown for i in most) > max(i.hits / i.shown for i in least)
    few = dataclasses.replace(results, images=results.images[:0])
    assert extremes(few, "GAN", 3) == ([], [])


# -----------------------------------------------------------------------------------------------------------
# The files


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study") / "study", TWO, KEY)
    rows, trials = people(TWO, KEY, 12, HIT)
    rows[2] = dataclasses.replace(rows[2], comments='=HYPERLINK("http://x")\n<script>alert(1)</script>')
    trials = changed(trials, 3, range(10, 26), answer=None, answered_at=None, shown_at=None)
    insert(folder, rows, trials)
    analyse(folder, resamples=500)
    return folder


def test_files_hold_every_trial_and_the_figures(study: Path) -> None:
    out = study / "results"
    with (out / "trials.csv").open(newline="", encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == 12 * 26
    summary = json.loads((out / "summary.json").read_text())
    for arm, share in summary["shares"].items():
        lines = [
            line for line in trials
            if line["algorithm"] == arm and not line["excluded"]
            and line["practice"] == line["attention"] == "0"
        ]  # fmt: skip
        assert len(lines) == share["trials"] and sum(int(line["fooled"]) for line in lines) == share["hits"]
        fakes = [("first_algorithm", "second_algorithm")[int(line["fake_side"])] for line in lines]
        assert {line[name] for line, name in zip(lines, fakes, strict=True)} == {arm}
    (left_out,) = summary["left_out"]
    assert left_out["session"] == 4 and left_out["reason"].startswith("not finished")
    with (out / "sessions.csv").open(newline="", encoding="utf-8") as file:
        sessions = list(csv.DictReader(file))
    assert [line["session"] for line in sessions] == [str(i + 1) for i in range(12)]
    assert sessions[2]["comments"].startswith("'=HYPERLINK")


def test_results_hold_no_secret(study: Path) -> None:
    secrets = [TWO.admin_token_sha256, *KEY, "secret-id", "token-", "id-3", "Mozilla"]
    for path in sorted((study / "results").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert not [secret for secret in secrets if secret in text], path.name


def test_page_is_self_contained_and_says_it(study: Path) -> None:
    page = (study / "results" / "study.html").read_text(encoding="utf-8")
    summary = json.loads((study / "results" / "summary.json").read_text())
    share = summary["shares"]["GAN"]
    assert f"{100 * share['mean']:.1f} ± {100 * share['se']:.1f}" in page
    for _, columns, rows in PAPER:
        assert all(number in page for row in rows for number in (*columns, *row[1:]))
    assert "on its data" in page and "P(first &gt; second)" in page and "not finished" in page
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert page.count("data:image/png;base64,") >= 2 * 4 * 3


@pytest.mark.parametrize("mode", ["single", "prefer", "adaptive"])
def test_page_of_the_other_modes(tmp_path: Path, mode: str) -> None:
    adaptive = mode == "adaptive"
    settings = StudySettings(
        algorithms=("L1", "GAN"), mode="two" if adaptive else mode, adaptive=adaptive, trials=20, practice=2
    )
    folder = write_study(tmp_path / "study", settings, KEY)
    insert(folder, *people(settings, KEY, 6, {**HIT, "L1|GAN": 0.2}))
    results = analyse(folder, resamples=300)
    page = (folder / "results" / "study.html").read_text(encoding="utf-8")
    assert {"single": "d′", "prefer": "L1 over GAN", "adaptive": "How long people must look"}[mode] in page
    assert ("18.9 ± 2.5" in page) == (mode == "adaptive")
    assert json.loads((folder / "results" / "summary.json").read_text())["settings"]["mode"] == settings.mode
    assert results.words()


def test_nothing_to_analyse_is_said(tmp_path: Path) -> None:
    with pytest.raises(StudyFault, match="holds no study"):
        analyse(tmp_path)
    folder = write_study(tmp_path / "study", TWO, KEY)
    with pytest.raises(StudyFault, match="no session was begun"):
        analyse(folder)
    rows, trials = people(TWO, KEY, 2, HIT)
    insert(folder, rows, changed(changed(trials, 0, range(4, 26), answer=None), 1, range(26), answer=None))
    with pytest.raises(StudyFault, match="no main trial was answered yet"):
        analyse(folder)


def test_everything_left_out_still_makes_a_page(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", TWO, KEY)
    rows, trials = people(TWO, KEY, 2, HIT)
    trials = [dataclasses.replace(t, hidden=True) for t in trials]
    insert(folder, rows, trials)
    results = analyse(folder, resamples=300)
    assert results.shares == {} and set(results.everything) == {"L1", "GAN"}
    assert "No session counts yet" in (folder / "results" / "study.html").read_text(encoding="utf-8")
    assert "No session that counts: L1, GAN." in results.words()


def test_texts_that_a_spreadsheet_would_compute() -> None:
    rows = [{"a": "=1+1", "b": "-x", "c": -1.5, "d": True, "e": None, "f": 'say "it"'}]
    assert to_csv(rows) == 'a,b,c,d,e,f\n\'=1+1,\'-x,-1.5,1,,"say ""it"""\n'
    assert to_csv([]) == "\n"


def test_a_session_is_as_long_as_its_trials() -> None:
    _, trials = people(TWO, KEY, 1, HIT)
    row = SessionRow(id="id-0", algorithm="L1")
    assert Session(1, row, tuple(trials)).seconds == pytest.approx(5 * 25 + 4)
    assert Session(1, row, ()).seconds == 0.0
