"""What ComfyUI shows of the nodes: frozen ids and inputs, and a word on everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from glide_pack.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from glide_pack.nodes.host.standalone.schema import from_class

GOLDEN = Path(__file__).parent / "object_info.json"
NODES = sorted(NODE_CLASS_MAPPINGS.items())
FILE_CHOICES = ("checkpoint", "text_checkpoint", "weights")  # what is on the disk, not the schema


def declared(node: Any) -> list[tuple[str, str, Any, dict[str, Any]]]:
    return [
        (group, name, entry[0], entry[1] if len(entry) > 1 else {})
        for group, inputs in node.INPUT_TYPES().items()
        for name, entry in inputs.items()
    ]


def described(node: Any) -> dict[str, Any]:
    inputs = [
        [
            group,
            name,
            "FILES" if name in FILE_CHOICES else kind,
            None if name in FILE_CHOICES else options.get("default"),
            options.get("min"),
            options.get("max"),
        ]
        for group, name, kind, options in declared(node)
    ]
    widgets = from_class("", node).widgets
    names = [[spec.name, "control_after_generate"][: 1 + spec.has_control] for spec in widgets]
    return {
        "inputs": inputs,
        "widgets": [name for pair in names for name in pair],  # files hold values in this order
        "outputs": list(node.RETURN_TYPES),
        "output_names": list(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)),
        "output_node": bool(getattr(node, "OUTPUT_NODE", False)),
        "category": node.CATEGORY,
    }


def test_ids_inputs_types_and_defaults_are_what_was_frozen() -> None:
    """To change them on purpose: only append inputs, then write the printed text to the file."""
    found = json.dumps({name: described(node) for name, node in NODES}, indent=1) + "\n"
    assert json.loads(found) == json.loads(GOLDEN.read_text()), found


@pytest.mark.parametrize(("name", "node"), NODES)
def test_every_input_and_output_has_a_tooltip(name: str, node: Any) -> None:
    missing = [i for _, i, _, options in declared(node) if len(options.get("tooltip", "")) < 12]
    assert not missing
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES)
    assert all(len(text) >= 12 for text in node.OUTPUT_TOOLTIPS)


@pytest.mark.parametrize(("name", "node"), NODES)
def test_every_node_says_what_it_is_and_how_it_is_found(name: str, node: Any) -> None:
    assert len(node.DESCRIPTION) > 60
    assert len(node.SEARCH_ALIASES) >= 2
    assert node.CATEGORY.startswith("GLIDE/")
    assert NODE_DISPLAY_NAME_MAPPINGS[name].startswith("GLIDE ")
    assert callable(getattr(node, node.FUNCTION))


@pytest.mark.parametrize(("name", "node"), NODES)
def test_the_function_takes_exactly_the_declared_inputs(name: str, node: Any) -> None:
    import inspect

    parameters = list(inspect.signature(getattr(node, node.FUNCTION)).parameters)
    assert parameters[1:] == [i for _, i, _, _ in declared(node)]


@pytest.mark.parametrize(("name", "node"), NODES)
def test_optional_inputs_default_to_their_widgets_values(name: str, node: Any) -> None:
    import inspect

    function = inspect.signature(getattr(node, node.FUNCTION))
    for group, i, kind, options in declared(node):
        if group == "optional" and isinstance(kind, str) and kind in ("INT", "FLOAT", "STRING"):
            assert function.parameters[i].default == options["default"], i


@pytest.mark.parametrize(("name", "node"), NODES)
def test_validation_leaves_the_range_checks_to_comfyui(name: str, node: Any) -> None:
    """ComfyUI skips its own check of an input that VALIDATE_INPUTS names."""
    import inspect

    validate = getattr(node, "VALIDATE_INPUTS", None)
    named = set(inspect.signature(validate).parameters) if validate else set()
    unranged = {i for _, i, kind, _ in declared(node) if kind == "STRING" or isinstance(kind, list)}
    assert named <= unranged


def test_with_no_model_file_the_loaders_still_declare_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glide_core.checkpoints import catalog

    monkeypatch.setenv("GLIDE_MODELS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(catalog, "BUNDLED", tmp_path)
    for name in ("GlideLoader", "GlideUpsamplerLoader", "GlideClipLoader"):
        node: Any = NODE_CLASS_MAPPINGS[name]
        choices = node.INPUT_TYPES()["required"]["checkpoint"][0]
        assert len(choices) == 1
        answer = node.VALIDATE_INPUTS(checkpoint=choices[0])
        assert "models/glide" in answer
    assert not (tmp_path / "nowhere").exists()


def test_a_loader_runs_again_when_its_file_changes(model_folder: Path, tmp_path: Path) -> None:
    import os

    node: Any = NODE_CLASS_MAPPINGS["GlideLoader"]
    before = node.IS_CHANGED(checkpoint="tiny_base.safetensors", dtype="auto")
    assert before == node.IS_CHANGED(checkpoint="tiny_base.safetensors", dtype="auto")
    file = model_folder / "tiny_base.safetensors"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    assert before != node.IS_CHANGED(checkpoint="tiny_base.safetensors", dtype="auto")
    assert isinstance(before, str)  # a bool would compare equal for ever


def test_importing_the_pack_loads_nothing_heavy_and_touches_nothing(tmp_path: Path) -> None:
    code = """
import sys, torch
before = set(sys.modules), list(sys.path), torch.get_num_threads()
import glide_pack
assert "glide_core" in sys.modules and glide_pack.NODE_CLASS_MAPPINGS
heavy = {"diffusers", "open_clip", "transformers", "torchvision", "tqdm", "PIL.Image"}
new = set(sys.modules) - before[0]
assert not new & heavy, new & heavy
assert "nodes" not in sys.modules and "comfy" not in sys.modules
assert (sys.path, torch.get_num_threads()) == before[1:]
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
