"""Inputs that several nodes share, so that one name means one thing everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError

from .host import DTYPES, Host, Purpose, current
from .host.files import fingerprint
from .host.values import one_of

NO_FILE = "(no model file found)"
CLIP = "noisy CLIP"  # beside GLIDE's own kinds
KIND_LOADERS = {
    "base": "GLIDE Loader",
    "inpaint": "GLIDE Loader",
    "upsampler": "GLIDE Upsampler Loader",
    "upsampler-inpaint": "GLIDE Upsampler Loader",
    CLIP: "GLIDE CLIP Loader",
}
UPSAMPLE_STEPS = (
    "Model calls of the upsampler. 27 is the paper's own uneven spacing (fast27); any other "
    "number is spread evenly."
)
Declared = tuple[Any, dict[str, Any]]


def model(tooltip: str) -> Declared:
    return ("MODEL", {"tooltip": tooltip})


def positive() -> Declared:
    return ("CONDITIONING", {"tooltip": "What the picture should show, from GLIDE Text Encode."})


def negative() -> Declared:
    return (
        "CONDITIONING",
        {
            "tooltip": "What guidance moves away from. An empty text is GLIDE's own "
            "unconditional input; a text makes it a negative prompt."
        },
    )


def seed(
    what: str = "Picture i of a batch uses seed + i, so that it comes out alone too.",
) -> Declared:
    return (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": 2**64 - 1,
            "control_after_generate": True,
            "tooltip": f"Decides all noise, the same on every device. {what}",
        },
    )


def steps(default: int, tooltip: str = "") -> Declared:
    text = "Model calls, evenly spread over the 1000 trained timesteps. 25 to 100 is usual."
    return ("INT", {"default": default, "min": 1, "max": 1000, "tooltip": tooltip or text})


def sampler_name(default: str) -> Declared:
    from glide_core.names import SAMPLER_ALIASES, SAMPLERS

    return (
        [*SAMPLERS, *SAMPLER_ALIASES],
        {
            "default": default,
            "tooltip": "ddpm, ddim and plms are the paper's, exactly; the others need "
            "fewer steps for the same quality.",
        },
    )


def cfg(default: float) -> Declared:
    return (
        "FLOAT",
        {
            "default": default,
            "min": 0.0,
            "max": 50.0,
            "step": 0.1,
            "round": 0.01,
            "tooltip": "Classifier-free guidance: 1 is off (and twice as fast), 3 to 5 follows "
            "the prompt closely, more burns out.",
        },
    )


def strength(default: float, tooltip: str) -> Declared:
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
            "tooltip": "Scale of the starting noise. The paper upsamples at 0.997, a little "
            "calmer than 1.",
        },
    )


def respacing(default: str) -> Declared:
    return (
        "STRING",
        {
            "default": default,
            "advanced": True,
            "tooltip": "The paper's timestep respacing, instead of `steps` unless empty: '100', "
            "'ddim50', 'fast27', or steps per section as '10,10,3,2,2'.",
        },
    )


def dtype() -> Declared:
    return (
        list(DTYPES),
        {
            "default": "auto",
            "tooltip": "Number format of the heavy layers. auto: what the device is quick and "
            "safe at. Norms and sampling stay float32.",
        },
    )


def checkpoint(purposes: Sequence[Purpose], tooltip: str, *, first: Sequence[str] = ()) -> Declared:
    """A choice of files; with none found it still loads, and says so when it is run."""
    names = [*first, *current().checkpoint_names(*purposes)]
    return (names or [NO_FILE], {"default": (names or [NO_FILE])[0], "tooltip": tooltip})


def checkpoint_problem(*names: str | None, kinds: Sequence[str] = ()) -> str | bool:
    """VALIDATE_INPUTS for file choices: True, or what is wrong. None is a connected input.

    kinds: what will do of the first file; looked up only where its header tells, in no time.
    """
    for name in names:
        if name == NO_FILE:
            return (
                "there is no GLIDE model file to load. Expected one in models/glide. Put one "
                "there, or get one with `glide models download NAME`, then reload the node list."
            )
        if name is not None:
            try:
                path = current().checkpoint_path(name)
            except GlideError as error:
                return str(error)
            found = kind_of(path) if kinds and name is names[0] else None
            if found is not None and found not in kinds:
                return (
                    f"{name} is GLIDE's {found} model. Expected {one_of(kinds)}. Choose another "
                    f"file here, or this one in {KIND_LOADERS[found]}."
                )
    return True


def kind_of(path: Path) -> str | None:
    """Tell from a safetensors file's header what it holds; None where only loading it could."""
    if path.suffix != ".safetensors":
        return None
    from glide_core.checkpoints.loading import inspect
    from glide_core.config import ClipConfig

    try:
        config = inspect(path)
    except GlideError:  # damaged, or written by another program: loading says more
        return None
    return CLIP if isinstance(config, ClipConfig) else config.kind


def respacing_problem(text: str | None, steps: int = 1000) -> str | bool:
    """VALIDATE_INPUTS for a respacing string: True, or what is wrong. None is a connected input."""
    from glide_core.diffusion.schedule import space_timesteps

    try:
        if text and text.strip():
            space_timesteps(steps, text.strip())
    except GlideError as error:
        return str(error)
    return True


def changed(*names: str) -> str:
    """IS_CHANGED for file choices: a loader runs again when a file's time or size is new."""
    try:
        paths: list[Path] = [current().checkpoint_path(name) for name in names]
        return fingerprint(paths)
    except (GlideError, OSError):
        return "missing"


def need(host: Host, model: Any, kinds: Sequence[str], *, node: str, name: str = "model") -> Any:
    """Give a MODEL's GlideConfig; GlideError when it is not one of these kinds of GLIDE model."""
    config = host.glide_config(model)
    loaders = one_of(dict.fromkeys(KIND_LOADERS[kind] for kind in kinds))
    wanted = f"Expected GLIDE's {one_of(kinds)} model. Connect {loaders}."
    if config is None:
        raise GlideError(f"{node}: the MODEL on '{name}' is not a GLIDE model. {wanted}")
    if config.kind not in kinds:
        raise GlideError(f"{node}: the MODEL on '{name}' is GLIDE's {config.kind} model. {wanted}")
    return config
