"""The code on docs/python.md runs as written, from top to bottom, with the bundled models."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glide_core.checkpoints.catalog import find_model
from glide_core.checkpoints.loading import load_model
from glide_core.checkpoints.lora import save_lora

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def code_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_every_example_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = find_model("base")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    shutil.copy(base, tmp_path / "runs" / "mine" / "base.safetensors")
    model = load_model(base)
    name, layer = next(
        (n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "unet" in n
    )
    pair = (torch.zeros(2, layer.in_features), torch.zeros(layer.out_features, 2))
    save_lora({name: pair}, tmp_path / "my_lora.safetensors", model, 2.0, "base.safetensors")
    namespace: dict[str, Any] = {}
    blocks = code_blocks()
    assert len(blocks) >= 14
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{PAGE.name}, example {number}", "exec"), namespace)  # noqa: S102
