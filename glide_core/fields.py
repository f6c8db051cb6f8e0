"""Field types and error messages of the pydantic configs.

pydantic's own messages take several lines and quote types; people who edit a config or load a file
get one sentence per field here: its name, its value, and what is allowed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, get_args

from pydantic import ConfigDict, Field, ValidationError

from glide_core.errors import GlideError, as_glide_error, shorten

if TYPE_CHECKING:
    from typing_extensions import Self

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MAX_JSON = 1 << 16  # characters; a whole config has about 1,000
_MAX_FAULTS = 3  # fields that one error lists
_Config = TypeVar("_Config")


def in_range(low: float, high: float, *, or_none: bool = False) -> Any:
    """A number from `low` to `high`, both included; neither a string nor a bool counts as one."""
    allowed = f"{low} to {high}" + (", or None" if or_none else "")
    return Field(strict=True, ge=low, le=high, description=allowed)


def one_of(choices: Any) -> Any:
    """One value of a Literal type."""
    return Field(description=f"one of {', '.join(get_args(choices))}")


def check_divides(part: str, divisor: int, whole: str, sizes: Iterable[int]) -> None:
    """Raise GlideError when `divisor` does not divide every size."""
    if wrong := [size for size in sizes if size % divisor]:
        raise GlideError(f"{part} is {divisor}, which does not divide {whole} {wrong[0]}.")


def checked(cls: type[_Config]) -> type[_Config]:
    """Make the constructor of a pydantic dataclass raise GlideError for invalid fields."""
    init = cls.__init__

    @functools.wraps(init)
    def initialise(self: Any, /, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *map(_plain, args), **{name: _plain(v) for name, v in kwargs.items()})
        except ValidationError as error:
            faults = error.errors(include_url=False)[:_MAX_FAULTS]
            raise GlideError(" ".join(_sentence(cls, fault) for fault in faults)) from None

    setattr(cls, "__init__", initialise)  # noqa: B010 (mypy: a method cannot be assigned to)
    return cls


def _plain(value: Any) -> Any:
    """A number of numpy as Python's."""
    is_number = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_number else value


class JsonConfig:
    """A config, a class that is `checked`, in the metadata of a file."""

    marker: ClassVar[str]  # a key that says what the JSON is, and no field
    needed: ClassVar[tuple[str, ...]]  # fields without which JSON is not this config

    def to_json(self) -> str:
        return json.dumps({self.marker: 1, **asdict(cast(Any, self))}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; GlideError names the first fields that are not valid."""
        with as_glide_error(f"not a {cls.__name__}", (ValueError, TypeError, RecursionError)):
            if len(text) > _MAX_JSON:
                raise ValueError(f"it has {len(text):,} characters, at most {_MAX_JSON:,} are read")
            raw = json.loads(text)
            if not isinstance(raw, dict):
                raise ValueError(f"it is {short(raw)} and not a JSON object")
            if missing := [name for name in cls.needed if name not in raw]:
                raise ValueError(f"it has no {missing[0]}")
            raw.pop(cls.marker, None)
            return cls(**raw)


def short(value: Any) -> str:
    """The repr of any value for a message, at most 60 characters."""
    try:
        return shorten(repr(value), 60)
    except ValueError:  # an integer of thousands of digits
        return f"a huge {type(value).__name__}"


def _sentence(cls: type, found: Mapping[str, Any]) -> str:
    """Say in words what pydantic found: the field with its value, and what is allowed."""
    if found["type"] == "value_error":  # a rule between fields, from __post_init__
        return str(found["ctx"]["error"])
    owner: Any = cls
    expected = ""
    for part in found["loc"]:
        field = getattr(owner, "__pydantic_fields__", {}).get(part)
        if field is not None:
            owner, expected = field.annotation, field.description or ""
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in found["loc"])
    name = name.removeprefix(".")
    if found["type"] == "unexpected_keyword_argument":
        return f"Unknown field {short(name)}. Expected {', '.join(_names(owner))}."
    if found["type"] == "dataclass_type":
        expected = expected or f"an object with the fields {', '.join(_names(owner))}"
    return f"{name} is {short(found['input'])}. Expected {expected or found['msg']}."


def _names(cls: Any) -> Iterable[str]:
    return getattr(cls, "__pydantic_fields__", {})
