from __future__ import annotations

import torch
from torch import Tensor

from glide_core.diffusion import Schedule
from glide_core.guidance.guides import add_guides, limit_to_interval

FULL = Schedule.named("squaredcos_cap_v2")


def constant(value: float, calls: list[int] | None = None):  # type: ignore[no-untyped-def]
    def guide(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        if calls is not None:
            calls.append(int(t[0]))
        return torch.full_like(x_t, value)

    return guide


def test_guides_add_up() -> None:
    x = torch.zeros(1, 3, 4, 4)
    total = add_guides(constant(1.0), constant(2.5))(x, torch.tensor([5]), x)
    torch.testing.assert_close(total, torch.full_like(x, 3.5))
    assert not add_guides()(x, torch.tensor([5]), x).any()


def test_a_guide_outside_its_interval_is_zero_and_not_called() -> None:
    x, calls = torch.zeros(1, 3, 4, 4), []
    low, high = float(FULL.sigma(300)), float(FULL.sigma(700))
    guide = limit_to_interval(constant(2.0, calls), (low, high), FULL)
    values = [float(guide(x, torch.tensor([t]), x).mean()) for t in (299, 300, 500, 700, 701)]
    assert values == [0, 2, 2, 2, 0]
    assert calls == [300, 500, 700]


def test_an_interval_applies_to_each_image_by_itself() -> None:
    x = torch.zeros(2, 3, 4, 4)
    guide = limit_to_interval(constant(2.0), (0.0, float(FULL.sigma(400))), FULL)
    values = guide(x, torch.tensor([100, 800]), x)
    assert values.amax((1, 2, 3)).tolist() == [2.0, 0.0]
