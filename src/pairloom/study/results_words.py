"""The results of a study in words: for a terminal, and what a reader must know before reading any figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pairloom.evaluation.summary import aligned
from pairloom.study.exclusions import TOLERANCE_MS, counted, measured_ms, trial_fault
from pairloom.study.resampling import FEW_SESSIONS, Contrast, Share
from pairloom.study.staircases import TARGET

if TYPE_CHECKING:
    from pairloom.study.results import Results

HIT = {"two": "labeled real", "single": "labeled real", "prefer": "first preferred"}
"""What the share is the share of, by mode; the first is the paper's word."""


def percent(value: float, *, sign: bool = False) -> str:
    """A share as the paper prints it: percent with one decimal, without the sign of percent."""
    return f"{100 * value:{'+' if sign else ''}z.1f}".replace("-", "−")


def mean_se(share: Share) -> str:
    """`18.9 ± 2.5`, percent."""
    return f"{percent(share.mean)} ± {percent(share.se)}"


def span(low: float, high: float, *, sign: bool = False) -> str:
    """An interval in percent."""
    return f"{percent(low, sign=sign)} to {percent(high, sign=sign)}"


def p_words(p: float) -> str:
    """A p value with the digits that mean something."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: int, what: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def arm_words(arm: str) -> str:
    """`A over B` for a pair of algorithms."""
    return arm.replace("|", " over ")


def size_words(results: Results, test: Contrast) -> tuple[str, str]:
    """A difference and its interval: points of percent; with an adaptive exposure, how many times as long."""
    if results.thresholds:
        return f"{2**test.difference:.2f} times", f"{2**test.low:.2f} to {2**test.high:.2f}"
    return percent(test.difference), span(test.low, test.high)


def pair_sentence(results: Results, a: str, b: str, test: Contrast) -> str:
    """Which of two algorithms fools more often, or that these sessions cannot tell."""
    tail = f"P({a} > {b}) = {test.greater:.3f}, p {_equals(test.p)} ({p_words(test.p_holm)} corrected)"
    size, interval = size_words(results, test)
    if results.thresholds:
        how, by = f"{a} must be seen longer than {b} to be found out", f"{size} as long [{interval}]"
    else:
        shares = f"{percent(results.shares[a].mean)} % against {percent(results.shares[b].mean)} %"
        how, by = f"{a} fools more often than {b}, {shares}", f"{size} points [{interval}]"
    if not test.distinguishable:
        return f"{a} and {b} are not distinguishable with these sessions: {by}; {tail}."
    return f"{how}: {by}; {tail}."


def chance_sentence(results: Results, arm: str) -> str:
    """What the share says against chance."""
    test, mode = results.chance[arm], results.settings.mode
    p = f"p {_equals(test.p_holm)} corrected"
    if mode == "prefer":
        a, b = arm.split("|")
        if not test.distinguishable:
            return f"Neither {a} nor {b} is clearly preferred; {p}."
        return f"{a if test.difference > 0 else b} is preferred to {b if test.difference > 0 else a}; {p}."
    of = "as often as real images are" if mode == "single" else "in half of the trials, as by guessing"
    if not test.distinguishable:
        return f"{arm}: its fakes may be taken for real {of}: these sessions cannot tell the difference; {p}."
    how = "less" if test.difference < 0 else "more"
    than = "often than real images are" if mode == "single" else "often than by guessing"
    return f"{arm}: its fakes are taken for real {how} {than}; {p}."


def _equals(p: float) -> str:
    return p_words(p) if p < 0.001 else f"= {p_words(p)}"


def words(results: Results) -> str:
    """Aligned tables and sentences."""
    settings = results.settings
    valid = len(counted(results.sessions))
    head = f"{settings.title}: {valid} of {count(len(results.sessions), 'session')} count"
    table = [["", f"% {HIT[settings.mode]}", "95 % interval", "without exclusions", "sessions", "trials"]]
    for arm, share in results.shares.items():
        whole, shown = mean_se(results.everything[arm]), span(share.low, share.high)
        table.append([arm_words(arm), mean_se(share), shown, whole, str(share.sessions), str(share.trials)])
    lines = [head, "", *aligned(table), ""]
    lines += [chance_sentence(results, arm) for arm in results.chance]
    lines += [pair_sentence(results, a, b, test) for (a, b), test in results.pairs.items()]
    lines += _further(results)
    return "\n".join([*lines, "", *remarks(results)]).rstrip() + "\n"


def _further(results: Results) -> list[str]:
    """What only some modes have, and the response times."""
    lines = [
        f"{arm}: real images called fake {mean_se(share)} %, d' {results.sensitivity[arm].value:.2f} "
        f"[{results.sensitivity[arm].low:.2f} to {results.sensitivity[arm].high:.2f}]."
        for arm, share in results.reals.items()
    ]
    lines += [
        f"{name} is preferred in {percent(win.value)} ± {percent(win.se)} % of trials, mean over the others."
        for name, win in results.wins.items()
    ]
    lines += [
        f"{arm}: {percent(TARGET)} % right at {t.ms:.0f} ms [{t.low:.0f} to {t.high:.0f}]."
        for arm, t in results.thresholds.items()
    ]
    for arm, times in results.times.items():
        split = "" if math.isnan(times.right) else f" (right {times.right:.2f} s"
        split += (
            f", wrong {times.wrong:.2f} s)" if split and not math.isnan(times.wrong) else ")" if split else ""
        )
        lines.append(f"{arm_words(arm)}: median response time {times.median:.2f} s{split}.")
    return lines


# -----------------------------------------------------------------------------------------------------------
# What must be known


def remarks(results: Results) -> list[str]:
    """What a reader must know to read the figures, as sentences."""
    return [*_about_people(results), *_about_figures(results), *_about_trials(results)]


def _about_people(results: Results) -> list[str]:
    found = []
    if results.artificial:
        found.append(
            "These are artificial observers, played by pairloom study simulate: no person took part."
        )
    empty = [arm_words(arm) for arm in results.settings.arms if arm not in results.shares]
    if empty:
        found.append(f"No session that counts: {', '.join(empty)}.")
    few = [
        f"{arm_words(arm)} ({s.sessions})" for arm, s in results.shares.items() if s.sessions < FEW_SESSIONS
    ]
    if few:
        found.append(
            f"Fewer than {FEW_SESSIONS} sessions: {', '.join(few)}. Intervals of so few are rough, "
            "and rather too narrow."
        )
    open_ = sum(not s.complete for s in results.sessions)
    if open_:
        found.append(
            f"Begun and not finished: {count(open_, 'session')}, left out except in the column without "
            "exclusions, which has the trials answered."
        )
    broken = sum(bool(s.reason) and s.complete for s in results.sessions)
    if broken:
        found.append(f"Finished and left out by the rule stated beforehand: {count(broken, 'session')}.")
    return found


def _about_figures(results: Results) -> list[str]:
    found = []
    for arm, share in results.shares.items():
        if share.degenerate:
            which = "no trial" if share.hits == 0 else "every trial"
            found.append(
                f"{arm_words(arm)}: {which} of {share.trials}, which leaves the bootstrap nothing to draw; "
                "the interval is the exact one of independent trials, and ± 0.0 does not mean certain."
            )
    if results.settings.adaptive:
        found.append(
            f"The exposure followed the answers, so that {percent(TARGET)} % are right whatever the "
            "algorithm: compare the exposures, not the shares."
        )
    if results.settings.layout == "side-by-side" and results.settings.mode == "two":
        found.append(
            "The images stood side by side, the paper's one after the other: do not compare with it."
        )
    return found


def _about_trials(results: Results) -> list[str]:
    answered = [t for s in counted(results.sessions) for t in s.answered]
    found = []
    for fault in dict.fromkeys(reason for t in answered if (reason := trial_fault(t))):
        number = sum(trial_fault(t) == fault for t in answered)
        found.append(f"Left out: {count(number, 'trial')} of {len(answered):,}, {fault}.")
    unmeasured = sum(not measured_ms(t) for t in answered)
    if unmeasured:
        found.append(
            f"The browser measured no exposure in {count(unmeasured, 'trial')}, which count; the rule of "
            f"{TOLERANCE_MS} ms could not be applied to them."
        )
    ratios = [s.row.device_pixel_ratio for s in counted(results.sessions)]
    fractional = sum(ratio is not None and ratio != round(ratio) for ratio in ratios)
    if fractional:
        found.append(
            f"{count(fractional, 'session')} on a screen whose device pixel ratio is no whole number: "
            "the browser interpolated the images."
        )
    return found
