"""Images in, a study's directory out: what is refused, and that nothing but the key tells."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pairloom.study.making import named_paths, new_study
from pairloom.study.protocol import StudyFault, StudySettings, load_key
from pairloom.study.shown import reduced
from pairloom.study.store import Store

SIDE = 16


def draw(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_folder(
    folder: Path, names: list[str], *, start: int = 0, side: int = SIDE, end: str = ".png"
) -> Path:
    for i, name in enumerate(names):
        path = folder / f"{name}{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(start + i, side)).save(path)
    return folder


NAMES = [f"scene-{i}" for i in range(8)]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Real images, and those of two algorithms."""
    return {
        name: write_folder(tmp_path / name, NAMES, start=100 * i)
        for i, name in enumerate(("real", "L1", "GAN"))
    }


def make(tmp_path: Path, folders: dict[str, Path], **fields: Any) -> Any:
    given = {
        "real": folders["real"],
        "fakes": {"L1": folders["L1"], "GAN": folders["GAN"]},
        "seed": 1,
        "trials": 5,
        "practice": 2,
    }
    return new_study(tmp_path / "study", **{**given, **fields})


def test_a_study_holds_all_that_the_contract_names(tmp_path: Path, folders: dict[str, Path]) -> None:
    made = make(tmp_path, folders)
    study = tmp_path / "study"
    assert sorted(p.name for p in study.iterdir()) == [
        "consent.md", "images", "instructions.md", "key.json", "study.json", "study.sqlite"
    ]  # fmt: skip
    settings = StudySettings.load(study)
    assert settings == made.settings
    assert settings.algorithms == ("L1", "GAN")
    assert (settings.size, settings.height_width) == (SIDE, (SIDE, SIDE))
    assert made.admin_token not in "".join(p.read_text() for p in study.glob("*.*") if p.suffix != ".sqlite")
    assert made.admin_token in made.words()
    assert stat.S_IMODE((study / "key.json").stat().st_mode) == 0o600
    with Store(study) as store:
        assert store.sessions() == [] and store.links() == {}
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]
    assert "two was made by a computer" in " ".join((study / "consent.md").read_text().split())


def test_the_files_tell_nothing(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Real JPEGs with metadata and fake PNGs become files that differ in nothing but their pixels."""
    for path in list(folders["real"].iterdir()):
        exif = Image.Exif()
        exif[0x010E] = "a real photograph"
        Image.open(path).save(path.with_suffix(".jpg"), exif=exif, dpi=(300, 300), quality=95)
        path.unlink()
    made = make(tmp_path, folders)
    key = load_key(tmp_path / "study")
    files = sorted((tmp_path / "study" / "images").iterdir())
    assert {p.stem for p in files} == set(key) and len(key) == 24
    assert len({p.stat().st_mtime_ns for p in files}) == 1
    assert len({p.stat().st_mode for p in files}) == 1
    for path in files:
        data = path.read_bytes()
        chunks, at = [], 8
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            chunks.append(data[at + 4 : at + 8])
            at += 12 + length
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
        with Image.open(path) as image:
            assert image.mode == "RGB" and not image.info
    order = [key[p.stem].algorithm is None for p in files]
    assert order not in (sorted(order), sorted(order, reverse=True)), "the order of names tells nothing"
    assert "JPEG" in made.words(), "what no re-encoding removes is said"


def test_pixels_are_kept(tmp_path: Path, folders: dict[str, Path]) -> None:
    make(tmp_path, folders)
    for id_, image in load_key(tmp_path / "study").items():
        with (
            Image.open(tmp_path / "study" / "images" / f"{id_}.png") as shown,
            Image.open(image.source) as own,
        ):
            assert np.array_equal(np.asarray(shown), np.asarray(own))
        assert NAMES[image.pair] == Path(image.source).stem


def test_ids_do_not_follow_from_the_seed(tmp_path: Path, folders: dict[str, Path]) -> None:
    make(tmp_path, folders)
    first = set(load_key(tmp_path / "study"))
    shutil.rmtree(tmp_path / "study")
    make(tmp_path, folders)
    assert not first & set(load_key(tmp_path / "study"))


def test_grey_and_16_bit(tmp_path: Path, folders: dict[str, Path]) -> None:
    for path in folders["L1"].iterdir():
        Image.open(path).convert("L").save(path)
    make(tmp_path, folders)
    shutil.rmtree(tmp_path / "study")
    path = folders["L1"] / "scene-0.png"
    Image.fromarray(draw(0)[..., 0].astype(np.uint16) * 256).save(path)
    with pytest.raises(StudyFault, match=r"scene-0.png: has 1 channel of uint16; a study shows 8-bit"):
        make(tmp_path, folders)


def test_area_reduction_is_the_mean_over_each_pixels_area() -> None:
    pixels = draw(0, 8)
    means = pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(reduced(pixels, 4, "x"), np.rint(means).astype(np.uint8))
    ramp = np.zeros((3, 3, 3), np.uint8)
    ramp[:, 1], ramp[:, 2] = 90, 240
    # Two of three columns: the first new one is the first old one and half of the second.
    assert reduced(ramp, 2, "x")[0, :, 0].tolist() == [30, 190]
    assert reduced(pixels[:4], 4, "x").shape == (2, 4, 3)


def test_size_reduces_and_never_enlarges(tmp_path: Path, folders: dict[str, Path]) -> None:
    made = make(tmp_path, folders, size=8)
    assert made.settings.height_width == (8, 8)
    shutil.rmtree(tmp_path / "study")
    with pytest.raises(StudyFault, match="16 x 16 pixels, which --size 32 would enlarge"):
        make(tmp_path, folders, size=32)
    assert not (tmp_path / "study").exists()


def test_attention_checks_have_a_wreck_each(tmp_path: Path, folders: dict[str, Path]) -> None:
    make(tmp_path, folders, attention=1)
    key = load_key(tmp_path / "study")
    wrecks = {id_: image for id_, image in key.items() if image.attention}
    assert len(wrecks) == 1 and len(key) == 25
    for id_, image in wrecks.items():
        real = next(
            i
            for i, other in key.items()
            if (other.pair, other.algorithm, other.attention) == (image.pair, None, False)
        )
        a, b = (np.asarray(Image.open(tmp_path / "study" / "images" / f"{i}.png")) for i in (id_, real))
        assert a.shape == b.shape and np.abs(a.astype(int) - b).mean() > 20


def test_prefer_needs_no_real_images(tmp_path: Path, folders: dict[str, Path]) -> None:
    made = make(tmp_path, folders, mode="prefer", real=None, attention=1)
    key = load_key(tmp_path / "study")
    assert {image.algorithm for image in key.values()} == {None, "L1", "GAN"}
    assert all(image.attention for image in key.values() if image.algorithm is None)
    assert made.settings.title == "Which is better?"


def test_unpaired_takes_other_names_and_counts(tmp_path: Path, folders: dict[str, Path]) -> None:
    shutil.rmtree(folders["L1"])
    write_folder(folders["L1"], [f"other-{i}" for i in range(11)], start=300)
    make(tmp_path, folders, paired=False)
    assert len(load_key(tmp_path / "study")) == 8 + 11 + 8


# -----------------------------------------------------------------------------------------------------------
# Bad input


def remove_one(folders: dict[str, Path]) -> None:
    (folders["L1"] / "scene-3.png").unlink()


def rename_one(folders: dict[str, Path]) -> None:
    (folders["GAN"] / "scene-3.png").rename(folders["GAN"] / "scene-3_fake.png")


def enlarge_one(folders: dict[str, Path]) -> None:
    Image.fromarray(draw(0, 20)).save(folders["L1"] / "scene-3.png")


def cut_one(folders: dict[str, Path]) -> None:
    path = folders["GAN"] / "scene-3.png"
    path.write_bytes(path.read_bytes()[:100])


def empty_one(folders: dict[str, Path]) -> None:
    (folders["GAN"] / "scene-3.png").write_bytes(b"")


def name_twice(folders: dict[str, Path]) -> None:
    Image.fromarray(draw(0)).save(folders["L1"] / "scene-3.jpg")


def copy_real(folders: dict[str, Path]) -> None:
    shutil.copy(folders["real"] / "scene-3.png", folders["L1"] / "scene-3.png")


@pytest.mark.parametrize(
    ("break_", "fields", "words"),
    [
        (remove_one, {}, "hold 8 and 7 images that do not match by name .*scene-3"),
        (rename_one, {}, "hold 8 and 8 images that do not match by name .*scene-3, scene-3_fake"),
        (
            enlarge_one,
            {},
            "scene-3.png: has 20 x 20 pixels, and .* 16 x 16; all images of a study must be of one",
        ),
        (cut_one, {}, "scene-3.png: cannot be read, it is damaged or cut short"),
        (empty_one, {}, "scene-3.png: is empty"),
        (name_twice, {}, "scene-3.png and .*scene-3.jpg: have one name"),
        (copy_real, {}, "its scene-3 has the very pixels of the real scene-3"),
        (None, {"trials": 40}, "holds 8 images, and 2 practice and 40 main trials need 42"),
        (None, {"attention": 2}, "2 practice and 5 main trials and 2 attention checks need 9"),
        (None, {"real": None}, "There are no real images"),
        (None, {"real": "nowhere"}, "nowhere: is no folder"),
        (None, {"data": "pairs"}, "--data .* go with --run"),
        (None, {"runs": {"a": "b"}}, "There are folders and runs"),
        (None, {"fakes": {}}, "algorithms is "),
        (None, {"exposure_ms": 0}, "exposure_ms is 0"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path,
    folders: dict[str, Path],
    break_: Callable[[dict[str, Path]], None] | None,
    fields: dict[str, Any],
    words: str,
) -> None:
    if break_ is not None:
        break_(folders)
    with pytest.raises(StudyFault, match=words) as caught:
        make(tmp_path, folders, **fields)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]


def test_an_existing_directory_is_left_alone(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "study").mkdir()
    make(tmp_path, folders)  # an empty one will do
    before = (tmp_path / "study" / "study.json").read_text()
    with pytest.raises(StudyFault, match="is there already and not empty"):
        make(tmp_path, folders, seed=2)
    assert (tmp_path / "study" / "study.json").read_text() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyFault, match="is a file"):
        new_study(tmp_path / "file", seed=1, real=folders["real"], fakes={"L1": folders["L1"]})


def test_an_empty_folder_is_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyFault, match="empty: the folder holds no images"):
        make(tmp_path, folders, real=tmp_path / "empty")


def test_pixels_that_repeat_are_noted(tmp_path: Path, folders: dict[str, Path]) -> None:
    shutil.copy(folders["L1"] / "scene-0.png", folders["L1"] / "scene-1.png")
    assert "same pixels as another" in make(tmp_path, folders).words()


def test_named_paths() -> None:
    assert named_paths(["L1=a/b", "L1+cGAN=c=d"]) == {"L1": Path("a/b"), "L1+cGAN": Path("c=d")}
    for given in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(StudyFault, match=r"give for example|given twice"):
            named_paths(given)


# -----------------------------------------------------------------------------------------------------------
# Runs


def test_a_study_of_runs(tmp_path: Path, tiny_run: Path, tiny_data: Path) -> None:
    """The fake images are the translator's, the real ones the targets."""
    from pairloom.evaluation.evaluate import data_of
    from pairloom.images import to_array
    from pairloom.translator import Translator

    made = new_study(
        tmp_path / "study", runs={"tiny": tiny_run}, data=tiny_data, split="val", seed=0, trials=1, practice=1
    )
    key = load_key(tmp_path / "study")
    shown = {
        (image.algorithm, image.pair): np.asarray(Image.open(tmp_path / "study" / "images" / f"{id_}.png"))
        for id_, image in key.items()
    }
    assert set(shown) == {(None, 0), (None, 1), ("tiny", 0), ("tiny", 1)}
    model = Translator.load(tiny_run)
    data, _ = data_of(model, tiny_data)
    from pairloom.data import find_pairs, load_pair

    for number, pair in enumerate(find_pairs(data).split("val")):
        x, y = load_pair(pair, model.source_spec, model.target_spec, data)
        assert np.array_equal(shown[None, number], to_array(y, model.target_spec))
        y_hat = model.translate_tensor(x[None], seed=0)[0]
        assert np.array_equal(shown["tiny", number], to_array(y_hat, model.target_spec))
    assert made.settings.height_width == shown[None, 0].shape[:2]


def test_runs_generate_larger_and_are_shown_reduced(tmp_path: Path, tiny_run: Path, tiny_data: Path) -> None:
    """As the paper on maps: real and fake of different sources, at twice the size, reduced by area."""
    made = new_study(
        tmp_path / "study", runs={"a": tiny_run}, data=tiny_data, split="val", generate_px=64, size=32,
        paired=False, seed=0, trials=1, practice=1,
    )  # fmt: skip
    assert made.settings.height_width == (32, 32)
    assert not made.settings.paired
    record = json.loads((tmp_path / "study" / "study.json").read_text())
    assert record["size"] == 32 and record["shape"] == [32, 32]


def test_runs_without_such_pairs(tmp_path: Path, tiny_run: Path, tiny_data: Path) -> None:
    with pytest.raises(StudyFault, match="2 images, and 10 practice and 40 main trials need 50"):
        new_study(tmp_path / "a", runs={"tiny": tiny_run}, data=tiny_data, split="val", seed=0)
    with pytest.raises(StudyFault, match="no pairs in the 'nosplit' split"):
        new_study(tmp_path / "b", runs={"tiny": tiny_run}, data=tiny_data, split="nosplit", seed=0)
