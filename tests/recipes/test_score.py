"""The numbers that recipes/emoji/score.py reports, on images whose value is known."""

from __future__ import annotations

import json

import pytest
import torch

from recipes.emoji.publish import update_catalog
from recipes.emoji.score import corner_flatness, main, rms


def test_rms_is_averaged_over_images_not_over_pixels() -> None:
    images = torch.zeros(2, 3, 8, 8)
    drawings = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5)])
    assert rms(images, drawings) == pytest.approx(0.25)


def test_a_flat_corner_has_no_noise_and_a_checkerboard_is_all_lattice() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert corner_flatness(flat, 8) == {"std": 0.0, "lattice": 0.0}
    board = flat.clone()
    board[..., ::2, ::2] += 1 / 127.5  # one 8-bit level
    measured = corner_flatness(board, 8)
    assert measured["lattice"] == pytest.approx(0.5, abs=1e-3)
    assert measured["std"] == pytest.approx(0.436, abs=1e-2)


def test_publishing_replaces_the_hash_and_size_of_one_entry() -> None:
    old = [{"filename": f"{name}.safetensors", "sha256": "0" * 64, "size": 1} for name in "ab"]
    first, second = json.loads(
        update_catalog(json.dumps(old), "b.safetensors", 1_234_567, "f" * 64)
    )
    assert first == old[0]
    assert second == {**old[1], "sha256": "f" * 64, "size": 1_234_567}
    with pytest.raises(SystemExit, match=r"c\.safetensors"):
        update_catalog(json.dumps(old), "c.safetensors", 1, "f" * 64)


def test_an_unknown_score_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as error:
        main(["store.npz", "--only", "nothing"])
    assert error.value.code == 2
