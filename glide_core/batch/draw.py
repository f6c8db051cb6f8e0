"""Rows to PNGs: the same pictures whatever the batch, the shard and the number of processes."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from glide_core import stages as pipeline
from glide_core.batch.rows import Row
from glide_core.checkpoints.loading import load_clip
from glide_core.cli import session
from glide_core.errors import GlideError
from glide_core.guidance import noisy_clip_guide
from glide_core.images import to_pil
from glide_core.tokenizer import get_tokenizer

if TYPE_CHECKING:
    from PIL import Image

    from glide_core.diffusion.types import ConditionFn
    from glide_core.models.glide import GlideModel
    from glide_core.models.noisy_clip import NoisyClip

log = logging.getLogger("glide")

_MODELS = ("model", "upsampler", "clip")  # known by their hashes: a file can be renamed
Files = Mapping[str, Sequence[Path]]  # by role: base, upsampler, clip


@dataclass(frozen=True)
class Drawing:
    """One finished picture: the file's bytes, and what its .json says."""

    row: Row
    png: bytes
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Painter:
    """The loaded models, and how many pictures go through them at once."""

    base: GlideModel
    upsampler: GlideModel | None
    clip: NoisyClip | None
    hashes: Mapping[str, Any]  # of the model files, for the .json
    batch: int

    @staticmethod
    def load(files: Files, hashes: Mapping[str, Any], here: session.Session, batch: int) -> Painter:
        """Load what `files` names.

        On a CPU pictures go through one by one. That is about as quick, and exact: sums over a
        batch of another size are taken in another order, which moves some pixels by a level.
        """
        base = here.model(str(files["base"][0]), "base", "inpaint")
        upsampler = clip = None
        if "upsampler" in files:
            upsampler = here.model(str(files["upsampler"][0]), "upsampler")
        if "clip" in files:
            clip = load_clip(files["clip"], device=here.device, dtype=here.dtype)
        alone = here.device.type == "cpu"
        return Painter(base, upsampler, clip, hashes, 1 if alone else batch)

    def batches(self, rows: Sequence[Row], command: argparse.Namespace) -> Iterator[list[Row]]:
        """Rows that can be drawn together: the same settings, any prompts and seeds."""
        alike: dict[str, list[Row]] = {}
        for row in rows:
            own = {**vars(row.options(command)), "prompt": None, "seed": None}
            alike.setdefault(json.dumps(own, sort_keys=True, default=str), []).append(row)
        for group in alike.values():
            for start in range(0, len(group), self.batch):
                yield group[start : start + self.batch]

    def draw(self, rows: Sequence[Row], command: argparse.Namespace) -> list[Drawing]:
        """Draw rows of one batch; GlideError names them."""
        # Always the same number at once, the last row filling up: on a GPU the kernels, and so the
        # rounding, are chosen by it.
        filled = [*rows, *[rows[-1]] * (self.batch - len(rows))]
        try:
            images = self._pictures([row.options(command) for row in filled])[: len(rows)]
        except GlideError as error:
            raise GlideError(f"row {', '.join(str(r.number) for r in rows)}: {error}") from error
        return [self._drawing(row, image, command) for row, image in zip(rows, images, strict=True)]

    def _pictures(self, wanted: Sequence[argparse.Namespace]) -> list[Image.Image]:
        prompts = [each.prompt for each in wanted]
        seeds = [each.seed for each in wanted]
        first = wanted[0]  # all have its settings
        pictures = pipeline.text_to_image(
            self.base,
            prompts,
            seeds=seeds,
            negative=first.negative,
            settings=session.settings_of(first),
            size=first.base_size,
            cond_fn=self._guide(prompts, first.clip_scale),
        )
        if self.upsampler is not None:
            pictures = pipeline.upsample(
                self.upsampler,
                pictures,
                prompts,
                seeds=seeds,
                negative=first.negative,
                settings=session.upsample_settings_of(first),
            )
        return to_pil(pictures)

    def _guide(self, prompts: Sequence[str], scale: float) -> ConditionFn | None:
        if self.clip is None or scale == 0:
            return None
        with torch.no_grad():
            text = self.clip.encode_prompts(prompts)
        return noisy_clip_guide(self.clip, text, scale)

    def _drawing(self, row: Row, image: Image.Image, command: argparse.Namespace) -> Drawing:
        own = row.options(command)
        settings = {**session.facts_of(own), "seed": own.seed}
        settings["size"] = f"{image.width}x{image.height}"
        facts = {
            "row": row.number,
            "id": identity(row, command),
            "prompt": own.prompt,
            "seed": own.seed,
            "settings": {k: v for k, v in settings.items() if k not in ("prompt", "seed")},
            "models": self.hashes,
        }
        if cut := self._cut(own):
            facts["tokens_cut"] = cut
            log.warning("row %d: the prompt's last %d tokens are cut off", row.number, cut)
        return Drawing(row, _encoded(image, settings), facts)

    def _cut(self, own: argparse.Namespace) -> int:
        config = self.base.config
        tokenizer = get_tokenizer(config.tokenizer)
        return tokenizer.encode(own.prompt, config.text.context_length).truncated


def identity(row: Row, command: argparse.Namespace) -> str:
    """What a row's picture is known by: its number and a hash of all that it asks for."""
    own = {k: v for k, v in vars(row.options(command)).items() if k not in _MODELS}
    said = json.dumps(own, sort_keys=True, default=str)
    return f"{row.number}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _encoded(image: Image.Image, settings: Mapping[str, Any]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", session.parameters(settings))
    info.add_text("glide", json.dumps(settings))
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info, compress_level=4)
    return file.getvalue()
