"""Units that can go though masks have not killed all of them: exactly those, and constants that are folded."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import zoo
from cutting import NAMES, close, found, outputs
from torch import nn

import masklib as ml
from masklib.adapters.structural import fold_constants, idle, shrink, structure
from masklib.adapters.structural._flow import Flow

pytestmark = pytest.mark.filterwarnings("ignore:the config of")
SHARES = (0.8, 0.95)


def sparse(model, seed, share, biases):
    """Unstructured masks, of biases and norms too or not."""
    noise = torch.Generator().manual_seed(seed)
    named = [(n, p) for n, p in model.named_parameters() if biases or p.dim() > 1]
    return {n: torch.rand(p.shape, generator=noise) > share for n, p in named}


def values(model):
    return {n: p.detach() for n, p in model.named_parameters()}


def masked(model, inputs, masks):
    with torch.no_grad():
        return outputs(model, inputs, ml.apply(values(model), masks))


def killed(params, each, unit):
    """A model's values with one unit at zero."""
    new = dict(params)
    for d in each.dims:
        new[d.name] = new[d.name].index_fill(d.dim, d.places[unit], 0.0)
    return new


def total(*vectors):
    return sum(int(v.sum()) for each in vectors for v in each)


# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_without_idle_units_the_outputs_are_the_same_to_the_bit(name, biases):
    model, inputs, sets = found(name)
    before = copy.deepcopy(model.state_dict())
    for seed, share in enumerate(SHARES):
        masks = sparse(model, seed, share, biases)
        units = idle(model, masks, sets)
        assert all(map(torch.equal, masked(model, inputs, masks), masked(model, inputs, units.masks)))
        assert all(not (units.masks[n] & ~masks[n]).any() for n in masks)
        again = idle(model, units.masks, sets)
        assert again.units == 0
        assert total(again.constant, again.normed) == total(units.constant, units.normed)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["mlp", "vgg", "mobilenet", "unet", "lstm", "encoder", "llama", "gpt2", "falcon", "t5"]
)
def test_shrink_removes_them(name):
    model, inputs, sets = found(name)
    masks = sparse(model, 1, 0.9, True)
    units = idle(model, masks, sets)
    small = shrink(model, units.masks, sets)
    tolerance = 1e-6 if name in zoo.LANGUAGE else 1e-11
    assert close(masked(model, inputs, masks), outputs(small, inputs), tolerance)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def oracle(model, inputs, masks, sets, draws=10):
    """For each set, the units whose loss changes no output, for several values of what lives; it knows no graph.

    Half of the values are positive, and some are small, so that no `relu6` hides a path.
    """
    same = [torch.ones(s.units, dtype=torch.bool) for s in sets.sets]
    for seed in range(draws):
        noise = torch.Generator().manual_seed(seed)
        drawn = {
            n: torch.randn(p.shape, generator=noise, dtype=p.dtype) / 2 ** (seed // 2) for n, p in values(model).items()
        }
        params = ml.apply({n: t.abs() if seed % 2 else t for n, t in drawn.items()}, masks)
        full = outputs(model, inputs, params)
        for each, still in zip(sets.sets, same):
            for unit in still.nonzero()[:, 0].tolist():
                still[unit] = all(map(torch.equal, full, outputs(model, inputs, killed(params, each, unit))))
    return same


def slices_dead(masks, d, shape):
    """For each unit, whether all that it has along a dim is dead."""
    mask = masks.get(d.name, torch.ones(shape, dtype=torch.bool))
    return ~mask.movedim(d.dim, 0).reshape(shape[d.dim], -1).any(1)[d.places].any(1)


@pytest.mark.parametrize("share", [0.6, 0.9])
@pytest.mark.parametrize("name", "mlp vgg resnet unet upscale densenet".split())  # noqa: SIM905
@torch.no_grad()
def test_no_unit_is_missed_that_an_oracle_finds(name, share):
    """What is left is needed one by one, but for the last of a set.

    Not looked for is what only a part of a unit needs that leads nowhere: what goes into a depthwise weight or a norm's
    weight that is dead, or into queries whose values are.
    """
    model, inputs, sets = found(name)
    for biases in (False, True):
        masks = sparse(model, 0, share, biases)
        norms = [n for n in masks if n.endswith("weight") and masks[n].dim() == 1]
        units = idle(model, {n: m for n, m in masks.items() if n not in norms}, sets)
        alone = oracle(model, inputs, units.masks, sets)
        for i, each in enumerate(sets.sets):
            live = ~torch.stack([slices_dead(units.masks, d, sets.shapes[d.name]) for d in each.dims]).all(0)
            assert torch.equal(alone[i] & live, units.last[i]), each


def paths(masks, layers):
    """Neurons of a chain by walking every way, one weight after another, from the outputs back."""
    live = [set(range(masks[layers[-1]].shape[0]))]
    for name in reversed(layers):
        live.append({i for o in live[-1] for i in range(masks[name].shape[1]) if masks[name][o, i]})
    return live[::-1][1:-1]


@pytest.mark.parametrize("seed", range(20))
def test_neurons_of_a_chain_go_where_no_way_leads_out(seed):
    model, _, sets = found("mlp")
    masks = sparse(model, seed, 0.8, False)
    units, layers = idle(model, masks, sets), ["0.weight", "2.weight", "4.weight"]
    for each, stay in zip(sets.sets, paths(masks, layers)):
        name = each.dims[0].name
        expected = sorted(stay) or [0]
        assert units.masks[name.replace("weight", "bias")].nonzero()[:, 0].tolist() == expected


# ---- what is told ---------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False), nn.Linear(4, 2)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


def row(shape, *dead):
    mask = torch.ones(shape, dtype=torch.bool)
    mask[list(dead)] = False
    return mask


def test_one_dead_factor_of_two_is_enough():
    model, x = Gated(), (torch.randn(2, 3),)
    sets = structure(model, x)
    units = idle(model, {"gate.weight": row((4, 3), 0), "up.weight": row((4, 3), 0, 2)}, sets)
    assert units.nothing[0].tolist() == [True, False, True, False]
    assert repr(units).splitlines() == [
        "2 units are idle",
        "  4 units of gate.weight[0], up.weight[0], down.weight[1]: 2 are zero",
    ]


def test_a_zero_that_a_function_makes_a_number_is_a_constant():
    for function, nothing in ((nn.ReLU(), 1), (nn.Sigmoid(), 0), (nn.Softplus(), 0)):
        model = nn.Sequential(nn.Linear(3, 4, bias=False), function, nn.Linear(4, 2))
        sets = structure(model, (torch.randn(2, 3),))
        units = idle(model, {"0.weight": row((4, 3), 1)}, sets)
        assert (total(units.nothing), total(units.constant)) == (nothing, 1 - nothing)


def test_units_that_lead_only_to_one_another_lead_nowhere():
    """The second layer's neurons are read by a third's, which nothing reads."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    sets = structure(model, (torch.randn(2, 3),))
    masks = {"2.weight": torch.eye(4, dtype=torch.bool), "4.weight": row((4, 2), 1, 3).T}
    units = idle(model, masks, sets)
    assert [v.tolist() for v in units.nowhere] == [[False, True, False, True]] * 2
    cell = nn.LSTM(3, 4, batch_first=True)
    model = nn.Sequential(cell)
    recurrent = structure(Last(cell), (torch.randn(2, 5, 3),))
    alone = torch.eye(4, dtype=torch.bool).repeat(4, 1)  # each hears itself alone
    units = idle(Last(cell), {"cells.weight_hh_l0": alone, "head.weight": row((4, 2), 2).T}, recurrent)
    assert units.nowhere[0].tolist() == [False, False, True, False]


class Last(nn.Module):
    def __init__(self, cells):
        super().__init__()
        torch.manual_seed(0)
        self.cells, self.head = cells, nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


def test_a_width_that_a_norm_takes_the_mean_of_stays_unless_it_is_zero():
    model, _, sets = found("llama")
    width = sets.select(lambda s: s.units == 16)
    readers = [d for d in width.sets[0].dims if d.dim == 1 and d.name != "model.embed_tokens.weight"]
    masks = {d.name: torch.ones(sets.shapes[d.name], dtype=torch.bool) for d in readers}
    for mask in masks.values():
        mask[:, 5] = False
    masks["model.norm.weight"] = row(16, 5)
    units = idle(model, masks, width)
    assert units.units == 0
    assert units.normed[0].nonzero()[:, 0].tolist() == [5]
    assert "1 stay, but only for a norm" in repr(units)


def test_one_unit_of_a_set_stays():
    model, inputs, sets = found("mlp")
    units = idle(model, {"4.weight": torch.zeros(3, 8, dtype=torch.bool)}, sets)
    assert [v.nonzero()[:, 0].tolist() for v in units.last] == [[0], [0]]
    assert units.units == 11 + 7
    assert "1 stays, since a layer cannot have none" in repr(units)
    small = shrink(model, units.masks, sets)
    assert (small[0].out_features, small[2].out_features) == (1, 1)
    assert close(outputs(small, inputs), masked(model, inputs, {"4.weight": torch.zeros(3, 8, dtype=torch.bool)}))


def test_sets_that_are_not_selected_are_needed():
    model, _, sets = found("mlp")
    masks = {"4.weight": torch.zeros(3, 8, dtype=torch.bool)}
    first = idle(model, masks, sets.select(lambda s: s.units == 12))
    assert first.units == 0


def test_tensors_that_are_computed_from_others_stay():
    """Of a low-rank update, the part that reads is computed from two tensors."""
    model = nn.Sequential(Updated(), nn.ReLU(), Updated())
    sets = structure(model, (torch.randn(2, 4),))
    units = idle(model, {"2.weight": row((4, 4), 1).T, "0.weight": row((4, 4), 2)}, sets)
    assert units.units == 0


class Exponential(nn.Module):
    def __init__(self, wide, out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, wide))

    def forward(self, x):
        return F.linear(x, self.weight.exp())


def test_a_weight_of_which_zeros_are_no_zeros_is_read():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Exponential(4, 2))
    assert idle(model, {"2.weight": row((4, 2), 1).T}, structure(model, (torch.randn(2, 3),))).units == 0


class Updated(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.a, self.b = (nn.Parameter(torch.randn(shape)) for shape in ((4, 4), (2, 4), (4, 2)))

    def forward(self, x):
        return F.linear(x, self.weight + self.b @ self.a)


def test_what_the_graph_finds_is_run_before_it_is_returned(monkeypatch):
    model, _, sets = found("mlp")
    monkeypatch.setattr(Flow, "needed", lambda self, quiet, normed: (normed, normed))
    with pytest.raises(ValueError, match="would not compute the same"):
        idle(model, {"0.weight": torch.ones(12, 5, dtype=torch.bool)}, sets)


# ---- constants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_folded_constants_are_exact(name):
    model, inputs, sets = found(name)
    tolerance = 1e-6 if name in zoo.LANGUAGE else 1e-12
    for seed, share in enumerate((0.9,)):
        masks = sparse(model, seed, share, False)
        folded, new = fold_constants(model, masks, sets)
        assert close(masked(model, inputs, masks), masked(folded, inputs, new), tolerance)
        before, after = idle(model, masks, sets), idle(folded, new, sets)
        assert after.units == 0
        assert total(after.constant) <= total(before.constant)


@pytest.mark.parametrize("name", ["mlp", "packed", "gpt2", "encoder", "opt"])
def test_all_constants_are_folded_where_readers_have_biases(name):
    model, inputs, sets = found(name)
    masks = sparse(model, 0, 0.9, False)
    before = idle(model, masks, sets)
    folded, new = fold_constants(model, masks, sets)
    after = idle(folded, new, sets)
    assert total(before.constant) > 0 == total(after.constant)
    small, larger = shrink(folded, new, sets), shrink(model, before.masks, sets)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in larger.parameters())
    others = {n: x.flip(1) for n, x in inputs.items()} if isinstance(inputs, dict) else (torch.randn_like(inputs[0]),)
    assert close(masked(model, others, masks), outputs(small, others), 1e-6 if name in zoo.LANGUAGE else 1e-11)


def constant(model, x, mask):
    """How many constants there are, before and after they are folded."""
    sets = structure(model.double().eval(), (x.double(),))
    masks = {"0.weight": mask}
    folded, new = fold_constants(model, masks, sets)
    return [total(idle(model, masks, sets).constant), total(idle(folded, new, sets).constant)]


def test_constants_stay_where_a_bias_cannot_hold_them():
    x, dead = torch.randn(2, 3, 6, 6), row((4, 3, 3, 3), 1)
    conv = nn.Conv2d(3, 4, 3)
    assert constant(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 2, 3)), x, dead) == [1, 0]
    assert constant(nn.Sequential(conv, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)), x, dead) == [1, 0]
    assert constant(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)), x, dead) == [1, 1]
    assert constant(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 2, 3, bias=False)), x, dead) == [1, 1]
    assert constant(nn.Sequential(conv, nn.ReLU(), nn.ConvTranspose2d(4, 2, 3)), x, dead) == [1, 1]
    assert constant(nn.Sequential(conv, nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)), x, dead) == [0, 0]
    shared = nn.Linear(4, 4)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), shared, nn.Tanh(), shared, nn.Linear(4, 2))
    assert constant(net, torch.randn(2, 3), row((4, 3), 1)) == [0, 0]


class Named(nn.Linear):
    """A layer that is called by keyword, on single examples."""

    def __call__(self, x):
        return super().__call__(input=x)


def test_layers_that_are_called_by_keyword_are_heard():
    assert constant(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Named(4, 2)), torch.randn(3), row((4, 3), 1)) == [1, 0]


def test_masked_biases_live_again_where_they_hold_a_constant():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    nn.init.ones_(model[0].bias)
    sets, x = structure(model, (torch.randn(2, 3, dtype=torch.float64),)), torch.randn(5, 3, dtype=torch.float64)
    masks = {"0.weight": row((4, 3), 1), "2.bias": torch.zeros(2, dtype=torch.bool), "2.weight": row((2, 4))}
    masks["2.weight"][1, 1] = False
    folded, new = fold_constants(model, masks, sets)
    assert new["2.bias"].tolist() == [True, False]
    assert torch.equal(folded[2].bias[0], model[2].weight[0, 1])
    assert torch.equal(folded[2].bias[1], model[2].bias[1])
    assert close(masked(model, (x,), masks), masked(folded, (x,), new), 1e-14)
