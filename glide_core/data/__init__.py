"""Captioned images in folders, lists and webdataset shards."""

from glide_core.data.check import DataReport
from glide_core.data.source import open_source
from glide_core.data.types import Batch, Source

__all__ = ["Batch", "DataReport", "Source", "open_source"]
