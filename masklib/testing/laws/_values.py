"""The laws of scores and of schedules.

`score` is a criterion `score(params) -> scores`, `p` are parameters, a tensor or a mapping by name; `schedule` is a
function `schedule(step) -> sparsity`, `t` and `u` are steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from masklib.testing._oracle import named
from masklib.testing.laws._compare import like, plain, same, storages, touches_generators

Score = Callable[[Any], Any]
Schedule = Callable[[Any], Any]

# ---- laws of scores -------------------------------------------------------------------------------------------------


def scores_what_is_valid(score: Score, p: Any) -> None:
    """score(p) raises nothing."""
    score(p)


def has_the_shapes_of_params(score: Score, p: Any) -> None:
    """score(p) has the names of p in their order, their shapes and devices."""
    got = score(p)
    assert isinstance(got, Mapping) == isinstance(p, Mapping)
    assert list(named(got)) == list(named(p))
    for name, value in named(p).items():
        assert (named(got)[name].shape, named(got)[name].device) == (value.shape, value.device)


def makes_no_nan(score: Score, p: Any) -> None:
    """score(p) has no NaN, for p without NaN or infinities."""
    assert not any(bool(t.isnan().any()) for t in named(score(p)).values())


def carries_no_graph(score: Score, p: Any) -> None:
    """score of parameters that need a gradient is score(p), without a graph."""
    floating = {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in named(p).items()}
    got = score(like(p, floating))
    assert not any(t.requires_grad for t in named(got).values())
    assert close(got, score(p))


def changes_no_params(score: Score, p: Any) -> None:
    """score(p) leaves p as it was."""
    before = copy.deepcopy(p)
    score(p)
    assert same(p, before)


def shares_no_memory_with_params(score: Score, p: Any) -> None:
    """score(p) shares no memory with p."""
    assert not storages(score(p)) & storages(p)


def needs_no_generator(score: Score, p: Any) -> None:
    """score(p) leaves the random states of torch, numpy and Python as they were."""
    assert not touches_generators(lambda: score(p))


def repeats_itself(score: Score, p: Any) -> None:
    """score(p) = score(p), bit by bit, whatever was scored in between."""
    first = plain(score(p))
    assert same(score(p), first)
    score(like(p, {n: torch.zeros_like(t) for n, t in named(p).items()}))
    assert same(score(p), first)


def looks_at_no_strides(score: Score, p: Any) -> None:
    """score(p) depends on values, not on strides, up to rounding."""
    assert close(score(p), score(plain(p)))


def looks_at_no_order(score: Score, p: Any) -> None:
    """The order of a mapping's names makes no difference, up to rounding."""
    if isinstance(p, Mapping):
        assert close(score(dict(reversed(list(p.items())))), score(p))


def scores_each_tensor_alone(score: Score, p: Any) -> None:
    """score(p)[name] = score({name: p[name]})[name]."""
    if isinstance(p, Mapping):
        got = score(p)
        assert all(same(got[n], score({n: p[n]})[n]) for n in p)


def close(a: Any, b: Any) -> bool:
    """Equal names and dtypes, and values up to rounding."""
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
    carries_no_graph,
    changes_no_params,
    shares_no_memory_with_params,
    needs_no_generator,
    repeats_itself,
    looks_at_no_strides,
    looks_at_no_order,
)

# ---- laws of schedules ----------------------------------------------------------------------------------------------


def is_a_sparsity(schedule: Schedule, t: int) -> None:
    """0 <= schedule(t) <= 1."""
    got = schedule(t)
    assert isinstance(got, Real) or (isinstance(got, Tensor) and got.dim() == 0), f"it gave {got!r}"
    assert 0 <= float(got) <= 1, f"it gave {got!r}"


def is_a_function_of_the_step(schedule: Schedule, t: int) -> None:
    """schedule(t) = schedule(t), whatever step came in between, and no generator is touched."""
    first = float(schedule(t))
    assert not touches_generators(lambda: [schedule(u) for u in (0, t // 2)])
    assert float(schedule(t)) == first


def takes_tensor_steps(schedule: Schedule, t: int) -> None:
    """schedule(tensor(t)) = schedule(t), as a 0-d float64 tensor, up to rounding."""
    got = schedule(torch.tensor(t))
    assert isinstance(got, Tensor), f"it gave {got!r}"
    assert (got.dtype, got.shape) == (torch.float64, ()), f"it gave {got!r}"
    assert abs(got.item() - float(schedule(t))) <= 1e-12, f"it gave {got!r}, and {schedule(t)!r} for the Python number"


def never_falls(schedule: Schedule, t: int, u: int) -> None:
    """schedule(t) <= schedule(u) for t <= u, up to rounding."""
    assert float(schedule(t)) <= float(schedule(u)) + 1e-12


SCHEDULES: tuple[Callable[[Schedule, int], None], ...] = (
    is_a_sparsity,
    is_a_function_of_the_step,
    takes_tensor_steps,
)
