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


def export(
    run: Run,
    /,
    out: Out,
    format_: Annotated[Literal["junyanz"], tyro.conf.arg(name="format")] = "junyanz",
    checkpoint: Checkpoint = "last",
    no_dropout: bool = False,
) -> None:
    """Write weights as pytorch-CycleGAN-and-pix2pix reads them.

    Args:
        run: The run directory.
        out: Folder for latest_net_G.pth and the like, with train_opt.txt.
        format_: junyanz: of that repository.
        checkpoint: The last step, or the best by validation.
        no_dropout: For inference without dropout, whatever the model was trained with.
    """
    from pairloom.foreign import export_weights

    written = export_weights(run, out, checkpoint=checkpoint, no_dropout=no_dropout)
    print("\n".join([*written.notes, *map(str, written.files)]))


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
