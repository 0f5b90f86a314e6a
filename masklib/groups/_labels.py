"""The general form: items and pools by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masklib import _read, selection
from masklib._names import Tensors, named

_INTEGERS = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Labels:
    """Items and pools by integer label of each element."""

    items: Tensors
    pools: Tensors | None = None

    def __repr__(self) -> str:
        return f"labels(items={self.items!r}, pools={self.pools!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and _equal(self.items, other.items) and _equal(self.pools, other.pools)

    def __hash__(self) -> int:
        return hash(tuple((name, tuple(t.shape)) for name, t in named(self.items).items()))

    def rank(
        self, values: Mapping[str, Tensor], alive: Mapping[str, Tensor | None], counting: str, number: Any
    ) -> dict[str, Tensor]:
        """Rank by label: items may have any number of elements, and pools any number of items."""
        _read.rankable(values, False)
        names = sorted(values)
        for argument, labels_ in (("items", self.items), ("pools", self.pools)):
            for name, label in named({} if labels_ is None else labels_).items():
                _read.is_whole(label, _read.place(name, argument))
        labels = [_labels_like(self.items, values, "items"), _labels_like(self.pools, values, "pools")]
        tensors, masks = [values[n] for n in names], [alive[n] for n in names]
        return dict(
            zip(names, selection.lowest_labelled(tensors, masks, *labels, selection.as_tensor(number), counting, names))
        )

    def rank_shards(self, wire: Any, values: Any, alive: Any, layouts: Any, counting: str, number: Any) -> Any:
        """The same over the ranks of a mesh: values and masks are the parts of this one."""
        from masklib._shards import _labels as shards

        def held() -> Any:
            _read.rankable(values, False)
            items, pools = (
                self._parts(part, layouts, name) for part, name in ((self.items, "items"), (self.pools, "pools"))
            )
            return {n: shards.Held(values[n], alive[n], items[n], pools.get(n), layouts[n].owns) for n in values}

        given = [t for part in (self.items, self.pools) if part is not None for _, t in sorted(named(part).items())]
        return shards.rank(wire, wire.agree(held, lambda _: shards.said(given)), counting, number)

    def _parts(self, value: Any, layouts: Any, argument: str) -> dict[str, Tensor]:
        """The labels of what is here."""
        from masklib._shards import _labels as shards

        if value is None:
            return {}
        entries = _read.tensors(value, argument)
        _read.same_names(entries, layouts, argument)
        for name, label in entries.items():
            wanted = torch.empty(layouts[name].shape, device="meta")
            _read.same_shape(label, wanted, _read.place(name, argument), _read.place(name, "scores"))
        return {n: shards.label_part(entries[n], layouts[n], _read.place(n, argument)) for n in layouts}


def labels(items: Tensors, pools: Tensors | None = None) -> Labels:
    """Say by integer label which elements form an item and which items a pool: the general form.

    An item's score is the sum of its live scores; among equals the lower label dies first. Equal labels in several
    tensors of a mapping are one item.

    Args:
        items: integer labels, a tensor of the scores' shape or a mapping of them by name.
        pools: integer labels likewise, constant within each item; None for one pool.

    Raises:
        TypeError: if a label tensor is not of an integer dtype.

    >>> labels(torch.tensor([0, 0, 1]))
    labels(items=tensor([0, 0, 1]), pools=None)
    """
    return Labels(_labelling(items, "items"), None if pools is None else _labelling(pools, "pools"))


def _equal(a: Tensors | None, b: Tensors | None) -> bool:
    if a is None or b is None:
        return a is b
    left, right = named(a), named(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _labelling(value: Any, argument: str) -> Any:
    """Refuse labels that are not integer tensors."""
    for name, tensor in _read.tensors(value, argument).items():
        if tensor.dtype not in _INTEGERS:
            raise TypeError(
                f"{_read.place(name, argument)} must hold integer labels, got {tensor.dtype}. "
                "For example labels(torch.arange(scores.numel()).view(scores.shape))."
            )
    return value


def _labels_like(value: Any, scores: Mapping[str, Tensor], argument: str) -> Sequence[Tensor]:
    """The label tensors in the order of sorted names; none at all for None."""
    if value is None:
        return []
    entries = _read.tensors(value, argument)
    _read.same_names(entries, scores, argument)
    for name, label in entries.items():
        _read.same_shape(label, scores[name], _read.place(name, argument), _read.place(name, "scores"))
    return [entries[n] for n in sorted(scores)]
