"""What a file or a folder may take the place of, and what not; nothing is written here."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._names import a_path, told


def file_target(value: Any, argument: str = "path") -> Path:
    """Refuse what a file cannot take the place of; nothing is written yet."""
    path = a_path(value, argument)
    if os.fspath(value).endswith("/"):
        raise ValueError(
            f"`{argument}` must be a file, got {os.fspath(value)!r}, which ends as a folder does. "
            f"For example {str(path / 'model.safetensors')!r}."
        )
    mode = _mode(path, argument)
    if mode is not None and not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise ValueError(f"`{argument}` must be a file or new, got {str(path)!r}, which is {what}. Pass another name.")
    if mode is not None and not os.access(path, os.W_OK):
        raise PermissionError(
            errno.EACCES, f"`{argument}` {str(path)!r} is write-protected. Pass another name, or allow writing"
        )
    return path


def folder_target(value: Any, argument: str = "target") -> Path:
    """Refuse what a folder cannot take the place of; nothing is written yet."""
    path = a_path(value, argument)
    mode = _mode(path, argument)
    if mode is not None and not stat.S_ISDIR(mode):
        raise ValueError(
            f"`{argument}` must be a folder or new, got {str(path)!r}, which is a file. Pass another name."
        )
    if mode is not None and (inside := os.listdir(path)):
        raise ValueError(
            f"`{argument}` must be a new or an empty folder, got {str(path)!r}, which has {len(inside)} entries. "
            "Pass another name."
        )
    return path


def apart(path: Path, argument: str, others: Mapping[str, Path]) -> None:
    """Refuse a place that is another one or lies in it: it would be lost with it, or taken for a part of it."""
    here = Path(os.path.realpath(path))
    for other, place in others.items():
        there = Path(os.path.realpath(place))
        if here == there or there in here.parents:
            raise ValueError(
                f"`{argument}` must not be in `{other}`, got {str(path)!r} and {str(place)!r}. Pass another place."
            )


def _mode(path: Path, argument: str) -> int | None:
    """What kind of thing is there; None for nothing. The folder around it must be there."""
    with told(path.parent, "found", argument):
        os.stat(path.parent)
    with told(path, "found", argument):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return None
    if stat.S_ISLNK(mode):
        raise ValueError(
            f"`{argument}` must not be a symbolic link, got {str(path)!r}, which leads to {os.readlink(path)!r}. "
            "Pass what it leads to, or remove the link."
        )
    return mode
