"""`glide run`: run a ComfyUI workflow, here or on a ComfyUI server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from glide_core import io
from glide_core.cli import options
from glide_core.errors import UsageError

from .. import Host, using
from . import check, execute, workflow
from .builtin_nodes import Place
from .host import StandaloneHost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a workflow that ComfyUI saved, in its UI format or its API format. Without --server "
        "it may hold this pack's nodes and the built-in nodes of the example workflows; with "
        "--server, every node that the server has."
    )
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change a widget; NODE is an id, a title or a class: GlideSampler.seed=7",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help="run it on this ComfyUI server, for example http://127.0.0.1:8188",
    )
    parser.add_argument(
        "--timeout",
        type=options.not_negative,
        metavar="SECONDS",
        help="with --server: how long to wait for the workflow (default: until it has ended)",
    )
    options.add_group(parser, "output")
    group = parser.add_argument_group("device")
    options.add(group, "--device", "--dtype", "--threads")


def run(arguments: argparse.Namespace) -> int:
    if arguments.timeout is not None and not arguments.server:
        raise UsageError("--timeout is for a ComfyUI server. Expected --server URL with it.")
    data = workflow.load_json(arguments.workflow)
    io.check_folder(arguments.out)
    settings, out, quiet = arguments.set, arguments.out, arguments.quiet
    paths: Iterable[Path]
    if arguments.server:
        paths = _on_server(data, settings, arguments.server, out, arguments.timeout, quiet=quiet)
    else:
        folder = arguments.workflow.resolve().parent
        place = Place((folder, folder / "inputs", Path.cwd()), out)
        host = StandaloneHost(arguments.device, arguments.dtype, show_progress=not quiet)
        paths = _here(data, settings, place, host)
    for path in paths:
        print(path, flush=True)
    return 0


def _here(data: Any, settings: Sequence[str], place: Place, host: Host) -> list[Path]:
    """Run a workflow in this process, with `settings` of --set; return the files written."""
    from ... import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    with using(host):
        pack = NODE_CLASS_MAPPINGS
        schemas = execute.schemas(pack, NODE_DISPLAY_NAME_MAPPINGS, place)
        graph = workflow.set_widgets(workflow.read(data, schemas), settings, schemas)
        graph, wanted = check.check(graph, schemas)
        place.text["prompt"] = graph.to_api()
        if graph.ui is not None:
            place.text["workflow"] = graph.ui
        return execute.execute(graph, wanted, pack, place)


def _on_server(
    data: Any,
    settings: Sequence[str],
    url: str,
    out: Path,
    timeout: float | None,
    *,
    quiet: bool,
) -> Iterator[Path]:
    """Run a workflow on a ComfyUI server; yield the files of its images as they are saved."""
    from .client import Server, cancel_quietly

    server = Server(url)
    schemas = server.schemas()
    graph = workflow.set_widgets(workflow.read(data, schemas), settings, schemas)
    check.check_known(graph, schemas, f"Install their packs in the ComfyUI at {server.url}.")
    prompt_id = server.submit(graph)

    def report(state: str) -> None:
        if not quiet:
            print(f"{server.url}: {state}", file=sys.stderr)

    try:
        entry = server.wait(prompt_id, report, seconds=timeout)
    except KeyboardInterrupt:
        cancel_quietly(server, prompt_id)
        raise
    yield from server.save_images(entry, out)
