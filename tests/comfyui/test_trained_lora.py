"""A LoRA of `glide train` in ComfyUI: LoraLoader patches every layer, as glide_core does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from glide_core.checkpoints.loading import load_model
from glide_core.checkpoints.lora import apply_lora, save_lora
from glide_core.sampling import tokenize
from glide_core.training import lora
from glide_core.training.config import TrainConfig
from tools.comfyui.checkpoints import Checkpoints


def make_lora(checkpoint: Path, path: Path) -> Path:
    """A LoRA with random values of all layers, as the trainer writes it."""
    model = load_model(checkpoint)
    lora.install(model, TrainConfig("base", lora=2, lora_alpha=4.0, lora_text=True))
    pairs = lora.pairs(model)
    with torch.no_grad():
        for _, up in pairs.values():
            torch.nn.init.normal_(up, std=0.05)
    return save_lora(pairs, path, model, 4.0, checkpoint.name)


def test_lora_loader_patches_what_apply_lora_merges(
    comfy: Any, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    import folder_paths

    base = checkpoints.path("base.safetensors")
    folder = checkpoints.base_directory / "models" / "loras"
    path = make_lora(base, folder / "trained.safetensors")
    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)
    model, clip, _ = comfy.load()
    model, clip = comfy(
        "LoraLoader",
        model=model,
        clip=clip,
        lora_name=path.name,
        strength_model=0.5,
        strength_clip=0.5,
    )
    assert "not loaded" not in caplog.text
    merged = apply_lora(load_model(base), path, 0.5)
    plain = load_model(base).openai_state_dict()
    expected = merged.openai_state_dict()
    changed = {key for key, value in expected.items() if not torch.equal(value, plain[key])}
    names = {key.removeprefix("diffusion_model.") for key in model.patches}
    names |= {key.removeprefix("glide.") for key in clip.patcher.patches}
    assert names == changed
    with torch.inference_mode():
        model.patch_model(torch.device("cpu"))
    try:
        patched = model.model.diffusion_model.state_dict()
        for key in changed & patched.keys():
            torch.testing.assert_close(patched[key], expected[key], rtol=1e-4, atol=1e-5)
    finally:
        model.unpatch_model(torch.device("cpu"))
    (tokens,) = tokenize(merged.config, ["a red fox"])
    with torch.no_grad():
        states = merged.encode(tokens.ids[None], tokens.mask[None]).last_hidden_state
    torch.testing.assert_close(comfy.prompt(clip, "a red fox")[0][0], states, rtol=1e-4, atol=1e-4)
