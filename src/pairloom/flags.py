"""Flags: the fields of a configuration, over a preset and a file; what the commands' arguments are called."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pairloom import config as configs
from pairloom import configfile, presets
from pairloom.ablation.studies import CUSTOM, DEFAULTS, STUDIES, check_name
from pairloom.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    LoggingConfig,
    ObjectiveConfig,
    TrainingConfig,
)

SOURCES = "A run directory, a generator.safetensors, a checkpoints/step-*.pt, or an exported .onnx."
Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN-or-WEIGHTS", help=SOURCES)]
Data = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="DATA",
        help="Folder of side-by-side files, folder of two folders, manifest .csv; a folder of photos with "
        "--data.derive; shards: their folder, or an address such as s3://bucket/set.",
    ),
]
Out = Annotated[Path, tyro.conf.arg(metavar="OUT")]
Preset = Annotated[str, tyro.conf.arg(metavar="P", help=f"One of {', '.join(presets.PRESETS)}.")]
File = Annotated[
    Path | None, tyro.conf.arg(metavar="F", help="TOML or JSON file over the preset, under the flags.")
]
InitFrom = Annotated[
    str | None,
    tyro.conf.arg(metavar="RUN", help="Short for --training.init-from: fine-tune from these weights."),
]
Track = Annotated[
    Literal["none", "tensorboard", "wandb"],
    tyro.conf.arg(help="Short for --logging.track: a tracker besides the files."),
]
StudyName = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="STUDY",
        help=f"One of {', '.join([*STUDIES, CUSTOM])}.",
    ),
]
Checkpoint = Literal["last", "best"]
Split = Literal["train", "val", "test"]
MOST_GIB = 2**20
"""Of --memory: no machine has more."""


def memory_bytes(gib: float) -> int:
    """What --memory says.

    Raises:
        ValueError: It is no amount of memory.
    """
    if not 2**-30 <= gib <= MOST_GIB:  # less than a byte, or not-a-number
        raise ValueError(
            f"--memory is {gib:g}; it must be above 0 and at most {MOST_GIB}, in GiB: what may be used above "
            "the model, 2 say."
        )
    return int(gib * 2**30)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlags(DataConfig):
    """The fields of `DataConfig` as flags; `path` is DATA, an argument without one."""

    path: Annotated[str, tyro.conf.Suppress] = ""


def parse_run(prog: str, argv: Sequence[str]) -> tuple[Config, Path]:
    """A whole configuration: preset, under the file of --config, under the flags; and --out."""
    base, flags = _base(argv)

    def train_arguments(
        path: Data,
        /,
        out: Out,
        preset: Preset = "default",
        config: File = None,
        init_from: InitFrom = base.training.init_from,
        track: Track = base.logging.track,
        data: DataFlags = flags,
        generator: GeneratorConfig = base.generator,
        discriminator: DiscriminatorConfig = base.discriminator,
        objective: ObjectiveConfig = base.objective,
        training: TrainingConfig = base.training,
        logging: LoggingConfig = base.logging,
    ) -> tuple[Config, Path]:
        """Train on pairs of images; the same command again resumes."""
        whole = Config(
            data=_data_config(path, data),
            generator=generator,
            discriminator=discriminator,
            objective=objective,
            training=replace(_length(training, argv), init_from=training.init_from or init_from),
            logging=replace(logging, track=logging.track if logging.track != "none" else track),
            note=base.note,
        )
        return whole, out

    result: tuple[Config, Path] = _parse(train_arguments, prog, argv)
    return result


def parse_data(command: str, argv: Sequence[str]) -> tuple[DataConfig, dict[str, Any]]:
    """The data of `pairloom data COMMAND` (check, prepare, pack, align), and the command's own arguments."""
    _, flags = _base(argv)

    def check(
        path: Data,
        /,
        preset: Preset = "default",
        config: File = None,
        out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html")] = None,
        data: DataFlags = flags,
    ) -> tuple[DataConfig, dict[str, Any]]:
        """Say in words what is wrong with a data set; exit 1 if training cannot start."""
        return _data_config(path, data), {"out": out}

    def prepare(
        path: Data,
        /,
        out: Out,
        preset: Preset = "default",
        config: File = None,
        layout: Literal["folders", "side-by-side"] = "folders",
        data: DataFlags = flags,
    ) -> tuple[DataConfig, dict[str, Any]]:
        """Write pairs to disk: derived from photos, joined side by side, or split into two folders."""
        return _data_config(path, data), {"out": out, "layout": layout}

    def pack(
        path: Data,
        out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
        /,
        preset: Preset = "default",
        config: File = None,
        shard_mb: float = 256.0,
        per_shard: int = 10_000,
        data: DataFlags = flags,
    ) -> tuple[DataConfig, dict[str, Any]]:
        """Write a data set as tar shards with an index, for sets too large for a folder, and for clusters.

        Args:
            path: The data set.
            out: A new folder; the same command again goes on.
            preset: Where the data's fields come from.
            config: More of them.
            shard_mb: Megabytes of a shard, about.
            per_shard: Pairs of a shard at most.
            data: The data's fields.
        """
        return _data_config(path, data), {"out": out, "shard_mb": shard_mb, "per_shard": per_shard}

    def align(
        path: Data,
        /,
        out: Out,
        preset: Preset = "default",
        config: File = None,
        model: Literal["shift", "affine"] = "shift",
        most_px: float | None = None,
        jobs: int | None = None,
        data: DataFlags = flags,
    ) -> tuple[DataConfig, dict[str, Any]]:
        """Move the source of each pair onto its target; write the pairs that could be aligned."""
        return _data_config(path, data), {"out": out, "model": model, "most_px": most_px, "jobs": jobs}

    parsers: dict[str, Callable[..., Any]] = {
        "check": check,
        "prepare": prepare,
        "pack": pack,
        "align": align,
    }
    result: tuple[DataConfig, dict[str, Any]] = _parse(parsers[command], f"pairloom data {command}", argv)
    return result


def parse_study(prog: str, argv: Sequence[str]) -> tuple[str, Config, Path, dict[str, Any]]:
    """A study's name, the configuration that its variants have in common, --out, and how it is run."""
    named = argv[0] if argv and not argv[0].startswith("-") else None
    if named is not None:
        check_name(named)
    base, flags = _base(argv, DEFAULTS.get(named or "", {}))

    def study_arguments(
        study: StudyName,
        path: Data,
        /,
        out: Out,
        preset: Preset = "default",
        config: File = None,
        seeds: int = 3,
        jobs: int = 1,
        cell: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
        only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VARIANT...")] = (),
        grid: Path | None = None,
        segmenter: Path | None = None,
        palette: Path | None = None,
        split: Split = "test",
        retry: bool = False,
        data: DataFlags = flags,
        generator: GeneratorConfig = base.generator,
        discriminator: DiscriminatorConfig = base.discriminator,
        objective: ObjectiveConfig = base.objective,
        training: TrainingConfig = base.training,
        logging: LoggingConfig = base.logging,
    ) -> tuple[str, Config, Path, dict[str, Any]]:
        """Run one of the paper's studies on a data set: table, figure, and which findings hold.

        Args:
            study: Which.
            path: The data set.
            out: Folder of the study; the same command again goes on with it.
            preset: What the variants have in common.
            config: More of it.
            seeds: Runs of each variant; orderings are claimed from two seeds on.
            jobs: Runs at a time, each in a process of its own.
            cell: Only the I-th of N shares of the runs, without results: for a cluster's job array.
            only: Only these variants.
            grid: Of the study `custom`: a TOML file with the fields and their values.
            segmenter: For the FCN-score; left out, one is trained for the study.
            palette: Text file with the classes of the label maps, one a line.
            split: Which pairs score.
            retry: Try again what failed before.
            data: Of all variants, as the following groups.
            generator: Of all variants.
            discriminator: Of all variants.
            objective: Of all variants.
            training: Of all variants.
            logging: Of all variants.
        """
        whole = Config(
            data=_data_config(path, data),
            generator=generator,
            discriminator=discriminator,
            objective=objective,
            training=_length(training, argv),
            logging=logging,
            note=base.note,
        )
        how = {
            "seeds": seeds,
            "jobs": jobs,
            "cell": cell,
            "only": only,
            "grid": grid,
            "segmenter": segmenter,
            "palette": palette,
            "split": split,
            "retry": retry,
        }
        return study, whole, out, how

    result: tuple[str, Config, Path, dict[str, Any]] = _parse(study_arguments, prog, argv)
    return result


def _base(argv: Sequence[str], defaults: Mapping[str, Any] | None = None) -> tuple[Config, DataFlags]:
    """What the flags start from: the preset of --preset, under `defaults`, under the file of --config."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    first.add_argument("--config", type=Path)
    chosen, _ = first.parse_known_args(list(argv))
    base = configfile.override(presets.get(chosen.preset), defaults or {})
    if chosen.config is not None:
        base = configfile.load(chosen.config, base=base)
    return base, DataFlags(**{f.name: getattr(base.data, f.name) for f in fields(DataConfig)})


def _data_config(path: str, data: DataFlags) -> DataConfig:
    given = {f.name: getattr(data, f.name) for f in fields(DataConfig)}
    return DataConfig(**given | {"path": path})


def _length(training: TrainingConfig, argv: Sequence[str]) -> TrainingConfig:
    """--training.epochs alone takes the place of a preset's steps."""
    if _is_given("--training.epochs", argv) and not _is_given("--training.steps", argv):
        return replace(training, steps=None)
    return training


def _is_given(flag: str, argv: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] == flag for argument in argv)


def _parse(parser: Callable[..., Any], prog: str, argv: Sequence[str]) -> Any:
    if _is_given("--data.path", argv):
        raise configs.ConfigError("--data.path is DATA, the argument without a flag; give it as that.")
    return tyro.cli(parser, prog=prog, args=list(argv), config=(tyro.conf.AvoidSubcommands,))
