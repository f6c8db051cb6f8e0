"""Before and after, as temporary images that the browser shows over each other."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import nodes  # ComfyUI's own module

MAX_IMAGES = 4  # images of a batch


def compared(before: Tensor, after: Tensor) -> list[dict[str, Any]]:
    """Write up to MAX_IMAGES pairs of IMAGEs [B, H, W, C] as temporary files, and name them.

    A batch of one `before` belongs to every `after`.
    """
    count = min(len(after), MAX_IMAGES)
    old, new = (
        nodes.PreviewImage().save_images(batch[:count], filename_prefix=f"glide_{name}")
        for name, batch in (("before", before), ("after", after))
    )
    first, second = old["ui"]["images"], new["ui"]["images"]
    return [{"before": first[i % len(first)], "after": pair} for i, pair in enumerate(second)]
