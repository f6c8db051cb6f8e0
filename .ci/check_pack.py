"""Read the registry's zip and unpack it: python check_pack.py REPOSITORY ZIP FOLDER."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

RUNS = ("nodes", "glide_core", "web", "locales", "example_workflows", "subgraphs")
FILES = {
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
}
MAX_BYTES = 32 * 2**20  # the bundled weights are 24 MB of it


def main(repository: Path, archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        check({name for name in file.namelist() if not name.endswith("/")}, repository)
        file.extractall(folder)
    if archive.stat().st_size > MAX_BYTES:
        sys.exit(f"{archive} has {archive.stat().st_size} bytes. Expected at most {MAX_BYTES}.")
    print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, complete")


def check(packed: set[str], repository: Path) -> None:
    """Exit with a list of missing and unexpected files."""

    def names(*files: Path) -> set[str]:
        found = (path.relative_to(repository) for path in files if path.is_file())
        return {path.as_posix() for path in found if "__pycache__" not in path.parts}

    needed = FILES | names(*(path for top in RUNS for path in (repository / top).rglob("*")))
    manuals = names(*(repository / "docs").glob("*.md"))
    if missing := sorted(needed - packed):
        sys.exit(f"the zip lacks {', '.join(missing)}. See .comfyignore.")
    if extra := sorted(packed - needed - manuals):
        sys.exit(f"the zip has unexpected files: {', '.join(extra)}. See .comfyignore.")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
