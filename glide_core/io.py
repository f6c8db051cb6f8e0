"""Write files atomically and without overwriting, PNGs with metadata included; hash files.

Imports no torch and no PIL at the top, so that a command can check its folders first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError, as_glide_error, shorten

if TYPE_CHECKING:
    from PIL import Image

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp$")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary file in the same folder, moved onto `path` when the block ends.

    After an error, or when the process is killed, `path` is unchanged. GlideError when the system
    refuses (no space, no permission, a folder of that name).
    """
    with _temporary(path) as temporary:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        # libraries that replace the file instead of writing into it choose their own mode
        temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)


def write_new(content: bytes, names: Iterator[Path]) -> Path:
    """Write a file under the first of `names`, all in one folder, that is free; gives its path.

    Nothing is overwritten, also when several processes write to the folder, and a file has its
    name only when it is complete.
    """
    path = next(names)
    with _temporary(path) as temporary:
        temporary.write_bytes(content)
        while not move_if_free(temporary, path):
            path = next(names)
    return path


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, whose folder is created, for one block.

    Those that killed processes left in the folder are removed.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob(".*.tmp"):
            if _is_stale(other):
                with suppress(OSError):
                    other.unlink()
        start = os.fsencode(path.name)[:180].decode(errors="ignore")  # names have 255 bytes at most
        process = f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        temporary = path.with_name(f".{start}.{process}.tmp")
        temporary.touch(exist_ok=False)
        try:
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Name the file or folder when the system refuses to write: a GlideError of one line."""
    try:
        yield
    except Exception as error:
        # torch and safetensors report a full disk with exceptions of their own
        signs = ("PytorchStreamWriter", "inline_container", "iostream error")
        theirs = type(error).__name__ == "SafetensorError" or any(s in str(error) for s in signs)
        # UnicodeEncodeError: of a name, or of text, with half a character
        if not isinstance(error, (OSError, UnicodeEncodeError)) and not theirs:
            raise
        reason = getattr(error, "strerror", None) or "writing failed, as on a full disk"
        wanted = "expected another folder, or more free space"
        raise GlideError(f"cannot write {shorten(path, 200)}: {reason}; {wanted}") from error


def _is_stale(path: Path) -> bool:
    """Whether a file is a temporary one of a killed process, on another machine of yesterday."""
    found = _TEMPORARY.search(path.name)
    with suppress(OSError, OverflowError):
        if found is None:
            return False
        if found.group(1) != _HOST or os.name != "posix":
            return time.time() - path.stat().st_mtime > 24 * 60 * 60
        try:
            os.kill(int(found.group(2)), 0)  # signal 0: only asks whether the process exists
        except ProcessLookupError:
            return True
    return False


def _flush(path: Path) -> None:
    """Have the system put a file, or the names in a folder, onto the disk where it can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_file(*paths: Path) -> str:
    """The hexadecimal SHA-256 of one or several files in turn; GlideError for an unreadable one."""
    digest = hashlib.sha256()
    for path in paths:
        with as_glide_error(f"cannot read {shorten(path, 200)}", OSError):
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for its writer
                raise OSError("it is not a regular file")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def user_path(path: str | Path) -> Path:
    """A path that a user gave, with `~` for their folder."""
    if not isinstance(path, (str, Path)):
        raise GlideError(f"a path is {shorten(repr(path))}: expected a text or a Path")
    return Path(os.path.expanduser(path))


def move_if_free(source: Path, target: Path) -> bool:
    """Move a file within a file system unless the new name exists; returns whether it did."""
    try:
        os.link(source, target)  # unlike a rename, this never replaces a file
    except FileExistsError:
        return False
    except OSError:  # file systems without links
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            return False
        source.replace(target)
    else:
        source.unlink()
    return True


def check_new(path: Path) -> None:
    """Raise GlideError for a file that exists: nothing is overwritten unasked."""
    if os.path.lexists(path):
        raise GlideError(f"{path} already exists and is not overwritten: choose another name")


def check_folder(folder: Path) -> None:
    """Raise GlideError for an output folder that cannot be created or written; create nothing."""
    shown = shorten(repr(str(folder)), 200)
    with as_glide_error(f"cannot write to {shown}", (OSError, ValueError), "out"):
        if "\0" in str(folder):
            raise ValueError("a path cannot contain a NUL character")
        parents = (folder, *folder.absolute().parents)
        existing = next((p for p in parents if os.path.lexists(p)), folder)
        if not existing.is_dir():
            raise ValueError(f"{shorten(existing, 200)} is not a folder")
        with tempfile.TemporaryFile(dir=existing):
            pass


def make_folder(folder: Path) -> None:
    """Create an output folder with its parents."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def save_images(
    images: Sequence[Image.Image],
    folder: Path,
    prefix: str = "glide",
    each: Sequence[Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write PNGs as <folder>/<prefix>_00001_.png and so on, and give their paths.

    each: text chunks of each PNG; a value that is not a str is written as JSON. The prefix may hold
    folders; it cannot lead out of `folder`.
    """
    if not images:
        return []
    base = folder / prefix
    # OSError, RuntimeError, ValueError: too long, a loop of links, a NUL character
    with as_glide_error(f"the file name prefix {shorten(repr(prefix))} cannot be used"):
        if base == folder or not base.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"it is empty or leads out of {shorten(folder, 200)}")
    make_folder(base.parent)
    texts = each or [{}] * len(images)
    return [
        write_new(encode_png(image, text), _numbered(base))
        for image, text in zip(images, texts, strict=True)
    ]


def encode_png(image: Image.Image, text: Mapping[str, Any]) -> bytes:
    """A PNG file's bytes, with text chunks; a value that is not a str is written as JSON."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        value = value if isinstance(value, str) else json.dumps(value)
        # the name of an input file may hold bytes that are not text
        info.add_text(key, value.encode(errors="backslashreplace").decode())
    content = BytesIO()
    image.save(content, format="PNG", pnginfo=info, compress_level=4)
    return content.getvalue()


def png_text(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Text chunks of a PNG: all settings as JSON, and as the text that image viewers show."""
    lines = [str(metadata.get("prompt", ""))]
    if metadata.get("negative_prompt"):
        lines.append(f"Negative prompt: {metadata['negative_prompt']}")
    rest = [(k, v) for k, v in metadata.items() if k not in ("prompt", "negative_prompt")]
    lines.append(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in rest))
    return {"parameters": "\n".join(lines), "glide": dict(metadata)}


def _numbered(base: Path) -> Iterator[Path]:
    """<base>_00001_.png and so on, from the number after the highest one in the folder."""
    pattern = re.compile(re.escape(base.name) + r"_(\d+)_?\.\w+$", re.IGNORECASE)
    found = (pattern.match(entry.name) for entry in base.parent.iterdir())
    highest = max((int(match.group(1)) for match in found if match), default=0)
    return (base.with_name(f"{base.name}_{n:05d}_.png") for n in count(highest + 1))
