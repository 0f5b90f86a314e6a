"""Which dims of a model are cut together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from masklib import _read
from masklib.groups._norm import norm

from .._module.trial import refuse_lazy, tensors
from ._capture import capture, first_names
from ._choose import best_walk
from ._sets import Fixed, Set, fixed_of, sets_of
from ._units import Units
from ._uses import Uses, uses_of
from ._walk import Act, Size, Walk


@dataclass(frozen=True, repr=False, eq=False)
class Structure:
    """The sets of dims of a model that are cut together, and what cannot be cut.

    Args:
        sets: each with its units, as names, dims and positions.
        experts: of each mixture, by the path that its router and its experts share, or, where two are in one module, by
            the first of its tensors; `drop_experts` removes them.
        fixed: the dims of parameters that cannot be cut, with the reasons.
        shapes: of the tensors that the sets span, by name.
        unknown: the operators that are not known, with a module in which each is met.
        inputs: the example inputs.
        parameters: the sizes of all parameters, by the first of their names.
        walk: the labels of the graph.
        known: the labels of each parameter and buffer.
        uses: which attribute of a module arrives as which size.
    """

    sets: tuple[Set, ...]
    experts: dict[str, Set]
    fixed: tuple[Fixed, ...]
    shapes: dict[str, tuple[int, ...]]
    unknown: dict[str, str]
    inputs: Any
    parameters: dict[str, tuple[int, ...]]
    walk: Walk = field(default_factory=Walk)
    known: dict[str, Act] = field(default_factory=dict)
    uses: Uses = field(default_factory=Uses)

    @property
    def sizes(self) -> list[Size]:
        """The numbers in the code that follow from what is cut."""
        return self.walk.sizes

    @property
    def names(self) -> list[str]:
        """The parameters that the sets span, each by the first of its names.

        >>> structure(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (torch.ones(1, 2),)).names
        ['0.weight', '0.bias', '2.weight']
        """
        return list(self.shapes)

    def groups(self, p: Any = None, mean: bool = False, *, layerwise: bool = False) -> Units:
        """Let units be the items of a groups value, for a mapping of exactly `names`.

        A unit is scored over all that belongs to it, in all its tensors. What one set kills is dead, whatever the
        others say.

        Args:
            p: the order of the norm that scores a unit, as in `channels`; None for the signed sum.
            mean: whether to divide by the live count, so that units of different sizes compare.
            layerwise: whether each set is a pool of its own; otherwise all units compete. Floors, `least` of
                `compute_mask`, go with one pool: in a pool of its own no other unit can die instead.

        Raises:
            TypeError: if `p` is not a number, or `mean` not a bool.
            ValueError: if no dim can be cut.

        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> found = structure(net, (torch.ones(1, 2),))
        >>> scores = {name: net.get_parameter(name) for name in found.names}
        >>> int(compute_mask(scores, keep=2, groups=found.groups(p=2))["0.bias"].sum())
        2
        """
        apart = _read.flag(layerwise, "layerwise", "groups(p=2, layerwise=True)")
        if not self.sets:
            raise ValueError("`structure` has no dim that can be cut. structure.explain() says why.")
        return Units(self.sets, self.shapes, *norm(p, mean), apart)

    def select(self, keep: Callable[[Set], bool]) -> Structure:
        """Leave out the sets that are not to be cut.

        Args:
            keep: which sets stay, from the set.

        Raises:
            TypeError: if `keep` is not a function.

        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> structure(net, (torch.ones(1, 2),)).select(lambda s: s.dims[0].name.startswith("2"))
        1 sets, 4 units, 3 tensors
          4 units of 2.weight[0], 2.bias[0], 4.weight[1]
        """
        _read.function(keep, "keep", "lambda s: s.units > 8")
        sets = tuple(s for s in self.sets if keep(s))
        spanned = {d.name for s in sets for d in s.dims}
        return replace(self, sets=sets, shapes={n: shape for n, shape in self.shapes.items() if n in spanned})

    def explain(self, name: str | None = None) -> str:
        """Say in words what is cut together, and why the rest cannot be cut.

        Args:
            name: of a parameter, to hear of it alone.

        Returns:
            Lines: each set, then each dim that stays with its reasons.

        Raises:
            ValueError: if the model has no parameter of that name.

        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> print(structure(net, (torch.ones(1, 2),)).explain("2.weight"))
        3 units of 0.weight[0], 0.bias[0], 2.weight[1]
        2.weight[0] stays (1): the model returns it
        """
        routed = (d.name for s in self.experts.values() for d in s.dims)
        known = dict.fromkeys([*self.shapes, *routed, *(f.name for f in self.fixed)])
        if name is not None and not (isinstance(name, str) and name in known):
            raise ValueError(f"`name` must be one of {list(known)}, got {name!r}.")
        found = [(s, str(s)) for s in self.sets] + [(s, _chosen(str(s))) for s in self.experts.values()]
        lines = [line for s, line in found if name is None or any(d.name == name for d in s.dims + s.buffers)]
        return "\n".join([*lines, *(_stays(f) for f in self.fixed if name in (None, f.name)), *self._unknown()])

    def _unknown(self) -> Iterator[str]:
        for kind, path in self.unknown.items():
            yield f"`{kind}` in {path or 'the model'} is an operator that structure() does not know"

    def __repr__(self) -> str:
        head = f"{len(self.sets)} sets, {sum(s.units for s in self.sets)} units, {len(self.names)} tensors"
        return "\n".join([head, *_lines(self.sets), *map(_chosen, _lines(self.experts.values()))])


def _lines(sets: Iterable[Set]) -> Iterator[str]:
    """A line a set; what layers have alike is said once."""
    alike: dict[str, list[str]] = {}
    for each in sets:
        alike.setdefault(re.sub(r"\d+\.", "*.", str(each)), []).append(repr(each))
    for first, *others in alike.values():
        yield f"  {first}" + (f" ({len(others) + 1} like this)" if others else "")


def _chosen(line: str) -> str:
    return line.replace("units", "experts", 1) + ", among which a router chooses: drop_experts() removes them"


def _stays(each: Fixed) -> str:
    return f"{each.name}[{each.dim}] stays ({each.positions}): {'; '.join(each.why)}"


def structure(model: nn.Module, example_inputs: Any) -> Structure:
    """Find which dims of a model are cut together, from the graph that `torch.export` captures.

    Units go through residual sums, concatenations, splits and reshapes, norms of single channels, grouped convolutions,
    attention heads with the keys and values that they share, gated layers, tied embeddings, and the gates of recurrent
    layers. What a cut could change in any other way stays, with its reason.

    Args:
        model: as it is used: on any device, in train or eval mode, with caches on. It is left as it is.
        example_inputs: a tuple of arguments or a dict of keyword arguments; small ones will do.

    Returns:
        The sets, as plain data; `groups()` of it is a groups value for `compute_mask`, and `shrink` cuts.

    Raises:
        TypeError: if the model is no module, or the inputs are no tuple or dict.
        ValueError: if `torch.export` cannot capture the model with these inputs.

    >>> structure(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (torch.ones(1, 2),))
    1 sets, 3 units, 3 tensors
      3 units of 0.weight[0], 0.bias[0], 2.weight[1]

    Reference: Fang et al., "DepGraph: Towards Any Structural Pruning", 2023.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a module, got {type(model).__name__}. For example structure(model, (x,)).")
    refuse_lazy(model)
    first = first_names(model)
    shapes = {n: (tuple(t.shape), _labelled(t)) for n, t in tensors(model) if first[n] == n}
    captured, uses = capture(model, example_inputs), uses_of(model, example_inputs)
    walk, known = best_walk(captured, shapes, uses)
    parameters = {name for name, _ in model.named_parameters()}
    found = [s for s in sets_of(walk, known, parameters) if s.units > 1]
    experts = [s for s in sets_of(walk, known, parameters, experts=True) if s.units > 1]
    spanned = {d.name for s in found for d in s.dims}
    return Structure(
        tuple(found),
        _by_path(experts),
        tuple(fixed_of(walk, known, parameters)),
        {n: shape for n, (shape, _) in shapes.items() if n in spanned},
        walk.unknown,
        example_inputs,
        {n: shape for n, (shape, _) in shapes.items() if n in parameters},
        walk,
        known,
        uses,
    )


def _by_path(experts: list[Set]) -> dict[str, Set]:
    """Mixtures by the paths that they share; where two are in one module, by the first of their tensors."""
    paths = [_shared(each) for each in experts]
    return {p if paths.count(p) == 1 else each.dims[0].name: each for p, each in zip(paths, experts)}


def _shared(each: Set) -> str:
    """The path that the names of a set begin with."""
    paths = zip(*(d.name.split(".")[:-1] for d in each.dims))
    return ".".join(first for first, *others in paths if all(other == first for other in others))


def _labelled(tensor: Any) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
