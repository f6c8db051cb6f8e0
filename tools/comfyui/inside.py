"""ComfyUI inside this process, called as its executor calls it: under inference mode."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tools.comfyui import REPOSITORY, comfyui_path
from tools.comfyui.checkpoints import Checkpoints


def import_comfyui() -> Any:
    """Import $COMFYUI_PATH into this process, for the CPU; gives its `comfy.samplers`."""
    sys.path.insert(0, str(comfyui_path()))  # before this repository, which has a `nodes`, too
    args = importlib.import_module("comfy.cli_args").args
    args.cpu = True  # before comfy.model_management looks for a GPU
    return importlib.import_module("comfy.samplers")


def _defaults(cls: Any) -> dict[str, Any]:
    required = cls.INPUT_TYPES()["required"]
    return {name: entry[1]["default"] for name, entry in required.items() if "default" in entry[1]}


class Inside:
    """Nodes of ComfyUI and of the pack as functions: `comfy("KSampler", seed=0, ...)`."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        torch.set_num_threads(1)
        self.samplers = import_comfyui()
        args = importlib.import_module("comfy.cli_args").args
        args.preview_method = type(args.preview_method)("auto")
        self.args = args
        folder_paths = importlib.import_module("folder_paths")
        folder_paths.models_dir = str(checkpoints.base_directory / "models")
        folder_paths.set_output_directory(str(checkpoints.base_directory / "output"))
        folder_paths.set_input_directory(str(checkpoints.base_directory / "input"))
        self.nodes = importlib.import_module("nodes")
        self.management = importlib.import_module("comfy.model_management")
        self.utils = importlib.import_module("comfy.utils")
        before = set(self.nodes.NODE_CLASS_MAPPINGS)
        loaded = asyncio.run(self.nodes.load_custom_node(str(REPOSITORY)))
        assert loaded, "ComfyUI could not load the pack; its log says why"
        self.ours = sorted(set(self.nodes.NODE_CLASS_MAPPINGS) - before)
        self.extras = comfyui_path() / "comfy_extras"
        for name in ("custom_sampler", "model_merging"):
            self.load_extra(self.extras / f"nodes_{name}.py")
        self.checkpoints = checkpoints
        self.package = str(REPOSITORY).replace(".", "_x_")  # the name ComfyUI gives the pack

    def module(self, name: str) -> Any:
        """Import a module of the loaded pack, such as "nodes.host"."""
        return importlib.import_module(f"{self.package}.{name}")

    def load_extra(self, file: Path) -> None:
        """Load one file of ComfyUI's extra nodes; some need packages that are not installed."""
        asyncio.run(self.nodes.load_custom_node(str(file), module_parent="comfy_extras"))

    def find(self, node: str) -> Any:
        """Give a node's class, loading ComfyUI's file that defines it; None if there is none."""
        if node not in self.nodes.NODE_CLASS_MAPPINGS:
            for file in sorted(self.extras.glob("nodes_*.py")):
                text = file.read_text(encoding="utf-8")
                if f'"{node}"' in text or f"'{node}'" in text:
                    self.load_extra(file)
        return self.nodes.NODE_CLASS_MAPPINGS.get(node)

    def __call__(self, node: str, /, **inputs: Any) -> Any:
        """Run a node; a single output comes without its tuple."""
        cls = self.find(node)
        with torch.inference_mode():
            if hasattr(cls, "define_schema"):
                result = cls.execute(**inputs)
                result = getattr(result, "result", result)
            else:
                if node in self.ours:  # widgets that the caller does not set keep their defaults
                    inputs = {**_defaults(cls), **inputs}
                result = getattr(cls(), cls.FUNCTION)(**inputs)
        if isinstance(result, dict):
            result = result.get("result", ())
        result = () if result is None else result
        return result[0] if len(result) == 1 else result

    def load(self, name: str = "base") -> tuple[Any, Any, Any]:
        """Load one of the tiny base models: MODEL, CLIP, VAE."""
        return self("GlideLoader", checkpoint=f"{name}.safetensors", dtype="float32")

    def load_upsampler(self, name: str = "upsampler") -> Any:
        return self("GlideUpsamplerLoader", checkpoint=f"{name}.safetensors", dtype="float32")

    def load_clip(self) -> Any:
        """Load the tiny noisy CLIP."""
        return self("GlideClipLoader", checkpoint="clip.safetensors", dtype="float32")

    def prompt(self, clip: Any, text: str) -> Any:
        return self("CLIPTextEncode", clip=clip, text=text)

    def ksampler(self, model: Any, positive: Any, negative: Any, **changes: Any) -> torch.Tensor:
        """ComfyUI's KSampler on an empty latent of one image; gives the samples."""
        inputs = {
            "seed": 0,
            "steps": 4,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "latent_image": self.empty(),
            "denoise": 1.0,
            **changes,
        }
        out = self("KSampler", model=model, positive=positive, negative=negative, **inputs)
        return out["samples"].clone()

    def empty(self, batch: int = 1, size: int = 64) -> dict[str, torch.Tensor]:
        return {"samples": torch.zeros(batch, 3, size, size)}

    @contextmanager
    def progress(self, stop_at: int | None = None) -> Iterator[list[tuple[int, int, Any]]]:
        """Collect (value, total, preview) of every progress report, as the server's hook would.

        stop_at: interrupt when this value is reported.
        """
        reports: list[tuple[int, int, Any]] = []

        def hook(value: int, total: int, preview: Any, **unused: Any) -> None:
            self.management.throw_exception_if_processing_interrupted()
            reports.append((value, total, preview))
            if value == stop_at:
                self.management.interrupt_current_processing()

        self.utils.set_progress_bar_global_hook(hook)
        try:
            yield reports
        finally:
            self.utils.set_progress_bar_global_hook(None)
            self.management.interrupt_current_processing(False)
