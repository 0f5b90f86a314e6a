"""One block: what its layers see is collected, they are pruned, and it is run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._module.blocks import Call, first_of
from ._asked import Asked
from ._capture import Given, beside, is_equal
from ._report import Layer, Pruned
from ._rules import Rule
from ._sites import Site, Watch
from ._states import States

Solve = Callable[..., Any]  # as the `solve` of a rule


def prune_block(
    name: str, block: nn.Module, sites: Mapping[str, Site], asked: Asked, states: States, calls: list[Given]
) -> Pruned:
    """Prune the weights of a block, and put what comes out of it into the states."""
    collected = _collect(block, sites, asked, states, calls)
    dense = {n: site.param.detach().clone() for n, site in sites.items()}
    done, solve = Pruned({}, {}, {}), _preparing(asked.rule, collected)
    for n, site in sites.items():
        _solve(site, *collected[n], solve, asked, done)
    del solve  # and what it holds
    lost = _carry_on(name, block, sites, dense, states, calls, asked.device)
    for n, mask in done.masks.items():
        (_, counts), (wrong, whole) = collected[n], lost[n]
        kept = int(mask.count_nonzero())  # `sum` would make integers of all of it first: eight bytes a weight
        done.layers[n] = Layer(name, kept, mask.numel(), tuple(counts), wrong / whole if whole else 0.0)
    return done


def _preparing(rule: Rule, collected: Mapping[str, tuple[list[Any], list[int]]]) -> Solve:
    """`rule.solve`, which is given what the rule prepares of a state that several matrices share.

    Only the last is held: layers that see the same inputs follow one another, and factors are large.
    """
    prepare = getattr(rule, "prepare", None)
    users = Counter(id(state) for states, _ in collected.values() for state in states)
    last: list[Any] = [None, None]

    def solve(weight: Tensor, state: Any, alive: Tensor | None, **number: Any) -> Any:
        if prepare is None or users[id(state)] == 1:
            return rule.solve(weight, state, alive, **number)
        if last[0] is not state:
            last[:] = state, prepare(state)
        return rule.solve(weight, last[1], alive, **number)

    return solve


def _solve(site: Site, states: list[Any], counts: list[int], solve: Solve, asked: Asked, done: Pruned) -> None:
    """Prune one weight, or say why it stays as it is."""
    try:
        unused = [i for i, count in enumerate(counts) if not count]
        if unused:
            which = f"experts {unused} saw" if site.parts > 1 else "it saw"
            raise ValueError(
                f"{which} no inputs: no product took the whole of it as (out, in). Add batches that reach it, or "
                "leave it out by names=."
            )
        number = {a: v[site.name] if isinstance(v, Mapping) else v for a, v in asked.numbers.items()}
        given = {argument: value for argument, value in number.items() if value is not None}
        done.masks[site.name] = _solved(site, states, solve, given, asked.masks.get(site.name))
    except (ValueError, TypeError, IndexError) as error:
        kind = next(k for k in (ValueError, TypeError, IndexError) if isinstance(error, k))
        if asked.strict:
            raise kind(f"{site.name!r} cannot be pruned: {error}") from error
        done.left_out[site.name] = str(error)


def _solved(site: Site, states: list[Any], solve: Solve, number: Mapping[str, Any], alive: Tensor | None) -> Tensor:
    """Write the new weight, once all of its matrices are found; the mask."""
    mask, weight = torch.ones_like(site.param, dtype=torch.bool), torch.empty_like(site.param.detach())
    here = None if alive is None else alive.to(mask.device)
    live = [None] * len(states) if here is None else [part.contiguous() for part in site.matrices(here)]
    dense = [part.contiguous() for part in site.matrices(site.param.detach())]
    for matrix, state, own, new, kept in zip(dense, states, live, site.matrices(weight), site.matrices(mask)):
        solved = solve(matrix, state, own, **number)
        _refuse_odd(solved, matrix)
        new.copy_(solved[0])
        kept.copy_(solved[1])
    site.param.copy_(weight)
    return mask


def _refuse_odd(solved: Any, weight: Tensor) -> None:
    """Refuse what no solver may give: it would be spread over the weight without a word."""
    if not isinstance(solved, tuple) or len(solved) != 2 or not all(isinstance(part, Tensor) for part in solved):
        raise TypeError(f"`rule.solve` must give (weight, mask), got {type(solved).__name__}.")
    new, mask = solved
    if new.shape != weight.shape or mask.shape != weight.shape:
        shapes = f"{tuple(new.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"`rule.solve` must give a weight and a mask of shape {tuple(weight.shape)}, got {shapes}.")
    if mask.dtype != torch.bool:
        raise TypeError(f"`rule.solve` must give a mask of bool (True = kept), got {mask.dtype}.")
    if not new.isfinite().all() and weight.isfinite().all():
        raise ValueError("`rule.solve` gave a weight that is not finite, of one that is.")


def _collect(
    block: nn.Module, sites: Mapping[str, Site], asked: Asked, hidden: States, calls: list[Given]
) -> dict[str, tuple[list[Any], list[int]]]:
    """What the rule gathers of the inputs of each matrix, and how many there were.

    Layers that have seen the same inputs so far, such as those of queries, keys and values, share what is gathered.
    """
    states = {n: ([None] * s.parts, [0] * s.parts) for n, s in sites.items()}
    done: dict[tuple[Any, ...], tuple[Tensor, Any, Any]] = {}  # what was added to what; held, so that ids stay

    def seen(site: Site, part: int, rows: Tensor) -> None:
        gathered, counts = states[site.name]
        key = (rows.data_ptr(), rows._version, rows.shape, rows.stride(), id(gathered[part]))
        if key not in done:
            done[key] = rows, gathered[part], asked.rule.add(gathered[part], rows)
        gathered[part] = done[key][2]
        counts[part] += len(rows)

    for i, given in enumerate(calls):
        done.clear()
        with Watch(sites.values(), seen):
            _run(block, hidden[i], given.call, asked.device)
    return states


def _carry_on(
    name: str,
    block: nn.Module,
    sites: Mapping[str, Site],
    dense: Mapping[str, Tensor],
    states: States,
    calls: list[Given],
    device: torch.device | None,
) -> dict[str, list[float]]:
    """Run the pruned block; what each layer loses on the way, and what it gave, are added up."""
    lost = {n: [0.0, 0.0] for n in sites}

    def seen(site: Site, part: int, rows: Tensor) -> None:
        before, now = (site.matrices(t)[part] for t in (dense[site.name], site.param.detach()))
        lost[site.name][0] += float((rows @ (now - before).T).float().square().sum())
        lost[site.name][1] += float((rows @ before.T).float().square().sum())

    with Watch(sites.values(), seen):
        carry_on(name, block, states, calls, device)
    return lost


def carry_on(name: str, block: nn.Module, states: States, calls: list[Given], device: torch.device | None) -> None:
    """Put what comes out of a block into the states, in the place of what goes into it."""
    torch.clear_autocast_cache()  # an outer autocast keeps the weights that it has cast, and these have changed
    for i, given in enumerate(calls):
        state = states[i]
        outputs = _run(block, state, given.call, device)
        _refuse_changed(name, outputs, given.handed)
        states[i] = first_of(outputs).to(state.device)


def _refuse_changed(name: str, outputs: Any, handed: Mapping[int, Tensor]) -> None:
    """Refuse what a block hands on beside its state and the blocks behind it have been given otherwise."""
    now = beside(outputs) if handed else []
    if not all(k < len(now) and is_equal(tensor.to(now[k].device), now[k]) for k, tensor in handed.items()):
        raise ValueError(
            f"{name!r} computes something beside its state that blocks behind it are called with, and that changes "
            "when blocks are pruned, so that they cannot be run alone. Pass the names of others as blocks=."
        )


def _run(block: nn.Module, state: Tensor, call: Call, device: torch.device | None) -> Any:
    if device is not None:
        state, call = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), (state, call))
    return block(state, *call.args, **call.kwargs)
