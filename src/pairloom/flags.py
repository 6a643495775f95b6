"""Flags: the fields of a configuration, over a preset and a file; what the commands' arguments are called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pairloom import config as configs
from pairloom import configfile, presets
from pairloom.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    LoggingConfig,
    ObjectiveConfig,
    TrainingConfig,
)

SOURCES = "A run directory, a generator.safetensors, or a checkpoints/step-*.pt."
Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN-or-WEIGHTS", help=SOURCES)]
Data = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="DATA", help="Folder of side-by-side files, folder of two folders, or manifest .csv."
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
Checkpoint = Literal["last", "best"]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlags(DataConfig):
    """The fields of `DataConfig` as flags; `path` is DATA, an argument without one."""

    path: Annotated[str, tyro.conf.Suppress] = ""


def parse_run(prog: str, argv: Sequence[str]) -> tuple[Config, Path]:
    """A whole configuration: preset, under the file of --config, under the flags; and --out."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    first.add_argument("--config", type=Path)
    chosen, _ = first.parse_known_args(list(argv))
    base = presets.get(chosen.preset)
    if chosen.config is not None:
        base = configfile.load(chosen.config, base=base)

    flags = DataFlags(**{f.name: getattr(base.data, f.name) for f in fields(DataConfig)})

    def data_config(path: Path, data: DataFlags) -> DataConfig:
        given = {f.name: getattr(data, f.name) for f in fields(DataConfig)}
        return DataConfig(**given | {"path": str(path)})

    def is_given(flag: str) -> bool:
        return any(argument.partition("=")[0] == flag for argument in argv)

    def check_arguments(
        path: Data, /, preset: Preset = "default", config: File = None, data: DataFlags = flags
    ) -> tuple[Config, Path]:
        """Say in words what is wrong with a data set; exit 1 if training cannot start."""
        return replace(base, data=data_config(path, data)), Path()

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
        if is_given("--training.epochs") and not is_given("--training.steps"):
            training = replace(training, steps=None)  # those of the preset
        whole = Config(
            data=data_config(path, data),
            generator=generator,
            discriminator=discriminator,
            objective=objective,
            training=replace(training, init_from=training.init_from or init_from),
            logging=replace(logging, track=logging.track if logging.track != "none" else track),
            note=base.note,
        )
        return whole, out

    if is_given("--data.path"):
        raise configs.ConfigError("--data.path is DATA, the argument without a flag; give it as that.")
    parser = train_arguments if prog.endswith("train") else check_arguments
    result: tuple[Config, Path] = tyro.cli(
        parser, prog=prog, args=list(argv), config=(tyro.conf.AvoidSubcommands,)
    )
    return result
