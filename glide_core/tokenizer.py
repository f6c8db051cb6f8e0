"""Text to token ids: GLIDE's BPE, CLIP's BPE and the bundled models' own, all three byte-level."""

from __future__ import annotations

import gzip
import html
import importlib.util
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

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


class Tokenizer:
    """A byte-pair encoding: ids of all symbols, and the merges' ranks (keyed "left right")."""

    pads_with_end = False  # the end token is the padding, and does not count as text

    def __init__(
        self,
        name: str,
        first: Iterable[str],
        merges: Sequence[str],
        last: Iterable[str] = (),
        word_end: str = "",
    ) -> None:
        """word_end: what marks the last symbol of a word."""
        symbols = [*first, *(merge.replace(" ", "") for merge in merges), *last]
        self.name, self.word_end = name, word_end
        self.ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._words: dict[str, list[int]] = {}

    @property
    def n_vocab(self) -> int:
        return len(self.ids) + self.pads_with_end

    def encode(self, text: str, context_length: int) -> Tokens:
        """Encode, cut at `context_length` and pad; GlideError for text that is not Unicode."""
        raise NotImplementedError

    def encode_word(self, word: str) -> list[int]:
        """Merge the bytes of a word, lowest rank first.

        Words are cached, as in OpenAI's tokenizers: training encodes the same ones over and over.
        """
        if word not in self._words:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            self._words[word] = self._merge_word(word)
        return self._words[word]

    def _merge_word(self, word: str) -> list[int]:
        symbols = [_BYTE_SYMBOLS[b] for b in word.encode("utf-8")]
        symbols[-1] += self.word_end
        while len(symbols) > 1:
            ranked = (
                (self.ranks.get(f"{a} {b}", len(self.ranks)), a, b) for a, b in pairwise(symbols)
            )
            rank, left, right = min(ranked)
            if rank == len(self.ranks):
                break
            symbols = _merge(symbols, left, right)
        return [self.ids[symbol] for symbol in symbols]


class GlideTokenizer(Tokenizer):
    """GPT-2's BPE as GLIDE uses it: lowercased, never stripped, no special tokens in the text.

    The empty prompt is padding alone, which is the model's unconditional input.
    """

    pads_with_end = True

    def encode(self, text: str, context_length: int) -> Tokens:
        _check(text, context_length, least=1)
        ids = [i for word in _GPT2_SPLIT.findall(text.lower()) for i in self.encode_word(word)]
        # what pads is one past the last merge
        return _pad(text, ids[:context_length], context_length, len(self.ids), len(ids))


class ClipTokenizer(Tokenizer):
    """CLIP's SimpleTokenizer: cleaned text between a start and an end token, padded with 0.

    The start and end tokens are recognised inside the text too, as OpenAI's code does.
    """

    def encode(self, text: str, context_length: int) -> Tokens:
        _check(text, context_length, least=2)
        start, end = (self.ids[special] for special in _CLIP_SPECIAL)
        ids = [i for word in _CLIP_SPLIT.findall(_clean(text)) for i in self.encode_word(word)]
        kept = [start, *ids[: context_length - 2], end]
        return _pad(text, kept, context_length, 0, len(ids) + 2)

    def _merge_word(self, word: str) -> list[int]:
        return [self.ids[word]] if word in _CLIP_SPECIAL else super()._merge_word(word)


@cache
def get_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer called `name` (one of `TOKENIZERS`), its tables read at first use."""
    if name == "glide-bpe":
        merges = gzip.decompress((DATA / "gpt2_merges.txt.gz").read_bytes()).decode("utf-8")
        # the first line is the version
        return GlideTokenizer(name, _FIRST_SYMBOLS, merges.splitlines()[1:])
    if name == "glide-small":
        merges = (DATA / "small_merges.txt").read_text(encoding="utf-8")
        return GlideTokenizer(name, _FIRST_SYMBOLS, merges.splitlines()[1:])
    if name == "clip-bpe":
        first = [*_FIRST_SYMBOLS, *(symbol + _CLIP_WORD_END for symbol in _FIRST_SYMBOLS)]
        return ClipTokenizer(name, first, _clip_merges(), _CLIP_SPECIAL, _CLIP_WORD_END)
    raise GlideError(f"Unknown tokenizer {name!r}; expected one of {', '.join(TOKENIZERS)}.")


def _clip_merges() -> list[str]:
    spec = importlib.util.find_spec("open_clip")  # located, not imported: that takes seconds
    path = Path((spec.origin if spec else None) or "").parent / "bpe_simple_vocab_16e6.txt.gz"
    if spec is None or not path.is_file():
        raise GlideError(
            "CLIP's merges table was not found: it comes with the package open_clip_torch. "
            "Install it with `pip install open_clip_torch`."
        )
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    return lines[1 : _CLIP_MERGES + 1]


def _byte_symbols() -> tuple[str, ...]:
    """GPT-2's printable stand-ins for the 256 bytes, indexed by byte."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = {byte: 256 + i for i, byte in enumerate(b for b in range(256) if b not in kept)}
    return tuple(chr(moved.get(byte, byte)) for byte in range(256))


_BYTE_SYMBOLS = _byte_symbols()
# Ids 0..255 go to the printable bytes first and then to the others, in GPT-2's and CLIP's tables.
_FIRST_SYMBOLS = sorted(_BYTE_SYMBOLS)


def _merge(symbols: list[str], left: str, right: str) -> list[str]:
    """Join every `left` that a `right` follows, from left to right."""
    merged: list[str] = []
    i = 0
    while i < len(symbols):
        if symbols[i : i + 2] == [left, right]:
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
