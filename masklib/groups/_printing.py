"""Groups values print as the call that makes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def call(value: Any) -> str:
    """The call with every field that has no default."""
    return printed(value, (f"{n}={getattr(value, n)!r}" for n in value._fields if n not in value._field_defaults))


def printed(value: Any, given: Iterable[str]) -> str:
    """A call of what is given, and of the options that are not the default."""
    options = (f"{n}={getattr(value, n)!r}" for n, v in value._field_defaults.items() if getattr(value, n) != v)
    return f"{type(value).__name__.lower()}({', '.join([*given, *options])})"
