"""The nine applications of the paper: each from raw data to a translated image, through the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.color import rgb2lab

from conftest import cli, draw_pair, write_pairs
from pairloom import presets
from pairloom.config import DataConfig
from pairloom.data import find_pairs, load_pair
from pairloom.data.holes import center
from pairloom.evaluation.evaluate import evaluate
from pairloom.translator import Translator

SIDE = 40
PAGES = Path(__file__).parent.parent / "docs" / "tasks"
# fmt: off
SMALL = (
    "--data.crop-size", "32", "--data.workers", "0",
    "--generator.base-channels", "8", "--discriminator.base-channels", "8", "--discriminator.num-layers", "1",
    "--training.steps", "2", "--training.device", "cpu", "--training.precision", "fp32",
    "--logging.sample-pairs", "1",
)
# fmt: on


def photo(seed: int) -> Image.Image:
    return Image.fromarray(draw_pair(seed, SIDE)[:, :SIDE])


def write_photos(root: Path) -> Path:
    for i, split in enumerate(("train", "train", "train", "test", "test")):
        (root / split).mkdir(parents=True, exist_ok=True)
        photo(i).save(root / split / f"{i}.jpg", quality=95)
    return root


def write_thermal(root: Path) -> Path:
    """Two folders: 8-bit grey heat, and colours."""
    for i in range(3):
        for side, image in (("A", photo(i).convert("L").point(lambda v: 255 - v)), ("B", photo(i))):
            (root / side).mkdir(parents=True, exist_ok=True)
            image.save(root / side / f"{i}.png")
    return root


def trained(data: Path, run: Path, preset: str, *flags: str) -> Translator:
    cli("train", data, "--out", run, "--preset", preset, *flags, *SMALL)
    return Translator.load(run, device="cpu")


def translated(run: Path, source: Image.Image, out: Path, suffix: str = ".png") -> np.ndarray:
    """An image of another size than the crop, by name."""
    file = out / f"new{suffix}"
    out.mkdir(parents=True, exist_ok=True)
    source.save(file)
    cli("translate", run, file, "--out", out / "translated", "--device", "cpu")
    with Image.open(out / "translated" / "new.png") as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "preset", ["facades", "cityscapes", "segmentation", "maps", "day2night", "edges2shoes"]
)
def test_pairs_of_files_side_by_side(preset: str, tmp_path: Path) -> None:
    """Labels, maps, nights and the authors' edges come as pairs."""
    data = write_pairs(tmp_path / "pairs", train=3)
    model = trained(data, tmp_path / "run", preset)
    assert model.config.data.direction == presets.get(preset).data.direction
    pair = Image.fromarray(draw_pair(9, SIDE))
    output = translated(tmp_path / "run", pair.crop((0, 0, SIDE, 33)), tmp_path)
    assert (output.shape, output.dtype) == ((33, SIDE, 3), np.uint8)


def test_maps_in_the_other_direction(tmp_path: Path) -> None:
    model = trained(
        write_pairs(tmp_path / "pairs", train=2), tmp_path / "run", "maps", "--data.direction", "BtoA"
    )
    assert model.config.data.direction == "BtoA"


def test_thermal_has_one_channel_in_and_three_out(tmp_path: Path) -> None:
    model = trained(write_thermal(tmp_path / "pairs"), tmp_path / "run", "thermal")
    assert model.config.generator.channels == (1, 3)
    assert translated(tmp_path / "run", photo(5).convert("L"), tmp_path).shape == (SIDE, SIDE, 3)


def test_colourisation_keeps_the_lightness(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    model = trained(photos, tmp_path / "run", "colorization")
    assert model.config.generator.channels == (1, 2)
    grey = photo(7).convert("L").resize((51, 37))
    output = translated(tmp_path / "run", grey, tmp_path)
    assert output.shape == (37, 51, 3)
    assert np.ptp(output, axis=2).max() > 0, "colours"
    # Where a colour fits into sRGB, its L is the source's.
    before = rgb2lab(np.repeat(np.asarray(grey)[..., None], 3, 2))[..., 0]
    difference = np.abs(rgb2lab(output)[..., 0] - before)
    inside = ((output > 0) & (output < 255)).all(axis=2)
    assert inside.mean() > 0.3 and difference[inside].max() < 0.6

    # A colour photo is a source too: of it only L is seen; and PNG or array, one image or several.
    colour = np.asarray(photo(7))
    assert model(colour).shape == (SIDE, SIDE, 3)
    tinted = np.asarray(photo(7).convert("L"))
    assert np.abs(model(tinted).astype(int) - model(np.repeat(tinted[..., None], 3, 2))).max() <= 1
    drawn = model.samples(colour, 2)
    assert drawn.images.shape == (2, SIDE, SIDE, 3) and drawn.mean.dtype == np.uint8
    assert drawn.spread.shape == (SIDE, SIDE, 3)


def test_colourisation_is_evaluated_in_ab_and_shown_in_colours(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    model = trained(photos, tmp_path / "run", "colorization")
    summary = evaluate(model, split="test", out=tmp_path / "evaluation")
    assert list(summary.channels["bias"]) == ["a", "b"]
    assert set(summary.sections["colour"].figures["intersection"]) == {"L", "a", "b"}
    assert summary.sections["colour"].figures["intersection"]["L"] > 0.8, "the source's own L"
    shown = np.asarray(Image.open(tmp_path / "evaluation" / "images" / "3.png"))
    assert shown.shape == (32, 32, 3) and np.ptp(shown, axis=2).max() > 0
    assert "ladder" in summary.sections and "noise" in summary.sections
    cli("report", tmp_path / "run")

    # Other photos are derived in the same way.
    others = write_photos(tmp_path / "others")
    again = evaluate(model, others, split="test", out=tmp_path / "again", sections=False)
    assert again.metrics["model"]["L1"].mean == pytest.approx(summary.metrics["model"]["L1"].mean)


@pytest.mark.parametrize("hole", ["center", "boxes", "strokes", "masks"])
def test_inpainting(hole: str, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    if hole == "masks":
        hole = str(tmp_path / "masks")
        for file in photos.rglob("*.jpg"):
            mask = Image.new("L", (SIDE, SIDE))
            ImageDraw.Draw(mask).ellipse((5, 9, 20, 30), fill=255)
            (tmp_path / "masks" / file.parent.name).mkdir(parents=True, exist_ok=True)
            mask.save(tmp_path / "masks" / file.parent.name / f"{file.stem}.png")
    model = trained(photos, tmp_path / "run", "inpainting", "--data.hole", hole)
    assert model.config.data.derive == "inpaint"
    damaged = np.asarray(photo(6)).copy()
    damaged[center(SIDE, SIDE)] = 255
    output = translated(tmp_path / "run", Image.fromarray(damaged), tmp_path)
    assert output.shape == (SIDE, SIDE, 3)
    assert evaluate(model, split="test", out=tmp_path / "e", sections=False).settings["pairs"] == 2


def test_edges_and_sketches(tmp_path: Path) -> None:
    """An edges model, made of photos alone, draws from edges, and from drawings of another hand."""
    photos = write_photos(tmp_path / "photos")
    flags = ("--data.derive", "edges", "--data.edge-sigma", "1")
    model = trained(photos, tmp_path / "run", "edges2shoes", *flags)
    assert model.config.generator.channels == (1, 3)
    sketch = Image.new("RGBA", (44, 36), (0, 0, 0, 0))
    ImageDraw.Draw(sketch).line([(3, 4), (30, 30), (40, 5)], fill=(20, 20, 60, 255), width=2)
    assert translated(tmp_path / "run", sketch, tmp_path).shape == (36, 44, 3), "transparent is white paper"
    assert translated(tmp_path / "run", photo(4), tmp_path / "more", ".jpg").shape == (SIDE, SIDE, 3)
    other = trained(photos, tmp_path / "sketch", "sketch", *flags)
    assert other.config.data.derive == "edges"


def test_grey_to_photo(tmp_path: Path) -> None:
    flags = ("--data.derive", "gray", "--data.direction", "AtoB")
    model = trained(write_photos(tmp_path / "photos"), tmp_path / "run", "default", *flags)
    assert model.config.generator.channels == (1, 3)
    assert translated(tmp_path / "run", photo(5).convert("L"), tmp_path).shape == (SIDE, SIDE, 3)


def test_a_run_begun_with_a_relative_mask_is_read_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos")
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    model = trained(Path("photos"), Path("run"), "inpainting", "--data.hole", "mask.png")
    assert model.config.data.hole == str(tmp_path / "mask.png")
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["hole"] == model.config.data.hole
    pair = find_pairs(model.config.data).pairs[0]
    x, _ = load_pair(pair, model.source_spec, model.target_spec, model.config.data)
    assert (x == 1).all()


# -----------------------------------------------------------------------------------------------------------
# The pages

TASKS: dict[str, Callable[[], object]] = {
    "cityscapes": presets.cityscapes,
    "facades": presets.paper,
    "maps": presets.maps,
    "colorization": presets.colorization,
    "edges": presets.edges2shoes,
    "sketch": presets.sketch,
    "day2night": presets.day2night,
    "thermal": presets.thermal,
    "inpainting": presets.inpainting,
}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_has_a_page_from_raw_data_to_a_translated_image(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for part in (
        "**The data.**",
        "**The command.**",
        "**How to read it.**",
        "**How sure.**",
        "**The paper.**",
    ):
        assert part in text, part
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    assert re.search(r"^pairloom train .*--preset \w+", shell, re.MULTILINE)
    assert re.search(r"^pairloom translate ", shell, re.MULTILINE)
    for preset in re.findall(r"--preset (\w+)", shell):
        assert presets.get(preset)


def test_the_index_lists_every_page() -> None:
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    listed = re.search(r"```{toctree}.*?\n\n(.*?)```", text, re.DOTALL)
    assert listed is not None
    assert set(listed.group(1).split()) == set(TASKS)
    assert {path.stem for path in PAGES.glob("*.md")} == {*TASKS, "index"}


def test_what_is_derived_by_default() -> None:
    derived = {name: presets.get(name).data.derive for name in presets.PRESETS}
    assert {name: how for name, how in derived.items() if how != "none"} == {
        "colorization": "colorize", "inpainting": "inpaint",
    }  # fmt: skip
    assert DataConfig().derive == "none"
