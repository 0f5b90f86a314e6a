"""Comparing what methods, scores and modules give."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from masklib.testing._oracle import named


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


def plain(value: Any) -> Any:
    """The same values in new, contiguous tensors; None stays None."""
    if value is None:
        return None
    return like(value, {n: t.clone(memory_format=torch.contiguous_format) for n, t in named(value).items()})


def touches_generators(call: Callable[[], Any]) -> bool:
    """Whether a call moves or seeds a generator of torch, numpy or Python; they are left as they were before it."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(_UNLIKELY)
    np.random.seed(_UNLIKELY)
    random.seed(_UNLIKELY)
    try:
        before = _random_states()
        call()
        return _random_states() != before
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


_UNLIKELY = 1_591_234_567  # no one else's seed


def _random_states() -> bytes:
    return pickle.dumps((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()))


def unstacked(*batches: Any) -> list[tuple[Any, ...]]:
    """The arguments of each call that a batch is made of."""
    size = next(iter(named(batches[0]).values())).shape[0]
    return [tuple(like(b, {n: t[i] for n, t in named(b).items()}) for b in batches) for i in range(size)]
