"""A study of the user's own: a TOML file with a grid over any fields of the configuration.

title = "Which upsampling, at which weight of L1?"

[grid]                                  # every combination is a variant
generator.upsample = ["transposed", "resize"]
objective.lambda_l1 = [10, 100]

[[variant]]                             # and single ones besides
name = "wide"
fields = { generator.base_channels = 128 }

[[finding]]                             # what is to be tested
statement = "Resize-convolutions score a higher SSIM"
score = "ssim"
higher = "resize-100"
lower = "transposed-100"
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pairloom.ablation.study import Finding, Study, StudyError, Variant

TEXTS = ("title", "question", "answer")
KNOWN = (*TEXTS, "grid", "variant", "finding")


def read_grid(path: Path, scores: Mapping[str, Any]) -> Study:
    """The study that a file describes.

    Args:
        path: The file.
        scores: The names that a finding may be about.

    Raises:
        StudyError: The file cannot be read, names something unknown, or its grid has no cells.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as a TOML grid ({error}).") from error
    for key in values:
        if key not in KNOWN:
            raise StudyError(
                f"{path}: there is no key {key!r} (there are {', '.join(KNOWN)}){_near(key, KNOWN)}"
            )
    texts = {key: _text(path, key, values.get(key, "")) for key in TEXTS}
    variants = [*_product(path, _flat(_table(path, "grid", values.get("grid", {}))))]
    variants += [_single(path, entry) for entry in _tables(path, "variant", values.get("variant", []))]
    if not variants:
        raise StudyError(f"{path}: the grid has no cells; give [grid] a field with its values, in brackets.")
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise StudyError(f"{path}: two variants are named {name!r}; name them apart.")
    findings = tuple(
        _finding(path, entry, names, scores) for entry in _tables(path, "finding", values.get("finding", []))
    )
    texts["title"] = texts["title"] or f"The grid of {path.name}"
    return Study(
        name="custom",
        title=texts["title"],
        question=texts["question"],
        answer=texts["answer"],
        variants=tuple(variants),
        findings=findings,
    )


def _product(path: Path, fields: Mapping[str, Any]) -> Iterator[Variant]:
    """Every combination of the fields' values."""
    for name, options in fields.items():
        if not isinstance(options, list):
            raise StudyError(
                f"{path}: grid.{name} is {options!r}; give its values in brackets: [{options!r}]."
            )
        if not options:
            raise StudyError(f"{path}: grid.{name} has no values, so the grid has no cells.")
    if not fields:
        return
    for chosen in itertools.product(*fields.values()):
        cell = dict(zip(fields, chosen, strict=True))
        yield Variant(
            name="-".join(_slug(value) for value in chosen),
            title=", ".join(f"{name.rsplit('.', 1)[-1]} {value}" for name, value in cell.items()),
            fields=cell,
        )


def _slug(value: Any) -> str:
    return re.sub(r"[^\w.]+", "-", str(value)).strip("-.") or "none"


def _single(path: Path, entry: Mapping[str, Any]) -> Variant:
    name = entry.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise StudyError(f"{path}: a variant is named {name!r}; a name is letters, digits, dots and dashes.")
    _only(path, f"variant {name}", entry, ("name", "title", "fields", "dropout"))
    fields = _flat(_table(path, f"variant {name}, fields", entry.get("fields", {})))
    dropout = entry.get("dropout")
    if dropout not in (None, True, False):
        raise StudyError(f"{path}: variant {name}: dropout is {dropout!r}; it must be true or false.")
    title = _text(path, f"variant {name}, title", entry.get("title", name))
    return Variant(name=name, title=title, fields=fields, dropout=dropout)


def _finding(path: Path, entry: Mapping[str, Any], names: list[str], scores: Mapping[str, Any]) -> Finding:
    _only(path, "finding", entry, tuple(f.name for f in dataclasses.fields(Finding)))
    try:
        finding = Finding(**{"source": path.name, **entry})
    except TypeError as error:
        raise StudyError(
            f"{path}: a finding needs statement, score and higher, and lower, above or below."
        ) from error
    if finding.score not in scores:
        hint = _near(finding.score, scores)
        raise StudyError(f"{path}: there is no score {finding.score!r} (there are {', '.join(scores)}){hint}")
    for name in filter(None, (finding.higher, finding.lower)):
        if name not in names:
            raise StudyError(
                f"{path}: a finding names the variant {name!r}, which is none of {', '.join(names)}."
            )
    if sum(part is not None for part in (finding.lower, finding.above, finding.below)) != 1:
        raise StudyError(f"{path}: the finding {finding.statement!r} needs one of lower, above and below.")
    return finding


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _only(path: Path, where: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            raise StudyError(
                f"{path}: {where}: there is no key {key!r} (there are {', '.join(known)}){_near(key, known)}"
            )


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _table(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StudyError(f"{path}: {key} is {value!r}; write it as a table of fields.")
    return value


def _tables(path: Path, key: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise StudyError(f"{path}: {key} is {value!r}; write each as a table headed [[{key}]].")
    return value


def _text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise StudyError(f"{path}: {key} is {value!r}; it must be a text in quotes.")
    return value
