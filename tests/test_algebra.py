"""Masks form a Boolean lattice under intersection and union; counts and measures agree with plain arithmetic."""

from __future__ import annotations

import os
from functools import partial
from inspect import signature

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws_algebra import ALGEBRA

import masklib as ml
from masklib import complement, count, difference, intersection, overlap, sparsity, union
from masklib.testing import laws, masks
from masklib.testing._oracle import named
from masklib.testing._strategies import NAMES


@st.composite
def families(draw, n=3):
    """Some masks of one form: tensors of one shape, or mappings of them in any order of names."""
    if draw(st.booleans()):
        first = draw(masks())
        return [first, *(draw(masks(tuple(first.shape))) for _ in range(n - 1))]
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    shapes = {name: tuple(draw(masks()).shape) for name in names}
    return [{name: draw(masks(shapes[name])) for name in draw(st.permutations(names))} for _ in range(n)]


@pytest.mark.parametrize("law", ALGEBRA, ids=lambda law: law.__name__)
@given(families())
def test_law(law, family):
    law(*family[: len(signature(law).parameters)])


@given(families(2))
def test_counts_and_measures(family):
    a, b = family
    kept = {n: int(m.sum()) for n, m in named(a).items()}
    size = {n: m.numel() for n, m in named(a).items()}
    both = {n: int((m & named(b)[n]).sum()) for n, m in named(a).items()}
    either = {n: int((m | named(b)[n]).sum()) for n, m in named(a).items()}
    assert count(a) == sum(kept.values())
    assert sparsity(a) == dead_share(sum(kept.values()), sum(size.values()))
    assert overlap(a, b) == jaccard(sum(both.values()), sum(either.values())) == overlap(b, a)
    measures = (count(a), sparsity(a), overlap(a, b))
    assert [(m.dtype, m.dim()) for m in measures] == [(torch.int64, 0), (torch.float64, 0), (torch.float64, 0)]
    assert as_numbers(count(a, per_name=True)) == kept
    assert as_numbers(sparsity(a, per_name=True)) == {n: dead_share(kept[n], size[n]) for n in kept}
    assert as_numbers(overlap(a, b, per_name=True)) == {n: jaccard(both[n], either[n]) for n in kept}


def dead_share(kept, size):
    return (size - kept) / size if size else 0


def jaccard(both, either):
    return both / either if either else 1


def as_numbers(measures):
    return {n: x.item() for n, x in named(measures).items()}


@pytest.mark.parametrize("empty", [{}, torch.zeros(0, dtype=torch.bool), {"a": torch.zeros(0, 3, dtype=torch.bool)}])
def test_empty_masks_have_measures(empty):
    assert count(empty) == 0
    assert sparsity(empty) == 0
    assert overlap(empty, empty) == 1


def test_two_dead_masks_overlap_wholly():
    assert overlap(torch.zeros(3) > 0, torch.zeros(3) > 0) == 1


def test_the_algebra_maps_over_batches():
    a, b = (torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5).unbind()
    functions = (intersection, union, difference, complement, partial(complement, within=b[0]))
    for f in functions:
        laws.vmaps(f, *((a, b) if f in functions[:3] else (a,)))
    for f in (count, sparsity):
        assert torch.equal(torch.vmap(f)(a), torch.stack([f(m) for m in a]))
    assert torch.equal(torch.vmap(overlap)(a, b), torch.stack([overlap(m, n) for m, n in zip(a, b)]))
    got = torch.vmap(lambda a, b: ml.count({"x": a, "y": b}))(a, b)
    assert torch.equal(got, a.sum(1) + b.sum(1))


@given(families(1))
def test_dense_keeps_everything(family):
    (mask,) = family
    all_of_it = ml.dense(mask)
    laws_hold = [ml.fold((), mask), complement(complement(all_of_it)), union(mask, complement(mask)), ml.identity(mask)]
    assert all(str(each) == str(all_of_it) for each in laws_hold)
    assert sparsity(all_of_it) == 0
    assert count(all_of_it) == sum(m.numel() for m in named(mask).values())


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.complex64, torch.int8, torch.float8_e4m3fn, torch.bfloat16], ids=str
)
def test_dense_of_every_dtype(dtype):
    p = torch.zeros(2, 3, dtype=dtype).t()
    got = ml.dense({"w": p})["w"]
    assert (got.dtype, got.tolist(), got.is_contiguous()) == (torch.bool, [[True] * 2] * 3, True)
    assert torch.vmap(ml.dense)(p).all()
    assert ml.dense(torch.empty(2, device="meta")).is_meta


@pytest.mark.parametrize("measure", [count, sparsity, complement])
def test_a_module_is_no_mask(measure):
    with pytest.raises(TypeError, match=r"a bool tensor, or a mapping of them by name, got Linear\. .*prune\.masks"):
        measure(torch.nn.Linear(2, 2))


def test_measures_compile():
    a, b = (torch.rand(2, 30, generator=torch.Generator().manual_seed(0)) < 0.5).unbind()

    def measures(a, b):
        both = {"x": a, "y": b}
        return count(both), sparsity(both), overlap(both, {"x": b, "y": a}), ml.dense(a)

    torch._dynamo.reset()
    compiled = torch.compile(measures, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(x, y) for x, y in zip(compiled(a, b), measures(a, b)))


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peaks of memory are read from /proc")
@pytest.mark.parametrize("measure", [count, sparsity, lambda m: overlap(m, m)], ids=["count", "sparsity", "overlap"])
def test_measures_take_a_byte_a_weight(measure):
    size = 2**25
    mask = torch.rand(size) < 0.5
    measure(mask[:10])
    before = memory("RssAnon")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    measure(mask)
    assert memory("VmHWM") - before < memory("RssFile") + memory("RssShmem") + 2 * size


def memory(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))
