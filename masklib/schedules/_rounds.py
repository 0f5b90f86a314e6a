"""Pruning once, in rounds, or by one schedule after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from masklib import _read
from masklib.schedules._steps import choose, clip, is_due, plain, printed, read, real, updates

# ---- the values -----------------------------------------------------------------------------------------------------


@plain
class OneShot:
    """Dense before a step, sparse from it on."""

    final: float
    at: int = 0

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        return self.final * real(read(step) >= self.at)

    def due(self, step: Any) -> Any:
        """Whether an update is due at a step."""
        return read(step) == self.at

    def __repr__(self) -> str:
        return printed("one_shot", self)


@plain
class Exponential:
    """The same share of what is left goes in each round."""

    share: float
    every: int = 1
    start: int = 0
    stop: int | None = None

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        step = read(step)
        rounds = clip((step - self.start) // self.every, 0)
        if self.stop is not None:  # a last round that is cut short counts
            rounds = choose(step >= self.stop, -((self.start - self.stop) // self.every) + 0 * rounds, rounds)
        return 1 - (1 - self.share) ** real(rounds)

    def due(self, step: Any) -> Any:
        """Whether an update is due at a step."""
        return is_due(step, self.start, self.stop, self.every)

    def __repr__(self) -> str:
        return printed("exponential", self)


@plain
class Join:
    """One schedule after another, each counting from its own beginning."""

    parts: tuple[Callable[[Any], Any], ...]
    boundaries: tuple[int, ...]

    def __call__(self, step: Any) -> Any:
        """The sparsity at a step."""
        value, step = self.parts[0](step), read(step)
        for part, boundary in zip(self.parts[1:], self.boundaries):
            value = choose(step >= boundary, part(clip(step - boundary, 0)), value)
        return value

    def due(self, step: Any) -> Any:
        """Whether an update is due at a step."""
        step = read(step)
        result = _due(self.parts[0], step)
        for part, boundary in zip(self.parts[1:], self.boundaries):
            since = step - boundary
            result = choose(since >= 0, (since == 0) | _due(part, clip(since, 0)), result)
        return result

    def __repr__(self) -> str:
        return f"join({list(self.parts)!r}, {list(self.boundaries)!r})"


def _due(part: Any, step: Any) -> Any:
    """Whether a part is due; a plain function may change at any step."""
    return part.due(step) if hasattr(part, "due") else step == step


# ---- making them ----------------------------------------------------------------------------------------------------


def one_shot(final: float, *, at: int = 0) -> OneShot:
    """Prune once: dense before step `at`, `final` from it on.

    Args:
        final: a sparsity in [0, 1].
        at: the step, at which alone an update is due.

    Returns:
        The schedule.

    Raises:
        TypeError: if `final` is not a number, or `at` not an int.
        ValueError: if `final` is not in [0, 1].

    >>> [schedules.one_shot(0.9, at=2)(step) for step in (0, 1, 2, 3)]
    [0.0, 0.0, 0.9, 0.9]
    """
    return OneShot(_read.share(final, "final"), _read.integer(at, "at", "at=0"))


def exponential(share: float, *, every: int = 1, start: int = 0, stop: int | None = None) -> Exponential:
    """Prune the same share of what is left at each update after the first: iterative magnitude pruning.

        s(t) = 1 - (1 - share)**r,   r = the number of updates after `start`, up to t

    Updates are due at `start`, `start + every`, ... and always at `stop`, which is the last.

    Args:
        share: what goes in each round, in [0, 1].
        every: steps in a round.
        start: the step that the first round begins at.
        stop: the step of the last update; None for no last one.

    Returns:
        The schedule.

    Raises:
        TypeError: if `share` is not a number, or a step not an int.
        ValueError: if `share` is not in [0, 1], `every` is not positive, or `stop` is not after `start`.

    >>> [round(schedules.exponential(0.2, stop=3)(step), 4) for step in (0, 1, 2, 3, 4)]
    [0.0, 0.2, 0.36, 0.488, 0.488]

    Reference: Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, section 1.
    """
    return Exponential(_read.share(share, "share"), *updates(every, start, stop))


def join(parts: Sequence[Callable[[Any], Any]], boundaries: Sequence[int]) -> Join:
    """Let schedules follow one another; each counts its steps from its own beginning.

    An update is due where it is due in the part, and at each boundary. A part may be a plain function of the step; it
    may change at any step, so an update is due at each of its steps.

    Args:
        parts: schedules.
        boundaries: the steps at which the second, the third, ... begins, in increasing order.

    Returns:
        The schedule.

    Raises:
        TypeError: if `parts` is not a sequence of callables, or `boundaries` not one of ints.
        ValueError: if there is not one boundary between each two parts, or they do not increase.

    >>> warm_up = schedules.join([schedules.one_shot(0.0), schedules.linear(0.5, stop=2)], [10])
    >>> [warm_up(step) for step in (9, 10, 11, 12)]
    [0.0, 0.0, 0.25, 0.5]
    """
    return Join(*_joined(parts, boundaries))


# ---- what is refused ------------------------------------------------------------------------------------------------


def _joined(parts: Any, boundaries: Any) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Read schedules and the steps between them."""
    if not isinstance(parts, Sequence) or not parts or not all(map(callable, parts)):
        raise TypeError(f"`parts` must be schedules, got {parts!r}. For example [one_shot(0.0), cubic(0.9, stop=100)].")
    if not isinstance(boundaries, Sequence) or isinstance(boundaries, str):
        raise TypeError(f"`boundaries` must be a sequence of steps, got {boundaries!r}. For example [100].")
    steps = tuple(_read.integer(b, "boundaries", "[100, 200]") for b in boundaries)
    if len(steps) != len(parts) - 1 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(
            f"`boundaries` must be {len(parts) - 1} increasing steps, one between each two parts, got {list(steps)}."
        )
    return tuple(parts), steps
