"""The laws of every method: they are about one method, with its numbers bound or not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import masklib as ml
from masklib.testing._oracle import named
from masklib.testing.laws._compare import below, like, plain, same, storages, touches_generators

Method = Callable[..., Any]
Number = dict[str, Any]

# ---- laws of every method -------------------------------------------------------------------------------------------


def takes_what_is_valid(f: Method, s: Any, m: Any) -> None:
    """f(s, m) raises nothing.

    >>> takes_what_is_valid(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    f(s, m)


def is_a_mask(f: Method, s: Any, m: Any) -> None:
    """f(s, m) is bool, of the scores' names in their order, shapes and devices, without a graph.

    >>> is_a_mask(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    got = f(s, m)
    assert isinstance(got, dict) == isinstance(s, Mapping)
    assert list(named(got)) == list(named(s))
    for name, score in named(s).items():
        mask = named(got)[name]
        assert mask.dtype == torch.bool
        assert (mask.shape, mask.device) == (score.shape, score.device)
        assert not mask.requires_grad


def shrinks(f: Method, s: Any, m: Any) -> None:
    """f(s, m) <= m.

    >>> shrinks(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    assert below(f(s, m), ml.identity(s, m))


def starts_from_all(f: Method, s: Any, m: Any) -> None:
    """f(s, None) = f(s, True).

    >>> starts_from_all(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    every = like(s, {n: torch.ones(t.shape, dtype=torch.bool) for n, t in named(s).items()})
    assert same(f(s, None), f(s, every))


def needs_no_mask(f: Method, s: Any, m: Any) -> None:
    """f(s) = f(s, None).

    >>> needs_no_mask(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    assert same(f(s), f(s, None))


def looks_at_survivors_only(f: Method, s: Any, m: Any) -> None:
    """f(s, m) = f(t, m) for every t that equals s where m holds, NaN elsewhere included.

    >>> looks_at_survivors_only(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    alive = named(ml.identity(s, m))
    other = like(s, {n: _bury(t, alive[n]) for n, t in named(s).items()})
    assert same(f(s, m), f(other, m))


def _bury(scores: Tensor, alive: Tensor) -> Tensor:
    """Other values in dead entries."""
    values = scores.clone(memory_format=torch.contiguous_format)
    values[~alive] = float("nan") if values.is_floating_point() else 77
    return values


def changes_no_input(f: Method, s: Any, m: Any) -> None:
    """f(s, m) leaves s and m as they were.

    >>> changes_no_input(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    scores, mask = copy.deepcopy((s, m))
    f(s, m)
    assert same(s, scores)
    assert m is None or same(m, mask)


def shares_no_memory(f: Method, s: Any, m: Any) -> None:
    """f(s, m) shares no memory with s or m, nor with another f(s, m).

    >>> shares_no_memory(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    first, second = f(s, m), f(s, m)
    assert not storages(first) & storages(s, m)
    assert not storages(first) & storages(second)


def touches_no_generator(f: Method, s: Any, m: Any) -> None:
    """f(s, m) leaves the random states of torch, numpy and Python as they were.

    >>> touches_no_generator(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    assert not touches_generators(lambda: f(s, m))


def remembers_nothing(f: Method, s: Any, m: Any) -> None:
    """f(s, m) = f(s, m), whatever f was called with in between.

    >>> remembers_nothing(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    first = plain(f(s, m))
    assert same(f(s, m), first)
    for other in (lambda t: t.flip(tuple(range(t.dim()))), torch.zeros_like):
        f(like(s, {n: other(t) for n, t in named(s).items()}), None)
        assert same(f(s, m), first)


def is_layout_blind(f: Method, s: Any, m: Any) -> None:
    """f(s, m) depends on values, not on strides.

    >>> is_layout_blind(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    assert same(f(s, m), f(plain(s), plain(m)))


def is_order_blind(f: Method, s: Any, m: Any) -> None:
    """The order of a mapping's names makes no difference.

    >>> is_order_blind(partial(l1_unstructured, amount=1), {"b": torch.ones(2), "a": torch.ones(2)}, None)
    """
    if isinstance(s, Mapping):
        turned = [None if v is None else dict(reversed(list(v.items()))) for v in (s, m)]
        assert same(f(*turned), f(s, m))


def is_detached(f: Method, s: Any, m: Any) -> None:
    """f of scores that need a gradient is f of the same scores detached, without a graph.

    >>> is_detached(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    floating = {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in named(s).items()}
    got = f(like(s, floating), m)
    assert not any(mask.requires_grad for mask in named(got).values())
    assert same(got, f(s, m))


METHODS: tuple[Callable[[Method, Any, Any], None], ...] = (
    takes_what_is_valid,
    is_a_mask,
    shrinks,
    starts_from_all,
    looks_at_survivors_only,
    changes_no_input,
    shares_no_memory,
    touches_no_generator,
    remembers_nothing,
    is_layout_blind,
    is_order_blind,
    is_detached,
)

# ---- laws of numbers ------------------------------------------------------------------------------------------------


def nothing_takes_nothing(method: Method, nothing: Number, s: Any, m: Any) -> None:
    """method(s, m, nothing) = m, for nothing an amount or a sparsity of 0.

    >>> nothing_takes_nothing(l1_unstructured, {"amount": 0}, torch.ones(2), None)
    """
    assert same(method(s, m, **nothing), ml.identity(s, m))


def everything_takes_everything(method: Method, everything: Number, s: Any, m: Any) -> None:
    """method(s, m, everything) = False everywhere, for everything an amount or a sparsity of 1.0, or keep=0.

    >>> everything_takes_everything(compute_mask, {"keep": 0}, torch.ones(2), None)
    """
    assert not any(bool(mask.any()) for mask in named(method(s, m, **everything)).values())


def is_nested(method: Method, small: Number, large: Number, s: Any, m: Any) -> None:
    """A larger number gives a subset: method(s, m, large) <= method(s, m, small).

    >>> is_nested(l1_unstructured, {"amount": 1}, {"amount": 2}, torch.ones(2), None)
    """
    assert below(method(s, m, **large), method(s, m, **small))


def is_idempotent(method: Method, number: Number, s: Any, m: Any) -> None:
    """f(s, f(s, m)) = f(s, m) for f with `keep` or `sparsity` bound.

    >>> is_idempotent(compute_mask, {"keep": 1}, torch.ones(2), None)
    """
    f = partial(method, **number)
    assert same(f(s, f(s, m)), f(s, m))


def keeps_fewer_after_more(method: Method, more: Number, fewer: Number, s: Any, m: Any) -> None:
    """fewer(s, more(s, m)) = fewer(s, m), for `keep` and `sparsity`.

    >>> keeps_fewer_after_more(compute_mask, {"keep": 2}, {"keep": 1}, torch.ones(2), None)
    """
    f, g = partial(method, **more), partial(method, **fewer)
    assert same(g(s, f(s, m)), g(s, m))
