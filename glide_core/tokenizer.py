"""Text to token ids: GLIDE's BPE, CLIP's BPE and the bundled models' own, all three byte-level."""

from __future__ import annotations

import gzip
import html
import importlib.util
import logging
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import regex  # type: ignore[import-untyped,unused-ignore]
import torch
from torch import Tensor

from glide_core.errors import GlideError, shorten

log = logging.getLogger("glide")

DATA = Path(__file__).parent / "vocabularies"
TOKENIZERS = ("glide-bpe", "clip-bpe", "glide-small")

_GPT2_SPLIT = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
_CLIP_SPLIT = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>"
    r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_CLIP_WORD_END = "</w>"
_CACHED_WORDS = 65536
_CLIP_MERGES = 49152 - 256 - 2  # the table is longer; CLIP uses this many


@dataclass(frozen=True)
class Tokens:
    """One prompt, ready for a text encoder."""

    text: str  # the prompt as it was given
    ids: Tensor  # [L] int64, padded to the context length
    mask: Tensor  # [L] bool, True where ids stand for text and not for padding
    truncated: int  # how many tokens of the prompt did not fit

    @property
    def length(self) -> int:
        """Number of positions in use."""
        return int(self.mask.sum())


def warn_if_truncated(tokens: Tokens, what: str = "the prompt") -> None:
    """Log one warning when a model does not read all of a prompt."""
    if tokens.truncated:
        log.warning(
            "%s is %d tokens longer than the %d that the model reads: the end of %r is cut off",
            what,
            tokens.truncated,
            len(tokens.ids),
            shorten(tokens.text),
        )


class Tokenizer(Protocol):
    """What a model needs of a tokenizer."""

    @property
    def name(self) -> str: ...

    @property
    def n_vocab(self) -> int: ...

    def encode(self, text: str, context_length: int) -> Tokens: ...


def get_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer called `name` (one of `TOKENIZERS`), its tables read at first use."""
    if name == "glide-bpe":
        return GlideTokenizer(name, _glide_vocabulary("gpt2_merges.txt.gz"))
    if name == "glide-small":
        return GlideTokenizer(name, _glide_vocabulary("small_merges.txt"))
    if name == "clip-bpe":
        return ClipTokenizer(_clip_vocabulary())
    raise GlideError(f"Unknown tokenizer {name!r}; expected one of {', '.join(TOKENIZERS)}.")


@dataclass(frozen=True)
class Vocabulary:
    """A byte-pair encoding: ids of all symbols, ranks of the merges (keyed 'left right')."""

    ids: dict[str, int]
    ranks: dict[str, int]
    # by word: one tokenizer always passes the same `end`
    cache: dict[str, list[int]] = field(default_factory=dict, compare=False, repr=False)

    def encode_word(self, word: str, end: str = "") -> list[int]:
        """Merge the bytes of `word` lowest rank first; `end` marks the last one as a word's end.

        Words are cached, as in OpenAI's tokenizers: training encodes the same ones over and over.
        """
        if word not in self.cache:
            if len(self.cache) >= _CACHED_WORDS:
                self.cache.clear()
            self.cache[word] = self._merge_word(word, end)
        return self.cache[word]

    def _merge_word(self, word: str, end: str) -> list[int]:
        symbols = [_BYTE_SYMBOLS[b] for b in word.encode("utf-8")]
        symbols[-1] += end
        while len(symbols) > 1:
            ranked = (
                (self.ranks.get(f"{a} {b}", len(self.ranks)), a, b) for a, b in pairwise(symbols)
            )
            rank, left, right = min(ranked)
            if rank == len(self.ranks):
                break
            symbols = _merge(symbols, left, right)
        return [self.ids[symbol] for symbol in symbols]


class GlideTokenizer:
    """GPT-2's BPE as GLIDE uses it: lowercased, never stripped, no special tokens in the text.

    The empty prompt is padding alone, which is the model's unconditional input.
    """

    def __init__(self, name: str, vocabulary: Vocabulary) -> None:
        self.name = name
        self.vocabulary = vocabulary

    @property
    def n_vocab(self) -> int:
        return len(self.vocabulary.ids) + 1

    @property
    def end_id(self) -> int:
        """The id that pads: one past the last merge."""
        return len(self.vocabulary.ids)

    def encode(self, text: str, context_length: int) -> Tokens:
        """Encode, cut at `context_length` and pad; GlideError for text that is not Unicode."""
        _check(text, context_length, least=1)
        ids = [
            i
            for word in _GPT2_SPLIT.findall(text.lower())
            for i in self.vocabulary.encode_word(word)
        ]
        return _pad(text, ids[:context_length], context_length, self.end_id, len(ids))


class ClipTokenizer:
    """CLIP's SimpleTokenizer: cleaned text between a start and an end token, padded with 0.

    The start and end tokens are recognised inside the text too, as OpenAI's code does.
    """

    name = "clip-bpe"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @property
    def n_vocab(self) -> int:
        return len(self.vocabulary.ids)

    def encode(self, text: str, context_length: int) -> Tokens:
        """Encode, cut so that the end token fits, and pad."""
        _check(text, context_length, least=2)
        start, end = (self.vocabulary.ids[s] for s in _CLIP_SPECIAL)
        ids = [i for word in _CLIP_SPLIT.findall(_clean(text)) for i in self._encode_word(word)]
        kept = [start, *ids[: context_length - 2], end]
        return _pad(text, kept, context_length, 0, len(ids) + 2)

    def _encode_word(self, word: str) -> list[int]:
        if word in _CLIP_SPECIAL:
            return [self.vocabulary.ids[word]]
        return self.vocabulary.encode_word(word, _CLIP_WORD_END)


def _byte_symbols() -> tuple[str, ...]:
    """GPT-2's printable stand-ins for the 256 bytes, indexed by byte."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = {byte: 256 + i for i, byte in enumerate(b for b in range(256) if b not in kept)}
    return tuple(chr(moved.get(byte, byte)) for byte in range(256))


_BYTE_SYMBOLS = _byte_symbols()
# Ids 0..255 go to the printable bytes first and then to the others, in GPT-2's and CLIP's tables.
_FIRST_SYMBOLS = sorted(_BYTE_SYMBOLS)


@cache
def _glide_vocabulary(filename: str) -> Vocabulary:
    path = DATA / filename
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    merges = raw.decode("utf-8").splitlines()[1:]  # the first line is the version
    return _vocabulary(_FIRST_SYMBOLS, merges)


@cache
def _clip_vocabulary() -> Vocabulary:
    spec = importlib.util.find_spec("open_clip")  # located, not imported: that takes seconds
    path = Path((spec.origin if spec else None) or "").parent / "bpe_simple_vocab_16e6.txt.gz"
    if spec is None or not path.is_file():
        raise GlideError(
            "CLIP's merges table was not found: it comes with the package open_clip_torch. "
            "Install it with `pip install open_clip_torch`."
        )
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    first = _FIRST_SYMBOLS + [symbol + _CLIP_WORD_END for symbol in _FIRST_SYMBOLS]
    return _vocabulary(first, lines[1 : _CLIP_MERGES + 1], _CLIP_SPECIAL)


def _vocabulary(first: list[str], merges: list[str], last: tuple[str, ...] = ()) -> Vocabulary:
    symbols = [*first, *(merge.replace(" ", "") for merge in merges), *last]
    return Vocabulary(
        ids={symbol: i for i, symbol in enumerate(symbols)},
        ranks={merge: rank for rank, merge in enumerate(merges)},
    )


def _merge(symbols: list[str], left: str, right: str) -> list[str]:
    """Join every `left` that a `right` follows, from left to right."""
    merged: list[str] = []
    i = 0
    while i < len(symbols):
        if symbols[i] == left and i + 1 < len(symbols) and symbols[i + 1] == right:
            merged.append(left + right)
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def _clean(text: str) -> str:
    """CLIP's clean-up: repaired encoding, html entities (twice), single spaces, lower case."""
    import ftfy  # 40 ms, and only CLIP needs it

    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return str(regex.sub(r"\s+", " ", text)).strip().lower()


def _check(text: str, context_length: int, least: int) -> None:
    if context_length < least:
        raise GlideError(f"Context length {context_length} is too small; expected {least} or more.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise GlideError(
            f"The prompt holds half a character (a lone surrogate) at position {error.start}; "
            "expected Unicode text"
        ) from error


def _pad(text: str, ids: list[int], context_length: int, padding: int, wanted: int) -> Tokens:
    used = len(ids)
    return Tokens(
        text=text,
        ids=torch.tensor(ids + [padding] * (context_length - used), dtype=torch.int64),
        mask=torch.arange(context_length) < used,
        truncated=wanted - used,
    )
