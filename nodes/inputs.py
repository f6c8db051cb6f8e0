"""Inputs that several nodes share, so that one name means one thing everywhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError, shorten
from glide_core.names import DTYPES, HOST_DTYPES, PRESETS, SAMPLER_ALIASES, SAMPLERS

from .host import Conditioning, GlideClip, Host, Purpose, current
from .host.files import fingerprint
from .host.values import one_of, part

if TYPE_CHECKING:
    from torch import Tensor

NO_FILE = "(no model file found)"
CUSTOM = "custom"  # the preset that leaves the widgets as they are
CLIP = "noisy CLIP"  # beside GLIDE's own kinds
KIND_LOADERS = {
    "base": "GLIDE Loader",
    "inpaint": "GLIDE Loader",
    "upsampler": "GLIDE Upsampler Loader",
    "upsampler-inpaint": "GLIDE Upsampler Loader",
    CLIP: "GLIDE Noisy CLIP Loader",
}
UPSAMPLE_STEPS = (
    "Model calls of the upsampler. 27 uses the paper's uneven spacing (fast27); any other number "
    "is spread evenly."
)
Declared = tuple[Any, dict[str, Any]]
log = logging.getLogger("glide")


def model(tooltip: str, **options: Any) -> Declared:
    return ("MODEL", {**options, "tooltip": tooltip})


def image(tooltip: str) -> Declared:
    return ("IMAGE", {"tooltip": tooltip})


def positive() -> Declared:
    return ("CONDITIONING", {"tooltip": "What the image should show, from GLIDE Text Encode."})


def negative(**options: Any) -> Declared:
    text = (
        "What guidance moves away from. An empty text is GLIDE's own unconditional input; any "
        "other text is a negative prompt."
    )
    return ("CONDITIONING", {**options, "tooltip": text})


def seed(
    what: str = "Image i of a batch uses seed + i, so that the batch size does not change it.",
) -> Declared:
    return (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": 2**64 - 1,
            "control_after_generate": True,
            "tooltip": f"Random seed of all noise, the same on every device. {what}",
        },
    )


def steps(default: int, tooltip: str = "") -> Declared:
    text = "Model calls, evenly spread over the 1000 trained timesteps. 25 to 100 is usual."
    return ("INT", {"default": default, "min": 1, "max": 1000, "tooltip": tooltip or text})


def preset() -> Declared:
    """A choice that fills in `steps`, `sampler_name` and `respacing`; web/glide.js shows them."""
    chosen = {
        name: {"steps": p.steps, "sampler_name": p.sampler, "respacing": ""}
        for name, p in PRESETS.items()
    }
    text = (
        "Sets `steps`, `sampler_name` and `respacing` to tested values; custom leaves them as they "
        "are set."
    )
    options = {"default": CUSTOM, "tooltip": text, "glide_presets": chosen}
    return ([CUSTOM, *PRESETS], options)


def sampler_name(default: str) -> Declared:
    text = (
        "ddpm, ddim and plms are the paper's samplers; the others need fewer steps for the same "
        "quality."
    )
    return (list(SAMPLERS), {"default": default, "tooltip": text})


def sampler_problem(name: str | None) -> str | bool:
    """VALIDATE_INPUTS for a sampler: True, or what is wrong. Old names in saved workflows pass."""
    if name is None or name in SAMPLERS or name in SAMPLER_ALIASES:
        return True
    return f"Unknown sampler {name!r}. Expected one of: {', '.join(SAMPLERS)}."


def cfg(default: float) -> Declared:
    return (
        "FLOAT",
        {
            "default": default,
            "min": 0.0,
            "max": 50.0,
            "step": 0.1,
            "round": 0.01,
            "tooltip": "Classifier-free guidance scale. 1 is off, and twice as fast; 3 to 5 "
            "follows the prompt closely. Higher values oversaturate.",
        },
    )


def side(tooltip: str) -> Declared:
    """A width or height to sample at."""
    return ("INT", {"default": 64, "min": 8, "max": 1024, "step": 8, "tooltip": tooltip})


def share(default: float, tooltip: str) -> Declared:
    """A number from 0 to 1, for `denoise` above all."""
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip})


def temperature(default: float) -> Declared:
    return (
        "FLOAT",
        {
            "default": default,
            "min": 0.0,
            "max": 2.0,
            "step": 0.001,
            "advanced": True,
            "tooltip": "Scale of the initial noise. The paper upsamples at 0.997. The bundled "
            "upsampler starts without noise at any value.",
        },
    )


def respacing(default: str) -> Declared:
    return (
        "STRING",
        {
            "default": default,
            "advanced": True,
            "tooltip": "The paper's timestep respacing; replaces `steps` unless empty: '100', "
            "'ddim50', 'fast27', or steps per section as '10,10,3,2,2'.",
        },
    )


def variations(tooltip: str) -> Declared:
    return ("INT", {"default": 1, "min": 1, "max": 64, "tooltip": tooltip})


def dtype() -> Declared:
    return (
        list(DTYPES if current().name == "standalone" else HOST_DTYPES),
        {
            "default": "auto",
            "tooltip": "Weight precision; auto selects it for the device. Normalisation layers "
            "and sampling stay in float32.",
        },
    )


def checkpoint(purposes: Sequence[Purpose], tooltip: str, *, first: Sequence[str] = ()) -> Declared:
    """A choice of files; with none found the node still loads, and says so when it is run."""
    names = [*first, *current().checkpoint_names(*purposes)]
    return (names or [NO_FILE], {"default": (names or [NO_FILE])[0], "tooltip": tooltip})


def checkpoint_problem(*names: str | None) -> str | bool:
    """VALIDATE_INPUTS for file choices: True, or what is wrong. None is a connected input.

    A file of the wrong kind passes and fails in `require_file_kind`: ComfyUI's interface reports
    every problem with a file choice that it finds here as a missing model to download.
    """
    for name in names:
        if name == NO_FILE:
            return (
                "ComfyUI's folder models/glide holds no model file. Put one there and reload the "
                "page; docs/checkpoints.md of this pack lists the addresses."
            )
        if name is not None:
            try:
                current().checkpoint_path(name)
            except GlideError as error:
                return str(error)
    return True


def require_file_kind(node: str, name: str, path: Path, kinds: Sequence[str]) -> None:
    """GlideError when a safetensors file's header says that it holds another kind of model."""
    if path.suffix != ".safetensors":
        return  # only loading it can tell
    from glide_core.checkpoints.loading import inspect
    from glide_core.config import ClipConfig

    try:
        config = inspect(path)
    except GlideError:  # damaged, or written by another program: loading says more
        return
    found = CLIP if isinstance(config, ClipConfig) else config.kind
    if found not in kinds:
        raise GlideError(
            f"{node}: {name} is GLIDE's {found} model. Expected {one_of(kinds)}. Choose another "
            f"file, or load this one with {KIND_LOADERS[found]}."
        )


def respacing_problem(text: str | None, steps: int = 1000) -> str | bool:
    """VALIDATE_INPUTS for a respacing string: True, or what is wrong. None is a connected input."""
    from glide_core.diffusion.schedule import space_timesteps

    try:
        if text and text.strip():
            space_timesteps(steps, text.strip())
    except GlideError as error:
        return str(error)
    return True


def changed(*names: str | None) -> str:
    """IS_CHANGED for file choices: a loader runs again when a file's time or size is new.

    None is a connected input, whose value ComfyUI does not know yet: the node that gives it is
    part of ComfyUI's cache key already.
    """
    try:
        return fingerprint([current().checkpoint_path(name) for name in names if name is not None])
    except (GlideError, OSError):
        return "missing"


def require_kind(
    host: Host, model: Any, kinds: Sequence[str], *, node: str, name: str = "model"
) -> Any:
    """Give a MODEL's GlideConfig; GlideError when it is not one of these kinds of GLIDE model."""
    config = host.glide_config(model)
    loaders = one_of(dict.fromkeys(KIND_LOADERS[kind] for kind in kinds))
    wanted = f"Expected GLIDE's {one_of(kinds)} model. Connect {loaders}."
    if config is None:
        raise GlideError(f"{node}: the MODEL on '{name}' is not a GLIDE model. {wanted}")
    if config.kind not in kinds:
        raise GlideError(f"{node}: the MODEL on '{name}' is GLIDE's {config.kind} model. {wanted}")
    return config


def require_image(image: Any, *, node: str, name: str = "image") -> Tensor:
    """Give an IMAGE [B, H, W, 3 or 4] in 0..1; one channel becomes three.

    GlideError, naming the input, for another shape and for values that are not finite.
    """
    import torch

    shape = list(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or 0 in image.shape:
        raise GlideError(
            f"{node}: the IMAGE on '{name}' has the shape {shape}. Expected "
            "[batch, height, width, channels] with at least one image."
        )
    if image.shape[-1] not in (1, 3, 4):
        raise GlideError(
            f"{node}: the IMAGE on '{name}' has {image.shape[-1]} channels (shape {shape}). "
            "Expected 3 (RGB), 4 (RGBA) or 1 (grey)."
        )
    require_finite(image, f"{node}: the IMAGE on '{name}'")
    return image.expand(*image.shape[:3], 3) if image.shape[-1] == 1 else image


def require_mask(mask: Any, *, node: str, name: str = "mask") -> Tensor:
    """Give a MASK [B, H, W]; GlideError, naming the input, for another shape or NaN."""
    import torch

    shape = list(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        mask = mask[None]
    if isinstance(mask, torch.Tensor) and mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if not isinstance(mask, torch.Tensor) or mask.ndim != 3 or 0 in mask.shape:
        raise GlideError(
            f"{node}: the MASK on '{name}' has the shape {shape}. Expected [batch, height, width]."
        )
    require_finite(mask, f"{node}: the MASK on '{name}'")
    return mask


def require_clip(clip: Any, *, node: str) -> GlideClip:
    """Give a GLIDE_CLIP; GlideError for anything else, as a switch node may give."""
    if not isinstance(clip, GlideClip):
        raise GlideError(
            f"{node}: 'clip' is {type(clip).__name__}, not a GLIDE_CLIP. Connect GLIDE Noisy CLIP "
            "Loader or GLIDE Open CLIP Loader."
        )
    return clip


def require_prompts(positive: Conditioning, negative: Conditioning, *, node: str) -> None:
    """GlideError, naming the input, where one of two CONDITIONINGs is not a GLIDE prompt."""
    part(positive, where=f"{node}: 'positive'")
    part(negative, where=f"{node}: 'negative'")


def require_text(text: Any, *, node: str) -> str:
    """Give a STRING; GlideError for anything else, as a switch node may give."""
    if not isinstance(text, str):
        raise GlideError(f"{node}: 'text' is {shorten(repr(text))}. Expected a STRING.")
    return text


def require_shares(node: str, **shares: float) -> None:
    """GlideError for a connected number out of 0 to 1: ComfyUI checks the range of widgets only."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise GlideError(f"{node}: {name} is {value}. Expected 0 to 1.")


def require_finite(values: Tensor, what: str) -> None:
    """GlideError when there is a NaN or an infinite value."""
    if not values.isfinite().all():
        raise GlideError(f"{what} holds NaN or infinite values. Expected finite numbers.")


def log_resize(node: str, before: Tensor, after: Tensor, why: str) -> None:
    """Log that images [B, C, H, W] were resized before the model sees them."""
    old, new = ((x.shape[-1], x.shape[-2]) for x in (before, after))
    if old != new:
        smaller = new[0] * new[1] < old[0] * old[1]
        level = logging.WARNING if smaller else logging.INFO
        text = "%s: resized the image from %dx%d to %dx%d (%s)."
        log.log(level, text, node, *old, *new, why)
