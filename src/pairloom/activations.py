"""Activation checkpointing: what a part of a network computed is forgotten, and computed again for gradients.

Less memory for more time: second forward passes of G and D. The numbers are the same, bit for bit: dropout
draws the same mask, and running averages are not moved a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pairloom.layers import BatchNorm


def part(net: nn.Module, function: Callable[..., Tensor], *args: object) -> Tensor:
    """function(*args), a part of the forward pass of `net`; with `net.recompute` only `args` are kept."""
    if not (net.recompute and net.training):
        return function(*args)
    y: Tensor = checkpoint(
        function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _SecondTime(net))
    )
    return y


class _SecondTime:
    """A context for repetitions; entered more than once where gradients are differentiated in their turn."""

    def __init__(self, net: nn.Module) -> None:
        self._norms = [module for module in net.modules() if isinstance(module, BatchNorm)]

    def __enter__(self) -> None:
        for norm in self._norms:
            norm.repeats = True

    def __exit__(self, *_: object) -> None:
        for norm in self._norms:
            norm.repeats = False
