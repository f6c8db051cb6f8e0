"""Attention patches act on GLIDE's joint attention, under KSampler and GLIDE Sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

SIZE = 64
NODES: dict[str, dict[str, Any]] = {
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "NAGuidance": {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5},
    "HyperTile": {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.3},
}


@pytest.fixture(scope="module")
def glide(comfy: Any) -> Any:
    model, clip, _ = comfy.load("base_v")
    return model, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")


def one_call(model: Any, positive: Any) -> torch.Tensor:
    """x0 [2, 3, H, W] of one model call with the MODEL's transformer_options."""
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(8))
    states, pooled = positive[0][0], positive[0][1]["pooled_output"]
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [0, 1]}
    with torch.inference_mode():
        return model.model.apply_model(  # type: ignore[no-any-return]
            x, torch.ones(2), c_crossattn=states.repeat(2, 1, 1), y=pooled.repeat(2, 1),
            transformer_options=options,
        ).clone()  # fmt: skip


def identity(n: Any, context: Any, value: Any, options: Any) -> Any:
    return n, context, value


def plain_attention(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
    """What ComfyUI's attention computes, as a replacement: [B, L, heads * d]."""
    heads = options["n_heads"]
    q, k, v = (x.view(len(x), x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(len(out), out.shape[2], -1)


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
@pytest.mark.parametrize("way", ["patch", "output", "replace"])
def test_an_identity_patch_changes_nothing(comfy: Any, glide: Any, kind: str, way: str) -> None:
    model, positive, _ = glide
    patched = model.clone()
    if way == "patch":
        getattr(patched, f"set_model_{kind}_patch")(identity)
    elif way == "output":
        getattr(patched, f"set_model_{kind}_output_patch")(lambda out, options: out)
    else:
        for place in comfy.module("nodes.host.comfyui.patches").attention_places(
            model.model.diffusion_model
        ):
            getattr(patched, f"set_model_{kind}_replace")(plain_attention, *place)
    torch.testing.assert_close(
        one_call(patched, positive), one_call(model, positive), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
def test_a_patch_sees_its_part_of_the_attention(comfy: Any, glide: Any, kind: str) -> None:
    """Pixels have as many keys as queries, text as many as the prompt has positions."""
    model, positive, _ = glide
    seen: list[tuple[Any, ...]] = []

    def record(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        seen.append((q.shape, k.shape, options["block"], options["cond_or_uncond"]))
        return plain_attention(q, k, v, options)

    patched = model.clone()
    getattr(patched, f"set_model_{kind}_replace")(record, "middle", 0, 0)
    one_call(patched, positive)
    width = model.model.glide_config.unet.model_channels * 2
    length = positive[0][0].shape[1]
    pixels = (2, (SIZE // 2) ** 2, width)
    keys = pixels if kind == "attn1" else (2, length, width)
    assert seen == [(pixels, keys, ("middle", 0), [0, 1])]


def sample(comfy: Any, node: str, model: Any, positive: Any, negative: Any) -> torch.Tensor:
    if node == "KSampler":
        return comfy.ksampler(model, positive, negative, steps=3)  # type: ignore[no-any-return]
    found = comfy(
        "GlideSampler", model=model, positive=positive, negative=negative, seed=0, steps=3,
        latent_image=comfy.empty(), sampler_name="ddim", cfg=3.0,
    )  # fmt: skip
    return found[1]["samples"].clone()  # type: ignore[no-any-return]


@pytest.mark.parametrize("sampler", ["KSampler", "GlideSampler"])
@pytest.mark.parametrize("node", NODES)
def test_attention_nodes_act(comfy: Any, glide: Any, node: str, sampler: str) -> None:
    model, positive, negative = glide
    if comfy.find(node) is None:
        pytest.skip(f"this ComfyUI has no {node}")
    patched = comfy(node, model=model, **NODES[node])
    found = sample(comfy, sampler, patched, positive, negative)
    plain = sample(comfy, sampler, model, positive, negative)
    assert torch.isfinite(found).all()
    assert float((found - plain).abs().max()) > 1e-3


def test_a_replacement_of_a_block_that_glide_does_not_have_is_named(
    comfy: Any, glide: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, positive, negative = glide
    patched = model.clone()
    patched.set_model_attn1_replace(plain_attention, "input", 99, 0)
    comfy.ksampler(patched, positive, negative, steps=1)
    assert "Ignored model patches" in caplog.text
    assert "plain_attention" in caplog.text


def test_a_replaced_layer_of_other_networks_is_refused(comfy: Any, glide: Any) -> None:
    model, positive, negative = glide
    patched = model.clone()
    patched.set_model_patch_replace(plain_attention, "dit", "double_block", 0)
    with pytest.raises(ValueError, match="replaces a layer GLIDE does not have"):
        comfy.ksampler(patched, positive, negative, steps=1)
