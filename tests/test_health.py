"""Loss health: what is said, after how many lines, and when nothing is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pairloom.health import LossHealth, legend


def accuracies(real: float | None, fake: float | None, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"step": 50 * (start + i), "D_real_accuracy": real, "D_fake_accuracy": fake, "G_L1": 0.2}
        for i in range(1, count + 1)
    ]


def validations(*values: float | None) -> list[dict[str, Any]]:
    return [{"step": 1000 * i, "val_L1": value} for i, value in enumerate(values, 1)]


def said(lines: list[dict[str, Any]], health: LossHealth | None = None) -> list[tuple[int, str]]:
    """(number of the line, warning), lines counted from 1."""
    health = health or LossHealth()
    return [(i, text) for i, line in enumerate(lines, 1) for text in health.observe(line)]


def test_d_winning_is_said_once_after_twenty_lines() -> None:
    ((line, text),) = said(accuracies(0.99, 1.0, 60))
    assert line == 20
    assert text.startswith("D wins everything since step 50:")
    assert "99% of the real" in text
    assert "100% of the generated" in text
    assert "discriminator.base_channels" in text


def test_nineteen_lines_are_not_enough_and_one_better_line_starts_anew() -> None:
    assert said(accuracies(0.99, 0.99, 19)) == []
    interrupted = accuracies(0.99, 0.99, 19) + accuracies(0.9, 0.99, 1, 19) + accuracies(0.99, 0.99, 19, 20)
    assert said(interrupted) == []


def test_d_winning_is_said_again_after_recovering() -> None:
    lines = accuracies(0.99, 0.99, 25) + accuracies(0.8, 0.8, 1, 25) + accuracies(0.99, 0.99, 25, 26)
    warnings = said(lines)
    assert [line for line, _ in warnings] == [20, 46]
    assert "since step 1350" in warnings[1][1]


@pytest.mark.parametrize(("real", "fake"), [(1.0, 0.9), (0.9, 1.0), (0.97, 1.0), (0.7, 0.7), (0.6, 0.4)])
def test_d_must_win_both_ways(real: float, fake: float) -> None:
    assert said(accuracies(real, fake, 60)) == []


def test_d_being_wrong_about_most_is_said_once_after_twenty_lines() -> None:
    ((line, text),) = said(accuracies(0.3, 0.4, 60))
    assert line == 20
    assert text.startswith("D is wrong about most patches (30% of the real, 40% of the generated right)")


def test_overfitting_is_said_once_with_the_best_step() -> None:
    lines = validations(0.30, 0.20, 0.22, 0.23, 0.24, 0.25, 0.26, 0.27)
    ((line, text),) = said(lines)
    assert line == 6, "the fourth validation more than 5 % above the best"
    assert text.startswith("The validation L1 was best at step 2000 (0.2000) and is 0.2500 now")
    assert "checkpoint=best" in text


@pytest.mark.parametrize(
    "values",
    [
        (0.3, 0.28, 0.26, 0.25, 0.24, 0.235, 0.23),
        (0.3, 0.2, 0.205, 0.209, 0.205, 0.209, 0.205),  # a plateau
        (0.3, 0.2, 0.25, 0.25, 0.25, 0.201, 0.25, 0.25, 0.25),  # never four in a row
        (0.3, 0.2, 0.25, 0.25, 0.25, 0.19, 0.22, 0.22, 0.22),  # a new best
    ],
)
def test_healthy_validations_say_nothing(values: tuple[float, ...]) -> None:
    assert said(validations(*values)) == []


def test_a_healthy_run_says_nothing() -> None:
    lines: list[dict[str, Any]] = []
    for i in range(200):
        lines += accuracies(0.75 + 0.2 * (i % 2), 0.7 + 0.25 * (i % 3 == 0), 1, i)
        if i % 10 == 9:
            lines += [{"step": 50 * i, "val_L1": 0.3 - 0.0005 * i}]
    assert said(lines) == []


def test_lines_without_a_discriminator_and_lost_values_say_nothing() -> None:
    lines = [{"step": i, "G_L1": 0.2} for i in range(60)]
    lines += accuracies(None, None, 30) + validations(0.2, None, None, None, None, None)
    assert said(lines) == []


def test_replaying_the_old_lines_goes_on_as_if_never_stopped() -> None:
    """A resumed run feeds the lines of metrics.jsonl again, warnings among them."""
    lines = accuracies(0.99, 0.99, 25) + validations(0.2, 0.3, 0.3, 0.3, 0.3, 0.3)
    lines += accuracies(0.5, 0.6, 5, 25) + accuracies(0.99, 0.99, 30, 30)
    expected = said(lines)
    assert len(expected) == 3
    for stop in range(0, len(lines), 7):
        written: list[dict[str, Any]] = []
        first = LossHealth()
        for line in lines[:stop]:
            written += [line, *({"step": line["step"], "warning": text} for text in first.observe(line))]
        resumed = LossHealth()
        for line in written:
            resumed.observe(line)
        later = said(lines[stop:], resumed)
        assert [(i + stop, text) for i, text in later] == [(i, text) for i, text in expected if i > stop]


def test_legend_tells_the_chance_levels() -> None:
    halved, whole = legend("vanilla", halved=True), legend("vanilla", halved=False)
    assert halved.count("0.693") == 2
    assert "1.386" not in halved
    assert "0.693" in whole
    assert "1.386" in whole
    assert "unweighted" in halved


def test_legends_of_all_modes_differ() -> None:
    modes = ("vanilla", "lsgan", "hinge")
    legends = [legend(mode, halved=halved) for mode, halved in itertools.product(modes, (True, False))]
    assert len(set(legends)) == len(legends)
    for mode in modes:
        assert mode in legend(mode, halved=True)


def test_a_critic_has_no_chance_level() -> None:
    assert "0.000" not in legend("wgan-gp", halved=True)
    assert "distance" in legend("wgan-gp", halved=True)
