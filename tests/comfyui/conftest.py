"""A real ComfyUI for the tests: inside this process, and as a server."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tools.comfyui import NO_COMFYUI, REPOSITORY, MissingError, browser
from tools.comfyui.checkpoints import Checkpoints, write_checkpoints
from tools.comfyui.inside import Inside, import_comfyui
from tools.comfyui.serving import Server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "bundled: needs the trained models that ship with the pack")
    if importlib.util.find_spec("glide_pack") is None:  # ComfyUI's Python has no pip install of it
        spec = importlib.util.spec_from_file_location("glide_pack", REPOSITORY / "__init__.py")
        assert spec is not None and spec.loader is not None
        sys.modules["glide_pack"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "COMFYUI_PATH" not in os.environ:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=NO_COMFYUI))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with a `builtin_sampler` once for every sampler that this ComfyUI has."""
    if "builtin_sampler" in metafunc.fixturenames:
        names = ["euler"]  # skipped: no ComfyUI to ask
        if "COMFYUI_PATH" in os.environ:
            names = import_comfyui().KSampler.SAMPLERS
        metafunc.parametrize("builtin_sampler", names)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Tiny random-weight checkpoints of every kind, in the form of a ComfyUI base directory."""
    return write_checkpoints(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def comfy(checkpoints: Checkpoints) -> Inside:
    """ComfyUI imported into this process, with the pack loaded the way it loads custom nodes."""
    return Inside(checkpoints)


@pytest.fixture(scope="session")
def server(checkpoints: Checkpoints) -> Iterator[Server]:
    with Server(checkpoints) as running:
        yield running


@pytest.fixture(scope="session")
def editor() -> Any:
    """The function that opens the interface in a browser; skips the tests where there is none."""
    try:
        browser.find_chromium()
    except MissingError as error:
        pytest.skip(str(error))
    return browser.editor


@pytest.fixture(scope="session")
def photo(server: Any) -> None:
    """An image whose right half is transparent; LoadImage returns that half as the mask."""
    photo = Image.new("RGBA", (96, 80), (200, 80, 40, 255))
    photo.paste((0, 0, 0, 0), (48, 0, 96, 80))
    photo.save(server.checkpoints.base_directory / "input" / "photo.png")
