"""Numbers in modules that follow from how large their tensors are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from ._structure import Structure
from ._told import number_of, own_numbers, set_number

# Attributes by class name (a class's parents count): which dim of which tensor each is the size of.
_OF_TENSORS: dict[str, dict[str, tuple[str, int]]] = {
    "Linear": {"in_features": ("weight", 1), "out_features": ("weight", 0)},
    "Conv1D": {"nx": ("weight", 0), "nf": ("weight", 1)},  # of transformers
    "Embedding": {"num_embeddings": ("weight", 0), "embedding_dim": ("weight", 1)},
    "GroupNorm": {"num_channels": ("weight", 0)},
    "PReLU": {"num_parameters": ("weight", 0)},
    "RNNBase": {"input_size": ("weight_ih_l0", 1), "hidden_size": ("weight_hh_l0", 1)},
    "RNNCellBase": {"input_size": ("weight_ih", 1), "hidden_size": ("weight_hh", 1)},
    "Bilinear": {"out_features": ("weight", 0), "in1_features": ("weight", 1), "in2_features": ("weight", 2)},
}


_HEADS = re.compile(r"n(um)?_.*heads?$|^all_head_size$|^inner_dim$|^embed_dim$|^split_size$")


class Change(NamedTuple):
    """A new value for an attribute of a module.

    Args:
        path: of the module.
        name: of the attribute.
        value: what it becomes.
        sure: whether the graph leaves no doubt.
    """

    path: str
    name: str
    value: int
    sure: bool = True


def follow_tensors(model: nn.Module) -> None:
    """Set what the layers of torch say of their own tensors."""
    for module in model.modules():
        for kind in type(module).__mro__:
            for name, (tensor, dim) in _OF_TENSORS.get(kind.__name__, {}).items():
                held = getattr(module, tensor, None)
                if held is not None and hasattr(module, name):
                    setattr(module, name, held.shape[dim])
        if isinstance(module, nn.RMSNorm) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        if isinstance(module, nn.modules.conv._ConvNd):
            _follow_conv(module)
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


def _follow_conv(module: Any) -> None:
    first, second = module.weight.shape[:2]
    wide, narrow = (first, second * module.groups) if module.transposed else (second * module.groups, first)
    module.in_channels, module.out_channels = wide, narrow


def changes(model: nn.Module, structure: Structure, gone: Any) -> list[Change]:
    """What the numbers in the code of modules become, from what the graph did with them."""
    modules, facts = dict(model.named_modules()), _facts(structure, gone)
    found = []
    for (path, name), news in facts.items():
        old = number_of(modules[path], name)
        found += [Change(path, name, new, len(news) == 1) for new in sorted(news) if type(old) is int and new != old]
    return found + _head_counts(modules, structure, gone, facts)


_Facts = dict[tuple[str, str], set[int]]


def _facts(structure: Structure, gone: Any) -> _Facts:
    """What each attribute that arrives as a size becomes."""
    found: _Facts = {}
    for size in structure.sizes:
        name = size.name or structure.uses.calls.get((size.path, *size.call), {}).get(size.place)
        if name is not None:
            found.setdefault((size.path, name), set()).add(left(structure, size.labels, gone))
    return found


def _head_counts(modules: Any, structure: Structure, gone: Any, facts: _Facts) -> list[Change]:
    """Numbers that only say, by their names, how many heads there are or how wide they are together."""
    found = {}
    for size in structure.sizes:
        old, new = len(size.labels), left(structure, size.labels, gone)
        for name, value in _named(modules[size.path], structure.uses.names.get(size.path, ())) if old != new else ():
            if value == old and _HEADS.search(name) and (size.path, name) not in facts:
                found[size.path, name] = Change(size.path, name, new)
    return list(found.values())


def _named(module: nn.Module, computed: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The numbers of a module, and those of its config that sizes in its code are computed from."""
    yield from own_numbers(module)
    yield from ((name, number_of(module, name)) for name in computed if name.startswith("config."))


def left(structure: Structure, labels: Any, gone: Any) -> int:
    """How many positions stay."""
    return int((~np.isin(structure.walk.labels.roots(labels), gone)).sum())


def known_numbers(structure: Structure) -> set[tuple[str, str]]:
    """The attributes, by module and name, of which the graph says what they are."""
    return {(path, name) for (path, _, _), places in structure.uses.calls.items() for name in places.values()}


def sizes_after(structure: Structure, gone: Any) -> dict[Any, set[Any]]:
    """What sizes in the graph and of parameters become, by what they were."""
    found: dict[Any, set[Any]] = {}
    arrays = [size.labels for size in structure.sizes] + [d for act in structure.known.values() for d in act.dims]
    for labels in arrays:
        new = left(structure, labels, gone)
        if new != len(labels):
            found.setdefault(len(labels), set()).add(new)
    return found


def tries(model: nn.Module, found: list[Change]) -> Iterator[list[Change]]:
    """All that is sure, with each reading of what is not: modules of a class are read alike; the likeliest first.

    Two numbers of one value (as many heads as each has entries, say) cannot be told apart by the graph.
    """
    modules = dict(model.named_modules())
    sure = [c for c in found if c.sure]
    open_: dict[tuple[type, str], list[Change]] = {}
    for change in found:
        if not change.sure:
            open_.setdefault((type(modules[change.path]), change.name), []).append(change)
    names = sorted(open_, key=lambda key: key[1])
    readings = sorted(product([True, False], repeat=len(names)), key=lambda r: _surprise(names, r))
    for reading in readings[:64]:
        yield [*sure, *(c for key, changed in zip(names, reading) if changed for c in open_[key])]


def _surprise(names: list[tuple[type, str]], reading: tuple[bool, ...]) -> int:
    """How unlikely it is that these change: heads are counted, their sizes stay."""
    return sum(changed == ("dim" in name or "size" in name) for (_, name), changed in zip(names, reading))


def set_all(model: nn.Module, chosen: list[Change]) -> None:
    """Write the new numbers."""
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    for change in chosen:
        set_number(modules[change.path], change.name, change.value)
    follow_tensors(model)
