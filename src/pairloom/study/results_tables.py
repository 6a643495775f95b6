"""The results of a study as files for other programs: every trial, every session, all figures.

A session is a number. Its secret, its link, the user agent, the images' IDs and the admin token are in none
of the files; what participants wrote is in sessions.csv, so read it before you pass that on.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairloom.checkpoint import write_text_atomically
from pairloom.study.exclusions import Session, trial_fault
from pairloom.study.protocol import Key
from pairloom.study.results import Results
from pairloom.study.store import TrialRow

REAL = "real"
"""Stands for the algorithm of a real image; no algorithm may have this name."""
WRECK = "attention check"


def write_tables(out: Path, results: Results, key: Key) -> None:
    """Write trials.csv, sessions.csv and summary.json."""
    trials = [
        _trial(session, trial, results, key) for session in results.sessions for trial in session.trials
    ]
    write_text_atomically(out / "trials.csv", to_csv(trials))
    write_text_atomically(out / "sessions.csv", to_csv([_session(s, results) for s in results.sessions]))
    summary = json.dumps(results.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(out / "summary.json", summary + "\n")


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """RFC 4180 with LF; nothing is an empty cell; a text that a spreadsheet would compute gets a ' before."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value


def _trial(session: Session, trial: TrialRow, results: Results, key: Key) -> dict[str, Any]:
    first, second = (_image(image, key) for image in (trial.first, trial.second))
    mode = results.settings.mode
    excluded = session.reason or (trial_fault(trial) if trial.answer is not None else "")
    fooled = None if trial.right is None or mode == "prefer" else not trial.right
    if mode == "single" and trial.fake_side == 0:
        fooled = None
    return {
        "session": session.number,
        "algorithm": session.algorithm,
        "trial": trial.number,
        "practice": trial.practice,
        "attention": trial.attention,
        "first_algorithm": first[0],
        "first_source": first[1],
        "second_algorithm": second[0],
        "second_source": second[1],
        "fake_side": trial.fake_side,
        "answer": trial.answer,
        "right": trial.right,
        "fooled": fooled,
        "preferred": (second[0] if trial.answer else first[0]) if _chosen(trial, mode) else None,
        "response_ms": trial.response_ms,
        "exposure_ms": trial.exposure_ms,
        "measured_first_ms": trial.measured_first_ms,
        "measured_second_ms": trial.measured_second_ms,
        "hidden": trial.hidden,
        "times_shown": trial.times_shown,
        "shown_at": trial.shown_at,
        "answered_at": trial.answered_at,
        "excluded": excluded,
    }


def _chosen(trial: TrialRow, mode: str) -> bool:
    return mode == "prefer" and trial.answer is not None


def _image(image: str | None, key: Key) -> tuple[str | None, str | None]:
    """Whose an image is, and its source."""
    if image is None:
        return None, None
    known = key[image]
    return (WRECK if known.attention else known.algorithm or REAL), known.source


def _session(session: Session, results: Results) -> dict[str, Any]:
    """One line of sessions.csv."""
    row = session.row
    known = [t.right for t in session.kept if t.right is not None]
    return {
        "session": session.number,
        "algorithm": row.algorithm,
        "artificial": session.artificial,
        "started": row.started,
        "consented": row.consented,
        "finished": row.finished,
        "seconds": session.seconds,
        "main_trials": len(session.main),
        "answered": len(session.answered),
        "trials_that_count": 0 if session.reason else len(session.kept),
        "share_right": sum(known) / len(known) if known else None,
        "hidden_share": session.hidden_share,
        "attention_share": session.attention_share,
        "most_frequent_answer_share": session.one_sided if session.answered else None,
        "device_pixel_ratio": row.device_pixel_ratio,
        "viewport": row.viewport,
        "excluded": session.reason,
        "comments": row.comments,
    }
