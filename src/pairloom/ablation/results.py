"""What a study found: every score of every variant with its interval, and the verdict on the findings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pairloom.ablation.findings import Verdict, judge, paragraph
from pairloom.ablation.scores import SCORES, Arrays, Score, available
from pairloom.ablation.study import Study
from pairloom.ablation.uncertainty import Estimate, difference, estimate
from pairloom.evaluation.fcn_score import plural
from pairloom.evaluation.summary import aligned, finite

VERSION = 1
REFERENCES = {"mean target": "mean target", "targets": "ground truth"}
"""What no model made, in the order of the table: names of its arrays, and titles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A variant, or a reference."""

    name: str
    title: str
    cells: dict[str, Estimate]
    """By score."""

    @property
    def seeds(self) -> int:
        """That it is of; 0 for a reference, and for a variant whose runs all failed."""
        return max((cell.seeds for cell in self.cells.values()), default=0)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The arrays of a study's runs, and what follows from them."""

    study: Study
    seeds: int
    """Planned; rows say how many there are."""
    images_seen: int
    """By each run."""
    test_images: int
    split: str
    runs: Mapping[str, tuple[Arrays, ...]]
    """By the variant's name, one a seed."""
    references: Mapping[str, Arrays]
    """By the names of `REFERENCES`."""
    failures: Mapping[str, str]
    """By run in words, why it has no weights."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = [arrays["names"] for arrays in self._all() if "names" in arrays]
        assert all(np.array_equal(names, named[0]) for names in named), "scores of different test images"

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """The columns: what has a value in some row."""
        there = {score.name for arrays in self._all() for score in available(arrays)}
        return tuple(score for score in SCORES.values() if score.name in there)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The variants in the study's order, then the mean target, then the ground truth."""
        titles = [variant.title for variant in self.study.variants]
        rows = [
            Row(
                name=v.name,
                title=v.title if titles.count(v.title) == 1 else f"{v.title} ({v.name})",
                cells={s.name: estimate(s, self.runs.get(v.name, ())) for s in self.scores},
            )
            for v in self.study.variants
        ]
        for name, title in REFERENCES.items():
            if name in self.references:
                found = {s.name: estimate(s, [self.references[name]]) for s in self.scores}
                cells = {key: dataclasses.replace(cell, seeds=0) for key, cell in found.items()}
                rows.append(Row(name=name, title=title, cells=cells))
        return tuple(rows)

    @property
    def table(self) -> dict[str, dict[str, Estimate]]:
        """By title of the row, then by score."""
        return {row.title: row.cells for row in self.rows}

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """On each finding of the study."""
        return judge(self.study, self.runs, self.blind)

    @cached_property
    def blind(self) -> dict[str, str]:
        """By the name of each score by class that cannot tell real photos from a picture of nothing: why."""
        real, nothing = (self.references.get(name) for name in ("targets", "mean target"))
        if real is None or nothing is None:
            return {}
        return {
            score.name: "the segmenter does no better on the real targets than on their mean"
            for score in self.scores
            if "confusion" in score.needs and not difference(score, [real], [nothing]).low > 0
        }

    @property
    def paragraph(self) -> str:
        """The verdicts in words."""
        return paragraph(self.verdicts)

    @property
    def caption(self) -> str:
        """What the table's cells are."""
        over = "test images alone" if self.seeds == 1 else "seeds and test images"
        return (
            f"Means and 95 % intervals over {over}: {plural(self.seeds, 'seed')}, "
            f"{plural(self.test_images, 'image')} of the {self.split} split, "
            f"{plural(self.images_seen, 'image')} seen by each run."
        )

    def words(self) -> str:
        """For a terminal: the means, aligned, then each verdict, the failures and the notes."""
        table = [["", *(row.title for row in self.rows)]]
        for s in self.scores:
            means = (dataclasses.replace(row.cells[s.name], low=math.nan) for row in self.rows)
            table.append([s.heading, *(mean.words(s.digits) for mean in means)])
        lines = [*aligned(table), "", f"{self.caption} The intervals are in table.md.", ""]
        lines += [verdict.words for verdict in self.verdicts]
        lines += [f"Not finished: {run}: {why}" for run, why in self.failures.items()]
        return "\n".join([*lines, *self.notes]).rstrip() + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict for JSON; what is not finite is null."""
        plain: dict[str, Any] = finite(
            {
                "version": VERSION,
                "study": self.study.name,
                "title": self.study.title,
                "seeds": self.seeds,
                "images_seen": self.images_seen,
                "test_images": self.test_images,
                "split": self.split,
                "scores": {
                    s.name: {"title": s.title, "unit": s.unit, "better": s.better} for s in self.scores
                },
                "table": {
                    row.name: {
                        "title": row.title,
                        "scores": {name: dataclasses.asdict(cell) for name, cell in row.cells.items()},
                    }
                    for row in self.rows
                },
                "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts],
                "paragraph": self.paragraph,
                "failures": dict(self.failures),
                "notes": list(self.notes),
            }
        )
        return plain

    def _all(self) -> list[Arrays]:
        return [*(arrays for runs in self.runs.values() for arrays in runs), *self.references.values()]
