"""The study on the web: its addresses, its headers, its faults; serving it, and links to it.

Every answer is on the disk before it is acknowledged, and acknowledged before the next trial is shown.
"""

from __future__ import annotations

import re
import secrets
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pairloom.study.bodies import Refused
from pairloom.study.protocol import StudyFault, StudySettings
from pairloom.study.store import Store
from pairloom.study.visits import Visits
from pairloom.web import WithHeaders, listen, quiet_server

MOST_LINKS = 100_000
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}
"""On every response that does not say otherwise."""


def create_app(folder: str | Path) -> Starlette:
    """The study of a directory, as an ASGI application.

    Raises:
        StudyFault: There is no study, or it is damaged or of a newer version.
    """
    study = Visits(Path(folder))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        study.store.close()

    routes = [
        Route("/", study.page),
        Route("/s/{token}", study.page),
        Route("/page/{name}", study.static),
        Route("/image/{name}", study.image),
        Route("/results", study.results),
        Route("/api/begin", study.begin, methods=["POST"]),
        Route("/api/consent", study.consent, methods=["POST"]),
        Route("/api/trial", study.trial, methods=["POST"]),
        Route("/api/answer", study.answer, methods=["POST"]),
        Route("/api/finish", study.finish, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(
                WithHeaders,
                headers=HEADERS,
                log="pairloom.study",
                status=500,  # the browser tries again
                sentence="The server made a mistake; it is tried again.",
            )
        ],
        exception_handlers={Refused: _refused, HTTPException: _refused, sqlite3.Error: _not_stored},
    )
    app.router.redirect_slashes = False
    return app


# -----------------------------------------------------------------------------------------------------------
# Headers and faults


def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return JSONResponse({"error": error.sentence}, error.status)
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))


def _not_stored(_: Request, error: Exception) -> Response:
    print(f"pairloom study: the database says: {error}", file=sys.stderr, flush=True)
    return JSONResponse({"error": "This could not be stored; it is tried again."}, 503)


# -----------------------------------------------------------------------------------------------------------
# Serving, and links


def make_server(folder: str | Path, host: str, port: int) -> tuple[uvicorn.Server, socket.socket]:
    """A server that is not running yet, and the socket that it will listen on.

    Raises:
        StudyFault: The study cannot be opened, or the port is taken.
    """
    try:
        listening = listen(host, port)
    except ValueError as error:
        raise StudyFault(str(error)) from error
    try:
        app = create_app(folder)
    except StudyFault:
        listening.close()
        raise
    return quiet_server(app), listening


def serve(folder: str | Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a study until Ctrl-C.

    Raises:
        StudyFault: The study cannot be opened, or the port is taken.
    """
    server, listening = make_server(folder, host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}"
    print(f"Study: {url}/\nResults: {url}/results?token=TOKEN\nCtrl-C ends it.", flush=True)
    try:
        with suppress(KeyboardInterrupt):  # where SIGINT was ignored before, none comes through
            server.run(sockets=[listening])
    finally:
        listening.close()
    print("Ended. Every answer is stored.", flush=True)


def make_links(folder: str | Path, count: int, base_url: str = "http://127.0.0.1:8000") -> list[str]:
    """Personal links, each good for one session; from the first one on, nobody enters without.

    Args:
        folder: Of the study; it may be served at the same time.
        count: How many.
        base_url: Where participants find the study.

    Raises:
        StudyFault: There is no study, or the count or the address is wrong.
    """
    StudySettings.load(folder)
    if not 1 <= count <= MOST_LINKS:
        raise StudyFault(f"count is {count}; it must be 1 to {MOST_LINKS}.")
    if not re.fullmatch(r"https?://\S+", base_url):
        raise StudyFault(f"The address {base_url!r} must begin with http:// or https://.")
    tokens = [secrets.token_urlsafe(16) for _ in range(count)]
    with Store(Path(folder) / "study.sqlite") as store:
        store.add_links(tokens)
    return [f"{base_url.rstrip('/')}/s/{token}" for token in tokens]
