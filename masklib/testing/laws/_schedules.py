"""The laws of schedules.

`schedule` is a function `schedule(step) -> sparsity`, `t` and `u` are steps.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from masklib.testing.laws._compare import touches_generators

Schedule = Callable[[Any], Any]


def is_a_sparsity(schedule: Schedule, t: int) -> None:
    """0 <= schedule(t) <= 1.

    >>> is_a_sparsity(schedules.linear(0.9, stop=10), 5)
    """
    got = schedule(t)
    assert isinstance(got, Real) or (isinstance(got, Tensor) and got.dim() == 0), f"it gave {got!r}"
    assert 0 <= float(got) <= 1, f"it gave {got!r}"


def is_a_function_of_the_step(schedule: Schedule, t: int) -> None:
    """schedule(t) = schedule(t), whatever step came in between, and no generator is touched.

    >>> is_a_function_of_the_step(schedules.linear(0.9, stop=10), 5)
    """
    first = float(schedule(t))
    assert not touches_generators(lambda: [schedule(u) for u in (0, t // 2)])
    assert float(schedule(t)) == first


def takes_tensor_steps(schedule: Schedule, t: int) -> None:
    """schedule(tensor(t)) = schedule(t), as a 0-d float64 tensor, up to rounding.

    >>> takes_tensor_steps(schedules.linear(0.9, stop=10), 5)
    """
    got = schedule(torch.tensor(t, device="cpu"))
    assert isinstance(got, Tensor), f"it gave {got!r}"
    assert (got.dtype, got.shape) == (torch.float64, ()), f"it gave {got!r}"
    assert abs(got.item() - float(schedule(t))) <= 1e-12, f"it gave {got!r}, and {schedule(t)!r} for the Python number"


def never_falls(schedule: Schedule, t: int, u: int) -> None:
    """schedule(t) <= schedule(u) for t <= u, up to rounding.

    >>> never_falls(schedules.linear(0.9, stop=10), 5, 6)
    """
    assert float(schedule(t)) <= float(schedule(u)) + 1e-12


def changes_only_when_due(schedule: Any, t: int) -> None:
    """schedule(t) = schedule(t - 1) unless schedule.due(t), for t above 0.

    >>> changes_only_when_due(schedules.linear(0.9, stop=10, every=5), 4)
    """
    if t and not schedule.due(t):
        assert float(schedule(t)) == float(schedule(t - 1))


def ends_with_its_last_update(schedule: Any, t: int) -> None:
    """schedule.due(stop), and from there on the sparsity is exactly `final` and nothing is due, where it has these.

    >>> ends_with_its_last_update(schedules.linear(0.9, stop=10, every=4), 11)
    """
    stop, final = getattr(schedule, "stop", None), getattr(schedule, "final", None)
    if stop is not None:
        assert schedule.due(stop)
        assert not schedule.due(stop + 1 + t)
        assert float(schedule(stop + t)) == float(schedule(stop))
        assert final is None or float(schedule(stop)) == final


def is_due_for_tensor_steps(schedule: Any, t: int) -> None:
    """schedule.due(tensor(t)) = schedule.due(t), as a 0-d bool tensor.

    >>> is_due_for_tensor_steps(schedules.linear(0.9, stop=10), 5)
    """
    got = schedule.due(torch.tensor(t, device="cpu"))
    assert isinstance(got, Tensor), f"it gave {got!r}"
    assert (got.dtype, got.shape, bool(got)) == (torch.bool, (), bool(schedule.due(t))), f"it gave {got!r}"


def equals_what_rises_alike(schedule: Schedule, other: Schedule, t: int) -> None:
    """schedule = other only if schedule(t) = other(t).

    >>> equals_what_rises_alike(schedules.linear(0.9, stop=10), schedules.cubic(0.9, stop=10), 5)
    """
    if schedule == other or other == schedule:
        assert float(schedule(t)) == float(other(t)), f"{other!r} is equal to it"


SCHEDULES: tuple[Callable[[Schedule, int], None], ...] = (
    is_a_sparsity,
    is_a_function_of_the_step,
)
