"""From the answers of a study to its results: shares with intervals, tests, times, images; then the files.

Source: Section 4.1 of the paper and its original tool, AMT_Real_vs_Fake: the share of trials in which the
fake was taken for the real image, a bootstrap over sessions, then trials, and P(a > b) with ties one half.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from pairloom.study import resampling, staircases
from pairloom.study.exclusions import Session, counted, sessions_of
from pairloom.study.protocol import Key, StudyFault, StudySettings, load_key
from pairloom.study.resampling import Contrast, Counts, Draws, Figure, Share
from pairloom.study.results import Results, Shown, Times
from pairloom.study.results_page import write_page
from pairloom.study.results_tables import write_tables
from pairloom.study.staircases import Threshold
from pairloom.study.store import Store, TrialRow


def analyse(folder: str | Path, *, resamples: int = resampling.RESAMPLES, seed: int = 0) -> Results:
    """Read a study's answers, and write DIR/results: study.html, summary.json, trials.csv, sessions.csv.

    The study may go on meanwhile; sessions that are not finished do not count yet.

    Args:
        folder: The study's directory.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        StudyFault: There is no study, its files are damaged, or nobody has answered yet.
    """
    folder = Path(folder)
    settings, key = StudySettings.load(folder), load_key(folder)
    with Store(folder) as store:
        rows, trials = store.sessions(), store.trials()
    sessions = sessions_of(rows, trials, settings.exclusion)
    if not any(session.answered for session in sessions):
        begun = f"{len(sessions)} sessions were begun" if sessions else "no session was begun"
        raise StudyFault(f"{folder}: no main trial was answered yet ({begun}); analyse it when some were.")
    results = measure(settings, key, sessions, resamples=resamples, seed=seed)
    out = folder / "results"
    out.mkdir(exist_ok=True)
    write_tables(out, results, key)
    write_page(out, results, key, folder / "images")
    return results


def measure(
    settings: StudySettings,
    key: Key,
    sessions: Sequence[Session],
    *,
    resamples: int = resampling.RESAMPLES,
    seed: int = 0,
) -> Results:
    """All figures of a study, from its sessions."""
    rng = np.random.default_rng(seed)
    valid = counted(sessions)
    shares, draws = _shares(settings, key, valid, rng, resamples)
    people = any(s.answered and not s.artificial for s in sessions)
    whole = [s for s in sessions if s.answered and not (s.artificial and people)]
    everything, _ = _shares(settings, key, whole, rng, resamples, all_trials=True)
    single, prefer = settings.mode == "single", settings.mode == "prefer"
    reals, sensitivity, against = _detection(settings, valid, rng, resamples) if single else ({}, {}, {})
    chance = against or {arm: resampling.contrast(shares[arm].mean - 0.5, draws[arm] - 0.5) for arm in shares}
    means = {arm: share.mean for arm, share in shares.items()}
    thresholds: dict[str, Threshold] = {}
    if settings.adaptive:  # the staircase holds the shares: what tells algorithms apart is the exposure
        thresholds, draws = staircases.thresholds(settings, valid, rng, resamples)
        means, chance = {arm: math.log2(t.ms) for arm, t in thresholds.items()}, {}
    return Results(
        settings=settings,
        sessions=tuple(sessions),
        shares=shares,
        session_shares={arm: tuple(h / n for h, n in _counts(settings, key, valid, arm)) for arm in shares},
        everything=everything,
        pairs={} if prefer else _pairs(means, draws),
        chance=resampling.corrected(chance),
        reals=reals,
        sensitivity=sensitivity,
        wins=_wins(settings.algorithms, shares, draws) if prefer else {},
        thresholds=thresholds,
        times={arm: _times(_trials(valid, arm)) for arm in shares},
        images=_images(key, settings, valid),
    )


def hit(trial: TrialRow, settings: StudySettings, key: Key, arm: str) -> bool | None:
    """Is this answered trial a hit? None when it is not one that can be: a real image with single."""
    if settings.mode == "prefer":
        chosen = trial.second if trial.answer else trial.first
        return key[chosen or ""].algorithm == arm.split("|")[0]
    if settings.mode == "single" and trial.fake_side == 0:
        return None
    return not trial.right


def _shares(
    settings: StudySettings,
    key: Key,
    sessions: Sequence[Session],
    rng: np.random.Generator,
    resamples: int,
    *,
    all_trials: bool = False,
) -> tuple[dict[str, Share], dict[str, Draws]]:
    shares, draws = {}, {}
    for arm in settings.arms:
        counts = _counts(settings, key, sessions, arm, all_trials=all_trials)
        if counts:
            draws[arm] = resampling.bootstrap(counts, rng, resamples=resamples)
            shares[arm] = resampling.share(counts, draws[arm], rng)
    return shares, draws


def _counts(
    settings: StudySettings, key: Key, sessions: Sequence[Session], arm: str, *, all_trials: bool = False
) -> list[tuple[int, int]]:
    """(hits, trials) of each session of an arm that has any."""
    counts = []
    for session in (s for s in sessions if s.algorithm == arm):
        trials = session.answered if all_trials else session.kept
        hits = [found for t in trials if (found := hit(t, settings, key, arm)) is not None]
        if hits:
            counts.append((sum(hits), len(hits)))
    return counts


def _pairs(means: Mapping[str, float], draws: Mapping[str, Draws]) -> dict[tuple[str, str], Contrast]:
    """Every two algorithms, the greater mean first.

    Other people saw the one and the other, so their bootstraps are independent.
    """
    ordered = sorted(means, key=lambda arm: -means[arm])
    tests = {
        (a, b): resampling.contrast(means[a] - means[b], draws[a] - draws[b])
        for a, b in combinations(ordered, 2)
    }
    return resampling.corrected(tests)


def _detection(
    settings: StudySettings, sessions: Sequence[Session], rng: np.random.Generator, resamples: int
) -> tuple[dict[str, Share], dict[str, Figure], dict[str, Contrast]]:
    """With single, by arm: real images called fake, d', and fakes called real against reals called real."""
    reals, sensitivity, against = {}, {}, {}
    for arm in settings.arms:
        fakes, false_alarms = _by_kind([s for s in sessions if s.algorithm == arm])
        if not sum(n for _, n in fakes) or not sum(n for _, n in false_alarms):
            continue
        missed, alarmed = resampling.joint_bootstrap([fakes, false_alarms], rng, resamples=resamples)
        own = [count for count in false_alarms if count[1]]
        reals[arm] = resampling.share(own, alarmed, rng)
        totals = [
            np.array([sum(h for h, _ in c), sum(n for _, n in c)], float) for c in (fakes, false_alarms)
        ]
        (fooled, n_fakes), (alarms, n_reals) = totals
        value = resampling.d_prime(fooled / n_fakes, alarms / n_reals, n_fakes, n_reals)
        sensitivity[arm] = resampling.figure(
            float(value), resampling.d_prime(missed, alarmed, n_fakes, n_reals)
        )
        difference = fooled / n_fakes - (1 - alarms / n_reals)
        against[arm] = resampling.contrast(float(difference), missed - (1 - alarmed))
    return reals, sensitivity, against


def _by_kind(sessions: Sequence[Session]) -> tuple[Counts, Counts]:
    """By session: fakes called real, and real images called fake, with their numbers."""
    tables: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for session in sessions:
        for side, table in ((1, tables[0]), (0, tables[1])):
            of_kind = [t for t in session.kept if t.fake_side == side]
            table.append((sum(not t.right for t in of_kind), len(of_kind)))
    return tables


def _wins(
    algorithms: Sequence[str], shares: Mapping[str, Share], draws: Mapping[str, Draws]
) -> dict[str, Figure]:
    """With prefer, by algorithm: the plain mean of its shares against those it was compared with."""
    wins = {}
    for name in algorithms:
        values, drawn = [], []
        for arm in (arm for arm in shares if name in arm.split("|")):
            first = arm.split("|")[0] == name
            values.append(shares[arm].mean if first else 1 - shares[arm].mean)
            drawn.append(draws[arm] if first else 1 - draws[arm])
        if values:
            wins[name] = resampling.figure(float(np.mean(values)), np.mean(drawn, axis=0))
    return wins


def _trials(sessions: Sequence[Session], arm: str | None = None) -> list[TrialRow]:
    return [t for s in sessions if arm in (None, s.algorithm) for t in s.kept]


def _times(trials: Sequence[TrialRow]) -> Times:
    def median(wanted: bool | None) -> float:
        found = [t.response_ms for t in trials if t.response_ms is not None and wanted in (None, t.right)]
        return float(np.median(found)) / 1000 if found else math.nan

    return Times(median(None), median(True), median(False))


def _images(key: Key, settings: StudySettings, sessions: Sequence[Session]) -> tuple[Shown, ...]:
    """Each fake image that was shown; with prefer, each image, a hit when it was the better one."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for trial in _trials(sessions):
        if settings.mode == "prefer":
            for number, image in enumerate((trial.first, trial.second or "")):
                counts[image].append(trial.answer == number)
        elif settings.mode == "two":
            counts[trial.second or "" if trial.fake_side else trial.first].append(not trial.right)
        elif trial.fake_side:
            counts[trial.first].append(not trial.right)
    return tuple(
        Shown(image, key[image].algorithm or "", len(hits), sum(hits)) for image, hits in counts.items()
    )
