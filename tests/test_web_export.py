"""The page without a server: its files from a static host, the model in Chromium, all other hosts cut off."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import draw_pair, tiny_config
from pairloom import noise
from pairloom.checkpoint import save_weights
from pairloom.cli import main
from pairloom.config import GeneratorConfig
from pairloom.geometry import reflect_to
from pairloom.images import ImageSpec, lab_spec, recombined, to_array, to_tensor
from pairloom.networks import build_generator
from pairloom.pictures import preview
from pairloom.serve.colours import label_colours, to_source
from pairloom.serve.web_runtime import PACKAGE, WASM, WEBGPU, RuntimeFault, find_runtime
from pairloom.translator import Semantics, Translator

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed, reason=f"{needed} is not installed")
CHROMIUM = Path("/usr/bin/chromium")
in_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")

SIDE = 24
WAIT_MS = 60_000
FULL = {"low": (0.0,) * 3, "high": (255.0,) * 3}
PHOTO = ImageSpec(channels=3, dtype="uint8", **FULL)
RANGE = replace(PHOTO, scaling="range", low=(10.0, 0.0, 99.0), high=(200.0, 3.0, 99.0))
GREY = ImageSpec(channels=1, dtype="uint8", low=(0.0,), high=(255.0,))
COLOURS = ((0, 0, 130), (0, 70, 255), (255, 225, 0))
LABELS = ImageSpec(
    channels=3, dtype="uint8", kind="labels", palette=COLOURS, palette_names=("sky", "wall", "door"),
    one_hot=True, **FULL,
)  # fmt: skip
DEEP = ImageSpec(channels=1, dtype="uint16", scaling="percentile", low=(117.0,), high=(40123.0,))
FLOATS = ImageSpec(
    channels=3, dtype="float32", scaling="zscore", low=(-1.7, 1e5, 3.0), high=(2.3, 1.001e5, 3.0)
)
CLASSES = ImageSpec(
    channels=1, dtype="uint8", kind="labels", palette=((0,), (3,), (7,), (200,)), low=(0.0,), high=(255.0,)
)
AB = lab_spec("a", "b")
LIGHT = replace(lab_spec("L"), channels=3)
LUMINANCE = ImageSpec(channels=1, dtype="uint8", kind="luminance", low=(0.0,), high=(255.0,))


def saved(folder: Path, source: ImageSpec, target: ImageSpec, *, dropout: bool = True, **fields: Any) -> Path:
    """An untrained model, with weights large enough that the output follows the drawing."""
    small = {"base_channels": 4, "num_downs": 2, "dropout_blocks": (1,)}
    channels = {"source_channels": source.tensor_channels, "target_channels": target.tensor_channels}
    g = GeneratorConfig(**{**small, **channels, **fields})
    rng = torch.Generator().manual_seed(0)
    net = build_generator(g, rng)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)
        else:
            parameter.data.add_(torch.randn(parameter.shape, generator=rng) * 0.3)
    config = replace(tiny_config("/data", data__crop_size=SIDE, data__load_size=SIDE), generator=g)
    model = Translator(
        net.requires_grad_(False), source, target, config, semantics=Semantics(dropout=dropout)
    )
    folder.mkdir(parents=True)
    save_weights(folder / "generator.safetensors", net.state_dict(), model.describe())
    return folder


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web as npm unpacks it."""
    folder = tmp_path_factory.mktemp("runtime")
    try:
        find_runtime(None).write(folder / "dist")
    except RuntimeFault as fault:
        pytest.skip(f"npm cannot have it: {fault}")
    return folder


@contextmanager
def host(folder: Path, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A static host on a free port."""

    class Quiet(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def export(*arguments: object) -> None:
    main(["export", *map(str, arguments), "--format", "web"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        export(*arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("pairloom: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


# ------------------------------------------------------------------------------------------------------------
# In Chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page in a browser that reaches its own host alone."""

    def __init__(self, browser: Any, url: str, query: str = "") -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 800})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.url = url
        origin = "/".join(url.split("/")[:3])

        def only_here(route: Any) -> None:
            if route.request.url.startswith(origin):
                route.continue_()
            else:
                route.abort()

        self.context.route("**/*", only_here)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url + query)
        self.page.wait_for_selector("html[data-ready]", timeout=WAIT_MS)

    def pixels(self, selector: str) -> np.ndarray:
        found = self.page.evaluate(
            """(selector) => {
                const canvas = document.querySelector(selector);
                const copy = new OffscreenCanvas(canvas.width, canvas.height);
                const pen = copy.getContext('2d', {willReadFrequently: true});
                pen.drawImage(canvas, 0, 0);
                const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
                return {width: canvas.width, height: canvas.height, data: btoa(String.fromCharCode(...data))};
            }""",
            selector,
        )
        flat = np.frombuffer(base64.b64decode(found["data"]), np.uint8)
        return flat.reshape(found["height"], found["width"], 4)[..., :3]

    def follows(self, name: str, model: Translator, seed: int = 0) -> None:
        """Until the page shows what the model makes of the drawing, to a grey level."""
        off = -1
        for _ in range(400):
            drawing, shown = self.pixels("#canvas"), self.pixels(f'[data-model="{name}"] .result')
            wanted = model(to_source(drawing, model.source_spec), seed=seed)
            if shown.shape == wanted.shape:
                off = int(np.abs(shown.astype(int) - wanted).max())
                if off <= 1:
                    return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{off} levels away: {self.page.inner_text('#status')!r}, {self.errors}")

    def well(self) -> None:
        assert not self.errors
        assert all(url.startswith((self.url, f"blob:{self.url}")) for url in self.requests)


@in_chromium
def test_the_page_draws_and_translates_without_a_server(
    browser: Any, runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder below the top of a host that sends no special headers."""
    run, other = (
        saved(tmp_path / "labels", LABELS, PHOTO),
        saved(tmp_path / "off", LABELS, PHOTO, dropout=False),
    )
    site = tmp_path / "web" / "deep" / "page"
    export(run, f"plain={other}", "--out", site, "--runtime", runtime)
    said = capsys.readouterr().out
    assert "labels: checked on 1 of" in said and "A visitor loads" in said and said.endswith(f"{site}\n")
    one, two = (Translator.load(path, precision="fp32") for path in (run, other))
    with host(tmp_path / "web") as url:
        here = Visit(browser, f"{url}deep/page/")
        assert not here.page.evaluate("crossOriginIsolated")
        here.follows("labels", one)
        here.follows("plain", two)
        assert "WebAssembly, 1 thread" in here.page.get_attribute(".panel .note", "title")

        # Drawing.
        here.page.click('#palette [role="radio"]:has-text("door")')
        box = here.page.locator("#canvas").bounding_box()
        mouse = here.page.mouse
        mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
        mouse.down()
        mouse.move(box["x"] + box["width"] / 1.5, box["y"] + box["height"] / 2, steps=4)
        mouse.up()
        here.page.wait_for_timeout(100)
        drawn = here.pixels("#canvas")
        assert {tuple(c) for c in drawn.reshape(-1, 3).tolist()} == {COLOURS[0], COLOURS[2]}
        here.follows("labels", one)
        here.follows("plain", two)

        # Another seed is another picture, of the model with noise alone; D is not offered.
        before = here.pixels('[data-model="labels"] .result')
        here.page.fill("#seed", "2147483647")
        here.follows("labels", one, seed=2147483647)
        assert (here.pixels('[data-model="labels"] .result') != before).any()
        here.follows("plain", two)
        assert here.page.is_hidden("#patches-part") and here.page.is_visible("#noise-part")

        # A canvas of another size, whose sides are no multiples of the stride.
        here.page.select_option("#canvas-size", "own")
        here.page.fill("#own-width", "31")
        here.page.fill("#own-height", "17")
        here.page.click("#own-set")
        here.page.wait_for_timeout(100)
        assert here.pixels("#canvas").shape == (17, 31, 3)
        here.follows("labels", one, seed=2147483647)
        here.well()
        here.context.close()


@in_chromium
def test_samples_their_mean_and_spread_and_what_is_saved(browser: Any, runtime: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "deep", GREY, DEEP)
    samples = tmp_path / "deep" / "samples"
    samples.mkdir()
    photo = np.ascontiguousarray(draw_pair(1)[:SIDE, :SIDE])
    sheet = np.full((SIDE, 3 * SIDE + 8, 3), 255, np.uint8)
    sheet[:, :SIDE] = photo
    Image.fromarray(sheet).save(samples / "step-1.png")
    site = tmp_path / "site"
    export(run, "--out", site, "--runtime", runtime)
    model = Translator.load(run, precision="fp32")
    with host(site) as url:
        here = Visit(browser, url)
        np.testing.assert_array_equal(here.pixels("#canvas"), photo)
        here.page.select_option("#samples", "4")
        here.page.wait_for_selector(".tile:nth-child(6)")
        source = to_source(photo, GREY)
        wanted = model.samples(source, 4)
        x = to_tensor(source, GREY)[None]
        outputs = torch.cat([model.translate_tensor(x, sample=s) for s in range(4)])
        shown = [here.pixels(f".tile:nth-child({i}) canvas").astype(int) for i in range(1, 7)]
        for picture, y_hat in zip(shown, [*outputs, outputs.mean(0)], strict=False):
            assert np.abs(picture - preview(y_hat, DEEP)).max() <= 1
        assert np.abs(shown[5][..., 0] - wanted.spread[..., 0] / wanted.spread.max() * 255).max() <= 1
        said = here.page.inner_text(".tile:nth-child(6) span")
        assert float(said.rpartition(" ")[2]) == pytest.approx(float(wanted.spread.max()), rel=0.06)
        with here.page.expect_download() as download:
            here.page.click('button[aria-label="Save: deep"]')
        assert download.value.suggested_filename == "deep.npy"
        kept = np.load(io.BytesIO(Path(download.value.path()).read_bytes()))
        assert kept.dtype == np.uint16 and kept.shape == (SIDE, SIDE, 1)
        assert np.abs(kept.astype(int) - model(source)).max() <= 1
        here.well()
        here.context.close()


@in_chromium
def test_threads_where_the_host_isolates_the_page_and_half_precision(
    browser: Any, runtime: Path, tmp_path: Path
) -> None:
    run = saved(tmp_path / "run", PHOTO, PHOTO, noise="gaussian")
    export(run, "--out", tmp_path / "site", "--runtime", runtime, "--half")
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    assert all(
        f"{name}: {value}" in (tmp_path / "site" / "_headers").read_text() for name, value in headers.items()
    )
    model = Translator.load(run, precision="fp32")
    with host(tmp_path / "site", headers) as url:
        here = Visit(browser, url)
        assert here.page.evaluate("crossOriginIsolated")
        threads = min(8, here.page.evaluate("navigator.hardwareConcurrency"))
        here.page.wait_for_selector(".panel .note[title]")
        assert f"WebAssembly, {threads} thread" in here.page.get_attribute(".panel .note", "title")
        wanted = model(here.pixels("#canvas")).astype(int)
        assert np.abs(here.pixels(".result") - wanted).max() <= 3, "half precision: 0.01 of 2, and a rounding"
        here.well()
        here.context.close()


@pytest.fixture(scope="module")
def photos(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of photos, run, and its page, site."""
    folder = tmp_path_factory.mktemp("photos")
    export(saved(folder / "run", PHOTO, PHOTO), "--out", folder / "site", "--runtime", runtime)
    return folder


@in_chromium
def test_a_newer_drawing_takes_the_place_of_those_that_wait(browser: Any, photos: Path) -> None:
    with host(photos / "site") as url:
        here = Visit(browser, url)
        here.page.wait_for_selector(".panel .note[title]")  # the page's own has been done
        found = here.page.evaluate("""async () => {
            const engine = await import('./engine.js');
            const { models: [model] } = await engine.models();
            const words = (error) => error instanceof engine.Dropped ? 'dropped' : error.message;
            const ask = (options, signal) =>
                engine.translate(model, new ImageData(24, 24), options, signal)
                    .then(({ images }) => images.length, words);
            const gone = new AbortController();
            const options = [{}, { samples: 4 }, { gone: true }, {}, { samples: 3 }, {}];
            const all = options.map((o) => ask(o, o.gone ? gone.signal : undefined));
            gone.abort();
            return Promise.all(all);
        }""")
        # The first had begun; the samples are not the newest drawing's; the last one is.
        assert found == [1, "dropped", "dropped", "dropped", "dropped", 1]
        here.context.close()


@in_chromium
def test_what_is_missing_on_the_host_is_said(browser: Any, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "site", tmp_path / "site")
    model = tmp_path / "site" / "models" / "1.onnx"
    whole = model.read_bytes()
    for content, words in (
        (whole[:-9], "is cut off"),
        (whole[::-1], "cannot run the model"),
        (None, "answered 404"),
    ):
        model.unlink()
        if content is not None:
            model.write_bytes(content)
        with host(tmp_path / "site") as url:
            here = Visit(browser, url)
            here.page.wait_for_selector(".panel.failed")
            here.page.wait_for_selector(f"#status:has-text('{words}')")
            here.context.close()
        model.touch()


GPU = """async () => {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter ? String(adapter.info?.isFallbackAdapter) : null;
}"""


@in_chromium
@pytest.mark.slow
def test_webgpu_and_webassembly_when_it_fails(browser: Any, photos: Path, tmp_path: Path) -> None:
    """On a WebGPU that the processor plays, which is not taken unless the address insists."""
    flags = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan,WebGPU")
    model = Translator.load(photos / "run", precision="fp32")
    broken = tmp_path / "broken"
    shutil.copytree(photos / "site", broken)
    (broken / "runtime" / WEBGPU[2]).write_bytes(b"\0asm")
    chromium = browser.browser_type.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", *flags])
    try:
        for folder, query, words in (
            (photos / "site", "?backend=webgpu", "WebGPU"),
            (photos / "site", "", "WebAssembly, 1 thread"),
            (photos / "site", "?backend=wasm", "WebAssembly, 1 thread"),
            (broken, "?backend=webgpu", "WebAssembly, 1 thread"),
        ):
            with host(folder) as url:
                here = Visit(chromium, url, query)
                if here.page.evaluate(GPU) != "true":
                    pytest.skip("this Chromium has no WebGPU played by the processor")
                here.follows("run", model)
                assert here.page.get_attribute(".panel .note", "title") == words, (folder, query)
                here.context.close()
    finally:
        chromium.close()


@pytest.fixture(scope="module")
def scripts(browser: Any) -> Iterator[Any]:
    """A page of the scripts alone."""
    from pairloom.serve.site import SITE

    with host(SITE) as url:
        page = browser.new_page()
        page.route(
            "**/empty.html", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
        )
        page.goto(f"{url}empty.html")
        yield page
        page.close()


@in_chromium
def test_the_noise_is_that_of_noise_py(scripts: Any) -> None:
    found = scripts.evaluate("""async () => {
        const noise = await import('./noise.js');
        const keys = [[0, 0], [1, 0], [2147483647, 15], [4294967295, 3]].map((both) => noise.key(...both));
        const entry = { kind: 'dropout', layer: 2, channels: 6, stride: 4, rate: 0.3 };
        return {
            keys,
            uniform: [...noise.uniform(keys[2], 7, 5, 3, 4)],
            normal: [...noise.normal(keys[1], 0, 1, 9, 8)],
            mask: [...noise.values(entry, keys[3], 16, 12)],
        };
    }""")
    keys = [noise.key(0), noise.key(1), noise.key(2147483647, 15), noise.key(4294967295, 3)]
    assert found["keys"] == keys
    assert found["uniform"] == noise.uniform(keys[2], 7, 5, 3, 4).flatten().tolist()
    np.testing.assert_allclose(
        found["normal"], noise.normal(keys[1], 0, 1, 9, 8).flatten(), rtol=1e-5, atol=1e-6
    )
    kept = (noise.uniform(keys[3], 2, 6, 4, 3) >= 0.3).float() / 0.7
    np.testing.assert_allclose(found["mask"], kept.flatten(), rtol=1e-6)


@in_chromium
def test_rounding_reflection_and_cropping(scripts: Any) -> None:
    halves = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 254.5, 0.49999997]
    assert (
        scripts.evaluate(
            "async (v) => (await import('./values.js')).wave && v.map((await import('./values.js')).rint)",
            halves,
        )
        == np.rint(halves).tolist()
    )
    for size, wanted in (((1, 1), (4, 5)), ((3, 2), (8, 13)), ((5, 7), (5, 8)), ((4, 4), (2, 4))):
        x = torch.arange(2 * size[0] * size[1]).float().view(2, *size)
        found = scripts.evaluate(
            """async ([x, ...sizes]) => {
                const values = await import('./values.js');
                return [...values.reflected(Float32Array.from(x), ...sizes)];
            }""",
            [x.flatten().tolist(), *size, *wanted],
        )
        assert found == reflect_to(x, *wanted).flatten().tolist()
    x = torch.arange(2 * 5 * 6).float().view(2, 5, 6)
    found = scripts.evaluate(
        "async (x) => [...(await import('./values.js')).cropped(Float32Array.from(x), 5, 6, 3, 4)]",
        x.flatten().tolist(),
    )
    assert found == x[:, :3, :4].flatten().tolist()


def rgba(picture: np.ndarray) -> dict[str, Any]:
    """For `new ImageData`."""
    full = np.concatenate([picture, np.full((*picture.shape[:2], 1), 255, np.uint8)], axis=2)
    return {"width": picture.shape[1], "height": picture.shape[0], "data": full.flatten().tolist()}


def some_picture() -> np.ndarray:
    """Every kind of colour: random ones, greys, black, white, the palette's and its neighbours."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (20, 24, 3), np.uint8)
    picture[:3] = np.arange(72, dtype=np.uint8).reshape(3, 24, 1) * 3
    picture[3, :6] = [(0, 0, 0), (255, 255, 255), *COLOURS, (128, 148, 65)]
    picture[4] = COLOURS[1] + rng.integers(-60, 1, (24, 3)) * np.array((0, 1, 1))
    return picture


SOURCES = {
    "rgb": PHOTO, "grey": GREY, "range": RANGE,
    "uint16": DEEP, "float32": FLOATS, "one-hot": LABELS, "colours": replace(LABELS, one_hot=False),
    "classes": CLASSES, "luminance": LUMINANCE, "L": LIGHT,
    "grey L": replace(LIGHT, channels=1), "ab": AB,
}  # fmt: skip


@in_chromium
@pytest.mark.parametrize("name", SOURCES)
def test_pictures_become_numbers_as_in_python(scripts: Any, name: str) -> None:
    spec, picture = SOURCES[name], some_picture()
    wanted = to_tensor(to_source(picture, spec), spec)
    shown = label_colours(spec) if spec.kind == "labels" else ()
    found = scripts.evaluate(
        """async ([picture, model]) => {
            const values = await import('./values.js');
            return [...values.toTensor({ ...picture, data: Uint8ClampedArray.from(picture.data) }, model)];
        }""",
        [rgba(picture), {"source": {"spec": spec.to_dict()}, "palette": [{"rgb": c} for c in shown]}],
    )
    np.testing.assert_allclose(np.array(found), wanted.flatten(), rtol=0, atol=4e-6)
    if spec.kind in ("intensity", "labels") and spec.dtype != "float32":
        assert found == wanted.flatten().tolist()


TARGETS = {
    "rgb": PHOTO, "range": RANGE, "grey": GREY,
    "uint16": DEEP, "float32": FLOATS, "one-hot": LABELS, "colours": replace(LABELS, one_hot=False),
    "classes": CLASSES, "ab": AB, "luminance": LUMINANCE,
    "two": ImageSpec(channels=2, dtype="float32", low=(0.0, -5.0), high=(1.0, 5.0)),
}  # fmt: skip


@in_chromium
@pytest.mark.parametrize("name", TARGETS)
def test_numbers_become_pictures_and_files_as_in_python(scripts: Any, name: str) -> None:
    spec = TARGETS[name]
    rng = torch.Generator().manual_seed(1)
    y = (torch.rand(spec.tensor_channels, 17, 19, generator=rng) * 2.4 - 1.2).clamp(-1.1, 1.1)
    x = torch.rand(1, 17, 19, generator=rng) * 2 - 1
    whole, file_spec = recombined(y, x, spec)
    shown: list[list[int]] = []
    if spec.kind == "labels":
        shown = preview(to_tensor(np.array(spec.palette, spec.dtype)[None], spec), spec)[0].tolist()
    found = scripts.evaluate(
        """async ([y, x, spec, shown]) => {
            const values = await import('./values.js');
            const whole = values.recombined(Float32Array.from(y), x, 17 * 19, spec);
            const own = values.outputSpec(spec);
            const rgba = values.picture(whole, 17 * 19, own, shown);
            return { rgba: [...rgba], npy: [...values.npy(whole, 17, 19, own)] };
        }""",
        [y.flatten().tolist(), x.flatten().tolist(), spec.to_dict(), shown],
    )
    picture = np.array(found["rgba"]).reshape(17, 19, 4)
    array = np.load(io.BytesIO(bytes(found["npy"])))
    wanted, levels = to_array(whole, file_spec), 1 if spec.kind == "lab" else 0
    assert (picture[..., 3] == 255).all()
    assert np.abs(picture[..., :3] - preview(whole, file_spec).astype(int)).max() <= levels
    assert array.dtype == wanted.dtype and array.shape == wanted.shape
    if spec.dtype == "float32":
        np.testing.assert_array_equal(array, wanted)
    else:
        assert np.abs(array.astype(int) - wanted).max() <= levels


# ------------------------------------------------------------------------------------------------------------
# The folder


def made_runtime(folder: Path, *, webgpu: bool = True) -> Path:
    """Files with the names of onnxruntime-web's."""
    folder.mkdir(parents=True)
    for name in (*WASM, *(WEBGPU if webgpu else ())):
        (folder / name).write_bytes(
            b"\0asm1" if name.endswith(".wasm") else b"/*!\n * ONNX Runtime Web v9.8.7\n */"
        )
    return folder


def test_the_folder_says_what_is_in_it(tmp_path: Path) -> None:
    run = saved(tmp_path / "mine", LABELS, CLASSES)
    given = made_runtime(tmp_path / "npm" / "node_modules" / "onnxruntime-web" / "dist")
    (given.parent / "LICENSE").write_text("a licence")
    site = tmp_path / "site"
    site.mkdir()  # an empty one is free
    export(run, "--out", site, "--runtime", tmp_path / "npm")
    about = json.loads((site / "runtime" / "runtime.json").read_text())
    assert about["version"] == "9.8.7" and about["origin"] == "a folder"
    assert set(about["files"]) == {*WASM, *WEBGPU, "LICENSE"}
    for name, figures in about["files"].items():
        content = (site / "runtime" / name).read_bytes()
        assert figures == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    described = json.loads((site / "models.json").read_text())
    model = described["models"][0]
    assert described["webgpu"] and model["patches"] is None and model["noise"]
    assert [colour["name"] for colour in model["palette"]] == ["sky", "wall", "door"]
    onnx = (site / model["site"]["file"]).read_bytes()
    assert model["site"]["bytes"] == len(onnx) and model["site"]["sha256"] == hashlib.sha256(onnx).hexdigest()
    page = (site / "index.html").read_text()
    assert "'wasm-unsafe-eval'" in page and "http:" not in page and "https:" not in page
    for file in site.rglob("*"):
        assert file.stat().st_mode & 0o044, "whoever hosts it may read it"
        assert str(tmp_path).encode() not in (file.read_bytes() if file.is_file() else b"")
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_a_runtime_without_webgpu_is_taken_too(tmp_path: Path) -> None:
    (given := made_runtime(tmp_path / "few", webgpu=False)).joinpath(WEBGPU[0]).touch()
    found = find_runtime(given)
    assert not found.webgpu and set(found.files) == set(WASM)
    found.write(tmp_path / "runtime")
    assert "Microsoft" in (tmp_path / "runtime" / "LICENSE").read_text()


def test_what_cannot_be_written_is_said_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, site = saved(tmp_path / "run", PHOTO, PHOTO), tmp_path / "site"
    given = made_runtime(tmp_path / "rt")
    two = ImageSpec(channels=2, dtype="float32", low=(0.0, 0.0), high=(1.0, 1.0))
    cannot: Callable[..., str] = functools.partial(refused, capsys)
    assert "its sources have 2 channels" in cannot(
        saved(tmp_path / "two", two, PHOTO), "--out", site, "--runtime", given
    )
    assert "the same name" in cannot(run, run, "--out", site, "--runtime", given)
    assert "there is no such folder" in cannot(run, "--out", site, "--runtime", tmp_path / "nowhere")
    (given / WASM[2]).write_bytes(b"\0as")
    assert "is no WebAssembly" in cannot(run, "--out", site, "--runtime", given)
    (given / WASM[2]).unlink()
    assert f"holds no {WASM[2]}" in cannot(run, "--out", site, "--runtime", given)
    given = made_runtime(tmp_path / "again")
    wide = saved(tmp_path / "wide", PHOTO, PHOTO, base_channels=8)
    for pair, name in (((run, f"other={wide}"), "run"), ((f"other={wide}", run), "other")):
        sentence = cannot(*pair, "--out", site, "--runtime", given, "--tolerance", "0")
        assert f"The model {name} (" in sentence and ": not written, because" in sentence
        assert "allowed 0" in sentence and "model.onnx" not in sentence
    assert "--format web needs a model" in cannot("--out", site, "--runtime", given)
    assert "--dynamic does not go with --format web" in cannot(run, "--out", site, "--dynamic")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "npm" in (said := cannot(run, "--out", site)) and "not installed" in said and "--runtime" in said
    assert not site.exists() and not [f for f in tmp_path.iterdir() if f.name.startswith(".")]
    site.mkdir()
    (site / "mine.txt").touch()
    assert "is not empty" in cannot(run, "--out", site, "--runtime", given)
    assert "is a file" in cannot(run, "--out", site / "mine.txt", "--runtime", given)
    assert "holds no trained model" in cannot(tmp_path / "rt", "--out", tmp_path / "x", "--runtime", given)
    with pytest.raises(SystemExit):
        main(["export", str(run), str(run), "--out", str(tmp_path / "m.onnx"), "--format", "onnx"])
    assert "takes one model, not 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(
            [
                "export",
                str(run),
                "--out",
                str(tmp_path / "m.onnx"),
                "--format",
                "onnx",
                "--runtime",
                str(given),
            ]
        )
    assert "--runtime does not go with --format onnx" in capsys.readouterr().err


def test_the_package_of_npm_has_what_is_taken(runtime: Path) -> None:
    found = find_runtime(runtime)
    assert found.webgpu and f"onnxruntime-web@{found.version}" == PACKAGE


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_the_scripts_are_modules_that_parse() -> None:
    from pairloom.serve.site import SITE

    for file in sorted(SITE.glob("*.js")):
        checked = subprocess.run(
            ["node", "--input-type=module", "--check"],
            input=file.read_bytes(),
            capture_output=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr.decode()
