"""The trainer on a made-up store of drawings: it learns, resumes bit for bit, and stops cleanly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from glide_core.checkpoints.loading import load_model
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.layers import norm_act
from glide_core.training import fast_norm
from glide_core.training.jobs import initialise, random_keep_masks, start_from
from glide_core.training.loop import RunConfig, Trainer, lr_share
from glide_core.training.presets import DEFAULTS, SMALL, TrainConfig
from glide_core.training.sprites import Sprites

TINY = TrainConfig("base", steps=2, batch=2, warmup=1, bf16=False)


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Sprites:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (3, 256, 256, 4), dtype=np.uint8)
    path = tmp_path_factory.mktemp("store") / "sprites.npz"
    np.savez(path, rgba=rgba, labels=["one", "two", "three"], subjects=["one", "two", ""])
    return Sprites(path)


def quiet(step: int, losses: dict[str, float], seconds_left: float) -> None:
    pass


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    sprites: Sprites, tmp_path: Path
) -> None:
    whole = Trainer(TINY, RunConfig(tmp_path / "whole", sample_every=0), sprites)
    whole.train(quiet)
    first = Trainer(TINY, RunConfig(tmp_path / "parts", sample_every=0), sprites)
    first._one_step()
    first.save()
    second = Trainer(TINY, RunConfig(tmp_path / "parts", sample_every=0), sprites)
    assert second.step == 1
    second.train(quiet)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key
    for key, value in whole.ema.items():
        assert torch.equal(value, second.ema[key]), key


def test_training_writes_a_checkpoint_that_loads(sprites: Sprites, tmp_path: Path) -> None:
    trainer = Trainer(
        replace(TINY, steps=1), RunConfig(tmp_path, log_every=1, sample_every=0), sprites
    )
    trainer.train(quiet)
    model = load_model(tmp_path / "base.safetensors")
    assert model.config == SMALL["base"]
    assert (tmp_path / "log.csv").read_text().startswith("step,")


def test_one_batch_can_be_learned(sprites: Sprites, tmp_path: Path) -> None:
    config = replace(TINY, job="clip", batch=8, steps=40, lr=1e-3)
    trainer = Trainer(config, RunConfig(tmp_path, sample_every=0), sprites)
    state = trainer.rng.get_state()
    first = float(trainer._one_step()["loss"])
    for _ in range(25):
        trainer.rng.set_state(state)  # the same batch, the same noise
        last = float(trainer._one_step()["loss"])
    assert last < 0.5 * first


def test_new_input_channels_change_nothing_before_training() -> None:
    for base, wide in (("base", "inpaint"), ("upsampler", "upsampler-inpaint")):
        small, large = GlideModel(SMALL[base]), GlideModel(SMALL[wide])  # type: ignore[index]
        initialise(small, 0)
        torch.nn.init.normal_(small.unet.out[2].weight)
        start_from(large, small.openai_state_dict())
        ids = torch.zeros(1, 24, dtype=torch.long)
        x, t = torch.randn(1, 3, 32, 32), torch.tensor([500])
        low = {"low_res": torch.randn(1, 3, 8, 8)} if base == "upsampler" else {}
        known = {"image": torch.randn(1, 3, 32, 32), "keep_mask": torch.ones(1, 1, 32, 32)}
        with torch.no_grad():
            features = small.encode(ids, ids.bool())
            before = small.unet(x, t, features, **low)
            after = large.unet(x, t, features, **low, **known)
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not fast_norm.available(), reason="no C compiler here to build the kernel")
@pytest.mark.parametrize("act", [True, False])
def test_the_fused_norm_equals_torch_forward_and_backward(act: bool) -> None:
    norm = torch.nn.GroupNorm(32, 64)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 64, 6, 4, requires_grad=True)
    scale, shift = torch.randn(2, 3, 64, 1, 1).requires_grad_()
    weights = torch.randn(x.shape)
    results = []
    for function in (norm_act, fast_norm.fused_norm):
        y = function(norm, x, scale, shift, act=act)
        inputs = [x, scale, shift, norm.weight, norm.bias]
        results.append([y, *torch.autograd.grad((y * weights).sum(), inputs)])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_masks_erase_rectangles_or_everything() -> None:
    masks = random_keep_masks(torch.Generator().manual_seed(0), 64, 32)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    kept = masks.mean(dim=(1, 2, 3))
    assert (kept == 0).any()
    assert ((kept > 0) & (kept < 1)).float().mean() > 0.6


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = TrainConfig("base", steps=100, warmup=10)
    assert lr_share(0, config) == pytest.approx(0.1)
    assert lr_share(30, config) == 1.0
    assert config.final_lr <= lr_share(99, config) < 0.1


def test_a_missing_store_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="build the store"):
        Sprites(tmp_path / "none.npz")


def test_a_run_folder_of_another_model_is_refused(sprites: Sprites, tmp_path: Path) -> None:
    where = RunConfig(tmp_path, sample_every=0)
    Trainer(DEFAULTS["clip"], where, sprites).save()
    with pytest.raises(GlideError, match="clip run"):
        Trainer(TINY, where, sprites)


@pytest.mark.skipif(not fast_norm.available(), reason="no C compiler here to build the kernel")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_fused_norm_stays_finite_on_a_flat_picture_with_one_bright_pixel(sign: int) -> None:
    norm = torch.nn.GroupNorm(32, 32)
    x = torch.zeros(1, 32, 128, 128)
    x[:, :, 3, 5] = 5.0 * sign  # normalises to about 128, where exp overflows
    x = (x + 1e-4 * torch.randn(x.shape)).requires_grad_()
    y = fast_norm.fused_norm(norm, x, act=True)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(grad).all()
    torch.testing.assert_close(y, norm_act(norm, x, act=True), rtol=1e-3, atol=1e-4)
