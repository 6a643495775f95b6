"""How much memory a translation of a whole image takes, before it is tried."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pairloom.networks import ResNet, UNet, build_generator
from pairloom.translator import Translator

MARGIN = 2.0
"""What convolutions need beside the tensors that torch counts, at most; measured, see docs/large-files.md."""
_SIDE = 1024
"""Pixels, about: the size at which memory per pixel is counted."""
_MAPS = 6
"""More maps of all channels at both ends, as large as the image, than are ever alive at once: 3.5 are."""
_KNOWN: WeakKeyDictionary[Translator, float] = WeakKeyDictionary()


def whole_image_bytes(translator: Translator, height: int, width: int, *, samples: int = 1) -> int:
    """The memory that translating an image in one piece takes above the model, estimated.

    The generator is run on tensors without memory, which counts what would live at the same time; the rest,
    in proportion to the pixels, are the file's values, the tensor of the source, and the outputs.

    Shapes: an image of (height, width).
    """
    return _bytes(translator, height, width, samples, activation_bytes_per_pixel(translator))


def surely_fits(
    translator: Translator, height: int, width: int, memory_bytes: int, *, samples: int = 1, count: int = 1
) -> bool:
    """Do so many images fit even by a coarse bound? Counting loads much of torch, for seconds.

    Shapes: images of (height, width).
    """
    ends = translator.source_spec.tensor_channels + translator.target_spec.tensor_channels
    most = 4.0 * _MAPS * (translator.config.generator.base_channels + ends)
    return count * _bytes(translator, height, width, samples, most) <= memory_bytes


def _bytes(translator: Translator, height: int, width: int, samples: int, activations: float) -> int:
    stride = translator.generator.stride
    padded = [-(-side // stride) * stride for side in (height, width)]
    source, target = translator.source_spec, translator.target_spec
    # Each sample's output is kept, stacked and recombined; Lab is computed in float64.
    around = 8 * (source.channels + source.tensor_channels) + 12 * samples * target.tensor_channels
    around += 200 * ("lab" in (source.kind, target.kind))
    return int(padded[0] * padded[1] * (MARGIN * activations + around))


def activation_bytes_per_pixel(translator: Translator) -> float:
    """The most bytes alive at once while the generator runs, for each pixel of a large image."""
    if (known := _KNOWN.get(translator)) is not None:
        return known
    generator: nn.Module = translator.generator
    if not isinstance(generator, UNet | ResNet):  # an exported file: the network that it was
        generator = build_generator(translator.config.generator).eval()
    side = -(-_SIDE // translator.generator.stride) * translator.generator.stride
    shape = (1, translator.source_spec.tensor_channels, side, side)
    peak_bytes = _peak_bytes(generator, shape, key=0 if translator.semantics.dropout else None)
    return _KNOWN.setdefault(translator, peak_bytes / side**2)


def _peak_bytes(net: nn.Module, shape: tuple[int, ...], key: int | None) -> int:
    unheard = _Unheard(net)
    weights = {name: tensor.to("meta") for name, tensor in unheard.state_dict().items()}
    x = torch.empty(shape, device="meta")
    living = _Living()
    with torch.inference_mode(), living:
        functional_call(unheard, weights, (x, key))
    return int(living.peak_bytes)


class _Unheard(nn.Module):
    """A network without the hooks that somebody put on it: this is no translation."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, key: int | None) -> Tensor:
        y_hat: Tensor = self.net.forward(x, key)
        return y_hat


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that an operation made and that are still referred to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._alive: dict[int, tuple[Any, int]] = {}

    @staticmethod
    def _weakly(storage: Any) -> Any:
        return StorageWeakRef(storage)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._alive[storage._cdata] = (self._weakly(storage), storage.nbytes())
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._alive.values()))
        return made
