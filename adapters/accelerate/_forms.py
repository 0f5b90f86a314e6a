"""What a layer could become, and why it could not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._module.weights import is_conv1d
from ._layers import SparseConv, SparseLinear, matrix_of
from ._semi import TwoOfFour, is_two_of_four

Forms = dict[str, Callable[[nn.Module], nn.Module]]

# Blocks that MKL has kernels for: with sides of 4 and 8 a product took a hundred times as long as a dense one.
_BLOCKS = (16, 32)
# The largest share of live entries (of live blocks) that is timed. Of 1024 x 1024 and 4096 x 1024 with 1 and 8 inputs
# the best form was 1.24 times as fast as dense at 50 %, 1.16 at 60 %, 0.95 at 70 % and 0.93 at 80 %.
_ALIVE = 2 / 3


def no_layer(module: nn.Module) -> str | None:
    """Why a module with weights has no sparse form; None if it has one. The code that it runs counts, not its class."""
    if isinstance(module, torch.jit.ScriptModule):
        return "torch.jit has compiled it"
    runs = type(module).forward
    if runs is nn.Linear.forward or is_conv1d(module):
        return None
    if runs not in (nn.Conv1d.forward, nn.Conv2d.forward):
        return f"{type(module).__name__} has no sparse form"
    return None if module.groups == 1 else "its channels are in groups"


def alive(matrix: Tensor) -> float:
    """The share that is not zero."""
    return float((matrix != 0).sum()) / max(matrix.numel(), 1)


def forms_of(layer: nn.Module) -> tuple[Forms, dict[str, str]]:
    """What makes the forms that could be faster, and why the others could not be, by name."""
    matrix, sparse = matrix_of(layer), _class_of(layer)
    forms: Forms = {}
    untried: dict[str, str] = {}
    for block in (None, *_BLOCKS):
        name = "csr" if block is None else f"bsr{block}"
        why = _not_sparse(matrix, block)
        if why is None:
            forms[f"{name} @ x.T"] = partial(sparse, block=block)
            forms[f"x @ {name}.T"] = partial(sparse, block=block, rows_first=True)
        else:
            untried[name] = why
    why = _not_two_of_four(layer, matrix)
    if why is None:
        forms["2:4"] = TwoOfFour
    else:
        untried["2:4"] = why
    return forms, untried


def as_sparse(layer: nn.Module, half: bool) -> nn.Module:
    """A layer to load another one's state into."""
    return TwoOfFour(layer) if half else _class_of(layer)(layer)


def _class_of(layer: nn.Module) -> Any:
    return SparseConv if isinstance(layer, nn.modules.conv._ConvNd) else SparseLinear


def _not_sparse(matrix: Tensor, block: int | None) -> str | None:
    """Why a matrix is not timed in this form."""
    what = "it is"
    if block is not None:
        if any(side % block for side in matrix.shape):
            return f"{block} does not divide both sides of its weight"
        rows, columns = (side // block for side in matrix.shape)
        matrix, what = matrix.view(rows, block, columns, block).abs().amax((1, 3)), "its blocks are"
    share = alive(matrix)
    return None if share <= _ALIVE else f"{what} more than two thirds alive"


def _not_two_of_four(layer: nn.Module, matrix: Tensor) -> str | None:
    if not matrix.is_cuda:
        return "its kernels are for CUDA"
    if isinstance(layer, nn.modules.conv._ConvNd):
        return "its kernels are for linear layers"
    return None if is_two_of_four(matrix) else "it is not 2:4"
