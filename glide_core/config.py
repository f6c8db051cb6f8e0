"""Validated, frozen configs of models and of sampling.

Every field has a type and a range, and `__post_init__` holds the rules between fields; GlideError
names the field and what is allowed, wherever a config is made.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Literal, get_args

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from glide_core.errors import GlideError
from glide_core.fields import STRICT, JsonConfig, check_divides, checked, in_range, one_of
from glide_core.names import SAMPLERS

ModelKind = Literal["base", "upsampler", "inpaint", "upsampler-inpaint"]
PredictionType = Literal["epsilon", "v_prediction"]
NoiseSchedule = Literal["linear", "squaredcos_cap_v2"]
TokenizerName = Literal["glide-bpe", "clip-bpe", "glide-small"]

KINDS: tuple[ModelKind, ...] = get_args(ModelKind)


@checked
@dataclass(frozen=True, config=STRICT)
class TextConfig:
    """The text encoder: a bidirectional transformer over padded token ids."""

    n_vocab: Annotated[int, in_range(1, 1_000_000)] = 50257
    context_length: Annotated[int, in_range(1, 4096)] = 128
    width: Annotated[int, in_range(1, 16384)] = 512
    layers: Annotated[int, in_range(1, 256)] = 16
    heads: Annotated[int, in_range(1, 1024)] = 8

    def __post_init__(self) -> None:
        check_divides("heads", self.heads, "width", [self.width])


_Mult = Annotated[int, in_range(1, 64)]
_Factor = Annotated[int, Field(strict=True)]


@checked
@dataclass(frozen=True, config=STRICT)
class UNetConfig:
    """The UNet without its conditioning channels (those follow from `GlideConfig.kind`)."""

    image_size: Annotated[int, in_range(1, 8192)] = 64
    model_channels: Annotated[int, in_range(2, 8192)] = 192
    num_res_blocks: Annotated[int, in_range(1, 32)] = 3
    channel_mult: Annotated[
        tuple[_Mult, ...],
        Field(min_length=1, max_length=10, description="1 to 10 integers from 1 to 64"),
    ] = (1, 2, 3, 4)
    # Downsampling factors of the levels with attention
    attention_factors: Annotated[
        tuple[_Factor, ...], Field(max_length=16, description="powers of two up to 1024")
    ] = (2, 4, 8)
    num_head_channels: Annotated[int, in_range(1, 8192)] = 64
    norm_groups: Annotated[int, in_range(1, 8192)] = 32  # of every GroupNorm; OpenAI: 32
    channels: Annotated[int, in_range(1, 64)] = 3  # of an image; the output has twice as many
    dropout: Annotated[float, in_range(0, 1)] = 0.0
    # Side of the squares of pixels that are folded into channels before the first convolution
    patch_size: Annotated[int, in_range(1, 8)] = 1
    # Cosines of the position, along x and along y each, given to the first convolution (OpenAI: 0)
    coord_channels: Annotated[
        int,
        in_range(0, 64),
        Field(validation_alias=AliasChoices("coord_channels", "position_waves")),
    ] = 0
    # Upsamplers: spread of what low_res lacks; the network is preconditioned on it. 0: off (OpenAI)
    sigma_data: Annotated[
        float, in_range(0, 10), Field(validation_alias=AliasChoices("sigma_data", "residual_std"))
    ] = 0.0

    def __post_init__(self) -> None:
        for factor in self.attention_factors:
            if not 1 <= factor <= 1024 or factor & (factor - 1):
                raise GlideError(f"attention_factors holds {factor}. Expected powers of two.")
        widths = [self.model_channels * mult for mult in self.channel_mult]
        attended = [w for i, w in enumerate(widths) if 2**i in self.attention_factors]
        check_divides("norm_groups", self.norm_groups, "a level's channels", widths)
        check_divides(
            "num_head_channels",
            self.num_head_channels,
            "the channels of an attention layer,",
            [*attended, widths[-1]],  # the middle block always has attention
        )
        if self.image_size % self.side_multiple:
            raise GlideError(
                f"image_size is {self.image_size}. Expected a multiple of {self.side_multiple}: "
                f"patch_size {self.patch_size} times 2 for each of {len(widths) - 1} halvings."
            )

    @property
    def side_multiple(self) -> int:
        """What the sides of an image must be multiples of."""
        return int(self.patch_size * 2 ** (len(self.channel_mult) - 1))

    @property
    def embedding_width(self) -> int:
        """Width of the time embedding, which the pooled text vector is added to."""
        return 4 * self.model_channels


@checked
@dataclass(frozen=True, config=STRICT)
class ScheduleConfig:
    """The training schedule and what the network's first output channels mean."""

    noise_schedule: Annotated[NoiseSchedule, one_of(NoiseSchedule)] = "squaredcos_cap_v2"
    diffusion_steps: Annotated[int, in_range(1, 100_000)] = 1000
    prediction_type: Annotated[PredictionType, one_of(PredictionType)] = "epsilon"


@checked
@dataclass(frozen=True, config=STRICT)
class GlideConfig(JsonConfig):
    """One GLIDE diffusion model: text encoder, UNet, schedule and tokenizer."""

    marker, needed = "glide_config", ("text", "unet")

    kind: Annotated[ModelKind, one_of(ModelKind)] = "base"
    text: TextConfig = field(default_factory=TextConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tokenizer: Annotated[TokenizerName, one_of(TokenizerName)] = "glide-bpe"
    # Classifier-free guidance that the model is sampled with unless another scale is given
    guidance_scale: Annotated[float, in_range(-1000, 1000)] = 3.0
    # Steps that it is sampled with unless another number is given; None: 30, upsamplers 27
    steps: Annotated[int | None, in_range(1, 100_000, or_none=True)] = None
    # Sampler that it is sampled with unless another is given
    sampler: Annotated[
        str,
        Field(pattern=f"^({'|'.join(SAMPLERS)})$", description=f"one of {', '.join(SAMPLERS)}"),
    ] = "ddim"
    # Factor on the first noise, times `SamplerConfig.temperature`; at 0 all seeds give one image
    temperature: Annotated[float, in_range(0, 10)] = 1.0

    def __post_init__(self) -> None:
        v_prediction = self.schedule.prediction_type == "v_prediction"
        if self.unet.sigma_data and not (self.is_upsampler and v_prediction):
            raise GlideError(
                f"sigma_data is {self.unet.sigma_data} in a model of kind {self.kind}. Expected 0: "
                "only upsamplers with v_prediction can have it."
            )

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


@checked
@dataclass(frozen=True, config=STRICT)
class ClipConfig(JsonConfig):
    """The noisy CLIP: a ViT with a class token per timestep, and a causal text encoder."""

    marker, needed = "glide_clip_config", ("image_width",)

    image_size: Annotated[int, in_range(1, 8192)] = 64
    patch_size: Annotated[int, in_range(1, 1024)] = 4
    embedding: Annotated[int, in_range(1, 16384)] = 512
    n_timesteps: Annotated[int, in_range(1, 100_000)] = 1000
    image_width: Annotated[int, in_range(1, 16384)] = 768
    image_heads: Annotated[int, in_range(1, 1024)] = 12
    image_layers: Annotated[int, in_range(1, 256)] = 12
    n_vocab: Annotated[int, in_range(1, 1_000_000)] = 65536
    context_length: Annotated[int, in_range(1, 4096)] = 77
    text_width: Annotated[int, in_range(1, 16384)] = 512
    text_heads: Annotated[int, in_range(1, 1024)] = 8
    text_layers: Annotated[int, in_range(1, 256)] = 12
    logit_scale: Annotated[float, in_range(0, 10_000)] = 100.0
    noise_schedule: Annotated[NoiseSchedule, one_of(NoiseSchedule)] = "squaredcos_cap_v2"
    tokenizer: Annotated[TokenizerName, one_of(TokenizerName)] = "clip-bpe"

    def __post_init__(self) -> None:
        check_divides("patch_size", self.patch_size, "image_size", [self.image_size])
        check_divides("image_heads", self.image_heads, "image_width", [self.image_width])
        check_divides("text_heads", self.text_heads, "text_width", [self.text_width])


BASE = GlideConfig(kind="base")
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
CLIP = ClipConfig()

_Sigma = Annotated[float, in_range(0, 1_000_000)]


@checked
@dataclass(frozen=True, config=STRICT)
class SamplerConfig:
    """How to sample; the same for every job."""

    steps: Annotated[int | None, in_range(1, 100_000, or_none=True)] = None  # None: the model's own
    # A timestep respacing string ("fast27", "10,10,3,2,2"); replaces steps
    respacing: Annotated[
        str, Field(max_length=4000, description="a respacing string such as 'fast27' or '100'")
    ] = ""
    sampler: Annotated[  # None: the model's own
        str | None,
        Field(min_length=1, max_length=100, description="a sampler, such as 'ddim', or None"),
    ] = None
    eta: Annotated[float, in_range(0, 1)] = 0.0  # DDIM's share of fresh noise
    # Classifier-free guidance; 1: no guidance; None: the model's own scale
    guidance_scale: Annotated[float | None, in_range(-1000, 1000, or_none=True)] = None
    guidance_rescale: Annotated[float, in_range(0, 1)] = 0.0
    # Sigmas between which guidance is applied
    guidance_interval: Annotated[
        tuple[_Sigma, _Sigma] | None,
        Field(description="two sigmas from 0 to 1000000, the smaller first, or None"),
    ] = None
    clip_denoised: Annotated[bool, Field(strict=True, description="True or False")] = True
    # Clip x0 after CLIP guidance too; the reference does not
    clip_guided: Annotated[bool, Field(strict=True, description="True or False")] = True
    temperature: Annotated[float, in_range(0, 10)] = 1.0  # of the first noise

    def for_model(self, model: GlideConfig, clip: bool = False) -> SamplerConfig:
        """The settings with the steps, the sampler and the guidance scale they have for a model.

        clip: under CLIP guidance the default is ddpm, as in the paper: it weights CLIP's gradient
        by each step's variance. An upsampler's 27 steps have the paper's uneven spacing.
        """
        respacing, steps = self.respacing, self.steps or model.steps
        if not respacing:
            steps = steps or (27 if model.is_upsampler else 30)
            respacing = "fast27" if model.is_upsampler and steps == 27 else ""
        # only ddim reads eta
        sampler = self.sampler or ("ddim" if self.eta else model.sampler)
        # ddpm mixes known pixels and new ones at 256x256, as in the released notebooks
        if self.sampler is None and (clip or model.kind == "upsampler-inpaint"):
            sampler = "ddpm"
        scale = model.guidance_scale if self.guidance_scale is None else self.guidance_scale
        own = replace(self, respacing=respacing, sampler=sampler, guidance_scale=scale)
        return replace(own, steps=None if respacing else steps)

    def __post_init__(self) -> None:
        if self.guidance_interval and self.guidance_interval[0] > self.guidance_interval[1]:
            raise GlideError(
                f"guidance_interval is {self.guidance_interval}. Expected the smaller sigma first."
            )
