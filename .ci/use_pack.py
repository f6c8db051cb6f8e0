"""Use an unpacked pack as ComfyUI does, by path: python -B use_pack.py FOLDER.

Fails when something of the pack is missing, or is found anywhere but in FOLDER. Generates an image
with the bundled model.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def load(folder: Path) -> Any:
    """Import the pack under a foreign name, where no `glide_core` is installed."""
    sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    sys.path = [entry for entry in sys.path if entry and not Path(entry, "glide_core").is_dir()]
    name = str(folder).replace(".", "_x_")  # ComfyUI's own way of naming a pack
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    pack = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    import glide_core

    assert Path(str(glide_core.__file__)).is_relative_to(folder), glide_core.__file__
    return pack


def look(pack: Any, folder: Path) -> None:
    """Every node declares itself and has its help page; every bundled model has its weights."""
    from glide_core.checkpoints.catalog import ENTRIES

    nodes = pack.NODE_CLASS_MAPPINGS
    assert nodes and set(nodes) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for name, node in nodes.items():
        assert node.INPUT_TYPES()
        assert (folder / pack.WEB_DIRECTORY / "docs" / f"{name}.md").is_file(), name
    files = [entry.path() for entry in ENTRIES if entry.bundled]
    assert len(files) >= 5
    assert all(file.is_file() and file.is_relative_to(folder) for file in files), files
    print(f"{len(nodes)} nodes: {', '.join(nodes)}")
    print(f"{len(files)} bundled models: {', '.join(file.name for file in files)}")


def generate(pack: Any) -> None:
    """Two steps of the bundled base model, through the nodes and their defaults."""

    def call(name: str, **inputs: Any) -> Any:
        node = pack.NODE_CLASS_MAPPINGS[name]()
        declared = [entry for group in node.INPUT_TYPES().values() for entry in group.items()]
        values = {
            key: options[0]["default"]
            for key, (_, *options) in declared
            if options and "default" in options[0]
        }
        return getattr(node, node.FUNCTION)(**{**values, **inputs})

    model, clip, _ = call("GlideLoader", checkpoint="bundled/base.safetensors")
    prompts = {
        name: call("GlideTextEncode", clip=clip, text=text)[0]
        for name, text in (("positive", "a fox on a blue background"), ("negative", ""))
    }
    latent = call("GlideEmptyLatent")[0]
    output = call("GlideSampler", model=model, latent_image=latent, steps=2, **prompts)
    image = output["result"][0] if isinstance(output, dict) else output[0]
    assert tuple(image.shape) == (1, 64, 64, 3)
    assert 0 <= image.min() < image.max() <= 1
    print(f"generated {tuple(image.shape)}")


if __name__ == "__main__":
    here = Path(sys.argv[1]).resolve()
    loaded = load(here)
    look(loaded, here)
    generate(loaded)
