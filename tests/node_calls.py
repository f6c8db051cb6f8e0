"""Nodes as functions, on the tiny models: widgets that are not given keep their defaults."""

from __future__ import annotations

from typing import Any

import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS


def call(name: str, **inputs: Any) -> Any:
    node: Any = NODE_CLASS_MAPPINGS[name]()
    declared = node.INPUT_TYPES()
    groups = {**declared["required"], **declared.get("optional", {})}
    values = {
        key: entry[1]["default"]
        for key, entry in groups.items()
        if len(entry) > 1 and "default" in entry[1]
    }
    result = getattr(node, node.FUNCTION)(**{**values, **inputs})
    return result["result"] if isinstance(result, dict) else result


def base(name: str = "tiny_base.safetensors") -> tuple[Any, Any, Any]:
    return call("GlideLoader", checkpoint=name)


def upsampler(name: str = "tiny_upsampler.safetensors") -> Any:
    return call("GlideUpsamplerLoader", checkpoint=name)[0]


def noisy_clip() -> Any:
    return call("GlideClipLoader", checkpoint="tiny_clip.safetensors")[0]


def prompts(clip: Any, text: str = "a red apple") -> dict[str, Any]:
    return {
        "positive": call("GlideTextEncode", clip=clip, text=text)[0],
        "negative": call("GlideTextEncode", clip=clip, text="")[0],
    }


def sample(batch: int = 1, *, text: str = "a red apple", model: Any = None, **inputs: Any) -> Any:
    loaded, clip, _ = base()
    latent = call("GlideEmptyLatent", width=32, height=32, batch_size=batch)[0]
    given = {"steps": 2, "latent_image": latent, **prompts(clip, text), **inputs}
    return call("GlideSampler", model=model or loaded, **given)


def make_image(width: int = 40, height: int = 24, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(1))


def latent(batch: int = 1, side: int = 32, **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {"samples": torch.rand(batch, 3, side, side, generator=generator) * 2 - 1, **more}
