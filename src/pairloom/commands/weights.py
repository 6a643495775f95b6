"""The commands about weights: other people's, and one's own to be shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pairloom.flags import Checkpoint, Out

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="The run directory.")]


def import_(
    path: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH", help="A .pth file, or checkpoints/NAME.")
    ],
    /,
    out: Out,
    epoch: str = "latest",
    side: Literal["A", "B"] | None = None,
    dropout: bool | None = None,
    options: Path | None = None,
) -> None:
    """Read weights of pytorch-CycleGAN-and-pix2pix, and write ours.

    Args:
        path: Theirs.
        out: Folder for generator.safetensors and, where there is one, discriminator.safetensors.
        epoch: Of a folder: latest, or a number.
        side: Of a CycleGAN's folder: the generator from A, or from B.
        dropout: Instead of what is found or assumed: was it trained with dropout?
        options: train_opt.txt; left out, the one beside the weights.
    """
    from pairloom.foreign import import_weights

    found = import_weights(path, out, epoch=epoch, side=side, dropout=dropout, options=options)
    print("\n".join([*found.notes, *map(str, found.files)]))


ExportFormat = Literal["onnx", "pt2", "safetensors", "junyanz", "web"]


def export(
    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN", help="A run directory or its weights; of web several, also NAME=PATH."),
    ],
    /,
    out: Out,
    format_: Annotated[ExportFormat, tyro.conf.arg(name="format")],
    checkpoint: Checkpoint = "last",
    half: bool = False,
    dynamic: bool = False,
    norm_stats: Literal["image", "running"] | None = None,
    dropout: bool | None = None,
    tolerance: float | None = None,
    no_dropout: bool = False,
    runtime: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
) -> None:
    """Write a model for other programs, and check that it gives the same numbers.

    Args:
        runs: The run directory, or its weights.
        out: The file; of junyanz a folder for latest_net_G.pth and the like, with train_opt.txt; of web the
            page's folder.
        format_: onnx, pt2 (torch.export), safetensors (ours), junyanz (pytorch-CycleGAN-and-pix2pix), or web:
            a page to draw on for any static host, where the visitor's browser runs the model.
        checkpoint: The last step, or the best by validation.
        half: float16 inside.
        dynamic: Of onnx and pt2: any batch and size instead of one image of the training crop's size.
        norm_stats: Instead of what the weights say: whose statistics batch norm uses.
        dropout: Instead of what the weights say: with the noise as further inputs, or without it.
        tolerance: Largest difference from the original that is allowed, on [-1, 1].
        no_dropout: Of junyanz: for inference without dropout, whatever the model was trained with.
        runtime: Of web: folder with onnxruntime-web; left out, npm fetches it.
    """
    ours = {
        "--half": half,
        "--dynamic": dynamic,
        "--norm-stats": norm_stats is not None,
        "--dropout": dropout is not None,
        "--tolerance": tolerance is not None,
    }
    if format_ == "junyanz":
        _refuse_options({**ours, "--runtime": runtime is not None}, format_)
    elif format_ == "web":
        _refuse_options({"--no-dropout": no_dropout, "--dynamic": dynamic}, format_)
        from pairloom.serve.site import write_site

        site = write_site(
            runs,
            out,
            runtime=runtime,
            half=half,
            checkpoint=checkpoint,
            dropout=dropout,
            norm_stats=norm_stats,
            tolerance=tolerance,
        )
        print("\n".join([*site.notes, str(site.folder)]))
        return
    else:
        _refuse_options({"--no-dropout": no_dropout, "--runtime": runtime is not None}, format_)
    if len(runs) != 1:
        raise ValueError(f"export: --format {format_} takes one model, not {len(runs)}; web takes several.")
    run = Path(runs[0])
    if format_ == "junyanz":
        from pairloom.foreign import export_weights

        written = export_weights(run, out, checkpoint=checkpoint, no_dropout=no_dropout)
        print("\n".join([*written.notes, *map(str, written.files)]))
        return
    from pairloom.export import export_model

    exported = export_model(
        run,
        out,
        format=format_,
        half=half,
        dynamic=dynamic,
        checkpoint=checkpoint,
        dropout=dropout,
        norm_stats=norm_stats,
        tolerance=tolerance,
    )
    print(exported.words())
    print(exported.file)


def _refuse_options(given: dict[str, bool], format_: str) -> None:
    """Options of other formats are no options of this one."""
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise ValueError(f"export: {', '.join(wrong)} does not go with --format {format_}; leave it out.")


def card(
    run: Run,
    /,
    title: str | None = None,
    licence: str | None = None,
    data: str | None = None,
    intended_use: str | None = None,
    limits: str | None = None,
    evaluation: Path | None = None,
) -> None:
    """Write RUN/MODEL_CARD.md: data, specs, semantics, figures with intervals, licence, use.

    Args:
        run: The run directory, or the folder of an imported model.
        title: Heading; left out, the folder's name.
        licence: Of the weights: mit, apache-2.0, cc-by-4.0, ...
        data: Where the data come from, and under which terms.
        intended_use: Sentences.
        limits: Sentences, after those that hold for every such model.
        evaluation: What `evaluate` wrote; left out, RUN/evaluation.
    """
    from pairloom.card import write_card

    print(
        write_card(
            run,
            title=title,
            licence=licence,
            data=data,
            intended_use=intended_use,
            limits=limits,
            evaluation=evaluation,
        )
    )


def push(
    run: Run,
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")],
    /,
    public: bool = False,
    revision: str | None = None,
    message: str = "",
    discriminator: bool = True,
) -> None:
    """Share a model on the Hugging Face Hub, with its card and its digests.

    Args:
        run: The run directory, or the folder of an imported model.
        repo: Where; made if absent.
        public: Of a repository that is made: everybody sees it.
        revision: Branch; left out, main.
        message: Of the commit.
        discriminator: Also D, where there is one.
    """
    from pairloom.hub import push as publish

    address = publish(
        run, repo, private=not public, revision=revision, message=message, discriminator=discriminator
    )
    print(f"Load it with: Translator.load({address!r})")


COMMANDS: dict[str, Callable[..., None]] = {
    "import": import_,
    "export": export,
    "card": card,
    "push": push,
}
