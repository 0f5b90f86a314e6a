"""Scores of whole blocks: how far each moves the hidden state."""

from __future__ import annotations

from math import pi
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import cosine_similarity

from masklib import _read
from masklib._names import Tensors, TensorsT, each, named
from masklib.scores._common import added, total_of


class Distances(NamedTuple):
    """Sums of distances of what goes into blocks from what comes out. Each field is one value, or values by name."""

    total: Any  # (), float64: the sum over the states
    count: Any  # int: how many states


def add_angles(state: Distances | None, inputs: TensorsT, outputs: Tensors) -> Distances:
    """Add the angles by which a block, or a run of blocks, turns hidden states.

        total += sum of arccos(cos(x, y)) / pi,   count += how many x

    where cos(x, y) = x . y / (norm(x) norm(y)), and 0 where x or y is zero. With the last token of each text alone this
    is the paper's.

    Args:
        state: what was added so far; None for nothing.
        inputs: the hidden states before, real, (..., features), a tensor or a mapping by the names of the blocks. There
            may be none: (0, features).
        outputs: those after, of the same shapes.

    Returns:
        The new state; each angle is from 0 for what is only made longer to 1 for the opposite.

    Raises:
        TypeError: if inputs or outputs are not real and floating, or the state is none.
        ValueError: if names or shapes disagree, or the names are not those added before.

    >>> scores.add_angles(None, torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]]))
    Distances(total=tensor(0.5000, dtype=torch.float64), count=2)

    Reference: Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", 2024, equation 7.
    """
    return _add(state, inputs, outputs, lambda cos: cos.arccos() / pi)


def add_influences(state: Distances | None, inputs: TensorsT, outputs: Tensors) -> Distances:
    """Add how much a block, or a run of blocks, changes the direction of hidden states, by the cosine.

        total += sum of 1 - cos(x, y),   count += how many x

    Args:
        state, inputs, outputs: as for `add_angles`.

    Returns:
        The new state; its mean is the paper's block influence.

    Raises:
        TypeError, ValueError: as `add_angles`.

    >>> scores.add_influences(None, torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]]))
    Distances(total=tensor(1., dtype=torch.float64), count=2)

    Reference: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024,
    equation 1.
    """
    return _add(state, inputs, outputs, lambda cos: 1 - cos)


def distance(state: Distances) -> Any:
    """Score a block, or a run of blocks, by how far it moves a hidden state in the mean.

        S = total / count

    Args:
        state: what `add_angles` or `add_influences` returned.

    Returns:
        A score without dims, in float64: `compute_mask(distance(state), amount=2)` of a state by the names of the
        blocks drops the two that do least.

    Raises:
        TypeError: if the state is none of these.
        ValueError: if nothing was added.

    >>> scores.distance(scores.Distances(torch.tensor(0.5), 2))
    tensor(0.2500)
    """
    totals, counts = named(total_of(state, "state")), named(state.count)
    for name, total in _read.tensors(totals, "state").items():
        if total.dim():
            raise TypeError(
                f"{_read.place(name, 'state')} must be what add_angles or add_influences returns, with one total, got "
                f"{tuple(total.shape)}. For example scores.add_angles(None, inputs, outputs)."
            )
        if not counts.get(name):
            raise ValueError(f"{_read.place(name, 'state')} must hold a hidden state at least, got none.")
    return each(lambda total, count: total / count, state.total, state.count)


def _add(state: Distances | None, inputs: Any, outputs: Any, far: Any) -> Distances:
    _pairs(inputs, outputs)
    totals = each(lambda x, y: far(_cosines(x, y)).sum(), inputs, outputs)
    counts = each(lambda x: x[..., 0].numel(), inputs)
    return Distances(*added(state, totals, counts, "inputs"))


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    """In float64: near 1, where blocks that do little are, arccos takes 1e-7 for an angle of 4e-4."""
    return cosine_similarity(x.detach().double(), y.detach().double(), dim=-1, eps=1e-300).clamp(-1, 1)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _pairs(inputs: Any, outputs: Any) -> None:
    before, after = _read.inexact(inputs, "inputs"), _read.inexact(outputs, "outputs")
    _read.same_form(outputs, inputs, "outputs", "inputs")
    _read.same_names(after, before, "outputs", "inputs")
    for name, value in before.items():
        places = _read.place(name, "outputs"), _read.place(name, "inputs")
        _read.same_shape(after[name], value, *places)
        _read.same_device(after[name], value, *places, "outputs")
        if not value.dim() or not value.shape[-1]:
            raise ValueError(f"{places[1]} must have features along its last dim, got shape {tuple(value.shape)}.")
        for tensor, place in zip((after[name], value), places):
            _read.is_whole(tensor, place)
            if tensor.is_complex():
                raise TypeError(f"{place} must be real, got {tensor.dtype}. Pass torch.view_as_real(x).flatten(-2).")
