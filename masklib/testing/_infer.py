"""What a method seems to promise: seen from a few scores without ties, where right and nearly right agree."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from masklib.groups import elements

Groups = Any
Elements = Any
from masklib.testing import _oracle as oracle
from masklib.testing.laws import is_a_mask, same

Method = Callable[..., Any]


def exact_groups(method: Method, number: Mapping[str, Any]) -> Elements | None:
    """`elements()` if as many single elements die as the number says, else None."""
    seen = [
        _died(got) == _died(oracle.compute_mask(s, None, elements(), **given))
        for got, s, given in _tried(method, number)
    ]
    return elements() if seen and all(seen) else None


def ranking(method: Method, number: Mapping[str, Any], groups: Groups) -> Callable[[Any], Any] | None:
    """What is ranked of a score: `operator.pos`, `abs`, or None if it is neither."""
    for ranks in (operator.pos, abs):
        seen = [same(got, _ruled(s, groups, ranks, given)) for got, s, given in _tried(method, number)]
        if seen and all(seen):
            return ranks
    return None


def _tried(method: Method, number: Mapping[str, Any]) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """The masks of those probes that the method takes, with their scores and numbers."""
    given = {n: 0.3 if oracle.is_fraction(x) else max(1, min(int(x), 5)) for n, x in number.items()}
    if not given:
        return
    for s in _probes():
        try:
            is_a_mask(partial(method, **given), s, None)
        except Exception:
            continue
        yield method(s, None, **given), s, given


def _probes() -> tuple[Any, ...]:
    """Scores of both signs and distinct magnitudes, where right and wrong rounding agree.

    0.3 of them is a whole number, but not 0.3 of their rows, nor of each tensor; one tensor is small.
    """
    g = torch.Generator().manual_seed(0)
    a, b, c, d = (_distinct(size, g) for size in (20, 10, 25, 5))
    return a.view(4, 5), b, {"b": c.view(5, 5), "a": d + 0.5}


def _distinct(size: int, generator: torch.Generator) -> torch.Tensor:
    values = torch.randperm(size, generator=generator, device="cpu") + 1.0
    return values * torch.where(torch.arange(size, device="cpu") % 3 == 0, -1, 1)


def _ruled(scores: Any, groups: Groups, ranks: Callable[[Any], Any], number: Mapping[str, Any]) -> Any:
    ranked = {n: ranks(t) for n, t in scores.items()} if isinstance(scores, Mapping) else ranks(scores)
    return oracle.compute_mask(ranked, None, groups, **number)


def _died(mask: Any) -> int:
    return sum(int((~part).sum()) for part in oracle.named(mask).values())
