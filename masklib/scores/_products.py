"""Scores that weigh a weight by its row and its column: relative importance, and curvature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import TensorsT, each
from masklib.scores._common import at_least_float32, spread
from masklib.scores._inputs import InputNorms, norms_of


def ria(params: TensorsT, state: InputNorms, *, dim: int = 1, power: float = 0.5) -> TensorsT:
    """Score each element by its share of its row and of its column, times a power of the norm of its input.

        S(i, j) = (abs(W(i, j)) / sum of abs(W(:, j)) + abs(W(i, j)) / sum of abs(W(i, :))) * norm(X(j))**power

    No row and no column is emptied because all its weights are small. Zeros score zero. All of a row and of a column
    with NaN scores NaN.

    Args:
        params: weights, a tensor or a mapping by name; each kernel position is a column of its own, and shares the norm
            of its input channel.
        state: squared input norms of shape (in,), with the same names.
        dim: the dim of the weights that runs over the inputs: 1 for (out, in, ...), 0 for (in, out).
        power: how much the inputs count; 0 not at all.

    Returns:
        Scores of the weights' shapes, in float32 at least.

    Raises:
        TypeError: if a weight is not floating, `power` not a number, or the state is none.
        ValueError: if names disagree, a weight has not as many inputs as there are norms, or fewer than two dims, or
            `power` is negative or not finite.
        IndexError: if a weight has no such dim.

    >>> state = scores.add_input_norms(None, torch.tensor([[4.0, 1.0]]))
    >>> scores.ria(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), state)
    tensor([[1.5000, 1.5000],
            [2.0000, 0.7500]])

    Reference: Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", 2024,
    equation 3.
    """
    along, exponent = _read.integer(dim, "dim", "dim=1"), _power(power)
    _refuse_vectors(params)
    norms = norms_of(state, params, "state", lambda _: along)
    return each(lambda w, squares: _ria(w.detach(), squares, along, exponent), params, norms)


def _ria(weight: Tensor, squares: Tensor, dim: int, power: float) -> Tensor:
    sizes = weight.abs().to(at_least_float32(weight, squares))
    out = _outputs(weight, dim)
    others = [d for d in range(weight.dim()) if d != out]
    shares = _share(sizes, sizes.sum(out, keepdim=True)) + _share(sizes, sizes.sum(others, keepdim=True))
    return shares * spread(squares.sqrt() ** power, weight, dim)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, 0, part / whole)  # a NaN stays one


def _outputs(weight: Tensor, dim: int) -> int:
    """The dim that runs over the outputs, beside that of the inputs."""
    return 1 if dim % weight.dim() == 0 else 0


def curvature(params: TensorsT, state: InputNorms, grads: InputNorms, *, dim: int = 1) -> TensorsT:
    """Score each element by the loss's second-order change without it, by the factored Fisher information.

        S(i, j) = W(i, j)**2 * E[g(i)**2] * E[x(j)**2] / 2,   g the gradient of the loss at the layer's outputs

    Elements of different layers compare: `budgets.pooled` shares one sparsity out by it.

    Args:
        params: weights, a tensor or a mapping by name; kernel dims share the numbers of their channels.
        state: squares of the layers' inputs, of shape (in,), as `add_input_norms` returns them.
        grads: squares of the gradients at their outputs, of shape (out,), from the same function.
        dim: the dim of the weights that runs over the inputs: 1 for (out, in, ...), 0 for (in, out).

    Returns:
        Scores of the weights' shapes, in float32 at least.

    Raises:
        TypeError: if a weight is not floating, or a state is none.
        ValueError: if names or lengths disagree, a weight has fewer than two dims, or nothing was added to a state.
        IndexError: if a weight has no such dim.

    >>> inputs, grads = torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[2.0], [0.0]])
    >>> both = (scores.add_input_norms(None, x) for x in (inputs, grads))
    >>> scores.curvature(torch.tensor([[3.0, 1.0]]), *both)
    tensor([[9., 2.]])

    Reference: Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", 2015,
    section 3; LeCun et al., "Optimal Brain Damage", 1990, equation 5.
    """
    along = _read.integer(dim, "dim", "dim=1")
    _refuse_vectors(params)
    inputs = norms_of(state, params, "state", lambda _: along)
    outputs = norms_of(grads, params, "grads", lambda weight: _outputs(weight, along))
    counts = each(_product, state.count, grads.count)
    return each(lambda w, x, g, n: _curvature(w.detach(), x, g, n, along), params, inputs, outputs, counts)


def _curvature(weight: Tensor, inputs: Tensor, grads: Tensor, count: int, dim: int) -> Tensor:
    squares = weight.abs().to(at_least_float32(weight, inputs, grads)) ** 2
    out = _outputs(weight, dim)
    return squares * spread(inputs, weight, dim) * spread(grads, weight, out) / (2 * count)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _product(inputs: int, grads: int) -> int:
    for argument, count in (("state", inputs), ("grads", grads)):
        if count < 1:
            raise ValueError(f"`{argument}` must hold what passed through the layer, got {count} inputs. Add some.")
    return inputs * grads


def _refuse_vectors(params: Any) -> None:
    for name, weight in _read.inexact(params, "params").items():
        _read.is_whole(weight, _read.place(name, "params"))
        if weight.dim() < 2:
            raise ValueError(
                f"{_read.place(name, 'params')} must have two dims or more, got shape {tuple(weight.shape)}: a bias "
                "has no rows and columns. Leave it out, for example by select(params, lambda name, p: p.dim() > 1)."
            )


def _power(value: Any) -> float:
    number = _read.real(value, "power", "a number that is not negative", "power=0.5")
    if not 0 <= number < float("inf"):
        raise ValueError(f"`power` must be finite and not negative, got {value!r}. For example power=0.5.")
    return number
