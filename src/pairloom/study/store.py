"""What participants did, in SQLite: the only place with SQL. Whatever is acknowledged is on the disk.

WAL with synchronous=FULL: a commit returns when the disk has it, so neither SIGKILL nor a power cut loses an
acknowledged answer. One connection, one lock: methods may be called from any thread.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pairloom.study.drawing import DrawnTrial
from pairloom.study.protocol import StudyFault

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE links (token TEXT PRIMARY KEY, session TEXT);
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, secret TEXT UNIQUE NOT NULL, link TEXT, algorithm TEXT NOT NULL, seed INTEGER NOT NULL,
  started TEXT NOT NULL, consented TEXT, finished TEXT, device_pixel_ratio REAL, viewport TEXT,
  user_agent TEXT NOT NULL, comments TEXT NOT NULL
);
CREATE TABLE trials (
  session TEXT NOT NULL, number INTEGER NOT NULL, practice INTEGER NOT NULL, attention INTEGER NOT NULL,
  first TEXT NOT NULL, second TEXT, fake_side INTEGER, exposure_ms INTEGER NOT NULL, shown_at TEXT,
  answered_at TEXT, answer INTEGER, response_ms REAL, measured_first_ms REAL, measured_second_ms REAL,
  hidden INTEGER, times_shown INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (session, number)
) WITHOUT ROWID;
"""
BUSY_SECONDS = 20.0
"""How long another process (`study links`, say) may hold the database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRow:
    """One participant's session. Times are UTC, ISO 8601 with milliseconds."""

    id: str
    """For tables and files; the secret by which a browser goes on with the session is another one."""
    link: str | None = None
    """Token of the personal link; None: by the open page."""
    algorithm: str
    """With prefer "A|B"."""
    seed: int = 0
    started: str = ""
    consented: str | None = None
    finished: str | None = None
    """When the last answer was stored."""
    device_pixel_ratio: float | None = None
    viewport: str | None = None
    """CSS pixels, "WIDTHxHEIGHT"."""
    user_agent: str = ""
    comments: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """One trial, shown or still to come."""

    session: str
    number: int
    """From 0; practice comes first."""
    practice: bool = False
    attention: bool = False
    first: str
    """Image ID: the one shown first, or at the left."""
    second: str | None = None
    """None with single."""
    fake_side: int | None = None
    """0 or 1; with single, is the image fake. With prefer None, or of an attention check the right answer."""
    exposure_ms: int = 1000
    shown_at: str | None = None
    """When it was first shown."""
    answered_at: str | None = None
    answer: int | None = None
    """Which was judged fake; with single, is it fake; with prefer, which is better."""
    response_ms: float | None = None
    """From the buttons' appearance to the answer."""
    measured_first_ms: float | None = None
    """How long the image was on the screen, by the browser's frames."""
    measured_second_ms: float | None = None
    hidden: bool | None = None
    """Was the browser's tab hidden at any time of the trial?"""
    times_shown: int = 0
    """More than 1: the page was reloaded before the answer."""

    @property
    def right(self) -> bool | None:
        """Was the answer right? None where there is none, or nothing is right or wrong."""
        if self.answer is None or self.fake_side is None:
            return None
        return self.answer == self.fake_side


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenAnswer:
    """What a browser sends of a trial."""

    answer: int
    response_ms: float
    measured_first_ms: float | None
    measured_second_ms: float | None
    hidden: bool


Outcome = Literal["stored", "same", "other", "not shown", "no trial"]
"""same: the very same answer was stored before, a retry; other: there is an answer, and it is another one."""


class Store:
    """The database of a study; made if absent. Use it as a context manager, or close it.

    Args:
        path: DIR/study.sqlite, or DIR.

    Raises:
        StudyFault: It is damaged, not ours, of a newer version, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path) / "study.sqlite" if Path(path).is_dir() else Path(path)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise StudyFault(f"{self.path}: cannot be opened ({error}); check the folder.") from error
        try:
            self._prepare()
        except (sqlite3.Error, StudyFault) as error:
            self._db.close()
            if isinstance(error, StudyFault):
                raise
            raise StudyFault(
                f"{self.path}: cannot be used ({error}); check its permissions, or restore it from a copy."
            ) from error

    def _prepare(self) -> None:
        self._db.row_factory = sqlite3.Row
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StudyFault(
                f"{self.path}: is of version {version}, and this pairloom reads up to {SCHEMA_VERSION}; "
                "use the pairloom that made it, or a newer one."
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if version == 0:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is lost without it; it tidies the files up."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on the disk when the block ends, or not at all."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # What there is

    def sessions(self) -> list[SessionRow]:
        """All, in the order in which they began."""
        return [_session(row) for row in self._rows("SELECT * FROM sessions ORDER BY seed")]

    def trials(self, session: str | None = None) -> list[TrialRow]:
        """Of one session, or of all in the order in which they began; also those not yet shown."""
        if session is not None:
            rows = self._rows("SELECT * FROM trials WHERE session = ? ORDER BY number", session)
        else:
            rows = self._rows(
                "SELECT trials.* FROM trials JOIN sessions ON sessions.id = session "
                "ORDER BY sessions.seed, number"
            )
        return [_trial(row) for row in rows]

    def session_of(self, secret: str) -> SessionRow | None:
        """The session that a browser's secret opens."""
        rows = self._rows("SELECT * FROM sessions WHERE secret = ?", secret)
        return _session(rows[0]) if rows else None

    # Links

    def add_links(self, tokens: Sequence[str]) -> None:
        """Further personal links; from the first one on, the study is no longer open to everybody."""
        with self._writing() as db:
            db.executemany("INSERT INTO links (token) VALUES (?)", [(token,) for token in tokens])

    def links(self) -> dict[str, str | None]:
        """The session of each token; None: not used yet."""
        return {row["token"]: row["session"] for row in self._rows("SELECT * FROM links ORDER BY rowid")}

    # A session

    def begin(
        self,
        session: SessionRow,
        secret: str,
        draw: Callable[[int, Mapping[str, int]], tuple[str, Sequence[DrawnTrial]]],
    ) -> str:
        """Make a session with all its trials; or, where its link was used, find the one that there is.

        Args:
            session: id, link and what is known of the browser; the rest is filled in here.
            secret: By which the browser goes on.
            draw: Gives algorithm and trials, from the session's number and the sessions of each algorithm.

        Returns:
            The session's secret.
        """
        with self._writing() as db:
            if session.link is not None:
                found = db.execute(
                    "SELECT secret FROM sessions JOIN links ON sessions.id = links.session WHERE token = ?",
                    (session.link,),
                ).fetchone()
                if found is not None:
                    return str(found["secret"])
            counted = db.execute(
                "SELECT algorithm, COUNT(*) AS n FROM sessions GROUP BY algorithm"
            ).fetchall()
            counts = {row["algorithm"]: row["n"] for row in counted}
            seed = sum(counts.values())
            algorithm, trials = draw(seed, counts)
            row = dataclasses.replace(session, algorithm=algorithm, seed=seed, started=now())
            values = {**dataclasses.asdict(row), "secret": secret}
            _insert(db, "sessions", [values])
            _insert(db, "trials", [{"session": row.id, **dataclasses.asdict(trial)} for trial in trials])
            if session.link is not None:
                db.execute("UPDATE links SET session = ? WHERE token = ?", (row.id, session.link))
            return secret

    def consent(self, session: str) -> None:
        """The participant agrees; the first time stands."""
        with self._writing() as db:
            db.execute(
                "UPDATE sessions SET consented = ? WHERE id = ? AND consented IS NULL", (now(), session)
            )

    def show(self, session: str, exposure: Callable[[TrialRow, Sequence[TrialRow]], int]) -> TrialRow | None:
        """The first trial without an answer, marked as shown; None after the last.

        Args:
            session: Its id.
            exposure: Of a trial that is new, from it and all trials of the session.
        """
        with self._writing() as db:
            rows = db.execute("SELECT * FROM trials WHERE session = ? ORDER BY number", (session,)).fetchall()
            trials = [_trial(row) for row in rows]
            current = next((trial for trial in trials if trial.answer is None), None)
            if current is None:
                return None
            new = current.shown_at is None
            shown = dataclasses.replace(
                current,
                shown_at=now() if new else current.shown_at,
                exposure_ms=exposure(current, trials) if new else current.exposure_ms,
                times_shown=current.times_shown + 1,
            )
            db.execute(
                "UPDATE trials SET shown_at = ?, exposure_ms = ?, times_shown = ? "
                "WHERE session = ? AND number = ?",
                (shown.shown_at, shown.exposure_ms, shown.times_shown, session, shown.number),
            )
            return shown

    def answer(self, session: str, number: int, given: GivenAnswer) -> tuple[Outcome, TrialRow | None]:
        """Store an answer: once for each trial, and only for one that was shown.

        The answer to the last trial also ends the session.
        """
        values = dataclasses.asdict(given)
        with self._writing() as db:
            row = db.execute(
                "SELECT * FROM trials WHERE session = ? AND number = ?", (session, number)
            ).fetchone()
            if row is None:
                return "no trial", None
            trial = _trial(row)
            if trial.answer is not None:
                same = all(getattr(trial, name) == value for name, value in values.items())
                return ("same" if same else "other"), trial
            if trial.shown_at is None:
                return "not shown", trial
            trial = dataclasses.replace(trial, answered_at=now(), **values)
            db.execute(
                "UPDATE trials SET answered_at = :answered_at, answer = :answer, response_ms = :response_ms, "
                "measured_first_ms = :measured_first_ms, measured_second_ms = :measured_second_ms, "
                "hidden = :hidden WHERE session = :session AND number = :number",
                dataclasses.asdict(trial),
            )
            db.execute(
                "UPDATE sessions SET finished = ? WHERE id = ? AND NOT EXISTS "
                "(SELECT 1 FROM trials WHERE session = ? AND answer IS NULL)",
                (trial.answered_at, session, session),
            )
            return "stored", trial

    def comment(self, session: str, comments: str) -> None:
        """What the participant has to say at the end; said again, it replaces the former."""
        with self._writing() as db:
            db.execute("UPDATE sessions SET comments = ? WHERE id = ?", (comments, session))


def now() -> str:
    """UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _insert(db: sqlite3.Connection, table: Literal["sessions", "trials"], rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    marks = ", ".join(f":{name}" for name in names)
    db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)


def _session(row: sqlite3.Row) -> SessionRow:
    return SessionRow(**{f.name: row[f.name] for f in dataclasses.fields(SessionRow)})


def _trial(row: sqlite3.Row) -> TrialRow:
    values = {f.name: row[f.name] for f in dataclasses.fields(TrialRow)}
    hidden = None if values["hidden"] is None else bool(values["hidden"])
    return TrialRow(
        **{
            **values,
            "practice": bool(values["practice"]),
            "attention": bool(values["attention"]),
            "hidden": hidden,
        }
    )
