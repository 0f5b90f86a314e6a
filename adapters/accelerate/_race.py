"""How long calls take, beside one another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

# With more rounds than 7 medians of 20 to 400 us moved by less than 5 % on a busy machine; so quick calls get more of
# them, as long as a layer takes no longer than this in all. After three rounds nobody that is twice as slow as the
# first catches up.
_LEAST, _MOST, _SECONDS, _TRIAL, _BEHIND = 7, 51, 0.3, 3, 2.0


def race(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Time calls in turns, so that a busy machine is busy for all of them.

        median over rounds of the seconds that each call takes, after two to warm up

    What is twice as slow as the fastest after three rounds is not run again, and its median is that of these.

    Args:
        calls: functions without arguments, by name.

    Returns:
        Seconds by name, of all.

    Raises:
        TypeError: if they are none.

    >>> race({"nothing": lambda: None}).keys()
    dict_keys(['nothing'])
    """
    if not isinstance(calls, Mapping) or not all(map(callable, calls.values())):
        raise TypeError(
            f"`calls` must hold functions by name, got {calls!r}. For example {{'dense': lambda: layer(x)}}."
        )
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in [*calls.values()] * 2:
        _seconds(call)
    running, start = list(calls), time.perf_counter()
    for done in range(_MOST):
        if done == _TRIAL:
            fastest = min(map(statistics.median, taken.values()), default=0.0)
            running = [name for name in running if statistics.median(taken[name]) <= _BEHIND * fastest]
        if done >= _LEAST and time.perf_counter() - start > _SECONDS:
            break
        for name in running:
            taken[name].append(_seconds(calls[name]))
    return {name: statistics.median(times) for name, times in taken.items()}


def _seconds(call: Callable[[], Any]) -> float:
    """How long a call takes until its results are there."""
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
