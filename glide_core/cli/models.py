"""`glide models`: list, download and convert model files."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from glide_core.checkpoints.catalog import ENTRIES, find, find_model, model_files, models_directory
from glide_core.cli.options import scale
from glide_core.errors import GlideError
from glide_core.io import check_new


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the known models with their location, and your own files. Only `glide models "
        "download` downloads anything."
    )
    jobs = parser.add_subparsers(
        dest="job", metavar="[list | download | convert | convert-lora | merge]"
    )
    jobs.add_parser("list", help="list models (the default)")
    download = jobs.add_parser("download", help="download a model")
    download.add_argument("name", nargs="+", metavar="NAME", help="as `glide models` lists it")
    text = "folder (default: $GLIDE_MODELS, ./models/glide if it exists, ~/.cache/glide/models)"
    download.add_argument("--to", type=Path, metavar="DIR", help=text)
    convert = jobs.add_parser("convert", help="turn a .pt into a .safetensors with its config")
    text = "a model, or a noisy CLIP's two files"
    convert.add_argument("file", nargs="+", type=Path, metavar="FILE", help=text)
    convert.add_argument("--to", type=Path, metavar="FILE", help="default: beside it")
    dtypes, text = ("float32", "float16", "bfloat16"), "number format to store (default: as it is)"
    convert.add_argument("--dtype", choices=dtypes, help=text)
    kinds = ("base", "upsampler", "inpaint", "upsampler-inpaint")
    text = (
        "store this kind instead of the detected one (inpaint: also for a model that is given a "
        "masked image but no mask)"
    )
    convert.add_argument("--kind", choices=kinds, help=text)
    schedules = ("linear", "squaredcos_cap_v2")
    text = "store this noise schedule instead of OpenAI's for this kind"
    convert.add_argument("--noise-schedule", choices=schedules, help=text)
    text = "store what the model predicts (default: epsilon)"
    convert.add_argument("--prediction-type", choices=("epsilon", "v_prediction"), help=text)
    text = "turn a LoRA trained on diffusers' UNet into one for LoraLoader and --lora"
    lora = jobs.add_parser("convert-lora", help=text)
    lora.add_argument("file", type=Path, metavar="FILE", help="the LoRA, a .safetensors")
    lora.add_argument("--for", dest="model", default="base", metavar="MODEL", help="its model")
    lora.add_argument("--to", type=Path, required=True, metavar="FILE", help="what to write")
    merge = jobs.add_parser("merge", help="merge a LoRA into a model and write the result")
    merge.add_argument("base", metavar="BASE", help="a name of `glide models` or a file")
    merge.add_argument("lora", type=Path, metavar="LORA", help="the LoRA, a .safetensors")
    merge.add_argument("to", type=Path, metavar="OUT", help="the new .safetensors")
    merge.add_argument("--strength", type=scale, default=1.0, metavar="S", help="of the LoRA")


def run(arguments: argparse.Namespace) -> int:
    jobs = {
        "download": _download,
        "convert": _convert,
        "convert-lora": _convert_lora,
        "merge": _merge,
    }
    jobs.get(arguments.job, _list)(arguments)
    return 0


def _list(arguments: argparse.Namespace) -> None:
    rows = [("NAME", "SIZE", "WHAT", "WHERE")]
    for entry in ENTRIES:
        path = entry.path()
        if path.is_file():
            size, where = _megabytes(path.stat().st_size), str(path)
        else:
            size = _megabytes(entry.size) if entry.size else "-"
            where = f"missing from {path.parent}" if entry.bundled else f"not here; {entry.url}"
        rows.append((entry.name, size, f"{entry.about} ({entry.licence})", where))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)))
    folder = models_directory()
    known = {entry.filename for entry in ENTRIES}
    own = [path for path in model_files(folder) if path.name not in known]
    print(f"\nYour own files in {folder}:" if own else f"\nNo files of your own in {folder}.")
    for path in own:
        name = str(path.relative_to(folder)).encode(errors="replace").decode()
        print(f"  {name}  {_megabytes(path.stat().st_size)}  {_kind(path)}")


def _kind(path: Path) -> str:
    """What a file holds, read from its header."""
    from glide_core.checkpoints.loading import kind_of

    try:
        kind = kind_of(path)
    except GlideError:
        return "not a GLIDE model"
    return "noisy CLIP" if kind.startswith("clip") else f"GLIDE {kind} model"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"


def _download(arguments: argparse.Namespace) -> None:
    from glide_core.checkpoints.download import download
    from glide_core.cli.common import counting_bar

    directory = arguments.to or models_directory()
    entries = [find(name) for name in arguments.name]  # all names are checked before any byte
    for entry in entries:
        print(f"{entry.url} -> {directory / entry.filename}")
        with counting_bar(unit="B", unit_scale=True, desc=entry.filename) as progress:
            path = download(entry, directory, progress)
        print(path)
        if entry.notes:
            print(entry.notes)


def _convert(arguments: argparse.Namespace) -> None:
    import torch

    from glide_core.checkpoints.detect import config_of
    from glide_core.checkpoints.files import read_tensors
    from glide_core.checkpoints.loading import convert
    from glide_core.config import ScheduleConfig

    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    kind, schedule = arguments.kind, None
    given = {name: getattr(arguments, name) for name in ("noise_schedule", "prediction_type")}
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        config = config_of(read_tensors(arguments.file[0], meta=True), kind)
        # a noisy CLIP has none, which `convert` says
        schedule = replace(getattr(config, "schedule", ScheduleConfig()), **changes)
    print(convert(arguments.file, arguments.to, dtype=dtype, kind=kind, schedule=schedule))


def _convert_lora(arguments: argparse.Namespace) -> None:
    from glide_core.checkpoints.loading import inspect
    from glide_core.checkpoints.lora import convert_lora
    from glide_core.config import GlideConfig

    path = find_model(arguments.model)
    config = inspect(path)
    if not isinstance(config, GlideConfig):
        raise GlideError(f"{path} is a noisy CLIP. Expected the GLIDE model that the LoRA is for.")
    print(convert_lora(config, arguments.file, arguments.to))


def _merge(arguments: argparse.Namespace) -> None:
    from glide_core.checkpoints.files import read_tensors
    from glide_core.checkpoints.loading import load_model, save_model
    from glide_core.checkpoints.lora import apply_lora

    check_new(arguments.to)
    path = find_model(arguments.base)
    model = apply_lora(load_model(path), os.path.expanduser(arguments.lora), arguments.strength)
    lora = f"{arguments.lora.name}:{arguments.strength:g}"
    stored = {**read_tensors(path, meta=True).metadata, "glide_merged_lora": lora}
    print(save_model(model, arguments.to, metadata=stored))
