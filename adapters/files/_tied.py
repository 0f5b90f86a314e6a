"""Tensors that are stored twice: a table of embeddings, and the output layer that is to be the same."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from masklib.selection._streamed import runs

from ._header import Entry
from ._picking import is_embedding, owner_of
from ._reading import Reading


def tied_names(entries: Iterable[Entry], reading: Reading) -> dict[str, str]:
    """Tensors whose elements are those of another one, by whose name; one of both is a table of embeddings.

    Others that are equal, such as layers that were copied, are not taken for one.
    """
    found: dict[str, str] = {}
    alike: dict[tuple[torch.dtype, tuple[int, ...]], list[Entry]] = {}
    for entry in entries:
        if len(entry.shape) < 2:
            continue
        others = alike.setdefault((entry.dtype, entry.shape), [])
        first = next((o for o in others if _may_be(o, entry) and _equal(o, entry, reading)), None)
        if first is None:
            others.append(entry)
        else:
            found[entry.name] = first.name
    return found


def _may_be(first: Entry, second: Entry) -> bool:
    return is_embedding(owner_of(first.name)) or is_embedding(owner_of(second.name))


def _equal(first: Entry, second: Entry, reading: Reading) -> bool:
    """Whether two tensors have the same bytes, and more than one number: those of other ones differ in a chunk soon."""
    vary = False
    for run in runs(first.numel):
        one, other = (reading.elements(e, *run).view(torch.uint8).view(run[1] - run[0], -1) for e in (first, second))
        if not torch.equal(one, other):
            return False
        vary = vary or bool((one != one[0]).any())
    return vary
