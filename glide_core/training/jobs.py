"""What is trained: one job a model kind. A job turns a share of a step's batch into gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch import autocast as torch_autocast
from torch.nn import functional as F

from glide_core.data.types import Source
from glide_core.diffusion.schedule import Schedule, extract
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.tokenizer import get_tokenizer
from glide_core.training import parallel
from glide_core.training.config import TrainConfig
from glide_core.training.losses import contrastive_loss, hybrid_loss
from glide_core.training.masks import conditioning_augmentation, random_keep_masks
from glide_core.training.samples import Share, TimestepSampler, generator
from glide_core.training.start import make_clip, make_model
from glide_core.training.weighting import loss_weights


class Job(Protocol):
    """A model, and how a step's batch becomes gradients."""

    model: nn.Module

    def backward(self, step: int, share: Share) -> dict[str, Tensor]:
        """Add this process' gradients to the parameters and give its mean losses.

        Averaged over the processes, both are those of the whole batch.
        """
        ...


class Examples(NamedTuple):
    """Part of a batch, as the diffusion loss takes it."""

    images: Tensor  # [B, 3, S, S] in [-1, 1]
    captions: list[str]  # "" where one was dropped
    t: Tensor  # [B]
    noise: Tensor  # [B, 3, S, S]
    extra: dict[str, Tensor]  # the model's further inputs

    def to(self, device: torch.device) -> Examples:
        pictures, t, noise = (v.to(device) for v in (self.images, self.t, self.noise))
        extra = {key: value.to(device) for key, value in self.extra.items()}
        return Examples(pictures, self.captions, t, noise, extra)


class DiffusionJob:
    """The four diffusion models."""

    def __init__(
        self, config: TrainConfig, source: Source, start: Sequence[Path] = (), device: str = "cpu"
    ) -> None:
        self.config, self.source, self.device = config, source, torch.device(device)
        self.model: GlideModel = make_model(config, start).to(self.device)
        self.model_config = self.model.config
        scheduled = self.model_config.schedule
        self.schedule = Schedule.named(scheduled.noise_schedule, scheduled.diffusion_steps)
        self.timestep = TimestepSampler(config.timesteps, len(self.schedule))
        self.weights = loss_weights(config.weighting, scheduled.prediction_type, self.schedule)
        self.tokenizer = get_tokenizer(self.model_config.tokenizer)
        self.side = self.model_config.unet.image_size
        self.crop = self._crop()

    def backward(self, step: int, share: Share) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for part in share.ranges():
            with self._dropout(step, part):
                losses = self.loss(self.examples(step, part))
                (losses["loss"] / share.grad_accum_steps).backward()  # type: ignore[no-untyped-call]
            for key, value in losses.items():
                sums[key] = (
                    sums.get(key, torch.zeros_like(value)) + value.detach() / share.grad_accum_steps
                )
        return sums

    def examples(self, step: int, indices: Sequence[int]) -> Examples:
        """Draw examples of a step by their place in its batch, on the CPU."""
        rows = [self._example(generator(self.config.seed, step, i)) for i in indices]
        extra = {key: torch.stack([row.extra[key] for row in rows]) for key in rows[0].extra}
        return Examples(
            torch.stack([row.images for row in rows]),
            [caption for row in rows for caption in row.captions],
            torch.stack([row.t for row in rows]),
            torch.stack([row.noise for row in rows]),
            extra,
        )

    def loss(self, examples: Examples) -> dict[str, Tensor]:
        """The losses' means over some examples; "loss" is what is minimised."""
        x0, captions, t, noise, extra = examples.to(self.device)
        x_t = self.schedule.q_sample(x0, t, noise)
        ids, mask = self.tokens(captions)
        with torch_autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            features = self.model.encode(ids.to(self.device), mask.to(self.device))
            raw = self.model.unet(_last(x_t), t, features, **extra)
        hybrid = hybrid_loss(
            raw, x0, x_t, t, noise, self.schedule, self.model_config.schedule.prediction_type
        )
        simple, bound = hybrid.simple.mean(), hybrid.bound.mean()
        weights = extract(self.weights, t, 1)
        if self.model.unet.precondition is not None:  # errors count in what the network puts out
            weights = weights * self.model.unet.precondition.weight(t, t)
        weighted = (weights * hybrid.simple).mean()
        return {
            "loss": weighted + self.config.vlb_weight * bound,
            "simple": simple,
            "bound": bound,
        }

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and masks [B, L] of captions, on the CPU."""
        length = self.model_config.text.context_length
        rows = [self.tokenizer.encode(c, length) for c in captions]
        return torch.stack([r.ids for r in rows]), torch.stack([r.mask for r in rows])

    def _example(self, rng: torch.Generator) -> Examples:
        """One example; its tensors have no batch axis."""
        batch = self.source.batch(rng, 1, side=self.side, crop=self.crop)
        picture, extra = batch.images, {}
        if self.model_config.is_upsampler:
            extra["low_res"] = conditioning_augmentation(F.avg_pool2d(picture, 4), rng)[0]
        if self.model_config.is_inpaint:
            extra["image"] = picture[0]
            extra["keep_mask"] = random_keep_masks(rng, 1, picture.shape[-1])[0]
        dropped = float(torch.rand((), generator=rng)) < self.config.caption_dropout
        t = self.timestep(rng)
        noise = torch.randn(picture.shape[1:], generator=rng)
        return Examples(picture[0], [""] if dropped else batch.captions, t, noise, extra)

    @contextmanager
    def _dropout(self, step: int, part: range) -> Iterator[None]:
        """Make dropout, where the model has any, a function of the step too."""
        if not self.model_config.unet.dropout:
            yield
            return
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(generator(self.config.seed, step, -2 - part.start).initial_seed())
            yield

    def _crop(self) -> int | None:
        if not self.model_config.is_upsampler:
            return None
        crop = min(self.config.crop, self.side)
        unet = self.model_config.unet
        step = max(4, 2 ** (len(unet.channel_mult) - 1) * unet.patch_size)
        if crop < step or crop % step:
            raise GlideError(
                f"crops of {crop}x{crop} do not fit this upsampler: expected --crop to be a "
                f"multiple of {step}"
            )
        return crop


class ClipJob:
    """The noisy CLIP: pictures at every noise level against their captions.

    The loss compares all of a batch with all of it, so that every process draws the whole batch's
    pictures and captions, and its parts are encoded twice: first all without gradient, then each
    with it among the others' features (Gao et al. 2021).
    """

    def __init__(
        self, config: TrainConfig, source: Source, start: Sequence[Path] = (), device: str = "cpu"
    ) -> None:
        if config.lora:
            raise GlideError(
                "a noisy CLIP is trained whole: expected no --lora. It is for the diffusion models."
            )
        self.config, self.source, self.device = config, source, torch.device(device)
        self.model: NoisyClip = make_clip(config, start).to(self.device)
        self.schedule = Schedule.named(
            self.model.config.noise_schedule, self.model.config.n_timesteps
        )
        self.timestep = TimestepSampler(config.timesteps, len(self.schedule))
        if config.weighting != "uniform":
            raise GlideError(
                "--weighting is for the diffusion models: choose --timesteps for a noisy CLIP"
            )

    def backward(self, step: int, share: Share) -> dict[str, Tensor]:
        side = self.model.config.image_size
        batch = self.source.batch(
            generator(self.config.seed, step, -1), share.batch, side=side, distinct=True
        )
        if len(batch.captions) < share.batch:
            raise GlideError(
                f"there are {len(batch.captions)} different captions, too few for a batch of "
                f"{share.batch}: a noisy CLIP learns to tell captions apart. Expected as many. "
                "Choose a smaller --batch."
            )
        parts = [self._inputs(batch.images, batch.captions, step, p) for p in share.ranges()]
        processes = share.batch // share.size
        if processes == share.grad_accum_steps == 1:
            image, text = self._encode(parts[0])
            loss = contrastive_loss(image, text, self.model.config.logit_scale)
            loss.backward()  # type: ignore[no-untyped-call]
            return {"loss": loss.detach()}
        with torch.no_grad():
            done = [self._encode(part) for part in parts]
        images, texts = (
            parallel.gather(torch.cat(rows), processes) for rows in zip(*done, strict=True)
        )
        for part, place in zip(parts, share.ranges(), strict=True):
            image, text = (
                torch.cat([known[: place.start], fresh, known[place.stop :]])
                for known, fresh in zip((images, texts), self._encode(part), strict=True)
            )
            loss = contrastive_loss(image, text, self.model.config.logit_scale)
            # every process adds the gradients of its own rows: their sum is the batch's
            (loss * processes).backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def _inputs(
        self, pictures: Tensor, captions: Sequence[str], step: int, part: range
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noised pictures, timesteps, ids and lengths of a part, on the device."""
        x0 = pictures[part.start : part.stop]
        rngs = [generator(self.config.seed, step, i) for i in part]
        t = torch.stack([self.timestep(rng) for rng in rngs])
        noise = torch.stack([torch.randn(x0.shape[1:], generator=rng) for rng in rngs])
        ids, lengths = self.model.tokenize(captions[part.start : part.stop])
        x_t = self.schedule.q_sample(x0, t, noise)
        x, steps, tokens, ends = (v.to(self.device) for v in (x_t, t, ids, lengths))
        return x, steps, tokens, ends

    def _encode(self, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x_t, t, ids, lengths = inputs
        with torch_autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            image, text = self.model.encode_image(x_t, t), self.model.encode_text(ids, lengths)
        return image.float(), text.float()


def make_job(
    config: TrainConfig, source: Source, start: Sequence[Path] = (), device: str = "cpu"
) -> DiffusionJob | ClipJob:
    """The job of a config; start: checkpoints to go on from (none: fresh weights)."""
    kind = ClipJob if config.job == "clip" else DiffusionJob
    return kind(config, source, start, device)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
