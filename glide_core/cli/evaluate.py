"""`glide evaluate`: metrics of a set of images, with the provenance of every value."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path

from glide_core.cli import options
from glide_core.errors import UsageError
from glide_core.io import atomic_write, check_folder, check_new
from glide_core.names import MAX_SIDE, METRICS, REFERENCE_METRICS

# Arguments that do not affect the values.
_NOT_IN_COMMAND = ("images", "out", "save_stats", "quiet", "device", "threads", "workers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure images: against a reference (frechet, kid, precision, recall), by themselves "
        "(is) or with their captions (clip-score, retrieval). docs/evaluation.md has the formulas."
    )
    parser.add_argument(
        "images",
        metavar="IMAGES",
        help="a folder, a .tar or a folder of them (as `glide generate --prompts` writes), a list "
        "of paths (.txt), or a list of images with captions (.csv, .jsonl)",
    )
    text = "images to compare with, or a file written by --save-stats"
    parser.add_argument("--reference", metavar="IMAGES|STATS.npz", help=text)
    parser.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="one caption per line in the order of the image names, or by name (.csv, .jsonl); "
        "default: the .txt or .json beside each image, or the prompt in PNGs that glide wrote",
    )
    text = f"any of {', '.join(METRICS)} (default: the first four if --reference is given)"
    parser.add_argument("--metrics", nargs="+", choices=METRICS, metavar="METRIC", help=text)
    parser.add_argument(
        "--features",
        default="clip:bundled",
        metavar="EXTRACTOR",
        help="pixels, pixels:SIDE, clip:bundled, clip:FILE, open_clip:NAME:FILE, "
        "open_clip:NAME:TAG (from its cache), inception:FILE (default: clip:bundled, trained on "
        "drawings only)",
    )
    options.add(parser, "--seed", help="random seed of --n, the KID subsets and the splits")
    group = parser.add_argument_group("images")
    count = partial(group.add_argument, type=options.positive, metavar="N")
    count("--n", help="measure N of the images, selected by the seed (default: all)")
    text = "cut out the largest centre square, as in the paper, or nothing"
    group.add_argument("--crop", choices=("centre", "none"), default="centre", help=text)
    text = "resize all images to NxN first, PIL bicubic (default: unchanged)"
    count("--size", type=options.integer(1, MAX_SIDE), help=text)
    group = parser.add_argument_group("metrics")
    count = partial(group.add_argument, type=options.positive, metavar="N")
    count("--subsets", default=100, help="kid: number of random subsets")
    size = options.integer(2, 10**9)
    count("--subset-size", type=size, default=1000, help="kid: maximum images per subset")
    count("--neighbours", default=3, help="precision, recall: k for the k-NN manifold")
    count("--splits", default=10, help="is: number of parts for mean and std")
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, metavar="FILE.json", help="write results as JSON")
    text = "write the features of IMAGES, for --reference"
    group.add_argument("--save-stats", type=Path, metavar="FILE.npz", help=text)
    options.add(group, "--quiet", help="no progress bars")
    group = parser.add_argument_group("device")
    options.add(group, "--device")
    options.add(group, "--batch", default=32, help="batch size; changes results only by rounding")
    options.add(group, "--threads")
    decoding = "processes that decode images; 0: the main process decodes"
    processes = options.integer(0, 1024)
    group.add_argument("--workers", type=processes, default=0, metavar="N", help=decoding)


def run(arguments: argparse.Namespace) -> int:
    for path in filter(None, (arguments.out, arguments.save_stats)):
        check_new(path)
        check_folder(path.parent)
    if arguments.metrics is None and arguments.reference is None and arguments.save_stats is None:
        raise UsageError("Nothing to measure: give --metrics, --reference or --save-stats.")

    from glide_core.devices import pick_device
    from glide_core.evaluation import evaluate
    from glide_core.evaluation.features import load_extractor
    from glide_core.evaluation.image_set import FeatureSet, ImageSet, find_images, read_features
    from glide_core.evaluation.metrics import Statistics

    where, wanted = arguments.reference, arguments.metrics
    if wanted is None:
        wanted = () if where is None else REFERENCE_METRICS
    params = evaluate.MetricParams(
        arguments.subsets, arguments.subset_size, arguments.neighbours, arguments.splits
    )
    find = partial(find_images, crop=arguments.crop, size=arguments.size)
    source = find(arguments.images)
    if arguments.captions is not None:
        source = source.with_captions(arguments.captions)
    source = source.subset(arguments.n, arguments.seed)
    extractor = load_extractor(arguments.features, device=pick_device(arguments.device))
    reference: ImageSet | FeatureSet | Statistics | None = None
    if where is not None:
        stored = where.lower().endswith(".npz")
        reference = FeatureSet.load(Path(where)) if stored else find(where)
    captions = evaluate.check_metrics(wanted, extractor, source, reference, params)

    read = partial(
        read_features,
        extractor,
        batch=arguments.batch,
        workers=arguments.workers,
        progress=not arguments.quiet,
    )
    found = read(source, captions=captions)
    if arguments.save_stats is not None:
        found.save(arguments.save_stats)
        print(arguments.save_stats)
    if isinstance(reference, ImageSet):
        reference = read(reference)
    results = []
    how = {"seed": arguments.seed, "params": params, "command": command_of(arguments)}
    for one in evaluate.measure(wanted, extractor, found, reference, **how):
        print(one.line(), flush=True)
        results.append(one)
    for line in dict.fromkeys(one.provenance_line() for one in results):
        print(line)
    if arguments.out is not None:
        with atomic_write(arguments.out) as temporary:
            text = json.dumps([asdict(one) for one in results], indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
    return 0


def command_of(arguments: argparse.Namespace) -> str:
    """Return the command that reproduces the results: every option not at its default."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["glide", "evaluate", str(arguments.images)]
    for name, default in vars(parser.parse_args(["images"])).items():
        value = getattr(arguments, name)
        if name not in _NOT_IN_COMMAND and value != default:
            words.append(f"--{name.replace('_', '-')}")
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)
