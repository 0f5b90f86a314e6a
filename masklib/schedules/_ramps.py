"""From one sparsity to another, along a curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from masklib import _read
from masklib.schedules._steps import choose, clip, is_due, plain, printed, read, real, updates

# ---- the values -----------------------------------------------------------------------------------------------------


@plain
class Polynomial:
    """From one sparsity to another along a power of what is left of the way."""

    final: float
    stop: int
    power: float
    start: int = 0
    initial: float = 0.0
    every: int = 1

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return _ramp(self, step, lambda done: _between(self, (1 - done) ** self.power))

    def due(self, step: Any) -> Any:
        """Whether an update is due at a step."""
        return is_due(step, self.start, self.stop, self.every)

    def __repr__(self) -> str:
        return printed("polynomial", self)


@plain
class Cosine:
    """From one sparsity to another along half a cosine."""

    final: float
    stop: int
    start: int = 0
    initial: float = 0.0
    every: int = 1

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return _ramp(self, step, lambda done: _between(self, (1 + _cos(math.pi * done)) / 2))

    def due(self, step: Any) -> Any:
        """Whether an update is due at a step."""
        return is_due(step, self.start, self.stop, self.every)

    def __repr__(self) -> str:
        return printed("cosine", self)


@plain
class Geometric:
    """From one sparsity to another by equal factors of what is left."""

    final: float
    stop: int
    start: int = 0
    initial: float = 0.0
    every: int = 1

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return _ramp(self, step, lambda done: 1 - (1 - self.initial) ** (1 - done) * (1 - self.final) ** done)

    def due(self, step: Any) -> Any:
        """Whether an update is due at a step."""
        return is_due(step, self.start, self.stop, self.every)

    def __repr__(self) -> str:
        return printed("geometric", self)


Ramp = Polynomial | Cosine | Geometric


def _ramp(ramp: Ramp, step: Any, at: Callable[[Any], Any]) -> Any:
    """From `initial` to `final`, exactly these at the ends, and between them `at` the share of the way that is done."""
    step = read(step)
    done = real(clip((step - ramp.start) // ramp.every * ramp.every, 0, ramp.stop - ramp.start))
    value = at(done / (ramp.stop - ramp.start))
    value = choose(done > 0, value, ramp.initial + 0 * value)
    return choose(step >= ramp.stop, ramp.final + 0 * value, value)


def _between(ramp: Polynomial | Cosine, rest: Any) -> Any:
    """What is `initial` where all the way is left, and `final` where nothing is."""
    return ramp.initial * rest + ramp.final * (1 - rest)


def _cos(angle: Any) -> Any:
    return angle.cos() if isinstance(angle, Tensor) else math.cos(angle)


# ---- making them ----------------------------------------------------------------------------------------------------


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

    Updates are due at `start`, `start + every`, ... and always at `stop`. Between updates the sparsity is constant.
    Before `start` it is `initial`, from `stop` on it is `final`.

    Args:
        final: the sparsity at the end, in [0, 1].
        stop: the step of the last update.
        power: a positive number; 1 is linear, 3 cubic.
        start: the step of the first update.
        initial: the sparsity at the beginning, in [0, 1].
        every: steps between updates.

    Returns:
        The schedule.

    Raises:
        TypeError: if a step is not an int, or a sparsity or the power is not a number.
        ValueError: if a sparsity is not in [0, 1], `power` or `every` is not positive, or `stop` is not after `start`.

    >>> half = schedules.polynomial(0.5, stop=12, power=2, every=5)
    >>> [(step, round(half(step), 4)) for step in range(20) if half.due(step)]
    [(0, 0.0), (5, 0.3299), (10, 0.4861), (12, 0.5)]
    """
    return Polynomial(**_ends(final, stop, start, initial, every), power=_positive(power, "power", "power=3"))


def cosine(final: float, *, stop: int, start: int = 0, initial: float = 0.0, every: int = 1) -> Cosine:
    """Grow along half a cosine, slowly at both ends; see `polynomial` for the arguments.

        s(t) = final + (initial - final) * (1 + cos(pi * (t - start) / (stop - start))) / 2

    With `initial` above `final` it is the decaying share of the live elements that dynamic sparse training moves, and
    `due` says when it moves them.

    >>> [round(schedules.cosine(0.0, initial=0.3, stop=1000)(step), 6) for step in (0, 100, 500, 900, 1000)]
    [0.3, 0.292658, 0.15, 0.007342, 0.0]

    Reference: Evci et al., "Rigging the Lottery", 2020, section 3 (the share that is dropped and grown).
    """
    return Cosine(**_ends(final, stop, start, initial, every))


def geometric(final: float, *, stop: int, start: int = 0, initial: float = 0.0, every: int = 1) -> Geometric:
    """Take the same share of what is left at each update, so that `final` is dead at the end; see `polynomial`.

        s(t) = 1 - (1 - initial)**(1 - x) * (1 - final)**x,   x = (t - start) / (stop - start)

    With `stop` the number of rounds it is the schedule of SynFlow, and iterative magnitude pruning to a given end.

    >>> [round(schedules.geometric(0.9, stop=2)(step), 4) for step in (0, 1, 2, 3)]
    [0.0, 0.6838, 0.9, 0.9]

    Reference: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020,
    algorithm 1.
    """
    return Geometric(**_ends(final, stop, start, initial, every))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _ends(final: Any, stop: Any, start: Any, initial: Any, every: Any) -> dict[str, Any]:
    """Read what all ramps have."""
    low, high = _read.share(initial, "initial"), _read.share(final, "final")
    between, first, last = updates(every, start, _read.integer(stop, "stop", "stop=1000"))
    return {"final": high, "stop": last, "start": first, "initial": low, "every": between}


def _positive(value: Any, argument: str, example: str) -> float:
    """Read a positive finite number."""
    number = _read.order(value, argument)
    if not 0 < number < float("inf"):
        raise ValueError(f"`{argument}` must be positive and finite, got {value!r}. For example {example}.")
    return number
