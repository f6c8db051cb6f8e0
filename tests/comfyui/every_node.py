"""Every node of the pack in one prompt for a server."""

from __future__ import annotations

from typing import Any


def graph() -> dict[str, Any]:
    """Every node of the pack that needs no open_clip, in one API-format prompt."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    def ksampler(model: str, conditioning: str, cfg: float, sampler: str) -> dict[str, Any]:
        """KSampler on a node whose outputs are positive, negative and a latent."""
        return node(
            "KSampler",
            model=[model, 0],
            positive=[conditioning, 0],
            negative=[conditioning, 1],
            latent_image=[conditioning, 2],
            seed=0,
            steps=2,
            cfg=cfg,
            sampler_name=sampler,
            scheduler="normal",
            denoise=1.0,
        )

    prompts: dict[str, Any] = {"positive": ["positive", 0], "negative": ["negative", 0]}
    few: dict[str, Any] = {**prompts, "seed": 0, "steps": 2, "sampler_name": "ddim", "cfg": 3.0}
    return {
        "base": node("GlideLoader", checkpoint="base.safetensors", dtype="auto"),
        "inpainter": node("GlideLoader", checkpoint="inpaint.safetensors", dtype="auto"),
        "up": node("GlideUpsamplerLoader", checkpoint="upsampler.safetensors", dtype="auto"),
        "clip": node(
            "GlideClipLoader",
            checkpoint="clip.safetensors", text_checkpoint="(in the same file)", dtype="auto",
        ),
        "positive": node("GlideTextEncode", clip=["base", 1], text="a red fox"),
        "negative": node("CLIPTextEncode", clip=["base", 1], text=""),
        "guided": node(
            "GlideClipGuidance", model=["base", 0], clip=["clip", 0], text="a red fox", scale=2.0
        ),
        "empty": node("GlideEmptyLatent", width=64, height=64, batch_size=2),
        "sampled": node(
            "GlideSampler", model=["guided", 0], latent_image=["empty", 0], preset="custom",
            denoise=1.0, **few
        ),
        "scored": node(
            "GlideClipScore", image=["sampled", 0], clip=["clip", 0], text="a red fox", keep=1
        ),
        "upsampled": node(
            "GlideUpsample",
            model=["up", 0], image=["scored", 0], positive=["positive", 0], seed=0, steps=2,
            low_size=32, cfg=1.0, sampler_name="ddim",
        ),
        "small": node(
            "GlideUpsampleConditioning", image=["scored", 0], low_size=32, **prompts
        ),
        "enlarged": ksampler("up", "small", 1.0, "euler"),
        "shown": node("VAEDecode", samples=["enlarged", 0], vae=["base", 2]),
        "swept": node(
            "GlideGuidanceSweep",
            model=["base", 0], clip=["clip", 0], cfg_scales="1, 3", clip_scales="0, 2", steps="2",
            samplers="ddpm", seed=0, images=1, **prompts,
        ),
        "photo": node("LoadImage", image="photo.png"),
        "inpainted": node(
            "GlideInpaint", model=["inpainter", 0], image=["photo", 0], mask=["photo", 1], **few
        ),
        "hidden": node(
            "GlideInpaintConditioning",
            image=["photo", 0], mask=["photo", 1], width=64, height=64, noise_mask=True, **prompts,
        ),
        "ksampler": ksampler("inpainter", "hidden", 3.0, "dpmpp_2m"),
        "decoded": node("VAEDecode", samples=["ksampler", 0], vae=["base", 2]),
        "edited": node(
            "GlideEdit", model=["base", 0], image=["photo", 0], denoise=0.5, **few
        ),
        **{
            f"save_{name}": node("SaveImage", images=[name, 0], filename_prefix=name)
            for name in ("sampled", "upsampled", "shown", "swept", "inpainted", "decoded", "edited")
        },
    }  # fmt: skip
