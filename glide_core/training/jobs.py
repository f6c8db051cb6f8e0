"""What is trained: one job a model kind. A job makes batches and turns one into a loss."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.config import GlideConfig
from glide_core.diffusion.schedule import Schedule
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.tokenizer import get_tokenizer
from glide_core.training.losses import contrastive_loss, hybrid_loss
from glide_core.training.presets import SMALL, SMALL_CLIP, JobName, TrainConfig
from glide_core.training.sprites import Batch, Sprites

CROP = 128  # the upsamplers train on crops: they have attention at the lowest level only


class Job(Protocol):
    """A model and its loss; all randomness comes from the generator."""

    model: nn.Module

    def loss(self, rng: torch.Generator) -> dict[str, Tensor]:
        """One batch's losses; "loss" is what is minimised."""
        ...


class DiffusionJob:
    """The four diffusion models."""

    def __init__(self, config: TrainConfig, sprites: Sprites) -> None:
        assert config.job != "clip"
        self.config, self.sprites = config, sprites
        self.model_config = SMALL[config.job]
        self.model = GlideModel(self.model_config)
        initialise(self.model, config.seed)
        self.schedule = Schedule.named(
            self.model_config.schedule.noise_schedule, self.model_config.schedule.diffusion_steps
        )
        self.tokenizer = get_tokenizer(self.model_config.tokenizer)

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        length = self.model_config.text.context_length
        rows = [self.tokenizer.encode(c, length) for c in captions]
        return torch.stack([r.ids for r in rows]), torch.stack([r.mask for r in rows])

    def batch(self, rng: torch.Generator) -> tuple[Batch, dict[str, Tensor]]:
        """Pictures, captions with some dropped, and the model's extra inputs."""
        size = self.config.batch
        extra: dict[str, Tensor] = {}
        if self.model_config.is_upsampler:
            batch = self.sprites.high_batch(rng, size, CROP)
            extra["low_res"] = degrade(F.avg_pool2d(batch.pictures, 4), rng)
        else:
            batch = self.sprites.low_batch(rng, size)
        if self.model_config.is_inpaint:
            extra["image"] = batch.pictures
            extra["keep_mask"] = random_keep_masks(rng, size, batch.pictures.shape[-1])
        dropped = torch.rand(size, generator=rng) < self.config.caption_dropout
        captions = ["" if d else c for d, c in zip(dropped.tolist(), batch.captions, strict=True)]
        return Batch(batch.pictures, captions), extra

    def loss(self, rng: torch.Generator) -> dict[str, Tensor]:
        batch, extra = self.batch(rng)
        x0 = batch.pictures
        t = torch.randint(len(self.schedule), (len(x0),), generator=rng)
        noise = torch.randn(x0.shape, generator=rng)
        x_t = self.schedule.q_sample(x0, t, noise)
        ids, mask = self.tokens(batch.captions)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            raw = self.model.unet(_last(x_t), t, self.model.encode(ids, mask), **extra)
        hybrid = hybrid_loss(
            raw, x0, x_t, t, noise, self.schedule, self.model_config.schedule.prediction_type
        )
        simple, bound = hybrid.simple.mean(), hybrid.bound.mean()
        return {
            "loss": simple + self.config.vlb_weight * bound,
            "simple": simple,
            "bound": bound,
        }


class ClipJob:
    """The noisy CLIP: pictures at every noise level against their captions."""

    def __init__(self, config: TrainConfig, sprites: Sprites) -> None:
        self.config, self.sprites = config, sprites
        torch.manual_seed(config.seed)
        self.model = NoisyClip(SMALL_CLIP)
        self.schedule = Schedule.named(SMALL_CLIP.noise_schedule, SMALL_CLIP.n_timesteps)
        self.tokenizer = get_tokenizer(SMALL_CLIP.tokenizer)

    def loss(self, rng: torch.Generator) -> dict[str, Tensor]:
        batch = self.sprites.low_batch(rng, self.config.batch, distinct=True)
        t = torch.randint(len(self.schedule), (len(batch.captions),), generator=rng)
        noise = torch.randn(batch.pictures.shape, generator=rng)
        x_t = self.schedule.q_sample(batch.pictures, t, noise)
        ids, lengths = self.model.tokenize(batch.captions)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            image, text = self.model.encode_image(x_t, t), self.model.encode_text(ids, lengths)
        loss = contrastive_loss(image, text, SMALL_CLIP.logit_scale)
        return {"loss": loss}


def make_job(config: TrainConfig, sprites: Sprites) -> DiffusionJob | ClipJob:
    return ClipJob(config, sprites) if config.job == "clip" else DiffusionJob(config, sprites)


def initialise(model: GlideModel, seed: int) -> None:
    """Fresh weights: torch's for layers, wide embeddings, zeros where a block ends.

    Token embeddings at std 0.5 bind the text sooner than 0.02 does in a tower this small.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
    nn.init.normal_(model.text.token_embedding.weight, std=0.5)
    nn.init.normal_(model.text.positional_embedding, std=0.1)
    nn.init.normal_(model.text.padding_embedding, std=0.1)
    for name, module in model.unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out", "out.2")):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


def start_from(model: GlideModel, state: dict[str, Tensor]) -> None:
    """Load another kind's weights; new input channels (mask and known pixels) start at zero.

    The known pixels' channels stand between x and low_res, as in OpenAI's inpainting models.
    """
    state = dict(state)
    key, config = "input_blocks.0.0.weight", model.config
    old, wanted = state[key], config.in_channels
    if old.shape[1] != wanted:
        c = config.unet.channels
        new = old.new_zeros(old.shape[0], wanted, 3, 3)
        new[:, :c] = old[:, :c]
        if config.is_upsampler:
            new[:, -c:] = old[:, -c:]
        state[key] = new
    model.load_openai_state_dict(state)


def random_keep_masks(rng: torch.Generator, batch: int, size: int) -> Tensor:
    """Keep masks [B, 1, S, S]: one to three erased rectangles, or (one in five) all erased."""
    masks = torch.ones(batch, 1, size, size)
    for mask in masks:
        if float(torch.rand((), generator=rng)) < 0.2:
            mask.zero_()
            continue
        for _ in range(int(torch.randint(1, 4, (), generator=rng))):
            h, w = (torch.rand(2, generator=rng) * 0.6 * size + size / 8).long().tolist()
            y, x = (torch.rand(2, generator=rng) * (size - torch.tensor([h, w]))).long().tolist()
            mask[:, y : y + h, x : x + w] = 0
    return masks


def degrade(low: Tensor, rng: torch.Generator) -> Tensor:
    """Low-resolution input as a base model might draw it: a little blur, a little noise."""
    blurred = F.avg_pool2d(F.pad(low, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = 0.5 * torch.rand(len(low), 1, 1, 1, generator=rng)
    low = torch.lerp(low, blurred, share)
    noise = torch.randn(low.shape, generator=rng)
    level = 0.06 * torch.rand(len(low), 1, 1, 1, generator=rng)
    return (low + level * noise).clamp(-1, 1)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def job_config(job: JobName) -> GlideConfig:
    """The bundled model's config of a diffusion job."""
    return SMALL[job]
