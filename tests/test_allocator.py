"""Freed memory is kept while a training lasts, and goes back afterwards."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path

import pytest
import torch

from pairloom.allocator import keeping_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

LARGE = 6_000_000  # float32: 24 MB, which glibc gives back to the system as soon as it is free


def faults(times: int) -> int:
    """Pages that the system had to find for tensors made and freed, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(LARGE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_what_was_freed_is_used_again_and_goes_back_at_the_end() -> None:
    pages = LARGE * 4 // resource.getpagesize()
    with keeping_freed_memory():
        faults(10)  # until the room has been found
        with keeping_freed_memory():  # as an evaluation within a training
            pass
        assert faults(10) < 3 * pages
        several = [torch.ones(LARGE) for _ in range(4)]
        del several
        kept = resident_mb()
    if sys.platform == "linux":
        assert resident_mb() < kept - 50
