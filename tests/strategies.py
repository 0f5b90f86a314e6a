"""Hypothesis strategies: hostile scores in every dtype and layout, masks of every density, mappings, numbers, groups.

Values are drawn as bytes that index a palette, so that a draw costs little and shrinks to few, simple values.
"""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import torch
from hypothesis import strategies as st

import masklib as ml

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DTYPES = FLOATS + INTEGERS
NAMES = ("w", "a.weight", "z", "a.bias", "b10", "b9")  # not in sorted order
SEEDS = st.integers(0, 2**32 - 1)
KEYS = st.integers(0, 9) | st.integers(-(2**63), 2**64 - 1)

# ---- shapes and values ----------------------------------------------------------------------------------------------


def shapes(min_dims: int = 0, max_dims: int = 4, max_side: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """0-d, empty and 1- to 4-d shapes."""
    sides = st.integers(1, max_side) | st.integers(0, max_side)
    return st.lists(sides, min_size=min_dims, max_size=max_dims).map(tuple)


@cache
def palette(dtype: torch.dtype, kind: str) -> torch.Tensor:
    """Up to 256 values of a dtype; sums of the small ones are exact in float64, so that ties are ties."""
    if kind == "few":
        return torch.tensor([1, 0, 2], dtype=dtype)
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    if kind == "small":
        return torch.tensor(sorted((x for x in range(-8, 9) if x >= info.min), key=abs), dtype=dtype)
    if not dtype.is_floating_point:  # integers that float64 cannot tell apart among them
        ends = [info.min, info.max, info.min + 1, info.max - 1, info.max // 2, info.max // 2 + 1]
        return torch.tensor([1, 0, 2, *ends, *([-1, -2] if info.min else [])], dtype=dtype)
    if kind == "many":
        return torch.arange(-128, 128).double().div(16).to(dtype)
    tiny, one = info.tiny, 1 + info.eps
    denormals = [tiny * info.eps, -tiny * info.eps, tiny * info.eps * 2]
    extremes = [info.max, -info.max, tiny, -tiny, one, -one, math.inf, -math.inf]
    return torch.tensor([1.0, 0.0, -0.0, 2.0, -1.0, *extremes, *denormals], dtype=torch.float64).to(dtype)


def _draw_from(palette: torch.Tensor, shape: tuple[int, ...], data: bytes) -> torch.Tensor:
    index = torch.tensor(list(data), dtype=torch.int64) % len(palette)
    return palette[index].view(shape)


@st.composite
def scores(draw, shape=None, dtypes=DTYPES, kinds=("hostile", "few", "many", "small")):
    """Scores with ties, signed zeros, infinities, denormals and extreme integers, in any layout."""
    shape = draw(shapes()) if shape is None else shape
    choices, size = palette(draw(st.sampled_from(dtypes)), draw(st.sampled_from(kinds))), math.prod(shape)
    return draw(layouts(_draw_from(choices, shape, draw(st.binary(min_size=size, max_size=size)))))


@st.composite
def masks(draw, shape=None):
    """Bool masks of every density, in any layout."""
    shape = draw(shapes()) if shape is None else shape
    size, share = math.prod(shape), draw(st.sampled_from([256, 128, 230, 26, 0]))
    data = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.int64)
    return draw(layouts((data < share).view(shape)))


@st.composite
def layouts(draw, tensor):
    """The same values in another layout; `expanded` repeats the first index of a dim instead."""
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


# ---- scores with masks, by name -------------------------------------------------------------------------------------


@st.composite
def scored(draw, mapping=None, shape=None, dtypes=None, **options):
    """Scores, a tensor or a mapping (one pool: no int64 beside floating ones), and a default mask or None."""
    if not (draw(st.booleans()) if mapping is None else mapping):
        s = draw(scores(shape, dtypes or DTYPES, **options))
        return s, draw(st.none() | masks(tuple(s.shape)))
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    dtypes = dtypes or draw(st.sampled_from([FLOATS, FLOATS, INTEGERS, (torch.int8, torch.int32, torch.float32)]))
    s = {n: draw(scores(shape, dtypes, **options)) for n in names}
    if draw(st.booleans()):
        return s, None
    m = {n: draw(masks(tuple(t.shape))) for n, t in s.items()}
    return s, dict(draw(st.permutations(list(m.items()))))


# ---- numbers --------------------------------------------------------------------------------------------------------


def fractions() -> st.SearchStrategy[float]:
    """Shares, halves of odd counts among them."""
    return st.sampled_from([0.5, 0.0, 1.0, 0.1, 0.25, 0.3, 0.75, 0.9]) | st.floats(0, 1)


def numbers(takes=("amount", "keep", "sparsity"), most: int = 0) -> st.SearchStrategy[dict]:
    """One of `amount`, `keep`, `sparsity` as a Python or numpy number or a 0-d tensor; counts up to `most`."""
    kinds = []
    if "amount" in takes:
        kinds += [_wrapped("amount", fractions(), float), _wrapped("amount", st.integers(0, most), int)]
    if "sparsity" in takes:
        kinds.append(_wrapped("sparsity", fractions(), float))
    if "keep" in takes:
        kinds.append(_wrapped("keep", st.integers(0, most), int))
    return st.one_of(kinds)


def _wrapped(argument, values, kind):
    floats = [float, np.float64, np.float32, partial(torch.tensor, dtype=torch.float64), torch.tensor]
    ints = [int, np.int64, np.uint8, torch.tensor, partial(torch.tensor, dtype=torch.int32)]
    wrap = st.sampled_from(floats if kind is float else ints)
    return st.tuples(wrap, values).map(lambda pair: {argument: pair[0](pair[1])})


# ---- groups and histories -------------------------------------------------------------------------------------------


@st.composite
def grouped(draw, of=("elements", "rows", "windows", "channels", "blocks", "labels"), **options):
    """A groups value with scores that fit it and a mask or None."""
    kind = draw(st.sampled_from(of))
    shape = list(draw(shapes(0 if kind in ("elements", "labels") else 2, 3, max_side=4)))
    groups = draw(_FITTING[kind](shape))
    s = draw(scores(tuple(shape), **options))
    return groups, s, draw(st.none() | masks(tuple(shape)))


def dims() -> st.SearchStrategy[int]:
    return st.sampled_from([0, 1, -1, -2])


def norms(orders=(None, 2, 1, math.inf, 3, 0.5, -math.inf, -1)) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries({"p": st.sampled_from(orders), "mean": st.booleans()})


@st.composite
def _windows(draw, shape):
    """Windows; the length of the dim becomes a multiple of theirs."""
    dim, of = draw(dims()), draw(st.integers(1, 4))
    shape[dim] *= of
    return ml.windows(of, dim)


@st.composite
def _blocks(draw, shape):
    """Tiles; the lengths of the last dims become multiples of theirs."""
    tile = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    for i, length in enumerate(tile, len(shape) - len(tile)):
        shape[i] *= length
    return ml.blocks(tile, **draw(norms()))


@st.composite
def _labels(draw, shape):
    """Items by any small labels; pools constant within each item."""
    size = math.prod(shape)
    items = _draw_from(torch.tensor([0, 3, -2, 7, 1]), shape, draw(st.binary(min_size=size, max_size=size)))
    pools = draw(st.sampled_from([None, items % 2, items.abs() // 3, items]))
    return ml.labels(items, pools)


_FITTING = {
    "elements": lambda shape: st.just(ml.elements()),
    "rows": lambda shape: dims().map(ml.rows),
    "channels": lambda shape: st.builds(ml.channels, dims()) | st.tuples(dims(), norms()).map(_channels),
    "windows": _windows,
    "blocks": _blocks,
    "labels": _labels,
}


def _channels(parts):
    return ml.channels(parts[0], **parts[1])


def steps() -> st.SearchStrategy:
    """Methods with their parameters bound that any 2-d scores can take."""
    share = fractions()
    return st.one_of(
        st.just(ml.identity),
        st.builds(partial, st.just(ml.l1_unstructured), amount=share),
        st.builds(partial, st.just(ml.compute_mask), sparsity=share),
        st.builds(partial, st.just(ml.random_unstructured), key=KEYS, amount=share),
        st.builds(partial, st.just(ml.ln_structured), n=st.sampled_from([1, 2, math.inf]), dim=dims(), amount=share),
        st.builds(partial, st.just(ml.random_structured), dim=dims(), key=KEYS, amount=share),
        st.builds(partial, st.just(ml.compute_mask), keep=st.just(0), groups=st.just(ml.rows())),
        st.builds(partial, st.just(ml.layerwise(ml.l1_unstructured)), amount=share),
    )


def histories(max_size: int = 4) -> st.SearchStrategy[tuple]:
    """Sequences of steps, the empty one included."""
    return st.lists(steps(), max_size=max_size).map(tuple)
