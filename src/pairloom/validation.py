"""The held-out pairs while training: L1 over the val split, pictures of a few."""

from __future__ import annotations

import math
from pathlib import Path

from pairloom.checkpoint import write_atomically
from pairloom.config import DataConfig
from pairloom.data import DataError, PairSet, evaluation_view, evenly, load_pair
from pairloom.evaluation import metrics
from pairloom.images import ImageError, ImageSpec
from pairloom.pictures import sample_sheet
from pairloom.translator import Translator


class HeldOut:
    """Validates and draws with the inference semantics that the weights are saved with; no RNG is touched."""

    LIMIT = 200
    """Pairs validated on at most, evenly chosen."""

    def __init__(
        self, pairs: PairSet, source: ImageSpec, target: ImageSpec, data: DataConfig, *, drawn: int
    ) -> None:
        self._specs, self._data = (source, target), data
        val = pairs.split("val")
        self._validated = evenly(val, self.LIMIT)
        # Test pairs may be looked at, never chosen by: they are drawn only where there is no val split.
        self._drawn = evenly(val or pairs.split("test") or pairs.split("train"), drawn)
        self.warnings: list[str] = []
        """A sentence for each pair that would be drawn and cannot be read."""
        # A broken file is found now, not after all the steps before the first validation. Only one of the
        # test split does no harm.
        for pair in dict.fromkeys(self._validated + self._drawn):
            try:
                load_pair(pair, *self._specs, self._data)
            except (DataError, ImageError) as error:
                if pair.split != "test":
                    raise
                self._drawn.remove(pair)
                self.warnings.append(f"{error} It is left out of the samples.")
        self.best = math.inf
        """The lowest validation L1 so far."""

    def validate(self, model: Translator) -> float | None:
        """Mean L1 on [-1, 1] over the val pairs, at evaluation geometry; None without a val split.

        Rounded as metrics.jsonl has it, so that a resumed run compares with the same figure.
        """
        if not self._validated:
            return None
        total, count = 0.0, 0
        for pair in self._validated:
            x, y, valid = evaluation_view(pair, *self._specs, self._data)
            if valid is not None and not valid.any():  # resizing has left nothing that counts
                continue
            where = None if valid is None else valid.unsqueeze(0)
            total += metrics.l1(model.translate_tensor(x.unsqueeze(0)).cpu(), y.unsqueeze(0), where).item()
            count += 1
        return round(total / count, 6) if count else None

    def draw(self, model: Translator, path: Path) -> None:
        """Write a picture of the same few pairs every time: source | output | target."""
        if not self._drawn:
            return
        rows = []
        for pair in self._drawn:
            x, y, valid = evaluation_view(pair, *self._specs, self._data)
            rows.append((x, model.translate_tensor(x.unsqueeze(0)).cpu()[0], y, valid))
        path.parent.mkdir(exist_ok=True)
        sheet = sample_sheet(rows, *self._specs)
        write_atomically(path, lambda temporary: sheet.save(temporary, format="PNG"))
