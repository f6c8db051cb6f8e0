"""Turning a ClipGuide into the gradient that glide_core's samplers take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glide_core.errors import GlideError

from .values import ClipGuide

if TYPE_CHECKING:
    import torch

    from glide_core.config import GlideConfig
    from glide_core.diffusion.types import ConditionFn
    from glide_core.guidance.guides import GuidanceCallback


def condition(
    guide: ClipGuide,
    config: GlideConfig,
    batch: int,
    device: torch.device | str,
    guidance_callback: GuidanceCallback | None = None,
) -> ConditionFn:
    """Bind a guide to a GLIDE model's schedule and a batch; its text is encoded here, once.

    guidance_callback: called with the cosines, except outside the guide's interval.
    """
    from glide_core.diffusion import Schedule
    from glide_core.guidance.clip import noisy_clip_guide, open_clip_guide
    from glide_core.guidance.guides import limit_to_interval

    schedule = Schedule.named(config.schedule.noise_schedule, config.schedule.diffusion_steps)
    clip = guide.clip
    text = encode(guide, device).expand(batch, -1)
    if clip.kind == "noisy":
        check_noisy(guide, config)
        cond_fn = noisy_clip_guide(
            clip.module, text, guide.scale, guidance_callback=guidance_callback
        )
    else:
        cond_fn = open_clip_guide(
            clip.module,
            text,
            guide.scale,
            cutouts=guide.cutouts,
            schedule=schedule,
            seed=guide.seed,
            guidance_callback=guidance_callback,
        )
    return limit_to_interval(cond_fn, guide.interval, schedule) if guide.interval else cond_fn


def check_noisy(guide: ClipGuide, config: GlideConfig) -> None:
    """GlideError when a noisy CLIP was trained on other noise or another size than the model."""
    seen = guide.clip.module.config
    if (seen.image_size, seen.noise_schedule) != (
        config.unet.image_size,
        config.schedule.noise_schedule,
    ):
        raise GlideError(
            f"the noisy CLIP {guide.clip.name} was trained on images of {seen.image_size} pixels "
            f"under the {seen.noise_schedule} schedule, and the MODEL works at "
            f"{config.unet.image_size} under {config.schedule.noise_schedule}. Expected them to "
            "agree: a noisy CLIP guides the base models. For an upsampler use GLIDE Open CLIP "
            "Loader."
        )


def encode(guide: ClipGuide, device: torch.device | str) -> torch.Tensor:
    """Encode a guide's text as [1, n], unnormalised."""
    import torch

    clip = guide.clip
    # Outside inference mode: the gradient of the image is taken through a product with it.
    with torch.inference_mode(False), torch.no_grad():
        if clip.kind == "noisy":
            embedding = clip.module.encode_prompts([guide.text])
        else:
            assert clip.tokenizer is not None
            embedding = clip.module.encode_text(clip.tokenizer([guide.text]).to(device))
    assert isinstance(embedding, torch.Tensor)
    return embedding
