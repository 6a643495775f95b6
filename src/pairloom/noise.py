"""z as a function: random numbers that depend on a key and a position, never on a global generator.

At inference the dropout mask (and the Gaussian z) must be the same for an image alone and in any batch. So
each number is a hash of (key, layer, channel, row, column), computed where it is needed.

Source: the 32-bit finaliser of MurmurHash3 (public domain), chained over the coordinates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def key(seed: int, sample: int = 0) -> int:
    """The key of one draw of z: 32 bits from a seed and a sample number."""
    mixed = _mix(torch.tensor((seed * 0x9E3779B1 + sample * 0x85EBCA6B) & _MASK, dtype=torch.int64))
    return int(mixed)


def uniform(
    key: int,
    layer: int,
    channels: int,
    height: int,
    width: int,
    *,
    device: torch.device | None = None,
    at: tuple[int, int] = (0, 0),
) -> Tensor:
    """Numbers in [0, 1), one a position; `at` is the first row and column of a window of the whole map.

    Shapes: -> (1, channels, height, width), float32.
    """
    c = torch.arange(channels, dtype=torch.int64, device=device).view(-1, 1, 1)
    y = torch.arange(at[0], at[0] + height, dtype=torch.int64, device=device).view(1, -1, 1)
    x = torch.arange(at[1], at[1] + width, dtype=torch.int64, device=device).view(1, 1, -1)
    bits = _mix(_mix(_mix(c * 0x9E3779B1 + key + layer * 0x27D4EB2F) + y * 0x85EBCA77) + x * 0xC2B2AE3D)
    # 24 bits are what a float32 in [0, 1) holds exactly.
    return ((bits >> 8).to(torch.float32) / 2**24).unsqueeze(0)


def normal(
    key: int,
    layer: int,
    channels: int,
    height: int,
    width: int,
    *,
    device: torch.device | None = None,
    at: tuple[int, int] = (0, 0),
) -> Tensor:
    """Standard normal numbers, one a position (Box-Muller).

    Shapes: -> (1, channels, height, width), float32.
    """
    u = uniform(key, 2 * layer, channels, height, width, device=device, at=at)
    v = uniform(key, 2 * layer + 1, channels, height, width, device=device, at=at)
    return torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * math.pi * v)


def _mix(bits: Tensor) -> Tensor:
    """MurmurHash3's finaliser on the low 32 bits of int64 values (products wrap, the low bits stay exact)."""
    bits = bits & _MASK
    bits = ((bits ^ (bits >> 16)) * 0x85EBCA6B) & _MASK
    bits = ((bits ^ (bits >> 13)) * 0xC2B2AE35) & _MASK
    return bits ^ (bits >> 16)
