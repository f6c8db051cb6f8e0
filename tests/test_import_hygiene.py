"""Importing the pack does nothing but define nodes: no network, no file, no global, little time."""

from __future__ import annotations

from typing import Any

import pytest
from import_watch import NOTHING, REPOSITORY, watch

# Used only when a node runs, if at all.
HEAVY = {
    "accelerate", "diffusers", "ftfy", "huggingface_hub", "matplotlib", "open_clip", "pandas",
    "PIL", "regex", "requests", "scipy", "tensorboard", "timm", "tokenizers", "torch_fidelity",
    "torchvision", "tqdm", "transformers", "urllib3",
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return watch(REPOSITORY)


def test_import_defines_the_nodes_and_loads_its_own_glide_core(found: dict[str, Any]) -> None:
    assert len(found["nodes"]) >= 14
    assert found["core"] == str(REPOSITORY / "glide_core" / "__init__.py")


@pytest.mark.parametrize("kind", NOTHING)
def test_import_has_no_side_effects(found: dict[str, Any], kind: str) -> None:
    assert found[kind] == NOTHING[kind]


def test_import_does_not_load_heavy_libraries(found: dict[str, Any]) -> None:
    assert HEAVY.isdisjoint(name.split(".")[0] for name in found["modules"])
    assert "torch._dynamo" not in found["modules"]
    assert "torch._inductor" not in found["modules"]


def test_import_adds_no_top_level_module_names(found: dict[str, Any]) -> None:
    """Apart from glide_core, all modules are under the name that ComfyUI gave the pack."""
    ours = str(REPOSITORY).replace(".", "_x_")
    assert {"nodes", "glide_pack", "web", "tests"}.isdisjoint(found["modules"])
    assert f"{ours}.nodes.loaders" in found["modules"]
