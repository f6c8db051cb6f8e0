"""The hook by which a host replaces the attention of a block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glide_core.models.unet import Attention, BlockPatches
from tools.tiny_models import tiny_model


class Joint(BlockPatches):
    """Patches that change nothing; `hooked`: by computing the joint attention in a hook."""

    def __init__(self, hooked: bool) -> None:
        self.hooked = hooked
        self.places: list[tuple[str, int]] = []

    def attention(self, place: str, number: int, h: Tensor) -> Attention:
        self.places.append((place, number))
        if not self.hooked:
            return super().attention(place, number, h)
        return lambda block, tokens, keys_values: block.joint_attention(tokens, keys_values)


@pytest.mark.parametrize("hooked", [False, True])
def test_the_hook_is_called_for_every_attention_layer_and_changes_no_bit(hooked: bool) -> None:
    model = tiny_model("base")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, model.config.unet.image_size, 64, generator=generator)
    length = model.config.text.context_length
    ids = torch.zeros(2, length, dtype=torch.int64)
    patches = Joint(hooked)
    with torch.no_grad():
        features = model.encode(ids, torch.ones(2, length, dtype=torch.bool))
        plain = model.unet(x, torch.tensor([5, 500]), features)
        found = model.unet(x, torch.tensor([5, 500]), features, patches=patches)
    assert torch.equal(found, plain)
    assert len(patches.places) == len(model.unet.attention_layers())
    assert ("middle", 0) in patches.places
