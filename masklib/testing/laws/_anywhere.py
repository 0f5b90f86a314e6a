"""The laws of a method that gives the same mask wherever it is called from: modes, defaults, threads, callbacks."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from random import Random
from types import FrameType
from typing import Any

import torch

from masklib.testing._oracle import named
from masklib.testing.laws._compare import default_dtype, like, modes, plain, same, with_seed
from masklib.testing.laws._methods import Method

# ---- modes and defaults ---------------------------------------------------------------------------------------------


def looks_at_no_default_device(f: Method, s: Any, m: Any) -> None:
    """The default device makes no difference.

    >>> looks_at_no_default_device(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    _within(f, s, m, torch.device("meta"))


def looks_at_no_default_dtype(f: Method, s: Any, m: Any) -> None:
    """The default dtype makes no difference.

    >>> looks_at_no_default_dtype(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    _within(f, s, m, *map(default_dtype, (torch.float64, torch.float16, torch.float32)))


def looks_at_no_autocast(f: Method, s: Any, m: Any) -> None:
    """An autocast region makes no difference.

    >>> looks_at_no_autocast(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    _within(f, s, m, *(torch.autocast("cpu", dtype=dtype) for dtype in (torch.bfloat16, torch.float16)))


def looks_at_no_grad_mode(f: Method, s: Any, m: Any) -> None:
    """torch.no_grad() and torch.inference_mode() make no difference.

    >>> looks_at_no_grad_mode(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    _within(f, s, m, torch.no_grad(), torch.inference_mode())


def looks_at_no_seed(f: Method, s: Any, m: Any) -> None:
    """The seeds of torch, numpy and Python make no difference.

    >>> looks_at_no_seed(partial(random_unstructured, key=0, amount=1), torch.ones(2), None)
    """
    first, second = (with_seed(seed, lambda: plain(f(s, m))) for seed in (0, 1))
    assert same(first, second)


def leaves_no_mode_behind(f: Method, s: Any, m: Any) -> None:
    """f(s, m) leaves torch's modes as they were: defaults, gradients, autocast, determinism, threads.

    >>> leaves_no_mode_behind(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    before = modes()
    f(s, m)
    assert modes() == before


def _within(f: Method, s: Any, m: Any, *contexts: AbstractContextManager[Any]) -> None:
    """f(s, m) is the same within each of the contexts."""
    expected = plain(f(s, m))
    for context in contexts:
        with context:
            got = f(s, m)
        assert same(got, expected)


# ---- hooks, threads, interruptions ----------------------------------------------------------------------------------


def is_the_same_in_a_hook(f: Method, s: Any, m: Any) -> None:
    """f(s, m) called in a hook of a forward and of a backward pass is f(s, m).

    >>> is_the_same_in_a_hook(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    expected, got = plain(f(s, m)), []
    layer = torch.nn.Identity()
    layer.register_forward_hook(lambda *_: got.append(f(s, m)))
    x = torch.ones(1, device="cpu", requires_grad=True)
    x.register_hook(lambda _: got.append(f(s, m)))
    layer(x).sum().backward()
    assert all(same(mask, expected) for mask in got)


def is_the_same_in_a_thread(f: Method, s: Any, m: Any) -> None:
    """f(s, m) in another thread is f(s, m), though f works on other scores in a third one meanwhile.

    >>> is_the_same_in_a_thread(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    other = _turned(s)
    calls = [partial(f, s, m), partial(f, other, None)]
    expected = [plain(call()) for call in calls]
    got = _at_once(calls)
    assert all(same(a, b) for a, b in zip(got, expected))


def _at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What calls give, or raise, in threads of their own that start together."""
    results: list[Any] = [None] * len(calls)
    start = threading.Barrier(len(calls))

    def run(i: int) -> None:
        start.wait()
        try:
            results[i] = calls[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def may_be_interrupted(f: Method, s: Any, m: Any) -> None:
    """f(s, m) is the same if f is called on other scores in its middle, as signal handlers and finalizers do.

    >>> may_be_interrupted(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    expected, other = plain(f(s, m)), _turned(s)
    _, steps = _interrupted(partial(f, s, m), 0, lambda: None)
    random = Random(_checksum(s))
    for place in {1 + random.randrange(max(steps, 1)) for _ in range(_PLACES)}:
        got, _ = _interrupted(partial(f, s, m), place, lambda: f(other, None))
        assert same(got, expected)


_PLACES = 6  # of each case; over a hundred cases that is nearly every place of a method of up to 200 steps
_FOREIGN = (os.path.dirname(torch.__file__), os.path.dirname(os.__file__))  # what locks there is not the method's fault
_PATIENCE = 5.0  # seconds until a call on small scores is taken to wait for a lock of its own


def _interrupted(call: Callable[[], Any], place: int, handler: Callable[[], Any]) -> tuple[Any, int]:
    """What a call gives with a handler run at one of its steps, and how many steps it has.

    A step is where Python enters or leaves a function of the method, which is where it runs signal handlers too. The
    profiler sees them all, so that the place is exact and the same each time, as a timer's is not.
    """
    steps, profiler = 0, sys.getprofile()

    def step(frame: FrameType, *_: Any) -> None:
        nonlocal steps
        if not frame.f_code.co_filename.startswith(_FOREIGN):
            steps += 1
            if steps == place:
                handler()

    with _patience():
        sys.setprofile(step)
        try:
            return call(), steps
        finally:
            sys.setprofile(profiler)


@contextmanager
def _patience() -> Iterator[None]:
    """Raise AssertionError if this takes too long, where signals can be handled and nobody else waits for this one."""
    usable = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not usable or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return

    def give_up(*_: Any) -> None:
        raise AssertionError(f"no mask after {_PATIENCE} seconds: it waits for a lock that it holds itself")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _checksum(s: Any) -> int:
    """A number that differs from case to case, and is the same in each run."""
    values = (t.detach().view(-1).view(torch.uint8).numpy().tobytes() for t in named(plain(s)).values())
    return zlib.crc32(b"".join(values))


def _turned(s: Any) -> Any:
    """Other scores of the same form."""
    return like(s, {n: t.flip(tuple(range(t.dim()))) for n, t in named(s).items()})


# ---- processes ------------------------------------------------------------------------------------------------------


def is_the_same_in_a_forked_child(f: Method, s: Any, m: Any) -> None:
    """f(s, m) in a forked process is f(s, m).

    >>> is_the_same_in_a_forked_child(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    expected = plain(f(s, m))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if not child:
        os._exit(_verdict(lambda: same(f(s, m), expected)))
    assert _exit_code(child) == 0, "the child gave another mask, failed, or did not end within a minute"


def _verdict(holds: Callable[[], bool]) -> int:
    try:
        return 0 if holds() else 1
    except BaseException:
        return 2


def _exit_code(child: int) -> int:
    """The exit code of a process; one that does not end within a minute is killed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


ANYWHERE: tuple[Callable[[Method, Any, Any], None], ...] = (
    looks_at_no_default_device,
    looks_at_no_default_dtype,
    looks_at_no_autocast,
    looks_at_no_grad_mode,
    looks_at_no_seed,
    leaves_no_mode_behind,
    is_the_same_in_a_hook,
    is_the_same_in_a_thread,
    may_be_interrupted,
)
