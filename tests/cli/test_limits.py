"""Numbers that no option can have, and commands that run out of memory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
from cli.commands import QUICK, TWO_STAGES, glide

from glide_core.cli import build_parser
from glide_core.errors import is_out_of_memory


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


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_an_error_of_c_code_is_a_lack_of_memory_only_under_a_limit() -> None:
    import resource

    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    error, limit = SystemError("error return without exception set"), resource.RLIMIT_AS
    before = resource.getrlimit(limit)
    assert is_out_of_memory(error) == (before[0] != resource.RLIM_INFINITY)
    resource.setrlimit(limit, (2**46, before[1]))  # more than the test needs
    try:
        assert is_out_of_memory(error)
    finally:
        resource.setrlimit(limit, before)


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
    except ValueError:
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
    assert stop.value.code == 2 and "1e39' is not possible" in capsys.readouterr().err
