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
    "fast": Preset(8, "dpmpp_2m", "the fewest steps that still draw what was asked for"),
    "balanced": Preset(20, "ddim", "as good as 250 ancestral steps, at a fraction of them"),
    "reference": Preset(250, "ancestral", "the paper's sampler, with as many steps as it took"),
}
