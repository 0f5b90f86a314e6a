"""The laws as plain functions: each raises AssertionError when broken, and its docstring is its equation.

`f` is a method with its parameters bound, `f(scores, default_mask) -> mask`; `method` still takes a number. Scores and
masks are tensors or mappings by name; a mask may be None for all True. `a <= b` says that b keeps whatever a keeps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import oracle
import torch
from oracle import named
from torch import Tensor

import masklib as ml

Method = Callable[..., Any]

# ---- comparing ------------------------------------------------------------------------------------------------------


def like(value: Any, entries: Mapping[str, Any]) -> Any:
    """The entries in the form of a value: as they are for a mapping, else the one entry."""
    return dict(entries) if isinstance(value, Mapping) else entries[""]


def same(a: Any, b: Any) -> bool:
    """Equal values, dtypes and names, in any order of names."""
    x, y = named(a), named(b)
    return x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and torch.equal(x[n], y[n]) for n in x)


def below(a: Any, b: Any) -> bool:
    """a <= b."""
    return all(bool((~mask | named(b)[n]).all()) for n, mask in named(a).items())


def storages(*values: Any) -> set[int]:
    """Where the given tensors keep their memory."""
    tensors = [t for v in values if v is not None for t in named(v).values()]
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


# ---- laws of every method -------------------------------------------------------------------------------------------


def is_a_mask(f: Method, s: Any, m: Any) -> None:
    """f(s, m) is bool, of the scores' names in their order, shapes and devices, without a graph."""
    got = f(s, m)
    assert isinstance(got, dict) == isinstance(s, Mapping)
    assert list(named(got)) == list(named(s))
    for name, score in named(s).items():
        mask = named(got)[name]
        assert mask.dtype == torch.bool
        assert (mask.shape, mask.device) == (score.shape, score.device)
        assert not mask.requires_grad


def shrinks(f: Method, s: Any, m: Any) -> None:
    """f(s, m) <= m."""
    assert below(f(s, m), ml.identity(s, m))


def starts_from_all(f: Method, s: Any, m: Any) -> None:
    """f(s, None) = f(s, True) = f(s)."""
    every = like(s, {n: torch.ones(t.shape, dtype=torch.bool) for n, t in named(s).items()})
    assert same(f(s, None), f(s, every))
    assert same(f(s, None), f(s))


def looks_at_survivors_only(f: Method, s: Any, m: Any) -> None:
    """f(s, m) = f(t, m) for every t that equals s where m holds, NaN elsewhere included."""
    alive = named(ml.identity(s, m))
    other = like(s, {n: _bury(t, alive[n]) for n, t in named(s).items()})
    assert same(f(s, m), f(other, m))


def _bury(scores: Tensor, alive: Tensor) -> Tensor:
    """Other values in dead entries."""
    values = scores.clone(memory_format=torch.contiguous_format)
    values[~alive] = float("nan") if values.is_floating_point() else 77
    return values


def is_pure(f: Method, s: Any, m: Any) -> None:
    """Same inputs, same bits; inputs unchanged; f(s, m) shares no memory with them; no generator is touched."""
    before, state = copy.deepcopy((s, m)), torch.get_rng_state()
    first, second = f(s, m), f(s, m)
    assert same(first, second)
    assert same(s, before[0])
    assert m is None or same(m, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert not storages(first) & storages(s, m)
    assert not storages(first) & storages(second)


def is_layout_blind(f: Method, s: Any, m: Any) -> None:
    """f(s, m) depends on values, not on strides."""
    plain = [None if v is None else like(v, {n: _plain(t) for n, t in named(v).items()}) for v in (s, m)]
    assert same(f(s, m), f(*plain))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def is_order_blind(f: Method, s: Any, m: Any) -> None:
    """The order of a mapping's names makes no difference."""
    if isinstance(s, Mapping):
        turned = [None if v is None else dict(reversed(v.items())) for v in (s, m)]
        assert same(f(*turned), f(s, m))


def looks_at_no_default_device(f: Method, s: Any, m: Any) -> None:
    """The default device makes no difference."""
    expected = f(s, m)
    with torch.device("meta"):
        got = f(s, m)
    assert same(got, expected)


def is_detached(f: Method, s: Any, m: Any) -> None:
    """Masks of scores that need a gradient carry no graph."""
    floating = {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in named(s).items()}
    got = f(like(s, floating), m)
    assert not any(mask.requires_grad for mask in named(got).values())
    assert same(got, f(s, m))


def folds(f: Method, g: Method, s: Any, m: Any) -> None:
    """fold((f, g), s, m) = g(s, f(s, m)) = chain(f, g)(s, m) = scan((f, g), s, m)[-1]."""
    between, last = f(s, ml.identity(s, m)), g(s, f(s, m))
    assert same(ml.fold((f, g), s, m), last)
    assert same(ml.chain(f, g)(s, m), last)
    scanned = ml.scan((f, g), s, m)
    assert len(scanned) == 3
    assert all(same(a, b) for a, b in zip(scanned, (ml.identity(s, m), between, last)))


BOUND = (
    is_a_mask,
    shrinks,
    starts_from_all,
    looks_at_survivors_only,
    is_pure,
    is_layout_blind,
    is_order_blind,
    is_detached,
    looks_at_no_default_device,
)

# ---- laws of numbers ------------------------------------------------------------------------------------------------


def is_nested(method: Method, small: dict, large: dict, s: Any, m: Any) -> None:
    """A larger number gives a subset: method(s, m, large) <= method(s, m, small)."""
    assert below(method(s, m, **large), method(s, m, **small))


def is_idempotent(method: Method, number: dict, s: Any, m: Any) -> None:
    """f(s, f(s, m)) = f(s, m) for f with `keep` or `sparsity` bound."""
    f = partial(method, **number)
    assert same(f(s, f(s, m)), f(s, m))


def keeps_fewer_after_more(method: Method, more: dict, fewer: dict, s: Any, m: Any) -> None:
    """fewer(s, more(s, m)) = fewer(s, m), for `keep` and `sparsity`."""
    f, g = partial(method, **more), partial(method, **fewer)
    assert same(g(s, f(s, m)), g(s, m))


# ---- laws of the one rule -------------------------------------------------------------------------------------------


def is_exact(method: Method, groups: Any, number: dict, s: Any, m: Any) -> None:
    """In each pool exactly dying(alive, items, number) live items die, under any ties, and an item dies whole."""
    start, got = named(ml.identity(s, m)), named(method(s, m, **number))
    items, pools = oracle.labelled(groups, {n: tuple(t.shape) for n, t in start.items()})
    before, after = _items_alive(start, items, pools), _items_alive(got, items, pools)
    for pool, members in before.items():
        alive = [item for item, count in members.items() if count]
        dead = [item for item in alive if not after[pool][item]]
        assert len(dead) == oracle.dying(len(alive), len(members), **number)
        assert all(after[pool][item] in (0, members[item]) for item in alive)


def _items_alive(masks: Mapping[str, Tensor], items: oracle.Labels, pools: oracle.Labels) -> dict:
    """Of each pool its items, and of each how many elements are alive."""
    alive = {n: oracle.flat(mask) for n, mask in masks.items()}
    return {
        pool: {item: len(live) for item, live in members.items()}
        for pool, members in oracle.by_pool(items, pools, alive).items()
    }


def follows_the_rule(method: Method, groups: Any, number: dict, s: Any, m: Any, magnitude: bool = False) -> None:
    """method(s, m, number) = the lowest live items of each pool die, the lower index first among equals.

    It is a ValueError if, and only if, some pool has not as many.
    """
    try:
        expected = oracle.compute_mask(s, m, groups, magnitude=magnitude, **number)
    except oracle.Impossible:
        return is_refused(method, number, s, m)
    assert same(method(s, m, **number), expected)


def is_refused(method: Method, number: dict, s: Any, m: Any) -> None:
    """method(s, m, number) raises a ValueError that names the argument and its limits."""
    (argument,) = number
    assert f"`{argument}` must be between 0 and" in refusal(partial(method, **number), s, m)


def refusal(f: Method, *arguments: Any) -> str:
    """What the ValueError of a call says, nothing if it raises none."""
    try:
        f(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def is_lowest_up_to_rounding(groups: Any, number: dict, s: Any, m: Any) -> None:
    """In each pool no item that dies scores above one that survives, but for rounding of float64."""
    tensors, start = named(s), named(ml.identity(s, m))
    got = named(ml.compute_mask(s, m, groups=groups, **number))
    values = {n: oracle.flat(t) for n, t in tensors.items()}
    items, pools = oracle.labelled(groups, {n: tuple(t.shape) for n, t in tensors.items()})
    reduce, after = oracle.reduction(groups.p, groups.mean), _items_alive(got, items, pools)
    for pool, members in oracle.by_pool(items, pools, {n: oracle.flat(t) for n, t in start.items()}).items():
        score = {item: reduce([values[n][i] for n, i in live]) for item, live in members.items() if live}
        died = [x for item, x in score.items() if not after[pool][item]]
        lived = [x for item, x in score.items() if after[pool][item]]
        assert not died or not lived or max(died) <= min(lived) + 1e-12 * abs(min(lived))


def is_the_labels_form(groups: Any, number: dict, s: Any, m: Any) -> None:
    """compute_mask(s, m, groups) = compute_mask(s, m, labels(items, pools)), for sums, refusals included."""
    shapes = {n: tuple(t.shape) for n, t in named(s).items()}
    items, pools = (like(s, oracle.integers(part, shapes)) for part in oracle.labelled(groups, shapes))
    general = partial(ml.compute_mask, groups=ml.labels(items, pools))
    try:
        expected = ml.compute_mask(s, m, groups=groups, **number)
    except ValueError:
        return is_refused(general, number, s, m)
    assert same(general(s, m, **number), expected)


def looks_at_order_only(f: Method, s: Tensor, m: Any) -> None:
    """f(g(s), m) = f(s, m) for every g that increases strictly on the values present."""
    place = {value: i for i, value in enumerate(sorted({x + 0 for x in oracle.flat(s)}))}
    ranks = [place[x] for x in oracle.flat(s)]
    for g in (lambda i: i - 5, lambda i: 2.0**i * 1e-20, lambda i: i / 1e300):
        image = torch.tensor([g(i) for i in ranks], dtype=torch.float64).view(s.shape)
        assert same(f(image, m), f(s, m))


def is_its_concatenation(f: Method, s: Mapping[str, Tensor], m: Any) -> None:
    """f(s, m) = f(cat(s), cat(m)) cut apart again, names in sorted order."""
    names = sorted(s)
    if names:
        flat = torch.cat([s[n].reshape(-1).double() for n in names])
        alive = torch.cat([named(ml.identity(s, m))[n].reshape(-1) for n in names])
        got = f(s, m)
        assert torch.equal(torch.cat([got[n].reshape(-1) for n in names]), f(flat, alive))


def is_layerwise(method: Method, numbers: Mapping[str, dict], s: Mapping[str, Tensor], m: Any) -> None:
    """layerwise(f)(s, m, **numbers)[name] = f({name: s[name]}, {name: m[name]}, **numbers[name])[name]."""
    arguments = {a for number in numbers.values() for a in number}
    given = {a: {n: numbers[n][a] for n in s} for a in arguments}
    got = ml.layerwise(method)(s, m, **given)
    for n in s:
        alone = method({n: s[n]}, None if m is None else {n: m[n]}, **numbers[n])
        assert torch.equal(got[n], alone[n])


# ---- laws of transforms ---------------------------------------------------------------------------------------------


def vmaps(f: Method, *batches: Any) -> None:
    """vmap(f) = stacked f."""
    size = next(iter(named(batches[0]).values())).shape[0]
    single = [f(*(like(b, {n: t[i] for n, t in named(b).items()}) for b in batches)) for i in range(size)]
    got = named(torch.vmap(f)(*batches))
    assert all(torch.equal(mask, torch.stack([named(x)[n] for x in single])) for n, mask in got.items())


def compiles(f: Method, *arguments: Any, backend: Any = "aot_eager") -> None:
    """compile(f, fullgraph=True) = f."""
    torch._dynamo.reset()
    assert same(torch.compile(f, fullgraph=True, backend=backend)(*arguments), f(*arguments))


def exports(f: Method, *arguments: Any) -> None:
    """export(f) = f."""

    class Host(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return f(*given)

    assert same(torch.export.export(Host(), arguments).module()(*arguments), f(*arguments))
