"""Activation checkpointing: what a part of a network computed is forgotten, and computed again for gradients.

Less memory for more time: a second forward pass of G. The numbers are the same, bit for bit: dropout draws
the same mask, and running averages are not moved a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pairloom.layers import BatchNorm


def part(net: nn.Module, function: Callable[..., Tensor], *args: object) -> Tensor:
    """function(*args), a part of the forward pass of `net`; with `net.recompute` only `args` are kept."""
    if not (net.recompute and net.training):
        return function(*args)
    y: Tensor = checkpoint(
        function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _second_time(net))
    )
    return y


@contextmanager
def _second_time(net: nn.Module) -> Iterator[None]:
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.repeats = True
    try:
        yield
    finally:
        for norm in norms:
            norm.repeats = False
