"""GLIDE (Nichol et al. 2021, arXiv 2112.10741) as a library: needs torch, never ComfyUI."""

__version__ = "0.1.0"  # and in pyproject.toml, where registries read it; a test compares
