"""Precision, partial loading, LoRA, merging and saving: ComfyUI's machinery on our MODEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile


@pytest.fixture(scope="module")
def glide(comfy: Any) -> Any:
    model, clip, vae = comfy.load()
    return model, clip, vae, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")


def lora_file(comfy: Any, model: Any, style: str, name: str) -> str:
    """Write a LoRA of rank 2 for two UNet weights, keyed as kohya's or diffusers' trainers do."""
    weights = model.model.state_dict()
    torch.manual_seed(6)
    tensors = {}
    for key in ("middle_block.0.emb_layers.1", "middle_block.0.in_layers.2"):
        shape = weights[f"diffusion_model.{key}.weight"].shape
        up, down = torch.randn(shape[0], 2) * 0.2, torch.randn(2, shape[1:].numel()) * 0.2
        if len(shape) == 4:
            up, down = up[..., None, None], down.reshape(2, *shape[1:])
        if style == "kohya":
            prefix = "lora_unet_" + key.replace(".", "_")
            tensors |= {f"{prefix}.lora_up.weight": up, f"{prefix}.lora_down.weight": down}
            tensors[f"{prefix}.alpha"] = torch.tensor(2.0)
        else:
            prefix = f"diffusion_model.{key}"
            tensors |= {f"{prefix}.lora_B.weight": up, f"{prefix}.lora_A.weight": down}
    folder = comfy.checkpoints.base_directory / "models" / "loras"
    folder.mkdir(exist_ok=True)
    import folder_paths

    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name)
    return name


@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_a_lora_changes_the_image_and_leaves_the_model(
    comfy: Any, glide: Any, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, _, _, positive, negative = glide
    name = lora_file(comfy, model, style, f"{style}.safetensors")
    plain = comfy.ksampler(model, positive, negative)
    patched = comfy("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    assert "not loaded" not in caplog.text
    assert float((comfy.ksampler(patched, positive, negative) - plain).abs().max()) > 1e-2
    assert torch.equal(comfy.ksampler(model, positive, negative), plain)


@pytest.mark.parametrize("with_lora", [False, True])
def test_partial_loading_changes_nothing(comfy: Any, glide: Any, with_lora: bool) -> None:
    """As in --lowvram: most layers stay offloaded and are cast, and patched, on use."""
    model, _, _, positive, _ = glide
    if with_lora:
        name = lora_file(comfy, model, "kohya", "partial.safetensors")
        model = comfy("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    comfy.management.unload_all_models()
    whole = one_call(model, positive, lowvram=0)
    part = one_call(model, positive, lowvram=1)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)


def one_call(model: Any, positive: Any, lowvram: int) -> torch.Tensor:
    """x0 of one model call, loaded whole (0) or into that many bytes."""
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    sigma = torch.tensor([1.0])
    with torch.inference_mode():
        model.patch_model(torch.device("cpu"), lowvram_model_memory=lowvram)
        try:
            assert model.model.model_lowvram == bool(lowvram)
            return model.model.apply_model(
                x,
                sigma,
                c_crossattn=positive[0][0],
                y=positive[0][1]["pooled_output"],
            ).clone()
        finally:
            model.unpatch_model(torch.device("cpu"))


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.03), ("float16", 0.004)])
@pytest.mark.parametrize("cast", [False, True])
def test_half_precision_stays_close(
    comfy: Any, glide: Any, dtype: str, tolerance: float, cast: bool
) -> None:
    """Weights in half precision; computed in it, or cast to float32 by ComfyUI (manual cast)."""
    positive = glide[3]
    exact = one_call(glide[0], positive, lowvram=0)
    model, _, _ = comfy("GlideLoader", checkpoint="base.safetensors", dtype=dtype)
    kinds = {p.dtype for p in model.model.diffusion_model.parameters()}
    assert getattr(torch, dtype) in kinds
    model.model.manual_cast_dtype = torch.float32 if cast else None
    found = one_call(model, positive, lowvram=0)
    error = float((found - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt())
    assert error < (tolerance / 2 if cast else tolerance)


def test_merging_with_itself_changes_nothing(comfy: Any, glide: Any) -> None:
    model, _, _, positive, negative = glide
    other, _, _ = comfy.load()
    merged = comfy("ModelMergeSimple", model1=model, model2=other, ratio=0.5)
    expected = comfy.ksampler(model, positive, negative)
    found = comfy.ksampler(merged, positive, negative)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_merging_mixes_the_weights_of_two_models(comfy: Any, glide: Any) -> None:
    model, other = glide[0], comfy.load("base_v")[0]
    comfy.management.unload_all_models()  # or another clone's patches are still in the weights
    merged = comfy("ModelMergeSimple", model1=model, model2=other, ratio=0.25)
    pairs = [m.model.diffusion_model.state_dict() for m in (model, other)]
    pairs = [{key: value.clone() for key, value in state.items()} for state in pairs]
    with torch.inference_mode():
        merged.patch_model(torch.device("cpu"))
    try:
        found = merged.model.diffusion_model.state_dict()
        for key, value in found.items():
            expected = 0.25 * pairs[0][key] + 0.75 * pairs[1][key]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    finally:
        merged.unpatch_model(torch.device("cpu"))


@pytest.mark.parametrize("name", ["base", "base_v"])
@pytest.mark.parametrize("node", ["CheckpointSave", "ModelSave"])
def test_models_saved_by_comfyui_load(comfy: Any, name: str, node: str) -> None:
    model, clip, vae = comfy.load(name)
    inputs = {"model": model, "filename_prefix": f"saved_{node}_{name}"}
    if node == "CheckpointSave":
        inputs |= {"clip": clip, "vae": vae}
    comfy(node, **inputs)
    written = next((comfy.checkpoints.base_directory / "output").glob(f"saved_{node}_{name}*"))
    target = comfy.checkpoints.path(f"saved_{node}_{name}.safetensors")
    written.rename(target)
    again, clip_again, _ = comfy.load(target.stem)
    assert again.model.glide_config == model.model.glide_config
    pairs = [
        (model.model.state_dict(), again.model.state_dict()),
        (clip.get_sd(), clip_again.get_sd()),
    ]
    for old, new in pairs:
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)
    expected = comfy.ksampler(model, comfy.prompt(clip, "fox"), comfy.prompt(clip, ""))
    found = comfy.ksampler(again, comfy.prompt(clip_again, "fox"), comfy.prompt(clip_again, ""))
    # Rounding differs with where in memory the weights lie, and sigma 20291 shows it.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_a_saved_upsampler_keeps_its_text_encoder(comfy: Any, glide: Any) -> None:
    up = comfy.load_upsampler()
    comfy("ModelSave", model=up, filename_prefix="saved_up")
    written: Path = next((comfy.checkpoints.base_directory / "output").glob("saved_up*"))
    written.rename(comfy.checkpoints.path("saved_up.safetensors"))
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    inputs = {"image": image, "positive": glide[3], "seed": 3, "steps": 2, "low_size": 0}
    expected = comfy("GlideUpsample", model=up, **inputs)
    found = comfy("GlideUpsample", model=comfy.load_upsampler("saved_up"), **inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_each_model_encodes_the_prompt_with_its_own_text_encoder(comfy: Any, glide: Any) -> None:
    """A CONDITIONING of another model's CLIP gives the same image as the model's own."""
    _, clip, _, _, _ = glide
    other, other_clip, _ = comfy.load("base_v")
    expected = comfy.ksampler(
        other, comfy.prompt(other_clip, "a (red:1.3) fox"), comfy.prompt(other_clip, "")
    )
    found = comfy.ksampler(other, comfy.prompt(clip, "a (red:1.3) fox"), comfy.prompt(clip, ""))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def peak_memory(run: Any) -> int:
    """Bytes that are allocated at once, at most, while it runs: counted, not sampled."""
    run()  # what a first call keeps is no part of it
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    now = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.bundled
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("node", "name", "size"),
    [
        ("GlideLoader", "base.safetensors", 64),
        ("GlideUpsamplerLoader", "upsampler.safetensors", 128),
        ("GlideLoader", "bundled/base.safetensors", 64),
        ("GlideUpsamplerLoader", "bundled/upsampler.safetensors", 256),
    ],
)
def test_memory_estimate_is_near_what_a_call_takes(
    comfy: Any, node: str, name: str, size: int, batch: int
) -> None:
    found = comfy(node, checkpoint=name, dtype="float32")
    inner = (found[0] if isinstance(found, tuple) else found).model
    config = inner.glide_config
    conditions: dict[str, Any] = {
        "c_crossattn": torch.randn(batch, config.text.context_length, config.text.width),
        "y": torch.randn(batch, config.unet.embedding_width),
    }
    if config.is_upsampler:
        conditions["low_res"] = torch.randn(batch, 3, size, size)
    x, sigma = torch.randn(batch, 3, size, size), torch.ones(batch)
    with torch.inference_mode():
        taken = peak_memory(lambda: inner.apply_model(x, sigma, **conditions))
    estimate = inner.memory_required([batch, 3, size, size])
    assert 0.4 < taken / estimate < 1.1


@pytest.mark.parametrize("node", ["KSampler", "GlideSampler"])
def test_joint_and_separate_branches_sample_the_same(
    comfy: Any, glide: Any, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short, ComfyUI runs the prompts one after the other."""
    model, _, _, positive, negative = glide
    calls: list[int] = []
    call = type(model.model).apply_model

    def counted(self: Any, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        calls.append(len(x))
        return call(self, x, *args, **options)

    def sample() -> torch.Tensor:
        inputs = {"steps": 3, "sampler_name": "ddim", "latent_image": comfy.empty(2)}
        if node == "KSampler":
            return comfy.ksampler(model, positive, negative, **inputs)
        inputs |= {"model": model, "positive": positive, "negative": negative}
        return comfy(node, seed=0, cfg=3.0, **inputs)[1]["samples"].clone()

    monkeypatch.setattr(type(model.model), "apply_model", counted)
    together = sample()
    assert calls == [4, 4, 4]
    calls.clear()
    monkeypatch.setattr(comfy.management, "get_free_memory", lambda *unused, **more: 1)
    apart = sample()
    assert calls == [2] * 6
    torch.testing.assert_close(apart, together, rtol=0, atol=5e-3)


def test_the_builtin_loader_rejects_glide(comfy: Any) -> None:
    loader = comfy.module("nodes.host.comfyui").comfy.sd.load_diffusion_model
    with pytest.raises(RuntimeError, match="detect model type"):
        loader(str(comfy.checkpoints.path("base.safetensors")))
