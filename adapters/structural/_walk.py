"""The walk through the captured graph: each tensor gets the labels of its dims from those of what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from ._labels import Array, Labels
from ._silence import Way, Ways, steady

Dims = tuple[Array, ...]


class Act(NamedTuple):
    """The labels of a tensor.

    Args:
        dims: one int64 array a dim, as long as the dim.
        weight: whether it is made of parameters alone.
        silent: the ways for a unit to be exactly zero in it, each the parameters in which it has to be dead.
        values: what a constant of whole numbers holds.
        numbers: of a tensor of whole numbers, the labels of the positions that it numbers or counts.
        steady: the parameters whose dead rows make a unit the same for all inputs; None if nothing does.
    """

    dims: Dims
    weight: bool = False
    silent: Ways = ()
    numbers: Array | None = None
    values: tuple[int, ...] | None = None
    steady: Way | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """How long the dims are."""
        return tuple(len(d) for d in self.dims)


class Size(NamedTuple):
    """A number in the code of a module that follows from how many positions are left.

    Args:
        path: the module whose code holds the number.
        labels: the positions that it counts.
        call: the operator, and the how-manieth call of it in the module.
        place: the how-manieth number of the call.
        name: the attribute, where the kind of layer says it.
    """

    path: str
    labels: Array
    call: tuple[str, int]
    place: int = 0
    name: str | None = None


class Read(NamedTuple):
    """Where units are summed over, with a weight, or by a norm.

    Args:
        labels: of the weight's dim, or of what the norm takes the mean of.
        silent: the ways for a unit to be zero in what is summed.
        steady: the way for a unit to be a constant there.
        path: the module whose code sums.
        norm: whether it is a norm, to which any value matters.
    """

    labels: Array
    silent: Ways
    steady: Way | None
    path: str
    norm: bool = False


class Route(NamedTuple):
    """Where something is chosen along a dim.

    Args:
        path: the module whose code chooses.
        call: the operator, and the how-manieth call of it in the module.
        labels: of the dim.
        dim: counted from the last.
        at: the place in words.
    """

    path: str
    call: tuple[str, int]
    labels: Array
    dim: int
    at: str


@dataclass
class Walk:
    """What is known while the graph is walked through.

    Args:
        choices: at which regrouping another factor than the first is kept, by site.
        bounds: by module, numbers of slices and splits that follow from attributes, each with its attribute or "".
        norms: the modules that divide by the root mean square over the last dim, and have a weight and an epsilon.
        folds: those of them that were met, each with the dim; what a cut of it changes is folded into the weight.
        routes: where something is chosen along a dim, which is fixed at the end unless experts are chosen.
        reads: where units are summed over.
        computed: labels of parameters that others are computed from, as by a parametrization.
        products: for each contraction the dims whose sizes multiply to its number of multiplications.
    """

    choices: Mapping[str, int] = field(default_factory=dict)
    norms: frozenset[str] = frozenset()
    bounds: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)
    sizes: list[Size] = field(default_factory=list)
    sites: dict[str, tuple[int, Array]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    folds: dict[str, Array] = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    computed: list[Array] = field(default_factory=list)
    products: list[tuple[Array, ...]] = field(default_factory=list)
    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    at: str = ""
    path: str = ""
    kind: str = ""
    step: int = 0

    def unite(self, *arrays: Array, why: str = "") -> Array:
        """Let arrays be one, position by position; the first stands for all."""
        for other in arrays[1:]:
            if other is not arrays[0]:
                self.labels.unite(arrays[0], other, why or f"{self.at} joins it with what is fixed")
        return arrays[0]

    def fix(self, array: Array, what: str) -> Array:
        """Let an array be fixed; 0 stands for it from here on."""
        self.labels.fix(array, f"{self.at} {what}")
        return np.zeros_like(array)

    @property
    def call(self) -> tuple[str, int]:
        """The operator, and the how-manieth call of it in the module."""
        return self.kind, self.calls[self.path, self.kind]

    def size(self, labels: Array, place: int = 0, name: str | None = None) -> None:
        """Note a number of the code."""
        self.sizes.append(Size(self.path, labels, self.call, place, name))


Rule = Callable[[Walk, SimpleNamespace, Any], Any]


def fixed(shape: Any) -> Dims:
    """Dims that cannot be cut."""
    return tuple(np.zeros(int(n), dtype=np.int64) for n in shape)


def acts(value: Any) -> list[Act]:
    """All labelled tensors in the arguments of a call."""
    if isinstance(value, Act):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [act for each in value for act in acts(each)] if isinstance(value, (list, tuple)) else []


def place(node: fx.Node) -> str:
    """The path of the module whose code called the operator."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0] if stack else ""


def walk_graph(walk: Walk, graph: fx.Graph, values: dict[fx.Node, Any], rules: Mapping[str, Rule]) -> list[Any]:
    """Walk through a graph whose placeholders have labels; the labels of its outputs."""
    results: list[Any] = []
    for node in graph.nodes:
        given = fx.node.map_arg((list(node.args), dict(node.kwargs)), lambda n: values[n])
        if node.op == "output":
            results = given[0]
        elif node.op == "get_attr":
            values[node] = _constant(node)
        elif node.op == "call_function":
            values[node] = _call(walk, node, *given, rules)
    return results


def _constant(node: fx.Node) -> Any:
    value = getattr(node.graph.owning_module, str(node.target), None)
    return Act(fixed(value.shape)) if isinstance(value, torch.Tensor) else value


def _call(walk: Walk, node: fx.Node, args: Any, kwargs: Any, rules: Mapping[str, Rule]) -> Any:
    name = getattr(node.target, "__name__", str(node.target))
    if name == "getitem":
        return args[0][args[1]]
    walk.step += 1
    walk.path = place(node)
    inner = [a for a in args if isinstance(a, fx.GraphModule)]
    if inner:  # a region of its own, such as one without autocast: it gets the other arguments in turn
        given = [a for a in args if isinstance(a, (Act, int, float))]
        holes = [n for n in inner[0].graph.nodes if n.op == "placeholder"]
        return walk_graph(walk, inner[0].graph, dict(zip(holes, given[-len(holes) :] if holes else [])), rules)
    schema = getattr(node.target, "_schema", None)
    walk.kind = schema.name.removeprefix("aten::") if schema is not None else name
    walk.calls[walk.path, walk.kind] = walk.calls.get((walk.path, walk.kind), 0) + 1
    walk.at = f"`{walk.kind.rstrip('_')}` in {walk.path or 'the model'}"
    return _made(walk, node.target, args, kwargs, node.meta.get("val"), rules)


def _made(walk: Walk, target: Any, args: Any, kwargs: Any, out: Any, rules: Mapping[str, Rule]) -> Any:
    """What a call makes, by the rule of its operator."""
    schema, given = getattr(target, "_schema", None), acts([args, kwargs])
    rule = rules.get(walk.kind) or rules.get(walk.kind.rstrip("_"))
    pointwise = schema is not None and torch.Tag.pointwise in target.tags
    if rule is None or schema is None:
        result = (rules["add"] if pointwise else _unknown)(walk, SimpleNamespace(all=given), out)
    else:
        result = rule(walk, _bound(schema, args, kwargs), out)
    if not _fits(result, out):
        result = _unknown(walk, SimpleNamespace(all=given), out)
    alone = (pointwise or rule is rules["add"]) and rule is not rules["clone"]
    if given and all(act.weight for act in given) and (alone or len(given) > 1):
        walk.computed += [array for act in given for array in act.dims]
    return _steady(walk.kind.rstrip("_"), alone and "bernoulli" not in walk.kind, given, result)


def _steady(kind: str, pointwise: bool, given: list[Act], result: Any) -> Any:
    """What is made, with what makes its units constants."""
    if isinstance(result, (list, tuple)) and not isinstance(result, Act):
        return [_steady(kind, pointwise, given, each) for each in result]
    if not isinstance(result, Act) or result.steady is not None:
        return result
    return result._replace(steady=steady(kind, pointwise, given, result.dims))


def _fits(result: Any, out: Any) -> bool:
    """Whether labels are as many as there are positions."""
    if isinstance(out, torch.Tensor):
        return isinstance(result, Act) and result.shape == tuple(out.shape)
    if isinstance(out, (list, tuple)):
        return len(result) == len(out) and all(_fits(*pair) for pair in zip(result, out))
    return True


def _bound(schema: Any, args: Any, kwargs: Any) -> SimpleNamespace:
    """The arguments of a call by name."""
    values = {a.name: a.default_value if a.has_default_value() else None for a in schema.arguments}
    values |= dict(zip(values, args)) | kwargs
    return SimpleNamespace(**values, all=acts(list(values.values())))


def _unknown(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """An operator that nothing is known of: nothing that enters it can be cut."""
    arrays = [d for act in a.all for d in act.dims]
    if any(walk.labels.alive(array).any() for array in arrays):
        walk.unknown[walk.at.split("`")[1]] = walk.path
    for array in arrays:
        walk.fix(array, "is an operator that structure() does not know")
    return made_of(out, lambda t: Act(fixed(t.shape)))


def made_of(out: Any, make: Callable[[Any], Any]) -> Any:
    """The same structure as the outputs of a call."""
    if isinstance(out, torch.Tensor):
        return make(out)
    return type(out)(made_of(each, make) for each in out) if isinstance(out, (list, tuple)) else None
