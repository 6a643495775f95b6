"""How many participants a study needs to see a given difference, by simulation, and by a formula beside it.

People differ: each session has its own true share, drawn from a beta distribution around the algorithm's.
How much they differ is `spread`, the standard deviation of those shares as a part of the largest there could
be, sqrt(p (1 - p)): 0, all are alike; 1, everybody is always or never fooled. Its square is the intraclass
correlation. A simulated study is judged by the rule of `analyse`: bootstrap over sessions, then trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from pairloom.study.protocol import StudyFault

PAPER_SPREAD = 0.37
"""What the paper's seven ± imply for about 50 sessions of 40 trials (Tables 4 and 5): median, from 0.08 to
0.41; SE^2 = p (1 - p) (spread^2 + 2 (1 - spread^2) / 40) / 50 solved for the spread."""
LEAST_SESSIONS = 10
"""Fewer sessions an algorithm are not considered: no bootstrap of them can be believed."""
MOST_SESSIONS = 20_000
LEVEL = 0.05
_STUDIES = 4000
_CELLS = 3_000_000
"""Sessions simulated for one algorithm at most; larger studies are simulated less often."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """What a study needs. Units: shares 0 to 1."""

    p: float
    q: float
    trials: int
    spread: float
    wanted: float
    sessions: int
    """An algorithm, by simulation: the least with the wanted power."""
    reached: float
    """The power of that many."""
    by_formula: int
    """The same by the formula."""
    sessions_only: int
    """Enough when sessions alone are resampled: sharper than the paper's rule."""
    curve: tuple[tuple[int, float], ...]
    """(sessions an algorithm, power) for some numbers of sessions."""
    studies: int
    """Simulated."""

    @property
    def participants(self) -> int:
        """For both algorithms together, one session each."""
        return 2 * self.sessions

    def words(self) -> str:
        """Sentences and a small table."""
        spreads = [self.spread * math.sqrt(share * (1 - share)) for share in (self.p, self.q)]
        people = "all alike" if self.spread == 0 else _ranges(self.p, self.q, spreads)
        lines = [
            f"To tell {100 * self.p:.1f} % from {100 * self.q:.1f} % in {100 * self.wanted:.0f} % of "
            f"studies, at {100 * LEVEL:.0f} % two-sided, {self.sessions} sessions an algorithm are needed: "
            f"{self.participants} participants for two, with {self.trials} trials each.",
            f"Assumed: participants are {people} (--spread {self.spread:g}; {PAPER_SPREAD} is what the "
            "paper's ± imply).",
            f"By {self.studies} simulated studies, judged as analyse does (bootstrap over sessions, then "
            f"trials); by the formula {self.by_formula}. Sessions alone resampled: {self.sessions_only}.",
            "",
            "sessions an algorithm   power",
            *(f"{sessions:21}   {100 * power:4.0f} %" for sessions, power in self.curve),
            "",
            "Sessions left out by the rule of the study do not count: invite some more. With more than two "
            "algorithms, all pairs are corrected for together, and more are needed.",
        ]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        names = [name for name in self.__slots__ if name != "curve"]
        plain = {name: getattr(self, name) for name in names}
        return plain | {"participants": self.participants, "curve": [list(point) for point in self.curve]}


def _ranges(p: float, q: float, spreads: list[float]) -> str:
    shown = [f"{100 * share:.1f} % ± {100 * sd:.1f} %" for share, sd in zip((p, q), spreads, strict=True)]
    return f"fooled in {shown[0]} and {shown[1]} of trials (mean ± standard deviation between people)"


def power(
    p: float,
    q: float,
    *,
    trials: int = 40,
    spread: float = PAPER_SPREAD,
    power: float = 0.8,
    seed: int = 0,
) -> Power:
    """How many sessions an algorithm are needed to see that two are fooled by differently often.

    Args:
        p: The share of trials in which one algorithm's fakes are taken for real; 0 to 1.
        q: The other's.
        trials: Main trials of a session.
        spread: How much participants differ, 0 to 1; see the module.
        power: The share of studies that shall see the difference.
        seed: Of the simulation.

    Raises:
        StudyFault: A number out of its range, or a difference too small for any study.
    """
    _check(p, q, trials, spread, power)
    guess = by_formula(p, q, trials=trials, spread=spread, power=power)
    most = max(4 * LEAST_SESSIONS, math.ceil(1.6 * guess))
    if guess > MOST_SESSIONS:
        raise StudyFault(
            f"{100 * p:.2f} % against {100 * q:.2f} % would need about {guess} sessions an algorithm; "
            f"ask for a difference that at most {MOST_SESSIONS} can show."
        )
    studies = min(_STUDIES, max(200, _CELLS // most))
    curves = simulated_power(p, q, trials=trials, spread=spread, sessions=most, studies=studies, seed=seed)
    sessions, sharper = (_first(curve, power, most) for curve in curves)
    shown = sorted({*_round_numbers(most), sessions})
    return Power(
        p=p,
        q=q,
        trials=trials,
        spread=spread,
        wanted=power,
        sessions=sessions,
        reached=float(curves[0][sessions - 1]),
        by_formula=guess,
        sessions_only=sharper,
        curve=tuple((n, float(curves[0][n - 1])) for n in shown),
        studies=studies,
    )


def _check(p: float, q: float, trials: int, spread: float, wanted: float) -> None:
    for name, value in (("p", p), ("q", q), ("power", wanted)):
        if not 0 < value < 1:
            raise StudyFault(f"{name} is {value}; it must be a share between 0 and 1, such as 0.19 for 19 %.")
    if p == q:
        raise StudyFault(f"p and q are both {p}; there is no difference to see.")
    if not 0 <= spread < 1:
        raise StudyFault(f"spread is {spread}; it must be from 0, all alike, to below 1.")
    if trials < 1:
        raise StudyFault(f"trials is {trials}; it must be 1 or more.")
    if wanted <= LEVEL:
        raise StudyFault(f"power is {wanted}; a power of {LEVEL} needs no participants, give more.")


def _first(curve: Array, wanted: float, most: int) -> int:
    reached = np.flatnonzero(curve[LEAST_SESSIONS - 1 :] >= wanted)
    return int(reached[0]) + LEAST_SESSIONS if len(reached) else most


def _round_numbers(most: int) -> list[int]:
    """Some numbers of sessions for the table."""
    steps = (5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 750)
    return [n for scale in (1, 100) for n in (s * scale for s in steps) if LEAST_SESSIONS <= n <= most]


def by_formula(p: float, q: float, *, trials: int, spread: float, power: float) -> int:
    """The number of sessions an algorithm by the normal approximation.

    With the variance v of a session's share and its part w from the trials alone, the estimate's variance is
    v / S, while the bootstrap over sessions, then trials takes it for (v + w) / S. So

        S = ((z_{1 - level / 2} sqrt(v + w) + z_power sqrt(v)) / (p - q))^2, v and w summed over both.
    """
    within = sum(share * (1 - share) * (1 - spread**2) / trials for share in (p, q))
    between = sum(share * (1 - share) * spread**2 for share in (p, q))
    total = between + within
    z_level, z_power = norm.ppf(1 - LEVEL / 2), norm.ppf(power)
    root = (z_level * math.sqrt(total + within) + z_power * math.sqrt(total)) / abs(p - q)
    return max(LEAST_SESSIONS, math.ceil(float(root) ** 2))


def session_hits(
    p: float, trials: int, spread: float, size: tuple[int, ...], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Hits of simulated sessions: beta-binomial with mean p and that spread."""
    if spread == 0:
        return rng.binomial(trials, p, size)
    strength = 1 / spread**2 - 1
    return rng.binomial(trials, rng.beta(p * strength, (1 - p) * strength, size))


def simulated_power(
    p: float, q: float, *, trials: int, spread: float, sessions: int, studies: int, seed: int
) -> tuple[Array, Array]:
    """The share of simulated studies that see the difference, by the number of sessions an algorithm.

    The bootstrap's standard deviation is computed, not drawn: with S sessions of n trials, shares x_s,
    SE^2 = (var(x) + mean(x (1 - x)) / n) / S for sessions then trials, var(x) / S for sessions alone.

    Shapes: -> (sessions,) twice: judged by sessions then trials; by sessions alone.
    """
    rng = np.random.default_rng(seed)
    count = np.arange(1, sessions + 1, dtype=np.float64)
    means: list[Array] = []
    whole, alone = np.zeros((studies, sessions)), np.zeros((studies, sessions))
    for share in (p, q):
        x = session_hits(share, trials, spread, (studies, sessions), rng) / trials
        mean = x.cumsum(axis=1) / count
        square = (x**2).cumsum(axis=1) / count
        means.append(mean)
        alone += (square - mean**2) / count
        whole += (square - mean**2 + (mean - square) / trials) / count
    size = np.abs(means[0] - means[1])
    z = norm.ppf(1 - LEVEL / 2)
    seen = [(size > z * np.sqrt(np.maximum(variance, 0))).mean(axis=0) for variance in (whole, alone)]
    return seen[0], seen[1]
