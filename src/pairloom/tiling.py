"""A stand-in: tiles cut from the translation of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pairloom.translator import Translator


@dataclass(frozen=True, slots=True)
class TilePlan:
    """What was decided."""

    tile_px: int
    spill_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TileReport:
    """What was found."""

    mismatch: float
    arithmetic: float

    def words(self) -> str:
        """One line."""
        return f"tile mismatch {self.mismatch:.2g}, arithmetic {self.arithmetic:.2f} of a whole pass"


def plan_tiles(
    translator: Translator, size: tuple[int, int], memory_bytes: int = 2 * 2**30, *, statistics: str = "auto"
) -> TilePlan:
    """Plan."""
    stride = translator.generator.stride
    side = int((memory_bytes / 1000) ** 0.5) // stride * stride
    if side < 64:
        raise ValueError(f"memory is {memory_bytes} bytes, less than a tile needs; give more memory.")
    return TilePlan(side)


def translate_tiled(
    translator: Translator,
    read: Callable[[int, int, int, int], Tensor],
    size: tuple[int, int],
    write: Callable[[int, int, Tensor], None],
    *,
    memory_bytes: int = 2 * 2**30,
    statistics: Literal["auto", "exact", "sample"] = "auto",
    seed: int = 0,
    sample: int = 0,
    done: Collection[tuple[int, int]] = (),
    spill: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    plan: TilePlan | None = None,
) -> TileReport:
    """Translate."""
    side = (plan or plan_tiles(translator, size, memory_bytes)).tile_px
    whole = translator.translate_tensor(read(0, 0, *size)[None], seed=seed, sample=sample)[0]
    corners = [(top, left) for top in range(0, size[0], side) for left in range(0, size[1], side)]
    for number, (top, left) in enumerate(corners, 1):
        if (top, left) not in done:
            write(top, left, whole[:, top : top + side, left : left + side])
        if progress is not None:
            progress(number, len(corners), "translating")
    return TileReport(0.0, torch.tensor(1.0).item())
