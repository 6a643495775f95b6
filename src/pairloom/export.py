"""Models for other programs: ONNX, torch.export, weights in half precision; compared before they count.

What is written has one meaning (`graph.Graph`), and is compared with the original as whoever gets it will run
it. An export whose numbers differ is no export: nothing is left under its name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from pairloom import checkpoint as checkpoints
from pairloom import noise
from pairloom.config import height_width
from pairloom.graph import Graph, NoiseInput, least_side
from pairloom.hub import without_folders
from pairloom.networks import NormStats
from pairloom.onnx_generator import METADATA, OnnxGenerator, Written
from pairloom.translator import Translator

Format: TypeAlias = Literal["onnx", "pt2", "safetensors"]
FORMATS: tuple[Format, ...] = ("onnx", "pt2", "safetensors")
TOLERANCE = 1e-4
"""Largest difference of a pixel, on [-1, 1], that a float32 export may have: 0.013 grey levels of 255."""
HALF_TOLERANCE = 0.01
"""The same of a half-precision export: 1.3 grey levels, at the worst pixel."""
LARGEST_ONNX = 2**31 - 2**20
"""Bytes that protobuf holds, and some for the graph."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")

Translation: TypeAlias = Callable[[Tensor, int | None], Tensor]
"""(x, key) -> y_hat, as every generator's forward."""


class ExportError(ValueError):
    """A model cannot be exported as asked, or the result is not the model; the message says the figures."""


@dataclass(frozen=True, slots=True)
class Check:
    """An export beside its original, on one input."""

    shape: tuple[int, ...]
    """Of the input, (N, C, H, W)."""
    largest: float
    """Difference of the worst pixel, on [-1, 1]."""
    mean: float

    def words(self) -> str:
        """Sizes and figures."""
        n, _, height, width = self.shape
        return f"{n} of {width}x{height}: largest difference {self.largest:.2g}, mean {self.mean:.2g}"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how it compared."""

    file: Path
    checks: tuple[Check, ...]
    tolerance: float
    notes: tuple[str, ...]
    """What the file takes and means, as sentences."""

    def words(self) -> str:
        """For people, a line each."""
        allowed = f"(of [-1, 1]; allowed {self.tolerance:g})"
        return "\n".join([*self.notes, *(f"Checked on {c.words()} {allowed}." for c in self.checks)])


def export_model(
    run: str | Path,
    out: str | Path,
    *,
    format: Format,
    half: bool = False,
    dynamic: bool = False,
    checkpoint: Literal["last", "best"] = "last",
    dropout: bool | None = None,
    norm_stats: NormStats | None = None,
    tolerance: float | None = None,
) -> Exported:
    """Write a generator for other programs, and compare it with the original.

    Args:
        run: What `Translator.load` takes: a run directory, a generator.safetensors, a checkpoint.
        out: The file; its suffix is the format's.
        format: onnx; pt2, of torch.export; safetensors, our own.
        half: float16 weights; in a graph also float16 arithmetic, its norms and last layer aside.
        dynamic: Any batch, any height and width that are multiples of the stride; else one image of the
            training crop's size. Of onnx and pt2.
        checkpoint: Of a run directory: the last step, or the best by validation.
        dropout: Instead of the saved choice: with z, as further inputs, or without.
        norm_stats: Instead of the saved choice: image or running.
        tolerance: Largest difference allowed, on [-1, 1]; None: TOLERANCE or HALF_TOLERANCE.

    Raises:
        ExportError: It cannot be written as asked, or the result differs; nothing is left under `out`.
        CheckpointError: No model there.
    """
    out = Path(out)
    if out.suffix != f".{format}":
        raise ExportError(f"{out}: a file of the format {format} ends in .{format}; name it so.")
    if out.is_dir():
        raise ExportError(f"{out}: is a folder; give the name of a file, in it or beside it.")
    if format == "safetensors" and dynamic:
        raise ExportError("A safetensors file holds weights, which take any size; leave dynamic out.")
    model = Translator.load(run, checkpoint=checkpoint, device="cpu", dropout=dropout, norm_stats=norm_stats)
    generator = model.generator
    if isinstance(generator, OnnxGenerator):
        raise ExportError(f"{run}: is an export already; give the run directory it came from.")
    allowed = tolerance if tolerance is not None else HALF_TOLERANCE if half else TOLERANCE
    if not 0 <= allowed <= 2:
        raise ExportError(f"tolerance is {tolerance}; it is a difference on [-1, 1]: from 0 to 2.")
    if format == "safetensors":
        with _whole(out) as file:
            _write_weights(model, file, half=half)
            again = Translator.load(file, device="cpu").generator
            checks = compare(generator, again, _shapes(model, None), dropout=model.semantics.dropout)
            _refuse_above(allowed, checks, out, half=half)
        return Exported(out, checks, allowed, _notes(model, None, half=half))
    written, graph = write_graph(model, half=half, dynamic=dynamic, where=str(run))
    if format == "onnx":
        _refuse_what_onnx_cannot(graph, run)
    description = {**_describe(model), "export": written.to_dict()}
    with _whole(out) as file:
        program = _program(graph, model, written)
        write = _write_onnx if format == "onnx" else _write_pt2
        write(program, written, file, json.dumps({"format": checkpoints.FORMAT, **description}))
        del program
        exported = OnnxGenerator.load(file) if format == "onnx" else _pt2_generator(file, written)
        checks = compare(generator, exported, _shapes(model, written), dropout=model.semantics.dropout)
        _refuse_above(allowed, checks, out, half=half)
    return Exported(out, checks, allowed, _notes(model, written, half=half))


def write_graph(
    model: Translator, *, half: bool = False, dynamic: bool = False, where: str = "The model"
) -> tuple[Written, Graph]:
    """The generator as exporters get it, and what it takes.

    Raises:
        ExportError: Its semantics cannot be written.
    """
    generator = model.generator
    assert not isinstance(generator, OnnxGenerator)
    if model.semantics.norm_stats == "batch" and model.config.generator.norm == "batch":
        raise ExportError(
            f'{where}: norm_stats is "batch", and a graph in which images depend on their neighbours is not '
            "written; export it with --norm-stats image, which is the same for one image at a time."
        )
    graph = Graph(generator, dropout=model.semantics.dropout, half=half).eval()
    return Written(
        stride=generator.stride,
        least_side=least_side(generator),
        size=None if dynamic else _training_size(model),
        half=half,
        noise=graph.noise,
    ), graph


def compare(
    original: Translation, exported: Translation, shapes: list[tuple[int, ...]], *, dropout: bool
) -> tuple[Check, ...]:
    """Both on the same inputs, each input another draw of z where it is on."""
    checks = []
    for number, shape in enumerate(shapes):
        x = _blocks(shape, number)
        key = noise.key(number) if dropout else None
        with torch.inference_mode():
            difference = (original(x, key) - exported(x, key)).abs()
        checks.append(Check(shape, float(difference.max()), float(difference.mean())))
    return tuple(checks)


def _blocks(shape: tuple[int, ...], number: int) -> Tensor:
    """Flat areas, edges and grain, as images have them, of [-1, 1]; the images of a batch differ."""
    n, channels, height, width = shape
    key = noise.key(number)
    areas = noise.uniform(key, 0, n * channels, 5, 7).view(n, channels, 5, 7)
    grain = noise.uniform(key, 1, n * channels, height, width).view(shape)
    return (F.interpolate(areas, (height, width)) * 1.6 + grain * 0.4) - 1


def _shapes(model: Translator, written: Written | None) -> list[tuple[int, ...]]:
    """Two inputs: of two sizes and batches where the file takes them."""
    assert model.config.generator.source_channels is not None
    channels = model.config.generator.source_channels
    if written is not None and written.size is not None:
        return [(1, channels, *written.size)] * 2
    height, width = _training_size(model)
    return [(1, channels, height, width), (2, channels, height, width + model.generator.stride)]


def _training_size(model: Translator) -> tuple[int, int]:
    """The training crop's, as multiples of the stride. Units: pixels."""
    assert not isinstance(model.generator, OnnxGenerator)
    stride, least = model.generator.stride, least_side(model.generator)
    height, width = (
        max(-(-side // stride) * stride, least) for side in height_width(model.config.data.crop_size)
    )
    return height, width


def _refuse_above(allowed: float, checks: tuple[Check, ...], out: Path, *, half: bool) -> None:
    if all(check.largest <= allowed for check in checks):  # also false for not-a-number
        return
    worst = "; ".join(check.words() for check in checks)
    advice = (
        "export it without half, or allow more with --tolerance"
        if half
        else "allow more with --tolerance only if you know why it differs"
    )
    raise ExportError(
        f"{out}: not written, because the export does not give the original's numbers ({worst}, of [-1, 1]; "
        f"allowed {allowed:g}); {advice}."
    )


def _refuse_what_onnx_cannot(graph: Graph, run: str | Path) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"The format onnx needs {', '.join(missing)}, not installed here; run: "
            'pip install "pairloom[export]"'
        )
    size = sum(p.numel() * p.element_size() for p in [*graph.parameters(), *graph.buffers()])
    if size > LARGEST_ONNX:
        raise ExportError(
            f"{run}: its weights take {size / 1e9:.2f} GB, and an .onnx file holds 2.1 GB at most; export it "
            "with --half, or as pt2 or safetensors."
        )


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A file of that name elsewhere, which takes its place when all went well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        file = Path(folder) / out.name
        yield file
        checkpoints.write_atomically(out, file.replace)


# ------------------------------------------------------------------------------------------------------------
# Writing


def _describe(model: Translator) -> dict[str, Any]:
    """What the file says of itself; it goes out into the world, so it names no folder of this machine."""
    from pairloom import __version__

    exported = {"pairloom": __version__, "torch": torch.__version__}
    described = without_folders(model.describe())
    return {**described, "provenance": {**described["provenance"], "exported_by": exported}}


def _write_weights(model: Translator, file: Path, *, half: bool) -> None:
    weights = model.generator.state_dict()
    if half:  # the kernels are nearly all of it; norms and biases stay as they are
        weights = {name: w.half() if w.ndim == 4 else w for name, w in weights.items()}
    checkpoints.save_weights(file, weights, _describe(model))


def _program(graph: Graph, model: Translator, written: Written) -> ExportedProgram:
    channels = model.config.generator.source_channels
    assert channels is not None
    stride = written.stride
    shapes: tuple[Any, ...] | None = None
    batch, height, width = 1, *(written.size or (0, 0))
    if written.size is None:
        # Examples of unlike sizes, or equal ones would be taken for one and the same.
        batch, height, width = 2, 2 * written.least_side, 3 * written.least_side
        least = written.least_side // stride
        rows, columns = Dim("h", min=least), Dim("w", min=least)

        def times(entry_stride: int) -> dict[int, Any]:
            factor = stride // entry_stride
            return {2: factor * rows, 3: factor * columns} if factor > 1 else {2: rows, 3: columns}

        sides = {0: Dim("batch"), 2: stride * rows, 3: stride * columns}
        shapes = (sides, *[tuple(times(entry.stride) for entry in written.noise)] * bool(written.noise))
    x = torch.zeros(batch, channels, height, width)
    given = [torch.zeros(entry.shape(height, width)) for entry in written.noise]
    with _quiet(), torch.no_grad():
        program = torch.export.export(graph, (x, *given), dynamic_shapes=shapes)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def _write_onnx(program: ExportedProgram, written: Written, file: Path, text: str) -> None:
    names = ["x", *(entry.name for entry in written.noise)]
    with _quiet():
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=names,
            output_names=["y_hat"],
        )
    assert made is not None
    proto = made.model_proto
    del proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    _name_sizes(proto.graph)
    proto.doc_string = " ".join(_inputs_in_words(written))
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, text
    file.write_bytes(proto.SerializeToString())


def _name_sizes(graph: Any) -> None:
    """The exporter's s77, 16*s39, 16*s94 as batch, 16*h, 16*w."""
    sides = graph.input[0].type.tensor_type.shape.dim
    found = {
        symbol: name
        for side, name in ((sides[0], "batch"), (sides[2], "h"), (sides[3], "w"))
        for symbol in re.findall(r"\bs\d+\b", side.dim_param)
    }
    for entry in (*graph.input, *graph.output, *graph.value_info):
        for side in entry.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(
                    r"\bs\d+\b", lambda match: found.get(match[0], match[0]), side.dim_param
                )


def _write_pt2(program: ExportedProgram, _: Written, file: Path, text: str) -> None:
    with _quiet():
        torch.export.save(program, file, extra_files={METADATA: text})


def _pt2_generator(file: Path, written: Written) -> Translation:
    """The file as other programs run it. Only for files just written: loading one may run what it holds."""
    with _quiet():
        # Without the guards, which refuse sides of one stride, though the graph is right for them.
        net = torch.export.load(file).module(check_guards=False)

    def translated(x: Tensor, key: int | None) -> Tensor:
        y_hat: Tensor = net(x, *(entry.values(key, *x.shape[-2:]) for entry in written.noise))
        return y_hat

    return translated


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters speak of their own insides: of torchvision, which is not needed, of deprecations."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("onnx", "export")]
    loggers.append(logging.getLogger("torch.onnx._internal.exporter._registration"))
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# ------------------------------------------------------------------------------------------------------------
# Words


def _inputs_in_words(written: Written) -> list[str]:
    stride, least = written.stride, written.least_side
    if written.size:
        takes = "one image of {1}x{0} pixels".format(*written.size)
    else:
        takes = f"images whose sides are multiples of {stride} pixels" + f", from {least}" * (least > stride)
    lines = [f"x takes {takes}, channels first, values in [-1, 1]; y_hat has the same size and range."]
    return [*lines, *(_noise_in_words(entry) for entry in written.noise)]


def _noise_in_words(entry: NoiseInput) -> str:
    sides = "H, W" if entry.stride == 1 else f"H / {entry.stride}, W / {entry.stride}"
    cells = f"(1, {entry.channels}, {sides})"
    if entry.kind == "gaussian":
        return f"{entry.name} {cells} takes standard normal numbers; zeros: no noise."
    return (
        f"{entry.name} {cells} takes 0 with probability {entry.rate:g}, else {1 / (1 - entry.rate):.6g}; "
        "ones: no dropout."
    )


def _notes(model: Translator, written: Written | None, *, half: bool) -> tuple[str, ...]:
    semantics, generator = model.semantics, model.config.generator
    said = []
    if generator.norm == "batch":
        whose = {"image": "each image's own", "running": "the averages of training", "batch": "the batch's"}
        said.append(f"Norms use {whose[semantics.norm_stats]} statistics.")
    if generator.noise != "none":
        said.append(f"The noise z is {'on' if semantics.dropout else 'off'}.")
    if written is not None:
        said += _inputs_in_words(written)
    if half:
        said.append("Weights are float16.")
    return tuple(said)
