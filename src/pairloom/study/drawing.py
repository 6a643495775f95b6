"""What one session shows: pure functions of the study's seed and the session's.

The protocol is the original's (Section 4.1 of the paper): one algorithm a session, practice with feedback
first, no image twice in a session, sides random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.study.protocol import Key, StudySettings

STAIRCASE_MS = (50, 4000)
"""Floor, three frames of a 60 Hz screen, and ceiling of an adaptive exposure."""


@dataclass(frozen=True, slots=True)
class DrawnTrial:
    """One trial of a session, before it is shown; fields as in the database."""

    number: int
    practice: bool
    attention: bool
    first: str
    second: str | None
    fake_side: int | None
    exposure_ms: int


def choose_arm(settings: StudySettings, counts: Mapping[str, int], rng: np.random.Generator) -> str:
    """The arm with the fewest sessions so far; of several, one at random."""
    least = min(counts.get(arm, 0) for arm in settings.arms)
    tied = [arm for arm in settings.arms if counts.get(arm, 0) == least]
    return tied[int(rng.integers(len(tied)))]


def draw_session(
    settings: StudySettings, key: Key, *, seed: int, counts: Mapping[str, int]
) -> tuple[str, tuple[DrawnTrial, ...]]:
    """All that one session shows, a function of the study's seed and the session's.

    Practice comes first; the attention checks stand anywhere among the trials that count. No image is shown
    twice; on which side the fake one stands is an independent toss each time. With single, half of the
    images are fake, in practice as in the trials that count. Unpaired, the two images of a trial are of
    different sources, and as far as there are enough, no source is seen both as real and as fake.

    Source: the original's make_expt for Matlab, whose sessions hold one algorithm and draw without
        replacement; the later Python version does neither.

    Args:
        settings: Of the study.
        key: Its images.
        seed: Of the session: its number in the study.
        counts: Sessions so far, by arm.

    Returns:
        The arm, and the trials in order.
    """
    rng = np.random.default_rng([settings.seed, seed])
    arm = choose_arm(settings, counts, rng)
    count = settings.practice + settings.trials
    pools = _Pools(key, settings)
    if settings.mode == "prefer":
        a, b = arm.split("|")
        left, right = pools.together(a, b, count, rng)
    elif settings.paired:
        left, right = pools.together(None, arm, count, rng)
    else:
        left, right = pools.apart(None, arm, count, rng)
    fake = _half(settings.practice, rng) + _half(settings.trials, rng)
    shown = [_trial(settings, *images, rng) for images in zip(left, right, fake, strict=True)]
    main = [(False, trial) for trial in shown[settings.practice :]]
    for good, wreck in pools.checks(arm, rng):
        main.insert(int(rng.integers(len(main) + 1)), (True, _check(settings, good, wreck, rng)))
    order = [*((False, trial) for trial in shown[: settings.practice]), *main]
    return arm, tuple(
        DrawnTrial(number, number < settings.practice, attention, *trial, settings.exposure_ms)
        for number, (attention, trial) in enumerate(order)
    )


def _half(count: int, rng: np.random.Generator) -> list[bool]:
    """Half of them true, in random order; of an odd count the last one by a toss."""
    flags = [i % 2 == 0 for i in range(count - count % 2)] + [bool(rng.integers(2))] * (count % 2)
    return [flags[i] for i in rng.permutation(count)]


Shown = tuple[str, str | None, int | None]
"""first, second, fake_side."""


def _trial(settings: StudySettings, real: str, fake: str, is_fake: bool, rng: np.random.Generator) -> Shown:
    """With prefer, two algorithms' outputs stand in for real and fake, and neither is the fake one."""
    if settings.mode == "single":
        return (fake if is_fake else real), None, int(is_fake)
    side = int(rng.integers(2))
    first, second = (real, fake) if side == 1 else (fake, real)
    return first, second, None if settings.mode == "prefer" else side


def _check(settings: StudySettings, good: str, wreck: str, rng: np.random.Generator) -> Shown:
    """An attention check: the right answer, which is fake_side, is the wreck; with prefer, the other one."""
    if settings.mode == "single":
        return wreck, None, 1
    side = int(rng.integers(2))
    first, second = (good, wreck) if side == 1 else (wreck, good)
    return first, second, 1 - side if settings.mode == "prefer" else side


class _Pools:
    """The images to draw from: by algorithm, then by source."""

    def __init__(self, key: Key, settings: StudySettings) -> None:
        self.settings = settings
        self.wrecks = {image.pair: id_ for id_, image in sorted(key.items()) if image.attention}
        self.of: dict[str | None, dict[int, str]] = {}
        for id_, image in key.items():
            if not image.attention:
                self.of.setdefault(image.algorithm, {})[image.pair] = id_

    def free(self, algorithm: str | None) -> list[int]:
        """Sources that are not kept for the attention checks, in a fixed order."""
        return sorted(set(self.of.get(algorithm, {})) - set(self.wrecks))

    def together(
        self, a: str | None, b: str | None, count: int, rng: np.random.Generator
    ) -> tuple[list[str], list[str]]:
        """Two images for each of `count` sources."""
        both = sorted(set(self.free(a)) & set(self.free(b)))
        drawn = [both[i] for i in rng.permutation(len(both))[:count]]
        return [self.of[a][pair] for pair in drawn], [self.of[b][pair] for pair in drawn]

    def apart(
        self, a: str | None, b: str | None, count: int, rng: np.random.Generator
    ) -> tuple[list[str], list[str]]:
        """`count` images of each, those of one trial never of the same source."""
        of_a, of_b = self.free(a), self.free(b)
        left = [of_a[i] for i in rng.permutation(len(of_a))[:count]]
        others = [of_b[i] for i in rng.permutation(len(of_b))]
        fresh = [pair for pair in others if pair not in set(left)]
        used = [pair for pair in others if pair in set(left)]
        right = (fresh + used)[:count]
        right = [right[i] for i in rng.permutation(len(right))]
        for k, pair in enumerate(right):
            if pair == left[k]:  # as all differ, either neighbour takes it and none is met twice
                j = (k + 1) % len(right)
                right[k], right[j] = right[j], right[k]
        return [self.of[a][pair] for pair in left], [self.of[b][pair] for pair in right]

    def checks(self, arm: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        """(a good image, a wreck) for each attention check."""
        algorithm = arm.split("|")[int(rng.integers(2))] if self.settings.mode == "prefer" else None
        pairs = sorted(self.wrecks)
        drawn = [pairs[i] for i in rng.permutation(len(pairs))[: self.settings.attention]]
        return [(self.of[algorithm][pair], self.wrecks[pair]) for pair in drawn]


def staircase(start_ms: int, right: Sequence[bool]) -> int:
    """The exposure of the next trial of an adaptive session.

    Two right answers in a row shorten it, each wrong one lengthens it (2-down-1-up): it settles where 70.7 %
    are right. By a factor of 2 until its direction first turns, of sqrt(2) from then on; never below 50 ms,
    nor above 4000 ms or the start, if that is longer. Practice and attention checks are shown at the start's
    exposure and move nothing.

    Source: Levitt 1971, Transformed up-down methods in psychoacoustics, JASA 49.
    Units: milliseconds.

    Args:
        start_ms: The study's exposure_ms.
        right: Of the main trials answered so far, in order.
    """
    floor, ceiling = min(STAIRCASE_MS[0], start_ms), max(STAIRCASE_MS[1], start_ms)
    exposure, run, direction, turned = float(start_ms), 0, 0, False
    for good in right:
        run = run + 1 if good else 0
        if good and run < 2:
            continue
        move, run = (-1 if good else 1), 0
        turned = turned or move == -direction
        direction = move
        exposure = min(max(exposure * (math.sqrt(2) if turned else 2.0) ** move, floor), ceiling)
    return round(exposure)
