"""The example workflows: `python -m tools.templates` writes example_workflows/*.json.

No template needs a file that does not ship, except where `models` names its address; images and
masks to work on are made inside the workflow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from glide_core.checkpoints.catalog import OPENAI_URL
from tools.workflow_writer import ROOT, Node, Workflow

FOLDER = ROOT / "example_workflows"
BASE, UPSAMPLER = "bundled/base.safetensors", "bundled/upsampler.safetensors"
INPAINT, UPSAMPLER_INPAINT = (
    "bundled/inpaint.safetensors",
    "bundled/upsampler_inpaint.safetensors",
)
NOISY_CLIP = "bundled/clip.safetensors"
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
    options = {"model": base[0], "preset": "balanced", "steps": 20, **sampler}
    sample = flow.add(
        "GlideSampler",
        positive=positive[0],
        negative=negative[0],
        latent_image=latent[0],
        **options,
    )
    return base, positive, negative, latent, sample


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
        models=model_file("base.pt", OPENAI_URL + "base.pt", "glide"),
    )
    loader = flow.add(
        "GlideUpsamplerLoader",
        checkpoint="upsample.pt",
        models=model_file("upsample.pt", OPENAI_URL + "upsample.pt", "glide"),
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
    text = "a penguin on a purple background"
    clip = flow.add("GlideClipLoader", checkpoint=NOISY_CLIP)
    base, positive, negative, latent, sample = first_stage(
        flow, text, preset="custom", seed=2, steps=50, sampler_name="ddpm", cfg=2.0
    )
    guided = flow.add("GlideClipGuidance", model=base[0], clip=clip[0], text=text, scale=2.0)
    sample.links["model"] = guided[0]
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    large = flow.add(
        "GlideUpsample", model=loader[0], positive=positive[0], image=sample[0], seed=2
    )
    save = flow.add("SaveImage", "glide_clip", images=large[0])
    note = flow.note(
        "CLIP guidance",
        "A noisy CLIP moves every step towards the text, beside classifier-free guidance (the "
        "paper's section 2.4).",
        "Set *cfg* to 1 for CLIP guidance alone, *scale* to 0 for none.",
        "The charts show both at every step.",
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
        "Both results come from the same small image; only the prompt differs.",
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


def inpaint() -> Workflow:
    flow = Workflow("glide_inpaint")
    base, loader, prompt, latent, sample, image = made_image(flow, "a frog on a pink background", 3)
    black, white, mask = half_mask(flow, 256, 128, 128)
    model = flow.add("GlideLoader", checkpoint=INPAINT, title="Inpainting model")
    second = flow.add(
        "GlideUpsamplerLoader", checkpoint=UPSAMPLER_INPAINT, title="Inpainting upsampler"
    )
    positive, negative = prompts(flow, model[1], "a panda on a pink background")
    painted = flow.add(
        "GlideInpaint",
        model=model[0],
        positive=positive[0],
        negative=negative[0],
        image=image[0],
        mask=mask[0],
        upsampler=second[0],
        seed=0,
        cfg=2.0,
    )
    save = flow.add("SaveImage", "glide_inpaint", images=painted[0])
    note = flow.note(
        "Inpaint an image of any size",
        "The upper row generates an image, the lower row repaints its right half; nothing outside "
        "the mask changes.",
        "For your own image connect Load Image: its IMAGE, and its MASK painted in the mask "
        "editor.",
        height=260,
    )
    flow.place(
        [[note], [base, loader], [prompt, latent], [sample], [image]],
        [[model, second], [positive, negative], [black, white, mask], [painted], [save]],
    )
    return flow


def inpaint_ksampler() -> Workflow:
    flow = Workflow("glide_inpaint_ksampler")
    base = flow.add("GlideLoader", checkpoint=BASE, title="Base model")
    prompt = flow.add(
        "CLIPTextEncode",
        "a frog on a pink background",
        clip=base[1],
        title="Prompt of the image",
        height=110,
    )
    latent = flow.add("GlideEmptyLatent")
    first = flow.add(
        "KSampler",
        *[3, "fixed", 20, 1.0, "dpmpp_2m", "normal", 1.0],
        model=base[0],
        positive=prompt[0],
        negative=prompt[0],
        latent_image=latent[0],
        title="The image, 64x64",
    )
    small = flow.add("VAEDecode", samples=first[0], vae=base[2])
    black, white, mask = half_mask(flow, 64, 32, 32)
    model = flow.add("GlideLoader", checkpoint=INPAINT, title="Inpainting model")
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    positive = flow.add(
        "CLIPTextEncode",
        "a panda on a pink background",
        clip=model[1],
        title="Prompt",
        height=110,
    )
    negative = flow.add("CLIPTextEncode", "", clip=model[1], title="Negative prompt", height=110)
    condition = flow.add(
        "GlideInpaintConditioning",
        positive=positive[0],
        negative=negative[0],
        image=small[0],
        mask=mask[0],
    )
    painted = flow.add(
        "KSampler",
        *[0, "fixed", 30, 2.0, "dpmpp_2m", "normal", 1.0],
        model=model[0],
        positive=condition[0],
        negative=condition[1],
        latent_image=condition[2],
        title="Inpaint at 64x64",
    )
    half = flow.add("VAEDecode", samples=painted[0], vae=model[2])
    enlarge = flow.add(
        "GlideUpsampleConditioning", positive=positive[0], negative=negative[0], image=half[0]
    )
    large = flow.add(
        "KSampler",
        *[0, "fixed", 15, 1.0, "euler", "normal", 1.0],
        model=loader[0],
        positive=enlarge[0],
        negative=enlarge[1],
        latent_image=enlarge[2],
        title="Upsample to 256x256",
    )
    result = flow.add("VAEDecode", samples=large[0], vae=model[2])
    save = flow.add("SaveImage", "glide_inpaint_ksampler", images=result[0], height=380)
    note = flow.note(
        "Inpainting with KSampler",
        "The upper row generates a frog; the lower row repaints its right half as a panda and "
        "enlarges the result, all with KSampler.",
        "GLIDE Inpaint does the lower row in one node, for images of any size.",
        height=260,
    )
    flow.place(
        [[note], [base, latent, prompt], [small, first], [black, white, mask], [condition, half]],
        [[model, loader], [positive, negative], [painted], [enlarge, result], [large], [save]],
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


def guide_any_model() -> Workflow:
    flow = Workflow("glide_guide_any_model")
    name, weights = "v1-5-pruned-emaonly-fp16.safetensors", "open_clip_model.safetensors"
    repository = "Comfy-Org/stable-diffusion-v1-5-archive"
    loader = flow.add(
        "CheckpointLoaderSimple",
        name,
        models=model_file(name, f"{HUB}/{repository}/resolve/main/{name}", "checkpoints"),
    )
    repository = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    clip = flow.add(
        "GlideOpenClipLoader",
        weights=weights,
        models=model_file(weights, f"{HUB}/{repository}/resolve/main/{weights}", "glide"),
    )
    text = "a lighthouse on a cliff, oil painting"
    positive = flow.add("CLIPTextEncode", text, clip=loader[1], title="Prompt", height=110)
    negative = flow.add("CLIPTextEncode", "", clip=loader[1], title="Negative prompt", height=110)
    latent = flow.add("EmptyLatentImage", 512, 512, 1)
    guided = flow.add(
        "GlideClipGuidance",
        model=loader[0],
        clip=clip[0],
        vae=loader[2],
        text=text,
        scale=3.0,
        sigma_max=10.0,
    )
    sample = flow.add(
        "KSampler",
        *[1, "fixed", 25, 5.0, "euler", "normal", 1.0],
        model=guided[0],
        positive=positive[0],
        negative=negative[0],
        latent_image=latent[0],
    )
    decoded = flow.add("VAEDecode", samples=sample[0], vae=loader[2])
    save = flow.add("SaveImage", "clip_guided_any", images=decoded[0])
    note = flow.note(
        "CLIP guidance for any model",
        "An open_clip model guides Stable Diffusion 1.5: at each step it scores the VAE's decoding "
        "of the expected image.",
        "The dialog of missing models offers both files (2.7 GB).",
        "Guided steps take more time and memory, since gradients pass through the VAE.",
        height=280,
    )
    flow.place(
        [[note, loader], [positive, negative, latent], [clip, guided], [sample, decoded], [save]]
    )
    return flow


def native_ksampler() -> Workflow:
    flow = Workflow("glide_native_ksampler")
    base = flow.add("GlideLoader", checkpoint=BASE)
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)

    def prompt(text: str, title: str) -> Node:
        return flow.add("CLIPTextEncode", text, clip=base[1], title=title, height=100)

    left = prompt("a fox on a blue background", "Left half")
    right = prompt("a pizza on a green background", "Right half")
    negative = prompt("", "Negative prompt")
    areas = [
        flow.add("ConditioningSetAreaPercentage", 0.5, 1.0, x, 0.0, 1.0, conditioning=side[0])
        for x, side in ((0.0, left), (0.5, right))
    ]
    both = flow.add("ConditioningCombine", conditioning_1=areas[0][0], conditioning_2=areas[1][0])
    noise = flow.add("RandomNoise", 3, "fixed")
    guider = flow.add("CFGGuider", 1.5, model=base[0], positive=both[0], negative=negative[0])
    solver = flow.add("KSamplerSelect", "dpmpp_2m")
    sigmas = flow.add("BasicScheduler", "normal", 30, 1.0, model=base[0])
    wide = flow.add("GlideEmptyLatent", width=128, height=64, title="128 wide, 64 high")
    custom = flow.add(
        "SamplerCustomAdvanced",
        noise=noise[0],
        guider=guider[0],
        sampler=solver[0],
        sigmas=sigmas[0],
        latent_image=wide[0],
    )
    decoded = flow.add("VAEDecode", samples=custom[0], vae=base[2])
    large = flow.add("GlideUpsample", model=loader[0], positive=both[0], image=decoded[0], seed=1)
    save = flow.add("SaveImage", "glide_native", images=large[0], height=300)
    weighted = prompt("a (red:0.6) fox on a blue background", "Prompt with a weight")
    latent = flow.add("GlideEmptyLatent")
    sample = flow.add(
        "KSampler",
        *[3, "fixed", 30, 1.5, "dpmpp_2m", "normal", 1.0],
        model=base[0],
        positive=weighted[0],
        negative=negative[0],
        latent_image=latent[0],
    )
    pixels = flow.add("VAEDecode", samples=sample[0], vae=base[2])
    second = flow.add(
        "GlideUpsample", model=loader[0], positive=weighted[0], image=pixels[0], seed=1
    )
    preview = flow.add("PreviewImage", images=second[0])
    note = flow.note(
        "GLIDE with built-in nodes",
        "GLIDE Loader gives ordinary MODEL, CLIP and VAE, so that ComfyUI's own nodes encode, "
        "sample and decode.",
        "Upper row: two prompts, each for one half of the image. Lower row: a weight on one word.",
    )
    flow.place(
        [
            [note, base],
            [left, right, negative],
            [*areas, both],
            [noise, solver, sigmas, wide],
            [guider, decoded, custom],
            [save, large],
        ],
        [[loader], [weighted, latent], [pixels, sample], [second], [preview]],
    )
    return flow


def prompt_by_prompt() -> Workflow:
    flow = Workflow("glide_prompt_by_prompt")
    base = flow.add("GlideLoader", checkpoint=BASE, title="Base model")
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER, title="Upsampler")
    model = flow.add("GlideLoader", checkpoint=INPAINT, title="Inpainting model")
    second = flow.add(
        "GlideUpsamplerLoader", checkpoint=UPSAMPLER_INPAINT, title="Inpainting upsampler"
    )
    first = flow.add(
        "GlideTextEncode", title="Prompt 1", clip=base[1], text="a castle on a purple background"
    )
    negative = flow.add("GlideTextEncode", title="Negative prompt", clip=base[1], text="")
    latent = flow.add("GlideEmptyLatent")
    sample = flow.add(
        "GlideSampler",
        model=base[0],
        positive=first[0],
        negative=negative[0],
        latent_image=latent[0],
        steps=30,
        cfg=2.0,
    )
    larger = flow.add(
        "GlideUpsample",
        model=loader[0],
        positive=first[0],
        image=sample[0],
        title="Upsample to 256",
    )
    largest = flow.add(
        "GlideUpsample",
        model=loader[0],
        positive=first[0],
        image=larger[0],
        low_size=128,
        title="Upsample to 512",
    )
    canvas = flow.add("EmptyImage", 1024, 576, 1, 8276926, title="Purple canvas")
    square = flow.add("SolidMask", 1.0, 512, 512, title="The castle's square")
    soft = flow.add("FeatherMask", 32, 32, 32, 0, mask=square[0], title="Soft edge")
    scene = flow.add(
        "ImageCompositeMasked",
        256,
        64,
        False,
        destination=canvas[0],
        source=largest[0],
        mask=soft[0],
        title="Castle on the canvas",
    )
    shown = flow.add("PreviewImage", images=scene[0], title="After prompt 1")
    black = flow.add("SolidMask", 0.0, 1024, 576, title="Mask of nothing")
    region = flow.add("SolidMask", 1.0, 232, 232, title="White part")
    steps: list[list[Node]] = []
    image = scene
    for number, (text, x, y) in enumerate(
        (("a crescent moon", 764, 12), ("a ghost", 16, 332), ("a pumpkin", 780, 332)), 2
    ):
        prompt = flow.add(
            "GlideTextEncode",
            title=f"Prompt {number}",
            clip=model[1],
            text=f"{text} on a purple background",
        )
        mask = flow.add(
            "MaskComposite",
            x,
            y,
            "add",
            destination=black[0],
            source=region[0],
            title=f"Mask {number}",
        )
        image = flow.add(
            "GlideInpaint",
            model=model[0],
            positive=prompt[0],
            negative=negative[0],
            image=image[0],
            mask=mask[0],
            upsampler=second[0],
            seed=2,
            cfg=2.0,
            context=0.05,
            title=f"Inpaint {number}",
        )
        steps.append([prompt, mask, image])
    save = flow.add("SaveImage", "glide_prompt_by_prompt", images=image[0], height=320)
    note = flow.note(
        "One image, prompt by prompt",
        "The paper's Fig. 3: an image is generated from a prompt, and each later prompt adds "
        "something in one region.",
        "To change where, set *x* and *y* of a mask; every prompt names the same background.",
    )
    flow.place(
        [
            [note],
            [base, loader, model, second],
            [first, negative, latent],
            [sample],
            [larger],
            [largest],
        ],
        [[canvas, square, soft], [scene, black, region], *steps, [shown, save]],
    )
    return flow


TEMPLATES: tuple[Callable[[], Workflow], ...] = (
    text_to_image,
    openai_checkpoints,
    clip_guided,
    upscale,
    inpaint,
    inpaint_ksampler,
    edit,
    best_of,
    guidance_sweep,
    guide_any_model,
    native_ksampler,
    prompt_by_prompt,
)


def files() -> dict[Path, str]:
    """Give every template's file and content."""
    flows = [make() for make in TEMPLATES]
    return {FOLDER / f"{flow.name}.json": flow.text() for flow in flows}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content, encoding="ascii")
        print(path.relative_to(ROOT))
