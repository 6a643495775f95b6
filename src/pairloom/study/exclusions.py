"""Which sessions and trials count: the rule of study.json, stated before anybody took part.

Three kinds of things are left out, each with its reason: sessions by the rule or because they were not
finished; single trials, when the tab was hidden or an image stood for another time than it should; and
artificial observers, wherever people took part too. Practice and attention trials never count.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pairloom.study.store import SessionRow, TrialRow

TOLERANCE_MS = 50
"""A measured exposure further from the one asked for leaves its trial out."""
LEAST_ANSWERS_FOR_SIDES = 20
"""With fewer answers the rule on one-sided answers is not applied: chance alone gives such rows."""
ARTIFICIAL = "pairloom-simulate"
"""Begins the user agent of artificial observers."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session under the number that stands for it in every table, and why it is left out, if it is."""

    number: int
    """From 1, in the order of beginning; says nothing of link or secret."""
    row: SessionRow
    trials: tuple[TrialRow, ...]
    reason: str = ""
    """Empty: it counts."""

    @property
    def algorithm(self) -> str:
        """Whose fakes it saw; `A|B` where it compared two."""
        return self.row.algorithm

    @property
    def artificial(self) -> bool:
        """Was it played by `study simulate`?"""
        return (self.row.user_agent or "").startswith(ARTIFICIAL)

    @property
    def main(self) -> list[TrialRow]:
        """The trials that can count, answered or not."""
        return [t for t in self.trials if not t.practice and not t.attention]

    @property
    def answered(self) -> list[TrialRow]:
        """The main trials with an answer."""
        return [t for t in self.main if t.answer is not None]

    @property
    def kept(self) -> list[TrialRow]:
        """The answered main trials without a fault."""
        return [t for t in self.answered if not trial_fault(t)]

    @property
    def complete(self) -> bool:
        """Has every main trial an answer? Then it is finished, whether or not the last page was sent."""
        return len(self.answered) == len(self.main)

    @property
    def seconds(self) -> float:
        """From the first image shown to the last answer, practice included, by the server's clock."""
        begun = [t.shown_at for t in self.trials if t.shown_at]
        ended = [t.answered_at for t in self.trials if t.answered_at]
        if not begun or not ended:
            return 0.0
        return (datetime.fromisoformat(max(ended)) - datetime.fromisoformat(min(begun))).total_seconds()

    @property
    def hidden_share(self) -> float:
        """Of the answered main trials, those during which the tab was hidden."""
        return statistics.fmean(bool(t.hidden) for t in self.answered) if self.answered else 0.0

    @property
    def attention_share(self) -> float | None:
        """Of the answered attention checks, those answered rightly; None without any."""
        checks = [t for t in self.trials if t.attention and t.right is not None]
        return statistics.fmean(bool(t.right) for t in checks) if checks else None

    @property
    def one_sided(self) -> float:
        """Of the answered main trials, those with the more frequent answer."""
        share = statistics.fmean(t.answer or 0 for t in self.answered) if self.answered else 0.5
        return max(share, 1 - share)


def measured_ms(trial: TrialRow) -> list[float]:
    """The exposures that the browser measured."""
    return [ms for ms in (trial.measured_first_ms, trial.measured_second_ms) if ms is not None]


def trial_fault(trial: TrialRow) -> str:
    """Why an answered main trial does not count; empty when it does."""
    if trial.hidden:
        return "tab hidden"
    if trial.times_shown > 1:
        return "shown again after a reload"
    if any(abs(ms - trial.exposure_ms) > TOLERANCE_MS for ms in measured_ms(trial)):
        return f"exposure off by more than {TOLERANCE_MS} ms"
    return ""


def sessions_of(
    rows: Iterable[SessionRow], trials: Iterable[TrialRow], rule: Mapping[str, Any]
) -> list[Session]:
    """Every session with its number, its trials, and the reason why it is left out.

    Args:
        rows: All sessions of the study.
        trials: All trials.
        rule: `exclusion` of study.json; what it does not name is not asked for.
    """
    by_session: dict[str, list[TrialRow]] = defaultdict(list)
    for trial in trials:
        by_session[trial.session].append(trial)
    ordered = sorted(rows, key=lambda row: row.seed)
    found = [
        Session(number, row, tuple(sorted(by_session[row.id], key=lambda t: t.number)))
        for number, row in enumerate(ordered, start=1)
    ]
    people = any(not s.artificial and s.answered for s in found)
    return [Session(s.number, s.row, s.trials, _reason(s, rule, people)) for s in found]


def _reason(session: Session, rule: Mapping[str, Any], people: bool) -> str:
    if session.artificial and people:
        return "an artificial observer, and people took part too"
    if not session.answered:
        return "no main trial answered"
    if not session.complete:
        return f"not finished: {len(session.answered)} of {len(session.main)} main trials answered"
    reasons = _broken(session, rule)
    if not reasons and not session.kept:
        reasons = ["none of its trials counts"]
    return "; ".join(reasons)


def _broken(session: Session, rule: Mapping[str, Any]) -> list[str]:
    """What of the rule a finished session breaks, all of it."""
    reasons = []
    least = rule.get("least_seconds")
    if least is not None and not session.artificial and session.seconds < least:
        reasons.append(f"took {session.seconds:.0f} s, less than {least:g} s")
    most = rule.get("most_hidden_share")
    if most is not None and session.hidden_share > most:
        reasons.append(
            f"tab hidden in {100 * session.hidden_share:.0f} % of trials, more than {100 * most:.0f} %"
        )
    share, least = session.attention_share, rule.get("least_attention")
    if least is not None and share is not None and share < least:
        reasons.append(f"{100 * share:.0f} % of the attention checks right, less than {100 * least:.0f} %")
    most, enough = rule.get("most_one_sided"), len(session.answered) >= LEAST_ANSWERS_FOR_SIDES
    if most is not None and enough and session.one_sided > most:
        reasons.append(
            f"the same answer in {100 * session.one_sided:.0f} % of trials, more than {100 * most:.0f} %"
        )
    return reasons


def rule_words(rule: Mapping[str, Any]) -> list[str]:
    """The rule as sentences, in the order of application."""
    known = {
        "least_seconds": lambda v: f"it took less than {v:g} seconds from the first image to the last answer",
        "most_hidden_share": lambda v: f"the tab was hidden in more than {100 * v:.0f} % of its main trials",
        "least_attention": lambda v: f"less than {100 * v:.0f} % of its attention checks were right",
        "most_one_sided": lambda v: (
            f"more than {100 * v:.0f} % of its main answers were the same "
            f"(asked from {LEAST_ANSWERS_FOR_SIDES} answers on)"
        ),
    }
    stated = [
        f"A session is left out when {known[key](rule[key])}." for key in known if rule.get(key) is not None
    ]
    return [
        "A session is left out when it did not answer every main trial.",
        *stated,
        "A trial is left out when the tab was hidden during it, when it was shown again after a reload, or "
        f"when an image stood for a time that differs by more than {TOLERANCE_MS} ms from the one asked for.",
    ]


def counted(sessions: Sequence[Session]) -> list[Session]:
    """Those that are not left out."""
    return [session for session in sessions if not session.reason]
