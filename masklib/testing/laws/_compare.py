"""Comparing what methods, scores and modules give."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from masklib.testing._oracle import named


def like(value: Any, entries: Mapping[str, Any]) -> Any:
    """Give the entries the form of a value: as they are for a mapping, else the one entry.

    >>> like(torch.ones(2), {"": 3})
    3
    """
    return dict(entries) if isinstance(value, Mapping) else entries[""]


def same(a: Any, b: Any) -> bool:
    """Whether two values have equal entries, dtypes and names, in any order of names.

    >>> same(torch.ones(2), torch.ones(2)), same(torch.ones(2), torch.ones(2, dtype=torch.float64))
    (True, False)
    """
    x, y = named(a), named(b)
    return x.keys() == y.keys() and all(x[n].dtype == y[n].dtype and torch.equal(x[n], y[n]) for n in x)


def below(a: Any, b: Any) -> bool:
    """Whether a <= b: b keeps whatever a keeps.

    >>> below(torch.tensor([True, False]), torch.tensor([True, True]))
    True
    """
    return all(bool((~mask | named(b)[n]).all()) for n, mask in named(a).items())


def storages(*values: Any) -> set[int]:
    """Collect where the given tensors keep their memory.

    >>> rows = torch.ones(2, 3)
    >>> storages(rows) == storages(rows[1])
    True
    """
    tensors = [t for v in values if v is not None for t in named(v).values()]
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def plain(value: Any) -> Any:
    """Copy the values into new, contiguous tensors; None stays None.

    >>> plain(torch.ones(2, 3).T).is_contiguous()
    True
    """
    if value is None:
        return None
    return like(value, {n: t.clone(memory_format=torch.contiguous_format) for n, t in named(value).items()})


def touches_generators(call: Callable[[], Any]) -> bool:
    """Whether a call moves or seeds a generator of torch, numpy or Python; they are left as they were before it.

    >>> touches_generators(lambda: torch.rand(1)), touches_generators(lambda: torch.ones(1))
    (True, False)
    """

    def moves() -> bool:
        before = _random_states()
        call()
        return _random_states() != before

    return with_seed(_UNLIKELY, moves)


_UNLIKELY = 1_591_234_567  # no one else's seed


def with_seed(seed: int, call: Callable[[], Any]) -> Any:
    """Call a function with the generators of torch, numpy and Python seeded, and leave them as they were.

    >>> with_seed(3, lambda: torch.initial_seed())
    3
    """
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        return call()
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def _random_states() -> bytes:
    return pickle.dumps((torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()))


def unstacked(*batches: Any) -> list[tuple[Any, ...]]:
    """Take batches apart into the arguments of each call that they are made of.

    >>> unstacked(torch.tensor([1, 2]), torch.tensor([3, 4]))
    [(tensor(1), tensor(3)), (tensor(2), tensor(4))]
    """
    size = next(iter(named(batches[0]).values())).shape[0]
    return [tuple(like(b, {n: t[i] for n, t in named(b).items()}) for b in batches) for i in range(size)]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype for a while.

    >>> with default_dtype(torch.float64):
    ...     torch.get_default_dtype()
    torch.float64
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def modes() -> tuple[Any, ...]:
    """Read torch's modes: defaults, gradients, autocast, determinism, threads.

    >>> modes()[0]
    torch.float32
    """
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        torch.get_default_device(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


@contextmanager
def restored_modes() -> Iterator[None]:
    """Set those modes back that a function may have changed for good.

    >>> with restored_modes():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    dtype, grad, deterministic, threads, *_ = before = modes()
    try:
        yield
    finally:
        if modes() != before:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)
