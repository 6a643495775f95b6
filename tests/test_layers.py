"""Which room may know which: the imports of every file, read and not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pairloom

ROOT = Path(pairloom.__file__).parent
FILES = {
    ".".join(("pairloom", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

GROUND = {
    "config": set(),
    "plain": set(),
    "configfile": {"config", "plain"},
    "pixels": set(),
    "content": set(),
    "tiff": {"content", "pixels"},
    "disk": {"pixels"},
    "formats": {"content", "disk", "pixels", "stacks.opening", "stacks.stack", "stacks.suffixes", "tiff"},
    "geometry": set(),
    "stacks.stack": {"pixels"},
    "stacks.suffixes": set(),
    "stacks.sizes": set(),
    "stacks.opening": {
        "disk",
        "pixels",
        *(f"stacks.{name}" for name in ("arrays", "dicom", "memory", "nifti", "ometiff", "omezarr")),
        *(f"stacks.{name}" for name in ("stack", "suffixes")),
    },
    "palette": {"pixels"},
    "survey": {"images", "palette", "pixels"},
    "images": {"formats", "geometry", "palette", "pixels", "plain", "stacks.stack"},
    "noise": set(),
    "layers": {"noise"},
    "activations": {"layers"},
    "resnet": {"activations", "layers"},
    "small_maps": set(),
    "networks": {"activations", "config", "layers", "resnet", "small_maps"},
    "losses": {"networks", "validity"},
    "validity": set(),
    "evaluation.metrics": set(),
}
"""The ground layer, and all that each of its rooms may know of ours."""

MAKING = ("pairloom.training", "pairloom.fit", "pairloom.data")
"""How a model is made: nothing for whoever only uses one."""


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(tree: ast.AST, *, module_level: bool) -> Iterator[ast.AST]:
    """All nodes that run: without `if TYPE_CHECKING:`, and on demand without the insides of functions."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from statements(node, module_level=module_level)


@cache
def imports(module: str, *, module_level: bool = False) -> set[str]:
    """Dotted names of the modules that a module imports; of ours, `from pairloom import x` is pairloom.x."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), module_level=module_level):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else base for name in inside}
    return found


def ours(module: str, *, module_level: bool = False) -> set[str]:
    return {n for n in imports(module, module_level=module_level) if n.split(".")[0] == "pairloom"}


def reachable(module: str) -> dict[str, str]:
    """Every module of ours that importing this one loads, and by whom; packages' own files included."""
    by: dict[str, str] = {module: module}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        # Importing a.b.c runs a and a.b as well.
        parents = {".".join(current.split(".")[:i]) for i in range(1, current.count(".") + 1)}
        for name in ours(current) | parents:
            if name in FILES and name not in by:
                by[name] = current
                waiting.append(name)
    return by


def test_the_reader_of_imports_reads_them() -> None:
    """The other tests would pass on nothing: hold what is known to be imported."""
    assert {"torch", "pairloom.resnet", "pairloom.config"} <= imports("pairloom.networks")
    assert "pairloom.fit" in imports("pairloom.cli")
    assert "pairloom.fit" not in imports("pairloom.cli", module_level=True)
    assert "pairloom.fit" not in imports("pairloom"), "for type checkers only"
    assert {"pairloom.training", "pairloom.data.loading"} <= set(reachable("pairloom.fit"))


def test_config_imports_only_the_standard_library() -> None:
    standard = set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name in imports("pairloom.config")} <= standard
    assert {name.split(".")[0] for name in imports("pairloom.configfile")} <= standard | {"pairloom"}


@pytest.mark.parametrize("room", GROUND)
def test_the_ground_knows_only_the_ground(room: str) -> None:
    assert ours(f"pairloom.{room}") <= {f"pairloom.{name}" for name in GROUND[room]}


def test_presets_know_only_the_configuration() -> None:
    assert imports("pairloom.presets") - set(sys.stdlib_module_names) <= {
        "pairloom.config",
        "collections.abc",
    }


@pytest.mark.parametrize(
    "room",
    [
        *("export", "translator", "checkpoint", "rundir", "describe", "health", "devices", "pictures"),
        *("tracking", "large", "tiling"),
    ],
)
def test_whoever_uses_a_model_does_not_load_how_it_was_made(room: str) -> None:
    loaded = reachable(f"pairloom.{room}")
    chain = {f"{by} imports {name}" for name, by in loaded.items() if name.startswith(MAKING)}
    assert not chain


@pytest.mark.parametrize("room", [name for name in FILES if name.startswith("pairloom.data")])
def test_the_data_know_neither_networks_nor_runs(room: str) -> None:
    above = (
        "training",
        "fit",
        "translator",
        "checkpoint",
        "rundir",
        "networks",
        "losses",
        "evaluation",
        "cli",
    )
    assert not {name for name in reachable(room) if name.startswith(tuple(f"pairloom.{a}" for a in above))}


@pytest.mark.parametrize(
    "room", [name for name in FILES if not name.startswith(("pairloom.cli", "pairloom.__"))]
)
def test_nothing_below_knows_the_command_line(room: str) -> None:
    assert "pairloom.cli" not in ours(room)


def test_the_training_step_knows_nothing_of_data_and_files_of_images() -> None:
    forbidden = ("pairloom.data", "pairloom.images", "pairloom.fit", "pairloom.translator", "pairloom.rundir")
    assert not {name for name in reachable("pairloom.training") if name.startswith(forbidden)}


def test_the_command_line_imports_at_module_level_only_config_and_presets() -> None:
    light = {"pairloom.config", "pairloom.configfile", "pairloom.presets", "pairloom.ablation.studies"}
    assert ours("pairloom.ablation.studies") | ours("pairloom.ablation.paper_tables") <= {
        "pairloom.config",
        "pairloom.ablation.study",
        "pairloom.ablation.paper_tables",
    }
    assert ours("pairloom.ablation.study") == set()
    assert ours("pairloom.flags") <= light
    commands = {name for name in FILES if name.startswith("pairloom.commands.")}
    for name in commands:
        assert ours(name, module_level=True) <= light | {"pairloom.flags"}
    assert ours("pairloom.cli", module_level=True) <= light | {"pairloom.flags"} | commands


def test_the_package_imports_nothing_of_itself_before_it_is_asked() -> None:
    assert ours("pairloom", module_level=True) == set()


@pytest.mark.parametrize("module", ["pairloom", "pairloom.cli"])
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print('{module}' in sys.modules, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False"]


def test_no_file_is_named_for_nothing() -> None:
    nothing = {
        "util",
        "utils",
        "helper",
        "helpers",
        "manager",
        "managers",
        "handler",
        "handlers",
        "common",
        "misc",
    }
    for name in FILES:
        assert not nothing & set(name.replace(".", "_").split("_")), name


def test_no_import_is_relative() -> None:
    """One way to name a room."""
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), name
