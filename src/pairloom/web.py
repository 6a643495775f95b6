"""What both servers, the study's and the drawing page's, need: headers, a socket, and how it is served."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class WithHeaders:
    """Headers on every response that does not say otherwise, also on that to a fault of ours.

    Args:
        app: What answers.
        headers: By name.
        log: Name of the logger that gets the trace of a fault of ours.
        status: Of the answer to one.
        sentence: Told to whoever asked; the trace is not.
    """

    def __init__(
        self, app: ASGIApp, *, headers: Mapping[str, str], log: str, status: int, sentence: str
    ) -> None:
        self.app, self.headers, self.log = app, headers, logging.getLogger(log)
        self.failed = JSONResponse({"error": sentence}, status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as an ASGI application does."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        except Exception:
            if started:
                raise
            self.log.exception("A request failed.")
            await self.failed(scope, receive, with_headers)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Its protocol is named, because only then does asyncio send small answers at once (TCP_NODELAY): otherwise
    each waits 40 ms for the acknowledgement of its own header.

    Raises:
        ValueError: The port is none, or taken.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; it must be 0 (any) to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise ValueError(
            f"{host}:{port} cannot be listened on ({error.strerror}); if another program has this port, give "
            "another --port."
        ) from error
    return listening


def quiet_server(app: ASGIApp) -> uvicorn.Server:
    """A server that says little, keeps idle connections 30 s, and ends within 5 s whatever still runs."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)
