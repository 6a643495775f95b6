"""The page to draw on with no server: a folder of files, in which the visitor's browser runs the models."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pairloom import hub, images, pictures
from pairloom.checkpoint import CheckpointError
from pairloom.export import ExportError, export_model
from pairloom.networks import NormStats
from pairloom.onnx_generator import OnnxGenerator, Written
from pairloom.serve import answers
from pairloom.serve.colours import palette_for
from pairloom.serve.examples import find_examples
from pairloom.serve.models import Served, name_and_path
from pairloom.serve.web_runtime import WASM, WEBGPU, WebRuntime, find_runtime
from pairloom.translator import Translator

PAGES = Path(__file__).parent / "pages"
SITE = Path(__file__).parent / "site"
"""What stands in the place of the page's own engine, and its worker."""
MAX_SIDE = 1024
"""A canvas has as many pixels as its square at most: WebAssembly has 4 GB, and phones less."""
MOST_SAMPLES = 16
LARGE_MB = 100
"""Of a file: GitHub takes no larger ones."""
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'"
)
HEAD = f"""<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="referrer" content="no-referrer">
<script src="local.js"></script>
"""
BEFORE = '<meta name="viewport"'
"""Where in the page's head that stands."""
HEADERS = """/*
  Cross-Origin-Opener-Policy: same-origin
  Cross-Origin-Embedder-Policy: require-corp
"""


@dataclass(frozen=True, slots=True)
class Site:
    """What was written."""

    folder: Path
    notes: tuple[str, ...]
    """About the models, and how much a visitor loads, as sentences."""


@dataclass(frozen=True, slots=True)
class _Model:
    served: Served
    onnx: bytes
    written: Written
    said: tuple[str, ...]


def write_site(
    runs: Sequence[str],
    out: str | Path,
    *,
    runtime: Path | None = None,
    half: bool = False,
    checkpoint: Literal["last", "best"] = "last",
    dropout: bool | None = None,
    norm_stats: NormStats | None = None,
    tolerance: float | None = None,
) -> Site:
    """Write a folder that can be put on any static host.

    Args:
        runs: What `Translator.load` takes; NAME=PATH names one.
        out: The folder; it must not be there yet, or be empty.
        runtime: Folder with onnxruntime-web; None: npm fetches it.
        half: float16 weights and arithmetic, as in `export_model`; likewise those that follow.
        checkpoint: Of run directories.
        dropout: Instead of the saved choice.
        norm_stats: Instead of the saved choice.
        tolerance: Of the check of each model.

    Raises:
        ExportError: No model is given, the folder is not free, or a model cannot be drawn for or exported.
        RuntimeFault: There is no onnxruntime-web.
        CheckpointError: There is no model at a path.
    """
    out = Path(out)
    if not runs:
        raise ExportError("export: --format web needs a model; give a run directory, or several.")
    _refuse_taken(out)
    named = dict(map(name_and_path, runs))
    if len(named) < len(runs):
        raise ExportError("Two models have the same name; name them: one=PATH other=PATH.")
    choices: dict[str, Any] = {"checkpoint": checkpoint, "dropout": dropout, "norm_stats": norm_stats}
    drawn = [_load(name, path, choices) for name, path in named.items()]
    found = find_runtime(runtime)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
            made = [
                _export(served, path, Path(work), half=half, tolerance=tolerance, **choices)
                for served, path in zip(drawn, named.values(), strict=True)
            ]
            folder = Path(work) / "site"  # with the usual permissions, which the temporary one has not
            folder.mkdir()
            _write(folder, made, found)
            site = Site(out, _notes(made, found))
            if out.exists():
                out.rmdir()  # empty; not every system puts a folder in the place of another
            folder.replace(out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(
            f"{out}: cannot be written ({reason}); check that its folder is writable."
        ) from error
    return site


def _refuse_taken(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise ExportError(f"{out}: is not empty; give a folder that is not there yet.")
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out}: is a file; the format web is a folder.")


def _load(name: str, path: str, choices: dict[str, Any]) -> Served:
    translator = Translator.load(path, device="cpu", **choices)
    if isinstance(translator.generator, OnnxGenerator):
        raise ExportError(f"{path}: is an export already; give the run directory it came from.")
    examples = find_examples(hub.resolve(path), translator.config)
    palette = palette_for(translator.source_spec, translator.config, examples)
    if palette.manner == "none":
        raise ExportError(
            f"{path}: its sources have {translator.source_spec.channels} channels, and the page can draw "
            "only those of 1 or 3, or label maps; export it as onnx."
        )
    return Served(name, translator, None, palette, examples)


def _export(
    served: Served, path: str, work: Path, *, half: bool, tolerance: float | None, **choices: Any
) -> _Model:
    file = work / "model.onnx"
    try:
        exported = export_model(
            path, file, format="onnx", half=half, dynamic=True, tolerance=tolerance, **choices
        )
    except (ExportError, CheckpointError) as error:
        # It speaks of a file that nobody named, the same one for every model.
        raise ExportError(str(error).replace(str(file), f"The model {served.name} ({path})")) from error
    generator = OnnxGenerator.load(file)
    model = _Model(served, file.read_bytes(), generator.written, tuple(c.words() for c in exported.checks))
    file.unlink()
    return model


def _write(folder: Path, models: Sequence[_Model], runtime: WebRuntime) -> None:
    for source in (PAGES, SITE):
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count(BEFORE) == 1
    (folder / "index.html").write_text(page.replace(BEFORE, HEAD + BEFORE), encoding="utf-8")
    (folder / "models").mkdir()
    (folder / "examples").mkdir()
    for number, model in enumerate(models, 1):
        (folder / "models" / f"{number}.onnx").write_bytes(model.onnx)
        for i, example in enumerate(model.served.examples, 1):
            (folder / "examples" / f"{number}-{i}.png").write_bytes(answers.png(example))
    described = {
        "models": [describe(model, number) for number, model in enumerate(models, 1)],
        "limits": {"max_side": MAX_SIDE, "samples": MOST_SAMPLES},
        "webgpu": runtime.webgpu,
    }
    (folder / "models.json").write_text(json.dumps(described, allow_nan=False), encoding="utf-8")
    runtime.write(folder / "runtime")
    about = json.dumps(runtime.describe(), indent=1)
    (folder / "runtime" / "runtime.json").write_text(about, encoding="utf-8")
    (folder / "README.txt").write_text(_readme(models, runtime), encoding="utf-8")
    (folder / "_headers").write_text(HEADERS, encoding="utf-8")
    (folder / ".nojekyll").touch()


def describe(model: _Model, number: int) -> dict[str, Any]:
    """As `/api/models` describes it, and under "site" what the page's own engine must know."""
    served, written = model.served, model.written
    target = served.translator.target_spec
    shown: list[list[int]] = []
    if target.kind == "labels":
        strip = images.to_tensor(np.array(target.palette, target.dtype)[None], target)
        shown = pictures.preview(strip, target)[0].tolist()
    return {
        **served.describe(),
        "site": {
            "file": f"models/{number}.onnx",
            "bytes": len(model.onnx),
            "sha256": hashlib.sha256(model.onnx).hexdigest(),
            **written.to_dict(),
            "shown": shown,
            "examples": [f"examples/{number}-{i}.png" for i, _ in enumerate(served.examples, 1)],
        },
    }


# ------------------------------------------------------------------------------------------------------------
# Words


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _notes(models: Sequence[_Model], runtime: WebRuntime) -> tuple[str, ...]:
    said = []
    for model in models:
        name, size = model.served.name, len(model.onnx)
        said += [f"{name}: checked on {words}." for words in model.said]
        if size > LARGE_MB * 1e6:
            said.append(
                f"Warning: {name} is {_megabytes(size)}, long to load, and more than the {LARGE_MB} MB that "
                "GitHub takes of a file; --half halves it, a quarter is had with half the base channels."
            )
    least = runtime.bytes_of(WASM) + len(models[0].onnx)
    said.append(
        f"A visitor loads {_megabytes(least)} for the first translation, before compression by the host."
    )
    if runtime.webgpu:
        more = runtime.bytes_of(WEBGPU) - runtime.bytes_of(WASM)
        said.append(f"With WebGPU it is {_megabytes(more)} more.")
    else:
        said.append("onnxruntime-web was given without its WebGPU files; the page runs on WebAssembly alone.")
    said.append("README.txt says how to put it on the web.")
    return tuple(said)


def _readme(models: Sequence[_Model], runtime: WebRuntime) -> str:
    names = ", ".join(model.served.name for model in models)
    return f"""A page to draw on, made by pairloom (models: {names}).
It needs no server of its own: the models run in the visitor's browser, and nothing that is drawn leaves it.

To look at it here, in this folder:    python3 -m http.server 8000 --bind 127.0.0.1
and open http://127.0.0.1:8000/ (a browser does not run it from the disk, file://).

To put it on the web: copy this whole folder to any static host, at the top or in a folder of any name. For
GitHub Pages commit it to the branch that is published; no build is needed.

Threads: browsers give them only to pages with these two headers, without which one thread is used:
    Cross-Origin-Opener-Policy: same-origin
    Cross-Origin-Embedder-Policy: require-corp
Netlify and Cloudflare Pages read them from the file _headers; GitHub Pages cannot send any. Cloudflare Pages
takes no file over 25 MiB: remove runtime/{WEBGPU[2]} there, and set "webgpu" in
models.json to false. Let the host compress .wasm and .mjs files if it can: a quarter of the bytes is left.

WebGPU is used where the browser has it; ?backend=wasm behind the address does without.

runtime/ is onnxruntime-web {runtime.version} (MIT, see runtime/LICENSE); runtime.json says where it is from,
and its checksums.
"""
