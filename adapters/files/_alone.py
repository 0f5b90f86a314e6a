"""A folder in which one process works at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._names import told

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:  # not on this system: nobody is kept out
    fcntl = None


@contextmanager
def alone(path: Path, argument: str) -> Iterator[None]:
    """Keep other processes out of a folder for as long as a block takes, where the file system has locks.

    Args:
        path: of a file in the folder, which is made to be locked; the system unlocks it when its process dies.
        argument: the caller's name for the folder.

    Raises:
        ValueError: if another process is in it.
    """
    with told(path, "written", argument):
        number = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        if _is_taken(number):
            raise ValueError(f"`{argument}` must not be in use, and another process works in {str(path.parent)!r}.")
        yield
    finally:
        os.close(number)


def _is_taken(number: int) -> bool:
    """Lock an open file, if nobody else has."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file system has no locks
        return False
    return False
