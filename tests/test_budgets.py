"""Budgets: published values, exact totals, what is fixed, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

import masklib as ml
from masklib import budgets


def shaped(*shapes):
    return {f"{i:02}": torch.empty(shape, device="meta") for i, shape in enumerate(shapes)}


LENET_300_100 = shaped((300, 784), (100, 300), (10, 100))
LENET_5 = shaped((6, 1, 5, 5), (16, 6, 5, 5), (120, 256), (84, 120), (10, 84))
BUDGETS = {"uniform": budgets.uniform, "er": budgets.er, "erk": budgets.erk}
over_budgets = pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)

# ---- published values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "sparsity", "expected"),
    [
        (LENET_300_100, 0.8, [0.83775877, 0.53063792, 0]),
        (LENET_300_100, 0.9, [0.92043223, 0.76981132, 0]),
        (LENET_300_100, 0.95, [0.96151587, 0.88866583, 0.0814931]),
        (LENET_5, 0.9, [0.3073029, 0.91850622, 0.92519126, 0.87630409, 0.31603438]),
    ],
)
def test_erk_of_lenets(params, sparsity, expected):
    assert list(budgets.erk(params, sparsity).values()) == pytest.approx(expected, abs=1e-8)


def resnet_50():
    """The weights of ResNet-50 v1.5, with the output positions of each: (shape, positions)."""
    layers, size, width = [((64, 3, 7, 7), 112**2)], 56, 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        planes = 64 * 2**stage
        for block in range(blocks):
            inner, size = size, size // 2 if stage and not block else size
            layers += [((planes, width, 1, 1), inner**2), ((planes, planes, 3, 3), size**2)]
            layers += [((4 * planes, planes, 1, 1), size**2)]
            layers += [] if block else [((4 * planes, width, 1, 1), size**2)]
            width = 4 * planes
    return [*layers, ((1000, 2048), 1)]


def test_erk_of_resnet_50():
    """Evci et al. 2020, table 1: the share of FLOPs, and the size of the model in 10^6 bytes."""
    layers = resnet_50()
    params = shaped(*(shape for shape, _ in layers))
    flops = {n: 2 * positions * t.numel() for (n, t), (_, positions) in zip(params.items(), layers)}
    assert sum(t.numel() for t in params.values()) == 25_502_912
    assert sum(flops.values()) / 1e9 == pytest.approx(8.178, abs=5e-4)
    for sparsity, ratio, size in ((0.8, 0.4138, 23.683), (0.9, 0.2418, 13.499), (0.95, 0.1217, 8.399)):
        s = budgets.erk(params, sparsity)
        assert sum((1 - s[n]) * flops[n] for n in s) / sum(flops.values()) == pytest.approx(ratio, abs=5e-5)
        nonzeros = sum(t.numel() - math.floor(s[n] * t.numel()) for n, t in params.items())
        bits = sum(t.numel() for n, t in params.items() if s[n])
        assert (4 * nonzeros + bits / 8 + 4 * 27_560) / 1e6 == pytest.approx(size, abs=1e-3)


# ---- laws -----------------------------------------------------------------------------------------------------------

SHAPES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)


def total(params, sparsities):
    return math.fsum(sparsities[n] * t.numel() for n, t in params.items())


@over_budgets
@given(SHAPES, st.floats(0, 1))
def test_they_add_up_to_what_was_asked_for(budget, shapes, sparsity):
    params = shaped(*shapes)
    got = budget(params, sparsity)
    elements = sum(t.numel() for t in params.values())
    assert total(params, got) == pytest.approx(sparsity * elements, abs=1e-9 * elements)
    assert all(-1e-12 <= s <= 1 + 1e-12 for s in got.values())
    assert list(got) == list(params)


@over_budgets
@given(SHAPES, st.floats(0, 1), st.integers(0, 3))
@example([(5, 3), (50, 10), (300, 1)], 0.5, 10)  # bounds on both sides
@example([(), (3, 4), (6,)], 0.5, 0)
def test_they_are_proportional_between_bounds(budget, shapes, sparsity, least):
    """The same densities as by bisection of clip(e * raw, low, 1)."""
    params = shaped(*shapes)
    sizes = {n: t.numel() for n, t in params.items()}
    alive = (1 - sparsity) * sum(sizes.values())
    assume(least <= min(sizes.values()) and least * len(sizes) <= alive)
    raw = {"uniform": lambda t: 1.0, "er": lambda t: ratio(t.shape[:2]), "erk": lambda t: ratio(t.shape)}
    weights = {n: raw[budget.__name__](t) for n, t in params.items()}

    def clipped(e):
        return {n: min(max(e * weights[n], least / sizes[n]), 1.0) for n in sizes}

    low, high = 0.0, 1 / min(weights.values())
    for _ in range(200):
        middle = (low + high) / 2
        over = sum(clipped(middle)[n] * sizes[n] for n in sizes) > alive
        low, high = (low, middle) if over else (middle, high)
    expected = clipped(low)
    got = budget(params, sparsity, least=least)
    assert [1 - s for s in got.values()] == pytest.approx(list(expected.values()), abs=1e-7)


def ratio(shape):
    return sum(shape) / math.prod(shape) if len(shape) > 1 else 1.0


@given(SHAPES, st.data())
def test_kept_is_exact_in_all_and_to_one_element_in_each(shapes, data):
    params = shaped(*shapes)
    sparsities = {n: data.draw(st.floats(0, 1)) for n in params}
    counts = budgets.kept(params, sparsities)
    elements = sum(t.numel() for t in params.values())
    assert sum(counts.values()) == elements - round(total(params, sparsities))
    assert all(abs(counts[n] - (1 - sparsities[n]) * t.numel()) <= 1 for n, t in params.items())
    assert all(0 <= counts[n] <= t.numel() for n, t in params.items())


@over_budgets
def test_the_budgets_are_proportional_to_their_densities(budget):
    raw = {"uniform": lambda t: 1.0, "er": lambda t: ratio(t.shape[:2]), "erk": lambda t: ratio(t.shape)}[
        budget.__name__
    ]
    densities = {n: 3 * raw(t) for n, t in LENET_5.items()}
    for sparsity, fixed, least in ((0.9, None, 0), (0.5, {"00": 0.0}, 0), (0.99, None, 50)):
        expected = budget(LENET_5, sparsity, fixed=fixed, least=least)
        assert budgets.proportional(LENET_5, sparsity, densities, fixed=fixed, least=least) == pytest.approx(expected)


@given(SHAPES, st.data(), st.floats(0, 1))
def test_any_densities_add_up_in_their_proportion(shapes, data, sparsity):
    params = shaped(*shapes)
    densities = {n: data.draw(st.floats(0.01, 100)) for n in params}
    got = budgets.proportional(params, sparsity, densities)
    elements = sum(t.numel() for t in params.values())
    assert total(params, got) == pytest.approx(sparsity * elements, abs=1e-9 * elements)
    factors = [(1 - got[n]) / densities[n] for n in params if got[n] > 1e-9]
    assert factors == pytest.approx([max(factors, default=0)] * len(factors), rel=1e-6, abs=1e-9)
    full = [1 / densities[n] for n in params if got[n] <= 1e-9]
    assert all(f <= max(factors, default=math.inf) + 1e-6 * f + 1e-9 for f in full) or not factors


def test_a_density_of_zero_keeps_the_least():
    got = budgets.proportional(
        LENET_5, 0.8, {"00": 0.0, "01": 1.0, "02": 1.0, "03": torch.tensor(1.0), "04": 2}, least=3
    )
    assert got["00"] == 1 - 3 / 150
    assert total(LENET_5, got) == pytest.approx(0.8 * 44_190)
    assert budgets.proportional(LENET_5, 1.0, dict.fromkeys(LENET_5, 0.0)) == dict.fromkeys(LENET_5, 1.0)


def test_outlier_weighed_layers():
    """OWL (Yin et al. 2024) is its densities, and the total exact; of equal layers they are met as they are."""
    shares = {"00": 0.02, "01": 0.05, "02": 0.11}
    params, low, high = shaped((8, 8), (8, 8), (8, 8)), 0.02, 0.11
    ratios = {n: 0.16 * (r - low) / (high - low) for n, r in shares.items()}
    densities = {n: r - sum(ratios.values()) / 3 + 0.3 for n, r in ratios.items()}
    got = budgets.proportional(params, 0.7, densities)
    assert {n: 1 - s for n, s in got.items()} == pytest.approx(densities)


@given(SHAPES, st.data())
def test_kept_counts_items(shapes, data):
    params = shaped(*shapes)
    sparsities = {n: data.draw(st.floats(0, 1)) for n in params}
    counts = budgets.kept(params, sparsities, groups=ml.channels(0))
    items = {n: t.shape[0] for n, t in params.items()}
    assert sum(counts.values()) == sum(items.values()) - round(math.fsum(sparsities[n] * items[n] for n in params))
    assert all(abs(counts[n] - (1 - sparsities[n]) * items[n]) <= 1 for n in params)


def test_kept_items_prune_what_they_say():
    weights = {n: torch.randn(t.shape) for n, t in LENET_5.items()}
    counts = budgets.kept(weights, budgets.uniform(weights, 0.5), groups=ml.channels(0))
    masks = ml.layerwise(ml.ln_structured)(weights, n=2, dim=0, keep=counts)
    assert {n: int(m.flatten(1).any(1).sum()) for n, m in masks.items()} == counts
    assert sum(counts.values()) == sum(t.shape[0] for t in weights.values()) // 2
    tiles = {"02": weights["02"], "03": weights["03"]}
    assert budgets.kept(tiles, {"02": 0.5, "03": 0.25}, groups=ml.blocks((4, 8))) == {"02": 480, "03": 236}
    assert budgets.kept(tiles, {"02": 0.5, "03": 0.25}, groups=ml.elements()) == budgets.kept(
        tiles, {"02": 0.5, "03": 0.25}
    )


def test_they_prune_what_they_say():
    weights = {n: torch.randn(t.shape) for n, t in LENET_5.items()}
    sparsities = budgets.erk(weights, 0.9)
    masks = ml.layerwise(ml.l1_unstructured)(weights, keep=budgets.kept(weights, sparsities))
    assert ml.count(masks) == 4419
    by_share = ml.layerwise(ml.l1_unstructured)(weights, sparsity=sparsities)
    assert abs(int(ml.count(by_share)) - 4419) <= len(weights)


# ---- fixed ----------------------------------------------------------------------------------------------------------


@over_budgets
@pytest.mark.parametrize("fixed", [{"00": 0.0, "0[34]": 0.5}, lambda n, t: {"00": 0.0, "03": 0.5, "04": 0.5}.get(n)])
def test_the_others_make_up_for_what_is_fixed(budget, fixed):
    got = budget(LENET_5, 0.8, fixed=fixed)
    assert (got["00"], got["03"], got["04"]) == (0.0, 0.5, 0.5)
    assert total(LENET_5, got) == pytest.approx(0.8 * 44_190)


def test_the_first_pattern_that_fits_counts():
    got = budgets.uniform(LENET_300_100, 0.5, fixed={"02": 0.0, "*2": 1.0})
    assert got["02"] == 0


def test_a_name_is_itself_before_it_is_a_pattern():
    params = {"w[0]": torch.empty(4), "w0": torch.empty(4), "w[1]": torch.empty(4)}
    assert budgets.uniform(params, 0.5, fixed={"w[0]": 0.0}) == {"w[0]": 0.0, "w0": 0.75, "w[1]": 0.75}
    assert budgets.uniform(params, 0.5, fixed={"*": 0.5, "w[1]": 1.0, "w[0]": 0.0})["w[0]"] == 0
    assert budgets.uniform(params, 0.5, fixed={"w[01]": 0.0})["w0"] == 0


def test_every_layer_keeps_the_least():
    got = budgets.kept(LENET_5, budgets.erk(LENET_5, 0.99, least=50))
    assert sum(got.values()) == 442
    assert min(got.values()) >= 50


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "`sparsity` must be a number in", lambda: budgets.erk(LENET_5, 1.5)),
        (TypeError, "`params` must be a mapping", lambda: budgets.erk(torch.ones(2), 0.5)),
        (ValueError, "fit no tensor: \\['fc\\*'\\]", lambda: budgets.erk(LENET_5, 0.5, fixed={"fc*": 0.0})),
        (TypeError, "`fixed` must be a mapping or a function", lambda: budgets.erk(LENET_5, 0.5, fixed=["fc"])),
        (ValueError, "fixed\\['00'\\]` must be a number in", lambda: budgets.erk(LENET_5, 0.5, fixed={"00": 2})),
        (ValueError, "must be between 0 and 0.30482 ", lambda: budgets.er(LENET_5, 0.9, fixed={"02": 0.0})),
        (ValueError, "`sparsity` must be between 0.3", lambda: budgets.uniform(LENET_5, 0.1, fixed={"02": 0.5})),
        (ValueError, "`least` must be between 0 and the size 150", lambda: budgets.uniform(LENET_5, 0.9, least=151)),
        (ValueError, "`sparsity` must be between", lambda: budgets.uniform(LENET_5, 0.999, least=100)),
        (ValueError, "exactly the names", lambda: budgets.kept(LENET_5, {"00": 0.5})),
        (ValueError, "`densities` must have exactly", lambda: budgets.proportional(LENET_5, 0.5, {"00": 0.5})),
        (
            ValueError,
            "`densities\\['01'\\]` must be finite and not negative, got -1",
            lambda: budgets.proportional(LENET_5, 0.5, {**dict.fromkeys(LENET_5, 1.0), "01": -1}),
        ),
        (
            TypeError,
            "`densities\\['01'\\]` must be a number",
            lambda: budgets.proportional(LENET_5, 0.5, {**dict.fromkeys(LENET_5, 1.0), "01": "big"}),
        ),
        (
            ValueError,
            "`sparsity` must be between 1 and 1 ",
            lambda: budgets.proportional(LENET_5, 0.5, dict.fromkeys(LENET_5, 0.0)),
        ),
        (TypeError, "`params` must be a mapping", lambda: budgets.proportional(torch.ones(2), 0.5, {})),
        (
            ValueError,
            "`groups` must have one pool a tensor, got rows\\(\\), of which '00' has 6",
            lambda: budgets.kept(LENET_5, budgets.uniform(LENET_5, 0.5), groups=ml.rows()),
        ),
        (TypeError, "`groups` must fold", lambda: budgets.kept(LENET_5, budgets.uniform(LENET_5, 0.5), groups=ml.rows)),
        (
            ValueError,
            "`params` of '01' does not fit blocks",
            lambda: budgets.kept(LENET_300_100, budgets.uniform(LENET_300_100, 0.5), groups=ml.blocks((3, 4))),
        ),
    ],
)
def test_what_cannot_be_met_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


@over_budgets
def test_nothing_to_share_out(budget):
    assert budget({}, 0.5) == {}
    assert budget(shaped((0, 3), (2, 2)), 0.5) == {"00": 1.0, "01": 0.5}
