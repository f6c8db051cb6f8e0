"""Run tests/comfyui on several versions of ComfyUI and write the table of results.

    python -m tools.comfyui_versions GIT_DIR FOLDER [--versions V ...] [--tests FILE ...]
        [--newest-frontend]

GIT_DIR: a git directory of ComfyUI with its history. Each version is unpacked into FOLDER/<version>
and gets an environment FOLDER/env-<version>: the packages of the Python that runs this script
(ComfyUI's requirements, pytest), and over them the packages that the version pins. Results are kept
in FOLDER/results.json. A run of all versions and all test files writes the table in
docs/compatibility.md from them; any other run prints it. The tests do not write to the checkouts.

--newest-frontend runs only the tests of the interface, with the newest interface on PyPI instead of
the one that the version pins; its results become another column at the next full run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import site
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree as ET
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests" / "comfyui"
PAGE = REPOSITORY / "docs" / "compatibility.md"
VERSIONS = ("0.3.64", "0.16.0", "0.24.0", "0.33.0")
START, END = "<!-- versions -->", "<!-- /versions -->"
PINNED = re.compile(r"(comfyui-|comfy-aimdo|comfy-kitchen)")

# the tests that open the interface in a browser
INTERFACE = ("test_browser.py", "test_help_pages.py", "test_languages.py")

Results = dict[str, dict[str, dict[str, int]]]  # version, test file, outcome: count


def all_tests() -> list[Path]:
    return sorted(TESTS.glob("test_*.py"))


def find_tests(names: list[Path] | None) -> list[Path]:
    """Return test files by path or by their name in tests/comfyui; all of them for None."""
    if names is None:
        return all_tests()
    found = [name.resolve() if name.is_file() else TESTS / name for name in names]
    if missing := [str(path) for path in found if not path.is_file()]:
        raise SystemExit(f"test files not found: {', '.join(missing)}")
    return found


def git(git_dir: Path, *args: str) -> bytes:
    command = ["git", "--git-dir", str(git_dir), *args]
    return subprocess.run(command, capture_output=True, check=True).stdout


def revision(git_dir: Path, version: str) -> str:
    """Give a version's tag, or where there are no tags the commit that sets the version."""
    tag = subprocess.run(
        ["git", "--git-dir", str(git_dir), "rev-parse", "-q", "--verify", f"v{version}^{{commit}}"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    if tag:
        return tag
    pattern = f'__version__ = "{version}"'
    log = ("log", "--format=%H", "--reverse", f"-S{pattern}", "--", "comfyui_version.py")
    for commit in git(git_dir, *log).decode().split():
        if pattern in git(git_dir, "show", f"{commit}:comfyui_version.py").decode():
            return commit
    raise SystemExit(f"{git_dir} has no ComfyUI {version}")


def unpack(git_dir: Path, version: str, folder: Path) -> None:
    """Write every file of a version; those whose content the repository lacks are named."""
    if (folder / "main.py").exists():
        return
    entries = git(git_dir, "ls-tree", "-r", "-z", revision(git_dir, version)).split(b"\0")
    command = ["git", "--git-dir", str(git_dir), "cat-file", "--batch"]
    missing = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        for entry in filter(None, entries):
            meta, path = entry.split(b"\t", 1)
            _, kind, sha = meta.split(b" ")
            if kind != b"blob":
                continue
            reader.stdin.write(sha + b"\n")
            reader.stdin.flush()
            header = reader.stdout.readline().split()
            if header[1] == b"missing":
                missing.append(path.decode())
                continue
            data = reader.stdout.read(int(header[2]) + 1)[:-1]
            target = folder / path.decode()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    print(f"{version} unpacked; missing: {', '.join(missing) or 'nothing'}")


def environment(comfyui: Path, folder: Path) -> Path:
    """Give a Python with this one's packages and the ones that a version pins."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists():
        return python
    venv.create(folder, with_pip=False)
    packages = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    (packages / "base.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.strip() for line in lines if PINNED.match(line)]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*command, str(packages), *pinned], check=True)
    return python


def newest_frontend(folder: Path) -> tuple[str, Path]:
    """Install the newest interface into a folder; gives its version and its static files."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target"]
    subprocess.run([*command, str(folder), "comfyui-frontend-package"], check=True)
    info = next(folder.glob("comfyui_frontend_package-*.dist-info"))
    version = info.name.removesuffix(".dist-info").rpartition("-")[2]
    return version, folder / "comfyui_frontend_package" / "static"


def run(
    python: Path, comfyui: Path, tests: list[Path], frontend: Path | None = None
) -> dict[str, dict[str, int]]:
    """Run test files in one process; gives how many tests of each passed, failed and were skipped.

    frontend: the interface that is served instead of the version's own. A file without a result,
    because the process ended before it, counts as one failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        subprocess.run(
            [python, "-m", "pytest", *options, f"--junit-xml={report}", *tests],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "COMFYUI_PATH": str(comfyui),
                **({"COMFYUI_FRONTEND": str(frontend)} if frontend else {}),
            },
        )
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    return {test.name: count(cases, test.stem) for test in tests}


def count(cases: list[ET.Element], name: str) -> dict[str, int]:
    """Count the outcomes of a file's tests in pytest's report."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for case in cases:
        where = f"{case.get('classname')}.{case.get('name')}".split(".")
        if name in where:
            kinds = {part.tag for part in case}
            failed = bool(kinds & {"failure", "error"})
            found["failed" if failed else "skipped" if "skipped" in kinds else "passed"] += 1
    return found if any(found.values()) else {**found, "failed": 1}


def table(results: Results) -> str:
    """Give the Markdown table: a row a test file, a column a version."""
    versions = sorted(results, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    names = [path.name for path in all_tests()]
    lines = [
        f"| tests | {' | '.join(versions)} |",
        f"|---|{'---|' * len(versions)}",
    ]
    for name in names:
        cells = [cell(results[version].get(name)) for version in versions]
        lines.append(f"| {name.removeprefix('test_').removesuffix('.py')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "-"
    parts = [f"{counts[name]} {name}" for name in ("passed", "failed", "skipped") if counts[name]]
    return ", ".join(parts) or "none"


def write_table(results: Results, page: Path) -> None:
    """Replace what stands between the markers of the page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(START, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{START}\n{table(results)}\n{END}{after}", encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("git_dir", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--tests", nargs="+", type=Path, help="default: all of tests/comfyui")
    parser.add_argument("--newest-frontend", action="store_true")
    options = parser.parse_args(words)
    tests = find_tests(options.tests)
    full = set(options.versions) >= set(VERSIONS) and set(tests) >= set(all_tests())
    folder = options.folder.resolve()
    suffix, frontend = "", None
    if options.newest_frontend:
        number, frontend = newest_frontend(folder / "frontend")
        full, suffix = False, f", interface {number}"
        tests = [test for test in tests if test.name in INTERFACE]
    kept = folder / "results.json"
    results: Results = json.loads(kept.read_text()) if kept.exists() else {}
    for version in options.versions:
        comfyui = folder / version
        unpack(options.git_dir, version, comfyui)
        python = environment(comfyui, folder / f"env-{version}")
        found = run(python, comfyui, tests, frontend)
        results.setdefault(version + suffix, {}).update(found)
        kept.write_text(json.dumps(results, indent=1, sort_keys=True))
    if full:
        write_table(results, PAGE)
    else:
        print(table(results))
    failed = sum(counts["failed"] for files in results.values() for counts in files.values())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
