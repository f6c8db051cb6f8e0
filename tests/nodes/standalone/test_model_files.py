"""The loaders' lists of files, whatever lies in a folder of models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from glide_pack.nodes import NODE_CLASS_MAPPINGS
from glide_pack.nodes.host import using
from glide_pack.nodes.host.standalone import StandaloneHost

LOADERS = ("GlideLoader", "GlideUpsamplerLoader", "GlideClipLoader")


@pytest.mark.parametrize("node", LOADERS)
def test_a_bad_file_never_breaks_a_loader_s_list(node: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for good in ("good.safetensors", "below/good.PT"):
        (tmp_path / good).write_bytes(b"anything: files are listed by name")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop").symlink_to(tmp_path)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.pt"))).touch()
    (tmp_path / "closed").mkdir(mode=0)
    with using(StandaloneHost(folders=(tmp_path / "missing", tmp_path))):
        choices = NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]["checkpoint"][0]
    assert {"good.safetensors", "below/good.PT", "empty.pt"} <= set(choices)
    assert not {"folder.safetensors", "dangling.pt", "pipe.pt"} & set(choices)
    assert json.loads(json.dumps(choices)) == choices
