"""JSON as a file's header has it: one meaning, or refused."""

from __future__ import annotations

import json
from typing import Any

from ._names import shown


def parsed(data: bytes, what: str) -> Any:
    """Read JSON in which no key stands twice.

    Args:
        data: UTF-8 text.
        what: is read, for messages.

    Raises:
        ValueError: if it has no meaning, or more than one; the message is the cause alone.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8 text (byte {error.start})") from None
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except _Twice as error:
        raise ValueError(f"{what} has the key {error} twice") from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} is not JSON ({error})") from None


class _Twice(Exception):
    """A key stands twice in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; Python, and the safetensors library too, would silently take the last of equal keys."""
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        raise _Twice(next(shown(key) for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return result


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
