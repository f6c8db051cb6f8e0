"""`glide models`: list, download and convert model files."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from glide_core.checkpoints.catalog import ENTRIES, find, find_model, model_files, models_directory
from glide_core.errors import GlideError
from glide_core.io import check_new, user_path
from glide_core.text_values import scale


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the known models with their location, and your own files. Only `glide models "
        "download` downloads anything."
    )
    jobs = parser.add_subparsers(metavar="[list | download | convert | convert-lora | merge]")
    jobs.add_parser("list", help="list models (the default)")
    download = jobs.add_parser("download", help="download a model")
    download.set_defaults(run=_download)
    download.add_argument("name", nargs="+", metavar="NAME", help="as `glide models` lists it")
    text = "folder (default: $GLIDE_MODELS, ./models/glide if it exists, ~/.cache/glide/models)"
    download.add_argument("--to", type=Path, metavar="DIR", help=text)
    convert = jobs.add_parser("convert", help="turn a .pt into a .safetensors with its config")
    convert.set_defaults(run=_convert)
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
    lora.set_defaults(run=_convert_lora)
    lora.add_argument("file", type=Path, metavar="FILE", help="the LoRA, a .safetensors")
    lora.add_argument("--for", dest="model", default="base", metavar="MODEL", help="its model")
    lora.add_argument("--to", type=Path, required=True, metavar="FILE", help="what to write")
    merge = jobs.add_parser("merge", help="merge a LoRA into a model and write the result")
    merge.set_defaults(run=_merge)
    merge.add_argument("base", metavar="BASE", help="a name of `glide models` or a file")
    merge.add_argument("lora", type=Path, metavar="LORA", help="the LoRA, a .safetensors")
    merge.add_argument("to", type=Path, metavar="OUT", help="the new .safetensors")
    merge.add_argument("--strength", type=scale, default=1.0, metavar="S", help="of the LoRA")


def run(arguments: argparse.Namespace) -> None:
    """List the known models and the user's own."""
    from glide_core.checkpoints.loading import kind_of

    rows = [("NAME", "SIZE", "WHAT", "WHERE")]
    for entry in ENTRIES:
        path = entry.path()
        size, where = entry.size, f"not here; {entry.url}"
        if path.is_file():
            size, where = path.stat().st_size, str(path)
        elif entry.bundled:
            where = f"missing from {path.parent}"
        about = f"{entry.about} ({entry.licence})"
        rows.append((entry.name, _megabytes(size), about, where))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    folder = models_directory()
    known = {entry.filename for entry in ENTRIES}
    own = [path for path in model_files(folder) if path.name not in known]
    print(f"\nYour own files in {folder}:" if own else f"\nNo files of your own in {folder}.")
    for path in own:
        name = str(path.relative_to(folder)).encode(errors="replace").decode()
        try:
            kind = kind_of(path)
            what = "noisy CLIP" if kind.startswith("clip") else f"GLIDE {kind} model"
        except GlideError:
            what = "not a GLIDE model"
        print(f"  {name}  {_megabytes(path.stat().st_size)}  {what}")


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:.1f} MB" if size else "-"


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
    names = ("noise_schedule", "prediction_type")
    if changes := {n: getattr(arguments, n) for n in names if getattr(arguments, n)}:
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
    model = apply_lora(load_model(path), user_path(arguments.lora), arguments.strength)
    lora = f"{arguments.lora.name}:{arguments.strength:g}"
    stored = {**read_tensors(path, meta=True).metadata, "glide_merged_lora": lora}
    print(save_model(model, arguments.to, metadata=stored))
