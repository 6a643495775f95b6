"""What the README and the docs say can be typed."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from conftest import cli, write_pairs
from pairloom import configfile, presets
from pairloom.ablation.grid import read_grid
from pairloom.ablation.plan import Plan
from pairloom.ablation.scores import SCORES
from pairloom.ablation.studies import CUSTOM, STUDIES
from pairloom.cli import COMMANDS, main
from pairloom.configfile import override
from pairloom.flags import parse_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


def block(heading: str, language: str) -> str:
    """The first code block of a language after a heading of the README."""
    found = re.search(rf"## {heading}.*?```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_five_lines_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "PAIRS", train=6)
    write_pairs(tmp_path / "more", train=1)
    (tmp_path / "more" / "train").rename(tmp_path / "NEW-IMAGES")
    lines = block("Train on your own pairs", "sh").splitlines()
    assert [line.split()[1] for line in lines] == ["data", "train", "translate", "evaluate", "report"]
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        # Only smaller: the networks of the tests, and a val split where the default preset sets one aside.
        small = ["--preset", "tiny", "--data.val-fraction", "0.3"] if words[0] in ("data", "train") else []
        cli(*words, *small)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert len(list((tmp_path / "OUT").iterdir())) == 1
    assert (tmp_path / "evaluation" / "summary.json").exists()


def test_the_python_lines_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "PAIRS", train=3, test=1)
    next((tmp_path / "PAIRS" / "test").iterdir()).rename(tmp_path / "labels.png")
    write_pairs(tmp_path / "PAIRS", test=2, train=0)
    tiny = override(presets.tiny(), {"training.steps": 1})
    monkeypatch.setattr(presets, "paper", lambda: tiny)
    names: dict[str, object] = {}
    exec(block("Train on your own pairs", "python"), names)
    assert getattr(names["output"], "shape", None) == (40, 80, 3)
    assert "SSIM" in names["summary"].words()  # type: ignore[attr-defined]


def fenced(language: str) -> Iterator[str]:
    """The code blocks of a language, of all pages."""
    for text in PAGES.values():
        yield from re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def typed() -> Iterator[str]:
    """All that the pages say can be typed: lines of shell, headings of commands, words in backticks."""
    for text in fenced("sh"):
        yield from text.replace("\\\n", " ").splitlines()
    for text in PAGES.values():
        yield from re.findall(r"^## (pairloom .*)$", text, re.MULTILINE)
        yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@cache
def flags_of(command: str) -> frozenset[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return frozenset(re.findall(r"--[a-z][\w.-]*", said.getvalue()))


def test_the_flags_of_the_pages_are_those_of_the_commands() -> None:
    seen = 0
    for text in typed():
        words = text.partition("#")[0].replace("--data.*", "")
        command = next((name for name in COMMANDS if re.match(rf"pairloom +{name}\b", words)), None)
        if command is None and not words.startswith("-"):
            continue
        known = flags_of(command) if command else frozenset().union(*map(flags_of, COMMANDS))
        flags = re.findall(r"(?<!\S)\[?(--[a-z][\w.-]*)", words)
        assert set(flags) <= known, text
        seen += len(flags)
    assert seen > 30


def test_the_values_of_the_pages_are_possible() -> None:
    seen = 0
    for text in typed():
        if re.fullmatch(r"--[\w.-]+", text):
            continue  # a flag's name alone: the test above knows whether there is one
        if re.match(r"--\w+\.\w", text):
            text = f"pairloom train DATA --out RUN {text}"
        if re.match("pairloom +train", text) and "[" not in text:
            parse_run("pairloom train", shlex.split(text, comments=True)[2:])
            seen += 1
    assert seen >= 4


def test_the_toml_of_the_pages_is_a_configuration() -> None:
    blocks = [text for text in fenced("toml") if "[grid]" not in text]
    assert blocks
    for text in blocks:
        for name in presets.PRESETS:
            configfile.from_dict(tomllib.loads(text), base=presets.get(name))


def test_the_fields_that_the_pages_name_exist() -> None:
    groups = {name.split(".")[0] for name in configfile.field_names()} - {"note"}
    for page, text in PAGES.items():
        for name in re.findall(rf"`((?:{'|'.join(groups)})\.[a-z]\w*)", text):
            assert name.endswith((".py", ".safetensors")) or name in configfile.field_names(), (
                f"{page}: {name}"
            )


def test_every_command_has_its_section() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    described = re.findall(r"^## pairloom ((?:data |segmenter |study )?\w+)", text, re.MULTILINE)
    assert sorted(described) == sorted(COMMANDS)


def test_every_preset_has_its_row() -> None:
    text = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text))
    assert set(presets.PRESETS) <= named


def test_the_two_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in block("Two commands", "sh").splitlines():
        target = line.split()[1]
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_and_pictures_are_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_tree_names_every_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "src" / "pairloom").rglob("*.py"):
        if path.name not in ("__main__.py", "__init__.py"):
            assert path.name in text, f"{path.name} is not in docs/architecture.md"


def test_the_grid_of_the_pages_is_a_study(tmp_path: Path) -> None:
    grids = [text for text in fenced("toml") if "[grid]" in text]
    assert grids
    for text in grids:
        (tmp_path / "grid.toml").write_text(text, encoding="utf-8")
        study = read_grid(tmp_path / "grid.toml", SCORES)
        plan = Plan.make(tmp_path / "out", study, presets.paper(), seeds=1, pairs=400)
        assert len(list(plan.cells())) == 5


def test_every_study_has_a_page_with_its_command_and_every_score_a_name() -> None:
    for name in (*STUDIES, CUSTOM):
        page = PAGES[f"docs/studies/{name.removesuffix('-scaled')}.md"]
        assert re.search(rf"^pairloom ablate {name} .*--out", page, re.MULTILINE), name
        for part in ("**The question", "**How to read it"):
            assert part in page, name
    assert set(re.findall(r"`(\w+)`", PAGES["docs/studies/custom.md"])) >= set(SCORES)


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="sphinx is not installed")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
