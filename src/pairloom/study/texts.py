"""The consent page and the instructions as a new study has them: Markdown, to be edited by the lab."""

from __future__ import annotations

import math

from pairloom.study.protocol import StudySettings

QUESTIONS = {
    "two": "Which image was fake?",
    "single": "Was this image real or fake?",
    "prefer": "Which image was better?",
}
"""What is asked, by mode."""
SECONDS_TO_ANSWER = 3.0
"""For the estimate of how long a session takes."""
BLANKS_MS = {"two": 1600, "prefer": 1600, "single": 1000}
"""Around the images of a trial; see study.js."""

CONSENT = """\
<!-- This is the first page that a participant sees. It is yours: say who you are, whom to write to, who has
approved the study, and what happens to the answers. Comments like this one are not shown. -->

# Taking part

You are invited to a study about pictures. You will look at pictures for a short time each and say {task}.
It takes about {minutes}.

**What is recorded.** Your answers and how long they took, what you write at the end, the size of your
window, how finely your screen shows pixels, and the name of your browser. Neither your name nor your address
on the network is recorded.

**It is your choice.** There is no right way to be good at this, and no harm in it. You may stop at any time
by closing this page; nothing happens if you do.

Please take part only if you are an adult, and if you see colours as most people do, with your glasses or
lenses if you wear any.
"""

INSTRUCTIONS = """\
<!-- The second page. Comments like this one are not shown. -->

# What to do

{body}

{rounds}

Use the buttons, or on a keyboard **1** and **2**, or the arrow keys. Sit as you usually do, and please keep
this page in view: other windows and tabs can wait.
"""

_TASKS = {
    "two": "which of two was made by a computer",
    "single": "whether they were made by a computer",
    "prefer": "which of two you find better",
}
_BODIES = {
    "two": "In each round you see two images. One is **real**. The other is **fake**: a computer made it. "
    "{how} Then you are asked which one was fake. Take as much time as you like to answer; if you cannot "
    "tell, guess.",
    "single": "In each round you see one image, for {seconds}; then it is hidden. It is either **real**, or "
    "**fake**: a computer made it. Then you are asked which. Take as much time as you like to "
    "answer; if you cannot tell, guess.",
    "prefer": "In each round you see two images, both made by a computer from the same original. {how} "
    "Then you are asked which one was **better**: more convincing, with fewer faults. Take as much time as "
    "you like to answer; if you cannot tell, guess.",
}


def consent_text(settings: StudySettings) -> str:
    """consent.md of a new study."""
    minutes = max(1, math.ceil(session_seconds(settings) / 60))
    words = "a minute" if minutes == 1 else f"{minutes} minutes"
    return CONSENT.format(task=_TASKS[settings.mode], minutes=words)


def instructions_text(settings: StudySettings) -> str:
    """instructions.md of a new study."""
    seconds = "a short time" if settings.adaptive else _seconds(settings.exposure_ms)
    if settings.layout == "side-by-side":
        how = f"Both appear at once, for {seconds}; then they are hidden."
    else:
        how = f"They appear one after the other, each for {seconds}; then they are hidden."
    body = _BODIES[settings.mode].format(how=how, seconds=seconds)
    return INSTRUCTIONS.format(body=body, rounds=_rounds(settings))


def session_seconds(settings: StudySettings) -> float:
    """About how long a session takes."""
    together = settings.mode == "single" or settings.layout == "side-by-side"
    shown = settings.exposure_ms * (1 if together else 2) + BLANKS_MS[settings.mode]
    return 60 + settings.images_needed * (shown / 1000 + SECONDS_TO_ANSWER)


def _seconds(milliseconds: int) -> str:
    if milliseconds == 1000:
        return "one second"
    return (
        f"{milliseconds / 1000:g} seconds"
        if milliseconds > 1000
        else f"{milliseconds} thousandths of a second"
    )


def _rounds(settings: StudySettings) -> str:
    main = settings.trials + settings.attention
    count = f"There are {main} rounds" if main > 1 else "There is one round"
    if not settings.practice:
        return f"{count}."
    told = "" if settings.mode == "prefer" else "; in these you are told the answer"
    first = f"the first {settings.practice} are" if settings.practice > 1 else "the first is"
    total = main + settings.practice
    return f"There are {total} rounds, and {first} for practice{told}."
