"""A step's examples: a function of seed, step and place; captions, timesteps, masks, weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import TINY, Colours

from glide_core.diffusion.schedule import Schedule
from glide_core.errors import GlideError
from glide_core.tokenizer import get_tokenizer
from glide_core.training import examples, losses
from glide_core.training.examples import (
    Steps,
    generator,
    load_steps,
    random_keep_masks,
    sample_timestep,
    split_batch,
    timestep_probabilities,
)
from glide_core.training.jobs import DiffusionJob, make_job
from glide_core.training.losses import hybrid_loss, loss_weights

COSINE = Schedule.named("squaredcos_cap_v2")


def job_of(models: Path, **changes: object) -> DiffusionJob:
    config = replace(TINY, **changes)  # type: ignore[arg-type]
    name = config.job.replace("-", "_")
    job = make_job(config, [models / f"tiny_{name}.safetensors"])
    assert isinstance(job, DiffusionJob)
    return job


def steps_of(models: Path, **changes: object) -> Steps:
    job = job_of(models, **changes)
    share = split_batch(job.config.batch, 0, 1, 1)
    return Steps(job.config, job.model.config, Colours(12), share)


@pytest.mark.parametrize("kind", ["base", "inpaint", "upsampler", "upsampler-inpaint"])
def test_an_example_is_the_same_in_any_share_of_the_batch(kind: str, tiny_models: Path) -> None:
    size = 64 if "upsampler" in kind else 16
    job = steps_of(tiny_models, job=kind, size=size, crop=32)
    whole = job.parts(7, [range(4)])[0]
    part = job.parts(7, [range(2, 4)])[0]
    assert whole.captions[2:] == part.captions
    for one, other in ((whole.images, part.images), (whole.noise, part.noise)):
        assert torch.equal(one[2:], other)
    assert torch.equal(whole.t[2:], part.t)
    assert whole.extra.keys() == part.extra.keys()
    for key, value in whole.extra.items():
        assert torch.equal(value[2:], part.extra[key])
    assert not torch.equal(job.parts(8, [range(4)])[0].noise, whole.noise)


def test_shares_cover_the_batch_once() -> None:
    shares = [split_batch(24, rank, 3, 2) for rank in range(3)]
    places = [i for share in shares for part in share for i in part]
    assert places == list(range(24))


def test_captions_are_dropped_at_the_configured_rate(tiny_models: Path) -> None:
    for rate in (0.0, 0.3, 1.0):
        captions = steps_of(tiny_models, caption_dropout=rate).parts(0, [range(1000)])[0].captions
        dropped = sum(caption == "" for caption in captions) / len(captions)
        assert dropped == pytest.approx(rate, abs=0.05)


def test_inpainting_sees_no_hidden_pixels(tiny_models: Path) -> None:
    """What the mask hides can be changed in the model's input without changing its output."""
    job = job_of(tiny_models, job="inpaint")
    found = steps_of(tiny_models, job="inpaint").parts(0, [range(4)])[0]
    image, keep = found.extra["image"], found.extra["keep_mask"]
    assert torch.equal(image, found.images)
    other = torch.where(keep.bool(), image, torch.randn(image.shape))
    assert not torch.equal(other, image)
    changed = found._replace(extra={"image": other, "keep_mask": keep})
    with torch.no_grad():
        assert torch.equal(job.loss(job.model, found)["loss"], job.loss(job.model, changed)["loss"])


def test_masks_erase_rectangles_or_everything() -> None:
    masks = random_keep_masks(torch.Generator().manual_seed(0), 64, 32)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    kept = masks.mean(dim=(1, 2, 3))
    assert (kept == 0).any()
    assert ((kept > 0) & (kept < 1)).float().mean() > 0.6


@pytest.mark.parametrize("name", examples.TIMESTEPS)
def test_timesteps_follow_their_distribution(name: str) -> None:
    wanted = timestep_probabilities(name, 1000)
    assert wanted.sum() == pytest.approx(1)
    cumulative = torch.from_numpy(np.cumsum(wanted))
    rng = generator(0, 0, 0)
    timesteps = torch.stack([sample_timestep(cumulative, rng) for _ in range(5000)]).numpy()
    assert (timesteps.min() >= 0) and (timesteps.max() < 1000)
    tenths = np.histogram(timesteps, bins=10, range=(0, 1000))[0] / len(timesteps)
    np.testing.assert_allclose(tenths, wanted.reshape(10, 100).sum(axis=1), atol=0.02)


def test_low_and_high_favour_clean_and_noisy_images() -> None:
    low, high, middle = (
        timestep_probabilities(name, 1000) for name in ("low", "high", "logit-normal")
    )
    assert low[0] > low[500] > low[999]
    assert high[0] < high[500] < high[999]
    assert middle[500] > max(middle[0], middle[999])


def test_eps_weighted_as_v_has_the_loss_of_v() -> None:
    rng = torch.Generator().manual_seed(0)
    x0 = torch.rand(6, 3, 4, 4, generator=rng) * 2 - 1
    noise = torch.randn(x0.shape, generator=rng)
    t = torch.tensor([0, 100, 300, 500, 700, 900])  # alpha_bar above the cap's 0.01
    x_t = COSINE.q_sample(x0, t, noise)
    eps = noise + 0.1 * torch.randn(x0.shape, generator=rng)
    a, s = COSINE.alpha_sigma(t, 4)
    v = (eps - s * x_t) / a  # the same guess, said as v
    rest = torch.zeros_like(eps)
    losses = {
        kind: hybrid_loss(torch.cat([guess, rest], 1), x0, x_t, t, noise, COSINE, kind)[0]
        for kind, guess in (("epsilon", eps), ("v_prediction", v))
    }
    weights = torch.from_numpy(loss_weights("v", "epsilon", COSINE))[t].float()
    torch.testing.assert_close(
        weights * losses["epsilon"], losses["v_prediction"], rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("name", losses.WEIGHTINGS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_weights_are_positive_and_capped(name: str, kind: str) -> None:
    weights = loss_weights(name, kind, COSINE)  # type: ignore[arg-type]
    assert weights.shape == (1000,)
    assert (weights > 0).all() and (weights <= losses.LARGEST).all()


def test_a_weighting_names_its_prediction_or_changes_nothing() -> None:
    assert (loss_weights("snr", "epsilon", COSINE) == 1).all()
    assert loss_weights("v", "v_prediction", COSINE) == pytest.approx(1)
    assert loss_weights("min-snr", "epsilon", COSINE)[0] < 0.01  # nearly clean: far above 5
    assert loss_weights("min-snr", "epsilon", COSINE)[999] == pytest.approx(1)


def test_the_weighting_reaches_the_loss(tiny_models: Path) -> None:
    plain, heavy = (job_of(tiny_models, weighting=w, vlb_weight=0.0) for w in ("uniform", "v"))
    found = steps_of(tiny_models).parts(0, [range(4)])[0]
    with torch.no_grad():
        one, other = (job.loss(job.model, found) for job in (plain, heavy))
    assert torch.equal(one["simple"], other["simple"])
    assert float(other["loss"]) > float(one["loss"]) == pytest.approx(float(one["simple"]))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(GlideError, match="logit-normal"):
        timestep_probabilities("loud", 10)
    with pytest.raises(GlideError, match="min-snr"):
        loss_weights("loud", "epsilon", COSINE)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_prepare_the_same_steps(workers: int, tiny_models: Path) -> None:
    steps = steps_of(tiny_models)
    for index, parts in enumerate(load_steps(steps, 1, workers), start=1):
        (expected,) = steps[index]
        assert torch.equal(parts[0].images, expected.images)
        assert torch.equal(parts[0].ids, expected.ids)
    assert index == TINY.steps - 1


def test_a_caption_is_tokenized_once(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, seen = steps_of(tiny_models, caption_dropout=0.0), []
    tokenizer = get_tokenizer(steps.model.tokenizer)
    encode = tokenizer.encode
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, length: seen.append(text) or encode(text, length)
    )
    examples.encode_caption.cache_clear()
    for step in range(20):
        steps.parts(step, [range(4)])
    assert 0 < len(seen) == len(set(seen)) <= 12
