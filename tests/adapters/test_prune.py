"""The stateful adapter beyond parity: all or nothing, and what a pruned module is."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from prunings import every_method, everything
from torch import nn

import masklib.adapters.prune as prune
from masklib.adapters import weights


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- all or nothing -------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("calls", [0, 1, 3])
@pytest.mark.parametrize("where", ["_rename", "mark", "compute"])
def test_a_failure_anywhere_leaves_everything_as_it_was(apply, calls, where, monkeypatch):
    from masklib.adapters._module import state
    from masklib.adapters.prune import _step

    module = nn.Linear(6, 5)
    for _ in range(calls):
        prune.random_unstructured(module, "weight", 2)
    before = everything(module)

    def fail(*args, **kwargs):
        torch.rand(3)
        raise RuntimeError("injected")

    if where == "compute":
        monkeypatch.setattr(_step, "as_buffer", fail)
    elif where == "mark":
        monkeypatch.setattr(state, "mark", fail_once(fail, state.mark))
    elif calls:
        return  # nothing is renamed by later calls
    else:
        monkeypatch.setattr(state, where, fail)
    with pytest.raises(RuntimeError, match="injected"):
        apply(module, "weight")
    monkeypatch.undo()
    assert everything(module) == before
    module(torch.ones(1, 6))
    apply(module, "weight")


def fail_once(fail, after):
    calls = iter([fail])
    return lambda *args: next(calls, after)(*args)


def test_a_global_call_that_fails_late_undoes_the_early_ones(monkeypatch):
    from masklib.adapters._module import state

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", 2)
    before = [everything(m) for m in model]
    calls, enter = [], state.enter

    def second_fails(*args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("injected")
        enter(*args)

    monkeypatch.setattr(state, "enter", second_fails)
    with pytest.raises(RuntimeError, match="injected"):
        prune.global_unstructured(model, prune.L1Unstructured, amount=5)
    monkeypatch.undo()
    assert [everything(m) for m in model] == before
    prune.global_unstructured(model, prune.L1Unstructured, amount=5)
    assert sum(int((m.weight_mask == 0).sum()) for m in model) == 7


BAD = {
    "no such parameter": (AttributeError, "wight", lambda m: prune.l1_unstructured(m, "wight", 1)),
    "not a parameter": (TypeError, "Its parameters: ['weight', 'bias']", lambda m: prune.identity(m, "in_features")),
    "amount": (
        ValueError,
        "`amount` must be between 0 and 30 (what is alive), got 1000",
        lambda m: prune.l1_unstructured(m, "weight", 1000),
    ),
    "amount type": (
        TypeError,
        "`amount` must be an int or a float",
        lambda m: prune.random_unstructured(m, "weight", "1"),
    ),
    "amount bool": (TypeError, "True", lambda m: prune.l1_unstructured(m, "weight", True)),
    "scores shape": (AssertionError, "(5, 6)", lambda m: prune.l1_unstructured(m, "weight", 1, torch.ones(5))),
    "scores shape again": (ValueError, "(5,)", lambda m: prune.l1_unstructured(m, "weight", 1, torch.ones(5))),
    "scores type": (TypeError, "importance_scores", lambda m: prune.l1_unstructured(m, "weight", 1, [1.0])),
    "mask shape": (ValueError, "(2,)", lambda m: prune.custom_from_mask(m, "weight", torch.ones(2))),
    "one dim": (ValueError, "multidimensional", lambda m: prune.ln_structured(m, "bias", 1, 2, 0)),
    "dim": (IndexError, "2", lambda m: prune.random_structured(m, "weight", 1, dim=2)),
    "not pruned": (ValueError, "has to be pruned", lambda m: prune.remove(m, "weight")),
    "not pruned, undo": (ValueError, "has to be pruned", lambda m: prune.undo(m, "weight")),
    "nothing": (ValueError, "names nothing", lambda m: prune.global_unstructured([], prune.L1Unstructured, amount=1)),
    "structured": (
        TypeError,
        "unstructured",
        lambda m: prune.global_unstructured([(m, "weight")], prune.LnStructured, amount=1, n=2),
    ),
    "not pairs": (TypeError, "pairs", lambda m: prune.global_unstructured(3, prune.L1Unstructured, amount=1)),
    "names without a module": (
        TypeError,
        "`names` goes with a module",
        lambda m: prune.global_unstructured([(m, "weight")], prune.L1Unstructured, names=["weight"], amount=1),
    ),
    "uninitialized": (ValueError, "not initialized", lambda m: prune.identity(nn.LazyLinear(3), "weight")),
    "not a module": (TypeError, "nn.Module", lambda m: weights(3)),
}


@pytest.mark.parametrize(("kind", "message", "call"), BAD.values(), ids=BAD)
def test_bad_calls_are_explained_and_change_nothing(kind, message, call):
    module = nn.Linear(6, 5)
    before = everything(module)
    with pytest.raises(kind) as caught:
        call(module)
    assert message in str(caught.value)
    assert everything(module) == before


# ---- state ----------------------------------------------------------------------------------------------------------


@every_method
def test_remove_and_undo_restore_names_order_identity_and_storage(apply):
    for leave in (prune.remove, prune.undo):
        module = nn.Linear(6, 5)
        fresh, keys = set(vars(module)), list(module.state_dict())
        parameter, dense = module.weight, module.weight.detach().clone()
        apply(module, "weight")
        apply(module, "weight")
        mask = module.weight_mask.clone()
        leave(module, "weight")
        assert module.weight is parameter
        assert isinstance(module.weight, nn.Parameter)
        assert list(module.state_dict()) == keys
        assert set(vars(module)) == fresh
        assert not prune.is_pruned(module)
        assert torch.equal(module.weight, dense * mask if leave is prune.remove else dense)


def test_modules_that_are_not_pruned_behave_as_before():
    pruned, other = nn.Linear(3, 3), nn.Linear(3, 3)
    prune.l1_unstructured(pruned, "weight", 2)
    assert isinstance(other.weight, nn.Parameter)
    other.weight = nn.Parameter(torch.ones(3, 3))
    del other.weight
    with pytest.raises(AttributeError, match="weight"):
        other.weight  # noqa: B018
    other.weight = torch.zeros(3, 3)
    assert torch.equal(other(torch.ones(1, 3)), other.bias[None])
    del other.weight
    assert not hasattr(other, "weight")
    assert not hasattr(nn.Linear, "weight")
    assert type(pruned) is nn.Linear


def test_the_originals_own_pruning_still_works_beside_ours():
    import torch.nn.utils.prune as theirs

    prune.l1_unstructured(nn.Linear(3, 3), "weight", 2)
    module = theirs.l1_unstructured(nn.Linear(3, 3), "weight", 2)
    module(torch.ones(1, 3)).sum().backward()
    theirs.remove(module, "weight")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_rnns(kind):
    rnn = kind(4, 5, num_layers=2)
    x = torch.randn(3, 2, 4)
    prune.l1_unstructured(rnn, "weight_hh_l0", 0.5)
    prune.random_unstructured(rnn, "weight_ih_l1", 0.5)
    assert sum(isinstance(w, nn.Parameter) for w in rnn._flat_weights) == len(rnn._flat_weights) - 2
    rnn.flatten_parameters()
    rnn(x)[0].sum().backward()
    assert rnn.weight_hh_l0_orig.grad[rnn.weight_hh_l0_mask == 0].abs().sum() == 0
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        assert torch.equal(twin(x)[0], rnn(x)[0])
    expected = rnn.double()(x.double())[0]
    prune.remove(rnn, "weight_hh_l0")
    prune.remove(rnn, "weight_ih_l1")
    assert all(isinstance(w, nn.Parameter) for w in rnn._flat_weights)
    assert torch.equal(rnn(x.double())[0], expected)


def test_a_bare_module():
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(4))
    prune.l1_unstructured(module, "weight", 2)
    assert (pickle.loads(pickle.dumps(module)).weight == 0).sum() == 2
    prune.remove(module, "weight")
    assert type(module) is nn.Module


def test_overriding_apply_mask_is_honoured():
    class Doubled(prune.L1Unstructured):
        def apply_mask(self, module):
            return 2 * super().apply_mask(module)

    module = nn.Linear(3, 3)
    Doubled.apply(module, "weight", 2)
    assert torch.equal(module.weight, 2 * module.weight_orig * module.weight_mask)
