"""Chains: a tensor in two sets; and floors: so many items of a tensor stay."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import masklib as ml
from masklib.testing import laws

CHAIN = ml.coupled(
    {"0.weight": ml.channels(0), "0.bias": ml.channels(0), "2.weight": ml.channels(1)},
    {"2.weight": ml.channels(0), "2.bias": ml.channels(0), "4.weight": ml.channels(1)},
    p=2,
    mean=True,
)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def weights(net):
    return {n: p.detach() for n, p in net.named_parameters() if n != "4.bias"}


def test_each_unit_is_scored_over_both_its_sides_and_the_masks_are_intersected():
    s = weights(network())
    masks = ml.compute_mask(s, amount=4, groups=CHAIN)
    hidden = [
        torch.cat([s["0.weight"], s["0.bias"][:, None], s["2.weight"].T], 1),
        torch.cat([s["2.weight"], s["2.bias"][:, None], s["4.weight"].T], 1),
    ]
    norms = torch.cat([side.double().square().mean(1).sqrt() for side in hidden])
    kept = torch.ones(11, dtype=torch.bool)
    kept[norms.argsort()[:4]] = False
    first, second = kept.split([6, 5])
    assert torch.equal(masks["0.weight"], first[:, None].expand(6, 3))
    assert torch.equal(masks["2.weight"], second[:, None] & first)
    assert torch.equal(masks["4.weight"], second.expand(2, 5))


def test_a_chain_can_be_cut_out():
    net = network()
    params = dict(net.named_parameters())
    masks = ml.compute_mask(weights(net), sparsity=0.4, groups=CHAIN)
    a, b = masks["0.bias"], masks["2.bias"]
    linear = [nn.Linear(*pair) for pair in pairwise((3, int(a.sum()), int(b.sum()), 2))]
    small = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    cut = {"0.weight": params["0.weight"][a], "0.bias": params["0.bias"][a], "2.weight": params["2.weight"][b][:, a]}
    cut |= {"2.bias": params["2.bias"][b], "4.weight": params["4.weight"][:, b], "4.bias": params["4.bias"]}
    x = torch.randn(7, 3)
    torch.testing.assert_close(functional_call(small, cut, (x,)), functional_call(net, ml.apply(params, masks), (x,)))


def test_a_chain_under_every_transform():
    s = weights(network())
    f = lambda s: ml.compute_mask(s, sparsity=0.5, groups=CHAIN)  # noqa: E731
    laws.compiles(f, s)
    laws.exports(f, s)
    laws.vmaps(f, {n: torch.stack([t, -t.flip(0), t * 2]) for n, t in s.items()})


def test_chains_are_plain_data():
    laws.is_plain_data(CHAIN)


# ---- floors ---------------------------------------------------------------------------------------------------------


def oracle(values, alive, die, floors):
    """The lowest die, one by one, from tensors that still have more than their floor."""
    left = {n: [i for i, a in enumerate(alive[n]) if a] for n in values}
    order = sorted((values[n][i], n, i) for n in left for i in left[n])
    dead = []
    for _, n, i in order:
        if len(dead) < die and len(left[n]) > floors[n]:
            left[n].remove(i)
            dead.append((n, i))
    return left if len(dead) == die else None


@given(st.data())
def test_floors_hold_and_the_total_is_exact(data):
    names = ["b", "a", "c"][: data.draw(st.integers(1, 3))]
    sizes = {n: data.draw(st.integers(1, 6)) for n in names}
    values = {n: data.draw(st.lists(st.integers(0, 3), min_size=k, max_size=k)) for n, k in sizes.items()}
    alive = {n: data.draw(st.lists(st.booleans(), min_size=k, max_size=k)) for n, k in sizes.items()}
    floors = {n: data.draw(st.integers(0, 2)) for n in names}
    total = sum(map(sum, alive.values()))
    die = data.draw(st.integers(0, total))
    s, m = {n: torch.tensor(v).float() for n, v in values.items()}, {n: torch.tensor(v) for n, v in alive.items()}
    possible = all(sum(alive[n]) >= floors[n] for n in names) and die <= total - sum(floors.values())
    if not possible:
        with pytest.raises(ValueError, match="`least`"):
            ml.compute_mask(s, m, amount=die, least=floors)
        return
    masks = ml.compute_mask(s, m, amount=die, least=floors)
    expected = oracle(values, alive, die, floors)
    assert {n: mask.nonzero().flatten().tolist() for n, mask in masks.items()} == expected


@given(st.integers(0, 5), st.floats(0, 1), st.integers(0, 100))
def test_floors_of_channels_and_sets(least, share, seed):
    s = {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(seed)) for n, t in weights(network()).items()}
    total = 11 - round(share * 11)
    assume(2 * least <= total)
    masks = ml.compute_mask(s, sparsity=share, groups=CHAIN, least=least)
    kept = masks["0.bias"].sum(), masks["2.bias"].sum()
    assert min(kept) >= least
    assert sum(kept) == total


def test_a_layer_that_global_pruning_would_empty_keeps_its_floor():
    s = {"wide": torch.full((14, 4), 3.0), "narrow": torch.full((4, 2), 0.1)}
    groups = ml.channels(p=2)
    without = ml.compute_mask(s, sparsity=0.5, groups=groups)
    floor = ml.compute_mask(s, sparsity=0.5, groups=groups, least={"narrow": 2})
    assert [int(m.any(1).sum()) for m in without.values()] == [9, 0]
    assert [int(m.any(1).sum()) for m in floor.values()] == [7, 2]


def test_a_floor_of_zero_changes_nothing_and_vmaps_compile():
    s = {"a": torch.rand(5, generator=torch.Generator().manual_seed(0)), "b": torch.rand(3) / 9}
    f = lambda s: ml.compute_mask(s, sparsity=0.5, least=1)  # noqa: E731
    assert laws.same(ml.compute_mask(s, sparsity=0.5, least=0), ml.compute_mask(s, sparsity=0.5))
    assert f(s)["b"].any()
    laws.compiles(f, s)
    laws.exports(f, s)
    laws.vmaps(f, {n: torch.stack([t, -t]) for n, t in s.items()})
