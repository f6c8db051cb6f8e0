"""User-facing errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class GlideError(ValueError):
    """An error that the user can correct: the message says what is wrong and what is allowed.

    setting: the parameter to change, where the message does not name it; the command adds its
    option.
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class UsageError(GlideError):
    """Options that do not fit together, or a name that does not exist (exit status 2)."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, SystemError):  # C code failed without an exception: elsewhere it is a bug
        try:
            import resource
        except ImportError:  # Windows
            return False
        return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    text = str(error).lower()
    signs = (
        "out of memory",
        "allocate memory",
        "not enough memory",
        "invalid buffer size",
        "bad_alloc",  # C++
        "could not create a primitive",  # oneDNN's
        "failed to map segment",  # of a library that is loaded
        "can't start new thread",  # its stack does not fit
    )
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def shorten(value: object, length: int = 80) -> str:
    """Text for an error message: one line of at most `length` characters."""
    text = " ".join(str(value).split())
    if len(text) <= length:
        return text
    start = (length - 3) // 3  # the end of a path says more than its start
    return f"{text[:start]}...{text[start + 3 - length :]}"


@contextmanager
def as_glide_error(
    message: str,
    kinds: type[Exception] | tuple[type[Exception], ...] = Exception,
    setting: str = "",
) -> Iterator[None]:
    """Turn exceptions of these kinds into a GlideError: "MESSAGE: reason".

    Not those of a lack of memory, which says nothing of what was read.
    """
    try:
        yield
    except GlideError:
        raise
    except kinds as error:
        if is_out_of_memory(error):
            raise
        reason = shorten(getattr(error, "strerror", None) or error, 200) or type(error).__name__
        raise GlideError(f"{message}: {reason}", setting) from error
