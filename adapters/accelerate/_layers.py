"""Layers whose weights are held sparse, in plain tensors."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklib import _read

from .._module.values import a_module
from .._module.weights import is_conv1d
from ._product import by_columns, by_rows, compressed, product, sparse_linear

# torch says once in a process that its sparse tensors are in beta, where the first is made; torch 2.11 also says then
# that it does not check them. Whoever loads one of these layers has not asked for that.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], torch.zeros(0, device="cpu"), (1, 1), device="cpu", check_invariants=False)

_PARTS = ("crow_indices", "col_indices", "values")


class SparseLinear(nn.Module):
    """A linear layer that multiplies by what is alive in its weight only.

        y = x @ W.T + b

    The weight is held compressed by rows (CSR), or by rows of blocks (BSR), in three buffers, the bias in a fourth. No
    parameters are left: the layer is frozen. Gradients go through it to its inputs; torch has no gradients of products
    with blocks, so that calls which ask for them multiply by the dense weight.

    Args:
        layer: `nn.Linear`, `Conv1D` of transformers, or what runs as one of them.
        block: the side of the blocks, which divides both sides of the weight; None for single elements.
        rows_first: the order of the product, `x @ W.T` if true, else `(W @ x.T).T`. The results are the same.

    >>> layer = nn.Linear(4, 2, bias=False)
    >>> layer.weight.data = torch.tensor([[0.0, 0.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    >>> SparseLinear(layer), SparseLinear(layer)(torch.ones(4))
    (SparseLinear(in_features=4, out_features=2, alive=25.00%, bias=False), tensor([2., 1.]))
    """

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Module, *, block: int | None = None, rows_first: bool = False) -> None:
        super().__init__()
        _read.is_dense(getattr(a_module(layer, "layer"), "weight", None), "", "layer.weight")
        matrix = matrix_of(layer)
        self.out_features, self.in_features = matrix.shape
        self.rows_first = rows_first
        self._held: tuple[list[int], Tensor] | None = None
        for name, tensor in zip(_PARTS, _compressed(matrix, block)):
            self.register_buffer(name, tensor)
        bias: Any = layer.bias
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """The weight, of shape (out, in), as a sparse tensor of torch that shares the memory of the buffers.

        It is made anew when they are elsewhere. Made for each call, products took 10 to 90 us longer.
        """
        places = [self._buffers[name].data_ptr() for name in _PARTS]  # type: ignore[union-attr]
        if self._held is None or self._held[0] != places:
            self._held = places, self._matrix(checked=False)
        return self._held[1]

    def _matrix(self, checked: bool) -> Tensor:
        parts = (self.crow_indices, self.col_indices, self.values)
        return compressed(*parts, (self.out_features, self.in_features), checked=checked)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply (..., in) into (..., out)."""
        rows = input.reshape(-1, self.in_features)
        if torch.compiler.is_compiling():
            made = self._in_graph(rows)
        else:
            made = product(self._for(input), rows, self.bias, rows_first=self.rows_first)
        return made.view(*input.shape[:-1], self.out_features)

    def _in_graph(self, rows: Tensor) -> Tensor:
        """The product as one operator, which makes its sparse weight anew at each call."""
        parts = (self.crow_indices, self.col_indices, self.values)
        return sparse_linear(rows, *parts, self.bias, self.out_features, self.rows_first)

    def _for(self, x: Tensor) -> Tensor:
        """The weight for these inputs: the dense one where torch has no gradient."""
        asked = torch.is_grad_enabled() and x.requires_grad
        return self.weight.to_dense() if asked and self.values.dim() > 1 else self.weight

    def extra_repr(self) -> str:
        """What is printed between the brackets."""
        alive = self.values.numel() / max(self.out_features * self.in_features, 1)
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        block = f", block={self.values.shape[1]}" if self.values.dim() > 1 else ""
        return f"{sizes}, alive={alive:.2%}{block}, bias={self.bias is not None}"

    # ---- saved and loaded -------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the buffers alone: torch copies no sparse tensors."""
        return {**self.__dict__, "_held": None}

    def get_extra_state(self) -> Tensor:
        """The order of the product, as a tensor, so that any format of files can hold it."""
        return torch.tensor([int(self.rows_first)], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the order of the product."""
        if not isinstance(state, Tensor) or state.numel() != 1 or state.is_meta:
            raise ValueError(f"`state` of a sparse layer must hold the order as a tensor of one number, got {state!r}.")
        self.rows_first = bool(state)

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        """Take over as many entries as there are; what would make torch read beyond its memory is refused."""
        for name in _PARTS:
            here, there = getattr(self, name), state.get(prefix + name)
            if isinstance(there, Tensor) and (there.shape, there.dtype) != (here.shape, here.dtype):
                dtype = here.dtype if name == "values" else there.dtype
                setattr(self, name, here.new_empty(there.shape, dtype=dtype))
        super()._load_from_state_dict(state, prefix, *args)
        try:
            self._matrix(checked=True)
        except RuntimeError as error:
            args[-1].append(f"{prefix or 'the layer'} is no sparse matrix: {str(error).splitlines()[0]}")


class SparseConv(SparseLinear):
    """A convolution in one or two dims as products with what is alive in its kernel.

        y = W @ unfolded(x) + b,   image by image, or (unfolded(x).T @ W.T).T + b over all of them

    See `SparseLinear` for what it holds and for gradients.

    Args:
        layer: `nn.Conv1d` or `nn.Conv2d` with one group.
        block, rows_first: as for `SparseLinear`, of the kernel as a matrix (out, in * kernel).

    >>> SparseConv(nn.Conv2d(3, 8, 1))(torch.ones(2, 3, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    def __init__(self, layer: Any, *, block: int | None = None, rows_first: bool = False) -> None:
        super().__init__(layer, block=block, rows_first=rows_first)
        self.sides = len(layer.kernel_size)
        first = (0,) * (2 - self.sides)  # of an image of one row
        self.kernel_size, self.stride, self.dilation = (
            tuple(1 for _ in first) + tuple(given) for given in (layer.kernel_size, layer.stride, layer.dilation)
        )
        self.padding = tuple(layer._reversed_padding_repeated_twice)
        self.padding_mode = layer.padding_mode

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, in, ...), or (in, ...), into as many dims of `out` channels."""
        images = input if input.dim() > self.sides + 1 else input[None]
        columns, sizes = self._unfolded(images)
        made = self._convolved(columns, input).view(images.shape[0], self.out_features, *sizes)
        return made if input.dim() > self.sides + 1 else made[0]

    def _convolved(self, columns: Tensor, input: Tensor) -> Tensor:
        """Columns (batch, in * kernel, places) by the kernel: (batch, out, places)."""
        compiling = torch.compiler.is_compiling()
        weight = self.values if compiling else self._for(input)
        if not (compiling or self.rows_first or weight.layout == torch.strided):
            return torch.stack([by_columns(weight, each, self.bias) for each in columns])
        rows = columns.transpose(1, 2).reshape(-1, self.in_features)
        made = self._in_graph(rows) if compiling else by_rows(weight, rows, self.bias)
        return made.view(columns.shape[0], -1, self.out_features).transpose(1, 2).contiguous()

    def _unfolded(self, images: Tensor) -> tuple[Tensor, list[int]]:
        """What the kernel sees at each place, (batch, in * kernel, places), and how the places lie."""
        if any(self.padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            images = functional.pad(images, self.padding, mode)
        images = images if self.sides == 2 else images.unsqueeze(2)
        reach = [(k - 1) * gap for k, gap in zip(self.kernel_size, self.dilation)]
        sizes = [(n - r - 1) // step + 1 for n, r, step in zip(images.shape[2:], reach, self.stride)]
        if max(*self.kernel_size, *self.stride) == 1:
            return images.flatten(2), sizes[-self.sides :]
        columns = functional.unfold(images, self.kernel_size, self.dilation, 0, self.stride)
        return columns, sizes[-self.sides :]


def matrix_of(layer: Any) -> Tensor:
    """The weight of a layer as (out, in); `Conv1D` of transformers holds (in, out)."""
    weight = layer.weight.detach()
    return weight.T if is_conv1d(layer) else weight.flatten(1)


def _compressed(matrix: Tensor, block: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values. With indices of 32 bits, which MKL works with, products take 40 to 90 % of the time."""
    side = None if block is None else _side(block, matrix)
    sparse = matrix.to_sparse_csr() if side is None else matrix.to_sparse_bsr((side, side))
    index = torch.int32 if matrix.numel() < 2**31 else torch.int64
    return sparse.crow_indices().to(index), sparse.col_indices().to(index), sparse.values().clone()


def _side(block: Any, matrix: Tensor) -> int:
    """Read the side of blocks."""
    side = _read.integer(block, "block", "block=16")
    if side < 1 or any(size % side for size in matrix.shape):
        raise ValueError(f"`block` must divide both sides of {tuple(matrix.shape)}, got {side}. For example block=1.")
    return side
