"""ComfyUI's nodes that reload, retarget, train, save or compile a MODEL and CLIP work on GLIDE."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def glide(comfy: Any) -> Any:
    model, clip, vae = comfy.load("base_v")
    return model, clip, vae, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")


def need(comfy: Any, node: str) -> Any:
    cls = comfy.find(node)
    if cls is None:
        pytest.skip(f"this ComfyUI has no {node}")
    return cls


def sample(comfy: Any, glide: Any, model: Any) -> torch.Tensor:
    return comfy.ksampler(model, glide[3], glide[4], steps=2)  # type: ignore[no-any-return]


def lora_folder(comfy: Any) -> Path:
    import folder_paths

    folder = comfy.checkpoints.base_directory / "models" / "loras"
    folder.mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)
    return folder  # type: ignore[no-any-return]


TRAINING: dict[str, Any] = {
    "batch_size": 2, "steps": 6, "grad_accumulation_steps": 1, "learning_rate": 0.02, "rank": 4,
    "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32",
    "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
    "gradient_checkpointing": True, "checkpoint_depth": 1, "offloading": False,
    "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["base", "base_v"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_train_lora_trains_glide(comfy: Any, glide: Any, kind: str, dtype: str) -> None:
    """The trained file loads with Load LoRA, changes the image and leaves the MODEL as it was."""
    cls = need(comfy, "TrainLoraNode")
    model, clip, vae = comfy.load(kind)
    positive, negative = comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")
    pixels = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    latents = comfy("VAEEncode", pixels=pixels, vae=vae)
    before = comfy.ksampler(model, positive, negative, steps=2)
    lists = hasattr(cls, "define_schema")  # newer versions take every input as a list
    known = inspect.signature(cls.execute if lists else getattr(cls, cls.FUNCTION)).parameters
    settings = {**TRAINING, "training_dtype": dtype, "lora_dtype": dtype}
    given = {name: value for name, value in settings.items() if name in known}
    given |= {"model": model, "latents": latents, "positive": positive}
    if lists:
        given = {name: [value] for name, value in given.items()}
    found = comfy("TrainLoraNode", **given)
    lora, losses = (found[0], found[1]) if isinstance(found[0], dict) else (found[1], found[2])
    assert all(torch.isfinite(weight).all() for weight in lora.values())
    assert len(losses["loss"]) == settings["steps"]
    save = "SaveLoRA" if comfy.find("SaveLoRA") else "SaveLoRANode"  # before its V3 schema
    comfy(save, lora=lora, prefix=f"loras/trained_{kind}_{dtype}")
    written = next((comfy.checkpoints.base_directory / "output").rglob(f"trained_{kind}_{dtype}*"))
    written.rename(lora_folder(comfy) / f"{kind}_{dtype}.safetensors")
    name = f"{kind}_{dtype}.safetensors"
    tuned, _ = comfy(
        "LoraLoader", model=model, clip=clip, lora_name=name, strength_model=1.0, strength_clip=1.0
    )
    changed = comfy.ksampler(tuned, positive, negative, steps=2)
    assert torch.isfinite(changed).all()
    assert float((changed - before).abs().max()) > 1e-3
    again = comfy.ksampler(model, positive, negative, steps=2)
    torch.testing.assert_close(again, before, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def hooks(comfy: Any, glide: Any) -> Any:
    """A hook that adds a LoRA to the UNet's last layer."""
    need(comfy, "CreateHookLora")
    key = "diffusion_model.out.2"
    shape = glide[0].model.state_dict()[f"{key}.weight"].shape
    torch.manual_seed(1)
    file = {
        f"{key}.lora_B.weight": 0.3 * torch.randn(shape[0], 2, 1, 1),
        f"{key}.lora_A.weight": torch.randn(2, *shape[1:]),
    }
    save_file(file, lora_folder(comfy) / "hooked.safetensors")
    return comfy(
        "CreateHookLora", lora_name="hooked.safetensors", strength_model=1.0, strength_clip=1.0
    )


@pytest.mark.parametrize("scheduled", [False, True])
def test_set_clip_hooks_keeps_the_prompt_and_changes_the_model(
    comfy: Any, glide: Any, hooks: Any, scheduled: bool
) -> None:
    clip = comfy(
        "SetClipHooks", clip=glide[1], schedule_clip=scheduled, apply_to_conds=True, hooks=hooks
    )
    positive = comfy.prompt(clip, "a red fox")
    assert positive[0][1]["glide_text"] == "a red fox"
    torch.testing.assert_close(positive[0][0], glide[3][0][0])
    found = comfy.ksampler(glide[0], positive, glide[4], steps=2)
    assert float((found - sample(comfy, glide, glide[0])).abs().max()) > 1e-3


@pytest.mark.parametrize("device", ["default", "cpu"])
def test_device_selectors_keep_the_result(comfy: Any, glide: Any, device: str) -> None:
    need(comfy, "SelectModelDevice")
    model = comfy("SelectModelDevice", model=glide[0], device=device)
    clip = comfy("SelectCLIPDevice", clip=glide[1], device=device)
    found = comfy.ksampler(model, comfy.prompt(clip, "a red fox"), glide[4], steps=2)
    torch.testing.assert_close(found, sample(comfy, glide, glide[0]), rtol=0, atol=1e-4)


def test_the_text_encoder_runs_where_comfyui_says(comfy: Any, glide: Any) -> None:
    inner = glide[1].cond_stage_model
    inner.set_clip_options({"layer": -2})
    inner.set_clip_options({"execution_device": torch.device("meta")})
    assert inner.execution_device == torch.device("meta")
    inner.reset_clip_options()
    assert inner.execution_device is None


def test_multi_gpu_split_gets_a_model_of_its_own(comfy: Any, glide: Any) -> None:
    if not hasattr(glide[0], "deepclone_multigpu"):
        pytest.skip("this ComfyUI has no MultiGPU CFG Split")
    copied = glide[0].deepclone_multigpu(torch.device("cpu"))
    assert copied.model is not glide[0].model
    torch.testing.assert_close(
        sample(comfy, glide, copied), sample(comfy, glide, glide[0]), rtol=0, atol=1e-4
    )


def test_easy_cache_runs_on_a_batch_with_guidance(comfy: Any, glide: Any) -> None:
    need(comfy, "EasyCache")
    model = comfy("EasyCache", model=glide[0], reuse_threshold=0.2, start_percent=0.15,
                  end_percent=0.95, verbose=False)  # fmt: skip
    run = {"latent_image": comfy.empty(2), "steps": 8}
    holder = model.model_options["transformer_options"]["easycache"]
    if hasattr(holder, "can_apply_cache_diff"):
        assert torch.isfinite(comfy.ksampler(model, glide[3], glide[4], **run)).all()
    else:
        with pytest.raises(ValueError, match="EasyCache of this ComfyUI"):
            comfy.ksampler(model, glide[3], glide[4], **run)


def test_a_compiled_model_samples_the_same(
    comfy: Any, glide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchCompileModel's wrapper, with a backend that needs no compiler."""
    need(comfy, "TorchCompileModel")
    helpers = pytest.importorskip("comfy_api.torch_helpers")
    model = glide[0].clone()
    helpers.set_torch_compile_wrapper(model=model, backend="eager")
    torch.testing.assert_close(
        sample(comfy, glide, model), sample(comfy, glide, glide[0]), rtol=0, atol=1e-3
    )
