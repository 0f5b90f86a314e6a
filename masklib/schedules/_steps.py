"""What schedules share: arithmetic on steps, ints and 0-d tensors alike, and what makes them plain data."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeVar, dataclass_transform

import numpy as np
import torch
from torch import Tensor

from masklib import _read

Kind = TypeVar("Kind", bound=type)


class Schedule(Protocol):
    """What a schedule is: a sparsity at each step, and whether an update is due at it."""

    def __call__(self, step: Any, /) -> Any:
        """The sparsity at a step."""

    def due(self, step: Any, /) -> Any:
        """Whether an update is due at a step."""


@dataclass_transform(frozen_default=True, eq_default=True)
def plain(kind: Kind) -> Kind:
    """Make a kind of schedule plain data: frozen, equal only to its own kind, hashed with its kind."""
    kind.__hash__ = _hash  # type: ignore[assignment]
    return dataclasses.dataclass(frozen=True, repr=False)(kind)  # type: ignore[return-value]


def _hash(self: Any) -> int:
    return hash((type(self), *vars(self).values()))


def printed(name: str, schedule: Any) -> str:
    """The call that makes a schedule, without what is the default."""
    first, *others = dataclasses.fields(schedule)
    options = [f"{f.name}={getattr(schedule, f.name)!r}" for f in others if getattr(schedule, f.name) != f.default]
    return f"{name}({', '.join([repr(getattr(schedule, first.name)), *options])})"


# ---- steps ----------------------------------------------------------------------------------------------------------


def is_due(step: Any, start: int, stop: int | None, every: int) -> Any:
    """Whether a step is `start`, `start + every`, ... before `stop`, or `stop` itself."""
    step = read(step)
    regular = (step >= start) & ((step - start) % every == 0)
    return regular if stop is None else (regular & (step < stop)) | (step == stop)


def clip(value: Any, least: int, most: int | None = None) -> Any:
    """Bound a number of steps."""
    if isinstance(value, Tensor):
        return value.clamp(least, most)
    return max(value, least) if most is None else min(max(value, least), most)


def real(value: Any) -> Any:
    """A number as a float, or as a float64 tensor."""
    return value.double() if isinstance(value, Tensor) else float(value)


def choose(condition: Any, first: Any, second: Any) -> Any:
    """One of two numbers."""
    if isinstance(condition, Tensor):
        return torch.where(condition, first, second)
    return first if condition else second


# ---- what is refused ------------------------------------------------------------------------------------------------

_STEPS = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}


def read(value: Any) -> Any:
    """Read a step: an int, or a 0-d integer tensor as int64."""
    if isinstance(value, Tensor):
        _read.is_initialized(value, "`step`")
    if isinstance(value, Tensor) and not value.is_nested and value.dim() == 0 and value.dtype in _STEPS:
        return value.long()
    if isinstance(value, (Tensor, bool)) or not isinstance(value, (int, np.integer)):
        shown = repr(value)
        if isinstance(value, Tensor) and not value.is_nested:
            shown = f"{value.dtype} of shape {tuple(value.shape)}"
        raise TypeError(f"`step` must be an int or a 0-d integer tensor, got {shown}. For example schedule(100).")
    return int(value)


def updates(every: Any, start: Any, stop: Any) -> tuple[int, int, int | None]:
    """Read the steps of updates."""
    between, first = _read.integer(every, "every", "every=100"), _read.integer(start, "start", "start=0")
    last = None if stop is None else _read.integer(stop, "stop", "stop=1000")
    if between < 1:
        raise ValueError(f"`every` must be at least 1, got {every}. For example every=100.")
    if last is not None and last <= first:
        raise ValueError(f"`stop` must be after `start`, got start={start} and stop={stop}.")
    return between, first, last
