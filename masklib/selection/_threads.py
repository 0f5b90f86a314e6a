"""Workers and scratch that may be asked for again in the middle of their own work.

A signal handler, a finalizer or a callback may prune while a call on the same thread is in the middle of a chunk. So no
buffer is shared by name: it is popped from a list and given back. And no lock is taken that Python code could be
interrupted in: whoever calls hands out tickets, then does all the work that no one else has taken.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch

Array = np.ndarray[Any, Any]
T = TypeVar("T")

_KEPT = 2  # buffers a thread keeps: one call nested in another is the most that is common
_GRAIN = 2**20  # elements a thread is worth waking for: it takes 20 us, and a call on so many 400 us
_PATIENCE = 1.0  # seconds between looks at whether this process has been forked in the meantime


# ---- scratch --------------------------------------------------------------------------------------------------------


class _Kept(threading.local):
    """The free buffers of this thread."""

    def __init__(self) -> None:
        self.buffers: list[Array] = []


_kept = _Kept()


@contextmanager
def scratch(size: int) -> Iterator[Array]:
    """Bytes to write into, kept by the thread: the first touch of fresh memory costs as much as all the work on it."""
    free = _kept.buffers
    try:
        buffer = free.pop()
    except IndexError:
        buffer = np.empty(0, np.uint8)
    if buffer.size < size:
        buffer = np.empty(size, np.uint8)
    try:
        yield buffer[:size]
    finally:
        if len(free) < _KEPT:
            free.append(buffer)


# ---- workers --------------------------------------------------------------------------------------------------------


def threaded(work: Callable[[Sequence[Any]], T], tasks: Sequence[Any], elements: int) -> list[T]:
    """Run `work` on contiguous shares of the tasks, as many as torch has threads; results in order.

    `work` must come to the same if it is run twice on one share, which a process forked in the middle may do.
    """
    threads = min(torch.get_num_threads(), len(tasks), 1 + elements // _GRAIN)
    if threads <= 1:
        return [work(tasks)]
    bounds = [len(tasks) * t // threads for t in range(threads + 1)]
    return _Job(work, [tasks[start:stop] for start, stop in pairwise(bounds)]).results()


class _Job:
    """One call's shares: those that no one has taken yet, and what came of the others."""

    def __init__(self, work: Callable[[Any], Any], shares: Sequence[Any]) -> None:
        self.work, self.shares = work, shares
        self.waiting = deque(range(len(shares)))
        self.done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def results(self) -> list[Any]:
        """Do what no one else does, then wait for the rest."""
        self.tickets = _crew.tickets
        _crew.call(self, len(self.shares) - 1)
        found: dict[int, Any] = {}
        try:
            while self.waiting:
                self.help()
                self._collect(found, block=False)
            while len(found) < len(self.shares):
                self._collect(found, block=True)
                if self.tickets is not _crew.tickets:  # forked: who took the others is not here
                    self.waiting.extend(range(len(self.shares)))
                    return self.results()
        finally:
            self.waiting.clear()
        return [found[i] for i in range(len(self.shares))]

    def help(self) -> None:
        """Do one share, if one is left."""
        try:
            index = self.waiting.popleft()
        except IndexError:
            return
        try:
            self.done.put((index, self.work(self.shares[index]), None))
        except BaseException as error:
            self.done.put((index, None, error))

    def _collect(self, found: dict[int, Any], block: bool) -> None:
        """Read one result; raise what its share raised."""
        try:
            index, result, error = self.done.get(block, _PATIENCE)
        except Empty:
            return
        if error is not None:
            raise error
        found[index] = result


class _Crew:
    """Threads that wait for tickets, which starts them several times faster than new ones."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: a forked process has no threads, and its queue may have been copied in the middle of a get."""
        self.tickets: SimpleQueue[_Job] = SimpleQueue()
        self.size = 0

    def call(self, job: _Job, helpers: int) -> None:
        """Ask for help, which may never come: no thread starts once the interpreter shuts down."""
        if sys.is_finalizing():
            return
        while self.size < helpers:
            self.size += 1
            try:
                _thread.start_new_thread(_serve, (self.tickets,))
            except RuntimeError:
                self.size -= 1
                break
        for _ in range(helpers):
            self.tickets.put(job)


def _serve(tickets: SimpleQueue[_Job]) -> None:
    while True:
        tickets.get().help()


_crew = _Crew()
os.register_at_fork(after_in_child=_crew.forget)
