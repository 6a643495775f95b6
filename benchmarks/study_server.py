"""The study's server with many participants at once: how long an answer takes, and whether one is lost.

    python benchmarks/study_server.py [--participants 50] [--every 4] [--trials 50]

`pairloom study serve` runs in a process of its own. Each participant begins a session, loads all its images,
and then asks for a trial and answers it, once every four seconds, the participants spread evenly over them.
Timed is a request as the client sees it, from sending to the whole response; the clients share the machine
with the server. Afterwards every acknowledged answer is looked up in the database. The result goes to
benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from PIL import Image

from pairloom.study.making import new_study
from pairloom.study.simulate import Visitor, count_missing
from result import save

SIZE = 256
ALGORITHMS = ("L1", "L1+cGAN")


def make_study(folder: Path, trials: int) -> Path:
    """Noise images, which no PNG makes smaller: the most that 256 pixels can weigh."""
    rng = np.random.default_rng(0)
    for name in ("real", *ALGORITHMS):
        (folder / name).mkdir()
        for number in range(trials):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:04}.png", compress_level=1)
    practice = min(10, trials - 1)
    fakes = {name: folder / name for name in ALGORITHMS}
    new_study(
        folder / "study",
        seed=0,
        real=folder / "real",
        fakes=fakes,
        trials=trials - practice,
        practice=practice,
    )
    return folder / "study"


@contextmanager
def server(study: Path) -> Iterator[tuple[str, int]]:
    """The real command, on a free port. Gives host and port."""
    command = [sys.executable, "-m", "pairloom", "study", "serve", str(study), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
        assert said, "the server says where it is"
        yield said[1], int(said[2])
    finally:
        process.terminate()
        process.wait(30)


class Participant(threading.Thread):
    """One browser's requests."""

    def __init__(self, where: tuple[str, int], number: int, count: int, every: float) -> None:
        super().__init__(daemon=True)
        self.where, self.every, self.offset = where, every, every * number / count
        self.visitor = Visitor(*where)
        self.rng = np.random.default_rng(number)
        self.secret, self.images_mb = "", 0.0
        self.acknowledged: list[tuple[int, int]] = []
        self.answer_ms: list[float] = []
        self.trial_ms: list[float] = []
        self.fault: BaseException | None = None

    def load(self) -> None:
        """Begin, and load every image, as the page does before the first trial."""
        self.secret = self.visitor.begin()
        for path in self.visitor.post("consent")["images"]:
            with urlopen(f"http://{self.where[0]}:{self.where[1]}{path}") as response:
                self.images_mb += len(response.read()) / 1e6

    def run(self) -> None:
        """Ask and answer, until the last trial."""
        try:
            time.sleep(self.offset)
            next_at = time.perf_counter()
            while (trial := timed(self.trial_ms, self.visitor, "trial"))["state"] == "trial":
                next_at += self.every
                time.sleep(max(0.0, next_at - time.perf_counter()))
                answer = int(self.rng.integers(2))
                timed(
                    self.answer_ms, self.visitor, "answer",
                    number=trial["number"], answer=answer, response_ms=900.0,
                    measured_ms=[1000.0, 1000.0], hidden=False,
                )  # fmt: skip
                self.acknowledged.append((trial["number"], answer))
        except BaseException as error:
            self.fault = error


def timed(into: list[float], visitor: Visitor, what: str, **fields: object) -> dict:
    """Ask, and note the milliseconds."""
    started = time.perf_counter()
    said = visitor.post(what, **fields)
    into.append((time.perf_counter() - started) * 1000)
    return said


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    return {
        "p50": round(float(np.percentile(milliseconds, 50)), 1),
        "p99": round(float(np.percentile(milliseconds, 99)), 1),
        "most": round(max(milliseconds), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, default=50)
    parser.add_argument("--every", type=float, default=4.0, help="seconds from answer to answer")
    parser.add_argument("--trials", type=int, default=50, help="of each participant, practice included")
    arguments = parser.parse_args()
    count, every = arguments.participants, arguments.every
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder), arguments.trials)
        with server(study) as where:
            people = [Participant(where, number, count, every) for number in range(count)]
            started = time.perf_counter()
            loading = [threading.Thread(target=person.load) for person in people]
            for thread in loading:
                thread.start()
            for thread in loading:
                thread.join()
            loaded = time.perf_counter() - started
            started = time.perf_counter()
            for person in people:
                person.start()
            for person in people:
                person.join()
            seconds = time.perf_counter() - started
        lost = count_missing(study, {person.secret: person.acknowledged for person in people})
    figures = {
        "sqlite": sqlite3.sqlite_version,
        "participants": count,
        "seconds_from_answer_to_answer": every,
        "answers": sum(len(person.acknowledged) for person in people),
        "lost": lost,
        "faults": [repr(person.fault) for person in people if person.fault],
        "answer_ms": percentiles([ms for person in people for ms in person.answer_ms]),
        "trial_ms": percentiles([ms for person in people for ms in person.trial_ms]),
        "seconds": round(seconds, 1),
        "images_loaded_at_once_mb": round(sum(person.images_mb for person in people)),
        "seconds_loading": round(loaded, 1),
    }
    save(f"study_server_{count}_{every:g}", figures, "starlette", "uvicorn")


if __name__ == "__main__":
    main()
