"""Before and after: where nothing can show them, a node's outputs are what they were."""

from __future__ import annotations

import torch
from glide_pack.nodes.host.standalone import StandaloneHost


def test_outside_comfyui_a_node_gives_its_plain_outputs() -> None:
    before, after = torch.rand(1, 8, 8, 3), torch.rand(2, 16, 16, 3)
    result = (after, before)
    assert StandaloneHost().compared(before, after, result) is result
