"""The laws as plain functions: each raises AssertionError when broken, its equation is its docstring."""

from __future__ import annotations

import copy

import torch

import masklib as ml


def named(value):
    return {"": value} if isinstance(value, torch.Tensor) else value


def same(a, b) -> bool:
    a, b = named(a), named(b)
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def below(a, b) -> bool:
    """a <= b: whatever a keeps, b keeps."""
    return all(bool((~x | y).all()) for x, y in zip(named(a).values(), named(b).values()))


def is_a_mask(f, s, m):
    """f(s, m) is bool, of the scores' names, shapes and devices."""
    got = named(f(s, m))
    assert list(got) == list(named(s))
    for name, score in named(s).items():
        assert got[name].dtype == torch.bool
        assert got[name].shape == score.shape
        assert got[name].device == score.device


def shrinks(f, s, m):
    """f(s, m) <= m."""
    assert below(f(s, m), ml.identity(s, m))


def survivors_only(f, s, m):
    """f(s, m) = f(t, m) for all t that equal s where m holds; NaN in dead entries does not matter."""
    start = named(ml.identity(s, m))
    other = {n: bury(v, start[n]) for n, v in named(s).items()}
    other = other[""] if isinstance(s, torch.Tensor) else other
    assert same(f(s, ml.identity(s, m)), f(other, ml.identity(s, m)))


def bury(scores, alive):
    values = scores.clone()
    values[~alive] = float("nan") if values.is_floating_point() else 77
    return values


def is_pure(f, s, m):
    """Same inputs, same bits; inputs unchanged; the result shares no memory with them; no generator is touched."""
    before, state = copy.deepcopy((s, m)), torch.get_rng_state()
    first, second = f(s, m), f(s, m)
    assert same(first, second)
    assert all(torch.equal(x, y) for x, y in zip(named(s).values(), named(before[0]).values()))
    assert m is None or same(m, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    inputs = {
        t.untyped_storage().data_ptr() for t in [*named(s).values(), *(named(m).values() if m is not None else ())]
    }
    assert all(x.untyped_storage().data_ptr() not in inputs for x in named(first).values() if x.numel())


def is_nested(smaller, larger, s, m):
    """A larger number gives a subset: f(s, m, large) <= f(s, m, small)."""
    assert below(larger(s, m), smaller(s, m))


def is_idempotent(f, s, m):
    """f(s, f(s, m)) = f(s, m), for `keep` and `sparsity`."""
    assert same(f(s, f(s, m)), f(s, m))


def folds(first, second, s, m):
    """fold((f, g), s, m) = g(s, f(s, m)), and scan holds every mask on the way."""
    assert same(ml.fold((first, second), s, m), second(s, first(s, m)))
    a, b, c = ml.scan((first, second), s, m)
    assert same(a, ml.identity(s, m))
    assert same(b, first(s, a))
    assert same(c, second(s, b))
    assert same(ml.chain(first, second)(s, m), c)


def is_layout_blind(f, s, m):
    """f depends on values, not on strides."""
    plain = {n: v.contiguous().clone() for n, v in named(s).items()}
    assert same(f(s, m), f(plain[""] if isinstance(s, torch.Tensor) else plain, m))


def is_order_blind(f, s, m):
    """The order of a mapping's names makes no difference."""
    turned = dict(reversed(s.items()))
    mask = None if m is None else dict(reversed(m.items()))
    got, expected = f(turned, mask), f(s, m)
    assert all(torch.equal(got[n], expected[n]) for n in s)


def vmaps(f, batch, masks):
    """vmap(f) = stacked f."""
    expected = torch.stack([f(s, m) for s, m in zip(batch, masks)])
    assert torch.equal(torch.vmap(f)(batch, masks), expected)
