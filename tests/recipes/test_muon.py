"""Muon: orthogonal updates, for the parameters inside the network only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glide_core.models.glide import GlideModel
from glide_core.training.config import TrainConfig
from glide_core.training.jobs import small_architecture
from recipes.emoji.muon import Muon, make_muon, orthogonal, split_parameters


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_an_update_keeps_directions_and_evens_their_sizes(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float(sizes.max() / sizes.min()) > 1.3
    found = orthogonal(matrix)
    inside = left.T @ found @ right.T  # diagonal where the directions are kept
    assert float((inside - inside.diagonal().diag()).abs().max()) < 1e-3
    assert float(inside.diagonal().min()) > 0.5
    assert float(inside.diagonal().max()) < 1.3


def test_muon_finds_the_least_squares_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(6, 10, generator=generator)
    layer = nn.Linear(10, 6, bias=False)
    x = torch.randn(64, 10, generator=generator)
    optimizer = Muon(layer.parameters(), lr=0.15)
    losses = []
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.15 * (1 - step / 200)
        loss = (layer(x) - x @ wanted.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-2 * losses[0]


def test_every_trainable_parameter_has_one_optimizer() -> None:
    model = GlideModel(small_architecture("base"))
    inside, others = split_parameters(model)
    assert len(inside) + len(others) == len(list(model.parameters()))
    assert not {id(p) for p in inside} & {id(p) for p in others}
    assert all(p.ndim >= 2 for p in inside)
    ends = {id(model.unet.out[2].weight), id(model.text.token_embedding.weight)}
    assert ends <= {id(p) for p in others}


def test_frozen_parameters_have_none() -> None:
    model = GlideModel(small_architecture("base"))
    model.text.requires_grad_(False)
    held = [p for o in make_muon(model, TrainConfig("base")) for g in o.param_groups
            for p in g["params"]]  # fmt: skip
    assert len(held) == len(list(model.unet.parameters()))
