"""The line before the model: bounded, in order, and the newest drawing of a client wins.

One thread runs the models, so that two requests never share the processor's cores and each is as quick as it
can be. What waits is short: of one client only its newest drawing is worth an answer.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from pairloom.serve.refusals import ClientGone, Refused, Superseded

T = TypeVar("T")

MOST_CLIENTS = 1000
"""Whose newest number is remembered."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Which drawing of which client a request is of: header `X-Drawing: client;number`."""

    client: str
    number: int


@dataclass(eq=False, slots=True)
class _Place:
    """One request's place in the line."""

    work: Callable[[], Any]
    drawing: Drawing | None
    done: asyncio.Future[Any]
    begun: bool = False


class Line:
    """Requests that wait for the model.

    Args:
        most: How many may wait, besides the one that is computed.
        most_seconds: How long one may wait before it is given up.
    """

    def __init__(self, most: int, most_seconds: float) -> None:
        self.most, self.most_seconds = most, most_seconds
        self._waiting: deque[_Place] = deque()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._arrived = asyncio.Event()
        self._seconds = 0.5
        """Of a computation, lately."""

    async def work(self) -> None:
        """Compute what waits, one after the other, in one thread, until cancelled."""
        thread = ThreadPoolExecutor(1, "model")
        loop = asyncio.get_running_loop()
        try:
            while True:
                while not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                place = self._waiting.popleft()
                place.begun = True
                started = loop.time()
                try:
                    result = await loop.run_in_executor(thread, place.work)
                except Exception as error:  # it belongs to whoever asked
                    if not place.done.done():
                        place.done.set_exception(error)
                else:
                    if not place.done.done():
                        place.done.set_result(result)
                self._seconds += 0.3 * (loop.time() - started - self._seconds)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    async def do(self, work: Callable[[], T], drawing: Drawing | None, gone: asyncio.Future[Any]) -> T:
        """Wait for one's turn and for the result.

        Args:
            work: Run in the model's thread.
            drawing: None: a request that nothing supersedes.
            gone: Done when the client has closed its connection.

        Raises:
            Superseded: A newer drawing of the client is here.
            Refused: 503, the line is full; 504, the wait was too long.
            ClientGone: Nobody reads the answer.
        """
        place = self._join(work, drawing)
        try:
            both: set[asyncio.Future[Any]] = {place.done, gone}
            await asyncio.wait(both, timeout=self.most_seconds, return_when=asyncio.FIRST_COMPLETED)
            if place.begun and not place.done.done() and not gone.done():
                # Its turn has come: how long it takes is bounded by its size.
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if place.done.done():
                result: T = place.done.result()
                return result
            if gone.done():
                raise ClientGone
            raise Refused(
                504,
                f"The line did not move within {self.most_seconds:g} s; try again later.",
                retry_seconds=self._retry_seconds(),
            )
        finally:
            if place in self._waiting:
                self._waiting.remove(place)
            place.done.cancel()

    def _join(self, work: Callable[[], Any], drawing: Drawing | None) -> _Place:
        if drawing is not None:
            self._supersede(drawing)
        if len(self._waiting) >= self.most:
            raise Refused(
                503,
                f"{len(self._waiting)} requests are waiting already; try again in a moment.",
                retry_seconds=self._retry_seconds(),
            )
        place = _Place(work, drawing, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        self._arrived.set()
        return place

    def _supersede(self, drawing: Drawing) -> None:
        """Drop the client's older drawings that wait, or this one if it is older itself."""
        if drawing.number < self._newest.get(drawing.client, -1):
            raise Superseded
        self._newest[drawing.client] = drawing.number
        self._newest.move_to_end(drawing.client)
        if len(self._newest) > MOST_CLIENTS:
            self._newest.popitem(last=False)
        for place in list(self._waiting):
            other = place.drawing
            if other is not None and other.client == drawing.client and other.number < drawing.number:
                self._waiting.remove(place)
                place.done.set_exception(Superseded())

    def _retry_seconds(self) -> int:
        return max(1, math.ceil(self._seconds * (len(self._waiting) + 1)))
