"""Scores that cannot be ranked, told by all ranks in the words of a whole tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from masklib._shards._call import Call
from masklib._shards._pool import Part, no_nan
from masklib._shards._wire import Wire
from masklib.selection import _refusals
from masklib.selection._loop import HasNaN


class NaNs:
    """Tell in which tensors the NaN are that a selection met."""

    def __init__(self, wire: Wire, call: Call, names: Sequence[str]) -> None:
        self._refuse = lambda: _refuse_nan(wire, call, names)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and (issubclass(kind, HasNaN) or "NaN in scores" in str(error)):
            self._refuse()  # counted over all ranks


def _refuse_nan(wire: Wire, call: Call, names: Sequence[str]) -> None:
    no_nan(wire, [_owned(call, n) for n in names], names)


def _owned(call: Call, name: str) -> tuple[Tensor, Tensor | None]:
    """Scores and mask of a tensor, empty where another rank counts them."""
    at = call.given.get(name, call.layouts[name])
    scores, alive = call.scores[name], None if name in call.given else call.alive[name]
    return (scores, alive) if at.owns else (scores.new_empty(0), None)


def refuse_unranked(wire: Wire, call: Call, reduced: Sequence[int], parts: Mapping[int, Part]) -> None:
    """Refuse items whose score is no number: NaN among their elements, or inf - inf."""
    if not reduced:
        return
    counts = wire.rows(lambda: [int(parts[i].owned.scores.isnan().sum()) for i in reduced], len(reduced)).sum(0)
    for i, count in zip(reduced, counts):
        if count or call.p == 0:
            names = list(call.sets[i])
            _refuse_nan(wire, call, names)
            _refusals.refuse_opposite_infinities(int(count), names)
