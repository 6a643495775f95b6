"""The interface for programs, which the page uses too: models, their examples, translations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pairloom import formats
from pairloom.images import ImageError
from pairloom.pixels import Array
from pairloom.serve import answers, declared
from pairloom.serve.colours import to_source
from pairloom.serve.declared import Limits
from pairloom.serve.models import Served
from pairloom.serve.openapi import openapi
from pairloom.serve.queue import Line
from pairloom.serve.refusals import Refused
from pairloom.serve.requests import MOST_SAMPLES, Asked, chosen_type, format_sent, read_query, receive

MOST_UPLOADS = 16
"""Bodies that arrive at the same time, besides those that wait: they lie on the disk until their turn."""
LARGEST_SAMPLES = 16 * 512 * 512
"""Pixels of all samples of one request: more takes the place of everybody else's turn for too long."""


class Translating:
    """What can be asked of the models.

    Args:
        models: By their names; the first is meant where none is named.
        line: Where requests wait.
        limits: Of a request.

    Attributes:
        folder: For bodies while they wait; whoever serves says where.
    """

    def __init__(self, models: Mapping[str, Served], line: Line, limits: Limits) -> None:
        self.served, self.line, self.limits = models, line, limits
        self.folder = Path()
        self._most_uploads = line.most + MOST_UPLOADS
        self._uploads = 0

    async def models(self, _: Request) -> Response:
        """All models, and what may be asked of them."""
        limits = {
            "max_mb": self.limits.max_mb,
            "max_side": self.limits.max_side,
            "samples": MOST_SAMPLES,
            "formats": list(declared.CONTENT_TYPES),
        }
        return JSONResponse({"models": [m.describe() for m in self.served.values()], "limits": limits})

    async def example(self, request: Request) -> Response:
        """A source picture of a model."""
        examples = self._model(request.query_params.get("model")).examples
        number = request.query_params.get("number", "0")
        if not number.isdecimal() or len(number) > 3 or int(number) >= len(examples):
            raise Refused(404, f"This model has {len(examples)} examples, counted from 0.")
        return Response(answers.png(examples[int(number)]), media_type="image/png")

    async def openapi(self, _: Request) -> Response:
        """The description of this interface."""
        return JSONResponse(openapi(self.limits, list(self.served)))

    async def translate(self, request: Request) -> Response:
        """One image in, one translation out."""
        asked = read_query(request)
        model = self._model(asked.model)
        if asked.patches and model.discriminator is None:
            raise Refused(422, f"{model.name} has no D beside it; ask without patches.")
        single = asked.samples == 1 and not asked.patches
        spec = model.translator.target_spec
        kind = chosen_type(request.headers.get("accept", ""), answers.offered_types(spec, single=single))
        sent = format_sent(request)
        if self._uploads >= self._most_uploads:
            raise Refused(503, "Too many images arrive at once; try again in a moment.", retry_seconds=1)
        self._uploads += 1
        try:
            path = await receive(request, self.folder, sent, self.limits)
            try:
                height, width = await anyio.to_thread.run_sync(declared.check, path, sent, self.limits)
                if asked.samples > 1 and asked.samples * height * width > LARGEST_SAMPLES:
                    most = max(1, LARGEST_SAMPLES // (height * width))
                    raise Refused(413, f"Of {width} x {height} pixels {most} samples can be had at once.")
                return await self._in_line(request, asked, self._work(model, asked, path, kind))
            finally:
                path.unlink(missing_ok=True)
        finally:
            self._uploads -= 1

    async def _in_line(self, request: Request, asked: Asked, work: Callable[[], Response]) -> Response:
        gone = asyncio.ensure_future(_closed(request))
        try:
            return await self.line.do(work, asked.drawing, gone)
        finally:
            gone.cancel()

    def _work(self, model: Served, asked: Asked, path: Path, kind: str) -> Callable[[], Response]:
        """Decode, translate, encode: in the model's thread, so that one image is in memory at a time."""

        def work() -> Response:
            try:
                array = _decoded(model, path, asked)
                started = time.perf_counter()
                made = model.translate(array, seed=asked.seed, samples=asked.samples, patches=asked.patches)
                milliseconds = (time.perf_counter() - started) * 1000
                if kind == answers.JSON:
                    body = answers.as_json(made, seed=asked.seed, milliseconds=milliseconds)
                else:
                    body = answers.as_file(made.samples.images[0], kind, self.folder)
            except ImageError as error:
                raise Refused(422, str(error).replace(str(path), "The image")) from None
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, MemoryError) or "memory" in str(error):
                    raise Refused(413, "There is not memory enough for it; send a smaller image.") from None
                raise
            return Response(body, media_type=kind, headers={"X-Milliseconds": f"{milliseconds:.1f}"})

        return work

    def _model(self, name: str | None) -> Served:
        if name is None:
            return next(iter(self.served.values()))
        if name not in self.served:
            raise Refused(404, f"There is no model {name[:64]!r}; there are {', '.join(self.served)}.")
        return self.served[name]


def _decoded(model: Served, path: Path, asked: Asked) -> Array:
    if not asked.picture:
        # Flat: readers of stacks follow the names of other files, and those that are sent may say any.
        return model.translator.read(path, flat=True)
    picture = formats.read_image(path, alpha="white", page_axis="first")
    if picture.dtype != "uint8" or picture.shape[2] not in (1, 3):
        raise Refused(422, "A picture is 8-bit grey or RGB; leave out picture=1 for the source's own values.")
    return to_source(
        picture.repeat(3, axis=2) if picture.shape[2] == 1 else picture, model.translator.source_spec
    )


async def _closed(request: Request) -> None:
    """Wait until the client closes the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
