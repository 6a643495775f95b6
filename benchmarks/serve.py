"""How long the page waits for a translation: `pairloom serve` over HTTP, one drawing after the other.

    python benchmarks/serve.py [--size 256] [--base-channels 32] [--requests 60]

The real command in a process of its own serves an untrained U-Net (the time does not depend on the weights)
with a D beside it. A client on the same machine sends a label map as PNG, another one every time, as the page
does, and waits for the whole answer. Timed is the round trip as the client sees it, and the model alone, as
the server says. The result goes to benchmarks/results/, a file for each kind of machine.
"""

from __future__ import annotations

import argparse
import http.client
import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from pairloom.checkpoint import save_weights
from pairloom.config import Config, DataConfig, DiscriminatorConfig, GeneratorConfig
from pairloom.data.sample import draw_labels, draw_layout
from pairloom.images import ImageSpec
from pairloom.networks import build_discriminator, build_generator
from pairloom.translator import Translator
from result import save

CASES = {
    "png": ("picture=1", "image/png"),
    "json": ("picture=1", "application/json"),
    "json_patches": ("picture=1&patches=1", "application/json"),
}
"""What a program asks, what the page asks, and what the page asks with D's patch map on."""


def write_model(folder: Path, size: int, base_channels: int) -> None:
    """G and D of the paper's shapes, with random weights, as a run publishes them."""
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    config = Config(
        data=DataConfig(crop_size=size),
        generator=GeneratorConfig(
            base_channels=base_channels, num_downs=8, source_channels=3, target_channels=3
        ),
        discriminator=DiscriminatorConfig(base_channels=base_channels),
    )
    rng = torch.Generator().manual_seed(0)
    described = Translator(build_generator(config.generator, rng), spec, spec, config).describe()
    nets = {
        "generator": build_generator(config.generator, rng),
        "discriminator": build_discriminator(config.discriminator, 3, 3, rng),
    }
    for name, net in nets.items():
        save_weights(folder / f"{name}.safetensors", net.state_dict(), {**described, "network": name})


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The real command, on a free port. Gives host:port."""
    command = [sys.executable, "-m", "pairloom", "serve", f"model={folder}", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = next((m for line in process.stdout if (m := re.search(r"Draw: (http://\S+)", line))), None)
        assert found, "the server says where it is"
        yield urlsplit(found[1]).netloc
    finally:
        process.terminate()
        process.wait(30)


def drawings(size: int, count: int) -> list[bytes]:
    """Label maps of the sample set as PNG."""
    found = []
    for index in range(count):
        out = io.BytesIO()
        Image.fromarray(draw_labels(draw_layout((0, index)), size)).save(out, format="PNG", compress_level=6)
        found.append(out.getvalue())
    return found


def ask(where: str, bodies: list[bytes], query: str, accept: str) -> tuple[list[float], list[float]]:
    """(round trips, the model alone), in milliseconds, over one connection."""
    connection = http.client.HTTPConnection(where, timeout=120)
    trips, models = [], []
    for number, body in enumerate(bodies):
        headers = {
            "Content-Type": "image/png",
            "Accept": accept,
            "X-Drawing": f"{id(trips)};{number}",
        }
        started = time.perf_counter()
        connection.request("POST", f"/api/translate?{query}", body, headers)
        response = connection.getresponse()
        said = response.read()
        trips.append((time.perf_counter() - started) * 1000)
        assert response.status == 200, said[:200]
        models.append(float(response.headers["X-Milliseconds"]))
    connection.close()
    return trips, models


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    return {
        "p50": round(float(np.percentile(milliseconds, 50)), 1),
        "p95": round(float(np.percentile(milliseconds, 95)), 1),
        "least": round(min(milliseconds), 1),
        "most": round(max(milliseconds), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--base-channels", type=int, default=32)
    parser.add_argument("--requests", type=int, default=60, help="of each kind")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, arguments.size, arguments.base_channels)
        bodies = drawings(arguments.size, arguments.requests)
        with server(folder) as where:
            for case, (query, accept) in CASES.items():
                ask(where, bodies[:5], query, accept)  # warm
                trips, models = ask(where, bodies, query, accept)
                found[case] = {"round_trip_ms": percentiles(trips), "model_ms": percentiles(models)}
    figures = {
        "size": arguments.size,
        "base_channels": arguments.base_channels,
        "requests_of_each_kind": arguments.requests,
        "kilobytes_sent": round(float(np.mean([len(body) for body in bodies])) / 1000, 1),
        "cases": found,
    }
    save(f"serve_{arguments.size}_{arguments.base_channels}", figures, "starlette", "uvicorn")


if __name__ == "__main__":
    main()
