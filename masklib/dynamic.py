"""Dynamic sparse training: what dies makes room for what grows."""

from __future__ import annotations

from typing import Any, cast

from masklib import _read
from masklib._names import Tensors, TensorsT
from masklib._shards._wire import on_all_ranks
from masklib.algebra import complement, count, union
from masklib.methods import compute_mask, identity


def regrow(scores: TensorsT, default_mask: TensorsT | None = None, *, grow_scores: Tensors, amount: Any) -> TensorsT:
    """Kill the lowest live elements, and let as many others live instead: those of highest `grow_scores`.

        kept  = compute_mask(scores, default_mask, amount=amount)
        grown = the |default_mask| - |kept| highest of grow_scores outside kept

    The number of live elements stays. An element that was just killed may grow again at once, and then keeps its
    value. One that was dead starts from whatever the parameter holds there. The papers want zero: call
    `params = apply(params, default_mask)` before, and the same for the optimizer's state.

    RigL grows by the magnitude of the dense gradient (`dense_grad`), SET at random; both kill by magnitude, a share of
    each layer that decays along half a cosine:

        share = schedules.cosine(0.0, initial=0.3, stop=end)
        rigl  = layerwise(regrow)(magnitude(params), masks, grow_scores=magnitude(grads), amount=share(step))
        set_  = layerwise(regrow)(magnitude(params), masks, grow_scores=random(params, key=step), amount=share(step))

    The papers round the share of the live elements down; pass an int for that, as `amount` rounds half to even.

    Args:
        scores: importance of each element, a tensor or a mapping by name, which is one pool.
        default_mask: bool, what is alive now; None for all.
        grow_scores: what to grow first, of the shapes and names of the scores (higher = first); among equals the
            higher index.
        amount: how many of the live elements to kill: an int, or a share in [0, 1], or a 0-d tensor of either.

    Returns:
        A new mask with as many elements alive as `default_mask`.

    Raises:
        TypeError: if `amount` is not a number, a dtype has no order, or `grow_scores` is a tensor beside a mapping.
        ValueError: if a score that counts is NaN, shapes or names disagree, or fewer are alive.

    >>> s, g = torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 5.0])
    >>> regrow(s, torch.tensor([True, True, True, False]), grow_scores=g, amount=1)
    tensor([ True, False,  True,  True])

    Reference: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", 2018
    (SET); Evci et al., "Rigging the Lottery", 2020, algorithm 1 (RigL).
    """
    on_all_ranks((scores, default_mask, grow_scores), lambda: _refuse_others(scores, grow_scores))
    alive = identity(scores, default_mask)
    kept, others = compute_mask(scores, alive, amount=amount), cast(TensorsT, grow_scores)
    return union(kept, _highest(others, complement(kept), count(alive) - count(kept)))


def _highest(grow_scores: TensorsT, dead: TensorsT, number: Any) -> TensorsT:
    """The highest of what is dead; what cannot be ranked is told with the argument's name."""
    try:
        return compute_mask(grow_scores, dead, keep=number)
    except ValueError as error:
        raise ValueError(f"`grow_scores` cannot be ranked: {error}") from error


def _refuse_others(scores: Any, grow_scores: Any) -> None:
    """Refuse growth scores that are not of the form, names and shapes of the scores."""
    _read.same_form(grow_scores, scores, "grow_scores", "scores")
    values, others = _read.tensors(scores, "scores"), _read.tensors(grow_scores, "grow_scores")
    _read.same_names(others, values, "grow_scores")
    _read.rankable(others, False, "grow_scores")
    for name, value in values.items():
        places = _read.place(name, "grow_scores"), _read.place(name, "scores")
        _read.same_shape(others[name], value, *places)
        _read.same_device(others[name], value, *places, "grow_scores")
