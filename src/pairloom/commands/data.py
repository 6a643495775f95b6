"""The commands about data sets, `pairloom data ...`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pairloom.flags import Out, parse_data


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
    data, how = parse_data("check", argv)
    if how["out"] is None:
        from pairloom.data.check import check as check_data

        result = check_data(data)
    else:
        if how["out"].is_dir():
            raise ValueError(f"--out is {how['out']}, which is a folder; give a file, such as check.html.")
        from pairloom.check_page import write_check_page

        result = write_check_page(data, how["out"])
    print(result.words())
    if how["out"] is not None:
        print(f"Page: {how['out']}")
    if not result.ok:
        raise SystemExit(1)


def prepare(argv: Sequence[str]) -> None:
    """Write pairs to disk: derived from photos, joined side by side, or split into two folders."""
    data, how = parse_data("prepare", argv)
    from pairloom.data.prepare import prepare as prepare_data

    print(prepare_data(data, **how).words())


def pack(argv: Sequence[str]) -> None:
    """Write a data set as tar shards with an index, for sets too large for a folder, and for clusters."""
    data, how = parse_data("pack", argv)
    from pairloom.data.packing import pack as pack_data

    print(pack_data(data, **how).words())


def align(argv: Sequence[str]) -> None:
    """Move the source of each pair onto its target; write the pairs that could be aligned."""
    data, how = parse_data("align", argv)
    from pairloom.align_page import write_align_page
    from pairloom.data.align import align as align_data

    report = align_data(data, **how)
    print(report.words())
    print(f"Page: {write_align_page(report)}")
    if not report.kept:
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
    "data prepare": prepare,
    "data pack": pack,
    "data align": align,
}
