"""`glide evaluate`: how good a set of pictures is, with the protocol beside every number."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glide_core.cli import options
from glide_core.errors import GlideError

if TYPE_CHECKING:
    from collections.abc import Callable

    from glide_core.evaluation.features import FeatureExtractor
    from glide_core.evaluation.measure import Measured
    from glide_core.evaluation.pictures import Pictures

log = logging.getLogger("glide")

# What glide_core.evaluation.measure.METRICS holds, repeated so that --help need not import torch;
# a test keeps the two equal.
METRICS = ("frechet", "kid", "precision", "recall", "is", "clip-score", "retrieval")
_MOST_NAMED = 20  # unreadable pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure pictures: against a reference (frechet, kid, precision, recall), by themselves "
        "(is), or with their captions (clip-score, retrieval). How each number was taken stands "
        "beside it; docs/evaluation.md has the formulas."
    )
    parser.add_argument(
        "pictures",
        nargs="?",
        metavar="PICTURES",
        help="a folder, a .tar or a folder of them (what `glide generate --prompts` writes), a "
        "list of paths (.txt), or of pictures with captions (.csv, .jsonl)",
    )
    parser.add_argument(
        "--reference",
        metavar="PICTURES|STATS.npz",
        help="pictures to compare with, or what --save-stats wrote of them",
    )
    parser.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="one a line in the pictures' order, or by name (.csv, .jsonl); default: the .txt or "
        ".json beside each picture, or the prompt inside PNGs that glide wrote",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        metavar="METRIC",
        help=f"some of {', '.join(METRICS)} (default: the first four with --reference)",
    )
    parser.add_argument(
        "--features",
        default="clip:bundled",
        metavar="EXTRACTOR",
        help="pixels, pixels:SIDE, clip:bundled, clip:FILE, open_clip:NAME:FILE, "
        "open_clip:NAME:TAG (from its cache), inception:FILE (default: clip:bundled, which knows "
        "drawings alone)",
    )
    parser.add_argument(
        "--seed",
        type=options.seed,
        default=0,
        metavar="S",
        help="of all that is drawn: the choice of --n, kid's subsets, the splits (default: 0)",
    )
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--n",
        type=options.positive,
        metavar="N",
        help="measure N of the pictures, drawn by the seed (default: all)",
    )
    group.add_argument(
        "--crop",
        choices=("centre", "none"),
        default="centre",
        help="cut the largest square out of the middle, as the paper, or nothing (default: centre)",
    )
    group.add_argument(
        "--size",
        type=options.positive,
        metavar="S",
        help="resize all to SxS first, PIL bicubic (default: as they are)",
    )
    group = parser.add_argument_group("metrics")
    for name, value, text in (
        ("subsets", 100, "kid: random subsets"),
        ("subset-size", 1000, "kid: pictures in each, at most"),
        ("neighbours", 3, "precision, recall: how many neighbours a ball reaches over"),
        ("splits", 10, "is: parts that the mean and std are over"),
    ):
        group.add_argument(
            f"--{name}",
            type=options.positive,
            default=value,
            metavar="N",
            help=f"{text} (default: {value})",
        )
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, metavar="FILE.json", help="write the results there")
    group.add_argument(
        "--save-stats",
        type=Path,
        metavar="FILE.npz",
        help="write the features of PICTURES, for --reference",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    group = parser.add_argument_group("device")
    group.add_argument("--device", default="auto", help="cpu, cuda, mps (default: a GPU if any)")
    group.add_argument(
        "--batch",
        type=options.positive,
        default=32,
        metavar="B",
        help="pictures at once: changes results by rounding alone (default: 32)",
    )
    parser.add_argument_group("bundled models").add_argument(
        "--bundled",
        type=Path,
        metavar="STORE.npz",
        help="instead: exact scores of the bundled models, from the store of their training "
        "drawings (needs nothing else)",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.bundled is not None:
        return _bundled(arguments)
    if arguments.pictures is None:
        raise GlideError("there is nothing to measure. Expected PICTURES: name a folder of them.")
    for path in (arguments.out, arguments.save_stats):
        _check_free(path)

    from glide_core.devices import pick_device
    from glide_core.evaluation import measure, protocol, stats_file
    from glide_core.evaluation.features import extractor_of

    wanted = _wanted(arguments)
    choices = measure.Choices(
        arguments.subsets, arguments.subset_size, arguments.neighbours, arguments.splits
    )
    device = pick_device(arguments.device)
    pictures = _pictures(arguments)
    extractor = extractor_of(arguments.features, device=device)
    measure.check_possible(wanted, extractor, reference=arguments.reference is not None)
    measure.check_counts(wanted, choices, len(pictures))
    reference = _reference(arguments, extractor, device)
    captions = measure.needs_captions(wanted, extractor)
    found = _read(arguments, extractor, pictures, device, "pictures", captions=captions)
    if arguments.save_stats is not None:
        stats_file.save_stats(found, arguments.save_stats)
        print(arguments.save_stats)
    results = []
    for one in measure.measure(
        wanted,
        extractor,
        found,
        reference,
        seed=arguments.seed,
        choices=choices,
        command=command_of(arguments),
    ):
        print(one.line(), flush=True)
        results.append(one)
    if arguments.out is not None:
        protocol.write_json(results, arguments.out)
    return 0


def command_of(arguments: argparse.Namespace) -> str:
    """The command line that gives these results again: all that is not at its default."""
    fresh = argparse.ArgumentParser()
    add_arguments(fresh)
    words = ["glide", "evaluate", str(arguments.pictures)]
    for name, value in vars(arguments).items():
        known = name in vars(fresh.parse_args([])) and name not in _NOT_IN_COMMAND
        if known and value != fresh.get_default(name):
            words.append(f"--{name.replace('_', '-')}")
            words += [str(v) for v in (value if isinstance(value, list) else [value])]
    return shlex.join(words)


_NOT_IN_COMMAND = ("pictures", "out", "save_stats", "quiet", "device", "bundled")


def _wanted(arguments: argparse.Namespace) -> list[str]:
    if arguments.metrics:
        return list(dict.fromkeys(arguments.metrics))
    if arguments.reference is not None:
        return list(METRICS[:4])
    if arguments.save_stats is not None:
        return []
    raise GlideError(
        "there is nothing to measure. Expected --metrics, a --reference, or --save-stats. For "
        "example: glide evaluate PICTURES --metrics clip-score retrieval"
    )


def _pictures(arguments: argparse.Namespace) -> Pictures:
    from glide_core.evaluation.pictures import find_pictures

    found = find_pictures(arguments.pictures, crop=arguments.crop, size=arguments.size)
    if arguments.captions is not None:
        found = found.captioned(arguments.captions)
    return found.chosen(arguments.n, arguments.seed)


def _reference(
    arguments: argparse.Namespace, extractor: FeatureExtractor, device: object
) -> Measured | None:
    from glide_core.evaluation import stats_file
    from glide_core.evaluation.pictures import find_pictures

    where = arguments.reference
    if where is None:
        return None
    if str(where).lower().endswith(".npz"):
        return stats_file.load_stats(Path(where))
    pictures = find_pictures(where, crop=arguments.crop, size=arguments.size)
    return _read(arguments, extractor, pictures, device, "reference", captions=False)


def _read(
    arguments: argparse.Namespace,
    extractor: FeatureExtractor,
    pictures: Pictures,
    device: object,
    label: str,
    *,
    captions: bool,
) -> Measured:
    from glide_core.evaluation import measure

    with _progress(label, len(pictures), arguments.quiet) as progress:
        found = measure.read_features(
            extractor,
            pictures,
            batch=arguments.batch,
            device=device,  # type: ignore[arg-type]  # a torch.device, which --help cannot import
            captions=captions,
            progress=progress,
        )
    for reason in found.skipped[:_MOST_NAMED]:
        log.warning("left out: %s", reason)
    if len(found.skipped) > _MOST_NAMED:
        log.warning("left out: %d more", len(found.skipped) - _MOST_NAMED)
    return found


@contextmanager
def _progress(label: str, total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    with tqdm(desc=label, total=total, unit="picture", disable=quiet) as bar:
        yield bar.update


def _check_free(path: Path | None) -> None:
    """Refuse a file that is there already, or a folder that is not, before any work is done."""
    if path is None:
        return
    if path.exists():
        raise GlideError(f"{path} exists already. Expected a new name: nothing is overwritten.")
    if not path.absolute().parent.is_dir():
        raise GlideError(f"{path.parent} is no folder. Expected one to write {path.name} in.")


def _bundled(arguments: argparse.Namespace) -> int:
    from glide_core.evaluation import bundled

    if not arguments.bundled.is_file():
        raise GlideError(
            f"there is no file {arguments.bundled}. Expected the store of training drawings that "
            "`glide train` makes."
        )
    bundled.main([str(arguments.bundled)])
    return 0
