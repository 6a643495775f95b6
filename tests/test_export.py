"""Exports: what is written has the original's numbers, and an export that has not is none."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import pairloom
from conftest import tiny_config
from pairloom import export, graph, noise
from pairloom.checkpoint import CheckpointError, load_weights, save_weights
from pairloom.cli import main
from pairloom.config import GeneratorConfig
from pairloom.devices import DeviceError
from pairloom.export import ExportError, export_model
from pairloom.graph import Graph, ImageNorm
from pairloom.images import ImageError, ImageSpec
from pairloom.networks import build_generator
from pairloom.onnx_generator import OnnxGenerator
from pairloom.start import Start
from pairloom.translator import Semantics, Translator

RGB = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
CLOSE = 1e-4
"""Of a pixel, on [-1, 1]."""


def model(norm_stats: str = "image", *, dropout: bool = True, crop: int = 24, **fields: Any) -> Translator:
    """An untrained generator of 2 halvings whose running statistics are far from any image's own."""
    small = {"source_channels": 3, "target_channels": 3, "base_channels": 4, "num_downs": 2}
    g = GeneratorConfig(**{**small, "dropout_blocks": (1,), "resnet_blocks": 1, **fields})
    rng = torch.Generator().manual_seed(0)
    net = build_generator(g, rng)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)  # or the output would be grey everywhere
        else:
            parameter.data.add_(torch.randn(parameter.shape, generator=rng) * 0.3)
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=rng) + 0.5)
    config = replace(tiny_config("/data/of/mine", data__crop_size=crop, data__load_size=crop), generator=g)
    semantics = Semantics(norm_stats=norm_stats, dropout=dropout)  # type: ignore[arg-type]
    return Translator(net.requires_grad_(False), RGB, RGB, config, semantics=semantics)


def saved(folder: Path, translator: Translator) -> Path:
    file = folder / "generator.safetensors"
    save_weights(file, translator.generator.state_dict(), translator.describe())
    return file


def sources(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def picture(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command that ends with status 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("pairloom: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


@dataclass
class Pair:
    """A model, and what was exported of it."""

    weights: Path
    file: Path
    exported: export.Exported

    def original(self, **choices: Any) -> Translator:
        return Translator.load(self.weights, precision="fp32", **choices)

    def again(self, **choices: Any) -> Translator:
        return Translator.load(self.file, precision="fp32", **choices)


def pair(folder: Path, translator: Translator, file: str, **choices: Any) -> Pair:
    weights = saved(folder, translator)
    suffix = file.rpartition(".")[2]
    return Pair(weights, folder / file, export_model(weights, folder / file, format=suffix, **choices))


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The paper's kind: each image's own statistics, dropout on; any size. Read only."""
    pytest.importorskip("onnxruntime")
    return pair(tmp_path_factory.mktemp("unet"), model(), "model.onnx", dynamic=True)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """For one size: running statistics, skips added, a resizing decoder, z off. Read only."""
    pytest.importorskip("onnxruntime")
    translator = model("running", skip="add", upsample="resize")
    return pair(tmp_path_factory.mktemp("fixed"), translator, "model.onnx", dropout=False)


# -----------------------------------------------------------------------------------------------------------
# The graph

OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm_stats": "running"},
    {"norm_stats": "running", "upsample": "resize", "skip": "add"},
    {"norm": "instance", "skip": "none", "noise": "gaussian"},
    {"norm": "none", "noise": "none"},
    {"dropout": False},
    {"noise": "gaussian", "dropout": False},
    {"architecture": "resnet"},
    {"architecture": "resnet", "norm_stats": "running", "upsample": "resize", "resnet_blocks": 2},
    {"architecture": "resnet", "norm": "instance", "noise": "gaussian"},
    {"architecture": "resnet", "norm": "none", "dropout": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()))
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_graph_has_the_generators_numbers(options: dict[str, Any], half: bool) -> None:
    translator = model(**options)
    written = Graph(translator.generator, dropout=translator.semantics.dropout, half=half).eval()  # type: ignore[arg-type]
    x = sources(2, 3, 16, 24)
    for seed in (0, 1):
        key = noise.key(seed) if translator.semantics.dropout else None
        expected = translator.generator(x, key)
        given = [entry.values(key, 16, 24) for entry in written.noise]
        assert largest(written(x, *given), expected) < (0.02 if half else CLOSE)
    has_z = translator.semantics.dropout and translator.config.generator.noise != "none"
    assert bool(written.noise) == has_z


def test_fixed_statistics_are_folded_and_an_images_own_stay() -> None:
    def norms(translator: Translator) -> int:
        written = Graph(translator.generator, dropout=False)  # type: ignore[arg-type]
        left = [type(m).__name__ for m in written.modules()]
        assert "BatchNorm" not in left
        assert "InstanceNorm2d" not in left
        return left.count(ImageNorm.__name__)

    assert norms(model("running")) == 0
    assert norms(model("image")) == 1, "of 2 downs and 2 ups the outermost and innermost have none"


# -----------------------------------------------------------------------------------------------------------
# ONNX


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (7, 33), (24, 24)], ids=str)
def test_any_size_gives_the_originals_image(unet: Pair, size: tuple[int, int]) -> None:
    original, again = unet.original(), unet.again()
    x = sources(3, 3, *size)
    assert largest(again.translate_tensor(x, seed=5), original.translate_tensor(x, seed=5)) < CLOSE
    images = [picture(*size, seed=s) for s in range(2)]
    for a, b in zip(original.translate_batch(images), again.translate_batch(images), strict=True):
        assert a.dtype == b.dtype == np.uint8 and a.shape == b.shape
        steps = np.abs(a.astype(int) - b)
        assert steps.max() <= 1 and steps.mean() < 0.01, "the same, or on the two sides of a rounding"


def test_seeded_samples_are_the_originals(unet: Pair) -> None:
    a, b = (m.samples(picture(24, 24), 3, seed=2) for m in (unet.original(), unet.again()))
    assert np.abs(a.images.astype(int) - b.images).max() <= 1
    assert np.abs(a.spread - b.spread).max() < 0.02
    assert b.spread.max() > 1, "the draws differ"


def test_the_raw_inputs_take_the_numbers_of_noise(unet: Pair) -> None:
    """As another program feeds them: nothing of ours but the hash."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(unet.file), providers=["CPUExecutionProvider"])
    x, mask = session.get_inputs()
    assert (x.name, x.shape) == ("x", ["batch", 3, "4*h", "4*w"])
    assert (mask.name, mask.shape) == ("mask_1", [1, 4, "2*h", "2*w"])
    source = sources(2, 3, 8, 12)
    key = noise.key(7, 3)
    factors = (noise.uniform(key, 1, 4, 4, 6).numpy() >= 0.5) * np.float32(2)
    found = session.run(["y_hat"], {"x": source.numpy(), "mask_1": factors})[0]
    expected = unet.original().translate_tensor(source, seed=7, sample=3)
    assert largest(torch.from_numpy(found), expected) < CLOSE


def test_a_file_with_noise_is_also_one_without(unet: Pair) -> None:
    x = sources(1, 3, 24, 24)
    off = unet.again(dropout=False).translate_tensor(x)
    assert largest(off, unet.original(dropout=False).translate_tensor(x)) < CLOSE
    assert largest(off, unet.again().translate_tensor(x)) > 0.01


def test_a_file_for_one_size_takes_smaller_images_and_any_batch(fixed: Pair) -> None:
    original, again = fixed.original(dropout=False), fixed.again()
    x = sources(3, 3, 24, 24)
    assert largest(again.translate_tensor(x), original.translate_tensor(x)) < CLOSE
    assert again.translate_tensor(x[..., :5, :24]).shape == (3, 3, 5, 24)
    with pytest.raises(ImageError, match=r"images up to 24x24 pixels.* takes 28x24.*--dynamic"):
        again(picture(24, 25))


def test_what_was_not_written_cannot_be_had(fixed: Pair, unet: Pair) -> None:
    assert not fixed.again().semantics.dropout
    with pytest.raises(CheckpointError, match=r"without its noise z.*--dropout True"):
        fixed.again(dropout=True)
    with pytest.raises(CheckpointError, match=r'norm_stats="running".* "image".*--norm-stats image'):
        fixed.again(norm_stats="image")
    assert unet.again(norm_stats="image").semantics.norm_stats == "image"
    with pytest.raises(DeviceError, match="on the CPU"):
        unet.again(device="cuda")


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resnet(tmp_path: Path, dynamic: bool) -> None:
    """Reflected borders, and of any size sides below its least."""
    pytest.importorskip("onnxruntime")
    done = pair(tmp_path, model(architecture="resnet"), "r.onnx", dynamic=dynamic)
    for size in ((3, 5), (8, 20)) if dynamic else ((24, 24),):
        x = sources(2, 3, *size)
        expected = done.original().translate_tensor(x, seed=1)
        assert largest(done.again().translate_tensor(x, seed=1), expected) < CLOSE


def test_half_precision_is_half_the_file_and_close(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    translator = model(base_channels=32, norm="instance", noise="gaussian")
    done = pair(tmp_path, translator, "h.onnx", half=True)
    assert done.file.stat().st_size < 0.65 * done.weights.stat().st_size
    x = sources(1, 3, 24, 24)
    got, expected = (m.translate_tensor(x, seed=3) for m in (done.again(), done.original()))
    assert 0 < largest(got, expected) < 0.02


# -----------------------------------------------------------------------------------------------------------
# What a file says of itself


def test_the_file_describes_itself_and_names_no_folder_of_this_machine(unet: Pair) -> None:
    onnx = pytest.importorskip("onnx")
    assert [p.name for p in sorted(unet.file.parent.iterdir())] == ["generator.safetensors", "model.onnx"]
    proto = onnx.load(unet.file)
    described = json.loads(next(p.value for p in proto.metadata_props if p.key == "pairloom"))
    assert ImageSpec.from_dict(described["target_spec"]) == RGB
    assert described["semantics"] == {"norm_stats": "image", "dropout": True}
    assert described["config"]["generator"]["base_channels"] == 4
    assert described["export"]["stride"] == 4 and described["export"]["size"] is None
    assert described["provenance"]["exported_by"]["torch"] == torch.__version__
    assert "multiples of 4 pixels" in proto.doc_string
    again = unet.again()
    assert again.source_spec == RGB and again.config.generator == unet.original().config.generator
    content = unet.file.read_bytes()
    for folder in ("/data/of", str(Path(pairloom.__file__).parent), str(Path(torch.__file__).parent)):
        assert folder.encode() not in content


def test_torch_export(tmp_path: Path) -> None:
    """As another program loads it, and for no other: loading one may run code."""
    done = pair(tmp_path, model(), "m.pt2", dynamic=True)
    extra = {"pairloom": ""}
    net = torch.export.load(done.file, extra_files=extra).module(check_guards=False)
    assert json.loads(extra["pairloom"])["export"]["noise"][0]["name"] == "mask_1"
    for height, width in ((4, 4), (8, 12)):
        x = sources(2, 3, height, width)
        mask = (noise.uniform(noise.key(1), 1, 4, height // 2, width // 2) >= 0.5).float() * 2
        assert largest(net(x, mask), done.original().translate_tensor(x, seed=1)) < 1e-6
    with zipfile.ZipFile(done.file) as archive:
        for name in archive.namelist():
            assert str(Path(pairloom.__file__).parent).encode() not in archive.read(name), name
    with pytest.raises(CheckpointError, match="may run what it holds"):
        Translator.load(done.file)


def test_weights_in_half_precision_are_a_generator_like_any(tmp_path: Path) -> None:
    done = pair(tmp_path, model(base_channels=32), "small.safetensors", half=True, norm_stats="running")
    assert done.file.stat().st_size < 0.6 * done.weights.stat().st_size
    weights, described = load_weights(done.file)
    assert {w.dtype for w in weights.values() if w.ndim == 4} == {torch.float16}
    assert described["semantics"]["norm_stats"] == "running"
    x = sources(1, 3, 24, 24)
    expected = done.original(norm_stats="running").translate_tensor(x)
    assert 0 < largest(done.again().translate_tensor(x), expected) < 0.02


# -----------------------------------------------------------------------------------------------------------
# The check


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_graph_with_other_norms_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The fold is left out: a graph as whole as any, and of other numbers."""
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    weights = saved(tmp_path, model("running", noise="none"))
    monkeypatch.setattr(graph, "_fold", lambda norm, convolution: None)
    with pytest.raises(
        ExportError, match=r"not written.*1 of 24x24: largest difference 0\.\d+.*allowed 0.0001"
    ):
        export_model(weights, tmp_path / f"m.{suffix}", format=suffix)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["generator.safetensors"]


def test_images_that_depend_on_their_neighbours_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch's statistics are an image's own where it is alone: the second input is not."""

    def batch_norm(self: ImageNorm, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)  # type: ignore[arg-type]

    weights = saved(tmp_path, model(noise="none"))
    monkeypatch.setattr(ImageNorm, "forward", batch_norm)
    found = r"1 of 24x24: largest difference (0|\de-\d+), .*2 of 28x24: largest difference 0\.0\d"
    with pytest.raises(ExportError, match=found):
        export_model(weights, tmp_path / "m.pt2", format="pt2", dynamic=True)


def test_an_earlier_file_stands_when_an_export_fails(tmp_path: Path) -> None:
    weights, out = saved(tmp_path, model()), tmp_path / "h.safetensors"
    out.write_text("earlier")
    with pytest.raises(ExportError, match=r"allowed 0\).*without half"):
        export_model(weights, out, format="safetensors", half=True, tolerance=0)
    assert out.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generator.safetensors", "h.safetensors"]


def test_not_a_number_is_a_difference(tmp_path: Path) -> None:
    translator = model()
    next(translator.generator.parameters()).data.fill_(1e6)  # beyond float16
    with pytest.raises(ExportError, match="not written"):
        pair(tmp_path, translator, "m.safetensors", half=True)


def test_both_sizes_and_their_figures_are_said(unet: Pair, fixed: Pair) -> None:
    assert [c.shape for c in unet.exported.checks] == [(1, 3, 24, 24), (2, 3, 24, 28)]
    assert [c.shape for c in fixed.exported.checks] == [(1, 3, 24, 24)] * 2
    said = unet.exported.words()
    assert "Checked on 2 of 28x24: largest difference" in said and "allowed 0.0001" in said
    assert "mask_1 (1, 4, H / 2, W / 2) takes 0 with probability 0.5, else 2; ones: no dropout." in said


# -----------------------------------------------------------------------------------------------------------
# OpenVINO


def test_openvino_runs_the_same_file(unet: Pair) -> None:
    pytest.importorskip("openvino")
    x = sources(2, 3, 24, 32)
    expected = unet.original().translate_tensor(x, seed=4)
    assert largest(unet.again(device="openvino").translate_tensor(x, seed=4), expected) < CLOSE
    assert largest(unet.again(device="openvino:bf16").translate_tensor(x, seed=4), expected) < 0.2


# -----------------------------------------------------------------------------------------------------------
# Commands


def test_the_commands_take_an_export(tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnxruntime")
    file, images = tmp_path / "tiny.onnx", str(tiny_data / "test")
    main(["export", str(tiny_run), "--out", str(file), "--format", "onnx"])
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    for which, place in ((tiny_run, "torch"), (file, "onnx")):
        scale = ["--scale", "training", "--samples", "2"]
        main(["translate", str(which), images, "--out", str(tmp_path / place), *scale])
        evaluation = ["--out", str(tmp_path / f"{place}-evaluation")]
        sections = ["--no-sections"] if which == tiny_run else []
        main(["evaluate", str(which), str(tiny_data), *evaluation, *sections])
    names = sorted(p.name for p in (tmp_path / "torch").iterdir())
    assert sorted(p.name for p in (tmp_path / "onnx").iterdir()) == names and len(names) == 8
    a, b = (
        json.loads((tmp_path / f"{place}-evaluation/summary.json").read_text()) for place in ("torch", "onnx")
    )
    assert b["metrics"]["model"]["L1"] == pytest.approx(a["metrics"]["model"]["L1"], abs=1e-4)
    assert "noise" in b["sections"]
    capsys.readouterr()
    said = refused(capsys, "export", file, "--out", tmp_path / "x.onnx", "--format", "onnx")
    assert "is an export already" in said
    with pytest.raises(CheckpointError, match="cannot be trained"):
        Start.load(file)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--format", "junyanz", "--half"], "--half does not go with --format junyanz"),
        (["--format", "onnx", "--no-dropout"], "--no-dropout does not go with --format onnx"),
        (["--format", "pt2"], "ends in .pt2"),
        (["--format", "onnx", "--tolerance", "3"], "tolerance is 3"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    weights = saved(tmp_path, model())
    assert says in refused(capsys, "export", weights, "--out", tmp_path / "m.onnx", *flags)
    assert not (tmp_path / "m.onnx").exists()


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = saved(tmp_path, model("batch"))
    with pytest.raises(ExportError, match=r'norm_stats is "batch".*--norm-stats image'):
        export_model(weights, tmp_path / "m.onnx", format="onnx")
    (tmp_path / "dir.onnx").mkdir()
    with pytest.raises(ExportError, match=r"dir\.onnx: is a folder; give the name of a file"):
        export_model(weights, tmp_path / "dir.onnx", format="onnx", norm_stats="image")
    with pytest.raises(ExportError, match="leave dynamic out"):
        export_model(weights, tmp_path / "m.safetensors", format="safetensors", dynamic=True)
    monkeypatch.setattr(export, "LARGEST_ONNX", 1000)
    with pytest.raises(ExportError, match=r"GB at most.*--half"):
        export_model(weights, tmp_path / "m.onnx", format="onnx", norm_stats="image")


# -----------------------------------------------------------------------------------------------------------
# Bad files


def damaged(whole: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that are no models of ours, and what is said."""
    onnx = pytest.importorskip("onnx")

    def written(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    content = whole.read_bytes()
    yield folder / "absent.onnx", "there is no such file"
    yield written("empty.onnx", b""), "not an ONNX model that onnxruntime can read"
    yield written("text.onnx", b"hello"), "not an ONNX model that onnxruntime can read"
    yield written("cut.onnx", content[: len(content) // 2]), "not an ONNX model that onnxruntime can read"
    proto = onnx.load(whole)
    text = proto.metadata_props[0].value
    for name, value, says in (
        ("old.onnx", text.replace("pairloom-1", "pairloom-0"), "another version"),
        ("json.onnx", text[:-9], "damaged"),
        ("export.onnx", text.replace('"least_side"', '"most_side"'), "incomplete"),
        (
            "zero.onnx",
            text.replace('"stride": 4', '"stride": 0'),
            "export in its description of the model is wrong (stride is 0",
        ),
        ("huge.onnx", text.replace('"stride": 4', '"stride": 1000000000000'), "it must be from 1 to 256"),
        ("half.onnx", text.replace('"stride": 4', '"stride": 4.0'), "stride is 4.0; it must be of type int"),
        ("name.onnx", text.replace('"name": "mask_1"', '"name": {}'), "name is {}; it must be of type str"),
        (
            "rate.onnx",
            text.replace('"rate": 0.5', '"rate": 1'),
            "rate of 'mask_1' is 1.0; it must be at least 0 and below 1",
        ),
        (
            "kind.onnx",
            text.replace('"channels": 4', '"channels": "4"'),
            "channels is '4'; it must be of type int",
        ),
        ("config.onnx", text.replace('"generator": {', '"generators": {'), "generators"),
        ("spec.onnx", text.replace('"target_spec"', '"spec"'), "incomplete"),
    ):
        assert value != text
        proto.metadata_props[0].value = value
        yield written(name, proto.SerializeToString()), says
    del proto.metadata_props[:]
    yield written("foreign.onnx", proto.SerializeToString()), "says nothing of a pairloom model"


def test_bad_files_are_one_sentence_each(unet: Pair, tmp_path: Path, capsys: Any) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "image.png")
    for file, says in damaged(unet.file, tmp_path):
        said = refused(capsys, "translate", file, tmp_path, "--out", tmp_path / "out")
        assert file.name in said and says in said
    # A graph that is not what its description says.
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(unet.file)
    proto.metadata_props[0].value = proto.metadata_props[0].value.replace("mask_1", "mask_9")
    (tmp_path / "other.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckpointError, match="cannot be run on images"):
        Translator.load(tmp_path / "other.onnx").translate_tensor(sources(1, 3, 8, 8))


def test_programs_that_are_not_installed_are_named(unet: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CheckpointError, match=r"onnxruntime, which is not installed.*pairloom\[export\]"):
        OnnxGenerator.load(unet.file)
    with pytest.raises(CheckpointError, match="pip install openvino"):
        OnnxGenerator.load(unet.file, "openvino")
