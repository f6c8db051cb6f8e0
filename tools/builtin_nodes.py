"""Record the inputs and outputs of the built-in nodes in our workflows: builtin_nodes.json.

    COMFYUI_PATH=... python -m tools.builtin_nodes

Run it from the repository's root when a workflow uses another node of ComfyUI. Tests check
the workflow files against tests/nodes/builtin_nodes.json, without ComfyUI. It holds only what a
file can get wrong: names, types, order, and the options that add widgets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tools.comfyui import REPOSITORY
from tools.comfyui.checkpoints import temporary_checkpoints
from tools.comfyui.inside import Inside

RECORD = REPOSITORY / "tests" / "nodes" / "builtin_nodes.json"
KEPT = ("forceInput", "control_after_generate", "image_upload", "min", "max")


def types_in_files(comfy: Inside) -> set[str]:
    """Return the types of nodes in our workflows and blueprints, without ours and the editor's."""
    notes = comfy.module("nodes.host.standalone.ui_format").NOTES
    found: set[str] = set()
    for folder in ("example_workflows", "subgraphs"):
        for path in (REPOSITORY / folder).glob("*.json"):
            data = json.loads(path.read_text(encoding="utf-8"))
            inner = data.get("definitions", {}).get("subgraphs", [])
            types = {node["type"] for graph in (data, *inner) for node in graph["nodes"]}
            found |= types - {graph["id"] for graph in inner}
    return {name for name in found if not name.startswith("Glide")} - {
        *notes,
        "Reroute",
        "PrimitiveNode",
    }


def recorded(comfy: Inside, names: Iterable[str]) -> dict[str, Any]:
    """The nodes as in /object_info, without values that depend on the machine."""
    found: dict[str, Any] = {}
    for name in sorted(names):
        node = comfy.find(name)
        assert node is not None, f"this ComfyUI has no node {name}"
        declared = node.INPUT_TYPES()
        found[name] = {
            "input": {
                group: {key: entry_of(entry) for key, entry in declared[group].items()}
                for group in ("required", "optional")
                if declared.get(group)
            },
            "output": [kind if isinstance(kind, str) else "COMBO" for kind in node.RETURN_TYPES],
            "output_node": bool(getattr(node, "OUTPUT_NODE", False)),
        }
    return found


def entry_of(entry: Any) -> list[Any]:
    kind, *options = entry
    given = options[0] if options else {}
    return [
        kind if isinstance(kind, str) else "COMBO",
        {key: given[key] for key in KEPT if given.get(key) is not None},
    ]


def main() -> None:
    with temporary_checkpoints() as checkpoints:
        comfy = Inside(checkpoints)
        text = json.dumps(recorded(comfy, types_in_files(comfy)), indent=1)
        RECORD.write_text(text + "\n", encoding="utf-8")
    print(RECORD, len(text))


if __name__ == "__main__":
    main()
