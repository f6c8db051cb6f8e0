"""Example workflows that repaint a part of an image."""

from __future__ import annotations

from tools.template_parts import (
    BASE,
    CFG,
    INPAINT,
    UPSAMPLER,
    UPSAMPLER_INPAINT,
    half_mask,
    made_image,
    prompts,
)
from tools.workflow_writer import Node, Workflow


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
        cfg=CFG,
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
        cfg=CFG,
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
    prompts: list[Node] = []
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
            cfg=CFG,
            context=0.05,
            title=f"Inpaint {number}",
        )
        prompts.append(prompt)
        steps.append([mask, image])
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
            [base, loader, model, second, latent],
            [first, *prompts, negative],
            [sample],
            [larger],
            [largest],
        ],
        [[canvas, square, soft], [scene, black, region], *steps, [shown, save]],
    )
    return flow
