"""Values of options: read from text, refused with their range."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


def number(option: str, kind: type, low: float, high: float) -> Callable[[Any], Any]:
    """A parser of numbers in a range, which says the range."""

    def parse(text: Any) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            hint = f". For example {option} 0.5" if (low, high) == (0, 1) else ""
            raise typer.BadParameter(f"`{option}` must be {kind.__name__} in [{low}, {high}], got {text!r}{hint}")
        return value

    parse.__name__ = kind.__name__  # what the help shows
    return parse


def picture(text: Any) -> Path:
    """A path that a picture can be written to."""
    path = Path(text)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise typer.BadParameter(f"`--out` must end in .png, .pdf or .svg, got {text!r}")
    return path
