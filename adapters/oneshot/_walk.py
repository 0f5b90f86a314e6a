"""The walk: one pass through a block collects, one pass through the pruned block carries on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from masklib import _read
from masklib._amounts import how_many

from .._module.values import a_module
from .._module.weights import skipped, weights
from ._blocks import Call, blocks_of, capture, first_of, listed, quiet
from ._report import Layer, Pruned
from ._rules import Rule
from ._sites import Site, Watch, site_of


def prune(
    model: nn.Module,
    batches: Iterable[Any],
    rule: Rule,
    *,
    amount: Any = None,
    keep: Any = None,
    sparsity: Any = None,
    default_masks: Mapping[str, Tensor] | None = None,
    names: Collection[str] | None = None,
    blocks: Sequence[str] | None = None,
    strict: bool = True,
) -> Pruned:
    """Prune a model in place, block by block, each on what the pruned blocks before it make of the batches.

    Of each block the inputs of all its layers are collected, the layers are pruned, and the block is run again for the
    outputs that the next one sees. A layer is any product with a weight: `Linear`, `Conv1D` of transformers,
    convolutions (whose inputs are unfolded), and experts packed into one parameter (each on the tokens routed to it).

    Args:
        model: a model whose blocks follow one another; it is run without dropout, caches and gradients.
        batches: what to calibrate on: tensors, tuples of arguments, or mappings of keyword arguments.
        rule: what is done to a layer: `magnitude()`, `wanda()`, `ria()`, `sparsegpt()`, `admm()`, or a `Rule` of two
            functions of your own.
        amount, keep, sparsity: as for `masklib.compute_mask`, for each layer; a number, or numbers by name.
        default_masks: bool by name, what is alive now; the others are whole.
        names: the weights to prune; None for all in the blocks.
        blocks: names of the modules to walk through; None for the longest `ModuleList` of one type, or the children of
            a `Sequential`.
        strict: whether a layer that cannot be pruned (it saw no inputs, or NaN) is an error. If not, it stays dense and
            is named in `left_out`.

    Returns:
        Masks by name, a report on each layer, and what was left out; it prints as a table.

    Raises:
        TypeError: if an argument is not of its type, or not exactly one number is given.
        ValueError: if there are no batches, names are not those of weights in the blocks, the blocks do not follow one
            another, or a layer cannot be pruned. The model is then as it was.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> pruned = prune(model, [torch.randn(8, 4)], wanda(), sparsity=0.5)
    >>> masklib.sparsity(pruned.masks), (model[0].weight == 0).sum()
    (tensor(0.5000, dtype=torch.float64), tensor(8))

    Reference: Frantar and Alistarh, "SparseGPT", 2023, section 3; Sun et al., "Wanda", 2023, section 3.
    """
    a_module(model, "model")
    _refuse_others(rule, strict)
    numbers = {"amount": amount, "keep": keep, "sparsity": sparsity}
    data, parts = _batches(batches), blocks_of(model, blocks)
    sites, left_out = _sites(model, parts, names)
    _refuse_numbers(numbers, sites)
    masks = _masks(default_masks, sites)
    before = {name: site.param.detach().clone() for name, site in sites.items()}
    walk = _Walk(rule, numbers, masks, before, strict, left_out)
    try:
        with quiet(model):
            hidden, calls = capture(model, parts, data)
            for name, block in parts.items():
                own = {n: s for n, s in sites.items() if n.startswith(f"{name}.")}
                hidden = walk.through(name, block, own, hidden, calls.pop(name))
    except BaseException:
        with torch.no_grad():
            for name, site in sites.items():
                site.param.copy_(before[name])
        raise
    return Pruned(walk.found, walk.layers, left_out)


class _Walk:
    """What goes from block to block, and what has come of it."""

    def __init__(
        self,
        rule: Rule,
        numbers: Mapping[str, Any],
        masks: Mapping[str, Tensor],
        dense: Mapping[str, Tensor],
        strict: bool,
        left_out: dict[str, str],
    ) -> None:
        self.rule, self.numbers, self.masks, self.strict = rule, numbers, masks, strict
        self.dense, self.left_out = dense, left_out
        self.found: dict[str, Tensor] = {}
        self.layers: dict[str, Layer] = {}

    def through(
        self, name: str, block: nn.Module, sites: Mapping[str, Site], hidden: list[Tensor], calls: list[Call]
    ) -> list[Tensor]:
        """Prune a block, and return what comes out of it."""
        collected = _collect(block, sites, self.rule, hidden, calls)
        for n, site in sites.items():
            self._solve(site, *collected[n])
        lost = {n: [0.0, 0.0] for n in sites}
        hidden = _carry_on(block, sites.values(), self.dense, lost, hidden, calls)
        for n in sites:
            if n in self.found:
                mask, (_, counts), (wrong, whole) = self.found[n], collected[n], lost[n]
                error = wrong / whole if whole else 0.0
                self.layers[n] = Layer(name, int(mask.sum()), mask.numel(), tuple(counts), error)
        return hidden

    def _solve(self, site: Site, states: list[Any], counts: list[int]) -> None:
        """Prune one weight, or say why it stays as it is."""
        try:
            unused = [i for i, count in enumerate(counts) if not count]
            if unused:
                which = f"experts {unused} saw" if site.parts > 1 else "it saw"
                raise ValueError(f"{which} no inputs. Add batches that reach it, or leave it out by names=.")
            self.found[site.name] = _solved(site, states, self.rule, self._number(site.name), self.masks.get(site.name))
        except (ValueError, TypeError, IndexError) as error:
            kind = next(k for k in (ValueError, TypeError, IndexError) if isinstance(error, k))
            if self.strict:
                raise kind(f"{site.name!r} cannot be pruned: {error}") from error
            self.left_out[site.name] = str(error)

    def _number(self, name: str) -> dict[str, Any]:
        given = {a: v[name] if isinstance(v, Mapping) else v for a, v in self.numbers.items()}
        return {argument: value for argument, value in given.items() if value is not None}


def _solved(site: Site, states: list[Any], rule: Rule, number: Mapping[str, Any], alive: Tensor | None) -> Tensor:
    """Write the new weight, once all of its matrices are found; the mask."""
    mask, weight = torch.ones_like(site.param, dtype=torch.bool), torch.empty_like(site.param.detach())
    live = [None] * len(states) if alive is None else [part.contiguous() for part in site.matrices(alive)]
    dense = [part.contiguous() for part in site.matrices(site.param.detach())]
    for matrix, state, own, new, kept in zip(dense, states, live, site.matrices(weight), site.matrices(mask)):
        solved = rule.solve(matrix, state, own, **number)
        new.copy_(solved[0])
        kept.copy_(solved[1])
    site.param.copy_(weight)
    return mask


def _collect(
    block: nn.Module, sites: Mapping[str, Site], rule: Rule, hidden: list[Tensor], calls: list[Call]
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
            done[key] = rows, gathered[part], rule.add(gathered[part], rows)
        gathered[part] = done[key][2]
        counts[part] += len(rows)

    for state, call in zip(hidden, calls):
        done.clear()
        with Watch(sites.values(), seen):
            block(state, *call.args, **call.kwargs)
    return states


def _carry_on(
    block: nn.Module,
    sites: Iterable[Site],
    dense: Mapping[str, Tensor],
    lost: Mapping[str, list[float]],
    hidden: list[Tensor],
    calls: list[Call],
) -> list[Tensor]:
    """What comes out of the pruned block; what each layer loses on the way is added up."""

    def seen(site: Site, part: int, rows: Tensor) -> None:
        before, now = (site.matrices(t)[part] for t in (dense[site.name], site.param.detach()))
        lost[site.name][0] += float((rows @ (now - before).T).float().square().sum())
        lost[site.name][1] += float((rows @ before.T).float().square().sum())

    outputs = []
    for state, call in zip(hidden, calls):
        with Watch(sites, seen):
            outputs.append(first_of(block(state, *call.args, **call.kwargs)))
    return outputs


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse_others(rule: Any, strict: Any) -> None:
    if not (callable(getattr(rule, "add", None)) and callable(getattr(rule, "solve", None))):
        raise TypeError(f"`rule` must be a Rule with functions `add` and `solve`, got {rule!r}. For example wanda().")
    if not isinstance(strict, bool):
        raise TypeError(f"`strict` must be a bool, got {strict!r}. For example strict=False.")


def _batches(value: Any) -> list[Any]:
    if isinstance(value, (Tensor, Mapping, str)) or not isinstance(value, Iterable):
        raise TypeError(f"`batches` must be an iterable of batches, got {type(value).__name__}. For example [batch].")
    batches = list(value)
    if not batches:
        raise ValueError("`batches` must hold a batch at least, got none. For example [{'input_ids': ids}].")
    return batches


def _sites(
    model: nn.Module, blocks: Mapping[str, nn.Module], names: Collection[str] | None
) -> tuple[dict[str, Site], dict[str, str]]:
    """The weights to prune, and why the other parameters are none."""
    left_out, sites, params = skipped(model), {}, dict(model.named_parameters())
    for name, param in weights(model).items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if not any(name.startswith(f"{block}.") for block in blocks):
            left_out[name] = "outside the blocks"
        elif params.get(name) is not param:
            left_out[name] = "pruned or computed already: bake it first"
        else:
            try:
                sites[name] = site_of(name, owner, param)
            except ValueError as error:
                left_out[name] = str(error)
    if names is not None:
        _known(names := listed(names, "names", "['fc.weight']"), sites, left_out)
        left_out |= {n: "not chosen" for n in sites if n not in names}
        sites = {n: s for n, s in sites.items() if n in names}
    if not sites:
        raise ValueError(f"`model` has no weights to prune in the blocks {list(blocks)}. Left out: {left_out}.")
    return sites, left_out


def _known(names: Collection[str], sites: Mapping[str, Site], left_out: Mapping[str, str]) -> None:
    unknown = {n: left_out.get(n, "no parameter of the model") for n in names if n not in sites}
    if unknown:
        raise ValueError(f"`names` must be weights in the blocks: {unknown}. Known names: {list(sites)}.")


def _refuse_numbers(numbers: Mapping[str, Any], sites: Mapping[str, Site]) -> None:
    for argument, value in numbers.items():
        if isinstance(value, Mapping):
            _read.same_names(value, sites, argument, "the weights to prune")
    for name in sites:
        how_many(**{a: v[name] if isinstance(v, Mapping) else v for a, v in numbers.items()})


def _masks(value: Any, sites: Mapping[str, Site]) -> dict[str, Tensor]:
    if value is None:
        return {}
    masks = _read.mapping(value, "default_masks")
    _read.known_names(masks, sites, "default_masks", "the weights to prune")
    for name, mask in masks.items():
        _read.mask_like(mask, sites[name].param, _read.place(name, "default_masks"), repr(name))
    return dict(masks)
