"""Run nodes and saved workflows without ComfyUI; the client of a ComfyUI server."""

from .host import PixelVae, StandaloneClip, StandaloneHost, StandaloneModel

__all__ = ["PixelVae", "StandaloneClip", "StandaloneHost", "StandaloneModel"]
