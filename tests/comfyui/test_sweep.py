"""GLIDE Guidance Sweep on ComfyUI's MODEL: its results, its progress, its interruption."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def given(comfy: Any) -> dict[str, Any]:
    model, clip, _ = comfy.load()
    noisy = comfy.load_clip()
    return {
        "model": model,
        "positive": comfy.prompt(clip, "a red fox"),
        "negative": comfy.prompt(clip, ""),
        "clip": noisy,
        "cfg_scales": "1, 3",
        "clip_scales": "0, 4",
        "steps": "3",
        "samplers": "ddpm",
        "seed": 5,
        "images": 2,
    }


def test_it_samples_and_scores_every_cell(comfy: Any, given: dict[str, Any]) -> None:
    grid, plot, table = comfy("GlideGuidanceSweep", **given)
    _, *rows = csv.reader(io.StringIO(table))
    assert [row[:2] for row in rows] == [["1", "0"], ["1", "4"], ["3", "0"], ["3", "4"]]
    for image in (grid, plot):
        assert image.ndim == 4 and image.shape[-1] == 3
        assert torch.isfinite(image).all() and image.min() < image.max()


@pytest.mark.parametrize(("cfg", "scale"), [("1", "0"), ("3", "4")])
def test_a_cell_is_glide_sampler_s(comfy: Any, given: dict[str, Any], cfg: str, scale: str) -> None:
    *_, table = comfy("GlideGuidanceSweep", **{**given, "cfg_scales": cfg, "clip_scales": scale})
    header, row = csv.reader(io.StringIO(table))
    model = comfy(
        "GlideClipGuidance",
        model=given["model"], clip=given["clip"], text="a red fox", scale=float(scale),
    )  # fmt: skip
    image, _ = comfy(
        "GlideSampler",
        model=model, positive=given["positive"], negative=given["negative"], seed=5, steps=3,
        sampler_name="ddpm", cfg=float(cfg), latent_image=comfy.empty(2),
    )  # fmt: skip
    _, lines = comfy("GlideClipScore", image=image, clip=given["clip"], text="a red fox", keep=0)
    expected = sum(float(line.split()[0]) for line in lines.splitlines()) / 2
    assert float(row[header.index("clip [cosine, mean]")]) == pytest.approx(expected, abs=1e-3)


def test_one_bar_counts_the_steps_of_all_cells(comfy: Any, given: dict[str, Any]) -> None:
    with comfy.progress() as reports:
        comfy("GlideGuidanceSweep", **{**given, "steps": "2, 4"})
    assert [(value, total) for value, total, _ in reports] == [(i, 24) for i in range(1, 25)]
    assert all(preview[1].size == (64, 64) for _, _, preview in reports)


def test_interrupt_stops_within_a_step(comfy: Any, given: dict[str, Any]) -> None:
    with (
        comfy.progress(stop_at=4) as reports,
        pytest.raises(comfy.management.InterruptProcessingException),
    ):
        comfy("GlideGuidanceSweep", **given)
    assert len(reports) == 4
    comfy("GlideGuidanceSweep", **{**given, "cfg_scales": "1", "clip_scales": "0"})


def test_a_wrong_list_is_refused_before_the_run(comfy: Any, given: dict[str, Any]) -> None:
    validate = comfy.find("GlideGuidanceSweep").VALIDATE_INPUTS
    assert validate(cfg_scales="1, 2", clip_scales=None, steps="10", samplers="ddim") is True
    assert "is not possible: expected a number" in validate(cfg_scales="1, two")
    with pytest.raises(ValueError, match=r"'clip' is not connected. Connect GLIDE"):
        comfy("GlideGuidanceSweep", **{**given, "clip": None})
