"""Parts that several example workflows have in common."""

from __future__ import annotations

from typing import Any

from tools.workflow_writer import Node, Workflow

BASE, UPSAMPLER = "bundled/base.safetensors", "bundled/upsampler.safetensors"
INPAINT, UPSAMPLER_INPAINT = (
    "bundled/inpaint.safetensors",
    "bundled/upsampler_inpaint.safetensors",
)
NOISY_CLIP = "bundled/clip.safetensors"
CFG = 1.5  # the bundled models' own guidance scale (recipes/emoji/publish.py)
HUB = "https://huggingface.co"


def model_file(name: str, url: str, directory: str) -> list[dict[str, str]]:
    return [{"name": name, "url": url, "directory": directory}]


def prompts(flow: Workflow, clip: Any, text: str) -> tuple[Node, Node]:
    """Add a prompt and an empty negative prompt."""
    return (
        flow.add("GlideTextEncode", title="Prompt", clip=clip, text=text),
        flow.add("GlideTextEncode", title="Negative prompt", clip=clip, text=""),
    )


def first_stage(
    flow: Workflow, text: str, *, batch: int = 1, **sampler: Any
) -> tuple[Node, Node, Node, Node, Node]:
    """Add a base model, its prompts, an empty LATENT and GLIDE Sampler."""
    base = flow.add("GlideLoader", checkpoint=BASE)
    positive, negative = prompts(flow, base[1], text)
    latent = flow.add("GlideEmptyLatent", batch_size=batch)
    options = {"model": base[0], "preset": "balanced", "steps": 20, "cfg": CFG, **sampler}
    sample = flow.add(
        "GlideSampler",
        positive=positive[0],
        negative=negative[0],
        latent_image=latent[0],
        **options,
    )
    return base, positive, negative, latent, sample


def made_image(
    flow: Workflow, text: str, seed: int, **sampler: Any
) -> tuple[Node, Node, Node, Node, Node, Node]:
    """Add the nodes that generate a 256x256 image to work on, the last with the image."""
    base = flow.add("GlideLoader", checkpoint=BASE, title="Base model")
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER, title="Upsampler")
    prompt = flow.add("GlideTextEncode", title="Prompt of the image", clip=base[1], text=text)
    latent = flow.add("GlideEmptyLatent")
    options = {"preset": "balanced", "steps": 20, "cfg": 1.0, "seed": seed, **sampler}
    sample = flow.add(
        "GlideSampler",
        model=base[0],
        positive=prompt[0],
        negative=prompt[0],
        latent_image=latent[0],
        title="The image, 64x64",
        **options,
    )
    large = flow.add(
        "GlideUpsample",
        model=loader[0],
        positive=prompt[0],
        image=sample[0],
        seed=seed,
        title="The image, 256x256",
    )
    return base, loader, prompt, latent, sample, large


def half_mask(flow: Workflow, side: int, x: int, width: int) -> tuple[Node, Node, Node]:
    """Add built-in nodes that make a mask: black, with a white rectangle of full height."""
    black = flow.add("SolidMask", 0.0, side, side, title="Mask of nothing")
    white = flow.add("SolidMask", 1.0, width, side, title="White part")
    mask = flow.add(
        "MaskComposite",
        x,
        0,
        "add",
        destination=black[0],
        source=white[0],
        title="Mask: the right half",
    )
    return black, white, mask
