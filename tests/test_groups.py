"""Every groups value equals its `labels` form and the plain-Python oracle."""

from __future__ import annotations

import math
import operator
import pickle
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import masklib as ml
from masklib.testing import grouped, laws, numbers, scored
from masklib.testing._strategies import FLOATS, INTEGERS, norms

VALUES = [
    ml.elements(),
    ml.rows(),
    ml.rows(-1),
    ml.channels(0),
    ml.channels(1, p=2, mean=True),
    ml.channels(-1, mean=True),
    ml.heads(4),
    ml.heads(8, 1, parts=(4, 1, 1), p=2),
    ml.blocks((2, 3)),
    ml.blocks((4,), p=math.inf),
    ml.windows(4),
    ml.windows(4, dim=1),
    ml.coupled({"a": ml.channels(0), "b": ml.heads(2, parts=(1, 1))}, {"c": ml.blocks((2, 2))}, p=math.inf),
]
SINGLE, SUMMED = ("elements", "rows", "windows"), ("channels", "heads", "blocks")
SMALL = ("small", "few")  # kinds of scores whose sums float64 holds exactly: ties are ties in any order of adding


def follows_the_rule(groups, number, s, m):
    laws.follows_the_rule(partial(ml.compute_mask, groups=groups), groups, number, s, m)


# ---- equal to the oracle and to labels ------------------------------------------------------------------------------


@given(grouped(SINGLE), numbers())
def test_single_elements_equal_the_oracle_and_their_labels(case, number):
    groups, s, m = case
    follows_the_rule(groups, number, s, m)
    laws.is_the_labels_form(groups, number, s, m)


@given(grouped(SUMMED, kinds=SMALL), st.sampled_from([None, 1, math.inf, -math.inf]), numbers())
def test_items_equal_the_oracle(case, p, number):
    groups, s, m = case
    follows_the_rule(replace(groups, p=p, mean=False), number, s, m)


@given(grouped(SUMMED, kinds=SMALL), numbers())
def test_sums_of_items_equal_their_labels(case, number):
    groups, s, m = case
    laws.is_the_labels_form(replace(groups, p=None, mean=False), number, s, m)


@given(grouped(SUMMED, dtypes=FLOATS, kinds=("many", "small")), numbers())
def test_items_of_every_norm_equal_the_oracle_up_to_rounding(case, number):
    groups, s, m = case
    assume(groups.p != -1 or bool((s != 0).all()))  # 1 / 0
    method = partial(ml.compute_mask, groups=groups)
    laws.is_exact(method, groups, number, s, m)
    laws.takes_the_lowest(method, groups, operator.pos, number, s, m)


@given(grouped(("labels",), kinds=SMALL), numbers())
def test_labels_equal_the_oracle(case, number):
    groups, s, m = case
    follows_the_rule(groups, number, s, m)


@given(grouped(("elements", "rows", "windows", "labels"), kinds=SMALL), numbers(), norms())
def test_an_item_that_no_element_is_alive_in_counts_as_dead(case, number, norm):
    """Channels of a tensor whose first index is dead: sparsity counts it, amount does not."""
    _, s, _ = case
    assume(s.dim() > 0 and s.numel())
    m = torch.ones(s.shape, dtype=torch.bool)
    m[0] = False
    groups = ml.channels(0, **norm)
    assume(norm["p"] != -1 or bool((s != 0).all()))
    laws.is_exact(partial(ml.compute_mask, groups=groups), groups, number, s, m)


# ---- mappings -------------------------------------------------------------------------------------------------------


@given(
    scored(True, (2, 4), kinds=SMALL),
    st.sampled_from([ml.elements(), ml.channels(0), ml.channels(1, p=1), ml.heads(2, dim=1), ml.blocks((1, 2))])
    | st.sampled_from([ml.rows(), ml.windows(2)]),
    numbers(most=3),
)
def test_mappings_equal_the_oracle_and_their_labels(case, groups, number):
    """One pool over all tensors, but for rows and windows."""
    s, m = case
    assume(s)
    follows_the_rule(groups, number, s, m)
    if getattr(groups, "p", None) is None:
        laws.is_the_labels_form(groups, number, s, m)


@given(st.permutations([torch.float32, torch.bfloat16, torch.float64]), numbers(most=2))
def test_ties_across_tensors_go_by_sorted_name_then_index(dtypes, number):
    names = ["b9", "a", "b10"]
    s = {n: torch.ones(2, 2, dtype=d) for n, d in zip(names, dtypes)}
    for groups in (ml.elements(), ml.channels(0), ml.channels(0, p=2, mean=True)):
        follows_the_rule(groups, number, s, None)
    assert {n: int(x) for n, x in ml.count(ml.compute_mask(s, amount=6), per_name=True).items()} == {
        "b9": 4,
        "a": 0,
        "b10": 2,
    }


def test_one_item_may_span_tensors():
    s = {"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([1.0, 1.0])}
    items = {"a": torch.tensor([0, 1]), "b": torch.tensor([0, 2])}
    got = ml.compute_mask(s, amount=2, groups=ml.labels(items))
    assert got["a"].tolist() == [False, True]
    assert got["b"].tolist() == [False, False]


def test_channels_of_tensors_of_different_sizes_compete_by_their_mean():
    s = {"wide": torch.full((2, 8), 1.0), "narrow": torch.full((2, 2), 3.0)}
    by_sum = ml.compute_mask(s, amount=2, groups=ml.channels(0))
    by_mean = ml.compute_mask(s, amount=2, groups=ml.channels(0, mean=True))
    assert [bool(by_sum[n].any()) for n in s] == [True, False]
    assert [bool(by_mean[n].any()) for n in s] == [False, True]


def test_the_mean_of_squares_ranks_channels_of_layers_of_all_sizes_alike():
    """A quarter of the channels of each layer is half as large; by the plain norm the narrow layer dies instead."""
    s = {f"fan {fan}": torch.ones(64, fan) for fan in (4, 64, 4096)}
    for n in s:
        s[n][:16] /= -2
    by_norm = ml.compute_mask(s, sparsity=0.25, groups=ml.channels(0, p=2))
    by_mean = ml.compute_mask(s, sparsity=0.25, groups=ml.channels(0, p=2, mean=True))
    assert [int((~mask.any(1)).sum()) for mask in by_norm.values()] == [48, 0, 0]
    assert [int((~mask.any(1)).sum()) for mask in by_mean.values()] == [16, 16, 16]
    assert all(not mask[:16].any() for mask in by_mean.values())


# ---- constant fan-in ------------------------------------------------------------------------------------------------


def regrow_rows(scores, masks, grow):
    return torch.vmap(lambda s, m, g: ml.regrow(s, m, grow_scores=g, amount=0.3))(scores, masks, grow)


@pytest.mark.parametrize(("shape", "fan_in"), [((5, 12), 3), ((6, 2, 3, 3), 4)], ids=["linear", "convolution"])
def test_every_row_has_as_many_inputs_and_keeps_as_many_in_dynamic_training(shape, fan_in):
    """SRigL's constant fan-in (Lasby et al. 2024): by keep, by sparsity, and after every round of regrowth."""
    g = torch.Generator().manual_seed(0)
    w, grads = (torch.randn(shape, generator=g).flatten(1) for _ in range(2))
    share = 1 - fan_in / w.shape[1]
    masks = ml.compute_mask(w.abs().view(shape), keep=fan_in, groups=ml.rows()).flatten(1)
    assert torch.equal(masks, ml.compute_mask(w.abs(), sparsity=share, groups=ml.rows()))
    for grow in (grads.abs(), ml.scores.random(w, key=1)):
        new = regrow_rows(w.abs(), masks, grow)
        assert (new.sum(1) == fan_in).all()
        assert not torch.equal(new, masks)
        for row, (s, m, g) in zip(new, zip(w.abs(), masks, grow)):
            assert torch.equal(row, ml.regrow(s, m, grow_scores=g, amount=0.3))


# ---- exact numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("groups", [ml.elements(), ml.rows(), ml.windows(4), ml.labels(torch.arange(4).view(1, 4))])
def test_single_integers_rank_exactly(dtype, groups):
    """int64 beyond what float64 can tell apart."""
    top = torch.iinfo(dtype).max
    s = torch.tensor([[top - 1, top - 2, top, top - 3]], dtype=dtype)
    assert ml.compute_mask(s, keep=2, groups=groups).tolist() == [[True, False, True, False]]


def test_reductions_accumulate_in_float64():
    """A thousand small entries beside a large one, and squares beyond float16, are not lost."""
    s = torch.full((2, 1001), 2.0**-12)
    s[:, 0] = 4096.0
    s[1, 5] *= 1.5
    assert ml.compute_mask(s, keep=1, groups=ml.channels(0)).any(1).tolist() == [False, True]
    h = torch.tensor([[60000.0, 60000.0], [60000.0, 59000.0]], dtype=torch.float16)
    for p in (None, 1, 2, 3):
        assert ml.compute_mask(h, keep=1, groups=ml.channels(0, p=p)).any(1).tolist() == [True, False]


@given(st.sampled_from([1, 2, 3]), st.booleans())
def test_reductions_take_live_scores_alone(p, mean):
    """Two dead giants do not help their channel; the mean divides by what is alive."""
    s = torch.tensor([[100.0, 1.0, 1.0], [2.0, 2.0, 1.0]])
    m = torch.tensor([[False, True, True], [True, True, True]])
    assert ml.compute_mask(s, m, keep=1, groups=ml.channels(0, p=p, mean=mean)).any(1).tolist() == [False, True]


def test_infinite_scores_add_up_to_infinite_items():
    s = torch.tensor([[math.inf, 1.0], [5.0, 5.0], [-math.inf, 1.0]])
    for groups in (ml.channels(0), ml.blocks((1, 2))):
        assert ml.compute_mask(s, keep=1, groups=groups).any(1).tolist() == [True, False, False]
        assert ml.compute_mask(s, amount=1, groups=groups).any(1).tolist() == [True, True, False]


def test_wanda_prunes_within_rows():
    """The paper's rule at 50 % of each row, ties by the lower index (Sun et al. 2023)."""
    metric = torch.tensor([[0.5, 0.816497, 0.176777, 2], [1, 0.612372, 0.353553, 0.1]])
    mask = ml.compute_mask(metric, amount=0.5, groups=ml.rows())
    assert [row.logical_not().nonzero().flatten().tolist() for row in mask] == [[0, 2], [2, 3]]


# ---- plain data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_groups_are_plain_data(value):
    again = eval(repr(value), vars(ml) | {"inf": math.inf})
    assert again == value
    assert hash(again) == hash(value)
    assert repr(again) == repr(value)
    assert pickle.loads(pickle.dumps(value)) == value
    assert sum(value == other for other in VALUES) == 1


def test_labels_are_plain_data():
    a, b = (ml.labels(torch.tensor([0, 0, 1])) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != ml.labels(torch.tensor([0, 1, 1]))
    assert a != ml.labels(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]))
    named = {"w": torch.tensor([0, 1])}
    assert ml.labels(named) != ml.labels(named | {"b": torch.tensor([0])})
    assert ml.labels(named | {"b": torch.tensor([0])}) != ml.labels(named)
    assert pickle.loads(pickle.dumps(a)) == a
    assert repr(a) == "labels(items=tensor([0, 0, 1]), pools=None)"


def test_values_that_mean_different_things_are_different():
    """Fields alone would make some of them equal."""
    values = [
        *VALUES,
        ml.channels(4, p=-1),
        ml.windows(4, -1),
        ml.rows(0),
        ml.channels(0),
        ml.labels(torch.zeros(1).int()),
    ]
    for i, a in enumerate(values):
        assert all(a != b or type(a) is type(b) for b in values[:i])
    assert ml.channels(4, p=-1) != ml.windows(4, -1)
    assert ml.elements() != ()


# ---- foldings, spelled out ------------------------------------------------------------------------------------------


def run_of(index, length, heads):
    """The run that an index along the dim is in, within its part."""
    start = 0
    for share in heads.parts:
        part = length * share // sum(heads.parts)
        if index < start + part:
            return (index - start) // (part // heads.count)
        start += part
    raise IndexError(index)


SPELLED = {  # from a groups value, a shape and a place in it: which item, and which pool (None: that of all)
    "elements": lambda g, shape, p: (p, None),
    "rows": lambda g, shape, p: (p, p[g.dim]),
    "windows": lambda g, shape, p: (p, (*p[: g.dim % len(p)], *p[g.dim % len(p) + 1 :], p[g.dim] // g.of)),
    "channels": lambda g, shape, p: (p[g.dim], None),
    "heads": lambda g, shape, p: (run_of(p[g.dim], shape[g.dim], g), None),
    "blocks": lambda g, shape, p: ((*p[: -len(g.shape)], *(x // n for x, n in zip(p[-len(g.shape) :], g.shape))), None),
}


@given(grouped(tuple(SPELLED)))
def test_foldings_are_what_the_words_say(case):
    """Item by item and pool by pool, in plain Python: which elements are together, and in which order."""
    groups, s, _ = case
    places = list(product(*map(range, s.shape)))
    spelled = [SPELLED[type(groups).__name__.lower()](groups, s.shape, place) for place in places]
    folding = groups.fold(s.shape)
    matrix = folding.matrix(torch.arange(len(places)).view(s.shape))
    assert sorted(matrix.flatten().tolist()) == list(range(len(places)))
    assert all(len({spelled[i][0] for i in row}) == 1 for row in matrix.tolist())
    assert len({spelled[row[0]] for row in matrix.tolist() if row}) == folding.rows
    if folding.pools is None:
        order = [spelled[row[0]][0] for row in matrix.tolist() if row]
        assert order == sorted(order)
    else:
        pools = matrix.view(folding.pools, folding.items).tolist()
        assert all(len({spelled[i][1] for i in pool}) == 1 for pool in pools)
        assert all(pool == sorted(pool) for pool in pools)
    assert torch.equal(folding.restore(matrix % 2 == 0, s.shape), torch.arange(len(places)).view(s.shape) % 2 == 0)


WHOLE = {"elements": ml.elements(), "channels": ml.channels(), "heads": ml.heads(2), "blocks": ml.blocks((2, 2))}


@pytest.mark.parametrize("groups", WHOLE.values(), ids=WHOLE)
def test_an_empty_tensor_has_no_items(groups):
    empty = torch.empty(0, 4)
    assert ml.compute_mask(empty, keep=0, groups=groups).shape == (0, 4)
    with pytest.raises(ValueError, match="must be between 0 and 0"):
        ml.compute_mask(empty, keep=1, groups=groups)
