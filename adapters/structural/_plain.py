"""Rules of operators that work point by point, make, and contract."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ._labels import Array
from ._silence import Ways, both, covers, either, named, told
from ._walk import Act, Read, Rule, Walk, fixed, made_of


def pointwise(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Positions that meet are one: dims are aligned at the right, those of size 1 stretch."""
    weight = bool(a.all) and all(x.weight for x in a.all)

    def made(t: Any) -> Act:
        dims = aligned(walk, a.all, t.shape)
        return Act(dims, weight, _silent(walk.kind.rstrip("_"), a, dims))

    return made_of(out, made)


_ZERO_AT_ZERO = {
    "relu",
    "relu6",
    "gelu",
    "silu",
    "tanh",
    "neg",
    "dropout",
    "hardswish",
    "leaky_relu",
    "elu",
    "mish",
    "abs",
}


def _silent(kind: str, a: SimpleNamespace, dims: Any) -> Ways:
    """When a unit of what is made point by point is zero."""
    if kind == "mul":
        return either(*(x.silent for x in a.all if covers(x, dims)))
    if kind in ("add", "sub"):
        sums = isinstance(a.self, Act) and isinstance(a.other, Act) and all(covers(x, dims) for x in a.all)
        return both(*(x.silent for x in a.all)) if sums else ()
    if kind == "pow":
        return a.all[0].silent if isinstance(a.exponent, (int, float)) and a.exponent > 0 else ()
    return a.all[0].silent if a.all and (kind in _ZERO_AT_ZERO or kind == "div") else ()


def aligned(walk: Walk, given: list[Act], shape: Any) -> tuple[Array, ...]:
    """The dims of what is made point by point."""
    dims = []
    for back in range(len(shape), 0, -1):
        size = int(shape[-back])
        met = [x.dims[-back] for x in given if len(x.dims) >= back and len(x.dims[-back]) == size > 1]
        dims.append(walk.unite(*met) if met else np.zeros(size, dtype=np.int64))
    return tuple(dims)


def same(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """The first tensor again."""
    return a.all[0]


def nothing(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """No tensor, or one that has nothing to do with those given."""
    return made_of(out, lambda t: Act(fixed(t.shape)))


def created(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """A tensor of one value can have any size."""
    dims = tuple(walk.labels.fresh(int(n)) for n in out.shape)
    for place, array in enumerate(dims):
        walk.size(array, place)
    return Act(dims, steady=frozenset())


# ---- contractions ---------------------------------------------------------------------------------------------------


def contract(walk: Walk, left: Act, i: int, right: Act, j: int) -> None:
    """Sum products over a dim: exact if one side is a parameter, whose masked entries are zero."""
    walk.unite(left.dims[i], right.dims[j])
    if not (left.weight or right.weight):
        walk.fix(left.dims[i], "sums over it, and neither side is a parameter")
    read(walk, *((right.dims[j], left) if right.weight else (left.dims[i], right)))


def read(walk: Walk, labels: Array, given: Act, norm: bool = False) -> None:
    """Note that a dim of a weight, or a norm, sums over units of what is given."""
    walk.reads.append(Read(labels, given.silent, given.steady, walk.path, norm))


def linear(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    contract(walk, a.input, -1, a.weight, 1)
    walk.products.append((*a.input.dims, a.weight.dims[0]))
    rows = walk.unite(a.weight.dims[0], *([a.bias.dims[0]] if a.bias else []))
    return weighed((*a.input.dims[:-1], rows), a.weight, a.bias)


def weighed(dims: tuple[Array, ...], weight: Act, bias: Act | None) -> Act:
    """What a layer makes: a unit is zero if its weights and its bias are, and a constant if its weights are zero."""
    even = named(weight) if bias is None or bias.steady == frozenset() else None
    return Act(dims, silent=both(told(weight), told(bias)), steady=even)


def addmm(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    contract(walk, a.mat1, 1, a.mat2, 0)
    walk.products.append((*a.mat1.dims, a.mat2.dims[1]))
    product = Act((a.mat1.dims[0], a.mat2.dims[1]))
    return weighed(aligned(walk, [a.self, product], out.shape), a.mat2, a.self)


def baddbmm(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    product = matmul(walk, SimpleNamespace(all=[a.batch1, a.batch2]), out)
    return Act(aligned(walk, [a.self, product], out.shape))


def matmul(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    left, right = a.all[:2]
    contract(walk, left, -1, right, -2 if len(right.dims) > 1 else 0)
    ends = ((left.dims[-2],) if len(left.dims) > 1 else ()) + ((right.dims[-1],) if len(right.dims) > 1 else ())
    batch = out.shape[: len(out.shape) - len(ends)]
    first = aligned(walk, [Act(left.dims[:-2]), Act(right.dims[:-2])], batch)
    walk.products.append((*first, *ends, left.dims[-1]))
    silent = either(*(told(x) for x in (left, right) if x.weight))
    return Act((*first, *ends), left.weight and right.weight, silent)


def einsum(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Letters are dims; what is summed over must be a parameter's on one side."""
    text = a.equation.replace(" ", "")
    inputs, _, result = text.partition("->")
    terms = inputs.split(",")
    if "." in text or "->" not in text or any(len(set(t)) < len(t) for t in terms):
        return refuse(walk, a, out, "has an equation that structure() does not read")
    found: dict[str, list[tuple[Act, Array]]] = {}
    for term, act in zip(terms, a.all):
        for letter, array in zip(term, act.dims):
            found.setdefault(letter, []).append((act, array))
    for letter, sides in found.items():
        walk.unite(*(array for _, array in sides))
        if letter not in result and (len(sides) == 1 or not any(act.weight for act, _ in sides)):
            walk.fix(sides[0][1], "sums over it, and no side is a parameter")
        for array in [labels for act, labels in sides if act.weight and letter not in result]:
            read(walk, array, Act(()))
    walk.products.append(tuple(sides[0][1] for sides in found.values()))
    return Act(tuple(found[letter][0][1] for letter in result), all(x.weight for x in a.all))


def refuse(walk: Walk, a: SimpleNamespace, out: Any, what: str) -> Any:
    """Fix all that enters."""
    for array in [d for act in a.all for d in act.dims]:
        walk.fix(array, what)
    return nothing(walk, a, out)


def embedding(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    walk.fix(a.weight.dims[0], "looks its rows up by number")
    return Act((*fixed(a.indices.shape), a.weight.dims[1]), silent=told(a.weight))


def table(rule: Rule, names: str) -> dict[str, Rule]:
    """One rule by several names."""
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **table(pointwise, "add sub mul div"),
    **table(pointwise, "where masked_fill dropout feature_dropout alpha_dropout gelu silu relu relu6 hardtanh"),
    **table(pointwise, "softplus elu celu selu leaky_relu mish hardswish hardsigmoid lerp clamp pow bernoulli"),
    **table(same, "contiguous clone detach alias to _to_copy type_as float double half bfloat16 lift_fresh_copy"),
    **table(same, "copy_to_dtype positive resolve_conj resolve_neg pin_memory expand_copy rrelu"),
    **table(nothing, "_assert_tensor_metadata _assert_async arange scalar_tensor sym_size empty rand randn linspace"),
    **table(nothing, "tril_indices triu_indices"),
    **table(created, "zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like"),
    **table(matmul, "matmul mm bmm mv dot"),
    "linear": linear,
    "addmm": addmm,
    "baddbmm": baddbmm,
    "einsum": einsum,
    "embedding": embedding,
}
