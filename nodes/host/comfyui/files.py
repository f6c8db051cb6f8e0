"""Where ComfyUI keeps this pack's models: the bundled ones first, then models/glide."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from glide_core.checkpoints.catalog import EXTENSIONS

from .. import Purpose
from ..files import bundled_names, bundled_path, folder_path

FOLDER = "glide"


def register() -> None:
    """Make models/glide one of ComfyUI's model folders; extra_model_paths.yaml may add others.

    Creates nothing on disk. Without extensions ComfyUI would list every file of the folder.
    """
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    extensions = folder_paths.folder_names_and_paths[FOLDER][1]
    if isinstance(extensions, set):
        extensions.update(EXTENSIONS)


def names(*purposes: Purpose) -> list[str]:
    """List "bundled/<file>" for the purposes, then all that lies in models/glide."""
    register()
    try:
        own = folder_paths.get_filename_list(FOLDER)
    except OSError:  # an unreadable folder must not take the node list down
        own = []
    return bundled_names(purposes) + [name.replace("\\", "/") for name in own]


def path(name: str) -> Path:
    """Resolve a listed name inside its folder; GlideError says what was looked for, and where."""
    register()
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    return bundled_path(name) or folder_path(name, folders)
