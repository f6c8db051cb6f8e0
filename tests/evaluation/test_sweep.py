"""A sweep: every combination over one noise, its measures, its table, and going on where it was."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import tiny_config, tiny_model
from torch import Tensor

from glide_core.checkpoints.loading import load_clip
from glide_core.config import SamplerConfig
from glide_core.diffusion import SeededNoise, sample
from glide_core.diffusion.types import Prediction, StepCallback, StepInfo
from glide_core.errors import GlideError
from glide_core.evaluation import sweep_measures
from glide_core.evaluation.sweep import Drawn, Measure, Row, Score, cost, run_cells, sweep
from glide_core.evaluation.sweep_files import SweepFolder, from_csv, to_csv
from glide_core.evaluation.sweep_grid import Cell, Grid, read_samplers, read_scales, read_steps
from glide_core.guidance.score import noisy_clip_scores
from glide_core.sampling import model_schedule
from glide_core.stages import text_to_image

PROMPTS = ["a red apple", "a blue car"]
SEEDS = [3, 4]
MODEL = tiny_model("base")
SCHEDULE = model_schedule(tiny_config("base"))
MEAN = Measure("mean", lambda pictures, prompts: pictures.mean(dim=(1, 2, 3)), "grey")


def drawn(grid: Grid, **options: object) -> list[Drawn]:
    given = {"seeds": SEEDS, "measures": [MEAN], **options}
    return list(sweep(MODEL, PROMPTS, grid, **given))  # type: ignore[arg-type]


def one_pixel(cell: Cell, wanted: slice, step: StepCallback | None) -> Tensor:
    """Stands for a model: the real samplers, on pictures of one pixel and no noise."""
    x = torch.zeros(wanted.stop - wanted.start, 3, 1, 1)

    def nothing(x_t: Tensor, t: Tensor, /) -> Prediction:
        return Prediction(torch.zeros_like(x_t), torch.zeros_like(x_t))

    noise = SeededNoise(SEEDS[wanted])
    schedule = SCHEDULE.respaced(cell.steps)
    return sample(cell.sampler, nothing, x, schedule, noise=noise, callback=step)


def test_every_combination_has_a_row_and_no_other() -> None:
    grid = Grid((1.0, 3.0), (0.0, 1.0), ("1", "2"), ("ddim", "ancestral"))
    rows = [d.row for d in run_cells(grid.cells(), one_pixel, PROMPTS, schedule=SCHEDULE,
                                     measures=[MEAN])]  # fmt: skip
    found = [row.cell for row in rows]
    assert len(found) == len(set(found)) == 16
    assert Cell(3.0, 1.0, "2", "ancestral") in found
    table = list(csv.reader(io.StringIO(to_csv(rows, [MEAN]))))
    assert len(table) == 17 and "guidance_scale [1 is off]" in table[0]
    assert "mean [grey, mean]" in table[0]


def test_scale_1_is_plain_sampling() -> None:
    (found,) = drawn(Grid((1.0,), steps=("3",)))
    plain = text_to_image(
        MODEL, PROMPTS, seeds=SEEDS, settings=SamplerConfig(steps=3, guidance_scale=1.0)
    )
    assert torch.equal(found.pictures, plain)
    assert found.row.scores["mean"].mean == pytest.approx(float(plain.mean()), abs=1e-6)


def test_every_cell_draws_the_same_seeds_in_any_batch() -> None:
    grid = Grid((1.0, 4.0), steps=("2",), samplers=("ancestral",))
    together, apart = drawn(grid), drawn(grid, batch=1)
    for one, other in zip(together, apart, strict=True):
        settings = one.row.cell.settings()
        alone = text_to_image(MODEL, PROMPTS, seeds=SEEDS, settings=settings)
        assert torch.equal(one.pictures, alone)
        assert float((one.pictures - other.pictures).abs().mean()) < 1e-4  # rounding


def test_clip_guides_each_picture_to_its_own_prompt(model_folder: Path) -> None:
    clip = load_clip(model_folder / "tiny_clip.safetensors")
    grid = Grid((1.0,), (0.0, 300.0), ("4",), ("ancestral",))
    plain, pulled = drawn(grid, clip=clip, measures=[sweep_measures.clip_similarity(clip)])
    assert pulled.row.scores["clip"].mean > plain.row.scores["clip"].mean
    each = [noisy_clip_scores(clip, plain.pictures[i : i + 1], PROMPTS[i])[0] for i in (0, 1)]
    assert plain.row.scores["clip"].mean == pytest.approx(sum(each) / 2, abs=1e-5)


def test_a_clip_scale_without_a_clip_is_an_error_before_anything_is_drawn() -> None:
    with pytest.raises(GlideError, match="no CLIP"):
        sweep(MODEL, PROMPTS, Grid(clip_scales=(1.0,)), seeds=SEEDS)
    with pytest.raises(GlideError, match="2 prompts for 1 seeds"):
        sweep(MODEL, PROMPTS, Grid(), seeds=[0])
    with pytest.raises(GlideError, match="one name"):
        sweep(MODEL, PROMPTS, Grid(), seeds=SEEDS, measures=[MEAN, MEAN])


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun", "plms"])
def test_steps_are_numbered_through_the_whole_sweep(sampler: str) -> None:
    told: list[tuple[int, int]] = []
    grid = Grid((1.0, 2.0), steps=("3", "4"), samplers=(sampler,))
    list(run_cells(grid.cells(), one_pixel, PROMPTS, schedule=SCHEDULE, batch=1,
                   callback=lambda info: told.append((info.index, info.total))))  # fmt: skip
    assert [index for index, _ in told] == list(range(len(told)))
    assert {total for _, total in told} == {len(told)}


def test_cost_counts_both_branches_and_the_second_calls() -> None:
    assert cost(Cell(1.0, 0.0, "10", "ddim"), SCHEDULE) == (10, 10)
    assert cost(Cell(3.0, 0.0, "10", "ddim"), SCHEDULE) == (10, 20)
    assert cost(Cell(1.0, 0.0, "10", "dpmpp_2m"), SCHEDULE) == (9, 9)
    assert cost(Cell(1.0, 0.0, "fast27", "heun"), SCHEDULE)[1] > 40


def test_raising_from_the_callback_stops_within_a_step() -> None:
    told: list[int] = []

    def callback(info: StepInfo) -> None:
        told.append(info.index)
        if info.index == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(Grid((1.0, 2.0), steps=("3",)), callback=callback)
    assert told == [0, 1, 2, 3, 4]


def test_a_measure_may_give_one_number_for_all_and_nothing_else() -> None:
    pictures = torch.zeros(2, 3, 8, 8)

    def rows(score: Measure) -> Row:
        draw = lambda cell, wanted, step: pictures[wanted]  # noqa: E731
        (found,) = run_cells([Cell()], draw, PROMPTS, schedule=SCHEDULE, measures=[score])
        return found.row

    assert rows(Measure("one", lambda p, t: torch.tensor(7.0))).scores["one"].mean == 7
    spread = rows(Measure("two", lambda p, t: torch.tensor([1.0, 3.0]))).scores["two"]
    assert (spread.mean, spread.error) == (2.0, pytest.approx(1.0))
    with pytest.raises(GlideError, match="'bad' gave values of shape"):
        rows(Measure("bad", lambda p, t: torch.zeros(3)))


def test_measures_on_known_pictures(tmp_path: Path) -> None:
    black, white = -torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    grey = torch.zeros(1, 3, 16, 16)

    def value(measure: Measure, pictures: Sequence[Tensor], prompts: list[str]) -> list[float]:
        return measure.score(torch.cat(list(pictures)), prompts).reshape(-1).tolist()

    assert value(sweep_measures.clipped(), [black, grey], ["a", "a"]) == [1.0, 0.0]
    assert value(sweep_measures.diversity(), [black, white], ["a", "a"]) == [2.0]
    assert value(sweep_measures.diversity(), [black, grey, white, grey], list("abab")) == [1.0]
    assert math.isnan(value(sweep_measures.diversity(), [black, white], ["a", "b"])[0])
    near, far = torch.randn(2, 50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    distance = sweep_measures.pixel_frechet(near)
    assert value(distance, [near], ["a"] * 50)[0] == pytest.approx(0, abs=1e-6)
    shifted = value(distance, [near + 1], ["a"] * 50)[0]
    assert shifted == pytest.approx(3 * sweep_measures.SIDE**2, rel=1e-4)  # |1|^2 in each number
    assert value(distance, [far], ["a"] * 50)[0] > 0
    with pytest.raises(GlideError, match="holds 0 pictures"):
        sweep_measures.read_references(tmp_path, 64)


def test_the_table_reads_back_with_its_gaps() -> None:
    row = Row(Cell(0.3, 0.0, "10,10,3,2,2", "ddim"), 2, 54, 0.25, {"mean": Score(0.5, math.nan)})
    text = to_csv([row], [MEAN])
    (back,) = from_csv(text, [MEAN], "here")
    assert back.cell == row.cell and back.pictures == 2 and back.evaluations == 54
    assert back.scores["mean"].mean == 0.5 and math.isnan(back.scores["mean"].error)
    with pytest.raises(GlideError, match=r"here is not the table.*Expected"):
        from_csv(text, [], "here")
    with pytest.raises(GlideError, match="here is damaged"):
        from_csv(text + "1,2\n", [MEAN], "here")


def test_a_folder_holds_one_sweep_whose_grid_may_grow(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep", (MEAN,))
    folder.begin({"prompts": PROMPTS, "clip": []})
    small, large = Grid((1.0,), steps=("2",)), Grid((1.0, 2.0), steps=("2",))
    for entry in drawn(small):
        folder.add(entry)
    before = folder.table.read_text()
    folder.begin({"prompts": PROMPTS, "clip": ["a"]})  # the first to have one
    folder.begin({"prompts": PROMPTS, "clip": []})
    done = [row.cell for row in folder.rows()]
    new = drawn(large, done=done)
    assert [d.row.cell.guidance_scale for d in new] == [2.0]
    folder.add(new[0])
    assert folder.table.read_text().startswith(before)
    kept = folder.pictures(folder.rows()[1])
    assert torch.allclose(kept, new[0].pictures.clamp(-1, 1), atol=1 / 255)
    with pytest.raises(GlideError, match="holds a sweep with other clip"):
        folder.begin({"prompts": PROMPTS, "clip": ["b"]})
    with pytest.raises(GlideError, match="holds a sweep with other prompts"):
        folder.begin({"prompts": ["a cat"], "clip": []})
    next((tmp_path / "sweep" / "pictures").glob("cfg1_*")).unlink()
    assert [row.cell.guidance_scale for row in folder.rows()] == [2.0]


def test_lists_as_people_type_them() -> None:
    assert read_scales(" 1, 2.5 ,3,", "cfg") == (1.0, 2.5, 3.0)
    assert read_steps("10, fast27, ddim50", "steps") == ("10", "fast27", "ddim50")
    assert read_steps("30; 10, 10, 3, 2, 2", "steps") == ("30", "10,10,3,2,2")
    assert read_samplers("ddim,ancestral", "samplers") == ("ddim", "ancestral")


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_scales, "", "is no list"),
        (read_scales, "1,,2", "is no list"),
        (read_scales, "1, two", "'two' is no scale"),
        (read_scales, "nan", "is no scale"),
        (read_scales, "-1", "is no scale"),
        (read_scales, "1, 1.0", "twice"),
        (read_steps, "0", "no step"),
        (read_steps, "2000", "2000"),
        (read_steps, "swift27", "swift27"),
        (read_steps, "10, 010", "twice"),
        (read_samplers, "ddim, magic", "no sampler 'magic'"),
    ],
)
def test_a_bad_list_is_explained_by_its_name(read: object, text: str, words: str) -> None:
    with pytest.raises(GlideError, match=words) as caught:
        read(text, "the list")  # type: ignore[operator]
    assert str(caught.value).startswith("the list: ")
