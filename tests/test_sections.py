"""What an evaluation says beyond the means: sets, colours, controls, noise, classes, checkpoints, a page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pairloom
from conftest import tiny_config, write_pairs
from pairloom import images
from pairloom.data import find_pairs, load_pair
from pairloom.evaluation import metrics, set_figures
from pairloom.evaluation.colour import LabHistogram, intersection
from pairloom.evaluation.confusion import confusion_matrix, scores
from pairloom.evaluation.evaluate import evaluate
from pairloom.evaluation.features import Extractor
from pairloom.evaluation.foreign_segmenters import FunctionSegmenter, load_segmenter
from pairloom.evaluation.sections import Sets
from pairloom.evaluation.segmenter import (
    SegmenterError,
)
from pairloom.evaluation.segmenter_training import train_segmenter
from pairloom.evaluation.summary import EvaluationError, Summary
from pairloom.evaluation.trunks import TrunkError
from pairloom.palette import nearest
from pairloom.translator import Translator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels -> photo on 12 test pairs, two steps."""
    data = write_pairs(tmp_path_factory.mktemp("data"), train=5, val=2, test=12)
    return pairloom.train(
        tiny_config(data, training__steps=4, logging__keep_snapshots=True),
        tmp_path_factory.mktemp("run") / "run",
    )


@pytest.fixture(scope="module")
def evaluated(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    out = tmp_path_factory.mktemp("out") / "evaluation"
    return out, evaluate(run, out=out, all_checkpoints=True)


def tensors(run: Path) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    model = Translator.load(run, precision="fp32")
    pairs = find_pairs(model.config.data).split("test")
    loaded = [load_pair(p, model.source_spec, model.target_spec, model.config.data) for p in pairs]
    return [(x, y, model.translate_tensor(x[None])[0]) for x, y in loaded]


def test_every_section_is_there_and_in_the_words(evaluated: tuple[Path, Summary]) -> None:
    _, summary = evaluated
    assert list(summary.sections) == ["set", "colour", "ladder", "noise", "checkpoints"]
    for section in summary.sections.values():
        assert section.title in summary.words()
        assert section.words.splitlines()[0] in summary.words()


def test_the_json_holds_the_figures_and_no_drawings(evaluated: tuple[Path, Summary]) -> None:
    out, summary = evaluated
    values = json.loads((out / "summary.json").read_text())
    assert "<svg" not in json.dumps(values)
    again = Summary.from_dict(values)
    assert again.words() == summary.words()


def test_the_set_figures(run: Path, evaluated: tuple[Path, Summary]) -> None:
    section = evaluated[1].sections["set"]
    assert {"sliced Wasserstein", "spectrum", "retrieval"} <= set(section.figures)
    assert section.figures["retrieval"]["count"] == 12
    assert "at least 2,048 images" in section.words  # of the Frechet distance
    found = section.figures.get("KID, EfficientNet-Lite0")
    assert found is None or found["low"] < found["value"] < found["high"]


def test_what_one_figure_lacks_stops_no_other() -> None:
    """Two channels: no network knows them, but patches, spectra and layouts do; and sizes may differ."""
    rng = torch.Generator().manual_seed(0)
    seen = Sets((), ["No features."])
    for side in (64, 96) * 6:
        y = torch.rand(2, side, side, generator=rng) * 2 - 1
        seen.add(None, y, y, y)  # type: ignore[arg-type]
    broken = torch.zeros(2, 4, 4)  # too small for patches and spectra
    section = seen.section()
    assert {"sliced Wasserstein", "spectrum", "retrieval"} == set(section.figures)
    assert section.words.startswith("No features.")
    seen.add(None, broken, broken, broken)  # type: ignore[arg-type]
    after = seen.section()
    assert {"retrieval"} == set(after.figures)
    assert "4 px" in after.words


def test_the_colours_are_those_of_outputs_and_targets(run: Path, evaluated: tuple[Path, Summary]) -> None:
    outputs, targets = LabHistogram(), LabHistogram()
    for _, y, y_hat in tensors(run):
        outputs.add(y_hat[None])
        targets.add(y[None])
    section = evaluated[1].sections["colour"]
    assert section.figures["intersection"] == pytest.approx(intersection(outputs, targets))


def test_the_models_row_of_the_ladder_is_the_models_figure(evaluated: tuple[Path, Summary]) -> None:
    _, summary = evaluated
    rows = summary.sections["ladder"].figures["rows"]
    for name in ("L1", "PSNR", "SSIM"):  # all 12 pairs are on the ladder
        assert rows["model"][name] == pytest.approx(summary.metrics["model"][name].mean, rel=1e-5)
    assert rows["the targets"]["SSIM"] == pytest.approx(1)
    assert (
        rows["the targets"]["SSIM"] > rows["blurred, sigma 1 px"]["SSIM"] > rows["paired at random"]["SSIM"]
    )


def test_the_noise_is_measured_where_there_is_one(
    run: Path, evaluated: tuple[Path, Summary], tmp_path: Path
) -> None:
    section = evaluated[1].sections["noise"]
    assert section.figures["samples"] == 4
    assert section.svg.count("where the translations of test-") == 4
    still = Translator.load(run, dropout=False, precision="fp32")
    assert "noise" not in evaluate(still, out=tmp_path / "still").sections


def test_the_checkpoints_are_measured_and_the_best_is_named(
    run: Path, evaluated: tuple[Path, Summary]
) -> None:
    section = evaluated[1].sections["checkpoints"]
    steps = {line["step"]: line for line in section.figures["steps"]}
    assert list(steps) == [2, 4]
    last = np.mean([metrics.l1(y_hat[None], y[None]).item() for _, y, y_hat in tensors(run)])
    # Half precision in the snapshot, or the state itself: the figure is that of step 4.
    assert steps[4]["val_L1"] == pytest.approx(last, rel=2e-3)
    best = min(steps, key=lambda step: steps[step]["val_L1"])
    assert f"step {best} by L1" in section.words
    assert "chosen on the test split has no test left" in section.words


def test_weights_have_no_checkpoints_to_follow(run: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"generator\.safetensors: is no run directory"):
        evaluate(run / "generator.safetensors", out=tmp_path / "out", all_checkpoints=True)


def test_the_page_is_whole_and_needs_nothing_else(evaluated: tuple[Path, Summary]) -> None:
    out, summary = evaluated
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    for section in summary.sections.values():
        assert section.title in page
    assert page.count("data:image/png") >= 4 * 4  # source, output, target, difference
    assert page.count("<svg") >= 5
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    names = [f"test-{i}" for i in range(12)]
    assert all(f'<th scope="row">{name}</th>' in page for name in names)


def test_without_sections_there_are_none(run: Path, tmp_path: Path) -> None:
    assert not evaluate(run, out=tmp_path / "out", sections=False).sections


def test_too_few_images_become_a_sentence_with_the_least_number(tiny_run: Path, tmp_path: Path) -> None:
    section = evaluate(tiny_run, out=tmp_path / "out").sections["set"]
    assert re.search(r"2 images; the patches of two sets need 8", section.words)
    assert "sliced Wasserstein" not in section.figures


def test_a_missing_folder_of_weights_is_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TrunkError, match=r"nowhere: there is no such folder of weight files"):
        evaluate(run, out=tmp_path / "out", weights=tmp_path / "nowhere")


def test_a_folder_without_the_weights_is_said_and_stops_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    summary = evaluate(run, out=tmp_path / "out", weights=tmp_path / "weights")
    words = summary.sections["set"].words
    assert all(name in words for name in ("alexnet", "vgg16", "inception"))
    assert "LPIPS" not in summary.metrics["model"]


def test_large_sets_are_bounded_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_figures, "MOST_FOR_KID", 10)
    monkeypatch.setattr(set_figures, "MOST_FOR_RETRIEVAL", 5)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(27, 8))
    extractor = Extractor(net, name="pixels", dim=8, side_px=3)
    features, own = set_figures.FeatureDistance(extractor), set_figures.OwnTarget()
    images_ = torch.rand(12, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for image in images_:
        for side in (set_figures.OUTPUTS, set_figures.TARGETS):
            features.add(side, image[None])
            own.add(side, torch.nn.functional.interpolate(image[None], size=32))
    figures, words = features.found()
    assert figures["KID, pixels"]["images"] == 10
    assert "the first 10 images" in words
    assert own.found()[0]["retrieval"]["count"] == 5


# ------------------------------------------------------------------------------------------------------------
# Classes

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def label_run(tmp_path: Path, *, direction: str) -> Path:
    """Photos on the left, maps of three classes on the right, split by brightness."""
    root = write_pairs(tmp_path / "data", train=4, test=4)
    for path in root.rglob("*.png"):
        array = np.asarray(Image.open(path)).copy()
        grey = array[:, :40].mean(axis=2)
        array[:, 40:] = np.array(COLOURS, np.uint8)[np.digitize(grey, (90, 130))]
        Image.fromarray(array).save(path)
    palette = tmp_path / "palette.txt"
    palette.write_text("".join(f"{r},{g},{b},class {i}\n" for i, (r, g, b) in enumerate(COLOURS)))
    side = "source" if direction == "BtoA" else "target"
    settings: dict[str, Any] = {f"data__{side}_palette": str(palette)}
    config = tiny_config(root, data__direction=direction, training__steps=1, **settings)
    return pairloom.train(config, tmp_path / "run")


def test_photo_to_labels_is_scored_by_class(tmp_path: Path) -> None:
    run = label_run(tmp_path, direction="AtoB")
    section = evaluate(run, out=tmp_path / "out").sections["labels"]
    spec = Translator.load(run).target_spec
    matrices = []
    for _, y, y_hat in tensors(run):
        predicted, true = (nearest(images.to_array(t, spec), spec.palette) for t in (y_hat, y))
        matrices.append(confusion_matrix(predicted, true, 3))
    by_hand = scores(np.sum(matrices, axis=0)).class_iou
    assert section.figures["model"]["scores"]["class_iou"] == pytest.approx(by_hand)
    assert "class 2" in section.words


def by_brightness(photo: np.ndarray) -> np.ndarray:
    return np.digitize(photo.mean(axis=2), (90, 130))


def test_label_to_photo_is_scored_by_a_segmenter(tmp_path: Path) -> None:
    run = label_run(tmp_path, direction="BtoA")
    spec = Translator.load(run).source_spec
    segmenter = FunctionSegmenter(function=by_brightness, label_spec=spec)
    section = evaluate(run, out=tmp_path / "out", segmenter=segmenter).sections["fcn_score"]
    # The labels are the brightness, so real photos score nearly all (the evaluation reduces them a little).
    assert section.figures["ceiling"]["scores"]["pixel_accuracy"] > 0.85
    assert section.figures["images"] == 4
    assert "real photos" in section.words


def test_a_segmenter_of_another_scale_is_told(tmp_path: Path) -> None:
    run = label_run(tmp_path, direction="BtoA")
    model = Translator.load(run, precision="fp32")
    for side, told in ((64, True), (32, False)):  # the model's crop is 32
        file = train_segmenter(
            replace(model.config.data, crop_size=side, load_size="crop"),
            tmp_path / str(side),
            trunk="own",
            steps=1,
            batch_size=2,
        )
        summary = evaluate(run, out=tmp_path / "out", segmenter=load_segmenter(file))
        assert ("train one with --size 32" in summary.sections["fcn_score"].words) == told


def test_an_onnx_segmenter_needs_a_palette_and_ours_none(tmp_path: Path) -> None:
    with pytest.raises(SegmenterError, match=r"judge\.onnx: .*give a palette"):
        load_segmenter(tmp_path / "judge.onnx")
    with pytest.raises(SegmenterError, match="knows its classes"):
        load_segmenter(tmp_path / "segmenter.safetensors", tmp_path / "palette.txt")


def test_a_segmenter_without_training_photos_has_no_floor(tmp_path: Path) -> None:
    run = label_run(tmp_path, direction="BtoA")
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "data" / "test", flat)
    segmenter = FunctionSegmenter(function=by_brightness, label_spec=Translator.load(run).source_spec)
    with pytest.raises(SegmenterError, match="needs training photos"):
        evaluate(run, flat, out=tmp_path / "out", segmenter=segmenter)


# ------------------------------------------------------------------------------------------------------------
# The model's own data, elsewhere


def test_a_copy_of_the_models_data_is_split_as_they_were(tmp_path: Path) -> None:
    flat = write_pairs(tmp_path / "data", train=10) / "train"
    run = pairloom.train(tiny_config(flat, training__steps=1, data__val_fraction=0.3), tmp_path / "run")
    val = [pair.name for pair in find_pairs(Translator.load(run).config.data).split("val")]
    flat.rename(tmp_path / "moved")
    summary = evaluate(run, tmp_path / "moved", split="val", out=tmp_path / "out", sections=False)
    assert summary.settings["own_data"] and not summary.settings["unsplit"]
    assert sorted(p.stem for p in (tmp_path / "out" / "images").iterdir()) == sorted(val)


def test_data_that_have_grown_are_told(tmp_path: Path) -> None:
    flat = write_pairs(tmp_path / "data", train=6)
    run = pairloom.train(tiny_config(flat, training__steps=1, data__val_fraction=0.3), tmp_path / "run")
    told = "some of these pairs may have been trained on"
    before = evaluate(run, split="val", out=tmp_path / "a", sections=False)
    assert not any(told in remark for remark in before.remarks)
    write_pairs(flat, train=9)
    after = evaluate(run, split="val", out=tmp_path / "b", sections=False)
    assert any(told in remark for remark in after.remarks)


def test_the_outputs_never_join_the_data(run: Path) -> None:
    data = Translator.load(run).config.data
    for folder in (Path(data.path), Path(data.path) / "test" / "out"):
        with pytest.raises(EvaluationError, match="lies in the data folder"):
            evaluate(run, replace(data), out=folder)
