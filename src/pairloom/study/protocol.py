"""What a study is: its settings, its images, and what is wrong with them in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

Mode = Literal["two", "single", "prefer"]
Layout = Literal["sequential", "side-by-side"]

VERSION = 1
"""Of the layout of a study's directory; a newer one is refused."""
LEAST_EXPOSURE_MS, MOST_EXPOSURE_MS = 50, 60_000
EXCLUSION = {"least_seconds": 60.0, "most_hidden_share": 0.1, "least_attention": 0.5, "most_one_sided": 0.95}
"""The rule stated before the study, by which whole sessions are left out of its results."""
_SHARES = frozenset(EXCLUSION) - {"least_seconds"}
_NAME = re.compile(r"\w[\w+.,=() -]{0,63}")
_ID = re.compile(r"[0-9a-f]{32}")


class StudyFault(ValueError):
    """A study cannot be made, opened or served as asked; one sentence says what is wrong and what to do."""


# -----------------------------------------------------------------------------------------------------------
# Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySettings:
    """What study.json holds. All of it may be published once the study is over.

    Raises:
        StudyFault: A field is out of its range or contradicts another; the field is named.
    """

    algorithms: tuple[str, ...]
    """Names of what made the fake images; with prefer, of what is compared."""
    seed: int = 0
    """Together with a session's own seed it decides what that session shows."""
    title: str = "Real or fake?"
    """Heading of the page."""
    mode: Mode = "two"
    """two: which of two images is fake; single: is this one fake; prefer: which of two outputs is better."""
    layout: Layout = "sequential"
    """sequential: one image after the other, as the paper; side-by-side: both at once."""
    exposure_ms: int = 1000
    """How long each image is shown; adaptive: where the staircase starts."""
    adaptive: bool = False
    """Does each session's exposure follow its answers? See `staircase`."""
    trials: int = 40
    """Without feedback; these count."""
    practice: int = 10
    """Before them, with feedback."""
    size: int = 256
    """Pixels: longer side of every image, as it is shown."""
    shape: tuple[int, int] | None = None
    """Pixels: height and width of every image; None: square."""
    paired: bool = True
    """Are the real and the fake image of a trial of the same source? False: never of the same."""
    attention: int = 0
    """Further trials among those that count, with a wreck that nobody attentive takes for real."""
    exclusion: Mapping[str, float] = field(default_factory=lambda: dict(EXCLUSION))
    """By this rule, stated beforehand, sessions are left out of the results; see `EXCLUSION`."""
    admin_token_sha256: str = ""
    """Of the token that opens the results."""
    version: int = VERSION

    def __post_init__(self) -> None:
        _check(self)

    @property
    def height_width(self) -> tuple[int, int]:
        """Of every image, in pixels."""
        return self.shape or (self.size, self.size)

    @property
    def images_needed(self) -> int:
        """Sources that each folder must hold: no image is seen twice in a session."""
        return self.practice + self.trials + self.attention

    @property
    def arms(self) -> tuple[str, ...]:
        """What a session can be about: an algorithm, or with prefer two of them as "A|B"."""
        if self.mode == "prefer":
            return tuple("|".join(two) for two in combinations(self.algorithms, 2))
        return self.algorithms

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {name: list(v) for name, v in values.items() if isinstance(v, tuple)}
        return {"version": self.version, **values, **lists, "exclusion": dict(self.exclusion)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudySettings:
        """The settings that `to_dict` wrote.

        Raises:
            StudyFault: They are of a newer version, hold an unknown field, lack one, or have a wrong one.
        """
        version = values.get("version")
        if isinstance(version, int) and version > VERSION:
            raise StudyFault(
                f"the study is of version {version}, and this pairloom reads up to {VERSION}; "
                "use the pairloom that made it, or a newer one."
            )
        if (unknown := sorted(set(values) - {f.name for f in dataclasses.fields(cls)})) or version != VERSION:
            what = f"unknown fields {', '.join(unknown)}" if unknown else f"version {version!r}"
            raise StudyFault(f"the settings have {what}; they were not written by pairloom, or are damaged.")
        if "algorithms" not in values:
            raise StudyFault("the settings lack algorithms; the file is damaged.")
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)

    @classmethod
    def load(cls, folder: str | Path) -> StudySettings:
        """Those of a study's directory.

        Raises:
            StudyFault: There is no study, it is of a newer version, or its settings are damaged.
        """
        path = Path(folder) / "study.json"
        values = _read_json(path, made_by="pairloom study new")
        try:
            return cls.from_dict(values)
        except StudyFault as fault:
            raise StudyFault(f"{path}: {fault}") from None


def _check(s: StudySettings) -> None:
    choices = {"mode": ("two", "single", "prefer"), "layout": ("sequential", "side-by-side")}
    for name, allowed in choices.items():
        _require(getattr(s, name) in allowed, name, getattr(s, name), f"one of {', '.join(allowed)}")
    ranges = {
        "trials": (1, 2000),
        "practice": (0, 2000),
        "attention": (0, 200),
        "size": (8, 4096),
        "exposure_ms": (LEAST_EXPOSURE_MS, MOST_EXPOSURE_MS),
        "seed": (0, 2**63 - 1),
    }
    for name, (low, high) in ranges.items():
        value = getattr(s, name)
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        _require(fits, name, value, f"a whole number from {low} to {high}")
    for name in ("adaptive", "paired"):
        _require(isinstance(getattr(s, name), bool), name, getattr(s, name), "true or false")
    _require(
        isinstance(s.title, str) and 0 < len(s.title.strip()) <= 200, "title", s.title, "1 to 200 letters"
    )
    _require(isinstance(s.admin_token_sha256, str), "admin_token_sha256", s.admin_token_sha256, "a text")
    if s.shape is not None:
        sides = s.shape if isinstance(s.shape, tuple) else ()
        whole = len(sides) == 2 and all(isinstance(v, int) and v > 0 for v in sides)
        fits = whole and max(sides) == s.size
        _require(fits, "shape", s.shape, f"height and width, the longer one being size, {s.size}")
    _check_algorithms(s)
    _check_exclusion(s)
    if s.adaptive:
        _require(s.mode != "prefer", "adaptive", True, "false with prefer: no answer there is right or wrong")
    if s.mode != "two":
        why = "true with prefer: two outputs compare only for the same source"
        _require(s.mode == "single" or s.paired, "paired", s.paired, why)
        why = "sequential with single: there is nothing to stand beside"
        _require(s.mode == "prefer" or s.layout == "sequential", "layout", s.layout, why)


def _check_algorithms(s: StudySettings) -> None:
    least = 2 if s.mode == "prefer" else 1
    words = "a list of two or more, to be compared with each other" if least == 2 else "a list of one or more"
    listed = isinstance(s.algorithms, tuple)
    _require(listed and len(s.algorithms) >= least, "algorithms", s.algorithms, words)
    for name in s.algorithms:
        fits = isinstance(name, str) and _NAME.fullmatch(name) and name.strip() == name and name != "real"
        _require(bool(fits), "algorithms", name, "a name of up to 64 letters, digits and + . , = ( ) -")
    _require(len(set(s.algorithms)) == len(s.algorithms), "algorithms", list(s.algorithms), "all different")


def _check_exclusion(s: StudySettings) -> None:
    _require(isinstance(s.exclusion, Mapping), "exclusion", s.exclusion, "rules and their limits")
    for name, value in s.exclusion.items():
        allowed = f"a rule of {', '.join(EXCLUSION)}"
        _require(name in EXCLUSION, "exclusion", name, allowed)
        fits = isinstance(value, int | float) and math.isfinite(value) and value >= 0
        most = 1.0 if name in _SHARES else math.inf
        words = "a share from 0 to 1" if name in _SHARES else "a number of seconds"
        _require(fits and value <= most, f"exclusion.{name}", value, words)


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise StudyFault(f"{name} is {value!r}; it must be {allowed}.")


def _read_json(path: Path, *, made_by: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyFault(
            f"{path.parent}: holds no study, {path.name} is missing; {made_by} makes it."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise StudyFault(f"{path}: cannot be read ({error}); restore it from a copy.") from error
    if not isinstance(value, dict):
        raise StudyFault(f"{path}: holds no JSON object; restore it from a copy.")
    return value


# -----------------------------------------------------------------------------------------------------------
# Images


@dataclass(frozen=True, slots=True)
class StudyImage:
    """What key.json, which is never served, knows of an image."""

    algorithm: str | None
    """None: a real one, or a wreck made of one."""
    source: str
    """The original's name."""
    pair: int
    """Images of one source have one number."""
    attention: bool = False
    """Is it a wreck, for the attention checks?"""


Key = Mapping[str, StudyImage]
"""By ID: 32 hexadecimal digits from a secret random source."""


def load_key(folder: str | Path) -> dict[str, StudyImage]:
    """Which image is which, from key.json.

    Raises:
        StudyFault: It is missing or damaged.
    """
    path = Path(folder) / "key.json"
    try:
        found = {id_: StudyImage(**record) for id_, record in _read_json(path, made_by="study new").items()}
    except TypeError as error:
        raise StudyFault(f"{path}: is damaged ({error}); restore it from a copy.") from error
    if not all(_ID.fullmatch(id_) for id_ in found):
        raise StudyFault(f"{path}: is damaged, an image's ID is not 32 hexadecimal digits; restore it.")
    return found
