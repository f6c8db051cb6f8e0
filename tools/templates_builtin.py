"""Example workflows in which ComfyUI's built-in nodes work on GLIDE, or GLIDE's on other models."""

from __future__ import annotations

from tools.template_parts import (
    BASE,
    CFG,
    HUB,
    UPSAMPLER,
    model_file,
)
from tools.workflow_writer import Node, Workflow


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
    guider = flow.add("CFGGuider", CFG, model=base[0], positive=both[0], negative=negative[0])
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
        *[3, "fixed", 30, CFG, "dpmpp_2m", "normal", 1.0],
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


def half_masks(flow: Workflow) -> tuple[Node, ...]:
    """Add masks of the left and right half of 128x64 pixels; the last two nodes are the masks."""
    black = flow.add("SolidMask", 0.0, 128, 64, title="Mask of nothing")
    white = flow.add("SolidMask", 1.0, 64, 64, title="White half")
    halves = [
        flow.add("MaskComposite", x, 0, "add", destination=black[0], source=white[0], title=title)
        for x, title in ((0, "Mask: left half"), (64, "Mask: right half"))
    ]
    return black, white, *halves


def regional_prompts() -> Workflow:
    flow = Workflow("glide_regional_prompts")
    base = flow.add("GlideLoader", checkpoint=BASE)
    loader = flow.add("GlideUpsamplerLoader", checkpoint=UPSAMPLER)
    black, white, *masks = half_masks(flow)

    def prompt(text: str, title: str) -> Node:
        return flow.add("CLIPTextEncode", text, clip=base[1], title=title, height=100)

    def side(source: Node, mask: Node, title: str) -> Node:
        return flow.add(
            "ConditioningSetMask",
            *[1.0, "mask bounds"],
            conditioning=source[0],
            mask=mask[0],
            title=title,
        )

    def both(parts: list[Node], title: str) -> Node:
        first, second = parts
        return flow.add(
            "ConditioningCombine", conditioning_1=first[0], conditioning_2=second[0], title=title
        )

    left = prompt("an owl on a yellow background", "Left prompt")
    right = prompt("a rocket on a black background", "Right prompt")
    negative = prompt("", "Negative prompt")
    sides = [
        side(left, masks[0], "Left prompt, left half"),
        side(right, masks[1], "Right prompt, right half"),
    ]
    against = [
        side(negative, mask, f"Negative prompt, {where} half")
        for mask, where in zip(masks, ("left", "right"), strict=True)
    ]
    positive, minus = both(sides, "Both prompts"), both(against, "Negative prompt, both halves")
    latent = flow.add("GlideEmptyLatent", width=128, height=64, title="128 wide, 64 high")
    sample = flow.add(
        "KSampler",
        *[0, "fixed", 20, 3.0, "euler", "normal", 1.0],
        model=base[0],
        positive=positive[0],
        negative=minus[0],
        latent_image=latent[0],
    )
    decoded = flow.add("VAEDecode", samples=sample[0], vae=base[2])
    large = flow.add("GlideUpsample", model=loader[0], positive=positive[0], image=decoded[0])
    save = flow.add("SaveImage", "glide_regions", images=large[0], height=300)
    note = flow.note(
        "Two subjects by regional prompts",
        "Each prompt is sampled in its own half of a 128x64 image, bound to it by a mask.",
        "*mask bounds* samples each half at 64x64, the size that the model was trained on; with "
        "*default* every prompt is sampled over the whole image.",
        "The halves of the mask may also differ in size: keep both sides at 64 or more.",
        height=300,
    )
    flow.place(
        [
            [note, base, loader],
            [left, right, negative],
            [black, white, *masks],
            [*sides, *against],
            [positive, minus, latent],
            [sample, decoded],
        ],
        [[large], [save]],
    )
    return flow


def train_lora() -> Workflow:
    flow = Workflow("glide_train_lora")
    base = flow.add("GlideLoader", checkpoint=BASE, dtype="float32")

    def prompt(text: str, title: str) -> Node:
        return flow.add("GlideTextEncode", clip=base[1], text=text, title=title)

    images = prompt("a purple fox", "Prompt of the images")
    caption = prompt("a fox", "Caption to learn, prompt to try")
    negative = prompt("", "Negative prompt")
    ten = flow.add("GlideEmptyLatent", batch_size=10, title="Ten images")
    one = flow.add("GlideEmptyLatent", title="One image")

    def sample(title: str, model: Node, text: Node, latent: Node, seed: int, cfg: float) -> Node:
        return flow.add(
            "GlideSampler",
            model=model[0],
            positive=text[0],
            negative=negative[0],
            latent_image=latent[0],
            steps=20,
            cfg=cfg,
            seed=seed,
            title=title,
        )

    made = sample("Images to learn from", base, images, ten, 0, CFG)
    train = flow.add(
        "TrainLoraNode",
        *[2, 1, 150, 0.0005, 8, "AdamW", "MSE", 0, "fixed", "fp32", "fp32", False, "LoRA"],
        *[False, 1, False, "[None]", False, False],
        model=base[0],
        latents=made[1],
        positive=caption[0],
    )
    tuned = flow.add("LoraModelLoader", 1.0, False, model=base[0], lora=train[0])
    save = flow.add("SaveLoRA", "loras/glide_purple_fox", 150, lora=train[0])
    before = sample("Without the LoRA", base, caption, one, 100, CFG)
    after = sample("With the LoRA", tuned, caption, one, 100, CFG)
    shown = [
        flow.add("PreviewImage", images=made[0], title="Ten images", height=330),
        flow.add("PreviewImage", images=before[0], title="Without the LoRA", height=330),
        flow.add("PreviewImage", images=after[0], title="With the LoRA", height=330),
    ]
    note = flow.note(
        "Train a LoRA in ComfyUI",
        "Ten images of a purple fox are generated, and a LoRA learns them as *a fox*: "
        "150 steps, about three minutes on a CPU. ComfyUI 0.24 or newer.",
        "For your own images connect Load Image and VAE Encode to *latents*.",
        "Save LoRA writes to output/loras; move the file to models/loras for *Load LoRA*.",
        height=330,
    )
    flow.place(
        [[note, base], [images, caption, negative], [ten, one], [made], [train], [shown[0]]],
        [[tuned, save], [before], [after], [shown[1]], [shown[2]]],
    )
    return flow
