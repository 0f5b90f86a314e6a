"""Scores that need the inputs of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _read
from masklib._names import TensorsT, each, like, named
from masklib._shards._channels import whole
from masklib._shards._parts import on_part
from masklib.scores._common import added, at_least_float32, no_autocast, one_a_channel, spread, total_of


class InputNorms(NamedTuple):
    """Sums of the squares of each input feature. Each field is one value, or values by name."""

    total: Any  # (features,), float32 at least: the sum of abs(x)**2
    count: Any  # int: how many inputs x


def add_input_norms(state: InputNorms | None, inputs: TensorsT) -> InputNorms:
    """Add the squares of a batch of inputs, feature by feature.

        total += sum of abs(x)**2,   count += how many x

    Args:
        state: what was added so far; None for nothing.
        inputs: real or complex, of shape (..., features), a tensor or a mapping by the names of the layers' weights.
            There may be none: (0, features).

    Returns:
        The new state: sums of shape (features,), in float32 at least.

    Raises:
        TypeError: if the inputs are not floating, or the state is none.
        ValueError: if names or numbers of features are not those added before.

    >>> scores.add_input_norms(None, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    InputNorms(total=tensor([10.,  4.]), count=2)
    """
    rows = each(_rows, _floating(inputs))
    return InputNorms(*added(state, each(_squares, rows), each(len, rows), "inputs"))


def _squares(rows: Tensor) -> Tensor:
    return (rows.abs() ** 2).sum(0)


class Hessian(NamedTuple):
    """Sums of the outer products of inputs: the curvature of a linear layer's squared error, but for a factor.

    Each field is one value, or values by name.
    """

    total: Any  # (features, features), float32 or complex64 at least: the sum of x x^H
    count: Any  # int: how many inputs x


def add_hessian(state: Hessian | None, inputs: TensorsT) -> Hessian:
    """Add the outer products of a batch of inputs, from which the Hessian of a linear layer's squared error is made.

        total += sum of x x^H,   count += how many x

    The Hessian of the mean squared error is 2 / count * total; `sparsegpt` applies that factor.

    Args:
        state: what was added so far; None for nothing.
        inputs: real or complex, of shape (..., features), a tensor or a mapping by the names of the layers' weights.
            There may be none: (0, features).

    Returns:
        The new state: sums of shape (features, features), in float32 at least.

    Raises:
        TypeError: if the inputs are not floating, or the state is none.
        ValueError: if names or numbers of features are not those added before.

    >>> scores.add_hessian(None, torch.tensor([[1.0, 2.0], [3.0, 0.0]])).total
    tensor([[10.,  2.],
            [ 2.,  4.]])

    Reference: Frantar and Alistarh, "SparseGPT", 2023, section 3.1.
    """
    rows = each(_rows, _floating(inputs))
    with no_autocast(rows):
        products = each(lambda x: x.T @ x.conj(), rows)
    return Hessian(*added(state, products, each(len, rows), "inputs"))


def wanda(params: TensorsT, state: InputNorms, *, dim: int = 1) -> TensorsT:
    """Score each element by its magnitude times the norm of the input that it weighs.

        S(i, j) = abs(W(i, j)) * norm(X(j))

    The paper compares within each output: `groups=rows()`.

    Args:
        params: weights, a tensor or a mapping by name; kernel dims share the norm of their input channel.
        state: squared input norms of shape (in,), with the same names; of sharded weights those of all ranks' inputs.
        dim: the dim of the weights that runs over the inputs: 1 for (out, in, ...), 0 for the (in, out) of
            transformers' `Conv1D` and for transposed convolutions.

    Returns:
        Scores of the weights' shapes, in float32 at least.

    Raises:
        TypeError: if a weight is not floating, or the state is none.
        ValueError: if names disagree, a weight has not as many inputs as there are norms, or the norms of sharded
            weights differ from rank to rank.
        IndexError: if a weight has no such dim.

    >>> state = scores.add_input_norms(None, torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    >>> scores.wanda(torch.tensor([[1.0, -3.0]]), state), scores.wanda(torch.tensor([[1.0], [-3.0]]), state, dim=0)
    (tensor([[5., 6.]]), tensor([[5.],
            [6.]]))

    Reference: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, equation 1.
    """
    along = _read.integer(dim, "dim", "dim=1")
    norms = norms_of(state, params, "state", lambda _: along)
    return each(lambda w, squares: _wanda(w.detach(), squares, along), params, norms)


def norms_of(state: Any, params: Any, argument: str, dim: Callable[[Tensor], int]) -> Any:
    """The sums of a state, one for each index along a dim of each weight."""
    weights, totals = _read.inexact(params, "params"), named(total_of(state, argument))
    _read.same_form(state.total, params, argument, "params")
    _read.same_names(totals, weights, argument, "params")
    norms = whole(totals, weights, argument)
    for name, norm in norms.items():
        places = _read.place(name, argument), _read.place(name, "params")
        one_a_channel(norm, weights[name], dim(weights[name]), *places)
        _read.on_device(norm, weights[name], *places, argument)
    return like(params, norms)


def _wanda(weight: Tensor, squares: Tensor, dim: int) -> Tensor:
    dtype = at_least_float32(weight, squares)
    return on_part(lambda w, norms: w.abs().to(dtype) * norms, weight, spread(squares.sqrt(), weight, dim))


def _floating(inputs: Any) -> Any:
    for name, tensor in _read.inexact(inputs, "inputs").items():
        _read.is_whole(tensor, _read.place(name, "inputs"))
    return inputs


def _rows(inputs: Tensor) -> Tensor:
    """One row an input, in a dtype in which squares do not overflow: float32 or complex64 at least."""
    return torch.atleast_2d(inputs.detach()).flatten(0, -2).to(torch.promote_types(inputs.dtype, torch.float32))
