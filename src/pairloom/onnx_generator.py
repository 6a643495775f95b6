"""A generator that lies in an ONNX file, run by onnxruntime or OpenVINO: to `Translator` one like the others.

Both are imported only when asked for. A file of ours says by itself what it is: its metadata hold the same
JSON as a generator.safetensors, and under "export" what was written into the graph.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pairloom.checkpoint import FORMAT, CheckpointError, SavedNetwork
from pairloom.config import MOST_BLOCKS, MOST_FILTERS, MOST_PIXELS
from pairloom.devices import DeviceError
from pairloom.graph import NoiseInput
from pairloom.images import ImageError, reflect_to
from pairloom.layers import NormStats
from pairloom.plain import record, shown

SUFFIX = ".onnx"
METADATA = "pairloom"
"""The key of the metadata, in every container."""
MOST_STRIDE = 2**8
"""Pixels: of eight halvings."""
PRECISIONS = {"openvino": "f32", "openvino:bf16": "bf16"}
"""OpenVINO's own default is bf16 wherever the processor has it; ours is what the file says."""

Run: TypeAlias = Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]]
"""From the inputs by name to the output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What an export wrote into the graph; "export" in the metadata."""

    stride: int
    """Both sides of x are multiples of this, in pixels,"""
    least_side: int
    """and at least this."""
    size: tuple[int, int] | None
    """(height, width) of a file for one size, which takes one image at a time; None: any."""
    half: bool
    noise: tuple[NoiseInput, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        noise = [{name: getattr(entry, name) for name in NoiseInput.__slots__} for entry in self.noise]
        return {
            "stride": self.stride,
            "least_side": self.least_side,
            "size": None if self.size is None else list(self.size),
            "half": self.half,
            "noise": noise,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Written:
        """From what `to_dict` gave, further fields aside.

        Raises:
            KeyError, TypeError, ValueError: It is not that, or no graph can be.
        """
        noise = values["noise"]
        if not isinstance(noise, list):
            raise ValueError(f"noise is {shown(noise)}; it must be a list")
        own = {f.name: values[f.name] for f in fields(cls)}
        found = record(cls, {**own, "noise": [record(NoiseInput, entry) for entry in noise]})
        found._check()
        return found

    def _check(self) -> None:
        """Raise a ValueError unless the numbers can be those of a generator."""
        numbers = [(name, getattr(self, name), 1, MOST_STRIDE) for name in ("stride", "least_side")]
        numbers += [("size", side, 1, MOST_PIXELS) for side in self.size or ()]
        for n in self.noise:
            numbers += [(f"stride of {shown(n.name)}", n.stride, 1, self.stride)]
            numbers += [(f"channels of {shown(n.name)}", n.channels, 1, 8 * MOST_FILTERS)]
            numbers += [(f"layer of {shown(n.name)}", n.layer, 0, MOST_BLOCKS)]
            if not 0 <= n.rate < 1:
                raise ValueError(f"rate of {shown(n.name)} is {n.rate}; it must be at least 0 and below 1")
        for name, number, least, most in numbers:
            if not least <= number <= most:
                raise ValueError(f"{name} is {number}; it must be from {least} to {most}")


class OnnxGenerator(nn.Module):
    """G(x, key) of a file; always in eval mode.

    Attributes:
        saved: Its description, without weights.
        written: What its graph takes.
        stride, z: As those of the other generators; z is "none" also where the file was written without.
        device: Where the tensors go in and come out.
    """

    def __init__(self, saved: SavedNetwork, written: Written, run: Run) -> None:
        super().__init__()
        self.saved, self.written = saved, written
        self.stride = written.stride
        self.device = torch.device("cpu")
        self._run = run
        config = saved.config().generator
        self._batch_norm = config.norm == "batch"
        self.z = config.noise if written.noise else "none"
        self.eval()

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> OnnxGenerator:
        """Of a file that `pairloom export` wrote.

        Args:
            path: The file.
            device: auto or cpu: onnxruntime; openvino: OpenVINO in f32; openvino:bf16: in bf16.

        Raises:
            CheckpointError: No such file, a damaged one, not ours, or the program is not installed.
            DeviceError: It runs elsewhere.
        """
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such file.")
        if device in PRECISIONS:
            run, metadata = _openvino(path, PRECISIONS[device])
        elif device in ("auto", "cpu"):
            run, metadata = _onnxruntime(path)
        else:
            raise DeviceError(
                f"device {device!r}: an .onnx file runs here on the CPU; use auto, cpu, openvino or "
                "openvino:bf16, or give the run directory."
            )
        description = _description(metadata, path)
        saved = SavedNetwork({}, description, path)
        try:
            written = Written.from_dict(description["export"])
        except KeyError as error:
            raise saved.incomplete(error) from error
        except (TypeError, ValueError) as error:
            raise saved.wrong("export", error) from error
        return cls(saved, written, run)

    def set_norm_stats(self, stats: NormStats) -> None:
        """Only what is written can be had.

        Raises:
            CheckpointError: The graph was written with others.
        """
        written = self.saved.description["semantics"]["norm_stats"]
        if self._batch_norm and stats != written:
            raise CheckpointError(
                f'{self.saved.file}: was exported with norm_stats="{written}", so it cannot be run with '
                f'"{stats}"; export the run again with --norm-stats {stats}, or give the run directory.'
            )

    def check_dropout(self) -> None:
        """Is z, where the model has one, among the inputs?

        Raises:
            CheckpointError: The graph was written without.
        """
        if self.z != self.saved.config().generator.noise:
            raise CheckpointError(
                f"{self.saved.file}: was exported without its noise z, so it has no dropout to turn on; "
                "export the run again with --dropout True, or give the run directory."
            )

    def size_hint(self, height: int, width: int) -> str | None:
        """A sentence when images of that size are extended to the file's one size; else None."""
        size = self.written.size
        if size is None or (height, width) == size:
            return None
        return (
            f"Note: {self.saved.file} was exported for {size[1]}x{size[0]} pixels; smaller images are "
            "extended by reflection and cropped back, which changes each image's own statistics."
        )

    def forward(self, x: Tensor, key: int | None = None) -> Tensor:
        """Translate; arguments, shapes and units as those of the other generators.

        A file for one size takes smaller sources too: they are extended by reflection and cropped back, so
        that each image's own statistics are those of the extended one.

        Raises:
            ImageError: The source is larger than the file's one size.
            CheckpointError: The program cannot run it.
        """
        height, width = x.shape[-2:]
        wanted = self.written.size or (self.written.least_side, self.written.least_side)
        extended = reflect_to(x, *wanted)
        if self.written.size and extended.shape[-2:] != self.written.size:
            raise ImageError(
                f"{self.saved.file}: was exported for images up to {wanted[1]}x{wanted[0]} pixels, and this "
                f"one takes {width}x{height}; export the run again with --dynamic."
            )
        sides = extended.shape[-2:]
        noise = {entry.name: entry.values(key, *sides).numpy() for entry in self.written.noise}
        step = 1 if self.written.size else len(x)
        outputs = [self._once(part, noise) for part in torch.split(extended, step)]
        return torch.cat(outputs)[..., :height, :width]

    def _once(self, x: Tensor, noise: dict[str, NDArray[np.float32]]) -> Tensor:
        try:
            y_hat = self._run({"x": x.contiguous().numpy(), **noise})
        except Exception as error:  # the programs' own exceptions have no common base
            raise CheckpointError(
                f"{self.saved.file}: cannot be run on images {tuple(x.shape)} ({_reason(error)})."
            ) from error
        return torch.from_numpy(np.array(y_hat, np.float32))


def _onnxruntime(path: Path) -> tuple[Run, object]:
    """How onnxruntime runs the file, and its metadata."""
    runtime = _library("onnxruntime", path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # warnings are for whoever made the graph
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map.get(METADATA)
    except Exception as error:  # its exceptions have no common base
        raise CheckpointError(
            f"{path}: is not an ONNX model that onnxruntime can read (cut off, or damaged)."
        ) from error
    return lambda inputs: session.run(None, inputs)[0], metadata


def _openvino(path: Path, precision: str) -> tuple[Run, object]:
    """How OpenVINO runs the file, and its metadata."""
    core = _library("openvino", path).Core()
    threads = torch.get_num_threads()
    try:
        model = core.read_model(str(path))
        place = ["framework", METADATA]
        metadata = model.get_rt_info(place).value if model.has_rt_info(place) else None
        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        compiled = core.compile_model(model, "CPU", hints)
    except Exception as error:  # as above
        raise CheckpointError(
            f"{path}: is not an ONNX model that OpenVINO can read (cut off, or damaged)."
        ) from error
    return lambda inputs: compiled(inputs)[0], metadata


def _library(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = 'pip install "pairloom[export]"' if name == "onnxruntime" else f"pip install {name}"
        raise CheckpointError(
            f"{path}: needs the package {name}, which is not installed; run: {extra}"
        ) from error


def _description(metadata: object, path: Path) -> dict[str, Any]:
    if metadata is None:
        raise CheckpointError(
            f"{path}: is an ONNX model, but says nothing of a pairloom model; only files that "
            "`pairloom export` wrote can be used."
        )
    try:
        found = json.loads(str(metadata))
    except (ValueError, RecursionError):
        found = None
    ours = {"format": FORMAT, "network": "generator"}
    if (
        not isinstance(found, dict)
        or {key: found.get(key) for key in ours} != ours
        or not isinstance(found.get("provenance", {}), dict)
    ):
        raise CheckpointError(
            f"{path}: its description is damaged, or of another version; export the run again."
        )
    return found


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
