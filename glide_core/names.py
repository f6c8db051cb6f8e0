"""Names of samplers and presets; imports no torch, so that menus and help texts are instant."""

from __future__ import annotations

from dataclasses import dataclass

# Each with the model calls that N steps of the schedule take; classifier-free guidance doubles the
# batch of a call, not their number. The order is that of menus.
SAMPLERS: dict[str, str] = {
    "ddpm": "ancestral sampling with the learned variance, the paper's: N calls",
    "ddim": "deterministic, or stochastic with eta: N calls",
    "plms": "pseudo linear multistep: N + 1 calls",
    "dpmpp_2m": "DPM-Solver++(2M): N - 1 calls",
    "dpmpp_2m_sde": "DPM-Solver++(2M) with noise: N - 1 calls",
    "unipc": "UniPC: N - 1 calls",
    "deis": "DEIS: N calls",
    "euler": "Euler's method, the same as ddim with eta 0: N calls",
    "euler_ancestral": "Euler's method with noise, the same as ddim with eta 1: N calls",
    "heun": "Heun's method: up to 2 N - 1 calls",
}
SAMPLER_ALIASES: dict[str, str] = {"ancestral": "ddpm"}  # accepted wherever a sampler is named


@dataclass(frozen=True)
class Preset:
    """How the first stage is sampled; everything else stays as it is."""

    steps: int
    sampler: str  # one of SAMPLERS


PRESETS: dict[str, Preset] = {
    "fast": Preset(8, "ddim"),  # the fewest steps that match 250 of ddpm
    "balanced": Preset(20, "ddim"),  # matches the prompt as well as any number of steps
    "reference": Preset(250, "ddpm"),  # the paper's sampler, with as many steps as it took
}

REFERENCE_METRICS = ("frechet", "kid", "precision", "recall")  # which compare two sets
METRICS = (*REFERENCE_METRICS, "is", "clip-score", "retrieval")
DTYPES = ("auto", "fast", "float32", "bfloat16", "float16", "int8")  # of the heavy layers
HOST_DTYPES = ("auto", "float32", "bfloat16", "float16")  # where ComfyUI casts the weights itself
MAX_SIDE = 4096  # pixels of the first stage; memory grows with the square
TRAINED_STEPS = 1000  # of the noise schedules that the models were trained on
WEIGHTINGS = ("uniform", "snr", "truncated-snr", "min-snr", "v")  # of the training loss
TIMESTEPS = ("uniform", "logit-normal", "low", "lowest", "high", "zero")  # as training samples them
LORA_LAYERS = ("attention", "all")
