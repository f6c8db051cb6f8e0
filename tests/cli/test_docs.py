"""docs/cli.md is what docs/make_cli.py writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_command_line_page_is_current() -> None:
    script = Path(__file__).parents[2] / "docs" / "make_cli.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
