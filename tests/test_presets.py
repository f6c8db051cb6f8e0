"""Presets: steps and sampler in one word, the same for the command and the node."""

from __future__ import annotations

import argparse

import pytest
from glide_pack.nodes.inputs import CUSTOM
from glide_pack.nodes.sampling import GlideSampler

from glide_core.cli import common, options
from glide_core.config import BASE, SamplerConfig
from glide_core.names import PRESETS, SAMPLERS


def parsed(*words: str) -> SamplerConfig:
    parser = argparse.ArgumentParser()
    parser.set_defaults(prompt="a fox")
    options.add_generation(parser, "base", "upsampler")
    found = common.request_of(parser.parse_args(words), steps=30).base
    assert found is not None
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_steps_and_sampler(name: str) -> None:
    found = parsed("--preset", name)
    assert found.steps == PRESETS[name].steps
    assert (found.sampler or BASE.sampler) == PRESETS[name].sampler
    assert PRESETS[name].sampler in SAMPLERS


@pytest.mark.parametrize("order", [1, -1])
def test_an_explicit_option_wins_over_a_preset_in_either_order(order: int) -> None:
    words = [("--preset", "fast"), ("--steps", "13"), ("--sampler", "euler")][::order]
    found = parsed(*(word for pair in words for word in pair))
    assert (found.steps, found.sampler) == (13, "euler")


def test_a_preset_leaves_the_default_sampler_to_clip_guidance() -> None:
    assert parsed("--preset", "fast").sampler is None
    assert parsed("--preset", "reference").sampler == PRESETS["reference"].sampler


def test_without_a_preset_nothing_changes() -> None:
    assert (parsed().steps, parsed().sampler) == (30, None)


def test_presets_grow_slower_in_their_order() -> None:
    steps = [preset.steps for preset in PRESETS.values()]
    assert list(PRESETS) == ["fast", "balanced", "reference"]
    assert steps == sorted(steps)
    assert PRESETS["reference"].sampler == "ddpm"


def test_the_node_offers_the_same_presets_and_takes_none_by_default() -> None:
    names, details = GlideSampler.INPUT_TYPES()["required"]["preset"]
    assert names == [CUSTOM, *PRESETS]
    assert details["default"] == CUSTOM
