"""`python -m tools.comfyui_versions`: which test files it runs and when it writes the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import comfyui_versions
from tools.comfyui_versions import TESTS, VERSIONS, find_tests, main


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with an empty table; no version is installed, and every test passes."""

    def run(python: Any, comfyui: Any, tests: list[Path], frontend: Any) -> dict[str, Any]:
        return {test.name: {"passed": 1, "failed": 0, "skipped": 0} for test in tests}

    for name, value in (("unpack", None), ("environment", Path("python"))):
        monkeypatch.setattr(comfyui_versions, name, lambda *_, value=value: value)
    monkeypatch.setattr(comfyui_versions, "run", run)
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- versions -->\n<!-- /versions -->\nafter\n")
    monkeypatch.setattr(comfyui_versions, "PAGE", path)
    return path


def test_test_files_are_found_by_their_name_in_tests_comfyui() -> None:
    assert find_tests([Path("test_server.py")]) == [TESTS / "test_server.py"]
    with pytest.raises(SystemExit, match=r"not found: .*test_other\.py"):
        find_tests([Path("test_other.py")])


@pytest.mark.parametrize("words", [["--versions", VERSIONS[0]], ["--tests", "test_server.py"]])
def test_a_partial_run_leaves_the_page_as_it_is(
    page: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = page.read_text()
    with pytest.raises(SystemExit) as end:
        main(["git", str(page.parent), *words])
    assert end.value.code == 0 and page.read_text() == before
    assert "| server | 1 passed |" in capsys.readouterr().out
    assert json.loads((page.parent / "results.json").read_text())


def test_a_full_run_writes_a_row_for_each_test_file(page: Path) -> None:
    with pytest.raises(SystemExit):
        main(["git", str(page.parent)])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(list(TESTS.glob("test_*.py")))
    assert rows[0] == f"| tests | {' | '.join(VERSIONS)} |"
