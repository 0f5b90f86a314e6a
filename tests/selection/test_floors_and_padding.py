"""`least`: floors of tensors in one pool. `items`: rows with dead padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masklib import selection
from masklib.selection import _rank
from masklib.selection._loop import HasNaN
from masklib.testing import _oracle as oracle


def number(value):
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)


def lowest(scores, alive, k, least=(), **options):
    names = [str(i) for i in range(len(scores))]
    return selection.lowest(scores, alive, number(k), options.get("counting", "amount"), names, False, list(least))


def by_greed(scores, alive, k, least):
    """One by one, the lowest whose tensor is above its floor dies."""
    left = [sum(flags) for flags in alive]
    order = sorted((x, t, i) for t, row in enumerate(scores) for i, x in enumerate(row) if alive[t][i])
    dead = set()
    for _, t, i in order:
        if len(dead) < k and left[t] > least[t]:
            left[t] -= 1
            dead.add((t, i))
    return [[a and (t, i) not in dead for i, a in enumerate(row)] for t, row in enumerate(alive)]


@given(st.data())
def test_the_lowest_die_that_the_floors_allow(data):
    sizes = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    values = [data.draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n)) for n in sizes]
    alive = [data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in sizes]
    least = [data.draw(st.integers(0, sum(flags))) for flags in alive]
    k = data.draw(st.integers(0, sum(map(sum, alive)) - sum(least)))
    expected = by_greed(values, alive, k, least)
    scores, flags = [torch.tensor(v).float() for v in values], [torch.tensor(a, dtype=torch.bool) for a in alive]
    got = lowest(scores, flags, k, least)
    assert [mask.tolist() for mask in got] == expected
    assert [
        mask.tolist()
        for mask in torch.ops.masklib.lowest(scores, flags, number(k), "amount", [""] * len(sizes), False, least)
    ] == expected


def test_floors_hold_in_large_pools():
    low = torch.randn(2**17, generator=torch.Generator().manual_seed(0))
    masks = lowest([low, low + 100], [None, None], 0.5, [1000, 0])
    assert [int(m.sum()) for m in masks] == [1000, 2**17 - 1000]
    assert masks[0].equal(lowest([low], [None], 2**17 - 1000)[0])


def test_floors_that_cannot_be_met_are_refused():
    scores = [torch.arange(4.0), torch.arange(3.0)]
    with pytest.raises(ValueError, match=r"`least` of '1' must be between 0 and 3 .*got 4.*least=3"):
        lowest(scores, [None, None], 1, [0, 4])
    with pytest.raises(
        ValueError, match=r"`least` keeps 5 of the 7 alive, {'0': 3, '1': 2}.*`amount` takes 3.*amount=2"
    ):
        lowest(scores, [None, None], 3, [3, 2])
    with pytest.raises(ValueError, match=r"`keep` takes 5.*keep=4"):
        lowest(scores, [None, None], 2, [4, 0], counting="keep")
    with pytest.raises(ValueError, match=r"1 NaN in scores of '0'"):
        lowest([torch.tensor([1.0, torch.nan]), scores[1]], [None, None], 1, [1, 1])


def test_floors_batch():
    scores = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    got = torch.vmap(lambda s: lowest([s, s + 9], [None, None], 6, [2, 0])[0])(scores)
    assert torch.equal(got, torch.stack([lowest([s, s + 9], [None, None], 6, [2, 0])[0] for s in scores]))


@given(st.data())
def test_padding_counts_for_nothing(data):
    """Each row as a pool of its real items, on the CPU and as on other devices, for every number."""
    pools, width = data.draw(st.sampled_from([(3, 4), (4, 9), (3, 20), (2, 40)]))
    values = torch.tensor(data.draw(st.lists(st.integers(-3, 3), min_size=pools * width, max_size=pools * width)))
    scores = values.view(pools, width).float()
    items = torch.tensor(data.draw(st.lists(st.integers(0, width), min_size=pools, max_size=pools)))
    places = torch.rand(scores.shape).argsort(1) < items[:, None]  # anywhere
    alive = places & (torch.rand(scores.shape) < 0.7)
    for counting, value in (("amount", 0.4), ("sparsity", 0.6), ("keep", 0)):
        got = selection.lowest_in_rows(scores, alive, items, number(value), counting, "", False)
        there = _rank._rows_on_device(scores, alive, items, number(value), counting, "", False)
        assert torch.equal(got, there)
        for row in range(pools):
            real = places[row]
            expected = oracle.compute_mask(scores[row][real], alive[row][real], _elements(), **{counting: value})
            assert torch.equal(got[row][real], expected)
            assert not got[row][~real].any()


def _elements():
    from masklib import elements

    return elements()


def test_numbers_of_rows_and_messages_count_real_items():
    scores, items = torch.arange(8.0).view(2, 4), torch.tensor([4, 2])
    alive = torch.tensor([[True] * 4, [True, True, False, False]])
    got = selection.lowest_in_rows(scores, alive, items, torch.tensor([3, 1]), "amount", "", False)
    assert got.tolist() == [[False] * 3 + [True], [False, True, False, False]]
    with pytest.raises(ValueError, match="`keep` must be between 0 and 2 "):
        selection.lowest_in_rows(scores, alive, items, number(3), "keep", "w", False)
    batched = torch.vmap(lambda s, i: selection.lowest_in_rows(s, alive, i, number(1), "amount", "", False))
    assert batched(torch.stack([scores, -scores]), torch.stack([items, items])).shape == (2, 2, 4)


def test_nan_is_never_seen_as_such():
    assert not issubclass(HasNaN, ValueError)
