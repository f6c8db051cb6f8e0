"""Images generated during training: sample grids, and images for prior preservation."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.config import SamplerConfig
from glide_core.data import open_source
from glide_core.data.types import Batch, Source
from glide_core.errors import GlideError
from glide_core.images import to_pil
from glide_core.io import atomic_write
from glide_core.models.glide import GlideModel
from glide_core.prompt_check import VOCABULARY_KEY
from glide_core.stages import StageInputs, sample_stage
from glide_core.training.examples import random_keep_masks

PRIOR_IMAGES = 200  # generated for prior preservation, as many as DreamBooth takes
_COLUMNS = 4
_FAST = SamplerConfig(steps=20, sampler="ddim", guidance_scale=2.0)
_PRIOR = SamplerConfig(steps=8, sampler="ddim")  # the preset "fast"


def save_grid(model: GlideModel, source: Source, path: Path) -> Tensor:
    """Generate twelve captions (upsamplers: four, between bicubic and original) as one PNG.

    Captions and masks are the same at every step. Returns the grid, uint8 [C, H, W].
    """
    from PIL import Image
    from torchvision.utils import make_grid

    training = model.training
    model.eval()
    rows = _upsampled(model, source) if model.config.is_upsampler else _generated(model, source)
    model.train(training)
    rows = ((rows.cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    grid: Tensor = make_grid(rows, _COLUMNS, padding=0)
    with atomic_write(path) as temporary:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(temporary, format="png")
    return grid


def prior_captions(metadata: str, count: int | None = None) -> list[str]:
    """Captions from a checkpoint's vocabulary (`VOCABULARY_KEY`), the same ones at every call.

    metadata: JSON with the lists "subjects", "backgrounds" and "styles". count: default
    PRIOR_IMAGES.
    """
    try:
        words = json.loads(metadata)
        subjects, backgrounds, styles = (
            [str(word) for word in words[key]] for key in ("subjects", "backgrounds", "styles")
        )
        rng = random.Random(0)
        parts = [
            (rng.choice(["", *styles]), rng.choice(subjects), rng.choice(backgrounds))
            for _ in range(count or PRIOR_IMAGES)
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise GlideError(
            f"the checkpoint's {VOCABULARY_KEY} cannot be read ({error}): give captions with "
            "--prior-prompts, or --no-prior"
        ) from error
    return [
        f"{with_article(f'{style} {subject}'.strip())} on {with_article(background)} background"
        for style, subject, background in parts
    ]


def with_article(words: str) -> str:
    """Put "a" or "an" before some words."""
    return f"{'an' if words[:1].lower() in 'aeio' else 'a'} {words}"


def make_prior(
    model: GlideModel,
    captions: Sequence[str],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Generate one image per caption into a folder, unless they are there already.

    What the model generates before fine-tuning is mixed into the training data, so that it is not
    forgotten (Ruiz et al. 2023, prior preservation). Inpainting models generate with everything
    masked.
    """
    listed = folder / "metadata.jsonl"
    if listed.exists():
        return
    side, known = model.config.unet.image_size, {}
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    for start in range(0, len(captions), 8):
        some = list(captions[start : start + 8])
        seeds = list(range(start, start + len(some)))
        if model.config.is_inpaint:
            blank = torch.zeros(len(some), 3, side, side)
            made = sample_stage(
                model, some, seeds, _PRIOR, inputs=StageInputs(image=blank, keep_mask=blank[:, :1])
            )
        else:
            made = sample_stage(model, some, seeds, _PRIOR)
        for seed, caption, image in zip(seeds, some, made.cpu(), strict=True):
            name = f"{seed:04d}.png"
            known[name] = caption
            with atomic_write(folder / name) as temporary:
                to_pil(image[None])[0].save(temporary, format="png")
        progress(start + len(some), len(captions))
    model.train()
    rows = [json.dumps({"file_name": name, "text": text}) + "\n" for name, text in known.items()]
    with atomic_write(listed) as temporary:  # written last: it marks the folder as complete
        temporary.write_text("".join(rows), encoding="utf-8")


def open_prior(folder: Path, side: int) -> Source:
    """Open what `make_prior` wrote."""
    return open_source(folder / "metadata.jsonl", side=side)


def _generated(model: GlideModel, source: Source) -> Tensor:
    batch = _captioned(source, 12, model.config.unet.image_size)
    seeds = list(range(12))
    if not model.config.is_inpaint:
        return sample_stage(model, batch.captions, seeds, _FAST)
    masks = random_keep_masks(torch.Generator().manual_seed(0), 12, batch.images.shape[-1])
    out = sample_stage(
        model, batch.captions, seeds, _FAST, inputs=StageInputs(image=batch.images, keep_mask=masks)
    )
    pairs = zip((batch.images * masks).chunk(3), out.cpu().chunk(3), strict=True)
    return torch.cat([row for pair in pairs for row in pair])


def _upsampled(model: GlideModel, source: Source) -> Tensor:
    batch = _captioned(source, 4, model.config.unet.image_size)
    low, seeds = F.avg_pool2d(batch.images, 4), list(range(4))
    if model.config.is_inpaint:
        masks = random_keep_masks(torch.Generator().manual_seed(0), 4, batch.images.shape[-1])
        out = sample_stage(
            model,
            batch.captions,
            seeds,
            inputs=StageInputs(image=batch.images, keep_mask=masks, low_res=low),
        )
    else:
        out = sample_stage(model, batch.captions, seeds, inputs=StageInputs(low_res=low))
    bicubic = F.interpolate(low, scale_factor=4, mode="bicubic")
    return torch.cat([bicubic, out.cpu(), batch.images])


def _captioned(source: Source, count: int, side: int) -> Batch:
    """Different captions, repeated in turn where the data has fewer."""
    rng = torch.Generator().manual_seed(0)
    batch = source.batch(rng, count, side=side, distinct=True)
    rows = [i % len(batch.captions) for i in range(count)]
    return Batch(batch.images[rows], [batch.captions[i] for i in rows])
