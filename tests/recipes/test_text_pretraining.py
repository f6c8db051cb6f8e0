"""The text encoder is trained to predict thumbnails before the UNet is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from training_runs import Colours

from glide_core.models.glide import GlideModel
from glide_core.training.jobs import initialise, small_architecture
from recipes.emoji import text_pretraining
from recipes.emoji.text_pretraining import Stopped, pretrain_text
from tools.tiny_models import TINY


def tiny() -> GlideModel:
    model = GlideModel(replace(small_architecture("base"), text=TINY.text))
    initialise(model, 0)
    return model


def parameters(model: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_the_loss_falls_and_the_unet_is_left_alone() -> None:
    model = tiny()
    unet, text = parameters(model.unet), parameters(model.text)
    losses: list[float] = []
    pretrain_text(model, Colours(), 150, report=lambda step, loss: losses.append(loss))
    assert len(losses) == 150
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    assert all(torch.equal(a, b) for a, b in zip(unet, parameters(model.unet), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(text, parameters(model.text), strict=True))


def test_pretraining_is_a_function_of_its_seed() -> None:
    models = [tiny(), tiny(), tiny()]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        pretrain_text(model, Colours(), 3, seed=seed)
    one, same, other = (model.text.token_embedding.weight for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("bf16", [False, True])
def test_pretraining_honours_the_number_format(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    autocast = torch.autocast

    def watched(*arguments: object, enabled: bool) -> torch.autocast:
        asked.append(enabled)
        return autocast(*arguments, enabled=enabled)  # type: ignore[arg-type]

    monkeypatch.setattr(text_pretraining.torch, "autocast", watched)
    pretrain_text(tiny(), Colours(), 2, bf16=bf16)
    assert asked == [bf16, bf16]


def test_pretraining_can_be_stopped() -> None:
    with pytest.raises(Stopped):
        pretrain_text(tiny(), Colours(), 2, stop=lambda: True)
