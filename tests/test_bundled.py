"""The models that ship: whole, small enough, described, and each doing its job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from glide_core.checkpoints.catalog import BUNDLED, ENTRIES
from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.config import KINDS, SamplerConfig
from glide_core.diffusion import Schedule
from glide_core.guidance.clip import noisy_clip_guide
from glide_core.stages import StageInputs, sample_stage
from recipes.emoji.subjects import border_colour
from recipes.emoji.vocabulary import (
    BACKGROUNDS,
    SUBJECTS,
    TEMPLATES,
    fill,
    held_out_background,
    with_article,
)

FILES = [entry for entry in ENTRIES if entry.bundled]
NAMES = list(SUBJECTS)[::4]  # those of the atlas
COLOURS = {name: torch.tensor(rgb) / 127.5 - 1 for name, rgb in BACKGROUNDS.items()}
FAST = SamplerConfig(steps=15)


@pytest.fixture(scope="module")
def drawings() -> Tensor:
    """Every fourth subject at 64x64 as trained on, [65, 4, 64, 64]: colour in [-1, 1], alpha in
    0..1. recipes/emoji/make_atlas.py writes it."""
    atlas = Image.open(Path(__file__).parent / "data" / "subjects.png")
    rgba = torch.from_numpy(np.array(atlas)).float()
    tiles = rgba.view(5, 64, 13, 64, 4).permute(0, 2, 4, 1, 3).reshape(65, 4, 64, 64)
    return torch.cat([tiles[:, :3] / 127.5 - 1, tiles[:, 3:] / 255], dim=1)


def on(drawings: Tensor, background: str) -> Tensor:
    colour, alpha = drawings[..., :3, :, :], drawings[..., 3:, :, :]
    return alpha * colour + (1 - alpha) * COLOURS[background][:, None, None]


def nearest(image: Tensor, drawings: Tensor, background: str) -> str:
    return NAMES[int((on(drawings, background) - image).square().mean(dim=(1, 2, 3)).argmin())]


def asked(step: int) -> tuple[list[str], list[str], list[str]]:
    subjects = NAMES[::step]
    # one background after the other, but none that training held out with the subject
    numbers = [next(b % 10 for b in range(i, i + 2) if not held_out_background(
        list(SUBJECTS).index(name), b % 10)) for i, name in enumerate(subjects)]  # fmt: skip
    backgrounds = [list(BACKGROUNDS)[number] for number in numbers]
    pairs = zip(subjects, backgrounds, strict=True)
    captions = [fill(TEMPLATES[0], with_article(s), b) for s, b in pairs]
    return captions, subjects, backgrounds


def test_every_bundled_model_is_here_with_its_card_and_together_they_are_small() -> None:
    for entry in FILES:
        assert entry.path().is_file(), entry.name
        assert entry.path().with_suffix(".md").is_file(), entry.name
        assert entry.path().stat().st_size == entry.size
    assert sum(entry.path().stat().st_size for entry in FILES) <= 24e6


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundled_file_says_what_it_is(kind: str) -> None:
    model = load_model(BUNDLED / f"{kind.replace('-', '_')}.safetensors")
    assert model.config.kind == kind
    assert model.config.tokenizer == "glide-small"
    assert model.config.schedule.prediction_type == "v_prediction"
    assert bool(model.config.unet.sigma_data) == kind.startswith("upsampler")


def test_the_base_model_generates_the_requested_subject(drawings: Tensor) -> None:
    captions, subjects, backgrounds = asked(5)
    model = load_model(BUNDLED / "base.safetensors")
    out = sample_stage(model, captions, list(range(len(captions))), FAST)
    found = [nearest(p, drawings, b) for p, b in zip(out, backgrounds, strict=True)]
    assert sum(a == b for a, b in zip(found, subjects, strict=True)) >= 0.8 * len(subjects)
    assert [border_colour(p, COLOURS) for p in out] == backgrounds


def test_clip_guidance_alone_pulls_towards_the_text() -> None:
    captions, _, backgrounds = asked(10)
    model, clip = load_model(BUNDLED / "base.safetensors"), load_clip(BUNDLED / "clip.safetensors")
    with torch.no_grad():
        text = clip.encode_prompts(captions)
    plain = SamplerConfig(steps=20, sampler="ddpm", guidance_scale=1.0)
    seeds, empty = list(range(len(captions))), [""] * len(captions)
    right = []
    for guide in (None, noisy_clip_guide(clip, text, 3.0)):
        out = sample_stage(model, empty, seeds, plain, cond_fn=guide)
        colours = [border_colour(image, COLOURS) for image in out]
        right.append(sum(a == b for a, b in zip(colours, backgrounds, strict=True)))
    assert right[1] >= right[0] + 2


def test_the_noisy_clip_finds_the_caption_of_a_noised_image(drawings: Tensor) -> None:
    clip = load_clip(BUNDLED / "clip.safetensors")
    assert clip.config.tokenizer == "glide-small"
    captions, subjects, backgrounds = asked(1)
    rows = [NAMES.index(s) for s in subjects]
    pairs = zip(rows, backgrounds, strict=True)
    images = torch.stack([on(drawings[row], b) for row, b in pairs])
    schedule = Schedule.named(clip.config.noise_schedule)
    for timestep, least in ((0, 0.9), (500, 0.8)):
        t = torch.full((len(rows),), timestep)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            image = F.normalize(clip.encode_image(schedule.q_sample(images, t, noise), t))
            text = F.normalize(clip.encode_prompts(captions))
        hits = (image @ text.T).argmax(dim=1) == torch.arange(len(rows))
        assert float(hits.float().mean()) >= least


def test_the_inpainting_model_completes_the_subject_and_keeps_what_is_known(
    drawings: Tensor,
) -> None:
    captions, subjects, backgrounds = asked(10)
    rows = zip([NAMES.index(s) for s in subjects], backgrounds, strict=True)
    images = torch.stack([on(drawings[row], b) for row, b in rows])
    keep = torch.ones(len(images), 1, 64, 64)
    keep[..., 32:] = 0
    model = load_model(BUNDLED / "inpaint.safetensors")
    seeds = list(range(len(images)))
    out = sample_stage(
        model, captions, seeds, FAST, inputs=StageInputs(image=images, keep_mask=keep)
    )
    assert float(((out - images) * keep).abs().max()) < 1e-5
    flat = torch.stack([COLOURS[b] for b in backgrounds])[:, :, None, None]
    hole = (1 - keep).expand_as(images).bool()
    error = (out - images)[hole].square().mean()
    assert float(error) < 0.5 * float((flat - images)[hole].square().mean())


def test_the_upsampler_keeps_colours_and_adds_no_noise(drawings: Tensor) -> None:
    small = on(drawings[NAMES.index(NAMES[7])], "pink")[None]
    model = load_model(BUNDLED / "upsampler.safetensors")
    caption = fill(TEMPLATES[0], with_article(NAMES[7]), "pink")
    out = sample_stage(model, [caption], [0], inputs=StageInputs(low_res=small))
    assert out.shape == (1, 3, 256, 256)
    assert float((F.avg_pool2d(out, 4) - small).square().mean()) < 0.01
    flat = out[0, :, :12, :]  # above the drawing there is background alone
    assert float(flat.std(dim=(1, 2)).max()) < 0.06
