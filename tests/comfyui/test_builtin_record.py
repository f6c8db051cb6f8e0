"""The record that checks our workflow files without ComfyUI agrees with this ComfyUI."""

from __future__ import annotations

import json
from typing import Any

from tools.builtin_nodes import RECORD, recorded, types_in_files
from tools.comfyui.inside import Inside

# with the inputs that glide_train_lora needs; its note says so
SINCE_0_24 = ("TrainLoraNode", "LoraModelLoader", "SaveLoRA")


def named(node: dict[str, Any]) -> list[tuple[str, str]]:
    groups = node["input"].values()
    return [(name, kind) for group in groups for name, (kind, _) in group.items()]


def test_every_builtin_node_of_our_workflows_matches_its_record(comfy: Inside) -> None:
    """A newer ComfyUI may have appended inputs and outputs: files without them stay good."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert set(record) >= types_in_files(comfy)
    train = comfy.find("TrainLoraNode")
    if train is None or "quantized_backward" not in train.INPUT_TYPES()["required"]:
        record = {name: node for name, node in record.items() if name not in SINCE_0_24}
    here = recorded(comfy, record)
    for name, node in record.items():
        inputs = named(here[name])
        assert [entry for entry in inputs if entry in named(node)] == named(node), name
        assert here[name]["output"][: len(node["output"])] == node["output"], name
