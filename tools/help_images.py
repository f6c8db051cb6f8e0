"""Make the images of the help pages with the nodes and the bundled models:

    python -m tools.help_images [NODE_ID ...]

Writes web/docs/images/NODE_ID.webp, for every node or for those named (about two minutes on a
CPU). Run it when a bundled model changes, and check that each page still describes its image.
Captions are in the page, below the image; the only text in an image is the scores of a model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from glide_pack.nodes import host
from glide_pack.nodes.host.standalone import StandaloneHost
from PIL import Image, ImageDraw
from torch import Tensor, nn

from glide_core import images
from glide_core.checkpoints.catalog import BUNDLED
from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.config import SamplerConfig
from glide_core.diffusion.types import StepInfo
from glide_core.guidance.clip import open_clip_guide
from glide_core.sampling import model_schedule
from glide_core.stages import sample_stage
from tools.help_parts import (
    GREY,
    PILImage,
    base,
    call,
    captioned,
    card,
    grid,
    hidden,
    noisy_clip,
    prompts,
    sample,
    sketch,
    square_mask,
    tiles,
    upsampler,
)

IMAGES = Path(__file__).resolve().parents[1] / "web" / "docs" / "images"
FOX = "a fox on a blue background"
DDIM_30 = SamplerConfig(steps=30, sampler="ddim")


def loader() -> PILImage:
    texts = (
        FOX,
        "a flat panda on a pink background",
        "a purple dog on a yellow background",
        "a small rocket at the top on a black background",
    )
    first = [tiles(sample(text))[0] for text in texts]
    model, clip = base("inpaint")
    second = []
    for before, after in (
        (FOX, "a lion on a blue background"),
        (texts[1], "a frog on a pink background"),
    ):
        image, mask = sample(before), square_mask(64)
        given = {"model": model, "image": image, "mask": mask, "feather": 0, "context": 8.0}
        patch = call("GlideInpaint", seed=1, **given, **prompts(clip, after))[0]
        second += [tiles(hidden(image, mask))[0], tiles(patch)[0]]
    return grid([first, second])


def upsampler_loader() -> PILImage:
    text = "an owl on a yellow background"
    small, (_, clip) = sample(text), base()
    given = {"seed": 1, "positive": prompts(clip, text)["positive"]}
    large = call("GlideUpsample", model=upsampler(), image=small, **given)[0]
    mask = square_mask(256)
    model, words = base("inpaint")[0], prompts(clip, "a frog on a yellow background")
    repainted = call(
        "GlideInpaint", model=model, upsampler=upsampler("upsampler_inpaint"), image=large,
        mask=mask, context=8.0, seed=1, **words,
    )[0]  # fmt: skip
    return grid(
        [
            [*tiles(small, 4), *tiles(large, 1)],
            [*tiles(hidden(large, mask), 1), *tiles(repainted, 1)],
        ]
    )


def clip_loader() -> PILImage:
    """Images at increasing noise, and the probabilities of three texts by the noisy CLIP."""
    clip = load_clip(BUNDLED / "clip.safetensors")
    texts = (FOX, "a lion on a blue background", "a fox on a pink background")
    schedule = model_schedule(load_model(BUNDLED / "base.safetensors").config)
    clean = images.from_comfy(sample(FOX))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    row = []
    with torch.inference_mode():
        words = clip.encode_prompts(list(texts))
        words = words / words.norm(dim=-1, keepdim=True)
        for timestep in (0, 700, 950, 990):
            noised = schedule.q_sample(clean, timestep, noise)
            seen = clip.encode_image(noised, torch.tensor([timestep])).float()
            cosine = (words @ (seen / seen.norm()).T)[:, 0]
            shares = (clip.config.logit_scale * cosine).softmax(0).tolist()
            row.append(_with_bars(tiles(images.to_comfy(noised))[0], shares))
    return grid([row])


def _with_bars(tile: PILImage, shares: Sequence[float]) -> PILImage:
    out = Image.new("RGBA", (tile.width, tile.height + 15 * len(shares)))
    out.paste(tile, (0, 0))
    pen = ImageDraw.Draw(out)
    colours = ("#4f8fe6", "#b078d0", "#5fae5f")
    for i, (share, colour) in enumerate(zip(shares, colours, strict=True)):
        top = tile.height + 5 + 15 * i
        pen.rectangle((0, top, tile.width - 1, top + 9), outline=GREY)
        pen.rectangle((0, top, round(share * (tile.width - 1)), top + 9), fill=colour)
    return out


class RecordingClip(nn.Module):
    """An open_clip model that records its inputs; its features are the mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Identity()
        self.visual.image_size = 64
        self.visual.image_mean = self.visual.image_std = (0.5, 0.5, 0.5)
        self.weight = nn.Parameter(torch.ones(1))
        self.inputs: list[Tensor] = []

    def encode_image(self, views: Tensor) -> Tensor:
        self.inputs.append(views.detach().clone())
        return views.mean((2, 3)) * self.weight


def open_clip_loader() -> PILImage:
    """The noised state, and the inputs of open_clip: the x0 estimate, whole and in crops."""
    model, states = load_model(BUNDLED / "base.safetensors"), []
    recorder = RecordingClip()
    schedule = model_schedule(model.config)
    look = open_clip_guide(
        recorder, torch.ones(1, 3), 1.0, schedule=schedule, seed=3, cutouts=4, blend=False
    )

    def guide(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        states.append(x_t.detach().clone())
        return look(x_t, t, x0) * 0

    sample_stage(model, [FOX], [1], DDIM_30, cond_fn=guide)
    rows = []
    for step in (7, 18):
        views = (
            states[step],
            *recorder.inputs[step].split(1)[:1],
            *recorder.inputs[step].split(1)[2:],
        )
        rows.append([tiles(images.to_comfy(view.clamp(-1, 1)))[0] for view in views])
    return grid(rows)


def text_encode() -> PILImage:
    """The same noise with different prompts; the last is the empty prompt."""
    rows = (
        (FOX, "a fox on a pink background", "a flat fox on a blue background", "a fox"),
        (
            "a purple fox on a blue background",
            "an owl on a blue background",
            "a small owl on the left on a blue background",
            "",
        ),
    )
    return grid([[tiles(sample(text))[0] for text in row] for row in rows])


def clip_guidance() -> PILImage:
    """CLIP guidance alone: the model gets the empty prompt."""
    clip = noisy_clip()
    how = {"cfg": 1.0, "sampler_name": "ddpm", "steps": 50}
    rows = []
    for text, seed in (
        ("a strawberry on a white background", 2),
        ("a watermelon on a pink background", 1),
    ):
        row = []
        for scale in (0.0, 1.0, 3.0, 10.0):
            model = call("GlideClipGuidance", model=base()[0], clip=clip, text=text, scale=scale)
            row += tiles(sample("", model=model[0], seed=seed, **how))
        rows.append(row)
    return grid(rows)


def empty_latent() -> PILImage:
    text = "a parrot on a yellow background"
    return grid([[tiles(sample(text, size=s))[0] for s in ((64, 64), (96, 64), (64, 96))]])


def sampler() -> PILImage:
    """x_t and the x0 estimate after some of ddim's 30 steps."""
    seen: list[StepInfo] = []
    model = load_model(BUNDLED / "base.safetensors")
    sample_stage(model, [FOX], [1], DDIM_30, callback=seen.append)
    steps = [seen[i] for i in (0, 7, 18, 29)]
    rows = [[getattr(step, name) for step in steps] for name in ("x_t", "x0")]
    return grid([[tiles(images.to_comfy(p.clamp(-1, 1)))[0] for p in row] for row in rows])


def upsample() -> PILImage:
    """The whole tile, and an eye of it larger."""
    text = "a frog on a pink background"
    small = sample(text, seed=3, preset="balanced")
    positive = prompts(base()[1], text)["positive"]
    large = call("GlideUpsample", model=upsampler(), image=small, positive=positive, seed=3)[0]
    return grid(
        [
            [*tiles(small, 4), *tiles(large, 1)],
            [*tiles(small[:, 12:28, 12:28], 16), *tiles(large[:, 48:112, 48:112], 4)],
        ]
    )


def upsample_conditioning() -> PILImage:
    """dpmpp_2m, as GLIDE Upsample and KSampler both have it."""
    text = "a parrot on a yellow background"
    small = sample(text)
    how = {"sampler_name": "dpmpp_2m", "steps": 10, "seed": 1}
    positive = prompts(base()[1], text)["positive"]
    large = call("GlideUpsample", model=upsampler(), image=small, positive=positive, **how)[0]
    return grid([[*tiles(small, 4), *tiles(large, 1)]])


def inpaint() -> PILImage:
    image, mask = card()
    model, clip = base("inpaint")
    result, patch = call(
        "GlideInpaint", model=model, upsampler=upsampler("upsampler_inpaint"), image=image,
        mask=mask, seed=4, **prompts(clip, "a pizza on a green background"),
    )  # fmt: skip
    wide = (360, 240)
    cells = [
        tiles(p, 1)[0].resize(wide, Image.LANCZOS)
        for p in (image, mask[..., None].expand(-1, -1, -1, 3), result)
    ]
    square = tiles(patch, 1)[0].resize((wide[1], wide[1]), Image.LANCZOS)
    return grid([cells[:2], [cells[2], square]])


def inpaint_conditioning() -> PILImage:
    model, clip = base("inpaint")
    image = sample("a cupcake on a white background")
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    words = prompts(clip, "a doughnut on a white background")
    positive, negative, latent = call("GlideInpaintConditioning", image=image, mask=mask, **words)
    given = {"positive": positive, "negative": negative, "latent_image": latent, "seed": 2}
    result = call("GlideSampler", model=model, **given)[0]
    white = mask[..., None].expand(-1, -1, -1, 3)
    return grid([[tiles(p)[0] for p in (image, white, hidden(image, mask), result)]])


def edit() -> PILImage:
    model, clip = base()
    drawing = sketch()
    small = images.to_comfy(images.fit(images.from_comfy(drawing), 64))
    rows = []
    for subject in ("strawberry", "tomato"):
        words = prompts(clip, f"a {subject} on a white background")
        row = tiles(small)
        for denoise in (0.4, 0.6, 0.8):
            given = {"model": model, "image": drawing, "denoise": denoise, "seed": 5}
            row += tiles(call("GlideEdit", **given, **words)[0])
        rows.append(row)
    return grid(rows)


def clip_score() -> PILImage:
    """Images of the requested subject, of similar ones and of others."""
    subjects = ("an owl", "a wolf", "a fox", "a purple fox", "a strawberry", "a lion", "a flat fox")
    batch = [sample(f"{subject} on a blue background") for subject in subjects]
    batch.append(sample("a fox on a pink background"))
    ranked, scores = call("GlideClipScore", image=torch.cat(batch), clip=noisy_clip(), text=FOX)
    found = [line.split()[0] for line in scores.splitlines()]
    cells = [
        captioned(p, f"{float(score):.2f}") for p, score in zip(tiles(ranked), found, strict=True)
    ]
    return grid([cells[:4], cells[4:]])


def guidance_sweep() -> PILImage:
    model, clip = base()
    plot = call(
        "GlideGuidanceSweep", model=model, clip=noisy_clip(), cfg_scales="1, 3, 8",
        clip_scales="0, 3", steps="20", samplers="ddpm", seed=1, images=4,
        **prompts(clip, "a hedgehog on a white background"),
    )[0]  # fmt: skip
    tile = tiles(plot, 1)[0]
    return tile.resize((640, round(tile.height * 640 / tile.width)), Image.LANCZOS)


MAKERS: dict[str, Callable[[], PILImage]] = {
    "GlideLoader": loader,
    "GlideUpsamplerLoader": upsampler_loader,
    "GlideClipLoader": clip_loader,
    "GlideOpenClipLoader": open_clip_loader,
    "GlideTextEncode": text_encode,
    "GlideClipGuidance": clip_guidance,
    "GlideEmptyLatent": empty_latent,
    "GlideSampler": sampler,
    "GlideUpsample": upsample,
    "GlideUpsampleConditioning": upsample_conditioning,
    "GlideInpaint": inpaint,
    "GlideInpaintConditioning": inpaint_conditioning,
    "GlideEdit": edit,
    "GlideClipScore": clip_score,
    "GlideGuidanceSweep": guidance_sweep,
}


def main() -> None:
    wanted = sys.argv[1:] or list(MAKERS)
    unknown = set(wanted) - set(MAKERS)
    if unknown:
        sys.exit(
            f"Unknown node: {', '.join(sorted(unknown))}. Expected some of {', '.join(MAKERS)}"
        )
    IMAGES.mkdir(exist_ok=True)
    with host.using(StandaloneHost(device="cpu", dtype="float32", show_progress=False)):
        for node_id in wanted:
            file = IMAGES / f"{node_id}.webp"
            unfinished = file.with_suffix(".tmp")
            MAKERS[node_id]().save(unfinished, "WEBP", quality=80, method=6)
            os.replace(unfinished, file)
            print(f"{file}  {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
