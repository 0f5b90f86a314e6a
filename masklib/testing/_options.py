"""Refusing what a check cannot work with, before anything is drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from masklib.groups._plan import is_groups as says_how_to_group
from masklib.testing import laws
from masklib.testing._oracle import is_fraction
from masklib.testing._strategies import KINDS


def is_callable(argument: str, value: Any, call: str) -> None:
    """Raise TypeError unless an argument can be called."""
    if not callable(value):
        raise TypeError(f"`{argument}` must be callable, got {value!r}: {call}.")


def is_positive(argument: str, value: Any) -> None:
    """Raise ValueError unless an argument is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{argument}` must be an int from 1 on, got {value!r}: {argument}=100.")


def is_groups(argument: str, value: Any) -> None:
    """Raise TypeError unless an argument is a groups value."""
    if not says_how_to_group(value):
        raise TypeError(f"`{argument}` must be a groups value, got {value!r}: {argument}=ml.rows().")


def are_forms(tensors: Any, mappings: Any) -> None:
    """Raise ValueError unless something may be drawn."""
    if not tensors and not mappings:
        raise ValueError("`tensors` and `mappings` cannot both be False: there would be nothing to check.")


def are_bools(**values: Any) -> None:
    """Raise TypeError unless each argument is True or False."""
    for argument, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"`{argument}` must be True or False, got {value!r}: {argument}=False.")


def are_laws(value: Any) -> None:
    """Raise TypeError unless an argument is a collection of laws, or ValueError if one is not of methods."""
    if not isinstance(value, Collection) or not all(callable(law) for law in value):
        raise TypeError(f"`without` must be a list of laws, got {value!r}: without=[laws.is_nested].")
    known = [law for law in vars(laws).values() if callable(law)]
    unknown = [getattr(law, "__name__", law) for law in value if law not in known]
    if unknown:
        raise ValueError(f"`without` must be laws of masklib.testing.laws, got {unknown}: without=[laws.is_nested].")


def are_dtypes(value: Any) -> None:
    """Raise TypeError unless an argument is None or a sequence of dtypes."""
    fits = isinstance(value, Sequence) and value and all(isinstance(dtype, torch.dtype) for dtype in value)
    if value is not None and not fits:
        raise TypeError(f"`dtypes` must be a sequence of torch dtypes, got {value!r}: dtypes=[torch.float32].")


def are_kinds(value: Any) -> None:
    """Raise ValueError unless an argument is None or a sequence of kinds of scores."""
    if value is not None and (isinstance(value, str) or not value or not set(value) <= set(KINDS)):
        raise ValueError(f"`kinds` must be a sequence of {sorted(set(KINDS))}, got {value!r}: kinds=['few'].")


def are_numbers(given: dict[str, Any]) -> None:
    """Raise TypeError or ValueError unless one of `amount`, `keep`, `sparsity` is given, none, or one by name."""
    if len(given) > 1:
        raise ValueError(f"one of {', '.join(given)} is varied at a time, got {given!r}: bind the others.")
    for name, value in given.items():
        number = value if isinstance(value, float | int) else getattr(value, "dtype", None)
        if number is None:
            raise TypeError(f"`{name}` must be a number, got {value!r}: {name}=0.3.")
        if not 0 <= value <= (1 if is_fraction(value) else float("inf")):
            raise ValueError(f"`{name}` must be a share in [0, 1] or a count from 0 on, got {value!r}: {name}=0.3.")
