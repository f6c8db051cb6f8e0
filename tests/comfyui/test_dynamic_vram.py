"""The probes of dynamic_vram.py, in a process of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.comfyui import REPOSITORY


def test_glide_works_under_dynamic_vram(comfy: Any) -> None:
    patchers = importlib.import_module("comfy.model_patcher")
    if not hasattr(patchers, "ModelPatcherDynamic"):
        pytest.skip("this ComfyUI has no DynamicVRAM (0.16 and newer)")
    pytest.importorskip("comfy_aimdo")
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("dynamic_vram.py"))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith(("ok ", "FAILED "))]
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-3000:]}"
    assert len(lines) == 10
