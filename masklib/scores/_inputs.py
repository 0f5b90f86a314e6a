"""Scores that need the inputs of layers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _check
from masklib._names import TensorsT, each, like, named
from masklib.scores._weights import at_least_float32


class InputNorms(NamedTuple):
    """Sums of the squares of each input feature."""

    total: Any


def add_inputs(state: InputNorms | None, inputs: TensorsT) -> InputNorms:
    """Add the squares of a batch of inputs, feature by feature.

    Args:
        state: what was added so far; None for nothing.
        inputs: of shape (..., features), a tensor or a mapping by the names of the layers' weights.

    Returns:
        The new state: sums of shape (features,), in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor.
        ValueError: if names or numbers of features are not those added before.

    >>> scores.add_inputs(None, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    InputNorms(total=tensor([10.,  4.]))
    """
    _check.inexact(inputs, "inputs")
    squares = each(_squares, inputs)
    if state is None:
        return InputNorms(squares)
    _check.same_names(named(squares), named(state.total), "inputs", "state")
    for name, sums in named(squares).items():
        _check.same_shape(sums, named(state.total)[name], f"the features of {_check.place(name, 'inputs')}", "`state`")
    return InputNorms(each(torch.add, state.total, squares))


def _squares(inputs: Tensor) -> Tensor:
    features = torch.atleast_2d(inputs.detach()).flatten(0, -2)
    return (features.abs().to(at_least_float32(inputs)) ** 2).sum(0)


class Hessian(NamedTuple):
    """The curvature of a layer's squared error, and over how many inputs."""

    value: Any
    inputs: Any


def add_hessian(state: Hessian | None, inputs: TensorsT) -> Hessian:
    """Add a batch of inputs to the Hessian of a linear layer's squared error.

        H = 2 / n * sum of x x^T

    Args:
        state: what was added so far; None for nothing.
        inputs: of shape (..., features), a tensor or a mapping by the names of the layers' weights.

    Returns:
        The new state; `value` is H, of shape (features, features), in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor.
        ValueError: if names or numbers of features are not those added before.

    >>> scores.add_hessian(None, torch.tensor([[1.0, 2.0], [3.0, 0.0]])).value
    tensor([[10.,  2.],
            [ 2.,  4.]])

    Reference: Frantar and Alistarh, "SparseGPT", 2023, section 3.1.
    """
    _check.inexact(inputs, "inputs")
    rows = each(lambda x: torch.atleast_2d(x.detach()).flatten(0, -2).to(at_least_float32(x)), inputs)
    count, products = each(len, rows), each(lambda x: 2 * x.T @ x, rows)
    if state is None:
        return Hessian(each(lambda total, n: total / n, products, count), count)
    _check.same_names(named(products), named(state.value), "inputs", "state")
    for name, product in named(products).items():
        _check.same_shape(product, named(state.value)[name], f"the square of {_check.place(name, 'inputs')}", "`state`")
    counts = each(lambda n, m: n + m, state.inputs, count)
    value = each(lambda h, n, total, all: (h * n + total) / all, state.value, state.inputs, products, counts)
    return Hessian(value, counts)


def wanda(params: TensorsT, state: InputNorms) -> TensorsT:
    """Score each element by its magnitude times the norm of the input that it weighs.

        S(i, j) = abs(W(i, j)) * norm(X(j))

    The paper compares within each output: `groups=rows()`.

    Args:
        params: weights of shape (out, in, ...), a tensor or a mapping by name; kernel dims share the norm of their
            input channel.
        state: squared input norms of shape (in,), with the same names.

    Returns:
        Scores of the weights' shapes, in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor.
        ValueError: if names disagree, or a weight has not as many inputs as there are norms.

    >>> state = scores.add_inputs(None, torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    >>> scores.wanda(torch.tensor([[1.0, -3.0]]), state)
    tensor([[5., 6.]])

    Reference: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023, equation 1.
    """
    weights, norms = _check.inexact(params, "params"), named(state.total)
    _check.same_names(norms, weights, "state", "params")
    for name, norm in norms.items():
        _check.one_a_channel(norm, weights[name], 1, _check.place(name, "state"), _check.place(name, "params"))
    return each(_wanda, params, like(params, norms))


def _wanda(weight: Tensor, squares: Tensor) -> Tensor:
    norms = squares.sqrt().view(-1, *[1] * (weight.dim() - 2))
    return weight.detach().abs().to(at_least_float32(weight, squares)) * norms
