"""The operators of selection: what they make of shapes, of batches and of tensors without data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from masklib.selection import _items, _labels, _random, _rank
from masklib.selection._op import each_example, expanded, op
from masklib.selection._refusals import meta_among, places


def _empty(scores: Tensor) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


# ---- one pool -------------------------------------------------------------------------------------------------------


def _fake_lowest(
    scores: Sequence[Tensor],
    alive: Sequence[Tensor | None],
    number: Tensor,
    counting: str,
    names: Sequence[str],
    by_magnitude: bool,
    least: Sequence[int] = (),
) -> list[Tensor]:
    meta_among([*places(scores, names, "scores"), *places(alive, names, "default_mask")], {f"`{counting}`": number})
    return [_empty(s) for s in scores]


def _lowest_of_batch(
    info: Any,
    in_dims: Any,
    scores: Any,
    alive: Any,
    number: Any,
    counting: str,
    names: Any,
    by_magnitude: bool,
    least: Any = (),
) -> Any:
    """The batch of one real tensor is a matrix of pools; any other is taken example by example."""
    if len(scores) != 1 or any(least):
        return each_example(lowest)(info, in_dims, scores, alive, number, counting, names, by_magnitude, least)
    batch = [info.batch_size]
    tensors = [expanded(t, d, batch[0]) for t, d in ((scores[0], in_dims[0][0]), (alive[0], in_dims[1][0]))]
    flat = [None if t is None else t.flatten(1) if t.dim() > 1 else t[:, None] for t in tensors]
    numbers = expanded(number, in_dims[2], batch[0])
    mask = lowest_in_rows(*flat, None, numbers, counting, names[0], by_magnitude)
    return [mask.view(tensors[0].shape)], [0]


lowest = op(
    "lowest(Tensor[] scores, Tensor?[] alive, Tensor number, str counting, str[] names, bool by_magnitude, "
    "int[] least=[]) -> Tensor[]",
    _rank.lowest,
    fake=_fake_lowest,
    vmap=_lowest_of_batch,
)


# ---- many short pools -----------------------------------------------------------------------------------------------


def _fake_rows(
    scores: Tensor,
    alive: Tensor | None,
    items: Tensor | None,
    number: Tensor,
    counting: str,
    name: str,
    by_magnitude: bool,
) -> Tensor:
    tensors = [*places([scores], [name], "scores"), *places([alive], [name], "default_mask")]
    meta_among(tensors, {f"`{counting}`": number} | ({} if items is None else {"`items`": items}))
    return _empty(scores)


def _rows_of_batch(
    info: Any,
    in_dims: Any,
    scores: Any,
    alive: Any,
    items: Any,
    number: Any,
    counting: str,
    name: str,
    by_magnitude: bool,
) -> tuple[Tensor, int]:
    """A batch of matrices is one taller matrix, with a number for each row."""
    size = info.batch_size
    matrices = [expanded(t, d, size) for t, d in ((scores, in_dims[0]), (alive, in_dims[1]))]
    pools = matrices[0].shape[1]
    numbers = expanded(number, in_dims[3], size).reshape(size, -1).expand(size, pools).reshape(-1)
    real = None if items is None else expanded(items, in_dims[2], size).reshape(-1)
    flat = [None if m is None else m.flatten(0, 1) for m in matrices]
    return lowest_in_rows(*flat, real, numbers, counting, name, by_magnitude).view(matrices[0].shape), 0


lowest_in_rows = op(
    "lowest_in_rows(Tensor scores, Tensor? alive, Tensor? items, Tensor number, str counting, str name, "
    "bool by_magnitude) -> Tensor",
    _rank.lowest_in_rows,
    fake=_fake_rows,
    vmap=_rows_of_batch,
)


# ---- items ----------------------------------------------------------------------------------------------------------


def _fake_items(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], p: float | None, mean: bool, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    meta_among([*places(scores, names, "scores"), *places(alive, names, "default_mask")], {})
    items = scores[0].shape[:1]
    return scores[0].new_empty(items, dtype=torch.float64), scores[0].new_empty(items, dtype=torch.bool)


item_scores = op(
    "item_scores(Tensor[] scores, Tensor?[] alive, float? p, bool mean, str[] names) -> (Tensor, Tensor)",
    _items.item_scores,
    fake=_fake_items,
)


# ---- labels ---------------------------------------------------------------------------------------------------------


def _fake_labelled(
    scores: Sequence[Tensor],
    alive: Sequence[Tensor | None],
    items: Sequence[Tensor],
    pools: Sequence[Tensor],
    number: Tensor,
    counting: str,
    names: Sequence[str],
) -> list[Tensor]:
    given = {"scores": scores, "default_mask": alive, "items": items, "pools": pools}
    meta_among([pair for name, part in given.items() for pair in places(part, names, name)], {f"`{counting}`": number})
    return [_empty(s) for s in scores]


lowest_labelled = op(
    "lowest_labelled(Tensor[] scores, Tensor?[] alive, Tensor[] items, Tensor[] pools, Tensor number, str counting, "
    "str[] names) -> Tensor[]",
    _labels.lowest_labelled,
    fake=_fake_labelled,
)


# ---- noise ----------------------------------------------------------------------------------------------------------


def _fake_noise(key: Tensor, name: str, stream: int, shape: Sequence[int], device: torch.device) -> Tensor:
    result = torch.empty(shape, dtype=torch.int64, device=device)
    meta_among([("`scores`", result)], {"`key`": key})
    return result


noise = op(
    "noise(Tensor key, str name, int stream, SymInt[] shape, Device device) -> Tensor",
    _random.noise,
    fake=_fake_noise,
)
