"""describe: its tables against the networks, its cost against a count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pairloom import presets
from pairloom.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    ObjectiveConfig,
    TrainingConfig,
)
from pairloom.describe import Layer, describe, step_flops

VARIANTS = {
    "paper": Config(),
    "encoder_decoder": Config(generator=GeneratorConfig(skip="none")),
    "resize": Config(generator=GeneratorConfig(upsample="resize", norm="instance")),
    "gaussian": Config(generator=GeneratorConfig(noise="gaussian", source_channels=1, target_channels=2)),
    "pixel": Config(discriminator=DiscriminatorConfig(num_layers=0, conditional=False)),
    "wide": Config(data=DataConfig(crop_size=(64, 128))),
    "no_d": Config(objective=ObjectiveConfig(lambda_gan=0)),
}


def multiplications(layers: tuple[Layer, ...]) -> int:
    """Of one forward pass: kernel x channels x channels x pixels of the map without stride."""
    total = 0
    for layer in layers:
        kernel = int(layer.kind.split("convolution ")[1].split("x")[0])
        height, width = layer.size
        if layer.kind.startswith("transposed"):
            height, width = height // 2, width // 2
        total += kernel**2 * layer.channels[0] * layer.channels[1] * height * width
    return total


@pytest.mark.parametrize("name", VARIANTS)
def test_the_tables_parameters_sum_to_the_totals(name: str) -> None:
    description = describe(VARIANTS[name])
    assert sum(layer.parameters for layer in description.generator) == description.generator_parameters
    assert (
        sum(layer.parameters for layer in description.discriminator) == description.discriminator_parameters
    )


def test_the_papers_networks() -> None:
    d = describe(presets.paper())
    assert (d.generator_parameters, d.discriminator_parameters) == (54_413_955, 2_768_705)
    assert (d.receptive_field, d.jump, d.logit_map) == (70, 8, (30, 30))
    assert (len(d.generator), len(d.discriminator)) == (16, 5)
    assert [layer.size for layer in d.generator] == [
        (s, s) for s in (128, 64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 64, 128, 256)
    ]
    assert [layer.size[0] for layer in d.discriminator] == [128, 64, 32, 31, 30]
    assert [layer.name for layer in d.generator if "Dropout" in layer.kind] == ["ups.0", "ups.1", "ups.2"]
    assert [layer.channels for layer in d.generator][-1] == (128, 3)


def test_the_cost_of_the_papers_step() -> None:
    assert step_flops(presets.paper()) / 1e9 == pytest.approx(86.9, rel=0.01)


def test_the_cost_is_what_a_count_by_hand_gives() -> None:
    """Forward once; backward as much again for the inputs (not for the images') and again for the weights."""
    description = describe(presets.paper())
    g, d = multiplications(description.generator), multiplications(description.discriminator)
    g_first, d_first = (
        multiplications(net[:1]) for net in (description.generator, description.discriminator)
    )
    on_g = 3 * g - g_first
    on_d = 2 * (3 * d - d_first) + 2 * d  # D's own two passes, and G's through it to the image
    assert description.step_flops == 2 * (on_g + on_d)


def test_the_cost_grows_with_the_batch() -> None:
    config = Config(data=DataConfig(crop_size=64), generator=GeneratorConfig(base_channels=8))
    doubled = replace(config, training=TrainingConfig(batch_size=2))
    assert step_flops(doubled) == 2 * step_flops(config)
    assert (describe(config).batch_size, describe(doubled).batch_size) == (1, 2)
    assert "at batch size 2" in describe(doubled).words()


def test_without_an_adversarial_term_there_is_no_discriminator() -> None:
    description = describe(presets.l1())
    assert description.discriminator == ()
    assert description.discriminator_parameters == 0
    assert (description.receptive_field, description.jump, description.logit_map) == (None, None, None)
    assert description.step_flops < describe(presets.paper()).step_flops / 2
    assert "No discriminator" in description.words()


def test_the_words_hold_the_figures() -> None:
    words = describe(presets.paper()).words()
    for figure in (
        "54,413,955",
        "2,768,705",
        "receptive field 70 px",
        "30x30 logits every 8 px",
        "86.9 GFLOP",
    ):
        assert figure in words
    assert "256x256" in words
    assert "BatchNorm, Dropout" in words


def test_words_of_other_configurations() -> None:
    pixel = describe(VARIANTS["pixel"]).words()
    assert "receptive field 1 px, 256x256 logits every 1 px" in pixel
    wide = describe(VARIANTS["wide"]).words()
    assert "Generator at 64x128" in wide
    assert "6x14 logits" in wide


def test_a_resizing_decoder_is_described_block_by_block() -> None:
    layers = describe(VARIANTS["resize"]).generator
    assert [layer.name for layer in layers] == [f"{side}.{i}" for side in ("downs", "ups") for i in range(8)]
    assert all(layer.kind.startswith("doubling, convolution 3x3") for layer in layers[8:])
    assert not any("doubling" in layer.kind or "Upsample" in layer.kind for layer in layers[:8])


def test_channels_given_are_counted_and_those_left_open_are_3() -> None:
    description = describe(VARIANTS["gaussian"])
    assert description.generator[0].channels == (2, 64), "one source channel and z"
    assert description.generator[-1].channels == (128, 2)
    assert description.discriminator[0].channels == (3, 64)
    assert describe(Config()).generator[0].channels == (3, 64)
