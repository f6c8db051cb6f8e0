"""Images generated during training: sample grids, and images for prior preservation."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from glide_core.checkpoints.files import read_tensors
from glide_core.config import SamplerConfig
from glide_core.data.source import Source, open_source
from glide_core.errors import as_glide_error
from glide_core.images import to_pil, to_uint8
from glide_core.io import atomic_write
from glide_core.models.glide import GlideModel
from glide_core.stages import StageInputs, sample_stage
from glide_core.tokenizer import VOCABULARY_KEY, article
from glide_core.training.distributed import on_main
from glide_core.training.examples import random_keep_masks

if TYPE_CHECKING:
    from accelerate import Accelerator

PRIOR_IMAGES = 200  # generated for prior preservation, as many as DreamBooth takes
_COLUMNS = 4
_FAST = SamplerConfig(steps=20, sampler="ddim", guidance_scale=2.0)
_PRIOR = SamplerConfig(steps=8, sampler="ddim")  # the preset "fast"


def save_grid(model: GlideModel, source: Source, path: Path) -> Tensor:
    """Generate twelve captions (upsamplers: four, between bicubic and original) as one PNG.

    Captions and masks are the same at every step; data with fewer captions repeats them. Returns
    the grid, uint8 [C, H, W].
    """
    from PIL import Image
    from torchvision.utils import make_grid

    config, training = model.config, model.training
    side, count = config.unet.image_size, 4 if config.is_upsampler else 12
    batch = source.batch(torch.Generator().manual_seed(0), count, side=side, distinct=True)
    order = [i % len(batch.captions) for i in range(count)]
    originals, captions = batch.images[order], [batch.captions[i] for i in order]
    masks = random_keep_masks(torch.Generator().manual_seed(0), count, side)
    inputs = StageInputs(image=originals, keep_mask=masks) if config.is_inpaint else StageInputs()
    if config.is_upsampler:
        inputs = replace(inputs, low_res=F.avg_pool2d(originals, 4))
    settings = None if config.is_upsampler else _FAST
    model.eval()
    rows = sample_stage(model, captions, range(count), settings, inputs=inputs).cpu()
    model.train(training)
    if inputs.low_res is not None:
        bicubic = F.interpolate(inputs.low_res, scale_factor=4, mode="bicubic")
        rows = torch.cat([bicubic, rows, originals])
    elif config.is_inpaint:
        pairs = zip((originals * masks).chunk(3), rows.chunk(3), strict=True)
        rows = torch.cat([row for pair in pairs for row in pair])
    grid: Tensor = make_grid(to_uint8(rows), _COLUMNS, padding=0)
    with atomic_write(path) as temporary:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(temporary, format="png")
    return grid


def prior_captions(checkpoint: Path) -> list[str]:
    """`PRIOR_IMAGES` captions from a checkpoint's vocabulary, the same ones at every call.

    The vocabulary is JSON with the lists "subjects", "backgrounds" and "styles"; without one there
    are no captions.
    """
    metadata = read_tensors(checkpoint, meta=True).metadata.get(VOCABULARY_KEY)
    if not metadata:
        return []
    rng = random.Random(0)
    wrong = f"{checkpoint} has an unreadable {VOCABULARY_KEY}: disable prior preservation"
    with as_glide_error(wrong, (ValueError, KeyError, TypeError, IndexError), "prior_prompts"):
        words = json.loads(metadata)
        subjects, backgrounds, styles = (
            [str(word) for word in words[key]] for key in ("subjects", "backgrounds", "styles")
        )
        parts = [
            (f"{rng.choice(['', *styles])} {rng.choice(subjects)}".strip(), rng.choice(backgrounds))
            for _ in range(PRIOR_IMAGES)
        ]
    return [f"{article(a)} {a} on {article(b)} {b} background" for a, b in parts]


def make_prior(
    model: GlideModel, captions: Sequence[str], folder: Path, accelerator: Accelerator
) -> Source:
    """Generate one image per caption into a folder, unless they are there already.

    What the model generates before fine-tuning is mixed into the training data, so that it is not
    forgotten (Ruiz et al. 2023, prior preservation). Inpainting models generate with everything
    masked, as they do without an image.
    """
    listed = folder / "metadata.jsonl"

    def generate() -> None:
        model.eval()
        starts = range(0, len(captions), 8)
        rows = []
        for start in tqdm(starts, desc="prior", unit="batch", leave=False):
            some = captions[start : start + 8]
            seeds = range(start, start + len(some))
            made = sample_stage(model, some, seeds, _PRIOR).cpu()
            for seed, caption, image in zip(seeds, some, to_pil(made), strict=True):
                rows.append(json.dumps({"file_name": f"{seed:04d}.png", "text": caption}) + "\n")
                with atomic_write(folder / f"{seed:04d}.png") as temporary:
                    image.save(temporary, format="png")
        model.train()
        with atomic_write(listed) as temporary:  # written last: it marks the folder as complete
            temporary.write_text("".join(rows), encoding="utf-8")

    on_main(accelerator, lambda: None if listed.exists() else generate())
    return open_source(listed, side=model.config.unet.image_size)
