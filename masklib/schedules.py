"""Schedules: step -> sparsity, as plain data to call.

    target = schedules.cubic(0.9, stop=1000, every=100)
    masks = l1_unstructured(weights, masks, sparsity=target(step))

A step is an int or a 0-d integer tensor; the sparsity is a float or a 0-d float64 tensor likewise, so that one compiled
graph serves a whole schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _check

Schedule = Callable[[Any], Any]


# ---- the values -----------------------------------------------------------------------------------------------------


class Polynomial(NamedTuple):
    """From one sparsity to another along a power of what is left of the way."""

    final: float
    stop: int
    start: int
    initial: float
    every: int
    power: float

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return _ramp(self, step, lambda progress: _between(self, (1 - progress) ** self.power))


class Cosine(NamedTuple):
    """From one sparsity to another along half a cosine."""

    final: float
    stop: int
    start: int
    initial: float
    every: int

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return _ramp(self, step, lambda progress: _between(self, (1 + _cos(math.pi * progress)) / 2))


class Geometric(NamedTuple):
    """From one sparsity to another by equal factors of what is left."""

    final: float
    stop: int
    start: int
    initial: float
    every: int

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return _ramp(self, step, lambda done: 1 - (1 - self.initial) ** (1 - done) * (1 - self.final) ** done)


class Exponential(NamedTuple):
    """The same share of what is left goes each time."""

    share: float
    every: int
    start: int
    stop: int | None

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        elapsed = _check.step(step) - self.start
        most = None if self.stop is None else (self.stop - self.start) // self.every
        return 1 - (1 - self.share) ** _real(_clip(elapsed // self.every, 0, most))


class OneShot(NamedTuple):
    """Dense before a step, sparse from it on."""

    final: float
    at: int

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return self.final * _real(_check.step(step) >= self.at)


class Join(NamedTuple):
    """One schedule after another, each counting from its own beginning."""

    parts: tuple[Schedule, ...]
    boundaries: tuple[int, ...]

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        value, step = self.parts[0](step), _check.step(step)
        for part, boundary in zip(self.parts[1:], self.boundaries):
            value = _choose(step >= boundary, part(_clip(step - boundary, 0)), value)
        return value


class Window(NamedTuple):
    """Whether masks are updated at a step."""

    every: int
    start: int
    stop: int | None

    def __call__(self, step: Any) -> Any:
        """Whether the step is an update: a bool, or a 0-d bool tensor."""
        step = _check.step(step)
        due = (step >= self.start) & ((step - self.start) % self.every == 0)
        return due if self.stop is None else due & (step < self.stop)


# ---- making them ----------------------------------------------------------------------------------------------------


def one_shot(final: float, *, at: int = 0) -> OneShot:
    """Prune once: dense before step `at`, `final` from it on.

    Args:
        final: a sparsity in [0, 1].
        at: the step.

    Returns:
        The schedule.

    Raises:
        TypeError, ValueError: if the sparsity or the step is none.

    >>> [schedules.one_shot(0.9, at=2)(step) for step in (0, 1, 2, 3)]
    [0.0, 0.0, 0.9, 0.9]
    """
    return OneShot(_check.share(final, "final"), _check.integer(at, "at", "at=0"))


def linear(final: float, *, stop: int, start: int = 0, initial: float = 0.0, every: int = 1) -> Polynomial:
    """Grow evenly from `initial` to `final`; see `polynomial` for the arguments.

    >>> [schedules.linear(0.8, stop=4)(step) for step in (-1, 0, 1, 2, 4, 9)]
    [0.0, 0.0, 0.2, 0.4, 0.8, 0.8]
    """
    return polynomial(final, stop=stop, power=1, start=start, initial=initial, every=every)


def cubic(final: float, *, stop: int, start: int = 0, initial: float = 0.0, every: int = 1) -> Polynomial:
    """Prune fast while there is much to prune, then slowly: gradual pruning; see `polynomial` for the arguments.

        s(t) = final + (initial - final) * (1 - (t - start) / (stop - start))**3

    >>> [round(schedules.cubic(0.9, stop=100)(step), 4) for step in (0, 10, 50, 90, 100)]
    [0.0, 0.2439, 0.7875, 0.8991, 0.9]

    Reference: Zhu and Gupta, "To prune, or not to prune", 2017, equation 1.
    """
    return polynomial(final, stop=stop, power=3, start=start, initial=initial, every=every)


def polynomial(
    final: float, *, stop: int, power: float, start: int = 0, initial: float = 0.0, every: int = 1
) -> Polynomial:
    """Grow along a power of what is left of the way.

        s(t) = final + (initial - final) * (1 - (t - start) / (stop - start))**power

    Constant between updates; `initial` before `start`, `final` from `stop` on.

    Args:
        final: the sparsity at the end, in [0, 1].
        stop: the step of the end.
        power: a positive number; 1 is linear, 3 cubic.
        start: the step of the beginning.
        initial: the sparsity at the beginning, in [0, 1].
        every: steps between updates.

    Returns:
        The schedule.

    Raises:
        TypeError, ValueError: if an argument is not what it should be, or `stop` is not after `start`.

    >>> schedules.polynomial(0.5, stop=10, power=2, every=5)(7)
    0.375
    """
    return Polynomial(*_ends(final, stop, start, initial, every), _check.positive(power, "power", "power=3"))


def cosine(final: float, *, stop: int, start: int = 0, initial: float = 0.0, every: int = 1) -> Cosine:
    """Grow along half a cosine, slowly at both ends; see `polynomial` for the arguments.

        s(t) = final + (initial - final) * (1 + cos(pi * (t - start) / (stop - start))) / 2

    With `initial` and `final` exchanged it is the decaying share of entries that dynamic sparse training moves.

    >>> [round(schedules.cosine(0.0, initial=0.3, stop=1000)(step), 6) for step in (0, 100, 500, 900, 1000)]
    [0.3, 0.292658, 0.15, 0.007342, 0.0]

    Reference: Evci et al., "Rigging the Lottery", 2020, section 3 (the share that is dropped and grown).
    """
    return Cosine(*_ends(final, stop, start, initial, every))


def geometric(final: float, *, stop: int, start: int = 0, initial: float = 0.0, every: int = 1) -> Geometric:
    """Take the same share of what is left at each update, so that `final` is dead at the end; see `polynomial`.

        s(t) = 1 - (1 - initial)**(1 - x) * (1 - final)**x,   x = (t - start) / (stop - start)

    With `stop` the number of rounds it is the schedule of SynFlow, and iterative magnitude pruning to a given end.

    >>> [round(schedules.geometric(0.9, stop=2)(step), 4) for step in (0, 1, 2, 3)]
    [0.0, 0.6838, 0.9, 0.9]

    Reference: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020,
    algorithm 1.
    """
    return Geometric(*_ends(final, stop, start, initial, every))


def exponential(share: float, *, every: int = 1, start: int = 0, stop: int | None = None) -> Exponential:
    """Prune the same share of what is left in each round: iterative magnitude pruning.

        s(t) = 1 - (1 - share)**r,   r = the number of whole rounds of `every` steps since `start`

    Args:
        share: what goes in each round, in [0, 1].
        every: steps in a round.
        start: the step that the first round begins at.
        stop: the step from which on nothing more goes; None for never.

    Returns:
        The schedule.

    Raises:
        TypeError, ValueError: if an argument is not what it should be, or `stop` is not after `start`.

    >>> [round(schedules.exponential(0.2)(step), 4) for step in (0, 1, 2, 3)]
    [0.0, 0.2, 0.36, 0.488]

    Reference: Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, section 1.
    """
    return Exponential(_check.share(share, "share"), *_window(every, start, stop))


def join(parts: Sequence[Schedule], boundaries: Sequence[int]) -> Join:
    """Let schedules follow one another; each counts its steps from its own beginning.

    Args:
        parts: schedules.
        boundaries: the steps at which the second, the third, ... begins, in increasing order.

    Returns:
        The schedule.

    Raises:
        TypeError: if a part is not callable.
        ValueError: if there is not one boundary between each two parts, or they do not increase.

    >>> warm_up = schedules.join([schedules.one_shot(0.0), schedules.linear(0.5, stop=2)], [10])
    >>> [warm_up(step) for step in (9, 10, 11, 12)]
    [0.0, 0.0, 0.25, 0.5]
    """
    return Join(*_check.joined(parts, boundaries))


def window(*, every: int, start: int = 0, stop: int | None = None) -> Window:
    """Say at which steps masks are updated: `start`, `start + every`, ... before `stop`.

    To end at the `final` of a schedule, make the step at which it gets there an update: `every` divides its distance
    from `start`, and `stop` is beyond it.

        level, due = schedules.cubic(0.9, stop=1000, every=100), schedules.window(every=100, stop=1001)

    Args:
        every: steps between updates.
        start: the first update.
        stop: no update from here on; None for never.

    Returns:
        A function of the step: whether it is an update.

    Raises:
        TypeError, ValueError: if an argument is not what it should be, or `stop` is not after `start`.

    >>> [step for step in range(20) if schedules.window(every=5, start=5, stop=16)(step)]
    [5, 10, 15]
    """
    return Window(*_window(every, start, stop))


# ---- what they share ------------------------------------------------------------------------------------------------


def _ends(final: float, stop: int, start: int, initial: float, every: int) -> tuple[float, int, int, float, int]:
    every, start, end = _window(every, start, stop)
    return _check.share(final, "final"), int(end or 0), start, _check.share(initial, "initial"), every


def _window(every: int, start: int, stop: int | None) -> tuple[int, int, int | None]:
    return _check.window(every, start, stop)


def _ramp(ramp: Polynomial | Cosine | Geometric, step: Any, at: Callable[[Any], Any]) -> Any:
    """From `initial` to `final`, exactly these at the ends, and between them `at` the share of the way that is done."""
    step = _check.step(step)
    done = _real(_clip((step - ramp.start) // ramp.every * ramp.every, 0, ramp.stop - ramp.start))
    value = at(done / (ramp.stop - ramp.start))
    value = _choose(done > 0, value, ramp.initial + 0 * value)
    return _choose(step >= ramp.stop, ramp.final + 0 * value, value)


def _between(ramp: Polynomial | Cosine, rest: Any) -> Any:
    """What is `initial` where all the way is left, and `final` where nothing is."""
    return ramp.initial * rest + ramp.final * (1 - rest)


def _clip(value: Any, least: int, most: int | None = None) -> Any:
    if isinstance(value, Tensor):
        return value.clamp(least, most)
    return max(value, least) if most is None else min(max(value, least), most)


def _real(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else float(value)


def _choose(condition: Any, first: Any, second: Any) -> Any:
    if isinstance(condition, Tensor):
        return torch.where(condition, first, second)
    return first if condition else second


def _cos(angle: Any) -> Any:
    return angle.cos() if isinstance(angle, Tensor) else math.cos(angle)
