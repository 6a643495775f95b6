"""Artificial observers who play a study through its real server, so that the analysis meets a known truth.

Each is fooled with a true probability; it knows which image is fake from DIR/key.json, which no browser sees.
They wait for nothing: not for exposures, not before they answer. Their sessions say by their user agent what
they are, and the analysis says so too, and leaves them out where people took part.
"""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairloom.study.exclusions import ARTIFICIAL
from pairloom.study.protocol import Key, StudyFault, StudySettings, load_key
from pairloom.study.server import make_server
from pairloom.study.store import Store

AT_ONCE = 8
"""Observers who play at the same time."""
FALSE_ALARM = 0.1
"""With single: the probability that a real image is called fake."""
START_SECONDS = 30.0

Answer = tuple[int, int]
"""Number of the trial, and the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """What was played. Units: probabilities and shares 0 to 1."""

    observers: int
    answers: int
    """Acknowledged by the server, practice and attention checks included."""
    missing: int
    """Of these, not in the database afterwards, or there with another answer."""
    seconds: float
    known: dict[str, float]
    """By arm, the true probability of a hit."""
    drawn: dict[str, float]
    """By arm, the share of hits among the main trials that were played now."""

    def words(self) -> str:
        """Sentences, and a line for each arm."""
        lost = f"{self.missing} of them are MISSING in the database" if self.missing else "none is missing"
        lines = [
            f"{self.observers} artificial observers gave {self.answers} answers in {self.seconds:.1f} s, and "
            f"{lost}.",
            "The analysis should find what is known within its 95 % interval, at least 95 times of 100:",
            *(
                f"  {arm.replace('|', ' over ')}: known {100 * p:.1f} %, played {100 * self.drawn[arm]:.1f} %"
                for arm, p in self.known.items()
                if arm in self.drawn
            ),
        ]
        return "\n".join(lines) + "\n"


def named_shares(given: Sequence[str]) -> dict[str, float]:
    """NAME=SHARE of the command line, in order.

    Raises:
        StudyFault: One has no name, or no number from 0 to 1, or a name is given twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name or not 0 <= value <= 1:
            raise StudyFault(f"{text!r} is not NAME=SHARE with a share from 0 to 1; give for example L1=0.2.")
        if name in found:
            raise StudyFault(f"The name {name!r} is given twice; give each algorithm once.")
        found[name] = value
    return found


def simulate(
    folder: str | Path,
    observers: int,
    fool: Mapping[str, float],
    *,
    spread: float = 0.0,
    false_alarm: float = FALSE_ALARM,
    at_once: int = AT_ONCE,
    seed: int = 0,
) -> Simulation:
    """Serve a study on a free port of 127.0.0.1, let artificial observers finish sessions of it, and stop.

    Args:
        folder: The study's directory; nobody may have taken part in it yet, except artificial observers.
        observers: How many, one session each.
        fool: By algorithm, the probability that its fake is taken for real. With prefer, how good it is: A is
            preferred to B with probability a / (a + b).
        spread: How much observers differ, 0 to 1, as in `power`: each has its own probability.
        false_alarm: With single, the probability that a real image is called fake.
        at_once: Observers who play at the same time.
        seed: Of all that is random in them; the same seed plays the same answers on a new study.

    Raises:
        StudyFault: The study or a number is not as it must be, people took part in it, or the server refuses.
    """
    folder = Path(folder)
    settings, key = StudySettings.load(folder), load_key(folder)
    known = _known(settings, fool)
    for name, value, low, high in (
        ("observers", observers, 1, 100_000),
        ("at_once", at_once, 1, 1000),
        ("spread", spread, 0, 0.99),
        ("false_alarm", false_alarm, 0, 1),
    ):
        if not low <= value <= high:
            raise StudyFault(f"{name} is {value}; it must be from {low} to {high}.")
    links = _links(folder, observers)
    begun = time.perf_counter()
    with serving(folder) as port, _visitors(port, observers) as visitors:
        begun_sessions: list[str] = []
        for visitor, link in zip(visitors, links, strict=True):
            begun_sessions.append(visitor.begin(link))
            visitor.close()  # until its turn comes, which may be long
        players = [
            _Observer(visitor, settings, key, known, spread, false_alarm, np.random.default_rng([seed, i]))
            for i, visitor in enumerate(visitors)
        ]
        with ThreadPoolExecutor(at_once) as pool:
            played = list(pool.map(_Observer.play, players))
    seconds = time.perf_counter() - begun
    hits: Counter[str] = sum((player.hits for player in players), Counter())
    counts: Counter[str] = sum((player.counts for player in players), Counter())
    return Simulation(
        observers=observers,
        answers=sum(map(len, played)),
        missing=count_missing(folder, dict(zip(begun_sessions, played, strict=True))),
        seconds=seconds,
        known=known,
        drawn={arm: hits[arm] / counts[arm] for arm in known if counts[arm]},
    )


@contextmanager
def _visitors(port: int, count: int) -> Iterator[list[Visitor]]:
    visitors = [Visitor("127.0.0.1", port) for _ in range(count)]
    try:
        yield visitors
    finally:
        for visitor in visitors:
            visitor.close()


def count_missing(folder: Path, acknowledged: Mapping[str, Sequence[Answer]]) -> int:
    """How many acknowledged answers the database lacks, or has otherwise.

    Args:
        folder: The study's directory.
        acknowledged: By the session's secret.
    """
    missing = 0
    with Store(folder) as store:
        for secret, answers in acknowledged.items():
            session = store.session_of(secret)
            stored = {t.number: t.answer for t in store.trials(session.id)} if session else {}
            missing += sum(stored.get(number) != answer for number, answer in answers)
    return missing


def _known(settings: StudySettings, fool: Mapping[str, float]) -> dict[str, float]:
    """By arm, the true probability of a hit."""
    names = settings.algorithms
    if set(fool) != set(names):
        raise StudyFault(
            f"fool names {', '.join(sorted(fool)) or 'nothing'}; it must name each of the study's algorithms "
            f"once: {', '.join(names)}."
        )
    for name, share in fool.items():
        if not 0 <= share <= 1:
            raise StudyFault(f"fool of {name} is {share}; it must be a share from 0 to 1.")
    if settings.mode != "prefer":
        return {name: fool[name] for name in names}
    known = {}
    for arm in settings.arms:
        a, b = (fool[name] for name in arm.split("|"))
        known[arm] = a / (a + b) if a + b else 0.5
    return known


def _links(folder: Path, observers: int) -> list[str | None]:
    """A link for each observer where the study is by invitation; nobody else's is used."""
    with Store(folder) as store:
        people = sum(not s.user_agent.startswith(ARTIFICIAL) for s in store.sessions())
        if people:
            raise StudyFault(
                f"{folder}: people have begun {people} session{'s' * (people != 1)} of this study; make "
                "another one for artificial observers, as theirs would stand among the people's."
            )
        if not store.links():
            return [None] * observers
        tokens = [secrets.token_urlsafe(16) for _ in range(observers)]
        store.add_links(tokens)
        return list(tokens)


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The study's server in a thread, on a free port of 127.0.0.1, which is given."""
    server, listening = make_server(folder, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise StudyFault(f"{folder}: its server did not start; see what it printed.")
            time.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listening.close()


# -----------------------------------------------------------------------------------------------------------
# One observer


class Visitor:
    """One session over HTTP, on one connection: what a browser's page asks, in the order in which it asks."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=60)
        self._session: str | None = None

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def post(self, what: str, **fields: Any) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises:
            StudyFault: The server refuses, or cannot be reached.
        """
        headers = {"Content-Type": "application/json", "User-Agent": f"{ARTIFICIAL}/1"}
        body = json.dumps({"session": self._session, **fields})
        try:
            self._connection.request("POST", f"/api/{what}", body, headers)
            response = self._connection.getresponse()
            said: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StudyFault(f"The server did not answer {what} ({error!r}); is it still running?") from error
        if response.status != 200:
            raise StudyFault(f"The server refused {what} with {response.status}: {said.get('error', said)}")
        return said

    def begin(self, link: str | None = None) -> str:
        """Begin a session and agree to take part. Returns the session's secret."""
        said = self.post("begin", token=link, device_pixel_ratio=1.0, viewport="1280x800")
        self._session = str(said["session"])
        self.post("consent")
        return self._session


class _Observer:
    """Somebody who is fooled as often as it was told."""

    def __init__(
        self,
        visitor: Visitor,
        settings: StudySettings,
        key: Key,
        known: Mapping[str, float],
        spread: float,
        false_alarm: float,
        rng: np.random.Generator,
    ) -> None:
        self._visitor, self._settings, self._key = visitor, settings, key
        self._known, self._spread, self._false_alarm, self._rng = known, spread, false_alarm, rng
        self._own: dict[str, float] = {}
        self.hits: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def play(self) -> list[Answer]:
        """Answer every trial, and finish. Returns the answers that were acknowledged."""
        given = []
        while (trial := self._visitor.post("trial"))["state"] == "trial":
            answer = self._answer([Path(url).stem for url in trial["images"]], practice=trial["practice"])
            self._visitor.post(
                "answer",
                number=trial["number"],
                answer=answer,
                response_ms=float(self._rng.lognormal(6.8, 0.5)),
                measured_ms=[
                    max(0.0, trial["exposure_ms"] + float(self._rng.normal(0, 5))) for _ in trial["images"]
                ],
                hidden=False,
            )
            given.append((int(trial["number"]), answer))
        self._visitor.post("finish", comments="")
        return given

    def _answer(self, ids: Sequence[str], *, practice: bool) -> int:
        """The truth, or not, by a toss; attention checks are always answered rightly."""
        images = [self._key[id_] for id_ in ids]
        prefer, single = self._settings.mode == "prefer", self._settings.mode == "single"
        wrecks = [image.attention for image in images]
        if any(wrecks):
            return 1 if single else wrecks.index(not prefer)
        if single and images[0].algorithm is None:
            return int(self._rng.random() < self._false_alarm)
        algorithms = [image.algorithm for image in images]
        named = [name for name in algorithms if name is not None]
        arm = next(arm for arm in self._settings.arms if set(arm.split("|")) == set(named))
        hit = bool(self._rng.random() < self._probability(arm))
        if not practice:
            self.hits[arm] += hit
            self.counts[arm] += 1
        if single:
            return int(not hit)
        best = algorithms.index(arm.split("|")[0])  # the fake; with prefer, the first one's
        return best if hit == prefer else 1 - best

    def _probability(self, arm: str) -> float:
        """This observer's own."""
        if arm not in self._own:
            p = self._known[arm]
            if self._spread and 0 < p < 1:
                strength = 1 / self._spread**2 - 1
                p = float(self._rng.beta(p * strength, (1 - p) * strength))
            self._own[arm] = p
        return self._own[arm]
