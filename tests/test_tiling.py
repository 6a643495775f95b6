"""Tiles are what the whole image has there: every generator, any size, within the memory allowed."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pairloom import noise, presets, tile_plan
from pairloom.config import GeneratorConfig
from pairloom.images import ImageSpec
from pairloom.layers import BatchNorm
from pairloom.networks import build_generator
from pairloom.tile_kernels import Span, Transposed
from pairloom.tile_maps import KeptMap
from pairloom.tile_moments import Moments
from pairloom.tile_plan import TilePlan, plan_tiles
from pairloom.tiling import Passes, TileReport, translate_tiled
from pairloom.translator import Semantics, Translator

ABOVE = 99
"""A split above every level: no layer is kept, each tile runs through the whole depth."""


def model(
    *, norm_stats: str = "running", base: int = 4, seed: int = 0, dropout: bool = True, **fields: Any
) -> Translator:
    """Weights that let far pixels matter, statistics far from any image's own."""
    fields = {"num_downs": 3, **fields}
    config = GeneratorConfig(source_channels=3, target_channels=2, base_channels=base, **fields)
    rng = torch.Generator().manual_seed(seed)
    net = build_generator(config, rng)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            taps = module.weight[0, 0].numel() * module.in_channels
            taps //= 4 if isinstance(module, nn.ConvTranspose2d) else 1
            gain = 1.0 if fields.get("architecture") == "resnet" else 1.4
            nn.init.normal_(module.weight, 0, gain / taps**0.5, generator=rng)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1, generator=rng)
        elif isinstance(module, BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
            nn.init.normal_(module.bias, 0, 0.2, generator=rng)
    spec = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
    target = ImageSpec(channels=2, dtype="uint8", low=(0.0,) * 2, high=(255.0,) * 2)
    return Translator(
        net.requires_grad_(False),
        spec,
        target,
        replace(presets.paper(), generator=config),
        semantics=Semantics(norm_stats=norm_stats, dropout=dropout),  # type: ignore[arg-type]
    )


def picture(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Canvas:
    """An image to read windows of, and what was written of the result."""

    def __init__(self, x: Tensor, channels: int = 2) -> None:
        self.x = x
        self.y_hat = torch.full((channels, *x.shape[1:]), torch.nan)
        self.reads: list[tuple[int, int, int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self.stop_reading, self.stop_writing = -1, -1

    @property
    def size(self) -> tuple[int, int]:
        return self.x.shape[1], self.x.shape[2]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        if len(self.reads) == self.stop_reading:
            raise KeyboardInterrupt
        assert min(top, left) >= 0 and min(height, width) >= 1
        assert top + height <= self.size[0] and left + width <= self.size[1]
        self.reads.append((top, left, height, width))
        return self.x[:, top : top + height, left : left + width]

    def write(self, top: int, left: int, y_hat: Tensor) -> None:
        if len(self.writes) == self.stop_writing:
            raise KeyboardInterrupt
        place = self.y_hat[:, top : top + y_hat.shape[1], left : left + y_hat.shape[2]]
        assert place.shape == y_hat.shape
        assert place.isnan().all(), "each pixel once"
        place.copy_(y_hat)
        self.writes.append((top, left))

    def translate(self, translator: Translator, **arguments: Any) -> TileReport:
        return translate_tiled(translator, self.read, self.size, self.write, **arguments)


def check(
    translator: Translator, x: Tensor, splits: tuple[int, ...], tile_px: int, **arguments: Any
) -> TileReport:
    """Tiles against the whole image, at several splits."""
    whole = translator.translate_tensor(x[None], **arguments)[0]
    assert whole.std() > 0.02
    for split in splits:
        canvas = Canvas(x)
        plan = plan_tiles(translator, canvas.size, statistics="exact", split=split, tile_px=tile_px)
        report = canvas.translate(translator, plan=plan, **arguments)
        assert (canvas.y_hat - whole).abs().max() <= 1e-4
        assert report.mismatch is not None and report.mismatch <= 1e-4
        assert report.tiles == len(canvas.writes) == len(plan.tiles)
        assert max(read[2] for read in canvas.reads) == plan.read_px[0]
        assert max(read[3] for read in canvas.reads) == plan.read_px[1]
    return report


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("z", ["dropout", "gaussian", "none"])
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("skip", ["concat", "add", "none"])
def test_every_unet_gives_the_whole_image_by_tiles(skip: str, norm: str, z: str, upsample: str) -> None:
    translator = model(skip=skip, norm=norm, noise=z, upsample=upsample)
    check(translator, picture(43, 50), (1, 2, ABOVE), 16, seed=3, sample=1)


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("z", ["dropout", "gaussian"])
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_every_resnet_gives_the_whole_image_by_tiles(norm: str, z: str, upsample: str) -> None:
    """Reflection only where the image ends."""
    fields = {"architecture": "resnet", "resnet_blocks": 6, "norm": norm, "noise": z}
    check(model(upsample=upsample, **fields), picture(75, 50), (1, 2, ABOVE), 24)


@pytest.mark.parametrize("norm_stats", ["image", "batch"])
@pytest.mark.parametrize("architecture", ["unet", "resnet"])
def test_statistics_of_the_image_are_gathered_over_the_whole_of_it(
    architecture: str, norm_stats: str
) -> None:
    fields = {"architecture": architecture, "resnet_blocks": 6, "norm_stats": norm_stats}
    report = check(model(**fields), picture(45, 61), (1, 2, ABOVE), 16)
    assert report.statistics == "exact"


@pytest.mark.parametrize(
    ("num_downs", "size", "tile_px"),
    [(1, (33, 31), 8), (2, (33, 31), 8), (5, (70, 131), 32), (7, (130, 300), 128), (8, (512, 512), 256)],
)
def test_every_depth_gives_the_whole_image_by_tiles(
    num_downs: int, size: tuple[int, int], tile_px: int
) -> None:
    translator = model(num_downs=num_downs, base=2, norm_stats="image")
    check(translator, picture(*size), (1, num_downs - 1 or 1, ABOVE), tile_px)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 257), (16, 8), (17, 16)])
@pytest.mark.parametrize("architecture", ["unet", "resnet"])
def test_every_size_gives_the_whole_image_by_tiles(architecture: str, size: tuple[int, int]) -> None:
    """Right and bottom are mirrored up to the stride, as often as it takes."""
    check(model(architecture=architecture), picture(*size), (1, ABOVE), 8)


# ------------------------------------------------------------------------------------------------------------
# Halos


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
def test_a_crop_with_the_halo_has_the_tile_and_one_a_stride_shorter_has_not(upsample: str) -> None:
    """The halo at full depth against the network itself, which knows nothing of tiles."""
    translator = model(upsample=upsample, dropout=False)
    stride, at = 8, 96
    x = picture(2 * at + stride, 2 * at + stride)
    plan = plan_tiles(translator, (x.shape[1], x.shape[2]), split=ABOVE, tile_px=stride)
    halo = -(-plan.halo_px // stride) * stride
    assert halo < at
    whole = translator.translate_tensor(x[None])[..., at : at + stride, at : at + stride]

    def difference(halo: int) -> float:
        window = slice(at - halo, at + stride + halo)
        crop = translator.translate_tensor(x[None, :, window, window])
        return float((crop[..., halo : halo + stride, halo : halo + stride] - whole).abs().max())

    assert difference(halo) <= 1e-4
    assert difference(halo - stride) > 1e-4


@pytest.mark.parametrize("split", [1, 2, ABOVE])
def test_the_tiles_are_wrong_when_the_last_pass_sees_one_stride_less(split: int) -> None:
    """The whole halo is needed, at every split: blank the image further out and the tiles change."""
    translator = model(norm="none", skip="concat")
    x = picture(64, 64)
    whole = translator.translate_tensor(x[None])[0]
    plan = plan_tiles(translator, (64, 64), split=split, tile_px=16)
    stride = 2 ** (3 if plan.split is None else plan.split)

    def difference(short: int) -> float:
        canvas = Canvas(x)
        passes = Passes(translator, plan, canvas.read, noise.key(0), Path("unused"), save=False)
        passes.prepare()
        derived, edge = passes.graph.spans, plan.halo_px - short

        def narrowed(target: int, wanted: Span, axis: int, kept: frozenset[int]) -> dict[int, Span]:
            spans = derived(target, wanted, axis, kept)
            for n in kept.intersection(spans) | {0}.intersection(spans):
                scale = 2 ** passes.graph.steps[n].level
                first = max(spans[n][0], -(-(wanted[0] - edge) // scale))
                spans[n] = first, min(spans[n][1], (wanted[1] + edge) // scale)
            return spans

        passes.graph.spans = narrowed  # type: ignore[method-assign]
        with torch.inference_mode():
            passes.translate(set(plan.tiles), canvas.write)
        return float((canvas.y_hat - whole).abs().max())

    assert difference(0) <= 1e-4
    assert difference(stride) > 1e-4


def test_a_halo_that_is_too_short_shows_as_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transposed, "needs", lambda self, wanted, size: (wanted[0] // 2, -(-wanted[1] // 2)))
    translator = model()
    canvas = Canvas(picture(64, 64))
    plan = plan_tiles(translator, (64, 64), split=ABOVE, tile_px=16)
    report = canvas.translate(translator, plan=plan)
    assert report.mismatch is not None and report.mismatch > 1e-3
    assert f"tile mismatch: {report.mismatch:.2g}" in report.words()


# ------------------------------------------------------------------------------------------------------------
# The plan


@pytest.mark.parametrize("split", [1, 2, ABOVE])
@pytest.mark.parametrize("architecture", ["unet", "resnet"])
def test_the_arithmetic_is_what_a_counter_counts(architecture: str, split: int, tmp_path: Path) -> None:
    translator = model(architecture=architecture, norm_stats="image")
    canvas = Canvas(picture(56, 72))
    plan = plan_tiles(translator, canvas.size, statistics="exact", split=split, tile_px=16)
    with FlopCounterMode(display=False) as whole:
        translator.translate_tensor(canvas.x[None])
    assert whole.get_total_flops() == 2 * plan.whole_macs
    passes = Passes(translator, plan, canvas.read, None, tmp_path, save=False)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        passes.prepare()
        for window in plan.stages[-1].windows():
            passes.raw(passes.graph.last, window)
    assert counter.get_total_flops() == 2 * plan.macs


@pytest.mark.parametrize("base", [16, 64])
def test_the_arithmetic_of_large_images_stays_within_the_bounds(base: int) -> None:
    config = GeneratorConfig(source_channels=3, target_channels=3, base_channels=base, num_downs=8)
    known = model()
    translator = Translator(
        build_generator(config),
        known.source_spec,
        known.target_spec,
        replace(presets.paper(), generator=config),
    )
    assert plan_tiles(translator, (4000, 6000), split=ABOVE).halo_px == 511, "the sum over all kernels"
    for size in ((4000, 6000), (40_000, 40_000)):
        for norm_stats, statistics, most in (("running", "fixed", 2), ("image", "exact", 3)):
            translator.generator.set_norm_stats(norm_stats)  # type: ignore[arg-type]
            plan = plan_tiles(translator, size)
            assert plan.statistics == statistics
            assert 1 <= plan.ratio <= most
            assert plan.memory_bytes <= 2 * 2**30
            assert plan.tile_px % 256 == 0
            assert all(top % 256 == left % 256 == 0 for top, left in plan.tiles)


def test_the_same_question_has_the_same_plan() -> None:
    plans = [plan_tiles(model(norm_stats="image"), (900, 700), 100 * 2**20) for _ in range(2)]
    assert plans[0] == plans[1]


def test_statistics_are_exact_until_they_cost_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = model(norm_stats="image")
    size = 16, 2600
    assert plan_tiles(translator, size).statistics == "exact"
    monkeypatch.setattr(tile_plan, "MOST_ARITHMETIC", 0.5)
    assert plan_tiles(translator, size).statistics == "sample"
    assert plan_tiles(translator, size, statistics="exact").statistics == "exact"
    assert plan_tiles(model(), size, statistics="sample").statistics == "fixed", "nothing to gather"


def test_statistics_from_a_sample_are_near_those_of_the_whole() -> None:
    translator = model(norm_stats="image")
    x = picture(16, 2600)
    found = {}
    for statistics in ("exact", "sample"):
        canvas = Canvas(x)
        plan = plan_tiles(translator, canvas.size, statistics=statistics, split=ABOVE)  # type: ignore[arg-type]
        report = canvas.translate(translator, plan=plan)
        found[statistics] = canvas.y_hat
    assert report.statistics == "sample" and report.sampled > 0
    assert f"{report.sampled} layers from a sample" in report.words()
    difference = (found["exact"] - found["sample"]).abs()
    assert 0 < difference.mean() < 0.05
    assert report.mismatch is not None and report.mismatch <= 1e-4, "frozen: no seams"


def test_moments_are_those_of_the_whole_map() -> None:
    """A mean far from zero beside a small spread, where sums of squares would fail."""
    x = picture(40, 50)[None] * 0.01 + torch.tensor([1000.0, -20.0, 0.0])[:, None, None]
    moments = Moments(3)
    for rows, columns in itertools.product(((0, 7), (7, 40)), ((0, 33), (33, 50))):
        moments.add(x[..., slice(*rows), slice(*columns)])
    exact = x.double()
    torch.testing.assert_close(moments.mean, exact.mean((0, 2, 3)), rtol=1e-7, atol=1e-7)
    variance = moments.squares / moments.count
    torch.testing.assert_close(variance, exact.var((0, 2, 3), correction=0), rtol=1e-2, atol=1e-9)


# ------------------------------------------------------------------------------------------------------------
# Continued


@pytest.fixture(params=["memory", "file"])
def plan_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the kept maps lie."""
    if request.param == "file":
        monkeypatch.setattr(tile_plan, "_placed", lambda sizes, lives, passes, budget: (set(), [0] * passes))
    return str(request.param)


def _plan(translator: Translator, where: str) -> TilePlan:
    plan = plan_tiles(translator, (45, 61), statistics="exact", split=2, tile_px=16)
    assert {stage.keep for stage in plan.stages} == {where, None}
    return plan


def test_a_continued_call_gives_the_same_bits_and_gathers_nothing_again(tmp_path: Path, plan_in: str) -> None:
    translator, x = model(norm_stats="image"), picture(45, 61)
    plan = _plan(translator, plan_in)
    uninterrupted = Canvas(x)
    uninterrupted.translate(translator, plan=plan)
    canvas = Canvas(x)
    canvas.stop_writing = 3
    with pytest.raises(KeyboardInterrupt):
        canvas.translate(translator, plan=plan, spill=tmp_path)
    gathered = len(canvas.reads) - 4
    assert gathered > 0
    canvas.reads.clear()
    canvas.stop_writing = -1
    canvas.translate(translator, plan=plan, spill=tmp_path, done=canvas.writes)
    assert torch.equal(canvas.y_hat, uninterrupted.y_hat)
    remaining = len(plan.tiles) - 3
    assert remaining <= len(canvas.reads) <= remaining + 3, "the tiles, and the places of the mismatch"


def test_a_call_that_ended_while_gathering_is_continued(tmp_path: Path, plan_in: str) -> None:
    translator, x = model(norm_stats="image"), picture(45, 61)
    plan = _plan(translator, plan_in)
    uninterrupted = Canvas(x)
    uninterrupted.translate(translator, plan=plan)
    for stop in (0, 1):
        canvas = Canvas(x)
        canvas.stop_reading = stop
        with pytest.raises(KeyboardInterrupt):
            canvas.translate(translator, plan=plan, spill=tmp_path)
        assert not list(tmp_path.rglob(".*.tmp")), "nothing unfinished stays"
    canvas = Canvas(x)
    canvas.translate(translator, plan=plan, spill=tmp_path)
    assert len(canvas.reads) == len(uninterrupted.reads) - 1, "the first pass was found"
    assert torch.equal(canvas.y_hat, uninterrupted.y_hat)


def test_what_another_model_or_seed_left_is_not_taken(tmp_path: Path) -> None:
    x = picture(45, 61)
    for translator, seed in ((model(), 0), (model(seed=5), 0), (model(), 1)):
        canvas, alone = Canvas(x), Canvas(x)
        canvas.translate(translator, seed=seed, spill=tmp_path)
        alone.translate(translator, seed=seed)
        assert torch.equal(canvas.y_hat, alone.y_hat)


def test_nothing_is_computed_when_all_tiles_are_done() -> None:
    translator, canvas = model(), Canvas(picture(45, 61))
    report = canvas.translate(translator, done=plan_tiles(translator, (45, 61)).tiles)
    assert not canvas.reads and not canvas.writes
    assert report.mismatch is None
    assert "nothing was left" in report.words()


def test_progress_counts_every_pass() -> None:
    told: list[tuple[int, int, str]] = []
    translator, canvas = model(), Canvas(picture(45, 61))
    plan = plan_tiles(translator, canvas.size, split=2, tile_px=16)
    canvas.translate(translator, plan=plan, progress=lambda *seen: told.append(seen))
    for stage in plan.stages:
        count = len(list(stage.windows()))
        assert [(n, of) for n, of, words in told if words == stage.name] == [
            (n, count) for n in range(1, count + 1)
        ]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_kept_map_gives_back_its_windows(in_memory: bool, tmp_path: Path) -> None:
    x = torch.rand(1, 5, 9, 12)
    kept = KeptMap(5, (9, 12), tmp_path / "a.map", in_memory=in_memory)
    kept.begin()
    for rows, columns in itertools.product(((0, 4), (4, 9)), ((0, 12),)):
        kept.write((rows, columns), x[..., slice(*rows), slice(*columns)])
    assert torch.equal(kept.read(((2, 7), (3, 11))), x[..., 2:7, 3:11])
    assert not (tmp_path / "a.map").exists(), "not whole yet"
    kept.end(save=True)
    kept.close(remove=False)
    again = KeptMap(5, (9, 12), tmp_path / "a.map", in_memory=in_memory)
    assert again.find()
    assert torch.equal(again.read(((0, 9), (0, 12))), x)
    again.close(remove=True)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------
# Memory and faults

MEASURED = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_tiling import model
from pairloom.tiling import translate_tiled
torch.set_num_threads(1)
def field(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024
def read(top, left, height, width):
    rows = torch.arange(top, top + height)[:, None].float()
    columns = torch.arange(left, left + width)[None].float()
    waves = (0.1, 0.02), (0.003, 0.3), (0.05, 0.05)
    return torch.stack([torch.sin(rows * a + columns * b) for a, b in waves])
translator = model(base=4, num_downs=6, norm_stats=sys.argv[2])
translator.translate_tensor(torch.zeros(1, 3, 64, 64))
open("/proc/self/clear_refs", "w").write("5")
before = field("VmRSS")
report = translate_tiled(
    translator, read, (4000, 6000), lambda top, left, y_hat: None, memory_bytes=int(sys.argv[3])
)
print(report.mismatch, field("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell")
@pytest.mark.parametrize("norm_stats", ["running", "image"])
def test_memory_stays_below_the_limit(norm_stats: str) -> None:
    """4,000 x 6,000 pixels in 160 MiB: the source alone, as tensors, is 275 MiB."""
    limit = 160 * 2**20
    arguments = [str(Path(__file__).parent), norm_stats, str(limit)]
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True
    )
    mismatch, peak = result.stdout.split()
    assert float(mismatch) <= 1e-4
    assert 0 < int(peak) <= limit


class _Foreign(nn.Module):
    """Somebody else's network behind the same face."""

    stride, z = 8, "none"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def set_norm_stats(self, stats: str) -> None:
        """It has none."""


def test_what_cannot_be_tiled_is_refused_in_one_sentence() -> None:
    known = model()
    foreign = Translator(_Foreign(), known.source_spec, known.target_spec, known.config)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only U-Net and ResNet"):
        plan_tiles(foreign, (64, 64))
    with pytest.raises(ValueError, match="1 or more"):
        plan_tiles(known, (0, 64))
    with pytest.raises(ValueError, match="multiple of the model's stride, 8"):
        plan_tiles(known, (64, 64), tile_px=12)
    with pytest.raises(ValueError, match=r"allow \d+ MiB or more"):
        plan_tiles(known, (64, 64), 2**14)
    with pytest.raises(ValueError, match="GiB of files"):
        plan_tiles(known, (40_000, 40_000), spill_bytes=1, split=1)
    canvas = Canvas(picture(20, 20))
    with pytest.raises(ValueError, match=r"20x20 pixels of 3 channels.*\(1, 20, 20\)"):
        translate_tiled(known, lambda *window: canvas.read(*window)[:1], (20, 20), canvas.write)
    with pytest.raises(ValueError, match="The plan is for"):
        canvas.translate(known, plan=plan_tiles(known, (64, 64)))
    with pytest.raises(ValueError, match="with the memory and the settings of the first call"):
        canvas.translate(known, done=[(0, 3)])


@pytest.mark.parametrize("plan_in", ["file"], indirect=True)
def test_a_full_disk_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, plan_in: str, tmp_path: Path
) -> None:
    translator, canvas = model(norm_stats="image"), Canvas(picture(45, 61))
    plan = _plan(translator, plan_in)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=plan.spill_bytes - 1))
    with pytest.raises(ValueError, match="GiB are free"):
        canvas.translate(translator, plan=plan, spill=tmp_path)
    assert not canvas.reads
