"""The configuration: its checks, its sentences, its files, and what a resumed run may change."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pairloom import config as configs
from pairloom import configfile, presets
from pairloom.config import Config, ConfigError

GROUPS = ["data", "generator", "discriminator", "objective", "training", "logging"]

RUNTIME = {
    "data.workers",
    "data.cache",
    "data.cache_gb",
    "data.shard_cache",
    "data.shard_cache_gb",
    "training.epochs",
    "training.steps",
    "training.device",
    "training.deterministic",
    "training.compile",
    "training.cuda_graphs",
    "training.checkpoint_activations",
    "logging.log_every_steps",
    "logging.save_every_steps",
    "logging.sample_pairs",
    "logging.keep_snapshots",
    "logging.track",
}
"""What a resumed run may change: how long, how often, where; never what a step computes."""

# Another valid value of every field.
OTHER: dict[str, Any] = {
    "data.path": "photos",
    "data.path_b": "maps",
    "data.direction": "BtoA",
    "data.derive": "edges",
    "data.hole": "masks",
    "data.edge_sigma": 1.5,
    "data.edge_least_px": 9,
    "data.edge_model": "hed.onnx",
    "data.load_size": [300, 320],
    "data.crop_size": 128,
    "data.resize": "shorter",
    "data.mirror": False,
    "data.rotate": "quarter",
    "data.affine_degrees": 10.0,
    "data.affine_scale": 0.1,
    "data.elastic_px": 4.0,
    "data.light": 0.2,
    "data.source_kind": "labels",
    "data.target_kind": "intensity",
    "data.source_palette": "a.txt",
    "data.target_palette": "b.txt",
    "data.alpha": "keep",
    "data.pages": "first",
    "data.source_select": ["DAPI", "2"],
    "data.target_select": ["0"],
    "data.slice_axis": "y",
    "data.slice_neighbours": 2,
    "data.source_one_hot": True,
    "data.target_one_hot": True,
    "data.source_scaling": "full",
    "data.target_scaling": "zscore",
    "data.source_range": [0.0, 4095.0],
    "data.target_range": [0.5, 3.0],
    "data.val_fraction": 0.1,
    "data.test_fraction": 0.2,
    "data.group_pattern": "(.*)_",
    "data.split_seed": 3,
    "data.max_pairs": 50,
    "data.workers": 2,
    "data.cache": "decoded",
    "data.cache_gb": 0.5,
    "data.shard_cache": "copies",
    "data.shard_cache_gb": 5.0,
    "generator.architecture": "resnet",
    "generator.source_channels": 1,
    "generator.target_channels": 2,
    "generator.base_channels": 32,
    "generator.num_downs": 7,
    "generator.resnet_blocks": 6,
    "generator.skip": "none",
    "generator.norm": "instance",
    "generator.upsample": "resize",
    "generator.noise": "gaussian",
    "generator.dropout_blocks": [2, 3, 4],
    "generator.dropout_rate": 0.3,
    "discriminator.num_layers": 2,
    "discriminator.base_channels": 32,
    "discriminator.conditional": False,
    "discriminator.norm": "none",
    "objective.gan_mode": "lsgan",
    "objective.saturating": True,
    "objective.lambda_gan": 0.5,
    "objective.lambda_l1": 10.0,
    "objective.lambda_l2": 1.0,
    "objective.halve_d": False,
    "objective.gradient_penalty": 5.0,
    "training.epochs": 100,
    "training.steps": 1000,
    "training.batch_size": 4,
    "training.learning_rate": 1e-4,
    "training.beta1": 0.9,
    "training.beta2": 0.99,
    "training.decay_fraction": 0.5,
    "training.ema_decay": 0.999,
    "training.seed": 7,
    "training.init_from": "runs/other",
    "training.device": "cpu",
    "training.precision": "fp32",
    "training.deterministic": True,
    "training.compile": True,
    "training.cuda_graphs": True,
    "training.checkpoint_activations": True,
    "training.sync_batch_norm": True,
    "logging.log_every_steps": 10,
    "logging.save_every_steps": 100,
    "logging.sample_pairs": 2,
    "logging.keep_snapshots": True,
    "logging.track": "tensorboard",
    "note": "mine",
}


def nested(dotted: str, value: Any) -> dict[str, Any]:
    *groups, leaf = dotted.split(".")
    return {groups[0]: {leaf: value}} if groups else {leaf: value}


def get(config: Config, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def changed(dotted: str) -> Config:
    return configfile.from_dict(nested(dotted, OTHER[dotted]))


def complaint(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        configfile.from_dict(values)
    return str(caught.value)


def toml(values: dict[str, Any]) -> str:
    """Enough of TOML to write a configuration; TOML has no null, so None is left out."""

    def lines(table: dict[str, Any]) -> Iterator[str]:
        for key, value in table.items():
            if value is not None and not isinstance(value, dict):
                yield f"{key} = {json.dumps(value)}"

    text = list(lines(values))
    for key, value in values.items():
        if isinstance(value, dict):
            text += [f"[{key}]", *lines(value)]
    return "\n".join(text)


# ------------------------------------------------------------------------------------------------------------
# The fields


def dataclass_fields_with_what_follows() -> Iterator[tuple[str, ast.AnnAssign, ast.stmt | None]]:
    tree = ast.parse(inspect.getsource(configs))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.decorator_list:
            for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(statement, ast.AnnAssign):
                    yield node.name, statement, after


def test_every_field_has_a_docstring_that_says_something() -> None:
    fields = list(dataclass_fields_with_what_follows())
    assert len(fields) == len(configfile.field_names()) + len(GROUPS)
    for owner, statement, after in fields:
        name = f"{owner}.{ast.unparse(statement.target)}"
        if ast.unparse(statement.annotation).endswith("Config"):
            continue  # a group: its class has the docstring
        assert isinstance(after, ast.Expr), name
        assert isinstance(after.value, ast.Constant), name
        assert len(str(after.value.value)) > 10, name


def test_groups_are_the_six_of_the_plan_and_documented() -> None:
    names = [f.name for f in dataclasses.fields(Config)]
    assert names == [*GROUPS, "note"]
    for group in GROUPS:
        kind = type(getattr(Config(), group))
        assert not (kind.__doc__ or "").startswith(f"{kind.__name__}("), "the generated docstring"


def test_a_configuration_is_frozen_keyword_only_and_hashable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().data.mirror = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        configs.DataConfig("photos")  # type: ignore[misc]
    assert len({Config(), Config(), changed("data.mirror")}) == 2


def test_field_names_are_dotted_and_complete() -> None:
    assert configfile.field_names() == list(OTHER)


def test_the_defaults_are_the_papers() -> None:
    c = Config()
    assert (c.data.load_sides, c.data.crop_size, c.data.mirror) == ((286, 286), 256, True)
    assert (c.generator.base_channels, c.generator.dropout_blocks, c.generator.dropout_rate) == (
        64,
        (1, 2, 3),
        0.5,
    )
    assert (c.generator.skip, c.generator.norm, c.generator.noise) == ("concat", "batch", "dropout")
    assert (c.discriminator.num_layers, c.discriminator.conditional) == (3, True)
    assert (c.objective.lambda_gan, c.objective.lambda_l1, c.objective.halve_d) == (1, 100, True)
    assert (c.objective.gan_mode, c.objective.saturating) == ("vanilla", False)
    assert (c.training.learning_rate, c.training.beta1, c.training.beta2) == (2e-4, 0.5, 0.999)
    assert (c.training.batch_size, c.training.decay_fraction, c.training.ema_decay) == (1, 0, 0)


def test_importing_it_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, pairloom.config, pairloom.presets; "
        "print(*sorted({m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in result.stdout.split() if not name.startswith(("_", "sitecustomize"))}
    assert loaded == {"pairloom"}


# ------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("name", presets.PRESETS)
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    config = presets.get(name)
    (tmp_path / "config.json").write_text(json.dumps(configfile.to_dict(config)))
    assert configfile.load(tmp_path / "config.json", base=changed("data.mirror")) == config


@pytest.mark.parametrize("name", presets.PRESETS)
def test_toml_round_trip(name: str, tmp_path: Path) -> None:
    config = presets.get(name)
    (tmp_path / "config.toml").write_text(toml(configfile.to_dict(config)))
    assert configfile.load(tmp_path / "config.toml") == config


@pytest.mark.parametrize("dotted", OTHER)
@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_every_field_can_be_set_from_a_file(dotted: str, suffix: str, tmp_path: Path) -> None:
    values = nested(dotted, OTHER[dotted])
    path = tmp_path / f"config{suffix}"
    path.write_text(toml(values) if suffix == ".toml" else json.dumps(values))
    config = configfile.load(path)
    given = OTHER[dotted]
    assert get(config, dotted) == (tuple(given) if isinstance(given, list) else given)
    assert get(config, dotted) != get(Config(), dotted)
    for name in configfile.field_names():
        assert name == dotted or get(config, name) == get(Config(), name)


@pytest.mark.parametrize(("name", "text"), [("c.toml", "[training]\nseed = 3"), ("c.json", '{"note": "x"}')])
def test_a_file_may_begin_with_a_byte_order_mark(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert configfile.load(tmp_path / name) != Config()


def test_epochs_take_the_place_of_a_bases_steps() -> None:
    for base, values, expected in (
        (presets.tiny(), {"epochs": 3}, (3, None)),
        (presets.tiny(), {"epochs": 3, "steps": 9}, (3, 9)),
        (presets.tiny(), {"steps": 9}, (200, 9)),
        (presets.tiny(), {"seed": 1}, (200, 4)),
        (presets.paper(), {"epochs": 3}, (3, None)),
    ):
        training = configfile.from_dict({"training": values}, base=base).training
        assert (training.epochs, training.steps) == expected
    assert configfile.override(presets.tiny(), {"training.epochs": 3}).training.steps is None


def test_a_file_lies_over_the_base(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[training]\nbatch_size = 3\n")
    config = configfile.load(tmp_path / "c.toml", base=presets.day2night())
    assert config == replace(
        presets.day2night(), training=replace(presets.day2night().training, batch_size=3)
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("c.toml", "[data\n"), ("c.json", "{"), ("c.json", "\xff"), ("missing.toml", None)],
    ids=["toml", "json", "encoding", "missing"],
)
def test_an_unreadable_file_is_named(name: str, text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        configfile.load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_a_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"c\.json: holds list"):
        configfile.load(tmp_path / "c.json")


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[training]\nepoch = 3\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: .*'training\.epoch'.*'training\.epochs'"):
        configfile.load(tmp_path / "mine.toml")


# ------------------------------------------------------------------------------------------------------------
# Unknown keys and wrong types


@pytest.mark.parametrize(
    ("values", "wrong", "nearest"),
    [
        ({"objective": {"lamda_l1": 1}}, "objective.lamda_l1", "objective.lambda_l1"),
        ({"discriminator": {"base_chanels": 1}}, "discriminator.base_chanels", "discriminator.base_channels"),
        ({"objective": {"batch_size": 4}}, "objective.batch_size", "training.batch_size"),
        ({"lambda_l1": 1}, "lambda_l1", "objective.lambda_l1"),
        ({"learning-rate": 1}, "learning-rate", "training.learning_rate"),
        ({"crop_sise": 1}, "crop_sise", "data.crop_size"),
        ({"objektive": {"lambda_l1": 1}}, "objektive", "objective"),
        ({"Generator": {"skip": "none"}}, "Generator", "generator"),
        ({"train": {"epochs": 1}}, "train", "training"),
        ({"loging": {}}, "loging", "logging"),
    ],
)
def test_an_unknown_key_names_the_nearest(values: dict[str, Any], wrong: str, nearest: str) -> None:
    text = complaint(values)
    assert f"no field {wrong!r}" in text
    assert text.endswith(f"did you mean {nearest!r}?")


def test_a_key_like_no_other_gets_no_guess() -> None:
    text = complaint({"zzzzzz": 1})
    assert "'zzzzzz'" in text
    assert "did you mean" not in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("data.mirror", 1),
        ("data.mirror", "yes"),
        ("data.path", 3),
        ("data.crop_size", "256"),
        ("data.crop_size", True),
        ("data.crop_size", 256.0),
        ("data.crop_size", [256]),
        ("data.crop_size", [1, 2, 3]),
        ("data.source_range", [0]),
        ("data.source_range", ["0", "1"]),
        ("generator.base_channels", 64.5),
        ("generator.num_downs", "7"),
        ("generator.dropout_blocks", 3),
        ("generator.dropout_blocks", [1, "2"]),
        ("objective.lambda_l1", "100"),
        ("objective.lambda_l1", True),
        ("objective.lambda_l1", None),
        ("training.epochs", True),
        ("training.batch_size", {"a": 1}),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(dotted: str, value: Any) -> None:
    text = complaint(nested(dotted, value))
    assert dotted in text
    assert "must be of type" in text
    if not isinstance(value, list):
        assert repr(value) in text


def test_a_whole_number_serves_as_a_float_and_a_list_as_a_tuple() -> None:
    config = configfile.from_dict({"objective": {"lambda_l1": 10}, "generator": {"dropout_blocks": [2]}})
    assert type(config.objective.lambda_l1) is float
    assert config.generator.dropout_blocks == (2,)


def test_an_unknown_option_lists_the_options() -> None:
    text = complaint({"objective": {"gan_mode": "wgan"}})
    assert "objective.gan_mode is 'wgan'" in text
    assert all(repr(mode) in text for mode in ("vanilla", "lsgan", "hinge", "wgan-gp"))


def test_a_value_in_place_of_a_group_is_an_error() -> None:
    assert "data is a group of fields" in complaint({"data": "photos"})


# ------------------------------------------------------------------------------------------------------------
# Impossible values

IMPOSSIBLE: list[tuple[str, Any, dict[str, Any]]] = [
    ("data.load_size", 0, {}),
    ("data.crop_size", [256, 0], {}),
    ("data.load_size", 255, {}),
    ("data.load_size", [300, 250], {}),
    ("data.load_size", 286, {"data": {"crop_size": 512}}),
    ("data.val_fraction", 0.6, {}),
    ("data.val_fraction", -0.1, {}),
    ("data.val_fraction", float("nan"), {}),
    ("data.test_fraction", 1.0, {}),
    ("data.source_range", [5.0, 5.0], {"data": {"source_scaling": "range"}}),
    ("data.target_range", None, {"data": {"target_scaling": "range"}}),
    ("data.max_pairs", 0, {}),
    ("data.workers", -1, {}),
    ("data.shard_cache_gb", 0.0, {}),
    ("data.crop_size", 255, {}),
    ("data.crop_size", [64, 33], {}),
    ("generator.base_channels", 0, {}),
    ("generator.num_downs", 0, {}),
    ("generator.num_downs", 9, {"data": {"crop_size": 512, "load_size": 512}}),
    ("generator.num_downs", 6, {"data": {"crop_size": [96, 128]}}),
    ("generator.dropout_rate", 1.0, {}),
    ("generator.dropout_rate", -0.5, {}),
    ("generator.dropout_blocks", [0, 1, 2], {}),
    ("discriminator.num_layers", -1, {}),
    ("discriminator.base_channels", 0, {}),
    ("objective.lambda_gan", -1.0, {}),
    ("objective.lambda_l1", -100.0, {}),
    ("objective.lambda_l1", float("nan"), {}),
    ("objective.lambda_l2", -1.0, {}),
    ("objective.lambda_gan", 0.0, {"objective": {"lambda_l1": 0}}),
    ("objective.gradient_penalty", -10.0, {}),
    ("objective.saturating", True, {"objective": {"gan_mode": "lsgan"}}),
    ("training.epochs", None, {}),
    ("training.epochs", 0, {}),
    ("training.steps", 0, {}),
    ("training.batch_size", 0, {}),
    ("training.learning_rate", 0.0, {}),
    ("training.beta1", 1.0, {}),
    ("training.beta2", -0.1, {}),
    ("training.ema_decay", 1.0, {}),
    ("training.decay_fraction", 1.5, {}),
    ("logging.log_every_steps", 0, {}),
    ("logging.save_every_steps", 0, {}),
    ("logging.sample_pairs", -1, {}),
]


@pytest.mark.parametrize(("dotted", "value", "others"), IMPOSSIBLE, ids=lambda v: str(v) if v != {} else "")
def test_an_impossible_value_is_a_sentence_with_field_and_value(
    dotted: str, value: Any, others: dict[str, Any]
) -> None:
    values = nested(dotted, value)
    for group, fields in others.items():
        values[group] = fields | values.get(group, {})
    text = complaint(values)
    shown = tuple(value) if isinstance(value, list) else value
    assert text.startswith(f"{dotted} is {shown!r}; it must be ")
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("crop_size", "load_size", "sides"),
    [
        (256, None, (286, 286)),
        (128, None, (143, 143)),
        (32, None, (36, 36)),
        ((256, 512), None, (286, 572)),
        (2, None, (2, 2)),
        (128, "crop", (128, 128)),
        ((64, 32), "crop", (64, 32)),
        (256, 300, (300, 300)),
        (256, (300, 256), (300, 256)),
    ],
)
def test_what_load_size_comes_to(crop_size: configs.Sides, load_size: Any, sides: tuple[int, int]) -> None:
    assert configs.DataConfig(crop_size=crop_size, load_size=load_size).load_sides == sides


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize("crop_size", [32, 128, 512, (96, 160)])
def test_a_presets_jitter_follows_the_crop(name: str, crop_size: configs.Sides) -> None:
    """Only the crop is changed; trained at one scale, validated at that scale."""
    data = configfile.override(
        presets.get(name), {"data.crop_size": crop_size, "discriminator.num_layers": 1}
    ).data
    ratios = [a / b for a, b in zip(data.load_sides, configs.height_width(crop_size), strict=True)]
    assert ratios == pytest.approx([1.0 if data.load_size == "crop" else 286 / 256] * 2, rel=0.02)
    assert configs.jitter_note(data) is None


def test_much_jitter_is_told() -> None:
    note = configs.jitter_note(configs.DataConfig(load_size=286, crop_size=(32, 64)))
    assert note is not None and "286x286" in note and "64x32" in note and "8.9 times" in note
    assert configs.jitter_note(configs.DataConfig(load_size=48, crop_size=32)) is None
    assert configs.jitter_note(configs.DataConfig(load_size=49, crop_size=32)) is not None
    wide = configs.DataConfig(load_size=(40, 90), crop_size=(32, 32))
    assert configs.jitter_note(wide) is not None
    assert configs.jitter_note(replace(wide, resize="shorter")) is None
    assert configs.jitter_note(replace(wide, resize="none")) is None


def test_the_type_of_a_field_is_told_as_one_writes_it() -> None:
    assert complaint({"data": {"load_size": "x"}}).endswith("type int | tuple[int, int] | 'crop' | None.")
    assert complaint({"data": {"path_b": 3}}).endswith("type str | None.")


def test_native_pixels_may_be_cropped_larger_than_load_size() -> None:
    config = configfile.from_dict({"data": {"resize": "none", "load_size": 10, "crop_size": 64}})
    assert config.data.crop_size == 64


@pytest.mark.parametrize(
    ("crop_size", "n"),
    [
        (256, 8),
        (512, 8),
        (128, 7),
        (286, 1),
        ((96, 128), 5),
        ((128, 96), 5),
        ((256, 64), 6),
        (255, 0),
        ((2, 3), 0),
    ],
)
def test_halvings(crop_size: configs.Sides, n: int) -> None:
    assert configs.halvings(crop_size) == n


@pytest.mark.parametrize(
    ("crop_size", "largest"),
    [(256, 6), (128, 5), (64, 4), (32, 3), (16, 2), (6, 1), (4, 0), ((256, 64), 4), (96, 5)],
)
def test_a_discriminator_too_deep_for_the_crop_is_an_error(crop_size: configs.Sides, largest: int) -> None:
    def make(num_layers: int, lambda_gan: float = 1.0) -> Config:
        return Config(
            data=configs.DataConfig(crop_size=crop_size, load_size=256),
            discriminator=configs.DiscriminatorConfig(num_layers=num_layers),
            objective=configs.ObjectiveConfig(lambda_gan=lambda_gan),
        )

    make(largest)
    with pytest.raises(ConfigError) as caught:
        make(largest + 1)
    text = str(caught.value)
    assert text.startswith(f"discriminator.num_layers is {largest + 1}; it must be {largest} at most")
    assert str(crop_size) in text
    make(largest + 1, lambda_gan=0.0)  # without D, its depth does not matter


# ------------------------------------------------------------------------------------------------------------
# Resuming


@pytest.mark.parametrize("dotted", OTHER)
def test_differences_are_the_fields_that_a_resumed_run_may_not_change(dotted: str) -> None:
    old, new = Config(), changed(dotted)
    free = dotted in RUNTIME or dotted == "note"
    expected = [] if free else [f"{dotted}: {get(old, dotted)!r} -> {get(new, dotted)!r}"]
    assert configfile.differences(old, new) == expected


def test_no_differences_to_itself_and_all_of_many() -> None:
    assert configfile.differences(Config(), Config()) == []
    new = configfile.from_dict({"data": {"mirror": False, "workers": 3}, "training": {"seed": 1, "steps": 9}})
    assert [line.split(":")[0] for line in configfile.differences(Config(), new)] == [
        "data.mirror",
        "training.seed",
    ]


def test_adopt_takes_what_was_decided_where_the_new_leaves_it_open() -> None:
    begun = configfile.from_dict(
        {
            "data": {"source_scaling": "full", "max_pairs": 7, "workers": 2},
            "generator": {"source_channels": 1, "target_channels": 2, "num_downs": 7},
            "training": {"precision": "bf16", "steps": 500, "device": "cuda", "seed": 4, "batch_size": 2},
            "logging": {"save_every_steps": 10},
        }
    )
    new = configfile.from_dict({"generator": {"num_downs": 6}, "training": {"batch_size": 1}})
    adopted = configfile.adopt(new, begun)
    # None that means "all", or "as measured", is a value like others: leaving it out is a difference.
    assert adopted.data.max_pairs is None
    assert adopted.data.source_scaling == "auto"
    assert adopted.generator.channels == (1, 2)
    assert adopted.training.precision == "bf16"
    # What the new one says stays, and then counts as a difference.
    assert adopted.generator.num_downs == 6
    assert (adopted.training.batch_size, adopted.training.seed) == (1, 0)
    # How long, where and how often is not taken over from the begun run.
    assert (adopted.data.workers, adopted.training.steps, adopted.training.device) == (None, None, "auto")
    assert adopted.logging.save_every_steps is None
    assert {line.split(":")[0] for line in configfile.differences(begun, adopted)} == {
        "data.source_scaling",
        "data.max_pairs",
        "generator.num_downs",
        "training.batch_size",
        "training.seed",
    }


def test_the_same_command_again_differs_in_nothing() -> None:
    given = presets.paper()
    begun = replace(
        given,
        generator=replace(given.generator, source_channels=3, target_channels=3, num_downs=8),
        training=replace(given.training, precision="fp32"),
    )
    assert configfile.adopt(given, begun) == begun
    assert configfile.differences(begun, configfile.adopt(given, begun)) == []


def test_load_size_may_be_written_in_other_ways() -> None:
    for begun in (286, (286, 286), None):
        for given in (286, None):
            old, new = (configfile.from_dict({"data": {"load_size": v}}) for v in (begun, given))
            assert configfile.differences(old, configfile.adopt(new, old)) == []
    old = configfile.from_dict({"data": {"load_size": 256}})
    assert not any("load_size" in line for line in configfile.differences(old, presets.get("thermal")))


def test_what_a_run_was_begun_with_is_adopted_as_it_was() -> None:
    """Runs of an earlier release trained at whatever their load_size was; they go on so."""
    begun = configfile.from_dict({"data": {"load_size": 286, "crop_size": 32, "alpha": "white"},
                               "generator": {"num_downs": 5}})  # fmt: skip
    new = configfile.from_dict({"data": {"crop_size": 32}})
    assert configfile.adopt(new, begun) == begun


def test_what_was_decided_for_another_crop_is_not_adopted() -> None:
    begun = configfile.from_dict({"data": {"load_size": 286}, "generator": {"num_downs": 8}})
    for crop_size in (512, 32):
        new = configfile.from_dict({"data": {"crop_size": crop_size}, "discriminator": {"num_layers": 3}})
        lines = configfile.differences(begun, configfile.adopt(new, begun))
        assert f"data.crop_size: 256 -> {crop_size}" in lines


def test_channels_are_asked_for_only_when_resolved() -> None:
    with pytest.raises(AssertionError, match="resolve"):
        _ = Config().generator.channels


def test_override_changes_fields_by_their_dotted_names() -> None:
    config = configfile.override(
        presets.paper(), {"data.path": "PAIRS", "training.epochs": 50, "note": "mine"}
    )
    assert (config.data.path, config.training.epochs, config.note) == ("PAIRS", 50, "mine")
    assert config.data.direction == presets.paper().data.direction
    with pytest.raises(ConfigError, match=r"'training\.epoch'; did you mean 'training\.epochs'"):
        configfile.override(presets.paper(), {"training.epoch": 50})
