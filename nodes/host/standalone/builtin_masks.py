"""Stand-ins for the built-in nodes with which the example workflows make images and masks.

Widgets and results are those of ComfyUI 0.33; any other built-in node needs --server.
"""

from __future__ import annotations

from typing import Any

MAX_SIDE = 16384  # pixels, as in ComfyUI


def pixels(default: int, least: int = 0) -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": default, "min": least, "max": MAX_SIDE, "step": 1})


class Standalone:
    """A node that reads and writes no files."""

    def __init__(self, place: Any) -> None:
        del place


class EmptyImage(Standalone):
    FUNCTION = "generate"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "width": pixels(512, 1),
                "height": pixels(512, 1),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1}),
            }
        }

    def generate(self, width: int, height: int, batch_size: int, color: int) -> tuple[Any]:
        import torch

        rgb = [(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
        return (torch.tensor(rgb).expand(batch_size, height, width, 3).clone(),)


class SolidMask(Standalone):
    FUNCTION = "solid"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        value = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})
        return {"required": {"value": value, "width": pixels(512, 1), "height": pixels(512, 1)}}

    def solid(self, value: float, width: int, height: int) -> tuple[Any]:
        import torch

        return (torch.full((1, height, width), value),)


class FeatherMask(Standalone):
    FUNCTION = "feather"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sides = {side: pixels(0) for side in ("left", "top", "right", "bottom")}
        return {"required": {"mask": ("MASK", {}), **sides}}

    def feather(self, mask: Any, left: int, top: int, right: int, bottom: int) -> tuple[Any]:
        faded = mask.reshape(-1, *mask.shape[-2:]).clone()
        for columns, near, far in ((faded, left, right), (faded.mT, top, bottom)):
            width = columns.shape[-1]
            for i in range(min(near, width)):
                columns[..., i] *= (i + 1) / min(near, width)
            for i in range(min(far, width)):
                columns[..., -1 - i] *= (i + 1) / min(far, width)
        return (faded,)


class MaskComposite(Standalone):
    FUNCTION = "combine"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        operations = ["multiply", "add", "subtract", "and", "or", "xor"]
        return {
            "required": {
                "destination": ("MASK", {}),
                "source": ("MASK", {}),
                "x": pixels(0),
                "y": pixels(0),
                "operation": (operations, {"default": operations[0]}),
            }
        }

    def combine(self, destination: Any, source: Any, x: int, y: int, operation: str) -> tuple[Any]:
        combined = destination.reshape(-1, *destination.shape[-2:]).clone()
        source = source.reshape(-1, *source.shape[-2:])
        under = combined[:, y : y + source.shape[-2], x : x + source.shape[-1]]
        over = source[:, : under.shape[-2], : under.shape[-1]]
        a, b = under.round().bool(), over.round().bool()
        results = {
            "multiply": lambda: under * over,
            "add": lambda: under + over,
            "subtract": lambda: under - over,
            "and": lambda: (a & b).float(),
            "or": lambda: (a | b).float(),
            "xor": lambda: (a ^ b).float(),
        }
        under.copy_(results[operation]())
        return (combined.clamp(0, 1),)


class ImageCompositeMasked(Standalone):
    FUNCTION = "composite"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "destination": ("IMAGE", {}),
                "source": ("IMAGE", {}),
                "x": pixels(0),
                "y": pixels(0),
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK", {})},
        }

    def composite(
        self, destination: Any, source: Any, x: int, y: int, resize_source: bool, mask: Any = None
    ) -> tuple[Any]:
        import torch
        from torch.nn.functional import interpolate

        from glide_core.images import cycle

        result = destination[..., :3].clone()
        source = source[..., :3].movedim(-1, 1)
        if resize_source:
            source = interpolate(source, result.shape[1:3], mode="bilinear")
        source = cycle(source, len(result)).movedim(1, -1)  # [B, H, W, C]
        weight = torch.ones_like(source[..., :1])
        if mask is not None:
            mask = mask.reshape(-1, 1, *mask.shape[-2:])
            mask = interpolate(mask, source.shape[1:3], mode="bilinear")
            weight = cycle(mask, len(result)).movedim(1, -1)
        under = result[:, y : y + source.shape[1], x : x + source.shape[2]]
        rows, columns = under.shape[1:3]
        weight = weight[:, :rows, :columns]
        under.copy_(weight * source[:, :rows, :columns] + (1 - weight) * under)
        return (result,)


MASK_NODES: dict[str, tuple[type[Standalone], str]] = {
    "EmptyImage": (EmptyImage, "EmptyImage"),
    "SolidMask": (SolidMask, "SolidMask"),
    "FeatherMask": (FeatherMask, "FeatherMask"),
    "MaskComposite": (MaskComposite, "MaskComposite"),
    "ImageCompositeMasked": (ImageCompositeMasked, "ImageCompositeMasked"),
}
