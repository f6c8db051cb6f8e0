"""Tools run without the tests and without pytest."""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_no_tool_imports_a_module_of_the_tests_or_pytest() -> None:
    names = {path.stem for path in (REPOSITORY / "tests").iterdir()}
    tests = names - {path.stem for path in REPOSITORY.iterdir()}  # `recipes` and others are in both
    found = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in (REPOSITORY / "tools").rglob("*.py")
        for name in imported(path) & {*tests, "tests", "pytest"}
    }
    assert found == set()
