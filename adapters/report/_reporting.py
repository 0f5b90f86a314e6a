"""Reports: what is given is read, measured layer by layer, and looked at for what a person should know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

import masklib as ml
from masklib import _read

from ..structural import Structure
from ._heads import heads_in
from ._idle import idle_units
from ._layer import Layer, measured
from ._notes import cut_through
from ._report import Difference, Report
from ._sources import Source, read, whole
from ._uses import uses


def report(
    pruned: Any,
    *,
    masks: Mapping[str, Tensor] | None = None,
    inputs: Sequence[Any] | None = None,
    heads: Mapping[str, Any] | None = None,
    structure: Structure | None = None,
) -> Report:
    """Say what is dead, layer by layer: entries, channels, heads, N:M patterns, bytes and operations.

    Args:
        pruned: a module, plain or pruned by `adapters.prune` or `adapters.parametrize`; what `attach` returned; or
            tensors by name: masks, or weights of which the zeros count as dead. A checkpoint of `open_checkpoint` is
            read tensor by tensor.
        masks: bool by name, who should live in a plain module.
        inputs: the positional arguments of one call of the module, for operations; it runs once, without gradients.
        heads: by name, groups such as `ml.heads(12)`, beside those of attention that is found.
        structure: of the module, from `structural.structure`, for a note of how many units `shrink` would remove.

    Returns:
        A report; it prints as a table.

    Raises:
        TypeError: if `pruned` is nothing of these, a tensor is a DTensor, or an option does not go with it.
        ValueError: if a tensor has no values, or names or shapes do not fit; with `structure`, if the module does not
            hold its pruned weights as plain parameters.

    >>> found = report({"w": torch.tensor([[True, False, False, False], [False] * 4])})
    >>> found.layers["w"].dead, found.layers["w"].dead_channels, found.layers["w"].pattern
    (7, (1, 3), '1:4')
    """
    source = read(pruned, masks)
    if inputs is not None and source.model is None:
        raise TypeError("`inputs` goes with a module, which is run on them. Leave it out, or pass the module.")
    counts = {} if inputs is None or source.model is None else uses(source.model, _arguments(inputs))
    found = {} if source.model is None else heads_in(source.model)
    named = ((name, whole(name, tensor)) for name, tensor in _read_one_by_one(source))
    measures = measure(named, {**found, **_groups(heads, source.tensors)})
    layers = {n: x._replace(dtype=source.dtypes.get(n, x.dtype), uses=counts.get(n)) for n, x in measures.items()}
    notes = *cut_through(layers), *source.notes, *(idle_units(source, structure) if structure is not None else ())
    return Report(layers, source.left_out, source.others, source.other_bytes, notes)


def measure(named: Iterable[tuple[str, Tensor]], heads: Mapping[str, Any] = {}) -> dict[str, Layer]:
    """Layers by name, each tensor forgotten before the next is asked for."""
    layers = {}
    for name, tensor in named:
        layer = measured(tensor)
        layers[name] = layer._replace(heads=_dead_heads(name, tensor, heads[name])) if name in heads else layer
    return layers


def _dead_heads(name: str, tensor: Tensor, groups: Any) -> tuple[int, int]:
    living = ml.alive({name: tensor != 0}, groups=groups)[name]
    return int((~living).sum()), living.numel()


def diff(before: Report, after: Report) -> Difference:
    """Compare two reports: what died, and what became of bytes.

    Args:
        before: a report.
        after: another one, of the same names.

    Returns:
        Both, with what changed; it prints as a table.

    Raises:
        TypeError: if one is no report.

    >>> a, b = report({"w": torch.tensor([True, True])}), report({"w": torch.tensor([True, False])})
    >>> diff(a, b).died
    {'w': 1}
    """
    for argument, value in (("before", before), ("after", after)):
        if not isinstance(value, Report):
            raise TypeError(f"`{argument}` must be a Report, got {type(value).__name__}. Pass report(...) of it.")
    return Difference(before, after)


# ---- arguments ------------------------------------------------------------------------------------------------------


def _read_one_by_one(source: Source) -> Iterable[tuple[str, Any]]:
    for name in source.tensors:
        _read.is_name(name, "pruned")
        yield name, source.tensors[name]


def _arguments(inputs: Any) -> Sequence[Any]:
    if not isinstance(inputs, (tuple, list)):
        raise TypeError(
            f"`inputs` must be a tuple of positional arguments, got {type(inputs).__name__}. For example inputs=(x,)."
        )
    return inputs


def _groups(heads: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    if heads is None:
        return {}
    if not isinstance(heads, Mapping):
        raise TypeError(
            f"`heads` must map names to groups, got {type(heads).__name__}. For example {{'q': heads(12)}}."
        )
    _read.known_names(heads, tensors, "heads", "pruned")
    return heads
