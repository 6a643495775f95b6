"""Adaptive exposure: how long people must see images to find the fake, and what was seen at each exposure.

The staircase (2-down-1-up) of each session settles where 70.7 % of answers are right, whatever the algorithm;
so with it the exposure, and not the share of fooled trials, tells how good an algorithm is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.study.drawing import STAIRCASE_MS
from pairloom.study.exclusions import Session
from pairloom.study.protocol import StudySettings
from pairloom.study.resampling import Draws, interval

TARGET = 0.707
"""The share of right answers at which the staircase settles (Levitt 1971)."""


@dataclass(frozen=True, slots=True)
class AtExposure:
    """The trials of one exposure."""

    exposure_ms: int
    trials: int
    hits: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """The exposure at which 70.7 % of answers are right. Units: milliseconds."""

    ms: float
    """Geometric mean over sessions of each one's mean exposure in the second half of its main trials."""
    low: float
    high: float
    """The 95 % interval, sessions drawn with replacement."""
    sessions: int
    at_floor: int
    """Sessions that spent most of that half at the shortest exposure: their threshold is shorter still."""
    at_ceiling: int
    """Likewise the longest: their threshold is longer, or they never can tell."""
    exposures: tuple[AtExposure, ...]
    """From the shortest to the longest."""


def thresholds(
    settings: StudySettings, sessions: Sequence[Session], rng: np.random.Generator, resamples: int
) -> tuple[dict[str, Threshold], dict[str, Draws]]:
    """By algorithm, for those with sessions that count; and the bootstrap of each one's log2."""
    found, draws = {}, {}
    for arm in settings.arms:
        of_arm = [s for s in sessions if s.algorithm == arm]
        if of_arm:
            halves = [[t.exposure_ms for t in s.main[len(s.main) // 2 :]] for s in of_arm]
            logs = np.array([np.log2(half).mean() for half in halves])
            draws[arm] = logs[rng.integers(len(logs), size=(resamples, len(logs)))].mean(axis=1)
            found[arm] = _threshold(settings, of_arm, halves, float(logs.mean()), draws[arm])
    return found, draws


def _threshold(
    settings: StudySettings,
    sessions: Sequence[Session],
    halves: Sequence[Sequence[int]],
    log: float,
    draws: Draws,
) -> Threshold:
    low, high = (2.0**bound for bound in interval(draws))
    floor, ceiling = min(STAIRCASE_MS[0], settings.exposure_ms), max(STAIRCASE_MS[1], settings.exposure_ms)
    most = [Counter(half).most_common(1)[0] for half in halves]
    stuck = [ms if 2 * n > len(half) else None for (ms, n), half in zip(most, halves, strict=True)]
    return Threshold(
        2.0**log, low, high, len(sessions), stuck.count(floor), stuck.count(ceiling),
        _exposures(sessions),
    )  # fmt: skip


def _exposures(sessions: Sequence[Session]) -> tuple[AtExposure, ...]:
    wrong: dict[int, list[bool]] = defaultdict(list)
    seen: dict[int, set[int]] = defaultdict(set)
    for session in sessions:
        for trial in session.kept:
            wrong[trial.exposure_ms].append(not trial.right)
            seen[trial.exposure_ms].add(session.number)
    return tuple(AtExposure(ms, len(wrong[ms]), sum(wrong[ms]), len(seen[ms])) for ms in sorted(wrong))
