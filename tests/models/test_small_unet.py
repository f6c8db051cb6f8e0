"""Features of the bundled models that OpenAI's do not have: input patches, preconditioning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glide_core.checkpoints.diffusers_format import diffusers_config
from glide_core.checkpoints.loading import load_model, save_model
from glide_core.config import GlideConfig, ScheduleConfig
from glide_core.diffusion.schedule import Schedule
from glide_core.errors import GlideError
from glide_core.models.conditions import Precondition
from glide_core.models.glide import GlideModel
from glide_core.models.layers import coord_channels
from glide_core.training.jobs import widened
from tools.tiny_models import tiny_variant

SMALL = tiny_variant(
    kind="upsampler",
    text={"context_length": 6, "width": 16, "heads": 1},
    unet={
        "image_size": 32,
        "model_channels": 16,
        "channel_mult": (1, 1),
        "attention_factors": (),
        "norm_groups": 4,
        "patch_size": 2,
        "sigma_data": 0.1,
    },
    schedule=ScheduleConfig("linear", prediction_type="v_prediction"),
)


def model_of(config: GlideConfig, head: float = 0.02) -> GlideModel:
    torch.manual_seed(0)
    model = GlideModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=head)
    return model


def raw(model: GlideModel, x: Tensor, t: Tensor, **extra: Tensor) -> Tensor:
    ids = torch.zeros(len(x), 6, dtype=torch.long)
    mask = torch.ones(len(x), 6, dtype=torch.bool)
    with torch.no_grad():
        return model.unet(x, t, model.encode(ids, mask), **extra)


def test_a_file_says_its_patches_positions_and_preconditioning(tmp_path: Path) -> None:
    unet = replace(SMALL.unet, coord_channels=3)
    for kind in ("upsampler", "upsampler-inpaint"):
        model = model_of(replace(SMALL, kind=kind, unet=unet))
        path = tmp_path / f"{kind}.safetensors"
        save_model(model, path, dtype=torch.float32)
        again = load_model(path)
        assert again.config == model.config
        x, low = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 8, 8)
        t = torch.tensor([10, 900])
        assert torch.equal(raw(model, x, t, low_res=low), raw(again, x, t, low_res=low))


def test_patches_move_with_the_image() -> None:
    unet = replace(SMALL.unet, sigma_data=0.0, norm_groups=1)
    model = model_of(replace(SMALL, kind="base", unet=unet), head=0.1)
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([500])
    out = raw(model, x, t)
    assert out.shape == (1, 6, 32, 32)
    moved = raw(model, x.roll(8, dims=3), t)
    inner = slice(14, 18)  # far from the borders, whose padding does not move
    near = (moved.roll(-8, dims=3) - out)[..., inner, 4:8].abs().max()
    far = (moved - out)[..., inner, 4:8].abs().max()
    assert float(near) < 0.5 * float(far)


def test_position_waves_are_cosines_along_x_then_along_y() -> None:
    found = coord_channels(torch.zeros(2, 5, 4, 6), 2)
    assert found.shape == (2, 4, 4, 6)
    x, y = (torch.arange(6) + 0.5) / 6, (torch.arange(4) + 0.5) / 4
    for k in (1, 2):
        along_x, along_y = torch.cos(torch.pi * k * x), torch.cos(torch.pi * k * y)
        assert torch.allclose(found[1, k - 1], along_x.expand(4, 6), atol=1e-6)
        assert torch.allclose(found[1, k + 1], along_y[:, None].expand(4, 6), atol=1e-6)


def test_inpainting_starts_as_the_model_that_it_is_widened_from() -> None:
    """New channels weigh nothing, so that with nothing known both models say the same."""
    for kind, wider in (("base", "inpaint"), ("upsampler", "upsampler-inpaint")):
        std = 0.1 if kind == "upsampler" else 0.0
        unet = replace(SMALL.unet, coord_channels=2, sigma_data=std)
        narrow = model_of(replace(SMALL, kind=kind, unet=unet))
        wide = model_of(replace(SMALL, kind=wider, unet=unet))
        wide.load_openai_state_dict(widened(narrow.openai_state_dict(), wide.config))
        x, t = torch.randn(1, 3, 32, 32), torch.tensor([300])
        extra = {"low_res": torch.randn(1, 3, 8, 8)} if kind == "upsampler" else {}
        known = {"image": torch.randn(1, 3, 32, 32), "keep_mask": torch.ones(1, 1, 32, 32)}
        one, other = raw(narrow, x, t, **extra), raw(wide, x, t, **extra, **known)
        assert torch.allclose(one, other, atol=1e-5)


def test_an_image_that_does_not_fit_the_patches_is_refused() -> None:
    with pytest.raises(GlideError, match="multiples of 4"):
        raw(
            model_of(SMALL),
            torch.zeros(1, 3, 30, 32),
            torch.zeros(1),
            low_res=torch.zeros(1, 3, 8, 8),
        )


@pytest.mark.parametrize("t", [0, 5, 100, 999])
def test_with_zero_network_output_v_is_the_best_linear_estimate(t: int) -> None:
    """For x0 = low + r with r normal, no other linear function of x_t and low guesses v better."""
    generator = torch.Generator().manual_seed(t)
    schedule = Schedule.named("linear", 1000)
    q, n = 0.1, 200_000
    low, noise = (
        torch.rand(n, 1, 1, 1, generator=generator),
        torch.randn(n, 1, 1, 1, generator=generator),
    )
    x0 = low + q * torch.randn(n, 1, 1, 1, generator=generator)
    steps = torch.full((n,), t)
    a, s = schedule.alpha_sigma(steps, 4)
    x_t, v = a * x0 + s * noise, a * noise - s * x0
    silent = torch.zeros(n, 2, 1, 1)
    guess = Precondition(SMALL).v_prediction(silent, x_t, steps, low)[:, :1]
    columns = torch.stack([x_t.flatten(), low.flatten()], dim=1).double()
    best = torch.linalg.lstsq(columns, v.flatten().double()[:, None]).solution
    least = (columns @ best - v.flatten()[:, None]).square().mean()
    assert float((guess - v).square().mean()) == pytest.approx(float(least), rel=0.01)
    # and what is left to say has the spread that the network's output is given in
    left = (guess - v) * (a**2 + (s / q) ** 2).sqrt()
    assert float(left.square().mean()) == pytest.approx(1, rel=0.02)


def test_the_variance_of_a_preconditioned_model_is_at_most_beta() -> None:
    wild = torch.tensor([-9.0, 0.3, 9.0]).view(3, 1, 1, 1)
    raw_output = torch.cat([torch.zeros(3, 1, 1, 1), wild], dim=1)
    x = torch.zeros(3, 1, 1, 1)
    found = Precondition(SMALL).v_prediction(raw_output, x, torch.tensor([5, 5, 5]), x)[:, 1]
    assert found.flatten().tolist() == pytest.approx([-1, 0.3, 1])


def test_the_networks_input_has_unit_standard_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    precondition = Precondition(SMALL)
    for t in (0, 50, 999):
        steps = torch.full((50_000,), t)
        a, s = Schedule.named("linear", 1000).alpha_sigma(steps, 4)
        low = torch.rand(50_000, 1, 1, 1, generator=generator)
        residual = 0.1 * torch.randn(50_000, 1, 1, 1, generator=generator)
        noise = torch.randn(50_000, 1, 1, 1, generator=generator)
        seen = precondition.network_input(a * (low + residual) + s * noise, steps, low)
        assert float(seen.std()) == pytest.approx(1, rel=0.03)


def test_fractional_timesteps_are_interpolated() -> None:
    precondition, low = Precondition(SMALL), torch.zeros(3, 1, 1, 1)
    x = torch.ones(3, 1, 1, 1)
    found = precondition.network_input(x, torch.tensor([40.0, 40.5, 41.0]), low).flatten()
    assert found[0] > found[1] > found[2]


def test_diffusers_has_no_counterpart_and_the_error_says_so() -> None:
    with pytest.raises(GlideError, match="patch_size"):
        diffusers_config(SMALL)
