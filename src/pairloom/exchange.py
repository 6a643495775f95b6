"""What several processes tell each other: numbers, sentences, gradients, a whole state."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=1)
"""How long one waits for another: longer than process 0 validates. One that dies is noticed at once, because
its connections close; this is for a machine that vanishes without a word."""
MEETING = timedelta(minutes=10)
"""How long one waits for the others to start."""
BUCKET = 2**23
"""Numbers that are averaged at once: 32 MB, few enough messages and little memory."""

T = TypeVar("T")


class LostProcess(ValueError):
    """Another process of the training ended, or cannot be reached."""


class Exchange:
    """The open connections to the other processes.

    Every method is called by all of them, in the same order; each waits for the others.

    Raises:
        LostProcess: From every method: another process ended, or cannot be reached.
    """

    def __init__(self, rank: int, size: int, device: torch.device, advice: str) -> None:
        """Args: rank, size: which, of how many. device: where gradients are. advice: what a loss means."""
        self.rank, self.size, self.device = rank, size, device
        self._advice, self._lost = advice, False
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        with self._talking():
            # Imported here: a build of torch without them trains alone.
            from torch.distributed.distributed_c10d import PrefixStore
            from torch.distributed.rendezvous import rendezvous

            store, _, _ = next(rendezvous("env://", rank, size, timeout=MEETING))
            fresh = PrefixStore(_meet(store, rank, size), store)
            dist.init_process_group(self.backend, timeout=TIMEOUT, store=fresh, rank=rank, world_size=size)
            # Flags and sentences go by the CPU: asking costs the GPU no wait.
            gloo = self.backend == "gloo"
            self._control = dist.group.WORLD if gloo else dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.hosts: list[str] = self.gathered(socket.gethostname())

    def close(self) -> None:
        """Leave in good order; after an error it might wait for those that are gone."""
        dist.destroy_process_group()

    def largest(self, value: int) -> int:
        """The largest of the values that the processes give."""
        number = torch.tensor([value])
        with self._talking():
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self._control)
        return int(number)

    def told(self, value: Any, source: int = 0) -> Any:
        """What process `source` gives, on all."""
        box = [value]
        with self._talking():
            dist.broadcast_object_list(box, source, group=self._control)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """What each gives, in the order of ranks, on all."""
        values: list[Any] = [None] * self.size
        with self._talking():
            dist.all_gather_object(values, value, group=self._control)
        return values

    def collected(self, value: T) -> list[T]:
        """What each gives, on process 0; nothing elsewhere."""
        values: list[Any] | None = None if self.rank else [None] * self.size
        with self._talking():
            dist.gather_object(value, values, group=self._control)
        return values or []

    def spread(self, state: Any) -> Any:
        """The nested dicts and lists of tensors and plain values of process 0, on all.

        State, not seeds: what process 0 read or drew is what all have, also where only it can read the files.
        """
        places = self.told(None if self.rank else _walk(state, _Place.of))
        if self.rank:
            state = _walk(places, lambda place: place.memory(self.device))
        tensors: list[Tensor] = []
        _walk(state, tensors.append)
        for tensor in tensors:
            with self._talking():
                group = self._control if tensor.device.type == "cpu" else dist.group.WORLD
                dist.broadcast(tensor, 0, group=group)
        return state

    def average(self, tensors: Iterable[Tensor], weight: float | Tensor = 1.0) -> None:
        """Replace tensors by their weighted means over the processes: the same bits on each.

        A loss is a mean over a share, and all shares are equal: then the mean of gradients is the gradient of
        the mean, with weight 1. A mean over valid pixels alone weighs by how many its share has; where terms
        have different denominators, each term divides by the mean (by this function) of its denominators.
        """
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket] + [bucket[0].new_ones(1)])
            flat *= weight
            with self._talking():
                dist.all_reduce(flat)
            flat /= flat[-1].clone()
            # Copied into the gradients as they lie in memory: fused Adam wants the layout of the weights.
            start = 0
            for tensor in bucket:
                tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
                start += tensor.numel()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, differentiable as often as one likes. Shapes: any, the same on each."""
        summed: Tensor = _Total.apply(tensor, self)  # type: ignore[no-untyped-call]
        return summed

    def _sum(self, tensor: Tensor) -> Tensor:
        summed = tensor.contiguous().clone()
        with self._talking():
            dist.all_reduce(summed)
        return summed

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Whoever talks to a process that is gone gets an error of the transport: say what it means."""
        words = (
            f"another of the {self.size} processes of this training ended or cannot be reached, so process "
            f"{self.rank} ends too; the other's own message says why. {self._advice}"
        )
        if self._lost:
            raise LostProcess(words)
        try:
            yield
        except RuntimeError as error:
            self._lost = True
            reason = str(error).strip().splitlines()[0]
            raise LostProcess(f"{words} ({reason})") from error


def _meet(store: Any, rank: int, size: int) -> str:
    """A name of this start, the same for all and that of no other.

    torchrun keeps its store when it starts its processes again, with the addresses of those that are gone:
    whoever came first would look for the dead. So each of the others says a token that nobody had before, and
    process 0 answers to the tokens until each has confirmed.
    """
    end = time.monotonic() + MEETING.total_seconds()
    if rank:
        token = uuid.uuid4().hex
        store.set(f"pairloom/here/{rank}", token)
        store.wait([f"pairloom/welcome/{token}"], MEETING)
        name: str = store.get(f"pairloom/welcome/{token}").decode()
        store.set(f"pairloom/met/{name}/{rank}", "yes")
        return name
    name = uuid.uuid4().hex
    while missing := [r for r in range(1, size) if not store.check([f"pairloom/met/{name}/{r}"])]:
        if time.monotonic() > end:
            raise RuntimeError(f"processes {', '.join(map(str, missing))} did not start")
        for r in missing:
            if store.check([f"pairloom/here/{r}"]):
                store.set(f"pairloom/welcome/{store.get(f'pairloom/here/{r}').decode()}", name)
        time.sleep(0.02)
    return name


class _Total(torch.autograd.Function):
    """The sum over the processes; what each made of it flows back to all."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange._sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Total.apply(gradient, ctx.exchange), None  # type: ignore[no-untyped-call]


class _Place(NamedTuple):
    """Where a tensor's numbers lie, without them: what takes little to send."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    on_cpu: bool

    @classmethod
    def of(cls, tensor: Tensor) -> _Place:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device.type == "cpu")

    def memory(self, device: torch.device) -> Tensor:
        """Room for the same in the same order, by which fused Adam pairs weights and their momenta."""
        where = "cpu" if self.on_cpu else device
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=where)


def _walk(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of nested dicts and lists, each tensor (or its place) changed."""
    if isinstance(value, Tensor | _Place):
        return change(value)
    if isinstance(value, dict):
        return {key: _walk(inner, change) for key, inner in value.items()}
    return [_walk(inner, change) for inner in value] if isinstance(value, list) else value


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Lists that together hold all, each of at most BUCKET numbers or of one tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
