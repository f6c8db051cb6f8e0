"""Imports go one way: `__init__ -> nodes -> host -> glide_core`, and layer by layer inside.

Imports inside functions count; those under `if TYPE_CHECKING:` are never executed and do not.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("glide_core", "nodes", "recipes")
# Parts of glide_core from the lowest layer to the highest: one may import its own and lower ones.
LAYERS: tuple[set[str], ...] = (
    {"errors", "names", "fields", "text_values"},
    {"config", "images", "io", "noise_schedules", "tokenizer"},
    {"models", "devices", "crop", "data"},
    {"diffusion", "checkpoints"},
    {"guidance"},
    {"sampling"},
    {"request", "stages", "components"},
    {"pipeline"},
    {"training", "evaluation"},
    {"batch"},
    {"cli"},
)
LAYER_OF = {part: number for number, layer in enumerate(LAYERS) for part in layer}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def imports(module: str, in_functions: bool = True) -> Iterator[str]:
    """Modules that a module imports; `from package import name` gives package.name, if that is a
    module. `nodes` as an absolute name is ComfyUI's own module."""
    path = MODULES[module]
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in executed(ast.parse(path.read_text(encoding="utf-8")), in_functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name != "nodes")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in MODULES else base


def executed(tree: ast.AST, in_functions: bool) -> Iterator[ast.AST]:
    """Nodes of a tree, without the blocks that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef) and not in_functions:
            continue
        yield node
        yield from executed(node, in_functions)


IMPORTS = {module: sorted(set(imports(module)) - {module}) for module in MODULES}


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_every_part_of_glide_core_has_a_layer() -> None:
    parts = {name.split(".")[1] for name in MODULES if name.startswith("glide_core.")}
    assert parts == set(LAYER_OF)


def test_no_layer_of_glide_core_imports_a_higher_one() -> None:
    upward = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if module.startswith("glide_core.")
        for name in names
        if name.startswith("glide_core.")
        and LAYER_OF[name.split(".")[1]] > LAYER_OF[module.split(".")[1]]
    ]
    assert upward == []


def in_cycles(graph: dict[str, set[str]]) -> set[str]:
    """Modules in a cycle or above one: what is left when those that import none of the others are
    removed again and again."""
    while ready := {module for module, names in graph.items() if not names & graph.keys()}:
        graph = {module: names for module, names in graph.items() if module not in ready}
    return set(graph)


def test_no_modules_of_glide_core_import_each_other() -> None:
    graph = {m: set(names) for m, names in IMPORTS.items() if inside(m, "glide_core")}
    assert in_cycles(graph) == set()


def test_no_modules_import_each_other_when_they_are_imported() -> None:
    """In functions they may: `nodes.host` chooses one of the hosts, which use its protocol."""
    assert in_cycles({m: set(imports(m, in_functions=False)) - {m} for m in MODULES}) == set()


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("glide_core", ("nodes", "comfy", "glide_pack", "recipes", "folder_paths")),
        ("nodes", ("recipes",)),
        ("nodes.host.standalone", ("comfy", "folder_paths", "nodes.host.comfyui")),
        ("nodes.host.comfyui", ("nodes.host.standalone",)),
    ],
)
def test_packages_do_not_import_what_is_above_or_beside_them(
    package: str, forbidden: tuple[str, ...]
) -> None:
    found = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if inside(module, package)
        for name in names
        if any(inside(name, other) for other in forbidden)
    ]
    assert found == []


def test_hosts_do_not_import_nodes_and_comfyui_is_imported_in_one_folder() -> None:
    for module, names in IMPORTS.items():
        # `glide run` is a program of its own: it collects the node classes and hands them down
        if inside(module, "nodes.host") and module != "nodes.host.standalone.command":
            above = [n for n in names if inside(n, "nodes") and not inside(n, "nodes.host")]
            assert above == [], module
        if not inside(module, "nodes.host.comfyui"):
            assert not any(inside(name, "comfy") for name in names), module


@pytest.mark.parametrize(
    "code",
    [
        "import glide_core",
        "import glide_core.names, glide_core.request",
        "from glide_core.cli import main; main(['--help'])",
        "from glide_core.cli import main; main(['generate', '--help'])",
    ],
)
def test_no_torch_is_imported_for_names_and_help(code: str) -> None:
    check = f"""
import sys
try:
    {code}
except SystemExit:
    pass
assert "torch" not in sys.modules, "torch was imported"
"""
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def parameters(function: ast.FunctionDef) -> list[str]:
    a = function.args
    names = (arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs))
    return [name for name in names if name not in ("self", "cls")]


def test_functions_have_at_most_eight_parameters() -> None:
    """But for what users call: `GlidePipeline`, `sample`, and nodes, whose inputs they are."""
    called_by_users = {"__call__", "sample"}
    long = [
        f"{module}.{node.name}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and len(parameters(node)) > 8
        if not (inside(module, "glide_core") and node.name in called_by_users)
        if not (inside(module, "nodes") and node.args.args[0].arg == "self")
    ]
    assert long == []


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.startswith("glide_core.") and ".cli" not in m]
)
def test_the_library_names_no_options_of_the_command(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    named = [s for s in strings if isinstance(s, str) and re.search(r"(^|\W)--[a-z]", s)]
    assert not named
