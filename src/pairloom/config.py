"""The configuration: what a run is, in one frozen value.

Six groups of plain fields. One field is one flag of the command line (``--objective.lambda-l1 100``) and one
key of a TOML file (``[objective] lambda_l1 = 100``). ``None`` means "decided before the first step from the
data and the machine"; what was decided is saved in ``config.json``. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Sides = int | tuple[int, int]
"""A square's side, or (height, width); in pixels."""

JITTER = 286 / 256
"""Sides that training pairs are resized to, over those of the crop (Section 6.2)."""
MOST_JITTER = 1.5
"""... and from here on a crop shows another scale than validation does."""
ELASTIC_SPANS = 4
"""Spans of the smooth field of `data.elastic_px` along each side of the crop."""


MOST_PIXELS, MOST_CHANNELS, MOST_FILTERS, MOST_BLOCKS, MOST_STRIDED = 2**20, 1024, 4096, 256, 18
"""Of a crop's side, a tensor, a first layer, a ResNet, a D: a file that says more is damaged, or hostile."""
MOST_GB, MOST_STEPS = 2**20, 10**12
"""Of a cache, and of a run: more is a slip of the hand, and would not fit into clocks and counters."""
DERIVED_CHANNELS = {"none": (3, 3), "colorize": (1, 2), "inpaint": (3, 3), "edges": (1, 3), "gray": (1, 3)}
"""Channels of source and target of RGB photos, by `data.derive`."""
HOLES = ("center", "boxes", "strokes")
"""The holes that need no files."""
CACHE_FIELDS = ("workers", "cache", "cache_gb")
"""Fields of the data that say on what it is read, not what."""


class ConfigError(ValueError):
    """A field of the configuration is wrong; the message names it, its value, and what is allowed."""


def runtime(default: Any) -> Any:
    """A field that may change when a run is resumed: how long and on what it runs, not what it is to learn.

    Only the length changes what a step computes: training.decay_fraction is a share of it.
    """
    return field(default=default, metadata={"runtime": True})


def decided(default: Any) -> Any:
    """A field that, left at None or "auto", is decided from the data and the machine when a run begins."""
    return field(default=default, metadata={"decided": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which pairs, and how they become tensors."""

    path: str = ""
    """Folder of side-by-side files, of two folders, of photos (see derive), of shards; .csv; or address."""
    path_b: str | None = None
    """Second folder; given, `path` holds the A images and this the B images."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """AtoB: A is the source (left half, first folder), B the target; BtoA: the reverse."""
    derive: Literal["none", "colorize", "inpaint", "edges", "gray"] = "none"
    """What makes pairs of single photos in `path`: L to ab, a photo with a hole, edges, its luminance."""
    hole: Literal["center", "boxes", "strokes"] | str = "center"
    """For derive=inpaint: half the side, as the paper; random boxes; strokes; or masks, white is missing."""
    edge_sigma: float = 2.0
    """Pixels: blur before Canny's edges are sought, for derive=edges."""
    edge_least_px: int = 5
    """Pixels: edges shorter than this are removed, as in the paper's code."""
    edge_model: str | None = None
    """An .onnx file like HED for derive=edges, instead of Canny: RGB from 0 to 1 in, edge probability out."""
    load_size: int | tuple[int, int] | Literal["crop"] | None = decided(None)
    """Pixels: pairs are resized to this, then cropped. None: crop x 286/256, Section 6.2; crop: no jitter."""
    crop_size: Sides = 256
    """Pixels: side, or height and width, of the crop that the networks train on."""
    resize: Literal["stretch", "shorter", "none"] = "stretch"
    """stretch: to load_size, as the paper; shorter: the shorter side, shape kept; none: native pixels."""
    mirror: bool = True
    """Flip half of the training pairs left to right (Section 6.2)."""
    rotate: Literal["none", "quarter"] = "none"
    """quarter: turn training pairs by 0, 90, 180 or 270 degrees; square crops only. Not in the paper."""
    affine_degrees: float = 0.0
    """Degrees: training pairs are turned by up to this, either way; 0 to 180. 0: off, as the paper."""
    affine_scale: float = 0.0
    """Share: training pairs are scaled by up to this, up or down (0.1: 0.9 to 1.1). 0: off, as the paper."""
    elastic_px: float = 0.0
    """Pixels that a smooth random field moves training pairs at most, on each axis. 0: off, as the paper."""
    light: float = 0.0
    """Share: brightness and contrast of training sources (not of label maps) change by up to this. 0: off."""
    source_kind: Literal["auto", "intensity", "labels"] = "auto"
    """auto: labels where a palette is given, or all training files are lossless with at most 64 colours."""
    target_kind: Literal["auto", "intensity", "labels"] = "auto"
    """As source_kind, for the target."""
    source_palette: str | None = None
    """Text file with one class a line, `r,g,b[,name]` or `value[,name]`; given, the source is a label map."""
    target_palette: str | None = None
    """As source_palette, for the target."""
    alpha: Literal["auto", "white", "keep"] = decided("auto")
    """Transparent pixels: laid over white, or kept as one more channel. auto: white for uint8, else kept."""
    pages: Literal["channels", "first"] = "channels"
    """TIFF files of several pages: the pages are channels, or only the first is read."""
    source_select: tuple[str, ...] = ()
    """Channels of the source, by name (OME, NPZ arrays) or number from 0; none given: all of the file's."""
    target_select: tuple[str, ...] = ()
    """As source_select, for the target; both sides may be channels of one file."""
    slice_axis: Literal["auto", "x", "y", "z", "t", "0", "1", "2"] = "auto"
    """Axis that volumes are cut along, by letter or number in the file. auto: z, but a plain TIFF is flat."""
    slice_neighbours: int = 0
    """So many slices on each side of a source's slice are channels, too; at the ends the last is repeated."""
    source_one_hot: bool = False
    """A source label map enters the network as one channel a class instead of as colours."""
    target_one_hot: bool = False
    """A target label map is learned as one channel a class; the output is its argmax in palette colours."""
    source_scaling: Literal["auto", "full", "range", "percentile", "zscore"] = "auto"
    """How file values map to [-1, 1]. auto: the full range for uint8, percentiles for uint16 and float."""
    target_scaling: Literal["auto", "full", "range", "percentile", "zscore"] = "auto"
    """As source_scaling, for the target."""
    source_range: tuple[float, float] | None = None
    """For source_scaling=range, low and high file value; percentile: two percentiles; zscore: (0, k)."""
    target_range: tuple[float, float] | None = None
    """As source_range, for the target."""
    val_fraction: float = 0.0
    """Share of the training pairs set aside for validation where there is no val split; 0 to 0.5."""
    test_fraction: float = 0.0
    """Share of the training pairs set aside for testing where there is no test split; 0 to 0.5."""
    group_pattern: str | None = None
    """Regular expression; pairs whose names share its first group (patient, slide, scene) stay together."""
    split_seed: int = 0
    """Seed of the splits made here."""
    max_pairs: int | None = None
    """Use only this many training pairs, drawn by split_seed."""
    workers: int | None = runtime(None)
    """Processes that read and augment ahead; 0: the training process reads. None: 1 on two cores, up to 4."""
    cache: Literal["off", "auto"] | str = runtime("off")
    """Keep training images decoded, for all runs on them. auto: in ~/.cache/pairloom; or a folder."""
    cache_gb: float = runtime(4.0)
    """GB on disk that the cache of a data set may take; what has no room is decoded each time."""
    shard_cache: str | None = runtime(None)
    """Folder on a fast disk for copies of shards that an address holds. None: in the temporary folder."""
    shard_cache_gb: float = runtime(20.0)
    """Room for these copies, in gigabytes; those used longest ago are removed."""

    @property
    def load_sides(self) -> tuple[int, int]:
        """(height, width) that `load_size` comes to."""
        if self.load_size is None:
            height, width = height_width(self.crop_size)
            return round(height * JITTER), round(width * JITTER)
        return height_width(self.crop_size if self.load_size == "crop" else self.load_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """G: the U-Net or encoder-decoder of Section 3.2.1 and the appendix, 6.1.1; or CycleGAN's ResNet."""

    architecture: Literal["unet", "resnet"] = "unet"
    """resnet: two halvings and residual blocks, not in the paper; num_downs, skip and dropout_blocks idle."""
    source_channels: int | None = decided(None)
    """Channels of x; None: measured from the data."""
    target_channels: int | None = decided(None)
    """Channels of G(x, z); None: measured from the data."""
    base_channels: int = 64
    """Filters of the first layer (C64 in the paper)."""
    num_downs: int | None = decided(None)
    """Halvings; None: the largest n <= 8 with 2^n dividing both sides of the crop. A ResNet always has 2."""
    resnet_blocks: int = 9
    """Residual blocks of a ResNet: 9 for crops of 256 and more, 6 below, in CycleGAN."""
    skip: Literal["concat", "add", "none"] = "concat"
    """concat: the U-Net; add: skips by addition; none: the encoder-decoder."""
    norm: Literal["batch", "instance", "none"] = "batch"
    """Normalisation after every convolution but the first, the innermost and the last."""
    upsample: Literal["transposed", "resize"] = "transposed"
    """transposed: as the paper; resize: nearest-neighbour doubling, 3x3 convolution (no checkerboard)."""
    noise: Literal["dropout", "none", "gaussian"] = "dropout"
    """The z of G(x, z): dropout (Section 3.1), none, or a Gaussian channel (which G learns to ignore)."""
    dropout_blocks: tuple[int, ...] = (1, 2, 3)
    """Decoder blocks with dropout, counted from the innermost, 1: CD512-CD1024-CD1024 is 1, 2, 3. A ResNet
    has it in each of its blocks."""
    dropout_rate: float = 0.5
    """Share of activations dropped in those blocks."""

    @property
    def channels(self) -> tuple[int, int]:
        """(source, target) channels, once they are resolved."""
        assert self.source_channels is not None, "resolve the config first"
        assert self.target_channels is not None, "resolve the config first"
        return self.source_channels, self.target_channels


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """D: the PatchGAN family of Section 3.2.2 and the appendix, 6.1.2."""

    num_layers: int = 3
    """Strided layers; the receptive field is 1, 16, 34, 70, 142, 286 pixels for 0, 1, 2, 3, 4, 5."""
    base_channels: int = 64
    """Filters of the first layer."""
    conditional: bool = True
    """Does D see x beside y (cGAN) or y alone (GAN)?"""
    norm: Literal["batch", "instance", "none"] = "batch"
    """Normalisation after every convolution but the first and the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """G* = arg min_G max_D lambda_gan L_cGAN(G, D) + lambda_l1 L_L1(G) (equation 4)."""

    gan_mode: Literal["vanilla", "lsgan", "hinge", "wgan-gp"] = "vanilla"
    """vanilla: the paper's; wgan-gp is known not to help here, and wants discriminator.norm=instance."""
    saturating: bool = False
    """Vanilla only: G minimises log(1 - D) (equation 1 literally), not -log D (Section 3.3)."""
    lambda_gan: float = 1.0
    """Weight of the adversarial term; 0: no D is built."""
    lambda_l1: float = 100.0
    """Weight of the mean absolute error on [-1, 1]."""
    lambda_l2: float = 0.0
    """Weight of the mean squared error on [-1, 1]."""
    halve_d: bool = True
    """Divide D's objective by 2 (Section 3.3)."""
    gradient_penalty: float = 10.0
    """wgan-gp only: weight of the gradient penalty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Optimisation (Section 3.3) and the machine."""

    epochs: int | None = runtime(200)
    """Passes over the training pairs; given alone, it takes the place of a preset's `steps`."""
    steps: int | None = runtime(None)
    """Steps (one D update and one G update each), whatever the epochs; None: from epochs."""
    batch_size: int = 1
    """Pairs a step, of all processes together under torchrun; 1 to 10 in the paper."""
    learning_rate: float = 2e-4
    """Adam's rate for G and D."""
    beta1: float = 0.5
    """Adam's first momentum."""
    beta2: float = 0.999
    """Adam's second momentum."""
    decay_fraction: float = 0.0
    """Share of the run, at its end, over which the rate falls linearly to zero; 0: constant, as the paper."""
    ema_decay: float = 0.0
    """Decay of the moving average of G's weights, used for validation and export; 0: off, as the paper."""
    seed: int = 0
    """Everything random follows from it."""
    init_from: str | None = None
    """Run directory or generator.safetensors to start from (G, and D when it lies beside)."""
    device: str = runtime("auto")
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16"] = decided("auto")
    """auto: bf16 autocast where the machine has bf16 arithmetic, else fp32."""
    deterministic: bool = runtime(False)
    """CUDA: bit-for-bit repeatable kernels. The CPU is always repeatable."""
    compile: bool = runtime(False)
    """Compile the networks of the step with torch.compile: minutes at the start. One process only."""
    cuda_graphs: bool = runtime(False)
    """CUDA: record the whole step once and replay it. One process only; not yet measured on a GPU."""
    checkpoint_activations: bool = runtime(False)
    """Large crops: compute what the layers gave again instead of keeping it; less memory, slower steps."""
    sync_batch_norm: bool = False
    """Several processes: batch norm takes its statistics over all of them, not over each one's share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig:
    """What is written, and how often."""

    log_every_steps: int = runtime(50)
    """Steps between two lines of metrics.jsonl."""
    save_every_steps: int | None = runtime(None)
    """Steps between checkpoints; each is validated and sampled. None: a twentieth of the run, 100 to 5000."""
    sample_pairs: int = runtime(4)
    """Held-out pairs drawn into samples/ at every checkpoint."""
    keep_snapshots: bool = runtime(False)
    """Also keep a small half-precision generator of every checkpoint in snapshots/."""
    track: Literal["none", "tensorboard", "wandb"] = runtime("none")
    """Besides the files, log to this tracker (it must be installed)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A whole run. Checked when made: an impossible value is a ConfigError that names the field."""

    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    note: str = ""
    """Where these values come from and how sure they are."""

    def __post_init__(self) -> None:
        _check(self)


def height_width(sides: Sides) -> tuple[int, int]:
    """(height, width) of a `Sides` value."""
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


def halvings(crop_size: Sides) -> int:
    """The largest n <= 8 with 2^n dividing both sides: how deep a U-Net for this crop can be."""
    height, width = height_width(crop_size)
    return max(n for n in range(9) if height % 2**n == 0 and width % 2**n == 0)


def most_layers(crop_size: Sides) -> int:
    """The most strided layers of a D whose logit map, side // 2^n - 2 wide, is not empty at this crop."""
    side = min(height_width(crop_size))
    return max(n for n in range(side.bit_length()) if n == 0 or side // 2**n - 2 >= 1)


def jitter_note(data: DataConfig) -> str | None:
    """A sentence when training crops show the pairs much larger than validation does; else None."""
    crop, load = height_width(data.crop_size), data.load_sides
    pairs = ((min(load), min(crop)),) if data.resize == "shorter" else zip(load, crop, strict=True)
    ratio = max(a / b for a, b in pairs)
    if data.resize == "none" or ratio <= MOST_JITTER:
        return None
    return (
        f"Training pairs are resized to {load[1]}x{load[0]} and cropped to {crop[1]}x{crop[0]} pixels, so "
        f"that the model sees them {ratio:.2g} times as large as in validation; leave data.load_size out "
        "for the paper's jitter."
    )


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}.")


def _check(config: Config) -> None:
    data, g, d = config.data, config.generator, config.discriminator
    objective, training, logging = config.objective, config.training, config.logging

    for name in ("crop_size", "load_size"):
        sides = height_width(data.crop_size) if name == "crop_size" else data.load_sides
        fits = min(sides) >= 1 and max(sides) <= MOST_PIXELS
        _require(fits, f"data.{name}", getattr(data, name), f"at least 1 pixel, and {MOST_PIXELS} at most")
    if data.resize == "stretch":
        fits = all(a >= b for a, b in zip(data.load_sides, height_width(data.crop_size), strict=True))
        _require(fits, "data.load_size", data.load_size, f"at least data.crop_size ({data.crop_size})")
    _check_augmentation(data)
    for name, share in (("val_fraction", data.val_fraction), ("test_fraction", data.test_fraction)):
        _require(0 <= share <= 0.5, f"data.{name}", share, "between 0 and 0.5")
    for side in ("source", "target"):
        scaling, limits = getattr(data, f"{side}_scaling"), getattr(data, f"{side}_range")
        if scaling == "range":
            ordered = limits is not None and limits[0] < limits[1]
            _require(ordered, f"data.{side}_range", limits, "low and high, low first, for scaling=range")
    _require(0 <= data.edge_sigma <= 1000, "data.edge_sigma", data.edge_sigma, "between 0 and 1000 px")
    _require(data.edge_least_px >= 0, "data.edge_least_px", data.edge_least_px, "0 or more")
    _require(bool(data.hole), "data.hole", data.hole, f"one of {', '.join(HOLES)}, or a path of masks")
    _require(data.max_pairs is None or data.max_pairs >= 1, "data.max_pairs", data.max_pairs, "1 or more")
    _require(data.slice_neighbours >= 0, "data.slice_neighbours", data.slice_neighbours, "0 or more")
    for name, gb in (("cache_gb", data.cache_gb), ("shard_cache_gb", data.shard_cache_gb)):
        _require(0 < gb <= MOST_GB, f"data.{name}", gb, f"above 0, and {MOST_GB} at most")
    _require(data.path_b != "", "data.path_b", "", "a folder, or left out")
    _require(data.workers is None or data.workers >= 0, "data.workers", data.workers, "0 or more")
    _require(bool(data.cache), "data.cache", data.cache, "off, auto, or a folder")

    for group, base in (("generator", g.base_channels), ("discriminator", d.base_channels)):
        _require(1 <= base <= MOST_FILTERS, f"{group}.base_channels", base, f"from 1 to {MOST_FILTERS}")
    for name in ("source_channels", "target_channels"):
        count = getattr(g, name)
        known = count is None or 1 <= count <= MOST_CHANNELS
        _require(known, f"generator.{name}", count, f"from 1 to {MOST_CHANNELS}")
    if g.architecture == "resnet":
        least = min(height_width(data.crop_size))
        quarters = halvings(data.crop_size) >= 2 and least >= 8
        _require(quarters, "data.crop_size", data.crop_size, "multiples of 4, from 8, for a ResNet")
    deepest = halvings(data.crop_size)
    depth = deepest if g.num_downs is None or g.architecture == "resnet" else g.num_downs
    _require(
        1 <= depth <= deepest,
        "data.crop_size" if g.num_downs is None else "generator.num_downs",
        data.crop_size if g.num_downs is None else depth,
        "even" if g.num_downs is None else f"between 1 and {deepest} for a crop of {data.crop_size}",
    )
    blocks = g.resnet_blocks
    _require(1 <= blocks <= MOST_BLOCKS, "generator.resnet_blocks", blocks, f"from 1 to {MOST_BLOCKS}")
    _require(0 <= g.dropout_rate < 1, "generator.dropout_rate", g.dropout_rate, "at least 0 and below 1")
    counted = all(block >= 1 for block in g.dropout_blocks)
    _require(counted, "generator.dropout_blocks", g.dropout_blocks, "counted from 1, the innermost")
    layers = d.num_layers
    _require(0 <= layers <= MOST_STRIDED, "discriminator.num_layers", layers, f"0 (pixel) to {MOST_STRIDED}")
    if objective.lambda_gan > 0:
        most = most_layers(data.crop_size)
        allowed = f"{most} at most for a crop of {data.crop_size}: with more layers D's logit map is empty"
        _require(d.num_layers <= most, "discriminator.num_layers", d.num_layers, allowed)

    weights = {name: getattr(objective, name) for name in ("lambda_gan", "lambda_l1", "lambda_l2")}
    for name, value in weights.items():
        _require(0 <= value < math.inf, f"objective.{name}", value, "0 or more, and finite")
    penalty = objective.gradient_penalty
    _require(penalty >= 0, "objective.gradient_penalty", penalty, "0 or more")
    _require(any(weights.values()), "objective.lambda_gan", 0.0, "above 0 when lambda_l1 and lambda_l2 are 0")
    if objective.saturating:
        _require(
            objective.gan_mode == "vanilla", "objective.saturating", True, "false unless gan_mode=vanilla"
        )

    _require(
        training.epochs is not None or training.steps is not None,
        "training.epochs",
        None,
        "set, or training.steps",
    )
    for name in ("epochs", "steps"):
        value = getattr(training, name)
        counts = value is None or 1 <= value <= MOST_STEPS
        _require(counts, f"training.{name}", value, f"1 or more, and {MOST_STEPS} at most")
    _require(training.init_from != "", "training.init_from", "", "a run or weights, or left out")
    _require(0 <= training.seed < 2**63, "training.seed", training.seed, "between 0 and 2^63 - 1")
    _require(training.batch_size >= 1, "training.batch_size", training.batch_size, "1 or more")
    rate = training.learning_rate
    _require(0 < rate < math.inf, "training.learning_rate", rate, "above 0, and finite")
    for name in ("beta1", "beta2", "ema_decay"):
        value = getattr(training, name)
        _require(0 <= value < 1, f"training.{name}", value, "at least 0 and below 1")
    for name in ("compile", "cuda_graphs", "sync_batch_norm") if training.checkpoint_activations else ():
        _require(not getattr(training, name), f"training.{name}", True, "false with checkpoint_activations")
    _require(0 <= training.decay_fraction <= 1, "training.decay_fraction", training.decay_fraction, "0 to 1")
    _require(logging.log_every_steps >= 1, "logging.log_every_steps", logging.log_every_steps, "1 or more")
    every = logging.save_every_steps
    _require(every is None or every >= 1, "logging.save_every_steps", every, "1 or more")
    _require(logging.sample_pairs >= 0, "logging.sample_pairs", logging.sample_pairs, "0 or more")


def _check_augmentation(data: DataConfig) -> None:
    height, width = height_width(data.crop_size)
    square = data.rotate == "none" or height == width
    _require(square, "data.rotate", data.rotate, f"none unless data.crop_size is square ({width}x{height})")
    _require(0 <= data.affine_degrees <= 180, "data.affine_degrees", data.affine_degrees, "between 0 and 180")
    _require(0 <= data.affine_scale <= 0.5, "data.affine_scale", data.affine_scale, "between 0 and 0.5")
    most = min(height, width) / (4 * ELASTIC_SPANS)
    allowed = f"between 0 and {most:g}, a sixteenth of the crop's shorter side: beyond, pictures would fold"
    _require(0 <= data.elastic_px <= most, "data.elastic_px", data.elastic_px, allowed)
    _require(0 <= data.light < 1, "data.light", data.light, "at least 0 and below 1")
    marks = {"inpaint": "a hole must stay white", "edges": "lines must stay black on white"}
    if data.derive in marks:
        _require(
            data.light == 0,
            "data.light",
            data.light,
            f"0 for data.derive={data.derive}: {marks[data.derive]}",
        )
