"""Cache-sized pieces of tensors in logical order, read as numpy arrays of one dtype.

Comparisons, counts and partitions run in numpy, whose kernels are several times faster than torch's on this work and
release the interpreter lock. Tensors that numpy cannot compare as they stand (other layouts, 16-bit floats, mixed
dtypes) are converted piece by piece, in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
Piece = Any  # an Array that can be read as it stands, else a Tensor to convert

CHUNK = 2**18  # a piece, its magnitudes and three masks stay in a cache of 2 MB; 2**16 is 5 % slower, 2**19 15 %
_PAGE = 2**12  # bytes; neighbours so far apart are first brought together in the order of memory
_ALONE = 2**15 - 1  # torch works on so many elements in the calling thread
NUMPY = {
    getattr(torch, name): np.dtype(name)
    for name in ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
}
_BITS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # torch takes none of these
_UNSIGNED = {"i1": "u1", "i2": "u2", "i4": "u4", "i8": "u8"}


def pieces(tensor: Tensor, dtype: torch.dtype, flat: bool) -> list[Piece]:
    """Split into pieces of at most CHUNK elements in logical order; `flat` if that is the order in memory."""
    if not flat:
        return list(_slabs(tensor))
    if tensor.dtype != dtype:
        return list(tensor.reshape(-1).split(CHUNK))
    array = tensor.numpy().reshape(-1)
    return [array[i : i + CHUNK] for i in range(0, array.size, CHUNK)]


def _slabs(tensor: Tensor) -> Iterator[Tensor]:
    """Views of at most CHUNK elements whose concatenation is the flattened tensor."""
    inner = tensor[:1].numel() if tensor.dim() else 1
    if tensor.numel() <= CHUNK:
        yield tensor
    elif inner <= CHUNK:
        yield from tensor.split(CHUNK // inner)
    else:
        for index in tensor:
            yield from _slabs(index)


def size(piece: Piece) -> int:
    """The number of elements of a piece."""
    return piece.size if isinstance(piece, np.ndarray) else piece.numel()


def every(piece: Piece, start: int, stride: int) -> Piece:
    """Each `stride`-th element of a piece in logical order; of another layout without copying it."""
    if isinstance(piece, np.ndarray):
        return piece[start::stride]
    bits = _BITS.get(piece.dtype, piece.dtype)
    return piece.view(bits).take(torch.arange(start, max(start, piece.numel()), stride, device="cpu")).view(piece.dtype)


def flags(piece: Piece | None) -> Any:
    """A piece of a mask as a flat array, None being all True."""
    return piece if piece is None or isinstance(piece, np.ndarray) else piece.reshape(-1).numpy()


def reader(dtype: torch.dtype, by_magnitude: bool, scratch: Array) -> Callable[[Piece], Array]:
    """A function from a piece to its values (their magnitudes), flat; they may be in the scratch until it reads again.

    Magnitudes of signed integers are unsigned, so that the least one does not wrap.
    """
    room = scratch.view(NUMPY[dtype])

    def read(piece: Piece) -> Array:
        values = piece
        if not isinstance(piece, np.ndarray):
            values = room[: piece.numel()]
            far = piece.dim() > 1 and piece.stride(-1) * piece.element_size() >= _PAGE
            copy(piece.clone() if far else piece, torch.from_numpy(values).view(piece.shape))
        return magnitudes(values, room[: values.size]) if by_magnitude else values

    return read


def copy(piece: Tensor, target: Tensor) -> None:
    """Convert in parts too small for torch to call threads of its own, inside of which ours would wait for them."""
    if piece.dim() != 1:
        target.copy_(piece)
        return
    for part, to in zip(piece.split(_ALONE), target.split(_ALONE)):
        to.copy_(part)


def magnitudes(values: Array, out: Array | None = None) -> Array:
    """Absolute values; those of signed integers as unsigned ones."""
    sizes = np.abs(values, out=out)
    unsigned = _UNSIGNED.get(sizes.dtype.str[1:])
    return sizes.view(unsigned) if unsigned else sizes


def empty_mask(scores: Tensor) -> Tensor:
    """A mask to write; numpy asks for huge pages, which halves the time of the first write."""
    return torch.from_numpy(np.empty(scores.shape, bool))
