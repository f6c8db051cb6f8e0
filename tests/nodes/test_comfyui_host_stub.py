"""nodes/host/comfyui imports and builds its classes on a stub of ComfyUI's modules."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_stub import stubbed
from conftest import TINY_FILES

HOST = "glide_pack.nodes.host.comfyui"
FOLDER = Path(__file__).resolve().parents[2] / "nodes" / "host" / "comfyui"
NAMES = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]


@pytest.fixture
def host() -> Iterator[Any]:
    with stubbed():
        yield importlib.import_module(HOST)


@pytest.mark.parametrize("name", NAMES)
def test_every_module_imports(host: Any, name: str) -> None:
    assert importlib.import_module(f"{HOST}.{name}").__doc__


@pytest.mark.parametrize("kind", ["base", "inpaint"])
def test_a_checkpoint_becomes_model_and_clip(host: Any, tiny_models: Path, kind: str) -> None:
    patcher, text = host.load_model(tiny_models / TINY_FILES[kind], "float32", (kind,))
    model = patcher.model
    assert model.glide_config.kind == kind
    assert model.latent_format.spacial_downscale_ratio == 1
    assert model.memory_required([1, 3, 64, 64], cond_shapes={}, anything_new=1) > 0
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert len(patcher.post_cfg) == 1
    tokens = text.clip.tokenizer.tokenize_with_weights("a fox", disable_weights=True)
    encoder = text.clip.cond_stage_model
    encoder.set_clip_options({"execution_device": torch.device("cpu")})
    found = encoder.extras(tokens)
    assert found["glide_text"] == "a fox"


def test_the_network_in_comfyui_is_glide_core_s(host: Any, tiny_models: Path) -> None:
    from glide_core.checkpoints.loading import load_model

    path = tiny_models / TINY_FILES["base"]
    ours = host.load_model(path, "float32", ("base",))[0].model.diffusion_model
    expected = load_model(path).unet
    assert ours.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in ours.state_dict().items())


def test_the_model_can_be_reloaded_by_comfyui(host: Any, tiny_models: Path) -> None:
    args = (tiny_models / TINY_FILES["base"], "float32", ("base",))
    assert host.reload_model(*args, disable_dynamic=True).model.glide_config.kind == "base"
    assert host.reload_text(*args, disable_dynamic=True).model is not None
