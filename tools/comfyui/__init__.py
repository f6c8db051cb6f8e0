"""A real ComfyUI for tests and tools: in this process, as a server, and in a browser."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NO_COMFYUI = "no ComfyUI: set COMFYUI_PATH to a checkout (0.3.64 or newer)"


class MissingError(SystemExit):
    """What a helper needs is not installed; the message says what to do.

    A SystemExit, so that a tool prints the message without a traceback. Tests are skipped.
    """


def comfyui_path() -> Path:
    """The checkout that COMFYUI_PATH names."""
    if "COMFYUI_PATH" not in os.environ:
        raise MissingError(NO_COMFYUI)
    return Path(os.environ["COMFYUI_PATH"]).resolve()
