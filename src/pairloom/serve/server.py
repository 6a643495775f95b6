"""The page to draw on, on the web: its addresses, its headers, its faults; serving it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pairloom.serve.declared import Limits
from pairloom.serve.models import Served, load_models
from pairloom.serve.queue import Line
from pairloom.serve.refusals import ClientGone, Refused, ServeFault, Superseded
from pairloom.serve.translating import Translating
from pairloom.web import WithHeaders, listen, quiet_server

PAGES = Path(__file__).parent / "pages"
STATIC = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}
"""On every response that does not say otherwise."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the page is served.

    Raises:
        ServeFault: A value is out of its range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0: a free one."""
    allow_hosts: tuple[str, ...] = ()
    """Names by which clients may call the server, besides its own."""
    allow_origins: tuple[str, ...] = ()
    """Other web pages that may use it from a browser; none by default."""
    limits: Limits = field(default_factory=Limits)
    queue: int = 8
    """Requests that may wait."""
    wait_seconds: float = 30.0
    """For how long."""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("port", self.port, 0, 65535),
            ("max-mb", self.limits.max_mb, 0.001, 2048),
            ("max-side", self.limits.max_side, 1, 32768),
            ("queue", self.queue, 1, 1000),
            ("wait-seconds", self.wait_seconds, 0.01, 3600),
        ):
            if not least <= value <= most:
                raise ServeFault(f"{name} is {value}; it must be {least} to {most}.")
        for origin in self.allow_origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ServeFault(f"The origin {origin!r} must be like https://lab.example, without a path.")


def create_app(models: Mapping[str, Served], settings: Settings) -> Starlette:
    """The page and its interface for programs, as an ASGI application."""
    line = Line(settings.queue, settings.wait_seconds)
    translating = Translating(models, line, settings.limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="pairloom-serve-", ignore_cleanup_errors=True) as folder:
            translating.folder = Path(folder)
            working = asyncio.create_task(line.work())
            yield
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working

    stack = [
        Middleware(
            WithHeaders,
            headers=HEADERS,
            log="pairloom.serve",
            status=503,
            sentence="The server made a mistake with this request; what happened is in its log.",
        ),
        Middleware(_OwnPagesOnly, settings=settings),
    ]
    if settings.allow_origins:
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.allow_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["content-type", "x-drawing"],
                expose_headers=["retry-after", "x-milliseconds"],
            )
        )
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/api/models", translating.models),
            Route("/api/example", translating.example),
            Route("/api/translate", translating.translate, methods=["POST"]),
            Route("/api/openapi.json", translating.openapi),
            Route("/{name}", _static),
        ],
        lifespan=lifespan,
        middleware=stack,
        exception_handlers={
            Refused: _refused,
            HTTPException: _refused,
            Superseded: _superseded,
            ClientGone: _nobody_reads,
        },
    )
    app.router.redirect_slashes = False
    return app


# -----------------------------------------------------------------------------------------------------------
# The page


_FILES = {path.name: path for path in PAGES.iterdir() if path.suffix in STATIC}


async def _page(_: Request) -> Response:
    text = (PAGES / "index.html").read_bytes()
    return Response(text, media_type="text/html", headers={"Cache-Control": "no-cache"})


async def _static(request: Request) -> Response:
    path = _FILES.get(request.path_params["name"])
    if path is None:
        raise HTTPException(404)
    return Response(path.read_bytes(), media_type=STATIC[path.suffix], headers={"Cache-Control": "no-cache"})


# -----------------------------------------------------------------------------------------------------------
# Headers and faults


class _OwnPagesOnly:
    """Refuses names that are not this server's, and other pages, which could use it otherwise.

    A name that somebody else points at 127.0.0.1 (DNS rebinding) is such a name; a numeric address is not.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.names = {name.lower() for name in (*LOCAL_HOSTS, settings.host, *settings.allow_hosts)}
        self.any_address = settings.host in ("0.0.0.0", "::")
        self.origins = set(settings.allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._why_not(Headers(scope=scope)) if scope["type"] == "http" else None
        if refused is None:
            await self.app(scope, receive, send)
        else:
            await JSONResponse({"error": refused.sentence}, refused.status)(scope, receive, send)

    def _why_not(self, headers: Headers) -> Refused | None:
        host = _without_port(headers.get("host", ""))
        if not host:
            return Refused(400, "The request names no host.")
        if host not in self.names and not (self.any_address and _is_address(host)):
            return Refused(
                421, f"This server is not called {host[:100]!r}; whoever serves can allow it: --allow-host."
            )
        origin = headers.get("origin")
        own = origin is None or origin.partition("://")[2].lower() == headers["host"].lower()
        if not own and origin not in self.origins:
            return Refused(403, "Another page may not use this server; --allow-origin allows it.")
        return None


def _without_port(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        retry = error.retry_seconds
        headers = {} if retry is None else {"Retry-After": str(retry)}
        return JSONResponse({"error": error.sentence}, error.status, headers=headers)
    assert isinstance(error, HTTPException)
    words = {404: "There is nothing at this address.", 405: "This address takes another method."}
    sentence = words.get(error.status_code, error.detail)
    return JSONResponse({"error": sentence}, error.status_code, headers=dict(error.headers or {}))


def _superseded(_: Request, __: Exception) -> Response:
    return Response(status_code=204)  # no fault: a browser would write an error into its console


def _nobody_reads(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "The connection was closed."}, 499)


# -----------------------------------------------------------------------------------------------------------
# Serving


def make_server(models: Mapping[str, Served], settings: Settings) -> tuple[uvicorn.Server, socket.socket]:
    """A server that is not running yet, and the socket that it will listen on.

    Raises:
        ServeFault: The port is taken.
    """
    try:
        listening = listen(settings.host, settings.port)
    except ValueError as error:
        raise ServeFault(str(error)) from error
    return quiet_server(create_app(models, settings)), listening


def serve(
    paths: Sequence[str],
    settings: Settings,
    *,
    checkpoint: Literal["last", "best"] = "last",
    device: str = "auto",
) -> None:
    """Serve the page for some models until Ctrl-C.

    Raises:
        ServeFault: A setting is wrong, or the port is taken.
        CheckpointError: There is no model, or it is damaged.
    """
    models = load_models(paths, checkpoint=checkpoint, device=device)
    server, listening = make_server(models, settings)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{shown}:{listening.getsockname()[1]}"
    for model in models.values():
        t = model.translator
        print(f"{model.name}: {t.source_spec.words()} -> {t.target_spec.words()}, on {t.device}")
    print(f"Draw: {url}/\nFor programs: {url}/api/openapi.json\nCtrl-C ends it.", flush=True)
    try:
        with suppress(KeyboardInterrupt):  # where SIGINT was ignored before, none comes through
            server.run(sockets=[listening])
    finally:
        listening.close()
    print("Ended.", flush=True)
