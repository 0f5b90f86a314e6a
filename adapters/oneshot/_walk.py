"""The walk: one pass through a block collects, one pass through the pruned block carries on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .._module.blocks import evaluating, refuse_empty
from .._module.values import a_module
from ._asked import Asked, Progress, asked
from ._block import carry_on, prune_block
from ._capture import Given, capture
from ._places import Held, Place
from ._report import Pruned
from ._rules import Rule
from ._sites import Site
from ._states import InMemory, States


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
    work: Any = None,
    device: Any = None,
    progress: Progress | None = None,
) -> Pruned:
    """Prune a model in place, block by block, each on what the pruned blocks before it make of the batches.

    Of each block the inputs of all its layers are collected, the layers are pruned, and the block is run again for the
    outputs that the next one sees. A layer is any product with a weight: `Linear`, `Conv1D` of transformers,
    convolutions (whose inputs are unfolded), and experts packed into one parameter (each on the tokens routed to it).

    Args:
        model: a model whose blocks follow one another; it is run without dropout, caches and gradients, and under the
            caller's autocast.
        batches: what to calibrate on: tensors, tuples of arguments, or mappings of keyword arguments.
        rule: what is done to a layer: `magnitude()`, `wanda()`, `ria()`, `sparsegpt()`, `admm()`, or a `Rule` of two
            functions of your own.
        amount, keep, sparsity: as for `masklib.compute_mask`, for each layer; a number, or numbers by name.
        default_masks: bool by name, what is alive now; the others are whole.
        names: the weights to prune; None for all in the blocks.
        blocks: names of the modules to walk through; None for the longest `ModuleList` of one type, or the children of
            a `Sequential`.
        work: a folder, new or of the same call: blocks that are finished are kept in it, so that the call goes on after
            the last of them if it was interrupted, to the bit; hidden states lie in it too. It is removed at the end.
            The same are also the model's settings, the kind of device, autocast, and the versions of torch and masklib.
        device: where the block at hand is computed; None for where it lies. The rest stays where it is.
        progress: is called with the number of finished blocks and that of all, after each.
        strict: whether a layer that cannot be pruned (it saw no inputs, or NaN) is an error. If not, it stays dense and
            is named in `left_out`.

    Returns:
        Masks by name, a report on each layer, and what was left out; it prints as a table.

    Raises:
        TypeError: if an argument is not of its type, or not exactly one number is given.
        ValueError: if there are no batches, names are not those of weights in the blocks, the blocks do not follow one
            another, `work` is of another call, or a layer cannot be pruned. The model is then as it was.
        OSError: if the system refuses to read or write in `work`.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> pruned = prune(model, [torch.randn(8, 4)], wanda(), sparsity=0.5)
    >>> masklib.sparsity(pruned.masks), (model[0].weight == 0).sum()
    (tensor(0.5000, dtype=torch.float64), tensor(8))

    Reference: Frantar and Alistarh, "SparseGPT", 2023, section 3; Sun et al., "Wanda", 2023, section 3.
    """
    a_module(model, "model")
    refuse_empty(model)
    numbers = {"amount": amount, "keep": keep, "sparsity": sparsity}
    call = asked(model, batches, rule, numbers, default_masks, names, blocks, strict, device, progress)
    place = Held(model, call.device)
    with _work(work, call, place) as (record, states), _as_it_was(call.sites):
        return walk(model, call, place, record, states)


class Record(Protocol):
    """Where blocks that are finished are kept."""

    def read(self, index: int) -> tuple[dict[str, Tensor], Pruned] | None:
        """The new weights of a block, and what became of them; None if it is not finished."""

    def write(self, index: int, weights: Mapping[str, Tensor], done: Pruned) -> None:
        """Keep a block."""


class Nowhere:
    """A record of nothing: the model itself is all there is."""

    def read(self, index: int) -> None:
        """No block was finished before."""

    def write(self, index: int, weights: Mapping[str, Tensor], done: Pruned) -> None:
        """Nothing is kept."""


def _work(work: Any, call: Asked, place: Place) -> AbstractContextManager[tuple[Record, States]]:
    if work is None:
        return nullcontext((Nowhere(), InMemory()))
    module: Any = import_module("._work", __package__)  # which needs safetensors
    return module.working(work, call, place)


@contextmanager
def _as_it_was(sites: Mapping[str, Site]) -> Iterator[None]:
    """Undo what was done to the weights if anything fails."""
    before = {name: site.param.detach().clone() for name, site in sites.items()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, site in sites.items():
                site.param.copy_(before[name])
        torch.clear_autocast_cache()
        raise


def walk(model: nn.Module, call: Asked, place: Place, record: Record, states: States) -> Pruned:
    """Prune block after block; the masks are those of a model in memory alone."""
    found = Pruned({}, {}, dict(call.left_out))
    with evaluating(model):
        calls = capture(model, call.blocks, call.batches, states, place)
        for index, name in enumerate(call.blocks):
            with place.block(name):
                done = _through(model, name, call, record, index, states, calls.pop(name))
            if not place.streams:
                found.masks.update({n: mask.to(call.sites[n].param.device) for n, mask in done.masks.items()})
            found.layers.update(done.layers)
            found.left_out.update(done.left_out)
            call.progress(index + 1, len(call.blocks))
    return found


def _through(
    model: nn.Module, name: str, call: Asked, record: Record, index: int, states: States, calls: list[Given]
) -> Pruned:
    """Prune a block, or take it as it was finished before, and go on with what comes out of it."""
    own = {n: site for n, site in call.sites.items() if n.startswith(f"{name}.")}
    sites = {n: site._replace(param=model.get_parameter(n)) for n, site in own.items()}
    finished = record.read(index)
    if finished is None:
        done = prune_block(name, call.blocks[name], sites, call, states, calls)
        record.write(index, {n: sites[n].param.detach() for n in done.masks}, done)
        return done
    weights, done = finished
    if call.strict and done.left_out:
        left, why = next(iter(done.left_out.items()))
        raise ValueError(f"{left!r} cannot be pruned: {why}")
    for n, weight in weights.items():
        sites[n].param.copy_(weight)
    carry_on(name, call.blocks[name], states, calls, call.device)
    return done
