"""Translate the reference repository's option dicts, as the golden manifest holds them."""

from __future__ import annotations

from typing import Any

from glide_core.config import (
    ClipConfig,
    GlideConfig,
    ModelKind,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
)
from glide_core.errors import GlideError

_DEFAULT_CHANNEL_MULT = {  # the reference's table for an empty channel_mult option
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
}


def glide_config(options: dict[str, Any], n_vocab: int = 50257) -> GlideConfig:
    """The config of a GLIDE model."""
    size = int(options["image_size"])
    mult_text = options.get("channel_mult") or ""
    if mult_text:
        mult = tuple(int(m) for m in str(mult_text).split(","))
    elif size in _DEFAULT_CHANNEL_MULT:
        mult = _DEFAULT_CHANNEL_MULT[size]
    else:
        raise GlideError(
            f"unsupported image size {size}: expected 64, 128 or 256, or an explicit "
            "channel_mult such as '1,2,2'"
        )
    up, inpaint = bool(options.get("super_res")), bool(options.get("inpaint"))
    kind: ModelKind = (
        ("upsampler-inpaint" if inpaint else "upsampler")
        if up
        else ("inpaint" if inpaint else "base")
    )
    width = int(options["num_channels"])
    resolutions = [int(r) for r in str(options["attention_resolutions"]).split(",")]
    head_channels = int(options.get("num_head_channels", 64))
    if head_channels == -1:
        raise GlideError("num_head_channels=-1 (a fixed number of heads) is not supported")
    return GlideConfig(
        kind=kind,
        text=TextConfig(
            n_vocab=n_vocab,
            context_length=int(options["text_ctx"]),
            width=int(options["xf_width"]),
            layers=int(options["xf_layers"]),
            heads=int(options["xf_heads"]),
        ),
        unet=UNetConfig(
            image_size=size,
            model_channels=width,
            num_res_blocks=int(options["num_res_blocks"]),
            channel_mult=mult,
            attention_factors=tuple(sorted(size // r for r in resolutions)),
            num_head_channels=head_channels,
            dropout=float(options.get("dropout", 0.0)),
        ),
        schedule=ScheduleConfig(
            noise_schedule=options["noise_schedule"],
            diffusion_steps=int(options.get("diffusion_steps", 1000)),
        ),
    )


def clip_config(options: dict[str, Any]) -> ClipConfig:
    """The config of a noisy CLIP."""
    return ClipConfig(
        image_size=int(options["image_size"]),
        patch_size=int(options["patch_size"]),
        embedding=int(options["n_embd"]),
        n_timesteps=int(options["n_timesteps"]),
        image_width=int(options["n_head_image"]) * int(options["n_head_state_image"]),
        image_heads=int(options["n_head_image"]),
        image_layers=int(options["n_xf_blocks_image"]),
        n_vocab=int(options["n_vocab"]),
        context_length=int(options["max_text_len"]),
        text_width=int(options["n_head_text"]) * int(options["n_head_state_text"]),
        text_heads=int(options["n_head_text"]),
        text_layers=int(options["n_xf_blocks_text"]),
        logit_scale=float(options["logit_scale"]),
        noise_schedule=options["beta_schedule"],
    )
