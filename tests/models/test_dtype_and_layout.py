"""How a model is run changes its speed, not its results: number format, layout, batching."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.unet_calls import context, inputs, rms_over_std
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.checkpoints.loading import load_model, model_from_state_dict, save_model
from glide_core.config import ModelKind
from glide_core.devices import keep_freed_memory
from glide_core.models import layers
from glide_core.models.glide import GlideModel
from glide_core.models.unet import TextContext
from glide_core.sampling import tokenize
from tools.tiny_models import tiny_config, tiny_model

# Of the output's standard deviation. The released models' is under 0.011 (benchmarks/README.md);
# in these, each channel is a norm group of its own, which magnifies what was rounded.
BF16_RMS = 0.03


def loaded(model: GlideModel, dtype: torch.dtype = torch.float32) -> GlideModel:
    """The model as a file of it is loaded."""
    return model_from_state_dict(model.openai_state_dict(), model.config, dtype=dtype)


@pytest.mark.parametrize("kind", ["base", "upsampler", "inpaint", "upsampler-inpaint"])
def test_bfloat16_is_within_its_error_bar(kind: ModelKind) -> None:
    model, given = tiny_model(kind), inputs(kind)
    half = loaded(model, torch.bfloat16)
    with torch.inference_mode():
        wanted = model.unet(**given, context=context(model, ["a red car", ""]))
        got = half.unet(**given, context=context(half, ["a red car", ""]))
    assert got.dtype == torch.float32
    assert rms_over_std(got, wanted) < BF16_RMS


def test_half_keeps_norms_embeddings_and_head_in_float32() -> None:
    half = loaded(tiny_model("base"), torch.bfloat16)
    kept = (half.unet.out[2], half.unet.time_embed[0], half.unet.out[0], half.text.final_ln)
    assert all(module.weight.dtype == torch.float32 for module in kept)
    assert half.unet.middle_block[0].in_layers[2].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["base", "upsampler-inpaint"])
def test_channels_last_weights_give_the_same_result(kind: ModelKind) -> None:
    model, given = tiny_model(kind), inputs(kind)
    fast = loaded(model)
    weight = fast.unet.middle_block[0].in_layers[2].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        text = context(model, ["a red car", "a dog"])
        torch.testing.assert_close(
            fast.unet(**given, context=text),
            model.unet(**given, context=text),
            rtol=1e-5,
            atol=1e-5,
        )


def test_a_channels_last_model_is_saved_and_loaded_unchanged(tmp_path: Path) -> None:
    model = loaded(tiny_model("base"))
    path = save_model(model, tmp_path / "model.safetensors", dtype=torch.float32)
    again = load_model(path).openai_state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.openai_state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_path_and_the_inference_path_agree(dtype: torch.dtype) -> None:
    model, given = loaded(tiny_model("upsampler"), dtype), inputs("upsampler")
    text = context(model, ["a red car", "a dog"])
    with torch.inference_mode():
        fast = model.unet(**given, context=text)
    with torch.enable_grad():
        plain = model.unet(**given, context=text)
    if dtype == torch.float32:
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    else:
        assert rms_over_std(fast, plain) < BF16_RMS


def test_a_context_made_once_equals_one_made_on_the_fly() -> None:
    model, given = tiny_model("base"), inputs("base")
    tokens = tokenize(model.config, ["a red car", ""])
    ids, mask = torch.stack([t.ids for t in tokens]), torch.stack([t.mask for t in tokens])
    with torch.inference_mode():
        features = model.encode(ids, mask)
        once = model.unet(**given, context=model.unet.context(features))
        assert torch.equal(once, model.unet(**given, context=features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_branches_joined_in_a_batch_equal_separate_calls(dtype: torch.dtype) -> None:
    model, given = loaded(tiny_model("base"), dtype), inputs("base", batch=1)
    with torch.inference_mode():
        prompts = [context(model, [prompt]) for prompt in ("a red car", "")]
        twice = {key: torch.cat([value, value]) for key, value in given.items()}
        joined = model.unet(**twice, context=TextContext.cat(prompts))
        apart = torch.cat([model.unet(**given, context=prompt) for prompt in prompts])
    if dtype == torch.float32:
        torch.testing.assert_close(joined, apart, rtol=1e-5, atol=1e-5)
    else:
        assert rms_over_std(joined, apart) < BF16_RMS


@pytest.mark.parametrize("kind", ["base", "upsampler"])
def test_gradients_reach_every_weight_and_the_image(kind: ModelKind) -> None:
    model, given = loaded(tiny_model(kind)).requires_grad_(True), inputs(kind)
    given["x"].requires_grad_(True)
    model.unet(**given, context=context(model, ["a red car", "a dog"])).square().mean().backward()
    assert given["x"].grad is not None and given["x"].grad.abs().sum() > 0
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []


def test_inputs_are_left_as_they_were() -> None:
    model, given = loaded(tiny_model("upsampler-inpaint")), inputs("upsampler-inpaint")
    before = {key: value.clone() for key, value in given.items()}
    with torch.inference_mode():
        text = context(model, ["a red car", "a dog"])
        first = model.unet(**given, context=text)
        assert torch.equal(first, model.unet(**given, context=text))  # the context, too
    assert all(torch.equal(before[key], value) for key, value in given.items())


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
def test_scale_and_shift_inside_the_norm_equal_those_after_it(batch: int) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(8, 32)
    norm.weight.normal_()
    norm.bias.normal_()
    x = torch.randn(batch, 32, 6, 6).to(memory_format=torch.channels_last)
    scale, shift = torch.randn(2, batch, 32, 1, 1)
    got = layers.norm_act(norm, x, scale, shift, act=True)
    torch.testing.assert_close(got, F.silu(norm(x) * (1 + scale) + shift), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("act", [True, False])
def test_a_large_image_is_normalized_in_bands_to_the_same_result(act: bool) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(32, 64)
    x = (torch.randn(1, 64, 200, 129) * 2 + 5).bfloat16().to(memory_format=torch.channels_last)
    wanted = norm(x.float())
    got = layers.norm_act(norm, x, act=act)
    assert got.is_contiguous(memory_format=torch.channels_last)
    wanted = F.silu(wanted) if act else wanted
    torch.testing.assert_close(got.float(), wanted, rtol=1e-2, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)])
def test_a_convolution_of_few_pixels_equals_torchs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(layers, "_MANY_WEIGHTS", 1)
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 48, 3, padding=1).to(dtype)
    x = torch.randn(2, 32, *size).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = layers.conv3x3(conv, x.to(memory_format=layout))
        torch.testing.assert_close(got, conv(x), rtol=tolerance, atol=tolerance)


@torch.inference_mode()
def test_attention_in_bfloat16_equals_torchs() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 16, 32), torch.randn(2, 4, 24, 32), torch.randn(2, 4, 24, 32)
    got = layers.attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert rms_over_std(got.float(), F.scaled_dot_product_attention(q, k, v)) < 0.01


def test_every_call_goes_through_the_hosts_layers() -> None:
    calls: list[str] = []

    class Host:
        """A host's layers: torch's, by another class."""

    def own(base: type[nn.Module]) -> type[nn.Module]:
        def forward(self: nn.Module, x: Tensor) -> Tensor:
            calls.append(base.__name__)
            return base.forward(self, x)  # type: ignore[attr-defined, no-any-return]

        return type(f"Host{base.__name__}", (base,), {"forward": forward, "__module__": "host"})

    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
    for kind in kinds:
        setattr(Host, kind.__name__, own(kind))
    plain = tiny_model("base")
    model = GlideModel(tiny_config("base"), operations=Host).eval()
    model.load_openai_state_dict(plain.openai_state_dict())
    given = inputs("base", batch=1)
    with torch.inference_mode():
        got = model.unet(**given, context=context(model, ["a red car"]))
        wanted = plain.unet(**given, context=context(plain, ["a red car"]))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert {kind.__name__ for kind in kinds} <= set(calls)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
    assert sum(name.startswith("Conv") for name in calls) == len(convolutions)


def test_freed_memory_is_kept_and_given_back() -> None:
    with keep_freed_memory(torch.device("cpu")):
        assert torch.ones(2**24).sum() == 2**24  # 64 MB
    with pytest.raises(ValueError, match="inside"), keep_freed_memory(torch.device("cpu")):
        raise ValueError("inside")
    assert torch.ones(2**24).sum() == 2**24
