"""Configurations from plain values and files, over one another; what two of them differ in.

Standard library only, as `config` itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairloom.config import Config, ConfigError
from pairloom.plain import coerced


def override(config: Config, fields: Mapping[str, Any]) -> Config:
    """A Config with fields changed by their dotted names: `{"data.path": "PAIRS", "training.epochs": 50}`.

    Raises:
        ConfigError: An unknown name (the nearest known one is named), or an impossible value.
    """
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        *groups, leaf = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return from_dict(nested, base=config)


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(
    values: dict[str, Any], *, base: Config | None = None, where: str = "the configuration"
) -> Config:
    """A Config from nested dicts, over `base`.

    `training.epochs` without `training.steps` is how long to train: steps of the base are forgotten.

    Raises:
        ConfigError: An unknown key (the nearest known one is named) or a value of the wrong type.
    """
    training = values.get("training")
    if isinstance(training, dict) and training.get("epochs") is not None and "steps" not in training:
        values = {**values, "training": {**training, "steps": None}}
    return typing.cast(Config, _merge(base or Config(), values, "", where))


def _merge(base: Any, values: dict[str, Any], prefix: str, where: str) -> Any:
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        dotted = prefix + key
        if key not in hints:
            raise ConfigError(f"{where}: there is no field {dotted!r}{_nearest(dotted)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{where}: {dotted} is a group of fields; write it as a table, not {value!r}."
                )
            changes[key] = _merge(current, value, dotted + ".", where)
        else:
            try:
                changes[key] = coerced(value, hints[key], dotted)
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from None
    return dataclasses.replace(base, **changes)


def field_names(config: Any | None = None, prefix: str = "") -> list[str]:
    """All dotted field names of a configuration, in order."""
    config = Config() if config is None else config
    names: list[str] = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        names += (
            field_names(value, f"{prefix}{f.name}.") if dataclasses.is_dataclass(value) else [prefix + f.name]
        )
    return names


def _nearest(dotted: str) -> str:
    names = field_names()
    groups = sorted({n.split(".")[0] for n in names})
    leaf = dotted.rsplit(".", 1)[-1]
    close = [n for n in names if n.rsplit(".", 1)[-1] == leaf]
    if leaf == dotted:
        close = close or difflib.get_close_matches(dotted, groups, n=1, cutoff=0.7)
    close = close or difflib.get_close_matches(dotted, names, n=1, cutoff=0.5)
    if not close:
        leaves = {n.rsplit(".", 1)[-1]: n for n in names}
        close = [leaves[m] for m in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.5)]
    return f"; did you mean {close[0]!r}?" if close else "."


def load(path: str | Path, *, base: Config | None = None) -> Config:
    """A Config from a .toml or .json file, over `base`.

    Raises:
        ConfigError: The file cannot be read or parsed, or names an unknown field.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a .toml or .json configuration ({error}).") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, not a table of fields.")
    return from_dict(values, base=base, where=str(path))


def differences(old: Config, new: Config) -> list[str]:
    """The fields that differ and that a resumed run may not change, one `name: old -> new` each.

    A `data.load_size` that comes to the same sides is the same, however it is written.
    """
    if new.data.load_sides == old.data.load_sides:
        new = dataclasses.replace(new, data=dataclasses.replace(new.data, load_size=old.data.load_size))
    return _differences(old, new, "")


def _differences(old: Any, new: Any, prefix: str) -> list[str]:
    lines: list[str] = []
    for f in dataclasses.fields(old):
        a, b = getattr(old, f.name), getattr(new, f.name)
        if dataclasses.is_dataclass(a):
            lines += _differences(a, b, f"{prefix}{f.name}.")
        elif a != b and not f.metadata.get("runtime") and f.name != "note":
            lines.append(f"{prefix}{f.name}: {a!r} -> {b!r}")
    return lines


def adopt(new: Config, begun: Config) -> Config:
    """`new`, with what it leaves open (None, "auto") as it was decided when the run was begun.

    Where that would be impossible, as for another crop, `new` stays as it is, and differs.
    """
    try:
        return typing.cast(Config, _adopt(new, begun))
    except ConfigError:
        return new


def _adopt(new: Any, begun: Any) -> Any:
    changes = {}
    for f in dataclasses.fields(new):
        value, then = getattr(new, f.name), getattr(begun, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = _adopt(value, then)
        elif value in (None, "auto") and f.metadata.get("decided"):
            changes[f.name] = then
    return dataclasses.replace(new, **changes)
