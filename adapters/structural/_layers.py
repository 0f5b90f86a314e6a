"""Rules of whole layers: convolutions, norms, pooling, attention, recurrence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ._along import folds
from ._labels import Array
from ._plain import aligned, contract, pointwise, read, refuse, weighed
from ._silence import both, either, told
from ._walk import Act, Rule, Walk, fixed, made_of


def conv(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """Channels in contract; with groups, whole groups go."""
    return _conv(walk, a, out, a.weight.dims[0], a.weight.dims[1], False)


def conv_transpose(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    return _conv(walk, a, out, a.weight.dims[1], a.weight.dims[0], True)


def convolution(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    return (conv_transpose if a.transposed else conv)(walk, a, out)


def _conv(walk: Walk, a: SimpleNamespace, out: Any, outs: Array, ins: Array, transposed: bool) -> Act:
    spatial = len(a.weight.dims) - 2
    for kernel in a.weight.dims[2:]:
        walk.fix(kernel, "has it as the size of its kernel")
    for dim in a.input.dims[-spatial:]:
        walk.fix(dim, "slides along it")
    given = a.input.dims[-spatial - 1]
    moved = a.input.dims[-spatial:] if transposed else fixed(out.shape[-spatial:])
    walk.products.append((*a.input.dims[: -spatial - 1], *moved, *a.weight.dims))
    if a.groups > 1:
        outs = _grouped(walk, a.groups, given, outs, ins, transposed)
    else:
        contract(walk, Act((given,), silent=a.input.silent, steady=a.input.steady), 0, a.weight, 0 if transposed else 1)
    if a.bias is not None:
        walk.unite(outs, a.bias.dims[0])
    return weighed((*a.input.dims[: -spatial - 1], outs, *fixed(out.shape[-spatial:])), a.weight, a.bias)


def _grouped(walk: Walk, groups: int, given: Array, outs: Array, ins: Array, transposed: bool) -> Array:
    """Whole groups: all channels of a group go together, and the dim of the weight that is within a group stays."""
    within, across = (outs, ins) if transposed else (ins, outs)
    walk.fix(within, "has it within each group")
    entering, heads = given.reshape(groups, -1), across.reshape(groups, -1)
    walk.unite(*entering.T, *heads.T)
    walk.size(heads[:, 0], name="groups")
    return np.repeat(heads[:, 0], len(outs)) if transposed else across


def batch_norm(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Each channel by itself."""
    channels = 1 if len(a.input.dims) > 1 else 0
    walk.unite(a.input.dims[channels], *(x.dims[0] for x in a.all[1:] if len(x.dims) == 1))
    walk.size(a.input.dims[channels], name="num_features")
    silent = both(told(a.weight), told(a.bias)) if a.weight is not None else ()
    result = Act(a.input.dims, silent=silent)
    return made_of(out, lambda t: result if len(t.shape) == len(a.input.dims) else Act(fixed(t.shape)))


def prelu(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """A slope for each channel, or one for all."""
    if a.weight.shape != (1,):
        walk.unite(a.self.dims[min(1, len(a.self.dims) - 1)], a.weight.dims[0])
    return Act(a.self.dims, silent=a.self.silent)


def layer_norm(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
    """Mean and variance are taken over the last dims."""
    act = a.all[0]
    folded = walk.kind == "rms_norm" and len(a.normalized_shape) == 1 and folds(walk, act)
    for back in range(1, len(a.normalized_shape) + 1) if not folded else ():
        walk.fix(act.dims[-back], "takes the mean over it, so that what is left would change")
    return Act(aligned(walk, a.all, out.shape), silent=either(*map(told, a.all))) if folded else pointwise(walk, a, out)


def group_norm(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """Whole groups of channels."""
    count = getattr(a, "num_groups", None) or a.group
    channels = a.input.dims[1]
    walk.unite(channels, *(x.dims[0] for x in a.all[1:]))
    for dim in a.input.dims[2:]:
        walk.fix(dim, "takes the mean over it")
    grid = channels.reshape(count, -1)
    walk.unite(*grid.T)
    if count == 1:
        walk.fix(channels, "takes the mean over it, so that what is left would change")
    walk.size(grid[:, 0], name="num_groups")
    product = either(a.input.silent, told(a.weight) if a.weight is not None else ())
    return Act(a.input.dims, silent=both(product, told(a.bias)))


def spatial(count: int) -> Rule:
    """Pooling, padding and resizing of the last dims."""

    def rule(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
        act = a.all[0]
        first = out[0] if isinstance(out, (list, tuple)) else out
        over = [d for d in range(len(act.dims)) if d >= len(act.dims) - count or len(act.dims[d]) != first.shape[d]]
        for d in over:
            walk.fix(act.dims[d], "slides along it")
        dims = [np.zeros(int(n), np.int64) if d in over else act.dims[d] for d, n in enumerate(first.shape)]
        silent = act.silent if not getattr(a, "value", None) else ()  # of padding
        return made_of(out, lambda t: Act(tuple(dims), silent=silent))

    return rule


def attention(walk: Walk, a: SimpleNamespace, out: Any) -> Act:
    """Heads go with the keys and values that they look at; what is summed over within a head is fixed."""
    q, k, v = a.query, a.key, a.value
    walk.fix(q.dims[-1], "sums over it within each head")
    walk.fix(k.dims[-1], "sums over it within each head")
    walk.fix(v.dims[-2], "goes along it")
    walk.unite(k.dims[-2], v.dims[-2])
    batch = list(q.dims[:-2])
    for d in range(len(batch)):
        for other in (k.dims[d], v.dims[d]):
            times = len(batch[d]) // len(other)
            if len(other) > 1:
                walk.unite(batch[d], np.repeat(other, times))
    walk.products += [(*batch, q.dims[-2], k.dims[-2], last) for last in (q.dims[-1], v.dims[-1])]
    mask = getattr(a, "attn_mask", None)
    if isinstance(mask, Act):
        scores = Act((*batch, q.dims[-2], k.dims[-2]))
        aligned(walk, [scores, mask], scores.shape)
    own = all(len(x) > 1 or not head.any() for head, x in zip(batch, v.dims))  # not one value for all heads
    return Act((*batch, q.dims[-2], v.dims[-1]), silent=v.silent if own else ())


def recurrent(gates: int) -> Rule:
    """LSTM, GRU and RNN: one number of hidden units for all layers and directions, each with its gates."""

    def rule(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
        if not isinstance(a.params, list) or not hasattr(a, "num_layers"):
            return refuse(walk, a, out, "has packed inputs, which structure() does not know")
        ways, each = 2 if a.bidirectional else 1, 4 if a.has_biases else 2
        if len(a.params) != ways * each * a.num_layers:
            return refuse(walk, a, out, "has projections, which structure() does not know")
        cells = [a.params[i : i + each] for i in range(0, len(a.params), each)]
        hidden = cells[0][1].dims[1]
        entering = a.input.dims[-1]
        for number, cell in enumerate(cells):
            walk.unite(hidden, cell[1].dims[1], why=walk.at)
            for tensor in cell:
                walk.unite(np.tile(hidden, gates), tensor.dims[0])
            walk.products += [(*a.input.dims[:-1], *cell[i].dims) for i in (0, 1)]
            walk.unite(entering if number < ways else np.tile(hidden, ways), cell[0].dims[1])
            read(walk, cell[0].dims[1], a.input if number < ways else Act(()))
            read(walk, cell[1].dims[1], Act(()))
        states = a.hx if isinstance(a.hx, list) else [a.hx]
        for state in states:
            walk.unite(hidden, state.dims[-1])
        ends = [Act((*fixed(t.shape[:-1]), hidden)) for t in out[1:]]  # torch 2.6 gives them a dim too many
        return [Act((*a.input.dims[:-1], np.tile(hidden, ways))), *ends]

    return rule


def cell(gates: int) -> Rule:
    """One step of an LSTM, GRU or RNN."""

    def rule(walk: Walk, a: SimpleNamespace, out: Any) -> Any:
        hidden = a.w_hh.dims[1]
        contract(walk, a.input, -1, a.w_ih, 1)
        contract(walk, Act((hidden,)), 0, a.w_hh, 1)
        walk.products += [(*a.input.dims[:-1], *weight.dims) for weight in (a.w_ih, a.w_hh)]
        rows = [t.dims[0] for t in (a.w_ih, a.w_hh, a.b_ih, a.b_hh) if t is not None]
        walk.unite(np.tile(hidden, gates), *rows)
        states = a.hx if isinstance(a.hx, list) else [a.hx]
        walk.unite(hidden, *(s.dims[-1] for s in states))
        return made_of(out, lambda t: Act((*states[0].dims[:-1], hidden)))

    return rule


_POOLS = "max_pool avg_pool adaptive_avg_pool adaptive_max_pool upsample_nearest _upsample_nearest_exact lp_pool"
RULES: dict[str, Rule] = {
    **{f"conv{n}d": conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": conv_transpose for n in (1, 2, 3)},
    **{f"{name}{n}d": spatial(n) for name in _POOLS.split() for n in (1, 2, 3)},
    **{f"{kind}_pad{n}d": spatial(n) for kind in ("reflection", "replication") for n in (1, 2, 3)},
    **{
        f"upsample_{kind}": spatial(n)
        for kind, n in [("linear1d", 1), ("bilinear2d", 2), ("bicubic2d", 2), ("trilinear3d", 3)]
    },
    **{f"max_pool{n}d_with_indices": spatial(n) for n in (2, 3)},
    **dict.fromkeys(["batch_norm", "_native_batch_norm_legit", "native_batch_norm", "instance_norm"], batch_norm),
    **dict.fromkeys(["layer_norm", "native_layer_norm", "rms_norm"], layer_norm),
    "prelu": prelu,
    "convolution": convolution,
    "group_norm": group_norm,
    "pad": spatial(0),
    "constant_pad_nd": spatial(0),
    "scaled_dot_product_attention": attention,
    "lstm": recurrent(4),
    "gru": recurrent(3),
    "lstm_cell": cell(4),
    "gru_cell": cell(3),
    "rnn_tanh_cell": cell(1),
    "rnn_relu_cell": cell(1),
    "rnn_tanh": recurrent(1),
    "rnn_relu": recurrent(1),
}
