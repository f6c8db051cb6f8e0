"""Token ids are those of OpenAI's code; the bundled models' tokenizer follows the same rules."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from glide_core.config import TokenizerName
from glide_core.errors import GlideError
from glide_core.tokenizer import DATA, Tokens, get_tokenizer

TOKENIZERS = get_args(TokenizerName)
GOLDEN = Path(__file__).parent / "golden"


def recorded(name: str) -> list[tuple[str, int, list[int], list[int]]]:
    return [tuple(case) for case in json.loads((GOLDEN / f"tokens_{name}.json").read_text())]


@pytest.mark.parametrize(
    ("name", "file"), [("glide-bpe", "glide_bpe"), ("clip-bpe", "clip_simple")]
)
def test_ids_and_masks_are_the_recorded_ones(name: str, file: str) -> None:
    tokenizer = get_tokenizer(name)
    cases = recorded(file)
    assert len(cases) == 150
    for text, context_length, ids, mask in cases:
        tokens = tokenizer.encode(text, context_length)
        assert tokens.ids.tolist() == ids, text
        assert tokens.mask.tolist() == [bool(m) for m in mask], text


def test_vocabulary_sizes_are_the_models_own() -> None:
    known = {name: get_tokenizer(name) for name in TOKENIZERS}
    sizes = {name: len(known[name].ids) + known[name].pads_with_end for name in known}
    assert sizes == {"glide-bpe": 50257, "clip-bpe": 49408, "glide-small": 2048}


@pytest.mark.parametrize("name", ["glide-bpe", "glide-small"])
def test_the_empty_prompt_is_padding_alone(name: str) -> None:
    tokens = get_tokenizer(name).encode("", 16)
    end = len(get_tokenizer(name).ids)
    assert tokens.ids.tolist() == [end] * 16
    assert not tokens.mask.any()
    assert (tokens.length, tokens.truncated) == (0, 0)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_long_prompt_is_truncated_and_the_count_reported(name: str) -> None:
    tokenizer = get_tokenizer(name)
    whole = tokenizer.encode("a red fox on a blue background " * 40, 1000)
    cut = tokenizer.encode("a red fox on a blue background " * 40, 128)
    assert whole.truncated == 0
    assert cut.truncated == whole.length - 128
    assert cut.mask.all()
    assert cut.ids.shape == (128,)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_int64_and_masks_bool(name: str) -> None:
    tokens = get_tokenizer(name).encode("a fox", 8)
    assert isinstance(tokens, Tokens)
    assert (tokens.ids.dtype, tokens.mask.dtype) == (torch.int64, torch.bool)
    assert tokens.text == "a fox"


def test_clip_keeps_its_end_token_when_it_cuts() -> None:
    ids = get_tokenizer("clip-bpe").encode("fox " * 200, 77).ids
    assert (ids[0], ids[-1]) == (49406, 49407)


def test_small_tokens_ignore_case_and_keep_spaces() -> None:
    small = get_tokenizer("glide-small")
    assert small.encode("A Red FOX", 8).ids.tolist() == small.encode("a red fox", 8).ids.tolist()
    assert small.encode(" a fox", 8).ids.tolist() != small.encode("a fox", 8).ids.tolist()


def test_small_tokens_take_any_text_and_never_the_end_token() -> None:
    tokens = get_tokenizer("glide-small").encode(
        "\U0001f436 \u00fcn\u00efc\u00f6d\u00e9 <|endoftext|>", 128
    )
    assert tokens.truncated == 0
    assert (tokens.ids[tokens.mask] < 2047).all()


def test_common_subjects_and_colours_are_one_token_of_the_small_vocabulary() -> None:
    small = get_tokenizer("glide-small")
    for word in ("fox", "octopus", "strawberry", "rocket", "panda", "red", "purple", "background"):
        assert small.encode(f" {word}", 8).length == 1, word


def test_the_small_table_has_exactly_as_many_merges_as_its_vocabulary_needs() -> None:
    lines = (DATA / "small_merges.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) - 1 == 2048 - 256 - 1
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_half_a_surrogate_pair_is_a_glide_error(name: str) -> None:
    with pytest.raises(GlideError, match="position 2"):
        get_tokenizer(name).encode("a \ud83d", 8)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_context_too_short_is_an_error(name: str) -> None:
    with pytest.raises(GlideError, match="too small"):
        get_tokenizer(name).encode("a fox", 0)
