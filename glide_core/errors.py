"""The one exception for a person at the screen."""

from __future__ import annotations


class GlideError(ValueError):
    """Something the user can put right: what was wrong, what was expected, what to do."""
