"""What a client asks: the query, the headers and the body, each checked before anything is done with it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from pairloom.formats import Format
from pairloom.serve.declared import CONTENT_TYPES, SUFFIXES, Limits
from pairloom.serve.queue import Drawing
from pairloom.serve.refusals import ClientGone, Refused

MOST_SECONDS = 20.0
"""For a body to arrive."""
MOST_SAMPLES = 16
MOST_SEED = 2**31 - 1
QUERY = ("model", "seed", "samples", "patches", "picture")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a translation is to be."""

    model: str | None
    seed: int
    samples: int
    patches: bool
    picture: bool
    """Is the body a picture as the page shows it, instead of the source's own values?"""
    drawing: Drawing | None


def read_query(request: Request) -> Asked:
    """The checked parameters of `/api/translate`.

    Raises:
        Refused: 422, a parameter is unknown, given twice, or not what it must be.
    """
    given = request.query_params
    for name, count in ((name, len(given.getlist(name))) for name in given):
        if name not in QUERY:
            raise Refused(422, f"There is no parameter {name[:40]!r}; there are {', '.join(QUERY)}.")
        if count > 1:
            raise Refused(422, f"The parameter {name} is given {count} times; give it once.")
    return Asked(
        model=given.get("model"),
        seed=_whole(given.get("seed", "0"), "seed", 0, MOST_SEED),
        samples=_whole(given.get("samples", "1"), "samples", 1, MOST_SAMPLES),
        patches=bool(_whole(given.get("patches", "0"), "patches", 0, 1)),
        picture=bool(_whole(given.get("picture", "0"), "picture", 0, 1)),
        drawing=_drawing(request.headers.get("x-drawing")),
    )


def _whole(text: str, name: str, least: int, most: int) -> int:
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or not least <= int(text) <= most:
        raise Refused(422, f"{name} must be a whole number from {least} to {most}.")
    return int(text)


def _drawing(header: str | None) -> Drawing | None:
    if header is None:
        return None
    found = re.fullmatch(r"([A-Za-z0-9_-]{1,64});(\d{1,15})", header, re.ASCII)
    if found is None:
        raise Refused(422, "X-Drawing must be `client;number`: letters, digits, - and _; a whole number.")
    return Drawing(found[1], int(found[2]))


def format_sent(request: Request) -> Format:
    """The format that the content type names.

    Raises:
        Refused: 415, it is none of those that may be sent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise Refused(
            415,
            f"The content type is {kind[:60]!r}; send the image itself as the body, as one of "
            f"{', '.join(CONTENT_TYPES)}.",
        )
    return CONTENT_TYPES[kind]


async def receive(request: Request, folder: Path, sent: Format, limits: Limits) -> Path:
    """The body as a file in `folder`, never more of it than may be sent; whoever calls removes it.

    Raises:
        Refused: 413, too large; 408, too slow; 400, empty.
        ClientGone: The connection was closed in the middle.
    """
    too_large = Refused(413, f"The body has more than {limits.max_mb:g} MiB; send a smaller image.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.max_bytes:
        raise too_large
    path = folder / f"{secrets.token_hex(8)}{SUFFIXES[sent]}"
    size = 0
    try:
        with path.open("xb") as file:
            async with asyncio.timeout(MOST_SECONDS):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limits.max_bytes:
                        raise too_large
                    file.write(chunk)
        if not size:
            raise Refused(400, "The body is empty; send the image as the body.")
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, TimeoutError):
            raise Refused(408, f"The body did not arrive within {MOST_SECONDS:g} s; send it again.") from None
        if isinstance(error, ClientDisconnect):
            raise ClientGone from None
        raise
    return path


def chosen_type(accept: str, offered: Sequence[str]) -> str:
    """The offered content type that a client likes best; of equals the first offered.

    Source: RFC 9110, section 12.5.1; the most specific range counts.

    Raises:
        Refused: 406, it takes none of them.
    """
    wishes: dict[str, float] = {}
    for part in (accept or "*/*").split(",")[:50]:
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        wishes[kind] = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality, re.ASCII) else 0.0

    def liking(kind: str) -> float:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((wishes[wish] for wish in ranges if wish in wishes), 0.0)

    best = max(offered, key=liking)
    if not liking(best):
        raise Refused(406, f"What was asked for is there as {', '.join(offered)}; accept one of these.")
    return best
