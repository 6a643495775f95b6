"""Adam as torch's own fused one, given each tensor in the order in which it lies in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam(torch.optim.Adam):
    """Fused Adam over weights in any memory layout; the numbers, and the state, are torch's.

    Torch's fused CPU kernel walks through memory. Of channels_last weights it copies the gradients first,
    which costs more than the update; and where a gradient lies in another order than its weight, it updates
    the wrong ones (seen with torch 2.13). So each weight, its gradient and its moments are handed over as
    views that are contiguous, and a gradient in another order is copied into its weight's.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, lr=lr, betas=betas, fused=True)
        self.rate: Tensor | None = None
        """The learning rate as a tensor, float32, which a recorded step reads; None: the group's number."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            rows, steps = [], []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                for name in ("exp_avg", "exp_avg_sq"):
                    moment = state.get(name)
                    state[name] = torch.zeros_like(parameter) if moment is None else _laid(moment, parameter)
                rows.append(
                    [
                        _contiguous_view(t)
                        for t in (
                            parameter,
                            _laid(parameter.grad, parameter),
                            state["exp_avg"],
                            state["exp_avg_sq"],
                        )
                    ]
                )
                steps.append(state["step"])
            params, grads, means, squares = (list(column) for column in zip(*rows, strict=True))
            beta1, beta2 = group["betas"]
            adam(
                params,
                grads,
                means,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"] if self.rate is None else self.rate,
                weight_decay=0.0,
                eps=group["eps"],
                maximize=False,
            )


def _laid(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the memory layout of another one of its shape."""
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def _contiguous_view(tensor: Tensor) -> Tensor:
    """(O, H, W, C) of a channels_last (O, C, H, W); anything else as it is."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if last else tensor
