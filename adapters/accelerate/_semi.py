"""2:4 sparsity on the tensor cores of NVIDIA."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._layers import matrix_of


class TwoOfFour(nn.Module):
    """A linear layer of which two of four neighbours in each row are zero, run by kernels that skip these.

        y = x @ W.T + b

    It holds its dense weight, which loads anywhere, and packs it when it is first run on CUDA. Elsewhere, and where
    gradients are asked for, it multiplies by the dense one. Weight and bias are buffers: the layer is frozen.

    Args:
        layer: `nn.Linear`, or `Conv1D` of transformers.

    >>> TwoOfFour(nn.Linear(4, 2))(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """

    halved: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        bias: Any = layer.bias
        self.register_buffer("halved", matrix_of(layer).contiguous())  # a name that tells a state from a dense one
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.out_features, self.in_features = self.halved.shape
        self._packed: tuple[Any, int, Tensor] | None = None
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """The weight, of shape (out, in), with its zeros."""
        return self.halved

    def forward(self, input: Tensor) -> Tensor:
        """Multiply (..., in) into (..., out)."""
        dense = not input.is_cuda or (torch.is_grad_enabled() and input.requires_grad)
        return functional.linear(input, self.weight if dense else self.packed(), self.bias)

    def packed(self) -> Tensor:
        """The weight as the kernels take it, packed anew when it has changed."""
        weight = self.weight
        if self._packed is None or self._packed[0] is not weight or self._packed[1] != weight._version:
            self._packed = weight, weight._version, pack(weight)
        return self._packed[2]

    def extra_repr(self) -> str:
        """What is printed between the brackets."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles pack anew."""
        return {**self.__dict__, "_packed": None}


def pack(weight: Tensor) -> Tensor:
    """A tensor of torch's for 2:4 sparsity; it says that they are a prototype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.sparse.to_sparse_semi_structured(weight)


def is_two_of_four(matrix: Tensor) -> bool:
    """Whether at most two of four neighbours in each row are alive."""
    return matrix.shape[1] % 4 == 0 and bool((matrix.unflatten(1, (-1, 4)) != 0).sum(-1).le(2).all())
