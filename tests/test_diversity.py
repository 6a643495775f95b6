"""Diversity against samples counted by hand, and against models with and without noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pairloom.evaluation.diversity import Diversity, diversity, mean_distance
from pairloom.evaluation.sets import ImageSetError
from pairloom.translator import Translator


@pytest.fixture(scope="module")
def translator(tiny_run: Path) -> Translator:
    return Translator.load(tiny_run, device="cpu", precision="fp32")


def sources(translator: Translator, count: int = 3, size: Sequence[int] = (40, 40)) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [
        torch.rand(translator.source_spec.tensor_channels, *size, generator=rng) * 2 - 1 for _ in range(count)
    ]


def test_the_distance_is_that_of_all_pairs() -> None:
    drawn = torch.rand(5, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = np.mean([np.abs(a - b).mean() for a, b in combinations(drawn.numpy(), 2)])
    assert mean_distance(drawn) == pytest.approx(expected, rel=1e-6)


def test_what_the_samples_of_a_model_give(translator: Translator) -> None:
    x = sources(translator)
    found = diversity(translator, x, x, samples=4, seed=2, maps=2)
    drawn = [
        torch.stack([translator.translate_tensor(one[None], seed=2, sample=s)[0] for s in range(4)])
        for one in x
    ]
    assert found.distance == pytest.approx(np.mean([mean_distance(one) for one in drawn]), rel=1e-6)
    assert found.spread == pytest.approx(np.mean([one.numpy().std(axis=0).mean() for one in drawn]), rel=1e-5)
    assert found.between_targets == pytest.approx(mean_distance(torch.stack(x)))
    assert found.relative == pytest.approx(found.distance / mean_distance(torch.stack(x)))
    assert (found.images, found.samples, found.noise, len(found.maps)) == (3, 4, "dropout", 2)
    assert np.allclose(found.maps[1].numpy(), drawn[1].numpy().std(axis=0).mean(axis=0), atol=1e-6)
    assert found.distance > 0
    assert found == diversity(translator, x, x, samples=4, seed=2)
    assert diversity(translator, x, samples=4, seed=3).distance != found.distance


def test_noise_turned_off_does_nothing(tiny_run: Path) -> None:
    quiet = Translator.load(tiny_run, device="cpu", precision="fp32", dropout=False)
    found = diversity(quiet, sources(quiet, 1, (33, 50)), samples=3)
    assert (found.distance, found.spread, found.noise, found.relative) == (0, 0, "off", None)
    assert found.does_nothing
    assert "a function of the source alone: its noise is turned off" in found.words()


def result(**fields: Any) -> Diversity:
    values: dict[str, Any] = {
        "images": 2,
        "samples": 8,
        "spread": 0.1,
        "distance": 0.1,
        "between_targets": 0.5,
    }
    return Diversity(**{**values, "noise": "dropout", **fields})


def test_the_verdict_follows_the_figures() -> None:
    assert result().words() == (
        "8 samples of each of 2 sources lie 13 grey levels apart, 20.0% of what different targets do. "
        "The noise (dropout) changes the output.\n"
    )
    assert "slightly, as the paper found" in result(distance=0.02).words()
    barely = result(distance=1.9 / 255, noise="gaussian")
    assert barely.does_nothing
    assert "The noise (gaussian) does nothing that an 8-bit image shows." in barely.words()
    assert not result(distance=2.1 / 255).does_nothing
    assert "the model has no noise" in result(distance=0.0, noise="none").words()
    assert "apart. The" in result(between_targets=None).words()
    assert result(between_targets=0.0).relative is None  # all targets alike


def test_the_record_is_plain_json() -> None:
    record = json.loads(json.dumps(result(maps=(torch.zeros(2, 2),)).to_dict(), allow_nan=False))
    assert record["relative"] == pytest.approx(0.2)
    assert record["does_nothing"] is False
    assert "maps" not in record


def test_targets_of_differing_sizes_are_compared_at_the_first_ones(translator: Translator) -> None:
    targets = [torch.full((3, 20, 30), 0.5), torch.full((3, 41, 17), -0.25)]
    found = diversity(translator, sources(translator, 1), targets, samples=2)
    assert found.between_targets == pytest.approx(0.75)


def test_diversity_says_what_is_wrong(translator: Translator) -> None:
    with pytest.raises(ImageSetError, match="samples is 1; it takes 2 or more"):
        diversity(translator, sources(translator), samples=1)
    with pytest.raises(ImageSetError, match="no sources"):
        diversity(translator, [])
