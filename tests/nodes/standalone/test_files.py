"""Workflow files as bytes on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from glide_pack.nodes.host.standalone import workflow

from glide_core.errors import GlideError


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    path.write_text('{"nodes": []}', encoding="utf-8-sig")
    assert workflow.load_json(path) == {"nodes": []}


def test_a_file_that_is_not_json_says_which_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{\n "1": {\n')
    with pytest.raises(GlideError, match=r"broken.json is not JSON \(line 3"):
        workflow.load_json(path)
    with pytest.raises(GlideError, match="does not exist"):
        workflow.load_json(tmp_path / "none.json")
