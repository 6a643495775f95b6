"""What a configuration builds, without building it: layers, parameters, receptive field, cost of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pairloom.config import DERIVED_CHANNELS, Config, halvings, height_width
from pairloom.networks import Discriminator, Generator, ResNet, build_discriminator, build_generator


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution with what follows it."""

    name: str
    kind: str
    channels: tuple[int, int]
    size: tuple[int, int]
    """(height, width) of its map."""
    parameters: int


@dataclass(frozen=True, slots=True)
class Description:
    """The networks of a configuration, counted."""

    generator: tuple[Layer, ...]
    discriminator: tuple[Layer, ...]
    generator_parameters: int
    discriminator_parameters: int
    crop_size: tuple[int, int]
    batch_size: int
    receptive_field: int | None
    jump: int | None
    logit_map: tuple[int, int] | None
    step_flops: int
    """Floating-point operations of the matrix products and convolutions of one training step."""
    remark: str = ""
    """What a reader must know of the generator, as a sentence."""

    def words(self) -> str:
        """Tables for people."""
        height, width = self.crop_size
        lines = [
            f"Generator at {height}x{width}: {self.generator_parameters:,} parameters",
            *_table(self.generator),
            *([self.remark] if self.remark else []),
        ]
        if self.discriminator:
            assert self.logit_map is not None
            lines += [
                "",
                f"Discriminator: {self.discriminator_parameters:,} parameters, "
                f"receptive field {self.receptive_field} px, "
                f"{self.logit_map[0]}x{self.logit_map[1]} logits every {self.jump} px",
                *_table(self.discriminator),
            ]
        else:
            lines += ["", "No discriminator (objective.lambda_gan is 0)."]
        lines += ["", f"A training step at batch size {self.batch_size}: {self.step_flops / 1e9:.1f} GFLOP"]
        return "\n".join(lines)


def describe(config: Config) -> Description:
    """Count a configuration's networks; channels left open are those of RGB photos, as in the paper."""
    config = _with_channels(config)
    height, width = height_width(config.data.crop_size)
    x, y = (torch.empty(1, c, height, width, device="meta") for c in config.generator.channels)
    G = build_generator(config.generator)
    D = _discriminator(config)
    return Description(
        generator=tuple(_layers(G, x)),
        discriminator=tuple(_layers(D, x, y)) if D is not None else (),
        generator_parameters=_count(G),
        discriminator_parameters=_count(D) if D is not None else 0,
        crop_size=(height, width),
        batch_size=config.training.batch_size,
        receptive_field=D.receptive_field if D is not None else None,
        jump=D.jump if D is not None else None,
        logit_map=_height_width(D(x, y)) if D is not None else None,
        step_flops=step_flops(config),
        remark=_remark(G),
    )


def step_flops(config: Config) -> int:
    """Matrix FLOPs of one training step: a multiplication and an addition count as two.

    Counted on the step's own passes: G forward and backward once; D forward three times, backward three times
    (twice to its weights, once through to the image).
    """
    config = _with_channels(config)
    height, width = height_width(config.data.crop_size)
    batch = config.training.batch_size
    x, y = (torch.empty(batch, c, height, width, device="meta") for c in config.generator.channels)
    G, D = build_generator(config.generator), _discriminator(config)
    with FlopCounterMode(display=False) as counter:
        y_hat = G(x)
        loss = y_hat.sum()
        if D is not None:
            (D(x, y).sum() + D(x, y_hat.detach()).sum()).backward()
            D.requires_grad_(False)
            loss = loss + D(x, y_hat).sum()
        loss.backward()
    return int(counter.get_total_flops())


def _with_channels(config: Config) -> Config:
    g = config.generator
    source, target = DERIVED_CHANNELS[config.data.derive]
    return replace(
        config,
        generator=replace(
            g,
            source_channels=g.source_channels or source,
            target_channels=g.target_channels or target,
            num_downs=g.num_downs or halvings(config.data.crop_size),
        ),
    )


def _remark(net: Generator) -> str:
    if not isinstance(net, ResNet):
        return ""
    return (
        f"A ResNet sees {net.receptive_field} px around each pixel of its result; "
        "generator.num_downs, skip and dropout_blocks are the U-Net's, and not read."
    )


def _discriminator(config: Config) -> Discriminator | None:
    if config.objective.lambda_gan == 0:
        return None
    return build_discriminator(config.discriminator, *config.generator.channels)


def _layers(net: Generator | Discriminator, *inputs: Tensor) -> list[Layer]:
    """Each convolution with the map that comes out of it, in the order of the forward pass."""
    layers: list[Layer] = []
    extras: dict[str, list[str]] = {}
    before: list[str] = []

    def note(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                kind = "".join(before) + ("transposed " if isinstance(module, nn.ConvTranspose2d) else "")
                before.clear()
                kernel, stride = module.kernel_size[0], module.stride[0]
                layers.append(
                    Layer(
                        name.split(".conv")[0],
                        f"{kind}convolution {kernel}x{kernel}, stride {stride}",
                        (module.in_channels, module.out_channels),
                        _height_width(output),
                        _count(module),
                    )
                )
            elif isinstance(module, nn.Upsample):
                before.append("doubling, ")
            elif layers and not isinstance(module, nn.Identity):
                extras.setdefault(layers[-1].name, []).append(type(module).__name__)
                layers[-1] = replace(layers[-1], parameters=layers[-1].parameters + _count(module))

        return module.register_forward_hook(hook)

    leaves = [(name, m) for name, m in net.named_modules() if not list(m.children())]
    hooks = [note(name, module) for name, module in leaves]
    net(*inputs)
    for hook in hooks:
        hook.remove()
    return [replace(la, kind=", ".join([la.kind, *extras.get(la.name, [])])) for la in layers]


def _table(layers: tuple[Layer, ...]) -> list[str]:
    rows = [("layer", "what", "channels", "map", "parameters")]
    rows += [
        (
            la.name,
            la.kind,
            f"{la.channels[0]} -> {la.channels[1]}",
            f"{la.size[0]}x{la.size[1]}",
            f"{la.parameters:,}",
        )
        for la in layers
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return [
        "  "
        + "  ".join(
            c.rjust(w) if i == 4 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _height_width(t: Tensor) -> tuple[int, int]:
    return t.shape[-2], t.shape[-1]
