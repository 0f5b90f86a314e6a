"""Scores of the experts of a mixture."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _read
from masklib._names import Tensors, TensorsT, each, named
from masklib.scores._common import added, total_of


class ExpertNorms(NamedTuple):
    """Sums over the tokens that were routed to each expert. Each field is one value, or values by name."""

    total: Any  # (experts,), float32 at least: the sum of gate * norm(output)
    count: Any  # (experts,), int64: how many tokens


def add_expert_norms(state: ExpertNorms | None, outputs: TensorsT, gates: Tensors) -> ExpertNorms:
    """Add how much each expert puts into the layer's output, over the tokens that are routed to it.

        total(j) += sum of gates(t, j) * norm(outputs(t, j)),   count(j) += how many gates(t, j) are not 0

    Args:
        state: what was added so far; None for nothing.
        outputs: what each expert returns for each token, (..., experts, features), a tensor or a mapping by the names
            of the layers; what lies under a gate of 0 is not looked at. For norms of one's own: (..., experts, 1).
        gates: the router's weights, (..., experts), 0 where a token is not routed to an expert.

    Returns:
        The new state, of shape (experts,).

    Raises:
        TypeError: if outputs or gates are not floating, or the state is none.
        ValueError: if shapes or names disagree, or are not those added before.

    >>> outputs = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [5.0, 5.0]]])
    >>> scores.add_expert_norms(None, outputs, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    ExpertNorms(total=tensor([4.5000, 0.5000]), count=tensor([2, 1]))
    """
    _pairs(outputs, gates)
    sums = each(lambda f, g: _sums(f.detach(), g.detach()), outputs, gates)
    counts = each(lambda g: (g != 0).flatten(0, -2).sum(0), gates)
    return ExpertNorms(*added(state, sums, counts, "outputs"))


def _sums(outputs: Tensor, gates: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(outputs.dtype, gates.dtype), torch.float32)
    norms = torch.linalg.vector_norm(outputs.to(wide), dim=-1)
    return (gates.to(wide) * norms).where(gates != 0, 0).flatten(0, -2).sum(0)


def reap(state: ExpertNorms) -> Any:
    """Score each expert of a mixture by how much it puts in for a token that is routed to it.

        S(j) = mean of gate(t, j) * norm(output(t, j)) over the tokens t with gate(t, j) > 0

    An expert to which no token came scores 0.

    Args:
        state: what the tokens added.

    Returns:
        Scores of shape (experts,), in float32 at least: `compute_mask(reap(state), keep=48)` keeps 48 experts.

    Raises:
        TypeError: if the state is none of `add_expert_norms`.

    >>> scores.reap(scores.ExpertNorms(torch.tensor([4.5, 0.5, 0.0]), torch.tensor([2, 1, 0])))
    tensor([2.2500, 0.5000, 0.0000])

    Reference: Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression", 2025.
    """
    totals, counts = named(total_of(state, "state")), named(state.count)
    _read.tensors(totals, "state")
    for name, total in totals.items():
        if not isinstance(counts.get(name), Tensor) or counts[name].shape != total.shape:
            raise TypeError(
                f"{_read.place(name, 'state')} must be what add_expert_norms returns, with a count for each expert. "
                "For example scores.add_expert_norms(None, outputs, gates)."
            )
    return each(lambda t, n: t / n.clamp(min=1), state.total, state.count)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _pairs(outputs: Any, gates: Any) -> None:
    values, weights = _read.inexact(outputs, "outputs"), _read.inexact(gates, "gates")
    _read.same_form(gates, outputs, "gates", "outputs")
    _read.same_names(weights, values, "gates", "outputs")
    for name, value in values.items():
        places = _read.place(name, "gates"), _read.place(name, "outputs")
        if value.dim() < 3 or weights[name].shape != value.shape[:-1]:
            raise ValueError(
                f"{places[0]} must have shape (..., experts) for {places[1]} of shape (..., experts, features), got "
                f"{tuple(weights[name].shape)} and {tuple(value.shape)}. For norms alone, pass norms[..., None]."
            )
        for tensor, place in ((value, places[1]), (weights[name], places[0])):
            _read.is_whole(tensor, place)
            if tensor.is_complex():
                raise TypeError(f"{place} must be real, got {tensor.dtype}. Pass its norms, .abs()[..., None].")
        _read.same_device(weights[name], value, *places, "gates")
