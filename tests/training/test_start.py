"""What a run can start from: presets, released and bundled models, and runs' own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import TINY, trainer

from glide_core.checkpoints.catalog import find
from glide_core.checkpoints.loading import load_model
from glide_core.config import ModelKind
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.training.config import JobName, TrainConfig
from glide_core.training.jobs import initialise, make_job, small_architecture, widened
from tools.tiny_models import LIKE_OPENAI, tiny_config, tiny_model

FRESH = replace(TINY, size=None)


def make_model(config: TrainConfig, start: Sequence[Path] = ()) -> GlideModel:
    model = make_job(config, start).model
    assert isinstance(model, GlideModel)
    return model


@pytest.mark.parametrize(
    ("narrow", "wide"), [("base", "inpaint"), ("upsampler", "upsampler-inpaint")]
)
def test_new_input_channels_change_nothing_before_training(
    narrow: ModelKind, wide: ModelKind
) -> None:
    small, large = tiny_model(narrow), GlideModel(tiny_config(wide))
    large.load_openai_state_dict(widened(small.openai_state_dict(), large.config))
    ids = torch.zeros(1, 24, dtype=torch.long)
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([500])
    low = {"low_res": torch.randn(1, 3, 8, 8)} if narrow == "upsampler" else {}
    known = {"image": torch.randn(1, 3, 32, 32), "keep_mask": torch.ones(1, 1, 32, 32)}
    with torch.no_grad():
        features = small.encode(ids, ids.bool())
        before = small.unet(x, t, features, **low)
        after = large.unet(x, t, features, **low, **known)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_a_widened_convolution_of_patches_keeps_every_patch_in_place() -> None:
    config = tiny_config("upsampler-inpaint")
    config = replace(config, unet=replace(config.unet, patch_size=2))
    old = torch.arange(24.0).view(1, 24, 1, 1).expand(1, 24, 3, 3)  # x then low_res, 12 each
    new = widened({"input_blocks.0.0.weight": old}, config)["input_blocks.0.0.weight"]
    values = new[0, :, 0, 0].tolist()
    assert values == [*range(12), *[0.0] * 16, *range(12, 24)]


@pytest.mark.parametrize("job", ["base", "inpaint", "upsampler", "upsampler-inpaint"])
def test_every_kind_starts_from_scratch(job: JobName) -> None:
    model = make_model(replace(FRESH, job=job))
    assert model.config == small_architecture(job)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not model.unet.get_parameter("out.2.weight").any()


def test_a_new_model_has_the_requested_prediction_type() -> None:
    for prediction in ("epsilon", "v_prediction"):
        model = make_model(replace(FRESH, prediction=prediction))  # type: ignore[arg-type]
        assert model.config.schedule.prediction_type == prediction


@pytest.mark.parametrize("kind", ["base", "inpaint", "upsampler", "upsampler-inpaint"])
def test_a_bundled_model_keeps_its_config(kind: ModelKind) -> None:
    path = find(kind).path()
    model = make_model(replace(FRESH, job=kind), [path])
    assert model.config == load_model(path).config
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_released_checkpoint_without_metadata_predicts_eps(tmp_path: Path) -> None:
    """OpenAI's files are state dicts: their kind, sizes and prediction follow from shapes."""
    model = GlideModel(LIKE_OPENAI)
    initialise(model, 0)
    torch.save(model.openai_state_dict(), tmp_path / "base.pt")
    found = make_model(replace(FRESH, job="inpaint"), [tmp_path / "base.pt"])
    assert found.config.kind == "inpaint"
    assert found.config.schedule.prediction_type == "epsilon"
    assert found.unet.get_parameter("input_blocks.0.0.weight").shape[1] == 7


def test_a_run_starts_from_another_runs_checkpoint(tiny_models: Path, tmp_path: Path) -> None:
    first = trainer(TINY, tmp_path / "base", tiny_models / "tiny_base.safetensors")
    first.train()
    path = tmp_path / "base" / "checkpoint.pt"
    model = load_model(path)
    assert model.config == first.model.config
    torch.testing.assert_close(model.unet.out[2].bias, first.ema["unet.out.2.bias"])
    second = trainer(replace(TINY, job="inpaint"), tmp_path / "inpaint", path)
    torch.testing.assert_close(second.weights["unet.out.2.bias"], first.ema["unet.out.2.bias"])
    assert second.train()


def test_a_noisy_clip_is_fine_tuned_from_its_file(tiny_models: Path) -> None:
    config = replace(FRESH, job="clip")
    assert make_job(config).model.config == small_architecture("clip")
    model = make_job(config, [tiny_models / "tiny_clip.safetensors"]).model
    assert isinstance(model, NoisyClip)
    assert model.config.image_layers == 1


@pytest.mark.parametrize(
    ("job", "start", "said"),
    [
        ("base", "tiny_inpaint", "kind 'inpaint'. Expected base"),
        ("inpaint", "tiny_upsampler", "Expected base or inpaint"),
        ("upsampler", "tiny_base", "Expected upsampler"),
        ("base", "tiny_clip", "noisy CLIP"),
        ("clip", "tiny_base", "GLIDE model"),
    ],
)
def test_a_start_of_the_wrong_kind_is_refused(
    job: JobName, start: str, said: str, tiny_models: Path
) -> None:
    with pytest.raises(GlideError, match=said):
        make_job(replace(FRESH, job=job), [tiny_models / f"{start}.safetensors"])


def test_another_prediction_than_the_checkpoints_is_refused(tiny_models: Path) -> None:
    config = replace(FRESH, prediction="v_prediction")
    with pytest.raises(GlideError, match="predicts epsilon"):
        make_model(config, [tiny_models / "tiny_base.safetensors"])


@pytest.mark.parametrize(("job", "size"), [("base", 12), ("upsampler", 100), ("clip", 60)])
def test_a_size_that_does_not_fit_is_refused(job: JobName, size: int) -> None:
    with pytest.raises(GlideError, match=r"multiple|does not divide"):
        make_job(replace(FRESH, job=job, size=size))
