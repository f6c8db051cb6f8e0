"""Train `glide-small`, the bundled models' byte-level BPE, and write its merges table.

The text is generated: captions from templates over the names and tags of emojibase-data 17.0.0
(npm, MIT licence, https://github.com/milesj/emojibase), colours, places and function words. It is
deterministic: the same data file always gives the same table.


    npm pack emojibase-data@17.0.0 && tar xf emojibase-data-17.0.0.tgz
    python -m recipes.emoji.train_tokenizer package/en/data.json

Needs the package `tokenizers`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

VOCABULARY = 2048  # with the 256 bytes and, last, the end token
GROUPS = (0, 3, 4, 5, 6, 7)  # smileys, animals, food, travel, activities, objects


def _words(text: str) -> list[str]:
    return text.split()


COLOURS = _words("""
red orange yellow green blue purple pink brown black white gray grey gold golden silver teal cyan
magenta violet lavender beige navy turquoise maroon olive lime mint peach cream tan sky coral
crimson dark light pale bright colorful colourful pastel
""")
BACKGROUNDS = _words("""
background backdrop field sky grass sea beach desert forest snow night sunset room wall table
garden street city mountain water space gradient checkerboard stripes dots plain striped dotted
checkered sand stars clouds floor ground meadow
""")
POSITIONS = _words("""
left right top bottom middle center centre corner above below beside behind between next front
inside outside upper lower side far near over under
""")
SIZES = _words("""
small big large tiny huge giant little tall short wide thin thick medium long round square circle
triangle star heart diamond ring cross shape shapes
""")
STYLES = _words("""
photo picture painting drawing icon emoji sticker illustration render sketch cartoon watercolor
oil pencil pixel art image logo toy 3d flat glossy shiny soft simple cute shaded modern classic
style noto twemoji fluent
""")
WORDS = _words("""
a an the of on in at and with without to from for by is are as or not no one two three four five
six its it this that which some many few only very looks looking wearing holding eating sitting
standing flying running sleeping playing
""")

TEMPLATES = (
    "{label}",
    "a {label}",
    "a {colour} {label}",
    "a {label} on a {colour} background",
    "a {colour} {label} on a {other} background",
    "a {style} of a {label}",
    "a {size} {label} in the {place}",
    "a {label} to the {position} of a {other} {tag}",
    "a {label} with a {tag}, {style} style",
)


def captions(emoji: Sequence[dict[str, object]]) -> Iterator[str]:
    """Yield captions of every emoji in `GROUPS`, cycling through the lists of words."""
    colour, other = cycle(COLOURS), cycle(COLOURS[::-1])
    place, position, size = cycle(BACKGROUNDS), cycle(POSITIONS), cycle(SIZES)
    style, word = cycle(STYLES), cycle(WORDS)
    for entry in emoji:
        label = str(entry["label"])
        if entry.get("group") not in GROUPS or "o\u2019clock" in label or "thirty" in label:
            continue
        tags = entry.get("tags")
        tag = cycle([str(t) for t in tags] if isinstance(tags, list) and tags else [label])
        # Short names get more weight, so that common subjects become whole tokens.
        for template in TEMPLATES * max(1, 5 - 2 * len(label.split())):
            yield template.format(
                label=label,
                colour=next(colour),
                other=next(other),
                place=next(place),
                position=next(position),
                size=next(size),
                style=next(style),
                tag=next(tag),
            ).lower()
        yield f"{next(word)} {next(word)} {label} {next(word)}".lower()
    for words in (COLOURS, BACKGROUNDS, POSITIONS, SIZES, STYLES, WORDS):
        yield from (f"{w} a {w} the {w}" for w in words for _ in range(20))


def train(lines: Iterator[str]) -> list[str]:
    """Return the merges ('left right', most frequent first) for a vocabulary of `VOCABULARY`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(merge) for merge in merges]


def main() -> None:
    default = Path(__file__).parents[1] / "data" / "small_merges.txt"
    parser = argparse.ArgumentParser(description="Train the bundled models' tokenizer.")
    parser.add_argument("emoji", type=Path, help="en/data.json of the npm package emojibase-data")
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    merges = train(captions(json.loads(args.emoji.read_text(encoding="utf-8"))))
    if len(merges) != VOCABULARY - 257:
        raise SystemExit(f"expected {VOCABULARY - 257} merges, got {len(merges)}: too little text")
    args.out.write_text("\n".join(["#version: glide-small 1", *merges, ""]), encoding="utf-8")
    print(f"{len(merges)} merges written to {args.out}")


if __name__ == "__main__":
    main()
