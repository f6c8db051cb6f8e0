"""The node that draws one prompt under every combination of guidance scales, steps and samplers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError

from . import inputs, stages
from .host import ClipGuide, Conditioning, GlideClip, Host, current
from .host.clip_guidance import check_noisy
from .host.values import GLIDE_TEXT, part
from .scoring import cosines

if TYPE_CHECKING:
    from torch import Tensor

    from glide_core.diffusion.types import StepCallback
    from glide_core.evaluation.sweep import Drawn, Measure
    from glide_core.evaluation.sweep_grid import Cell, Grid

NODE = "GLIDE Guidance Sweep"
LISTS = ("cfg_scales", "clip_scales", "steps", "samplers")
MOST_CELLS = 256
SHOWN = 4  # pictures of a cell in the grid
BATCH = 8  # pictures at once; it changes none of them
CUTOUTS = 8  # as GLIDE CLIP Guidance has it


class GlideGuidanceSweep:
    CATEGORY = "GLIDE/scoring"
    DESCRIPTION = (
        "Draws one prompt from the same noise under every combination of guidance scales, CLIP "
        "scales, steps and samplers, and shows what each costs and gains: a labelled picture "
        "grid, a plot with the Pareto front, and a table."
    )
    SEARCH_ALIASES = ["xy plot", "cfg sweep", "compare settings", "grid search", "pareto"]
    FUNCTION = "sweep"
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("grid", "plot", "csv")
    OUTPUT_TOOLTIPS = (
        "The pictures of every cell, with their settings beside them.",
        "One measure over another, each cell a point, with the Pareto front.",
        "One row per cell: settings, cost, and each measure with its error.",
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
                    "Classifier-free guidance scales, with commas; 1 is off. Others need the "
                    "negative input.",
                ),
                "clip_scales": values(
                    "0", "CLIP guidance scales, with commas; 0 is off. Others need the clip input."
                ),
                "steps": values(
                    "30",
                    "Numbers of steps or respacings, with commas: '10, 30, fast27'. With a ; in "
                    "it, that separates: '30; 10,10,3,2,2'.",
                ),
                "samplers": values(
                    "ddim",
                    "Names of GLIDE Sampler's samplers, with commas. For CLIP guidance take "
                    "ancestral, as the paper does: ddim burns.",
                ),
                "seed": inputs.seed("Picture i of every cell uses seed + i: the same noise."),
                "pictures": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 64,
                        "tooltip": "Pictures per cell. The grid shows the first 4, the measures "
                        "take all.",
                    },
                ),
            },
            "optional": {
                "negative": inputs.negative(),
                "clip": (
                    "GLIDE_CLIP",
                    {
                        "tooltip": "Scores the pictures, and guides where the CLIP scale is above "
                        "0. From GLIDE CLIP Loader (noisy) or GLIDE Open CLIP Loader."
                    },
                ),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "What CLIP should see; empty takes the positive prompt.",
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
        from glide_core.evaluation.sweep_grid import read_samplers, read_scales, read_steps

        readers = (read_scales, read_scales, read_steps, read_samplers)
        given = (cfg_scales, clip_scales, steps, samplers)
        try:
            for read, text, name in zip(readers, given, LISTS, strict=True):
                if text is not None:  # None: connected, and read when it is there
                    read(text, name)
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
        pictures: int,
        negative: Conditioning | None = None,
        clip: GlideClip | None = None,
        text: str = "",
    ) -> dict[str, Any]:
        from glide_core import sampling
        from glide_core.evaluation import sweep_measures
        from glide_core.evaluation.sweep import run_cells

        host = current()
        grid = _grid(cfg_scales, clip_scales, steps, samplers)
        _check(grid, negative, clip)
        config = inputs.need(host, model, ("base",), node=NODE)
        prompt = str(part(positive, where=f"{NODE}: 'positive'")[GLIDE_TEXT])
        models = {
            scale: _guided(host, model, config, clip, text.strip() or prompt, scale)
            for scale in grid.clip_scales
        }
        prompts = stages.Prompts(NODE, positive, negative)
        size = (config.unet.image_size, config.unet.image_size)

        def draw(cell: Cell, wanted: slice, step: StepCallback | None) -> Tensor:
            assert step is not None
            return stages.sample(
                host,
                models[cell.clip_scale],
                prompts,
                cell.settings(),
                seed=(seed + wanted.start) % 2**64,
                batch=wanted.stop - wanted.start,
                size=size,
                callback=step,
            )

        measures = [sweep_measures.clipped()]
        if pictures > 1:
            measures.insert(0, sweep_measures.diversity())
        if clip is not None:
            measures.insert(0, _similarity(host, clip, text.strip() or prompt))
        with host.progress(NODE) as callback:
            cells = run_cells(
                grid.cells(),
                draw,
                [prompt] * pictures,
                schedule=sampling.model_schedule(config),
                measures=measures,
                batch=BATCH,
                callback=callback,
            )
            # The grid shows no more of them: the rest need not stay in memory.
            drawn = [replace(cell, pictures=cell.pictures[:SHOWN].clone()) for cell in cells]
        return _results(drawn, grid, measures, prompt)


def _grid(cfg_scales: str, clip_scales: str, steps: str, samplers: str) -> Grid:
    from glide_core.evaluation.sweep_grid import read_grid

    try:
        grid = read_grid(cfg_scales, clip_scales, steps, samplers, names=LISTS)
    except GlideError as error:
        raise GlideError(f"{NODE}: {error}") from error
    if len(grid.cells()) > MOST_CELLS:
        raise GlideError(
            f"{NODE}: the lists make {len(grid.cells())} combinations. Expected at most "
            f"{MOST_CELLS}. Shorten them, or use `glide sweep`, which can be stopped and continued."
        )
    return grid


def _check(grid: Grid, negative: Conditioning | None, clip: GlideClip | None) -> None:
    """GlideError for settings that need an input with nothing connected to it."""
    pulled = [scale for scale in grid.clip_scales if scale > 0]
    if pulled and clip is None:
        raise GlideError(
            f"{NODE}: clip_scales holds {pulled[0]:g}, and nothing is connected to 'clip'. "
            "Expected a GLIDE_CLIP for scales above 0. Connect GLIDE CLIP Loader (noisy), or set "
            "clip_scales to 0."
        )
    guided = [scale for scale in grid.guidance_scales if scale != 1]
    if guided and negative is None:
        raise GlideError(
            f"{NODE}: cfg_scales holds {guided[0]:g}, and nothing is connected to 'negative'. "
            "Expected a CONDITIONING to guide away from at scales other than 1. Connect GLIDE "
            "Text Encode with an empty text, or set cfg_scales to 1."
        )


def _guided(
    host: Host, model: Any, config: Any, clip: GlideClip | None, text: str, scale: float
) -> Any:
    """The MODEL pulled at by the CLIP: a guided copy, or itself at scale 0."""
    if clip is None or scale == 0:
        return model
    guide = ClipGuide(clip, text, scale, cutouts=CUTOUTS)
    if clip.kind == "noisy":
        check_noisy(guide, config)
    return host.add_guide(model, guide)


def _similarity(host: Host, clip: GlideClip, text: str) -> Measure:
    import torch

    from glide_core.evaluation.sweep import Measure

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        with host.clip_loaded(clip) as device:
            return torch.tensor(cosines(clip, pictures.to(device), text))

    return Measure("clip", score, "cosine")


def _results(
    drawn: Sequence[Drawn], grid: Grid, measures: Sequence[Measure], prompt: str
) -> dict[str, Any]:
    from glide_core import images
    from glide_core.evaluation import plots
    from glide_core.evaluation.picture_grid import picture_grid
    from glide_core.evaluation.sweep_files import to_csv

    rows = [entry.row for entry in drawn]
    x, y = plots.pairs(rows, plots.quantities(measures, grid))[0]
    figure = plots.to_image(plots.plot(rows, grid, x, y, title=prompt))
    table = to_csv(rows, measures)
    shown = (picture_grid(drawn, grid, title=prompt, shown=SHOWN), figure)
    grid_image, plot_image = (images.to_comfy(images.from_pil(image)) for image in shown)
    return {"ui": {"text": [table]}, "result": (grid_image, plot_image, table)}
