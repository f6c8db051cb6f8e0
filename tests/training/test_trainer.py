"""The trainer on tiny models: it learns, resumes bit for bit, and says what is wrong."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import TINY, Colours, trainer

from glide_core.checkpoints.files import read_tensors
from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.data.source import Batch
from glide_core.errors import GlideError
from glide_core.training import saving
from glide_core.training.config import TrainConfig, fine_tuning, from_scratch
from glide_core.training.trainer import RunConfig, Trainer, lr_factor

CLIP = replace(TINY, job="clip", batch=6, size=None)


def start_of(config: TrainConfig, models: Path) -> Path:
    return models / ("tiny_clip.safetensors" if config.job == "clip" else "tiny_base.safetensors")


RUNS = pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, grad_accum_steps=2),
        replace(TINY, lora=2),
        replace(CLIP, grad_accum_steps=3),
    ],
    ids=["whole", "in parts", "LoRA", "CLIP in parts"],
)


@RUNS
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    config: TrainConfig, tiny_models: Path, tmp_path: Path
) -> None:
    start = start_of(config, tiny_models)
    whole = trainer(config, tmp_path / "whole", start)
    assert whole.train()
    first = trainer(config, tmp_path / "parts", start)
    assert not first.train(lambda: first.step == 1)  # stopped in its second step
    second = trainer(config, tmp_path / "parts", start)
    assert second.step == 2
    assert second.train()
    assert whole.weights.keys() == second.weights.keys()
    for key, value in whole.weights.items():
        assert torch.equal(value, second.weights[key]), key
        assert torch.equal(whole.ema[key], second.ema[key]), key


@RUNS
def test_one_batch_can_be_learned(config: TrainConfig, tiny_models: Path, tmp_path: Path) -> None:
    run = trainer(
        replace(config, lr=1e-2, steps=10**6, vlb_weight=0.0),
        tmp_path,
        start_of(config, tiny_models),
    )
    losses = []
    for _ in range(50):
        run.step = 30  # the same batch, the same noise
        losses.append(run.one_step()["loss"])
    assert losses[-1] < 0.3 * losses[0]


def test_training_writes_a_model_that_loads(tiny_models: Path, tmp_path: Path) -> None:
    run = trainer(replace(TINY, steps=1), tmp_path, tiny_models / "tiny_base.safetensors")
    assert run.train()
    model = load_model(tmp_path / "base.safetensors")
    assert model.config == run.model.config
    assert model.config.unet.image_size == 16
    about = json.loads(read_tensors(tmp_path / "base.safetensors").metadata["glide_training"])
    assert (about["trained_steps"], about["init_from"]) == (1, ["tiny_base.safetensors"])


def test_a_noisy_clip_is_written_so_that_it_loads(tiny_models: Path, tmp_path: Path) -> None:
    trainer(replace(CLIP, steps=1), tmp_path, tiny_models / "tiny_clip.safetensors").train()
    assert load_clip(tmp_path / "clip.safetensors").config.image_layers == 1


def test_what_is_written_is_the_average_and_the_live_weights_stay(
    tiny_models: Path, tmp_path: Path
) -> None:
    run = trainer(replace(TINY, steps=2), tmp_path, tiny_models / "tiny_base.safetensors")
    run.train()
    name = "unet.out.2.weight"
    live, average = run.weights[name].detach().clone(), run.ema[name].clone()
    assert not torch.equal(live, average)
    with run.averaged():
        assert torch.equal(run.weights[name], average)
    assert torch.equal(run.weights[name], live)
    written = load_model(run.exported).openai_state_dict()["out.2.weight"]
    torch.testing.assert_close(written, average, rtol=1e-3, atol=1e-4)


def test_the_log_has_one_row_a_step_after_a_crash_too(tiny_models: Path, tmp_path: Path) -> None:
    start = tiny_models / "tiny_base.safetensors"
    first = trainer(TINY, tmp_path, start)
    first.train(lambda: first.step == 1)
    state = (tmp_path / "checkpoint.pt").read_bytes()
    trainer(TINY, tmp_path, start).train()  # continues and is lost:
    (tmp_path / "checkpoint.pt").write_bytes(state)
    trainer(TINY, tmp_path, start).train()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert {"loss", "simple", "bound", "lr", "grad_norm", "seconds_per_step"} < set(rows[0])


def test_a_resumed_log_with_other_columns_has_every_figure_in_its_own(tmp_path: Path) -> None:
    figures = [{"loss": 1.0, "bound": 0.5}, {"loss": 2.0, "bound": 0.6}]
    first = saving.Log(tmp_path, 0)
    for step, row in enumerate(figures, 1):
        first.row(step, row)
    second = saving.Log(tmp_path, 1)  # the second row is after the checkpoint
    second.row(2, {"lr": 0.1, "loss": 3.0})
    second.row(3, {"lr": 0.2, "loss": 4.0})
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["step", "loss", "bound", "lr"],
        ["1", "1.0", "0.5", ""],
        ["2", "3.0", "", "0.1"],
        ["3", "4.0", "", "0.2"],
    ]


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n1\0,half")
    with pytest.raises(GlideError, match=r"log.csv cannot be read: delete it"):
        saving.Log(tmp_path, 4)


def test_tensorboard_gets_the_figures_of_the_log(tiny_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    where = RunConfig(
        tmp_path,
        log_every=1,
        sample_every=0,
        init_from=[tiny_models / "tiny_base.safetensors"],
        tensorboard=True,
    )
    Trainer(replace(TINY, steps=2), where, Colours()).train()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(int(r["step"]), pytest.approx(float(r["loss"]))) for r in rows]


def test_sample_grids_are_written_for_every_kind(tiny_models: Path, tmp_path: Path) -> None:
    from PIL import Image

    for job, name, size in (
        ("base", "tiny_base", (64, 48)),
        ("inpaint", "tiny_inpaint", (64, 96)),
        ("upsampler", "tiny_upsampler", (256, 192)),
        ("upsampler-inpaint", "tiny_upsampler_inpaint", (256, 192)),
    ):
        side = 64 if "upsampler" in job else 16
        where = RunConfig(
            tmp_path / job,
            sample_every=1,
            init_from=[tiny_models / f"{name}.safetensors"],
        )
        config = replace(TINY, job=job, steps=1, batch=2, size=side)  # type: ignore[arg-type]
        run = Trainer(config, where, Colours())
        run.train()
        assert Image.open(tmp_path / job / "samples_000001.png").size == size
        assert run.model.training


def test_a_nan_loss_stops_the_run(tiny_models: Path, tmp_path: Path) -> None:
    run = trainer(TINY, tmp_path, tiny_models / "tiny_base.safetensors")
    with torch.no_grad():
        run.weights["unet.out.2.bias"].fill_(float("nan"))
    with pytest.raises(GlideError, match="Lower the learning rate"):
        run.one_step()


def test_a_run_folder_of_another_model_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    trainer(CLIP, tmp_path, tiny_models / "tiny_clip.safetensors").save()
    with pytest.raises(GlideError, match="job clip"):
        trainer(TINY, tmp_path, tiny_models / "tiny_base.safetensors")


@pytest.mark.parametrize("change", [{"lora": 2}, {"size": 32}], ids=str)
def test_a_run_folder_of_other_settings_is_refused(
    change: dict[str, int], tiny_models: Path, tmp_path: Path
) -> None:
    start = tiny_models / "tiny_base.safetensors"
    trainer(TINY, tmp_path, start).save()
    with pytest.raises(GlideError, match=f"{next(iter(change))}.*choose another folder"):
        trainer(replace(TINY, **change), tmp_path, start)


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut short", b""])
def test_a_damaged_checkpoint_is_named(content: bytes, tiny_models: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(GlideError, match=r"checkpoint.pt cannot be read"):
        trainer(TINY, tmp_path, tiny_models / "tiny_base.safetensors")


def test_a_batch_that_cannot_be_divided_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="multiple of 3"):
        trainer(replace(TINY, grad_accum_steps=3), tmp_path, tiny_models / "tiny_base.safetensors")


def test_a_clip_batch_of_more_captions_than_there_are_is_refused(
    tiny_models: Path, tmp_path: Path
) -> None:
    run = trainer(replace(CLIP, batch=16), tmp_path, tiny_models / "tiny_clip.safetensors")
    with pytest.raises(GlideError, match="12 different captions"):
        run.one_step()


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = TrainConfig("base", steps=100, warmup=10)
    assert lr_factor(0, config) == pytest.approx(0.1)
    assert lr_factor(30, config) == 1.0
    assert config.final_lr <= lr_factor(99, config) < 0.1


def test_a_large_model_has_a_smaller_default_learning_rate() -> None:
    small, large = (fine_tuning(from_scratch("base"), n) for n in (3_000_000, 385_000_000))
    assert large.lr < small.lr < from_scratch("base").lr


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(TINY, tmp_path, tiny_models / "tiny_base.safetensors")
    run.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(GlideError, match="cannot write"):
        run.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}


def test_examples_of_prior_preservation_are_every_second_one(
    tiny_models: Path, tmp_path: Path
) -> None:
    start = [tiny_models / "tiny_base.safetensors"]
    where = RunConfig(tmp_path, sample_every=0, init_from=start)
    config = replace(TINY, prior_weight=0.5, caption_dropout=0.0)
    run = Trainer(config, where, Colours(3))
    run.steps.prior = Named()
    (found,) = run.steps[0]
    assert found.captions[1::2] == ("old", "old")
    assert "old" not in found.captions[::2]
    assert found.weight.tolist() == [1, 0.5, 1, 0.5]


class Named(Colours):
    """A source whose captions are all "old"."""

    def batch(self, *given: object, **options: object) -> Batch:
        batch = super().batch(*given, **options)  # type: ignore[arg-type]
        return Batch(batch.images, ["old"] * len(batch.captions))
