"""Steps and sampler in one word, chosen from the table in docs/findings.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """How the first stage is sampled; everything else stays as it is."""

    steps: int
    sampler: str  # one of glide_core.diffusion.SAMPLERS
    about: str


PRESETS: dict[str, Preset] = {
    "fast": Preset(8, "ddim", "the fewest steps that match 250 ancestral ones"),
    "balanced": Preset(20, "ddim", "as near to what was asked for as any number of steps comes"),
    "reference": Preset(250, "ancestral", "the paper's sampler, with as many steps as it took"),
}

METRICS = ("frechet", "kid", "precision", "recall", "is", "clip-score", "retrieval")
CROPS = ("centre", "none")  # of images before they are measured
