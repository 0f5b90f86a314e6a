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

import torch
from torch import Tensor

from masklib._op import op

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


def _mix_(state: Tensor) -> Tensor:
    """The same finalizer in place on int64, whose products wrap."""
    for shift, factor in _ROUNDS:
        state.bitwise_xor_(_logical_shift(state, shift)).mul_(_signed(factor))
    return state.bitwise_xor_(_logical_shift(state, _LAST_SHIFT))


def _logical_shift(state: Tensor, shift: int) -> Tensor:
    return (state >> shift).bitwise_and_((1 << (64 - shift)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    return (value + 2**63) % 2**64 - 2**63


def _fake(key: Tensor, name: str, stream: int, shape: Sequence[int], device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device=device)


@op("noise(Tensor key, str name, int stream, SymInt[] shape, Device device) -> Tensor", fake=_fake)
def noise(key: Tensor, name: str, stream: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Noise of a shape as int64, made in cache-sized chunks."""
    seed = _mix(_mix((int(key) + (1 + stream) * GOLDEN) & _MASK) ^ _fnv1a(name))
    result = torch.empty(math.prod(shape), dtype=torch.int64, device=device)
    for start in range(0, result.numel(), _CHUNK):
        chunk = result[start : start + _CHUNK]
        torch.arange(start + 1, start + 1 + chunk.numel(), out=chunk)
        _mix_(chunk.mul_(_signed(GOLDEN)).add_(_signed(seed)))
    return result.view(list(shape))
