"""ComfyUI workflows: reading both file formats, checking, sending to a server.

Knows nothing of any node pack: what a node takes and gives is passed in as `schema.NodeSchema`.
"""
