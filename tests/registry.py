"""Every method in one table: how to call it, and what it means. A new method is one row and inherits every law."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

import masklib as ml
from masklib.testing import _oracle as oracle

EVEN = ((2, 2), (4, 6), (1, 2), (5, 2), (2, 4, 2), (2, 2, 2, 2))


class Case(NamedTuple):
    """A method with its options bound, and which laws apply to it."""

    method: Callable[..., Any]
    takes: tuple[str, ...] = ("amount", "keep", "sparsity")  # the numbers; none for a method without one
    groups: Any = None  # the rule it follows, None if it is not one rule
    ranks: Callable[..., Any] | None = operator.pos  # the score whose lowest die, None if none is promised
    noisy: bool = False  # ranks noise: looks at no scores
    order_only: bool = False  # ranks single elements by their order alone
    per_tensor: bool = False  # pools never span tensors
    shapes: tuple[tuple[int, ...], ...] = EVEN  # of scores that it can take
    itemized: bool = False  # items have several elements, so that scores are added up

    @property
    def promises(self) -> dict[str, Any]:
        """What `check_method` has to know: the rule, or that there is none."""
        rule = {"exact": False, "ranks": None} if self.groups is None else {"counts": self.groups, "ranks": self.ranks}
        return rule | {"nan": rule["ranks"] is not None}


def half(scores: Any) -> Any:
    """A mask made from the index, of the scores' form."""
    if isinstance(scores, Mapping):
        return {n: half(t) for n, t in scores.items()}
    return (torch.arange(scores.numel(), device=scores.device).view(scores.shape) % 2) == 0


def custom(scores: Any, default_mask: Any = None) -> Any:
    return ml.custom_from_mask(scores, default_mask, mask=half(scores))


def by_label(scores: Any, default_mask: Any = None, **number: Any) -> Any:
    """Pairs of neighbours live and die together, by `labels`; those of all tensors compete."""
    return ml.compute_mask(scores, default_mask, groups=pairs(scores), **number)


def pairs(scores: Any) -> Any:
    tensors, start, labels = oracle.named(scores), 0, {}
    for name in sorted(tensors):
        size = tensors[name].numel()
        labels[name] = (torch.arange(size, device="cpu") // 2 + start).view(tensors[name].shape)
        start += size
    return ml.labels(labels if isinstance(scores, Mapping) else labels[""])


def by_set(scores: Any, default_mask: Any = None, **number: Any) -> Any:
    """The rows of two neighbours by name live and die together, by `coupled`; those of all tensors compete."""
    tensors, alive = oracle.named(scores), None if default_mask is None else oracle.named(default_mask)
    names = sorted(tensors)
    sets = [dict.fromkeys(names[i : i + 2], ml.channels(0)) for i in range(0, len(names), 2)]
    got = ml.compute_mask(tensors, alive, groups=ml.coupled(*sets), **number)
    return got if isinstance(scores, Mapping) else got[""]


def rule(groups: Any, **options: Any) -> Case:
    """`compute_mask` with a groups value."""
    return Case(partial(ml.compute_mask, groups=groups), groups=groups, **options)


def items(groups: Any, **options: Any) -> Case:
    """The same, where items have several elements."""
    return rule(groups, itemized=True, **options)


ELEMENTS, KEEP = ml.elements(), ("keep",)
HISTORY = (partial(ml.l1_unstructured, amount=0.3), partial(ml.random_unstructured, key=1, amount=0.2))

CASES = {
    "identity": Case(ml.identity, takes=(), noisy=True),
    "custom_from_mask": Case(custom, takes=(), noisy=True),
    "compute_mask": Case(ml.compute_mask, groups=ELEMENTS, order_only=True),
    "rows": rule(ml.rows(), order_only=True, per_tensor=True),
    "rows -1": rule(ml.rows(-1), order_only=True, per_tensor=True),
    "windows": rule(ml.windows(2), order_only=True, per_tensor=True),
    "channels": items(ml.channels(0)),
    "channels mean": items(ml.channels(1, p=1, mean=True)),
    "channels max": items(ml.channels(-1, p=math.inf)),
    "heads": items(ml.heads(2, dim=1)),
    "heads parts": items(ml.heads(2, parts=(1, 1), p=1), shapes=((4, 6), (8, 2), (4, 2, 2))),
    "blocks": items(ml.blocks((1, 2))),
    "blocks norm": items(ml.blocks((2,), p=1)),
    "labels": Case(by_label),
    "coupled": Case(by_set, shapes=((4, 6),)),
    "l1_unstructured": Case(ml.l1_unstructured, groups=ELEMENTS, ranks=torch.abs),
    "random_unstructured": Case(partial(ml.random_unstructured, key=7), groups=ELEMENTS, ranks=None, noisy=True),
    "ln_structured": Case(partial(ml.ln_structured, n=1, dim=0), groups=ml.channels(0, p=1), itemized=True),
    "random_structured": Case(
        partial(ml.random_structured, dim=1, key=7), groups=ml.channels(1), ranks=None, noisy=True
    ),
    "n_of_m": Case(partial(ml.n_of_m, of=2), KEEP, ml.windows(2), order_only=True, per_tensor=True),
    "n_of_m dim 1": Case(partial(ml.n_of_m, of=2, dim=1), KEEP, ml.windows(2, 1), order_only=True, per_tensor=True),
    "layerwise": Case(ml.layerwise(ml.l1_unstructured), per_tensor=True),
    "chain": Case(ml.chain(*HISTORY), takes=()),
}
METHODS = {name: case for name, case in CASES.items() if case.takes}
RULES = {name: case for name, case in CASES.items() if case.groups is not None and case.ranks is not None}


def bind(case: Case, number: Mapping[str, Any]) -> Callable[..., Any]:
    """The method with a number bound, or as it is if it takes none."""
    return partial(case.method, **number) if case.takes else case.method


def numbers_of(case: Case, small: float, large: float) -> list[tuple[dict, dict]]:
    """Pairs of numbers any pool can meet, the first of which kills no more than the second."""
    if not case.takes:
        return [({}, {})]
    pairs = {
        "amount": ({"amount": small}, {"amount": large}),
        "sparsity": ({"sparsity": small}, {"sparsity": large}),
        "keep": ({"keep": 1}, {"keep": 0}),
    }
    return [pairs[name] for name in case.takes]
