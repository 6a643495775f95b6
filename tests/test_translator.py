"""The translator: any image in, the target's own kind out, and no dependence on chance or neighbours."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from conftest import tiny_config
from pairloom import images
from pairloom.checkpoint import CheckpointError, load_weights, save_weights
from pairloom.config import GeneratorConfig
from pairloom.images import Array, ImageError, ImageSpec
from pairloom.networks import build_generator
from pairloom.translator import Semantics, Translator, reflect_to_multiple

SIZES = [(1, 1), (1, 7), (33, 31), (48, 64), (3, 257)]
"""(height, width)"""


def spec(channels: int = 3, dtype: str = "uint8", **fields: Any) -> ImageSpec:
    """A spec of the full range, or for floats of -2 to 5."""
    low, high = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (-2.0, 5.0)}[dtype]
    scaling = "range" if dtype == "float32" else "full"
    values = {"low": (low,) * channels, "high": (high,) * channels, "scaling": scaling, **fields}
    return ImageSpec(channels=channels, dtype=dtype, **values)  # type: ignore[arg-type]


def labels(count: int, *, one_hot: bool) -> ImageSpec:
    palette = tuple((40 * i, 255 - 40 * i, 7 * i) for i in range(count))
    return spec(3, kind="labels", palette=palette, one_hot=one_hot)


def model(
    source: ImageSpec | None = None,
    target: ImageSpec | None = None,
    *,
    noise: str = "dropout",
    norm: str = "batch",
    batch_size: int = 1,
    semantics: Semantics | None = None,
    data: dict[str, Any] | None = None,
) -> Translator:
    """An untrained translator whose running statistics are far from any image's own."""
    source, target = source or spec(), target or spec()
    generator = GeneratorConfig(
        source_channels=source.tensor_channels,
        target_channels=target.tensor_channels,
        base_channels=4,
        num_downs=4,
        noise=noise,  # type: ignore[arg-type]
        norm=norm,  # type: ignore[arg-type]
    )
    rng = torch.Generator().manual_seed(0)
    net = build_generator(generator, rng)
    for name, parameter in net.named_parameters():
        if "conv" in name and parameter.ndim > 1:
            parameter.data.mul_(10)  # or the output would be grey everywhere
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=rng) + 0.5)
    config = tiny_config("", training__batch_size=batch_size, **(data or {}))
    return Translator(net.requires_grad_(False), source, target, config, semantics=semantics)


def picture(
    size: tuple[int, int] = (24, 40), channels: int = 3, dtype: str = "uint8", seed: int = 0
) -> Array:
    """Blocks and noise over the whole range of the dtype."""
    rng = np.random.default_rng(seed)
    values = rng.random((*size, channels))
    values[: size[0] // 2, : size[1] // 2] *= 0.3
    if dtype == "float32":
        return (values * 7 - 2).astype(np.float32)
    return (values * np.iinfo(dtype).max).round().astype(dtype)


def statistics(translator: Translator) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in translator.generator.named_buffers()}


# -----------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("norm_stats", ["image", "running", "batch"])
def test_every_size_comes_back_as_it_went_in(size, norm_stats):
    translator = model(semantics=Semantics(norm_stats=norm_stats))
    image = picture(size)
    output = translator(image)
    assert output.shape == (*size, 3)
    assert output.dtype == np.uint8
    # The answer is that of the image continued by reflection, cut back.
    height, width = (-(-side // 16) * 16 for side in size)
    rows, columns = triangle(size[0], height), triangle(size[1], width)
    extended = translator(image[rows][:, columns])
    assert np.array_equal(extended[: size[0], : size[1]], output)


def triangle(side: int, length: int) -> list[int]:
    """0 1 2 1 0 1 2 ... for a side of 3, counted by hand."""
    there_and_back = [*range(side), *range(side - 2, 0, -1)]
    return [there_and_back[i % len(there_and_back)] for i in range(length)]


@pytest.mark.parametrize("size", [(5, 9), (16, 16), (17, 31), (2, 33), (33, 2)], ids=str)
@pytest.mark.parametrize("stride", [2, 16])
def test_reflection_is_numpys(size, stride):
    x = np.random.default_rng(0).random((2, *size)).astype(np.float32)
    pads = [(0, 0), *((0, -side % stride) for side in size)]
    expected = np.pad(x, pads, mode="reflect")  # numpy reflects as often as needed, too
    assert np.array_equal(reflect_to_multiple(torch.from_numpy(x), stride).numpy(), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)], ids=str)
def test_a_side_of_one_pixel_is_repeated(size):
    x = torch.rand(3, *size)
    extended = reflect_to_multiple(x, 4)
    assert extended.shape == (3, 4 if size[0] == 1 else 8, 4 if size[1] == 1 else 8)
    if size[0] == 1:
        assert torch.equal(extended[:, 0], extended[:, 3])
    if size[1] == 1:
        assert torch.equal(extended[:, :, 0], extended[:, :, 3])
    assert torch.equal(extended[:, : size[0], : size[1]], x)


def test_what_fits_is_left_alone():
    x = torch.rand(1, 3, 32, 16)
    assert reflect_to_multiple(x, 16) is x


# -----------------------------------------------------------------------------------------------------------
# Kinds


@pytest.mark.parametrize("target_dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(("c_in", "c_out"), [(3, 3), (1, 3), (5, 2)])
def test_dtype_range_and_channels_are_the_targets(target_dtype, c_in, c_out):
    source, target = spec(c_in, "uint16"), spec(c_out, target_dtype)
    translator = model(source, target)
    image = picture((19, 30), c_in, "uint16")
    output = translator(image)
    assert output.dtype == np.dtype(target_dtype)
    assert output.shape == (19, 30, c_out)
    low, high = target.low[0], target.high[0]
    assert low <= output.min() < output.max() <= high
    # The whole range is used linearly: -1 is low, +1 is high.
    y_hat = translator.translate_tensor(images.to_tensor(image, source)[None])[0].permute(1, 2, 0).numpy()
    expected = (y_hat.astype(np.float64) + 1) / 2 * (high - low) + low
    assert np.abs(output - expected).max() <= (1e-5 if target_dtype == "float32" else 0.51)


def test_uint16_targets_use_more_than_256_levels():
    output = model(target=spec(1, "uint16"))(picture((64, 64)))
    assert len(np.unique(output)) > 1000


@pytest.mark.parametrize("one_hot", [False, True])
def test_label_targets_come_back_in_their_palette(one_hot):
    target = labels(4, one_hot=one_hot)
    output = model(target=target)(picture((30, 30)))
    found = {tuple(colour) for colour in output.reshape(-1, 3).tolist()}
    assert found <= set(target.palette)
    assert len(found) > 1


def test_label_sources_snap_to_their_palette():
    source = labels(3, one_hot=True)
    translator = model(source)
    rng = np.random.default_rng(0)
    exact = np.array(source.palette, np.uint8)[rng.integers(0, 3, (20, 20))]
    near = np.clip(exact.astype(int) + rng.integers(-5, 6, exact.shape), 0, 255).astype(np.uint8)
    assert (near != exact).any()
    assert np.array_equal(translator(near), translator(exact))


# -----------------------------------------------------------------------------------------------------------
# Neighbours, seeds, statistics


@pytest.mark.parametrize("norm_stats", ["image", "running"])
@pytest.mark.parametrize("noise", ["dropout", "gaussian", "none"])
def test_a_batch_gives_what_each_image_gives_alone(norm_stats, noise):
    translator = model(noise=noise, semantics=Semantics(norm_stats=norm_stats, dropout=noise != "none"))
    batch = [picture(seed=s) for s in range(3)]
    together = translator.translate_batch(batch, seed=4)
    for image, output in zip(batch, together, strict=True):
        alone = translator(image, seed=4)
        # Other sums in another order may tip a rounding, nothing more.
        difference = np.abs(alone.astype(int) - output.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001
    assert not np.array_equal(together[0], together[1])


def test_by_choice_neighbours_share_statistics():
    translator = model(semantics=Semantics(norm_stats="batch"))
    batch = [picture(seed=0), picture(seed=1) // 8]
    alone = translator(batch[0]).astype(int)
    assert np.abs(translator.translate_batch(batch)[0].astype(int) - alone).max() > 3


def test_the_papers_test_mode_is_the_images_own_statistics_at_batch_size_one():
    image = picture()
    own, papers = (model(semantics=Semantics(norm_stats=s))(image) for s in ("image", "batch"))
    assert np.abs(own.astype(int) - papers.astype(int)).max() <= 1


@pytest.mark.parametrize("noise", ["dropout", "gaussian"])
def test_the_seed_and_the_sample_decide_z(noise):
    translator = model(noise=noise)
    x = torch.rand(1, 3, 32, 32) * 2 - 1

    def draw(seed: int, sample: int = 0) -> Tensor:
        torch.rand(3)  # no global generator has a part in it
        return translator.translate_tensor(x, seed=seed, sample=sample)

    assert torch.equal(draw(3), draw(3))
    assert torch.equal(draw(3, 2), draw(3, 2))
    assert not torch.equal(draw(3), draw(4))
    assert not torch.equal(draw(3), draw(3, 1))


def test_translating_leaves_torchs_generator_alone():
    translator = model()
    before = torch.get_rng_state()
    translator(picture())
    translator.samples(picture(), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_dropout_the_seed_says_nothing():
    image = picture()
    dry = model(semantics=Semantics(dropout=False))
    assert np.array_equal(dry(image, seed=1), dry(image, seed=2))
    assert not np.array_equal(dry(image), model()(image))
    assert np.array_equal(dry(image), model(noise="none")(image))


@pytest.mark.parametrize("norm_stats", ["image", "running", "batch"])
def test_no_inference_touches_the_running_statistics(norm_stats):
    translator = model(semantics=Semantics(norm_stats=norm_stats))
    before = statistics(translator)
    assert any("running_var" in name for name in before)
    translator(picture())
    translator.translate_batch([picture(seed=s) for s in range(2)])
    translator.samples(picture(), 2)
    after = statistics(translator)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_running_statistics_are_used_when_chosen():
    image = picture()
    translator = model(semantics=Semantics(norm_stats="running"))
    before = translator(image)
    for name, buffer in translator.generator.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.5)
    assert not np.array_equal(translator(image), before)
    own = model(semantics=Semantics(norm_stats="image"))
    assert not np.array_equal(own(image), before)


def test_the_default_semantics_follow_the_training():
    assert model(batch_size=1).semantics == Semantics(norm_stats="image", dropout=True)
    assert model(batch_size=4).semantics.norm_stats == "running"
    dry = tiny_config("", generator__noise="none")
    assert Semantics.as_trained(dry) == Semantics(norm_stats="image", dropout=False)


# -----------------------------------------------------------------------------------------------------------
# Several samples


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_samples_have_a_mean_and_a_spread(dtype):
    translator = model(target=spec(2, dtype))
    image = picture((20, 24))
    several = translator.samples(image, 4, seed=7)
    assert several.images.shape == (4, 20, 24, 2)
    assert several.mean.shape == several.spread.shape == (20, 24, 2)
    assert several.images.dtype == several.mean.dtype == np.dtype(dtype)
    assert several.spread.dtype == np.float32
    assert np.array_equal(several.images[0], translator(image, seed=7))
    for a in range(4):
        for b in range(a):
            assert not np.array_equal(several.images[a], several.images[b])
    values = several.images.astype(np.float64)
    tolerance = 1.01 if dtype == "uint8" else 1e-5
    assert np.abs(several.mean - values.mean(axis=0)).max() <= tolerance
    # Of the values before they are rounded, as the command line writes it.
    assert np.abs(several.spread - values.std(axis=0)).max() <= (0.51 if dtype == "uint8" else 1e-3)
    assert (several.spread % 1 == 0).mean() < 0.01
    x = images.to_tensor(image, translator.source_spec)[None]
    drawn = torch.stack([translator.translate_tensor(x, seed=7, sample=s)[0] for s in range(4)])
    half = (translator.target_spec.high[0] - translator.target_spec.low[0]) / 2
    expected = drawn.std(0, correction=0).permute(1, 2, 0).numpy() * half
    assert np.abs(several.spread - expected).max() <= 1e-4


@pytest.mark.parametrize(("one_hot", "channels"), [(False, 3), (True, 4)])
def test_the_spread_of_labels_is_that_of_what_snaps_to_the_palette(one_hot, channels):
    several = model(target=labels(4, one_hot=one_hot)).samples(picture((20, 24)), 3)
    assert several.images.shape == (3, 20, 24, 3)
    assert several.spread.shape == (20, 24, channels)
    assert (several.spread % 1 != 0).mean() > 0.9  # palette colours are whole numbers


def test_one_sample_has_no_spread_and_none_is_refused():
    translator = model()
    assert translator.samples(picture(), 1).spread.max() == 0
    with pytest.raises(ValueError, match="samples is 0; it must be 1 or more"):
        translator.samples(picture(), 0)


# -----------------------------------------------------------------------------------------------------------
# What it takes


def test_arrays_files_and_pil_images_are_the_same(tmp_path):
    translator, image = model(), picture()
    expected = translator(image)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    assert np.array_equal(translator(path), expected)
    assert np.array_equal(translator(str(path)), expected)
    assert np.array_equal(translator(Image.fromarray(image)), expected)
    assert np.array_equal(translator(np.asfortranarray(image)), expected)
    assert np.array_equal(translator(image[::-1][::-1]), expected)


def test_grey_images_may_have_two_dimensions(tmp_path):
    translator, image = model(spec(1)), picture(channels=1)
    expected = translator(image)
    assert np.array_equal(translator(image[..., 0]), expected)
    assert np.array_equal(translator(Image.fromarray(image[..., 0])), expected)


@pytest.mark.parametrize("alpha", ["white", "keep"])
@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA", "transparent P"])
def test_a_pil_image_is_taken_as_its_file_would_be(tmp_path, mode, alpha):
    pixels = Image.fromarray(picture((16, 20), 4))
    path = tmp_path / "image.png"
    if mode == "transparent P":
        pixels.convert("RGB").convert("P").save(path, transparency=3)
    else:
        (pixels if mode in ("LA", "RGBA") else pixels.convert("RGB")).convert(mode).save(path)
    transparent = mode in ("LA", "RGBA", "transparent P")
    channels = (1 if mode in ("1", "L", "LA") else 3) + (transparent and alpha == "keep")
    translator = model(spec(channels, alpha=alpha))
    assert np.array_equal(translator(Image.open(path)), translator(path))


def test_a_deep_pil_image_is_taken_as_its_file_would_be(tmp_path):
    Image.fromarray(picture(channels=1, dtype="uint16")[..., 0]).save(tmp_path / "deep.png")
    translator = model(spec(1, "uint16"))
    assert np.array_equal(translator(Image.open(tmp_path / "deep.png")), translator(tmp_path / "deep.png"))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_pil_image_is_turned_upright_as_its_file_would_be(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(picture((16, 20))).save(tmp_path / "turned.jpg", exif=exif)
    translator = model()
    output = translator(Image.open(tmp_path / "turned.jpg"))
    assert output.shape == ((16, 20, 3) if turn < 5 else (20, 16, 3))
    assert np.array_equal(output, translator(tmp_path / "turned.jpg"))


def test_a_batch_is_of_one_size_and_may_be_empty():
    assert model().translate_batch([]) == []
    words = "A batch holds images of one size, but these have 24x20, 50x7 pixels"
    with pytest.raises(ImageError, match=words):
        model().translate_batch([picture((20, 24)), picture((7, 50)), picture((20, 24))])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (picture(channels=1), "1 channel of uint8, but the spec is for 3 channels of uint8"),
        (picture(channels=4), "4 channels of uint8, but the spec is for 3"),
        (picture(dtype="uint16"), "3 channels of uint16, but the spec is for 3 channels of uint8"),
        (picture().astype(np.float64), "float64"),
        (picture()[None], "an image is (height, width, channels)"),
        (np.zeros((0, 5, 3), np.uint8), "holds no pixels"),
        (Image.fromarray(picture(channels=1)[..., 0]), "1 channel of uint8"),
    ],
    ids=["grey", "rgba", "uint16", "float64", "batch", "empty", "pil-grey"],
)
def test_the_wrong_kind_of_image_is_one_sentence(image, words):
    with pytest.raises(ImageError) as error:
        model()(image)
    assert words in str(error.value)


def test_infinity_is_refused():
    image = picture(dtype="float32")
    image[3, 4, 0] = np.inf
    with pytest.raises(ImageError, match="1 of its 2880 values are infinite"):
        model(spec(3, "float32"))(image)


def test_a_diverged_network_is_said_to_be_one():
    translator = model()
    next(translator.generator.parameters()).fill_(float("nan"))
    with pytest.raises(ImageError, match="the network has diverged"):
        translator(picture())


# -----------------------------------------------------------------------------------------------------------
# Loading


def test_a_run_its_weights_and_its_checkpoint_are_one_model(tiny_run):
    image = picture((32, 32))
    loaded = [
        Translator.load(where, device="cpu")
        for where in (tiny_run, tiny_run / "generator.safetensors", tiny_run / "checkpoints/step-00000004.pt")
    ]
    outputs = [translator(image) for translator in loaded]
    assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[0], outputs[2])
    for translator in loaded:
        assert translator.provenance["step"] == 4
        assert translator.config.training.steps == 4
        assert translator.source_spec == translator.target_spec
        assert translator.semantics == Semantics(norm_stats="image", dropout=True)
        assert not translator.generator.training
        assert not any(p.requires_grad for p in translator.generator.parameters())
    earlier = Translator.load(tiny_run / "checkpoints/step-00000002.pt")
    assert not np.array_equal(earlier(image), outputs[0])


def test_the_best_checkpoint_can_be_chosen(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "checkpoints/best.json").write_text('{"step": 2, "val_L1": 0.1}')
    assert Translator.load(run, checkpoint="best").provenance["step"] == 2
    assert Translator.load(run, checkpoint="last").provenance["step"] == 4
    (run / "checkpoints/best.json").unlink()
    with pytest.raises(CheckpointError, match="no best checkpoint; it was trained without validation pairs"):
        Translator.load(run, checkpoint="best")


def test_of_a_run_killed_after_resuming_the_newest_state_is_taken(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    state = torch.load(run / "checkpoints/step-00000004.pt", weights_only=True)
    model_of_6 = json.loads(state["model"])
    model_of_6["provenance"]["step"] = 6
    torch.save(state | {"step": 6, "model": json.dumps(model_of_6)}, run / "checkpoints/step-00000006.pt")
    assert Translator.load(run).provenance["step"] == 6
    # ... and of one killed before its first end, the checkpoint.
    (run / "generator.safetensors").unlink()
    assert Translator.load(run).provenance["step"] == 6


def test_the_saved_semantics_can_be_overridden(tiny_run):
    image = picture((32, 32))
    plain = Translator.load(tiny_run)
    running = Translator.load(tiny_run, norm_stats="running")
    dry = Translator.load(tiny_run, dropout=False)
    assert running.semantics == Semantics(norm_stats="running", dropout=True)
    assert dry.semantics == Semantics(norm_stats="image", dropout=False)
    assert not np.array_equal(plain(image), running(image))
    assert np.array_equal(dry(image, seed=1), dry(image, seed=2))
    assert not np.array_equal(plain(image, seed=1), plain(image, seed=2))


def test_a_saved_choice_needs_no_flag(tmp_path):
    translator = model(target=spec(2, "uint16"), semantics=Semantics(norm_stats="running", dropout=False))
    config = tiny_config("", generator__source_channels=3, generator__target_channels=2,
                         generator__base_channels=4, generator__num_downs=4)  # fmt: skip
    translator.config = config
    path = tmp_path / "generator.safetensors"
    save_weights(path, translator.generator.state_dict(), translator.describe())
    again = Translator.load(path)
    translator.precision = "fp32"  # what load chose for 16 bits
    assert again.semantics == translator.semantics
    assert again.target_spec == translator.target_spec
    assert np.array_equal(again(picture()), translator(picture()))


def test_what_is_no_model_is_one_sentence(tiny_run, tmp_path):
    good = tiny_run / "generator.safetensors"
    half, foreign, empty = tmp_path / "half.safetensors", tmp_path / "foreign.safetensors", tmp_path / "empty"
    half.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    save_file({"model.0.weight": torch.ones(3)}, foreign)
    empty.mkdir()
    pth = tmp_path / "latest_net_G.pth"
    torch.save({"model.0.weight": torch.ones(3)}, pth)
    pt = tmp_path / "latest_net_G.pt"
    torch.save({"model.0.weight": torch.ones(3)}, pt)
    half_pt = tmp_path / "step-00000004.pt"
    checkpoint = (tiny_run / "checkpoints/step-00000004.pt").read_bytes()
    half_pt.write_bytes(checkpoint[: len(checkpoint) // 2])
    for path, words in (
        (half, "is not a whole .safetensors file"),
        (foreign, "weights from elsewhere cannot be used"),
        (pth, "is not a .safetensors file; give a run directory or its generator.safetensors"),
        (pt, "is not a checkpoint of pairloom"),
        (half_pt, "is not a whole checkpoint"),
        (tmp_path / "missing", "there is no such file"),
        (tmp_path / "missing.pt", "there is no such file"),
        (empty, "holds no trained model; give a run directory or a generator.safetensors"),
        (tiny_run / "discriminator.safetensors", "is a discriminator; give generator.safetensors"),
        (tiny_run / "config.json", "is not a .safetensors file"),
    ):
        with pytest.raises(CheckpointError) as error:
            Translator.load(path)
        assert str(error.value).startswith(f"{path}: ")
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_an_incomplete_description_is_one_sentence(tiny_run, tmp_path):
    path = tmp_path / "generator.safetensors"
    description = Translator.load(tiny_run).describe()
    for missing in ("config", "source_spec", "semantics"):
        save_weights(path, {"a": torch.ones(1)}, {k: v for k, v in description.items() if k != missing})
        with pytest.raises(CheckpointError, match=rf"description of the model is incomplete \('{missing}'\)"):
            Translator.load(path)


def test_weights_that_do_not_fit_their_description_are_one_sentence(tiny_run, tmp_path):
    weights, described = load_weights(tiny_run / "generator.safetensors")
    weights.pop("ups.0.conv.weight")
    path = tmp_path / "generator.safetensors"
    save_weights(path, weights, described)
    with pytest.raises(CheckpointError, match="its weights do not fit the networks"):
        Translator.load(path)


RGB = ImageSpec(channels=3, dtype="uint8", low=(0.0,) * 3, high=(255.0,) * 3)
GREY = ImageSpec(channels=1, dtype="uint8", low=(0.0,), high=(255.0,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": None}, "incomplete"),
        ({"config": [1]}, "incomplete"),
        ({"config": {"generator": {"num_downs": None}}}, "incomplete (generator.num_downs or its channels"),
        ({"config": {"generator": {"base_channels": None}}}, "generator.base_channels is None"),
        (
            {"config": {"generator": {"base_channels": 10**12}}},
            "generator.base_channels is 1000000000000; it",
        ),
        ({"config": {"generator": {"target_channels": -1}}}, "generator.target_channels is -1; it must be"),
        ({"source_spec": None}, "source_spec in its description of the model is wrong"),
        ({"target_spec": {"channels": 3}}, "is wrong (The image spec has unknown fields"),
        ({"target_spec": GREY.to_dict()}, "it has 1 channels, and generator.target_channels is 3"),
        ({"source_spec": {**RGB.to_dict(), "chosen": 1.5}}, "(ImageSpec.chosen is 1.5; it must be of type"),
        ({"source_spec": {**RGB.to_dict(), "chosen": [True]}}, "(ImageSpec.chosen is True; it must be of"),
        ({"target_spec": {**RGB.to_dict(), "palette": {}}}, "(ImageSpec.palette is {}; it must be of type"),
        ({"semantics": [1]}, "semantics in its description of the model is wrong"),
        ({"semantics": {"norm_stats": 1.5, "dropout": True}}, "norm_stats is 1.5; it must be one of 'image'"),
        ({"semantics": {"colour": 1}}, "is wrong ({'colour': 1} is no table of norm_stats, dropout)"),
        ({"provenance": None}, "damaged"),
        ({"provenance": [1]}, "damaged"),
    ],
    ids=str,
)
def test_a_damaged_description_is_one_sentence(tiny_run, tmp_path, change, words):
    weights, described = load_weights(tiny_run / "generator.safetensors")
    path = tmp_path / "generator.safetensors"
    save_weights(path, weights, {**described, **change})
    with pytest.raises(CheckpointError) as error:
        Translator.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
