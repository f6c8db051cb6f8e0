"""What the image commands share: build pipeline and requests from options, run, write PNGs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core import io
from glide_core.names import PRESETS

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline
    from glide_core.request import GenerationRequest
    from glide_core.stages import PipelineInputs


def load_pipeline(arguments: argparse.Namespace, guided: bool) -> GlidePipeline:
    """A pipeline with the models of the options; LoRAs are merged into the first one.

    guided: with the noisy CLIP.
    """
    from glide_core.pipeline import GlidePipeline

    if isinstance(arguments.out, Path):
        io.check_folder(arguments.out)
    used, where = _model_names(arguments, guided), arguments.device
    pipe = GlidePipeline.from_pretrained(None, torch_dtype=arguments.dtype, device=where, **used)
    pipe.models.compiled = arguments.compile
    for file, strength in getattr(arguments, "lora", None) or ():
        pipe.load_lora_weights(file, strength, component=arguments.roles[0])
    pipe.components  # noqa: B018 - errors in any model come before the first step
    return pipe


def request_of(arguments: argparse.Namespace, steps: int | None = None) -> GenerationRequest:
    """The request that the options describe, without seed.

    steps: of the first stage, where neither --steps nor --preset is given.
    """
    from glide_core.config import SamplerConfig
    from glide_core.request import UPSAMPLE_SETTINGS, GenerationRequest

    given = vars(arguments)
    sampler = None
    if arguments.preset:
        preset = PRESETS[arguments.preset]
        steps = preset.steps
        sampler = None if preset.sampler == "ddim" else preset.sampler  # CLIP guidance has another
    first = SamplerConfig(
        steps=arguments.steps or steps,
        respacing=arguments.respacing,
        sampler=arguments.sampler or sampler,
        eta=arguments.eta,
        guidance_scale=arguments.cfg,
        clip_guided=given.get("clip_guided", True),
    )
    request = GenerationRequest(arguments.prompt or "", arguments.negative, base=first)
    if arguments.roles == ("upsampler",):
        enlarge = replace(first, temperature=arguments.temperature)
        return replace(request, base=None, upsampler=enlarge)
    second = replace(
        UPSAMPLE_SETTINGS,
        steps=arguments.upsample_steps,
        guidance_scale=arguments.upsample_cfg,
        temperature=arguments.upsample_temperature,
    )
    return replace(
        request,
        size=given.get("base_size"),
        upsampler=None if arguments.no_upsample else second,
        clip_guidance_scale=arguments.clip_scale,
        clip_prompt=arguments.clip_prompt,
    )


def generate_and_write(
    pipe: GlidePipeline,
    request: GenerationRequest,
    arguments: argparse.Namespace,
    inputs: PipelineInputs,
) -> int:
    """Generate `-n` images, `--batch` at a time, write each PNG with its settings, print paths."""
    from glide_core.images import to_pil
    from glide_core.request import batches, image_seeds
    from glide_core.stages import prepare, step_bars

    requests = [replace(request, seed=seed) for seed in image_seeds(arguments.seed, arguments.n)]
    requests = prepare(pipe.models, requests, inputs)
    about = model_metadata(arguments)
    for batch in batches(requests, arguments.batch, lambda each: each):
        with step_bars(disable=arguments.quiet) as step:
            images = to_pil(inputs.finish(pipe.generate(batch, inputs, step)))
        each = [
            io.png_text({**own.metadata(), **about, "size": f"{image.width}x{image.height}"})
            for own, image in zip(batch, images, strict=True)
        ]
        for path in io.save_images(images, arguments.out, each=each):
            print(path, flush=True)
    return 0


def model_metadata(arguments: argparse.Namespace) -> dict[str, Any]:
    """What determines an image besides its request: command, models, input files, version."""
    from glide_core import __version__

    named = ("command", "image", "mask", "model", "upsampler", "clip", "lora", "dtype")
    given = vars(arguments)
    unused = {"upsampler": given.get("no_upsample"), "clip": not given.get("clip_scale")}
    found = {name: given[name] for name in named if given.get(name) and not unused.get(name)}
    plain = {k: v.name if isinstance(v, Path) else v for k, v in found.items()}
    return {**plain, "glide_version": __version__}


def model_files(arguments: argparse.Namespace, guided: bool) -> dict[str, list[dict[str, str]]]:
    """Names and hashes of the files of every model, by role, found without loading any."""
    from glide_core.checkpoints.catalog import find_model

    files = {
        role: [{"file": p.name, "sha256": io.sha256_file(p)} for p in map(find_model, names)]
        for role, names in _model_names(arguments, guided).items()
    }
    for name, strength in getattr(arguments, "lora", None) or ():
        path = io.user_path(name)
        own = {"file": path.name, "sha256": io.sha256_file(path), "strength": f"{strength:g}"}
        files.setdefault("lora", []).append(own)
    return files


def _model_names(arguments: argparse.Namespace, guided: bool) -> dict[str, list[str]]:
    names = {arguments.roles[0]: [arguments.model]}
    if not getattr(arguments, "no_upsample", True):
        names[arguments.roles[1]] = [arguments.upsampler]
    if guided:
        names["clip"] = arguments.clip or ["clip"]
    return names


@contextmanager
def counting_bar(**tqdm_options: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A callback that is called with what is done and the total; options are tqdm's."""
    from tqdm import tqdm

    with tqdm(**tqdm_options) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
