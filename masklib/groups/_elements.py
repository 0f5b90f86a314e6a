"""Unstructured pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from masklib.groups._folding import Folding
from masklib.groups._printing import call


@dataclass(frozen=True, slots=True, repr=False)
class Elements:
    """Single elements, one pool."""

    def __repr__(self) -> str:
        return call(self)

    def fold(self, shape: Sequence[int]) -> Folding:
        """Every entry is an item, in row-major order."""
        return Folding(None, prod(shape))


def elements() -> Elements:
    """Let single elements compete in one pool: unstructured pruning.

    Returns:
        The groups value: every element is an item. Over a mapping the pool spans all tensors (global pruning).

    >>> elements()
    elements()
    """
    return Elements()
