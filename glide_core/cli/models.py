"""`glide models`: what is known, what is here, and how to get or convert the rest."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List every known model, where it is or would come from, and your own files. Nothing is "
        "ever downloaded but by `glide models download`."
    )
    jobs = parser.add_subparsers(dest="job", metavar="[list | download | convert | convert-lora]")
    jobs.add_parser("list", help="list models (the default)")
    download = jobs.add_parser("download", help="fetch a model of OpenAI's")
    download.add_argument("name", nargs="+", metavar="NAME", help="as `glide models` lists it")
    download.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="folder (default: $GLIDE_MODELS, ./models/glide if it exists, ~/.cache/glide/models)",
    )
    convert = jobs.add_parser("convert", help="turn a .pt into a .safetensors with its config")
    convert.add_argument(
        "file", nargs="+", type=Path, metavar="FILE", help="a model, or a noisy CLIP's two files"
    )
    convert.add_argument("--to", type=Path, metavar="FILE", help="default: beside it")
    convert.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="number format to store (default: as it is)",
    )
    lora = jobs.add_parser(
        "convert-lora",
        help="turn a LoRA trained on diffusers' UNet into one for LoraLoader and --lora",
    )
    lora.add_argument("file", type=Path, metavar="FILE", help="the LoRA, a .safetensors")
    lora.add_argument("--for", dest="model", default="base", metavar="MODEL", help="its model")
    lora.add_argument("--to", type=Path, required=True, metavar="FILE", help="what to write")


def run(arguments: argparse.Namespace) -> int:
    jobs = {"download": _download, "convert": _convert, "convert-lora": _convert_lora}
    return jobs.get(arguments.job, _list)(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from glide_core.checkpoints.catalog import ENTRIES, models_directory

    rows = [("NAME", "SIZE", "WHAT", "WHERE")]
    for entry in ENTRIES:
        path = entry.path()
        if path.is_file():
            size, where = _megabytes(path.stat().st_size), str(path)
        else:
            size = _megabytes(entry.size) if entry.size else "-"
            where = f"missing from {path.parent}" if entry.bundled else f"not here; {entry.url}"
        rows.append((entry.name, size, entry.about, where))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), end=""
        )
        print(f"  {row[3]}")
    folder = models_directory()
    known = {entry.filename for entry in ENTRIES}
    own = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in known)
    print(f"\nYour own files in {folder}:" if own else f"\nNo files of your own in {folder}.")
    for path in own:
        print(f"  {path.relative_to(folder)}  {_megabytes(path.stat().st_size)}  {_kind(path)}")
    return 0


def _kind(path: Path) -> str:
    """What a file holds, read from its header."""
    from glide_core.checkpoints.loading import inspect
    from glide_core.config import ClipConfig
    from glide_core.errors import GlideError

    try:
        config = inspect(path)
    except GlideError:
        return "not a GLIDE model"
    return "noisy CLIP" if isinstance(config, ClipConfig) else f"GLIDE {config.kind} model"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"


def _download(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from glide_core.checkpoints.catalog import find, models_directory
    from glide_core.checkpoints.download import download

    directory = arguments.to or models_directory()
    entries = [find(name) for name in arguments.name]  # all names are checked before any byte
    for entry in entries:
        print(f"{entry.url} -> {directory / entry.filename}")
        with tqdm(unit="B", unit_scale=True, desc=entry.filename) as bar:

            def progress(done: int, total: int | None, bar: tqdm[None] = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            path = download(entry, directory, progress)
        print(path)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    import torch

    from glide_core.checkpoints.convert import convert

    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    print(convert(arguments.file, arguments.to, dtype=dtype))
    return 0


def _convert_lora(arguments: argparse.Namespace) -> int:
    from glide_core.checkpoints.catalog import find_model
    from glide_core.checkpoints.loading import inspect
    from glide_core.checkpoints.lora import convert_lora
    from glide_core.config import GlideConfig
    from glide_core.errors import GlideError

    path = find_model(arguments.model)
    config = inspect(path)
    if not isinstance(config, GlideConfig):
        raise GlideError(f"{path} is a noisy CLIP. Expected the GLIDE model that the LoRA is for.")
    print(convert_lora(config, arguments.file, arguments.to))
    return 0
