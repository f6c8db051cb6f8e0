"""The probes of `dynamic_vram.py`, in a process of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def test_glide_works_under_dynamic_vram(comfy: Any) -> None:
    patchers = importlib.import_module("comfy.model_patcher")
    if not hasattr(patchers, "ModelPatcherDynamic"):
        pytest.skip("this ComfyUI has no DynamicVRAM (0.16 and newer)")
    pytest.importorskip("comfy_aimdo")
    run = subprocess.run(
        [sys.executable, "-m", "comfyui.dynamic_vram"],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith(("ok ", "FAILED "))]
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-3000:]}"
    assert len(lines) == 10
