"""A sweep: every combination with equal noise, its scores, its table, and resuming."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glide_core.checkpoints.loading import load_clip
from glide_core.config import SamplerConfig
from glide_core.diffusion import SeededNoise, sample
from glide_core.diffusion.types import Prediction, StepCallback, StepInfo
from glide_core.errors import GlideError
from glide_core.evaluation.features import cosines, load_extractor, pixel_features
from glide_core.evaluation.sweep import (
    AXES,
    CLIPPED,
    DIVERSITY,
    Cell,
    CellResult,
    Score,
    Scorer,
    combinations,
    cost,
    generate_with,
    load_scorer,
    read_list,
    sweep,
)
from glide_core.evaluation.sweep_output import SweepFolder, to_csv
from glide_core.images import quantize_8bit, to_pil
from glide_core.models.noisy_clip import NoisyClip
from glide_core.pipeline import GlidePipeline
from glide_core.request import GenerationRequest
from glide_core.sampling import model_schedule
from glide_core.stages import sample_stage
from tools.tiny_models import tiny_config, tiny_model

PROMPTS = ["a red apple", "a blue car"]
SEEDS = [3, 4]
MODEL = tiny_model("base")
SCHEDULE = model_schedule(tiny_config("base"))
MEAN = Scorer("mean", lambda made, prompts: made.mean(dim=(1, 2, 3)), "grey")


def grid(
    guidance_scale: Sequence[float] = (3.0,),
    clip_scale: Sequence[float] = (0.0,),
    steps: Sequence[str] = ("30",),
    sampler: Sequence[str] = ("ddim",),
) -> list[Cell]:
    return combinations([guidance_scale, clip_scale, steps, sampler])


def generated(
    cells: Sequence[Cell],
    scorers: Sequence[Scorer] = (MEAN,),
    clip: NoisyClip | None = None,
    **options: Any,
) -> list[tuple[CellResult, Tensor]]:
    models = {"base": MODEL} if clip is None else {"base": MODEL, "clip": clip}
    pipe = GlidePipeline(device="cpu", **models)
    pairs = zip(PROMPTS, SEEDS, strict=True)
    requests = [GenerationRequest(prompt, seed=seed, upsampler=None) for prompt, seed in pairs]
    generate = generate_with(pipe, requests)
    return list(sweep(cells, generate, PROMPTS, scorers, schedule=SCHEDULE, **options))


def one_pixel(cell: Cell, wanted: slice, step: StepCallback) -> Tensor:
    """Replace a model: the real samplers on images of one pixel without noise."""
    x = torch.zeros(wanted.stop - wanted.start, 3, 1, 1)

    def nothing(x_t: Tensor, t: Tensor, /) -> Prediction:
        return Prediction(torch.zeros_like(x_t), torch.zeros_like(x_t))

    noise = SeededNoise(SEEDS[wanted])
    schedule = SCHEDULE.respaced(cell.steps)
    return sample(cell.sampler, nothing, x, schedule, noise=noise, callback=step)


def test_every_combination_has_a_row_and_no_other() -> None:
    cells = grid((1.0, 3.0), (0.0, 1.0), ("1", "2"), ("ddim", "ddpm"))
    made = list(sweep(cells, one_pixel, PROMPTS, [MEAN], schedule=SCHEDULE))
    rows = [row for row, _ in made]
    found = [row.cell for row in rows]
    assert len(found) == len(set(found)) == 16
    assert Cell(3.0, 1.0, "2", "ddpm") in found
    table = list(csv.reader(io.StringIO(to_csv(rows, [MEAN]))))
    assert len(table) == 17 and "guidance_scale [1 is off]" in table[0]
    assert "mean [grey, mean]" in table[0]


def test_scale_1_is_plain_sampling() -> None:
    ((found, images),) = generated([Cell(1.0, steps="3")])
    plain = sample_stage(MODEL, PROMPTS, SEEDS, SamplerConfig(steps=3, guidance_scale=1.0))
    assert torch.equal(images, plain)
    assert found.scores["mean"].mean == pytest.approx(float(plain.mean()), abs=1e-6)


def test_every_cell_uses_the_same_seeds_in_any_batch() -> None:
    cells = grid((1.0, 4.0), steps=("2",), sampler=("ddpm",))
    together, apart = generated(cells), generated(cells, batch=1)
    for (one, images), (_, others) in zip(together, apart, strict=True):
        settings = one.cell.settings()
        alone = sample_stage(MODEL, PROMPTS, SEEDS, settings)
        assert torch.equal(images, alone)
        assert float((images - others).abs().mean()) < 1e-4  # rounding


def test_clip_guides_each_image_to_its_own_prompt(model_folder: Path) -> None:
    path = model_folder / "tiny_clip.safetensors"
    cells = grid((1.0,), (0.0, 300.0), ("4",), ("ddpm",))
    scorer = load_scorer(f"clip:{path}")
    (plain, images), (guided, _) = generated(cells, [scorer], clip=load_clip(path))
    scores = [one.scores[scorer.name].mean for one in (plain, guided)]
    assert scores[1] > scores[0]
    extractor = load_extractor(f"clip:{path}")
    each = [float(cosines(extractor, images[i, None], [PROMPTS[i]])) for i in (0, 1)]
    assert scores[0] == pytest.approx(sum(each) / 2, abs=1e-5)


def test_a_clip_scale_without_a_clip_is_an_error() -> None:
    with pytest.raises(GlideError, match="no model for 'clip'"):
        generated([Cell(clip_scale=1.0)])


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun", "plms"])
def test_steps_are_numbered_through_the_whole_sweep(sampler: str) -> None:
    recorded: list[tuple[int, int]] = []
    cells = grid((1.0, 2.0), steps=("3", "4"), sampler=(sampler,))
    list(sweep(cells, one_pixel, PROMPTS, schedule=SCHEDULE, batch=1,
                   callback=lambda info: recorded.append((info.index, info.total))))  # fmt: skip
    assert [index for index, _ in recorded] == list(range(len(recorded)))
    assert {total for _, total in recorded} == {len(recorded)}


def test_cost_counts_both_branches_and_the_second_calls() -> None:
    assert cost(Cell(1.0, 0.0, "10", "ddim"), SCHEDULE) == (10, 10)
    assert cost(Cell(3.0, 0.0, "10", "ddim"), SCHEDULE) == (10, 20)
    assert cost(Cell(1.0, 0.0, "10", "dpmpp_2m"), SCHEDULE) == (9, 9)
    assert cost(Cell(1.0, 0.0, "fast27", "heun"), SCHEDULE)[1] > 40


def test_raising_from_the_callback_stops_within_a_step() -> None:
    recorded: list[int] = []

    def callback(info: StepInfo) -> None:
        recorded.append(info.index)
        if info.index == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generated(grid((1.0, 2.0), steps=("3",)), callback=callback)
    assert recorded == [0, 1, 2, 3, 4]


def test_a_scorer_returns_one_value_per_image_or_one_in_all() -> None:
    def rows(scorer: Scorer) -> CellResult:
        black = lambda cell, part, step: torch.zeros(2, 3, 8, 8)[part]  # noqa: E731
        ((found, _),) = sweep([Cell()], black, PROMPTS, [scorer], schedule=SCHEDULE)
        return found

    assert rows(Scorer("one", lambda p, t: torch.tensor(7.0), "unit")).scores["one"].mean == 7
    spread = rows(Scorer("two", lambda p, t: torch.tensor([1.0, 3.0]), "unit")).scores["two"]
    assert (spread.mean, spread.error) == (2.0, pytest.approx(1.0))
    with pytest.raises(GlideError, match="bad gave 3 scores for 2 images"):
        rows(Scorer("bad", lambda p, t: torch.zeros(3), "unit"))


def test_scores_of_known_images(tmp_path: Path) -> None:
    black, white = -torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    grey = torch.zeros(1, 3, 16, 16)

    def value(scorer: Scorer, parts: Sequence[Tensor], prompts: list[str]) -> list[float]:
        return scorer.score(torch.cat(list(parts)), prompts).reshape(-1).tolist()

    assert value(CLIPPED, [black, grey], ["a", "a"]) == [1.0, 0.0]
    assert value(DIVERSITY, [black, white], ["a", "a"]) == [2.0]
    assert value(DIVERSITY, [black, grey, white, grey], list("abab")) == [1.0]
    assert math.isnan(value(DIVERSITY, [black, white], ["a", "b"])[0])
    near, far = torch.randn(2, 50, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    near, far = (quantize_8bit(images.clamp(-1, 1)) for images in (near, far))
    for i, image in enumerate(to_pil(near)):
        image.save(tmp_path / f"{i:02}.png")
    distance = load_scorer(f"frechet:{tmp_path}")
    assert value(distance, [near], ["a"] * 50)[0] == pytest.approx(0, abs=1e-6)
    shifted = value(distance, [near + 1], ["a"] * 50)[0]
    assert shifted == pytest.approx(3 * 8**2, rel=1e-4)  # |1|^2 in each number
    assert value(distance, [far], ["a"] * 50)[0] > 0
    with pytest.raises(GlideError, match="pixels:8 is not a CLIP"):
        cosines(pixel_features(), near, ["a"])
    for path in list(tmp_path.iterdir())[1:]:
        path.unlink()
    with pytest.raises(GlideError, match="fewer than 2 images"):
        load_scorer(f"frechet:{tmp_path}")


def test_the_table_has_gaps_and_the_results_read_back(tmp_path: Path) -> None:
    cell = Cell(0.3, 0.0, "10,10,3,2,2", "ddim")
    scores = {"mean": Score(0.5, math.nan)}
    folder = SweepFolder(tmp_path, (MEAN,), {})
    folder.add(CellResult(cell, 2, 54, 0.25, scores), torch.zeros(2, 3, 4, 4))
    back = SweepFolder(tmp_path, (MEAN,), {}).results[cell]
    assert (back.cell, back.count, back.evaluations, back.seconds) == (cell, 2, 54, 0.25)
    assert back.scores["mean"].mean == 0.5 and math.isnan(back.scores["mean"].error)
    _, row = csv.reader(io.StringIO(folder.table.read_text()))
    assert row == ["0.3", "0", "10,10,3,2,2", "ddim", "2", "54", "0.25", "0.5", ""]
    for content in ("{", "[1]", '{"results": [{"cell": {"steps": 1}}]}', '{"results": [1]}'):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(GlideError, match=r"sweep\.json is damaged"):
            SweepFolder(tmp_path, (MEAN,), {})
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(GlideError, match=r"without its sweep\.json"):
        SweepFolder(tmp_path, (MEAN,), {})


def test_a_folder_holds_one_sweep_whose_grid_may_grow(tmp_path: Path) -> None:
    def opened(**identity: Any) -> SweepFolder:
        return SweepFolder(tmp_path / "sweep", (MEAN,), {"prompts": PROMPTS, **identity})

    folder = opened(clip=[])
    small, large = grid((1.0,), steps=("2",)), grid((1.0, 2.0), steps=("2",))
    for entry, images in generated(small):
        folder.add(entry, images)
    before = folder.table.read_text()
    opened(clip=["a"])  # the first with a CLIP
    folder = opened(clip=[])
    ((new, images),) = generated([cell for cell in large if cell not in folder.results])
    assert new.cell.guidance_scale == 2.0
    folder.add(new, images)
    assert folder.table.read_text().startswith(before)
    kept = opened(clip=[]).images(large[1])
    assert torch.allclose(kept, images.clamp(-1, 1), atol=1 / 255)
    with pytest.raises(GlideError, match="holds a sweep with other clip"):
        opened(clip=["b"])
    with pytest.raises(GlideError, match="holds a sweep with other prompts"):
        opened(prompts=["a cat"], clip=[])
    next((tmp_path / "sweep" / "images").glob("cfg1_*")).unlink()
    assert [cell.guidance_scale for cell in opened(clip=[]).results] == [2.0]


def test_lists_are_read_from_text() -> None:
    texts = " 1, 2.5 ,3,", "0", "10, fast27, ddim50", "ddim,ancestral"
    guidance_scale, clip_scale, steps, sampler = map(read_list, AXES, texts, AXES)
    assert guidance_scale == (1.0, 2.5, 3.0) and clip_scale == (0.0,)
    assert steps == ("10", "fast27", "ddim50") and sampler == ("ddim", "ddpm")
    assert read_list("steps", "30; 10, 10, 3, 2, 2", "steps") == ("30", "10,10,3,2,2")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_images_of_a_cell_are_stored_in_order(tmp_path: Path, count: int) -> None:
    levels = torch.linspace(-1, 1, count).reshape(count, 1, 1, 1).expand(count, 3, 4, 6)
    folder = SweepFolder(tmp_path, (), {})
    folder.add(CellResult(Cell(), count, 1, 0.1, {}), levels)
    assert torch.allclose(folder.images(Cell()), levels, atol=0.005)  # half of 1/127.5


@pytest.mark.parametrize(
    ("axis", "text", "words"),
    [
        ("clip_scale", "", "is not a list"),
        ("clip_scale", "1,,2", "is not a list"),
        ("clip_scale", "1, two", "'two' is not possible: expected a number from 0"),
        ("clip_scale", "nan", "is not possible: expected a number from 0"),
        ("clip_scale", "-1", "is not possible: expected a number from 0"),
        ("clip_scale", "1, 1.0", "twice"),
        ("steps", "0", "no step"),
        ("steps", "2000", "2000"),
        ("steps", "swift27", "swift27"),
        ("steps", "10, 010", "twice"),
        ("sampler", "ddim, magic", "'magic' is not a sampler"),
    ],
)
def test_an_error_in_a_list_begins_with_its_name(axis: str, text: str, words: str) -> None:
    with pytest.raises(GlideError, match=words) as caught:
        read_list(axis, text, "the list")
    assert str(caught.value).startswith("the list: ")
