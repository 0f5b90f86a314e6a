"""What selection alone refuses: data and numbers that a pool cannot be ranked by, and tensors without data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

EXAMPLE = {"amount": "amount=0.2", "keep": "keep=2", "sparsity": "sparsity=0.9"}


# ---- data -----------------------------------------------------------------------------------------------------------


def no_nan(scores: Sequence[Tensor], alive: Sequence[Tensor | None], names: Sequence[str]) -> None:
    """Refuse NaN in live entries, naming each tensor and its count."""
    refuse_nan({n: count_nan(s, a) for n, s, a in zip(names, scores, alive)})


def count_nan(scores: Tensor, alive: Tensor | None) -> int:
    """How many live entries are NaN."""
    return int(_nan(scores, alive).sum()) if _is_inexact(scores) else 0


def refuse_nan(counts: Mapping[str, int]) -> None:
    """Refuse tensors, by name, with so many NaN."""
    found = ", ".join(f"{c} NaN in scores" + (f" of {n!r}" if n else "") for n, c in counts.items() if c)
    if found:
        raise ValueError(f"{found}. Scores of live entries must be numbers: mask the entries or mend the scores.")


def _is_inexact(tensor: Tensor) -> bool:
    """Whether the dtype can hold NaN."""
    return tensor.is_floating_point() or tensor.is_complex()


def _nan(scores: Tensor, alive: Tensor | None) -> Tensor:
    return scores.isnan() if alive is None else scores.isnan() & alive


def opposite_infinities(scores: Tensor, names: Sequence[str]) -> None:
    """Refuse items whose score is inf - inf."""
    refuse_opposite_infinities(int(scores.isnan().sum()), names)


def refuse_opposite_infinities(count: int, names: Sequence[str]) -> None:
    """Refuse so many items whose score is inf - inf."""
    if count:
        where = f" of {', '.join(map(repr, names))}" if any(names) else ""
        raise ValueError(
            f"{count} items of `scores`{where} add up +inf and -inf, which has no value. "
            "Clamp the scores, or rank by a norm, for example channels(0, p=2)."
        )


def constant_pools(agree: Tensor) -> None:
    """Refuse items whose elements are in different pools."""
    if not bool(agree.all()):
        raise ValueError(
            f"`pools` must be constant within each item, but {int((~agree).sum())} elements differ from their item. "
            "For example labels(items, items // 4)."
        )


# ---- numbers --------------------------------------------------------------------------------------------------------


def quantity(counting: str, fraction: bool, number: Any, alive: Any, items: Any, names: Sequence[str]) -> None:
    """Refuse numbers that a pool cannot meet; `alive` and `items` hold the counts by pool."""
    most = 1 if fraction else items if counting == "keep" else alive
    met = (number >= 0) & (number <= most)
    if met if isinstance(met, bool) else met.all():
        return
    value, limit = _first_unmet(met, number), _first_unmet(met, most)
    what = "items of the pool" if counting == "keep" else "items alive in the pool"
    where = f" (scores of {', '.join(map(repr, names))})" if any(names) else ""
    bound = "a fraction between 0 and 1" if fraction else f"between 0 and {limit} ({what}{where})"
    out_of_range(counting, value, bound)


def out_of_range(counting: str, value: Any, limit: str) -> None:
    """Raise for a number outside its range."""
    raise ValueError(f"`{counting}` must be {limit}, got {value}. For example {EXAMPLE[counting]}.")


def _first_unmet(met: Any, values: Any) -> int | float:
    """The value at the first False of `met`."""
    wrong = (met if isinstance(met, Tensor) else torch.from_numpy(np.asarray(met))).logical_not()
    return torch.as_tensor(values, device=wrong.device).expand(wrong.shape)[wrong][0].item()


def floor_above_alive(least: Sequence[int], alive: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a floor above what a tensor has alive."""
    for floor, live, name in zip(least, alive, names):
        if not 0 <= floor <= live:
            where = f" of {name!r}" if name else ""
            raise ValueError(
                f"`least`{where} must be between 0 and {live} (alive in it), got {floor}. For example least={live}."
            )


def floors_too_high(counting: str, die: int, alive: int, least: Sequence[int], names: Sequence[str]) -> None:
    """Refuse floors that leave fewer to take away than the number says."""
    spare = alive - sum(least)
    if die > spare:
        floors = {name: floor for name, floor in zip(names, least) if floor}
        hint = f"amount={spare}" if counting != "keep" else f"keep={sum(least)}"
        raise ValueError(
            f"`least` keeps {sum(least)} of the {alive} alive, {floors}, so that at most {spare} can die, "
            f"but `{counting}` takes {die}. Lower the floors, or pass for example {hint}."
        )


# ---- tensors without data -------------------------------------------------------------------------------------------


def meta_among(tensors: Iterable[tuple[str, Tensor | None]], number: Mapping[str, Tensor]) -> None:
    """Refuse meta tensors among others; a number may be on the CPU beside meta tensors, as Python numbers are."""
    on_meta = {where: t.is_meta for where, t in tensors if t is not None}
    everything = all(on_meta.values())
    numbers = {where: t.is_meta for where, t in number.items() if t.is_meta and not (everything and on_meta)}
    found = [where for where, meta in (on_meta | numbers).items() if meta]
    if found and (numbers or not everything):
        raise ValueError(
            f"{found[0]} must hold data, got a tensor on the meta device among others that are not. "
            "Materialize it, for example with tensor.to_empty or by loading it, or pass meta tensors alone."
        )


def places(tensors: Sequence[Tensor | None], names: Sequence[str], argument: str) -> list[tuple[str, Tensor | None]]:
    """Each tensor with where it stands, for messages."""
    return [(f"`{argument}` of {n!r}" if n else f"`{argument}`", t) for n, t in zip(names, tensors)]
