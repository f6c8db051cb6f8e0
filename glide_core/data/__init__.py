"""Captioned images in folders, lists and webdataset shards."""
