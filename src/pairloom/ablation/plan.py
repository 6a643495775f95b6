"""A study on disk: which runs it consists of, where they lie, and what is done.

OUT/study.json                    the base configuration, the variants, the budget
OUT/runs/VARIANT/seed-K/          an ordinary run directory each
OUT/runs/VARIANT/seed-K/failed.txt   why there are no weights, where a run failed
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairloom import configfile
from pairloom.ablation.study import Study, StudyError, Variant
from pairloom.checkpoint import CheckpointError, read_description, steps, write_text_atomically
from pairloom.config import Config, ConfigError
from pairloom.rundir import read_json

SAVES = 5
"""States that a run of a study writes, unless the configuration says how many steps apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of a study: a variant, trained with one seed."""

    variant: Variant
    seed: int
    config: Config
    path: Path
    """Its run directory."""

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def steps(self) -> int:
        """That it takes."""
        assert self.config.training.steps is not None
        return self.config.training.steps

    @property
    def steps_done(self) -> int:
        """Of the newest state, or of the weights of a finished run."""
        if self.is_done:
            return self.steps
        return max(steps(self.path / "checkpoints"), default=0)

    @property
    def is_done(self) -> bool:
        """Are there weights of the last step?"""
        file = self.path / "generator.safetensors"
        try:
            return file.exists() and read_description(file)["provenance"]["step"] == self.steps
        except (CheckpointError, KeyError):
            return False

    @property
    def written(self) -> int:
        """When its weights were, in nanoseconds."""
        return (self.path / "generator.safetensors").stat().st_mtime_ns

    @property
    def failure(self) -> str | None:
        """Why it has no weights of the last step, where it was tried in vain."""
        file = self.path / "failed.txt"
        return file.read_text(encoding="utf-8").strip() if file.exists() and not self.is_done else None

    def fail(self, why: str) -> None:
        """Record why it has none."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.path / "failed.txt", why + "\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All runs of a study."""

    out: Path
    study: Study
    base: Config
    seeds: int
    images: int
    """That each run sees: the same for all, whatever their batch size."""

    @classmethod
    def make(cls, out: Path, study: Study, base: Config, *, seeds: int, pairs: int) -> Plan:
        """A plan; the budget is what the base configuration sees.

        Raises:
            StudyError: No variants, no seeds, or a variant that cannot be.
        """
        if not study.variants:
            raise StudyError(f"the grid of {study.name} has no cells; give each field at least one value.")
        if seeds < 1:
            raise StudyError(f"--seeds is {seeds}; it must be 1 or more.")
        training = base.training
        if training.steps is not None:
            images = training.steps * training.batch_size
        else:
            images = (training.epochs or 1) * pairs
        plan = cls(out=out, study=study, base=base, seeds=seeds, images=images)
        list(plan.cells())
        return plan

    def cells(self) -> Iterator[Cell]:
        """Every run: all variants with the first seed, then with the next."""
        trained = {v.run_name: v for v in self.study.variants}
        for seed in range(self.seeds):
            for name in trained:
                yield self.cell(self.study.variant(name), seed)

    def cell(self, variant: Variant, seed: int) -> Cell:
        """The run whose weights a variant uses.

        Raises:
            StudyError: The variant's fields cannot be.
        """
        trained = self.study.variant(variant.run_name)
        path = self.out / "runs" / trained.name / f"seed-{seed}"
        try:
            config = configfile.override(self.base, trained.fields)
            count = math.ceil(self.images / config.training.batch_size)
            every = config.logging.save_every_steps or max(math.ceil(count / SAVES), 1)
            length = {"training.steps": count, "logging.save_every_steps": every, "training.seed": seed}
            config = configfile.override(config, length)
        except ConfigError as error:
            hint = f" {self.study.hint}" if self.study.hint else ""
            raise StudyError(f"variant {trained.name!r} of {self.study.name}: {error}{hint}") from error
        return Cell(variant=trained, seed=seed, config=config, path=path)

    def save(self) -> None:
        """Write OUT/study.json; an earlier one of the same study may be continued, or given more variants.

        Raises:
            StudyError: OUT holds another study, or one that was begun with another configuration.
        """
        file = self.out / "study.json"
        variants = {v.name: dict(v.fields) for v in self.study.variants}
        if file.exists():
            begun = read_json(file)
            variants = self._continued(begun) | variants
        self.out.mkdir(parents=True, exist_ok=True)
        values = {
            "version": 1,
            "study": self.study.name,
            "images": self.images,
            "seeds": self.seeds,
            "variants": variants,
            "base": configfile.to_dict(self.base),
        }
        write_text_atomically(file, json.dumps(values, indent=2) + "\n")

    def _continued(self, begun: dict[str, Any]) -> dict[str, Any]:
        """The variants of the study begun in OUT, which must be this one."""
        if begun.get("study") != self.study.name:
            raise StudyError(
                f"{self.out}: holds the study {begun.get('study')!r}; give {self.study.name!r} another --out."
            )
        changed = configfile.differences(configfile.from_dict(begun["base"]), self.base)
        if begun.get("images") != self.images:
            changed.append(f"images seen by each run: {begun.get('images')} -> {self.images}")
        then: dict[str, Any] = begun["variants"]
        for variant in self.study.variants:
            fields = json.loads(json.dumps(dict(variant.fields)))
            if then.get(variant.name, fields) != fields:
                changed.append(f"variant {variant.name}: {then[variant.name]} -> {fields}")
        if changed:
            raise StudyError(
                f"{self.out}: was begun with another configuration ({'; '.join(changed)}). Give the same "
                "values to continue it, or another --out to start anew."
            )
        return then
