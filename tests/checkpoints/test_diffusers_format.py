"""The UNet is the same function in diffusers, and comes back from there bit for bit."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from glide_core.checkpoints.diffusers_format import (
    diffusers_config,
    from_diffusers,
    to_diffusers,
    unet_config,
)
from glide_core.config import KINDS, RELEASED, GlideConfig, ModelKind, TextConfig, UNetConfig
from glide_core.errors import GlideError
from glide_core.models.conditions import joined, spatial_conditions
from glide_core.models.glide import GlideModel
from glide_core.models.text_encoder import TextEncoder, TextFeatures

TINY = GlideConfig(
    text=TextConfig(n_vocab=64, context_length=6, width=48, layers=1, heads=2),
    unet=UNetConfig(
        image_size=16,
        model_channels=32,
        num_res_blocks=2,
        channel_mult=(1, 1, 2),
        attention_factors=(2, 4),
        num_head_channels=16,
    ),
)


def random_model(kind: ModelKind, **unet: object) -> GlideModel:
    generator = torch.Generator().manual_seed(3)
    model = GlideModel(replace(TINY, kind=kind, unet=replace(TINY.unet, **unet)))
    with torch.no_grad():
        for name, p in model.named_parameters():
            fan_in = p[0].numel() if p.ndim > 1 else 25
            p.copy_(torch.randn(p.shape, generator=generator) / fan_in**0.5)
            if p.ndim == 1 and name.endswith("weight"):
                p.add_(1)
    return model.eval()


def converted(model: GlideModel) -> UNet2DConditionModel:
    config, state = to_diffusers(model)
    unet = UNet2DConditionModel(**config)
    unet.load_state_dict(state, strict=True)
    return unet.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", [(2, 4), (4,), ()])
def test_both_unets_give_the_same_output(kind: ModelKind, attention: tuple[int, ...]) -> None:
    model = random_model(kind, attention_factors=attention)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    features = TextFeatures(
        torch.randn(2, 6, 48, generator=generator), torch.randn(2, 128, generator=generator)
    )
    t = torch.tensor([3, 997])
    given = {}
    if model.config.is_upsampler:
        given["low_res"] = torch.randn(2, 3, 4, 4, generator=generator)
    if model.config.is_inpaint:
        given["image"] = torch.randn(2, 3, 16, 16, generator=generator)
        given["keep_mask"] = (torch.rand(2, 1, 16, 16, generator=generator) > 0.5).float()
    with torch.no_grad():
        ours = model.unet(x, t, features, **given)
        conditions = (given.get(name) for name in ("low_res", "image", "keep_mask"))
        full = joined(x, spatial_conditions(model.config, x, *conditions))
        theirs = converted(model)(
            full, t, features.last_hidden_state, class_labels=features.pooled
        ).sample
    assert ours.std() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bit_for_bit(kind: ModelKind) -> None:
    model = random_model(kind)
    unet = converted(model)
    back = from_diffusers(dict(unet.config), unet.state_dict(), model.text)
    expected = model.openai_state_dict()
    assert back.openai_state_dict().keys() == expected.keys()
    for key, tensor in back.openai_state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert (back.config.kind, back.config.unet) == (kind, model.config.unet)
    assert back.config.schedule == RELEASED[kind].schedule


@pytest.mark.parametrize("kind", KINDS)
def test_a_released_model_fits_diffusers_tensor_by_tensor(kind: ModelKind) -> None:
    config, state = to_diffusers(GlideModel(RELEASED[kind], device="meta"))
    with torch.device("meta"):
        expected = UNet2DConditionModel(**config).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    assert len(state) == (694 if "upsampler" in kind else 716)
    assert unet_config(config) == (kind, RELEASED[kind].unet)


def test_a_mistake_in_the_interleaving_would_show() -> None:
    model = random_model("base")
    _, state = to_diffusers(model)
    thirds = model.unet.middle_block[1].qkv.weight[..., 0].chunk(3)
    assert not torch.equal(state["mid_block.attentions.0.to_q.weight"], thirds[0])


def test_another_family_of_unet_is_refused_by_field() -> None:
    config = diffusers_config(TINY)
    for field, value, said in [
        ("down_block_types", ["CrossAttnDownBlock2D"] * 3, "CrossAttnDownBlock2D"),
        ("resnet_time_scale_shift", "default", "resnet_time_scale_shift is default"),
        ("in_channels", 4, "family"),
        ("class_embed_type", None, "class_embed_type is None"),
        ("block_out_channels", None, "family"),
        ("out_channels", 5, "family"),
    ]:
        with pytest.raises(GlideError, match=said):
            unet_config({**config, field: value})


def test_missing_tensors_and_another_text_encoder_are_named() -> None:
    model = random_model("base")
    config, state = to_diffusers(model)
    cut = {k: v for k, v in state.items() if k != "mid_block.attentions.0.to_k.bias"}
    with pytest.raises(GlideError, match=r"mid_block\.attentions\.0\.to_k\.bias"):
        from_diffusers(config, cut, model.text)
    narrow = TextEncoder(replace(TINY.text, width=32), 128)
    with pytest.raises(GlideError, match="add_k_proj"):
        from_diffusers(config, state, narrow)
    with pytest.raises(GlideError, match="transformer_proj"):
        from_diffusers(config, state, TextEncoder(TINY.text, 64))


def test_a_wider_first_level_has_no_counterpart() -> None:
    with pytest.raises(GlideError, match="begins with 1"):
        diffusers_config(replace(TINY, unet=replace(TINY.unet, channel_mult=(2, 2))))
