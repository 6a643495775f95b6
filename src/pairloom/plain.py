"""Records of typed fields from plain values, as JSON and TOML hold them: nothing is taken for what it is not.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

R = TypeVar("R")


def coerced(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type of a field: ints serve as floats, lists as tuples; nothing else is converted.

    Args:
        value: Plain.
        hint: Of plain types, Literal, tuples and unions.
        name: Of the field, for the message.

    Raises:
        ValueError: It is of another type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in args:
            try:
                return coerced(value, option, name)
            except ValueError:
                continue
    elif origin is Literal:
        if value in args:
            return value
        options = ", ".join(repr(a) for a in args)
        raise ValueError(f"{name} is {shown(value)}; it must be one of {options}.")
    elif origin is tuple:
        if isinstance(value, list | tuple) and (args[-1] is Ellipsis or len(args) == len(value)):
            return tuple(coerced(v, args[0], name) for v in value)
    elif hint is type(None):
        if value is None:
            return None
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) < 2**1000:
            return float(value)
    elif isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise ValueError(f"{name} is {shown(value)}; it must be of type {_kind(hint)}.")


def record(cls: type[R], values: object) -> R:
    """A dataclass of exactly these fields.

    Raises:
        ValueError: Another field, or none of a name, or one of another type; or what the dataclass raises.
    """
    fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(values, dict) or set(values) != set(fields):
        raise ValueError(f"{shown(values)} is no table of {', '.join(fields)}.")
    hints = typing.get_type_hints(cls)
    return cls(**{name: coerced(values[name], hints[name], name) for name in fields})


def shown(value: object) -> str:
    """A value in a message, never more than a line of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def _kind(hint: Any) -> str:
    """A type as one writes it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " | ".join(map(_kind, args))
    if origin is Literal:
        return " | ".join(map(repr, args))
    return str(hint) if origin else str(hint.__name__).replace("NoneType", "None")
