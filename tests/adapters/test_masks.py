"""Masks as objects: read, set, refused when they are none; pruning by methods of the core."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from prunings import everything, hook_of
from torch import nn
from torch.optim.swa_utils import AveragedModel

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import parametrize
from masklib.adapters.checkpoint import to_dense
from masklib.adapters.optimizer import keep_zero


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


ADAPTERS = {
    "prune": (prune, lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=0.5)),
    "parametrize": (parametrize, lambda m: parametrize.prune(m, partial(ml.l1_unstructured, amount=0.5))),
}
both = pytest.mark.parametrize(("adapter", "halve"), ADAPTERS.values(), ids=ADAPTERS)


def set_mask(adapter, model, name, mask):
    """The drop-in takes a module and a name, `parametrize` a dotted name."""
    prefix, _, last = name.rpartition(".")
    adapter.set_mask(*((model.get_submodule(prefix), last) if adapter is prune else (model, name)), mask)


# ---- reading and setting --------------------------------------------------------------------------------------------


@both
def test_masks_are_bool_by_plain_names(adapter, halve):
    model = net()
    assert adapter.masks(model) == {}
    expected = ml.l1_unstructured({n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}, amount=0.5)
    halve(model)
    got = adapter.masks(model)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[n], expected[n]) for n in expected)


@both
@pytest.mark.parametrize("pruned", [False, True])
def test_a_mask_that_is_set_is_the_mask_and_may_revive(adapter, halve, pruned):
    model = net()
    dense = model[0].weight.detach().clone()
    if pruned:
        halve(model)
    mask = torch.rand(8, 6) > 0.5
    set_mask(adapter, model, "0.weight", mask)
    assert torch.equal(adapter.masks(model)["0.weight"], mask)
    assert torch.equal(model[0].weight, torch.where(mask, dense, 0))
    mask.zero_()
    assert model[0].weight.any()
    set_mask(adapter, model, "0.weight", torch.ones(8, 6))
    assert torch.equal(model[0].weight, dense)


@both
def test_masks_go_from_one_adapter_into_the_other(adapter, halve):
    model, other, third = net(), net(), net()
    halve(model)
    for name, mask in adapter.masks(model).items():
        set_mask(prune, other, name, mask)
        set_mask(parametrize, third, name, mask)
    assert all(torch.equal(m, prune.masks(other)[n]) for n, m in adapter.masks(model).items())
    assert all(torch.equal(m, parametrize.masks(third)[n]) for n, m in adapter.masks(model).items())


def test_the_history_of_a_mask_that_is_set():
    module = nn.Linear(4, 3)
    prune.l1_unstructured(module, "weight", 4)
    prune.set_mask(module, "weight", prune.masks(module)["weight"] & (torch.rand(3, 4) > 0.5))
    history = hook_of(module).history()
    assert torch.equal(ml.fold(history, module.weight_orig), prune.masks(module)["weight"])
    assert int(ml.count(ml.fold(history[:1], module.weight_orig))) == 8
    prune.set_mask(module, "weight", torch.rand(3, 4) > 0.3)
    history = hook_of(module).history()
    assert len(history) == 3
    assert torch.equal(ml.fold(history, module.weight_orig), prune.masks(module)["weight"])
    prune.l1_unstructured(module, "weight", 2)
    assert torch.equal(ml.fold(hook_of(module).history(), module.weight_orig), prune.masks(module)["weight"])


def test_setting_at_tied_sites():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    mask = torch.rand(4, 4) > 0.5
    prune.set_mask(model[0], "weight", mask, root=model)
    assert all(torch.equal(m, mask) for m in prune.masks(model).values())
    assert len(prune.masks(model)) == 2
    prune.undo(model[0], "weight", root=model)
    parametrize.set_mask(model, "1.weight", mask)
    assert all(torch.equal(m, mask) for m in parametrize.masks(model).values())
    assert len(parametrize.masks(model)) == 2


@both
@pytest.mark.parametrize(
    ("error", "message", "mask"),
    [
        (TypeError, "must be a torch.Tensor, got list", [[1]]),
        (ValueError, r"must have its shape, \(8, 6\), got \(3,\)", torch.ones(3)),
        (ValueError, "must hold 0 and 1 only, got 0.5", torch.full((8, 6), 0.5)),
    ],
)
def test_bad_masks_are_refused_and_change_nothing(adapter, halve, error, message, mask):
    model = net()
    halve(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        set_mask(adapter, model, "0.weight", mask)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@both
def test_undo_and_bake_and_is_pruned(adapter, halve):
    model, x = net(), torch.randn(3, 6)
    dense = model(x)
    assert not adapter.is_pruned(model)
    halve(model)
    assert adapter.is_pruned(model)
    baked = adapter.bake(model)
    assert torch.equal(baked(x), model(x))
    assert not adapter.is_pruned(baked)
    assert list(baked.state_dict()) == list(net().state_dict())
    if adapter is parametrize:
        parametrize.undo(model, ["0.weight"])
        assert list(parametrize.masks(model)) == ["2.weight"]
        parametrize.undo(model)
    else:
        for name in prune.masks(model):
            prune.undo(model.get_submodule(name[0]), "weight")
    assert torch.equal(model(x), dense)
    assert list(model.state_dict()) == list(net().state_dict())


# ---- masks of other values than 0 and 1 -----------------------------------------------------------------------------

USES = {
    "reading": lambda m: m.weight,
    "forward": lambda m: m(torch.ones(1, 6)),
    "pruning": lambda m: prune.l1_unstructured(m, "weight", 1),
    "pruning globally": lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=1),
    "masks": prune.masks,
    "remove": lambda m: prune.remove(m, "weight"),
    "bake": prune.bake,
    "to_dense": lambda m: to_dense(m.state_dict()),
    "keep_zero": lambda m: keep_zero(torch.optim.SGD(m.parameters()), m),
}
ENTRIES = {
    "fill_": lambda m: m.weight_mask.fill_(0.5),
    "load_state_dict": lambda m: m.load_state_dict({**m.state_dict(), "weight_mask": torch.full((2, 6), 7e-10)}),
    "another buffer": lambda m: setattr(m, "weight_mask", torch.full((2, 6), 2.0)),
    "nan": lambda m: m.weight_mask[0, 0].fill_(float("nan")),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("enter", ENTRIES.values(), ids=ENTRIES)
def test_a_mask_of_other_values_is_refused_wherever_it_is_used(enter, use):
    module = prune.l1_unstructured(nn.Linear(6, 2), "weight", 6)
    module(torch.ones(1, 6))
    enter(module)
    with pytest.raises(ValueError, match=r"must hold 0 and 1 only, got .*copy the masks of one: "):
        use(module)
    prune.undo(module, "weight")
    assert not prune.is_pruned(module)


def test_a_mask_is_looked_at_only_when_it_was_written_to(monkeypatch):
    from masklib.adapters._module import state

    looks = []
    monkeypatch.setattr(state, "zero_one", lambda mask, what: looks.append(what) or mask != 0)
    module = prune.l1_unstructured(nn.Linear(6, 2), "weight", 6)
    for _ in range(3):
        module(torch.ones(1, 6))
    assert looks == []
    module.weight_mask.mul_(1)
    for _ in range(3):
        module(torch.ones(1, 6))
    assert looks == ["parameter 'weight' of Linear"]
    copy.deepcopy(module)(torch.ones(1, 6))
    assert len(looks) == 2


def test_parametrize_refuses_other_values_when_they_are_loaded():
    model = parametrize.prune(nn.Linear(6, 2), partial(ml.l1_unstructured, amount=6))
    state = model.state_dict()
    good = {n: v.float() for n, v in state.items()}
    model.load_state_dict(good)
    with pytest.raises(ValueError, match="must hold 0 and 1 only"):
        model.load_state_dict({**state, "parametrizations.weight.0.mask": torch.full((2, 6), 0.5)})
    assert int((model.weight == 0).sum()) == 6


@both
@pytest.mark.parametrize("pruned_before", [True, False])
def test_averages_as_the_page_says(adapter, halve, pruned_before):
    """The recipe: average parameters only; copy the masks after pruning, be it again or for the first time."""
    model, x = net(), torch.randn(3, 6)
    if pruned_before:
        halve(model)
    average = AveragedModel(model)
    for step in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(step)
        average.update_parameters(model)
    assert all(torch.equal(m, adapter.masks(average.module)[n]) for n, m in adapter.masks(model).items())
    halve(model)
    for name, mask in adapter.masks(model).items():
        set_mask(adapter, average.module, name, mask)
    average.update_parameters(model)
    assert int((average.module[0].weight == 0).sum()) == int((model[0].weight == 0).sum()) > 24 * pruned_before
    assert average(x).isfinite().all()


# ---- methods of the core --------------------------------------------------------------------------------------------

METHODS = {
    "l1": partial(ml.l1_unstructured, amount=0.25),
    "n of m": partial(ml.n_of_m, keep=1, of=2),
    "channels": partial(ml.compute_mask, amount=1, groups=ml.channels(0, p=2)),
    "chain": ml.chain(partial(ml.l1_unstructured, amount=2), partial(ml.random_unstructured, amount=2, key=0)),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_apply_is_the_method_and_the_history_has_it(method):
    module = nn.Linear(4, 6)
    weight = module.weight.detach().clone()
    prune.apply(module, "weight", method)
    assert torch.equal(prune.masks(module)["weight"], method(weight))
    prune.apply(module, "weight", method)
    assert torch.equal(prune.masks(module)["weight"], method(weight, method(weight)))
    assert hook_of(module).history() == (method, method)
    assert len(hook_of(module)) == 2
    prune.l1_unstructured(module, "weight", 1)
    assert torch.equal(ml.fold(hook_of(module).history(), module.weight_orig), prune.masks(module)["weight"])


def test_apply_takes_scores_from_outside():
    module, scores = nn.Linear(4, 6), torch.randn(6, 4)
    prune.apply(module, "weight", METHODS["l1"], scores)
    expected = ml.l1_unstructured(scores, amount=0.25)
    assert torch.equal(prune.masks(module)["weight"], expected)
    assert torch.equal(ml.fold(hook_of(module).history(), module.weight_orig), expected)


def test_modules_that_apply_pruned_can_be_copied_and_pickled():
    module = prune.apply(nn.Linear(4, 6), "weight", METHODS["n of m"])
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        prune.apply(twin, "weight", METHODS["l1"])
        assert int((twin.weight == 0).sum()) == 15
    assert int((module.weight == 0).sum()) == 12


@pytest.mark.parametrize(
    ("error", "message", "method"),
    [
        (TypeError, r"`method` must be callable, got 3. For example partial\(masklib.l1_unstructured", 3),
        (ValueError, "must have its shape", lambda s, m: m[0]),
        (ValueError, "must hold 0 and 1 only", lambda s, m: s),
        (TypeError, "must be a torch.Tensor, got NoneType", lambda s, m: None),
    ],
)
def test_what_a_method_of_the_core_must_be(error, message, method):
    module = prune.l1_unstructured(nn.Linear(4, 6), "weight", 1)
    before = everything(module)
    with pytest.raises(error, match=message):
        prune.apply(module, "weight", method)
    assert everything(module) == before


def test_a_method_that_writes_and_revives_changes_no_weight():
    module = prune.l1_unstructured(nn.Linear(4, 6), "weight", 1)
    before, mask = module.weight_orig.detach().clone(), module.weight_mask.clone()
    prune.apply(module, "weight", lambda s, m: s.zero_() == m.zero_())
    assert torch.equal(module.weight_orig, before)
    assert torch.equal(module.weight_mask, mask)


def test_parametrize_takes_scores_from_outside():
    model = net()
    scores = {"0.weight": torch.rand(8, 6), "2.weight": torch.rand(2, 8)}
    method = partial(ml.compute_mask, amount=0.5)
    expected = method(scores)
    parametrize.prune(model, method, importance_scores=scores)
    assert all(torch.equal(m, expected[n]) for n, m in parametrize.masks(model).items())
    other = parametrize.prune(net(), method, importance_scores={"0.weight": scores["0.weight"]})
    assert list(parametrize.masks(other)) == ["0.weight"]
    again = parametrize.prune(net(), method, ["2.weight"], importance_scores={"2.weight": scores["2.weight"]})
    assert list(parametrize.masks(again)) == ["2.weight"]


@pytest.mark.parametrize(
    ("error", "message", "names", "scores"),
    [
        (TypeError, "`importance_scores` must be a mapping", None, torch.ones(8, 6)),
        (ValueError, "must be parameters, got \\['nope'\\]", None, {"nope": torch.ones(8, 6)}),
        (ValueError, "missing \\['2.weight'\\]", ["0.weight", "2.weight"], {"0.weight": torch.ones(8, 6)}),
        (
            ValueError,
            r"must have the shape of '0.weight', \(8, 6\), got \(6, 8\)",
            None,
            {"0.weight": torch.ones(6, 8)},
        ),
    ],
)
def test_bad_scores_are_refused_and_change_nothing(error, message, names, scores):
    model = net()
    with pytest.raises(error, match=message):
        parametrize.prune(model, partial(ml.l1_unstructured, amount=1), names, importance_scores=scores)
    assert list(model.state_dict()) == list(net().state_dict())
