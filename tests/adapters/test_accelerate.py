"""Layers in other forms compute what the dense ones do; the fastest are chosen; what was tried is told."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from sparse_layers import FAST, ROWS, net, sparse, state_of, timer
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import parametrize
from masklib.adapters.accelerate import SparseConv, SparseLinear, TwoOfFour, _race, accelerate, race, restore
from masklib.adapters.accelerate._forms import forms_of

# ---- the forms compute what the dense layer computes ----------------------------------------------------------------


@given(st.integers(0, 99), st.sampled_from([(), (1,), (7,), (0,), (2, 3), (1, 1)]), st.booleans(), st.booleans())
def test_a_sparse_linear_layer_is_the_dense_one(seed, batch, bias, rows_first):
    torch.manual_seed(seed)
    layer = sparse(nn.Linear(6, 9, bias=bias, dtype=torch.float64), seed % 5 / 4, seed)
    x = torch.randn(*batch, 6, dtype=torch.float64)
    got = SparseLinear(layer, rows_first=rows_first)(x)
    torch.testing.assert_close(got, layer(x))
    assert got.is_contiguous()
    torch.testing.assert_close(TwoOfFour(layer)(x), layer(x))


@given(st.integers(0, 99), st.sampled_from([16, 32]), st.sampled_from([(), (1,), (5,), (2, 3)]), st.booleans())
def test_a_layer_of_blocks_is_the_dense_one(seed, block, batch, rows_first):
    torch.manual_seed(seed)
    layer = sparse(nn.Linear(64, 96), seed % 4 / 3, seed, block)
    x = torch.randn(*batch, 64)
    torch.testing.assert_close(SparseLinear(layer, block=block, rows_first=rows_first)(x), layer(x), rtol=0, atol=1e-5)


PADDINGS = st.sampled_from([0, 2, "same", "valid", (1, 2)])
MODES = st.sampled_from(["zeros", "circular", "reflect", "replicate"])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch's, of the dense one
@given(
    *(st.integers(*pair) for pair in ((0, 99), (1, 3), (1, 2), (1, 2))), PADDINGS, MODES, st.booleans(), st.booleans()
)
def test_a_sparse_convolution_is_the_dense_one(seed, kernel, stride, dilation, padding, mode, batched, rows_first):
    stride = 1 if padding == "same" else stride
    options = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode, "bias": seed % 2 == 0}
    torch.manual_seed(seed)
    layer = sparse(nn.Conv2d(3, 5, (kernel, 2), dtype=torch.float64, **options), 0.3, seed)
    x = torch.randn(*([2] * batched), 3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(SparseConv(layer, rows_first=rows_first)(x), layer(x))
    if isinstance(padding, tuple):
        options["padding"] = padding[0]
    line = sparse(nn.Conv1d(3, 5, kernel, dtype=torch.float64, **options), 0.3, seed)
    torch.testing.assert_close(SparseConv(line, rows_first=rows_first)(x[..., 0]), line(x[..., 0]))


LAYERS_OF_ITS_OWN = ("falcon", "falcon_groups")  # a subclass of Linear with another forward


@pytest.mark.parametrize("name", LAYERS_OF_ITS_OWN)
def test_layers_of_another_class_are_not_taken_for_torchs(name):
    with pytest.raises(ValueError, match="FalconLinear has no sparse form"):
        accelerate(*zoo.build(name), timer=ROWS)


@pytest.mark.parametrize("name", [n for n in (*zoo.PLAIN, *zoo.LANGUAGE) if n not in LAYERS_OF_ITS_OWN])
def test_families_compute_the_same_with_all_their_layers_replaced(name):
    model, inputs = zoo.build(name)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= torch.rand_like(parameter) < 0.3
    fast, table = accelerate(model, inputs, timer=ROWS)
    assert any(layer.form == "x @ csr.T" for layer in table.layers.values())
    assert not [why for layer in table.layers.values() for why in layer.untried.values() if "differ" in why]
    assert set(table.layers) | set(table.left_out) >= {n for n, m in model.named_modules() if type(m) is nn.Linear}
    args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
    with torch.no_grad():
        expected, got = (m(*args, **kwargs) for m in (model, fast))
    first = next(iter(expected.values())) if isinstance(expected, dict) else expected
    torch.testing.assert_close(next(iter(got.values())) if isinstance(got, dict) else got, first)
    again = restore(model, fast.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fast.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize(("block", "rows_first"), [(None, False), (None, True), (16, False), (16, True)])
def test_gradients_go_through_to_the_inputs(block, rows_first):
    layer = sparse(nn.Linear(32, 48), block=16)
    frozen = SparseLinear(layer, block=block, rows_first=rows_first)
    assert list(frozen.parameters()) == []
    for count in (1, 4):
        grads = []
        for each in (layer, frozen):
            x = torch.ones(count, 32, requires_grad=True)
            each(x).square().sum().backward()
            grads.append(x.grad)
        torch.testing.assert_close(*grads)


# ---- what is chosen -------------------------------------------------------------------------------------------------


def test_the_fastest_form_is_chosen_and_only_if_it_is_faster_by_the_margin():
    model, inputs = net()
    for margin, forms in ((1.0, 2), (2.0, 2), (2.1, 0)):
        fast, table = accelerate(model, inputs, margin=margin, timer=FAST)
        assert [layer.form for layer in table.layers.values()].count("csr @ x.T") == forms
        assert sum(isinstance(m, SparseLinear) for m in fast.modules()) == forms
    fast, table = accelerate(model, inputs, timer=ROWS)
    assert [layer.form for layer in table.layers.values()] == ["x @ csr.T", "x @ csr.T", "dense"]
    assert (table.layers["0"].gain, table.gain) == (4.0, 2.0)
    torch.testing.assert_close(fast(*inputs), model(*inputs))


def test_blocks_are_chosen_where_they_are_faster():
    model = nn.Sequential(sparse(nn.Linear(64, 96), 0.3, block=16))
    fast, table = accelerate(model, (torch.randn(3, 64),), timer=timer(bsr16_x_T=0.2, accelerated=0.5))
    assert table.layers["0"].form == "bsr16 @ x.T"
    assert fast[0].values.shape[1:] == (16, 16)
    assert "csr @ x.T" in table.layers["0"].seconds


def test_where_nothing_is_faster_all_stays_and_the_table_says_so():
    model, inputs = net()
    fast, table = accelerate(model, inputs, timer=timer())
    assert [type(m) for m in fast] == [type(m) for m in model]
    assert str(table).startswith("nothing is faster here: all 3 layers stay dense")
    assert table.gain == 1.0


def test_faster_layers_that_do_not_make_the_model_faster_stay_dense():
    model, inputs = net()
    fast, table = accelerate(model, inputs, timer=timer(csr_x_T=0.5, accelerated=1.5))
    assert not any(isinstance(m, SparseLinear) for m in fast.modules())
    assert {layer.form for layer in table.layers.values()} == {"dense"}
    assert "with the faster layers a run takes 1500.000 ms, not 1000.000 ms; all stay dense" in str(table)


def test_the_table_tells_what_was_tried_and_why_not():
    model, inputs = net()
    lines = str(accelerate(model, inputs, timer=FAST)[1]).splitlines()
    assert lines[0] == "2 of 3 layers replaced: 1000.000 ms -> 500.000 ms (2.00 times as fast)"
    assert "csr @ x.T 500000.0 us" in lines[1]
    assert lines[1].endswith("-> csr @ x.T (2.00 times as fast)")
    assert "  2:4 was not timed, its kernels are for CUDA: 0, 2, 4" in lines
    assert any(line.startswith("  csr was not timed, it is more than two thirds alive: 4") for line in lines)


class Own(nn.Module):
    """Reads a weight itself, ties another, calls one layer twice, has one with a hook, and one that nobody calls."""

    def __init__(self):
        super().__init__()
        for name in ("read", "tied", "twice", "hooked", "idle"):
            setattr(self, name, sparse(nn.Linear(8, 8)))
        self.table = nn.Embedding(8, 8)
        self.table.weight = self.tied.weight
        self.grouped = nn.Conv1d(8, 8, 1, groups=2)
        self.hooked.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x):
        y = self.read(x) + x @ self.read.weight.cos()
        y = self.hooked(self.tied(self.twice(self.twice(y))))
        return self.grouped(y.T.relu())


def test_what_cannot_be_replaced_is_left_out_and_told():
    model, inputs = Own(), (torch.randn(8, 8),)
    fast, table = accelerate(model, inputs, timer=FAST)
    assert table.left_out == {
        "tied": "its weight is tied to another layer's",
        "hooked": "it has hooks, which another layer would not run; of a module pruned in place, bake them first",
        "idle": "it was not called",
        "table": "Embedding has no sparse form",
        "grouped": "its channels are in groups",
    }
    assert table.layers["read"].form == "dense"
    assert table.layers["read"].untried["csr @ x.T"].startswith("the model needs it dense: it fails")
    assert table.layers["twice"].form == "csr @ x.T"
    torch.testing.assert_close(fast(*inputs), model(*inputs))


def test_pruned_modules_are_replaced_once_they_are_baked_and_parametrized_ones_at_once():
    model, inputs = net()
    prune.l1_unstructured(model[4], "weight", 0.9)
    assert "bake them first" in accelerate(model, inputs, timer=FAST)[1].left_out["4"]
    model = prune.bake(model)
    fast, _ = accelerate(model, inputs, timer=FAST)
    assert isinstance(fast[4], SparseLinear)
    torch.testing.assert_close(fast(*inputs), model(*inputs))
    parametrize.prune(model, partial(ml.l1_unstructured, amount=0.5))
    fast, _ = accelerate(model, inputs, timer=FAST)
    assert isinstance(fast[4], SparseLinear)
    torch.testing.assert_close(fast(*inputs), model(*inputs))


def test_the_model_is_left_as_it_is():
    model, inputs = net()
    model.insert(1, nn.BatchNorm1d(48))
    model.train()
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fast, _ = accelerate(model, inputs, timer=FAST)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(rng, torch.get_rng_state())
    assert model.training
    assert all(m.training for m in fast.modules())
    assert not any(m._forward_pre_hooks for m in (*model.modules(), *fast.modules()))
    assert torch.equal(fast[1].running_mean, before["1.running_mean"])
    assert not {id(p) for p in model.parameters()} & {id(p) for p in fast.parameters()}


def test_one_layer_may_be_the_whole_model():
    layer = sparse(nn.Linear(32, 48))
    fast, table = accelerate(layer, (torch.randn(3, 32),), timer=FAST)
    assert isinstance(fast, SparseLinear)
    assert list(table.layers) == [""]
    assert isinstance(restore(layer, fast.state_dict()), SparseLinear)


def test_what_the_device_cannot_do_is_told():
    layer = sparse(nn.Linear(32, 48)).bfloat16()
    _, table = accelerate(nn.Sequential(layer), (torch.randn(3, 32).bfloat16(),), timer=FAST)
    assert table.layers["0"].untried["csr @ x.T"].startswith("it fails: ")


# ---- the timer ------------------------------------------------------------------------------------------------------


def test_race_takes_medians_and_drops_who_is_far_behind(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_race.time, "perf_counter", lambda: now[0])
    taken = {"a": iter([9, 9, *[1.0, 5.0, 1.0] * 40]), "b": iter([9, 9, *[1.5] * 80]), "c": iter([9, 9, *[4.0] * 3])}

    def call(name):
        now[0] += next(taken[name])

    found = race({name: lambda name=name: call(name) for name in taken})
    assert found == {"a": 1.0, "b": 1.5, "c": 4.0}


def test_forms_that_are_too_full_are_not_made():
    made, untried = forms_of(nn.Linear(32, 32))
    assert made == {}
    assert set(untried) == {"csr", "bsr16", "bsr32", "2:4"}
    made, untried = forms_of(sparse(nn.Linear(32, 24), 0.2, block=4))
    assert set(made) == {"csr @ x.T", "x @ csr.T"}
    assert untried["bsr16"] == "16 does not divide both sides of its weight"


# ---- bad calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "`model` must be an nn.Module, got int", lambda m, x: accelerate(3, x)),
        (TypeError, "`example_inputs` must be a tuple of arguments", lambda m, x: accelerate(m, x[0])),
        (ValueError, "`model` does not run on these `example_inputs`", lambda m, x: accelerate(m, (x[0].T,))),
        (ValueError, "`model` has no linear layer or convolution", lambda m, x: accelerate(nn.ReLU(), x)),
        (ValueError, "{'': 'Embedding has no sparse form'}", lambda m, x: accelerate(nn.Embedding(3, 2), x)),
        (ValueError, "`model` must have values", lambda m, x: accelerate(copy.deepcopy(m).to("meta"), x)),
        (ValueError, "`margin` must be 1 or more", lambda m, x: accelerate(m, x, margin=0.9)),
        (TypeError, "`margin` must be a number", lambda m, x: accelerate(m, x, margin="a")),
        (TypeError, "`timer` must be a function", lambda m, x: accelerate(m, x, timer=3)),
        (ValueError, "`timer` must give seconds for each of", lambda m, x: accelerate(m, x, timer=lambda calls: {})),
        (TypeError, "must be seconds", lambda m, x: accelerate(m, x, timer=lambda calls: dict.fromkeys(calls))),
        (ValueError, "'0.weight' has none yet", lambda m, x: accelerate(nn.Sequential(nn.LazyLinear(2)), x)),
        (ValueError, "torch.jit has compiled it", lambda m, x: accelerate(torch.jit.trace(m, x), x)),
        (ValueError, "must hold the order", lambda m, x: restore(m, state_of(m, x) | {"0._extra_state": "first"})),
        (TypeError, "`state` must be a mapping", lambda m, x: restore(m, 3)),
        (ValueError, "has no layer 'zzz'", lambda m, x: restore(m, {"zzz.crow_indices": x[0]})),
        (ValueError, "`state` must be of this model", lambda m, x: restore(m, {"0.weight": x[0]})),
    ],
)
def test_bad_calls(error, message, call):
    model, inputs = net()
    with pytest.raises(error, match=re.escape(message)):
        call(model, inputs)


class Autocast(nn.Sequential):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


def test_layers_that_run_only_within_their_model_are_left_out_and_told():
    layers, inputs = net()
    fast, table = accelerate(Autocast(*layers), inputs, timer=FAST)
    assert table.left_out["2"].startswith("it does not run by itself on what it is given")
    assert torch.equal(fast(*inputs), Autocast(*layers)(*inputs))


@dataclass
class Output:
    held: torch.Tensor


class OfItsClass(nn.Sequential):
    """A model that asks its layer what it is, and returns what no tree of torch's knows."""

    def forward(self, x):
        return Output(super().forward(x) * (1 if isinstance(self[0], nn.Linear) else 2))


def test_outputs_of_any_class_are_compared():
    layers, inputs = net()
    fast, table = accelerate(OfItsClass(*layers), inputs, timer=FAST)
    assert {layer.form for layer in table.layers.values()} == {"dense", "csr @ x.T"}
    assert torch.allclose(fast(*inputs).held, layers(*inputs), atol=1e-6)


def test_inputs_that_the_model_writes_into_stay_as_they_are():
    inputs = (torch.randn(5, 8) - 1,)
    before = inputs[0].clone()
    accelerate(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 2)), inputs, timer=FAST)
    assert torch.equal(inputs[0], before)
