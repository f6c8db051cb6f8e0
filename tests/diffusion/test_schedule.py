from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glide_core.diffusion.schedule import Schedule, space_timesteps
from glide_core.errors import GlideError
from glide_core.noise_schedules import NOISE_SCHEDULES, named_betas

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "respacing.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("entry", RECORDED["entries"], ids=lambda entry: repr(entry["string"]))
def test_respaced_steps_and_tables_are_the_references_to_the_bit(entry: dict[str, Any]) -> None:
    assert space_timesteps(1000, entry["string"]) == entry["use_timesteps"]
    for name, tables in entry["schedules"].items():
        schedule = Schedule.named(name).respaced(entry["string"])
        assert schedule.timestep_map.tolist() == entry["use_timesteps"]
        for table, wanted in tables.items():
            np.testing.assert_allclose(getattr(schedule, table), wanted, rtol=1e-13)


@pytest.mark.parametrize("key", RECORDED["named_betas_other_T"])
def test_named_betas_keep_their_shape_for_other_lengths(key: str) -> None:
    name, steps = key.split(":")
    wanted = RECORDED["named_betas_other_T"][key]
    np.testing.assert_allclose(named_betas(name, int(steps)), wanted, rtol=1e-13)


@pytest.mark.parametrize("spec", [s for s, kind in RECORDED["errors"] if kind == "ValueError"])
def test_what_the_reference_refuses_is_refused(spec: str) -> None:
    with pytest.raises(GlideError):
        space_timesteps(1000, spec)


@pytest.mark.parametrize("spec", ["fast", "ddim", "ddimx", "10,,5", "10;5", "-3", "1.5", "fast28"])
def test_an_unknown_respacing_string_is_named_with_what_was_expected(spec: str) -> None:
    with pytest.raises(GlideError, match="unknown respacing") as error:
        space_timesteps(1000, spec)
    assert repr(spec) in str(error.value)
    assert "'fast27'" in str(error.value)


@pytest.mark.parametrize("spec", ["0", "0,0"])
def test_keeping_no_step_at_all_is_refused(spec: str) -> None:
    with pytest.raises(GlideError, match="keeps no step"):
        space_timesteps(1000, spec)


def test_sections_may_be_left_out() -> None:
    assert space_timesteps(1000, "0,2") == [500, 999]


def test_fast27_ends_at_997() -> None:
    steps = space_timesteps(1000, "fast27")
    assert len(steps) == 27
    assert steps[-2:] == [800, 997]


def test_a_number_of_steps_may_be_an_int() -> None:
    full = Schedule.named("linear")
    assert full.respaced(27).timestep_map.tolist() == full.respaced("27").timestep_map.tolist()


def test_respacing_a_respaced_schedule_starts_from_the_original() -> None:
    full = Schedule.named("squaredcos_cap_v2")
    again = full.respaced("27").respaced("50")
    np.testing.assert_array_equal(again.betas, full.respaced("50").betas)


@pytest.mark.parametrize("spec", ["1", 1])
def test_one_step_starts_where_the_noise_does_and_has_no_posterior_variance(
    spec: str | int,
) -> None:
    schedule = Schedule.named("linear").respaced(spec)
    assert schedule.timestep_map.tolist() == [999]
    with pytest.raises(GlideError, match="2 steps or more"):
        _ = schedule.posterior_log_variance_clipped


def test_an_unknown_noise_schedule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GlideError, match="linear, squaredcos_cap_v2"):
        Schedule.named("sigmoid")


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
def test_noise_levels_are_looked_up_by_original_timestep_in_any_respacing(name: str) -> None:
    full, respaced = Schedule.named(name), Schedule.named(name).respaced("fast27")
    t = torch.tensor([0, 22, 997])
    torch.testing.assert_close(respaced.sigma(t), full.sigma(t))
    a, s = respaced.alpha_sigma(t, 4)
    assert a.shape == (3, 1, 1, 1)
    torch.testing.assert_close(a**2 + s**2, torch.ones_like(a))
    torch.testing.assert_close((s / a).flatten(), respaced.sigma(t))
    kept = torch.tensor(respaced.alphas_cumprod[[0, 1, 26]]).float()
    torch.testing.assert_close((a**2).flatten(), kept)


def test_cosine_ends_in_a_sigma_of_20291() -> None:
    assert float(Schedule.named("squaredcos_cap_v2").sigma(999)) == pytest.approx(20291, abs=1)


def test_q_sample_mixes_image_and_noise_for_one_index_or_one_per_image() -> None:
    schedule = Schedule.named("linear").respaced("10")
    x0, noise = torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)
    ab = torch.tensor(schedule.alphas_cumprod).float()
    mixed = schedule.q_sample(x0, torch.tensor([0, 9]), noise)
    for image, index in ((0, 0), (1, 9)):
        value = ab[index].sqrt() + 2 * (1 - ab[index]).sqrt()
        torch.testing.assert_close(mixed[image], torch.full((3, 4, 4), float(value)))
    torch.testing.assert_close(schedule.q_sample(x0, 9, noise)[1], mixed[1])


def test_a_schedule_cannot_be_changed() -> None:
    schedule = Schedule.named("linear")
    with pytest.raises(FrozenInstanceError):
        schedule.betas = schedule.betas  # type: ignore[misc]
