"""Open files of a checkpoint, whose tensors are read in runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from masklib.selection import Streamed

from ._checkpoint import Checkpoint
from ._header import Entry, Header, opened, unchanged
from ._names import broken, told


class Counter:
    """How many bytes were read and written, counted in any thread.

    Args:
        tell: is called with both after each chunk; None for nobody.
    """

    def __init__(self, tell: Callable[[int, int], None] | None) -> None:
        self.read = self.written = 0
        self._tell, self._lock = tell, Lock()

    def add(self, *, read: int = 0, written: int = 0) -> None:
        """Count a chunk."""
        with self._lock:
            self.read += read
            self.written += written
        if self._tell is not None:
            self._tell(self.read, self.written)


class Reading:
    """The open files of a checkpoint.

    Args:
        files: each with its header.
        counter: of what is read.
    """

    def __init__(self, files: dict[Path, tuple[Any, Header]], counter: Counter) -> None:
        self._files, self.counter = files, counter

    def tensor(self, entry: Entry) -> Streamed:
        """A tensor of a file, of which nothing has been read yet."""

        def run(start: int, stop: int, _: Any) -> Tensor:
            return self.elements(entry, start, stop)

        return Streamed(entry.shape, entry.dtype, run)

    def elements(self, entry: Entry, start: int, stop: int) -> Tensor:
        """A run of the elements of a tensor, flat, in memory of its own; any thread may ask."""
        values = torch.empty(stop - start, dtype=entry.dtype, device="cpu")
        data: Any = values.view(torch.uint8).numpy()
        at = entry.offset + start * entry.dtype.itemsize
        _fill(entry.path, self._files[entry.path][0].fileno(), memoryview(data), at)
        self.counter.add(read=data.nbytes)
        return values

    def still_the_same(self) -> None:
        """Refuse what was read if a file was written to in the meantime."""
        for file, header in self._files.values():
            unchanged(header, file)


@contextmanager
def reading(checkpoint: Checkpoint, counter: Counter) -> Iterator[Reading]:
    """Open the files of a checkpoint."""
    with ExitStack() as stack:
        files = {path: (stack.enter_context(opened(path)), header) for path, header in checkpoint.headers.items()}
        result = Reading(files, counter)
        result.still_the_same()
        try:
            yield result
        except Exception:
            result.still_the_same()  # of a file that was written to meanwhile, anything may be wrong
            raise


def _fill(path: Path, number: int, view: memoryview, at: int) -> None:
    """Fill a buffer from a place in a file; the system may hand out less at a time."""
    while view:
        with told(path, "read"):
            got = os.preadv(number, [view], at)
        if not got:
            raise broken(path, "it ends too early")
        view, at = view[got:], at + got
