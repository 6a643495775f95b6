"""What a study is: variants of one configuration, the paper's answer, and the findings to be tested."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class StudyError(ValueError):
    """A study cannot be run as asked; the message says what to change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One column of the paper's figure, one row of its table: a configuration, trained once a seed."""

    name: str
    """Letters, digits, dots and dashes: the name of its folder."""
    title: str
    """For people."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the study's base, by dotted names of the configuration."""
    dropout: bool | None = None
    """Is the noise on at test time? None: as it was trained."""
    runs_of: str = ""
    """The variant whose trained models these are, where only the test differs; empty: its own."""

    @property
    def run_name(self) -> str:
        """The variant that is trained."""
        return self.runs_of or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A statement of the paper about one score, that these data may confirm, contradict, or leave open.

    Either `higher` scores more than `lower`; or, without `lower`, `higher` scores more than `above`, or less
    than `below`.
    """

    statement: str
    source: str
    """Where the paper says so."""
    score: str
    """A name of `scores.SCORES`."""
    higher: str
    """A variant's name."""
    lower: str | None = None
    """Another's."""
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """A table of the paper: its numbers, on its data."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A question, the variants that answer it, and what the paper found."""

    name: str
    title: str
    question: str
    answer: str
    """The paper's, in words; empty where it gives none."""
    variants: tuple[Variant, ...]
    findings: tuple[Finding, ...] = ()
    paper: tuple[PaperTable, ...] = ()
    curve: tuple[float, ...] = ()
    """A number for each variant, where the score is to be drawn over it."""
    curve_title: str = ""
    hint: str = ""
    """What to do where one of the variants cannot be."""

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        assert len(set(names)) == len(names), names
        assert all(v.run_name in names for v in self.variants)

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    def only(self, names: tuple[str, ...]) -> Study:
        """The same study with these variants, and the findings that they can answer.

        Raises:
            StudyError: There is no such variant.
        """
        known = [variant.name for variant in self.variants]
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise StudyError(f"{self.name} has no variant {name!r} (it has {', '.join(known)}){hint}")
        kept = [i for i, name in enumerate(known) if name in names]
        wanted = {known[i] for i in kept}
        variants = tuple(
            # A model that was trained for a variant left out is this one's own.
            dataclasses.replace(v, runs_of="" if v.runs_of not in wanted else v.runs_of)
            for v in self.variants
            if v.name in wanted
        )
        return dataclasses.replace(
            self,
            variants=variants,
            findings=tuple(f for f in self.findings if {f.higher, f.lower or f.higher} <= wanted),
            curve=tuple(self.curve[i] for i in kept) if self.curve else (),
        )
