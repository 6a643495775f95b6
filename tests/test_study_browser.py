"""The study as a participant meets it: real Chromium, a real server, from consent to results."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pairloom.study.making import NewStudy, new_study
from pairloom.study.protocol import load_key
from pairloom.study.server import make_links, make_server
from pairloom.study.store import Store, TrialRow

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")

SIDE = 48
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("images")
    for number, name in enumerate(("real", "L1")):
        (root / name).mkdir()
        for i in range(10):
            pixels = np.random.default_rng([number, i]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return {name: root / name for name in ("real", "L1")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclasses.dataclass(frozen=True)
class Room:
    """A study that is served, and a page of it."""

    study: NewStudy
    url: str
    page: Any
    requests: list[str]
    errors: list[str]

    def trials(self) -> list[TrialRow]:
        with Store(self.study.folder) as store:
            return store.trials()

    def asked(self) -> None:
        """Wait until an answer can be given."""
        self.page.wait_for_selector("#stage.asking", timeout=WAIT_MS)

    def begin(self, at: str = "") -> None:
        self.page.goto(self.url + at)
        self.page.click("#agree", timeout=WAIT_MS)
        self.page.click("#begin:not([aria-disabled])", timeout=WAIT_MS)

    def at(self, count: str) -> None:
        """Wait until a trial begins, "Round 2 of 3"."""
        self.page.wait_for_selector(f"#count:has-text('{count}')", timeout=WAIT_MS)

    def seen(self, section: str) -> None:
        self.page.wait_for_selector(f"#{section}:visible", timeout=WAIT_MS)


@pytest.fixture
def room(tmp_path: Path, folders: dict[str, Path], browser: Any) -> Iterator[Callable[..., Room]]:
    opened = []

    def enter(*, view: dict[str, Any] | None = None, **fields: Any) -> Room:
        given: dict[str, Any] = {"seed": 1, "trials": 2, "practice": 0, "exposure_ms": 60}
        study = new_study(
            tmp_path / "study", real=folders["real"], fakes={"L1": folders["L1"]}, **(given | fields)
        )
        server, listening = make_server(study.folder, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        context = browser.new_context(**(view or {"viewport": {"width": 900, "height": 700}}))
        # Requests are caught from the beginning: Chromium lets some slip while it begins to in an open page.
        context.route("**/no-such-page", lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        requests: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        opened.append((context, server, thread, listening))
        return Room(study, f"http://127.0.0.1:{listening.getsockname()[1]}", page, requests, errors)

    yield enter
    for context, server, thread, listening in opened:
        context.close()
        server.should_exit = True
        thread.join(30)
        listening.close()


WATCH = """() => {
    const state = () => [...document.querySelectorAll('.frame img')].map((image) => {
        const box = image.getBoundingClientRect();
        return {
            visible: getComputedStyle(image).visibility === 'visible', alt: image.alt, src: image.src,
            left: box.left, top: box.top, size: [box.width, box.height],
            natural: [image.naturalWidth, image.naturalHeight],
        };
    });
    window.seen = [];
    let last = 'false,false';
    new MutationObserver(() => {
        const now = state(), visible = now.map((image) => image.visible).join();
        if (now.length && visible !== last) window.seen.push(now);
        last = visible || 'false,false';
    }).observe(document.querySelector('.places'), {subtree: true, attributeFilter: ['class']});
}"""
"""Write down, whenever an image appears or goes, which are visible, where, and how large in CSS pixels."""


def visible(states: list[list[dict[str, Any]]]) -> list[list[bool]]:
    return [[image["visible"] for image in images] for images in states]


def test_a_session_from_consent_to_results(room: Callable[..., Room]) -> None:
    here = room(
        practice=2, trials=3, exposure_ms=250,
        view={"viewport": {"width": 900, "height": 700}, "device_scale_factor": 1.25},
    )  # fmt: skip
    page, key = here.page, load_key(here.study.folder)
    page.goto(here.url)

    # Consent and instructions, by keyboard: the page's text has the focus, its button comes next.
    here.seen("consent")
    assert page.evaluate("document.activeElement.id") == "consent"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    here.seen("instructions")
    page.wait_for_selector("#begin:not([aria-disabled])")
    images = [url for url in here.requests if "/image/" in url]
    assert len(images) == 10 and not any("/api/trial" in url for url in here.requests), "loaded beforehand"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    page.evaluate(WATCH)

    # Practice: hidden until its time and after it, at its own pixels, then the truth.
    for number in range(2):
        here.at(f"Practice {number + 1} of 2")
        page.keyboard.press("1")  # too early: it is not an answer
        assert page.is_hidden(".answers button >> nth=0")
        here.asked()
        states = page.evaluate("window.seen.splice(0)")
        assert visible(states) == [[True, False], [False, False], [False, True], [False, False]]
        for image in states[0]:
            assert image["size"] == image["natural"] == [SIDE, SIDE]
            assert image["alt"] == "", "the name says nothing"
        assert states[0][0]["left"] < states[0][1]["left"]
        assert page.evaluate("document.activeElement.id") == "question"
        assert "Which image was fake? Press 1" in page.inner_text("#spoken")
        trial = here.trials()[number]
        page.keyboard.press("ArrowRight" if number else "1")
        page.wait_for_selector("#stage.telling")
        assert visible(page.evaluate("window.seen.splice(0)"))[-1] == [True, True]
        truth = ["Fake" if key[id_].algorithm else "Real" for id_ in (trial.first, str(trial.second))]
        assert page.locator("figcaption").all_inner_texts() == truth
        right = trial.fake_side == number
        assert ("Correct" if right else "Not this time") in page.inner_text("#question")
        assert page.locator(".place").nth(number).evaluate("e => e.className").split()[1:] == (
            ["chosen", "correct"] if right else ["chosen"]
        )
    here.seen("pause")
    page.click("#continue")

    # The trials that count: no feedback; a reload in the middle goes on with the same trial.
    here.asked()
    page.click(".answers button >> nth=1")
    here.at("Round 2 of 3")
    page.reload()
    page.click("#continue:not([aria-disabled])")
    here.asked()
    assert page.inner_text("#count") == "Round 2 of 3"
    page.keyboard.press("2")
    here.asked()
    page.keyboard.press("2")
    here.seen("finish")
    trials = here.trials()
    share = sum(t.fake_side == 1 for t in trials[2:]) / 3
    assert f"{round(100 * share)} %" in page.inner_text("#score")
    page.fill("#comments", "The <b>roofs</b>.")
    page.click("#finish button")
    page.wait_for_selector("#sent:visible")

    assert [t.answer for t in trials] == [0, 1, 1, 1, 1]
    assert [t.times_shown for t in trials] == [1, 1, 1, 2, 1]
    assert all(t.response_ms is not None and 0 <= t.response_ms < 30_000 for t in trials)
    measured = [m for t in trials for m in (t.measured_first_ms, t.measured_second_ms) if m is not None]
    assert len(measured) == 10 and abs(np.median(measured) - 250) < 50
    with Store(here.study.folder) as store:
        (session,) = store.sessions()
    assert session.finished and session.comments == "The <b>roofs</b>."
    assert (session.device_pixel_ratio, session.viewport) == (1.25, "900x700")
    assert not here.errors
    assert all(url.startswith((here.url, "data:")) for url in here.requests), "nothing from elsewhere"

    page.reload()
    here.seen("finish")
    pytest.importorskip("pairloom.study.analysis")
    answer = page.goto(f"{here.url}/results?token={here.study.admin_token}")
    assert answer.status == 200
    assert "L1" in page.inner_text("body")
    assert not here.errors


def test_a_lost_connection_loses_nothing(room: Callable[..., Room]) -> None:
    here = room(trials=3)
    page = here.page
    here.begin()

    here.asked()  # the network is gone when the answer is given
    page.context.set_offline(True)
    page.keyboard.press("1")
    page.wait_for_selector("#notice:has-text('no connection')")
    assert here.trials()[0].answer is None
    page.context.set_offline(False)

    here.asked()  # the answer arrives, its acknowledgement does not
    assert page.inner_text("#notice") == ""
    cut = []

    def lose_the_first(route: Any) -> None:
        if not cut:
            cut.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    page.route("**/api/answer", lose_the_first)
    page.keyboard.press("2")

    here.asked()  # the page is closed before the answer is acknowledged
    page.unroute("**/api/answer")
    page.route("**/api/answer", lambda route: route.abort())
    page.keyboard.press("2")
    page.wait_for_selector("#notice:has-text('no connection')")
    page.unroute("**/api/answer")
    page.reload()
    here.seen("finish")
    assert cut == [200]
    trials = here.trials()
    assert [t.answer for t in trials] == [0, 1, 1]
    assert [t.times_shown for t in trials] == [1, 1, 1]


def test_a_hidden_tab_and_an_inexact_exposure_are_recorded_and_said(room: Callable[..., Room]) -> None:
    here = room(trials=4, layout="side-by-side")
    page = here.page
    here.begin()

    def notice() -> str:
        return str(page.inner_text("#notice"))

    def hide(hidden: bool) -> None:
        page.evaluate(
            """(hidden) => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
                document.dispatchEvent(new Event('visibilitychange')); }""",
            hidden,
        )

    here.asked()
    hide(True)
    hide(False)
    page.keyboard.press("1")
    for _ in range(2):
        # Something keeps the browser busy from the moment at which the images are shown.
        page.evaluate(
            """() => new MutationObserver((changes, observer) => {
                if (!document.querySelector('.frame.shown')) return;
                observer.disconnect();
                const end = performance.now() + 300;
                while (performance.now() < end);
            }).observe(document.querySelector('.places'), {subtree: true, attributeFilter: ['class']})"""
        )
        here.asked()
        said = notice()
        page.keyboard.press("1")
        page.wait_for_selector("#stage:not(.asking)")
    here.asked()
    assert "out of view" not in notice()
    page.keyboard.press("1")
    here.seen("finish")
    trials = here.trials()
    assert [t.hidden for t in trials] == [True, False, False, False]
    off = [abs((t.measured_first_ms or 0) - 60) > 50 for t in trials]
    assert off[1:3] == [True, True]
    assert [t.measured_first_ms for t in trials] == [t.measured_second_ms for t in trials]
    assert "thousandths" in said, "said before the second one of them"


@pytest.mark.parametrize("layout", ["sequential", "side-by-side"])
def test_a_narrow_window(room: Callable[..., Room], layout: str) -> None:
    """In turn at one place, or one above the other; never scaled; and a window without room says so."""
    phone = {"viewport": {"width": 130, "height": 600}, "device_scale_factor": 2, "has_touch": True}
    here = room(view=phone, layout=layout, trials=1, practice=1)
    page = here.page
    here.begin()
    page.evaluate(WATCH)
    here.asked()
    states = page.evaluate("window.seen.splice(0)")
    first, second = states[0]
    if layout == "sequential":
        assert visible(states) == [[True, False], [False, False], [False, True], [False, False]]
        assert (first["left"], first["top"]) == (second["left"], second["top"])
    else:
        assert visible(states)[0] == [True, True] and visible(states)[-1] == [False, False]
        assert first["top"] + SIDE <= second["top"] <= 600 - SIDE
    assert first["size"] == second["size"] == [SIDE, SIDE]
    names = ["First image", "Second image"] if layout == "sequential" else ["Upper image", "Lower image"]
    assert page.locator(".answers button span").all_inner_texts() == names
    page.set_viewport_size({"width": 40, "height": 600})
    page.evaluate("document.querySelectorAll('.answers button')[1].click()")
    page.wait_for_selector("#stage.telling")
    here.seen("pause")
    page.evaluate("document.getElementById('continue').click()")
    here.seen("small")
    page.set_viewport_size({"width": 300, "height": 600})
    here.asked()
    page.tap(".answers button >> nth=0")
    here.seen("finish")
    assert [t.answer for t in here.trials()] == [1, 0]


def test_links_single_images_and_faults(room: Callable[..., Room]) -> None:
    here = room(mode="single", trials=1, practice=1)
    page = here.page
    (link,) = make_links(here.study.folder, 1, here.url)
    page.goto(here.url)
    here.seen("fault")
    assert "by invitation" in page.inner_text("#fault-text")
    here.begin(link.removeprefix(here.url))
    here.asked()
    assert page.locator(".answers button span").all_inner_texts() == ["Real", "Fake"]
    fake = here.trials()[0].fake_side
    page.keyboard.press(str(1 + (fake or 0)))
    page.wait_for_selector("#stage.telling")
    assert "Correct: this one was" in page.inner_text("#question")
    page.evaluate("localStorage.clear()")  # another browser, the same link
    page.goto(link)
    page.click("#continue:not([aria-disabled])")
    here.asked()
    page.keyboard.press("1")
    here.seen("finish")
    with Store(here.study.folder) as store:
        assert len(store.sessions()) == 1
