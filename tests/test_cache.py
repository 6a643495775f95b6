"""The decoded cache: the same batches, built once and safely, seen to change, bounded, never in the way."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pairloom
from conftest import tiny_config, write_pairs
from pairloom.config import DataConfig
from pairloom.data import cache as caches
from pairloom.data import find_pairs, measure_specs, remembered, training_batches
from pairloom.data.blocks import SUFFIX
from pairloom.data.cache import Decoded
from pairloom.data.remembered import NAME, Cache


def photo(path: Path, seed: int, *, side: int = 24, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, len(mode))).astype(np.uint8)
    Image.fromarray(pixels.squeeze(), mode).save(path)


def two_folders(root: Path, count: int = 5, **kinds: str) -> Path:
    for side, offset in (("A", 0), ("B", 1000)):
        for i in range(count):
            photo(root / side / f"{i:04}.png", i + offset, mode=kinds.get(side, "RGB"))
    return root


def settings(root: Path, folder: Path, **fields) -> DataConfig:
    fields = {"crop_size": 16, "source_kind": "intensity", "cache": str(folder)} | fields
    return DataConfig(path=str(root), **fields)


def opened(data: DataConfig) -> tuple[Decoded | None, list[str]]:
    """What a run would read from, and what it said."""
    said: list[str] = []
    pairs = find_pairs(data).split("train")
    return Cache(data, pairs).decoded(*measure_specs(pairs, data), said.append), said


def batches(data: DataConfig, decoded: Decoded | None, *, workers: int = 0, count: int = 12) -> list:
    pairs = find_pairs(data).split("train")
    specs = measure_specs(pairs, data)
    fields = {"batch_size": 3, "seed": 5, "start": 0, "stop": count, "workers": workers}
    return list(training_batches(pairs, *specs, data, **fields, decoded=decoded))


def same(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        (a is None and b is None) or torch.equal(a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def garbled(path: Path) -> None:
    """Other bytes under the same size and time: whoever still gets the pixels has them from elsewhere."""
    found = path.stat()
    path.write_bytes(b"x" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def files_of(data: DataConfig) -> list[Path]:
    return sorted(path for path in Path(data.path).rglob("*") if path.is_file())


def blocks_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{SUFFIX}"))


def layouts(root: Path) -> dict[str, dict]:
    """Settings of data sets of every kind that is read."""
    two_folders(root / "two")
    two_folders(root / "alpha", A="RGBA")
    write_pairs(root / "side")
    two_folders(root / "masked")
    mask = np.ones((24, 24), np.uint8)
    mask[:9] = 0
    (root / "masked" / "mask").mkdir()
    Image.fromarray(mask * 255).save(root / "masked" / "mask" / "0001.png")
    for side, channels in (("A", (2, 24, 24)), ("B", (24, 24))):
        (root / "arrays" / side).mkdir(parents=True)
        for i in range(4):
            values = np.random.default_rng(i).normal(size=channels).astype(np.float32)
            values = np.moveaxis(values, 0, -1) if values.ndim == 3 else values
            values[:3, :3] = np.nan
            np.save(root / "arrays" / side / f"{i}.npy", values)
        (root / "volumes" / side).mkdir(parents=True)
        volume = np.random.default_rng(9).normal(size=(6, 24, 24)).astype(np.float32)
        np.savez(root / "volumes" / side / "one.npz", volume=volume)
    return {
        "two": {"path": "two"},
        "reversed": {"path": "two", "direction": "BtoA"},
        "alpha": {"path": "alpha", "alpha": "keep"},
        "side": {"path": "side"},
        "masked": {"path": "masked"},
        "arrays": {"path": "arrays"},
        "photos": {"path": "two/A", "derive": "inpaint", "hole": "boxes"},
        "neighbours": {"path": "volumes", "slice_axis": "0", "slice_neighbours": 1},
    }


@pytest.mark.parametrize(
    "kind", ["two", "reversed", "alpha", "side", "masked", "arrays", "photos", "neighbours"]
)
def test_batches_from_the_cache_are_bit_identical(tmp_path: Path, kind: str) -> None:
    fields = layouts(tmp_path / "data")[kind]
    data = settings(tmp_path / "data" / fields.pop("path"), tmp_path / "cache", **fields)
    before = batches(data, None)
    decoded, said = opened(data)
    assert decoded is not None, said
    pairs = find_pairs(data).split("train")
    specs = measure_specs(pairs, data)
    images = {ref.path for pair in pairs for ref in (pair.source, pair.target)}
    for path in images:
        garbled(path)
    fields = {"batch_size": 3, "seed": 5, "start": 0, "stop": 12, "workers": 0}
    after = list(training_batches(pairs, *specs, data, **fields, decoded=decoded))
    assert same(before, after)


def test_a_second_run_decodes_nothing(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    pairs = find_pairs(data).split("train")
    first = Cache(data, pairs)
    specs = first.specs(lambda: measure_specs(pairs, data))
    first.notes(lambda: ["as it was"], *specs)
    first.decoded(*specs, lambda text: None)
    for path in files_of(data):
        garbled(path)

    def never() -> None:
        raise AssertionError("measured again")

    said: list[str] = []
    second = Cache(data, find_pairs(data).split("train"))
    assert second.specs(never) == specs
    assert second.notes(never, *specs) == ["as it was"]
    decoded = second.decoded(*specs, said.append)
    assert decoded is not None and len(decoded.rows) == 10
    assert len(said) == 1 and "remove that folder" in said[0], "it says where it is, and built nothing"


def test_a_third_run_looks_at_no_image_by_itself_unless_a_block_is_gone_or_the_room_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    expected = batches(data, None)
    opened(data)
    asked: list[int] = []
    look = remembered.wanted_images
    monkeypatch.setattr(remembered, "wanted_images", lambda *given: asked.append(1) or look(*given))
    decoded, said = opened(data)
    assert not asked and decoded is not None and len(decoded.rows) == 10
    assert len(said) == 1 and "10 training images are read decoded" in said[0]
    assert same(expected, batches(data, decoded))
    blocks_of(tmp_path / "cache")[0].unlink()
    anew, said = opened(data)
    assert asked == [1] and anew is not None and len(anew.rows) == 10
    assert any("decoding" in text for text in said)
    less, said = opened(replace(data, cache_gb=1e-9))
    assert asked == [1, 1] and less is None


def test_a_changed_file_is_seen_and_alone_decoded_again(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    opened(data)
    old = blocks_of(tmp_path / "cache")
    changed = tmp_path / "data" / "A" / "0002.png"
    size, mtime = changed.stat().st_size, changed.stat().st_mtime_ns
    photo(changed, 77)
    with changed.open("ab") as file:  # of the same size, whatever the compression gave
        file.write(b"\0" * max(0, size - changed.stat().st_size))
    os.truncate(changed, max(size, changed.stat().st_size))
    os.utime(changed, ns=(mtime, mtime + 1))
    expected = batches(data, None)
    decoded, said = opened(data)
    assert any("decoding 1 images" in text for text in said), said
    assert set(old) < set(blocks_of(tmp_path / "cache"))
    assert same(expected, batches(data, decoded))


def test_what_was_measured_is_measured_again_when_a_file_or_a_setting_changes(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")

    def specs(data: DataConfig):
        pairs = find_pairs(data).split("train")
        return Cache(data, pairs).specs(lambda: measure_specs(pairs, data))

    assert specs(data)[0].channels == 3
    for i in range(5):
        photo(tmp_path / "data" / "A" / f"{i:04}.png", i, mode="L")
    assert specs(data)[0].channels == 1
    assert specs(data)[0].low == (0.0,)
    ranged = replace(data, source_scaling="range", source_range=(10.0, 20.0))
    assert specs(ranged)[0].low == (10.0,)
    (tmp_path / "cache" / "decoded" / caches.folder_of(data).name / NAME).write_text("{[")
    assert specs(data)[0].low == (0.0,), "a damaged record is none"


def test_stale_blocks_are_dropped(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    opened(data)
    old = blocks_of(tmp_path / "cache")
    for path in files_of(data):
        os.utime(path, ns=(1, 1))
    decoded, _ = opened(data)
    assert decoded is not None and len(decoded.rows) == 10
    assert not set(old) & set(blocks_of(tmp_path / "cache"))


def test_no_more_room_is_taken_than_allowed(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data", 40), tmp_path / "cache", cache_gb=5e-5)  # 29 images' worth
    decoded, said = opened(data)
    assert decoded is not None and 10 <= len(decoded.rows) < 80
    assert sum(path.stat().st_size for path in blocks_of(tmp_path / "cache")) <= 50_000
    assert any("no room for" in text for text in said)
    assert same(batches(data, None), batches(data, decoded))
    opened(data)  # nor does it grow with every start
    assert sum(path.stat().st_size for path in blocks_of(tmp_path / "cache")) <= 50_000
    smaller, _ = opened(replace(data, cache_gb=1e-6))
    assert smaller is None, "one that was larger is not used beyond what is allowed now"


@pytest.mark.parametrize("harm", ["cut", "empty", "index", "gone"])
def test_a_damaged_block_is_made_anew(tmp_path: Path, harm: str) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    opened(data)
    (block,) = blocks_of(tmp_path / "cache")
    content = bytearray(block.read_bytes())
    if harm == "gone":
        block.unlink()
    else:
        content[-200] ^= 1
        block.write_bytes({"cut": content[:-7], "empty": b"", "index": content}[harm])
    decoded, said = opened(data)
    assert decoded is not None and len(decoded.rows) == 10
    assert harm == "gone" or any("1 damaged files" in text for text in said), said
    assert same(batches(data, None), batches(data, decoded))


def test_damaged_pixels_are_decoded_from_the_file_and_made_anew(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    decoded, _ = opened(data)
    (block,) = blocks_of(tmp_path / "cache")
    content = bytearray(block.read_bytes())
    content[100] ^= 1
    block.write_bytes(content)
    assert same(batches(data, None), batches(data, decoded))
    again, said = opened(data)
    assert any("1 damaged files" in text for text in said), said
    assert again is not None and len(again.rows) == 10
    assert not list((tmp_path / "cache").rglob("*.damaged"))


def test_blocks_that_another_run_removed_are_no_error(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    decoded, _ = opened(data)
    for block in blocks_of(tmp_path / "cache"):
        block.unlink()
    assert same(batches(data, None), batches(data, decoded))


def test_an_unreadable_image_is_left_to_training_to_tell(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data", 3), tmp_path / "cache")
    pairs = find_pairs(data).split("train")
    specs = measure_specs(pairs, data)
    (tmp_path / "data" / "B" / "0001.png").write_bytes(b"no image")
    decoded = Cache(data, pairs).decoded(*specs, lambda text: None)
    assert decoded is not None and len(decoded.rows) == 5
    with pytest.raises(ValueError, match=r"0001\.png"):
        list(
            training_batches(
                pairs, *specs, data, batch_size=1, seed=0, start=0, stop=3, workers=0, decoded=decoded
            )
        )


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "file")
    (tmp_path / "file").touch()
    decoded, said = opened(data)
    assert decoded is None
    assert any("cannot be written" in text for text in said)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_read(tmp_path: Path) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    opened(data)
    folder = caches.folder_of(data)
    os.utime(tmp_path / "data" / "A" / "0000.png", ns=(1, 1))
    folder.chmod(0o500)
    try:
        decoded, said = opened(data)
    finally:
        folder.chmod(0o700)
    assert decoded is not None and len(decoded.rows) == 9
    assert any("cannot be written" in text for text in said)


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    usage = caches.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    decoded, said = opened(data)
    assert decoded is None
    assert any("the disk" in text for text in said)


def _open_and_report(data: DataConfig, ready, results) -> None:
    ready.wait()
    decoded, said = opened(data)
    results.put((len(decoded.rows), any("decoding" in text for text in said)))


@pytest.mark.parametrize("count", [5, 40])
def test_two_runs_at_once_build_once(tmp_path: Path, count: int) -> None:
    """Of few images, decoded in the run itself, and of many, for which it starts processes."""
    data = settings(two_folders(tmp_path / "data", count), tmp_path / "cache")
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    runs = [context.Process(target=_open_and_report, args=(data, ready, results)) for _ in range(2)]
    for run in runs:
        run.start()
    found = sorted(results.get(timeout=120) for _ in runs)
    for run in runs:
        run.join()
    assert found == [(2 * count, False), (2 * count, True)]


BUILD = """
import sys
sys.path.insert(0, {tests!r})
import torch
from pathlib import Path
from pairloom.data import blocks
from test_cache import opened, settings
blocks.BLOCK_BYTES = 4096  # many small ones
if __name__ == "__main__":
    opened(settings(Path({data!r}), Path({cache!r})))
"""


def test_a_killed_build_is_gone_on_with(tmp_path: Path) -> None:
    two_folders(tmp_path / "data", 600)
    script = tmp_path / "build.py"
    places = {"data": str(tmp_path / "data"), "cache": str(tmp_path / "cache")}
    script.write_text(BUILD.format(tests=str(Path(__file__).parent), **places))
    run = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 120
    while len(blocks_of(tmp_path / "cache")) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = len(blocks_of(tmp_path / "cache"))
    assert kept >= 2
    data = settings(tmp_path / "data", tmp_path / "cache")
    decoded, said = opened(data)
    assert decoded is not None and len(decoded.rows) == 1200
    (sentence,) = (text for text in said if "decoding" in text)
    assert int(sentence.split()[2]) < 1200, "what was built is not built again"
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_from_the_cache_however_they_start(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    before = batches(data, None)
    decoded, _ = opened(data)
    pairs = find_pairs(data).split("train")
    specs = measure_specs(pairs, data)
    for path in files_of(data):
        garbled(path)
    old = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        fields = {"batch_size": 3, "seed": 5, "start": 0, "stop": 12, "workers": 2}
        after = list(training_batches(pairs, *specs, data, **fields, decoded=decoded))
    finally:
        multiprocessing.set_start_method(old, force=True)
    assert same(before, after)


def test_training_with_the_cache_gives_the_same_weights(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    weights = []
    for name, cache in (("without", "off"), ("with", str(tmp_path / "cache"))):
        config = tiny_config(pairs, training__steps=3, data__cache=cache)
        out = pairloom.train(config, tmp_path / name)
        weights.append((out / "discriminator.safetensors").read_bytes()[-1000:])
        log = (out / "log.txt").read_text(encoding="utf-8")
        assert ("read decoded from" in log) == (cache != "off")
    assert weights[0] == weights[1]


def test_off_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    data = settings(two_folders(tmp_path / "data"), tmp_path / "cache")
    assert DataConfig().cache == "off"
    assert opened(replace(data, cache="off")) == (None, [])
    assert not (tmp_path / "user").exists()
    opened(replace(data, cache="auto"))
    assert blocks_of(tmp_path / "user" / "pairloom")
