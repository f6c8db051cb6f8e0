"""Sample grids while training: what the averaged weights draw now."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.config import SamplerConfig
from glide_core.data.types import Batch
from glide_core.io import atomic_write
from glide_core.stages import inpaint, text_to_image, upsample
from glide_core.training.jobs import ClipJob, DiffusionJob
from glide_core.training.masks import random_keep_masks

_COLUMNS = 4
_FAST = SamplerConfig(steps=20, sampler="ddim", guidance_scale=2.0)


def save_grid(job: DiffusionJob | ClipJob, path: Path) -> Tensor | None:
    """Draw twelve captions (upsamplers: four, between bicubic and true pictures) into one PNG.

    Captions and masks are the same at every step. Gives the grid, uint8 [H, W, C]; CLIP has none.
    """
    if isinstance(job, ClipJob):
        return None
    from PIL import Image

    rows = _rows(job).cpu().clamp(-1, 1)  # [N, 3, H, W]
    pictures = ((rows + 1) * 127.5).round().byte()
    c, h, w = pictures.shape[1:]
    grid = pictures.view(-1, _COLUMNS, c, h, w).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(-1, _COLUMNS * w, c)
    with atomic_write(path) as temporary:
        Image.fromarray(grid.numpy()).save(temporary, format="png")
    return grid


def _rows(job: DiffusionJob) -> Tensor:
    model, config = job.model, job.model_config
    training = model.training
    model.eval()
    if not config.is_upsampler:
        batch = _batch(job, 12)
        seeds = list(range(12))
        if not config.is_inpaint:
            out = text_to_image(model, batch.captions, seeds=seeds, settings=_FAST)
        else:
            masks = random_keep_masks(torch.Generator().manual_seed(0), 12, job.side)
            out = inpaint(model, batch.images, masks, batch.captions, seeds=seeds, settings=_FAST)
            masked = batch.images * masks
            out = torch.cat(
                [v for pair in zip(masked.chunk(3), out.cpu().chunk(3), strict=True) for v in pair]
            )
    else:
        batch = _batch(job, 4)
        low = F.avg_pool2d(batch.images, 4)
        seeds = list(range(4))
        if config.is_inpaint:
            masks = random_keep_masks(torch.Generator().manual_seed(0), 4, job.side)
            out = inpaint(model, batch.images, masks, batch.captions, low_res=low, seeds=seeds)
        else:
            out = upsample(model, low, batch.captions, seeds=seeds)
        plain = F.interpolate(low, scale_factor=4, mode="bicubic")
        out = torch.cat([plain, out.cpu(), batch.images])
    model.train(training)
    return out


def _batch(job: DiffusionJob, count: int) -> Batch:
    """Different captions, repeated in turn where the data has fewer."""
    rng = torch.Generator().manual_seed(0)
    batch = job.source.batch(rng, count, side=job.side, distinct=True)
    rows = [i % len(batch.captions) for i in range(count)]
    return Batch(batch.images[rows], [batch.captions[i] for i in rows])
