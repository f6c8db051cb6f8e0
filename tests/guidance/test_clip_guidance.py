from __future__ import annotations

import pytest
import torch
from guidance.tiny_clips import FULL, clean_clip, noisy_clip, text
from torch import Tensor, nn
from torch.nn.functional import normalize

from glide_core.diffusion import SeededNoise, sample
from glide_core.diffusion.types import ConditionFn, Prediction
from glide_core.errors import GlideError
from glide_core.guidance.clip import noisy_clip_guide, open_clip_guide


def state(batch: int = 2) -> Tensor:
    return 0.5 * SeededNoise(range(batch))(torch.empty(batch, 3, 16, 16))


def guides() -> dict[str, ConditionFn]:
    return {
        "noisy": noisy_clip_guide(noisy_clip(), text(), 2.0),
        "clean": open_clip_guide(clean_clip(), text(), 2.0, schedule=FULL, seed=[4, 5], cutouts=3),
    }


def along(direction: Tensor, gradient: Tensor) -> float:
    return float((direction.double() * gradient.double()).sum())


def test_the_noisy_guide_is_the_gradient_of_100_cosines_at_x_t() -> None:
    clip, x, t = noisy_clip(), state(), torch.tensor([10, 700])
    gradient = noisy_clip_guide(clip, text(), 2.0)(x, t, torch.zeros_like(x))
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def score(x: Tensor) -> float:
        cosine = (normalize(clip.encode_image(x, t)) * normalize(text())).sum(-1)
        return float(2.0 * 100.0 * cosine.double().sum())

    step = 3e-3
    difference = (score(x + step * direction) - score(x - step * direction)) / (2 * step)
    assert along(direction, gradient) == pytest.approx(difference, rel=0.01)


def test_the_clean_guide_is_the_gradient_of_100_cosines_at_the_x0_estimate() -> None:
    clip, x0, t = clean_clip(), state(), torch.tensor([10, 700])
    guide = open_clip_guide(clip, text(), 2.0, schedule=FULL, cutouts=1, blend=False)
    gradient = guide(torch.full_like(x0, 9.0), t, x0)
    direction = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)

    def score(x: Tensor) -> float:
        x = nn.functional.interpolate(x, (12, 12), mode="bicubic", antialias=True)
        features = clip.encode_image(((x + 1) / 2 - mean) / std)
        cosine = nn.functional.cosine_similarity(features, text())
        return float(2.0 * 100.0 * cosine.double().sum())

    step = 3e-3
    difference = (score(x0 + step * direction) - score(x0 - step * direction)) / (2 * step)
    assert along(direction, gradient) == pytest.approx(difference, rel=0.01)


def test_with_blend_the_clean_guide_gets_x_t_at_low_noise() -> None:
    clip, x_t, x0 = clean_clip(), state(), state().flip(-1)
    for t, at in ((0, x_t), (999, x0)):
        times = torch.tensor([t, t])
        blended = open_clip_guide(clip, text(), 1.0, schedule=FULL)(x_t, times, x0)
        plain = open_clip_guide(clip, text(), 1.0, schedule=FULL, blend=False)
        torch.testing.assert_close(blended, plain(x_t, times, at), atol=0.2, rtol=0.1)


def test_a_text_vector_need_not_be_normalised() -> None:
    x, t, clip = state(), torch.tensor([5, 5]), noisy_clip()
    long, short = (noisy_clip_guide(clip, text() * k, 1.0)(x, t, x) for k in (7.0, 0.1))
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-4)


def test_one_text_vector_serves_a_whole_batch() -> None:
    x, t, clip = state(), torch.tensor([5, 5]), clean_clip()
    one = open_clip_guide(clip, text(1), 1.0, schedule=FULL)(x, t, x)
    both = open_clip_guide(clip, text(1).repeat(2, 1), 1.0, schedule=FULL)(x, t, x)
    torch.testing.assert_close(one, both)


@pytest.mark.parametrize("name", ["noisy", "clean"])
def test_the_gradient_of_an_image_is_the_same_in_any_batch(name: str) -> None:
    x, t = state(), torch.tensor([300, 300])
    together = guides()[name](x, t, x)
    own = {
        "noisy": noisy_clip_guide(noisy_clip(), text()[1:], 2.0),
        "clean": open_clip_guide(clean_clip(), text()[1:], 2.0, schedule=FULL, seed=5, cutouts=3),
    }[name]
    alone = own(x[1:], t[1:], x[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-3)


def test_cutouts_are_the_seeds_and_fresh_at_every_timestep() -> None:
    x = state(1)

    def gradient(seed: int, t: int) -> Tensor:
        guide = open_clip_guide(clean_clip(), text(1), 1.0, schedule=FULL, seed=seed, blend=False)
        return guide(x, torch.tensor([t]), x)

    first = gradient(0, 500)
    torch.testing.assert_close(first, gradient(0, 500), rtol=0, atol=0)
    assert not torch.allclose(first, gradient(1, 500))
    assert not torch.allclose(first, gradient(0, 501))


@pytest.mark.parametrize("name", ["noisy", "clean"])
def test_guides_work_where_a_host_turned_gradients_off(name: str) -> None:
    x, t = state(), torch.tensor([300, 300])
    wanted = guides()[name](x, t, x)
    with torch.inference_mode():
        inside = guides()[name](state(), torch.tensor([300, 300]), state())
    torch.testing.assert_close(inside.clone(), wanted, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(guides()[name](x, t, x), wanted)


@pytest.mark.parametrize("name", ["noisy", "clean"])
def test_guides_work_with_weights_that_a_host_moved_under_inference_mode(name: str) -> None:
    x, t = state(), torch.tensor([300, 300])
    wanted = guides()[name](x, t, x)
    model: nn.Module = noisy_clip() if name == "noisy" else clean_clip()
    with torch.inference_mode():
        # what Module.to leaves behind when a device really changes
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        for module in model.modules():
            for key, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[key] = nn.Parameter(parameter.clone(), requires_grad=False)
        assert all(parameter.is_inference() for parameter in model.parameters())
        if name == "noisy":
            guide = noisy_clip_guide(model, text(), 2.0)  # type: ignore[arg-type]
        else:
            guide = open_clip_guide(model, text(), 2.0, schedule=FULL, seed=[4, 5], cutouts=3)
        gradient = guide(state(), torch.tensor([300, 300]), state())
    torch.testing.assert_close(gradient.clone(), wanted, atol=1e-5, rtol=1e-4)
    assert all(parameter.is_inference() for parameter in model.parameters())


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_a_guided_run_scores_higher(sampler: str) -> None:
    clip = noisy_clip()
    guide = noisy_clip_guide(clip, text(), 4.0)

    def grey(x_t: Tensor, t: Tensor, /) -> Prediction:
        a, s = FULL.alpha_sigma(t, 4)
        return Prediction(s * x_t / (0.25 * a * a + s * s), torch.ones_like(x_t))

    def score(x: Tensor) -> float:
        features = clip.encode_image(x, torch.zeros(2, dtype=torch.int64))
        return float((normalize(features) * normalize(text())).sum(-1).mean())

    scores = []
    for cond_fn in (None, guide):
        noise = SeededNoise([0, 1])
        x_T = noise(torch.empty(2, 3, 16, 16))
        with torch.inference_mode():
            x = sample(sampler, grey, x_T, FULL.respaced("10"), noise=noise, cond_fn=cond_fn)
            scores.append(score(x))
    assert scores[1] > scores[0] + 0.05


def test_no_cutouts_and_a_seed_too_few_are_refused() -> None:
    with pytest.raises(GlideError, match="cutouts is 0"):
        open_clip_guide(clean_clip(), text(), 1.0, schedule=FULL, cutouts=0)
    guide = open_clip_guide(clean_clip(), text(), 1.0, schedule=FULL, seed=[1])
    with pytest.raises(GlideError, match="1 cutout seeds for 2 images"):
        guide(state(), torch.tensor([5, 5]), state())
