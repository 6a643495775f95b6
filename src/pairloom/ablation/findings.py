"""Which of the paper's findings hold on these data, which do not, and which the data cannot decide."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pairloom.ablation.scores import SCORES, Arrays, Score
from pairloom.ablation.study import Finding, Study
from pairloom.ablation.uncertainty import Estimate, difference, estimate
from pairloom.evaluation.fcn_score import FEW, plural

Outcome = Literal["holds", "does not hold", "undecided", "not measured"]
PAPER = re.compile(r"(Table|Figure|Section)s? \d")
"""How the source of a finding begins that is the paper's own."""
MANY = 3
"""Of so many findings the words say that one in twenty errs by chance."""
MORE_DIGITS = 3
"""A bound that is not the threshold must not look like it: so many more decimals may tell them apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What these data say of one finding."""

    finding: Finding
    outcome: Outcome
    figures: Estimate | None
    """Of `higher` - `lower`, or of `higher` alone against its threshold; None: not measured."""
    words: str
    """A sentence for people, with the figures."""
    reason: str = ""
    """Why it is undecided or not measured."""


@dataclass(frozen=True, slots=True)
class _Side:
    """A variant of a finding, with the runs that there are of it."""

    title: str
    runs: Sequence[Arrays]
    planned: int
    """The most runs that a variant has."""

    @property
    def name(self) -> str:
        """The title, with the number of seeds where some runs are missing."""
        count = len(self.runs)
        return self.title if count == self.planned else f"{self.title}, {plural(count, 'seed')}"

    def figure(self, score: Score) -> float:
        """The mean over the seeds."""
        return sum(score.of(arrays) for arrays in self.runs) / len(self.runs)


def judge(
    study: Study, runs: Mapping[str, Sequence[Arrays]], blind: Mapping[str, str] | None = None
) -> tuple[Verdict, ...]:
    """Test each finding: it holds, or does not, only where the 95 % interval lies on one side.

    Args:
        study: Its findings are tested, in their order.
        runs: By the variant's name, the arrays of each seed; absent or empty: all its runs failed.
        blind: By the name of a score that says nothing on these data, why.
    """
    planned = max(map(len, runs.values()), default=0)

    def side(name: str) -> _Side:
        return _Side(study.variant(name).title, runs.get(name, ()), planned)

    return tuple(
        _verdict(
            finding,
            [side(name) for name in (finding.higher, finding.lower) if name is not None],
            (blind or {}).get(finding.score, ""),
        )
        for finding in study.findings
    )


def _verdict(finding: Finding, sides: Sequence[_Side], blind: str) -> Verdict:
    score = SCORES[finding.score]
    about = f"{finding.statement} ({finding.source})"
    reason = _absent(score, sides) or blind
    if reason:
        words = f"{about}: not measured, as {reason}."
        return Verdict(finding=finding, outcome="not measured", figures=None, words=words, reason=reason)
    if finding.lower is None:
        figures = estimate(score, sides[0].runs)
    else:
        figures = difference(score, sides[0].runs, sides[1].runs)
    outcome, reason = _outcome(finding, figures)
    because = f", as {reason}" if reason else ""
    words = f"{about}: {_in_words(finding, score, sides, figures)}: {outcome}{because}."
    return Verdict(finding=finding, outcome=outcome, figures=figures, words=words, reason=reason)


def _absent(score: Score, sides: Sequence[_Side]) -> str:
    """Why there is no figure; empty where there is one."""
    for side in sides:
        if not side.runs:
            return f"no run of {side.title} was finished"
    for side in sides:
        for arrays in side.runs:
            if lacks := score.lacks(arrays):
                return lacks
    for side in sides:
        if not math.isfinite(side.figure(score)):
            return f"{score.title} has no value for {side.title}"
    return ""


def _outcome(finding: Finding, figures: Estimate) -> tuple[Outcome, str]:
    """The outcome, and why it is none."""
    least, most = _thresholds(finding)
    assert least is not None or most is not None, finding
    if figures.seeds < 2:
        return "undecided", "it takes two seeds or more of each variant"
    if figures.images < 2:
        return "undecided", "it takes two test images or more"
    if (least is not None and figures.high < least) or (most is not None and figures.low > most):
        return "does not hold", ""
    if (least is None or figures.low > least) and (most is None or figures.high < most):
        return "holds", ""
    inside = [f"{v:g}" for v in (least, most) if v is not None and figures.low <= v <= figures.high]
    return "undecided", f"the interval does not exclude {' and '.join(inside)}"


def _thresholds(finding: Finding) -> tuple[float | None, float | None]:
    """What the figure must lie above, and below."""
    return (finding.above, finding.below) if finding.lower is None else (0.0, None)


# ------------------------------------------------------------------------------------------------------------
# Words


def _in_words(finding: Finding, score: Score, sides: Sequence[_Side], figures: Estimate) -> str:
    """The score of each side, and what is tested."""
    tested = _tested(finding, figures)
    if finding.lower is not None:
        each = (f"{side.figure(score):z.{score.digits}f} ({side.name})" for side in sides)
        return f"{score.title} {' against '.join(each)}, {tested}"
    limits = (("above", finding.above), ("below", finding.below))
    wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    return f"{score.title} {tested} ({sides[0].name}), to be {wanted}"


def _tested(finding: Finding, figures: Estimate) -> str:
    """`mean [low, high] unit`, signed where it is a difference."""
    score = SCORES[finding.score]
    digits = score.digits
    limits = [limit for limit in _thresholds(finding) if limit is not None]
    bounds = (figures.low, figures.high)
    for _ in range(MORE_DIGITS):
        if not any(v != limit and abs(v - limit) < 0.5 * 10**-digits for v in bounds for limit in limits):
            break
        digits += 1
    words = figures.words(digits, sign="+" if finding.lower is not None else "")
    return f"{words} {score.unit}".rstrip()


def paragraph(verdicts: Sequence[Verdict]) -> str:
    """All verdicts in one paragraph: what holds, what does not, what is undecided, what was not measured."""
    if not verdicts:
        return "This study tests no finding."
    whose = "the paper's" if all(PAPER.match(v.finding.source) for v in verdicts) else "the"
    total = len(verdicts)
    clauses = []
    for outcome in get_args(Outcome):
        chosen = [v for v in verdicts if v.outcome == outcome]
        if chosen:
            said = _alone(outcome, whose) if total == 1 else _counted(outcome, len(chosen), total)
            clauses.append(f"{said}: {_listed(chosen)}.")
    if total > 1:
        clauses[0] = f"Of {whose} {total} findings, {clauses[0]}"
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in [*clauses, *_remarks(verdicts)])


def _alone(outcome: Outcome, whose: str) -> str:
    """Of a study's only finding."""
    return {
        "holds": f"{whose} finding holds here",
        "does not hold": f"{whose} finding does not hold here",
        "undecided": f"these data cannot decide {whose} finding",
        "not measured": f"{whose} finding was not measured",
    }[outcome]


def _counted(outcome: Outcome, count: int, total: int) -> str:
    """Of so many of the findings."""
    every, one = count == total, count == 1
    return {
        "holds": f"{'all' if every else count} {'holds' if one else 'hold'} here",
        "does not hold": "none holds here" if every else f"{count} {'does' if one else 'do'} not hold here",
        "undecided": f"these data cannot decide {'any' if every else count}",
        "not measured": "none was measured" if every else f"{count} {'was' if one else 'were'} not measured",
    }[outcome]


def _listed(verdicts: Sequence[Verdict]) -> str:
    """The statements with their figures, or with the reason that several have in common."""
    groups: dict[str, list[str]] = {}
    for v in verdicts:
        score, why = SCORES[v.finding.score], v.reason
        if v.figures is not None:
            why = f"{score.title} {_tested(v.finding, v.figures)}"
        groups.setdefault(why, []).append(v.finding.statement)
    return "; ".join(f"{'; '.join(statements)} ({why})" for why, statements in groups.items())


def _remarks(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What a reader must know to read the intervals."""
    measured = [v.figures for v in verdicts if v.figures is not None]
    if not measured:
        return
    counts, images = {figures.seeds for figures in measured}, max(figures.images for figures in measured)
    seeds = plural(max(counts), "seed") if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    over = f"{seeds} and {plural(images, 'test image')}" if max(counts) > 1 else plural(images, "test image")
    yield f"In brackets: the 95 % interval, over {over}."
    if min(counts) == 1:
        yield "With one seed a difference may be that seed's luck; a claim takes two or more of each variant."
    if images < FEW:
        yield f"With {plural(images, 'test image')}, the intervals are rough, and likely too narrow."
    tested = sum(figures.seeds > 1 for figures in measured)
    if tested >= MANY:
        yield f"Of {tested} findings tested at 95 %, one in twenty errs by chance."
