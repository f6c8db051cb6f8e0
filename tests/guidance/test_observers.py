"""Guidance callbacks receive what a guide computed, and change nothing."""

from __future__ import annotations

import pytest
import torch
from guidance.test_clip_guidance import FULL, clean_clip, noisy_clip, state, text
from torch import Tensor
from torch.nn.functional import normalize

from glide_core.diffusion.types import CondUncondModel, Prediction
from glide_core.guidance.clip import noisy_clip_guide, open_clip_guide
from glide_core.guidance.guides import GuidanceCallback, classifier_free, guidance_strength

Record = list[tuple[Tensor, Tensor]]
TIMES = torch.tensor([10, 700])


def recorder(record: Record) -> GuidanceCallback:
    return lambda t, value: record.append((t, value))


def test_the_noisy_guide_reports_the_cosine_at_x_t() -> None:
    clip, x, record = noisy_clip(), state(), Record()
    noisy_clip_guide(clip, text(), 2.0, guidance_callback=recorder(record))(x, TIMES, x)
    ((t, found),) = record
    expected = (normalize(clip.encode_image(x, TIMES)) * normalize(text())).sum(-1)
    assert torch.equal(t, TIMES) and not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_the_clean_guide_reports_the_mean_cosine_over_an_images_cutouts() -> None:
    clip, x, record = clean_clip(), state(), Record()
    seen: list[Tensor] = []
    encode = clip.encode_image

    def encode_image(views: Tensor) -> Tensor:
        seen.append(encode(views))
        return seen[-1]

    clip.encode_image = encode_image  # type: ignore[method-assign]
    guide = open_clip_guide(
        clip, text(), 1.0, schedule=FULL, cutouts=3, guidance_callback=recorder(record)
    )
    guide(x, TIMES, x)
    assert len(seen) == 1  # one forward pass serves both the gradient and the value
    views = normalize(seen[0].detach()).reshape(2, 3, -1)
    torch.testing.assert_close(record[0][1], (views * normalize(text())[:, None]).sum(-1).mean(1))


@pytest.mark.parametrize("kind", ["noisy", "clean"])
def test_a_callback_changes_no_bit_of_a_gradient(kind: str) -> None:
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

    assert torch.equal(gradient(None), gradient(recorder([])))


def fixed(cond: Tensor, uncond: Tensor) -> CondUncondModel:
    both = (Prediction(cond, None), Prediction(uncond, None))
    return lambda x_t, t, wants_uncond: both if wants_uncond else both[:1]


def test_classifier_free_reports_how_far_x0_moves_and_moves_it_the_same() -> None:
    x, record = state(), Record()
    cond, uncond = state(), state().flip(-1)
    model = fixed(cond, uncond)
    plain = classifier_free(model, 3.0, schedule=FULL)(x, TIMES)
    reported = classifier_free(model, 3.0, schedule=FULL, guidance_callback=recorder(record))(
        x, TIMES
    )
    assert torch.equal(plain.eps, reported.eps)
    a, s = FULL.alpha_sigma(TIMES, 4)
    clipped = [((x - s * eps) / a).clamp(-1, 1) for eps in (reported.eps, cond)]
    expected = (clipped[0] - clipped[1]).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(record[0][1], expected)
    assert (expected > 0).all()


@pytest.mark.parametrize("options", [{"scale": 1.0}, {"scale": 3.0, "interval": (900.0, 1000.0)}])
def test_where_classifier_free_guidance_is_off_it_reports_zero(options: dict[str, object]) -> None:
    x, record = state(), Record()
    guided = classifier_free(
        fixed(state(), state().flip(-1)),
        schedule=FULL,
        guidance_callback=recorder(record),
        **options,  # type: ignore[arg-type]
    )
    guided(x, TIMES)
    assert record[0][1].tolist() == [0.0, 0.0]


def test_strength_is_the_rms_of_an_image_s_pixels() -> None:
    plain = torch.zeros(2, 3, 4, 4)
    guided = torch.stack([torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), -0.5)])
    torch.testing.assert_close(guidance_strength(guided, plain), torch.tensor([0.25, 0.5]))


def test_strength_is_measured_within_the_range_of_images_if_there_is_one() -> None:
    plain, guided = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 90.5)
    assert guidance_strength(guided, plain).item() == pytest.approx(0.5)
    assert guidance_strength(guided, plain, None).item() == pytest.approx(90.0)
