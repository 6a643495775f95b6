"""What a browser sends: bounded in size, every field checked before anything is done with it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any

from starlette.requests import Request

MOST_BYTES = 64 * 1024
"""Of a body."""
MOST_SECONDS = 20.0
"""For a body to arrive."""


class Refused(Exception):
    """A request that is not served: the status, and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request's body.

    Raises:
        Refused: It is too large (413), too slow (408), or no JSON object (400).
    """
    body = bytearray()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise Refused(413, f"The body has more than {MOST_BYTES} bytes.")
    except TimeoutError:
        raise Refused(408, "The body did not arrive in time; send it again.") from None
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise Refused(400, "The body is not a JSON object.")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def text(body: dict[str, Any], name: str, *, most: int, pattern: str = "", optional: bool = False) -> str:
    """A text field; empty where it is optional and missing or null.

    Raises:
        Refused: 422, it is no text, too long, of another form, or not Unicode.
    """
    value = body.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise Refused(422, f"{name} must be a text of up to {most} characters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(422, f"{name} holds half a character.") from None
    if pattern and not re.fullmatch(pattern, value, re.ASCII):
        raise Refused(422, f"{name} is not of the form that it must have.")
    return value


def whole(body: dict[str, Any], name: str, *, most: int) -> int:
    """A whole number from 0.

    Raises:
        Refused: 422, it is none, or beyond `most`.
    """
    value = body.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise Refused(422, f"{name} must be a whole number from 0 to {most}.")
    return value


def number(value: Any, name: str, *, most: float) -> float:
    """A finite number from 0.

    Raises:
        Refused: 422, it is none, or beyond `most`.
    """
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= most:
        raise Refused(422, f"{name} must be a number from 0 to {most:g}.")
    return float(value)


def flag(body: dict[str, Any], name: str) -> bool:
    """True or false.

    Raises:
        Refused: 422, it is neither.
    """
    value = body.get(name)
    if not isinstance(value, bool):
        raise Refused(422, f"{name} must be true or false.")
    return value
