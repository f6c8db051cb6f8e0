"""GLIDE Guidance Sweep on tiny models, in the standalone host, under inference mode."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS, host
from glide_pack.nodes.host.standalone import StandaloneHost
from node_calls import base, noisy_clip, prompts, upsampler

from glide_core.diffusion.types import StepCallback, StepInfo
from glide_core.errors import GlideError

SWEEP: Any = NODE_CLASS_MAPPINGS["GlideGuidanceSweep"]


class Stopped(Exception):
    """The program's own interruption."""


class Watched(StandaloneHost):
    """Says what the node's progress was, and can be cancelled."""

    recorded: list[tuple[int, int]] = []
    stop_at: int | None = None

    @contextmanager
    def progress(self, label: str, stages: int = 1) -> Iterator[StepCallback]:
        def step(info: StepInfo) -> None:
            Watched.recorded.append((info.index, info.total))
            if info.index == Watched.stop_at:
                raise Stopped

        yield step


@pytest.fixture(autouse=True)
def standalone(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Watched, "recorded", [])
    monkeypatch.setattr(Watched, "stop_at", None)
    with host.using(Watched(device="cpu", show_progress=False)), torch.inference_mode():
        yield


@pytest.fixture
def given() -> dict[str, Any]:
    model, clip, _ = base()
    return {
        "model": model,
        **prompts(clip),
        "cfg_scales": "1, 3",
        "clip_scales": "0",
        "steps": "2",
        "samplers": "ddim",
        "seed": 7,
        "images": 2,
    }


@pytest.fixture
def noisy() -> Any:
    return noisy_clip()


def run(given: dict[str, Any], **changes: Any) -> tuple[Any, Any, list[list[str]]]:
    grid, plot, table = SWEEP().sweep(**{**given, **changes})["result"]
    return grid, plot, list(csv.reader(io.StringIO(table)))


def test_it_returns_a_grid_a_plot_and_a_row_for_every_cell(
    given: dict[str, Any], noisy: Any
) -> None:
    grid, plot, (header, *rows) = run(given, clip=noisy, clip_scales="0, 2", samplers="ddpm")
    assert [row[:4] for row in rows] == [
        [cfg, clip, "2", "ddpm"] for cfg in ("1", "3") for clip in ("0", "2")
    ]
    for image in (grid, plot):
        assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
        assert image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1
    measured = [name for name in header if ", mean" in name]
    assert [name.split(" ")[0] for name in measured] == ["clip", "diversity", "clipped"]
    assert Watched.recorded == [(i, 8) for i in range(8)]  # one bar through all cells


def test_a_cell_equals_the_samplers_output(given: dict[str, Any], noisy: Any) -> None:
    sampler: Any = NODE_CLASS_MAPPINGS["GlideSampler"]()
    score: Any = NODE_CLASS_MAPPINGS["GlideClipScore"]()
    common = {k: given[k] for k in ("positive", "negative", "seed")}
    for cfg in ("1", "3"):
        _, _, (header, row) = run(given, cfg_scales=cfg, clip=noisy)
        image, _ = sampler.sample(
            model=given["model"], latent_image={"samples": torch.zeros(2, 3, 64, 64)},
            steps=2, sampler_name="ddim", cfg=float(cfg), preset="custom", denoise=1.0, **common,
        )  # fmt: skip
        lines = score.score(image, noisy, "a red apple", 0)["result"][1].splitlines()
        cosines = [float(line.split()[0]) for line in lines]
        column = header.index("clip [cosine, mean]")
        assert float(row[column]) == pytest.approx(sum(cosines) / 2, abs=1e-3)


def test_without_a_clip_and_with_one_image_there_is_still_a_plot(given: dict[str, Any]) -> None:
    _, plot, (header, *rows) = run(given, images=1)
    assert plot.shape[1] > 300 and len(rows) == 2
    assert not any(name.startswith(("clip [", "diversity")) for name in header)


def test_cancelling_stops_within_a_step(given: dict[str, Any]) -> None:
    Watched.stop_at = 2
    with pytest.raises(Stopped):
        run(given)
    assert Watched.recorded == [(0, 4), (1, 4), (2, 4)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"clip_scales": "0, 2"},
            r"clip_scales contains 2.*'clip'.*Connect GLIDE Noisy CLIP Loader",
        ),
        ({"negative": None}, r"cfg_scales contains 3.*'negative'.*Connect GLIDE Text Encode"),
        ({"cfg_scales": "1; two"}, "cfg_scales: 'two' is not possible"),
        ({"samplers": "magic"}, "samplers: 'magic' is not a sampler"),
        ({"steps": ", ".join(map(str, range(1, 200)))}, "398 combinations.*at most 256"),
    ],
)
def test_an_invalid_input_is_named_before_sampling(
    given: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(GlideError, match=words) as caught:
        run(given, **changes)
    assert str(caught.value).startswith("GLIDE Guidance Sweep: ")
    assert Watched.recorded == []  # before sampling


def test_an_upsampler_in_the_base_s_place_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(GlideError, match=r"'model' is GLIDE's upsampler.*Connect GLIDE Loader"):
        run(given, model=upsampler())


def test_scale_1_needs_no_negative(given: dict[str, Any]) -> None:
    assert len(run(given, negative=None, cfg_scales="1")[2]) == 2


def test_lists_are_checked_before_the_run_and_connected_ones_are_not() -> None:
    good = {"cfg_scales": "1, 2", "clip_scales": "0", "steps": "10, fast27", "samplers": "ddim"}
    assert SWEEP.VALIDATE_INPUTS(**good) is True
    assert SWEEP.VALIDATE_INPUTS(**dict.fromkeys(good)) is True
    for name in good:
        answer = SWEEP.VALIDATE_INPUTS(**{**good, name: "what"})
        assert answer.startswith(f"{name}: ") and "what" in answer
