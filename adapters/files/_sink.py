"""Where bytes are written to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._names import told


class Sink:
    """A file that is being written, by several threads if need be.

    A thread may still be busy with its share when another one has failed and the file is given up. The number of a file
    that was closed is soon that of another one, into which it would write. So a sink has a number of its own, which is
    closed when nobody holds the sink any more.

    Args:
        number: of the open file, to be closed by the sink alone.
        path: where it will be, for messages.
    """

    def __init__(self, number: int, path: Path) -> None:
        self.number, self.path, self.is_open = number, path, True

    def __del__(self) -> None:
        os.close(self.number)

    def write(self, data: Any) -> int:
        """Write all of a buffer behind what was written before; return its bytes."""
        return self._all(data, lambda view, done: os.write(self.number, view))

    def write_at(self, data: Any, at: int) -> int:
        """Write all of a buffer to a place in the file, from any thread; return its bytes."""
        return self._all(data, lambda view, done: os.pwrite(self.number, view, at + done))

    def _all(self, data: Any, write: Callable[[memoryview, int], int]) -> int:
        """The system may take less at a time."""
        view, done = memoryview(data).cast("B"), 0
        with told(self.path, "written"):
            while done < len(view):
                if not self.is_open:
                    raise ValueError(f"`path` {str(self.path)!r} is not written any more: another thread has failed.")
                done += write(view[done:], done)
        return done


@contextmanager
def sink_into(number: int, path: Path) -> Iterator[Sink]:
    """Hand out a sink for as long as a block takes, then flush the file."""
    with told(path, "written"):
        sink = Sink(os.dup(number), path)
    try:
        yield sink
        with told(path, "written"):
            os.fsync(number)
    finally:
        sink.is_open = False
