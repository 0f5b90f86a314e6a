"""Hypothesis strategies: hostile scores in every dtype and layout, masks of every density, mappings by name.

Values are drawn as bytes that index a palette, so that a draw costs little and shrinks to few, simple values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

Shape = tuple[int, ...]
Shapes = Shape | SearchStrategy[Shape] | None

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DTYPES = FLOATS + INTEGERS
KIN = (FLOATS, FLOATS, INTEGERS, (torch.int8, torch.int32, torch.float32))  # what may be in one pool
KINDS = ("hostile", "few", "extreme", "many", "hostile", "small")  # of these, half are hostile or extreme
SUMMABLE = ("small", "few")  # whose sums float64 holds exactly, so that ties are ties in any order of adding
NAMES = ("w", "a.weight", "z", "a.bias", "b10", "b9")  # not in sorted order
SEEDS = st.integers(0, 2**32 - 1)
KEYS = st.integers(0, 9) | st.integers(-(2**63), 2**64 - 1)

# ---- shapes and values ----------------------------------------------------------------------------------------------


@st.composite
def shapes(draw: DrawFn, min_dims: int = 0, max_dims: int = 4, *, max_side: int = 5) -> Shape:
    """Draw shapes of tensors, one in ten without elements.

    Args:
        min_dims: the least number of dims; 0 is a scalar's.
        max_dims: the largest number of dims.
        max_side: the largest length of a dim.

    Returns:
        A strategy of tuples of ints.

    >>> find(shapes(), lambda shape: math.prod(shape) > 6)
    (2, 4)
    """
    side = st.integers(1, max_side) | st.integers(min(2, max_side), max_side)
    dims = draw(st.integers(min_dims, max_dims) | st.integers(max(min_dims, min(2, max_dims)), max_dims))
    shape = [draw(side) for _ in range(dims)]
    if dims and draw(st.integers(0, 9)) == 9:
        shape[draw(st.integers(0, dims - 1))] = 0
    return tuple(shape)


def _shape(draw: DrawFn, shape: Shapes) -> Shape:
    if isinstance(shape, SearchStrategy):
        return draw(shape)
    return draw(shapes()) if shape is None else tuple(shape)


@cache
def palette(dtype: torch.dtype, kind: str) -> Tensor:
    """Up to 256 values of a dtype, neighbours easily confused; sums of the small ones are exact in float64."""
    if kind == "few":
        return torch.tensor([1, 0, -0.0, 2] if dtype.is_floating_point else [1, 0, 2], dtype=dtype)
    info: Any = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    if kind == "small":
        return torch.tensor(sorted((x for x in range(-8, 9) if x >= info.min), key=abs), dtype=dtype)
    if not dtype.is_floating_point:  # extreme ones too: integers that float64 cannot tell apart among them
        ends = [info.max, info.max - 1, info.max // 2, info.max // 2 + 1, info.min, info.min + 1]
        return torch.tensor([1, 0, 2, *ends, *([-1, -2] if info.min else [])], dtype=dtype)
    if kind == "many":
        return torch.tensor(sorted((x / 16 for x in range(-128, 128)), key=abs)).to(dtype)
    extremes = [info.max, math.inf, 1.0, -math.inf, -info.max]  # a largest finite value is beside each infinity
    if kind == "extreme":
        return torch.tensor(extremes, dtype=torch.float64).to(dtype)
    tiny, one, least = info.tiny, 1 + info.eps, info.tiny * info.eps
    ordinary, denormals = [1.0, one, 2.0, -1.0, -one, 0.0, -0.0], [least, -least, 2 * least, tiny, -tiny]
    return torch.tensor([*ordinary, *denormals, *extremes], dtype=torch.float64).to(dtype)


def draw_bytes(draw: DrawFn, shape: Shape) -> Tensor:
    """Bytes of a shape, as many drawn whatever it is: hypothesis zeroes a draw whose size it changes."""
    data = torch.tensor(list(draw(st.binary(min_size=_DRAWN, max_size=_DRAWN))))
    places = torch.arange(math.prod(shape))
    return data.take((places + places // _DRAWN) % _DRAWN).view(shape)  # beyond them again, one further each time


_DRAWN = 24  # bytes of a draw: enough for the shapes where laws break; more made hypothesis slower to shrink


@st.composite
def scores(
    draw: DrawFn,
    shape: Shapes = None,
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    kinds: Sequence[str] = KINDS,
) -> Tensor:
    """Draw scores: ties, signed zeros, infinities, denormals and extreme integers, in every dtype and layout.

    Args:
        shape: a shape or a strategy of shapes; None for any, 0-d and empty ones included.
        dtypes: the dtypes to draw from.
        kinds: which values to draw from: "hostile" ones (infinities, denormals, extremes), "extreme" ones (infinities
            beside the largest finite values), "few" ones (0, 1 and 2), "many" ones (multiples of 1/16), "small" whole
            ones, whose sums and norms are exact.

    Returns:
        A strategy of tensors without NaN; some are views with strides of their own.

    >>> find(scores((3,), dtypes=[torch.float32], kinds=["few"]), lambda s: s[0] > s[2])
    tensor([1., 1., 0.])
    """
    shape = _shape(draw, shape)
    choices = palette(draw(st.sampled_from(dtypes)), draw(st.sampled_from(kinds)))
    if draw(st.sampled_from([False, True, True])):  # few neighbours, so that what is easily confused meets
        choices = choices.roll(-draw(st.integers(0, len(choices) - 1)))[:3]
    return draw(layouts(choices.take(draw_bytes(draw, shape) % len(choices))))


@st.composite
def masks(draw: DrawFn, shape: Shapes = None) -> Tensor:
    """Draw masks of every density, full and empty ones among them, in every layout.

    Args:
        shape: a shape or a strategy of shapes; None for any, 0-d and empty ones included.

    Returns:
        A strategy of bool tensors.

    >>> find(masks((3,)), lambda mask: mask.any() and not mask.all())
    tensor([ True,  True, False])
    """
    shape = _shape(draw, shape)
    share = draw(st.sampled_from([128, 192, 230, 64, 256, 128, 192, 26, 0]))
    return draw(layouts(draw_bytes(draw, shape) < share))


@st.composite
def layouts(draw: DrawFn, tensor: Tensor) -> Tensor:
    """Draw other layouts of a tensor: permuted, strided, with an offset, channels last, expanded.

    Args:
        tensor: the values.

    Returns:
        A strategy of tensors with these values, but for expanded ones, which repeat the first index of some dims.

    >>> find(layouts(torch.eye(2)), lambda t: t.stride() != (2, 1)).stride()
    (1, 2)
    """
    shape, dims = tensor.shape, range(tensor.dim())
    layout = draw(st.sampled_from(["contiguous", "permuted", "strided", "offset", "channels last", "expanded"]))
    if layout == "permuted":
        order = draw(st.permutations(dims))
        return tensor.permute(order).contiguous().permute(sorted(dims, key=order.__getitem__))
    if layout == "strided":
        return torch.stack([tensor, tensor], -1)[..., 1]
    if layout == "offset":
        return torch.cat([tensor.new_zeros(3), tensor.reshape(-1)])[3:].view(shape)
    if layout == "channels last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "expanded" and tensor.numel():
        for dim in dims:
            tensor = tensor.narrow(dim, 0, 1) if draw(st.booleans()) else tensor
        return tensor.expand(shape)
    return tensor


# ---- by name, and scores with masks ---------------------------------------------------------------------------------


@st.composite
def mappings(draw: DrawFn, values: SearchStrategy[Any], *, max_size: int = 4) -> dict[str, Any]:
    """Draw mappings by name, the empty one included, whose names are not in sorted order.

    Args:
        values: a strategy of what the names stand for, such as `masks()`.
        max_size: the largest number of names.

    Returns:
        A strategy of dicts.

    >>> find(mappings(st.just(0)), lambda mapping: len(mapping) == 2)
    {'w': 0, 'a.weight': 0}
    """
    return {name: draw(values) for name in draw(_names(max_size))}


def _names(max_size: int = 4) -> SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(NAMES), unique=True, max_size=max_size)


@st.composite
def scored(
    draw: DrawFn,
    mapping: bool | None = None,
    shape: Shapes = None,
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    kinds: Sequence[str] = KINDS,
) -> tuple[Any, Any]:
    """Draw scores with a mask that fits them: the two arguments of a method.

    Args:
        mapping: whether the scores are a mapping by name; None for either. A mapping is one pool, so that no int64
            is beside floating ones.
        shape: a shape or a strategy of shapes; None for any.
        dtypes: the dtypes to draw from; None for all.
        kinds: which values to draw from; see `scores`.

    Returns:
        A strategy of pairs: scores, and a bool mask with their shapes and names or None for all True.

    >>> find(scored(mapping=False, shape=(2,), kinds=("few",)), lambda pair: pair[1] is not None)
    (tensor([1., 1.]), tensor([True, True]))
    """
    if not (draw(st.booleans()) if mapping is None else mapping):
        s = draw(scores(shape, dtypes=dtypes or DTYPES, kinds=kinds))
        return s, draw(masks(tuple(s.shape))) if draw(st.sampled_from([False, True, True, True])) else None
    names = draw(_names())
    dtypes = dtypes or draw(st.sampled_from(KIN))
    by_name = {n: draw(scores(shape, dtypes=dtypes, kinds=kinds)) for n in names}
    if draw(st.booleans()):
        return by_name, None
    alive = {n: draw(masks(tuple(t.shape))) for n, t in by_name.items()}
    return by_name, dict(draw(st.permutations(list(alive.items()))))


# ---- options of groups ----------------------------------------------------------------------------------------------


def dims(count: int = 2) -> SearchStrategy[int]:
    """Dims of a tensor that has so many, counted from either end."""
    return st.sampled_from([*range(count), *range(-1, -count - 1, -1)])


def norms(
    orders: Sequence[float | None] = (None, 2, 1, math.inf, 3, 0.5, -math.inf, -1),
) -> SearchStrategy[dict[str, Any]]:
    """The options of groups whose items have several elements."""
    return st.fixed_dictionaries({"p": st.sampled_from(orders), "mean": st.booleans()})


def divisors(length: int, most: int) -> SearchStrategy[int]:
    """The lengths up to `most` that divide a length."""
    return st.sampled_from([n for n in range(1, most + 1) if length % n == 0])
