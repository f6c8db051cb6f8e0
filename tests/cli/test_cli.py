"""The `glide` command: help, lists of models, and how options and errors are reported."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli.commands import QUICK, TWO_STAGES, glide
from safetensors.torch import load_file

from glide_core.cli import COMMANDS, images, main
from glide_core.errors import GlideError


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


def test_a_closed_pipe_on_stdout_is_not_an_error(model_folder: Path) -> None:
    code = "import sys; from glide_core.cli import main; sys.exit(main(['models']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


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


def test_a_command_leaves_the_logging_of_the_process_as_it_was(model_folder: Path) -> None:
    pillow, own = logging.getLogger("PIL"), logging.getLogger("glide")

    def state() -> tuple[object, ...]:
        return pillow.level, pillow.handlers[:], own.level, own.propagate, own.handlers[:]

    before, level = state(), pillow.level
    assert glide("models") == 0 and glide("upscale", "none.png", "x") == 1
    assert state() == before
    pillow.setLevel(logging.DEBUG)
    own.propagate = False
    try:
        before = state()
        assert glide("models") == 0 and state() == before
    finally:
        pillow.setLevel(level)
        own.propagate = True


def test_generate_without_a_prompt_is_wrong_usage(capsys: Any) -> None:
    assert glide("generate") == 2
    assert "PROMPT" in capsys.readouterr().err


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
