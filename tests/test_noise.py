"""z as a function of a key and a position: agreement, statistics, independence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pairloom import noise


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def shared(u: Tensor, v: Tensor) -> float:
    """Share of the positions at which both hold the same number."""
    return float((u == v).float().mean())


def test_the_finaliser_is_murmurhash3s() -> None:
    """Published values of MurmurHash3_x86_32 on the empty string, by seed: there only the finaliser acts."""
    for seed, value in ((0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)):
        assert int(noise._mix(torch.tensor(seed))) == value


def test_numbers_are_what_whole_number_arithmetic_gives() -> None:
    """The tensors' 64-bit products wrap; Python's do not."""

    def mix(bits: int) -> int:
        bits &= 0xFFFFFFFF
        bits = ((bits ^ bits >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
        bits = ((bits ^ bits >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
        return bits ^ bits >> 16

    key, layer = noise.key(12, 3), 5
    u = noise.uniform(key, layer, 600, 9, 11)
    for c, y, x in ((0, 0, 0), (1, 2, 3), (599, 8, 10), (300, 0, 7)):
        row = mix(mix(c * 0x9E3779B1 + key + layer * 0x27D4EB2F) + y * 0x85EBCA77)
        assert u[0, c, y, x].item() == (mix(row + x * 0xC2B2AE3D) >> 8) / 2**24


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_a_larger_map_agrees_with_a_smaller_on_their_common_part(draw: Callable[..., Tensor]) -> None:
    small, large = draw(99, 2, 3, 8, 10), draw(99, 2, 5, 16, 33)
    assert small.shape == (1, 3, 8, 10)
    assert small.dtype == torch.float32
    assert torch.equal(large[:, :3, :8, :10], small)


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_a_window_has_the_numbers_of_its_place(draw: Callable[..., Tensor]) -> None:
    whole = draw(99, 2, 3, 40, 50)
    assert torch.equal(draw(99, 2, 3, 7, 9, at=(30, 21)), whole[..., 30:37, 21:30])


def test_uniform_numbers_are_uniform() -> None:
    u = noise.uniform(noise.key(0), 1, 64, 64, 64).double()
    n = u.numel()
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    assert u.mean().item() == pytest.approx(1 / 2, abs=5 * math.sqrt(1 / 12 / n))
    assert u.var().item() == pytest.approx(1 / 12, abs=5 * math.sqrt(1 / 180 / n))
    bins = torch.histc(u, 64, 0, 1)
    chi_square = float(((bins - n / 64) ** 2 / (n / 64)).sum())
    assert 63 - 5 * math.sqrt(2 * 63) < chi_square < 63 + 5 * math.sqrt(2 * 63)


def test_normal_numbers_are_normal() -> None:
    z = noise.normal(noise.key(0), 0, 16, 64, 64).double()
    n = z.numel()
    assert z.isfinite().all()
    assert z.mean().item() == pytest.approx(0, abs=5 / math.sqrt(n))
    assert z.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * n))
    assert (z**4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / n))
    within = (z.abs() < 1).double().mean().item()
    assert within == pytest.approx(math.erf(1 / math.sqrt(2)), abs=5 * math.sqrt(0.25 / n))


def test_neighbours_in_every_direction_are_uncorrelated() -> None:
    u = noise.uniform(noise.key(5), 3, 32, 48, 48)
    pairs = {
        "channel": (u[:, 1:], u[:, :-1]),
        "row": (u[:, :, 1:], u[:, :, :-1]),
        "column": (u[..., 1:], u[..., :-1]),
        "diagonal": (u[:, :, 1:, 1:], u[:, :, :-1, :-1]),
    }
    for name, (a, b) in pairs.items():
        assert abs(correlation(a, b)) < 5 / math.sqrt(a.numel()), name
        assert shared(a, b) < 1e-3, name


def test_layers_seeds_and_samples_differ_and_are_uncorrelated() -> None:
    def draw(seed: int, sample: int, layer: int) -> Tensor:
        return noise.uniform(noise.key(seed, sample), layer, 16, 32, 32)

    streams = [
        draw(0, 0, 1),
        draw(0, 0, 2),
        draw(0, 0, 3),
        draw(1, 0, 1),
        draw(2, 0, 1),
        draw(0, 1, 1),
        draw(0, 2, 1),
    ]
    for a, b in itertools.combinations(streams, 2):
        assert abs(correlation(a, b)) < 5 / math.sqrt(a.numel())
        assert shared(a, b) < 1e-3


def test_layers_share_no_channel() -> None:
    """No layer may hold another's channel under another number."""
    columns = torch.cat([noise.uniform(noise.key(0), layer, 1024, 1, 4)[0, :, 0] for layer in range(1, 9)])
    assert len(torch.unique(columns, dim=0)) == 8 * 1024


def test_keys_of_seeds_and_samples_are_distinct_32_bit_numbers() -> None:
    keys = {noise.key(seed, sample) for seed in range(-8, 32) for sample in range(32)}
    assert len(keys) == 40 * 32
    assert all(0 <= key < 2**32 for key in keys)
    assert noise.key(4) == noise.key(4, 0)
    assert 0 <= noise.key(2**70, 3) < 2**32


def test_torchs_generator_is_neither_used_nor_advanced() -> None:
    torch.manual_seed(1)
    first = (noise.uniform(1, 1, 2, 3, 4), noise.normal(1, 1, 2, 3, 4), noise.key(3))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = (noise.uniform(1, 1, 2, 3, 4), noise.normal(1, 1, 2, 3, 4), noise.key(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]
