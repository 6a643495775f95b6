"""The study over HTTP: what is stored, what is refused, what is told, and what SIGKILL cannot take."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pairloom.study.protocol import StudyFault, StudyImage, StudySettings
from pairloom.study.server import make_links, make_server
from pairloom.study.store import Store
from pairloom.study.texts import consent_text, instructions_text

ADMIN = "the-admins-token"


def write_study(folder: Path, **fields: Any) -> Path:
    """A study of one-byte images: the server looks at none."""
    settings = StudySettings(
        **{"algorithms": ("L1", "GAN"), "seed": 1, "trials": 3, "practice": 2, "size": 8}
        | {"admin_token_sha256": hashlib.sha256(ADMIN.encode()).hexdigest()}
        | fields
    )
    kinds: list[str | None] = [None, *settings.algorithms]
    count = settings.images_needed
    key = [StudyImage(kind, f"{kind}-{i}", i) for kind in kinds for i in range(count)]
    key += [StudyImage(None, f"wreck-{i}", i, attention=True) for i in range(settings.attention)]
    records = {os.urandom(16).hex(): dataclasses.asdict(image) for image in key}
    (folder / "images").mkdir(parents=True)
    for id_ in records:
        (folder / "images" / f"{id_}.png").write_bytes(b"x")
    (folder / "study.json").write_text(json.dumps(settings.to_dict()))
    (folder / "key.json").write_text(json.dumps(records))
    (folder / "consent.md").write_text(consent_text(settings))
    (folder / "instructions.md").write_text(instructions_text(settings))
    return folder


class Participant:
    """A browser without a person."""

    def __init__(self, client: httpx.Client, token: str | None = None, session: str | None = None) -> None:
        self.client, self.session = client, session
        self.begun = self.post(
            "begin", token=token, session=session, device_pixel_ratio=1.5, viewport="1280x800"
        ).json()
        self.session = self.begun.get("session")

    def post(self, call: str, **body: Any) -> httpx.Response:
        return self.client.post(f"/api/{call}", json={"session": self.session, **body})

    def trial(self) -> dict[str, Any]:
        response = self.post("trial")
        assert response.status_code == 200, response.text
        return dict(response.json())

    def answer(self, trial: dict[str, Any], answer: int = 0, **fields: Any) -> httpx.Response:
        body = {
            "number": trial["number"],
            "answer": answer,
            "response_ms": 812.5,
            "measured_ms": [1000.1] * len(trial["images"]),
            "hidden": False,
        }
        return self.post("answer", **{**body, **fields})

    def play(self, choose: Callable[[dict[str, Any]], int] = lambda _: 0) -> list[dict[str, Any]]:
        self.post("consent")
        seen = []
        while (trial := self.trial())["state"] != "finished":
            response = self.answer(trial, choose(trial))
            assert response.status_code == 200, response.text
            seen.append({**trial, **response.json()})
        return seen


@pytest.fixture
def serving() -> Iterator[Callable[[Path], httpx.Client]]:
    """Serve studies, each in a thread, as `serve` does."""
    running = []

    def start(folder: Path) -> httpx.Client:
        server, listening = make_server(folder, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        client = httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30)
        running.append((server, listening, thread, client))
        return client

    yield start
    for server, listening, thread, client in running:
        client.close()
        server.should_exit = True
        thread.join(30)
        listening.close()


Serving = Callable[[Path], httpx.Client]


# -----------------------------------------------------------------------------------------------------------
# A session


def test_a_whole_session(tmp_path: Path, serving: Serving) -> None:
    client = serving(write_study(tmp_path / "s"))
    person = Participant(client)
    assert person.begun["state"] == "consent"
    assert person.begun["settings"] == {
        "mode": "two", "layout": "sequential", "trials": 3, "practice": 2, "size": 8, "width": 8, "height": 8,
        "title": "Real or fake?",
    }  # fmt: skip
    consented = person.post("consent").json()
    assert consented["state"] == "trial"
    assert len(consented["images"]) == 10 and consented["images"] == sorted(consented["images"])

    seen = person.play()
    with Store(tmp_path / "s") as store:
        trials, (session,) = store.trials(), store.sessions()
    assert [s["number"] for s in seen] == [0, 1, 2, 3, 4]
    assert [s["practice"] for s in seen] == [True, True, False, False, False]
    assert sorted(url for s in seen for url in s["images"]) == consented["images"]
    for trial, told in zip(trials, seen, strict=True):
        assert told["images"] == [f"/image/{trial.first}.png", f"/image/{trial.second}.png"]
        right = {"fake": trial.fake_side, "right": trial.fake_side == 0}
        assert told["feedback"] == (right if trial.practice else None), "the truth only of practice"
        assert set(told) == {"state", "number", "of", "practice", "images", "exposure_ms", "feedback"}
        assert (trial.answer, trial.response_ms, trial.hidden, trial.times_shown) == (0, 812.5, False, 1)
        assert trial.measured_first_ms == trial.measured_second_ms == 1000.1
        assert (
            trial.shown_at is not None
            and trial.answered_at is not None
            and trial.shown_at <= trial.answered_at
        )
    assert (session.device_pixel_ratio, session.viewport) == (1.5, "1280x800")
    assert session.user_agent.startswith("python-httpx")
    assert session.finished is not None and session.id != person.session
    share = sum(t.fake_side == 0 for t in trials[2:]) / 3
    assert person.post("finish", comments=" windows\n").json() == {"right": share}
    assert person.post("finish", comments="").json() == {"right": share}
    with Store(tmp_path / "s") as store:
        assert store.sessions()[0].comments == "windows"
    again = Participant(client, session=person.session)
    assert again.begun["state"] == "finished" and again.session == person.session


def test_a_reload_goes_on_with_the_same_trial(tmp_path: Path, serving: Serving) -> None:
    client = serving(write_study(tmp_path / "s"))
    person = Participant(client)
    person.post("consent")
    person.answer(person.trial())
    before = person.trial()
    after = Participant(client, session=person.session)
    assert after.begun["state"] == "trial" and after.session == person.session
    assert after.post("consent").json()["images"] == person.post("consent").json()["images"]
    assert after.trial() == before
    with Store(tmp_path / "s") as store:
        assert [t.times_shown for t in store.trials()] == [1, 2, 0, 0, 0]
        assert len(store.sessions()) == 1


def test_order_cannot_be_broken(tmp_path: Path, serving: Serving) -> None:
    client = serving(write_study(tmp_path / "s"))
    person = Participant(client)
    assert person.post("trial").status_code == 409, "before consent"
    person.post("consent")
    ahead = {"number": 0, "images": ["a", "b"]}
    assert person.answer(ahead).status_code == 409, "not shown yet"
    trial = person.trial()
    assert person.answer({**trial, "number": 1}).status_code == 409, "not shown yet"
    assert person.post("finish").status_code == 409, "not at the end"
    assert person.answer(trial, 1).status_code == 200
    assert person.post("answer", number=5).status_code == 422, "there is no such trial"


def test_a_retry_is_acknowledged_and_a_second_answer_is_not(tmp_path: Path, serving: Serving) -> None:
    client = serving(write_study(tmp_path / "s"))
    person = Participant(client)
    person.post("consent")
    trial = person.trial()
    first = person.answer(trial, 1)
    assert person.answer(trial, 1).json() == first.json()
    assert person.answer(trial, 1).status_code == 200
    for other in ({"answer": 0}, {"response_ms": 1.0}, {"hidden": True}, {"measured_ms": [1.0, 1000.1]}):
        refused = person.answer(trial, **{"answer": 1, **other})
        assert refused.status_code == 409 and "feedback" not in refused.json()
    person.answer(person.trial(), 0)
    assert person.answer(trial, 1).json() == first.json(), "also when it has gone on"
    with Store(tmp_path / "s") as store:
        assert [t.answer for t in store.trials()] == [1, 0, None, None, None]


def test_single_prefer_and_attention(tmp_path: Path, serving: Serving) -> None:
    single = Participant(serving(write_study(tmp_path / "single", mode="single")))
    seen = single.play()
    assert all(len(s["images"]) == 1 for s in seen)
    assert seen[0]["feedback"] is not None
    prefer = Participant(serving(write_study(tmp_path / "prefer", mode="prefer", attention=1)))
    seen = prefer.play()
    assert len(seen) == 6 and prefer.begun["settings"]["trials"] == 4
    assert all(s["feedback"] is None for s in seen), "nothing is right or wrong"
    assert prefer.post("finish", comments="").json() == {"right": None}
    with Store(tmp_path / "prefer") as store:
        assert store.sessions()[0].algorithm == "L1|GAN"


def test_adaptive_exposure_follows_the_answers(tmp_path: Path, serving: Serving) -> None:
    folder = write_study(tmp_path / "s", adaptive=True, trials=6, attention=2)
    person = Participant(serving(folder))
    with Store(folder) as store:
        fakes = [t.fake_side for t in store.trials()]
        seen = person.play(lambda trial: int(fakes[trial["number"]] or 0))  # always right
        trials = store.trials()
    main = [t.exposure_ms for t in trials if not t.practice and not t.attention]
    assert main == [1000, 1000, 500, 500, 250, 250]
    assert {t.exposure_ms for t in trials if t.practice or t.attention} == {1000}
    assert [s["exposure_ms"] for s in seen] == [t.exposure_ms for t in trials]


def test_sessions_are_balanced_over_algorithms(tmp_path: Path, serving: Serving) -> None:
    client = serving(write_study(tmp_path / "s"))
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: Participant(client), range(10)))
    with Store(tmp_path / "s") as store:
        assert sorted(s.algorithm for s in store.sessions()) == ["GAN"] * 5 + ["L1"] * 5
        assert [s.seed for s in store.sessions()] == list(range(10))


# -----------------------------------------------------------------------------------------------------------
# Links


def test_a_link_is_good_for_one_session(tmp_path: Path, serving: Serving) -> None:
    folder = write_study(tmp_path / "s")
    client = serving(folder)
    open_one = Participant(client)
    links = make_links(folder, 2, "https://lab.example/study/")
    assert all(link.startswith("https://lab.example/study/s/") for link in links)
    tokens = [link.rpartition("/")[2] for link in links]
    with ThreadPoolExecutor(6) as pool:
        secrets_ = set(pool.map(lambda _: Participant(client, tokens[0]).session, range(6)))
    assert len(secrets_) == 1
    other = Participant(client, tokens[1])
    assert other.session not in secrets_
    assert Participant(client, tokens[1], session=open_one.session).session == other.session
    with Store(folder) as store:
        assert len(store.sessions()) == 3
        assert [s.link for s in store.sessions()] == [None, *tokens]
        assert None not in store.links().values()
    assert client.get(f"/s/{tokens[0]}").status_code == 200

    assert "not known" in Participant(client, "x" * 22).begun["error"]
    assert "by invitation" in Participant(client).begun["error"]
    assert Participant(client, session=open_one.session).session == open_one.session, "it has begun already"


def test_links_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(StudyFault, match="holds no study"):
        make_links(tmp_path, 1)
    folder = write_study(tmp_path / "s")
    with pytest.raises(StudyFault, match="count is 0"):
        make_links(folder, 0)
    with pytest.raises(StudyFault, match="must begin with http"):
        make_links(folder, 1, "lab.example")


# -----------------------------------------------------------------------------------------------------------
# What is refused


def test_garbage_is_refused_and_changes_nothing(tmp_path: Path, serving: Serving) -> None:
    client = serving(write_study(tmp_path / "s"))
    person = Participant(client)
    person.post("consent")
    trial = person.trial()

    def status(body: bytes | str, call: str = "answer") -> int:
        return client.post(f"/api/{call}", content=body).status_code

    deep = "[" * 30000
    for body in (b"", b"{", b"\xff\xfe", b"[]", b"3", deep, '{"a": NaN}', '{"number": ' + "9" * 5000 + "}"):
        assert status(body) == 400
        assert status(body, "begin") == 400
    assert status(b'{"a": "' + b"x" * 70_000 + b'"}') == 413
    wrong: list[dict[str, Any]] = [
        {"answer": 2}, {"answer": True}, {"answer": "1"}, {"answer": None}, {"answer": 0.0}, {"answer": -1},
        {"number": -1}, {"number": "0"}, {"number": 10**30}, {"response_ms": -1}, {"response_ms": "1"},
        {"response_ms": 1e300}, {"response_ms": None}, {"measured_ms": 3}, {"measured_ms": [1]},
        {"measured_ms": [1, 2, 3]}, {"measured_ms": [1, None]}, {"hidden": 1}, {"hidden": None},
    ]  # fmt: skip
    for fields in wrong:
        assert person.answer(trial, **fields).status_code == 422, fields
    assert status(json.dumps({"session": person.session, "answer": 1})) == 422
    infinite = f'{{"session": "{person.session}", "number": 0, "answer": 1, "response_ms": 1e999}}'
    assert status(infinite) == 422
    for session in ("", "x", "' OR 1=1 --", "\ud800", 3, None, "x" * 100):
        assert client.post(
            "/api/trial", content=json.dumps({"session": session})
        ).status_code in (404, 422)  # fmt: skip
    for body in (
        {"token": "../s"}, {"token": 3}, {"viewport": "wide"}, {"device_pixel_ratio": "2"}, {"session": 4}
    ):  # fmt: skip
        assert client.post("/api/begin", json=body).status_code == 422
    with Store(tmp_path / "s") as store:
        assert [t.answer for t in store.trials()] == [None] * 5
        assert len(store.sessions()) == 1
    assert person.answer(trial).status_code == 200, "and the session goes on"


def test_comments_are_bounded(tmp_path: Path, serving: Serving) -> None:
    person = Participant(serving(write_study(tmp_path / "s")))
    person.play()
    assert person.post("finish", comments="x" * 2001).status_code == 422
    assert person.post("finish", comments="\u20ac" * 2000).status_code == 200


def test_nothing_but_the_study_is_served(tmp_path: Path, serving: Serving) -> None:
    folder = write_study(tmp_path / "s")
    client = serving(folder)
    id_ = next((folder / "images").iterdir()).stem
    assert client.get(f"/image/{id_}.png").content == b"x"
    for path in (
        "/key.json", "/study.sqlite", "/image/../key.json", "/image/%2e%2e%2fkey.json", f"/image/{id_}",
        f"/image/{id_}.PNG", "/image/", "/page/../study.json", "/page/..%2fserver.py", "/page/index.html",
        "/results/", "/api/", "/static", "//etc/passwd", "/image/%00",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert client.get("/api/begin").status_code == 405
    assert client.post(f"/image/{id_}.png").status_code == 405


def test_headers_are_on_every_response(tmp_path: Path, serving: Serving) -> None:
    folder = write_study(tmp_path / "s")
    client = serving(folder)
    file = next((folder / "images").iterdir())
    gone = sorted((folder / "images").iterdir())[-1]
    gone.unlink()
    responses = {
        200: client.get("/"), 404: client.get("/nowhere"), 405: client.get("/api/begin"),
        400: client.post("/api/begin", content=b"{"), 403: client.get("/results"),
        500: client.get(f"/image/{gone.name}"),
    }  # fmt: skip
    for status, response in responses.items():
        assert response.status_code == status
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["content-security-policy"].startswith("default-src 'self'")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers
    image = client.get(f"/image/{file.name}")
    assert image.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert not {"last-modified", "etag", "server"} & set(image.headers), "no date tells one from another"
    assert "Traceback" not in responses[500].text


def test_the_page_shows_the_labs_texts(tmp_path: Path, serving: Serving) -> None:
    folder = write_study(tmp_path / "s", title="Maps <b>& photos</b>")
    client = serving(folder)
    (folder / "consent.md").write_text(
        "# Welcome\n<!-- not\nshown -->\n<script>alert(1)</script> *you* {{ up }}"
    )
    page = client.get("/").text
    assert "<h1>Welcome</h1>" in page and "<em>you</em> {{ up }}" in page
    assert "<script>alert" not in page and "not\nshown" not in page
    assert "<title>Maps &lt;b&gt;&amp; photos&lt;/b&gt;</title>" in page
    assert 'src="page/study.js"' in page
    assert 'src="../page/study.js"' in client.get("/s/abc").text
    for name in ("study.js", "trial.js", "wire.js", "study.css"):
        assert client.get(f"/page/{name}").status_code == 200
        assert f"{name}" in page or name in client.get("/page/study.js").text


def test_results_need_the_admin_token(tmp_path: Path, serving: Serving) -> None:
    pytest.importorskip("pairloom.study.analysis")
    folder = write_study(tmp_path / "s")
    client = serving(folder)
    for query in ("", "?token=", "?token=wrong", f"?token={ADMIN}x", "?token=%ff"):
        assert client.get(f"/results{query}").status_code == 403
    assert not (folder / "results").exists()


def test_a_database_that_fails_is_said_and_nothing_is_acknowledged(
    tmp_path: Path, serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    client = serving(write_study(tmp_path / "s"))
    person = Participant(client)
    person.post("consent")
    trial = person.trial()
    with sqlite3.connect(tmp_path / "s" / "study.sqlite") as db:
        db.execute("ALTER TABLE trials RENAME TO kept")
    db.close()
    assert person.answer(trial).status_code == 503
    assert "no such table" in capfd.readouterr().err
    with sqlite3.connect(tmp_path / "s" / "study.sqlite") as db:
        db.execute("ALTER TABLE kept RENAME TO trials")
    db.close()
    assert person.answer(trial).status_code == 200


# -----------------------------------------------------------------------------------------------------------
# Studies and ports


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StudyFault, match=f"127.0.0.1:{port} cannot be listened on .* give another --port"
        ):
            make_server(folder, "127.0.0.1", port)
    with pytest.raises(StudyFault, match="port is 70000"):
        make_server(folder, "127.0.0.1", 70000)


@pytest.mark.parametrize("what", ["study.json", "study.sqlite", "damaged"])
def test_a_newer_or_damaged_study_is_one_sentence(tmp_path: Path, what: str) -> None:
    folder = write_study(tmp_path / "s")
    words = "version 9, and this pairloom reads up to 1"
    if what == "study.json":
        values = json.loads((folder / what).read_text())
        (folder / what).write_text(json.dumps({**values, "version": 9, "telepathy": True}))
    elif what == "study.sqlite":
        db = sqlite3.connect(folder / what)
        db.execute("PRAGMA user_version = 9")
        db.close()
    else:
        (folder / "study.sqlite").write_bytes(b"not a database, and long enough to be none" * 10)
        words = "study.sqlite: cannot be used"
    with pytest.raises(StudyFault, match=words) as caught:
        make_server(folder, "127.0.0.1", 0)
    assert "\n" not in str(caught.value)


def test_the_server_starts_without_torch() -> None:
    code = "import sys, pairloom.study.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_database_waits_for_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path / "study.sqlite") as store:
        assert store._rows("PRAGMA journal_mode")[0][0] == "wal"
        assert store._rows("PRAGMA synchronous")[0][0] == 2, "FULL"


# -----------------------------------------------------------------------------------------------------------
# SIGKILL


def start_process(folder: Path) -> tuple[subprocess.Popen[str], str]:
    code = "import sys; from pairloom.study.server import serve; serve(sys.argv[1], port=0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()[1]


def answer_until_it_dies(
    url: str, session: str | None, acknowledged: dict[tuple[str, int], float]
) -> str | None:
    """Answer trial after trial; write down what the server acknowledged. Returns the session."""
    try:
        with httpx.Client(base_url=url, timeout=10) as client:
            person = Participant(client, session=session)
            session = person.session
            person.post("consent")
            while (trial := person.trial())["state"] != "finished":
                given = float(int.from_bytes(os.urandom(2)))
                response = person.answer(trial, trial["number"] % 2, response_ms=given)
                if response.status_code == 200:
                    assert session is not None
                    acknowledged[session, trial["number"]] = given
    except httpx.TransportError:
        pass  # it was killed
    return session


def test_sigkill_loses_no_acknowledged_answer(tmp_path: Path) -> None:
    """Killed three times while four participants answer as fast as they can; each goes on as before."""
    folder = write_study(tmp_path / "s", trials=1500)
    acknowledged: dict[tuple[str, int], float] = {}
    sessions: list[str | None] = [None] * 4
    counts = []
    for kill_after in (25, 40, 60):
        process, url = start_process(folder)
        assert process.stdout is not None
        before = len(acknowledged)
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(answer_until_it_dies, url, s, acknowledged) for s in sessions]
            end = time.monotonic() + 60
            while len(acknowledged) < before + kill_after and time.monotonic() < end:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            sessions = [future.result() for future in running]
        assert process.wait(30) == -signal.SIGKILL
        process.stdout.close()
        counts.append(len(acknowledged) - before)
    assert all(n >= 20 for n in counts), counts

    with Store(folder) as store:
        assert store._rows("PRAGMA integrity_check")[0][0] == "ok"
        secret_of = {store.session_of(s).id: s for s in sessions if s is not None}  # type: ignore[union-attr]
        assert len(store.sessions()) == 4, "every participant went on with the session of before"
        stored = {
            (secret_of[t.session], t.number): t.response_ms for t in store.trials() if t.answer is not None
        }
    lost = {which: given for which, given in acknowledged.items() if stored.get(which) != given}
    assert not lost
    # Stored and not acknowledged is at most the answer that was under way at each kill, for each session.
    assert len(stored) - len(acknowledged) <= 3 * 4
    for session in sessions:
        numbers = sorted(number for s, number in stored if s == session)
        assert numbers == list(range(len(numbers))), "without a gap"


def test_ctrl_c_ends_it_quietly(tmp_path: Path) -> None:
    process, url = start_process(write_study(tmp_path / "s"))
    assert httpx.get(url).status_code == 200
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert said.endswith("Ended. Every answer is stored.\n")
