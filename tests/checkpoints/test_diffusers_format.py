"""The UNet is the same function in diffusers, and comes back from there bit for bit."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from glide_core.checkpoints.diffusers_format import (
    diffusers_config,
    from_diffusers,
    to_diffusers,
)
from glide_core.config import (
    BASE,
    KINDS,
    UPSAMPLER,
    ModelKind,
)
from glide_core.errors import GlideError
from glide_core.models.conditions import spatial_conditions
from glide_core.models.glide import GlideModel
from glide_core.models.text_encoder import TextFeatures
from tools.tiny_models import tiny_variant

CONFIG = tiny_variant(
    text={"context_length": 6, "width": 48},
    unet={"num_res_blocks": 2, "channel_mult": (1, 1, 2), "attention_factors": (2, 4)},
)


def random_model(kind: ModelKind, **unet: object) -> GlideModel:
    generator = torch.Generator().manual_seed(3)
    model = GlideModel(replace(CONFIG, kind=kind, unet=replace(CONFIG.unet, **unet)))
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
        full = torch.cat([x, *spatial_conditions(model.config, x, *conditions)], dim=1)
        theirs = converted(model)(
            full, t, features.last_hidden_state, class_labels=features.pooled
        ).sample
    assert ours.std() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bit_for_bit(kind: ModelKind) -> None:
    model = random_model(kind)
    unet = converted(model)
    back = from_diffusers(unet.state_dict(), model)
    expected = model.openai_state_dict()
    assert back.openai_state_dict().keys() == expected.keys()
    for key, tensor in back.openai_state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    assert back.config == model.config and back.text is not model.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_released_model_fits_diffusers_tensor_by_tensor(kind: ModelKind) -> None:
    released = replace(UPSAMPLER if "upsampler" in kind else BASE, kind=kind)
    with torch.device("meta"):
        config, state = to_diffusers(GlideModel(released))
        expected = UNet2DConditionModel(**config).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    assert len(state) == (694 if "upsampler" in kind else 716)


def test_the_heads_are_interleaved_in_qkv() -> None:
    model = random_model("base")
    _, state = to_diffusers(model)
    thirds = model.unet.middle_block[1].qkv.weight[..., 0].chunk(3)
    assert not torch.equal(state["mid_block.attentions.0.to_q.weight"], thirds[0])


def test_missing_tensors_and_another_architecture_are_named() -> None:
    model = random_model("base")
    _, state = to_diffusers(model)
    cut = {k: v for k, v in state.items() if k != "mid_block.attentions.0.to_k.bias"}
    with pytest.raises(GlideError, match=r"mid_block\.attentions\.0\.to_k\.bias"):
        from_diffusers(cut, model)
    with pytest.raises(GlideError, match=r"missing: .*down_blocks\.0\.attentions"):
        from_diffusers(state, random_model("base", attention_factors=(1, 2, 4)))
    with pytest.raises(GlideError, match="another shape: conv_in"):
        from_diffusers(state, random_model("inpaint"))
    narrow = GlideModel(replace(CONFIG, text=replace(CONFIG.text, width=32)))
    with pytest.raises(GlideError, match="add_k_proj"):
        from_diffusers(state, narrow)


def test_a_wider_first_level_has_no_counterpart() -> None:
    with pytest.raises(GlideError, match="begins with 1"):
        diffusers_config(replace(CONFIG, unet=replace(CONFIG.unet, channel_mult=(2, 2))))
