"""Batches on the device: on CUDA the next one is copied, on a stream of its own, while the step runs."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from pairloom.data.masks import View


def on_device(batches: Generator[View, None, None], device: torch.device) -> Generator[View, None, None]:
    """The same batches in the same order, channels_last, on the device; closing it closes `batches`.

    On CUDA the host's memory is to be pinned, else a copy waits for the device.
    """
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return _one_ahead(
            batches, lambda view: _begin(view, device, stream), lambda view: _wait(view, stream)
        )
    return _in_turn(batches, device)


def _in_turn(batches: Generator[View, None, None], device: torch.device) -> Generator[View, None, None]:
    try:
        for view in batches:
            yield _placed(view, device)
    finally:
        batches.close()


def _one_ahead(
    batches: Generator[View, None, None], begin: Callable[[View], View], finish: Callable[[View], View]
) -> Generator[View, None, None]:
    """`begin` each batch before the one in front of it is given out, and `finish` it in its turn.

    What is wrong with a batch is raised in its turn too, not before.
    """

    def following() -> View | ValueError | None:
        try:
            view = next(batches, None)
        except ValueError as error:
            return error
        return None if view is None else begin(view)

    try:
        begun = following()
        while begun is not None:
            if isinstance(begun, ValueError):
                raise begun
            current, begun = begun, following()
            yield finish(current)
    finally:
        batches.close()


def _begin(view: View, device: torch.device, stream: torch.cuda.Stream) -> View:
    with torch.cuda.stream(stream):
        return _placed(view, device)


def _wait(view: View, stream: torch.cuda.Stream) -> View:
    """The step's stream waits for the copies, the processor does not; their memory is kept for the step."""
    here = torch.cuda.current_stream(stream.device)
    here.wait_stream(stream)
    for tensor in view:
        if tensor is not None:
            tensor.record_stream(here)
    return view


def _placed(view: View, device: torch.device) -> View:
    def last(tensor: Tensor) -> Tensor:
        return tensor.to(device, memory_format=torch.channels_last, non_blocking=True)

    valid = None if view.valid is None else view.valid.to(device, non_blocking=True)
    return View(last(view.x), last(view.y), valid)
