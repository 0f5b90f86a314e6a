"""Hypothesis strategies: hostile scores in every dtype and layout, masks of every density, mappings, numbers."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

import masklib

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
NAMES = ("w", "a.weight", "z", "a.bias", "b10", "b9")
SEEDS = st.integers(0, 2**32 - 1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shapes(min_dims: int = 0, max_dims: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 6), min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def scores(draw, shape=None, dtypes=FLOATS + INTEGERS, infinite=True):
    """Scores with ties, signed zeros, infinities, denormals and extreme integers, in any layout."""
    shape = draw(shapes()) if shape is None else shape
    dtype, g = draw(st.sampled_from(dtypes)), generator(draw(SEEDS))
    if dtype.is_floating_point:
        kind = draw(st.sampled_from(["normal", "tied", "equal", "tiny"]))
        values = torch.randn(shape, generator=g, dtype=torch.float64)
        values = {
            "normal": values,
            "tied": values.round(),
            "equal": torch.full(shape, 0.5, dtype=torch.float64),
            "tiny": values * 1e-45,
        }[kind].to(dtype)
        specials = [-0.0, 0.0, *([float("inf"), -float("inf")] if infinite else [])]
    else:
        limits = torch.iinfo(dtype)
        values = torch.randint(max(limits.min, -4), 5, shape, generator=g).to(dtype)
        specials = [limits.min, limits.max] if infinite else []
    for special in specials:
        if draw(st.booleans()):
            values[torch.rand(shape, generator=g) < 0.2] = special
    return draw(layouts(values))


@st.composite
def layouts(draw, tensor):
    """The same values in another layout."""
    layout = draw(st.sampled_from(["contiguous", "reversed strides", "slice", "channels_last"]))
    if layout == "reversed strides" and tensor.dim() > 1:
        order = tuple(range(tensor.dim()))[::-1]
        return tensor.permute(order).contiguous().permute(order)
    if layout == "slice":
        return torch.stack([tensor, tensor], -1)[..., 0]
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


@st.composite
def masks(draw, shape=None):
    """Bool masks of every density, in any layout."""
    shape = draw(shapes()) if shape is None else shape
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return draw(layouts(torch.rand(shape, generator=generator(draw(SEEDS))) < density))


@st.composite
def scored(draw, mapping=None, shape=None, dtypes=None, infinite=True):
    """Scores (a tensor or a mapping of floating ones) and a default mask or None."""
    mapping = draw(st.booleans()) if mapping is None else mapping
    if not mapping:
        s = draw(scores(shape, dtypes or FLOATS + INTEGERS, infinite))
        return s, draw(st.none() | masks(tuple(s.shape)))
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    s = {n: draw(scores(shape, dtypes or FLOATS, infinite)) for n in names}
    if draw(st.booleans()):
        return s, None
    return s, {n: draw(masks(tuple(t.shape))) for n, t in s.items()}


def fractions():
    return st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.77, 0.9, 1.0]) | st.floats(0, 1)


def numbers():
    """One of amount (fraction), keep, sparsity, each possible in any pool."""
    return st.one_of(
        fractions().map(lambda f: {"amount": f}),
        fractions().map(lambda f: {"sparsity": f}),
        fractions().map(lambda f: {"amount": torch.tensor(f, dtype=torch.float64)}),
        st.just({"amount": 0}),
        st.just({"keep": 0}),
        st.just({"keep": torch.tensor(0)}),
    )


@st.composite
def grouped(draw, kinds=("elements", "rows", "channels", "blocks", "windows"), dtypes=None, infinite=True):
    """A groups value and scores it fits."""
    kind = draw(st.sampled_from(kinds))
    dim = draw(st.sampled_from([0, 1, -1]))
    p = draw(st.sampled_from([None, 1.0, 2.0, 3.0, float("inf")]))
    mean = draw(st.booleans())
    shape = draw(st.lists(st.integers(0, 4), min_size=2, max_size=3))
    if kind == "windows":
        of = draw(st.integers(1, 4))
        shape[dim] *= of
        groups = masklib.windows(of, dim)
    elif kind == "blocks":
        tile = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
        for i, length in enumerate(tile):
            shape[len(shape) - len(tile) + i] *= length
        groups = masklib.blocks(tuple(tile), p=p, mean=mean)
    else:
        groups = {
            "elements": masklib.elements(),
            "rows": masklib.rows(dim),
            "channels": masklib.channels(dim, p=p, mean=mean),
        }[kind]
    s = draw(scores(tuple(shape), dtypes or FLOATS + INTEGERS, infinite))
    return groups, s, draw(st.none() | masks(tuple(shape)))
