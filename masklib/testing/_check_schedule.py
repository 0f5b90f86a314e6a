"""`check_schedule`: the laws of schedules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st

from masklib.testing import _options as options
from masklib.testing import laws
from masklib.testing._refute import Law, Trial, refuted, uphold, wanted_of


def check_schedule(
    schedule: Callable[[Any], Any],
    *,
    steps: int = 10_000,
    falls: bool = False,
    tensors: bool = True,
    others: Sequence[Callable[[Any], Any]] = (),
    without: Collection[Law] = (),
    examples: int = 100,
) -> None:
    """Check the laws of schedules on a function `schedule(step) -> sparsity`.

    A check takes about 0.3 seconds for 100 examples.

    Args:
        schedule: the function; if it has a method `due(step)`, its laws are checked too.
        steps: steps are drawn from 0 to this one.
        falls: whether the sparsity may fall from one step to a later one.
        tensors: whether it takes steps as 0-d tensors too, as a compiled loop has them.
        others: other schedules, which it must differ from wherever they give other sparsities.
        without: other laws that it does not promise, such as `[laws.is_a_function_of_the_step]`.
        examples: how many cases to draw for each law, always the same ones.

    Raises:
        TypeError, ValueError: if an argument is not as above.
        AssertionError: if laws are broken; see `check_method`.

    >>> check_schedule(schedules.cubic(0.9, stop=1000, every=100))
    >>> check_schedule(lambda step: step / 1000)
    Traceback (most recent call last):
    AssertionError: is_a_sparsity: 0 <= schedule(t) <= 1.
    ...
    """
    options.is_callable("schedule", schedule, "check_schedule(ml.schedules.linear(0.9, stop=100))")
    options.is_positive("steps", steps)
    options.is_positive("examples", examples)
    options.are_laws(without)
    spread = st.sampled_from([steps * i // 64 for i in range(65)])
    step = spread | st.integers(0, steps) | st.integers(0, min(steps, 20))
    cases = st.tuples(step, step).map(lambda pair: tuple(sorted(pair)))
    uphold(refuted([cases], wanted_of(_trials(schedule, falls, tensors, others), without), examples))


def _trials(schedule: Any, falls: bool, tensors: bool, others: Sequence[Any]) -> Iterator[Trial]:
    for law in laws.SCHEDULES:
        yield Trial(law, lambda t, u: (schedule, t))
    if tensors:
        yield Trial(laws.takes_tensor_steps, lambda t, u: (schedule, t), _TENSORS)
    if hasattr(schedule, "due"):
        for law in (laws.changes_only_when_due, laws.ends_with_its_last_update):
            yield Trial(law, lambda t, u,: (schedule, t))
        if tensors:
            yield Trial(laws.is_due_for_tensor_steps, lambda t, u: (schedule, t), _TENSORS)
    if not falls:
        yield Trial(laws.never_falls, lambda t, u: (schedule, t, u), _FALLS)
    for other in others:
        yield Trial(laws.equals_what_rises_alike, partial(_both, schedule, other))


def _both(schedule: Any, other: Any, t: int, u: int) -> tuple[Any, ...]:
    return schedule, other, t


_TENSORS = "# for a schedule of Python numbers, pass tensors=False"
_FALLS = "# for a schedule that may fall, pass falls=True"
