"""The bootstrap of the study: sessions are drawn with replacement, then trials within each drawn session.

A session is two numbers, how many trials count and how many of them were hits (the fake was taken for real,
the first model was preferred). To draw n trials with replacement from a session with k hits is to draw from
a binomial distribution with n and k / n, so no trial is ever copied.

Drawing trials within sessions adds the trials' own noise a second time: the standard error is too large by
up to a factor of 1.4 where people hardly differ, and about right where they differ as the paper's did. It is
what the original tool prints, so it is what compares with the paper; `sessions_only` stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, norm

RESAMPLES = 10_000
FEW_SESSIONS = 20
"""With fewer an interval is said to be rough: a percentile bootstrap of few sessions is too narrow."""
LEVEL = 0.05

Name = TypeVar("Name")
Draws = npt.NDArray[np.float64]
Counts = Sequence[tuple[int, int]]
"""(hits, trials) of each session."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of trials over the sessions of one algorithm. Units: 0 to 1."""

    mean: float
    """Hits over trials, all sessions together."""
    se: float
    """Standard deviation of the bootstrap, the paper's ±."""
    low: float
    high: float
    """The 95 % interval."""
    sessions: int
    trials: int
    hits: int
    sessions_only: tuple[float, float] = (math.nan, math.nan)
    """The 95 % interval when sessions alone are drawn."""

    @property
    def degenerate(self) -> bool:
        """No trial was a hit, or every one: then the interval is the exact one of independent trials."""
        return self.hits in (0, self.trials)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Whether a bootstrapped figure lies on one side of another."""

    difference: float
    low: float
    high: float
    """The 95 % interval of the difference."""
    greater: float
    """The share of resamples in which it is above zero, ties one half, as the original tool prints it."""
    p: float
    """Two-sided: twice the smaller of that share and its complement; at least one resample's worth."""
    p_holm: float = math.nan
    """The same, corrected for all tests of its table (Holm)."""

    @property
    def distinguishable(self) -> bool:
        """At 5 % over all tests of the table together."""
        return self.p_holm < LEVEL


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that is no share, with the standard deviation and the 95 % interval of its bootstrap."""

    value: float
    se: float
    low: float
    high: float


def bootstrap(counts: Counts, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Draws:
    """The share in each resample: sessions with replacement, then trials within them.

    Source: process_csv.py of phillipi/AMT_Real_vs_Fake, which copies the trials instead.
    Shapes: counts (S, 2) -> (resamples,).
    """
    return joint_bootstrap([counts], rng, resamples=resamples)[0]


def joint_bootstrap(
    kinds: Sequence[Counts], rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> list[Draws]:
    """`bootstrap` for several kinds of trial of the same sessions, which are drawn together.

    Shapes: K tables of counts (S, 2) -> K times (resamples,).
    """
    columns = [_columns(counts) for counts in kinds]
    sessions = len(columns[0][0])
    drawn = rng.integers(sessions, size=(resamples, sessions))
    shares = []
    for hits, trials in columns:
        found = rng.binomial(trials[drawn], (hits / np.maximum(trials, 1))[drawn])
        shares.append(found.sum(axis=1) / np.maximum(trials[drawn].sum(axis=1), 1))
    return shares


def bootstrap_sessions(counts: Counts, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Draws:
    """The share in each resample of whole sessions. Shapes: counts (S, 2) -> (resamples,)."""
    hits, trials = _columns(counts)
    drawn = rng.integers(len(hits), size=(resamples, len(hits)))
    shares: Draws = hits[drawn].sum(axis=1) / np.maximum(trials[drawn].sum(axis=1), 1)
    return shares


def _columns(counts: Counts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    table = np.asarray(counts, dtype=np.int64).reshape(-1, 2)
    assert table[:, 1].sum() > 0, "there is a trial to count"
    return table[:, 0], table[:, 1]


def interval(draws: Draws) -> tuple[float, float]:
    """The 95 % percentile interval."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def share(counts: Counts, draws: Draws, rng: np.random.Generator) -> Share:
    """The share and what `draws`, its bootstrap, says of it.

    Where no trial or every trial was a hit, every resample is the same and the bootstrap says nothing; the
    interval is then the exact one of as many independent trials (Clopper and Pearson 1934).
    """
    hits, trials = (int(column.sum()) for column in _columns(counts))
    low, high = interval(draws)
    if hits == 0:
        low, high = 0.0, float(beta.ppf(0.975, 1, trials))
    elif hits == trials:
        low, high = float(beta.ppf(0.025, trials, 1)), 1.0
    alone = bootstrap_sessions(counts, rng, resamples=len(draws))
    return Share(hits / trials, float(draws.std()), low, high, len(counts), trials, hits, interval(alone))


def figure(value: float, draws: Draws) -> Figure:
    """A figure and what its bootstrap says of it."""
    return Figure(value, float(draws.std()), *interval(draws))


def contrast(difference: float, draws: Draws) -> Contrast:
    """Is the difference, of which `draws` is the bootstrap, above or below zero?"""
    greater = float((draws > 0).mean() + (draws == 0).mean() / 2)
    p = min(1.0, max(2 * min(greater, 1 - greater), 2 / len(draws)))
    return Contrast(difference, *interval(draws), greater, p)


def corrected(tests: Mapping[Name, Contrast]) -> dict[Name, Contrast]:
    """The same tests with Holm's correction for their number."""
    ps = holm([found.p for found in tests.values()])
    return {name: replace(t, p_holm=p) for (name, t), p in zip(tests.items(), ps, strict=True)}


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for there being several: the chance of any false finding stays below the level.

    Source: Holm 1979.
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    result, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        result[i] = largest
    return result


def d_prime(missed: Any, false_alarms: Any, fakes: float, reals: float) -> Any:
    """How well fakes are told from real images: z(fakes called fake) - z(real images called fake).

    0 is not at all; 1 is 69 % right, 2 is 84 %, without leaning to either answer. Shares of 0 and 1 are drawn
    in by half a trial.

    Source: Green and Swets 1966; Hautus 1995 for the half trials.

    Args:
        missed: Share of fakes called real; a number or an array.
        false_alarms: Share of real images called fake.
        fakes: Trials with fakes.
        reals: Trials with real images.
    """
    found = ((1 - missed) * fakes + 0.5) / (fakes + 1)
    return norm.ppf(found) - norm.ppf((false_alarms * reals + 0.5) / (reals + 1))
