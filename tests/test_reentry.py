"""A call in the middle of another: from signal handlers, finalizers, threads, forked children and at exit.

The stress runs in processes of its own, so that a deadlock is a failure and not a hang.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch

SECONDS = 4.0
LIMIT = 120  # for a machine that does other things too; what hangs, hangs for good


def same(a, b):
    """By numpy: torch's own parallel work hangs in forked children."""
    return np.array_equal(a.numpy(), b.numpy())


class Work:
    """A selection of several chunks and two threads, and what is right."""

    def __init__(self, ml, seed, n, share, magnitude=True, masked=False, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        self.scores = (torch.randn(n, generator=generator) * 10**seed).to(dtype)
        self.mask = torch.rand(n, generator=generator) < 0.7 if masked else None
        self.call = partial(ml.l1_unstructured if magnitude else ml.compute_mask, amount=share)
        self.expected = self.call(self.scores, self.mask)
        self.wrong = self.done = 0

    def run(self, *_):
        try:
            right = same(self.call(self.scores, self.mask), self.expected)
        except Exception as error:
            print(repr(error), flush=True)
            right = False
        self.wrong += not right
        self.done += 1


def works(ml):
    return [
        Work(ml, 0, 2**22, 0.5),
        Work(ml, 1, 2**21 + 5, 0.3, masked=True),
        Work(ml, 2, 2**21 + 77, 0.9, dtype=torch.bfloat16),
        Work(ml, 3, 2**19, 0.5, magnitude=False),
        Work(ml, 4, 3000, 0.5),
    ]


class Finalized:
    """A cycle, so that the collector finalizes it whenever it runs: in any thread, in the middle of anything."""

    def __init__(self, work):
        self.work, self.cycle = work, self

    def __del__(self):
        self.work.run()


def nested(todo, until, finalize):
    """Call again and again, leaving garbage that calls too."""
    while time.monotonic() < until:
        if finalize:
            Finalized(todo[3])
            Finalized(todo[4])
        for work in todo[:3]:
            work.run()


def in_child(work):
    """Whether a forked child gets it right, which has no other threads; None if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os._exit(0 if same(work.call(work.scores, work.mask), work.expected) else 1)
    for _ in range(400):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def stress(ml, signals=True, finalizers=True, threads=2, forks=True):
    """Everything at once for a few seconds; the number of wrong masks."""
    torch.set_num_threads(2)
    todo, until = works(ml), time.monotonic() + SECONDS
    gc.set_threshold(40, 2, 2)
    interrupting = Work(ml, 5, 2**21, 0.5), Work(ml, 3, 2**19, 0.2)

    def handler(*_):
        for work in interrupting:
            work.run()
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + (interrupting[0].done % 97) * 1e-4)

    others = [[*works(ml)] for _ in range(threads)]
    workers = [threading.Thread(target=nested, args=(mine, until, finalizers)) for mine in others]
    for worker in workers:
        worker.start()
    if signals:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    children = []
    while time.monotonic() < until:
        nested(todo, min(until, time.monotonic() + 0.5), finalizers)
        if forks:
            children.append(in_child(todo[0]))
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # first: a handler under way sets the timer again
    signal.setitimer(signal.ITIMER_REAL, 0)
    for worker in workers:
        worker.join()
    gc.collect()
    every = [*todo, *interrupting, *(work for mine in others for work in mine)]
    wrong, done = sum(work.wrong for work in every), sum(work.done for work in every)
    print(f"{wrong} wrong of {done}, {children.count(False)} wrong and {children.count(None)} hung of {len(children)}")
    return wrong + len(children) - children.count(True)


def at_exit(ml):
    """From an atexit handler, and from a thread that outlives the main one."""
    torch.set_num_threads(2)
    work = works(ml)[0]

    def last():
        work.run()
        os.write(1, b"at exit " + (b"right\n" if not work.wrong else b"wrong\n"))

    def late():
        while threading.main_thread().is_alive():
            time.sleep(0.01)
        time.sleep(0.1)
        work.run()
        os.write(1, b"late " + (b"right\n" if not work.wrong else b"wrong\n"))

    atexit.register(last)
    threading.Thread(target=late).start()


def interrupted(ml):
    """A handler that raises in the middle of calls leaves nothing broken behind; the number of wrong masks."""
    torch.set_num_threads(2)
    work, raised = works(ml)[0], 0

    def handler(*_):
        raise InterruptedError

    signal.signal(signal.SIGALRM, handler)
    for i in range(100):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0003 + i * 4e-5)
            work.call(work.scores)
        except InterruptedError:
            raised += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        work.run()
    print(f"{work.wrong} wrong, {raised} raised")
    return work.wrong + (raised == 0)


def forked_in_the_middle(ml):
    """A handler forks, and the child finishes the call it was in; the number of wrong masks."""
    torch.set_num_threads(2)
    work, home, children = works(ml)[0], os.getpid(), []

    def handler(*_):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if child:
            children.append(child)

    signal.signal(signal.SIGALRM, handler)
    for i in range(12):
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + i * 3e-4)
        work.run()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if os.getpid() != home:
            os._exit(work.wrong)
    wrong = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)
    print(f"{wrong} wrong of {len(children)} children")
    return wrong + work.wrong + (not children)


PARTS = {f.__name__: f for f in (stress, at_exit, interrupted, forked_in_the_middle)}
PARTS |= {
    "signals": partial(stress, finalizers=False, threads=0, forks=False),
    "finalizers": partial(stress, signals=False, threads=0, forks=False),
    "threads": partial(stress, signals=False, finalizers=False, threads=4, forks=False),
}


@pytest.mark.parametrize("part", PARTS)
def test_calls_in_the_middle_of_others_are_right(part):
    ran = subprocess.run(
        [sys.executable, __file__, part], capture_output=True, text=True, timeout=LIMIT, start_new_session=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "wrong\n" not in ran.stdout
    assert not ran.stderr
    if part == "at_exit":
        assert sorted(ran.stdout.splitlines()) == ["at exit right", "late right"]


if __name__ == "__main__":
    import importlib

    sys.exit(PARTS[sys.argv[1]](importlib.import_module(*sys.argv[2:] or ["masklib"])))
