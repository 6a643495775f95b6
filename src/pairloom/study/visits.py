"""What a browser can ask of a study, from the first page to the last comment; `server` gives it addresses.

All that may be asked for is looked up in a table: no path, and no SQL, is made from a request. Which image is
real is told only of practice trials, and only after the answer.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
from markdown_it import MarkdownIt
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pairloom.study import bodies
from pairloom.study.bodies import Refused
from pairloom.study.drawing import DrawnTrial, draw_session, staircase
from pairloom.study.protocol import StudyFault, StudySettings, load_key
from pairloom.study.store import GivenAnswer, SessionRow, Store, TrialRow
from pairloom.study.texts import QUESTIONS

P = ParamSpec("P")
T = TypeVar("T")

PAGES = Path(__file__).parent / "pages"
STATIC = {
    "study.js": "text/javascript",
    "trial.js": "text/javascript",
    "wire.js": "text/javascript",
    "study.css": "text/css",
}
TOKEN = r"[A-Za-z0-9_-]{1,64}"
MOST_COMMENTS = 2000
MOST_MS = 1e8
"""More than a day: nobody waits longer over a trial."""
RESULTS_CSP = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the results' page, which holds its styles, scripts and pictures in itself."""


class Visits:
    """One study, and what a browser can ask of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = StudySettings.load(folder)
        self.key = load_key(folder)
        self.images = {f"{id_}.png": folder / "images" / f"{id_}.png" for id_ in self.key}
        self.statics = {name: (PAGES / name).read_bytes() for name in STATIC}
        self.index = (PAGES / "index.html").read_text(encoding="utf-8")
        self._html("")
        self.store = Store(folder / "study.sqlite")
        # Answers wait in line for the disk, one behind the other, while the event loop goes on.
        self._storing, self._analysing = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)

    async def _stored(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._storing)

    # Pages and images

    async def page(self, request: Request) -> Response:
        """The one page, for open studies and for links."""
        up = "../" if "token" in request.path_params else ""
        return Response(await anyio.to_thread.run_sync(self._html, up), media_type="text/html")

    def _html(self, up: str) -> str:
        """The page; consent and instructions as they are in their files now, raw HTML in them escaped."""
        s = self.settings
        values = {
            "title": html.escape(s.title),
            "up": up,
            "consent": self._markdown("consent.md"),
            "instructions": self._markdown("instructions.md"),
            "question": html.escape(QUESTIONS[s.mode]),
        }
        return re.sub(r"\{\{ (\w+) \}\}", lambda match: values[match[1]], self.index)

    def _markdown(self, name: str) -> str:
        path = self.folder / name
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StudyFault(f"{path}: cannot be read ({error}); write it as a text in UTF-8.") from error
        text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        rendered: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
        return rendered

    async def static(self, request: Request) -> Response:
        """Script and styles."""
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404)
        return Response(self.statics[name], media_type=STATIC[name], headers={"Cache-Control": "no-cache"})

    async def image(self, request: Request) -> Response:
        """One image; there is neither a date nor anything else by which to tell one from another."""
        path = self.images.get(request.path_params["name"])
        if path is None:
            raise HTTPException(404)
        return Response(
            await anyio.to_thread.run_sync(path.read_bytes),
            media_type="image/png",
            headers={"Cache-Control": "private, max-age=31536000, immutable"},
        )

    async def results(self, request: Request) -> Response:
        """The analysis, made anew, for whoever holds the admin token."""
        token = request.query_params.get("token", "")
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        if not hmac.compare_digest(digest, self.settings.admin_token_sha256):
            raise Refused(403, "The results need the admin token that `pairloom study new` has shown.")
        page = await anyio.to_thread.run_sync(self._analysed, limiter=self._analysing)
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": RESULTS_CSP})

    def _analysed(self) -> bytes:
        from pairloom.study.analysis import analyse

        try:
            analyse(self.folder)
            return (self.folder / "results" / "study.html").read_bytes()
        except StudyFault as fault:
            raise Refused(409, str(fault)) from fault

    # A session

    async def begin(self, request: Request) -> Response:
        """Begin a session, or go on with one: that of the browser, or that of the link."""
        body = await bodies.read_object(request)
        token = bodies.text(body, "token", most=64, pattern=TOKEN, optional=True) or None
        secret = bodies.text(body, "session", most=64, optional=True)
        ratio = body.get("device_pixel_ratio")
        viewport = bodies.text(body, "viewport", most=15, pattern=r"\d{1,6}x\d{1,6}", optional=True)
        row = SessionRow(
            id=secrets.token_hex(8),
            link=token,
            algorithm="",
            device_pixel_ratio=ratio and bodies.number(ratio, "device_pixel_ratio", most=100),
            viewport=viewport or None,
            user_agent=request.headers.get("user-agent", "")[:400],
        )
        secret, session = await self._stored(self._begun, row, secret)
        height, width = self.settings.height_width
        s = self.settings
        known = {
            "mode": s.mode, "layout": s.layout, "trials": s.trials + s.attention, "practice": s.practice,
            "size": s.size, "width": width, "height": height, "title": s.title,
        }  # fmt: skip
        return JSONResponse({"session": secret, "state": _state(session), "settings": known})

    def _begun(self, row: SessionRow, secret: str) -> tuple[str, SessionRow]:
        found = self.store.session_of(secret) if secret else None
        if found is not None and row.link in (None, found.link):
            return secret, found
        links = self.store.links()
        if row.link is not None and row.link not in links:
            raise Refused(404, "This link is not known; check that it was copied whole.")
        if row.link is None and links:
            raise Refused(403, "This study is by invitation; use the personal link that you were sent.")
        secret = self.store.begin(row, secrets.token_urlsafe(24), self._draw)
        session = self.store.session_of(secret)
        assert session is not None
        return secret, session

    def _draw(self, seed: int, counts: Mapping[str, int]) -> tuple[str, Sequence[DrawnTrial]]:
        return draw_session(self.settings, self.key, seed=seed, counts=counts)

    async def _of_session(
        self, body: dict[str, Any], function: Callable[Concatenate[SessionRow, P], T],
        *args: P.args, **kwargs: P.kwargs,
    ) -> T:  # fmt: skip
        """Do something with the session that a body names, in one turn with the database."""
        secret = bodies.text(body, "session", most=64)

        def look_up_and_do() -> T:
            session = self.store.session_of(secret)
            if session is None:
                raise Refused(404, "This session is not known; load the page again.")
            return function(session, *args, **kwargs)

        return await self._stored(look_up_and_do)

    async def consent(self, request: Request) -> Response:
        """The participant agrees; the images are named, so that they can be loaded before the first trial."""
        body = await bodies.read_object(request)
        return JSONResponse(await self._of_session(body, self._consented))

    def _consented(self, session: SessionRow) -> dict[str, Any]:
        if session.finished is not None:
            return {"state": "finished", "images": []}
        self.store.consent(session.id)
        trials = self.store.trials(session.id)
        ids = sorted({id_ for trial in trials for id_ in (trial.first, trial.second) if id_ is not None})
        return {"state": "trial", "images": [_url(id_) for id_ in ids]}

    async def trial(self, request: Request) -> Response:
        """The next trial: the same one until it is answered."""
        body = await bodies.read_object(request)
        return JSONResponse(await self._of_session(body, self._shown))

    def _shown(self, session: SessionRow) -> dict[str, Any]:
        if session.consented is None:
            raise Refused(409, "Nobody has agreed to take part yet.")
        trial = self.store.show(session.id, self._exposure)
        if trial is None:
            return {"state": "finished"}
        return {
            "state": "trial",
            "number": trial.number,
            "of": self.settings.images_needed,
            "practice": trial.practice,
            "images": [_url(id_) for id_ in (trial.first, trial.second) if id_ is not None],
            "exposure_ms": trial.exposure_ms,
        }

    def _exposure(self, current: TrialRow, trials: Sequence[TrialRow]) -> int:
        """Of a trial that is shown for the first time; adaptive ones follow the answers so far."""
        if not self.settings.adaptive or current.practice or current.attention:
            return current.exposure_ms
        main = [trial for trial in trials if not trial.practice and not trial.attention]
        return staircase(self.settings.exposure_ms, [t.right for t in main if t.right is not None])

    async def answer(self, request: Request) -> Response:
        """Store an answer. The very same one again, a retry, is acknowledged again; another is refused."""
        body = await bodies.read_object(request)
        given = _given(body, images=1 if self.settings.mode == "single" else 2)
        number = bodies.whole(body, "number", most=self.settings.images_needed - 1)
        return JSONResponse(await self._of_session(body, self._answered, number, given))

    def _answered(self, session: SessionRow, number: int, given: GivenAnswer) -> dict[str, Any]:
        outcome, trial = self.store.answer(session.id, number, given)
        if outcome == "other":
            raise Refused(409, "This trial has an answer already.")
        if outcome == "not shown" or trial is None:
            raise Refused(409, "This trial was not shown yet.")
        told = trial.practice and trial.right is not None
        return {"feedback": {"fake": trial.fake_side, "right": trial.right} if told else None}

    async def finish(self, request: Request) -> Response:
        """Keep the participant's comments, if there are any, and tell the share of right answers."""
        body = await bodies.read_object(request)
        comments = bodies.text(body, "comments", most=MOST_COMMENTS, optional=True).strip()
        return JSONResponse({"right": await self._of_session(body, self._finished, comments)})

    def _finished(self, session: SessionRow, comments: str) -> float | None:
        if session.finished is None:
            raise Refused(409, "There are trials without an answer.")
        if comments:
            self.store.comment(session.id, comments)
        trials = self.store.trials(session.id)
        right = [t.right for t in trials if not t.practice and not t.attention and t.right is not None]
        return sum(right) / len(right) if right else None


def _url(id_: str) -> str:
    return f"/image/{id_}.png"


def _state(session: SessionRow) -> str:
    if session.finished is not None:
        return "finished"
    return "consent" if session.consented is None else "trial"


def _given(body: dict[str, Any], *, images: int) -> GivenAnswer:
    measured = body.get("measured_ms")
    if not isinstance(measured, list) or len(measured) != images:
        raise Refused(422, f"measured_ms must be a list of {images}: how long each image was shown.")
    first, second = ([bodies.number(ms, "measured_ms", most=MOST_MS) for ms in measured] + [None])[:2]
    return GivenAnswer(
        answer=bodies.whole(body, "answer", most=1),
        response_ms=bodies.number(body.get("response_ms"), "response_ms", most=MOST_MS),
        measured_first_ms=first,
        measured_second_ms=second,
        hidden=bodies.flag(body, "hidden"),
    )
