"""The whole of a study: plan, train, score, judge the paper's findings, write table, figure and page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pairloom.ablation import schedule
from pairloom.ablation.grid import read_grid
from pairloom.ablation.judge import Judge, find_judge
from pairloom.ablation.page import write_page
from pairloom.ablation.plan import Cell, Plan
from pairloom.ablation.results import Results
from pairloom.ablation.scores import SCORES, Arrays
from pairloom.ablation.scoring import collect, identity, references, remembered
from pairloom.ablation.studies import CUSTOM, STUDIES, check_name
from pairloom.ablation.study import Study, StudyError
from pairloom.ablation.tables import write_tables
from pairloom.checkpoint import write_text_atomically
from pairloom.config import Config
from pairloom.data import DataError, PairSet, find_pairs, measure_specs
from pairloom.disk import among_data
from pairloom.evaluation.segmenter import SegmenterError
from pairloom.fit import with_whole_paths
from pairloom.translator import Translator


def _print(text: str) -> None:
    print(text, flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a study is run; none of it changes what a run computes."""

    seeds: int = 3
    """Runs of each variant."""
    jobs: int = 1
    """Runs at a time."""
    cell: str | None = None
    """i/n: only the i-th of n shares of the runs, without results; for a cluster's job array."""
    only: tuple[str, ...] = ()
    """Only these variants."""
    grid: Path | None = None
    """Of the study `custom`."""
    segmenter: Path | None = None
    """For the FCN-score; None: trained once for the study."""
    palette: Path | None = None
    """Text file with the classes, one a line."""
    split: str = "test"
    """Which pairs score."""
    retry: bool = False
    """Try again what failed before."""


def ablate(
    study: str,
    base: Config,
    out: str | Path,
    options: Options | None = None,
    *,
    say: Callable[[str], None] = _print,
) -> Results | None:
    """Run one of the paper's studies, or go on with it: the same call again skips what is done.

    Writes ``OUT/runs/VARIANT/seed-K`` (a run directory each), and at the end ``OUT/table.csv``, ``.md``,
    ``.tex``, ``OUT/figure.png``, ``OUT/results.json`` and ``OUT/study.html``.

    Args:
        study: A name of `studies.STUDIES`, or "custom".
        base: What all variants have in common. Each sees as many images as this configuration would.
        out: The study's folder.
        options: How it is run.
        say: Takes each line for people.

    Returns: What was found; None for a share of the runs.

    Raises:
        StudyError: The study cannot be run as asked.
        ConfigError: An impossible configuration.
        DataError: The data cannot be read, or have no pairs to train or to score on.
        Interrupted: SIGINT or SIGTERM came; the same call goes on from there.
    """
    options = options or Options()
    check_name(study)
    if options.jobs < 1:
        raise StudyError(f"--jobs is {options.jobs}; it must be 1 or more.")
    base, out = with_whole_paths(base), Path(out)
    _refuse_among_the_data(out, base)
    pairs = find_pairs(base.data)
    for split in ("train", options.split):
        if not pairs.split(split):
            raise DataError(f"{base.data.path}: no pairs in the {split!r} split, which the study needs.")
    plan = Plan.make(
        out, _chosen(study, base, pairs, options), base, seeds=options.seeds, pairs=len(pairs.split("train"))
    )
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out, options.cell):
        plan.save()
        _train(plan, options, say)
        if options.cell is not None:
            say("This share is done. When all are: the same command without --cell writes the results.")
            return None
        return _results(plan, pairs, options, say)


def _refuse_among_the_data(out: Path, base: Config) -> None:
    if (fault := among_data(out, base.data.path, base.data.path_b)) is not None:
        raise StudyError(fault)


def _chosen(name: str, base: Config, pairs: PairSet, options: Options) -> Study:
    if (name == CUSTOM) != (options.grid is not None):
        raise StudyError(f"--grid FILE goes with the study {CUSTOM!r}, and {CUSTOM!r} with it.")
    if options.grid is not None:
        study = read_grid(options.grid, SCORES)
    else:
        study = STUDIES[name](base, len(pairs.split("train")))
    return study.only(options.only) if options.only else study


@contextmanager
def _locked(out: Path, part: str | None) -> Iterator[None]:
    """One process on a study, or on one share of it."""
    lock = FileLock(out / (f".share-{part.replace('/', '-of-')}.lock" if part else ".study.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StudyError(f"{out}: another process is at work on it; wait for it, or stop it.") from error
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------------------------------------
# Training


def _train(plan: Plan, options: Options, say: Callable[[str], None]) -> None:
    cells = schedule.share(list(plan.cells()), options.cell)
    study = plan.study
    say(study.title)
    say(f"{len(study.variants)} variants, {plan.seeds} seeds; each run sees {plan.images} images.")
    left = [cell for cell in cells if not cell.is_done]
    failed = [cell for cell in left if cell.failure and not options.retry]
    for cell in failed:
        say(f"{cell.words} failed before, and is left alone (--retry tries again): {cell.failure}")
    left = [cell for cell in left if cell not in failed]
    if len(left) < len(cells):
        say(f"{len(cells) - len(left) - len(failed)} of {len(cells)} runs are done already.")
    if left:
        schedule.estimate(left, options.jobs, say)
        schedule.run(left, jobs=options.jobs, say=say)


# ------------------------------------------------------------------------------------------------------------
# Results


def _results(plan: Plan, pairs: PairSet, options: Options, say: Callable[[str], None]) -> Results:
    done = {v.name: [c for c in _cells_of(plan, v.name) if c.is_done] for v in plan.study.variants}
    failures = {cell.words: cell.failure or "not finished" for cell in plan.cells() if not cell.is_done}
    if not any(done.values()):
        raise StudyError(f"{plan.out}: every run failed; the first: {next(iter(failures.values()))}")
    judge, notes = _judge(plan, pairs, options, say)
    say("Scoring every run at its last step.")
    chosen = pairs.split(options.split)
    results = Results(
        study=plan.study,
        seeds=plan.seeds,
        images_seen=plan.images,
        test_images=len(chosen),
        split=options.split,
        runs={
            name: tuple(_scored(plan, name, c, pairs, options, judge) for c in cs)
            for name, cs in done.items()
        },
        references=_references(plan, pairs, options, judge),
        failures=failures,
        notes=notes,
    )
    write_tables(plan.out, results)
    values = json.dumps(results.to_dict(), indent=2, allow_nan=False)
    write_text_atomically(plan.out / "results.json", values + "\n")
    write_page(plan.out, plan, results)
    return results


def _cells_of(plan: Plan, name: str) -> Sequence[Cell]:
    return [plan.cell(plan.study.variant(name), seed) for seed in range(plan.seeds)]


def _judge(
    plan: Plan, pairs: PairSet, options: Options, say: Callable[[str], None]
) -> tuple[Judge | None, tuple[str, ...]]:
    data = plan.base.data
    source_spec, _ = measure_specs(pairs.split("train"), data)
    try:
        judge = find_judge(
            data,
            source_spec,
            plan.out,
            segmenter=options.segmenter,
            palette=options.palette,
            device=plan.base.training.device,
            say=say,
        )
    except SegmenterError as error:
        if options.segmenter is not None or options.palette is not None:
            raise
        note = f"There are no figures by class, so the findings about them cannot be asked: {error}"
        say(note)
        return None, (note,)
    return judge, (f"By class: {judge.words}.",)


def _scored(
    plan: Plan, name: str, cell: Cell, pairs: PairSet, options: Options, judge: Judge | None
) -> Arrays:
    variant = plan.study.variant(name)
    chosen, data = pairs.split(options.split), plan.base.data
    known = identity(chosen, data, judge, weights=cell.written, dropout=variant.dropout)

    def make() -> Arrays:
        device = plan.base.training.device
        model = Translator.load(cell.path, device=device, dropout=variant.dropout, precision="fp32")
        return collect(chosen, data, model, judge)

    return remembered(cell.path / f"scores-{name}.npz", known, make)


def _references(plan: Plan, pairs: PairSet, options: Options, judge: Judge | None) -> dict[str, Arrays]:
    train, chosen, data = pairs.split("train"), pairs.split(options.split), plan.base.data
    specs = measure_specs(train, data)
    return references(chosen, train, data, specs, judge)
