"""Scenes of the bundled models' data: what is drawn, what it is called, what is held out."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from drawings import write_store
from torch.nn import functional as F

from glide_core.errors import GlideError
from recipes.emoji.drawings import Scene, Sprites
from recipes.emoji.scenes import LISTS, scene_list
from recipes.emoji.subjects import score_scenes
from recipes.emoji.vocabulary import (
    BACKGROUNDS,
    SUBJECTS,
    TINTS,
    held_out_background,
    held_out_tint,
    with_article,
)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Sprites:
    return Sprites(write_store(tmp_path_factory.mktemp("store") / "drawings.npz"))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_data_has_at_least_256_subjects() -> None:
    assert len(SUBJECTS) >= 256
    assert len(BACKGROUNDS) == 10


def test_each_subject_is_never_shown_on_one_background_and_in_one_tint() -> None:
    for subject in range(len(SUBJECTS)):
        assert sum(held_out_background(subject, b) for b in range(len(BACKGROUNDS))) == 1
        assert sum(held_out_tint(subject, t) for t in range(len(TINTS))) == 1


def test_training_never_samples_held_out_scenes(sprites: Sprites) -> None:
    generator = rng()
    scenes = [sprites.scene(generator) for _ in range(2000)]
    assert not any(scene.held_out for scene in scenes)
    assert {len(scene.subjects) for scene in scenes} == {1, 2}
    assert {scene.style for scene in scenes} == {0, 1}
    assert {scene.tint is None for scene in scenes} == {True, False}
    assert {scene.place for scene in scenes} == {"", "left", "right", "top", "bottom", "middle"}


def test_a_scene_is_rendered_at_its_place_and_on_its_background(sprites: Sprites) -> None:
    blue = torch.tensor(BACKGROUNDS["blue"]) / 127.5 - 1
    image = sprites.render(Scene((3,), sprites.colours.index("blue"), place="left"))
    off = (image - blue[:, None, None]).abs().sum(dim=0) > 0.1
    columns = off.any(dim=0).nonzero().flatten()
    assert columns.min() < 16
    assert columns.max() < 32
    both = sprites.render(Scene((3, 4), sprites.colours.index("blue")))
    changed = (both - blue[:, None, None]).abs().sum(dim=0) > 0.1
    assert changed[:, :32].any()
    assert changed[:, 32:].any()


def test_a_tint_recolours_the_drawing_and_leaves_the_background(sprites: Sprites) -> None:
    white = sprites.colours.index("white")
    plain = sprites.render(Scene((3,), white))
    tinted = sprites.render(Scene((3,), white, tint=TINTS.index("blue")))
    assert torch.equal(plain[:, :4, :4], tinted[:, :4, :4])
    middle = tinted[:, 32, 32]
    assert middle[2] > middle[0]


def test_a_caption_says_what_the_scene_shows(sprites: Sprites) -> None:
    names, blue = sprites.subjects, sprites.colours.index("blue")
    plain = f"{with_article(names[0])} on a blue background"
    assert sprites.caption(Scene((0,), blue)) == plain
    assert sprites.caption(Scene((0,), blue, style=1)).startswith("a flat ")
    small = sprites.caption(Scene((0,), blue, place="top"))
    assert small.startswith("a small ")
    assert "at the top" in small
    two = sprites.caption(Scene((0, 1), blue))
    assert names[0] in two
    assert f" and {with_article(names[1])}" in two


def test_wording_varies_with_the_generator_and_keeps_the_subject(sprites: Sprites) -> None:
    generator, scene = rng(), Scene((0,), sprites.colours.index("blue"))
    captions = {sprites.caption(scene, generator) for _ in range(200)}
    assert len(captions) >= 5
    assert all(sprites.subjects[0] in caption and "blue" in caption for caption in captions)


def test_some_training_captions_leave_the_background_open(sprites: Sprites) -> None:
    assert sprites.caption(Scene((0,), 0), background=False) == with_article(sprites.subjects[0])
    named = [
        any(colour in caption for colour in sprites.colours)
        for caption in sprites.batch(rng(2), 300, side=64).captions
    ]
    assert 0.85 < sum(named) / len(named) < 0.98
    distinct = sprites.batch(rng(2), 60, side=64, distinct=True).captions
    assert all(any(colour in caption for colour in sprites.colours) for caption in distinct)


def test_the_same_generator_state_gives_the_same_batch(sprites: Sprites) -> None:
    for side, crop in ((64, None), (256, 128)):
        one = sprites.batch(rng(5), 6, side=side, crop=crop)
        other = sprites.batch(rng(5), 6, side=side, crop=crop)
        assert one.captions == other.captions
        assert torch.equal(one.images, other.images)
        assert one.images.shape == (6, 3, crop or side, crop or side)
        assert float(one.images.abs().max()) <= 1 + 1e-5


def test_a_distinct_batch_shows_no_scene_twice(sprites: Sprites) -> None:
    batch = sprites.batch(rng(1), 64, side=64, distinct=True)
    same = [
        (a, b) for a in range(64) for b in range(a) if torch.equal(batch.images[a], batch.images[b])
    ]
    assert not same


def test_upsamplers_are_measured_on_drawings_that_they_never_saw(sprites: Sprites) -> None:
    unseen = {sprites.labels[row] for row in sprites.unseen_by_upsamplers}
    seen = {sprites.labels[row] for row in sprites.seen_by_upsamplers}
    assert unseen
    assert not unseen & seen


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_seeded_and_hold_what_their_name_says(sprites: Sprites, name: str) -> None:
    scenes = scene_list(sprites, name, 10)
    assert scenes == scene_list(sprites, name, 10)
    assert scenes != scene_list(sprites, name, 10, seed=1)
    assert len(set(scenes)) == len(scenes) > 0
    assert all(scene.held_out == name.startswith("unseen") for scene in scenes)


def test_rendered_scenes_score_one_and_others_do_not(sprites: Sprites) -> None:
    for name in ("seen", "pair", "small"):
        scenes = scene_list(sprites, name, 8)
        true = torch.stack([sprites.render(scene) for scene in scenes])
        found = score_scenes(true, scenes, sprites)
        assert (found.subject, found.background, found.style) == (1, 1, 1)
    scenes = scene_list(sprites, "seen", 8)
    true = torch.stack([sprites.render(scene) for scene in scenes])
    moved = true.roll((1, 2), dims=(2, 3))
    assert score_scenes(moved, scenes, sprites).subject == 1
    assert score_scenes(true.flip(0), scenes, sprites).subject < 0.5


def test_a_missing_store_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match=r"recipes\.emoji\.build_store"):
        Sprites(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [("umbrella", "an umbrella"), ("unicorn", "a unicorn"), ("owl", "an owl"), ("jeans", "jeans")],
)
def test_articles_follow_the_sound_of_the_noun(noun: str, phrase: str) -> None:
    assert with_article(noun) == phrase


def test_a_distinct_batch_holds_variants_that_share_a_subject(sprites: Sprites) -> None:
    scenes = sprites.distinct_scenes(rng(), 40)
    assert len(set(scenes)) == len(scenes) == 40
    assert all(sprites.trains_on(scene) for scene in scenes)
    alone = [scene.subjects for scene in scenes if len(scene.subjects) == 1]
    assert len(set(alone)) < len(alone)


def test_samples_of_the_base_are_cropped_with_their_drawings(tmp_path: Path) -> None:
    store = write_store(tmp_path / "drawings.npz")
    plain = Sprites(store)
    scenes = plain.scenes(rng(), 6)
    low = torch.stack([plain.render(scene) for scene in scenes])
    rows = [(*astuple(scene), plain.caption(scene)) for scene in scenes]
    pixels = ((low + 1) * 127.5).round().byte().numpy()
    np.savez(tmp_path / "samples.npz", low=pixels, scenes=json.dumps(rows))
    sprites = Sprites(store, tmp_path / "samples.npz")
    batches = [sprites.batch(rng(seed), 1, side=256, crop=128) for seed in range(20)]
    sampled = [batch for batch in batches if batch.low_res is not None]
    assert 8 < len(sampled) < 20
    for batch in sampled:
        assert batch.images.shape == (1, 3, 128, 128)
        assert batch.low_res is not None and batch.low_res.shape == (1, 3, 32, 32)
        reduced = F.avg_pool2d(batch.images, 4)
        assert (reduced - batch.low_res).abs().mean() < 0.05
