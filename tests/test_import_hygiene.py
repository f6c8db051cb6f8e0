"""Importing the pack does nothing but define nodes: no network, no file, no global, little time."""

from __future__ import annotations

import shutil
from pathlib import Path
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
    """Beside the core, all of the pack is under the name that ComfyUI gave it."""
    ours = str(REPOSITORY).replace(".", "_x_")
    assert {"nodes", "glide_pack", "web", "tests"}.isdisjoint(found["modules"])
    assert f"{ours}.nodes.loaders" in found["modules"]


def test_the_import_watch_detects_side_effects(tmp_path: Path) -> None:
    """A pack that does all of it is caught at all of it."""
    pack = tmp_path / "bad.pack"
    (pack / "glide_core").mkdir(parents=True)
    (pack / "glide_core" / "__init__.py").touch()
    (pack / "__init__.py").write_text(
        "import os, random, socket, subprocess, sys, warnings, wave, torch\n"
        "sys.path.insert(0, os.path.dirname(__file__))\n"
        "import glide_core\n"
        "open(os.path.join(os.path.dirname(__file__), 'log.txt'), 'w').close()\n"
        "os.mkdir(os.path.join(os.path.dirname(__file__), 'cache'))\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80))\nexcept OSError:\n    pass\n"
        "subprocess.run([sys.executable, '-c', ''])\n"
        "os.environ['A_SETTING'] = '1'\n"
        "torch.manual_seed(0), torch.set_grad_enabled(False), torch.set_num_threads(3)\n"
        "random.seed(0), warnings.simplefilter('ignore')\n"
        "random.shuffle = None\n"
        "NODE_CLASS_MAPPINGS = {}\n"
    )
    found = watch(pack)
    assert [event.split("(")[0] for event in found["disk"]] == ["open", "os.mkdir"]
    assert len(found["network"]) == 1
    assert found["processes"]
    assert found["patched"] == ["random.shuffle"]
    assert "wave" in found["modules"]
    changed = {"environment", "sys.path", "torch grad", "torch threads", "torch random", "warnings"}
    assert found["globals"].keys() >= changed | {"python random"}
    shutil.rmtree(pack)
