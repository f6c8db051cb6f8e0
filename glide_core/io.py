"""Writing pictures: never over another, never by halves, with what made them inside."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError

if TYPE_CHECKING:
    from PIL import Image


def save(
    pictures: Sequence[Image.Image],
    folder: Path,
    prefix: str = "glide",
    text: Mapping[str, Any] | None = None,
    each: Sequence[Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write PNGs as <folder>/<prefix>_00001_.png and on, and give their paths.

    text: chunks of every PNG, `each`: chunks of its own; a value that is not a str is written as
    JSON. The prefix may hold folders and ComfyUI's %date% fields (%year%, %month%, %day%, %hour%,
    %minute%, %second%, %width%, %height%); it cannot lead out of `folder`.
    """
    if not pictures:
        return []
    width, height = pictures[0].size
    filled = _fill(prefix, width, height)
    base = folder / filled
    inside = "\0" not in filled and base.resolve().is_relative_to(folder.resolve())
    if not inside or base == folder:
        raise GlideError(
            f"the file name prefix {prefix!r} names no file, or leads out of {folder}. "
            "Expected a name, or a folder inside it. Change the prefix, or the output folder."
        )
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GlideError(
            f"{base.parent} cannot be made a folder: {error}. Choose another with --out."
        ) from error
    return [
        _write(picture, base, {**(text or {}), **(each[i] if each else {})})
        for i, picture in enumerate(pictures)
    ]


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before any work is done; make nothing yet."""
    existing = next((p for p in (folder, *folder.absolute().parents) if os.path.lexists(p)), folder)
    if not existing.is_dir():
        reason = f"{existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{existing} cannot be written to"
    else:
        return
    raise GlideError(
        f"pictures cannot be saved in {folder}: {reason}. Expected a folder, there or to be made. "
        "Choose another with --out."
    )


def read_text(path: Path) -> dict[str, str]:
    """Give a PNG's text chunks."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        return {str(k): v for k, v in picture.info.items() if isinstance(v, str)}


def _fill(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    fields = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02d}",
        "day": f"{now.tm_mday:02d}",
        "hour": f"{now.tm_hour:02d}",
        "minute": f"{now.tm_min:02d}",
        "second": f"{now.tm_sec:02d}",
    }
    return re.sub(r"%(\w+)%", lambda m: fields.get(m.group(1), m.group(0)), prefix)


def _next_number(base: Path) -> int:
    pattern = re.compile(re.escape(base.name) + r"_(\d+)_?\.\w+$", re.IGNORECASE)
    found = (pattern.match(entry.name) for entry in base.parent.iterdir())
    return max((int(match.group(1)) for match in found if match), default=0) + 1


def _write(picture: Image.Image, base: Path, text: Mapping[str, Any]) -> Path:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value if isinstance(value, str) else json.dumps(value))
    temporary = base.parent / f".{base.name}.{os.getpid()}.tmp"
    try:
        picture.save(temporary, format="PNG", pnginfo=info, compress_level=4)
        number = _next_number(base)
        while True:
            path = base.parent / f"{base.name}_{number:05d}_.png"
            try:
                path.touch(exist_ok=False)  # claims the name, whoever else is writing here
            except FileExistsError:
                number += 1
                continue
            try:
                os.replace(temporary, path)
            except BaseException:  # Ctrl-C too: an empty picture must not stay behind
                path.unlink(missing_ok=True)
                raise
            return path
    except OSError as error:
        raise GlideError(
            f"the picture cannot be written to {base.parent}: {error}. Free some space, or choose "
            "another folder with --out."
        ) from error
    finally:
        with suppress(OSError):  # a name too long to be written is too long to be removed
            temporary.unlink(missing_ok=True)
