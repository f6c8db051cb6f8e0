"""Frozen descriptions of every model: what a state dict's shapes say, plus what they cannot say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

ModelKind = Literal["base", "upsampler", "inpaint", "upsampler-inpaint"]
PredictionType = Literal["epsilon", "v_prediction"]

KINDS: tuple[ModelKind, ...] = ("base", "upsampler", "inpaint", "upsampler-inpaint")

_DEFAULT_CHANNEL_MULT = {  # the reference's table for an empty channel_mult option
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
}

# Field names in files written before version 0.2
_OLD_NAMES = {"position_waves": "coord_channels", "residual_std": "sigma_data"}


@dataclass(frozen=True)
class TextConfig:
    """The text tower: a bidirectional transformer over padded token ids."""

    n_vocab: int = 50257
    context_length: int = 128
    width: int = 512
    layers: int = 16
    heads: int = 8


@dataclass(frozen=True)
class UNetConfig:
    """The UNet without its conditioning channels (those follow from `GlideConfig.kind`)."""

    image_size: int = 64
    model_channels: int = 192
    num_res_blocks: int = 3
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    attention_factors: tuple[int, ...] = (2, 4, 8)  # downsampling factors that carry attention
    num_head_channels: int = 64
    norm_groups: int = 32  # of every GroupNorm; OpenAI's models have 32 throughout
    channels: int = 3  # picture channels; the network puts out twice as many: eps and variance
    dropout: float = 0.0
    patch_size: int = 1  # side of the pixel squares folded into channels at the door (OpenAI: 1)
    # Cosines of the position, along x and along y each, that the first convolution sees (OpenAI: 0)
    coord_channels: int = 0
    # Upsamplers: spread of what low_res lacks; the network is preconditioned on it. 0: off (OpenAI)
    sigma_data: float = 0.0

    @property
    def embedding_width(self) -> int:
        """Width of the time embedding, which the pooled text vector is added to."""
        return 4 * self.model_channels


@dataclass(frozen=True)
class ScheduleConfig:
    """The training schedule and what the network's first output channels mean."""

    noise_schedule: str = "squaredcos_cap_v2"
    diffusion_steps: int = 1000
    prediction_type: PredictionType = "epsilon"


@dataclass(frozen=True)
class GlideConfig:
    """One GLIDE diffusion model, whole."""

    kind: ModelKind = "base"
    text: TextConfig = field(default_factory=TextConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tokenizer: str = "glide-bpe"

    @property
    def is_upsampler(self) -> bool:
        return self.kind in ("upsampler", "upsampler-inpaint")

    @property
    def is_inpaint(self) -> bool:
        return self.kind in ("inpaint", "upsampler-inpaint")

    @property
    def in_channels(self) -> int:
        """Channels that the network is given: x, then masked image and mask, then low_res."""
        c = self.unet.channels
        return c + (c + 1 if self.is_inpaint else 0) + (c if self.is_upsampler else 0)

    @property
    def first_channels(self) -> int:
        """Input channels of the first convolution: `in_channels`, each folded into its patches,
        then the waves of the position."""
        return self.in_channels * self.unet.patch_size**2 + 2 * self.unet.coord_channels

    def to_json(self) -> str:
        return json.dumps({"glide_config": 1, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> GlideConfig:
        """Read what `to_json` wrote; ValueError names the first field that does not fit."""
        raw: dict[str, Any] = json.loads(text)
        raw.pop("glide_config", None)
        try:
            unet: dict[str, Any] = {
                _OLD_NAMES.get(k, k): tuple(v) if isinstance(v, list) else v
                for k, v in raw.pop("unet").items()
            }
            return GlideConfig(
                text=TextConfig(**raw.pop("text")),
                unet=UNetConfig(**unet),
                schedule=ScheduleConfig(**raw.pop("schedule")),
                **raw,
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a GLIDE model config: {error}") from error

    @staticmethod
    def from_reference_options(options: dict[str, Any], n_vocab: int = 50257) -> GlideConfig:
        """Translate the reference repository's option dict (as in the golden manifest)."""
        size = int(options["image_size"])
        mult_text = options.get("channel_mult") or ""
        if mult_text:
            mult = tuple(int(m) for m in str(mult_text).split(","))
        elif size in _DEFAULT_CHANNEL_MULT:
            mult = _DEFAULT_CHANNEL_MULT[size]
        else:
            raise ValueError(
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
            raise ValueError("num_head_channels=-1 (a fixed number of heads) is not supported")
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
                noise_schedule=str(options["noise_schedule"]),
                diffusion_steps=int(options.get("diffusion_steps", 1000)),
            ),
        )


@dataclass(frozen=True)
class ClipConfig:
    """The noisy CLIP: a ViT whose class token is looked up by timestep, and a causal text tower."""

    image_size: int = 64
    patch_size: int = 4
    embedding: int = 512
    n_timesteps: int = 1000
    image_width: int = 768
    image_heads: int = 12
    image_layers: int = 12
    n_vocab: int = 65536
    context_length: int = 77
    text_width: int = 512
    text_heads: int = 8
    text_layers: int = 12
    logit_scale: float = 100.0
    noise_schedule: str = "squaredcos_cap_v2"
    tokenizer: str = "clip-bpe"

    def to_json(self) -> str:
        return json.dumps({"glide_clip_config": 1, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> ClipConfig:
        raw = json.loads(text)
        raw.pop("glide_clip_config", None)
        try:
            return ClipConfig(**raw)
        except TypeError as error:
            raise ValueError(f"not a noisy CLIP config: {error}") from error

    @staticmethod
    def from_reference_options(options: dict[str, Any]) -> ClipConfig:
        """Translate the reference's CLIP options (as in the golden manifest)."""
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
            noise_schedule=str(options["beta_schedule"]),
        )


BASE = GlideConfig(kind="base")
INPAINT = replace(BASE, kind="inpaint")
UPSAMPLER = GlideConfig(
    kind="upsampler",
    unet=UNetConfig(
        image_size=256,
        num_res_blocks=2,
        channel_mult=(1, 1, 2, 2, 4, 4),
        attention_factors=(8, 16, 32),
    ),
    schedule=ScheduleConfig(noise_schedule="linear"),
)
UPSAMPLER_INPAINT = replace(UPSAMPLER, kind="upsampler-inpaint")
CLIP = ClipConfig()
RELEASED: dict[ModelKind, GlideConfig] = {
    "base": BASE,
    "upsampler": UPSAMPLER,
    "inpaint": INPAINT,
    "upsampler-inpaint": UPSAMPLER_INPAINT,
}


@dataclass(frozen=True)
class SamplerConfig:
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
