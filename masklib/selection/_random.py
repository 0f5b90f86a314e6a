"""Counter-based noise: the same 64 bits for the same (key, name, index) on every device, in any order.

With all arithmetic modulo 2**64,

    seed     = mix(mix(key + (1 + stream) * GOLDEN) ^ fnv1a(name))
    noise[i] = mix(seed + (i + 1) * GOLDEN)

where `mix` is the finalizer of SplitMix64, `fnv1a` the 64-bit FNV-1a hash of the name's UTF-8 bytes, `i` the flat
row-major index, and `stream` 0 for elements and 1 for items. For one seed `noise` is a bijection of the index: no ties.

Reference: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014; Fowler, Noll, Vo, FNV-1a.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from masklib.selection._streamed import Streamed
from masklib.selection._threads import threaded

ELEMENTS, ITEMS = 0, 1
GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_MASK = 2**64 - 1
_CHUNK = 2**16


def _fnv1a(name: str) -> int:
    """The 64-bit FNV-1a hash of a name."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & _MASK
    return state


def _mix(state: int) -> int:
    """The finalizer of SplitMix64 on a Python int."""
    for shift, factor in _ROUNDS:
        state = (state ^ state >> shift) * factor & _MASK
    return state ^ state >> _LAST_SHIFT


def _logical_shift(state: Tensor, shift: int) -> Tensor:
    return (state >> shift).bitwise_and_((1 << (64 - shift)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    return (value + 2**63) % 2**64 - 2**63


def noise(key: Tensor, name: str, stream: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Noise of a shape as int64."""
    seed, size = _seed(int(key), name, stream), math.prod(shape)
    return (run(seed, 0, size) if device.type == "cpu" else _on_device(seed, size, device)).view(list(shape))


def noise_like(tensor: Tensor, key: Tensor, name: str) -> Tensor:
    """Noise of a tensor that is read in runs, which is read in runs too."""
    seed = _seed(int(key), name, ELEMENTS)
    return Streamed(tensor.shape, torch.int64, lambda start, stop, _: run(seed, start, stop - start))


def noise_at(key: Tensor, name: str, stream: int, index: Tensor) -> Tensor:
    """The noise of some indices, as int64 of their shape."""
    return _mixed((index + 1).mul_(_signed(GOLDEN)).add_(_signed(_seed(int(key), name, stream))))


def _seed(key: int, name: str, stream: int) -> int:
    return _mix(_mix((key + (1 + stream) * GOLDEN) & _MASK) ^ _fnv1a(name))


def run(seed: int, first: int, size: int) -> Tensor:
    """In numpy, whose unsigned integers shift in logical zeros, and in as many threads as torch has."""
    result = np.empty(size, np.uint64)

    def share(starts: Sequence[int]) -> None:
        steps = np.arange(1, _CHUNK + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        shifted = np.empty_like(steps)
        for start in starts:
            state = result[start : start + _CHUNK]
            scratch = shifted[: state.size]
            np.add(steps[: state.size], np.uint64(seed + (first + start) * GOLDEN & _MASK), out=state)
            for shift, factor in _ROUNDS:
                np.bitwise_xor(state, np.right_shift(state, np.uint64(shift), out=scratch), out=state)
                np.multiply(state, np.uint64(factor), out=state)
            np.bitwise_xor(state, np.right_shift(state, np.uint64(_LAST_SHIFT), out=scratch), out=state)

    threaded(share, range(0, size, _CHUNK), size)
    return torch.from_numpy(result.view(np.int64))


def _on_device(seed: int, size: int, device: torch.device) -> Tensor:
    """In torch, whose int64 products wrap."""
    return _mixed(torch.arange(1, size + 1, device=device).mul_(_signed(GOLDEN)).add_(_signed(seed)))


def _mixed(state: Tensor) -> Tensor:
    """The finalizer of SplitMix64 in place."""
    for shift, factor in _ROUNDS:
        state.bitwise_xor_(_logical_shift(state, shift)).mul_(_signed(factor))
    return state.bitwise_xor_(_logical_shift(state, _LAST_SHIFT))
