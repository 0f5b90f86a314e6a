"""Masks as bits: eight to a byte, the lowest bit first, each row from a byte of its own.

The layout is that of compressed-tensors. A mask of shape (a, b, c, ...) is packed as the matrix a x (b c ...), one of
one dimension as a single row: a convolution then takes a bit a weight, which rows of its last dim, of three, would not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """The matrix that a shape is packed as."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def packed_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of the bytes: rows x ceil(columns / 8)."""
    rows, columns = rows_and_columns(shape)
    return rows, -(-columns // 8)


def pack(mask: Tensor) -> Bytes:
    """Pack a bool mask on any device.

        byte[r, j] = sum over i < 8 of mask[r, 8 j + i] 2^i

    >>> pack(torch.tensor([True, False, True])).tolist()
    [[5]]
    """
    matrix = mask.detach().cpu().contiguous().numpy().reshape(rows_and_columns(tuple(mask.shape)))
    return np.packbits(matrix, axis=1, bitorder="little")


def unpack(data: Bytes, shape: tuple[int, ...]) -> Tensor:
    """Unpack bytes into a bool mask of a shape.

        unpack(pack(mask), mask.shape) = mask

    >>> unpack(pack(torch.tensor([True, False])), (2,))
    tensor([ True, False])
    """
    bits = np.unpackbits(data, axis=1, count=rows_and_columns(shape)[1], bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).view(shape)


def ones(data: Bytes) -> int:
    """Count the bits that are set."""
    return int(np.bitwise_count(data).sum(dtype=np.int64))


def padding_is_zero(data: Bytes, shape: tuple[int, ...]) -> bool:
    """Whether the bits behind the last column are zero, as `pack` leaves them."""
    used = rows_and_columns(shape)[1] % 8
    return not used or not np.any(data[:, -1] >> used)
