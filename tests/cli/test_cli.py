"""The `glide` command on tiny models: what it writes, what it says, how it fails."""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images_on_disk import png_text
from PIL import Image
from safetensors.torch import load_file, save_file

from glide_core import io
from glide_core.cli import COMMANDS, build_parser, images, main
from glide_core.errors import GlideError

TWO_STAGES = ["--model", "tiny_base.safetensors", "--upsampler", "tiny_upsampler.safetensors"]
QUICK = ["--steps", "2", "--upsample-steps", "2", "--quiet"]


def glide(*words: object) -> int:
    return main([str(word) for word in words])


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    path = tmp_path / "mask.png"
    image = Image.new("L", (90, 60), 0)
    image.paste(255, (30, 20, 60, 40))
    image.save(path)
    return path


def test_help_imports_no_torch() -> None:
    code = """
import sys
from glide_core.cli import main
for words in [["--help"]] + [[name, "--help"] for name in sys.argv[1:]]:
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"torch", "numpy", "PIL", "diffusers", "open_clip", "tqdm"} & set(sys.modules)
assert not heavy, heavy
"""
    names = [name for name in COMMANDS if name != "train"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"    {name} " in done.stdout


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


def test_models_lists_known_and_installed_files(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glide("models") == 0
    said = capsys.readouterr().out
    assert "openai-base" in said and "https://openaipublic" in said
    assert "tiny_clip.safetensors" in said and "noisy CLIP" in said


def test_models_convert_writes_safetensors_and_overwrites_nothing(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["models", "convert", model_folder / "tiny_base.safetensors", "--dtype", "float32"]
    target = tmp_path / "mine.safetensors"
    assert glide(*words, "--to", target) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert load_file(target).keys() == load_file(model_folder / "tiny_base.safetensors").keys()
    assert glide(*words, "--to", target) == 1
    assert "not overwritten" in capsys.readouterr().err


def test_missing_models_are_not_downloaded_implicitly(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glide("generate", "x", "--model", "openai-base", "--out", out) == 1
    assert "glide models download openai-base" in capsys.readouterr().err


def bad_files(folder: Path, good: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.safetensors" for name in ("truncated", "nan", "text")}
    files["pickle"] = folder / "pickle.pt"
    files["truncated"].write_bytes(good.read_bytes()[:5000])
    weights = load_file(good)
    name = next(iter(weights))
    save_file({**weights, name: torch.full_like(weights[name], torch.nan)}, files["nan"])
    files["text"].write_text("hello")
    torch.save(Unsafe(), files["pickle"])
    return files


class Unsafe:
    def __reduce__(self) -> Any:
        return (print, ("code was run",))


@pytest.mark.parametrize("kind", ["truncated", "nan", "text", "pickle", "missing"])
def test_a_bad_checkpoint_is_named_and_nothing_is_written(
    kind: str, out: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = bad_files(out.parent, model_folder / "tiny_base.safetensors")
    path = files.get(kind, out.parent / "missing.safetensors")
    assert glide("generate", "x", "--model", path, "--out", out, "--quiet") == 1
    said = capsys.readouterr()
    assert path.name in said.err and "Traceback" not in said.err
    assert "code was run" not in said.out
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--respacing", "swift9"], "swift9"),
        (["--model", "tiny_upsampler.safetensors"], "kind 'upsampler'"),
        (["--upsampler", "tiny_base.safetensors"], "kind 'base'"),
        (["--device", "gpu9"], "gpu9"),
        (["--device", "meta"], "device 'meta' is not available"),
        (["--dtype", "float16", "--device", "cpu"], "float32, bfloat16 or int8"),
        (["--model", "a" * 400], "was not found"),
        (["--clip-scale", "1", "--clip", "tiny_base.safetensors"], "noisy CLIP"),
    ],
)
def test_bad_settings_are_explained(
    words: list[str], expected: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glide("generate", "x", *TWO_STAGES, *QUICK, "--out", out, *words) == 1
    assert expected in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "-1"],
        ["--seed", str(2**64)],
        ["-n", "0"],
        ["--steps", "0"],
        ["--steps", "1001"],
        ["--steps", "many"],
        ["--upsample-steps", "1001"],
        ["--size", "65"],
        ["--size", "wide"],
        ["--sampler", "magic"],
        ["--cfg", "nan"],
        ["--clip-scale", "inf"],
        ["--eta", "1.5"],
        ["--upsample-temperature", "-1"],
    ],
)
def test_impossible_options_are_refused_before_anything_is_loaded(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        glide("generate", "x", *words)
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert words[0] in said[0] and "glide generate --help" in said[1] and len(said) == 2


def test_a_negative_prompt_that_is_too_long_is_truncated_with_a_warning(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "a car", *TWO_STAGES[:2], "--no-upsample", "--quiet", "--steps", 1]
    assert glide(*words, "--negative", "blur " * 200, "--out", out) == 0
    said = capsys.readouterr().err
    assert "the negative prompt is" in said and "cut off" in said and "the prompt" not in said


@pytest.mark.parametrize("inside", ["", "further/down"])
def test_an_invalid_output_folder_is_refused_before_sampling(
    inside: str, out: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--model", "nowhere.safetensors"]
    assert glide("generate", "x", *missing, "--out", photo / inside) == 1
    said = capsys.readouterr().err
    assert f"{photo} is not a folder" in said and "--out" in said
    assert glide("run", out.parent / "none.json", "--out", photo / inside) == 1


def test_ddim_with_eta_1_in_few_steps_stays_finite(out: Path) -> None:
    words = ["generate", "a car", *TWO_STAGES[:2], "--no-upsample", "--quiet", "--steps", 2]
    assert glide(*words, "--eta", 1, "--out", out) == 0


def test_an_image_too_long_and_thin_is_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out.parent / "long.png"
    Image.new("RGB", (400, 3)).save(path)
    words = [path, "x", "--model", "tiny_upsampler.safetensors", "--quiet", "--out", out]
    assert glide("upscale", *words) == 1
    assert "too long and thin" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_is_not_read_as_an_image(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glide("upscale", out.parent, "x", "--out", out) == 1
    assert "not a regular file" in capsys.readouterr().err


def test_a_closed_pipe_on_stdout_is_not_an_error(model_folder: Path) -> None:
    code = "import sys; from glide_core.cli import main; sys.exit(main(['models']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


def test_an_unreadable_image_is_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = out.parent / "broken.png"
    path.write_bytes(b"not an image")
    assert glide("upscale", path, "x", "--out", out) == 1
    assert "broken.png" in capsys.readouterr().err
    assert not out.exists()


def test_ctrl_c_stops_and_leaves_no_image(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glide_core import diffusion

    def interrupted(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(diffusion, "sample_loop", interrupted)
    assert glide("generate", "x", *TWO_STAGES, *QUICK, "--out", out) == 130
    assert "stopped" in capsys.readouterr().err
    assert not out.exists()


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(KeyboardInterrupt):
        io.save_images([Image.new("RGB", (4, 4))], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
@pytest.mark.parametrize("more_mib", [0, 48], ids=["loading", "sampling"])
def test_real_lack_of_memory_is_one_line(
    more_mib: int, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    words = ["generate", "x", *TWO_STAGES[:2], "--no-upsample", *QUICK, "--out", out]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more_mib * 2**20, old[1]))
    try:
        code = glide(*words, "-n", 256, "--batch", 256, "--threads", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    said = capsys.readouterr().err
    assert code == 1 and said.startswith("glide: out of memory") and said.count("\n") == 1
    assert not out.exists()


def test_clip_guidance_uses_the_papers_sampler_by_default(out: Path) -> None:
    words = ["generate", "x", *TWO_STAGES[:2], "--no-upsample", *QUICK, "--out", out]
    clip = ["--clip-scale", 3, "--clip", "tiny_clip.safetensors"]
    for more in ([], clip, [*clip, "--sampler", "ddim"]):
        assert glide(*words, *more) == 0
    found = [json.loads(png_text(path)["glide"])["sampler"] for path in sorted(out.iterdir())]
    assert found == ["ddim", "ddpm", "ddim"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "glide: out of memory. Use"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "out of memory (Def"),
        (OSError(28, "No space left on device", "x.png"), "No space left on device: x.png"),
    ],
)
def test_lack_of_memory_or_disk_space_is_a_one_line_error(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(arguments: Any) -> int:
        raise error

    monkeypatch.setattr(images, "generate", fail)
    assert glide("generate", "x") == 1
    said = capsys.readouterr().err
    assert expected in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "100000"],
        ["-n", "9" * 30],
        ["--size", "80000000"],
        ["--seed", "9" * 5000],
        ["--sampler", "x" * 5000],
        ["--" + "y" * 5000],
        ["--lora"],
    ],
)
def test_huge_values_are_refused_in_short_messages(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        glide("generate", "x", *words)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err) < 900


@pytest.mark.parametrize("device", ["hpu", "gpu9", "xla", "privateuseone", "cuda:99", "a" * 999])
def test_invalid_devices_are_one_line_errors(device: str, out: Path, capsys: Any) -> None:
    assert glide("generate", "x", *TWO_STAGES, *QUICK, "--out", out, "--device", device) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "is not available" in said[0] and len(said[0]) < 400


def test_generate_without_a_prompt_is_wrong_usage(capsys: Any) -> None:
    assert glide("generate") == 2
    assert "PROMPT" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["/proc/x", "/dev/null", "a" * 300, "\0", "/dev/full/x"])
def test_invalid_output_folders_are_one_line_errors(
    folder: str, model_folder: Path, capsys: Any
) -> None:
    assert glide("generate", "x", *TWO_STAGES, *QUICK, "--out", folder) == 1
    said = capsys.readouterr().err.splitlines()
    assert (len(said) == 1 and "--out" in said[0]) or "cannot write" in said[0]


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


def test_an_image_limit_can_be_raised(out: Path, photo: Path, capsys: Any) -> None:
    words = ["upscale", photo, "x", "--model", "tiny_upsampler.safetensors", "--steps", 1]
    assert glide(*words, "--max-pixels", 5399, "--quiet", "--out", out) == 1
    assert "90x60 has more than the allowed 5,399 pixels" in capsys.readouterr().err
    assert glide(*words, "--max-pixels", 5400, "--quiet", "--out", out) == 0


@pytest.mark.parametrize(
    ("message", "setting", "shown"),
    [
        ("Choose another folder.", "out", "Choose another folder (--out)."),
        ("choose another folder", "out", "choose another folder (--out)"),
        ("use a smaller share", "skip_bad", "use a smaller share"),  # not an option of generate
        ("what is wrong.", "", "what is wrong."),
    ],
)
def test_a_library_error_is_shown_with_the_option_that_it_is_about(
    message: str,
    setting: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(arguments: object) -> int:
        raise GlideError(message, setting)

    monkeypatch.setattr(images, "generate", run)
    assert main(["generate", "x"]) == 1
    assert capsys.readouterr().err == f"glide: {shown}\n"


NUMBERS = ["nan", "inf", "-inf", "1e308", "-1e308", "1e400", str(10**400), "9" * 5000]


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x"],
        ["upscale", "i", "x"],
        ["inpaint", "i", "m", "x"],
        ["edit", "i", "x"],
        ["run", "w"],
        ["evaluate", "d"],
        ["sweep", "--prompts", "p", "--cfg", "3"],
        ["train", "base", "--data", "d"],
        ["models", "merge", "a", "b", "c"],
    ],
    ids=lambda words: words[0],
)
def test_a_number_that_no_option_can_have_is_wrong_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = build_parser(words[0])
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    numeric = 0
    for action in options_of(commands.choices[words[0]]):
        if action.dest in ("lora", "out") or not any(is_number(action, t) for t in ("1", "64")):
            continue
        numeric += 1
        for number in NUMBERS:
            with pytest.raises(SystemExit) as stop:
                parser.parse_args([*words, f"{action.option_strings[-1]}={number}"])
            said = capsys.readouterr().err
            assert stop.value.code == 2 and said.count("\n") == 2 and len(said) < 800
    assert numeric


def is_number(action: argparse.Action, text: str) -> bool:
    """Whether an option reads this text as a number, a size or a list of numbers."""
    if not callable(action.type) or action.type is str:
        return False
    try:
        return isinstance(action.type(text), int | float | tuple)
    except argparse.ArgumentTypeError:
        return False


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of a command and of its own commands."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [each for sub in action.choices.values() for each in options_of(sub)]
        elif action.option_strings and action.nargs != 0:
            found.append(action)
    return found


def test_the_strength_of_a_lora_is_limited(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        glide("generate", "x", "--lora", "file.safetensors:1e39")
    assert stop.value.code == 2 and "1e39 is out of range" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX systems")
def test_a_folder_name_that_is_not_unicode_is_written_and_printed(out: Path) -> None:
    folder = out.parent / os.fsdecode(b"\xff")
    words = [sys.executable, "-m", "glide_core.cli", "generate", "a", *TWO_STAGES, *QUICK]
    done = subprocess.run(
        [*words, "--no-upsample", "--steps", "1", "--out", folder], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"glide_00001_.png" in done.stdout and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x", *TWO_STAGES, *QUICK, "--lora", "~no-such-user/x"],
        ["models", "merge", "tiny_base.safetensors", "~no-such-user/x", "new.safetensors"],
        ["models", "convert", ""],
        ["models", "convert", "/"],
    ],
    ids=lambda words: " ".join(words)[-24:],
)
def test_a_path_that_cannot_be_one_is_one_line(
    words: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glide(*words) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "x.png"],
        ["run", "x.json", "--timeout", "1"],
        ["train", "base", "--data", "x", "--out", "new", "--lora-alpha", "1"],
        ["train", "base", "--data", "x", "--out", "new", "--prior-prompts", "x"],
    ],
    ids=lambda words: words[0] + words[-2],
)
def test_options_that_do_not_fit_together_are_wrong_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert glide(*words) == 2
    assert "--help" in capsys.readouterr().err


def test_the_models_of_an_unknown_user_are_an_empty_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIDE_MODELS", "~no-such-user/x")
    assert glide("models") == 0
    assert "No files of your own" in capsys.readouterr().out


def test_a_damaged_tiff_gives_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    content = bytearray(b"II*\0\x08\0\0\0\x20\0")
    for tag in range(256, 288):  # each tag's data are beyond the end
        content += struct.pack("<HHII", tag, 4, 1000, 2**30)
    (tmp_path / "x.tiff").write_bytes(content)
    assert glide("upscale", tmp_path / "x.tiff", "x", "--quiet") == 1
    assert capfd.readouterr().err.count("\n") == 1 and not recwarn.list
