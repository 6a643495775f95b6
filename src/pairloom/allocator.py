"""Memory that is freed stays with the process for what comes next, instead of going back to the system."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's settings: mallopt(3)."""
_depth = 0


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """While the block lasts, what is freed is kept; at its end it goes back.

    Each training step frees, and asks again for, hundreds of megabytes of gradients and activations, and each
    translation its share. glibc gives large pieces back at once, and the system must clear every page of them
    when they are next written: a quarter of a step on a CPU (docs/experiments.md). Other C libraries are left
    as they are.
    """
    global _depth
    library = _glibc()
    if library is None:
        yield
        return
    _depth += 1
    if _depth == 1:
        library.mallopt(_MMAP_THRESHOLD, 2**25)  # the largest it takes; above, there is room from below
        library.mallopt(_TOP_PAD, 2**26)  # more of it took more memory in the end (measured)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            library.mallopt(_TRIM_THRESHOLD, 2**26)  # what they grow to by themselves with large tensors
            library.mallopt(_TOP_PAD, 2**17)
            library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
