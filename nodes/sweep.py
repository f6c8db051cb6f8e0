"""The node that generates one prompt under every combination of settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError

from . import inputs, stages
from .host import ClipGuide, Conditioning, GlideClip, Host, current
from .host.values import GLIDE_TEXT, part
from .scoring import cosines

if TYPE_CHECKING:
    from torch import Tensor

    from glide_core.diffusion.types import StepCallback
    from glide_core.evaluation.sweep import Cell, CellResult, Scorer

NODE = "GLIDE Guidance Sweep"
LISTS = ("cfg_scales", "clip_scales", "steps", "samplers")
MAX_CELLS = 256
SHOWN = 4  # images per cell in the grid
BATCH = 8  # batch size; it does not change an image


class GlideGuidanceSweep:
    CATEGORY = "GLIDE/evaluation"
    DESCRIPTION = (
        "Generates one prompt from the same noise under every combination of guidance scales, CLIP "
        "scales, steps and samplers, and scores each: a labelled image grid, a plot with the "
        f"Pareto front, and a table. At most {MAX_CELLS} combinations."
    )
    SEARCH_ALIASES = ["xy plot", "cfg sweep", "compare settings", "grid search", "pareto"]
    FUNCTION = "sweep"
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("grid", "plot", "csv")
    OUTPUT_TOOLTIPS = (
        "The images of every combination, labelled with their settings.",
        "One score over another, each combination a point, with the Pareto front.",
        "One row per combination: settings, cost, and each score with its standard error.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def values(default: str, tooltip: str) -> inputs.Declared:
            return ("STRING", {"default": default, "tooltip": tooltip})

        return {
            "required": {
                "model": inputs.model("A base model, from GLIDE Loader."),
                "positive": inputs.positive(),
                "cfg_scales": values(
                    "1, 2, 3, 5",
                    "Classifier-free guidance scales, separated by commas; 1 is off. Other values "
                    "need the negative input. The four lists may make at most "
                    f"{MAX_CELLS} combinations.",
                ),
                "clip_scales": values(
                    "0",
                    "CLIP guidance scales, separated by commas; 0 is off. Other values need the "
                    "clip input.",
                ),
                "steps": values(
                    "30",
                    "Numbers of steps or respacings, separated by commas: '10, 30, fast27'. If "
                    "there is a semicolon, semicolons separate: '30; 10,10,3,2,2'.",
                ),
                "samplers": values(
                    "ddim",
                    "Samplers of GLIDE Sampler, separated by commas. Use ddpm with CLIP "
                    "guidance, as in the paper.",
                ),
                "seed": inputs.seed("Image i of every combination uses seed + i."),
                "images": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 64,
                        "tooltip": f"Images per combination. The grid shows the first {SHOWN}, "
                        "the scores use all.",
                    },
                ),
            },
            "optional": {
                "negative": inputs.negative(),
                "clip": (
                    "GLIDE_CLIP",
                    {
                        "tooltip": "Scores the images, and guides where the CLIP scale is above 0. "
                        "From GLIDE Noisy CLIP Loader or GLIDE Open CLIP Loader."
                    },
                ),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "Prompt for the CLIP; empty uses the positive prompt.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        cfg_scales: str | None = None,
        clip_scales: str | None = None,
        steps: str | None = None,
        samplers: str | None = None,
    ) -> str | bool:
        from glide_core.evaluation.sweep import AXES, read_list

        given = (cfg_scales, clip_scales, steps, samplers)
        try:
            for axis, text, name in zip(AXES, given, LISTS, strict=True):
                if text is not None:  # None: connected, and checked when the node runs
                    read_list(axis, text, name)
        except GlideError as error:
            return str(error)
        return True

    def sweep(
        self,
        model: Any,
        positive: Conditioning,
        cfg_scales: str,
        clip_scales: str,
        steps: str,
        samplers: str,
        seed: int,
        images: int,
        negative: Conditioning | None = None,
        clip: GlideClip | None = None,
        text: str = "",
    ) -> dict[str, Any]:
        from glide_core import sampling
        from glide_core.evaluation import sweep
        from glide_core.request import image_seeds
        from glide_core.stages import StageInputs

        host = current()
        cells = _cells((cfg_scales, clip_scales, steps, samplers))
        _check(cells, negative, clip)
        if images < 1:  # possible where the input is connected
            raise GlideError(f"{NODE}: images is {images}. Expected 1 or more.")
        config = inputs.require_kind(host, model, ("base",), node=NODE)
        prompt = str(part(positive, where=f"{NODE}: 'positive'")[GLIDE_TEXT])
        clip_text = inputs.require_text(text, node=NODE).strip() or prompt
        models = {
            scale: _guided(host, model, clip, clip_text, scale)
            for scale in {cell.clip_scale for cell in cells}
        }
        prompts = stages.Prompts(NODE, positive, negative)
        seeds = image_seeds(seed, images)
        size = (config.unet.image_size, config.unet.image_size)

        def generate(cell: Cell, wanted: slice, step: StepCallback) -> Tensor:
            guided, begin = models[cell.clip_scale], StageInputs(size=size)
            return stages.sample(guided, prompts, cell.settings(), seeds[wanted], begin, step)

        scorers = [sweep.CLIPPED]
        if images > 1:
            scorers.insert(0, sweep.DIVERSITY)
        if clip is not None:
            scorers.insert(0, _clip_scorer(host, clip, clip_text))
        with host.progress(NODE) as callback:
            results = sweep.sweep(
                cells,
                generate,
                [prompt] * images,
                scorers,
                schedule=sampling.model_schedule(config),
                batch=BATCH,
                callback=callback,
            )
            # The grid shows only the first images: the others need not stay in memory.
            kept = [(one, made[:SHOWN].clone()) for one, made in results]
        return _outputs(kept, scorers, prompt)


def _cells(lists: Sequence[str]) -> list[Cell]:
    from glide_core.evaluation.sweep import AXES, combinations, read_list

    try:
        cells = combinations(map(read_list, AXES, lists, LISTS))
    except GlideError as error:
        raise GlideError(f"{NODE}: {error}") from error
    if len(cells) > MAX_CELLS:
        raise GlideError(
            f"{NODE}: {', '.join(LISTS)} make {len(cells)} combinations. Allowed: at most "
            f"{MAX_CELLS}. Shorten a list, or use `glide sweep`, which has no limit and can be "
            "resumed."
        )
    return cells


def _check(cells: Sequence[Cell], negative: Conditioning | None, clip: GlideClip | None) -> None:
    """Raise GlideError for settings that need an input that is not connected."""
    clip_scales = [cell.clip_scale for cell in cells if cell.clip_scale > 0]
    if clip is not None:
        inputs.require_clip(clip, node=NODE)
    if clip_scales and clip is None:
        raise GlideError(
            f"{NODE}: clip_scales contains {clip_scales[0]:g}, and 'clip' is not connected. "
            "Connect GLIDE Noisy CLIP Loader, or set clip_scales to 0."
        )
    scales = [cell.guidance_scale for cell in cells if cell.guidance_scale != 1]
    if scales and negative is None:
        raise GlideError(
            f"{NODE}: cfg_scales contains {scales[0]:g}, and 'negative' is not connected. Connect "
            "GLIDE Text Encode with an empty text, or set cfg_scales to 1."
        )


def _guided(host: Host, model: Any, clip: GlideClip | None, text: str, scale: float) -> Any:
    """Return a copy of the MODEL with CLIP guidance, or the MODEL itself at scale 0."""
    if clip is None or scale == 0:
        return model
    return host.add_guide(model, ClipGuide(clip, text, scale))


def _clip_scorer(host: Host, clip: GlideClip, clip_text: str) -> Scorer:
    from glide_core.evaluation.sweep import Scorer

    def score(made: Tensor, prompts: Sequence[str]) -> Tensor:
        with host.clip_loaded(clip) as device:
            return cosines(clip, made.to(device), clip_text)

    return Scorer("clip", score, "cosine")


def _outputs(
    kept: Sequence[tuple[CellResult, Tensor]], scorers: Sequence[Scorer], prompt: str
) -> dict[str, Any]:
    from glide_core.evaluation import sweep_output
    from glide_core.images import from_pil, to_comfy

    results, images = [one for one, _ in kept], {one.cell: made for one, made in kept}
    x, y = sweep_output.axes_of(results, scorers)[0]
    figures = (
        sweep_output.image_grid(images, results[0].count, title=prompt, shown=SHOWN),
        sweep_output.plot(results, x, y, title=prompt),
    )
    table = sweep_output.to_csv(results, scorers)
    grid_image, plot_image = (
        to_comfy(from_pil(sweep_output.to_image(figure))) for figure in figures
    )
    return {"ui": {"text": [table]}, "result": (grid_image, plot_image, table)}
