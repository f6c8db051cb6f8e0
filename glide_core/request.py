"""What to generate: one frozen, validated request per image, shared by command, batch and library.

Imports no torch, so that a list of a million requests can be checked quickly.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from glide_core.config import SamplerConfig
from glide_core.errors import GlideError
from glide_core.fields import STRICT, checked, in_range, one_of, short
from glide_core.names import MAX_SIDE

if TYPE_CHECKING:
    import torch

    Generators = torch.Generator | Sequence[torch.Generator] | None

T = TypeVar("T")
# Called with the pipeline, the step, its timestep and a dict of values
StepEnd = Callable[..., Any]
OutputType = Literal["pil", "np", "pt"]

UPSCALE = 4  # 64x64 becomes 256x256
UPSAMPLE_SETTINGS = SamplerConfig(guidance_scale=1.0, temperature=0.997)  # the notebooks'

_Text = Annotated[str, Field(strict=True, description="Unicode text")]
_Stage = Annotated[SamplerConfig | None, Field(description="a SamplerConfig or None")]
_Side = Annotated[int, Field(strict=True, ge=8, le=MAX_SIDE, multiple_of=8)]
_SIZE = f"(height, width) of the first stage in multiples of 8 from 8 to {MAX_SIDE}, or None"
_Count = in_range(1, 1_000_000)
_Share = Annotated[float, in_range(0, 1)]
_Scale = Annotated[float, Field(strict=True, description="a finite number")]


@checked
@dataclass(frozen=True, config=STRICT)
class GenerationRequest:
    """Everything that determines one image, apart from the models and the input images.

    Requests that differ in `prompt` and `seed` alone can share a batch (`batches`). Raises
    GlideError for a value out of range, naming the field.
    """

    prompt: _Text = ""
    negative_prompt: _Text = ""
    seed: Annotated[int, in_range(0, 2**64 - 1)] = 0
    # (height, width) of the first stage; None: the model's
    size: Annotated[tuple[_Side, _Side] | None, Field(description=_SIZE)] = None
    base: _Stage = SamplerConfig()  # 64x64 stage; None: input image goes to upsampler
    upsampler: _Stage = UPSAMPLE_SETTINGS  # 256x256 stage; None: stop after the first
    clip_guidance_scale: _Scale = 0.0  # of the noisy CLIP, in the first stage; 0 is off
    clip_prompt: _Text | None = None  # what CLIP guides towards; None: the prompt
    strength: _Share = 1.0  # of an edit in the first stage: 0 keeps the input image
    upsample_strength: _Share = 1.0  # of an edit in the second stage

    def __post_init__(self) -> None:
        if self.base is None and self.upsampler is None:
            raise GlideError("the request has no stage: expected settings for base or upsampler")

    @property
    def settings(self) -> GenerationRequest:
        """The request without prompt and seed: equal for requests that can share a batch."""
        return replace(self, prompt="", seed=0)

    def metadata(self) -> dict[str, Any]:
        """Flat JSON values for a PNG or a .json file; defaults that are off are left out."""
        own = asdict(self)
        base, upsampler, size = (own.pop(name) for name in ("base", "upsampler", "size"))
        own |= base or {}
        own |= {f"upsample_{name}": value for name, value in (upsampler or {}).items()}
        if size is not None:
            own["base_size"] = f"{size[1]}x{size[0]}"
        defaults = {**asdict(GenerationRequest()), "guidance_rescale": 0.0}
        kept = ("prompt", "seed")
        return {
            name: value
            for name, value in own.items()
            if name in kept or (value not in (None, "") and value != defaults.get(name))
        }


class Options(TypedDict, total=False):
    """Options of every task of a pipeline, as `GlidePipeline.__call__` describes them."""

    negative_prompt: str
    num_inference_steps: int | None
    guidance_scale: float | None
    num_images_per_prompt: int
    generator: Generators
    seed: int | None
    output_type: OutputType
    callback_on_step_end: StepEnd | None
    clip_guidance_scale: float
    clip_prompt: str | None
    clip_guided: bool
    sampler: str | None
    respacing: str
    eta: float
    upsample: bool
    upsample_steps: int | None
    upsample_guidance_scale: float
    batch_size: int | None


@checked
@dataclass(frozen=True, config=STRICT)
class RunOptions:
    """The options of a call that are no part of its requests, checked."""

    upsample: Annotated[bool, Field(strict=True, description="True or False")]
    num_images_per_prompt: Annotated[int, _Count]
    batch_size: Annotated[int | None, _Count]
    output_type: Annotated[OutputType, one_of(OutputType)]
    callback_on_step_end: Annotated[StepEnd | None, Field(description="a function")]


@dataclasses.dataclass(frozen=True)
class GlidePipelineOutput:
    """Generated images and what reproduces them."""

    images: Any  # list of PIL images, or [B, H, W, 3] or [B, 3, H, W] in 0..1
    requests: list[GenerationRequest]
    interrupted: bool = False  # `images` are then the unfinished estimates of the last step

    @property
    def seeds(self) -> list[int]:
        return [request.seed for request in self.requests]


def image_seed(seed: int, index: int) -> int:
    """Seed of image `index` of a series: it is what seed + index generates alone, modulo 2^64."""
    return (seed + index) % 2**64


def image_seeds(seed: int, count: int) -> list[int]:
    """Seeds of `count` images, see `image_seed`; GlideError for a seed out of range."""
    first = GenerationRequest(seed=seed).seed
    return [image_seed(first, i) for i in range(count)]


def image_requests(
    request: GenerationRequest,
    prompt: str | Sequence[str],
    count: int,
    seed: int | None,
    generator: Generators,
) -> list[GenerationRequest]:
    """One request per image: `count` of each prompt in turn, each with its seed."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, Sequence) or not prompts:
        raise GlideError(f"prompt is {short(prompt)}: expected a text or a list of texts")
    repeated = [text for text in prompts for _ in range(count)]
    if generator is None:
        seeds = image_seeds(secrets.randbits(32) if seed is None else seed, len(repeated))
    elif seed is None:
        seeds = _seeds_of(generator, len(repeated))
    else:
        raise GlideError("generator and seed were both given: expected one of them")
    return [replace(request, prompt=p, seed=s) for p, s in zip(repeated, seeds, strict=True)]


def batches(
    items: Iterable[T], batch_size: int, request: Callable[[T], GenerationRequest]
) -> Iterator[list[T]]:
    """Group items whose requests differ in prompt and seed alone, at most `batch_size` each, in
    order of first appearance."""
    groups: dict[GenerationRequest, list[T]] = {}
    for item in items:
        groups.setdefault(request(item).settings, []).append(item)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def first_size(side: int, height: int | None, width: int | None, upsample: bool) -> tuple[int, int]:
    """The first stage's size for an output size; side: of what the first model was trained on."""
    scale = UPSCALE if upsample else 1
    sizes = [side * scale if given is None else given for given in (height, width)]
    if any(not isinstance(size, int) or size % (8 * scale) for size in sizes):
        raise GlideError(
            f"height is {short(height)} and width {short(width)}: expected multiples of {8 * scale}"
        )
    return sizes[0] // scale, sizes[1] // scale


def _seeds_of(generator: Any, count: int) -> list[int]:
    import torch

    generators = generator if isinstance(generator, Sequence) else [generator] * count
    if len(generators) != count:
        raise GlideError(
            f"{len(generators)} generators for {count} images: expected one, or one per image"
        )
    for each in generators:
        if not isinstance(each, torch.Generator):
            raise GlideError(f"generator is {short(each)}: expected torch.Generator")
    return [
        int(torch.randint(2**63 - 1, (1,), generator=each, device=each.device))
        for each in generators
    ]
