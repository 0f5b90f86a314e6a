"""The laws of mappings and of torch's transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import masklib as ml
from masklib.testing._oracle import named
from masklib.testing.laws._compare import same, unstacked
from masklib.testing.laws._methods import Method


def is_its_concatenation(f: Method, s: Mapping[str, Tensor], m: Any) -> None:
    """f(s, m) = f(cat(s), cat(m)) cut apart again, names in sorted order.

    >>> is_its_concatenation(partial(l1_unstructured, amount=1), {"b": torch.ones(2), "a": torch.ones(2)}, None)
    """
    names = sorted(s)
    if names:
        flat = torch.cat([s[n].reshape(-1).double() for n in names])
        alive = torch.cat([named(ml.identity(s, m))[n].reshape(-1) for n in names])
        got = f(s, m)
        assert torch.equal(torch.cat([got[n].reshape(-1) for n in names]), f(flat, alive))


def vmaps(f: Method, *batches: Any) -> None:
    """vmap(f) = stacked f.

    >>> vmaps(partial(l1_unstructured, amount=1), torch.ones(3, 2))
    """
    got = named(torch.vmap(f)(*batches))
    single = [named(f(*one)) for one in unstacked(*batches)]
    assert all(torch.equal(mask, torch.stack([one[n] for one in single])) for n, mask in got.items())


def vmaps_if_at_all(f: Method, *batches: Any) -> None:
    """vmap(f) = stacked f, if f runs under vmap.

    >>> vmaps_if_at_all(lambda s: s > s.mean().item(), torch.ones(3, 2))
    """
    try:
        torch.vmap(f)(*batches)
    except Exception:  # whatever a function does that cannot be mapped
        return
    vmaps(f, *batches)


def compiles(f: Method, *arguments: Any, backend: Any = "aot_eager") -> None:
    """compile(f, fullgraph=True) = f.

    >>> compiles(partial(l1_unstructured, amount=1), torch.ones(2), None)
    """
    torch._dynamo.reset()
    assert same(torch.compile(f, fullgraph=True, backend=backend)(*arguments), f(*arguments))


def exports(f: Method, *arguments: Any) -> None:
    """export(f) = f.

    >>> exports(partial(l1_unstructured, amount=1), torch.ones(2))
    """

    class Host(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return f(*given)

    assert same(torch.export.export(Host(), arguments).module()(*arguments), f(*arguments))
