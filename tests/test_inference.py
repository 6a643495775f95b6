"""The prepared network: the generator's numbers, the rounding of bf16, and when that is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pairloom import inference, noise
from pairloom.checkpoint import save_weights
from pairloom.config import GeneratorConfig
from pairloom.inference import Prepared
from pairloom.networks import Generator, build_generator
from pairloom.translator import Semantics, Translator
from test_translator import labels, model, picture, spec

CPU = torch.device("cpu")
SIZES = ((32, 32), (64, 96), (32, 160))
"""(height, width): the deepest maps are 1x1, 2x3 and 1x5."""
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "many channels": {"source_channels": 5, "target_channels": 6},
    "gaussian": {"noise": "gaussian"},
    "no noise": {"noise": "none"},
    "instance": {"norm": "instance"},
    "no norm": {"norm": "none"},
    "add": {"skip": "add"},
    "encoder-decoder": {"skip": "none"},
    "resize": {"upsample": "resize"},
    "resnet": {"architecture": "resnet", "resnet_blocks": 2, "num_downs": None},
    "resnet, resize": {
        "architecture": "resnet",
        "resnet_blocks": 2,
        "num_downs": None,
        "upsample": "resize",
        "noise": "gaussian",
    },
}


def generator(stats: str = "image", **fields: Any) -> Generator:
    """Untrained, its output spread over [-1, 1], its running statistics far from any image's."""
    values = {"source_channels": 3, "target_channels": 3, "base_channels": 8, "num_downs": 5, **fields}
    rng = torch.Generator().manual_seed(0)
    net = build_generator(GeneratorConfig(**values), rng).eval().requires_grad_(False)
    for name, tensor in net.state_dict().items():
        if tensor.ndim == 4:
            # As large as the layers before it: far from tanh's ends, where errors hide, and from overflow.
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / tensor[0].numel() ** 0.5)
        elif name.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.5)
        elif name.endswith("bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / 4)
    net.set_norm_stats(stats)  # type: ignore[arg-type]
    return net


def source(channels: int = 3, *, batch: int = 1, size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stats", ["image", "running"])
@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_it_gives_what_the_generator_gives(fields: dict[str, Any], stats: str, size: tuple[int, int]) -> None:
    net = generator(stats, **fields)
    x = source(fields.get("source_channels", 3), batch=2, size=size)
    for key in (None, noise.key(3)):
        y_hat = net(x, key)
        assert float(y_hat.std()) > 0.05
        assert torch.allclose(Prepared(net, "fp32")(x, key), y_hat, atol=1e-5)
        rounded = Prepared(net, "bf16")(x, key)
        assert rounded.dtype == torch.float32
        # Ten layers and more, each rounded to 2^-9 twice: of the spread of the outputs some per cent at most.
        assert float((rounded - y_hat).square().mean().sqrt() / y_hat.std()) < 0.03


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_seed_draws_the_same_mask(precision: inference.Precision) -> None:
    net = generator()
    prepared, x = Prepared(net, precision), source()
    keys = [noise.key(seed) for seed in (1, 2)]
    own, made = ([f(x, key) for key in keys] for f in (net, prepared))
    # Another mask moves the output by far more than rounding does.
    apart = float((own[0] - own[1]).abs().mean())
    assert float((made[0] - own[0]).abs().mean()) < apart / 4
    assert float((made[1] - own[1]).abs().mean()) < apart / 4


@pytest.mark.parametrize("name", ["paper", "resnet"])
def test_an_image_in_bf16_is_bit_for_bit_what_it_is_alone(name: str) -> None:
    prepared, x = Prepared(generator(**OPTIONS[name]), "bf16"), source(batch=5)
    together = prepared(x, noise.key(0))
    for one, y_hat in zip(x.split(1), together.split(1), strict=True):
        assert torch.equal(prepared(one, noise.key(0)), y_hat)


@pytest.mark.parametrize("stats", ["image", "running"])
def test_the_generator_is_left_as_it_was(stats: str) -> None:
    net = generator(stats)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    words, y_hat = repr(net), net(source())
    Prepared(net, "bf16")(source(), None)
    after = net.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype, name
    assert repr(net) == words
    assert torch.equal(net(source()), y_hat)


def saved(translator: Translator, tmp_path: Any) -> Any:
    config = GeneratorConfig(
        source_channels=translator.source_spec.tensor_channels,
        target_channels=translator.target_spec.tensor_channels,
        base_channels=4,
        num_downs=4,
    )
    translator.config = replace(translator.config, generator=config)
    file = tmp_path / "generator.safetensors"
    save_weights(file, translator.generator.state_dict(), translator.describe())
    return file


def test_loaded_models_run_prepared_and_describe_themselves_as_before(tmp_path: Any) -> None:
    plain = model()
    file = saved(plain, tmp_path)
    image = picture()
    fp32, bf16 = (Translator.load(file, precision=p) for p in ("fp32", "bf16"))  # type: ignore[arg-type]
    assert np.abs(fp32(image).astype(int) - plain(image)).max() <= 1
    difference = np.abs(bf16(image).astype(int) - plain(image))
    assert 0 < difference.max() < 16
    for loaded in (fp32, bf16):
        assert loaded.describe() == plain.describe()
        state = loaded.generator.state_dict()
        assert all(torch.equal(state[name], value) for name, value in plain.generator.state_dict().items())
    one, two = picture(seed=5), picture(seed=6)
    assert np.array_equal(bf16.translate_batch([one, two])[1], bf16(two))


def test_statistics_of_a_batch_stay_the_generators_own(tmp_path: Any) -> None:
    plain = model(semantics=Semantics(norm_stats="batch"))
    loaded = Translator.load(saved(plain, tmp_path), precision="bf16")
    batch = [picture(seed=0), picture(seed=1) // 8]
    for a, b in zip(loaded.translate_batch(batch), plain.translate_batch(batch), strict=True):
        assert np.array_equal(a, b)


def test_a_translator_of_a_network_that_trains_sees_its_weights_move() -> None:
    translator, image = model(), picture()
    before = translator(image)
    for parameter in translator.generator.parameters():
        parameter.mul_(0.5)
    assert not np.array_equal(translator(image), before)


def test_auto_is_bf16_for_images_of_8_bits_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eight = (spec(), spec(1))
    exact = (spec(dtype="uint16"), spec(dtype="float32"), labels(3, one_hot=False), labels(3, one_hot=True))
    monkeypatch.setattr(inference, "has_bf16", lambda _: True)
    assert {inference.choose("auto", CPU, target) for target in eight} == {"bf16"}
    assert {inference.choose("auto", CPU, target) for target in exact} == {"fp32"}
    assert inference.choose("bf16", CPU, spec(dtype="uint16")) == "bf16"
    assert inference.choose("fp32", CPU, spec()) == "fp32"
    assert inference.choose("auto", torch.device("cuda"), spec()) == "fp32"  # not measured there
    monkeypatch.setattr(inference, "has_bf16", lambda _: False)
    assert {inference.choose("auto", CPU, target) for target in eight} == {"fp32"}


def test_another_precision_is_a_sentence(tmp_path: Any) -> None:
    file = saved(model(), tmp_path)
    with pytest.raises(ValueError, match="precision is 'fp16'; use auto, fp32 or bf16"):
        Translator.load(file, precision="fp16")  # type: ignore[arg-type]
