"""Sets packed into tar shards, and training from them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tarfile
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pairloom
from conftest import Child, Refused, cli, tiny_config, wait_until, write_pairs
from pairloom.cli import main
from pairloom.config import DataConfig
from pairloom.data import (
    DataError,
    PairSet,
    View,
    evaluation_view,
    find_pairs,
    fingerprint,
    measure_specs,
    shard_files,
    shard_order,
    training_batches,
)
from pairloom.data.packing import pack
from pairloom.data.shard_files import ShardFiles
from pairloom.data.shard_order import ShardOrder, windows
from pairloom.evaluation.evaluate import evaluate

fsspec = pytest.importorskip("fsspec")


def data_of(path: Path | str, **fields: object) -> DataConfig:
    return replace(DataConfig(path=str(path), crop_size=32), **fields)  # type: ignore[arg-type]


def by_name(found: PairSet) -> dict[tuple[str, str], object]:
    return {(pair.split, pair.name): pair for pair in found.pairs}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Side-by-side pairs: 23 to train on, 3 for validation, 2 to test. Read only."""
    return write_pairs(tmp_path_factory.mktemp("folder") / "pairs", train=23, val=3, test=2)


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in shards of at most four. Read only."""
    out = tmp_path_factory.mktemp("shards") / "packed"
    pack(data_of(folder), out, per_shard=4)
    return out


@pytest.fixture
def own(shards: Path, tmp_path: Path) -> Path:
    """A copy of the shards, to be spoilt."""
    return Path(shutil.copytree(shards, tmp_path / "own"))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows in a set of 23 pairs."""
    monkeypatch.setattr(shard_order, "WINDOW_PAIRS", 8)


@pytest.fixture
def at_address(shards: Path) -> Iterator[str]:
    """The shards at memory://packed."""
    system = fsspec.filesystem("memory")
    system.put(str(shards), "/packed", recursive=True)
    yield "memory://packed"
    system.rm("/packed", recursive=True)


# -----------------------------------------------------------------------------------------------------------
# What is packed


def two_folders(root: Path) -> DataConfig:
    """Names that a tar, or WebDataset, would trip over; one side PNG, the other JPEG and NPY."""
    rng = np.random.default_rng(0)
    names = ["a.b", "a_b", "scène 1/été", "x" * 120 + "/deep", "plain", "n\newline", "__meta__"]
    for number, name in enumerate(names):
        a, b = root / "A" / f"{name}.PNG", root / "B" / f"{name}.jpg"
        a.parent.mkdir(parents=True, exist_ok=True)
        b.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(a, format="PNG")
        if number % 2:
            Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(b)
        else:
            np.save(b.with_suffix(".npy"), rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    return data_of(root)


def manifest(root: Path) -> DataConfig:
    """Groups and splits of a table; deep TIFF files, and one source that has two targets."""
    import tifffile

    rng = np.random.default_rng(1)
    rows = ["a,b,split,group"]
    root.mkdir()
    for i in range(6):
        for side in "ab":
            values = rng.integers(0, 60000, (8, 8, 2), dtype=np.uint16)
            tifffile.imwrite(root / f"{side}{i}.tif", values, photometric="minisblack", planarconfig="contig")
        rows.append(f"a{i}.tif,b{i}.tif,{'train' if i < 4 else 'val'},p{i // 2}")
    rows.append("a0.tif,b1.tif,train,p0")
    (root / "pairs.csv").write_text("\n".join(rows))
    return data_of(root / "pairs.csv", val_fraction=0.2, test_fraction=0.3)


def photos(root: Path) -> DataConfig:
    """Photos with masks of their own."""
    rng = np.random.default_rng(2)
    for i in range(4):
        for kind in ("photos", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            array = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            array = np.where(array > 128, 255, 0).astype(np.uint8) if kind == "masks" else array
            Image.fromarray(array).save(root / kind / f"{i}.png")
    return data_of(root / "photos", derive="inpaint", hole=str(root / "masks"))


def masked(root: Path) -> DataConfig:
    """Masks of two pairs of three, and NaN in a target without one."""
    rng = np.random.default_rng(3)
    for i in range(6):
        for side in "AB":
            (root / side / "train").mkdir(parents=True, exist_ok=True)
            values = rng.random((12, 10, 2)).astype(np.float32)
            if side == "B" and i == 2:
                values[3:5, :4] = np.nan
            np.save(root / side / "train" / f"{i}.npy", values)
        if i % 3 < 2:
            (root / "mask" / "train").mkdir(parents=True, exist_ok=True)
            mask = np.where(rng.random((12, 10)) < 0.3, 0, 255).astype(np.uint8)
            Image.fromarray(mask).save(root / "mask" / "train" / f"{i}.png")
    return data_of(root)


def chosen(root: Path) -> DataConfig:
    """Both sides are channels of one file of four."""
    import tifffile

    rng = np.random.default_rng(4)
    root.mkdir()
    rows = ["a,b"]
    for i in range(4):
        values = rng.integers(0, 60000, (8, 8, 4), dtype=np.uint16)
        tifffile.imwrite(root / f"{i}.tif", values, photometric="minisblack", planarconfig="contig")
        rows.append(f"{i}.tif,{i}.tif")
    (root / "pairs.csv").write_text("\n".join(rows))
    return data_of(root / "pairs.csv", source_select=("3", "0"), target_select=("1",))


SETS: dict[str, tuple[Callable[[Path], DataConfig], str]] = {
    "two folders": (two_folders, "two folders"),
    "manifest": (manifest, "manifest"),
    "photos": (photos, "photos"),
    "masked": (masked, "two folders"),
    "chosen channels": (chosen, "manifest"),
}


@pytest.mark.parametrize("kind", SETS)
def test_pairs_from_shards_are_those_of_the_files(kind: str, tmp_path: Path) -> None:
    make, layout = SETS[kind]
    data = make(tmp_path / "set")
    pack(data, tmp_path / "out", per_shard=3)
    packed = replace(data, path=str(tmp_path / "out"), val_fraction=0.0, test_fraction=0.0)
    want, got = find_pairs(data), find_pairs(packed)
    assert got.layout == want.layout == layout
    assert len(got.pairs) == len(want.pairs)
    specs = measure_specs(want, data)
    assert [spec.dtype for spec in measure_specs(got, packed)] == [spec.dtype for spec in specs]
    assert [spec.channels for spec in measure_specs(got, packed)] == [spec.channels for spec in specs]
    there = by_name(got)
    assert len(there) == len(got.pairs)
    for split in ("train", "val", "test"):
        assert len(got.split(split)) == len(want.split(split))
        assert [pair.name for pair in got.split(split)] == [p.name for p in got.pairs if p.split == split]
    for pair in want.pairs:
        other = there[pair.split, pair.name]
        assert other.group == pair.group
        for a, b in zip(pair.read(), other.read(), strict=True):
            np.testing.assert_array_equal(a, b)
        a, b = evaluation_view(pair, *specs, data), evaluation_view(other, *specs, packed)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert (a.valid is None) == (b.valid is None)
        assert a.valid is None or torch.equal(a.valid, b.valid)


def test_what_does_not_count_is_left_out_of_batches_too(tmp_path: Path) -> None:
    data = masked(tmp_path / "set")
    pack(data, tmp_path / "out", per_shard=2)
    members = []
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as tar:
            members += tar.getnames()
    assert "0.mask.png" in members
    still = {"load_size": "crop", "mirror": False}
    counted = [
        sorted(
            (x.sum().item(), y.sum().item(), -1.0 if valid is None else valid.sum().item())
            for x, y, valid in batches_of(path, start=0, stop=6, batch_size=1, **still)
        )
        for path in (tmp_path / "out", tmp_path / "set")
    ]
    assert counted[0] == counted[1]
    assert sum(valid == -1.0 for *_, valid in counted[0]) == 1


def test_validation_keeps_its_order_and_training_pairs_are_shuffled(folder: Path, shards: Path) -> None:
    want, got = find_pairs(data_of(folder)), find_pairs(data_of(shards))
    for split in ("val", "test"):
        assert [p.name for p in got.split(split)] == [p.name for p in want.split(split)]
    names = [p.name for p in got.split("train")]
    assert sorted(names) == sorted(p.name for p in want.split("train"))
    assert names != [p.name for p in want.split("train")]


def test_the_direction_is_chosen_when_training(folder: Path, shards: Path) -> None:
    swapped = find_pairs(data_of(shards, direction="BtoA")).split("val")[1]
    there = find_pairs(data_of(folder)).split("val")[1]
    np.testing.assert_array_equal(swapped.source.read(), there.target.read())
    np.testing.assert_array_equal(swapped.target.read(), there.source.read())


def test_other_programs_read_the_shards(tmp_path: Path) -> None:
    """Every file comes back byte for byte from tarfile, and pair by pair from webdataset."""
    webdataset = pytest.importorskip("webdataset")
    data = two_folders(tmp_path / "set")
    pack(data, tmp_path / "out", per_shard=3)
    files = {
        pair.name: [ref.path.read_bytes() for ref in (pair.source, pair.target)]
        for pair in find_pairs(data).pairs
    }
    tars = sorted((tmp_path / "out").glob("*.tar"))
    members = []
    for path in tars:
        with tarfile.open(path) as tar:
            members += tar.getmembers()
    assert all(m.isreg() and not m.name.startswith("/") and ".." not in m.name for m in members)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its reader leaves files open
        samples = list(
            webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False, empty_check=False)
        )
    seen = {}
    for sample in samples:
        name = json.loads(sample["json"])["name"] if "json" in sample else sample["__key__"]
        b = "b.jpg" if "b.jpg" in sample else "b.npy"
        seen[name] = [sample["a.png"], sample[b]]
    assert seen == files


def test_the_same_files_give_the_same_shards(folder: Path, shards: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    again = pack(data_of(copied), tmp_path / "again", per_shard=4)
    assert again.written == again.shards == 8
    assert contents(tmp_path / "again") == contents(shards)
    assert fingerprint(find_pairs(data_of(tmp_path / "again"))) == fingerprint(find_pairs(data_of(shards)))
    assert pack(data_of(copied), tmp_path / "again", per_shard=4).written == 0


def contents(out: Path) -> dict[str, bytes]:
    """All that is visible; without the times of the packed files, which a copy may not have."""
    found = {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}
    index = json.loads(found["index.json"])
    return found | {"index.json": json.dumps(index | {"plan": ""}).encode()}


def test_shards_have_the_size_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    pack(data_of(folder), tmp_path / "out", shard_mb=0.02)
    index = json.loads((tmp_path / "out/index.json").read_text())
    train = [shard for shard in index["shards"] if shard["split"] == "train"]
    assert len(train) > 3
    assert all(shard["bytes"] <= 20_000 + 2 * 10_240 for shard in train), "the end of a tar is padded"
    assert sum(shard["count"] for shard in train) == 23


def test_killed_while_packing_and_continued(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", train=3)
    for i in range(3, 160):
        shutil.copy(data / "train/train-0.png", data / f"train/train-{i}.png")
    child = Child(tmp_path / "log", cli, "data", "pack", data, tmp_path / "out", "--per-shard", 2)
    wait_until(lambda: len(list((tmp_path / "out").glob("*.idx"))) >= 3, child)
    child.signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "out/index.json").exists()
    with pytest.raises(DataError, match="packing was not finished"):
        find_pairs(data_of(tmp_path / "out"))
    finished = [path.with_suffix(".tar") for path in (tmp_path / "out").glob("*.idx")]
    times = [path.stat().st_mtime_ns for path in finished]
    assert 3 <= len(finished) < 80
    config = data_of(data, val_fraction=0.1)  # as the preset has it
    assert pack(config, tmp_path / "out", per_shard=2).written == 80 - len(finished)
    assert [path.stat().st_mtime_ns for path in finished] == times
    pack(config, tmp_path / "whole", per_shard=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".part"]


def test_labels_are_found_as_in_the_folder(tmp_path: Path) -> None:
    """A colour that only one of 300 files shows belongs to the palette, though only 200 are measured."""
    for i in range(300):
        label = np.full((4, 4, 3), (i % 3) * 100, np.uint8)
        if i == 151:
            label[1, 1] = (9, 8, 7)
        photo = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        for side, array in (("A", label), ("B", photo)):
            (tmp_path / "set" / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "set" / side / f"{i}.png")
    data = data_of(tmp_path / "set")
    pack(data, tmp_path / "out")
    for direction in ("AtoB", "BtoA"):
        want, got = (
            measure_specs(find_pairs(d), d)
            for d in (replace(data, direction=direction), data_of(tmp_path / "out", direction=direction))
        )
        assert want == got
    assert (9, 8, 7) in measure_specs(find_pairs(data_of(tmp_path / "out")), data)[0].palette
    one = data_of(tmp_path / "out", source_select=("0",))  # of which packing knows nothing
    assert measure_specs(find_pairs(one), one)[0].palette == ((0,), (9,), (100,), (200,))


def test_a_masked_pixel_adds_no_colour(tmp_path: Path) -> None:
    for i in range(4):
        label = np.full((4, 4, 3), (i % 2) * 100, np.uint8)
        label[0, 0] = (1, 2, 3)
        photo = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        mask = np.full((4, 4), 255, np.uint8)
        mask[0, 0] = 0
        for side, array in (("A", label), ("B", photo), ("mask", mask)):
            (tmp_path / "set" / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "set" / side / f"{i}.png")
    pack(data_of(tmp_path / "set"), tmp_path / "out")
    data = data_of(tmp_path / "out")
    assert measure_specs(find_pairs(data), data)[0].palette == ((0, 0, 0), (100, 100, 100))


# -----------------------------------------------------------------------------------------------------------
# The order


COUNTS = [[1], [5, 3], [7] * 40, [3000, 9000, 12000, 1, 500, 8192, 4000]]


@pytest.mark.parametrize("counts", COUNTS, ids=len)
def test_an_epoch_shows_each_pair_once(counts: list[int]) -> None:
    for epoch in (0, 1):
        assert sorted(ShardOrder(counts, 3, epoch)) == list(range(sum(counts)))
    if sum(counts) > 1:
        assert list(ShardOrder(counts, 3, 0)) != list(ShardOrder(counts, 3, 1))
        assert list(ShardOrder(counts, 3, 0)) != list(ShardOrder(counts, 4, 0))
        assert list(ShardOrder(counts, 3, 0)) == list(ShardOrder(counts, 3, 0))


def test_any_place_in_the_order_is_found_at_once() -> None:
    counts = [1000] * 50
    whole = list(ShardOrder(counts, 0, 5))
    one = ShardOrder(counts, 0, 5)
    for position in (49_999, 0, 12_345, 12_346, 3):
        assert one[position] == ShardOrder(counts, 0, 5)[position] == whole[position]


@pytest.mark.parametrize("counts", [[1000] * 100, [10_000] * 10, [20_000, 3] * 5], ids=str)
def test_enough_pairs_are_mixed(counts: list[int]) -> None:
    for epoch in range(3):
        found = windows(counts, 0, epoch)
        assert sorted(shard for window in found for shard in window) == list(range(len(counts)))
        assert all(len(window) >= 2 for window in found)
        assert all(sum(counts[s] for s in window) >= shard_order.WINDOW_PAIRS for window in found)
    # Neighbours in the order come from all shards of the window.
    order = ShardOrder([1000] * 100, 0, 0)
    assert len({pair // 1000 for pair in order[:500]}) == len(order.windows[0]) >= 9


# -----------------------------------------------------------------------------------------------------------
# Training


def batches_of(
    path: Path | str,
    *,
    start: int,
    stop: int,
    workers: int = 0,
    batch_size: int = 3,
    rank: int = 0,
    ranks: int = 1,
    **fields: object,
) -> list[View]:
    data = data_of(path, **fields)
    pairs = find_pairs(data)
    specs = measure_specs(pairs, data)
    made = training_batches(
        pairs,
        *specs,
        data,
        batch_size=batch_size,
        seed=7,
        start=start,
        stop=stop,
        workers=workers,
        rank=rank,
        ranks=ranks,
    )
    return list(made)


def same(first: list[View], second: list[View]) -> bool:
    flat = [torch.cat([torch.cat([view.x, view.y]).flatten() for view in one]) for one in (first, second)]
    return torch.equal(*flat)


def test_batches_do_not_depend_on_workers_or_where_one_starts(shards: Path, small_windows: None) -> None:
    """Over the end of an epoch (23 pairs), too."""
    whole = batches_of(shards, start=0, stop=60)
    assert same(batches_of(shards, start=0, stop=60, workers=2), whole)
    assert same(batches_of(shards, start=0, stop=60, workers=1), whole)
    assert same(batches_of(shards, start=33, stop=60, workers=2), whole[11:])
    assert not same(
        batches_of(shards, start=23, stop=46, batch_size=1),
        batches_of(shards, start=0, stop=23, batch_size=1),
    )


def test_processes_divide_the_batches_over_shards(shards: Path, small_windows: None) -> None:
    whole, first, second = (
        batches_of(shards, start=0, stop=48, batch_size=4, **ranks)
        for ranks in ({}, {"rank": 0, "ranks": 2}, {"rank": 1, "ranks": 2})
    )
    for view, *shares in zip(whole, first, second, strict=True):
        assert torch.equal(view.x, torch.cat([share.x for share in shares]))
        assert torch.equal(view.y, torch.cat([share.y for share in shares]))


def test_an_epoch_of_batches_shows_what_the_folder_holds(
    folder: Path, shards: Path, small_windows: None
) -> None:
    still = {"load_size": "crop", "mirror": False}
    of_shards, of_folder = (
        batches_of(path, start=0, stop=23, batch_size=1, **still) for path in (shards, folder)
    )
    assert sorted(v.x.sum().item() for v in of_shards) == sorted(v.x.sum().item() for v in of_folder)
    assert not same(of_shards, of_folder)


def test_only_some_pairs(shards: Path) -> None:
    few = find_pairs(data_of(shards, max_pairs=6))
    assert (len(few.split("train")), len(few.split("val"))) == (6, 3)
    assert len({pair.name for pair in few.split("train")}) == 6
    assert fingerprint(few) != fingerprint(find_pairs(data_of(shards)))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "generator.safetensors")


def test_four_steps_are_two_and_two(shards: Path, tmp_path: Path, small_windows: None) -> None:
    def train(run: str, steps: int, workers: int) -> Path:
        config = tiny_config(shards, training__steps=steps, data__workers=workers, training__batch_size=5)
        return pairloom.train(config, tmp_path / run)

    whole = train("whole", 8, 0)
    train("parts", 3, 2)
    parts = train("parts", 8, 0)
    want, got = weights(whole), weights(parts)
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert "has changed" not in (parts / "log.txt").read_text()


def test_a_model_trained_from_shards_is_evaluated_on_them_and_on_the_folder(
    folder: Path, shards: Path, tmp_path: Path
) -> None:
    run = pairloom.train(tiny_config(shards, training__steps=2), tmp_path / "run")
    own, other = (
        evaluate(run, path, out=tmp_path / name, sections=False)
        for name, path in (("own", None), ("other", str(folder)))
    )
    assert own.settings["own_data"]
    assert not own.settings["data_changed"]
    same_figures = {who: figures for who, figures in own.metrics.items() if who in ("model", "mean_target")}
    assert same_figures
    assert same_figures == {who: other.metrics[who] for who in same_figures}


def test_memory_does_not_grow_with_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_order, "WINDOW_PAIRS", 150)
    monkeypatch.setattr(shard_files, "TABLED_PAIRS", 100)
    peaks = {}
    for count in (200, 1000):
        root = tmp_path / str(count)
        (root / "train").mkdir(parents=True)
        for i in range(count):
            np.save(root / "train" / f"{i}.npy", np.full((1, 2), i % 256, np.uint8))
        pack(data_of(root), tmp_path / f"{count}-shards", per_shard=100)
        data = data_of(tmp_path / f"{count}-shards", source_kind="intensity", target_kind="intensity")
        for traced in (False, True):  # first without, so that what is loaded once does not count
            if traced:
                tracemalloc.start()
            pairs = find_pairs(data).split("train")
            order = pairs.order(0, 0)
            assert (
                len({pairs[order[i]].read()[0][0, 0, 0] for i in range(0, count, max(count // 100, 1))}) > 20
            )
            if traced:
                peaks[count] = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
    # A folder's pairs take ten times as much; what grows here are the shards of the index.
    assert (peaks[1000] - peaks[200]) / 800 < 80, "bytes a pair"


# -----------------------------------------------------------------------------------------------------------
# Addresses


def test_training_from_an_address(shards: Path, at_address: str, tmp_path: Path, small_windows: None) -> None:
    cache = {"shard_cache": str(tmp_path / "cache")}
    want = batches_of(shards, start=5, stop=40)
    assert same(batches_of(at_address, start=5, stop=40, **cache), want)
    assert same(batches_of(at_address, start=5, stop=40, workers=2, **cache), want), "from the copies"
    shutil.rmtree(tmp_path / "cache")
    assert same(batches_of(at_address, start=5, stop=40, workers=2, **cache), want), "each worker copies"
    run = pairloom.train(
        tiny_config(at_address, training__steps=2, data__shard_cache=cache["shard_cache"]), tmp_path / "run"
    )
    assert json.loads((run / "config.json").read_text())["data"]["path"] == "memory://packed"


def test_the_command_line_takes_an_address(at_address: str, tmp_path: Path) -> None:
    flags = ["--preset", "tiny", "--data.shard-cache", str(tmp_path / "cache")]
    main(["train", at_address, "--out", str(tmp_path / "run"), *flags])
    assert (tmp_path / "run/report.html").exists()
    assert "could not be evaluated" not in (tmp_path / "run/report.html").read_text()
    main(["evaluate", str(tmp_path / "run"), at_address, "--out", str(tmp_path / "out"), "--no-sections"])
    assert json.loads((tmp_path / "out/summary.json").read_text())["settings"]["own_data"]


def test_measuring_copies_no_shard(at_address: str, tmp_path: Path) -> None:
    data = data_of(at_address, shard_cache=str(tmp_path / "cache"))
    measure_specs(find_pairs(data).split("train"), data)
    assert not list(tmp_path.rglob("*.tar"))


def test_the_copies_keep_to_their_room(
    at_address: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [path.stat().st_size for path in shards.glob("train-*.tar")]
    monkeypatch.setattr(shard_order, "WINDOW_PAIRS", 4)  # two shards of the six at a time, and the next two
    room = 5 * max(sizes)
    batches_of(at_address, start=0, stop=69, shard_cache=str(tmp_path), shard_cache_gb=room / 1e9)
    kept = [path.stat().st_size for path in tmp_path.rglob("*.tar")]
    assert 0 < sum(kept) <= room
    assert sum(sizes) > room
    with pytest.raises(DataError, match=r"shard_cache_gb is .*; give at least"):
        batches_of(
            at_address, start=0, stop=6, shard_cache=str(tmp_path), shard_cache_gb=2 * max(sizes) / 1e9
        )


def test_copies_at_the_same_time_know_of_each_other(
    at_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ShardFiles(at_address).index().shards[:2]
    room = 1.5 * max(shard.bytes for shard in shards)  # for one of them
    mine, other = (ShardFiles(at_address, str(tmp_path), room / 1e9) for _ in range(2))
    meanwhile = threading.Thread(target=lambda: other.fault(shards[1]))
    ask = ShardFiles._asked

    def asked(self: ShardFiles, file: str, question: Any) -> Any:
        if self is mine and file == shards[0].file:
            meanwhile.start()
            meanwhile.join(0.5)  # it makes room, and copies, if nothing holds it
        return ask(self, file, question)

    monkeypatch.setattr(ShardFiles, "_asked", asked)
    assert not mine.fault(shards[0])
    meanwhile.join()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.tar")) <= room


def test_a_copy_that_differs_from_the_index(at_address: str, tmp_path: Path, small_windows: None) -> None:
    system = fsspec.filesystem("memory")
    name = "/packed/train-000002.tar"
    content = system.cat_file(name)
    system.pipe_file(name, content[:-1] + b"x")
    data = data_of(at_address, shard_cache=str(tmp_path))
    pairs = find_pairs(data)
    made = training_batches(
        pairs,
        *measure_specs(pairs.split("val"), data),
        data,
        batch_size=1,
        seed=0,
        start=0,
        stop=23,
        workers=0,
    )
    with pytest.raises(DataError, match=r"train-000002\.tar: is not the shard that the index knows"):
        list(made)
    assert not list(tmp_path.rglob("*train-000002*.part"))  # others may still be on their way
    assert not list(tmp_path.rglob("*train-000002.tar"))


# -----------------------------------------------------------------------------------------------------------
# Bad input


def train(data: Path | str, run: Path, *flags: object) -> list[object]:
    return ["train", data, "--out", run, "--preset", "tiny", *flags]


def cut(own: Path) -> None:
    victim = own / "train-000001.tar"
    victim.write_bytes(victim.read_bytes()[:-3000])


def flip(own: Path) -> None:
    """Every byte of the pixels of one shard."""
    victim = own / "train-000001.tar"
    data = bytearray(victim.read_bytes())
    data[600:1500] = bytes(byte ^ 255 for byte in data[600:1500])
    victim.write_bytes(data)


def other_version(own: Path) -> None:
    index = json.loads((own / "index.json").read_text())
    (own / "index.json").write_text(json.dumps(index | {"version": 2}))


def changed_index(own: Path) -> None:
    text = (own / "index.json").read_text()
    (own / "index.json").write_text(text.replace('"count": 4', '"count": 3', 1))


SPOILT: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "cut": (cut, ["train-000001.tar: is cut short", "copy it again, or pack the set anew"]),
    "flipped": (flip, ["train-000001.tar: train-", "is damaged, its checksum differs"]),
    "missing": (lambda p: (p / "train-000001.tar").unlink(), ["train-000001.tar: is in the index, but"]),
    "longer": (lambda p: (p / "val-000000.tar").open("ab").write(b"x"), ["val-000000.tar: was changed"]),
    "no table": (lambda p: (p / "train-000001.idx").unlink(), ["train-000001.idx: cannot be read"]),
    "other table": (
        lambda p: shutil.copy(p / "train-000002.idx", p / "train-000001.idx"),
        ["train-000001.idx: is not the table that the index knows"],
    ),
    "other version": (other_version, ["index.json: is of version 2, and this pairloom reads version 1"]),
    "not ours": (
        lambda p: (p / "index.json").write_text('{"wids_version": 1, "shardlist": []}'),
        ["index.json: is no index of pairloom's shards"],
    ),
    "no JSON": (
        lambda p: (p / "index.json").write_text((p / "index.json").read_text()[:300]),
        ["index.json: is damaged, it is no JSON"],
    ),
    "changed": (changed_index, ["index.json: was changed after packing"]),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_shards(how: str, own: Path, tmp_path: Path, refused: Refused) -> None:
    spoil, words = SPOILT[how]
    spoil(own)
    sentence = refused(*train(own, tmp_path / "run", "--training.epochs", 1, "--training.steps", 30))
    for word in words:
        assert word in sentence
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(own)])
    assert stop.value.code == 1


def test_data_check_of_shards(shards: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", str(shards), "--data.crop-size", "32"])
    assert "28 pairs (side-by-side): 23 train, 3 val, 2 test" in capsys.readouterr().out
    data = bytearray((own / "train-000001.tar").read_bytes())
    data[10] ^= 1  # the name of a member: no pixel is harmed
    (own / "train-000001.tar").write_bytes(data)
    with pytest.raises(SystemExit):
        main(["data", "check", str(own), "--data.crop-size", "32"])
    assert "train-000001.tar: is not the shard that the index knows" in capsys.readouterr().out


def test_settings_that_belong_to_packing(
    shards: Path, tmp_path: Path, refused: Refused, folder: Path
) -> None:
    run = tmp_path / "run"
    assert "give it to `pairloom data pack`" in refused(*train(shards, run, "--data.group-pattern", "(.)"))
    assert "data.slice_axis is z, but shards hold no volumes" in refused(
        *train(shards, run, "--data.slice-axis", "z")
    )
    assert "data.slice_neighbours is 1, but shards" in refused(
        *train(shards, run, "--data.slice-neighbours", 1)
    )
    assert "hold pairs; leave it out" in refused(*train(shards, run, "--data.derive", "gray"))
    assert "leave data.path_b unset" in refused(*train(shards, run, "--data.path-b", folder))
    bare = write_pairs(tmp_path / "bare", train=4)
    pack(data_of(bare), tmp_path / "packed")
    sentence = refused(*train(tmp_path / "packed", run, "--data.val-fraction", 0.2))
    assert (
        "data.val_fraction is 0.2, but splits and groups of shards are made when they are packed" in sentence
    )


def test_addresses_that_cannot_be_opened(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert "memory://nothing/index.json: cannot be opened" in refused(*train("memory://nothing", run))
    assert "nosuch://x/index.json: cannot be opened" in refused(*train("nosuch://x", run))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "needs a further package" in refused(*train("s3://bucket/set", run))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "pip install pairloom[scale]" in refused(*train("memory://nothing", run))


def test_packing_refuses(folder: Path, shards: Path, own: Path, tmp_path: Path, refused: Refused) -> None:
    def packing(data: Path, out: Path, *flags: object) -> str:
        return refused("data", "pack", data, out, *flags)

    assert "lies in the data folder" in packing(folder, folder / "out")
    assert "per_shard is 0" in packing(folder, tmp_path / "out", "--per-shard", 0)
    assert "shard_mb is 0.0" in packing(folder, tmp_path / "out", "--shard-mb", 0)
    assert "are shards already" in packing(shards, tmp_path / "out")
    assert "holds something else" in packing(folder, own, "--per-shard", 5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/text.txt").write_text("mine")
    assert "holds something else" in packing(folder, tmp_path / "full")
    assert (tmp_path / "full/text.txt").read_text() == "mine"


def test_volumes_are_not_packed(tmp_path: Path, refused: Refused) -> None:
    """Nor what is a stack of one plane, which a shard would show as a flat file."""
    import tifffile

    for side in "AB":
        for name in ("volume", "plane"):
            (tmp_path / name / side).mkdir(parents=True)
        np.save(tmp_path / "volume" / side / "0.npy", np.ones((3, 8, 8), np.uint8))
        tifffile.imwrite(tmp_path / "plane" / side / "0.ome.tif", np.ones((8, 8), np.uint8))
    volume = refused(
        "data",
        "pack",
        tmp_path / "volume",
        tmp_path / "out",
        "--data.slice-axis",
        "0",
        "--data.val-fraction",
        0,
    )
    assert "it is part of a volume" in volume
    assert "`pairloom data prepare`" in volume
    plane = refused("data", "pack", tmp_path / "plane", tmp_path / "out", "--data.val-fraction", 0)
    assert "0.ome.tif cannot be packed: a shard holds flat files of" in plane
    assert not list(tmp_path.glob("out/*.tar"))


def test_an_image_folder_may_hold_an_index_of_its_own(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", train=3)
    (data / "index.json").write_text('{"about": "somebody else\'s"}')
    assert len(find_pairs(data_of(data)).pairs) == 3
