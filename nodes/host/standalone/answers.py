"""Answers of a ComfyUI server: parsed with every type checked, and images verified."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError
from glide_core.io import write_new

from .graph import plain, shown

MAX_IMAGES = 10_000  # in one answer
MAX_PIXELS = 100_000_000  # 10,000 x 10,000
FORMATS = {  # Pillow's names, and the suffixes that a file of that format may have
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
_UNSAFE = re.compile(r'[<>:"/\\|?*]')  # in file names, on some system


def parse_queue(answer: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Read /queue: the ids of the running prompts, and of the pending ones in their order."""

    def entries(name: str) -> list[tuple[float, str]]:
        found = answer.get(name, [])
        if not isinstance(found, list):
            raise _unexpected(f"{name} {shown(found)}")
        for entry in found:
            if not (
                isinstance(entry, list)
                and len(entry) > 1
                and isinstance(entry[0], (int, float))
                and isinstance(entry[1], str)
            ):
                raise _unexpected(f"{name} entry {shown(entry)}")
        return [(entry[0], entry[1]) for entry in found]

    running = [key for _, key in entries("queue_running")]
    return running, [key for _, key in sorted(entries("queue_pending"))]


def check_finished(entry: Any) -> Mapping[str, Any]:
    """Return a history entry that succeeded; GlideError says at which node another one failed."""
    if not isinstance(entry, Mapping):
        raise _unexpected(f"history entry {shown(entry)}")
    status = entry.get("status") or {}
    if not isinstance(status, Mapping):
        raise _unexpected(f"status {shown(status)}")
    if status.get("status_str") != "error":
        return entry
    messages = status.get("messages")
    for message in messages if isinstance(messages, list) else ():
        kind, details = message if isinstance(message, list) and len(message) == 2 else ("", {})
        details = details if isinstance(details, Mapping) else {}
        if kind == "execution_error":
            raise GlideError(
                f"the server failed at node {plain(details.get('node_id'))} "
                f"({plain(details.get('node_type'))}): "
                f"{plain(details.get('exception_message', ''), 1000)}"
            )
        if kind == "execution_interrupted":
            raise GlideError("the workflow was stopped on the server before it was done.")
    raise GlideError("the workflow failed on the server without a reason: see the server's log.")


def image_fields(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    """List what /view needs for every image of a history entry."""
    outputs = entry.get("outputs") or {}
    if not isinstance(outputs, Mapping):
        raise _unexpected(f"outputs {shown(outputs)}")
    found = []
    for output in outputs.values():
        images = (output.get("images") or []) if isinstance(output, Mapping) else None
        if not isinstance(images, list):
            raise _unexpected(f"output {shown(output)}")
        for image in images:
            names = ("filename", "subfolder", "type")
            fields = {k: image.get(k, "") for k in names} if isinstance(image, Mapping) else {}
            if not fields or not all(isinstance(value, str) for value in fields.values()):
                raise _unexpected(f"image {shown(image)}")
            found.append(fields)
    if len(found) > MAX_IMAGES:
        raise _unexpected(f"{len(found)} images")
    return found


def refusal(url: str, status: int, reason: str, content: bytes) -> str:
    """Put an error status into words: ComfyUI's own, if the body holds them."""
    text = content[: 2**20].decode(errors="replace")
    try:
        answer = json.loads(text)
        lines = [plain(answer["error"]["message"], 300)]
        for node, found in list((answer.get("node_errors") or {}).items())[:20]:
            lines += [
                f"node {plain(node)} ({plain(found.get('class_type', '?'))}): "
                + plain(f"{problem.get('message', '')} {problem.get('details', '')}", 300)
                for problem in found.get("errors", [])[:20]
            ]
        return "the server refused the workflow: " + "\n  ".join(lines)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{url} answered {status} {plain(reason)}: {plain(text, 300)}"


def save_image(content: bytes, name: str, folder: Path) -> Path:
    """Write an image under its name, or a numbered one if that exists; GlideError if it is none."""
    path = folder / _file_name(name, image_format(content, name))
    names = chain([path], (path.with_stem(f"{path.stem}_{n}") for n in count(1)))
    return write_new(content, names)


def image_format(content: bytes, name: str) -> str:
    """Decode an image completely and return its format; GlideError when it does not decode."""
    from PIL import Image

    where = f"the server's image {plain(name)}"
    try:
        with Image.open(BytesIO(content), formats=tuple(FORMATS)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise GlideError(
                    f"{where} has {image.width}x{image.height} pixels. Expected at most "
                    f"{MAX_PIXELS:,}."
                )
            image.load()
            found = str(image.format)
        with Image.open(BytesIO(content), formats=(found,)) as image:
            image.verify()  # of a PNG all parts, also those after the pixels
        return found
    except GlideError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like on damaged data
        raise GlideError(
            f"{where} is not an image that can be read ({len(content)} bytes). Expected one of: "
            f"{', '.join(FORMATS)}."
        ) from error


def _file_name(name: str, kind: str) -> str:
    """Return the server's name without folders, with a suffix of the image's format."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    path = Path(_UNSAFE.sub("_", plain(last, 150)).strip(". ") or "image")
    return path.name if path.suffix.lower() in FORMATS[kind] else f"{path.name}{FORMATS[kind][0]}"


def _unexpected(what: str) -> GlideError:
    return GlideError(f"the server answered with an unexpected {what}. Is it a ComfyUI?")
