"""What messages say and show, and which names a file may give to its tensors."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Of ASCII and of Latin-1, some of which terminals obey; line ends of Unicode; marks that turn the direction of writing.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_OUTSIDE = re.compile(r"^(?:[/\\]|[A-Za-z]:[/\\])|(?:^|[/\\])\.\.(?:$|[/\\])")
_MOST = 120  # characters: a hostile header can hold a name of 100 MB


def shown(value: Any) -> str:
    """A value as messages show it: never longer than a line."""
    text = repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def a_path(value: Any, argument: str = "path") -> Path:
    """Read a path: text that the system can take as one."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(
            f"`{argument}` must be a path (str or pathlib.Path), got {shown(value)}. For example 'a.safetensors'."
        )
    text = os.fspath(value)
    if not text or "\0" in text:
        raise ValueError(f"`{argument}` must be a path, got {shown(text)}. For example 'a.safetensors'.")
    home = Path(text).parts[:1]
    if home and home[0].startswith("~") and not os.path.lexists(home[0]):
        raise ValueError(
            f"`{argument}` must be a path that the system knows, got {text!r}: only a shell reads `~` as a home. "
            f"Pass os.path.expanduser({text!r})."
        )
    return Path(text)


def wrong_name(name: str) -> str:
    """Why a tensor must not be called so; '' if it may.

    A tensor's name becomes that of a file or a module sooner or later: one that is a path out of a folder is refused.
    """
    if not name.isascii() and name != name.encode(errors="replace").decode():
        return f"the name {shown(name)} has half of a character alone"
    if _CONTROL.search(name):
        return f"the name {shown(name)} has a control character"
    if _OUTSIDE.search(name):
        return f"the name {shown(name)} is a path out of its folder"
    return ""


def wrong_file_name(name: Any) -> str:
    """Why an index must not name a file so; '' if it may."""
    if not isinstance(name, str):
        return f"{shown(name)} is no file name"
    if name in ("", ".", "..") or re.search(r"[/\\:\0]", name) or wrong_name(name):
        return f"the file name {shown(name)} is not that of a file in its own folder"
    return ""


def broken(path: Any, cause: str) -> ValueError:
    """The error for a file that does not add up."""
    return ValueError(f"`path` must hold a file that adds up, got {str(path)!r}: {cause}. Save or download it again.")


_HINTS = {
    ("read", errno.ENOENT): ". Relative paths start at the working directory; a model of a hub is downloaded first.",
    ("found", errno.ENOENT): ". Make this folder first.",
}


@contextmanager
def told(path: Any, what: str, argument: str = "path") -> Iterator[None]:
    """Say an error of the system in a sentence."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get((what, error.errno or 0), "")
        raise OSError(error.errno, f"`{argument}` {str(path)!r} cannot be {what}: {error.strerror}{hint}") from error


@contextmanager
def named(argument: str) -> Iterator[None]:
    """Let errors that speak of `path` speak of an argument of the caller instead."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(getattr(error, "strerror", None) or error)
        if not text.startswith("`path`"):
            raise
        text = f"`{argument}`{text.removeprefix('`path`')}"
        raise (OSError(error.errno, text) if isinstance(error, OSError) else ValueError(text)) from None
