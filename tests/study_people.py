"""Synthetic participants for the tests of the study's analysis: rows as the database holds them."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairloom.study.drawing import draw_session
from pairloom.study.protocol import Key, StudyImage, StudySettings
from pairloom.study.store import SessionRow, Store, TrialRow

BEGUN = datetime(2026, 11, 2, 9, tzinfo=UTC)


def made_up_key(algorithms: tuple[str, ...], sources: int, attention: int = 0) -> dict[str, StudyImage]:
    """An ID for every image of every algorithm, and for the real ones."""
    names: list[str | None] = [None, *algorithms]
    key = {
        f"{number:04x}{pair:04x}".rjust(32, "0"): StudyImage(name, f"photo-{pair:03}", pair)
        for number, name in enumerate(names)
        for pair in range(sources)
    }
    for pair in range(sources - attention, sources):
        key[f"f{pair:04x}".rjust(32, "0")] = StudyImage(None, f"photo-{pair:03}", pair, attention=True)
    return key


def people(
    settings: StudySettings,
    key: Key,
    count: int,
    hit: Mapping[str, float],
    *,
    spread: float = 0.0,
    seed: int = 0,
    false_alarm: float = 0.2,
) -> tuple[list[SessionRow], list[TrialRow]]:
    """Finished sessions of people who are fooled with these probabilities; with prefer, like the first."""
    rng = np.random.default_rng(seed)
    rows: list[SessionRow] = []
    trials: list[TrialRow] = []
    counts: dict[str, int] = {}
    for number in range(count):
        arm, drawn = draw_session(settings, key, seed=number, counts=counts)
        counts[arm] = counts.get(arm, 0) + 1
        p = hit[arm]
        if spread:
            strength = 1 / spread**2 - 1
            p = float(rng.beta(p * strength, (1 - p) * strength))
        begun = BEGUN + timedelta(minutes=7 * number)
        for trial in drawn:
            answer = _answer(trial, settings, key, arm, p, false_alarm, rng)
            right = trial.fake_side is None or answer == trial.fake_side
            shown = begun + timedelta(seconds=5 * trial.number + 10)
            trials.append(
                TrialRow(
                    session=f"id-{number}",
                    **dataclasses.asdict(trial),
                    shown_at=shown.isoformat(timespec="milliseconds"),
                    answered_at=(shown + timedelta(seconds=4)).isoformat(timespec="milliseconds"),
                    answer=answer,
                    response_ms=float(rng.lognormal(6.7 if right else 7.2, 0.5)),
                    measured_first_ms=trial.exposure_ms + float(rng.normal(0, 6)),
                    measured_second_ms=trial.exposure_ms + float(rng.normal(0, 6)) if trial.second else None,
                    hidden=False,
                    times_shown=1,
                )
            )
        last = trials[-1].answered_at
        rows.append(
            SessionRow(
                id=f"id-{number}",
                link=f"token-{number}",
                algorithm=arm,
                seed=number,
                started=begun.isoformat(timespec="milliseconds"),
                consented=begun.isoformat(),
                finished=last,
                device_pixel_ratio=2.0,
                viewport="1200x800",
                user_agent="Mozilla/5.0",
                comments="",
            )
        )
    return rows, trials


def _answer(
    trial: Any, settings: StudySettings, key: Key, arm: str, p: float, false_alarm: float, rng: Any
) -> int:
    if trial.attention:
        return int(trial.fake_side)
    if settings.mode == "prefer":
        first = key[trial.first].algorithm == arm.split("|")[0]
        return int((rng.random() < p) != first)
    wrong = rng.random() < (false_alarm if settings.mode == "single" and trial.fake_side == 0 else p)
    return int(trial.fake_side) ^ int(wrong)


def write_study(folder: Path, settings: StudySettings, key: Key) -> Path:
    """Settings, key and tiny images, as `study new` makes them."""
    (folder / "images").mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(settings.to_dict()))
    (folder / "key.json").write_text(json.dumps({id_: dataclasses.asdict(i) for id_, i in key.items()}))
    for number, id_ in enumerate(key):
        Image.new("RGB", (8, 8), (number % 256, 90, 120)).save(folder / "images" / f"{id_}.png")
    return folder


def insert(folder: Path, rows: list[SessionRow], trials: list[TrialRow]) -> None:
    """Into the database of the study, in one transaction."""
    Store(folder).close()
    sessions = [{**dataclasses.asdict(row), "secret": f"secret-{row.id}"} for row in rows]
    with sqlite3.connect(folder / "study.sqlite") as db:
        for table, lines in (("sessions", sessions), ("trials", [dataclasses.asdict(t) for t in trials])):
            names = list(lines[0])
            marks = ", ".join(f":{name}" for name in names)
            db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", lines)
    db.close()
