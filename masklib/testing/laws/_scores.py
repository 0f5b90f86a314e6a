"""The laws of scores.

`score` is a criterion `score(params) -> scores`, `p` are parameters, a tensor or a mapping by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import masklib as ml
from masklib.testing._oracle import named
from masklib.testing.laws._compare import default_dtype, like, plain, same, storages, touches_generators

Score = Callable[[Any], Any]


def scores_what_is_valid(score: Score, p: Any) -> None:
    """score(p) raises nothing.

    >>> scores_what_is_valid(masklib.scores.magnitude, torch.ones(2))
    """
    score(p)


def has_the_shapes_of_params(score: Score, p: Any) -> None:
    """score(p) has the names of p in their order, their shapes and devices.

    >>> has_the_shapes_of_params(masklib.scores.magnitude, torch.ones(2))
    """
    got = score(p)
    assert isinstance(got, Mapping) == isinstance(p, Mapping)
    assert list(named(got)) == list(named(p))
    for name, value in named(p).items():
        assert (named(got)[name].shape, named(got)[name].device) == (value.shape, value.device)


def makes_no_nan(score: Score, p: Any) -> None:
    """score(p) has no NaN, for p without NaN or infinities.

    >>> makes_no_nan(masklib.scores.magnitude, torch.ones(2))
    """
    assert not any(bool(t.isnan().any()) for t in named(score(p)).values())


def hides_no_nan(score: Score, p: Any) -> None:
    """score(p) is NaN or refused where p is NaN, if it depends on that value.

    >>> hides_no_nan(masklib.scores.magnitude, torch.ones(2))
    """
    for name, value in named(p).items():
        if not value.numel() or not (value.is_floating_point() or value.is_complex()):
            continue
        hit = (torch.arange(value.numel()) == value.numel() // 2).view(value.shape).to(value.device)
        spoiled = torch.where(hit, float("nan"), value.detach())
        try:
            got = named(score({**p, name: spoiled} if isinstance(p, Mapping) else spoiled))[name][hit]
        except ValueError:
            continue
        assert bool(got.isnan().all()) or torch.equal(got, named(score(p))[name][hit])


def can_be_ranked(score: Score, p: Any) -> None:
    """compute_mask(score(p), amount=1/2) raises nothing.

    >>> can_be_ranked(masklib.scores.magnitude, torch.ones(2))
    """
    ml.compute_mask(score(p), amount=0.5)


def ignores_autocast(score: Score, p: Any) -> None:
    """An autocast region makes no difference to score(p).

    >>> ignores_autocast(masklib.scores.magnitude, torch.ones(2))
    """
    expected = plain(score(p))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(score(p), expected)


def ignores_the_default_dtype(score: Score, p: Any) -> None:
    """The default dtype makes no difference to score(p).

    >>> ignores_the_default_dtype(masklib.scores.magnitude, torch.ones(2))
    """
    expected = plain(score(p))
    with default_dtype(torch.float64):
        assert same(score(p), expected)


def carries_no_graph(score: Score, p: Any) -> None:
    """score of parameters that need a gradient is score(p), without a graph.

    >>> carries_no_graph(masklib.scores.magnitude, torch.ones(2))
    """
    floating = {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in named(p).items()}
    got = score(like(p, floating))
    assert not any(t.requires_grad for t in named(got).values())
    assert close(got, score(p))


def changes_no_params(score: Score, p: Any) -> None:
    """score(p) leaves p as it was.

    >>> changes_no_params(masklib.scores.magnitude, torch.ones(2))
    """
    before = copy.deepcopy(p)
    score(p)
    assert same(p, before)


def shares_no_memory_with_params(score: Score, p: Any) -> None:
    """score(p) shares no memory with p.

    >>> shares_no_memory_with_params(masklib.scores.magnitude, torch.ones(2))
    """
    assert not storages(score(p)) & storages(p)


def needs_no_generator(score: Score, p: Any) -> None:
    """score(p) leaves the random states of torch, numpy and Python as they were.

    >>> needs_no_generator(masklib.scores.magnitude, torch.ones(2))
    """
    assert not touches_generators(lambda: score(p))


def repeats_itself(score: Score, p: Any) -> None:
    """score(p) = score(p), bit by bit, whatever was scored in between.

    >>> repeats_itself(masklib.scores.magnitude, torch.ones(2))
    """
    first = plain(score(p))
    assert same(score(p), first)
    score(like(p, {n: torch.zeros_like(t) for n, t in named(p).items()}))
    assert same(score(p), first)


def looks_at_no_strides(score: Score, p: Any) -> None:
    """score(p) depends on values, not on strides, up to rounding.

    >>> looks_at_no_strides(masklib.scores.magnitude, torch.ones(2))
    """
    assert close(score(p), score(plain(p)))


def looks_at_no_order(score: Score, p: Any) -> None:
    """The order of a mapping's names makes no difference, up to rounding.

    >>> looks_at_no_order(masklib.scores.magnitude, {"b": torch.ones(2), "a": torch.ones(2)})
    """
    if isinstance(p, Mapping):
        assert close(score(dict(reversed(list(p.items())))), score(p))


def scores_each_tensor_alone(score: Score, p: Any) -> None:
    """score(p)[name] = score({name: p[name]})[name].

    >>> scores_each_tensor_alone(masklib.scores.magnitude, {"b": torch.ones(2), "a": torch.ones(2)})
    """
    if isinstance(p, Mapping):
        got = score(p)
        assert all(same(got[n], score({n: p[n]})[n]) for n in p)


def close(a: Any, b: Any) -> bool:
    """Whether names and dtypes are equal, and values up to rounding.

    >>> close(torch.ones(2), torch.ones(2) + 1e-7)
    True
    """
    x, y = named(a), named(b)
    return x.keys() == y.keys() and all(_near(x[n], y[n]) for n in x)


def _near(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point() or not b.is_floating_point():
        return a.dtype == b.dtype and torch.equal(a, b)
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=2 * torch.finfo(a.dtype).eps ** 0.75, atol=1e-7)


SCORES: tuple[Callable[[Score, Any], None], ...] = (
    scores_what_is_valid,
    has_the_shapes_of_params,
    makes_no_nan,
    hides_no_nan,
    can_be_ranked,
    ignores_autocast,
    ignores_the_default_dtype,
    carries_no_graph,
    changes_no_params,
    shares_no_memory_with_params,
    needs_no_generator,
    repeats_itself,
    looks_at_no_strides,
    looks_at_no_order,
)
