"""The commands of the human study, `pairloom study ...`: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help="Directory of the study.")]
Named = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH...")]


def new(
    folder: Folder,
    /,
    seed: int,
    real: Path | None = None,
    fake: Named = (),
    run: Named = (),
    data: Path | None = None,
    split: Literal["train", "val", "test"] = "test",
    generate: Annotated[int | None, tyro.conf.arg(metavar="PX")] = None,
    checkpoint: Literal["last", "best"] = "last",
    device: str = "auto",
    paired: bool = True,
    mode: Literal["two", "single", "prefer"] = "two",
    layout: Literal["sequential", "side-by-side"] = "sequential",
    exposure: Literal["fixed", "adaptive"] = "fixed",
    exposure_ms: int = 1000,
    trials: int = 40,
    practice: int = 10,
    attention: int = 0,
    size: Annotated[int | None, tyro.conf.arg(metavar="PX")] = None,
    title: str | None = None,
) -> None:
    """Make a study of which images people take for real, from folders or straight from trained models.

    Args:
        folder: Directory to make.
        seed: All sessions follow from it.
        real: Folder of real images.
        fake: A folder of images for each algorithm.
        run: Instead of folders: a run directory or weights for each algorithm.
        data: With --run, their pairs; left out, those of the first run.
        split: With --run, which pairs.
        generate: With --run, the side at which they translate; with a smaller --size, as the paper on maps.
        checkpoint: With --run, the last step, or the best by validation.
        device: With --run: auto, cpu, cuda, cuda:1, mps.
        paired: Real and fake of a trial are of the same source; else of different ones.
        mode: two: real and fake, which is the fake; single: one image, real or fake; prefer: two algorithms.
        layout: One after the other, or side by side.
        exposure: adaptive: it follows the answers.
        exposure_ms: Milliseconds of each image.
        trials: Trials that count.
        practice: Trials before them, with feedback.
        attention: Attention checks among those that count.
        size: Larger images are reduced to this side; left out, all are shown as they are.
        title: Heading of the page.
    """
    from pairloom.study.making import named_paths, new_study

    made = new_study(
        folder,
        seed=seed,
        real=real,
        fakes=named_paths(fake) or None,
        runs=named_paths(run) or None,
        data=data,
        split=split,
        generate_px=generate,
        checkpoint=checkpoint,
        device=device,
        paired=paired,
        mode=mode,
        layout=layout,
        trials=trials,
        practice=practice,
        exposure_ms=exposure_ms,
        adaptive=exposure == "adaptive",
        size=size,
        attention=attention,
        title=title,
    )
    print(made.words())


def serve(folder: Folder, /, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a study to browsers, until Ctrl-C.

    Args:
        folder: The study.
        host: Address to listen at; 0.0.0.0: at all of this machine's.
        port: Its port; 0: a free one.
    """
    from pairloom.study.server import serve as serve_study

    serve_study(folder, host, port)


def links(folder: Folder, /, count: int, base_url: str = "http://127.0.0.1:8000") -> None:
    """Print personal links, one session each; from then on nobody enters without.

    Args:
        folder: The study.
        count: How many.
        base_url: Where participants find the study.
    """
    from pairloom.study.server import make_links

    print("\n".join(make_links(folder, count, base_url)))


def analyse(folder: Folder, /) -> None:
    """How often each algorithm's images were taken for real, with intervals: DIR/results.

    Args:
        folder: The study.
    """
    from pairloom.study.analysis import analyse as analyse_study

    print(analyse_study(folder).words())
    print(f"Page: {folder / 'results' / 'study.html'}")


def simulate(
    folder: Folder,
    /,
    observers: int,
    fool: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=SHARE...")],
    spread: float = 0.0,
    seed: int = 0,
) -> None:
    """Artificial observers play through the real server: does the analysis find what is known?

    Args:
        folder: The study.
        observers: How many.
        fool: In which share of trials each algorithm fools them, 0 to 1.
        spread: How much they differ, 0 to 1; see `study power`.
        seed: Of their answers.
    """
    from pairloom.study.simulate import named_shares
    from pairloom.study.simulate import simulate as simulate_study

    print(simulate_study(folder, observers, named_shares(fool), spread=spread, seed=seed).words())


def power(
    fooled: Annotated[float, tyro.conf.Positional],
    against: Annotated[float, tyro.conf.Positional],
    /,
    trials: int = 40,
    spread: float | None = None,
    power: float = 0.8,
) -> None:
    """How many participants it takes to see a difference between two algorithms.

    Args:
        fooled: Share of trials in which one fools people, such as 0.189.
        against: The other's.
        trials: Trials of a session that count.
        spread: How much people differ, 0 to 1; left out, what the paper's standard errors imply.
        power: Share of studies that shall see the difference.
    """
    from pairloom.study.power import PAPER_SPREAD
    from pairloom.study.power import power as power_of

    spread = PAPER_SPREAD if spread is None else spread
    print(power_of(fooled, against, trials=trials, spread=spread, power=power).words())


COMMANDS: dict[str, Callable[..., None]] = {
    "study new": new,
    "study serve": serve,
    "study links": links,
    "study analyse": analyse,
    "study simulate": simulate,
    "study power": power,
}
