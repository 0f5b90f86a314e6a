"""The laws of histories, mappings and transforms of methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import masklib as ml
from masklib.testing._oracle import named
from masklib.testing.laws._compare import same, unstacked
from masklib.testing.laws._methods import Method, Number


def folds(f: Method, g: Method, s: Any, m: Any) -> None:
    """fold((f, g), s, m) = g(s, f(s, m)) = chain(f, g)(s, m) = scan((f, g), s, m)[-1]."""
    between, last = f(s, ml.identity(s, m)), g(s, f(s, m))
    assert same(ml.fold((f, g), s, m), last)
    assert same(ml.chain(f, g)(s, m), last)
    scanned = ml.scan((f, g), s, m)
    assert len(scanned) == 3
    assert all(same(a, b) for a, b in zip(scanned, (ml.identity(s, m), between, last)))


# ---- laws of mappings and transforms --------------------------------------------------------------------------------


def is_its_concatenation(f: Method, s: Mapping[str, Tensor], m: Any) -> None:
    """f(s, m) = f(cat(s), cat(m)) cut apart again, names in sorted order."""
    names = sorted(s)
    if names:
        flat = torch.cat([s[n].reshape(-1).double() for n in names])
        alive = torch.cat([named(ml.identity(s, m))[n].reshape(-1) for n in names])
        got = f(s, m)
        assert torch.equal(torch.cat([got[n].reshape(-1) for n in names]), f(flat, alive))


def is_layerwise(method: Method, numbers: Mapping[str, Number], s: Mapping[str, Tensor], m: Any) -> None:
    """layerwise(f)(s, m, **numbers)[name] = f({name: s[name]}, {name: m[name]}, **numbers[name])[name]."""
    arguments = {a for number in numbers.values() for a in number}
    given = {a: {n: numbers[n][a] for n in s} for a in arguments}
    got = ml.layerwise(method)(s, m, **given)
    for n in s:
        alone = method({n: s[n]}, None if m is None else {n: m[n]}, **numbers[n])
        assert torch.equal(got[n], alone[n])


def vmaps(f: Method, *batches: Any) -> None:
    """vmap(f) = stacked f."""
    got = named(torch.vmap(f)(*batches))
    single = [named(f(*one)) for one in unstacked(*batches)]
    assert all(torch.equal(mask, torch.stack([one[n] for one in single])) for n, mask in got.items())


def vmaps_if_at_all(f: Method, *batches: Any) -> None:
    """vmap(f) = stacked f, if f runs under vmap."""
    try:
        torch.vmap(f)(*batches)
    except Exception:  # whatever a function does that cannot be mapped
        return
    vmaps(f, *batches)


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
