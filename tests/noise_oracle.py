"""The documented noise in slow, plain Python integers."""

from __future__ import annotations

GOLDEN = 0x9E3779B97F4A7C15
ELEMENTS, ITEMS = 0, 1


def mix(x: int) -> int:
    """The finalizer of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def fnv1a(name: str) -> int:
    """The 64-bit FNV-1a hash."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def noise(key: int, name: str, stream: int, i: int) -> int:
    """The documented hash of (key, name, stream, index) as an int64."""
    seed = mix(mix((key + (1 + stream) * GOLDEN) % 2**64) ^ fnv1a(name))
    value = mix((seed + (i + 1) * GOLDEN) % 2**64)
    return value - 2**64 if value >= 2**63 else value
