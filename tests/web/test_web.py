"""The browser extension's own modules, by node's test runner, and what its files may contain."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))
SCRIPTS = sorted([*(REPOSITORY / "web").glob("*.js"), *(REPOSITORY / "web" / "lib").glob("*")])
OLDEST = 18  # the first node with a test runner


def node() -> str:
    """The path of node; the test is skipped where there is none that is new enough."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node: install Node.js 18 or newer to run the browser extension's tests")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    if int(version.strip().lstrip("v").split(".")[0] or 0) < OLDEST:
        pytest.skip(f"node is {version.strip()}: its test runner needs {OLDEST} or newer")
    return found


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.name)
def test_the_browser_modules(file: Path) -> None:
    done = subprocess.run([node(), "--test", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE) or re.search(
        r"pass (\d+)", done.stdout
    )
    assert passed is not None and int(passed[1]) > 1


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_read_without_error(file: Path) -> None:
    with file.open("rb") as source:
        command = [node(), "--input-type=module", "--check", "-"]
        done = subprocess.run(command, stdin=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_comfyui_loads_one_script_and_it_registers_one_extension() -> None:
    """ComfyUI imports every .js file by itself; the modules are .mjs, imported by it alone."""
    scripts = list((REPOSITORY / "web").rglob("*.js"))
    assert [path.name for path in scripts] == ["glide.js"]
    source = scripts[0].read_text(encoding="utf-8")
    assert re.findall(r'registerExtension\(\{\s*name: "([^"]+)"', source) == ["glide.liveViews"]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_do_not_change_the_page(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert source.isascii()
    for banned in (
        r"\bwindow\b",
        r"\bglobalThis\b",
        r"\.prototype\b",
        r"document\.(?!createElement)",
        r"localStorage|sessionStorage(?!\.[gs]etItem\(STORED)",  # STORED: a key of our own
        r"\bapp\.\w+\s*=[^=>]",
        r"\bapi\.\w+\s*=[^=>]",
        r"LiteGraph",
        r"innerHTML(?! = COMMON )|eval\(|new Function",
    ):
        assert not re.search(banned, source), banned


def test_every_import_is_there() -> None:
    for file in SCRIPTS:
        for target in re.findall(r'from "(\.[^"]+)"', file.read_text(encoding="utf-8")):
            if not target.endswith(("scripts/app.js", "scripts/api.js")):  # ComfyUI's own
                assert (file.parent / target).is_file(), (file.name, target)
