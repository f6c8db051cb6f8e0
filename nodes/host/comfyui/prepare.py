"""What is checked and prepared when ComfyUI begins a run of a GLIDE MODEL, under any sampler.

`prepare_sampling` runs before the MODEL is loaded, `check_text` and `check_images` once per prompt
before the first step. Every error names the input of the sampler node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from glide_core.config import GlideConfig
from glide_core.errors import GlideError
from glide_core.stages import upsampled_size

from ..values import GLIDE_TEXT, LOW_RES, POOLED, check_carried
from .inpaint_cond import find_known
from .patches import check_patches
from .text import GLIDE_SEGMENTS, GLIDE_TEXT_ENCODER, LoadedText, encode_again
from .versions import check_easy_cache


def prepare_sampling(
    executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **options: Any
) -> Any:
    """Check a run, and encode the prompts of other models with the MODEL's own text encoder."""
    check_latent(model.model.glide_config, noise_shape)
    check_patches(model.model_options, model.model.diffusion_model)
    check_conditions(conds)
    check_easy_cache(model.model_options, noise_shape[0])
    text: LoadedText | None = getattr(model.model, "text", None)
    if text is not None:
        conds = {name: [own_prompt(cond, text) for cond in conds[name]] for name in conds}
    return executor(model, noise_shape, conds, *args, **options)


def check_latent(config: GlideConfig, shape: Sequence[int]) -> None:
    """GlideError for a LATENT [B, C, H, W] that GLIDE cannot sample."""
    channels, trained = config.unet.channels, config.unet.image_size
    if len(shape) != 4 or shape[1] != channels:
        raise GlideError(
            f"the LATENT on 'latent_image' has the shape {list(shape)}. Expected [batch, "
            f"{channels}, height, width]: encode an image with the VAE of GLIDE Loader, or use "
            "GLIDE Empty Latent."
        )
    height, width = shape[2:]
    if not config.is_upsampler and min(height, width) < trained // 2:
        raise GlideError(
            f"the LATENT on 'latent_image' is {width}x{height} pixels. Expected at least "
            f"{trained // 2}x{trained // 2}: the MODEL was trained at {trained}x{trained}. Use "
            "GLIDE Empty Latent; Empty Latent Image divides its sides by 8 in some versions."
        )


def check_conditions(conds: dict[str, list[dict[str, Any]]]) -> None:
    """GlideError for prompts with conditions that GLIDE does not have."""
    for name, label in (("control", "ControlNet"), ("gligen", "GLIGEN")):
        if any(cond.get(name) is not None for parts in conds.values() for cond in parts):
            raise GlideError(
                f"a CONDITIONING of this GLIDE MODEL carries {label}, which GLIDE does not "
                f"support. Remove the {label} node."
            )


def check_text(config: GlideConfig, states: Any, pooled: Any, extras: Mapping[str, Any]) -> None:
    """GlideError for features that are not of this model's kind of text encoder."""
    if GLIDE_TEXT not in extras and GLIDE_TEXT_ENCODER not in extras:
        problem = "was not made by a GLIDE text encoder"
    elif states is None or pooled is None:
        problem = "carries no features"
    elif states.shape[-1] != config.text.width or pooled.shape[-1] != config.unet.embedding_width:
        problem = "was made by the text encoder of another GLIDE model"
    else:
        return
    raise GlideError(
        f"{prompt_name(extras)} {problem}. Encode the prompt with the CLIP output of GLIDE Loader."
    )


def check_images(config: GlideConfig, extras: Mapping[str, Any], shape: Sequence[int]) -> None:
    """GlideError where a prompt carries an image that does not fit, or lacks one.

    shape: of the LATENT, [B, C, H, W].
    """
    where = prompt_name(extras)
    if config.is_upsampler and extras.get(LOW_RES) is None:
        raise GlideError(
            f"the MODEL on 'model' is GLIDE's {config.kind} model, and {where} carries no image to "
            "enlarge. Connect GLIDE Upsample Conditioning, or use the MODEL of GLIDE Loader."
        )
    check_carried(extras, config, shape[0], where)
    if config.is_upsampler:
        check_enlarged(extras[LOW_RES], shape, where)
    if config.is_inpaint and find_known(extras) is None:
        raise GlideError(
            f"the MODEL on 'model' is GLIDE's {config.kind} model, and neither {where} "
            "nor 'latent_image' carries an image and a mask. Connect GLIDE Inpaint Conditioning, "
            "or use a model of another kind."
        )


def check_enlarged(low_res: Tensor, shape: Sequence[int], where: str) -> None:
    """GlideError unless the LATENT [B, C, H, W] is the small image enlarged, by any factor."""
    (height, width), (tall, wide) = low_res.shape[2:], shape[2:]
    if wide <= width or wide * height != tall * width:
        enlarged_height, enlarged_width = upsampled_size(low_res)
        raise GlideError(
            f"{where} carries an image of {width}x{height} pixels to enlarge, and the LATENT on "
            f"'latent_image' is {wide}x{tall}. Expected {enlarged_width}x{enlarged_height}: "
            "connect the LATENT of GLIDE Upsample Conditioning."
        )


def prompt_name(extras: Mapping[str, Any]) -> str:
    """Name the input of the sampler node that a prompt came from."""
    return f"the CONDITIONING on '{extras.get('prompt_type', 'positive')}'"


def own_prompt(cond: dict[str, Any], text: LoadedText) -> dict[str, Any]:
    """Give a prepared condition with the features of this text encoder.

    Features that ConditioningZeroOut set to zero stand for no prompt, as in other models. GLIDE was
    not trained on zeros (they give noise): its unconditional input is the empty prompt.
    """
    if GLIDE_TEXT not in cond:
        return cond
    features = [cond[key] for key in ("cross_attn", POOLED) if cond.get(key) is not None]
    if features and not any(feature.any() for feature in features):
        cond = {**cond, GLIDE_SEGMENTS: '[["", 1.0]]'}
    elif cond.get(GLIDE_TEXT_ENCODER) == text.fingerprint:
        return cond
    states, extras = encode_again(text.clip, cond)
    return {**cond, **extras, "cross_attn": states}
