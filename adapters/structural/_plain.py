"""Rules of operators that work point by point, contract, join, and reduce."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ._labels import Array
from ._walk import Act, Rule, Walk, fixed, made_of


def pointwise(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Positions that meet are one: dims are aligned at the right, those of size 1 stretch."""
    silent, weight = _silent(walk.kind.rstrip("_"), a), bool(a.all) and all(x.weight for x in a.all)
    return made_of(out, lambda t: Act(aligned(walk, a.all, t.shape), weight, silent))


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


def _silent(kind: str, a: SimpleNamespace) -> bool:
    """Whether zeros stay zeros."""
    if kind in ("mul", "where", "masked_fill"):
        return kind == "mul" and any(x.silent for x in a.all)
    if kind in ("add", "sub"):
        return all(x.silent for x in a.all) and all(isinstance(x, Act) for x in (a.self, a.other))
    if kind == "pow":
        return bool(a.all[0].silent) and isinstance(a.exponent, (int, float)) and a.exponent > 0
    return bool(a.all) and a.all[0].silent and (kind in _ZERO_AT_ZERO or (kind == "div" and len(a.all) > 0))


def silent(act: Act) -> Act:
    """An activation of which each unit is zero with its parameters."""
    return act._replace(silent=True)


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
    return Act(dims)


# ---- contractions ---------------------------------------------------------------------------------------------------


def contract(walk: Walk, left: Act, i: int, right: Act, j: int) -> None:
    """Sum products over a dim: exact if one side is a parameter, whose masked entries are zero."""
    walk.unite(left.dims[i], right.dims[j])
    if not (left.weight or right.weight):
        walk.fix(left.dims[i], "sums over it, and neither side is a parameter")


def linear(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    contract(walk, a.input, -1, a.weight, 1)
    walk.products.append((*a.input.dims, a.weight.dims[0]))
    rows = walk.unite(a.weight.dims[0], *([a.bias.dims[0]] if a.bias else []))
    return silent(Act((*a.input.dims[:-1], rows)))


def addmm(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    contract(walk, a.mat1, 1, a.mat2, 0)
    walk.products.append((*a.mat1.dims, a.mat2.dims[1]))
    product = Act((a.mat1.dims[0], a.mat2.dims[1]))
    return Act(aligned(walk, [a.self, product], out.shape), silent=a.mat2.weight)


def matmul(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    left, right = a.all[:2]
    contract(walk, left, -1, right, -2 if len(right.dims) > 1 else 0)
    both = left.weight and right.weight
    ends = ((left.dims[-2],) if len(left.dims) > 1 else ()) + ((right.dims[-1],) if len(right.dims) > 1 else ())
    batch = out.shape[: len(out.shape) - len(ends)]
    first = aligned(walk, [Act(left.dims[:-2]), Act(right.dims[:-2])], batch)
    walk.products.append((*first, *ends, left.dims[-1]))
    return Act((*first, *ends), both)


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
    walk.products.append(tuple(sides[0][1] for sides in found.values()))
    return Act(tuple(found[letter][0][1] for letter in result), all(x.weight for x in a.all))


def refuse(walk: Walk, a: SimpleNamespace, out: Any, what: str) -> Any:
    """Fix all that enters."""
    for array in [d for act in a.all for d in act.dims]:
        walk.fix(array, what)
    return nothing(walk, a, out)


def embedding(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    walk.fix(a.weight.dims[0], "looks its rows up by number")
    return silent(Act((*fixed(a.indices.shape), a.weight.dims[1])))


# ---- along dims -----------------------------------------------------------------------------------------------------


def _given_dims(a: SimpleNamespace, count: int) -> set[int]:
    dims = getattr(a, "dim", None)
    if dims is None or dims == []:
        return set(range(count))
    return {d % count for d in (dims if isinstance(dims, (list, tuple)) else [dims])} if count else set()


def reduces(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Mean, sum, max and their like over dims: of these, none can be cut."""
    if getattr(a, "other", None) is not None:  # of two tensors, point by point
        return pointwise(walk, a, out)
    act = a.all[0]
    over = _given_dims(a, len(act.dims))
    if over == {len(act.dims) - 1} and walk.kind == "mean" and folds(walk, act):
        over = set()
    for d in over:
        walk.fix(act.dims[d], "takes all of it together, so that what is left would change")
    over = over or {len(act.dims) - 1}
    keep = getattr(a, "keepdim", False)
    dims = [np.zeros(1, np.int64) if d in over else x for d, x in enumerate(act.dims) if keep or d not in over]
    return made_of(out, lambda t: Act(tuple(dims), act.weight) if len(dims) == len(t.shape) else Act(fixed(t.shape)))


def folds(walk: Walk, act: Act) -> bool:
    """Whether what a cut of the last dim changes is folded into the weight of the norm whose code this is."""
    if walk.path not in walk.norms or not act.silent:
        return False
    walk.folds[walk.path] = act.dims[-1]
    return True


def along(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Softmax, cumsum, sort and their like along a dim: it cannot be cut, and has another size perhaps."""
    act = a.all[0]
    first = out[0] if isinstance(out, (list, tuple)) else out
    over = _given_dims(a, len(act.dims)) | {d for d, n in enumerate(first.shape) if n != len(act.dims[d])}
    for d in over:
        walk.fix(act.dims[d], "goes along it, so that what is left would change")
    dims = tuple(np.zeros(int(n), np.int64) if d in over else act.dims[d] for d, n in enumerate(first.shape))
    return made_of(out, lambda t: Act(dims))


def glu(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """The first half by the gates of the second."""
    dim = a.dim % len(a.self.dims)
    values, gates = np.split(a.self.dims[dim], 2)
    return Act((*a.self.dims[:dim], walk.unite(values, gates), *a.self.dims[dim + 1 :]))


def cat(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    parts = [x for x in a.tensors if x.shape != (0,)]
    dim = a.dim % len(out.shape)
    dims = [walk.unite(*(x.dims[d] for x in parts)) for d in range(len(out.shape)) if d != dim]
    dims.insert(dim, np.concatenate([x.dims[dim] for x in parts]))
    return Act(tuple(dims), all(x.weight for x in parts))


def stack(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    dims = [walk.unite(*(x.dims[d] for x in a.tensors)) for d in range(len(out.shape) - 1)]
    dims.insert(a.dim % len(out.shape), np.zeros(len(a.tensors), np.int64))
    return Act(tuple(dims), all(x.weight for x in a.tensors))


def split(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Pieces of equal size lose the same positions, since the code holds one number for all of them."""
    dim, start, pieces = a.dim % len(a.self.dims), 0, []
    for piece in out:
        count = int(piece.shape[dim])
        pieces.append(a.self.dims[dim][start : start + count])
        start += count
    equal = len({len(piece) for piece in pieces}) == 1
    if equal:
        walk.unite(*pieces)
        walk.size(pieces[0])
    elif len(pieces) > 1:
        pieces = [walk.fix(piece, "splits it at numbers that the code holds") for piece in pieces]
    return [Act((*a.self.dims[:dim], piece, *a.self.dims[dim + 1 :]), a.self.weight) for piece in pieces]


def unbind(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    dim = a.dim % len(a.self.dims)
    walk.fix(a.self.dims[dim], "takes it apart")
    return [Act(a.self.dims[:dim] + a.self.dims[dim + 1 :], a.self.weight) for _ in out]


def select(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    dim = a.dim % len(a.self.dims)
    walk.fix(a.self.dims[dim], "takes one of it by number")
    return Act(a.self.dims[:dim] + a.self.dims[dim + 1 :], a.self.weight)


def sliced(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    dim = a.dim % len(a.self.dims)
    if out.shape[dim] == len(a.self.dims[dim]) and a.step == 1:
        return a.self
    walk.fix(a.self.dims[dim], "slices it at numbers that the code holds")
    return Act((*a.self.dims[:dim], np.zeros(int(out.shape[dim]), np.int64), *a.self.dims[dim + 1 :]), a.self.weight)


def flip(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    over = _given_dims(SimpleNamespace(dim=a.dims), len(a.self.dims))
    return Act(tuple(x[::-1] if d in over else x for d, x in enumerate(a.self.dims)), a.self.weight)


def roll(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    over = _given_dims(SimpleNamespace(dim=a.dims), len(a.self.dims))
    return Act(tuple(walk.fix(x, "rolls along it") if d in over else x for d, x in enumerate(a.self.dims)))


def index(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Dims that are indexed are fixed; those behind the last index stay as they are."""
    last = len(a.indices)
    for array in a.self.dims[:last]:
        walk.fix(array, "is indexed by number")
    kept = a.self.dims[last:]
    return Act((*fixed(out.shape[: len(out.shape) - len(kept)]), *kept), a.self.weight)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_table(pointwise, "add where masked_fill dropout feature_dropout alpha_dropout gelu silu relu relu6 hardtanh"),
    **_table(pointwise, "softplus elu celu selu leaky_relu mish hardswish hardsigmoid lerp clamp pow bernoulli"),
    **_table(same, "contiguous clone detach alias to _to_copy type_as float double half bfloat16 lift_fresh_copy"),
    **_table(same, "copy_to_dtype positive resolve_conj resolve_neg pin_memory expand_copy rrelu"),
    **_table(nothing, "_assert_tensor_metadata _assert_async arange scalar_tensor sym_size empty rand randn linspace"),
    **_table(nothing, "tril_indices triu_indices"),
    **_table(created, "zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like"),
    **_table(matmul, "matmul mm bmm mv dot"),
    **_table(
        reduces, "mean sum var std prod amax amin max min argmax argmin any all norm linalg_vector_norm logsumexp"
    ),
    **_table(reduces, "median nansum var_mean std_mean aminmax count_nonzero"),
    **_table(
        along, "softmax log_softmax _softmax _log_softmax cumsum cumprod sort topk gather index_select cummax diff"
    ),
    **_table(along, "take_along_dim logcumsumexp argsort"),
    **_table(cat, "cat concat concatenate"),
    **_table(split, "split split_with_sizes chunk tensor_split"),
    "linear": linear,
    "addmm": addmm,
    "einsum": einsum,
    "embedding": embedding,
    "stack": stack,
    "unbind": unbind,
    "select": select,
    "slice": sliced,
    "narrow": sliced,
    "glu": glu,
    "flip": flip,
    "roll": roll,
    "index": index,
}
