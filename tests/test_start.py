"""Fine-tuning: what is taken from another run, and what is refused before anything is trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import tiny_config
from pairloom.checkpoint import CheckpointError, load_weights
from pairloom.config import Config, ConfigError
from pairloom.fit import train
from pairloom.rundir import read_metrics


def test_fine_tuning_takes_g_and_d(tiny_run, tiny_data, tmp_path):
    config = tiny_config(tiny_data, training__steps=1, training__learning_rate=1e-12, training__seed=5)
    run = train(replace(config, training=replace(config.training, init_from=str(tiny_run))), tmp_path / "run")
    assert (
        f"Starting from the generator and the discriminator of {tiny_run}." in (run / "log.txt").read_text()
    )
    for name in ("generator.safetensors", "discriminator.safetensors"):
        new, old = load_weights(run / name)[0], load_weights(tiny_run / name)[0]
        key = next(k for k in old if k.endswith("weight"))
        assert torch.allclose(new[key], old[key], rtol=0, atol=1e-9)
    # From the file alone, D is the one that lies beside it.
    file = tiny_run / "generator.safetensors"
    run = train(replace(config, training=replace(config.training, init_from=str(file))), tmp_path / "file")
    assert "the generator and the discriminator of" in (run / "log.txt").read_text()


def test_fine_tuning_without_a_d_says_so(tiny_run, tiny_data, tmp_path):
    alone = tmp_path / "generator.safetensors"
    alone.write_bytes((tiny_run / "generator.safetensors").read_bytes())
    config = tiny_config(tiny_data, training__steps=1, training__init_from=str(alone))
    run = train(config, tmp_path / "run")
    words = f"Starting from the generator of {alone}; no discriminator lies beside it, so D starts anew."
    assert words in (run / "log.txt").read_text()


def test_a_resumed_run_does_not_start_from_the_old_weights_again(tiny_run, tiny_data, tmp_path):
    config = tiny_config(tiny_data, training__init_from=str(tiny_run))
    run = train(replace(config, training=replace(config.training, steps=1)), tmp_path / "run")
    train(config, run)
    assert (run / "log.txt").read_text().count("Starting from") == 1


@pytest.mark.parametrize("fields", [{"generator__base_channels": 4}, {"discriminator__base_channels": 4}])
def test_weights_of_another_shape_are_one_sentence(tiny_run, tiny_data, tmp_path, fields):
    config = tiny_config(tiny_data, training__init_from=str(tiny_run), **fields)
    with pytest.raises(CheckpointError, match="another shape than this configuration's") as error:
        train(config, tmp_path / "run")
    assert str(tiny_run) in str(error.value)
    assert "\n" not in str(error.value)
    assert "steps to go" not in (tmp_path / "run/log.txt").read_text()  # before the trial steps


def test_fine_tuning_from_a_checkpoint_takes_d_too(tiny_run, tiny_data, tmp_path):
    source = tiny_run / "checkpoints" / "step-00000004.pt"
    train(tiny_config(tiny_data, training__init_from=str(source), training__steps=1), tmp_path / "run")
    assert "the generator and the discriminator" in (tmp_path / "run" / "log.txt").read_text()


def test_a_wrong_start_is_refused_before_anything_is_done(tiny_data, tmp_path):
    with pytest.raises(ConfigError, match="init_from: there is no"):
        train(tiny_config(tiny_data, training__init_from=str(tmp_path / "gone")), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()
    (tmp_path / "foreign.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="is not a whole"):
        train(
            tiny_config(tiny_data, training__init_from=str(tmp_path / "foreign.safetensors")),
            tmp_path / "run",
        )
    assert not (tmp_path / "run/log.txt").exists()  # not even measured


def test_a_resumed_run_does_not_need_what_it_started_from(tiny_run, tiny_data, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_run, base)
    run = train(tiny_config(tiny_data, training__init_from=str(base), training__steps=1), tmp_path / "run")
    shutil.rmtree(base)
    train(tiny_config(tiny_data, training__init_from=str(base), training__steps=2), run)
    train(tiny_config(tiny_data, training__steps=3), run)  # nor does it need to be told again
    assert read_metrics(run)[-1]["step"] == 3
    with pytest.raises(ConfigError, match=r"training\.init_from: "):
        train(tiny_config(tiny_data, training__init_from=str(tiny_run), training__steps=4), run)


def with_start(config: Config, path: Path) -> Config:
    return replace(config, training=replace(config.training, init_from=str(path)))


def test_values_that_mean_something_else_are_a_warning_with_both(tiny_run, tiny_data, tmp_path):
    same = train(with_start(tiny_config(tiny_data, training__steps=1), tiny_run), tmp_path / "same")
    assert "learned another" not in (same / "log.txt").read_text()
    fields = {"data__target_scaling": "range", "data__target_range": (0.0, 200.0), "training__steps": 1}
    run = train(with_start(tiny_config(tiny_data, **fields), tiny_run), tmp_path / "run")
    (line,) = [text for text in (run / "log.txt").read_text().splitlines() if "learned another" in text]
    assert f"Warning: the weights of {tiny_run} learned another target (" in line
    assert (
        "(3 channels, uint8, intensity, 0..255 -> -1..1; here: 3 channels, uint8, intensity, 0..200" in line
    )


def label_pairs(root: Path, colours: list[tuple[int, int, int]]) -> Path:
    """Photos (left) and their label maps (right) in these colours."""
    (root / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        classes = np.array(colours, np.uint8)[rng.integers(0, len(colours), (40, 40))]
        photo = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(np.concatenate([photo, classes], axis=1)).save(root / f"train/{i}.png")
    return root


def test_one_hot_channels_of_other_classes_are_refused(tmp_path):
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    fields: dict[str, Any] = {"data__source_one_hot": True, "training__steps": 1}
    one = train(tiny_config(label_pairs(tmp_path / "one", [red, green]), **fields), tmp_path / "run-one")
    other = tiny_config(label_pairs(tmp_path / "other", [red, blue]), **fields)
    with pytest.raises(CheckpointError, match="channels of the source stand for other classes") as error:
        train(with_start(other, one), tmp_path / "run-other")
    assert str(one) in str(error.value) and "data.source_palette" in str(error.value)
    assert not (tmp_path / "run-other/config.json").exists()
    same = tiny_config(label_pairs(tmp_path / "same", [red, green]), **fields)
    assert read_metrics(train(with_start(same, one), tmp_path / "run-same"))[-1]["step"] == 1
