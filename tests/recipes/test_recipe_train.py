"""The recipe of the bundled models trains, pretrains the text encoder and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drawings import write_store

from glide_core.checkpoints.loading import load_model
from recipes.emoji import base_samples, train
from recipes.emoji.train import configure, parse, run, run_all

QUICK = ["--batch", "2", "--fp32", "--device", "cpu", "--sample-every", "0"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "drawings.npz")


def test_the_base_trains_from_scratch_and_resumes(store: Path, tmp_path: Path) -> None:
    given = ["base-layout", str(store), "--runs", str(tmp_path), "--text-pretraining", "2", *QUICK]
    assert run(parse([*given, "--steps", "1"])) == 0
    assert run(parse([*given, "--steps", "2", "--log-every", "1"])) == 0
    state = torch.load(tmp_path / "base-layout" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert len(state["optimizers"]) == 2  # Muon and AdamW
    assert load_model(tmp_path / "base-layout" / "base.safetensors").config.kind == "base"


def test_options_replace_the_presets_settings() -> None:
    config = configure(parse(["clip", "sprites.npz", "--lr", "0.5", "--fp32"]))
    assert (config.job, config.lr, config.bf16, config.batch) == ("clip", 0.5, False, 192)


def test_all_models_are_trained_one_after_the_other(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run finds the weights and samples of those before it."""

    def call(module: str, *options: object) -> None:
        words = [str(option) for option in options]
        if module == "recipes.emoji.base_samples":
            base_samples.main([*words, "--count", "4"])
        else:
            assert run(parse(words)) == 0

    monkeypatch.setattr(train, "_call", call)
    options = [str(store), "--runs", str(tmp_path), "--steps", "1", "--text-pretraining", "0"]
    options += QUICK
    assert run_all(parse(["all", *options]), options) == 0
    found = {path.stem for path in (tmp_path / "weights").iterdir()}
    assert found == {"base", "inpaint", "upsampler", "upsampler_inpaint", "clip"}
