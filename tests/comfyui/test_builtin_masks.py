"""The stand-ins of `glide run` for built-in mask and image nodes equal ComfyUI's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def both(comfy: Any, node: str, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    stand_in = comfy.module("nodes.host.standalone.builtin_masks").MASK_NODES[node][0](None)
    (ours,) = getattr(stand_in, stand_in.FUNCTION)(**inputs)
    return ours, comfy(node, **inputs)


def soft(batch: int = 1, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.rand(batch, height, width, generator=torch.Generator().manual_seed(batch))


def test_empty_image_and_solid_mask(comfy: Any) -> None:
    color = 0x7E4AC1
    ours, comfyui = both(comfy, "EmptyImage", width=5, height=4, batch_size=2, color=color)
    assert ours.shape == (2, 4, 5, 3) and torch.equal(ours, comfyui)
    ours, comfyui = both(comfy, "SolidMask", value=0.3, width=5, height=4)
    assert ours.shape == (1, 4, 5) and torch.equal(ours, comfyui)


@pytest.mark.parametrize("sides", [(3, 4, 5, 6), (0, 0, 0, 0), (1, 0, 0, 40)])
def test_feather_mask(comfy: Any, sides: tuple[int, ...]) -> None:
    probe = comfy("FeatherMask", mask=torch.ones(1, 4, 4), left=0, top=0, right=2, bottom=0)
    if probe[0, 0, 0] != 1:
        pytest.skip("this ComfyUI feathers the wrong columns on the right; fixed upstream since")
    names = dict(zip(("left", "top", "right", "bottom"), sides, strict=True))
    ours, comfyui = both(comfy, "FeatherMask", mask=soft(2), **names)
    torch.testing.assert_close(ours, comfyui)


@pytest.mark.parametrize("operation", ["multiply", "add", "subtract", "and", "or", "xor"])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (7, 3), (25, 15)])
def test_mask_composite(comfy: Any, operation: str, x: int, y: int) -> None:
    mask = {"destination": soft(2), "source": soft(1, 10, 12), "x": x, "y": y}
    ours, comfyui = both(comfy, "MaskComposite", operation=operation, **mask)
    torch.testing.assert_close(ours, comfyui)


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("mask", [None, (1, 10, 12), (1, 5, 7)])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (7, 3), (25, 15)])
def test_image_composite_masked(comfy: Any, resize: bool, mask: Any, x: int, y: int) -> None:
    def image(batch: int, height: int, width: int) -> torch.Tensor:
        return torch.stack([soft(batch + i, height, width)[:batch] for i in range(3)], dim=-1)

    inputs = {"destination": image(2, 20, 30), "source": image(1, 10, 12), "x": x, "y": y}
    inputs |= {"resize_source": resize}
    if mask is not None:
        inputs["mask"] = soft(*mask)
    before = inputs["destination"].clone()
    ours, comfyui = both(comfy, "ImageCompositeMasked", **inputs)
    torch.testing.assert_close(ours, comfyui)
    assert torch.equal(inputs["destination"], before)
