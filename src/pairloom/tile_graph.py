"""A generator as steps that can be asked for any window: what each needs of its inputs, and how it is made.

Coordinates are absolute, on the map of the whole image (extended to the stride). A step that is asked for a
window asks its inputs for the windows that its kernel reaches.

Source: Majurski and Bajcsy, J. Res. NIST 126009 (2021), for the idea; the spans follow from the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairloom import images, networks, resnet
from pairloom.layers import BatchNorm, Dropout
from pairloom.networks import Generator, ResNet, UNet
from pairloom.onnx_generator import OnnxGenerator
from pairloom.resnet import LEAST_SIDE
from pairloom.tile_kernels import Convolution, Kernel, Pointwise, Resized, Span, Transposed, Window, hull
from pairloom.tile_moments import Moments


def _same(x: Tensor, in_place: bool = False) -> Tensor:
    return x


def _relu(x: Tensor, in_place: bool = False) -> Tensor:
    return F.relu(x, in_place)


def _leaky(x: Tensor, in_place: bool = False) -> Tensor:
    return F.leaky_relu(x, 0.2, in_place)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer: inputs joined, activated, through the kernel; then norm, activation, dropout.

    What is kept of it between passes is the kernel's raw result: its statistics are those of the norm.
    """

    name: str
    level: int
    """Its map has sides of the image's over 2 ** level."""
    channels: int
    inputs: tuple[int, ...] = ()
    kernel: Kernel = field(default_factory=Pointwise)
    macs: int = 0
    """Multiplications with additions for each position that the kernel counts."""
    join: str = "concat"
    before: Callable[[Tensor, bool], Tensor] = _same
    """An activation; the second argument: may it change its input?"""
    norm: nn.Module | None = None
    after: Callable[[Tensor], Tensor] = _same
    dropout: Dropout | None = None

    @property
    def measures(self) -> bool:
        """Does its norm use each image's own statistics?"""
        if isinstance(self.norm, BatchNorm):
            return self.norm.stats != "running"
        return self.norm is not None

    def raw(self, inputs: list[Tensor], have: Window, want: Window, sizes: tuple[int, int]) -> Tensor:
        """The kernel's result. Shapes: each input (1, C, *have) -> (1, C', *want)."""
        if len(inputs) == 1:
            return self.kernel(self.before(inputs[0], False), have, want, sizes)
        x = torch.cat(inputs, 1) if self.join == "concat" else inputs[0] + inputs[1]
        return self.kernel(self.before(x, True), have, want, sizes)

    def finished(self, raw: Tensor, window: Window, key: int | None, moments: Moments | None) -> Tensor:
        """Normalised with frozen statistics, activated, dropped. Shapes: (1, C, *window) -> same."""
        if self.measures:
            assert moments is not None, "its statistics are gathered before it is used"
            x = moments.normalised(raw, self.norm)
        else:
            x = raw if self.norm is None else self.norm(raw)
        x = self.after(x)
        return x if self.dropout is None else self.dropout(x, key, (window[0][0], window[1][0]))


class Graph:
    """The steps of a generator in an order in which each follows its inputs; the first is the source.

    Attributes:
        steps: The source, then every layer; the last gives the translation.
        sizes: Of each step's map, (height, width).
        places: Which row, and which column, of the image each of the extended image mirrors.
    """

    def __init__(self, generator: Generator | OnnxGenerator, size: tuple[int, int]) -> None:
        if not isinstance(generator, UNet | ResNet):
            raise ValueError(
                f"{type(generator).__name__} cannot be translated by tiles: only U-Net and ResNet generators"
                " show how far their layers reach; load the model from its run or its generator.safetensors."
            )
        self.z, self.stride = generator.z, generator.stride
        self.steps = _unet(generator) if isinstance(generator, UNet) else _resnet(generator)
        self.size = size
        self.places = tuple(_extended(generator, side) for side in size)
        whole = len(self.places[0]), len(self.places[1])
        self.sizes = [(whole[0] >> step.level, whole[1] >> step.level) for step in self.steps]

    @property
    def last(self) -> int:
        """The number of the step that gives the translation."""
        return len(self.steps) - 1

    def spans(self, target: int, wanted: Span, axis: int, kept: frozenset[int]) -> dict[int, Span]:
        """What of each step a span of the target's result takes, along one axis.

        The steps in `kept` are read, so nothing behind them is asked for.
        """
        spans = {target: wanted}
        for number in range(target, 0, -1):
            if number not in spans or (number in kept and number != target):
                continue
            step = self.steps[number]
            for source in step.inputs:
                needed = step.kernel.needs(spans[number], self.sizes[source][axis])
                spans[source] = hull(spans[source], needed) if source in spans else needed
        return spans

    def mirrored(self, axis: int, span: Span) -> Span:
        """What of the image a span of the extended image mirrors."""
        if span[1] <= self.size[axis]:
            return span
        places = self.places[axis][slice(*span)]
        return min(places), max(places) + 1

    def whole_macs(self) -> int:
        """Multiplications with additions of one pass over the whole image."""
        total = 0
        for number, step in enumerate(self.steps):
            if not step.inputs:
                continue
            (height, width), (rows, columns) = self.sizes[number], self.sizes[step.inputs[0]]
            counted = step.kernel.counted((0, height), rows) * step.kernel.counted((0, width), columns)
            total += counted * step.macs
        return total


def _extended(generator: Generator, side: int) -> list[int]:
    """Which row of an image each row of what the generator is given mirrors."""
    multiple = -(-side // generator.stride) * generator.stride
    index = images.reflect_to(torch.arange(side)[:, None], multiple, 1)
    if isinstance(generator, ResNet):
        index = images.reflect_to(index, LEAST_SIDE, 1)
    return [int(i) for i in index[:, 0]]


def _doubling(conv: nn.Module) -> tuple[Kernel, int, int]:
    """An upsampling layer's kernel, its macs and its channels."""
    if isinstance(conv, nn.ConvTranspose2d):
        return Transposed(conv), conv.weight.numel(), conv.out_channels
    assert isinstance(conv, nn.Sequential) and isinstance(conv[1], nn.Conv2d)
    return Resized(conv[1]), conv[1].weight.numel(), conv[1].out_channels


def _norm(norm: nn.Module) -> nn.Module | None:
    return None if isinstance(norm, nn.Identity) else norm


def _unet(net: UNet) -> list[Step]:
    downs = [down for down in net.downs if isinstance(down, networks.Down)]
    ups = [up for up in net.ups if isinstance(up, networks.Up)]
    steps = [Step(name="source", level=0, channels=downs[0].conv.in_channels)]
    for level, down in enumerate(downs, start=1):
        steps.append(
            Step(
                name=f"down {level}",
                level=level,
                channels=down.conv.out_channels,
                inputs=(level - 1,),
                kernel=Convolution(down.conv),
                macs=down.conv.weight.numel(),
                before=_same if down.first else _leaky,
                norm=_norm(down.norm),
            )
        )
    for block, up in enumerate(ups, start=1):
        level = len(downs) - block
        skipped = () if block == 1 or net.skip == "none" else (level + 1,)
        kernel, macs, channels = _doubling(up.conv)
        steps.append(
            Step(
                name=f"up {block}",
                level=level,
                channels=channels,
                inputs=(len(steps) - 1, *skipped),
                kernel=kernel,
                macs=macs,
                join=net.skip,
                before=_relu,
                norm=_norm(up.norm),
                after=torch.tanh if level == 0 else _same,
                dropout=up.dropout,
            )
        )
    return steps


def _resnet(net: ResNet) -> list[Step]:
    downs = [down for down in net.downs if isinstance(down, resnet.Layer)]
    blocks = [block for block in net.blocks if isinstance(block, resnet.Block)]
    ups = [up for up in net.ups if isinstance(up, resnet.Up)]
    steps = [Step(name="source", level=0, channels=downs[0].conv.in_channels)]

    def add(step: Step) -> int:
        steps.append(step)
        return len(steps) - 1

    x = 0
    for level, down in enumerate(downs):
        x = add(_layer(f"down {level + 1}", level, down, x))
    for number, block in enumerate(blocks, start=1):
        first = add(_layer(f"block {number}, first", 2, block.first, x, block.dropout))
        second = add(_layer(f"block {number}, second", 2, block.second, first))
        name, channels = f"block {number}", steps[x].channels
        x = add(Step(name=name, level=2, channels=channels, inputs=(x, second), join="add"))
    for number, up in enumerate(ups, start=1):
        kernel, macs, channels = _doubling(up.conv)
        x = add(
            Step(
                name=f"up {number}",
                level=2 - number,
                channels=channels,
                inputs=(x,),
                kernel=kernel,
                macs=macs,
                norm=_norm(up.norm),
                after=_relu,
            )
        )
    add(
        Step(
            name="last",
            level=0,
            channels=net.last.out_channels,
            inputs=(x,),
            kernel=Convolution(net.last, net.last.kernel_size[0] // 2),
            macs=net.last.weight.numel(),
            after=torch.tanh,
        )
    )
    return steps


def _layer(name: str, level: int, layer: resnet.Layer, source: int, dropout: Dropout | None = None) -> Step:
    return Step(
        name=name,
        level=level,
        channels=layer.conv.out_channels,
        inputs=(source,),
        kernel=Convolution(layer.conv, layer.reflect),
        macs=layer.conv.weight.numel(),
        norm=_norm(layer.norm),
        after=_relu if layer.relu else _same,
        dropout=dropout,
    )
