"""Guidance: classifier-free, by wrapping a model; by CLIP, as gradients."""

from glide_core.guidance.clip import noisy_clip_guide, open_clip_guide
from glide_core.guidance.guides import (
    GuidanceCallback,
    add_guides,
    classifier_free,
    guidance_strength,
    limit_to_interval,
)

__all__ = [
    "GuidanceCallback",
    "add_guides",
    "classifier_free",
    "guidance_strength",
    "limit_to_interval",
    "noisy_clip_guide",
    "open_clip_guide",
]
