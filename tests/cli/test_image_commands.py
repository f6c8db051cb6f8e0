"""What `glide generate`, `upscale`, `inpaint` and `edit` write, on tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.commands import QUICK, TWO_STAGES, glide, pixels
from images_on_disk import png_text
from PIL import Image


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    path = tmp_path / "mask.png"
    image = Image.new("L", (90, 60), 0)
    image.paste(255, (30, 20, 60, 40))
    image.save(path)
    return path


def test_generate_writes_numbered_images_with_metadata(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "a red apple", "--negative", "blur", *TWO_STAGES, *QUICK]
    assert glide(*words, "-n", 2, "--seed", 5, "--cfg", 2, "--out", out) == 0
    paths = sorted(out.iterdir())
    assert [path.name for path in paths] == ["glide_00001_.png", "glide_00002_.png"]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    for i, path in enumerate(paths):
        assert Image.open(path).size == (256, 256)
        text = png_text(path)
        facts = json.loads(text["glide"])
        assert facts["prompt"] == "a red apple" and facts["seed"] == 5 + i
        assert facts["guidance_scale"] == 2 and facts["steps"] == 2
        assert text["parameters"].startswith("a red apple\nNegative prompt: blur\n")
    assert glide(*words, "--out", out) == 0
    assert len(list(out.iterdir())) == 3  # numbered on, nothing overwritten


def test_an_image_is_the_same_in_any_batch(out: Path) -> None:
    words = ["generate", "a car", *TWO_STAGES[:2], "--no-upsample", "--steps", 3, "--quiet"]
    glide(*words, "-n", 3, "--batch", 3, "--out", out / "together")
    glide(*words, "-n", 3, "--batch", 1, "--out", out / "alone")
    for path in sorted((out / "together").iterdir()):
        error = abs(pixels(path) - pixels(out / "alone" / path.name))
        # sums of another order round differently, and the first steps magnify that
        assert error.mean() < 0.01 and error.max() < 16


def test_clip_guidance_and_size_and_respacing(out: Path) -> None:
    words = ["generate", "a car", *TWO_STAGES[:2], "--no-upsample", "--quiet", "--out", out]
    clip = ["--clip", "tiny_clip.safetensors"]
    assert glide(*words, "--respacing", "5", "--clip-scale", 90, *clip) == 0
    assert glide(*words, "--respacing", "5") == 0
    assert glide(*words, "--steps", 1, "--size", "96x64") == 0
    first, second, wide = sorted(out.iterdir())
    assert (pixels(first) != pixels(second)).any()
    assert Image.open(wide).size == (96, 64)


def test_upscale(out: Path, photo: Path) -> None:
    words = ["upscale", photo, "noise", "--model", "tiny_upsampler.safetensors", "--quiet"]
    assert glide(*words, "--steps", 1, "--out", out) == 0
    (path,) = out.iterdir()
    assert Image.open(path).size == (384, 256)


def test_inpaint_changes_only_the_masked_part(out: Path, photo: Path, mask: Path) -> None:
    models = ["--model", "tiny_inpaint.safetensors"]
    models += ["--upsampler", "tiny_upsampler_inpaint.safetensors"]
    assert glide("inpaint", photo, mask, "a cat", *models, *QUICK, "--out", out) == 0
    (path,) = out.iterdir()
    changed = (pixels(path) != pixels(photo)).any(axis=2)
    marked = pixels(mask) > 0
    assert changed[marked].any() and not changed[~marked].any()


def test_edit_at_low_strength_stays_near_the_input(out: Path, photo: Path) -> None:
    words = ["edit", photo, "a cat", *TWO_STAGES[:2], "--no-upsample", "--quiet", "--steps", 20]
    for strength in (0, 1):
        assert glide(*words, "--strength", strength, "--out", out / str(strength)) == 0
    small = np.asarray(Image.open(photo).resize((96, 64), Image.Resampling.BICUBIC)).astype(int)
    near, far = (pixels(out / s / "glide_00001_.png") for s in ("0", "1"))
    assert abs(near - small).max() <= 1 < abs(far - small).mean()


def test_a_negative_prompt_that_is_too_long_is_truncated_with_a_warning(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "a car", *TWO_STAGES[:2], "--no-upsample", "--quiet", "--steps", 1]
    assert glide(*words, "--negative", "blur " * 200, "--out", out) == 0
    said = capsys.readouterr().err
    assert "the negative prompt is" in said and "cut off" in said and "the prompt" not in said


def test_ddim_with_eta_1_in_few_steps_stays_finite(out: Path) -> None:
    words = ["generate", "a car", *TWO_STAGES[:2], "--no-upsample", "--quiet", "--steps", 2]
    assert glide(*words, "--eta", 1, "--out", out) == 0


def test_clip_guidance_uses_the_papers_sampler_by_default(out: Path) -> None:
    words = ["generate", "x", *TWO_STAGES[:2], "--no-upsample", *QUICK, "--out", out]
    clip = ["--clip-scale", 3, "--clip", "tiny_clip.safetensors"]
    for more in ([], clip, [*clip, "--sampler", "ddim"]):
        assert glide(*words, *more) == 0
    found = [json.loads(png_text(path)["glide"])["sampler"] for path in sorted(out.iterdir())]
    assert found == ["ddim", "ddpm", "ddim"]


def test_a_prompt_or_size_that_the_model_does_not_know_is_reported(
    out: Path, model_folder: Path, capsys: Any
) -> None:
    from glide_core.checkpoints.loading import load_model, save_model

    path = out.parent / "words.safetensors"
    metadata = {"glide_vocabulary": json.dumps({"subjects": ["fox", "red apple"]})}
    save_model(load_model(model_folder / "tiny_base.safetensors"), path, metadata=metadata)
    words = ["--model", path, "--no-upsample", *QUICK, "--out", out]
    for prompt, known in [("two foxes", True), ("Red Apples!", True), ("a quokka", False)]:
        assert glide("generate", prompt, *words) == 0
        assert ("names no subject" not in capsys.readouterr().err) == known
    assert glide("generate", "a fox", *words, "--size", "96x64") == 0
    assert "trained on 64x64 only" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX systems")
def test_a_folder_name_that_is_not_unicode_is_written_and_printed(out: Path) -> None:
    folder = out.parent / os.fsdecode(b"\xff")
    words = [sys.executable, "-m", "glide_core.cli", "generate", "a", *TWO_STAGES, *QUICK]
    done = subprocess.run(
        [*words, "--no-upsample", "--steps", "1", "--out", folder], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"glide_00001_.png" in done.stdout and len(list(folder.iterdir())) == 1
