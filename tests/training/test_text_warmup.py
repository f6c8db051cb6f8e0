"""The text tower learns what captions look like before the UNet is trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from training_runs import Colours

from glide_core.config import TextConfig
from glide_core.models.glide import GlideModel
from glide_core.training.presets import SMALL
from glide_core.training.start import initialise
from glide_core.training.text_warmup import warm_up_text


def tiny() -> GlideModel:
    config = SMALL["base"]
    text = TextConfig(n_vocab=2048, context_length=8, width=32, layers=1, heads=1)
    model = GlideModel(replace(config, text=text))
    initialise(model, 0)
    return model


def parameters(model: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_the_loss_falls_and_the_unet_is_left_alone() -> None:
    model = tiny()
    unet, text = parameters(model.unet), parameters(model.text)
    losses: list[float] = []
    warm_up_text(model, Colours(), 150, report=lambda step, loss: losses.append(loss))
    assert len(losses) == 150
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    assert all(torch.equal(a, b) for a, b in zip(unet, parameters(model.unet), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(text, parameters(model.text), strict=True))


def test_a_warm_up_is_a_function_of_its_seed() -> None:
    models = [tiny(), tiny(), tiny()]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        warm_up_text(model, Colours(), 3, seed=seed)
    one, same, other = (model.text.token_embedding.weight for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
