"""Heads and coupled groups: equal to the oracle and to their labels, and what they take is really gone."""

from __future__ import annotations

import operator
import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import masklib as ml
from masklib.selection import _items
from masklib.testing import _refute, check_groups, coupled, laws, numbers
from masklib.testing._strategies import FLOATS

SMALL = ("small", "few")  # kinds of scores whose sums float64 holds exactly
MIXED = ml.coupled(
    {"fc1.weight": ml.channels(0), "fc1.bias": ml.elements(), "fc2.weight": ml.heads(4, dim=1)},
    {"conv.weight": ml.blocks((1, 1))},
    p=2,
    mean=True,
)
VALUES = [
    ml.heads(3),
    ml.heads(2, parts=(2, 1, 1)),
    ml.heads(2, -1, p=1, mean=True),
    ml.coupled({"a": ml.channels(0), "b": ml.channels(1)}),
    ml.coupled({"b": ml.heads(3, 1, parts=(1, 2)), "c": ml.elements()}, {"a": ml.blocks((2, 1)), "d": ml.channels(-1)}),
    ml.coupled({"b": ml.channels(0)}, {"a": ml.blocks((2, 2))}, p=2, mean=True),
]


def bound(groups):
    return partial(ml.compute_mask, groups=groups)


def weights(seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = {"fc1.weight": (4, 3), "fc1.bias": (4,), "fc2.weight": (2, 8), "conv.weight": (2, 3, 1, 1)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", VALUES, ids=repr)
def test_the_kit_finds_nothing_wrong(groups):
    check_groups(groups, examples=20)


@given(coupled(kinds=SMALL), st.sampled_from([None, 1, torch.inf, -torch.inf]), numbers(most=3))
def test_coupled_items_equal_the_oracle(case, p, number):
    groups, s, m = case
    groups = replace(groups, p=p, mean=False)
    laws.follows_the_rule(bound(groups), groups, number, s, m)


@given(coupled(kinds=SMALL), numbers(most=3))
def test_sums_of_coupled_items_equal_their_labels(case, number):
    groups, s, m = case
    laws.is_the_labels_form(replace(groups, p=None, mean=False), number, s, m)


@given(coupled(dtypes=FLOATS, kinds=("many", "small")), st.sampled_from(["amount", "sparsity"]), st.floats(0, 1))
def test_coupled_items_of_every_norm_equal_the_oracle_up_to_rounding(case, argument, share):
    groups, s, m = case
    assume(groups.p != -1 or all(bool((t != 0).all()) for t in s.values()))  # 1 / 0
    laws.is_exact(bound(groups), groups, {argument: share}, s, m)
    laws.takes_the_lowest(bound(groups), groups, operator.pos, {argument: share}, s, m)


@given(coupled())
def test_coupled_groups_are_plain_data(case):
    laws.is_plain_data(case[0])


@given(coupled(kinds=SMALL), st.floats(0, 1))
def test_coupled_methods_keep_the_laws_of_methods(case, share):
    groups, s, m = case
    for law in (laws.shrinks, laws.is_a_mask, laws.is_layout_blind, laws.is_order_blind, laws.shares_no_memory):
        law(partial(bound(groups), amount=share), s, m)


# ---- transforms -----------------------------------------------------------------------------------------------------


def test_coupled_groups_vmap_compile_and_export():
    s, m = weights(), {n: t > -1 for n, t in weights(1).items()}
    f = partial(bound(MIXED), amount=0.5)
    batch = [{n: torch.stack([t, t.flip(0), t.roll(1, 0)]) for n, t in part.items()} for part in (s, m)]
    laws.vmaps(f, *batch)
    laws.compiles(f, s, m)
    laws.exports(f, s, m)
    levels = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    laws.vmaps(lambda level: ml.compute_mask(s, m, sparsity=level, groups=MIXED), levels)


def test_vmap_over_some_tensors_of_a_set():
    s = weights()
    rows = torch.stack([s["fc1.weight"], -s["fc1.weight"].flip(0)])
    laws.vmaps(lambda w: bound(MIXED)({**s, "fc1.weight": w}, amount=3), rows)


# ---- values ---------------------------------------------------------------------------------------------------------


def test_parts_are_kept_in_lowest_terms():
    assert ml.heads(8, parts=[32, 8, 8]) == ml.heads(8, parts=(4, 1, 1))
    assert ml.heads(8, parts=(3,)) == ml.heads(8)


def test_sets_and_names_are_kept_in_sorted_order():
    a, b = {"b": ml.channels(0), "c": ml.channels(1)}, {"a": ml.elements()}
    assert ml.coupled(a, b) == ml.coupled(b, dict(reversed(a.items())))
    assert hash(ml.coupled(a, b)) == hash(ml.coupled(b, a))
    assert pickle.loads(pickle.dumps(MIXED)) == MIXED
    assert repr(ml.coupled(a, b, p=2)) == ("coupled({'a': elements()}, {'b': channels(), 'c': channels(dim=1)}, p=2.0)")


def test_no_sets_fit_no_names():
    assert ml.compute_mask({}, amount=0.5, groups=ml.coupled()) == {}


def test_a_counterexample_can_be_pasted():
    code = _refute.literal(MIXED)
    assert code.startswith("ml.coupled({'conv.weight': ml.blocks(shape=(1, 1))}, {'fc1.bias': ml.elements()")
    assert eval(code, {"ml": ml}) == MIXED


def test_the_kit_finds_a_method_that_ignores_parts():
    def blind(s, m=None, *, groups, **number):
        return ml.compute_mask(s, m, groups=replace(groups, parts=(1,)), **number)

    with pytest.raises(AssertionError, match=r"(?s)is_exact.*ml\.heads\(count=2, parts=\(2, 1\)\)"):
        check_groups(ml.heads(2, parts=(2, 1)), method=blind)


def test_the_kit_finds_a_method_that_does_not_couple():
    def alone(s, m=None, *, groups, **number):
        sets = [{name: member} for members in groups.members for name, member in members]
        return ml.compute_mask(s, m, groups=ml.coupled(*sets), **number)

    with pytest.raises(AssertionError, match=r"(?s)is_exact.*ml\.coupled\(\{'a': ml\.channels\(\), 'b'"):
        check_groups(ml.coupled({"a": ml.channels(0), "b": ml.channels(0)}), method=alone)


# ---- exact numbers --------------------------------------------------------------------------------------------------


def test_ties_go_by_the_least_name_of_a_set_then_by_item():
    s = {n: torch.ones(2, 2) for n in ("b", "a", "d", "c")}
    groups = ml.coupled({"d": ml.channels(0), "b": ml.channels(1)}, {"c": ml.channels(0), "a": ml.channels(0)})
    got = ml.compute_mask(s, amount=3, groups=groups)
    assert {n: mask.tolist() for n, mask in got.items()} == {
        "a": [[False, False], [False, False]],
        "c": [[False, False], [False, False]],
        "b": [[False, True], [False, True]],
        "d": [[False, False], [True, True]],
    }


def test_several_dtypes_add_up_in_float64():
    """2**24 + 1 is no float32."""
    groups = ml.coupled({"a": ml.elements(), "b": ml.elements(), "c": ml.elements()})
    s = {"a": torch.tensor([2**24 + 1, 2**24], dtype=torch.int32), "b": torch.zeros(2), "c": torch.zeros(2).bfloat16()}
    assert ml.compute_mask(s, amount=1, groups=groups)["c"].tolist() == [True, False]


def test_complex_tensors_beside_real_ones_count_by_their_magnitude():
    groups = ml.coupled({"a": ml.elements(), "b": ml.elements()}, p=2)
    s = {"a": torch.tensor([3 + 4j, 1j]), "b": torch.tensor([0.0, 5.0])}
    assert ml.compute_mask(s, amount=1, groups=groups)["b"].tolist() == [False, True]


def test_the_dead_of_every_tensor_are_left_out():
    s = {"a": torch.tensor([[9.0, 1.0], [2.0, 2.0]]), "b": torch.tensor([1.0, 9.0])}
    m = {"a": torch.tensor([[False, True], [True, True]]), "b": torch.tensor([True, False])}
    groups = ml.coupled({"a": ml.channels(0), "b": ml.channels(0)}, p=1)
    assert ml.compute_mask(s, m, keep=1, groups=groups)["a"].any(1).tolist() == [False, True]
    m["a"][0], m["b"][0] = False, False
    poisoned = {n: t.masked_fill(~m[n], float("nan")) for n, t in s.items()}
    assert not ml.compute_mask(poisoned, m, amount=1, groups=groups)["a"].any()


def test_chunked_is_whole(monkeypatch):
    s, m = weights(), {n: t > -1 for n, t in weights(1).items()}
    whole = [ml.compute_mask(s, alive, amount=0.5, groups=MIXED) for alive in (m, None)]
    monkeypatch.setattr(_items, "REDUCED", 5)
    assert all(laws.same(ml.compute_mask(s, alive, amount=0.5, groups=MIXED), w) for alive, w in zip((m, None), whole))


def test_nan_is_told_by_tensor():
    s = weights()
    s["fc1.bias"][1:3] = float("nan")
    s["fc2.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"2 NaN in scores of 'fc1.bias', 1 NaN in scores of 'fc2.weight'"):
        ml.compute_mask(s, amount=1, groups=MIXED)


def test_opposite_infinities_are_told_by_set():
    s = {"a": torch.tensor([torch.inf, 1.0]), "b": torch.tensor([-torch.inf, 1.0])}
    with pytest.raises(ValueError, match=r"1 items of `scores` of 'a', 'b' add up \+inf and -inf"):
        ml.compute_mask(s, amount=1, groups=ml.coupled({"a": ml.elements(), "b": ml.elements()}))


def test_every_layer_has_a_structure_of_its_own_in_one_pool():
    s = {"conv": torch.tensor([[1.0, 5.0], [6.0, 7.0]]), "fc": torch.tensor([[2.0, 2.0], [9.0, 9.0]])}
    groups = ml.coupled({"conv": ml.blocks((1, 1))}, {"fc": ml.channels(0)}, p=2, mean=True)
    got = ml.compute_mask(s, amount=2, groups=groups)
    assert got["conv"].tolist() == [[False, True], [True, True]]
    assert got["fc"].tolist() == [[False, False], [True, True]]


# ---- what is taken is gone ------------------------------------------------------------------------------------------


def pruned(model, groups, sparsity=0.5):
    """The parameters of a model with masks applied, and the masks."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    names = {name for members in groups.members for name, _ in members}
    masks = ml.compute_mask(ml.select(params, lambda name, p: name in names), sparsity=sparsity, groups=groups)
    return ml.apply(params, masks), masks


def test_a_unit_goes_with_its_bias_and_the_next_layers_inputs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    chain = {"0.weight": ml.channels(0), "0.bias": ml.channels(0), "2.weight": ml.channels(1)}
    params, masks = pruned(net, ml.coupled(chain, p=2))
    live = masks["0.bias"]
    assert live.sum() == 4
    cut = {"weight": params["0.weight"][live], "bias": params["0.bias"][live]}
    x = torch.randn(6, 5)
    hidden = nn.functional.linear(x, **cut).relu()
    expected = hidden @ params["2.weight"][:, live].T + params["2.bias"]
    torch.testing.assert_close(functional_call(net, params, (x,)), expected)


def test_a_channel_goes_with_its_norm_and_its_columns_behind_the_flatten():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 3)).eval()
    channel = dict.fromkeys(["0.weight", "0.bias", "1.weight", "1.bias"], ml.channels(0))
    params, masks = pruned(net, ml.coupled({**channel, "4.weight": ml.heads(6, dim=1)}, p=2))
    live = masks["0.bias"]
    assert live.sum() == 3
    small = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 3)).eval()
    cut = {n: t[live] if n in channel else t for n, t in params.items()}
    cut["4.weight"] = params["4.weight"].view(3, 6, 4)[:, live].flatten(1)
    x = torch.randn(5, 2, 4, 4)
    torch.testing.assert_close(functional_call(net, params, (x,)), functional_call(small, cut, (x,)))


def attend(q, k, v, size):
    """Attention over heads of so many elements, several query heads to a key/value head, of (time, heads * size)."""
    heads = (t.view(len(t), -1, size).transpose(0, 1)[None] for t in (q, k, v))
    mixed = nn.functional.scaled_dot_product_attention(*heads, enable_gqa=True)[0]
    return mixed.transpose(0, 1).flatten(1)


def test_a_head_of_fused_attention_goes_as_a_whole():
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(12, 4), torch.randn(5, 12)
    nn.init.normal_(attention.in_proj_bias)
    fused = ml.heads(4, parts=(1, 1, 1))
    groups = ml.coupled({"in_proj_weight": fused, "in_proj_bias": fused, "out_proj.weight": ml.heads(4, dim=1)}, p=2)
    params, masks = pruned(attention, groups)
    live = masks["out_proj.weight"].view(12, 4, 3).any(2)[0]
    assert live.sum() == 2
    weight = params["in_proj_weight"].view(3, 4, 3, 12)[:, live].flatten(1, 2)
    bias = params["in_proj_bias"].view(3, 4, 3)[:, live].flatten(1)
    out = params["out_proj.weight"].view(12, 4, 3)[:, live].flatten(1)
    expected = attend(*(x @ w.T + b for w, b in zip(weight, bias)), 3) @ out.T + params["out_proj.bias"]
    torch.testing.assert_close(functional_call(attention, params, (x, x, x))[0], expected)


@pytest.mark.parametrize("fused", [True, False])
def test_a_key_value_head_goes_with_its_queries(fused):
    """Six query heads of two elements, two key/value heads: as one projection, and as four."""
    torch.manual_seed(0)
    w = {"q": torch.randn(12, 5), "k": torch.randn(4, 5), "v": torch.randn(4, 5), "o": torch.randn(5, 12)}
    x = torch.randn(7, 5)
    if fused:
        groups = ml.coupled({"qkv": ml.heads(2, parts=(6, 2, 2)), "o": ml.heads(2, dim=1)}, p=2)
        masks = ml.compute_mask({"qkv": torch.cat([w[n] for n in "qkv"]), "o": w["o"]}, keep=1, groups=groups)
        masks = dict(zip("qkv", masks["qkv"].split([12, 4, 4]))) | {"o": masks["o"]}
    else:
        groups = ml.coupled({**dict.fromkeys("qkv", ml.heads(2)), "o": ml.heads(2, dim=1)}, p=2)
        masks = ml.compute_mask(w, keep=1, groups=groups)
    (kept,) = masks["k"].view(2, -1).any(1).nonzero().flatten().tolist()
    sparse, cut = ml.apply(w, masks), {n: t.chunk(2, 1 if n == "o" else 0)[kept] for n, t in w.items()}
    got, expected = (attend(*(x @ t[n].T for n in "qkv"), 2) @ t["o"].T for t in (sparse, cut))
    torch.testing.assert_close(got, expected)
