"""ComfyUI workflows: reading both file formats, checking, sending to a server.

Knows nothing of any node pack: what a node takes and gives is passed in as `schema.NodeSchema`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError

from . import api_format, ui_format
from .graph import Graph, Link, Node
from .schema import InputSpec, NodeSchema

__all__ = ["Graph", "InputSpec", "Link", "Node", "NodeSchema", "load_json", "read"]


def load_json(path: Path) -> Any:
    """Read a workflow file; GlideError says where the JSON breaks."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise GlideError(
            f"there is no workflow {path}. Expected a ComfyUI workflow (.json). "
            "Check the path; the pack's own are in example_workflows/."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "not text"
        raise GlideError(
            f"{path} is not JSON ({where}: {error}). Expected a ComfyUI workflow. "
            "Save it again from ComfyUI."
        ) from error
    except (ValueError, RecursionError) as error:  # endless digits or brackets
        raise GlideError(
            f"{path} cannot be read as JSON: {error}. Expected a ComfyUI workflow. "
            "Save it again from ComfyUI."
        ) from error
    except OSError as error:
        raise GlideError(
            f"{path} cannot be read: {error.strerror}. Expected a ComfyUI workflow (.json)."
        ) from error


def read(data: Any, schemas: Mapping[str, NodeSchema]) -> Graph:
    """Read either format into a Graph; GlideError when it is neither."""
    if isinstance(data, Mapping) and api_format.is_api(data.get("prompt")):
        data = data["prompt"]  # what is posted to a server
    if api_format.is_api(data):
        return api_format.read(data)
    if isinstance(data, Mapping) and isinstance(data.get("nodes"), list):
        return ui_format.read(data, schemas)
    raise GlideError(
        "this JSON is not a ComfyUI workflow. Expected what ComfyUI's Save (nodes and links) or "
        "Export (API) (ids with a class_type) writes. Save the workflow again from ComfyUI."
    )
