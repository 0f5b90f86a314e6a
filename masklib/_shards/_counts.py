"""Counts of what is sharded: each rank counts what it owns, and the sums are the same plain numbers everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import like as in_form
from masklib._names import named
from masklib._shards._layout import layout, local, mesh_of
from masklib._shards._wire import Wire


def is_counted_over_ranks(tensors: Mapping[str, Any]) -> bool:
    """Whether any of the arguments holds a DTensor, refusing one from which nothing can cross to other ranks."""
    entries = [t for value in tensors.values() for t in named(value).values() if isinstance(t, Tensor)]
    if any(_read.is_sharded(t) for t in entries):
        if torch.compiler.is_compiling():
            raise TypeError("a DTensor is counted on all ranks, which torch.compile cannot record. Count it outside.")
        return True
    if any(_read.is_sharded(_read.unwrapped(t)) for t in entries):
        raise TypeError("a DTensor is counted on all ranks, not under torch.vmap or torch.func. Count it outside.")
    return False


def summed(tensors: Mapping[str, Any], counts: Sequence[Callable[..., Any]], check: Callable[[], None]) -> list[Any]:
    """Each count of tensors over all ranks, of the form of the arguments.

    Args:
        tensors: by argument, each a tensor or a mapping by name; some are DTensors, of one mesh.
        counts: each a function of the parts of all arguments that lie in one rank, which returns a whole number.
        check: raises if an argument is not what it should be; then all ranks raise.

    Returns:
        For each count 0-d int64 tensors, where the first argument's are.
    """
    arguments = {argument: named(value) for argument, value in tensors.items()}
    mesh = mesh_of(arguments)
    wire, names = Wire(mesh), list(arguments[next(iter(arguments))])
    parts = wire.agree(lambda: _checked(arguments, mesh, check), lambda _: repr(names).encode())
    table = wire.rows(lambda: [int(count(*part)) for part in parts for count in counts], len(names) * len(counts))
    totals = table.sum(0).reshape(-1, len(counts))
    first = next(iter(tensors.values()))
    devices = {name: tensor.device for name, tensor in named(first).items()}
    return [
        in_form(first, {n: torch.tensor(int(k), device=d) for (n, d), k in zip(devices.items(), totals[:, i])})
        for i in range(len(counts))
    ]


def _checked(arguments: Mapping[str, Mapping[str, Tensor]], mesh: Any, check: Callable[[], None]) -> list[list[Tensor]]:
    check()
    return _owned(arguments, mesh)


def _owned(arguments: Mapping[str, Mapping[str, Tensor]], mesh: Any) -> list[list[Tensor]]:
    """What this rank counts of each name; nothing of what another rank counts."""
    first = next(iter(arguments))
    owns = {n: layout(t, mesh, _read.place(n, first)).owns for n, t in arguments[first].items()}
    parts = {n: [local(entries[n]) for entries in arguments.values()] for n in owns}
    return [parts[n] if owns[n] else [part.flatten()[:0] for part in parts[n]] for n in owns]
