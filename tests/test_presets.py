"""The presets: the paper's experiments, number by number."""

from __future__ import annotations

import re

import pytest

from pairloom import configfile, presets
from pairloom.config import Config, ConfigError

TASKS = [
    # name, epochs, batch size, jitter, mirror, direction
    ("cityscapes", 200, 1, True, True, "BtoA"),
    ("facades", 200, 1, True, True, "BtoA"),
    ("maps", 200, 1, True, True, "AtoB"),
    ("colorization", 6, 4, False, True, "AtoB"),
    ("edges2shoes", 15, 4, False, False, "AtoB"),
    ("edges2handbags", 15, 4, False, False, "AtoB"),
    ("day2night", 17, 4, True, True, "BtoA"),
    ("thermal", 10, 4, False, False, "AtoB"),
    ("inpainting", 25, 4, False, False, "AtoB"),
    ("segmentation", 200, 1, True, True, "AtoB"),
]
"""Section 6.2, as far as it is known; junyanz' photos lie left of cityscapes' and facades' labels."""

OBJECTIVES = [
    # name, lambda_l1, lambda_gan, conditional: the columns of Table 1
    ("l1", 100, 0, True),
    ("gan", 0, 1, False),
    ("cgan", 0, 1, True),
    ("l1_gan", 100, 1, False),
    ("l1_cgan", 100, 1, True),
]


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_a_valid_configuration_with_a_note(name: str) -> None:
    config = presets.get(name)
    assert configfile.from_dict(configfile.to_dict(config)) == config
    assert config.note.strip().endswith(".")
    assert presets.PRESETS[name].__doc__


@pytest.mark.parametrize(("name", "epochs", "batch_size", "jitter", "mirror", "direction"), TASKS)
def test_the_papers_training_details(
    name: str, epochs: int, batch_size: int, jitter: bool, mirror: bool, direction: str
) -> None:
    config = presets.get(name)
    training, data = config.training, config.data
    assert (training.epochs, training.steps, training.batch_size) == (epochs, None, batch_size)
    assert (data.load_sides, data.crop_size) == ((286, 286) if jitter else (256, 256), 256)
    assert (data.mirror, data.direction, data.resize) == (mirror, direction, "stretch")


@pytest.mark.parametrize("name", [name for name, *_ in TASKS] + ["paper", "sketch"])
def test_all_of_the_papers_tasks_share_networks_objective_and_optimiser(name: str) -> None:
    config = presets.get(name)
    default = Config()
    assert (config.generator, config.discriminator) == (default.generator, default.discriminator)
    assert config.objective == default.objective
    assert (config.training.learning_rate, config.training.beta1, config.training.beta2) == (2e-4, 0.5, 0.999)
    assert (config.training.decay_fraction, config.training.ema_decay) == (0, 0)
    assert (config.data.val_fraction, config.data.test_fraction) == (0, 0), "the paper sets nothing aside"


@pytest.mark.parametrize("name", [name for name, *_ in TASKS])
def test_the_notes_say_how_sure_the_figures_are(name: str) -> None:
    assert re.search(r"\[[PSM]\b", presets.get(name).note)


@pytest.mark.parametrize("name", [name for name, *_ in TASKS])
def test_the_notes_and_docstrings_agree_with_the_values(name: str) -> None:
    config, words = presets.get(name), presets.PRESETS[name].__doc__ or ""
    for text in (words, config.note):
        for epochs in re.findall(r"(\d+) epochs", text):
            assert int(epochs) == config.training.epochs
        for size in re.findall(r"batch size (\d+)", text):
            assert int(size) == config.training.batch_size


@pytest.mark.parametrize(("name", "lambda_l1", "lambda_gan", "conditional"), OBJECTIVES)
def test_the_five_objectives_of_table_1(
    name: str, lambda_l1: float, lambda_gan: float, conditional: bool
) -> None:
    for config in (presets.get(name), getattr(presets, name)(presets.cityscapes())):
        objective = config.objective
        assert (objective.lambda_l1, objective.lambda_gan, objective.lambda_l2) == (lambda_l1, lambda_gan, 0)
        assert config.discriminator.conditional == conditional
        assert "Table 1" in config.note


def test_an_objective_over_a_preset_changes_nothing_else() -> None:
    base = presets.day2night()
    assert configfile.differences(base, presets.l1_gan(base)) == ["discriminator.conditional: True -> False"]
    assert configfile.differences(base, presets.l1_cgan(base)) == []
    assert presets.cgan(base).training == base.training


def test_the_pytorch_references_settings() -> None:
    config = presets.get("junyanz")
    assert configfile.differences(presets.paper(), config) == [
        "generator.dropout_blocks: (1, 2, 3) -> (2, 3, 4)",
        "training.decay_fraction: 0.0 -> 0.5",
    ]


def test_the_default_is_the_paper_with_validation_where_there_is_no_val_split() -> None:
    changes = configfile.differences(presets.paper(), presets.get("default"))
    assert [line.split(":")[0] for line in changes] == ["data.direction", "data.val_fraction"]


def test_facades_is_the_papers_preset() -> None:
    assert presets.get("facades") == presets.get("paper") == presets.paper()


def test_an_unknown_name_is_a_sentence_with_all_names() -> None:
    with pytest.raises(ConfigError) as caught:
        presets.get("facade")
    text = str(caught.value)
    assert "there is no preset 'facade'" in text
    assert set(re.findall(r"\w+", text.split("there are ")[1])) == set(presets.PRESETS)
