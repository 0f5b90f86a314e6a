"""Groups values print as the call that makes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any


def call(value: Any) -> str:
    """The call with every field that has no default."""
    required = (field.name for field in fields(value) if field.default is MISSING)
    return printed(value, (f"{name}={getattr(value, name)!r}" for name in required))


def printed(value: Any, given: Iterable[str]) -> str:
    """A call of what is given, and of the options that are not the default."""
    optional = {field.name: field.default for field in fields(value) if field.default is not MISSING}
    options = (f"{n}={getattr(value, n)!r}" for n, default in optional.items() if getattr(value, n) != default)
    return f"{type(value).__name__.lower()}({', '.join([*given, *options])})"
