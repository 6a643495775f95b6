"""The page without a server: what a visitor loads, and how long a translation takes in Chromium.

Untrained U-Net-256 of each width, 256x256, z on: `pairloom export --format web`, served from this machine
with and without the headers that give threads; medians of calls of the page's own engine, pixels to pixels.
The result goes to benchmarks/results/, a file for each kind of machine.

    python benchmarks/web_page.py --widths 16 32 --rounds 15
"""

from __future__ import annotations

import argparse
import functools
import gzip
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, sync_playwright

from pairloom.checkpoint import save_weights
from pairloom.config import Config, DataConfig, GeneratorConfig
from pairloom.images import ImageSpec
from pairloom.networks import build_generator
from pairloom.serve.site import write_site
from pairloom.translator import Translator
from result import save

RGB = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
RUN = """async ([rounds, side]) => {
    const engine = await import('./engine.js');
    const { models: [model] } = await engine.models();
    const times = [];
    let by = '';
    for (let i = 0; i < rounds; i++) {
        const image = new ImageData(side, side);
        image.data.forEach((_, at) => (image.data[at] = at % 4 === 3 ? 255 : (at * (i + 3)) % 256));
        const began = performance.now();
        ({ by } = await engine.translate(model, image, { seed: 0, samples: 1 }));
        times.push(performance.now() - began);
    }
    return { times, by };
}"""


class Quiet(SimpleHTTPRequestHandler):
    """A static host that says nothing."""

    extra: dict[str, str] = {}  # noqa: RUF012

    def end_headers(self) -> None:  # noqa: D102
        for name, value in self.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:  # noqa: D102
        pass


@contextmanager
def hosted(folder: Path, headers: dict[str, str]) -> Iterator[str]:
    host = type("Host", (Quiet,), {"extra": headers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(host, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def model(width: int, folder: Path, side: int) -> Path:
    g = GeneratorConfig(source_channels=3, target_channels=3, base_channels=width, num_downs=8)
    net = build_generator(g, torch.Generator().manual_seed(0)).requires_grad_(False)
    translator = Translator(net, RGB, RGB, Config(data=DataConfig(crop_size=side), generator=g))
    file = folder / f"unet-{width}" / "generator.safetensors"
    file.parent.mkdir()
    save_weights(file, net.state_dict(), translator.describe())
    return file


def weigh(site: Path) -> dict[str, tuple[int, int]]:
    """Bytes, and bytes as gzip, of the parts."""
    parts: dict[str, list[Path]] = {"model": [*site.glob("models/*")], "page": []}
    parts["runtime"] = [
        f for f in site.glob("runtime/ort*") if "asyncify" not in f.name and "webgpu" not in f.name
    ]
    parts["runtime, WebGPU"] = [f for f in site.glob("runtime/ort*") if f not in parts["runtime"]]
    parts["page"] = [f for f in site.iterdir() if f.suffix in (".js", ".css", ".svg", ".html", ".json")]
    return {
        name: (
            sum(f.stat().st_size for f in files),
            sum(len(gzip.compress(f.read_bytes(), 6)) for f in files),
        )
        for name, files in parts.items()
    }


def timed(
    browser: Browser, site: Path, headers: dict[str, str], rounds: int, side: int
) -> tuple[str, list[float]]:
    with hosted(site, headers) as url:
        page = browser.new_page()
        page.goto(url)
        found = page.evaluate(RUN, [rounds + 2, side])
        page.close()
    return found["by"], found["times"][2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--runtime", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        figures: dict[str, Any] = {"chromium": browser.version}
        for width in given.widths:
            site = Path(work) / f"site-{width}"
            write_site(
                [str(model(width, Path(work), given.side))], site, runtime=given.runtime, half=given.half
            )
            found: dict[str, Any] = {
                f"{part}_mb_and_gzip": [round(plain / 1e6, 2), round(packed / 1e6, 2)]
                for part, (plain, packed) in weigh(site).items()
            }
            figures[f"base_channels_{width}"] = found
            for headers in ({}, ISOLATED, {}, ISOLATED):
                by, times = timed(browser, site, headers, given.rounds, given.side)
                took = [round(value, 1) for value in (statistics.median(times), min(times), max(times))]
                found.setdefault(f"{by}: median, least, most ms of {len(times)}", []).append(took)
        browser.close()
    save(f"web_page_{given.side}{'_half' * given.half}", figures, "onnxruntime", "playwright")


if __name__ == "__main__":
    main()
