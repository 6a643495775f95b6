"""Which device, and which arithmetic it is good at."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


class DeviceError(ValueError):
    """The device asked for is not there."""


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto": CUDA, else MPS, else the CPU.

    Raises:
        DeviceError: No such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:1 or mps.") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise DeviceError(f"device {name!r} is not on this machine; use auto or cpu.")
    return device


def has_bf16(device: torch.device) -> bool:
    """Does the device multiply bf16 matrices faster than fp32 ones? A CPU does with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private, hence guarded: an older or newer torch without it trains in fp32.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())


def peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory of the device or this process, in 10^6 bytes; None where nobody counts (Windows)."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        # getrusage would start from what the parent process had when it started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1)
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
