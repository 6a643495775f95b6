"""The commands about data sets, `pairloom data ...`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pairloom.flags import Out, parse_run


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
    config, _ = parse_run("pairloom data check", argv)
    from pairloom.data.check import check as check_data

    result = check_data(config.data)
    print(result.words())
    if not result.ok:
        raise SystemExit(1)


def download(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")],
    /,
    out: Out,
    source: Path | None = None,
    address: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    layout: Literal["side-by-side", "folders"] = "side-by-side",
) -> None:
    """Get a public set of pairs: resumed where it was cut off, checked, unpacked safely.

    Args:
        name: facades, maps, edges2shoes, edges2handbags, night2day, cityscapes or openmoji.
        out: A new folder.
        source: What you have already: the archive; of cityscapes your copy; of openmoji the package.
        address: Another address of the archive.
        sha256: What its checksum must be.
        size: Pixels: side of the images of openmoji and cityscapes; left out, 256.
        layout: Of openmoji.
    """
    from pairloom.data.download import download as get

    get(name, out, source=source, address=address, sha256=sha256, size=size, layout=layout)


COMMANDS: dict[str, Callable[..., None]] = {
    "data sample": sample,
    "data check": check,
    "data download": download,
}
