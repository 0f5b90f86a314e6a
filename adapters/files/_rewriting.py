"""Files written anew with zeros where masks say so: each chunk is read, masked and written by whoever is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib.selection import Streamed
from masklib.selection._streamed import run_of, runs, unit
from masklib.selection._threads import threaded

from ._header import Entry, Header
from ._reading import Counter
from ._sink import Sink

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_Task = tuple[Entry, int, int]


class Plan(NamedTuple):
    """What a checkpoint is to become."""

    stored: Mapping[str, Streamed]  # all of its tensors
    masks: Mapping[str, Tensor]  # of those that are pruned
    counter: Counter  # of what is written


def rewrite(header: Header, plan: Plan, sink: Sink | None) -> dict[str, int]:
    """Write a file with the same header, in which what is dead is zero.

    Args:
        header: of the source.
        plan: what becomes of its tensors.
        sink: the new file; None only counts.

    Returns:
        How many elements of each tensor with a mask are dead.
    """
    if sink is not None:
        sink.write(header.raw)
    entries = [e for e in header.entries.values() if sink is not None or e.name in plan.masks]
    tasks = [(e, *run) for e in entries for run in runs(e.numel, unit(plan.masks.get(e.name)))]

    def share(part: Sequence[_Task]) -> list[tuple[str, int]]:
        return [(e.name, _chunk(plan, sink, e, start, stop)) for e, start, stop in part]

    dead = {e.name: 0 for e in entries}
    for counts in threaded(share, tasks, sum(e.numel for e in entries)):
        for name, count in counts:
            dead[name] += count
    return {name: count for name, count in dead.items() if name in plan.masks}


def _chunk(plan: Plan, sink: Sink | None, entry: Entry, start: int, stop: int) -> int:
    """Mask and write a run of a tensor; return how many elements are dead."""
    memo: dict[Any, Tensor] = {}
    mask = plan.masks.get(entry.name)
    kept = None if mask is None else run_of(mask, start, stop, memo)
    dead = 0 if kept is None else stop - start - int(torch.count_nonzero(kept))
    if sink is not None:
        values = plan.stored[entry.name].read(start, stop, memo)
        data: Any = values.view(_INTEGERS[entry.dtype.itemsize]).numpy()  # read anew each time: nobody else has it
        if dead and kept is not None:
            np.multiply(data, kept.numpy(), out=data)  # of no bits set is the number 0, in every dtype
        sink.write_at(data, entry.offset + start * entry.dtype.itemsize)
        plan.counter.add(written=data.nbytes)
    return dead
