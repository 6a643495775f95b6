"""The model card: what it says of a run, of an imported model, of an evaluation, and what it never says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import pairloom
from conftest import tiny_config
from pairloom.card import write_card
from pairloom.checkpoint import CheckpointError, load_weights, save_weights
from pairloom.evaluation.summary import EvaluationError


@pytest.fixture
def model(tiny_run: Path, tmp_path: Path) -> Path:
    """The published part of the tiny run, to write beside."""
    out = tmp_path / "houses"
    out.mkdir()
    shutil.copy(tiny_run / "generator.safetensors", out)
    return out


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n\n")[1].split("\n## ")[0].strip()


def test_what_it_says_of_a_run(model: Path) -> None:
    path = write_card(
        model,
        licence="MIT",
        data="Drawn by the tests.",
        intended_use="Testing.",
        limits="Blocks only.",
    )
    assert path == model / "MODEL_CARD.md"
    text = path.read_text()
    assert text.startswith('---\nlicense: "mit"\nlibrary_name: pairloom\npipeline_tag: image-to-image\n')
    assert "# houses\n" in text
    assert "Trained for 4 steps at batch size" in text
    assert section(text, "Data").startswith("Drawn by the tests.")
    assert "5 training pairs" in section(text, "Data")
    assert "Source: 3 channels, uint8" in section(text, "Images")
    assert "`norm_stats=image`: each image's own statistics" in section(text, "At inference")
    assert section(text, "Figures") == "Not evaluated."
    assert section(text, "Intended use") == "Testing."
    assert section(text, "Limits").endswith("- Blocks only.")
    assert section(text, "Licence") == "MIT"
    assert 'pairloom.Translator.load("houses")' in text


def test_what_is_not_known_is_said(model: Path) -> None:
    text = write_card(model).read_text()
    assert "license: unknown" in text
    assert "Without a licence nobody else may use these weights." in section(text, "Licence")
    assert section(text, "Intended use") == "Not stated by the author."
    assert "where the data come from, and under which terms" in section(text, "Data")


def test_no_folder_of_this_machine_is_in_it(model: Path, tiny_data: Path) -> None:
    text = write_card(model).read_text()
    assert str(tiny_data.parent) not in text
    assert tiny_data.name in text


def test_the_figures_of_an_evaluation_with_their_intervals(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, model: Path
) -> None:
    summary = pairloom.evaluate(tiny_run, tiny_data, split="test", out=tmp_path / "evaluation")
    figures = section(write_card(model, evaluation=tmp_path / "evaluation").read_text(), "Figures")
    assert "Means over 2 images of the test split, with 95 % intervals." in figures
    l1 = summary.metrics["model"]["L1"]
    assert f"| L1 | {l1.mean:.3f} [{l1.low:.3f}, {l1.high:.3f}] |" in figures
    assert "| mean target |" in figures
    assert "the intervals are rough" in figures
    assert "another checkpoint" not in figures
    shutil.copytree(tmp_path / "evaluation", model / "evaluation")
    weights, described = load_weights(model / "generator.safetensors")
    described["provenance"]["step"] = 99
    fields = {key: value for key, value in described.items() if key != "format"}
    save_weights(model / "generator.safetensors", weights, fields)
    assert "another checkpoint" in section(write_card(model).read_text(), "Figures")


def test_a_resnet_is_called_one(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_data,
        training__steps=1,
        generator__architecture="resnet",
        generator__resnet_blocks=1,
        generator__base_channels=4,
        generator__norm="instance",
        generator__noise="none",
    )
    text = write_card(pairloom.train(config, tmp_path / "run")).read_text()
    assert "A ResNet generator of 1 blocks" in text
    assert section(text, "At inference") == "- `dropout=False`"


def test_what_has_no_card(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        write_card(tmp_path)
    with pytest.raises(EvaluationError, match=r"summary\.json: cannot be read as JSON"):
        write_card(model, evaluation=tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(EvaluationError, match="evaluate again"):
        write_card(model, evaluation=tmp_path / "summary.json")
    (model / "generator.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="is not a whole"):
        write_card(model)
