"""Sample grids while training: what the averaged weights draw now."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.pipeline import Settings, inpaint, text_to_image, upsample
from glide_core.training.jobs import ClipJob, DiffusionJob, random_keep_masks

_COLUMNS = 4
_FAST = Settings(steps=20, sampler="ddim", guidance_scale=2.0)


def save_grid(job: DiffusionJob | ClipJob, path: Path) -> None:
    """Draw twelve captions (eight pictures at 256x256 are four) into one PNG; CLIP has no grid."""
    if isinstance(job, ClipJob):
        return
    from PIL import Image

    rows = _rows(job).clamp(-1, 1)  # [N, 3, H, W]
    pictures = ((rows + 1) * 127.5).round().byte()
    c, h, w = pictures.shape[1:]
    grid = pictures.view(-1, _COLUMNS, c, h, w).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(-1, _COLUMNS * w, c)
    Image.fromarray(grid.numpy()).save(path)


def _rows(job: DiffusionJob) -> Tensor:
    model, config, sprites = job.model, job.model_config, job.sprites
    training = model.training
    model.eval()
    rng = torch.Generator().manual_seed(0)
    if not config.is_upsampler:
        batch = sprites.low_batch(rng, 12, distinct=True)
        seeds = list(range(12))
        if not config.is_inpaint:
            out = text_to_image(model, batch.captions, seeds=seeds, settings=_FAST)
        else:
            masks = random_keep_masks(rng, 12, 64)
            out = inpaint(model, batch.pictures, masks, batch.captions, seeds=seeds, settings=_FAST)
            masked = batch.pictures * masks
            out = torch.cat(
                [v for pair in zip(masked.chunk(3), out.chunk(3), strict=True) for v in pair]
            )
    else:
        batch = sprites.high_batch(rng, 4)
        low = F.avg_pool2d(batch.pictures, 4)
        seeds = list(range(4))
        if config.is_inpaint:
            masks = random_keep_masks(rng, 4, 256)
            out = inpaint(model, batch.pictures, masks, batch.captions, low_res=low, seeds=seeds)
        else:
            out = upsample(model, low, batch.captions, seeds=seeds)
        plain = F.interpolate(low, scale_factor=4, mode="bicubic")
        out = torch.cat([plain, out, batch.pictures])
    model.train(training)
    return out
