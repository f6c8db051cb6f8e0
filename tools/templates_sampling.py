"""Example workflows that generate images with the pack's own sampler nodes."""

from __future__ import annotations

from glide_core.checkpoints.catalog import find
from tools.template_parts import (
    BASE,
    CFG,
    NOISY_CLIP,
    UPSAMPLER,
    first_stage,
    model_file,
    prompts,
)
from tools.workflow_writer import Workflow


def text_to_image() -> Workflow:
    flow = Workflow("glide_text_to_image")
    base, positive, negative, latent, sample = first_stage(flow, "a fox on a blue background")
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    large = flow.add("GlideUpsample", model=loader[0], positive=positive[0], image=sample[0])
    save = flow.add("SaveImage", "glide", images=large[0])
    note = flow.note(
        "Text to image",
        "GLIDE Sampler makes a 64x64 image, GLIDE Upsample enlarges it to 256x256.",
        "The bundled models know emoji subjects on plain backgrounds: *a panda on a pink "
        "background*.",
        "For OpenAI's checkpoints open *glide_openai_checkpoints*.",
    )
    flow.place(
        [[note, base, loader], [positive, negative, latent], [sample], [large], [save]],
    )
    return flow


def openai_checkpoints() -> Workflow:
    flow = Workflow("glide_openai_checkpoints")
    base = flow.add(
        "GlideLoader",
        checkpoint="base.pt",
        models=model_file("base.pt", str(find("base.pt").url), "glide"),
    )
    loader = flow.add(
        "GlideUpsamplerLoader",
        checkpoint="upsample.pt",
        models=model_file("upsample.pt", str(find("upsample.pt").url), "glide"),
    )
    positive, negative = prompts(flow, base[1], "an oil painting of a corgi")
    latent = flow.add("GlideEmptyLatent")
    sample = flow.add(
        "GlideSampler",
        model=base[0],
        positive=positive[0],
        negative=negative[0],
        latent_image=latent[0],
        steps=100,
        cfg=3.0,
        sampler_name="ddpm",
    )
    large = flow.add(
        "GlideUpsample",
        model=loader[0],
        positive=positive[0],
        image=sample[0],
        steps=27,
        respacing="fast27",
        temperature=0.997,
    )
    save = flow.add("SaveImage", "glide_openai", images=large[0])
    note = flow.note(
        "OpenAI's checkpoints",
        "Download *base.pt* and *upsample.pt* (3.1 GB) into `models/glide`; the dialog of missing "
        "models has the addresses.",
        "The settings are those of the paper's notebook: 100 steps of ddpm at cfg 3, then fast27 "
        "at temperature 0.997.",
        "On a CPU one image takes minutes.",
    )
    flow.place([[note, base, loader], [positive, negative, latent], [sample], [large], [save]])
    return flow


def clip_guided() -> Workflow:
    flow = Workflow("glide_clip_guided")
    clip = flow.add("GlideClipLoader", checkpoint=NOISY_CLIP)
    base, positive, negative, latent, sample = first_stage(
        flow, "an owl", preset="custom", seed=3, steps=25, sampler_name="ddim", cfg=1.0
    )
    guided = flow.add(
        "GlideClipGuidance",
        model=base[0],
        clip=clip[0],
        text="an owl on a blue background",
        scale=30.0,
    )
    sample.links["model"] = guided[0]
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    large = flow.add(
        "GlideUpsample", model=loader[0], positive=positive[0], image=sample[0], seed=3
    )
    save = flow.add("SaveImage", "glide_clip", images=large[0])
    note = flow.note(
        "CLIP guidance",
        "The prompt asks for an owl; a noisy CLIP moves every step towards its own text, which "
        "makes the background blue (the paper's section 2.4).",
        "With *scale* 0 the background is gray: the prompt leaves it open.",
        "The chart shows the guidance at every step.",
    )
    flow.place(
        [
            [note, base, loader],
            [positive, negative, latent],
            [clip, guided],
            [sample],
            [large],
            [save],
        ]
    )
    return flow


def upscale() -> Workflow:
    flow = Workflow("glide_upscale")
    base, positive, negative, latent, sample = first_stage(
        flow, "a frog on a pink background", seed=3
    )
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    large = flow.add(
        "GlideUpsample",
        model=loader[0],
        positive=positive[0],
        image=sample[0],
        seed=3,
        title="Upsample: a frog",
    )
    other = flow.add(
        "GlideTextEncode", title="Another prompt", clip=base[1], text="a pig on a pink background"
    )
    changed = flow.add(
        "GlideUpsample",
        model=loader[0],
        positive=other[0],
        image=sample[0],
        seed=3,
        title="Upsample: a pig",
    )
    small = flow.add("PreviewImage", images=sample[0], title="64x64")
    save = flow.add("SaveImage", "glide_upscale", images=large[0], height=330)
    save_changed = flow.add("SaveImage", "glide_upscale", images=changed[0], height=330)
    note = flow.note(
        "Upsample an image",
        "GLIDE's upsampler adds detail to a 64x64 image and reads a prompt that describes it.",
        "Both results come from the same small image with different prompts; the bundled upsampler "
        "follows the image more than the prompt.",
        "For your own image connect Load Image to both *image* inputs.",
    )
    flow.place(
        [
            [note, base, loader],
            [positive, negative, latent, other],
            [sample, small],
            [large, changed],
            [save, save_changed],
        ]
    )
    return flow


def edit() -> Workflow:
    flow = Workflow("glide_edit")
    base, positive, negative, latent, sample = first_stage(
        flow, "a tomato on a white background", seed=1
    )
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    other = flow.add(
        "GlideTextEncode",
        title="Prompt of the edit",
        clip=base[1],
        text="a strawberry on a white background",
    )
    edited = flow.add(
        "GlideEdit",
        model=base[0],
        positive=other[0],
        negative=negative[0],
        image=sample[0],
        upsampler=loader[0],
        seed=5,
        steps=50,
        cfg=CFG,
        denoise=0.7,
    )
    before = flow.add("PreviewImage", images=sample[0], title="Before")
    save = flow.add("SaveImage", "glide_edit", images=edited[0])
    note = flow.note(
        "Edit an image (SDEdit)",
        "Noise is added up to *denoise* and removed again under another prompt: a tomato becomes a "
        "strawberry with the same layout.",
        "A lower *denoise* keeps more of the image.",
        "For your own image or sketch connect Load Image to *image*.",
    )
    flow.place(
        [
            [note, base, loader],
            [positive, negative, other, latent],
            [sample],
            [before, edited],
            [save],
        ]
    )
    return flow


def best_of() -> Workflow:
    flow = Workflow("glide_best_of")
    text = "a fox on a blue background"
    clip = flow.add("GlideClipLoader", checkpoint=NOISY_CLIP)
    base, positive, negative, latent, sample = first_stage(
        flow, text, batch=8, preset="custom", steps=30, sampler_name="ddpm", cfg=1.0
    )
    every = flow.add("PreviewImage", images=sample[0], title="All eight", height=330)
    score = flow.add("GlideClipScore", image=sample[0], clip=clip[0], text=text, keep=1)
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    large = flow.add("GlideUpsample", model=loader[0], positive=positive[0], image=score[0])
    save = flow.add("SaveImage", "glide_best_of", images=large[0])
    note = flow.note(
        "The best of eight",
        "Generates eight images, scores them with CLIP and enlarges the best, as the paper selects "
        "its samples.",
        "The scores appear on GLIDE CLIP Score; *keep* is how many images it passes on.",
        "A larger *batch_size* gives more to choose from.",
    )
    flow.place(
        [
            [note, base, loader],
            [positive, negative, latent, clip],
            [sample],
            [every, score],
            [large],
            [save],
        ]
    )
    return flow


def guidance_sweep() -> Workflow:
    flow = Workflow("glide_guidance_sweep")
    base = flow.add("GlideLoader", checkpoint=BASE)
    clip = flow.add("GlideClipLoader", checkpoint=NOISY_CLIP)
    positive, negative = prompts(flow, base[1], "a fox on a blue background")
    sweep = flow.add(
        "GlideGuidanceSweep",
        model=base[0],
        positive=positive[0],
        negative=negative[0],
        clip=clip[0],
        cfg_scales="1, 2, 3, 5",
        clip_scales="0, 3",
        steps="20",
        samplers="ddpm",
        seed=1,
    )
    grid = flow.add("SaveImage", "glide_sweep_grid", images=sweep[0], title="Grid", height=460)
    plot = flow.add("SaveImage", "glide_sweep_plot", images=sweep[1], title="Plot", height=460)
    note = flow.note(
        "Guidance sweep",
        "Generates one prompt from the same noise under every combination of the lists.",
        "The plot shows CLIP's score against diversity; its dashed line joins the settings that no "
        "other beats in both (the Pareto front).",
        "The CLIP that scores is also the one that guides, which favours its own guidance.",
        height=300,
    )
    flow.place([[note, base], [positive, negative, clip], [sweep], [grid], [plot]])
    return flow
