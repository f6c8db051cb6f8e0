"""Guidance: each takes a denoiser, or gives a gradient, and composes with the others."""

from glide_core.guidance.classifier_free import classifier_free
from glide_core.guidance.clip import noisy_clip_guide, open_clip_guide
from glide_core.guidance.condition import (
    GuidanceCallback,
    add_guides,
    condition_score,
    guidance_strength,
    limit_to_interval,
)

__all__ = [
    "GuidanceCallback",
    "add_guides",
    "classifier_free",
    "condition_score",
    "guidance_strength",
    "limit_to_interval",
    "noisy_clip_guide",
    "open_clip_guide",
]
