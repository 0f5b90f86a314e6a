"""Hypothesis strategies of numbers: shares that decide rounding, and each of the three arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


def fractions(of: int | None = None) -> SearchStrategy[float]:
    """Draw shares in [0, 1]: those of a count that make a half and their neighbours among them, which decide rounding.

    Args:
        of: the count; None for any up to ten.

    Returns:
        A strategy of floats.

    >>> find(fractions(), lambda share: round(share * 5) == 4)
    0.75
    """
    common = st.sampled_from([0.5, 0.0, 1.0, 0.1, 0.25, 0.3, 0.75, 0.9])
    counts = st.integers(1, 10) if not of else st.just(of)
    return common | st.floats(0, 1) | st.builds(_near_half, st.integers(0, 9), counts, st.integers(-1, 1))


def _near_half(whole: int, count: int, side: int) -> float:
    """The share of a count that is a half above a whole number, or the float below or above it."""
    half = (min(whole, count - 1) + 0.5) / count
    return math.nextafter(half, side * math.inf) if side else half


def numbers(takes: Sequence[str] = ("amount", "keep", "sparsity"), *, most: int = 0) -> SearchStrategy[dict[str, Any]]:
    """Draw one of `amount`, `keep`, `sparsity` as a Python or numpy number or a 0-d tensor.

    Args:
        takes: the arguments to draw from.
        most: the largest count; shares are in [0, 1].

    Returns:
        A strategy of dicts with one entry, to pass as `**number`.

    >>> find(numbers(["keep"], most=9), lambda number: number["keep"] > 5)
    {'keep': 6}
    """
    kinds = []
    if "amount" in takes:
        kinds += [_wrapped("amount", fractions(), float), _wrapped("amount", st.integers(0, most), int)]
    if "sparsity" in takes:
        kinds.append(_wrapped("sparsity", fractions(), float))
    if "keep" in takes:
        kinds.append(_wrapped("keep", st.integers(0, most), int))
    return st.one_of(kinds)


def _wrapped(argument: str, values: SearchStrategy[Any], kind: type) -> SearchStrategy[dict[str, Any]]:
    floats: list[Any] = [float, np.float64, np.float32, partial(torch.tensor, dtype=torch.float64), torch.tensor]
    ints: list[Any] = [int, np.int64, np.uint8, torch.tensor, partial(torch.tensor, dtype=torch.int32)]
    wrap = st.sampled_from(floats if kind is float else ints)
    return st.tuples(wrap, values).map(lambda pair: {argument: pair[0](pair[1])})
