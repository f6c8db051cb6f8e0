"""Guides say what they find, and find the same whether or not anyone listens."""

from __future__ import annotations

import pytest
import torch
from guidance.test_clip_guidance import FULL, clean_clip, noisy_clip, state, text
from torch import Tensor

from glide_core.diffusion.types import BranchDenoiser, Prediction
from glide_core.guidance import (
    GuidanceCallback,
    classifier_free,
    guidance_strength,
    noisy_clip_guide,
    open_clip_guide,
)
from glide_core.guidance.clip import normalise

Heard = list[tuple[Tensor, Tensor]]
TIMES = torch.tensor([10, 700])


def ear(heard: Heard) -> GuidanceCallback:
    return lambda t, value: heard.append((t, value))


def test_the_noisy_guide_tells_the_cosine_at_x_t() -> None:
    clip, x, heard = noisy_clip(), state(), Heard()
    noisy_clip_guide(clip, text(), 2.0, guidance_callback=ear(heard))(x, TIMES, x)
    ((t, found),) = heard
    expected = (normalise(clip.encode_image(x, TIMES)) * normalise(text())).sum(-1)
    assert torch.equal(t, TIMES) and not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_the_clean_guide_tells_the_mean_cosine_of_an_image_s_cutouts() -> None:
    clip, x, heard = clean_clip(), state(), Heard()
    seen: list[Tensor] = []
    encode = clip.encode_image

    def encode_image(views: Tensor) -> Tensor:
        seen.append(encode(views))
        return seen[-1]

    clip.encode_image = encode_image  # type: ignore[method-assign]
    guide = open_clip_guide(
        clip, text(), 1.0, schedule=FULL, cutouts=3, guidance_callback=ear(heard)
    )
    guide(x, TIMES, x)
    assert len(seen) == 1  # one forward pass serves both the gradient and the value
    views = normalise(seen[0].detach()).reshape(2, 3, -1)
    torch.testing.assert_close(heard[0][1], (views * normalise(text())[:, None]).sum(-1).mean(1))


@pytest.mark.parametrize("kind", ["noisy", "clean"])
def test_listening_changes_no_bit_of_a_gradient(kind: str) -> None:
    x, x0 = state(), state().flip(-1)

    def gradient(guidance_callback: GuidanceCallback | None) -> Tensor:
        if kind == "noisy":
            return noisy_clip_guide(noisy_clip(), text(), 2.0, guidance_callback=guidance_callback)(
                x, TIMES, x0
            )
        guide = open_clip_guide(
            clean_clip(), text(), 2.0, schedule=FULL, guidance_callback=guidance_callback
        )
        return guide(x, TIMES, x0)

    assert torch.equal(gradient(None), gradient(ear([])))


def branches(cond: Tensor, uncond: Tensor) -> BranchDenoiser:
    def denoise(x_t: Tensor, t: Tensor, wanted: tuple[int, ...], /) -> tuple[Prediction, ...]:
        return tuple(Prediction((cond, uncond)[i], None) for i in wanted)

    return denoise


def test_classifier_free_tells_how_far_x0_moves_and_moves_it_the_same() -> None:
    x, heard = state(), Heard()
    cond, uncond = state(), state().flip(-1)
    denoise = branches(cond, uncond)
    plain = classifier_free(denoise, 3.0, schedule=FULL)(x, TIMES)
    told = classifier_free(denoise, 3.0, schedule=FULL, guidance_callback=ear(heard))(x, TIMES)
    assert torch.equal(plain.eps, told.eps)
    a, s = FULL.alpha_sigma(TIMES, 4)
    clipped = [((x - s * eps) / a).clamp(-1, 1) for eps in (told.eps, cond)]
    expected = (clipped[0] - clipped[1]).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(heard[0][1], expected)
    assert (expected > 0).all()


@pytest.mark.parametrize("options", [{"scale": 1.0}, {"scale": 3.0, "interval": (900.0, 1000.0)}])
def test_where_classifier_free_guidance_is_off_it_tells_zero(options: dict[str, object]) -> None:
    x, heard = state(), Heard()
    guided = classifier_free(
        branches(state(), state().flip(-1)),
        schedule=FULL,
        guidance_callback=ear(heard),
        **options,  # type: ignore[arg-type]
    )
    guided(x, TIMES)
    assert heard[0][1].tolist() == [0.0, 0.0]


def test_strength_is_the_rms_of_an_image_s_pixels() -> None:
    plain = torch.zeros(2, 3, 4, 4)
    guided = torch.stack([torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), -0.5)])
    torch.testing.assert_close(guidance_strength(guided, plain), torch.tensor([0.25, 0.5]))


def test_strength_beyond_the_range_of_pictures_does_not_count_unless_asked() -> None:
    plain, guided = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 90.5)
    assert guidance_strength(guided, plain).item() == pytest.approx(0.5)
    assert guidance_strength(guided, plain, None).item() == pytest.approx(90.0)
