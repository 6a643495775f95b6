"""What an analysis found: figures, sessions and images of a study; to words, to JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pairloom.evaluation.summary import finite
from pairloom.study import results_words
from pairloom.study.exclusions import Session, counted
from pairloom.study.protocol import StudySettings
from pairloom.study.resampling import Contrast, Figure, Share
from pairloom.study.staircases import Threshold


@dataclass(frozen=True, slots=True)
class Times:
    """Response times of the trials that count. Units: seconds; NaN where there are none."""

    median: float
    right: float
    """The median of the trials answered rightly: the fake was found."""
    wrong: float


@dataclass(frozen=True, slots=True)
class Shown:
    """One fake image: how often it was shown in trials that count, and how often it was a hit."""

    id: str
    algorithm: str
    shown: int
    hits: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Everything that the page, the tables and the terminal say of a study.

    A hit is: the fake was taken for the real image (two), the fake was called real (single), the first of the
    two algorithms was preferred (prefer). "Arms" are algorithms, or with prefer pairs "A|B" of them.
    """

    settings: StudySettings
    sessions: tuple[Session, ...]
    """All, also those left out."""
    shares: dict[str, Share]
    """By arm, of what counts; arms without a session that counts are not in it."""
    session_shares: dict[str, tuple[float, ...]]
    """By arm, the share of each session that counts."""
    everything: dict[str, Share]
    """The same with no session and no trial left out, unfinished sessions included."""
    pairs: dict[tuple[str, str], Contrast]
    """Share of a minus share of b, for every two algorithms, the greater first; none with prefer. With an
    adaptive exposure the log2 of their exposures instead: 1 is twice as long."""
    chance: dict[str, Contrast]
    """By arm: share minus one half; with single, fakes called real minus real images called real. None with
    an adaptive exposure."""
    reals: dict[str, Share]
    """With single, by arm: real images called fake."""
    sensitivity: dict[str, Figure]
    """With single, by arm: d'."""
    wins: dict[str, Figure]
    """With prefer, by algorithm: the mean of its shares against the others."""
    thresholds: dict[str, Threshold]
    """With an adaptive exposure, by arm."""
    times: dict[str, Times]
    """By arm."""
    images: tuple[Shown, ...]

    @property
    def artificial(self) -> bool:
        """Were those who count artificial observers?"""
        return any(session.artificial for session in counted(self.sessions))

    def words(self) -> str:
        """For a terminal: a table, the tests, what was left out."""
        return results_words.words(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict for JSON: nothing in it leads to a session, a link or an image."""
        public = self.settings.to_dict()
        del public["admin_token_sha256"]
        left_out = [{"session": s.number, "reason": s.reason} for s in self.sessions if s.reason]
        figures: dict[str, Any] = {
            "shares": _plain(self.shares),
            "session_shares": self.session_shares,
            "without_exclusions": _plain(self.everything),
            "pairs": [{"a": a, "b": b, **dataclasses.asdict(test)} for (a, b), test in self.pairs.items()],
            "chance": _plain(self.chance),
            "real_images_called_fake": _plain(self.reals),
            "d_prime": _plain(self.sensitivity),
            "wins": _plain(self.wins),
            "thresholds_ms": _plain(self.thresholds),
            "response_seconds": _plain(self.times),
        }
        counts = {"sessions": len(self.sessions), "sessions_counted": len(counted(self.sessions))}
        whole = {"version": 1, "settings": public, **counts, "artificial": self.artificial, **figures}
        plain: dict[str, Any] = finite(
            {**whole, "left_out": left_out, "remarks": results_words.remarks(self)}
        )
        return plain


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) for name, value in table.items()}


def response_seconds(results: Results, right: bool | None) -> list[float]:
    """The response times of all trials that count; right None: where nothing is right or wrong, all."""
    trials = [t for session in counted(results.sessions) for t in session.kept]
    return [t.response_ms / 1000 for t in trials if t.response_ms is not None and t.right is right]


def extremes(results: Results, algorithm: str, count: int) -> tuple[list[Shown], list[Shown]]:
    """An algorithm's images that fooled most, and those that fooled least, no image in both.

    Ordered by the share, drawn towards the mean over all of them as if each had been shown four times more:
    one lucky trial of one does not stand above nine of ten.
    """
    images = [image for image in results.images if image.algorithm == algorithm]
    total = sum(i.shown for i in images)
    mean = sum(i.hits for i in images) / total if total else 0.0
    ordered = sorted(images, key=lambda i: ((i.hits + 4 * mean) / (i.shown + 4), i.hits), reverse=True)
    half = min(count, len(ordered) // 2)
    return ordered[:half], ordered[::-1][:half]
