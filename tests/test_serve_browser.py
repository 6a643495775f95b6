"""The page to draw on as a person meets it: real Chromium, a real server, two models."""

from __future__ import annotations

import base64
import dataclasses
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import draw_pair
from pairloom.config import Config, DataConfig, DiscriminatorConfig, GeneratorConfig
from pairloom.images import ImageSpec
from pairloom.networks import build_discriminator, build_generator
from pairloom.serve.colours import palette_for
from pairloom.serve.models import Served
from pairloom.serve.server import Settings, make_server
from pairloom.translator import Translator

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")

SIDE = 32
WAIT_MS = 30_000
SKY, WALL, DOOR = (0, 0, 130), (0, 70, 255), (255, 225, 0)
FULL = {"low": (0.0,) * 3, "high": (255.0,) * 3}
PHOTO = ImageSpec(channels=3, dtype="uint8", **FULL)
LABELS = ImageSpec(
    channels=3, dtype="uint8", kind="labels", palette=(SKY, WALL, DOOR), one_hot=True,
    palette_names=("sky", "wall", "door"), **FULL,
)  # fmt: skip
LINES = ImageSpec(channels=1, dtype="uint8", low=(0.0,), high=(255.0,))
DEEP = ImageSpec(channels=2, dtype="float32", low=(0.0, 0.0), high=(1.0, 1.0))


def model(
    name: str, source: ImageSpec, target: ImageSpec = PHOTO, *, seed: int = 0, d: bool = False
) -> Served:
    """Untrained, with weights large enough that the output follows the drawing."""
    config = Config(
        data=DataConfig(crop_size=SIDE),
        discriminator=DiscriminatorConfig(base_channels=4, num_layers=1),
        generator=GeneratorConfig(
            source_channels=source.tensor_channels, target_channels=target.tensor_channels, base_channels=4,
            num_downs=2,
        ),
    )  # fmt: skip
    rng = torch.Generator().manual_seed(seed)
    generator = build_generator(config.generator, rng)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(8 if parameter.ndim == 4 else 1)
    net = build_discriminator(config.discriminator, *config.generator.channels, rng).eval() if d else None
    palette = palette_for(source, config, ())
    examples = ()
    if source is PHOTO:
        examples = (np.ascontiguousarray(draw_pair(1)[:SIDE, :SIDE]),)
    return Served(name, Translator(generator, source, target, config), net, palette, examples)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield chromium
        chromium.close()


PIXELS = """(selector) => {
    const canvas = document.querySelector(selector);
    const pen = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
    pen.drawImage(canvas, 0, 0);
    const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    return {width: canvas.width, height: canvas.height, data: btoa(String.fromCharCode(...data))};
}"""


@dataclasses.dataclass(frozen=True)
class Room:
    """Models that are served, and the page."""

    models: dict[str, Served]
    url: str
    page: Any
    requests: list[str]
    errors: list[str]

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_selector("html[data-ready]", timeout=WAIT_MS)

    def pixels(self, selector: str = "#canvas") -> np.ndarray:
        found = self.page.evaluate(PIXELS, selector)
        flat = np.frombuffer(base64.b64decode(found["data"]), np.uint8)
        return flat.reshape(found["height"], found["width"], 4)[..., :3]

    def output(self, name: str) -> np.ndarray:
        return self.pixels(f'[data-model="{name}"] .result')

    def follows(self, name: str, drawing: np.ndarray | None = None, seed: int = 0) -> None:
        """Wait until the page shows what the model makes of the drawing: exactly."""
        drawn = self.pixels() if drawing is None else drawing
        source = self.models[name].translator.source_spec
        wanted = self.models[name].translator(drawn if source.channels == 3 else drawn[..., :1], seed=seed)
        for _ in range(300):
            shown = self.output(name)
            if shown.shape == wanted.shape and (shown == wanted).all():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{name} shows another image; {self.page.inner_text('#status')!r}")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where on the page the middle of a pixel of the drawing is."""
        box = self.page.locator("#canvas").bounding_box()
        pixels = self.page.evaluate("[canvas.width, canvas.height]")
        return box["x"] + (x + 0.5) * box["width"] / pixels[0], box["y"] + (y + 0.5) * box["height"] / pixels[
            1
        ]

    def drag(self, start: tuple[float, float], *points: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*start))
        mouse.down()
        for point in points:
            mouse.move(*self.at(*point), steps=3)
        mouse.up()
        self.settle()

    def until(self, expression: str) -> None:
        """Playwright's own wait evaluates in the page, which its policy forbids."""
        for _ in range(400):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never: {expression}; {self.page.inner_text('#status')!r}")

    def until_first(self, value: int) -> None:
        """Until the first pixel has that green."""
        for _ in range(400):
            if self.pixels()[0, 0, 1] == value:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the first pixel is {self.pixels()[0, 0]}")

    def settle(self) -> None:
        """Until the next frame is painted."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")

    def choose(self, tool: str) -> None:
        self.page.click(f'#tool-set [data-value="{tool}"]')

    def colour(self, name: str) -> None:
        self.page.click(f'#palette [role="radio"]:has-text("{name}")')

    def size(self, pixels: int) -> None:
        self.page.evaluate("(n) => { size.value = n; size.dispatchEvent(new Event('input')); }", pixels)

    def well(self) -> None:
        assert not self.errors
        assert all(url.startswith((self.url, "blob:")) for url in self.requests), "nothing from elsewhere"


@pytest.fixture
def room(browser: Any) -> Iterator[Callable[..., Room]]:
    opened = []

    def enter(
        *models: Served, view: dict[str, Any] | None = None, open_: bool = True, **settings: Any
    ) -> Room:
        named = {model.name: model for model in models}
        server, listening = make_server(named, Settings(port=0, **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | (view or {})))
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        # Requests are caught from the beginning: Chromium lets some slip while it begins to in an open page.
        context.route("**/no-such-page", lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        requests: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on(
            "console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        opened.append((context, server, thread, listening))
        here = Room(named, url, page, requests, errors)
        if open_:
            here.open()
        return here

    yield enter
    for context, server, thread, listening in opened:
        context.close()
        server.should_exit = True
        thread.join(30)
        listening.close()


def test_drawing_and_what_two_models_make_of_it(room: Callable[..., Room]) -> None:
    here = room(model("one", LABELS, d=True), model("two", LABELS, seed=1))
    page = here.page
    assert [e.inner_text() for e in page.query_selector_all("#palette button")] == ["sky", "wall", "door"]
    empty = np.full((SIDE, SIDE, 3), SKY, np.uint8)
    np.testing.assert_array_equal(here.pixels(), empty)
    here.follows("one", empty)
    here.follows("two", empty)
    assert (here.output("one") != here.output("two")).any()

    # The brush: a round mark in exactly the palette's colour.
    here.choose("brush")
    here.colour("wall")
    here.size(5)
    here.drag((8, 8), (20, 8))
    stroke = here.pixels()
    marked = (stroke == WALL).all(-1)
    assert marked[8, 8:21].all() and marked[6:11, 14].all() and not marked[5, 14] and not marked[11, 14]
    assert {tuple(c) for c in stroke.reshape(-1, 3).tolist()} == {SKY, WALL}, "no colour between two"
    here.follows("one")
    here.follows("two")

    # Rectangle, line, fill, eraser.
    here.choose("rectangle")
    here.colour("door")
    here.drag((4, 20), (15, 29), (12, 27))
    drawn = here.pixels()
    inside = np.zeros((SIDE, SIDE), bool)
    inside[20:28, 4:13] = True
    np.testing.assert_array_equal((drawn == DOOR).all(-1), inside)
    here.choose("fill")
    here.colour("wall")
    page.mouse.click(*here.at(6, 22))
    here.settle()
    np.testing.assert_array_equal((here.pixels() == WALL).all(-1), inside | marked)
    here.choose("line")
    here.size(1)
    here.colour("door")
    here.drag((0, 0), (10, 30), (31, 31))
    np.testing.assert_array_equal((here.pixels() == DOOR).all(-1), np.eye(SIDE, dtype=bool))
    here.choose("eraser")
    here.size(3)
    here.drag((16, 16), (16, 16))
    assert (here.pixels()[15:18, 15:18] == SKY).all()
    here.follows("one")

    # Undo, redo, by button and by key.
    for _ in range(3):
        page.click("#undo")
    here.settle()
    np.testing.assert_array_equal((here.pixels() == DOOR).all(-1), inside)
    page.keyboard.press("Control+z")
    here.settle()
    np.testing.assert_array_equal(here.pixels(), stroke)
    here.follows("two")
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+y")
    here.settle()
    np.testing.assert_array_equal((here.pixels() == WALL).all(-1), inside | marked)
    page.click("#clear")
    here.settle()
    np.testing.assert_array_equal(here.pixels(), empty)
    here.follows("one", empty)
    here.well()


def test_drawing_with_keys_alone(room: Callable[..., Room]) -> None:
    here = room(model("one", LABELS))
    page, press = here.page, here.page.keyboard.press

    def said() -> str:
        here.until("document.getElementById('spoken').textContent !== ''")
        return str(page.inner_text("#spoken"))

    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    page.locator("#canvas").focus()
    assert page.locator("#canvas").get_attribute("aria-label") == f"Drawing, {SIDE} by {SIDE} pixels"
    press("2")
    press("b")
    for _ in range(10):
        press("[")
    press("ArrowLeft")
    press("Shift+ArrowUp")
    press(" ")
    for _ in range(4):
        press("ArrowRight")
    press(" ")
    press("ArrowDown")
    here.settle()
    wanted = np.full((SIDE, SIDE, 3), SKY, np.uint8)
    wanted[8, 15:20] = WALL
    np.testing.assert_array_equal(here.pixels(), wanted)
    here.follows("one", wanted)
    assert page.is_visible("#cursor")
    here.until("document.getElementById('spoken').textContent.includes('19, 9: sky')")

    press("3")
    press("f")
    press("ArrowUp")
    press(" ")
    here.settle()
    wanted[8, 15:20] = DOOR
    np.testing.assert_array_equal(here.pixels(), wanted)
    press("r")
    press(" ")
    press("Shift+ArrowDown")
    here.settle()
    assert (here.pixels()[8:17, 19] == DOOR).all()
    press("Escape")
    here.settle()
    np.testing.assert_array_equal(here.pixels(), wanted)
    assert "Taken back" in said()

    # The groups of tools and colours are one stop of Tab each, with arrows inside; every stop is seen.
    stops = []
    page.locator("#tool-set [aria-checked=true]").focus()
    for _ in range(40):
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", stops[-1]
        press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
    assert stops.count("tool-set") == stops.count("palette") == 1
    assert {"canvas", "example", "choose", "canvas-size", "samples", "seed"} - set(stops) == {"example"}
    page.locator("#palette [aria-checked=true]").focus()
    press("ArrowLeft")
    assert page.inner_text("#palette [aria-checked=true]") == "wall"

    press("?")
    assert page.is_visible("#help")
    page.uncheck("#single-keys")
    page.click("#help-close")
    page.locator("#new-seed").focus()
    press("e")
    assert page.get_attribute('#tool-set [data-value="eraser"]', "aria-checked") == "false"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas[role]')]
            .filter((e) => e.id !== 'file' && e.checkVisibility())
            .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))
            .map((e) => e.outerHTML)"""
    )
    assert not unnamed
    here.well()


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, format="PNG")
    return out.getvalue()


GIVE = """async ({how, data, type}) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], 'given', {type}));
    const init = {bubbles: true, cancelable: true};
    if (how === 'paste') {
        document.body.dispatchEvent(new ClipboardEvent('paste', {...init, clipboardData: transfer}));
    } else {
        for (const kind of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(kind, {...init, dataTransfer: transfer}));
    }
}"""


def test_images_from_outside(room: Callable[..., Room], tmp_path: Path) -> None:
    here = room(model("photos", PHOTO))
    page = here.page
    example = here.models["photos"].examples[0]
    here.follows("photos", example)
    np.testing.assert_array_equal(here.pixels(), example), "it begins with an example"

    def give(how: str, array: np.ndarray | bytes) -> None:
        body = array if isinstance(array, bytes) else png(array)
        page.evaluate(GIVE, {"how": how, "data": base64.b64encode(body).decode(), "type": "image/png"})

    def becomes(wanted: np.ndarray) -> None:
        for _ in range(200):
            now = here.pixels()
            if now.shape == wanted.shape and (now == wanted).all():
                here.follows("photos", wanted)
                return
            page.wait_for_timeout(50)
        raise AssertionError(f"the canvas holds another image: {now.shape}")

    same = np.ascontiguousarray(draw_pair(5)[:SIDE, :SIDE])
    give("drop", same)
    becomes(same)
    other = np.ascontiguousarray(draw_pair(6)[:SIDE, :SIDE])
    give("paste", other)
    becomes(other)
    page.click("#undo")
    becomes(same)

    halves = np.zeros((10, 20, 3), np.uint8)
    halves[:, :10], halves[:, 10:] = (255, 0, 0), (0, 0, 255)
    page.select_option("#fit", "own")
    give("drop", halves)
    becomes(halves)
    assert page.input_value("#canvas-size") == "20,10"
    page.select_option("#canvas-size", f"{SIDE},{SIDE}")
    here.until(f"canvas.width === {SIDE}")
    page.select_option("#fit", "fit")
    (tmp_path / "halves.png").write_bytes(png(halves))
    page.set_input_files("#file", tmp_path / "halves.png")
    here.until_first(255)
    here.settle()
    drawn = here.pixels()
    assert (drawn[:8] == 255).all() and (drawn[24:] == 255).all(), "whole, with white above and below"
    assert (drawn[10:22, :14] == (255, 0, 0)).all() and (drawn[10:22, 18:] == (0, 0, 255)).all()
    page.select_option("#fit", "crop")
    give("drop", np.full((5, 9, 3), 77, np.uint8))
    becomes(np.full((SIDE, SIDE, 3), 77, np.uint8))

    give("drop", b"no image")
    page.wait_for_selector("#status:has-text('not an image')")

    page.select_option("#canvas-size", "own")
    page.fill("#own-width", "17")
    page.fill("#own-height", "23")
    page.click("#own-set")
    becomes(np.full((23, 17, 3), 77, np.uint8))
    here.well()


def test_an_image_on_a_label_map_has_only_its_colours(room: Callable[..., Room]) -> None:
    here = room(model("one", LABELS))
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    here.page.evaluate(
        GIVE, {"how": "drop", "data": base64.b64encode(png(noise)).decode(), "type": "image/png"}
    )
    here.page.wait_for_selector("#undo:enabled")
    here.settle()
    colours = {tuple(c) for c in here.pixels().reshape(-1, 3).tolist()}
    assert colours == {SKY, WALL, DOOR}
    here.follows("one")
    here.well()


def test_a_pen_for_lines(room: Callable[..., Room]) -> None:
    here = room(model("lines", LINES))
    assert (here.pixels() == 255).all(), "black on white"
    here.size(1)
    here.drag((3, 5), (28, 5))
    drawn = here.pixels()
    assert (drawn[5, 3:29] == 0).all() and (drawn[:5] == 255).all()
    here.follows("lines")
    here.well()


def test_patches_samples_and_saving(room: Callable[..., Room]) -> None:
    here = room(model("one", LABELS, d=True), model("two", LABELS, DEEP, seed=1))
    page = here.page
    here.colour("door")
    here.drag((8, 8), (20, 20))
    page.check("#patches")
    page.wait_for_selector('[data-model="one"] .overlay:visible')
    assert page.is_hidden('[data-model="two"] .overlay'), "it has no D"
    overlay = here.pixels('[data-model="one"] .overlay')
    assert overlay.shape == (SIDE, SIDE, 3) and len(np.unique(overlay.reshape(-1, 3), axis=0)) > 1
    page.evaluate("() => { opacity.value = 25; opacity.dispatchEvent(new Event('input')); }")
    assert page.evaluate("getComputedStyle(document.querySelector('.overlay')).opacity") == "0.25"
    assert "% real" in page.inner_text('[data-model="one"] figcaption')
    page.uncheck("#patches")
    page.wait_for_selector('[data-model="one"] .overlay', state="hidden")

    page.select_option("#samples", "4")
    page.wait_for_selector('[data-model="one"] .tile >> nth=5')
    drawing = here.pixels()
    samples = here.models["one"].translator.samples(drawing, 4)
    tiles = '[data-model="one"] .tile:nth-child({}) canvas'
    for number, image in enumerate((*samples.images, samples.mean), 1):
        np.testing.assert_array_equal(here.pixels(tiles.format(number)), image)
    page.fill("#seed", "7")
    here.follows("one", drawing, seed=7)
    page.select_option("#samples", "1")
    page.wait_for_selector('[data-model="one"] .samples', state="hidden")

    def saved(selector: str) -> Any:
        with page.expect_download() as download:
            page.click(selector)
        return download.value

    def read(download: Any) -> np.ndarray:
        with Image.open(download.path()) as image:
            return np.asarray(image)

    wanted = here.models["one"].translator(drawing, seed=7)
    np.testing.assert_array_equal(read(saved("#save-drawing")), drawing)
    one = saved('[data-model="one"] button:text-is("Save")')
    assert one.suggested_filename == "one.png"
    np.testing.assert_array_equal(read(one), wanted)
    both = read(saved('[data-model="one"] button:text-is("Save both")'))
    np.testing.assert_array_equal(both, np.concatenate([drawing, wanted], axis=1))
    deep = saved('[data-model="two"] button:text-is("Save")')
    assert deep.suggested_filename == "two.tif"
    import tifffile

    np.testing.assert_array_equal(
        tifffile.imread(deep.path()), here.models["two"].translator(drawing, seed=7)
    )
    page.click('[data-model="one"] button:text-is("Copy")')
    here.until("document.getElementById('spoken').textContent === 'Copied.'")
    page.click("#new-seed")
    assert page.input_value("#seed") != "7"
    here.follows("one", drawing, seed=int(page.input_value("#seed")))
    here.well()


def test_models_of_other_kinds_bring_their_own_colours(room: Callable[..., Room]) -> None:
    spec = dataclasses.replace(PHOTO, channels=5, low=(0.0,) * 5, high=(255.0,) * 5)
    here = room(model("labels", LABELS), model("lines", LINES), model("five", spec))
    page = here.page
    assert page.locator(".panel").count() == 1, "only those that draw alike are shown at first"
    assert page.is_disabled('#models >> text="five"')
    page.click('#models >> text="lines"')
    assert page.locator(".panel").count() == 2
    here.follows("labels")
    page.click('#models >> text="labels"')
    page.wait_for_selector('#palette >> text="black"')
    assert page.locator(".panel").count() == 1
    here.until_first(255)
    here.follows("lines")
    here.well()


def test_the_camera_takes_a_still_and_runs_live(room: Callable[..., Room]) -> None:
    here = room(model("photos", PHOTO))
    page = here.page
    before = here.pixels()
    page.click("#camera")
    here.until("document.getElementById('video').videoWidth > 0")
    page.click("#still")
    page.wait_for_selector("#camera-dialog", state="hidden")
    here.settle()
    assert (here.pixels() != before).any()
    here.follows("photos")
    page.click("#camera")
    here.until("document.getElementById('video').videoWidth > 0")
    page.check("#live")
    frames = set()
    for _ in range(100):
        frames.add(here.pixels().tobytes())
        if len(frames) > 2:
            break
        page.wait_for_timeout(50)
    assert len(frames) > 2, "frames follow one another"
    page.click("#camera-close")
    page.wait_for_timeout(200)
    here.follows("photos")
    page.click("#undo")
    page.click("#undo")
    here.settle()
    np.testing.assert_array_equal(here.pixels(), before)
    here.well()


def test_dark_light_and_a_phone(room: Callable[..., Room]) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    here = room(
        model("one", LABELS),
        view={"color_scheme": "dark", "viewport": {"width": 375, "height": 700}, "has_touch": True},
    )
    page = here.page
    assert ground() == "rgb(20, 25, 26)"
    page.click("#theme")
    assert ground() == "rgb(244, 242, 237)"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert ground() == "rgb(244, 242, 237)", "remembered"
    page.emulate_media(color_scheme="light")
    page.click("#theme")
    assert ground() == "rgb(20, 25, 26)"

    assert page.evaluate("document.documentElement.scrollWidth") <= 375, "nothing sticks out"
    here.colour("door")
    page.locator("#canvas").scroll_into_view_if_needed()
    page.touchscreen.tap(*here.at(10, 10))
    here.settle()
    assert tuple(here.pixels()[10, 10]) == DOOR
    here.follows("one")
    page.emulate_media(reduced_motion="reduce")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.stage'), '::after').transitionDuration")
        == "0s"
    )
    here.well()


def test_a_lost_server_and_a_refusal_are_said(room: Callable[..., Room]) -> None:
    here = room(model("one", LABELS))
    page = here.page
    here.follows("one")
    page.context.set_offline(True)
    here.colour("door")
    here.drag((8, 8), (20, 20))
    page.wait_for_selector("#status:has-text('cannot be reached')")
    page.context.set_offline(False)
    here.follows("one"), "it is tried again by itself"
    here.until("document.getElementById('status').textContent === ''")
    assert here.errors and all("ERR_INTERNET_DISCONNECTED" in error for error in here.errors)

    page.route("**/api/translate*", lambda route: route.fulfill(
        status=503, headers={"Retry-After": "1"}, json={"error": "9 requests are waiting already."},
    ))  # fmt: skip
    here.drag((8, 20), (20, 8))
    page.wait_for_selector("#status:has-text('9 requests are waiting')")
    page.unroute("**/api/translate*")
    here.follows("one")


def test_the_newest_drawing_is_what_is_shown_at_the_end(room: Callable[..., Room]) -> None:
    """Many changes in a row: few requests, the last one wins."""
    here = room(model("one", LABELS), model("two", LABELS, seed=1))
    page = here.page
    here.colour("wall")
    page.mouse.move(*here.at(2, 2))
    page.mouse.down()
    for step in range(60):
        page.mouse.move(*here.at(2 + step % 28, 2 + step // 2))
    page.mouse.up()
    here.settle()
    here.follows("one")
    here.follows("two")
    here.well()


def test_what_comes_late_is_not_shown(room: Callable[..., Room]) -> None:
    here = room(model("one", LABELS))
    page = here.page
    here.follows("one")
    late: list[Any] = []
    page.route("**/api/translate*", lambda route: route.continue_() if late else late.append(route))
    here.choose("fill")
    here.colour("door")
    page.mouse.click(*here.at(3, 3))
    here.until("document.querySelector('.panel.busy') !== null")
    here.colour("wall")
    page.mouse.click(*here.at(3, 3))
    here.settle()
    here.follows("one")
    shown = here.output("one")
    asked = late[0].request
    old = page.request.post(
        asked.url,
        data=asked.post_data_buffer,
        headers={"Content-Type": "image/png", "Accept": "application/json"},
    )
    with page.expect_response("**/api/translate*"):
        late[0].fulfill(status=200, content_type="application/json", body=old.body())
    page.wait_for_timeout(300)
    np.testing.assert_array_equal(here.output("one"), shown)
    here.well()
