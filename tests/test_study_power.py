"""How many participants: the simulation against the formula, and against the bootstrap that it stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pairloom.study import resampling
from pairloom.study.power import PAPER_SPREAD, by_formula, power, session_hits, simulated_power
from pairloom.study.protocol import StudyFault

PAPER = ((2.8, 1.0), (6.1, 1.3), (0.8, 0.3), (18.9, 2.5), (16.3, 2.4), (27.8, 2.7), (22.5, 1.6))
"""% labeled real and its ±, Tables 4 and 5."""


@pytest.mark.parametrize(("p", "q"), [(0.189, 0.12), (0.061, 0.028), (0.225, 0.163), (0.3, 0.5)])
@pytest.mark.parametrize("spread", [0.0, 0.2, PAPER_SPREAD])
def test_simulation_agrees_with_the_formula(p: float, q: float, spread: float) -> None:
    found = power(p, q, spread=spread)
    assert abs(found.sessions - found.by_formula) <= max(3, 0.12 * found.by_formula)
    assert found.sessions_only <= found.sessions
    assert 0.8 <= found.reached < 0.87 or found.sessions == 10
    assert found.participants == 2 * found.sessions


def test_simulated_power_is_that_of_the_real_bootstrap() -> None:
    """Studies judged by `bootstrap` and `contrast` themselves."""
    p, q, sessions, rng = 0.2, 0.1, 30, np.random.default_rng(1)
    expected = simulated_power(p, q, trials=40, spread=0.37, sessions=sessions, studies=4000, seed=0)[0][-1]
    seen = []
    for _ in range(150):
        counts = [[(int(k), 40) for k in session_hits(x, 40, 0.37, (sessions,), rng)] for x in (p, q)]
        first, second = (resampling.bootstrap(of_one, rng, resamples=400) for of_one in counts)
        seen.append(resampling.contrast(0.0, first - second).p < 0.05)
    assert np.mean(seen) == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 150))


def test_false_findings_stay_below_the_level() -> None:
    """With equal shares, the paper's rule finds a difference in at most one study of twenty."""
    for spread in (0.0, PAPER_SPREAD):
        found = simulated_power(0.2, 0.2, trials=40, spread=spread, sessions=50, studies=4000, seed=0)[0]
        assert found[49] < 0.055


def test_sessions_have_the_spread_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    for p, spread in ((0.2, 0.37), (0.05, 0.2), (0.2, 0.0)):
        share = session_hits(p, 40, spread, (200_000,), rng) / 40
        variance = p * (1 - p) * (spread**2 + (1 - spread**2) / 40)
        assert share.mean() == pytest.approx(p, abs=0.002)
        assert share.var() == pytest.approx(variance, rel=0.03)


def test_default_spread_is_what_the_paper_implies() -> None:
    spreads = []
    for share, se in PAPER:
        p = share / 100
        rho = (50 * (se / 100) ** 2 / (p * (1 - p)) - 2 / 40) / (1 - 2 / 40)
        spreads.append(math.sqrt(rho))
    assert float(np.median(spreads)) == pytest.approx(PAPER_SPREAD, abs=0.005)
    assert (min(spreads), max(spreads)) == pytest.approx((0.084, 0.412), abs=0.001)


def test_more_is_needed_for_less() -> None:
    base = power(0.2, 0.12).sessions
    assert power(0.2, 0.15).sessions > 2 * base
    assert power(0.2, 0.12, spread=0.1).sessions < base
    assert power(0.2, 0.12, power=0.95).sessions > base
    assert power(0.2, 0.12, trials=10).sessions > base
    assert power(0.12, 0.2).sessions == pytest.approx(base, abs=3)
    assert by_formula(0.2, 0.12, trials=10**9, spread=0.3, power=0.8) > 10


def test_large_studies_are_simulated_too() -> None:
    found = power(0.3, 0.31, spread=0.1)
    assert found.sessions == pytest.approx(found.by_formula, rel=0.05) and found.studies < 4000


def test_words_and_json() -> None:
    found = power(0.189, 0.12)
    said = found.words()
    assert "To tell 18.9 % from 12.0 % in 80 % of studies" in said and str(found.participants) in said
    assert f"{found.sessions:21}" in said
    plain = found.to_dict()
    assert plain["participants"] == found.participants and [found.sessions, found.reached] in plain["curve"]


@pytest.mark.parametrize(
    ("numbers", "options", "said"),
    [
        ((19, 12), {}, "p is 19; it must be a share between 0 and 1"),
        ((0.2, 0.0), {}, "q is 0.0"),
        ((0.2, 0.2), {}, "no difference"),
        ((0.2, 0.1), {"spread": 1.0}, "spread is 1.0"),
        ((0.2, 0.1), {"trials": 0}, "trials is 0"),
        ((0.2, 0.1), {"power": 0.03}, "power is 0.03"),
        ((0.2, 0.2001), {}, "would need about"),
    ],
)
def test_bad_numbers_are_said(numbers: tuple[float, float], options: dict[str, float], said: str) -> None:
    with pytest.raises(StudyFault, match=said):
        power(*numbers, **options)  # type: ignore[arg-type]
