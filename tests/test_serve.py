"""The page's server over HTTP: what is translated, what is refused and how, who waits, and who may ask."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from conftest import cli, draw_pair, wait_until
from pairloom.checkpoint import load_discriminator
from pairloom.config import Config, DataConfig, DiscriminatorConfig, GeneratorConfig
from pairloom.evaluation.patches import nearest_patch, patch_map
from pairloom.export import export_model
from pairloom.images import ImageSpec, lab_spec, to_tensor
from pairloom.networks import Discriminator, build_generator, initialise
from pairloom.serve.colours import Palette, label_colours, palette_for, to_source
from pairloom.serve.declared import Limits
from pairloom.serve.models import Served, is_picture, least_side, load_models, patch_geometry
from pairloom.serve.refusals import ServeFault
from pairloom.serve.requests import Asked, chosen_type
from pairloom.serve.server import PAGES, Settings, create_app, make_server
from pairloom.translator import Translator

BYTE = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
PNG = {"Content-Type": "image/png"}


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, format=kind, **options)
    return out.getvalue()


def decoded(content: bytes | str) -> np.ndarray:
    data = base64.b64decode(content) if isinstance(content, str) else content
    return np.asarray(Image.open(io.BytesIO(data)))


def untrained(source: ImageSpec, target: ImageSpec, kind: type[Translator] = Translator) -> Translator:
    config = Config(
        data=DataConfig(crop_size=16),
        discriminator=DiscriminatorConfig(num_layers=1),
        generator=GeneratorConfig(
            source_channels=source.tensor_channels, target_channels=target.tensor_channels, base_channels=4,
            num_downs=2,
        ),
    )  # fmt: skip
    generator = build_generator(config.generator).to_empty(device="cpu")
    initialise(generator, torch.Generator().manual_seed(0))
    return kind(generator, source, target, config)


def served(translator: Translator, name: str = "m") -> Served:
    palette = palette_for(translator.source_spec, translator.config, ())
    return Served(name, translator, None, palette, ())


Serving = Callable[..., httpx.Client]


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Serve models, each set in a thread, as `serve` does."""
    running = []

    def start(models: dict[str, Served], **settings: Any) -> httpx.Client:
        server, listening = make_server(models, Settings(port=0, **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        client = httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60)
        running.append((server, listening, thread, client))
        return client

    yield start
    for server, listening, thread, client in running:
        client.close()
        server.should_exit = True
        thread.join(30)
        listening.close()


@pytest.fixture(scope="module")
def models(tiny_run: Path) -> dict[str, Served]:
    return load_models([f"tiny={tiny_run}"], device="cpu")


def refused(response: httpx.Response, status: int) -> str:
    """The sentence of a refusal, which is JSON and nothing else."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    sentence = str(response.json()["error"])
    assert sentence.endswith((".", "?")) and "Traceback" not in sentence and "/tmp" not in sentence
    return sentence


# -----------------------------------------------------------------------------------------------------------
# What is translated


@pytest.mark.parametrize("size", [(40, 40), (17, 31), (1, 1)])
def test_a_translation_is_that_of_the_translator(
    models: dict[str, Served], serving: Serving, tiny_run: Path, size: tuple[int, int]
) -> None:
    client = serving(models)
    image = np.ascontiguousarray(draw_pair(3)[: size[0], : size[1]])
    alone = Translator.load(tiny_run, device="cpu")
    response = client.post("/api/translate?seed=5", content=encoded(image), headers=PNG)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["cache-control"] == "no-store"
    np.testing.assert_array_equal(decoded(response.content), alone(image, seed=5))
    picture = client.post("/api/translate?seed=5&picture=1&model=tiny", content=encoded(image), headers=PNG)
    assert picture.content == response.content


def test_every_container_is_read_and_written(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models)
    image = draw_pair(1)[:24, :24]
    wanted = models["tiny"].translator(image)
    tiff, npy = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiff, image, photometric="rgb", compression="zlib")
    np.save(npy, image)
    sent = {
        "image/png": encoded(image),
        "image/webp": encoded(image, "WEBP", lossless=True),
        "image/tiff": tiff.getvalue(),
        "application/x-npy": npy.getvalue(),
    }
    for kind, body in sent.items():
        response = client.post("/api/translate", content=body, headers={"Content-Type": kind})
        np.testing.assert_array_equal(decoded(response.content), wanted, err_msg=kind)
        back = client.post(
            "/api/translate", content=sent["image/png"], headers={**PNG, "Accept": f"{kind}, text/html"}
        )
        assert back.headers["content-type"] == kind
        read = np.load(io.BytesIO(back.content)) if "npy" in kind else decoded(back.content)
        np.testing.assert_array_equal(read, wanted, err_msg=kind)
    jpeg = encoded(image, "JPEG", quality=90)
    response = client.post("/api/translate", content=jpeg, headers={"Content-Type": "image/jpeg"})
    np.testing.assert_array_equal(decoded(response.content), models["tiny"].translator(decoded(jpeg)))


def test_deep_targets_keep_their_depth(serving: Serving) -> None:
    grey16 = ImageSpec(channels=1, dtype="uint16", low=(100.0,), high=(60000.0,))
    two = ImageSpec(channels=2, dtype="float32", low=(-1.0, 0.0), high=(1.0, 5.0))
    deep, floating = untrained(BYTE, grey16), untrained(BYTE, two)
    client = serving({"deep": served(deep), "floating": served(floating)})
    image = draw_pair(0)[:16, :16]
    post = {"content": encoded(image), "headers": PNG}
    response = client.post("/api/translate?model=deep", **post)
    assert response.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(decoded(response.content), deep(image)[..., 0])
    response = client.post("/api/translate?model=floating", **post)
    assert response.headers["content-type"] == "image/tiff"
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(response.content)), floating(image))
    only_png = {"content": encoded(image), "headers": {**PNG, "Accept": "image/png"}}
    assert "image/tiff" in refused(client.post("/api/translate?model=floating", **only_png), 406)
    shown = client.post("/api/translate?model=deep&samples=2", **post).json()
    assert decoded(shown["images"][0]).shape == (16, 16, 3), "pictures are for the eye"


def float_tiff(array: np.ndarray) -> bytes:
    return tiff_of(array, photometric="minisblack", planarconfig="contig")


def test_a_source_is_read_as_translate_reads_it(serving: Serving, tmp_path: Path) -> None:
    """Of its channels those that were chosen; NaN is a pixel that counts for nothing."""
    two = ImageSpec(channels=2, dtype="float32", low=(0.0,) * 2, high=(1.0,) * 2, chosen=("0", "2"))
    real = ImageSpec(channels=1, dtype="float32", low=(0.0,), high=(1.0,))
    models = {"real": untrained(two, real), "byte": untrained(two, BYTE)}
    volumes = untrained(replace(two, slice_axis="z"), real)
    client = serving({name: served(t, name) for name, t in {**models, "volumes": volumes}.items()})
    image = np.random.default_rng(0).random((16, 16, 3), np.float32)
    image[3:5, 4:9, 2] = np.nan
    image[7, 7, 1] = np.nan  # of a channel that nobody reads
    body = float_tiff(image)
    (tmp_path / "a.tif").write_bytes(body)
    post = {"content": body, "headers": {"Content-Type": "image/tiff"}}
    for name, translator in models.items():
        wanted = translator(tmp_path / "a.tif", seed=2)
        assert np.isnan(wanted).any() == (name == "real")
        whole = {**post, "headers": {**post["headers"], "Accept": "application/x-npy"}}
        response = client.post(f"/api/translate?model={name}&seed=2", **whole)
        assert response.status_code == 200, response.text
        np.testing.assert_array_equal(np.load(io.BytesIO(response.content)), wanted)
        several = client.post(f"/api/translate?model={name}&seed=2&samples=3", **post).json()
        samples = translator.samples(tmp_path / "a.tif", 3, seed=2)
        assert several["most_spread"] == pytest.approx(np.nanmax(samples.spread.mean(axis=2)), rel=1e-6)
        for shown in (*several["images"], several["mean"]):
            assert (decoded(shown)[3:5, 4:9] == 128).all(), "grey, as in the samples of the training"
        assert (decoded(several["spread"])[3:5, 4:9] == 0).all()
    slice_of_one = client.post("/api/translate?model=volumes&seed=2", **post)
    assert slice_of_one.status_code == 200, "what was cut from a volume is one image here"


def test_samples_their_mean_spread_and_the_patch_map(
    models: dict[str, Served], serving: Serving, tiny_run: Path
) -> None:
    client = serving(models)
    image = draw_pair(2)[:40, :40]
    answer = client.post("/api/translate?seed=3&samples=3&patches=1", content=encoded(image), headers=PNG)
    found = answer.json()
    t = Translator.load(tiny_run, device="cpu")
    samples = t.samples(image, 3, seed=3)
    assert (found["width"], found["height"], found["seed"]) == (40, 40, 3)
    for text, array in zip(found["images"], samples.images, strict=True):
        np.testing.assert_array_equal(decoded(text), array)
    assert np.ptp(samples.images.astype(int), axis=0).max() > 0, "the samples differ"
    np.testing.assert_array_equal(decoded(found["mean"]), samples.mean)
    spread = samples.spread.mean(axis=2)
    assert found["most_spread"] == pytest.approx(spread.max(), rel=1e-6)
    shown = decoded(found["spread"]).astype(float)
    np.testing.assert_allclose(shown[..., 0] / 255, spread / spread.max(), atol=0.5 / 255 + 1e-6)
    d = load_discriminator(tiny_run)
    assert d is not None
    x = to_tensor(image, t.source_spec)[None]
    logits = d(x, t.translate_tensor(x, seed=3))
    patches = found["patch_map"]
    assert (patches["height"], patches["width"]) == tuple(logits.shape[-2:])
    np.testing.assert_allclose(patches["values"], torch.sigmoid(logits).flatten(), atol=6e-5)
    np.testing.assert_allclose(patches["values"], patch_map(logits, "vanilla").ravel(), atol=6e-5)
    single = client.post(
        "/api/translate", content=encoded(image), headers={**PNG, "Accept": "application/json"}
    )
    assert [single.json()[name] for name in ("mean", "spread", "patch_map")] == [None] * 3
    assert refused(
        client.post(
            "/api/translate?samples=2", content=encoded(image), headers={**PNG, "Accept": "image/png"}
        ),
        406,
    )


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_the_geometry_of_patches_is_that_of_d(layers: int) -> None:
    d = Discriminator(1, 1, base_channels=2, num_layers=layers)
    least = least_side(d.windows)
    assert d(torch.zeros(1, 1, least, least), torch.zeros(1, 1, least, least)).shape[-2:] >= (1, 1)
    with pytest.raises((RuntimeError, ValueError)):
        d(torch.zeros(1, 1, least - 1, least - 1), torch.zeros(1, 1, least - 1, least - 1))
    geometry = patch_geometry(d.windows)
    count = d(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)).shape[-1]
    index = np.rint((np.arange(64) - geometry["centre"]) / geometry["jump"]).clip(0, count - 1)
    np.testing.assert_array_equal(index, nearest_patch(d.windows, 64, count))


def test_an_image_too_small_for_d_has_no_patch_map(models: dict[str, Served], serving: Serving) -> None:
    image = draw_pair(0)[:3, :3]
    found = serving(models).post("/api/translate?patches=1", content=encoded(image), headers=PNG).json()
    assert found["patch_map"] is None and len(found["images"]) == 1


# -----------------------------------------------------------------------------------------------------------
# What is drawn with


def test_label_maps_come_with_their_palette(serving: Serving) -> None:
    values = ((3,), (7,), (200,))
    labels = ImageSpec(
        channels=1, dtype="uint8", kind="labels", low=(0.0,), high=(255.0,), palette=values, one_hot=True,
        palette_names=("road", "tree", "car"),
    )  # fmt: skip
    translator = untrained(labels, BYTE)
    client = serving({"m": served(translator)})
    (described,) = client.get("/api/models").json()["models"]
    assert described["manner"] == "labels"
    assert [c["name"] for c in described["palette"]] == ["road", "tree", "car"]
    colours = np.array([c["rgb"] for c in described["palette"]], np.uint8)
    assert len({tuple(c) for c in colours.tolist()}) == 3
    index = np.random.default_rng(0).integers(0, 3, (16, 16))
    drawn = client.post("/api/translate?picture=1", content=encoded(colours[index]), headers=PNG)
    direct = np.array(values, np.uint8)[index]
    np.testing.assert_array_equal(decoded(drawn.content), translator(direct))
    assert "1 channel" in refused(
        client.post("/api/translate", content=encoded(colours[index]), headers=PNG), 422
    )


def test_the_colours_of_many_classes_differ() -> None:
    many = tuple((i,) for i in range(0, 256, 2))
    spec = ImageSpec(channels=1, dtype="uint16", kind="labels", low=(0.0,), high=(65535.0,), palette=many)
    shown = label_colours(spec)
    assert len(set(shown)) == len(many)
    picture = np.array(shown, np.uint8)[None]
    np.testing.assert_array_equal(to_source(picture, spec)[0], np.array(many))


def test_a_picture_becomes_the_sources_own_values() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    deep = ImageSpec(channels=1, dtype="uint16", low=(100.0,), high=(1120.0,))
    np.testing.assert_array_equal(to_source(ramp, deep)[0, :, 0], 100 + 4 * np.arange(256))
    real = ImageSpec(channels=3, dtype="float32", low=(-1.0, 0.0, 2.0), high=(1.0, 510.0, 3.0))
    np.testing.assert_allclose(to_source(ramp, real)[0, 255], (1, 510, 3))
    np.testing.assert_allclose(to_source(ramp, real)[0, 51], (-0.6, 102, 2.2), rtol=1e-6)
    np.testing.assert_array_equal(to_source(ramp, BYTE), ramp)
    colour = np.array([[[255, 0, 0]]], np.uint8)
    grey = ImageSpec(channels=1, dtype="uint8", low=(0.0,), high=(255.0,))
    assert to_source(colour, grey)[0, 0, 0] == round(0.299 * 255)


def manner(spec: ImageSpec, *pictures: np.ndarray, **data: Any) -> Palette:
    return palette_for(spec, Config(data=DataConfig(**data)), pictures)


def test_what_to_draw_with_follows_from_the_sources() -> None:
    rng = np.random.default_rng(0)
    lines = np.full((32, 32, 3), 255, np.uint8)
    lines[10:12] = 0
    blocks = np.full((32, 32, 3), (0, 70, 255), np.int64)
    blocks[:8], blocks[20:] = (0, 0, 130), (255, 225, 0)
    jpeg_like = (blocks + rng.integers(-9, 10, blocks.shape)).clip(0, 255).astype(np.uint8)
    noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    grey = ImageSpec(channels=1, dtype="uint8", low=(0.0,), high=(255.0,))
    five = ImageSpec(channels=5, dtype="uint8", low=(0.0,) * 5, high=(255.0,) * 5)

    assert manner(BYTE, lines).manner == "pen"
    assert manner(grey).manner == "pen"
    assert manner(grey, noise).manner == "photo"
    assert manner(BYTE).manner == manner(BYTE, noise).manner == "photo"
    assert manner(five).manner == "none"
    assert manner(grey, noise, derive="edges").manner == "pen"
    paint = manner(BYTE, jpeg_like)
    assert paint.manner == "paint" and len(paint.colours) == 3
    for colour, true in zip(paint.colours, ((0, 70, 255), (255, 225, 0), (0, 0, 130)), strict=True):
        assert np.abs(np.subtract(colour.rgb, true)).max() <= 10
    assert [c.name for c in paint.colours] == ["blue", "yellow", "dark blue"]
    assert paint.background == paint.colours[0].rgb


def test_names_of_classes_come_from_where_they_are_known(tmp_path: Path) -> None:
    palette = ((0, 0, 130), (0, 70, 255), (255, 225, 0))
    spec = ImageSpec(
        channels=3, dtype="uint8", kind="labels", low=(0.0,) * 3, high=(255.0,) * 3, palette=palette
    )
    assert [c.name for c in manner(spec).colours] == ["sky", "wall", "door"], "the sample set's"
    assert [c.rgb for c in manner(spec).colours] == list(palette)
    (tmp_path / "p.txt").write_text("255,225,0,gate\n0,0,130,air\n0,70,255,plaster\n")
    named = manner(spec, source_palette=str(tmp_path / "p.txt"))
    assert [c.name for c in named.colours] == ["air", "plaster", "gate"]
    gone = manner(spec, source_palette=str(tmp_path / "elsewhere.txt"))
    assert [c.name for c in gone.colours] == ["sky", "wall", "door"]


def test_examples_are_the_runs_own_sources(
    tiny_run: Path, serving: Serving, models: dict[str, Served]
) -> None:
    examples = models["tiny"].examples
    assert [e.shape for e in examples] == [(32, 32, 3)]
    sheet = np.asarray(Image.open(max((tiny_run / "samples").glob("*.png"))).convert("RGB"))
    np.testing.assert_array_equal(examples[0], sheet[:32, :32])
    client = serving(models)
    response = client.get("/api/example?model=tiny&number=0")
    np.testing.assert_array_equal(decoded(response.content), examples[0])
    for number in ("1", "-1", "x", "9" * 50, "\u0663"):
        refused(client.get("/api/example", params={"number": number}), 404)


def test_models_have_names_of_their_own(tiny_run: Path) -> None:
    file = tiny_run / "generator.safetensors"
    found = load_models([str(tiny_run), f"again={file}"], device="cpu")
    assert list(found) == ["run", "again"]
    assert all(model.discriminator is not None for model in found.values()), "D beside the weights is found"
    assert list(load_models([str(next((tiny_run / "checkpoints").glob("*.pt")))])) == ["run"]
    with pytest.raises(ServeFault, match="Two models"):
        load_models([str(tiny_run), str(file)])
    with pytest.raises(ServeFault, match="give a run directory"):
        load_models([])


def test_an_export_is_served_without_d(tiny_run: Path, tmp_path: Path, serving: Serving) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "tiny.ONNX"
    export_model(tiny_run, tmp_path / "tiny.onnx", format="onnx", dynamic=True)
    (tmp_path / "tiny.onnx").rename(file)
    for name in ("generator", "discriminator"):  # what lies beside is not of the same moment
        shutil.copy(tiny_run / f"{name}.safetensors", tmp_path)
    client = serving(load_models([f"onnx={file}"]))
    image = draw_pair(4)
    response = client.post("/api/translate?seed=1", content=encoded(image), headers=PNG)
    np.testing.assert_array_equal(decoded(response.content), Translator.load(file)(image, seed=1))
    (described,) = client.get("/api/models").json()["models"]
    assert described["patches"] is None


# -----------------------------------------------------------------------------------------------------------
# What is refused


def test_wrong_parameters_are_named(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models)
    body = encoded(draw_pair(0)[:8, :8])
    for query, word in (
        ("seed=-1", "seed"), ("seed=x", "seed"), ("seed=1e3", "seed"), ("seed=2147483648", "seed"),
        ("samples=0", "samples"), ("samples=17", "samples"), ("patches=2", "patches"),
        ("picture=yes", "picture"),
        ("seed=1&seed=2", "seed"), ("sead=1", "sead"), ("seed=", "seed"), ("samples=\u0661", "samples"),
    ):  # fmt: skip
        assert word in refused(client.post(f"/api/translate?{query}", content=body, headers=PNG), 422), query
    assert "tiny" in refused(client.post("/api/translate?model=../x", content=body, headers=PNG), 404)
    for header in ("a", "a;b", "a;1;2", ";1", "a;-1", "a" * 65 + ";1", "a;1" + "0" * 20, "a b;1"):
        refused(client.post("/api/translate", content=body, headers={**PNG, "X-Drawing": header}), 422)
    refused(client.post("/api/translate", content=body, headers={**PNG, "Accept": "text/html"}), 406)
    refused(client.get("/api/translate"), 405)
    refused(client.delete("/api/models"), 405)
    for path in ("/nothing", "/api/nothing", "/page/../server.py", "/..%2fserver.py", "/server.py", "/a/b/c"):
        refused(client.get(path), 404)


def test_d_is_not_asked_where_there_is_none(serving: Serving) -> None:
    client = serving({"m": served(untrained(BYTE, BYTE))})
    body = encoded(draw_pair(0)[:8, :8])
    assert "no D" in refused(client.post("/api/translate?patches=1", content=body, headers=PNG), 422)


def test_only_the_allowed_formats_enter(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models)
    png = encoded(draw_pair(0)[:8, :8])
    for kind in (
        "",
        "image/gif",
        "application/octet-stream",
        "multipart/form-data; boundary=x",
        "image/svg+xml",
    ):
        refused(client.post("/api/translate", content=png, headers={"Content-Type": kind}), 415)
    assert "PNG" in refused(
        client.post("/api/translate", content=png, headers={"Content-Type": "image/jpeg"}), 415
    )
    gif = encoded(np.zeros((4, 4), np.uint8), "GIF")
    for other in (gif, b"BM" + bytes(60), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 40):
        refused(client.post("/api/translate", content=other, headers=PNG), 415)
    assert client.post("/api/translate", content=png, headers={"Content-Type": "IMAGE/PNG; x=y"}).is_success
    refused(client.post("/api/translate", content=b"", headers=PNG), 400)


def test_a_body_has_a_bounded_size(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models, limits=Limits(max_mb=0.01))
    small = encoded(draw_pair(0)[:8, :8])
    assert client.post("/api/translate", content=small, headers=PNG).is_success
    large = small + bytes(11_000)
    assert "0.01 MiB" in refused(client.post("/api/translate", content=large, headers=PNG), 413)

    def chunks() -> Iterator[bytes]:  # without a length beforehand
        yield small
        for _ in range(11):
            yield bytes(1000)

    refused(client.post("/api/translate", content=chunks(), headers=PNG), 413)
    assert client.post("/api/translate", content=small, headers=PNG).is_success


def test_a_body_must_arrive_in_time(
    models: dict[str, Served], serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.serve.requests.MOST_SECONDS", 0.2)
    client = serving(models)
    where = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(where, timeout=20) as slow:
        slow.sendall(
            b"POST /api/translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
            b"Content-Length: 1000\r\n\r\n\x89PNG"
        )
        assert b" 408 " in slow.recv(4096)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, *more: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    )


def webp_of(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff_of(array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def tiff_claiming(width: int, height: int) -> bytes:
    data = bytearray(tiff_of(np.zeros((8, 8), np.uint8)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tif:
        for tag, value in ((256, width), (257, height)):
            found = tif.pages.first.tags[tag]
            data[found.valueoffset : found.valueoffset + 4] = struct.pack(
                "<H2x" if found.dtype == 3 else "<I", value
            )
    return bytes(data)


def npy_claiming(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"shape": shape, "fortran_order": False, "descr": dtype})
    return out.getvalue() + bytes(64)


EXIF = chunk(b"eXIf", b"II*\0" + bytes(8))
BOMBS = {
    "png": ("image/png", png_of(60_000, 60_000)),
    "png with exif": ("image/png", png_of(60_000, 60_000, EXIF, data=bytes(1000))),
    "png of one row": ("image/png", png_of(30_000, 1)),
    "png, a second header": (
        "image/png",
        png_of(8, 8, chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), data=bytes(200)),
    ),
    "webp": ("image/webp", webp_of(16_000, 16_000)),
    "jpeg": ("image/jpeg", jpeg_of(60_000, 60_000)),
    "tiff": ("image/tiff", tiff_claiming(60_000, 60_000)),
    "tiff of many channels": (
        "image/tiff",
        tiff_of(np.zeros((64, 3000, 3000), np.uint8), compression="zlib", photometric="minisblack"),
    ),
    "tiff of a huge tile": (
        "image/tiff",
        tiff_of(np.zeros((16, 16), np.float64), tile=(16384, 16384), compression="zlib"),
    ),
    "npy": ("application/x-npy", npy_claiming((60_000, 60_000))),
    "npy of many channels": ("application/x-npy", npy_claiming((4000, 4000, 64))),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(
    models: dict[str, Served], serving: Serving, bomb: str
) -> None:
    kind, body = BOMBS[bomb]
    assert len(body) < 2**22, "small as a file"
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.001)

    client = serving(models)
    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    response = client.post("/api/translate", content=body, headers={"Content-Type": kind})
    done.set()
    watcher.join()
    sentence = refused(response, 413 if "header" not in bomb else response.status_code)
    assert response.status_code in (400, 413, 422), sentence
    assert peak - before < 100 * 2**20, f"{(peak - before) / 2**20:.0f} MiB for {sentence}"


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_tiff_must_be_plain(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models)
    tiff = {"Content-Type": "image/tiff"}
    jpeg = io.BytesIO()
    Image.fromarray(draw_pair(0)).save(jpeg, format="TIFF", compression="jpeg")
    assert "compressed" in refused(client.post("/api/translate", content=jpeg.getvalue(), headers=tiff), 415)
    many = tiff_of(np.zeros((90, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    assert "pages" in refused(client.post("/api/translate", content=many, headers=tiff), 413)
    two_kinds = tiff_of(
        draw_pair(0)[:8, :8], photometric="rgb", metadata=None, description="ImageJ=1\nimages=2\n<OME></OME>"
    )
    assert "two kinds" in refused(client.post("/api/translate", content=two_kinds, headers=tiff), 400)
    for compression in ("lzw", "deflate", "packbits"):
        pytest.importorskip("imagecodecs")
        body = tiff_of(draw_pair(0)[:8, :8], photometric="rgb", compression=compression)
        assert client.post("/api/translate", content=body, headers=tiff).is_success, compression


def test_images_of_another_kind_are_one_sentence(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models)

    def post(kind: str, body: bytes) -> str:
        return refused(client.post("/api/translate", content=body, headers={"Content-Type": kind}), 422)

    assert "1 channel" in post("image/png", encoded(np.zeros((8, 8), np.uint8)))
    assert "float32" in post("image/tiff", tiff_of(np.zeros((8, 8, 3), np.float32), photometric="rgb"))
    nan = io.BytesIO()
    np.save(nan, np.full((8, 8, 3), np.nan, np.float32))
    assert "NaN" in post("application/x-npy", nan.getvalue())
    objects = io.BytesIO()
    np.save(objects, np.array([[{}]], dtype=object), allow_pickle=True)
    refused(
        client.post(
            "/api/translate", content=objects.getvalue(), headers={"Content-Type": "application/x-npy"}
        ),
        400,
    )
    frames = [Image.fromarray(draw_pair(i)[:8, :8]) for i in range(2)]
    moving = io.BytesIO()
    frames[0].save(moving, format="PNG", save_all=True, append_images=frames[1:])
    assert "animation" in post("image/png", moving.getvalue())
    deep = encoded(np.zeros((8, 8), np.uint16))
    assert "picture" in refused(client.post("/api/translate?picture=1", content=deep, headers=PNG), 422)


def test_many_samples_of_a_large_image_are_refused(models: dict[str, Served], serving: Serving) -> None:
    body = encoded(np.zeros((1024, 1024, 3), np.uint8))
    assert "4 samples" in refused(
        serving(models).post("/api/translate?samples=5", content=body, headers=PNG), 413
    )


def test_a_diverged_model_is_a_sentence(serving: Serving) -> None:
    translator = untrained(BYTE, BYTE)
    with torch.no_grad():
        for parameter in translator.generator.parameters():
            parameter.fill_(float("nan"))
    client = serving({"m": served(translator)})
    body = encoded(draw_pair(0)[:8, :8])
    assert "diverged" in refused(client.post("/api/translate", content=body, headers=PNG), 422)


class Broken(Translator):
    """A model with a fault of ours in it."""

    def translate_tensor(self, *_: Any, **__: Any) -> torch.Tensor:
        raise KeyError("/secret/place")


def test_a_fault_of_ours_is_a_503_without_a_trace(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    client = serving({"m": served(untrained(BYTE, BYTE, Broken))})
    response = client.post("/api/translate", content=encoded(draw_pair(0)[:8, :8]), headers=PNG)
    assert "secret" not in refused(response, 503)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "secret" in caplog.text, "but whoever serves is told"
    assert client.get("/api/models").is_success


# -----------------------------------------------------------------------------------------------------------
# Hostile files


def test_what_is_stretched_to_be_seen_is_not_what_is_saved() -> None:
    ranged = replace(BYTE, scaling="range", low=(10.0,) * 3, high=(200.0,) * 3)
    numbers = replace(
        BYTE, channels=1, low=(0.0,), high=(7.0,), kind="labels", palette=tuple((n,) for n in range(8))
    )
    assert is_picture(BYTE) and is_picture(lab_spec("a", "b"))
    assert not is_picture(ranged) and not is_picture(numbers)


def damaged(count: int) -> Iterator[tuple[str, bytes]]:
    """Files with bytes changed, cut off, repeated: the same ones every time."""
    rng = random.Random(7)
    image = draw_pair(0)[:12, :12]
    npy = io.BytesIO()
    np.save(npy, image)
    whole = {
        "image/png": [encoded(image), png_of(12, 12, EXIF, data=bytes(12 * 37))],
        "image/jpeg": [encoded(image, "JPEG")],
        "image/webp": [encoded(image, "WEBP"), encoded(image, "WEBP", lossless=True)],
        "image/tiff": [
            tiff_of(image, photometric="rgb"), tiff_of(image, photometric="rgb", compression="zlib"),
            tiff_of(image.transpose(2, 0, 1), imagej=True), tiff_of(image, photometric="rgb", bigtiff=True),
        ],
        "application/x-npy": [npy.getvalue()],
    }  # fmt: skip
    for _ in range(count):
        kind = rng.choice(list(whole))
        data = bytearray(rng.choice(whole[kind]))
        for _ in range(rng.randint(1, 6)):
            at = min(len(data) - 1, int(rng.expovariate(1 / 60)))
            if rng.random() < 0.15:
                del data[rng.randint(13, len(data)) :]
            elif rng.random() < 0.2:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            else:
                data[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            if not data:
                break
        yield kind, bytes(data)


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # decoders warn of what is damaged; the command line ignores it too
def test_damaged_files_are_refused_in_a_sentence(
    models: dict[str, Served], serving: Serving, count: int
) -> None:
    client = serving(models, limits=Limits(max_side=512))
    seen: dict[int, int] = {}
    for number, (kind, body) in enumerate(damaged(count)):
        response = client.post(
            f"/api/translate?picture={number % 2}", content=body, headers={"Content-Type": kind}
        )
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        if response.status_code != 200:
            assert response.status_code in (400, 413, 415, 422), (number, response.text)
            refused(response, response.status_code)
    assert seen[200] > 0.02 * count and sum(seen.values()) - seen[200] > 0.4 * count, seen


# -----------------------------------------------------------------------------------------------------------
# Who waits


class Held(Translator):
    """A model that computes only when it is let: what the line does can then be seen."""

    go: threading.Event
    began: list[float]

    def translate_tensor(self, x: torch.Tensor, *, seed: int = 0, sample: int = 0) -> torch.Tensor:
        self.began.append(round(float((x[0, 0, 0, 0] + 1) * 127.5)))
        assert self.go.wait(60)
        return super().translate_tensor(x, seed=seed, sample=sample)


@pytest.fixture
def held() -> Iterator[Held]:
    translator = untrained(BYTE, BYTE, Held)
    assert isinstance(translator, Held)
    translator.go, translator.began = threading.Event(), []
    yield translator
    translator.go.set()


class Crowd:
    """Requests at the same time, told apart by their grey."""

    def __init__(self, client: httpx.Client, pool: ThreadPoolExecutor) -> None:
        self.client, self.pool = client, pool

    def send(self, grey: int, drawing: str | None = None) -> Any:
        body = encoded(np.full((4, 4, 3), grey, np.uint8))
        headers = PNG if drawing is None else {**PNG, "X-Drawing": drawing}
        future = self.pool.submit(self.client.post, "/api/translate", content=body, headers=headers)
        time.sleep(0.1)  # so that they arrive in this order
        return future


@pytest.fixture
def crowd(held: Held, serving: Serving) -> Iterator[Callable[..., Crowd]]:
    with ThreadPoolExecutor(20) as pool:

        def gather(**settings: Any) -> Crowd:
            return Crowd(serving({"m": served(held)}, **settings), pool)

        yield gather
        held.go.set()


def test_a_full_line_sends_away_with_a_time_to_come_back(held: Held, crowd: Callable[..., Crowd]) -> None:
    people = crowd(queue=2)
    inside = people.send(1)
    wait_until(lambda: held.began == [1])
    waiting = [people.send(2), people.send(3)]
    away = people.send(4).result()
    refused(away, 503)
    assert int(away.headers["retry-after"]) >= 1
    held.go.set()
    assert [future.result().status_code for future in (inside, *waiting)] == [200] * 3
    assert held.began == [1, 2, 3], "in the order of their coming"


def test_the_newest_drawing_of_a_client_wins(held: Held, crowd: Callable[..., Crowd]) -> None:
    people = crowd(queue=3)
    first = people.send(1, "ann;1")
    wait_until(lambda: held.began == [1])
    second, other = people.send(2, "ann;2"), people.send(50, "bob;1")
    third = people.send(3, "ann;3")
    assert second.result().status_code == 204, "at once, while the model is still busy"
    late = people.send(2, "ann;2")
    assert late.result().status_code == 204
    fourth = people.send(4, "ann;4")
    assert third.result().status_code == 204
    beside = people.send(4, "ann;4")
    held.go.set()
    done = [future.result().status_code for future in (first, other, fourth, beside)]
    assert done == [200] * 4, "one that is computed, another client's, and two models' of the same drawing"
    assert held.began == [1, 50, 4, 4]


def test_who_waits_too_long_is_told(held: Held, crowd: Callable[..., Crowd]) -> None:
    people = crowd(wait_seconds=0.3)
    inside = people.send(1)
    wait_until(lambda: held.began == [1])
    waiting = people.send(2).result()
    refused(waiting, 504)
    assert int(waiting.headers["retry-after"]) >= 1
    held.go.set()
    assert inside.result().status_code == 200, "what is computed is not given up"
    assert people.send(3).result().status_code == 200
    assert held.began == [1, 3], "what was given up is not computed"


def test_who_leaves_gives_up_the_place(held: Held, crowd: Callable[..., Crowd]) -> None:
    people = crowd(queue=1)
    people.send(1)
    wait_until(lambda: held.began == [1])
    body = encoded(np.full((4, 4, 3), 2, np.uint8))
    with pytest.raises(httpx.ReadTimeout):
        people.client.post("/api/translate", content=body, headers=PNG, timeout=0.3)
    for _ in range(50):  # until the server has noticed
        last = people.send(3)
        if not last.done():
            break
        refused(last.result(), 503)
    held.go.set()
    assert last.result().status_code == 200
    assert held.began == [1, 3]


def test_many_clients_at_once_all_get_their_own(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models, queue=50)
    pictures = [np.ascontiguousarray(draw_pair(i)[:16, :16]) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda p: client.post("/api/translate", content=encoded(p), headers=PNG), pictures)
        )
    for picture, answer in zip(pictures, answers, strict=True):
        np.testing.assert_array_equal(decoded(answer.content), models["tiny"].translator(picture))


# -----------------------------------------------------------------------------------------------------------
# Who may ask


def test_the_page_and_every_answer_have_their_headers(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models)
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/models", "/api/example", "/nothing"):
        response = client.get(path)
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "data:" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["cache-control"] in (
            ("no-cache",) if "." in path or path == "/" else ("no-store",)
        )


def test_the_page_asks_nobody_else() -> None:
    named = set()
    for path in PAGES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|import\([\"']http|url\(http", text), (
            path.name
        )
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=\"", text), (
            f"{path.name}: held by the policy"
        )
        named |= set(re.findall(r"""from ["']\./([\w.]+)["']|(?:src|href)="([\w.]+)["#]""", text))
    for name in filter(None, (a or b for a, b in named)):
        assert (PAGES / name).exists(), name
    talking = [p.name for p in PAGES.glob("*.js") if "fetch(" in p.read_text(encoding="utf-8")]
    assert talking == ["engine.js"], "one module talks to a server"


def test_only_its_own_names(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models, allow_hosts=("lab.example",))

    def get(host: str, **headers: str) -> httpx.Response:
        return client.get("/api/models", headers={"Host": host, **headers})

    for host in ("127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:80", "lab.example", "lab.example:443"):
        assert get(host).is_success, host
    for host in (
        "evil.example",
        "lab.example.evil",
        "0.0.0.0",
        "192.168.1.5",
        "localhost.evil:8000",
        "[::2]",
    ):
        assert host.split(":")[0].strip("[") in refused(get(host), 421)
    refused(get(""), 400)


def test_on_all_addresses_numbers_are_names_too(models: dict[str, Served], serving: Serving) -> None:
    client = serving(models, host="0.0.0.0")
    assert client.get("/", headers={"Host": "192.168.1.5:8000"}).is_success
    refused(client.get("/", headers={"Host": "evil.example"}), 421)


def test_other_pages_may_not_use_it_unless_allowed(models: dict[str, Served], serving: Serving) -> None:
    body = encoded(draw_pair(0)[:8, :8])
    client = serving(models)
    own = str(client.base_url).rstrip("/")

    def post(client: httpx.Client, origin: str) -> httpx.Response:
        return client.post("/api/translate", content=body, headers={**PNG, "Origin": origin})

    assert post(client, own).is_success
    for origin in ("https://evil.example", "null", f"{own}.evil", "http://127.0.0.1:1"):
        refused(post(client, origin), 403)
    refused(client.options("/api/translate", headers={"Origin": "https://evil.example"}), 403)

    friendly = serving(models, allow_origins=("https://lab.example",))
    answer = post(friendly, "https://lab.example")
    assert answer.headers["access-control-allow-origin"] == "https://lab.example"
    refused(post(friendly, "https://evil.example"), 403)
    preflight = friendly.options(
        "/api/translate",
        headers={
            "Origin": "https://lab.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, x-drawing",
        },
    )
    assert preflight.status_code == 200


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/tiff", "image/tiff"),
        ("application/json", "application/json"),
        ("image/png;q=0.5, application/json", "application/json"),
        ("image/png;q=0, */*", "image/tiff"),
        ("IMAGE/TIFF; q=1.0, */*;q=0.1", "image/tiff"),
        ("image/*;q=0.2, image/tiff;q=0.1, application/json;q=0.15", "image/png"),
        ("image/png;q=broken, image/tiff", "image/tiff"),
    ],
)
def test_the_container_that_is_liked_best(accept: str, chosen: str) -> None:
    assert chosen_type(accept, ["image/png", "image/tiff", "application/json"]) == chosen


# -----------------------------------------------------------------------------------------------------------
# Its description


def conforms(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str = "$") -> None:
    """A JSON value against the small part of JSON Schema that the description uses."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        for one in schema["anyOf"]:
            try:
                return conforms(value, one, schemas, where)
            except AssertionError:
                continue
        raise AssertionError(f"{where}: {value!r} is none of {schema['anyOf']}")
    if "enum" in schema:
        assert value in schema["enum"], where
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    named = schema.get("type", [])
    named = [named] if isinstance(named, str) else named
    assert not named or any(isinstance(value, kinds[n]) for n in named), f"{where}: {value!r} is no {named}"
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) == set(schema["properties"]), where
        for name, one in schema["properties"].items():
            conforms(value[name], one, schemas, f"{where}.{name}")
    for i, item in enumerate(value if isinstance(value, list) else ()):
        conforms(item, schema.get("items", {}), schemas, f"{where}[{i}]")
    return None


def test_the_description_is_that_of_the_routes_and_the_answers(
    models: dict[str, Served], serving: Serving
) -> None:
    client = serving(models)
    described = client.get("/api/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    routes = {
        (route.path, method.lower())
        for route in create_app(models, Settings()).routes
        for method in route.methods - {"HEAD"}
        if route.path.startswith("/api/")
    }  # fmt: skip
    assert {(path, m) for path, operations in described["paths"].items() for m in operations} == routes
    translate = described["paths"]["/api/translate"]["post"]
    assert {p["name"] for p in translate["parameters"] if p["in"] == "query"} == set(Asked.__slots__) - {
        "drawing"
    }
    seed = next(p for p in translate["parameters"] if p["name"] == "seed")["schema"]
    body, schemas = encoded(draw_pair(0)[:16, :16]), described["components"]["schemas"]
    for value, status in ((seed["maximum"], 200), (seed["maximum"] + 1, 422)):
        assert client.post(f"/api/translate?seed={value}", content=body, headers=PNG).status_code == status

    conforms(client.get("/api/models").json(), schemas["Models"], schemas)
    for query in ("", "?samples=2", "?patches=1"):
        made = client.post(
            f"/api/translate{query}", content=body, headers={**PNG, "Accept": "application/json"}
        )
        conforms(made.json(), schemas["Translation"], schemas)
    conforms(client.get("/nothing").json(), schemas["Error"], schemas)
    with pytest.raises(AssertionError):
        conforms({"width": "3"}, schemas["Translation"], schemas)

    text = json.dumps(described)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in schemas
    for operation in (o for path in described["paths"].values() for o in path.values()):
        assert operation["summary"] and "200" in operation["responses"]


# -----------------------------------------------------------------------------------------------------------
# The command


def start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    command = [
        sys.executable,
        "-m",
        "pairloom",
        "serve",
        *map(str, arguments),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Draw: (http://\S+)", line):
            return process, found[1]
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_real_process_serves_and_ends(tiny_run: Path, signum: signal.Signals) -> None:
    process, url = start(f"tiny={tiny_run}")
    with httpx.Client(base_url=url) as client:
        image = draw_pair(4)[:16, :16]
        answer = client.post("/api/translate", content=encoded(image), headers=PNG)
        np.testing.assert_array_equal(decoded(answer.content), Translator.load(tiny_run, device="cpu")(image))
        process.send_signal(signum)
        _, said = process.communicate(timeout=30)
    assert process.returncode in (0, -signum), said
    assert "Traceback" not in said


def test_the_curl_of_the_page_in_the_docs_works(tiny_run: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    lines = re.search(r"```sh\n(curl .*?)```", text, re.DOTALL)
    assert lines is not None
    commands = lines[1].replace("\\\n", " ").strip().splitlines()
    assert len(commands) >= 3
    Image.fromarray(draw_pair(0)[:16, :16]).save(tmp_path / "labels.png")
    process, url = start(f"facades={tiny_run}")
    try:
        for command in commands:
            words = shlex.split(command.replace("http://127.0.0.1:8000/", url), comments=True)
            done = subprocess.run([*words, "--silent", "--show-error", "--fail"], cwd=tmp_path, check=False,
                                  capture_output=True, text=True)  # fmt: skip
            assert done.returncode == 0, (command, done.stderr)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert decoded((tmp_path / "photo.png").read_bytes()).shape == (16, 16, 3)


def test_mistakes_are_one_sentence(tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            ([], "run directory"),
            ([tmp_path / "none"], "no such file"),
            ([tiny_run, "--port", port], "another --port"),
            ([tiny_run, "--port", "70000"], "port is 70000"),
            ([tiny_run, "--queue", "0"], "queue is 0"),
            ([tiny_run, "--max-mb", "nan"], "max-mb is nan"),
            ([tiny_run, "--allow-origin", "lab.example"], "https://"),
        ):
            with pytest.raises(SystemExit) as stop:
                cli("serve", *arguments)
            assert stop.value.code == 2
            said = capfd.readouterr().err
            assert said.startswith("pairloom: ") and words in said, said
            assert len(said.strip().splitlines()) == 1
