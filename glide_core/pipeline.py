"""The jobs, composed: text to image, upsampling, inpainting at both stages, editing at both stages.

`bind` ties a model to its prompts and pictures; `run` samples what was bound. A host with models of
its own (ComfyUI) calls `run` with its own denoiser; the four functions at the end do both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glide_core.config import GlideConfig
from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.prediction import split
from glide_core.diffusion.types import (
    BranchDenoiser,
    ConditionFn,
    DenoisedFn,
    Denoiser,
    Prediction,
    StepCallback,
)
from glide_core.errors import GlideError
from glide_core.guidance import Observer, classifier_free
from glide_core.images import eight_bit_snap
from glide_core.memory import keep_freed_memory
from glide_core.models.glide import GlideModel
from glide_core.models.unet import TextContext
from glide_core.tokenizer import Tokens, get_tokenizer


@dataclass(frozen=True)
class Settings:
    """How to sample; the same for every job."""

    steps: int = 30
    respacing: str = ""  # a timestep respacing string ("fast27", "10,10,3,2,2"); replaces steps
    sampler: str = "ddim"  # one of glide_core.diffusion.SAMPLERS
    eta: float = 0.0  # DDIM's share of fresh noise
    guidance_scale: float = 3.0  # classifier-free; 1 is no guidance
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None  # sigmas between which it acts
    clip_denoised: bool = True
    temperature: float = 1.0  # of the first noise


UPSCALE = 4  # 64x64 becomes 256x256
BASE_SETTINGS = Settings()
# The released notebooks' upsampling: DDIM on fast27, a slightly cool start, no guidance.
UPSAMPLE_SETTINGS = Settings(respacing="fast27", guidance_scale=1.0, temperature=0.997)
# ... and their inpainting: ancestral on fast27, so that known pixels and new ones mix.
UPSAMPLE_INPAINT_SETTINGS = replace(UPSAMPLE_SETTINGS, sampler="ancestral")


def bind(
    model: GlideModel,
    branches: Sequence[Sequence[Tokens]],
    *,
    low_res: Tensor | None = None,
    image: Tensor | None = None,
    keep_mask: Tensor | None = None,
) -> BranchDenoiser:
    """Tie a model to prompts and pictures: the denoiser of every branch.

    branches: conditional first, then unconditional or negative; one Tokens per image in each. The
        text is encoded here, once per different prompt, and projected once per attention layer.
    low_res [B, C, h, w], image [B, C, H, W], keep_mask [B, 1, H, W] (1 = keep): what the model's
        kind takes, in [-1, 1].
    """
    config, device = model.config, model.device
    schedule = model_schedule(config)
    contexts = [_context(model, tokens) for tokens in branches]
    pictures = {"low_res": low_res, "image": image, "keep_mask": keep_mask}
    given = {k: v.to(device) for k, v in pictures.items() if v is not None}
    repeated: dict[tuple[int, ...], tuple[TextContext, dict[str, Tensor]]] = {}

    def inputs(wanted: tuple[int, ...]) -> tuple[TextContext, dict[str, Tensor]]:
        if wanted not in repeated:  # the same at every step: joined once
            joined = TextContext.cat([contexts[i] for i in wanted])
            repeated[wanted] = joined, {k: v.repeat(len(wanted), 1, 1, 1) for k, v in given.items()}
        return repeated[wanted]

    def denoise(x_t: Tensor, t: Tensor, wanted: tuple[int, ...], /) -> tuple[Prediction, ...]:
        context, extra = inputs(wanted)
        raw = model.unet(x_t.repeat(len(wanted), 1, 1, 1), t.repeat(len(wanted)), context, **extra)
        kind = config.schedule.prediction_type
        return tuple(split(part, x_t, t, schedule, kind) for part in raw.chunk(len(wanted)))

    return denoise


def run(
    denoise: BranchDenoiser,
    config: GlideConfig,
    settings: Settings,
    *,
    seeds: Sequence[int],
    size: tuple[int, int] | None = None,
    guided: bool = True,
    init: Tensor | None = None,
    strength: float = 1.0,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    observer: Observer | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample pictures [B, C, H, W] in [-1, 1], one per seed.

    size: (height, width); default the model's own. guided: whether branch 1 exists, so that
    classifier-free guidance can be applied. init, strength: start from this picture, noised so far
    that `strength` (0..1] of the steps remain (SDEdit). observer: told at every model call how far
    classifier-free guidance moved x0, where there is any. GlideError for what does not fit.
    """
    if not seeds:
        raise GlideError("a batch of 0 pictures was asked for: expected 1 or more")
    if not 0 < strength <= 1:
        raise GlideError(f"strength {strength} is out of range: expected more than 0, at most 1")
    trained = config.schedule.diffusion_steps
    if not settings.respacing and not 1 <= settings.steps <= trained:
        raise GlideError(
            f"steps {settings.steps} is out of range: expected 1 to {trained}, the steps that the "
            "model was trained on"
        )
    schedule = model_schedule(config).respaced(settings.respacing or settings.steps)
    if guided and settings.guidance_scale != 1:
        denoiser: Denoiser = classifier_free(
            denoise,
            settings.guidance_scale,
            schedule=schedule,
            rescale=settings.guidance_rescale,
            interval=settings.guidance_interval,
            observer=observer,
        )
    else:
        denoiser = _first_branch(denoise)
    noise = SeededNoise(seeds)
    side = config.unet.image_size
    height, width = size or (side, side)
    like = torch.empty(len(seeds), config.unet.channels, height, width, device=device)
    x, start = noise(like) * settings.temperature, None
    if init is not None and strength < 1:
        start = max(1, round(strength * len(schedule))) - 1
        x = schedule.q_sample(init.to(device).expand_as(like), start, x)
    with keep_freed_memory(like.device):
        return sample(
            settings.sampler,
            denoiser,
            x,
            schedule,
            noise=noise,
            eta=settings.eta,
            clip_denoised=settings.clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
            callback=callback,
            start=start,
        )


def keep_known(image: Tensor, keep_mask: Tensor) -> DenoisedFn:
    """Paste known pixels into every x0 estimate; the noised state is never overwritten."""

    def paste(x0: Tensor) -> Tensor:
        mask = keep_mask.to(x0)
        return x0 * (1 - mask) + image.to(x0) * mask

    return paste


def model_schedule(config: GlideConfig) -> Schedule:
    """The schedule that a model was trained on, every step of it."""
    return Schedule.named(config.schedule.noise_schedule, config.schedule.diffusion_steps)


def tokenize(config: GlideConfig, prompts: Sequence[str]) -> list[Tokens]:
    """Prompts as this model reads them."""
    tokenizer = get_tokenizer(config.tokenizer)
    return [tokenizer.encode(prompt, config.text.context_length) for prompt in prompts]


def text_to_image(
    model: GlideModel,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    negative: str = "",
    settings: Settings = BASE_SETTINGS,
    size: tuple[int, int] | None = None,
    init: Tensor | None = None,
    strength: float = 1.0,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Draw one picture per prompt and seed; with `init` and `strength`, redraw pictures (SDEdit).

    Returns [B, C, 64, 64] in [-1, 1] (or of `size`, multiples of 8 for the released models).
    """
    branches = _branches(model.config, prompts, seeds, negative)
    with torch.inference_mode():
        return run(
            bind(model, branches),
            model.config,
            settings,
            seeds=seeds,
            size=size,
            init=init,
            strength=strength,
            cond_fn=cond_fn,
            callback=callback,
            device=model.device,
        )


def upsample(
    model: GlideModel,
    low_res: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    negative: str = "",
    settings: Settings = UPSAMPLE_SETTINGS,
    init: Tensor | None = None,
    strength: float = 1.0,
    callback: StepCallback | None = None,
) -> Tensor:
    """Enlarge low_res [B, C, h, w] four times; with `init` [B, C, 4h, 4w], redraw that (SDEdit).

    low_res is snapped to 8 bits first, as the model saw it in training (reference notebooks).
    """
    low_res = eight_bit_snap(low_res)
    branches = _branches(model.config, prompts, seeds, negative)
    with torch.inference_mode():
        return run(
            bind(model, branches, low_res=low_res),
            model.config,
            settings,
            seeds=seeds,
            size=upsampled_size(low_res),
            init=init,
            strength=strength,
            callback=callback,
            device=model.device,
        )


def inpaint(
    model: GlideModel,
    image: Tensor,
    keep_mask: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    negative: str = "",
    low_res: Tensor | None = None,
    settings: Settings | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Repaint where keep_mask [B, 1, H, W] is 0; image [B, C, H, W] is kept where it is 1.

    low_res: for the upsampler's stage, the whole inpainted picture at a quarter of the size.
    """
    if not model.config.is_inpaint:
        raise GlideError(
            f"this is a {model.config.kind} model: inpainting needs an inpaint checkpoint"
        )
    if settings is None:
        settings = UPSAMPLE_INPAINT_SETTINGS if model.config.is_upsampler else BASE_SETTINGS
    if low_res is not None:
        low_res = eight_bit_snap(low_res)
    branches = _branches(model.config, prompts, seeds, negative)
    shape = (len(seeds), -1, -1, -1)
    image, keep_mask = image.expand(*shape), keep_mask.expand(*shape)
    with torch.inference_mode():
        return run(
            bind(model, branches, low_res=low_res, image=image, keep_mask=keep_mask),
            model.config,
            settings,
            seeds=seeds,
            size=(image.shape[2], image.shape[3]),
            denoised_fn=keep_known(image, keep_mask),
            cond_fn=cond_fn,
            callback=callback,
            device=model.device,
        )


def upsample_respacing(steps: int) -> str:
    """The paper's uneven spacing for its own number of steps, even spacing for any other."""
    return "fast27" if steps == 27 else ""


def upsampled_size(low_res: Tensor) -> tuple[int, int]:
    """(height, width) that an upsampler makes of low_res: four times its sides."""
    return low_res.shape[2] * UPSCALE, low_res.shape[3] * UPSCALE


def _branches(
    config: GlideConfig, prompts: Sequence[str], seeds: Sequence[int], negative: str
) -> list[list[Tokens]]:
    if len(prompts) != len(seeds):
        raise GlideError(
            f"{len(prompts)} prompts for {len(seeds)} seeds: expected one prompt per seed"
        )
    return [tokenize(config, prompts), tokenize(config, [negative]) * len(seeds)]


def _context(model: GlideModel, tokens: Sequence[Tokens]) -> TextContext:
    different: dict[str, Tokens] = {t.text: t for t in tokens}
    ids = torch.stack([t.ids for t in different.values()]).to(model.device)
    mask = torch.stack([t.mask for t in different.values()]).to(model.device)
    context = model.unet.context(model.encode(ids, mask))
    rows = [list(different).index(t.text) for t in tokens]
    return context.select(torch.tensor(rows, device=model.device))


def _first_branch(denoise: BranchDenoiser) -> Denoiser:
    def denoiser(x_t: Tensor, t: Tensor, /) -> Prediction:
        return denoise(x_t, t, (0,))[0]

    return denoiser
