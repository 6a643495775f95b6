"""The command line: parse, call, print. torch is imported inside the commands, so --help answers at once."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pairloom import config as configs
from pairloom import presets
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


def demo(out: Out = Path("runs/demo")) -> None:
    """Draw the sample set, train on it, evaluate, and write a report: minutes on two CPU cores.

    Args:
        out: Run directory; the sample set is drawn beside it.
    """
    from pairloom.demo import run_demo

    run_demo(out)


def train(argv: Sequence[str]) -> None:
    """Train on pairs of images; the same command again resumes."""
    config, out = _parse_run("pairloom train", argv)
    from pairloom.evaluation.report import write_report
    from pairloom.fit import train as train_run

    run = train_run(config, out)
    print(f"Report: {write_report(run)}")
    print(f"Translate with: pairloom translate {run} IMAGES --out OUT")


def translate(
    model: Model,
    inputs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="INPUT...", help="Image files or folders."),
    ],
    /,
    out: Out,
    checkpoint: Checkpoint = "last",
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 1,
    scale: Literal["native", "training"] = "native",
    norm_stats: Literal["image", "running", "batch"] | None = None,
    dropout: bool | None = None,
    device: str = "auto",
) -> None:
    """Translate images: any size; depth, range and channels as the training targets had them.

    Args:
        model: The model.
        inputs: Image files or folders.
        out: Folder for the results; made if absent.
        checkpoint: Of a run directory: the last step, or the best by validation.
        samples: Translations of each image, with their mean and spread when above 1.
        seed: Seed of the noise z.
        batch_size: Images of one size translated together; changes speed, not results.
        scale: native: at the images' own pixels; training: resized as the training pairs were, and back.
        norm_stats: Instead of what the weights say: whose statistics batch norm uses.
        dropout: Instead of what the weights say: is the noise on?
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from tqdm import tqdm

    from pairloom.translator import Translator, find_images, scale_hint, translate_files

    if not inputs:
        raise ValueError("translate: give image files or folders after the model.")
    found = find_images(inputs)
    translator = Translator.load(
        model, checkpoint=checkpoint, device=device, norm_stats=norm_stats, dropout=dropout
    )
    if scale == "native" and (hint := scale_hint(translator, found[0][0])):
        print(hint, file=sys.stderr)
    written = translate_files(
        translator, inputs, out, seed=seed, samples=samples, batch_size=batch_size, scale=scale
    )
    count = sum(1 for _ in tqdm(written, unit="image", disable=not sys.stderr.isatty()))
    print(f"{count} image{'s' * (count != 1)} written to {out}")


def evaluate(
    model: Model,
    data: Data,
    /,
    out: Out,
    split: Literal["train", "val", "test"] = "test",
    checkpoint: Checkpoint = "last",
    device: str = "auto",
) -> None:
    """Translate a split and compare with its targets: L1, PSNR, SSIM, two baselines, 95 % intervals.

    Args:
        model: The model.
        data: The data set; sizes, direction and kinds are the model's own.
        out: Folder for images/, per_image.csv and summary.json.
        split: Which pairs.
        checkpoint: Of a run directory: the last step, or the best by validation.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from pairloom.evaluation.evaluate import evaluate as evaluate_model

    print(evaluate_model(model, data, split=split, out=out, checkpoint=checkpoint, device=device).words())


def report(run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")], /) -> None:
    """Write RUN/report.html: curves, pictures, patch maps, figures and warnings in one file.

    Args:
        run: The run directory.
    """
    from pairloom.evaluation.report import write_report

    print(write_report(run))


def describe(
    preset: str = "default",
    config: Path | None = None,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Layer tables, parameter counts, receptive fields, logit map, and the cost of a step.

    Args:
        preset: One of the paper's experiments.
        config: TOML or JSON file over the preset.
        json_: Print JSON.
    """
    import dataclasses

    from pairloom.describe import describe as count

    chosen = presets.get(preset)
    description = count(configs.load(config, base=chosen) if config else chosen)
    if json_:
        print(json.dumps(dataclasses.asdict(description), indent=2))
    else:
        print(description.words())
        if chosen.note:
            print(f"\nPreset {preset}: {chosen.note}")


def sample(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    /,
    count: int = 400,
    size: int = 256,
    seed: int = 0,
) -> None:
    """Draw procedural facades: label map and photo, side by side.

    Args:
        out: A new folder.
        count: Pairs, in train, val and test.
        size: Side of each image in pixels, 64 to 1024.
        seed: Another seed, other facades.
    """
    from pairloom.data.sample import write_sample_set

    print(write_sample_set(out, count=count, size=size, seed=seed))


def check(argv: Sequence[str]) -> None:
    """Say in words what is wrong with a data set; exit 1 if training cannot start."""
    config, _ = _parse_run("pairloom data check", argv)
    from pairloom.data.check import check as check_data

    result = check_data(config.data)
    print(result.words())
    if not result.ok:
        raise SystemExit(1)


def _parse_run(prog: str, argv: Sequence[str]) -> tuple[Config, Path]:
    """A whole configuration: preset, under the file of --config, under the flags; and --out."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    first.add_argument("--config", type=Path)
    chosen, _ = first.parse_known_args(list(argv))
    base = presets.get(chosen.preset)
    if chosen.config is not None:
        base = configs.load(chosen.config, base=base)

    def check_arguments(
        path: Data, /, preset: Preset = "default", config: File = None, data: DataConfig = base.data
    ) -> tuple[Config, Path]:
        """Say in words what is wrong with a data set; exit 1 if training cannot start."""
        return replace(base, data=replace(data, path=str(path))), Path()

    def train_arguments(
        path: Data,
        /,
        out: Out,
        preset: Preset = "default",
        config: File = None,
        init_from: InitFrom = base.training.init_from,
        track: Track = base.logging.track,
        data: DataConfig = base.data,
        generator: GeneratorConfig = base.generator,
        discriminator: DiscriminatorConfig = base.discriminator,
        objective: ObjectiveConfig = base.objective,
        training: TrainingConfig = base.training,
        logging: LoggingConfig = base.logging,
    ) -> tuple[Config, Path]:
        """Train on pairs of images; the same command again resumes."""
        whole = Config(
            data=replace(data, path=str(path)),
            generator=generator,
            discriminator=discriminator,
            objective=objective,
            training=replace(training, init_from=training.init_from or init_from),
            logging=replace(logging, track=logging.track if logging.track != "none" else track),
            note=base.note,
        )
        return whole, out

    if any(argument.partition("=")[0] == "--data.path" for argument in argv):
        raise configs.ConfigError("--data.path is DATA, the argument without a flag; give it as that.")
    parser = train_arguments if prog.endswith("train") else check_arguments
    result: tuple[Config, Path] = tyro.cli(
        parser, prog=prog, args=list(argv), config=(tyro.conf.AvoidSubcommands,)
    )
    return result


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "data sample": sample,
    "data check": check,
    "describe": describe,
    "train": train,
    "translate": translate,
    "evaluate": evaluate,
    "report": report,
}
OWN_PARSER = {train, check}
"""Commands whose flags start from a preset, which must be known before the others are parsed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Exit status: 0 done, 1 a check found faults, 2 a mistake of the user's, 130 or 143 saved after a
    signal, 141 nobody reads the output.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, rest = _command(arguments)
    command = COMMANDS[name]
    warnings.simplefilter("ignore" if not os.environ.get("PAIRLOOM_DEBUG") else "default")
    try:
        if command in OWN_PARSER:
            command(rest)
        else:
            tyro.cli(command, prog=f"pairloom {name}", args=rest, use_underscores=False)
    except KeyboardInterrupt as stop:
        raise SystemExit(128 + getattr(stop, "signum", 2)) from None
    except BrokenPipeError:
        # Whoever read our output (`head`, say) has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (RuntimeError, MemoryError) as error:
        words = str(error) or "out of memory"
        asked_for = ("out of memory", "not enough memory", "allocate memory")  # as the allocators say it
        too_large = isinstance(error, MemoryError) or any(phrase in words for phrase in asked_for)
        if not too_large or os.environ.get("PAIRLOOM_DEBUG"):  # a fault of ours, or looked for
            raise
        print(
            f"pairloom: not enough memory ({words.splitlines()[0]}); use smaller images, data.crop_size, "
            "training.batch_size or generator.base_channels.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except (ValueError, OSError) as error:
        # Every mistake of a user is one sentence. Whoever looks for a fault of ours asks for the trace.
        if os.environ.get("PAIRLOOM_DEBUG"):
            raise
        words = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            words = f"{error.filename}: {error.strerror}; check the path, its permissions and the free space."
        print(f"pairloom: {words}", file=sys.stderr)
        raise SystemExit(2) from None


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    for length in (1, 2):
        name = " ".join(arguments[:length])
        if name in COMMANDS:
            return name, arguments[length:]
    first = " ".join(arguments[:2] if arguments[:1] == ["data"] else arguments[:1])
    wants_help = not arguments or arguments[-1] in ("-h", "--help")
    if arguments[:1] == ["--version"]:
        from pairloom import __version__

        print(__version__)
        raise SystemExit(0)
    if not wants_help:
        import difflib

        close = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"pairloom: there is no command {first!r}{hint}", file=sys.stderr)
    print(usage(), file=sys.stdout if wants_help else sys.stderr)
    raise SystemExit(0 if wants_help else 2)


def usage() -> str:
    """All commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [
        f"  {name.ljust(width)}  {(command.__doc__ or '').splitlines()[0]}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join(
        ["pairloom: learn to turn one kind of image into another from pairs of images.", "", *lines, "",
         "pairloom COMMAND --help tells the rest."]
    )  # fmt: skip
