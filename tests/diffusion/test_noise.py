from __future__ import annotations

import pytest
import torch

from glide_core.diffusion import SeededNoise
from glide_core.errors import GlideError


def test_image_i_gets_the_same_noise_in_any_batch() -> None:
    batch, alone = SeededNoise([5, 6, 7]), SeededNoise([6])
    for _ in range(3):
        together = batch(torch.empty(3, 3, 8, 8))
        torch.testing.assert_close(together[1:2], alone(torch.empty(1, 3, 8, 8)), rtol=0, atol=0)


def test_every_call_gives_fresh_standard_normal_noise() -> None:
    noise = SeededNoise([0])
    first, second = noise(torch.empty(1, 3, 64, 64)), noise(torch.empty(1, 3, 64, 64))
    assert abs(float((first * second).mean())) < 0.03
    assert float(first.mean()) == pytest.approx(0, abs=0.03)
    assert float(first.std()) == pytest.approx(1, abs=0.03)


def test_noise_is_float32_for_any_reference_dtype() -> None:
    assert SeededNoise([0])(torch.empty(1, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    SeededNoise([1, 2])(torch.empty(2, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_without_a_seed_for_each_image_is_refused() -> None:
    with pytest.raises(GlideError, match="2 seeds for 3 images: expected one per image"):
        SeededNoise([1, 2])(torch.empty(3, 3, 8, 8))


def test_the_processs_default_dtype_does_not_change_the_noise() -> None:
    wanted = SeededNoise([4])(torch.empty(1, 3, 8, 8))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        noise = SeededNoise([4])(torch.empty(1, 3, 8, 8))
    finally:
        torch.set_default_dtype(before)
    assert noise.dtype == torch.float32
    assert torch.equal(noise, wanted)
