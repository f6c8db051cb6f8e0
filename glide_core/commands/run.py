"""`glide run`: a ComfyUI workflow, here or on a server."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from glide_core import png, workflow
from glide_core.commands import options
from glide_core.errors import GlideError
from glide_core.workflow import check, overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a workflow that ComfyUI saved: its UI format or its API format. Here it can hold this "
        "pack's nodes and LoadImage, LoadImageMask, SaveImage, PreviewImage, CLIPTextEncode, "
        "EmptyLatentImage, VAEDecode, VAEEncode; with --server, whatever the server has."
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
        "--server", metavar="URL", help="run it in this ComfyUI, for example http://127.0.0.1:8188"
    )
    options.add_output(parser)
    options.add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    data = workflow.load_json(arguments.workflow)
    png.check_folder(arguments.out)
    paths = _on_server(data, arguments) if arguments.server else _here(data, arguments)
    for path in paths:
        print(path)
    return 0


def _here(data: Any, arguments: argparse.Namespace) -> list[Path]:
    try:  # by name: nothing in glide_core knows the nodes, and only this command needs them
        nodes: Any = importlib.import_module("glide_pack.nodes")
        host: Any = importlib.import_module("glide_pack.nodes.host")
        standalone: Any = importlib.import_module("glide_pack.nodes.host.standalone")
        execute: Any = importlib.import_module("glide_pack.nodes.host.execute")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("glide_pack"):
            raise
        raise GlideError(
            "the pack's nodes are not installed. Expected the package glide_pack beside "
            "glide_core. Run `pip install -e .` in the pack's folder."
        ) from error
    folder = arguments.workflow.resolve().parent
    place = execute.Place((folder, folder / "inputs", Path.cwd()), arguments.out)
    here = standalone.StandaloneHost(
        device=arguments.device, dtype=arguments.dtype, show_progress=not arguments.quiet
    )
    with host.using(here):
        pack = nodes.NODE_CLASS_MAPPINGS
        schemas = execute.schemas(pack, nodes.NODE_DISPLAY_NAME_MAPPINGS, place)
        graph = overrides.apply(workflow.read(data, schemas), arguments.set, schemas)
        graph, wanted = check.check(graph, schemas)
        place.text["prompt"] = graph.to_api()
        if graph.ui is not None:
            place.text["workflow"] = graph.ui
        paths: list[Path] = execute.execute(graph, wanted, pack, place)
        return paths


def _on_server(data: Any, arguments: argparse.Namespace) -> list[Path]:
    from glide_core.workflow.server import Server, store

    server = Server(arguments.server)
    schemas = server.schemas()
    graph = overrides.apply(workflow.read(data, schemas), arguments.set, schemas)
    prompt_id = server.submit(graph)

    def report(state: str) -> None:
        if not arguments.quiet:
            print(f"{server.url}: {state}", file=sys.stderr)

    try:
        entry = server.wait(prompt_id, report)
    except KeyboardInterrupt:
        server.cancel(prompt_id)
        raise
    return store(server.images(entry), arguments.out)
