"""Training data: people's own pictures in folders, lists and shards, checked and drawn from."""

from glide_core.data.check import DataReport
from glide_core.data.opening import open_source
from glide_core.data.types import Batch, Source

__all__ = ["Batch", "DataReport", "Source", "open_source"]
