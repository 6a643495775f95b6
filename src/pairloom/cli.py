"""The command line: parse, call, print. torch is imported inside the commands, so --help answers at once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pairloom import configfile, presets
from pairloom.commands import bench, data, serve, study, weights
from pairloom.config import DataConfig
from pairloom.flags import SOURCES, Checkpoint, Data, Model, Out, Split, memory_bytes, parse_run, parse_study


def demo(out: Out = Path("runs/demo")) -> None:
    """Draw the sample set, train on it, evaluate, and write a report: minutes on two CPU cores.

    Args:
        out: Run directory; the sample set is drawn beside it.
    """
    from pairloom.demo import run_demo

    run_demo(out)


def train(argv: Sequence[str]) -> None:
    """Train on pairs of images; the same command again resumes."""
    config, out = parse_run("pairloom train", argv)
    from pairloom.distributed import leads
    from pairloom.evaluation.report import write_report
    from pairloom.fit import train as train_run

    run = train_run(config, out)
    if not leads():
        return
    print(f"Report: {write_report(run)}")
    print(f"Translate with: pairloom translate {shlex.quote(str(run))} IMAGES --out OUT")


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
    memory: float = 2.0,
    statistics: Literal["auto", "exact", "sample"] = "auto",
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
    launcher: Literal["local", "ray"] = "local",
    actors: int = 0,
    norm_stats: Literal["image", "running", "batch"] | None = None,
    dropout: bool | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
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
        memory: GiB above the model; larger images go by tiles, and the same command continues them.
        statistics: Of images by tiles, for norms of their own statistics: exact, or from a sample of tiles.
        shard: Only the I-th of N shares of the files, and of these what is not there yet: for a job array.
        launcher: ray: on the machines of a Ray cluster; what is there already is skipped.
        actors: Of ray: processes that hold the model; 0: one for each GPU, else for every four cores.
        norm_stats: Instead of what the weights say: whose statistics batch norm uses.
        dropout: Instead of what the weights say: is the noise on?
        precision: fp32; bf16: faster, less exact; auto: bf16 for 8-bit images on a CPU with bf16 arithmetic.
        device: auto, cpu, cuda, cuda:1, mps; of an .onnx file also openvino, openvino:bf16.
    """
    from tqdm import tqdm

    from pairloom.files import find_images, scale_hint, translate_files
    from pairloom.progress import TileProgress
    from pairloom.translator import Translator

    available = memory_bytes(memory)
    if not inputs:
        raise ValueError("translate: give image files or folders after the model.")
    found = find_images(inputs, besides=out)
    loading: dict[str, Any] = {"checkpoint": checkpoint, "device": device}
    loading |= {"norm_stats": norm_stats, "dropout": dropout, "precision": precision}
    if launcher == "ray":
        from pairloom.cluster import translate_on_ray

        how: dict[str, object] = {"seed": seed, "samples": samples, "batch_size": batch_size, "scale": scale}
        how |= {"memory_bytes": available, "statistics": statistics}
        done = translate_on_ray(model, found, out, shard=shard, actors=actors, loading=loading, how=how)
        print(f"{done} image{'s' * (done != 1)} translated into {out}")
        return
    if actors:
        raise ValueError(f"--actors is {actors}, which is for --launcher ray; add that, or leave it out.")
    translator = Translator.load(model, **loading)
    if scale == "native" and (
        hint := scale_hint(translator, found[0][0], memory_bytes=available, samples=samples)
    ):
        print(hint, file=sys.stderr)
    tiles = TileProgress()
    written = translate_files(
        translator,
        inputs,
        out,
        seed=seed,
        samples=samples,
        batch_size=batch_size,
        scale=scale,
        memory_bytes=available,
        statistics=statistics,
        shard=shard,
        progress=tiles.update,
        say=tiles.say,
    )
    with tiles:
        count = sum(1 for _ in tqdm(written, unit="image", disable=not sys.stderr.isatty()))
    print(f"{count} image{'s' * (count != 1)} written to {out}")


def evaluate(
    model: Model,
    data: Data,
    /,
    out: Out,
    split: Split = "test",
    checkpoint: Checkpoint = "last",
    all_checkpoints: bool = False,
    segmenter: Path | None = None,
    palette: Path | None = None,
    weights: Path | None = None,
    samples: int = 4,
    sections: bool = True,
    device: str = "auto",
) -> None:
    """Translate a split and compare with its targets: every figure with its interval, beside controls.

    Args:
        model: The model.
        data: The data set; sizes, direction and kinds are the model's own.
        out: Folder for images/, per_image.csv, summary.json and evaluation.html.
        split: Which pairs.
        checkpoint: Of a run directory: the last step, or the best by validation.
        all_checkpoints: Also follow L1, PSNR and SSIM over the checkpoints of a run directory.
        segmenter: For the FCN-score: what `pairloom segmenter train` wrote, or an .onnx file.
        palette: With an .onnx segmenter: text file with its classes, one a line.
        weights: Folder with the public weight files of LPIPS, DISTS and FID; nothing is ever downloaded.
        samples: Translations of the same source with other noise; below 2: none.
        sections: Also sets, colours, controls and noise; the means alone are quicker.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from pairloom.evaluation.evaluate import evaluate as evaluate_model
    from pairloom.evaluation.foreign_segmenters import load_segmenter

    judge = None if segmenter is None else load_segmenter(segmenter, palette, device=device)
    summary = evaluate_model(
        model,
        data,
        split=split,
        out=out,
        checkpoint=checkpoint,
        all_checkpoints=all_checkpoints,
        segmenter=judge,
        weights=weights,
        samples=samples,
        sections=sections,
        device=device,
    )
    print(summary.words())
    print(f"Page: {out / 'evaluation.html'}")


def compare(
    models: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN-or-WEIGHTS...", help=SOURCES)
    ],
    /,
    out: Out,
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None,
    split: Split = "test",
    checkpoint: Checkpoint = "last",
    device: str = "auto",
) -> None:
    """Compare models on the same pairs, image by image: which is better, by how much, and is it certain?

    Args:
        models: Two or more.
        out: Folder for the comparison.
        data: The data set; left out, that of the first model.
        split: Which pairs.
        checkpoint: Of run directories: the last step, or the best by validation.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from pairloom.evaluation.compare import compare as compare_models

    found = compare_models(models, data, split=split, out=out, checkpoint=checkpoint, device=device)
    print(found.words())
    print(f"Page: {out / 'comparison.html'}")


def segmenter_train(
    data: Data,
    /,
    out: Out,
    photo_side: Literal["A", "B"] | None = None,
    palette: Path | None = None,
    ignored: str | None = None,
    trunk: Literal["auto", "own", "efficientnet-lite0"] = "auto",
    size: int = 256,
    crop: int | None = None,
    epochs: int = 40,
    batch_size: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Train a segmenter on the real photos and their label maps, to judge generated photos by (FCN-score).

    Args:
        data: The data set.
        out: Folder for segmenter.safetensors, metrics.jsonl and summary.json.
        photo_side: Which side holds the photos; left out, the other one than the label maps.
        palette: Text file with one class a line, `r,g,b[,name]`; left out, measured, also from JPEG.
        ignored: A class, by name or number, that is neither learned nor scored.
        trunk: own: from scratch; efficientnet-lite0: from ImageNet (extra `features`); auto: that, if there.
        size: Pixels: the photos' size when judged; give the crop_size of the models to be judged.
        crop: Pixels: side of the training crops; left out, as large as the photos.
        epochs: Passes over the training photos.
        batch_size: Crops an update.
        seed: Everything random follows from it.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from pairloom.evaluation.segmenter_training import train_segmenter

    config = DataConfig(path=str(data), crop_size=size)  # AtoB: the source is A
    side: Literal["source", "target"] | None = (
        None if photo_side is None else "source" if photo_side == "A" else "target"
    )
    file = train_segmenter(
        config,
        out,
        photo_side=side,
        palette=palette,
        ignored=int(ignored) if ignored is not None and ignored.isdecimal() else ignored,
        trunk=trunk,
        crop_px=crop,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    print(f"Use it with: pairloom evaluate RUN DATA --out OUT --segmenter {shlex.quote(str(file))}")


def ablate(argv: Sequence[str]) -> None:
    """Run one of the paper's studies on a data set: table, figure, and which findings hold."""
    study, config, out, how = parse_study("pairloom ablate", argv)
    from pairloom.ablation.ablate import Options
    from pairloom.ablation.ablate import ablate as run_study

    results = run_study(study, config, out, Options(**how))
    if results is None:
        return
    print(results.words())
    print(f"Page: {out / 'study.html'}")
    if results.failures:
        raise SystemExit(1)


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
    description = count(configfile.load(config, base=chosen) if config else chosen)
    if json_:
        print(json.dumps(dataclasses.asdict(description), indent=2))
    else:
        print(description.words())
        if chosen.note:
            print(f"\nPreset {preset}: {chosen.note}")


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    **data.COMMANDS,
    "describe": describe,
    "train": train,
    "translate": translate,
    "evaluate": evaluate,
    "compare": compare,
    "segmenter train": segmenter_train,
    "ablate": ablate,
    "report": report,
    **weights.COMMANDS,
    **serve.COMMANDS,
    **study.COMMANDS,
    **bench.COMMANDS,
}
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}
"""First words of the commands of two."""
OWN_PARSER = {train, ablate, data.check, data.prepare, data.pack, data.align}
"""Commands whose flags start from a preset, which must be known before the others are parsed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Exit status: 0 done, 1 a check found faults, 2 a mistake of the user's, 130 or 143 saved after a
    signal, 141 nobody reads the output.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, rest = _command(arguments)
    command = COMMANDS[name]
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # what cannot be flushed is reported when something is said
            sys.stdout.reconfigure(errors="backslashreplace")  # the names of files need not be text
    warnings.simplefilter("ignore" if not os.environ.get("PAIRLOOM_DEBUG") else "default")
    try:
        if command is not train and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError(
                f"{name}: only `pairloom train` shares its work among processes; start this one without "
                "torchrun (or unset RANK and WORLD_SIZE)."
            )
        if ("--out", "") in pairwise(rest) or "--out=" in rest:
            raise ValueError(f"{name}: --out is empty; give a folder or a file.")
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
            "data.load_size, training.batch_size or generator.base_channels.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except (ValueError, OSError) as error:
        # Every mistake of a user is one sentence. Whoever looks for a fault of ours asks for the trace.
        if os.environ.get("PAIRLOOM_DEBUG"):
            raise
        words = str(error)
        if isinstance(error, OSError) and error.strerror is not None:
            where = "" if error.filename is None else f"{error.filename}: "
            words = f"{where}{error.strerror}; check the path, its permissions and the free space."
        print(f"pairloom: {words}", file=sys.stderr)
        raise SystemExit(2) from None


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    for length in (1, 2):
        name = " ".join(arguments[:length])
        if name in COMMANDS:
            return name, arguments[length:]
    first = " ".join(arguments[: 2 if arguments and arguments[0] in GROUPS else 1])
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
