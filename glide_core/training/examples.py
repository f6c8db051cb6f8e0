"""Training examples: example i of step s is a function of (seed, s, i) alone.

So a batch is the same whether one process makes it whole, several make their shares of it, or it is
split into accumulation steps; and a resumed run needs no saved random state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from glide_core.config import ClipConfig, GlideConfig
from glide_core.data.source import Batch, Source
from glide_core.errors import GlideError
from glide_core.models.noisy_clip import length_with_end
from glide_core.names import TIMESTEPS
from glide_core.tokenizer import Tokens, get_tokenizer
from glide_core.training.config import TrainConfig, check_side


def split_batch(batch: int, rank: int, processes: int, grad_accum_steps: int) -> list[range]:
    """Return one process's examples of each accumulation step, by their index in the batch.

    GlideError where the batch cannot be divided evenly.
    """
    steps = processes * grad_accum_steps
    if batch % steps:
        raise GlideError(
            f"a batch of {batch} cannot be split among {processes} processes with "
            f"{grad_accum_steps} accumulation steps: expected a multiple of {steps}",
            "batch",
        )
    size, first = batch // steps, rank * grad_accum_steps
    return [range(i * size, (i + 1) * size) for i in range(first, first + grad_accum_steps)]


class Examples(NamedTuple):
    """Part of a batch, ready for the network; or one example, without the dimension B."""

    images: Tensor  # [B, 3, S, S] in [-1, 1]
    captions: Sequence[str]  # "" where one was dropped
    ids: Tensor  # [B, L] token ids
    text: Tensor  # token mask [B, L]; noisy CLIP: lengths [B]
    t: Tensor  # [B]
    noise: Tensor  # [B, 3, S, S]
    weight: Tensor  # [B] factor on the loss
    extra: Mapping[str, Tensor]  # the model's further inputs
    seed: int = 0  # of dropout inside the network


def generator(seed: int, step: int, index: int) -> torch.Generator:
    """Random numbers of example `index` of a step (-1: of the whole batch)."""
    digest = hashlib.blake2b(f"{seed}/{step}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Steps(Dataset[list[Examples] | GlideError]):
    """One process's share of every step, by step number, or the error that prevents it."""

    def __init__(
        self,
        config: TrainConfig,
        model: GlideConfig | ClipConfig,
        source: Source,
        share: Sequence[range],
    ) -> None:
        """share: what `split_batch` returns."""
        self.config, self.model, self.source, self.share = config, model, source, share
        self.prior: Source | None = None  # diffusion models: of every second example
        self.crop = 0
        if isinstance(model, ClipConfig):
            timesteps = model.n_timesteps
        else:
            timesteps = model.schedule.diffusion_steps
            if model.is_upsampler:
                self.crop = min(config.crop, model.unet.image_size)
                check_side(model, self.crop, "crop")
        probabilities = timestep_probabilities(config.timesteps, timesteps)
        self.cumulative = torch.from_numpy(np.cumsum(probabilities))

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> list[Examples] | GlideError:
        try:
            return self.parts(step, self.share)
        except GlideError as error:  # raised in a worker it would arrive with a traceback as text
            return error

    def parts(self, step: int, ranges: Sequence[range]) -> list[Examples]:
        """Make examples of a step by their indices in its batch, on the CPU."""
        seed, made = self.config.seed, []
        example: Callable[[torch.Generator, int], Examples]
        if isinstance(self.model, ClipConfig):
            example = partial(self._clip_example, self.model, self._distinct(self.model, step))
        else:
            example = partial(self._diffusion_example, self.model)
        for indices in ranges:
            rows = [example(generator(seed, step, i), i) for i in indices]
            part: Examples = default_collate(rows)
            made.append(part._replace(seed=generator(seed, step, -2 - indices[0]).initial_seed()))
        return made

    def _diffusion_example(self, model: GlideConfig, rng: torch.Generator, index: int) -> Examples:
        old = self.prior if self.prior is not None and index % 2 else None
        side = model.unet.image_size
        batch = (old or self.source).batch(rng, 1, side=side, crop=self.crop)
        image, extra = batch.images, {}
        if model.is_upsampler:
            low = batch.low_res
            if low is None:
                low = conditioning_augmentation(F.avg_pool2d(image, 4), rng)
            extra["low_res"] = low[0]
        if model.is_inpaint:
            extra["image"] = image[0]
            extra["keep_mask"] = random_keep_masks(rng, 1, image.shape[-1])[0]
        dropped = float(torch.rand((), generator=rng)) < self.config.caption_dropout
        caption = "" if dropped else batch.captions[0]
        tokens = encode_caption(model.tokenizer, caption, model.text.context_length)
        t = sample_timestep(self.cumulative, rng)
        noise = torch.randn(image.shape[1:], generator=rng)
        weight = torch.tensor(self.config.prior_weight if old is not None else 1.0)
        return Examples(image[0], caption, tokens.ids, tokens.mask, t, noise, weight, extra)

    def _distinct(self, model: ClipConfig, step: int) -> Batch:
        """The whole batch of a step: the contrastive loss compares all of it."""
        rng, count = generator(self.config.seed, step, -1), self.config.batch
        batch = self.source.batch(rng, count, side=model.image_size, distinct=True)
        if len(batch.captions) < count:
            raise GlideError(
                f"there are {len(batch.captions)} different captions, too few for a batch of "
                f"{count}: a noisy CLIP learns to distinguish captions. Use a smaller batch.",
                "batch",
            )
        return batch

    def _clip_example(
        self, model: ClipConfig, batch: Batch, rng: torch.Generator, index: int
    ) -> Examples:
        image, caption = batch.images[index], batch.captions[index]
        tokens = encode_caption(model.tokenizer, caption, model.context_length)
        length = torch.tensor(length_with_end(tokens, model))
        t = sample_timestep(self.cumulative, rng)
        noise = torch.randn(image.shape, generator=rng)
        return Examples(image, caption, tokens.ids, length, t, noise, torch.tensor(1.0), {})


def load_steps(steps: Steps, first: int, workers: int) -> DataLoader[list[Examples] | GlideError]:
    """Iterate over the steps from `first` on; workers: processes that prepare them ahead."""
    fork = "fork" in torch.multiprocessing.get_all_start_methods()
    return DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, len(steps)),
        num_workers=workers,
        # forked workers share the cache of decoded images; they touch no GPU
        multiprocessing_context="fork" if workers and fork else None,
        pin_memory=torch.cuda.is_available(),
    )


def timestep_probabilities(name: str, steps: int) -> NDArray[np.float64]:
    """Probability of each of `steps` timesteps in training, [steps], sum 1.

    logit-normal: mostly the middle (Esser et al. 2024, mean 0, deviation 1). low, high: falling or
    rising linearly, to 0, with the noise. lowest: the cube of a uniform number, for upsamplers,
    whose last steps are the hard ones. zero: the least noise alone, for an ordinary CLIP. The loss
    is not divided by these probabilities.
    """
    u = (np.arange(steps) + 0.5) / steps
    densities: dict[str, NDArray[np.float64]] = {
        "uniform": np.ones(steps),
        "logit-normal": np.exp(-0.5 * np.log(u / (1 - u)) ** 2) / (u * (1 - u)),
        "zero": np.eye(1, steps)[0],
        "lowest": np.diff((np.arange(steps + 1) / steps) ** (1 / 3)),
        "low": 1 - u,
        "high": u,
    }
    if name not in densities:
        raise GlideError(f"unknown timestep distribution {name!r}: expected {', '.join(TIMESTEPS)}")
    probabilities: NDArray[np.float64] = densities[name] / densities[name].sum()
    return probabilities


def sample_timestep(cumulative: Tensor, rng: torch.Generator) -> Tensor:
    """Sample one timestep, int64 [], by cumulative probabilities [T] in float64."""
    u = torch.rand((), generator=rng, dtype=torch.float64)
    return torch.searchsorted(cumulative, u, right=True).clamp(max=len(cumulative) - 1)


@lru_cache(maxsize=2**16)
def encode_caption(tokenizer: str, caption: str, length: int) -> Tokens:
    """Encode a caption; training meets the same ones in every epoch."""
    return get_tokenizer(tokenizer).encode(caption, length)


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


def conditioning_augmentation(low: Tensor, rng: torch.Generator) -> Tensor:
    """Blur and noise a low-resolution input slightly, as in Ho et al. 2022."""
    blurred = F.avg_pool2d(F.pad(low, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = 0.5 * torch.rand(len(low), 1, 1, 1, generator=rng)
    low = torch.lerp(low, blurred, share)
    noise = torch.randn(low.shape, generator=rng)
    level = 0.06 * torch.rand(len(low), 1, 1, 1, generator=rng)
    return (low + level * noise).clamp(-1, 1)
