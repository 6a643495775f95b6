"""Training batches, as a function of the image's number.

Image j of the whole training is `perm(seed, j // N)[j % N]`; its jitter and mirror, and what is random in how
it is derived, are a function of (seed, j // N, j % N). So nothing about a loader needs saving: to resume is
to start at another j, and the batches are the same for any number of workers.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pairloom.config import DataConfig
from pairloom.data.cache import Decoded
from pairloom.data.masks import View
from pairloom.data.pairs import DataError, Pair, PairSet, StoredPairs, training_pairs
from pairloom.data.views import Transform, training_view
from pairloom.images import ImageError, ImageSpec

Item = View | ValueError
"""A pair as tensors, or what is wrong with its files: raised in a worker, it would lose its sentence."""


def training_batches(
    pairs: PairSet | Sequence[Pair],
    source_spec: ImageSpec,
    target_spec: ImageSpec,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    workers: int,
    transform: Transform | None = None,
    rank: int = 0,
    ranks: int = 1,
    pin_memory: bool = False,
    decoded: Decoded | None = None,
) -> Generator[View, None, None]:
    """Batches of the images j in [start, stop) of the whole training; they run across the ends of epochs.

    The k-th batch holds the images start + k * batch_size and following; the last one is smaller where
    batch_size does not divide stop - start. Of `ranks` processes each gets its slice of every batch, in the
    order of their ranks; batch_size is a multiple of their number.

    `transform` has the last word on each pair; its generator is a function of the image's number, as all that
    is random. No global random number generator is read or advanced. What `decoded` holds is not decoded
    again; the batches are the same.

    Shapes: x (N, C, h, w) and y (N, C', h, w) with (h, w) = crop_size, [-1, 1]; valid (N, 1, h, w), or None
        where all pixels of the batch count; float32.

    Raises:
        DataError: There are no pairs, a pair does not suit its specs, a worker process died, or `transform`
            changes shapes or cannot be sent to workers.
        ImageError: A file cannot be read.
    """
    train = training_pairs(pairs)
    if not train:
        raise DataError("There are no training pairs.")
    if workers and transform is not None:
        _check_sendable(transform)
    images = TrainingImages(train, source_spec, target_spec, data, seed, transform, decoded)
    share = batch_size // ranks
    firsts = range(start + rank * share, stop, batch_size)
    numbers = chain.from_iterable(range(first, min(first + share, stop)) for first in firsts)
    return _batches(images, share, numbers, workers, pin_memory)


def _check_sendable(transform: Transform) -> None:
    """Everywhere alike, also where processes are forked and would do without."""
    try:
        pickle.dumps(transform)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            f"The transform cannot be sent to the processes that read images ({error}); define it at the top "
            "of a module, or set data.workers=0."
        ) from error


def _batches(
    dataset: TrainingImages, batch_size: int, numbers: Iterable[int], workers: int, pin_memory: bool
) -> Generator[View, None, None]:
    loader: DataLoader[Item] = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else the loader draws a seed from the global one
    )
    batches = _started(loader)
    try:
        while True:
            batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, ValueError):
                raise batch
            yield batch
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(
            "A process that reads training images died, most often for want of memory or of shared memory "
            "(/dev/shm); set data.workers=0 to read in the training process."
        ) from error
    finally:
        del batches  # ends the workers now; a traceback that kept it alive would delay that


def _started(loader: DataLoader[Item]) -> Iterator[Item]:
    """The loader's iterator, without the signal handler that torch installs beside it.

    That handler raises an error wherever the training happens to be when a worker dies. Without it, the
    iterator still notices, within seconds, when the next batch is asked for.
    """
    if loader.num_workers == 0 or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches


def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of the pairs in one epoch."""
    # The last word tells this stream from those of `item_rng`.
    return np.random.default_rng([seed % 2**64, epoch, 0, 1]).permutation(count)


def item_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator from which all that is random in one image of the training is drawn."""
    return np.random.default_rng([seed % 2**64, epoch, position])


class TrainingImages(Dataset[Item]):
    """Augmented pairs, indexed by j: the number of an image in the whole training, not in an epoch."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        source_spec: ImageSpec,
        target_spec: ImageSpec,
        data: DataConfig,
        seed: int,
        transform: Transform | None = None,
        decoded: Decoded | None = None,
    ) -> None:
        self.pairs, self.data, self.seed = pairs, data, seed
        self.transform, self.decoded = transform, decoded
        self.specs = source_spec, target_spec
        self._order: tuple[int, NDArray[np.int64] | Sequence[int]] | None = None

    def pair(self, j: int) -> Pair:
        """The pair that image j of the training shows."""
        epoch, position = divmod(j, len(self.pairs))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._order_of(epoch)
        pair = self.pairs[int(self._order[1][position])]
        return pair if self.decoded is None else self.decoded.over(pair)

    def _order_of(self, epoch: int) -> NDArray[np.int64] | Sequence[int]:
        if isinstance(self.pairs, StoredPairs):
            return self.pairs.order(self.seed, epoch)
        return permutation(self.seed, epoch, len(self.pairs))

    def __getitem__(self, j: int) -> Item:
        rng = item_rng(self.seed, *divmod(j, len(self.pairs)))
        try:
            return training_view(self.pair(j), *self.specs, self.data, rng, self.transform)
        except (DataError, ImageError) as error:
            return error


def _collate(items: list[Item]) -> Item:
    views: list[View] = []
    for item in items:
        if isinstance(item, ValueError):
            return item
        views.append(item)
    return View(
        torch.stack([view.x for view in views]), torch.stack([view.y for view in views]), _together(views)
    )


def _together(views: list[View]) -> Tensor | None:
    """The maps of several views, of which some may be None."""
    if all(view.valid is None for view in views):
        return None
    return torch.stack([torch.ones_like(v.y[:1]) if v.valid is None else v.valid for v in views])


def _start_worker(_: int) -> None:
    """A signal to the whole process group must not kill the readers: the trainer still finishes its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """Obey SIGTERM from the training process, which ends its readers so; from anybody else it is ignored."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
