"""The command of the page to draw on, `pairloom serve`: parse, call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import tyro

from pairloom.flags import Checkpoint


def serve(
    models: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN...", help="Run directories or weights; NAME=PATH names one."),
    ],
    /,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = (),
    allow_origin: Annotated[tuple[str, ...], tyro.conf.arg(metavar="URL...")] = (),
    max_mb: float = 32,
    max_side: Annotated[int, tyro.conf.arg(metavar="PX")] = 2048,
    queue: int = 8,
    wait_seconds: float = 30,
    checkpoint: Checkpoint = "last",
    device: str = "auto",
) -> None:
    """Serve a page to draw on, where the translation appears while one draws, and an API, until Ctrl-C.

    Args:
        models: The models.
        host: Address to listen at; 0.0.0.0: at all of this machine's.
        port: Its port; 0: a free one.
        allow_host: Further names of this server, where a proxy or a network calls it by them.
        allow_origin: Other web pages that may use it from a browser.
        max_mb: Megabytes that an image file may have.
        max_side: Of the largest square image that is translated.
        queue: Requests that may wait; more are sent away for a while.
        wait_seconds: How long a request may wait.
        checkpoint: Of run directories: the last step, or the best by validation.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from pairloom.serve.declared import Limits
    from pairloom.serve.server import Settings
    from pairloom.serve.server import serve as serve_page

    settings = Settings(
        host=host,
        port=port,
        allow_hosts=allow_host,
        allow_origins=allow_origin,
        limits=Limits(max_mb, max_side),
        queue=queue,
        wait_seconds=wait_seconds,
    )
    serve_page(models, settings, checkpoint=checkpoint, device=device)


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve}
