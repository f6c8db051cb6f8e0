"""Text to token ids: GLIDE's BPE, CLIP's BPE and the bundled models' own, all three byte-level.

Also warnings about prompts: cut off, or without a subject that the model knows.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import regex  # type: ignore[import-untyped,unused-ignore]
import torch
from torch import Tensor

from glide_core.errors import GlideError, as_glide_error, shorten

if TYPE_CHECKING:
    from glide_core.config import GlideConfig
    from glide_core.request import GenerationRequest

log = logging.getLogger("glide")

VOCABULARY_KEY = "glide_vocabulary"  # of a file's metadata: JSON, {"subjects": [name, ...]}
_SHOWN = 8  # subjects in a warning
DATA = Path(__file__).parent / "vocabularies"
_TABLES = {"glide-bpe": "gpt2_merges.txt.gz", "glide-small": "small_merges.txt"}

_GPT2_SPLIT = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
_CLIP_SPLIT = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>"
    r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
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
    def length(self) -> int:  # in use
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
    """GPT-2's byte-pair encoding as GLIDE uses it: lowercased, never stripped, no special tokens.

    The empty prompt is padding alone, which is the model's unconditional input.
    """

    split = _GPT2_SPLIT
    word_end = ""  # marks the last symbol of a word
    special: tuple[str, ...] = ()  # around every prompt
    pads_with_end = True  # the end token is the padding, and does not count as text

    def __init__(self, first: Sequence[str], merges: Sequence[str]) -> None:
        symbols = [*first, *(merge.replace(" ", "") for merge in merges), *self.special]
        self.ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        # as in OpenAI's tokenizers: training encodes the same words over and over
        self.encode_word = lru_cache(_CACHED_WORDS)(self._encode_word)

    def encode(self, text: str, context_length: int) -> Tokens:
        """Encode, cut at `context_length` and pad; GlideError for text that is not Unicode."""
        if context_length <= len(self.special):
            raise GlideError(f"Context length {context_length} is too small.")
        with as_glide_error("the prompt holds half a character", UnicodeEncodeError):
            text.encode("utf-8")
        ids = [i for word in self.split.findall(self.clean(text)) for i in self.encode_word(word)]
        kept, padding = ids[: context_length - len(self.special)], len(self.ids)
        if self.special:
            start, end = (self.ids[special] for special in self.special)
            kept, padding = [start, *kept, end], 0
        unused = context_length - len(kept)
        return Tokens(
            text=text,
            ids=torch.tensor(kept + [padding] * unused, dtype=torch.int64, device="cpu"),
            mask=torch.arange(context_length, device="cpu") < len(kept),
            truncated=len(ids) + len(self.special) - len(kept),
        )

    def clean(self, text: str) -> str:
        return text.lower()

    def _encode_word(self, word: str) -> list[int]:
        """Merge the bytes of a word, lowest rank first."""
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


class ClipTokenizer(Tokenizer):
    """CLIP's SimpleTokenizer: cleaned text between a start and an end token, padded with 0.

    The start and end tokens are recognised inside the text too, as OpenAI's code does.
    """

    split = _CLIP_SPLIT
    word_end = "</w>"
    special = ("<|startoftext|>", "<|endoftext|>")
    pads_with_end = False

    def clean(self, text: str) -> str:
        """Repair the encoding, html entities (twice) and spaces; lower case."""
        import ftfy  # 40 ms, and only CLIP needs it

        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        return str(regex.sub(r"\s+", " ", text)).strip().lower()

    def _encode_word(self, word: str) -> list[int]:
        return [self.ids[word]] if word in self.special else super()._encode_word(word)


@cache
def get_tokenizer(name: str) -> Tokenizer:
    """Return one of `glide_core.config.TokenizerName`, its tables read at first use."""
    if name != "clip-bpe":
        return Tokenizer(_FIRST_SYMBOLS, _merges(DATA / _TABLES[name]))
    last = [symbol + ClipTokenizer.word_end for symbol in _FIRST_SYMBOLS]
    spec = importlib.util.find_spec("open_clip")  # located, not imported: that takes seconds
    if spec is None or spec.origin is None:
        raise GlideError("CLIP's merges table was not found: `pip install open_clip_torch` has it")
    table = _merges(Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz"))
    return ClipTokenizer([*_FIRST_SYMBOLS, *last], table[:_CLIP_MERGES])


def _merges(path: Path) -> list[str]:
    data = path.read_bytes()
    table = gzip.decompress(data) if path.suffix == ".gz" else data
    return table.decode("utf-8").splitlines()[1:]  # the first line is the version


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


def warn_about(
    requests: Iterable[GenerationRequest], config: GlideConfig, metadata: Mapping[str, str]
) -> None:
    """Log one warning per cut prompt, one for all unknown prompts, and one for an untrained size.

    config, metadata: of the model of the first stage and of its file.
    """
    given = list(requests)
    tokenizer, length = get_tokenizer(config.tokenizer), config.text.context_length
    texts = {r.prompt: "the prompt" for r in given}
    texts |= {r.negative_prompt: "the negative prompt" for r in given}
    for text, what in texts.items():
        warn_if_truncated(tokenizer.encode(text, length), what)
    side = config.unet.image_size
    if any(r.size not in (None, (side, side)) for r in given):
        log.warning("this model was trained on %dx%d only: other sizes distort", side, side)
    known = vocabulary(metadata)
    if not known:
        return
    prompts = [r.prompt for r in given if r.prompt.strip()]
    unknown = next((text for text in prompts if not names_subject(text, known)), None)
    if unknown is not None:
        log.warning(
            "%r names no subject that this model knows (%s ... %d in all): expect a poor image",
            shorten(unknown),
            ", ".join(known[:_SHOWN]),
            len(known),
        )


def vocabulary(metadata: Mapping[str, str]) -> list[str]:
    """Subject names in a file's metadata; empty where there are none or they cannot be read."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        subjects = json.loads(metadata[VOCABULARY_KEY])["subjects"]
        return [name for name in subjects if isinstance(name, str) and name]
    return []


def names_subject(prompt: str, known: Iterable[str]) -> bool:
    """Whether a prompt contains one of the names as whole words, also in the plural."""
    text = f" {_words(prompt)} "
    plain = filter(None, map(_words, known))
    return any(f" {name}{end} " in text for name in plain for end in ("", "s", "es"))


def article(words: str) -> str:
    """The indefinite article of some words: "an umbrella", "a unicorn"."""
    return "an" if words.lower().startswith(("a", "e", "i", "o", "umbrella")) else "a"


def _words(text: str) -> str:
    return " ".join(regex.findall(r"[^\W_]+", text.lower()))
