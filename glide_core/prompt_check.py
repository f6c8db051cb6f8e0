"""Warnings before a run: prompts cut off or unknown, sizes that a model was not trained on."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping

from glide_core.config import GlideConfig
from glide_core.errors import shorten
from glide_core.request import GenerationRequest
from glide_core.tokenizer import get_tokenizer, warn_if_truncated

VOCABULARY_KEY = "glide_vocabulary"  # of a file's metadata: JSON, {"subjects": [name, ...]}
_SHOWN = 8  # names in a warning
log = logging.getLogger("glide")


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
    unknown = [text for text in dict.fromkeys(r.prompt for r in given) if not names(text, known)]
    if any(text.strip() for text in unknown):
        log.warning(
            "%r names no subject that this model knows (%s ... %d in all): expect a poor image",
            shorten(next(text for text in unknown if text.strip())),
            ", ".join(known[:_SHOWN]),
            len(known),
        )


def vocabulary(metadata: Mapping[str, str]) -> list[str]:
    """Subject names in a file's metadata; empty where there are none or they cannot be read."""
    try:
        found = json.loads(metadata.get(VOCABULARY_KEY, "[]"))
    except (ValueError, RecursionError):
        return []
    if isinstance(found, dict):
        found = found.get("subjects")
    return [n for n in found if isinstance(n, str) and n] if isinstance(found, list) else []


def names(prompt: str, known: Iterable[str]) -> bool:
    """Whether a prompt contains one of the names as whole words, also in the plural."""
    text = f" {_plain(prompt)} "
    plain = filter(None, map(_plain, known))
    return any(f" {name}{end} " in text for name in plain for end in ("", "s", "es"))


def article(words: str) -> str:
    """The indefinite article of some words: "an umbrella", "a unicorn"."""
    return "an" if words.lower().startswith(("a", "e", "i", "o", "umbrella")) else "a"


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
