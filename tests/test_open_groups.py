"""Groups are open: a value of one's own works wherever one of the library's does, and equals its labels."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import masklib as ml
from masklib.testing import laws, numbers, scored, scores

EVEN = st.sampled_from([(4, 4), (8, 4), (4, 8)])


class Diagonals(NamedTuple):
    """Each run of `of` along the wrapped diagonals of a matrix a pool."""

    of: int

    def fold(self, shape):
        rows, columns = shape
        start, step = torch.arange(columns)[:, None], torch.arange(rows)
        along = step * columns + (start + step) % columns
        return ml.Folding.by_index(along.reshape(-1, self.of, 1), shape)


class Tiles(NamedTuple):
    """Tiles of a matrix whose rows are in another order."""

    height: int
    width: int
    p: float | None = None
    mean: bool = False

    def fold(self, shape):
        rows, columns = shape
        index = torch.arange(rows * columns).view(rows, columns)[torch.arange(rows).flip(0)]
        tiles = index.view(rows // self.height, self.height, columns // self.width, self.width).transpose(1, 2)
        return ml.Folding.by_index(tiles.reshape(-1, self.height * self.width), shape)


class VectorWindows(NamedTuple):
    """N:M of column vectors: among `of` neighbours, each so many rows high (Castro et al. 2023)."""

    height: int
    of: int

    def fold(self, shape):
        rows, columns = shape
        grid = rows // self.height, self.height, columns // self.of, self.of
        pools = grid[0] * grid[2]

        def back(matrix):
            return matrix.reshape(grid[0], grid[2], self.of, self.height).permute(0, 3, 1, 2).reshape(shape)

        return ml.Folding(pools, self.of, self.height, lambda t: t.reshape(grid).permute(0, 2, 3, 1), back)


class Border(NamedTuple):
    """The first and the last column as items; what is between them stays."""

    def fold(self, shape):
        index = torch.arange(math.prod(shape)).view(shape)
        return ml.Folding.by_index(index[:, [0, -1]].T, shape)


OWN = [Diagonals(2), Diagonals(4), Tiles(2, 2), VectorWindows(2, 4)]


def same_or_both_refuse(f, g, number, s, m):
    """f(s, m, number) = g(s, m, number), refusals included."""
    results = []
    for method in (f, g):
        try:
            results.append(method(s, m, **number))
        except ValueError:
            results.append(None)
    assert (results[0] is None) == (results[1] is None)
    assert results[0] is None or laws.same(*results)


def labels_of(groups, shapes):
    """The labels form of a value, from the folding of an index."""
    items, pools, start = {}, {}, 0
    for name in sorted(shapes):
        shape = torch.Size(shapes[name])
        folding = groups.fold(shape)
        index = folding.matrix(torch.arange(shape.numel()).view(shape))
        item = torch.empty(shape.numel(), dtype=torch.int64)
        item[index.reshape(-1)] = torch.arange(folding.rows).repeat_interleave(folding.elements) + start
        items[name] = item.view(shape)
        pools[name] = torch.zeros_like(items[name]) if folding.pools is None else items[name] // folding.items
        start += -(-folding.rows // 64) * 64  # so that pools of several tensors stay apart
    return items, pools


@pytest.mark.parametrize("groups", OWN, ids=repr)
@given(scored(False, EVEN, kinds=("small", "few")), numbers(most=2))
def test_an_own_value_equals_its_labels(groups, case, number):
    s, m = case
    items, pools = labels_of(groups, {"": s.shape})
    general = partial(ml.compute_mask, groups=ml.labels(items[""], pools[""]))
    same_or_both_refuse(partial(ml.compute_mask, groups=groups), general, number, s, m)


@pytest.mark.parametrize("groups", OWN, ids=repr)
@given(scored(True, (4, 8), kinds=("small", "few")), numbers(most=2))
def test_an_own_value_over_a_mapping_equals_its_labels(groups, case, number):
    s, m = case
    if not s:
        return
    items, pools = labels_of(groups, {n: t.shape for n, t in s.items()})
    general = partial(ml.compute_mask, groups=ml.labels(items, pools))
    same_or_both_refuse(partial(ml.compute_mask, groups=groups), general, number, s, m)


def test_two_out_of_four_along_diagonals():
    g = torch.Generator().manual_seed(0)
    mask = ml.compute_mask(torch.rand(4, 4, generator=g), keep=2, groups=Diagonals(4))
    rolled = torch.stack([row.roll(-i) for i, row in enumerate(mask)])
    assert rolled.sum(0).tolist() == [2, 2, 2, 2]


def test_an_own_value_under_every_transform():
    s = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    for groups in OWN:
        f = partial(ml.compute_mask, sparsity=0.5, groups=groups)
        laws.vmaps(f, s)
        laws.compiles(f, s[0])
        laws.exports(f, s[0])


def test_an_own_value_inside_layerwise_folds_regrowth_and_named_methods():
    s = {"a": torch.rand(4, 4), "b": torch.rand(8, 4)}
    method = partial(ml.compute_mask, groups=Tiles(2, 2), amount=0.5)
    masks = ml.layerwise(method)(s)
    assert {n: int(m.sum()) for n, m in masks.items()} == {"a": 8, "b": 16}
    assert int(ml.count(ml.fold([method, method], s))) == 12


def test_an_own_value_is_coupled_with_the_librarys():
    """A tile row of one layer goes with a unit of the next."""

    class Pairs(NamedTuple):
        def fold(self, shape):
            return ml.Folding.by_index(torch.arange(math.prod(shape)).view(shape[0] // 2, -1), shape)

    s = {"w": torch.tensor([[4.0], [4.0], [1.0], [1.0]]), "b": torch.tensor([0.0, 5.0])}
    masks = ml.compute_mask(s, amount=1, groups=ml.coupled({"w": Pairs(), "b": ml.channels()}))
    assert masks["w"].flatten().tolist() == [True, True, False, False] or masks["b"].tolist() == [False, True]
    assert masks["b"].tolist() == [True, False]


def test_windows_of_several_tensors_can_be_coupled():
    """2:4 over the sum of two layers: both get the same mask."""
    s = {"a": torch.tensor([[4.0, 3.0, 2.0, 1.0]]), "b": torch.tensor([[0.0, 0.0, 5.0, 5.0]])}
    masks = ml.compute_mask(s, keep=2, groups=ml.coupled({"a": ml.windows(4), "b": ml.windows(4)}))
    assert masks["a"].tolist() == masks["b"].tolist() == [[False, False, True, True]]


@given(scored(False, EVEN), st.floats(0, 1))
def test_what_no_item_has_stays(case, share):
    s, m = case
    mask = ml.compute_mask(s, m, sparsity=share, groups=Border())
    alive = torch.ones_like(s, dtype=torch.bool) if m is None else m
    assert torch.equal(mask[:, 1:-1], alive[:, 1:-1])


def test_a_padded_index_counts_what_is_there():
    """Triangles: the i-th item has i + 1 elements."""

    class Triangle(NamedTuple):
        mean: bool = False

        def fold(self, shape):
            index = torch.arange(math.prod(shape)).view(shape)
            return ml.Folding.by_index(torch.where(torch.ones(shape).tril() > 0, index, -1), shape)

    s = torch.ones(3, 3)
    assert ml.compute_mask(s, amount=1, groups=Triangle()).sum().item() == 8  # the row of one element
    assert ml.compute_mask(s, keep=1, groups=Triangle(mean=True))[2].all()  # equal means: the last one stays
    upper = torch.ones(3, 3).triu(1) > 0
    assert ml.compute_mask(s, keep=0, groups=Triangle())[upper].all()


def test_a_folding_that_says_something_else_than_it_does_is_refused():
    class Wrong(NamedTuple):
        def fold(self, shape):
            return ml.Folding(None, 3, 1, lambda t: t, lambda m: m)

    with pytest.raises(ValueError, match=r"says 3 items of 1 elements folds shape \(2, 2\) into 4 entries"):
        ml.compute_mask(torch.ones(2, 2), amount=1, groups=Wrong())


class Places(NamedTuple):
    """An index written down, whatever the shape."""

    places: tuple
    p: float | None = None
    mean: bool = False

    def fold(self, shape):
        return ml.Folding.by_index(torch.tensor(self.places), shape)


@pytest.mark.parametrize("places", [(((0,), (1,), (-1,)),), (((0,), (2,), (-1,), (3,)),), ((0,), (1,), (2,))])
def test_what_is_dead_and_no_item_has_stays_dead(places):
    """As many places as entries, of which some are empty and some entries have none."""
    size = len(places[0]) if len(places) == 1 else len(places)
    alive = torch.tensor([True] * (size - 1) + [False]) if size == 3 else torch.tensor([True, False, True, True])
    mask = ml.compute_mask(torch.arange(float(size)), alive, amount=1, groups=Places(places))
    assert not (mask & ~alive).any()
    assert (alive & ~mask).sum() == 1


@st.composite
def indices(draw):
    """An index that leaves entries out and has empty places, of a vector."""
    size = draw(st.integers(2, 9))
    entries = draw(st.permutations(range(size)))[: draw(st.integers(1, size))]
    width = draw(st.integers(1, 3))
    rows = [entries[i : i + width] for i in range(0, len(entries), width)]
    full = [[*row, *[-1] * (width - len(row))] for row in rows]
    if draw(st.booleans()):
        empty = [[-1] * width] * draw(st.integers(0, 3))
        full = [[*full, *empty]]
    return size, full


@given(indices(), st.floats(0, 1), st.data())
def test_an_index_equals_a_count_by_hand(case, share, data):
    size, index = case
    s, flags = data.draw(st.permutations(range(size))), data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    rows = index[0] if isinstance(index[0][0], list) else index
    items = [[i for i in row if i >= 0] for row in rows if max(row) >= 0]
    live = [row for row in items if any(flags[i] for i in row)]
    die = max(0, round(share * len(items)) - (len(items) - len(live)))
    live.sort(key=lambda row: sum(s[i] for i in row if flags[i]))  # equal sums keep their order
    lost = [i for row in live[:die] for i in row]
    mask = ml.compute_mask(torch.tensor(s), torch.tensor(flags), sparsity=share, groups=Places(index))
    assert mask.tolist() == [flag and i not in lost for i, flag in enumerate(flags)]


def test_pools_of_its_own_need_no_maps():
    class Runs(NamedTuple):
        def fold(self, shape):
            return ml.Folding(2, 3)

    s = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert ml.compute_mask(s, amount=1, groups=Runs()).tolist() == [False, True, True, False, True, True]


# ---- ragged ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 11), st.integers(1, 4), numbers(most=1), st.data())
def test_ragged_windows_are_windows_and_a_shorter_one(size, of, number, data):
    s, m = data.draw(scored(False, (3, size)))
    got = partial(ml.compute_mask, groups=ml.windows(of, ragged=True))
    index = torch.arange(3)[:, None] * 100 + torch.arange(size) // of
    labels = ml.labels(torch.arange(3 * size).view(3, size), index)
    same_or_both_refuse(got, partial(ml.compute_mask, groups=labels), number, s, m)


@given(st.integers(1, 5), st.integers(1, 5), numbers(most=1), st.data())
def test_ragged_blocks_equal_their_labels(rows, columns, number, data):
    s, m = data.draw(scored(False, (rows, columns), kinds=("small", "few")))
    item = torch.arange(rows)[:, None] // 2 * 10 + torch.arange(columns) // 3
    got = partial(ml.compute_mask, groups=ml.blocks((2, 3), ragged=True))
    same_or_both_refuse(got, partial(ml.compute_mask, groups=ml.labels(item)), number, s, m)


def test_ragged_is_not_ragged_where_lengths_divide():
    s = torch.rand(4, 8)
    for value in (ml.windows(4), ml.blocks((2, 4))):
        ragged = replace(value, ragged=True)
        number = {"sparsity": 0.5}
        assert torch.equal(ml.compute_mask(s, groups=ragged, **number), ml.compute_mask(s, groups=value, **number))
        assert not ragged.fold(s.shape).padded


# ---- scores of items ------------------------------------------------------------------------------------------------


FLOATS = scores(dtypes=(torch.float32, torch.float64), kinds=("small",))


@given(st.dictionaries(st.sampled_from("abc"), FLOATS, max_size=3), st.floats(0, 1))
def test_scores_of_items_rank_them(s, share):
    """One score a channel gives the mask that spreading it over the channel's elements does."""
    s = {n: t for n, t in s.items() if t.dim() and t.numel()}
    by_item = {n: t.flatten(1).sum(1) if t.dim() > 1 else t for n, t in s.items()}
    spread = {n: by_item[n].view(-1, *[1] * (t.dim() - 1)).expand(t.shape) for n, t in s.items()}
    groups = ml.channels(0)
    dense = {n: torch.ones_like(t, dtype=torch.bool) for n, t in s.items()}
    got = ml.compute_mask(by_item, dense, sparsity=share, groups=groups)
    assert laws.same(got, ml.compute_mask(spread, dense, sparsity=share, groups=ml.channels(0, mean=True)))


def test_scores_of_items_skip_dead_items():
    alive = torch.tensor([[False, False], [True, False], [True, True]])
    got = ml.compute_mask(torch.tensor([math.nan, 2.0, 1.0]), alive, amount=1, groups=ml.channels())
    assert got.tolist() == [[False, False], [True, False], [False, False]]


def test_integers_that_are_scores_of_items_rank_exactly():
    scores = torch.tensor([2**53 + 1, 2**53])
    assert ml.compute_mask(scores, torch.ones(2, 3) > 0, amount=1, groups=ml.channels()).any(1).tolist() == [
        True,
        False,
    ]
    assert ml.compute_mask(scores[:, None], amount=1, groups=ml.channels()).tolist() == [[True], [False]]
